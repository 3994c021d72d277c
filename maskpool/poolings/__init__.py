"""The poolings, one family per file: function, layer and registration side by side.

Importing this package registers every pooling. A new family needs its file, a line here, and its star import in
`maskpool.nn` and `maskpool.functional`.
"""

from types import ModuleType

from maskpool.poolings import (
    attention,
    averages,
    choices,
    concat,
    generalized_mean,
    latent,
    layers,
    moments,
    multihead,
    smooth_maximum,
)
from maskpool.poolings.registry import POOLINGS

FAMILIES: tuple[ModuleType, ...] = (
    averages,
    choices,
    moments,
    smooth_maximum,
    generalized_mean,
    attention,
    multihead,
    latent,
    layers,
    concat,
)

__all__ = ["FAMILIES", "POOLINGS"]
