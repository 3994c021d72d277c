"""The layers: hyperparameters and learned weights; the maths is in `maskpool.functional`."""

from maskpool.modules.attention import AttentionPooling
from maskpool.modules.base import Pooling, WeightedPooling
from maskpool.modules.build import build_pooling
from maskpool.modules.concat import ConcatPooling
from maskpool.modules.layers import FirstLastAveragePooling, LayerMix
from maskpool.modules.plain import (
    CLSPooling,
    LastTokenPooling,
    LogSumExpPooling,
    MaxPooling,
    MedianPooling,
    MinPooling,
    TopKMeanPooling,
)
from maskpool.modules.weighted import (
    GeneralizedMeanPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    MeanStdPooling,
    PositionWeightedMeanPooling,
    SoftmaxPooling,
    StdPooling,
    SumPooling,
)

__all__ = [
    "AttentionPooling",
    "CLSPooling",
    "ConcatPooling",
    "FirstLastAveragePooling",
    "GeneralizedMeanPooling",
    "LastTokenPooling",
    "LayerMix",
    "LogSumExpPooling",
    "MaxPooling",
    "MeanPooling",
    "MeanSqrtLenPooling",
    "MeanStdPooling",
    "MedianPooling",
    "MinPooling",
    "Pooling",
    "PositionWeightedMeanPooling",
    "SoftmaxPooling",
    "StdPooling",
    "SumPooling",
    "TopKMeanPooling",
    "WeightedPooling",
    "build_pooling",
]
