"""Poolings that are weighted sums of the real tokens: means of every kind, sum, attention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear

from maskpool import segments
from maskpool.functional.common import OnEmpty, apply_on_empty, shares, token_weights
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from jaxtyping import Float

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


def attention_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    scores: Tensor,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[Sentences, Tensor]:
    """A mean weighted by the softmax of given scores over the real tokens, Σₜ softmax(s)ₜ xₜ.

    With token weights wₜ, each exp(sₜ) is multiplied by its wₜ: Σₜ wₜ exp(sₜ) xₜ / Σₜ wₜ exp(sₜ).

    With several heads, head ``h`` pools features ``h * dim / heads`` to ``(h + 1) * dim / heads``, and
    the heads' results stand side by side. `attention_scores` computes scores with a learned query.

    Source: Yang et al. 2016, Hierarchical Attention Networks, equation 6.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        scores: (batch, heads, seq), or (tokens, heads) for a batch that was not padded; what
            stands at pads is not read.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        The pooled vectors, (batch, dim), and the weights in the layout of ``scores``, exactly 0 at pads.

    Raises:
        TypeError: ``scores`` is no floating tensor.
        ValueError: ``scores`` has another shape, or dim is no multiple of its heads.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> pooled, weights = attention_pool(x, torch.tensor([[1, 1, 0]]), scores=torch.zeros(1, 1, 3))
        >>> pooled, weights
        (tensor([[2.]]), tensor([[[0.5000, 0.5000, 0.0000]]]))
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    _check_scores(batch, scores)
    by_token = segments.from_layout(batch, scores.to(batch.accumulation_dtype))
    raw = weight = None
    if weights is not None:
        raw = token_weights(batch, weights)
        weight = segments.total(batch, raw)
    attention = segments.softmax(batch, by_token, raw)
    pooled = apply_on_empty(segments.weighted_sum(batch, attention), batch, on_empty, weight)
    return pooled, segments.to_layout(batch, attention)


def attention_scores(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    query: Float[Tensor, "heads hidden"],
    hidden_weight: Float[Tensor, "hidden dim"] | None = None,
    hidden_bias: Float[Tensor, " hidden"] | None = None,
) -> Tensor:
    """Score real tokens against learned queries: q·x, or additively q·tanh(W x + b).

    Computed in float32 (float64 for float64) whatever the dtype of tokens and parameters.

    Source: Yang et al. 2016, equation 5; Bahdanau et al. 2015 for the additive form.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        query: One query a head, (heads, dim), or (heads, hidden) with a hidden layer.
        hidden_weight: W, (hidden, dim); None scores linearly.
        hidden_bias: b, (hidden,).

    Returns:
        (batch, heads, seq), 0 at pads, or (tokens, heads) for a batch that was not padded.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [torch.nan, 0.0]]])
        >>> attention_scores(x, torch.tensor([[1, 1, 0]]), query=torch.tensor([[1.0, 0.0]]))
        tensor([[[1., 3., 0.]]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    exact = batch.accumulation_dtype
    with _without_autocast(query.device.type):
        if hidden_weight is None:
            return segments.to_layout(batch, segments.dot_products(batch, query.to(exact)))
        bias = None if hidden_bias is None else hidden_bias.to(exact)
        hidden = linear(segments.real_rows(batch).to(exact), hidden_weight.to(exact), bias).tanh()
        return segments.to_layout(batch, linear(hidden, query.to(exact)))


def _without_autocast(device: str) -> AbstractContextManager[None]:
    """Autocast would bring products back to half precision; some devices do not know it."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _check_scores(batch: TokenBatch, scores: object) -> None:
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"scores must be a floating torch.Tensor, got {got}")
    shape = tuple(scores.shape)
    if batch.mask is None:
        if scores.dim() != 2 or shape[0] != batch.index.numel():
            raise ValueError(
                f"scores must have the shape (tokens, heads) = ({batch.index.numel()}, heads), got {shape}"
            )
        heads = shape[1]
    else:
        rows, columns = batch.mask.shape
        if scores.dim() != 3 or shape[0] != rows or shape[2] != columns:
            raise ValueError(
                f"scores must have the shape (batch, heads, seq) = ({rows}, heads, {columns}), got {shape}"
            )
        heads = shape[1]
    if not heads or batch.dim % heads:
        raise ValueError(f"scores must have a number of heads that divides the dimension {batch.dim}, got {heads}")
