"""From a mode string to a layer."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from maskpool.modules.attention import (
    AttentionPooling,
    GatedAttentionPooling,
    LatentAttentionPooling,
    MultiheadAttentionPooling,
    StructuredAttentionPooling,
)
from maskpool.modules.base import Pooling
from maskpool.modules.concat import ConcatPooling
from maskpool.modules.layers import FirstLastAveragePooling, LayerMix
from maskpool.modules.learned import GeneralizedMeanPooling
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

POOLINGS: dict[str, type[Pooling]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "cls": CLSPooling,
    "lasttoken": LastTokenPooling,
    "weightedmean": PositionWeightedMeanPooling,
    "mean_sqrt_len_tokens": MeanSqrtLenPooling,
    "min": MinPooling,
    "sum": SumPooling,
    "std": StdPooling,
    "mean_std": MeanStdPooling,
    "median": MedianPooling,
    "topk_mean": TopKMeanPooling,
    "logsumexp": LogSumExpPooling,
    "softmax": SoftmaxPooling,
    "generalized_mean": GeneralizedMeanPooling,
    "attention": AttentionPooling,
    "gated_attention": GatedAttentionPooling,
    "structured_attention": StructuredAttentionPooling,
    "multihead_attention": MultiheadAttentionPooling,
    "latent_attention": LatentAttentionPooling,
}


def build_pooling(
    pooling_mode: str | tuple[str, ...] | list[str],
    embedding_dimension: int | None = None,
    # Any: the options are those of whichever layers the modes name.
    **options: Any,
) -> Pooling:
    """Make a layer from its mode string; several modes are concatenated.

    Args:
        pooling_mode: One of ``mean``, ``max``, ``cls``, ``lasttoken``, ``weightedmean``,
            ``mean_sqrt_len_tokens`` (spelled as in sentence-transformers), ``min``, ``sum``, ``std``,
            ``mean_std``, ``median``, ``topk_mean``, ``logsumexp``, ``softmax``, ``generalized_mean``,
            ``attention``, ``gated_attention``, ``structured_attention``, ``multihead_attention`` and
            ``latent_attention``, or a tuple of them.
        embedding_dimension: Width of a token embedding; learned poolings need it, others ignore it.
        **options: Passed on to each layer that takes them, such as ``on_empty`` or ``num_heads``.

    Returns:
        The layer, or a `ConcatPooling` of the layers.

    Raises:
        TypeError: An option that none of the layers takes, or a mode that is no string.
        ValueError: An unknown mode, none at all, or one without an option that it requires, such as
            ``embedding_dimension`` of learned ones.

    Example:
        >>> build_pooling("mean")
        MeanPooling()
        >>> build_pooling(("cls", "attention"), 8, num_heads=2).poolings[1].num_heads
        2
    """
    modes = list(pooling_mode) if isinstance(pooling_mode, (tuple, list)) else [pooling_mode]
    if not modes:
        raise ValueError(f"pooling_mode must name at least one of {_known()}, got none")
    classes = [_find(mode) for mode in modes]
    accepted = [set(inspect.signature(layer).parameters) - {"embedding_dimension"} for layer in classes]
    unknown = set(options).difference(*accepted)
    if unknown:
        known = ", ".join(sorted(set().union(*accepted)))
        raise TypeError(f"options of pooling_mode {pooling_mode!r} are {known}; got {', '.join(sorted(unknown))}")
    layers = []
    for mode, layer in zip(modes, classes, strict=True):
        parameters = inspect.signature(layer).parameters
        given = {"embedding_dimension": embedding_dimension, **options}
        taken = {name: given[name] for name in parameters if name in given}
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and taken.get(name) is None:
                raise ValueError(f"{name} is required for the pooling_mode {mode!r}, got None")
        layers.append(layer(**taken))
    return layers[0] if len(layers) == 1 else ConcatPooling(layers)


def output_dimension(pooling: nn.Module, embedding_dimension: int) -> int:
    """Width of what a layer makes of tokens of a width; found by pooling one token.

    Example:
        >>> output_dimension(build_pooling(("mean", "mean_std")), 8)
        24
    """
    device = next(pooling.parameters(), torch.empty(0, device="cpu")).device
    token, mask = (
        torch.zeros(1, 1, embedding_dimension, device=device),
        torch.ones(1, 1, dtype=torch.bool, device=device),
    )
    several = isinstance(pooling, LayerMix | FirstLastAveragePooling)
    layers = len(pooling.layer_logits) if isinstance(pooling, LayerMix) else 2
    with torch.no_grad():
        return int(pooling([token] * layers if several else token, mask).shape[1])


def _find(mode: object) -> type[Pooling]:
    if not isinstance(mode, str):
        raise TypeError(f"pooling_mode must be a string or a tuple of strings, got {type(mode).__name__}")
    if mode not in POOLINGS:
        raise ValueError(f"pooling_mode must be one of {_known()}, got {mode!r}")
    return POOLINGS[mode]


def _known() -> str:
    return ", ".join(map(repr, POOLINGS))
