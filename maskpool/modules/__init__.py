"""The layers: hyperparameters and learned weights; the maths is in `maskpool.functional`."""

from maskpool.modules.attention import (
    AttentionPooling,
    GatedAttentionPooling,
    LatentAttentionPooling,
    MultiheadAttentionPooling,
    StructuredAttentionPooling,
)
from maskpool.modules.base import Pooling, WeightedPooling
from maskpool.modules.build import build_pooling
from maskpool.modules.concat import ConcatPooling
from maskpool.modules.layers import FirstLastAveragePooling, LayerMix
from maskpool.modules.learned import GeneralizedMeanPooling, LearnedPooling
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
    "GatedAttentionPooling",
    "GeneralizedMeanPooling",
    "LastTokenPooling",
    "LatentAttentionPooling",
    "LayerMix",
    "LearnedPooling",
    "LogSumExpPooling",
    "MaxPooling",
    "MeanPooling",
    "MeanSqrtLenPooling",
    "MeanStdPooling",
    "MedianPooling",
    "MinPooling",
    "MultiheadAttentionPooling",
    "Pooling",
    "PositionWeightedMeanPooling",
    "SoftmaxPooling",
    "StdPooling",
    "StructuredAttentionPooling",
    "SumPooling",
    "TopKMeanPooling",
    "WeightedPooling",
    "build_pooling",
]
