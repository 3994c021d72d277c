"""The pooling maths: one pure function a strategy, from token embeddings to one vector a sentence.

Every function takes either a padded batch, ``(token_embeddings, attention_mask)``, or a `TokenBatch`,
and reads real tokens only: what a pad holds, NaN included, changes nothing and gets no gradient.
Sums are made in float32 (float64 for float64); the result has the dtype and device of the tokens.
Everything raises `TypeError` and `ValueError` as `TokenBatch.from_padded` says, and `ValueError` for an
unknown ``on_empty``.

``on_empty`` says what a sentence without a real token gets: ``"zero"``, ``"nan"``, or ``"raise"``,
a ValueError (eager mode on CPU alone, because finding out would make other devices wait).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn.functional import linear

from maskpool import segments
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from jaxtyping import Float

    from maskpool.tokens import Mask

    Tokens: TypeAlias = Float[Tensor, "batch seq dim"] | TokenBatch
    Sentences: TypeAlias = Float[Tensor, "batch out_dim"]

OnEmpty = Literal["zero", "nan", "raise"]


def check_on_empty(on_empty: str) -> None:
    """Raise ValueError unless ``on_empty`` is one of the three known words."""
    if on_empty not in get_args(OnEmpty):
        raise ValueError(f"on_empty must be one of {', '.join(map(repr, get_args(OnEmpty)))}, got {on_empty!r}")


def apply_on_empty(pooled: Sentences, batch: TokenBatch, on_empty: OnEmpty) -> Sentences:
    """Give the sentences of ``batch`` that have no real token what ``on_empty`` says."""
    check_on_empty(on_empty)
    if on_empty == "zero":
        return pooled  # the kernels already give 0
    if on_empty == "raise":
        if batch.dense:
            raise ValueError(
                "on_empty='raise' must look at the mask's values, which only eager mode on CPU can: "
                "use on_empty='zero' or 'nan' under torch.compile, torch.export and on other devices"
            )
        empty = segments.empty_sentences(batch).nonzero().view(-1).tolist()
        if empty:
            named = ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else "")
            raise ValueError(
                f"attention_mask leaves {len(empty)} of {batch.lengths.numel()} sentences without a real token "
                f"(rows {named}): drop them, or use on_empty='zero' or 'nan'"
            )
        return pooled
    return torch.where(segments.empty_sentences(batch).unsqueeze(1), torch.nan, pooled)


def mean_pool(token_embeddings: Tokens, attention_mask: Mask | None = None, *, on_empty: OnEmpty = "zero") -> Sentences:
    """The mean of the real tokens, (1/n) Σₜ xₜ.

    Source: sentence-transformers, ``pooling_mode="mean"`` (Reimers and Gurevych 2019).

    Args:
        token_embeddings: (batch, seq, dim), or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> mean_pool(x, torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask)
    share = batch.lengths.clamp(min=1).to(batch.accumulation_dtype).reciprocal()
    pooled = segments.weighted_sum(batch, segments.spread(batch, share))
    return apply_on_empty(pooled, batch, on_empty)


