"""Build layers from mode strings, and pool in one call with `pool`."""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  # the examples use it

from maskpool.batch.token_batch import TokenEmbeddings
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.poolings import POOLINGS
from maskpool.poolings.base import PoolingLayer
from maskpool.poolings.concat import ConcatPooling
from maskpool.poolings.registry import find
from maskpool.types import AttentionMask, Offsets, SentenceEmbeddings, TokenWeights

__all__ = ["build_pooling", "pool"]


def build_pooling(
    pooling_mode: str | tuple[str, ...] | list[str],
    embedding_dimension: int | None = None,
    # Any: the options are those of the layers that the modes name.
    **options: Any,
) -> PoolingLayer:
    """Build a layer from its mode string; several modes are concatenated.

    Args:
        pooling_mode: A key of `maskpool.nn.POOLINGS`, or a tuple of keys.
        embedding_dimension: Width of a token embedding; learned poolings need it, others ignore it.
        **options: Keyword options of the layers, such as ``on_empty`` or ``num_heads``; each layer gets those it takes.

    Returns:
        The layer, or a `maskpool.nn.ConcatPooling` of the layers.

    Raises:
        InvalidTypeError: None of the layers takes an option, or a mode is not a string.
        InvalidValueError: A mode is unknown (the message suggests one), there is none, or one lacks an option that it
            requires, such as the ``embedding_dimension`` of learned ones.

    Example:
        >>> build_pooling("mean")
        MeanPooling()
        >>> build_pooling(("cls", "attention"), 8, num_heads=2).poolings[1].num_heads
        2
    """
    modes = list(pooling_mode) if isinstance(pooling_mode, (tuple, list)) else [pooling_mode]
    if not modes:
        raise InvalidValueError("pooling_mode", f"must name at least one of {', '.join(map(repr, POOLINGS))}, got none")
    classes = [find(mode) for mode in modes]
    accepted = [set(layer.options()) for layer in classes]
    unknown = set(options).difference(*accepted)
    if unknown:
        known = ", ".join(sorted(set().union(*accepted)))
        raise InvalidTypeError(
            ", ".join(sorted(unknown)),
            f"must be an option of pooling_mode {pooling_mode!r}; its options are {known}",
        )
    layers = []
    for layer, names in zip(classes, accepted, strict=True):
        taken = {name: value for name, value in options.items() if name in names}
        missing = [name for name in layer.required_options() if taken.get(name) is None]
        if missing:
            raise InvalidValueError(missing[0], f"is required for the pooling_mode {layer.mode!r}, got None")
        if not layer.takes_dimension():
            layers.append(layer(**taken))
        elif embedding_dimension is None:
            raise InvalidValueError("embedding_dimension", f"is required for the pooling_mode {layer.mode!r}, got None")
        else:
            layers.append(layer(embedding_dimension, **taken))  # type: ignore[call-arg, arg-type]  # see takes_dimension
    return layers[0] if len(layers) == 1 else ConcatPooling(layers)


def pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    pooling_mode: str | tuple[str, ...] | list[str] = "mean",
    *,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    # Any: the options are those of the layers that the modes name.
    **options: Any,
) -> SentenceEmbeddings:
    """Pool token embeddings to one vector per sentence, reading real tokens only.

    Args:
        token_embeddings: (batch, seq, dim), or a model's output; (tokens, dim) with ``cu_seqlens``; a jagged nested
            tensor; or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens, or a tokenizer's output; for padded embeddings only.
        pooling_mode: A mode without parameters, or a tuple of modes, whose results are concatenated.
        cu_seqlens: (batch + 1,), int32 or int64, cumulative lengths; for packed embeddings only.
        token_weights: One finite number ≥ 0 per token, (batch, seq) or (tokens,), for modes that sum over the tokens.
        **options: Options of the mode, such as ``on_empty`` or ``k``.

    Returns:
        (batch, out_dim), in the dtype and on the device of the tokens.

    Raises:
        InvalidTypeError, InvalidValueError: An argument is not accepted, or the mode learns: build it with
            `build_pooling` and train it.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> pool(x, torch.tensor([[1, 1, 0]]), "mean")
        tensor([[2.]])
    """
    if isinstance(attention_mask, str):
        raise InvalidTypeError(
            "attention_mask", f"must be a mask, got {attention_mask!r}: pass a mode as pooling_mode={attention_mask!r}"
        )
    modes = pooling_mode if isinstance(pooling_mode, (tuple, list)) else [pooling_mode]
    learned = [mode for mode in modes if find(mode).learns]
    if learned:
        raise InvalidValueError(
            "pooling_mode",
            f"must not have parameters, got {learned[0]!r}: build the layer with build_pooling({learned[0]!r}, …), "
            "train it and call it",
        )
    accepted = {option for mode in modes for option in find(mode).options()}
    unknown = sorted(set(options) - accepted)
    if unknown:
        raise InvalidTypeError(
            ", ".join(unknown),
            f"must be an argument of pool (attention_mask, pooling_mode, cu_seqlens, token_weights), or an option of "
            f"pooling_mode {pooling_mode!r}: {', '.join(sorted(accepted))}",
        )
    layer = build_pooling(pooling_mode, **options)
    return layer(token_embeddings, attention_mask, cu_seqlens=cu_seqlens, token_weights=token_weights)  # type: ignore[no-any-return]  # nn.Module's call
