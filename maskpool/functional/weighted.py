"""Poolings that are weighted sums of the real tokens: means of every kind, and the sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from maskpool import segments
from maskpool.functional.common import OnEmpty, apply_on_empty, shares, token_weights
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from maskpool.functional.common import Sentences, Tokens, TokenWeights
    from maskpool.tokens import Mask, Offsets


def mean_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The mean of the real tokens, (1/n) Σₜ xₜ; with token weights Σₜ wₜ xₜ / Σₜ wₜ.

    Source: sentence-transformers, ``pooling_mode="mean"`` (Reimers and Gurevych 2019).

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> mean_pool(x, torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    if weights is not None:
        by_token, weight = shares(batch, token_weights(batch, weights))
        return apply_on_empty(segments.weighted_sum(batch, by_token), batch, on_empty, weight)
    share = batch.lengths.clamp(min=1).to(batch.accumulation_dtype).reciprocal()
    return apply_on_empty(segments.scaled_sum(batch, share), batch, on_empty)


def mean_sqrt_len_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The sum of the real tokens over the root of their number, (1/√n) Σₜ xₜ; with weights Σₜ wₜ xₜ / √Σₜ wₜ.

    Source: sentence-transformers, ``pooling_mode="mean_sqrt_len_tokens"``.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> mean_sqrt_len_pool(torch.ones(1, 5, 1), torch.tensor([[1, 1, 1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    if weights is not None:
        raw = token_weights(batch, weights)
        weight = segments.total(batch, raw)
        share = torch.where(weight > 0, weight, 1.0).rsqrt()
        by_token = (raw * segments.spread(batch, share)).to(batch.accumulation_dtype)
        return apply_on_empty(segments.weighted_sum(batch, by_token), batch, on_empty, weight)
    share = batch.lengths.clamp(min=1).to(batch.accumulation_dtype).sqrt().reciprocal()
    return apply_on_empty(segments.scaled_sum(batch, share), batch, on_empty)


def position_weighted_mean_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """A mean whose weights grow with position, Σₜ pₜ xₜ / Σₜ pₜ, with p = 1 at the first real token.

    Positions inside a sentence that are masked out (holes) are counted, as in the host. With token
    weights each pₜ is multiplied by its wₜ.

    Source: SGPT (Muennighoff 2022); sentence-transformers, ``pooling_mode="weightedmean"``.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[99.0], [1.0], [4.0]]])
        >>> position_weighted_mean_pool(x, torch.tensor([[0, 1, 1]]))  # (1 * 1 + 2 * 4) / 3
        tensor([[3.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    position = batch.positions + 1
    if weights is not None:
        by_token, weight = shares(batch, position * token_weights(batch, weights))
        return apply_on_empty(segments.weighted_sum(batch, by_token), batch, on_empty, weight)
    share = segments.total(batch, position).clamp(min=1).to(batch.accumulation_dtype).reciprocal()
    by_token = position.to(batch.accumulation_dtype) * segments.spread(batch, share)
    return apply_on_empty(segments.weighted_sum(batch, by_token), batch, on_empty)


def sum_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The sum of the real tokens, Σₜ xₜ; with token weights Σₜ wₜ xₜ.

    Source: Xu et al. 2019, How Powerful are Graph Neural Networks; PyTorch Geometric, ``SumAggregation``.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> sum_pool(x, torch.tensor([[1, 1, 0]]))
        tensor([[4.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    if weights is None:
        return apply_on_empty(segments.weighted_sum(batch, None), batch, on_empty)
    raw = token_weights(batch, weights)
    return apply_on_empty(segments.weighted_sum(batch, raw), batch, on_empty, segments.total(batch, raw))
