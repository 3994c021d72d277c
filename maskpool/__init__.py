"""Sentence pooling that reads real tokens only, and what padding does to embeddings, measured."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from maskpool.functional import (
    attention_penalty,
    attention_pool,
    attention_scores,
    cls_pool,
    first_last_average_pool,
    gated_attention_scores,
    generalized_mean_pool,
    generalized_mean_weights,
    last_token_pool,
    latent_attention_pool,
    logsumexp_pool,
    max_pool,
    mean_pool,
    mean_sqrt_len_pool,
    mean_std_pool,
    median_pool,
    min_pool,
    mix_layers,
    multihead_attention_pool,
    position_weighted_mean_pool,
    softmax_pool,
    std_pool,
    structured_attention_pool,
    sum_pool,
    topk_mean_pool,
)
from maskpool.modules import (
    AttentionPooling,
    CLSPooling,
    ConcatPooling,
    FirstLastAveragePooling,
    GatedAttentionPooling,
    GeneralizedMeanPooling,
    LastTokenPooling,
    LatentAttentionPooling,
    LayerMix,
    LearnedPooling,
    LogSumExpPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    MeanStdPooling,
    MedianPooling,
    MinPooling,
    MultiheadAttentionPooling,
    Pooling,
    PositionWeightedMeanPooling,
    SoftmaxPooling,
    StdPooling,
    StructuredAttentionPooling,
    SumPooling,
    TopKMeanPooling,
    build_pooling,
)
from maskpool.pad_row import freeze_pad_row
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from maskpool.audit import AuditReport, Finding, assert_padding_invariant, audit_padding

__version__ = "0.1.0"

__all__ = [
    "AttentionPooling",
    "AuditReport",
    "CLSPooling",
    "ConcatPooling",
    "Finding",
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
    "TokenBatch",
    "TopKMeanPooling",
    "assert_padding_invariant",
    "attention_penalty",
    "attention_pool",
    "attention_scores",
    "audit_padding",
    "build_pooling",
    "cls_pool",
    "first_last_average_pool",
    "freeze_pad_row",
    "gated_attention_scores",
    "generalized_mean_pool",
    "generalized_mean_weights",
    "last_token_pool",
    "latent_attention_pool",
    "logsumexp_pool",
    "max_pool",
    "mean_pool",
    "mean_sqrt_len_pool",
    "mean_std_pool",
    "median_pool",
    "min_pool",
    "mix_layers",
    "multihead_attention_pool",
    "position_weighted_mean_pool",
    "softmax_pool",
    "std_pool",
    "structured_attention_pool",
    "sum_pool",
    "topk_mean_pool",
]

_AUDIT = ("AuditReport", "Finding", "assert_padding_invariant", "audit_padding")


def __getattr__(name: str) -> Any:  # Any: whatever has the name
    """Load the audit on first use: importing a layer does not need it."""
    if name in _AUDIT:
        return getattr(import_module("maskpool.audit"), name)
    if name == "audit":
        return import_module("maskpool.audit")
    raise AttributeError(f"module 'maskpool' has no attribute {name!r}")
