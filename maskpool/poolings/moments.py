"""Standard deviation, alone and next to the mean."""

from __future__ import annotations

import torch
from torch import Tensor

from maskpool.batch.token_batch import TokenBatch, TokenEmbeddings
from maskpool.kernels.base import Formula, Kernels, Parameter
from maskpool.poolings.base import PoolingLayer, apply_on_empty, prepare
from maskpool.poolings.registry import register
from maskpool.poolings.transformed import validated_shares, weighted_mean_of_batch, weighted_mean_of_rows
from maskpool.types import AttentionMask, Offsets, OnEmpty, PerToken, SentenceEmbeddings, TokenWeights

__all__ = ["MeanStdPooling", "StdPooling", "mean_std_pool", "std_pool"]


def std_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the standard deviation of each feature over the real tokens, √((1/n) Σₜ (xₜ - μ)²).

    The divisor is n, not n - 1, so one token gives 0; where the deviation is 0 its gradient is 0 too. With token
    weights, μ and the mean of squares are weighted by wₜ / Σₜ wₜ. The arguments are described in `maskpool.functional`.

    References:
        Snyder et al. 2018, X-vectors (statistics pooling); PyTorch Geometric, ``StdAggregation``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.StdPooling`: The layer.

    Example:
        >>> std_pool(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[1.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    return _pool(_STD, batch, weights, on_empty)


@register(
    "std",
    formula="√((1/n) Σₜ (xₜ - μ)²)",
    source="X-vectors (Snyder et al. 2018); PyTorch Geometric",
    also_called=("stdev", "standarddeviation"),
)
class StdPooling(PoolingLayer):
    """The standard deviation of each feature: `maskpool.functional.std_pool` as a layer.

    References:
        Snyder et al. 2018, X-vectors (statistics pooling).

    See Also:
        `maskpool.nn.MeanStdPooling`: Together with the mean, as in the paper.

    Example:
        >>> StdPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[1.]])
    """

    takes_token_weights = True

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return _pool(_STD, batch, weights, self.on_empty)


def mean_std_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Concatenate the mean and the standard deviation of each feature: `mean_pool` and `std_pool`.

    The arguments are described in `maskpool.functional`.

    References:
        Snyder et al. 2018, X-vectors (statistics pooling).

    Returns:
        (batch, 2 * dim).

    See Also:
        `maskpool.nn.MeanStdPooling`: The layer.

    Example:
        >>> mean_std_pool(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2., 1.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    return _pool(_MEAN_STD, batch, weights, on_empty)


@register(
    "mean_std",
    formula="[μ, √((1/n) Σₜ (xₜ - μ)²)]",
    source="X-vectors (Snyder et al. 2018)",
    also_called=("stats", "statistics"),
)
class MeanStdPooling(PoolingLayer):
    """Mean and standard deviation, concatenated: `maskpool.functional.mean_std_pool` as a layer.

    References:
        Snyder et al. 2018, X-vectors (statistics pooling).

    See Also:
        `maskpool.nn.StdPooling`: The second half of the result.

    Example:
        >>> MeanStdPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2., 1.]])
    """

    takes_token_weights = True

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return _pool(_MEAN_STD, batch, weights, self.on_empty)

    def output_dimension(self, embedding_dimension: int) -> int:  # noqa: D102  # see PoolingLayer
        return 2 * embedding_dimension


def _pool(formula: Formula, batch: TokenBatch, weights: PerToken | None, on_empty: OnEmpty) -> SentenceEmbeddings:
    by_token, weight = validated_shares(batch, weights)
    return apply_on_empty(batch.by_sentence(formula, by_token), batch, on_empty, weight)


def _moments_of_rows(rows: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    # Two passes, because E[x²] - μ² loses all digits if the mean is large.
    mean = weighted_mean_of_rows(rows, weights)
    return mean, weighted_mean_of_rows((rows - mean).square_(), weights).sqrt_()


def _moments_of_batch(batch: Kernels, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    rows = batch.rows().to(batch.accumulation_dtype)
    mean = weighted_mean_of_batch(batch, rows, weights)
    variance = weighted_mean_of_batch(batch, (rows - batch.spread(mean)).square(), weights)
    # The root's derivative at 0 is infinite: a deviation of 0 must not reach it.
    still = variance == 0
    return mean, torch.where(still, 0.0, torch.where(still, 1.0, variance).sqrt())


def _std_of_rows(rows: Tensor, weights: Tensor | None, _: Parameter) -> Tensor:
    return _moments_of_rows(rows, weights)[1]


def _std_of_batch(batch: Kernels, weights: Tensor | None, _: Parameter) -> Tensor:
    return _moments_of_batch(batch, weights)[1]


def _mean_std_of_rows(rows: Tensor, weights: Tensor | None, _: Parameter) -> Tensor:
    return torch.cat(_moments_of_rows(rows, weights))


def _mean_std_of_batch(batch: Kernels, weights: Tensor | None, _: Parameter) -> Tensor:
    return torch.cat(_moments_of_batch(batch, weights), dim=1)


def _std_gradient(rows: Tensor, weights: Tensor | None, _: Parameter, std: Tensor, grad: Tensor) -> Tensor:
    gradient = rows - weighted_mean_of_rows(rows, weights)
    scale = torch.where(std == 0, 0.0, grad / std)
    if weights is None:
        return gradient.mul_(scale.div_(len(rows)))
    return gradient.mul_(scale).mul_(weights.unsqueeze(1))


def _mean_std_gradient(rows: Tensor, weights: Tensor | None, _: Parameter, pooled: Tensor, grad: Tensor) -> Tensor:
    (mean, std), (by_mean, by_std) = pooled.chunk(2), grad.chunk(2)
    gradient, scale = rows - mean, torch.where(std == 0, 0.0, by_std / std)
    if weights is None:
        return gradient.mul_(scale.div_(len(rows))).add_(by_mean / len(rows))
    return gradient.mul_(scale).add_(by_mean).mul_(weights.unsqueeze(1))


_STD = Formula(_std_of_rows, _std_of_batch, _std_gradient)
_MEAN_STD = Formula(_mean_std_of_rows, _mean_std_of_batch, _mean_std_gradient)