def mean_sqrt_len_pool(
    token_embeddings: Tokens, attention_mask: Mask | None = None, *, on_empty: OnEmpty = "zero"
) -> Sentences:
    """The sum of the real tokens over the root of their number, (1/√n) Σₜ xₜ.

    Source: sentence-transformers, ``pooling_mode="mean_sqrt_len_tokens"``.

    Args:
        token_embeddings: (batch, seq, dim), or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> mean_sqrt_len_pool(torch.ones(1, 5, 1), torch.tensor([[1, 1, 1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask)
    share = batch.lengths.clamp(min=1).to(batch.accumulation_dtype).sqrt().reciprocal()
    pooled = segments.weighted_sum(batch, segments.spread(batch, share))
    return apply_on_empty(pooled, batch, on_empty)


def position_weighted_mean_pool(
    token_embeddings: Tokens, attention_mask: Mask | None = None, *, on_empty: OnEmpty = "zero"
) -> Sentences:
    """A mean whose weights grow with position, Σₜ pₜ xₜ / Σₜ pₜ, with p = 1 at the first real token.

    Positions inside a sentence that are masked out (holes) are counted, as in the host.

    Source: SGPT (Muennighoff 2022); sentence-transformers, ``pooling_mode="weightedmean"``.

    Args:
        token_embeddings: (batch, seq, dim), or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[99.0], [1.0], [4.0]]])
        >>> position_weighted_mean_pool(x, torch.tensor([[0, 1, 1]]))  # (1 * 1 + 2 * 4) / 3
        tensor([[3.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask)
    position = batch.positions + 1
    share = segments.total(batch, position).clamp(min=1).to(batch.accumulation_dtype).reciprocal()
    weights = position.to(batch.accumulation_dtype) * segments.spread(batch, share)
    return apply_on_empty(segments.weighted_sum(batch, weights), batch, on_empty)


def max_pool(token_embeddings: Tokens, attention_mask: Mask | None = None, *, on_empty: OnEmpty = "zero") -> Sentences:
    """The largest value of each feature over the real tokens, maxₜ xₜ.

    Tokens that tie share the gradient equally, as in `torch.amax`.

    Source: sentence-transformers, ``pooling_mode="max"``.

    Args:
        token_embeddings: (batch, seq, dim), or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[-1.0], [-3.0], [0.0]]])
        >>> max_pool(x, torch.tensor([[1, 1, 0]]))  # a zeroed pad would have won
        tensor([[-1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask)
    return apply_on_empty(segments.maximum(batch), batch, on_empty)


def cls_pool(token_embeddings: Tokens, attention_mask: Mask | None = None, *, on_empty: OnEmpty = "zero") -> Sentences:
    """The first real token, on whichever side the pads stand.

    Source: sentence-transformers, ``pooling_mode="cls"``; BERT (Devlin et al. 2019).

    Args:
        token_embeddings: (batch, seq, dim), or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> cls_pool(torch.tensor([[[9.0], [1.0], [2.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask)
    return apply_on_empty(segments.first(batch), batch, on_empty)


def last_token_pool(
    token_embeddings: Tokens, attention_mask: Mask | None = None, *, on_empty: OnEmpty = "zero"
) -> Sentences:
    """The last real token, on whichever side the pads stand.

    Source: sentence-transformers, ``pooling_mode="lasttoken"``.

    Args:
        token_embeddings: (batch, seq, dim), or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> last_token_pool(torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask)
    return apply_on_empty(segments.last(batch), batch, on_empty)


def attention_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    scores: Tensor,
    on_empty: OnEmpty = "zero",
) -> tuple[Sentences, Tensor]:
    """A mean weighted by the softmax of given scores over the real tokens, Σₜ softmax(s)ₜ xₜ.

    With several heads, head ``h`` pools features ``h * dim / heads`` to ``(h + 1) * dim / heads``, and
    the heads' results stand side by side. `attention_scores` computes scores with a learned query.

    Source: Yang et al. 2016, Hierarchical Attention Networks, equation 6.

    Args:
        token_embeddings: (batch, seq, dim), or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        scores: (batch, heads, seq), or (tokens, heads) for a `TokenBatch` that was not padded; what
            stands at pads is not read.
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
    batch = TokenBatch.of(token_embeddings, attention_mask)
    _check_scores(batch, scores)
    by_token = segments.from_layout(batch, scores.to(batch.accumulation_dtype))
    weights = segments.softmax(batch, by_token)
    pooled = apply_on_empty(segments.weighted_sum(batch, weights), batch, on_empty)
    return pooled, segments.to_layout(batch, weights)


def attention_scores(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    query: Float[Tensor, "heads hidden"],
    hidden_weight: Float[Tensor, "hidden dim"] | None = None,
    hidden_bias: Float[Tensor, " hidden"] | None = None,
) -> Tensor:
    """Score real tokens against learned queries: q·x, or additively q·tanh(W x + b).

    Computed in float32 (float64 for float64) whatever the dtype of tokens and parameters.

    Source: Yang et al. 2016, equation 5; Bahdanau et al. 2015 for the additive form.

    Args:
        token_embeddings: (batch, seq, dim), or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        query: One query a head, (heads, dim), or (heads, hidden) with a hidden layer.
        hidden_weight: W, (hidden, dim); None scores linearly.
        hidden_bias: b, (hidden,).

    Returns:
        (batch, heads, seq), 0 at pads, or (tokens, heads) for a `TokenBatch` that was not padded.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [torch.nan, 0.0]]])
        >>> attention_scores(x, torch.tensor([[1, 1, 0]]), query=torch.tensor([[1.0, 0.0]]))
        tensor([[[1., 3., 0.]]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask)
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
