"""BERTopic on a model with our pooling."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from maskpool.bench.corpora import docstrings
from maskpool.encoder import BUNDLED
from maskpool.integrations.sentence_transformers import load, replace_pooling

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its dependencies', about one another
    # Any: BERTopic ships no types.
    bertopic: Any = pytest.importorskip("bertopic", reason='needs pip install "maskpool[peers]"')


@pytest.mark.filterwarnings("ignore")  # UMAP's and numba's own
def test_topics_of_docstrings() -> None:
    """BERTopic embeds documents with our model, finds topics in them, and places a new text beside its like."""
    texts = docstrings().texts[:300]
    model = replace_pooling(load(BUNDLED, device="cpu"), "mean")
    topics = bertopic.BERTopic(embedding_model=model, min_topic_size=10)
    found, _ = topics.fit_transform(texts)
    assert len(found) == len(texts)
    assert len(set(found) - {-1}) > 2
    np.testing.assert_allclose(topics.embedding_model.embed(texts[:5]), model.encode(texts[:5]), atol=1e-6)
    placed, _ = topics.transform(texts[:20])
    assert np.mean(np.array(placed) == np.array(found[:20])) > 0.5
