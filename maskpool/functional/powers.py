"""Poolings that first transform the tokens: moments, log-sum-exp, softmax-weighted and generalised means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskpool import segments
from maskpool.functional.by_sentence import Parameter, by_sentence
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
    by_token, weight = _shares(batch, weights)
    pooled = by_sentence(batch, _std_of_rows, _std_of_batch, by_token)
    return apply_on_empty(pooled, batch, on_empty, weight)


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
    by_token, weight = _shares(batch, weights)
    pooled = by_sentence(batch, _mean_std_of_rows, _mean_std_of_batch, by_token)
    return apply_on_empty(pooled, batch, on_empty, weight)


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
    return apply_on_empty(by_sentence(batch, _logsumexp_of_rows, _logsumexp_of_batch), batch, on_empty)


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
    raw = weight = None
    if weights is not None:
        raw = token_weights(batch, weights)
        weight = segments.total(batch, raw)
    pooled = by_sentence(batch, _softmax_of_rows, _softmax_of_batch, raw, 1 / temperature)
    return apply_on_empty(pooled, batch, on_empty, weight)


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
        ValueError: ``p`` is not finite and above 0, or a tensor of another shape.

    Example:
        >>> x = torch.tensor([[[-1.0], [-7.0], [99.0]]])
        >>> generalized_mean_pool(x, torch.tensor([[1, 1, 0]]), p=2)
        tensor([[-5.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    _check_exponent(batch, p)
    by_token, weight = _shares(batch, weights)
    pooled = by_sentence(batch, _generalized_mean_of_rows, _generalized_mean_of_batch, by_token, p)
    return apply_on_empty(pooled, batch, on_empty, weight)


def generalized_mean_weights(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    p: float | Tensor = 3.0,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
) -> Tensor:
    """What a generalised mean weighs each token, feature by feature: |xₜ|ᵖ⁻¹ / Σₜ |xₜ|ᵖ⁻¹.

    The mean of the powers is Σₜ |xₜ|ᵖ⁻¹ xₜ / n, a sum of the tokens with these weights but for their scale. At ``p=1``
    all are 1/n. With token weights each |xₜ|ᵖ⁻¹ is multiplied by its wₜ. To be looked at: no gradient passes.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        p: The exponent, as `generalized_mean_pool` takes it.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.

    Returns:
        (batch, dim, seq), exactly 0 at pads, or (tokens, dim) for a batch that was not padded.

    Raises:
        ValueError: ``p`` is not finite and above 0, or a tensor of another shape.

    Example:
        >>> x = torch.tensor([[[-1.0], [-3.0], [99.0]]])
        >>> generalized_mean_weights(x, torch.tensor([[1, 1, 0]]), p=2)
        tensor([[[0.2500, 0.7500, 0.0000]]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    _check_exponent(batch, p)
    exact = batch.accumulation_dtype
    with torch.no_grad():
        size = segments.real_rows(batch).to(exact).abs().clamp(min=torch.finfo(exact).tiny)
        raw = None if weights is None else token_weights(batch, weights)
        return segments.to_layout(batch, segments.softmax(batch, (p - 1) * size.log(), raw))


def _check_exponent(batch: TokenBatch, p: float | Tensor) -> None:
    if not isinstance(p, Tensor):
        check_positive("p", p)
    elif p.numel() not in (1, batch.dim):
        raise ValueError(f"p must have one element or one a feature, ({batch.dim},), got {tuple(p.shape)}")
    elif not batch.dense and not bool(((p > 0) & p.isfinite()).all()):
        raise ValueError(f"p must be finite and above 0, got {p.detach().tolist()}")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def check_sizes(**sizes: int) -> None:
    """Raise ValueError unless each is a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


# ------------------------------------------------- each formula twice: for one sentence, for a whole batch


def _shares(
    batch: TokenBatch, weights: TokenWeights | None
) -> tuple[Float[Tensor, "*token"] | None, Float[Tensor, " batch"] | None]:
    return (None, None) if weights is None else shares(batch, token_weights(batch, weights))


def _weighted_mean_of_rows(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows.mean(dim=0) if weights is None else (rows * weights.unsqueeze(1)).sum(dim=0)


def _weighted_mean_of_batch(batch: TokenBatch, rows: Tensor, by_token: Tensor | None) -> Tensor:
    if by_token is None:
        by_token, _ = shares(batch, segments.uniform(batch))
    return segments.weighted_sum(batch.with_rows(rows), by_token)


def _moments_of_rows(rows: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    # Two passes, because E[x²] - μ² loses all digits where the mean is large.
    mean = _weighted_mean_of_rows(rows, weights)
    return mean, _weighted_mean_of_rows((rows - mean).square_(), weights).sqrt_()


def _moments_of_batch(batch: TokenBatch, by_token: Tensor | None) -> tuple[Tensor, Tensor]:
    rows = segments.real_rows(batch).to(batch.accumulation_dtype)
    mean = _weighted_mean_of_batch(batch, rows, by_token)
    variance = _weighted_mean_of_batch(batch, (rows - segments.spread(batch, mean)).square(), by_token)
    # The root's derivative at 0 is infinite: a deviation of 0 must not meet it.
    still = variance == 0
    return mean, torch.where(still, 0.0, torch.where(still, 1.0, variance).sqrt())


def _std_of_rows(rows: Tensor, weights: Tensor | None, _: Parameter) -> Tensor:
    return _moments_of_rows(rows, weights)[1]


def _std_of_batch(batch: TokenBatch, by_token: Tensor | None, _: Parameter) -> Tensor:
    return _moments_of_batch(batch, by_token)[1]


def _mean_std_of_rows(rows: Tensor, weights: Tensor | None, _: Parameter) -> Tensor:
    return torch.cat(_moments_of_rows(rows, weights))


def _mean_std_of_batch(batch: TokenBatch, by_token: Tensor | None, _: Parameter) -> Tensor:
    return torch.cat(_moments_of_batch(batch, by_token), dim=1)


def _logsumexp_of_rows(rows: Tensor, _: Tensor | None, __: Parameter) -> Tensor:
    return rows.logsumexp(dim=0)


def _logsumexp_of_batch(batch: TokenBatch, _: Tensor | None, __: Parameter) -> Tensor:
    rows = segments.real_rows(batch).to(batch.accumulation_dtype)
    top = _finite(segments.maximum(batch).detach().to(rows.dtype))
    sums = segments.weighted_sum(batch.with_rows((rows - segments.spread(batch, top)).exp()), None)
    empty = segments.empty_sentences(batch).unsqueeze(1)
    return torch.where(empty, 0.0, torch.where(empty, 1.0, sums).log() + top)


def _softmax_of_rows(rows: Tensor, weights: Tensor | None, inverse: Parameter) -> Tensor:
    assert inverse is not None
    weighed = rows if weights is None else rows.masked_fill(weights.unsqueeze(1) == 0, -math.inf)
    raised = (rows - _finite(weighed.amax(dim=0))).mul_(inverse).clamp_(max=_HIGHEST).exp_()
    if weights is not None:
        raised.mul_(weights.unsqueeze(1))
    sums = raised.sum(dim=0)
    return raised.mul_(rows).sum(dim=0) / torch.where(sums > 0, sums, 1.0)


def _softmax_of_batch(batch: TokenBatch, by_token: Tensor | None, inverse: Parameter) -> Tensor:
    assert inverse is not None
    rows = segments.real_rows(batch).to(batch.accumulation_dtype)
    top = _finite(segments.maximum(_weighed(batch.with_rows(rows), by_token, -math.inf)).detach())
    raised = ((rows - segments.spread(batch, top)) * inverse).clamp(max=_HIGHEST).exp()
    sums = segments.weighted_sum(batch.with_rows(raised), by_token)
    return segments.weighted_sum(batch.with_rows(raised * rows), by_token) / torch.where(sums > 0, sums, 1.0)


def _generalized_mean_of_rows(rows: Tensor, weights: Tensor | None, p: Parameter) -> Tensor:
    assert p is not None
    if isinstance(p, Tensor) and p.numel() == 1:
        p = float(p)  # torch has quicker powers for a number
    weighed = rows if weights is None else rows.masked_fill(weights.unsqueeze(1) == 0, 0.0)
    size = _size(weighed.abs().amax(dim=0))
    power = _weighted_mean_of_rows(_signed_power(_capped(rows / size, p, weights), p), weights)
    return size * _signed_power(power, 1 / p)


def _generalized_mean_of_batch(batch: TokenBatch, by_token: Tensor | None, p: Parameter) -> Tensor:
    assert p is not None
    rows = segments.real_rows(batch).to(batch.accumulation_dtype)
    weighed = _weighed(batch.with_rows(rows), by_token, 0.0)
    size = _size(torch.maximum(segments.maximum(weighed), -segments.minimum(weighed)).detach())
    powers = _signed_power(_capped(rows / segments.spread(batch, size), p, by_token), p)
    return size * _signed_power(_weighted_mean_of_batch(batch, powers, by_token), 1 / p)


# The largest exponent of a token without weight, which may lie above the largest that has one: e^40 times 0 is 0.
_HIGHEST = 40.0


def _weighed(batch: TokenBatch, by_token: Tensor | None, neutral: float) -> TokenBatch:
    """The batch with a number that no maximum takes in the tokens without weight, which set no scale."""
    if by_token is None:
        return batch
    rows = segments.real_rows(batch)
    return batch.with_rows(torch.where(by_token.unsqueeze(-1) == 0, neutral, rows))


def _capped(ratio: Tensor, p: Tensor | float, weights: Tensor | None) -> Tensor:
    """Ratios whose p-th power stays below e^40, as all of tokens with weight do."""
    if weights is None:
        return ratio
    exponent = _HIGHEST / (p.detach() if isinstance(p, Tensor) else torch.tensor(p, device=ratio.device))
    limit = exponent.clamp(max=80.0).exp()  # which float32 holds
    return ratio.clamp(min=-limit, max=limit)


def _size(largest: Tensor) -> Tensor:
    # The mean is homogeneous: over the largest size no power overflows, and the size needs no gradient.
    return torch.where((largest > 0) & largest.isfinite(), largest, 1.0)


def _signed_power(x: Tensor, p: Tensor | float) -> Tensor:
    # Clamped: the derivatives of |x|ᵖ by x and by p are infinite or undefined at 0.
    return x.sign() * x.abs().clamp(min=torch.finfo(x.dtype).tiny).pow(p)


def _finite(top: Tensor) -> Tensor:
    # Infinity minus infinity is NaN: as in torch.logsumexp, nothing is subtracted then.
    return torch.where(top.isinf(), 0.0, top)
