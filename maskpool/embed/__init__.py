"""Embed corpora that do not fit in memory: files of texts in, Parquet parts of vectors out."""

from maskpool.errors import RequirementError, require_numpy

require_numpy()

try:
    import pyarrow  # noqa: F401  # only whether it is installed
except ModuleNotFoundError:
    raise RequirementError('pyarrow is not installed; get it with: pip install "maskpool[embed]"') from None

from maskpool.embed.reading import EmbeddedRows, Embeddings, read_embeddings  # noqa: E402  # after the checks
from maskpool.embed.run import EmbedReport, embed_corpus  # noqa: E402  # the same
from maskpool.embed.verify import VerifyReport, verify_embeddings  # noqa: E402  # the same

__all__ = [
    "EmbedReport",
    "EmbeddedRows",
    "Embeddings",
    "VerifyReport",
    "embed_corpus",
    "read_embeddings",
    "verify_embeddings",
]
