"""Everything that maskpool uses of sentence-transformers, imported in one place.

Differences between the host's versions are handled here, and nowhere else.
"""

from maskpool.integrations import require

require("sentence-transformers", "6.2", "st")

from sentence_transformers import SentenceTransformer  # noqa: E402  # after the check that it can be imported
from sentence_transformers.sentence_transformer import modules  # noqa: E402  # the same
from sentence_transformers.util import (  # noqa: E402  # the same
    batch_to_device,
    check_version_requirements,
    truncate_embeddings,
)
from sentence_transformers.util.decorators import deprecated_kwargs  # noqa: E402  # the same

__all__ = [
    "SentenceTransformer",
    "batch_to_device",
    "check_version_requirements",
    "deprecated_kwargs",
    "modules",
    "truncate_embeddings",
]
