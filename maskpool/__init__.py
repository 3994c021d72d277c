"""Sentence pooling that reads real tokens only, and what padding does to embeddings, measured."""

from maskpool.functional import (
    attention_pool,
    attention_scores,
    cls_pool,
    last_token_pool,
    max_pool,
    mean_pool,
    mean_sqrt_len_pool,
    position_weighted_mean_pool,
)
from maskpool.modules import (
    AttentionPooling,
    CLSPooling,
    ConcatPooling,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    Pooling,
    PositionWeightedMeanPooling,
    build_pooling,
)
from maskpool.tokens import TokenBatch

__version__ = "0.1.0"

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
    "TokenBatch",
    "attention_pool",
    "attention_scores",
    "build_pooling",
    "cls_pool",
    "last_token_pool",
    "max_pool",
    "mean_pool",
    "mean_sqrt_len_pool",
    "position_weighted_mean_pool",
]
