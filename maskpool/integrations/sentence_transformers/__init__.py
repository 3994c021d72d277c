"""sentence-transformers: maskpool's poolings as its modules, saved and loaded like its own."""

from typing import Any

from maskpool.integrations.sentence_transformers.opening import load, load_plain, open_model
from maskpool.integrations.sentence_transformers.pooling import Pooling
from maskpool.integrations.sentence_transformers.replacing import (
    as_host_pooling,
    replace_pooling,
    warn_if_pooled_otherwise,
    with_pooling,
)

__all__ = [
    "Pooling",
    "as_host_pooling",
    "load",
    "load_plain",
    "open_model",
    "replace_pooling",
    "warn_if_pooled_otherwise",
    "with_pooling",
]


def __getattr__(name: str) -> Any:  # Any: as Python declares it
    """Find `Pooling` under the name that models saved by early versions give to learned poolings."""
    if name == "AttentionPoolingModule":
        return Pooling
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
