"""Smooth maxima of each feature: log-sum-exp and the softmax-weighted mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskpool.batch.checks import check_positive
from maskpool.batch.token_batch import TokenBatch, TokenEmbeddings
from maskpool.kernels.base import HIGHEST_EXPONENT, Formula, Kernels, Parameter
from maskpool.poolings.base import PoolingLayer, apply_on_empty, prepare
from maskpool.poolings.registry import register
from maskpool.poolings.transformed import finite, without_weightless
from maskpool.types import AttentionMask, Offsets, OnEmpty, PerToken, SentenceEmbeddings, TokenWeights

__all__ = ["LogSumExpPooling", "SoftmaxPooling", "logsumexp_pool", "softmax_pool"]


def logsumexp_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute a smooth maximum of each feature over the real tokens, log Σₜ exp(xₜ).

    The arguments are described in `maskpool.functional`.

    References:
        Pinheiro and Collobert 2015, From Image-level to Pixel-level Labeling; `torch.logsumexp`.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.LogSumExpPooling`: The layer.

    Example:
        >>> logsumexp_pool(torch.tensor([[[0.0], [0.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[0.6931]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(batch.by_sentence(_LOGSUMEXP), batch, on_empty)


@register("logsumexp", formula="log Σₜ exp(xₜ)", source="Pinheiro and Collobert 2015", also_called=("lse", "logsum"))
class LogSumExpPooling(PoolingLayer):
    """A smooth maximum of each feature, log Σₜ exp(xₜ): `maskpool.functional.logsumexp_pool` as a layer.

    References:
        Pinheiro and Collobert 2015, From Image-level to Pixel-level Labeling.

    See Also:
        `maskpool.nn.SoftmaxPooling`: A smooth maximum that does not grow with the number of tokens.

    Example:
        >>> LogSumExpPooling()(torch.zeros(1, 3, 1), torch.tensor([[1, 1, 0]]))
        tensor([[0.6931]])
    """

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return apply_on_empty(batch.by_sentence(_LOGSUMEXP), batch, self.on_empty)


def softmax_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    temperature: float = 1.0,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute a mean that weighs the large values of each feature more, Σₜ softmax(x/τ)ₜ xₜ, feature by feature.

    A large temperature τ gives the mean, a temperature near 0 the maximum. With token weights each exp(xₜ/τ) is
    multiplied by its wₜ. The other arguments are described in `maskpool.functional`.

    References:
        Li et al. 2020, DeeperGCN; PyTorch Geometric, ``SoftmaxAggregation``, whose t is 1/τ.

    Args:
        temperature: τ, above 0.

    Returns:
        (batch, dim).

    Raises:
        InvalidValueError: ``temperature`` is not a finite number above 0.

    See Also:
        `maskpool.nn.SoftmaxPooling`: The layer.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> mask = torch.tensor([[1, 1, 0]])
        >>> torch.cat([softmax_pool(x, mask, temperature=t) for t in (1e4, 1.0, 1e-4)])
        tensor([[2.0001],
                [2.7616],
                [3.0000]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    check_positive("temperature", temperature)
    return _softmax(batch, weights, temperature, on_empty)


def _softmax(batch: TokenBatch, weights: PerToken | None, temperature: float, on_empty: OnEmpty) -> SentenceEmbeddings:
    weight = None if weights is None else batch.total(weights)
    return apply_on_empty(batch.by_sentence(_SOFTMAX, weights, 1 / temperature), batch, on_empty, weight)


@register(
    "softmax",
    formula="Σₜ softmax(x/τ)ₜ xₜ",
    source="DeeperGCN (Li et al. 2020); PyTorch Geometric",
    also_called=("soft", "softmaxmean"),
)
class SoftmaxPooling(PoolingLayer):
    """A mean that weighs large values more, Σₜ softmax(x/τ)ₜ xₜ: `maskpool.functional.softmax_pool` as a layer.

    ``on_empty`` is described in `maskpool.nn.PoolingLayer`.

    References:
        Li et al. 2020, DeeperGCN.

    Args:
        temperature: τ, above 0; large values give the mean, small ones the maximum.

    Raises:
        InvalidValueError: ``temperature`` is not a finite number above 0.

    See Also:
        `maskpool.nn.LogSumExpPooling`: Another smooth maximum.
        `maskpool.nn.AttentionPooling`: One learned weight per token and head, not per feature.

    Example:
        >>> SoftmaxPooling(temperature=1e-3)(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[3.]])
    """

    takes_token_weights = True

    def __init__(self, *, temperature: float = 1.0, on_empty: OnEmpty = "zero") -> None:
        super().__init__(on_empty=on_empty)
        check_positive("temperature", temperature)
        self.temperature = temperature

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return _softmax(batch, weights, self.temperature, self.on_empty)

    def extra_repr(self) -> str:  # noqa: D102  # see torch.nn.Module
        return ", ".join(filter(None, [f"temperature={self.temperature}", super().extra_repr()]))


def _logsumexp_of_rows(rows: Tensor, _: Tensor | None, __: Parameter) -> Tensor:
    return rows.logsumexp(dim=0)


def _logsumexp_of_batch(batch: Kernels, _: Tensor | None, __: Parameter) -> Tensor:
    rows = batch.rows().to(batch.accumulation_dtype)
    top = finite(batch.maximum().detach().to(rows.dtype))
    sums = batch.with_rows((rows - batch.spread(top)).exp()).weighted_sum(None)
    empty = (batch.lengths == 0).unsqueeze(1)
    return torch.where(empty, 0.0, torch.where(empty, 1.0, sums).log() + top)


def _logsumexp_gradient(rows: Tensor, _: Tensor | None, __: Parameter, pooled: Tensor, grad: Tensor) -> Tensor:
    return (rows - pooled).exp_().mul_(grad)


def _softmax_of_rows(rows: Tensor, weights: Tensor | None, inverse: Parameter) -> Tensor:
    raised, sums = _raised(rows, weights, inverse)
    return raised.mul_(rows).sum(dim=0) / sums


def _raised(rows: Tensor, weights: Tensor | None, inverse: Parameter) -> tuple[Tensor, Tensor]:
    assert inverse is not None
    weighed = rows if weights is None else rows.masked_fill(weights.unsqueeze(1) == 0, -math.inf)
    raised = (rows - finite(weighed.amax(dim=0))).mul_(inverse).clamp_(max=HIGHEST_EXPONENT).exp_()
    if weights is None:
        return raised, raised.sum(dim=0)
    sums = raised.mul_(weights.unsqueeze(1)).sum(dim=0)
    return raised, torch.where(sums > 0, sums, 1.0)


def _softmax_gradient(rows: Tensor, weights: Tensor | None, inverse: Parameter, pooled: Tensor, grad: Tensor) -> Tensor:
    assert inverse is not None
    raised, sums = _raised(rows, weights, inverse)
    return raised.mul_((rows - pooled).mul_(inverse).add_(1)).mul_(grad / sums)


def _softmax_of_batch(batch: Kernels, weights: Tensor | None, inverse: Parameter) -> Tensor:
    assert inverse is not None
    rows = batch.rows().to(batch.accumulation_dtype)
    top = finite(without_weightless(batch.with_rows(rows), weights, -math.inf).maximum().detach())
    raised = ((rows - batch.spread(top)) * inverse).clamp(max=HIGHEST_EXPONENT).exp()
    sums = batch.with_rows(raised).weighted_sum(weights)
    return batch.with_rows(raised * rows).weighted_sum(weights) / torch.where(sums > 0, sums, 1.0)


_LOGSUMEXP = Formula(_logsumexp_of_rows, _logsumexp_of_batch, _logsumexp_gradient)
_SOFTMAX = Formula(_softmax_of_rows, _softmax_of_batch, _softmax_gradient)
