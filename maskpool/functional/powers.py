"""Poolings that first transform the tokens: moments, log-sum-exp, softmax-weighted and generalised means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskpool import segments
from maskpool.functional.common import OnEmpty, apply_on_empty, shares, token_weights
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from jaxtyping import Float

    from maskpool.functional.common import Sentences, Tokens, TokenWeights
    from maskpool.tokens import Mask, Offsets


def std_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The standard deviation of each feature over the real tokens, √((1/n) Σₜ (xₜ - μ)²).

    That of the tokens themselves (divided by n, not n - 1), so one token gives 0; where it is 0 its gradient
    is 0 too. With token weights, μ and the mean of squares are weighted by wₜ / Σₜ wₜ.

    Source: Snyder et al. 2018, X-vectors (statistics pooling); PyTorch Geometric, ``StdAggregation``.

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
        >>> std_pool(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    _, std, weight = _moments(batch, weights)
    return apply_on_empty(std.to(batch.dtype), batch, on_empty, weight)


def mean_std_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The mean and the standard deviation of each feature, side by side: `mean_pool` and `std_pool`.

    Source: Snyder et al. 2018, X-vectors (statistics pooling).

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, 2 * dim).

    Example:
        >>> mean_std_pool(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2., 1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    mean, std, weight = _moments(batch, weights)
    return apply_on_empty(torch.cat([mean, std], dim=1).to(batch.dtype), batch, on_empty, weight)


def logsumexp_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """A smooth maximum of each feature over the real tokens, log Σₜ exp(xₜ).

    Source: `torch.logsumexp`; Pinheiro and Collobert 2015, who pool with it.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[0.0], [0.0], [99.0]]])
        >>> logsumexp_pool(x, torch.tensor([[1, 1, 0]]))
        tensor([[0.6931]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    rows = segments.real_rows(batch).to(batch.accumulation_dtype)
    top = _finite(segments.maximum(batch).detach().to(rows.dtype))
    sums = segments.weighted_sum(batch.with_rows(segments.centred(batch, rows, top).exp()), None)
    empty = segments.empty_sentences(batch).unsqueeze(1)
    pooled = torch.where(empty, 0.0, torch.where(empty, 1.0, sums).log() + top)
    return apply_on_empty(pooled.to(batch.dtype), batch, on_empty)


def softmax_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    temperature: float = 1.0,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """A mean in which each feature weighs its large values more, Σₜ softmax(x/τ)ₜ xₜ, feature by feature.

    As the temperature τ grows it becomes the mean, as τ falls to 0 the maximum. With token weights each
    exp(xₜ/τ) is multiplied by its wₜ.

    Source: PyTorch Geometric, ``SoftmaxAggregation``, whose t is 1/τ; Li et al. 2020, DeeperGCN.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        temperature: τ, above 0.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Raises:
        ValueError: ``temperature`` is not a finite number above 0.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> mask = torch.tensor([[1, 1, 0]])
        >>> torch.cat([softmax_pool(x, mask, temperature=t) for t in (1e4, 1.0, 1e-4)])
        tensor([[2.0001],
                [2.7616],
                [3.0000]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    check_positive("temperature", temperature)
    rows = segments.real_rows(batch).to(batch.accumulation_dtype)
    top = _finite(segments.maximum(batch).detach().to(rows.dtype))
    raised = (segments.centred(batch, rows, top) / temperature).exp()
    raw = weight = None
    if weights is not None:
        raw = token_weights(batch, weights)
        weight = segments.total(batch, raw)
    sums = segments.weighted_sum(batch.with_rows(raised), raw)
    pooled = segments.weighted_sum(batch.with_rows(raised * rows), raw) / torch.where(sums > 0, sums, 1.0)
    return apply_on_empty(pooled.to(batch.dtype), batch, on_empty, weight)


def generalized_mean_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    p: float | Tensor = 3.0,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The signed generalised (power) mean of each feature, sign(s) |s|^(1/p) with s = (1/n) Σₜ sign(xₜ) |xₜ|ᵖ.

    ``p=1`` is the mean; as p grows, the values of the largest size win. Keeping the sign apart makes every real p > 0
    safe for negative features. Where s or xₜ is 0 their roots and powers get no gradient. With token weights
    s = Σₜ wₜ sign(xₜ) |xₜ|ᵖ / Σₜ wₜ.

    Source: Rücklé et al. 2018, Concatenated Power Mean Word Embeddings; Radenović et al. 2018 (GeM) learn p.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        p: The exponent, above 0; a tensor of one element, or of (dim,), learns.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Raises:
        ValueError: ``p`` is not a finite number above 0.

    Example:
        >>> x = torch.tensor([[[-1.0], [-7.0], [99.0]]])
        >>> generalized_mean_pool(x, torch.tensor([[1, 1, 0]]), p=2)
        tensor([[-5.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    if not isinstance(p, Tensor):
        check_positive("p", p)
    rows = segments.real_rows(batch).to(batch.accumulation_dtype)
    exact = batch.with_rows(rows)
    # The mean is homogeneous: over the largest size no power overflows, and the size needs no gradient.
    size = torch.maximum(segments.maximum(exact), -segments.minimum(exact)).detach()
    size = torch.where((size > 0) & size.isfinite(), size, 1.0)
    scaled = exact.with_rows(_signed_power(rows / segments.spread(batch, size), p))
    raw = segments.uniform(batch) if weights is None else token_weights(batch, weights)
    by_token, weight = shares(batch, raw)
    pooled = size * _signed_power(segments.weighted_sum(scaled, by_token), 1 / p)
    return apply_on_empty(pooled.to(batch.dtype), batch, on_empty, None if weights is None else weight)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def _moments(
    batch: TokenBatch, weights: TokenWeights | None
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"], Float[Tensor, " batch"] | None]:
    """Mean and standard deviation in the accumulation dtype; two passes, because E[x²] - μ² loses all digits."""
    rows = segments.real_rows(batch).to(batch.accumulation_dtype)
    raw = segments.uniform(batch) if weights is None else token_weights(batch, weights)
    by_token, weight = shares(batch, raw)
    mean = segments.weighted_sum(batch.with_rows(rows), by_token)
    squares = segments.centred(batch, rows, mean).square()
    variance = segments.weighted_sum(batch.with_rows(squares), by_token)
    # The root's derivative at 0 is infinite: a deviation of 0 must not meet it.
    still = variance == 0
    std = torch.where(still, 0.0, torch.where(still, 1.0, variance).sqrt())
    return mean, std, None if weights is None else weight


def _signed_power(x: Tensor, p: float | Tensor) -> Tensor:
    # Clamped: the derivatives of |x|ᵖ by x and by p are infinite or undefined at 0.
    return x.sign() * x.abs().clamp(min=torch.finfo(x.dtype).tiny).pow(p)


def _finite(top: Tensor) -> Tensor:
    # Infinity minus infinity is NaN: as in torch.logsumexp, nothing is subtracted then.
    return torch.where(top.isinf(), 0.0, top)
