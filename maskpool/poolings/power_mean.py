"""The generalised (power) mean, with a given or a learned exponent."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from maskpool.batch.checks import check_positive
from maskpool.batch.token_batch import SparseBatch, TokenBatch, TokenEmbeddings
from maskpool.errors import InvalidValueError
from maskpool.kernels.base import HIGHEST_EXPONENT, Formula, Kernels, Parameter
from maskpool.poolings.base import apply_on_empty, prepare
from maskpool.poolings.learned import LearnedPooling
from maskpool.poolings.registry import register
from maskpool.poolings.transformed import (
    validated_shares,
    weighted_mean_of_batch,
    weighted_mean_of_rows,
    without_weightless,
)
from maskpool.types import (
    AttentionMask,
    AttentionWeights,
    Offsets,
    OnEmpty,
    PerToken,
    SentenceEmbeddings,
    TokenWeights,
)

__all__ = ["GeneralizedMeanPooling", "generalized_mean_pool", "generalized_mean_weights"]


def generalized_mean_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    p: float | Tensor = 3.0,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the signed power mean of each feature, sign(s) |s|^(1/p) with s = (1/n) Σₜ sign(xₜ) |xₜ|ᵖ.

    ``p=1`` is the mean; as p grows, the values of the largest size dominate. Because the sign is handled separately,
    every p > 0 works for negative features. Where s or xₜ is 0 their roots and powers get no gradient. With token
    weights s = Σₜ wₜ sign(xₜ) |xₜ|ᵖ / Σₜ wₜ. The other arguments are described in `maskpool.functional`.

    References:
        Rücklé et al. 2018, Concatenated Power Mean Word Embeddings; Radenović et al. 2018, GeM, who learn p.

    Args:
        p: The exponent, above 0; a tensor of one element, or of (dim,), can learn.

    Returns:
        (batch, dim).

    Raises:
        InvalidValueError: ``p`` is not finite and above 0, or a tensor of another shape.

    See Also:
        `maskpool.nn.GeneralizedMeanPooling`: The layer.

    Example:
        >>> generalized_mean_pool(torch.tensor([[[-1.0], [-7.0], [99.0]]]), torch.tensor([[1, 1, 0]]), p=2)
        tensor([[-5.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    _check_exponent(batch, p)
    return _generalized_mean(batch, weights, p, on_empty)


def _generalized_mean(
    batch: TokenBatch, weights: PerToken | None, p: float | Tensor, on_empty: OnEmpty
) -> SentenceEmbeddings:
    by_token, weight = validated_shares(batch, weights)
    return apply_on_empty(batch.by_sentence(_GENERALIZED_MEAN, by_token, p), batch, on_empty, weight)


def generalized_mean_weights(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    p: float | Tensor = 3.0,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
) -> AttentionWeights:
    """Compute how much a generalised mean weighs each token, feature by feature: |xₜ|ᵖ⁻¹ / Σₜ |xₜ|ᵖ⁻¹.

    The mean of the powers is Σₜ |xₜ|ᵖ⁻¹ xₜ / n, a sum of the tokens with these weights up to their scale. At ``p=1``
    all weights are 1/n. With token weights each |xₜ|ᵖ⁻¹ is multiplied by its wₜ. For inspection: no gradient passes.
    The other arguments are described in `maskpool.functional`.

    Args:
        p: The exponent, as `generalized_mean_pool` takes it.

    Returns:
        (batch, dim, seq), exactly 0 at pads, or (tokens, dim) for packed and nested batches.

    Raises:
        InvalidValueError: ``p`` is not finite and above 0, or a tensor of another shape.

    Example:
        >>> generalized_mean_weights(torch.tensor([[[-1.0], [-3.0], [99.0]]]), torch.tensor([[1, 1, 0]]), p=2)
        tensor([[[0.2500, 0.7500, 0.0000]]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    _check_exponent(batch, p)
    return batch.to_layout(_weights(batch, weights, p))


def _weights(batch: TokenBatch, weights: PerToken | None, p: float | Tensor) -> PerToken:
    exact = batch.accumulation_dtype
    with torch.no_grad():
        size = batch.rows().to(exact).abs().clamp(min=torch.finfo(exact).tiny)
        return batch.softmax((p - 1) * size.log(), weights)


@register(
    "generalized_mean",
    formula="sign(s) |s|^(1/p), s = (1/n) Σₜ sign(xₜ) |xₜ|ᵖ",
    source="GeM (Radenović et al. 2018); Rücklé et al. 2018",
    also_called=("gem", "generalisedmean", "powermean", "power", "pmean"),
)
class GeneralizedMeanPooling(LearnedPooling):
    """The signed power mean of each feature, sign(s) |s|^(1/p) with s = (1/n) Σₜ sign(xₜ) |xₜ|ᵖ and a learned p.

    All features share one exponent. It is stored as its logarithm, so no training step can make it negative; at
    ``p=1`` the layer starts equal to the mean (or to ``start``). Powers are computed in float32 (float64 for float64).
    Cost: tokens · dim powers.

    The result is (batch, dim), in the tokens' dtype. The weights, (batch, dim, seq) or (tokens, dim), are those of
    `maskpool.functional.generalized_mean_weights`, |xₜ|ᵖ⁻¹ / Σₜ |xₜ|ᵖ⁻¹ of each feature, in float32 (float64 for
    float64) and without a gradient. ``on_empty`` is described in `maskpool.nn.PoolingLayer`.

    References:
        Radenović et al. 2018, Fine-tuning CNN Image Retrieval (GeM); Rücklé et al. 2018 for the signs.

    Args:
        p: The initial exponent, above 0.
        start: The mode of the pooling that the layer equals at ``p=1``.

    Raises:
        InvalidValueError: ``p`` is not a finite number above 0, or ``start`` is not accepted.

    See Also:
        `maskpool.functional.generalized_mean_pool`: The function, with a given exponent.
        `maskpool.nn.SoftmaxPooling`: Between mean and maximum without parameters.

    Example:
        >>> GeneralizedMeanPooling(p=3.0)(torch.tensor([[[1.0], [7.0], [99.0]]]), torch.tensor([[1, 1, 0]])).detach()
        tensor([[5.5613]])
    """

    def __init__(self, *, p: float = 1.0, on_empty: OnEmpty = "zero", start: str = "mean") -> None:
        super().__init__(None, start=start, on_empty=on_empty)
        check_positive("p", p)
        self.log_p = nn.Parameter(torch.tensor(float(p)).log())

    @property
    def p(self) -> Tensor:
        """The current exponent, in float32 (float64 for float64)."""
        return self.log_p.float().exp() if self.log_p.dtype != torch.float64 else self.log_p.exp()

    def learned(self, batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, Callable[[], PerToken]]:
        """Return the power mean and a function that computes the weights, which costs as much again."""
        p = self.p.to(batch.accumulation_dtype)
        _check_exponent(batch, p)
        return _generalized_mean(batch, weights, p, self.on_empty), partial(_weights, batch, weights, p)


def _check_exponent(batch: TokenBatch, p: float | Tensor) -> None:
    if not isinstance(p, Tensor):
        check_positive("p", p)
    elif p.numel() not in (1, batch.dim):
        raise InvalidValueError("p", f"must have one element or one per feature, ({batch.dim},), got {tuple(p.shape)}")
    elif isinstance(batch, SparseBatch) and not (
        0 < p.item() < math.inf if p.numel() == 1 else bool(((p > 0) & p.isfinite()).all())
    ):
        raise InvalidValueError("p", f"must be finite and above 0, got {p.detach().tolist()}")


def _generalized_mean_of_rows(rows: Tensor, weights: Tensor | None, p: Parameter) -> Tensor:
    assert p is not None
    if isinstance(p, Tensor) and p.numel() == 1:
        p = float(p)  # torch is faster with a number as the exponent
    weighed = rows if weights is None else rows.masked_fill(weights.unsqueeze(1) == 0, 0.0)
    size = _size(weighed.abs().amax(dim=0))
    power = weighted_mean_of_rows(_signed_power_of_rows(_capped(rows / size, p, weights), p), weights)
    return _signed_power_of_rows(power, 1 / p).mul_(size)


def _generalized_mean_gradient(
    rows: Tensor, weights: Tensor | None, p: Parameter, pooled: Tensor, grad: Tensor
) -> Tensor:
    # w (|x| / |y|)ᵖ⁻¹, and 0 where x or y is 0.
    assert p is not None
    if isinstance(p, Tensor) and p.numel() == 1:
        p = float(p)
    still = pooled == 0
    ratio = (rows / torch.where(still, 1.0, pooled)).abs_()
    scaled = ratio.pow(p - 1)
    if isinstance(p, Tensor) or p <= 1:  # else the power of 0 is 0
        scaled.masked_fill_(ratio == 0, 0.0)
    upstream = torch.where(still, 0.0, grad)
    if weights is None:
        return scaled.mul_(upstream.div_(len(rows)))
    return torch.where(weights.unsqueeze(1) == 0, 0.0, scaled.mul_(upstream).mul_(weights.unsqueeze(1)))


def _generalized_mean_of_batch(batch: Kernels, weights: Tensor | None, p: Parameter) -> Tensor:
    assert p is not None
    rows = batch.rows().to(batch.accumulation_dtype)
    weighed = without_weightless(batch.with_rows(rows), weights, 0.0)
    size = _size(torch.maximum(weighed.maximum(), -weighed.minimum()).detach())
    powers = _signed_power(_capped(rows / batch.spread(size), p, weights), p)
    return size * _signed_power(weighted_mean_of_batch(batch, powers, weights), 1 / p)


def _capped(ratio: Tensor, p: Tensor | float, weights: Tensor | None) -> Tensor:
    """Limit ratios of tokens without weight to a p-th power of e^40; those of all others are at most 1."""
    if weights is None:
        return ratio
    exponent = HIGHEST_EXPONENT / (p.detach() if isinstance(p, Tensor) else torch.tensor(p, device=ratio.device))
    limit = exponent.clamp(max=80.0).exp()  # float32 holds it
    return ratio.clamp(min=-limit, max=limit)


def _size(largest: Tensor) -> Tensor:
    # The mean is homogeneous: divided by the largest size no power overflows, and the size needs no gradient.
    return largest.nan_to_num(1.0, posinf=1.0).clamp(min=torch.finfo(largest.dtype).tiny)


def _signed_power(x: Tensor, p: Tensor | float) -> Tensor:
    # Clamped: the derivatives of |x|ᵖ by x and by p are infinite or undefined at 0.
    return x.sign() * x.abs().clamp(min=torch.finfo(x.dtype).tiny).pow(p)


def _signed_power_of_rows(x: Tensor, p: Tensor | float) -> Tensor:
    return x.abs().pow_(p).copysign_(x)


_GENERALIZED_MEAN = Formula(_generalized_mean_of_rows, _generalized_mean_of_batch, _generalized_mean_gradient)
