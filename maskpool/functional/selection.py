"""Poolings that choose numbers: by place (first, last) or by size (max, min, median, top-k mean)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch  # noqa: F401  # the examples use it

from maskpool import segments
from maskpool.functional.common import OnEmpty, apply_on_empty
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from maskpool.functional.common import Sentences, Tokens
    from maskpool.tokens import Mask, Offsets


def max_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The largest value of each feature over the real tokens, maxₜ xₜ.

    Tokens that tie share the gradient equally, as in `torch.amax`.

    Source: sentence-transformers, ``pooling_mode="max"``.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[-1.0], [-3.0], [0.0]]])
        >>> max_pool(x, torch.tensor([[1, 1, 0]]))  # a zeroed pad would have won
        tensor([[-1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(segments.maximum(batch), batch, on_empty)


def min_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The smallest value of each feature over the real tokens, minₜ xₜ.

    Tokens that tie share the gradient equally, as in `torch.amin`.

    Source: Shen et al. 2018, Baseline Needs More Love, which pools by max; Rücklé et al. 2018 add min.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [0.0]]])
        >>> min_pool(x, torch.tensor([[1, 1, 0]]))  # a zeroed pad would have won
        tensor([[1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(segments.minimum(batch), batch, on_empty)


def median_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The median of each feature over the real tokens; of an even number the lower one, as in `torch.median`.

    Tokens that hold the median share its gradient equally. A NaN in a real token makes it NaN.

    Source: `torch.median`; PyTorch Geometric, ``MedianAggregation``.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> x = torch.tensor([[[4.0], [1.0], [2.0], [-9.0]]])
        >>> median_pool(x, torch.tensor([[1, 1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(segments.median(batch), batch, on_empty)


def topk_mean_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    k: int,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The mean of the ``k`` largest values of each feature over the real tokens.

    Of a sentence with fewer tokens, the mean of all. ``k=1`` is max pooling. Tokens that tie for the last
    place share its gradient equally.

    Source: Kalchbrenner et al. 2014 (k-max pooling); the mean of the k is what Durand et al. 2017 (WILDCAT) take.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        k: How many values, at least 1.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Raises:
        ValueError: ``k`` is no positive integer.

    Example:
        >>> x = torch.tensor([[[4.0], [1.0], [2.0], [9.0]]])
        >>> topk_mean_pool(x, torch.tensor([[1, 1, 1, 0]]), k=2)
        tensor([[3.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    check_k(k)
    return apply_on_empty(segments.topk_mean(batch, k), batch, on_empty)


def cls_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The first real token, on whichever side the pads stand.

    Source: sentence-transformers, ``pooling_mode="cls"``; BERT (Devlin et al. 2019).

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> cls_pool(torch.tensor([[[9.0], [1.0], [2.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(segments.first(batch), batch, on_empty)


def last_token_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The last real token, on whichever side the pads stand.

    Source: sentence-transformers, ``pooling_mode="lasttoken"``.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> last_token_pool(torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(segments.last(batch), batch, on_empty)


def check_k(k: int) -> None:
    """Raise ValueError unless ``k`` is a positive integer."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k must be a positive integer, got {k!r}")
