"""Pool token embeddings over real tokens only, and measure what padding does to embeddings.

The names below are loaded when they are first used, so ``import maskpool`` loads no other package. The rest is in the
modules: layers in `maskpool.nn`, functions in `maskpool.functional`, mask algebra in `maskpool.masks`, token weights in
`maskpool.weights`, errors in `maskpool.errors`, other libraries in `maskpool.integrations`.
"""

from importlib import import_module
from importlib.util import find_spec

__version__ = "0.1.0"

# The module of each name; maskpool/__init__.pyi declares the same for type checkers.
_HOME = {
    "AuditReport": "maskpool.audit",
    "TokenBatch": "maskpool.batch.token_batch",
    "assert_padding_invariant": "maskpool.audit",
    "audit_padding": "maskpool.audit",
    "build_pooling": "maskpool.poolings.build",
    "embed_corpus": "maskpool.embed",
    "freeze_pad_row": "maskpool.pads",
    "pool": "maskpool.poolings.build",
    "read_embeddings": "maskpool.embed",
    "verify_embeddings": "maskpool.embed",
}
_MODULES = ("errors", "functional", "integrations", "masks", "nn", "weights")

__all__ = [
    "AuditReport",
    "TokenBatch",
    "assert_padding_invariant",
    "audit_padding",
    "build_pooling",
    "embed_corpus",
    "errors",
    "freeze_pad_row",
    "functional",
    "integrations",
    "masks",
    "nn",
    "pool",
    "read_embeddings",
    "verify_embeddings",
    "weights",
]


def __getattr__(name: str) -> object:
    """Load a name on first use."""
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"maskpool.{name}")
    else:
        raise AttributeError(f"module 'maskpool' has no attribute {name!r}{_advice(name)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _advice(name: str) -> str:
    """Say where a layer or function is that is not at the top."""
    if name.startswith("_") or find_spec(f"maskpool.{name}"):  # hasattr and imports look these up first
        return ""
    for home in ("nn", "functional"):
        if name in import_module(f"maskpool.{home}").__all__:
            return f": it is maskpool.{home}.{name}"
    return ""
