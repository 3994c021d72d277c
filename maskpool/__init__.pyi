from maskpool import errors as errors
from maskpool import functional as functional
from maskpool import integrations as integrations
from maskpool import masks as masks
from maskpool import nn as nn
from maskpool import weights as weights
from maskpool.audit import AuditReport as AuditReport
from maskpool.audit import assert_padding_invariant as assert_padding_invariant
from maskpool.audit import audit_padding as audit_padding
from maskpool.batch.token_batch import TokenBatch as TokenBatch
from maskpool.embed import embed_corpus as embed_corpus
from maskpool.embed import read_embeddings as read_embeddings
from maskpool.embed import verify_embeddings as verify_embeddings
from maskpool.pads import freeze_pad_row as freeze_pad_row
from maskpool.poolings.build import build_pooling as build_pooling
from maskpool.poolings.build import pool as pool

__version__: str
