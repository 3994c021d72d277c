"""Kernels over sentences: each exists once for every pooling, in an eager and a dense form.

A *per-token* tensor has one entry a real token, (tokens, …), on the eager route and one a position,
(batch, seq, …), on the dense route; a *per-sentence* tensor is (sentences, …) on both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskpool.sparse import Choice, choose, sddmm, spmm
from maskpool.tokens import _first_column

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from maskpool.tokens import TokenBatch

# ---------------------------------------------------------------------------------------- kernels


def scaled_sum(batch: TokenBatch, scale: Float[Tensor, " sentences"]) -> Float[Tensor, "sentences dim"]:
    """sₛ Σₜ xₜ over each sentence's real tokens, 0 for an empty one; no token meets its neighbours unscaled."""
    weights = spread(batch, scale)
    if batch.dense:
        return weighted_sum(batch, weights)
    return spmm(batch.values, weights, batch.index, batch.offsets, uniform=True)


def weighted_sum(batch: TokenBatch, weights: Float[Tensor, "*token"] | None) -> Float[Tensor, "sentences dim"]:
    """Σₜ wₜ xₜ over each sentence's real tokens, 0 for an empty one; None weighs every token 1.

    ``weights`` may have a last dimension of heads, (…, heads): head ``h`` then sums its own slice of
    ``dim / heads`` features. Sums are made in float32 (float64 for float64).
    """
    if batch.dense:
        x = where_real(batch, batch.padded).to(batch.accumulation_dtype)
        if weights is None:
            return x.sum(dim=1).to(batch.dtype)
        w = where_real(batch, weights)
        if w.dim() == 2:
            return (x * w.unsqueeze(2)).sum(dim=1).to(batch.dtype)
        by_head = x.reshape(*w.shape, batch.dim // w.shape[2])
        return (by_head * w.unsqueeze(3)).sum(dim=1).flatten(1).to(batch.dtype)
    if weights is None or weights.dim() == 1:
        return spmm(batch.values, weights, batch.index, batch.offsets)
    heads, tokens = weights.shape[1], batch.index.numel()
    # Each head's slice of a row is a row of its own: heads one after the other, sentences within them.
    slices = batch.values.reshape(-1, batch.dim // heads)
    index = (batch.index * heads + torch.arange(heads).unsqueeze(1)).view(-1)
    starts = torch.arange(heads).unsqueeze(1) * tokens + batch.offsets[:-1]
    offsets = torch.cat([starts.view(-1), torch.tensor([heads * tokens])])
    pooled = spmm(slices, weights.t().reshape(-1), index, offsets)
    return pooled.view(heads, batch.lengths.numel(), batch.dim // heads).transpose(0, 1).flatten(1)


def weighted_sums(
    batch: TokenBatch, weights: Float[Tensor, "*token heads"], dtype: torch.dtype | None = None
) -> Float[Tensor, "sentences heads dim"]:
    """Σₜ wₜₕ xₜ of whole tokens for each head, in the tokens' dtype or another; 0 for an empty sentence."""
    result = batch.dtype if dtype is None else dtype
    if batch.dense:
        x = where_real(batch, batch.padded).to(batch.accumulation_dtype)
        by_head = where_real(batch, weights).unbind(2)  # one at a time: all at once would be heads times the batch
        return torch.stack([(x * w.unsqueeze(2)).sum(dim=1) for w in by_head], dim=1).to(result)
    heads, tokens = weights.shape[1], batch.index.numel()
    values = batch.values if result == batch.dtype else real_rows(batch).to(result)
    index = batch.index if result == batch.dtype else torch.arange(tokens)
    starts = torch.arange(heads).unsqueeze(1) * tokens + batch.offsets[:-1]
    offsets = torch.cat([starts.view(-1), torch.tensor([heads * tokens])])
    sums = spmm(values, weights.t().reshape(-1), index.repeat(heads), offsets)
    return sums.view(heads, batch.lengths.numel(), batch.dim).transpose(0, 1)


def maximum(batch: TokenBatch) -> Float[Tensor, "sentences dim"]:
    """The largest value of each feature over each sentence's real tokens, 0 for an empty one."""
    return _dense_extreme(batch, "max") if batch.dense else _choose(batch, "max")


def minimum(batch: TokenBatch) -> Float[Tensor, "sentences dim"]:
    """The smallest value of each feature over each sentence's real tokens, 0 for an empty one."""
    return _dense_extreme(batch, "min") if batch.dense else _choose(batch, "min")


def median(batch: TokenBatch) -> Float[Tensor, "sentences dim"]:
    """The lower median of each feature over each sentence's real tokens, 0 for an empty one."""
    if not batch.dense:
        return _choose(batch, "median")
    return _dense_at(batch, _dense_threshold(batch, (batch.lengths - 1) // 2))


def topk_mean(batch: TokenBatch, k: int) -> Float[Tensor, "sentences dim"]:
    """The mean of each feature's ``k`` largest values (of all, if there are fewer), 0 for an empty sentence."""
    if not batch.dense:
        return _choose(batch, "topk", k)
    assert batch.mask is not None
    kept = batch.lengths.clamp(max=k)
    threshold = _dense_threshold(batch, batch.lengths - kept)
    above = batch.mask.unsqueeze(2) & (batch.padded.detach() > threshold.unsqueeze(1))
    larger = torch.where(above, batch.padded, 0.0).to(batch.accumulation_dtype).sum(dim=1)
    rest = (kept.unsqueeze(1) - above.sum(dim=1)) * _dense_at(batch, threshold).to(batch.accumulation_dtype)
    mean = (larger + rest) / kept.clamp(min=1).unsqueeze(1)
    return torch.where(batch.mask.any(dim=1, keepdim=True), mean, 0.0).to(batch.dtype)


def first(batch: TokenBatch) -> Float[Tensor, "sentences dim"]:
    """The first real token of each sentence, 0 for an empty one."""
    if batch.dense:
        assert batch.mask is not None
        return _take_column(batch, _first_column(batch.mask))
    return _take_token(batch, batch.offsets[:-1])


def last(batch: TokenBatch) -> Float[Tensor, "sentences dim"]:
    """The last real token of each sentence, 0 for an empty one."""
    if batch.dense:
        assert batch.mask is not None
        return _take_column(batch, batch.mask.shape[1] - 1 - _first_column(batch.mask.flip(1)))
    return _take_token(batch, batch.offsets[1:] - 1)


def dot_products(batch: TokenBatch, queries: Float[Tensor, "heads dim"]) -> Float[Tensor, "*token heads"]:
    """qₕ·xₜ of every real token and every query, in the queries' dtype; 0 at pads (dense route)."""
    if batch.dense:
        return torch.nn.functional.linear(real_rows(batch).to(queries.dtype), queries)
    heads, tokens = len(queries), batch.index.numel()
    owner = torch.arange(heads).repeat_interleave(tokens)
    return sddmm(batch.values, queries, batch.index.repeat(heads), owner).view(heads, tokens).t()


# Caps the exponent of tokens without weight: e^40 times 0 is 0 in every dtype that sums are made in.
_HIGHEST = 40.0


def softmax(
    batch: TokenBatch, scores: Float[Tensor, "*token heads"], weights: Float[Tensor, "*token"] | None = None
) -> Float[Tensor, "*token heads"]:
    """Softmax of scores over each sentence's real tokens, wₜ exp(sₜ) / Σₜ wₜ exp(sₜ); 0 at pads (dense route)."""
    # Tokens without weight set no scale. Their scores may lie above the largest that counts, where exp would overflow.
    weighed = scores if weights is None else torch.where(weights.unsqueeze(-1) == 0, float("-inf"), scores)
    if batch.dense:
        assert batch.mask is not None
        real = batch.mask.unsqueeze(2)
        kept = torch.where(real, weighed, float("-inf")).detach()
        top = kept.amax(dim=1, keepdim=True) if kept.shape[1] else kept.sum(dim=1, keepdim=True)
        top = torch.where(top.isneginf(), 0.0, top)
        raised = torch.where(real, torch.where(real, scores - top, 0.0).clamp(max=_HIGHEST).exp(), 0.0)
        raised = raised if weights is None else raised * where_real(batch, weights).unsqueeze(2)
        sums = raised.sum(dim=1, keepdim=True)
        return raised / torch.where(sums > 0, sums, 1.0)
    owner = batch.sentence_of_token
    exact = scores.double()  # thousands of equal numbers, added one after the other, lose digits in float32
    top = exact.detach().new_full((batch.lengths.numel(), scores.shape[1]), float("-inf"))
    top = top.scatter_reduce(0, owner.unsqueeze(1).expand_as(exact), weighed.detach().double(), reduce="amax")
    top = torch.where(top.isneginf(), 0.0, top)
    raised = (exact - top.index_select(0, owner)).clamp(max=_HIGHEST).exp()
    raised = raised if weights is None else raised * weights.unsqueeze(1)
    sums = torch.zeros_like(top).index_add(0, owner, raised)
    return (raised / torch.where(sums > 0, sums, 1.0).index_select(0, owner)).to(scores.dtype)


# --------------------------------------------------------------- between tokens, sentences, layouts


def spread(batch: TokenBatch, per_sentence: Float[Tensor, sentences * features]) -> Float[Tensor, "*token"]:
    """Give each token its sentence's number or vector."""
    if batch.dense:
        assert batch.mask is not None
        return per_sentence.unsqueeze(1).expand(-1, batch.mask.shape[1], *per_sentence.shape[1:])
    if per_sentence.dim() == 1:
        return torch.repeat_interleave(per_sentence, batch.lengths, output_size=batch.index.numel())
    return per_sentence.index_select(0, batch.sentence_of_token)


def total(batch: TokenBatch, per_token: Tensor) -> Tensor:
    """Σₜ over each sentence's real tokens: exactly for integers, in float64 on the eager route for others."""
    if batch.dense:
        return where_real(batch, per_token).sum(dim=1)
    if per_token.is_floating_point():
        zeros = torch.zeros(batch.lengths.numel(), *per_token.shape[1:], dtype=torch.float64)
        return zeros.index_add(0, batch.sentence_of_token, per_token.double())
    running = torch.nn.functional.pad(per_token.cumsum(0), (1, 0))
    return running[batch.offsets].diff()


def where_real(batch: TokenBatch, per_token: Tensor) -> Tensor:
    """Put zeros wherever the mask says pad (dense route), so that no arithmetic meets what lies there."""
    assert batch.mask is not None
    mask = batch.mask if per_token.dim() == 2 else batch.mask.unsqueeze(2)
    return torch.where(mask, per_token, torch.zeros((), dtype=per_token.dtype, device=per_token.device))


def real_rows(batch: TokenBatch) -> Float[Tensor, "*token dim"]:
    """The token embeddings as a per-token tensor; zeros at pads on the dense route."""
    if batch.dense:
        return where_real(batch, batch.padded)
    index, tokens = batch.index, batch.index.numel()
    if tokens == len(batch.values) and torch.equal(index, torch.arange(tokens)):
        return batch.values  # already packed
    return batch.values.index_select(0, index)


def uniform(batch: TokenBatch) -> Float[Tensor, "*token"]:
    """The number 1 for each token, in the accumulation dtype."""
    if batch.dense:
        assert batch.mask is not None
        return torch.ones_like(batch.mask, dtype=batch.accumulation_dtype)
    return torch.ones(batch.index.numel(), dtype=batch.accumulation_dtype)


def at_tokens(batch: TokenBatch, by_position: Tensor) -> Float[Tensor, "*token"]:
    """What a per-position tensor, (batch, seq) or (tokens,), holds at the tokens; 0 at pads (dense route)."""
    if batch.dense:
        return where_real(batch, by_position)
    return by_position if batch.mask is None else by_position[batch.mask]


def to_layout(batch: TokenBatch, per_token: Float[Tensor, "*token heads"]) -> Tensor:
    """Per-token numbers as the caller's layout has them: (batch, heads, seq), 0 at pads, or (tokens, heads)."""
    if batch.dense:
        return where_real(batch, per_token).transpose(1, 2)
    if batch.mask is None:
        return per_token
    padded = per_token.new_zeros(*batch.mask.shape, per_token.shape[1])
    return padded.index_put((batch.mask,), per_token).transpose(1, 2)


def from_layout(batch: TokenBatch, by_position: Tensor) -> Float[Tensor, "*token heads"]:
    """The inverse of `to_layout`: what stands at pads is dropped or, on the dense route, ignored later."""
    if batch.mask is None:
        return by_position
    columns_last = by_position.transpose(1, 2)
    return columns_last if batch.dense else columns_last[batch.mask]


def empty_sentences(batch: TokenBatch) -> Bool[Tensor, " sentences"]:
    """Which sentences have no real token."""
    return batch.lengths == 0


# ------------------------------------------------------------------------------------- both routes


def _choose(batch: TokenBatch, choice: Choice, k: int = 1) -> Float[Tensor, "sentences dim"]:
    return choose(batch.values, batch.index, batch.offsets, choice, k)


def _dense_extreme(batch: TokenBatch, choice: Choice) -> Float[Tensor, "batch dim"]:
    if batch.padded.shape[1] == 0:
        return batch.padded.sum(dim=1)
    assert batch.mask is not None
    last = float("-inf") if choice == "max" else float("inf")
    x = torch.where(batch.mask.unsqueeze(2), batch.padded, last)
    extreme = x.amax(dim=1) if choice == "max" else x.amin(dim=1)
    return torch.where(batch.mask.any(dim=1, keepdim=True), extreme, 0.0)


def _dense_threshold(batch: TokenBatch, place: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
    """Each feature's number at ``place`` in the order of its sentence's real ones; NaN where there is one."""
    assert batch.mask is not None
    if batch.padded.shape[1] == 0:
        return batch.padded.detach().sum(dim=1)
    x = torch.where(batch.mask.unsqueeze(2), batch.padded.detach(), float("inf"))
    where = place.clamp(min=0).view(-1, 1, 1).expand(-1, 1, batch.dim)
    at = x.sort(dim=1).values.gather(1, where).squeeze(1)
    return torch.where(x.isnan().any(dim=1), torch.nan, at)


def _dense_at(batch: TokenBatch, threshold: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """The threshold with the gradient of the tokens that hold it, which share it, as `torch.amax` has it."""
    assert batch.mask is not None
    if batch.padded.shape[1] == 0:
        return batch.padded.sum(dim=1)
    held = batch.mask.unsqueeze(2) & (batch.padded.detach() == threshold.unsqueeze(1))
    at = torch.where(held, batch.padded, float("-inf")).amax(dim=1)
    at = torch.where(threshold.isnan(), torch.nan, at)
    return torch.where(batch.mask.any(dim=1, keepdim=True), at, 0.0)


def _take_column(batch: TokenBatch, column: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
    assert batch.mask is not None
    if batch.padded.shape[1] == 0:
        return batch.padded.sum(dim=1)
    where = column.to(torch.int64).view(-1, 1, 1).expand(-1, 1, batch.dim)
    taken = batch.padded.gather(1, where).squeeze(1)
    return torch.where(batch.mask.any(dim=1, keepdim=True), taken, 0.0)


def _take_token(batch: TokenBatch, token: Int[Tensor, " sentences"]) -> Float[Tensor, "sentences dim"]:
    if not batch.lengths.numel() or int(batch.lengths.min()):
        return batch.values.index_select(0, batch.index.index_select(0, token))
    # A sum over one token, or over none: the empty sentence needs no case of its own.
    present = ~empty_sentences(batch)
    offsets = torch.nn.functional.pad(present.cumsum(0), (1, 0))
    return spmm(batch.values, None, batch.index[token[present]], offsets)
