"""Weighted sums of the real tokens: means and the sum."""

from __future__ import annotations

import torch

from maskpool.batch.token_batch import TokenBatch, TokenEmbeddings
from maskpool.poolings.base import PoolingLayer, apply_on_empty, prepare, shares
from maskpool.poolings.registry import register
from maskpool.types import AttentionMask, Offsets, OnEmpty, PerSentence, PerToken, SentenceEmbeddings, TokenWeights

__all__ = [
    "MeanPooling",
    "MeanSqrtLenPooling",
    "PositionWeightedMeanPooling",
    "SumPooling",
    "mean_pool",
    "mean_sqrt_len_pool",
    "position_weighted_mean_pool",
    "sum_pool",
]


def mean_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the mean of the real tokens, (1/n) Σₜ xₜ; with token weights Σₜ wₜ xₜ / Σₜ wₜ.

    The arguments are described in `maskpool.functional`.

    References:
        Reimers and Gurevych 2019, Sentence-BERT; sentence-transformers, ``pooling_mode="mean"``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.MeanPooling`: The layer.

    Example:
        >>> mean_pool(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    return mean(batch, weights, on_empty)


def mean(batch: TokenBatch, weights: PerToken | None, on_empty: OnEmpty) -> SentenceEmbeddings:
    """Compute the mean of a validated batch."""
    if weights is not None:
        by_token, weight = shares(batch, weights)
        return apply_on_empty(batch.weighted_sum(by_token), batch, on_empty, weight)
    by_token = batch.fixed_weights("mean", lambda: batch.spread(_lengths(batch).reciprocal_()))
    return apply_on_empty(batch.weighted_sum(by_token, uniform=True), batch, on_empty)


def _lengths(batch: TokenBatch) -> PerSentence:
    return batch.lengths.to(batch.accumulation_dtype)


@register(
    "mean",
    formula="(1/n) Σₜ xₜ",
    source="sentence-transformers (Reimers and Gurevych 2019)",
    also_called=("avg", "average", "meantokens", "averagepool"),
)
class MeanPooling(PoolingLayer):
    """The mean of the real tokens, (1/n) Σₜ xₜ: `maskpool.functional.mean_pool` as a layer.

    References:
        Reimers and Gurevych 2019, Sentence-BERT.

    See Also:
        `maskpool.nn.PositionWeightedMeanPooling`: Later tokens weigh more.
        `maskpool.nn.AttentionPooling`: Learns the weights; starts equal to this layer.

    Example:
        >>> MeanPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """

    takes_token_weights = True
    power_of_weights = -1.0

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return mean(batch, weights, self.on_empty)


def mean_sqrt_len_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the sum of the real tokens divided by the root of their number, (1/√n) Σₜ xₜ.

    With token weights Σₜ wₜ xₜ / √Σₜ wₜ. The arguments are described in `maskpool.functional`.

    References:
        sentence-transformers, ``pooling_mode="mean_sqrt_len_tokens"``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.MeanSqrtLenPooling`: The layer.

    Example:
        >>> mean_sqrt_len_pool(torch.ones(1, 5, 1), torch.tensor([[1, 1, 1, 1, 0]]))
        tensor([[2.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    return _mean_sqrt_len(batch, weights, on_empty)


def _mean_sqrt_len(batch: TokenBatch, weights: PerToken | None, on_empty: OnEmpty) -> SentenceEmbeddings:
    if weights is not None:
        weight = batch.total(weights)
        share = torch.where(weight > 0, weight, 1.0).rsqrt()
        by_token = (weights * batch.spread(share)).to(batch.accumulation_dtype)
        return apply_on_empty(batch.weighted_sum(by_token), batch, on_empty, weight)
    by_token = batch.fixed_weights("mean_sqrt_len", lambda: batch.spread(_lengths(batch).rsqrt_()))
    return apply_on_empty(batch.weighted_sum(by_token, uniform=True), batch, on_empty)


@register(
    "mean_sqrt_len_tokens",
    formula="(1/√n) Σₜ xₜ",
    source="sentence-transformers",
    also_called=("meansqrt", "meansqrtlen", "sqrtmean", "sqrt"),
)
class MeanSqrtLenPooling(PoolingLayer):
    """The sum divided by the root of the length, (1/√n) Σₜ xₜ: `maskpool.functional.mean_sqrt_len_pool` as a layer.

    References:
        sentence-transformers, ``pooling_mode="mean_sqrt_len_tokens"``.

    See Also:
        `maskpool.nn.MeanPooling`: Divides by the number of tokens.
        `maskpool.nn.SumPooling`: Divides by nothing.

    Example:
        >>> MeanSqrtLenPooling()(torch.ones(1, 5, 1), torch.tensor([[1, 1, 1, 1, 0]]))
        tensor([[2.]])
    """

    takes_token_weights = True
    power_of_weights = -0.5

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return _mean_sqrt_len(batch, weights, self.on_empty)


def position_weighted_mean_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute a mean whose weights grow with position, Σₜ pₜ xₜ / Σₜ pₜ, with p = 1 at the first real token.

    Masked positions inside a sentence (holes) count, as in sentence-transformers. With token weights each pₜ is
    multiplied by its wₜ. The arguments are described in `maskpool.functional`.

    References:
        Muennighoff 2022, SGPT; sentence-transformers, ``pooling_mode="weightedmean"``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.PositionWeightedMeanPooling`: The layer.

    Example:
        >>> x = torch.tensor([[[99.0], [1.0], [4.0]]])
        >>> position_weighted_mean_pool(x, torch.tensor([[0, 1, 1]]))  # (1 * 1 + 2 * 4) / 3
        tensor([[3.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    return _position_weighted_mean(batch, weights, on_empty)


def _position_weighted_mean(batch: TokenBatch, weights: PerToken | None, on_empty: OnEmpty) -> SentenceEmbeddings:
    if weights is not None:
        by_token, weight = shares(batch, (batch.positions + 1) * weights)
        return apply_on_empty(batch.weighted_sum(by_token), batch, on_empty, weight)
    by_token = batch.fixed_weights("weightedmean", lambda: _position_shares(batch))
    return apply_on_empty(batch.weighted_sum(by_token), batch, on_empty)


def _position_shares(batch: TokenBatch) -> PerToken:
    position = batch.positions + 1
    share = batch.total(position).clamp(min=1).to(batch.accumulation_dtype).reciprocal()
    return position.to(batch.accumulation_dtype) * batch.spread(share)


@register(
    "weightedmean",
    formula="Σₜ pₜ xₜ / Σₜ pₜ, p the position from 1",
    source="SGPT (Muennighoff 2022); sentence-transformers",
    also_called=("weighted", "wmean", "weightedaverage", "weightedavg", "positionweightedmean", "weightedmeantokens"),
)
class PositionWeightedMeanPooling(PoolingLayer):
    """A mean whose weights grow with position: `maskpool.functional.position_weighted_mean_pool` as a layer.

    References:
        Muennighoff 2022, SGPT.

    See Also:
        `maskpool.nn.MeanPooling`: All tokens weigh the same.
        `maskpool.nn.LastTokenPooling`: Only the last token.

    Example:
        >>> PositionWeightedMeanPooling()(torch.tensor([[[99.0], [1.0], [4.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[3.]])
    """

    takes_token_weights = True

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return _position_weighted_mean(batch, weights, self.on_empty)


def sum_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the sum of the real tokens, Σₜ xₜ; with token weights Σₜ wₜ xₜ.

    The arguments are described in `maskpool.functional`.

    References:
        Xu et al. 2019, How Powerful are Graph Neural Networks?; PyTorch Geometric, ``SumAggregation``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.SumPooling`: The layer.

    Example:
        >>> sum_pool(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[4.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    return _sum(batch, weights, on_empty)


def _sum(batch: TokenBatch, weights: PerToken | None, on_empty: OnEmpty) -> SentenceEmbeddings:
    weight = None if weights is None else batch.total(weights)
    return apply_on_empty(batch.weighted_sum(weights), batch, on_empty, weight)


@register(
    "sum",
    formula="Σₜ xₜ",
    source="PyTorch Geometric (Xu et al. 2019)",
    also_called=("add", "total"),
)
class SumPooling(PoolingLayer):
    """The sum of the real tokens, Σₜ xₜ: `maskpool.functional.sum_pool` as a layer.

    References:
        Xu et al. 2019, How Powerful are Graph Neural Networks?

    See Also:
        `maskpool.nn.MeanPooling`: Does not grow with the number of tokens.

    Example:
        >>> SumPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[4.]])
    """

    takes_token_weights = True
    power_of_weights = 0.0

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return _sum(batch, weights, self.on_empty)
