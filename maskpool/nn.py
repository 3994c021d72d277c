"""Pooling layers: hyperparameters and learned weights. The functions are in `maskpool.functional`.

`POOLINGS` maps mode strings to layers, and `PoolingLayer` and `LearnedPooling` are the base classes of custom layers.
"""

from maskpool.poolings import FAMILIES
from maskpool.poolings.attention import *  # noqa: F403  # each family lists its names
from maskpool.poolings.averages import *  # noqa: F403  # the same
from maskpool.poolings.base import PoolingLayer
from maskpool.poolings.choices import *  # noqa: F403  # the same
from maskpool.poolings.concat import *  # noqa: F403  # the same
from maskpool.poolings.latent import *  # noqa: F403  # the same
from maskpool.poolings.layers import *  # noqa: F403  # the same
from maskpool.poolings.learned import LearnedPooling
from maskpool.poolings.moments import *  # noqa: F403  # the same
from maskpool.poolings.multihead import *  # noqa: F403  # the same
from maskpool.poolings.power_mean import *  # noqa: F403  # the same
from maskpool.poolings.registry import POOLINGS, register
from maskpool.poolings.smooth_maximum import *  # noqa: F403  # the same

__all__ = [
    "POOLINGS",
    "LearnedPooling",
    "PoolingLayer",
    "register",
    *(name for family in FAMILIES for name in family.__all__ if not name.islower()),
]


def __dir__() -> list[str]:
    return __all__
