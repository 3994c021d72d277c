"""The poolings, one family per file: its function, layer and registration together.

Importing this package registers every pooling, in the order of `FAMILIES`. A new family needs its file, its name here,
and its star import in `maskpool.nn` and `maskpool.functional`.
"""

from importlib import import_module
from types import ModuleType

from maskpool.poolings.registry import POOLINGS

FAMILIES: tuple[ModuleType, ...] = tuple(
    import_module(f"maskpool.poolings.{family}")
    for family in (
        "averages",
        "choices",
        "moments",
        "smooth_maximum",
        "power_mean",
        "attention",
        "multihead",
        "latent",
        "layers",
        "concat",
    )
)

__all__ = ["FAMILIES", "POOLINGS"]
