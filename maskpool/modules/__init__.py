"""The layers: hyperparameters and learned weights; the maths is in `maskpool.functional`."""

from maskpool.modules.attention import AttentionPooling
from maskpool.modules.base import Pooling
from maskpool.modules.build import build_pooling
from maskpool.modules.concat import ConcatPooling
from maskpool.modules.plain import (
    CLSPooling,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    PositionWeightedMeanPooling,
)

__all__ = [
    "AttentionPooling",
    "CLSPooling",
    "ConcatPooling",
    "LastTokenPooling",
    "MaxPooling",
    "MeanPooling",
    "MeanSqrtLenPooling",
    "Pooling",
    "PositionWeightedMeanPooling",
    "build_pooling",
]
