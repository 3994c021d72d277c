"""Kernels over sentences: each exists once for every pooling, in an eager and a dense form.

A *per-token* tensor has one entry a real token, (tokens, …), on the eager route and one a position,
(batch, seq, …), on the dense route; a *per-sentence* tensor is (sentences, …) on both.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from maskpool.tokens import _first_column

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from maskpool.tokens import TokenBatch

# A float32 sum of n equal numbers, added one after the other, is off by up to n * 2**-25. Sums of sums
# of 32 keep the error below 1e-6 at any length; 64 does not, and 16 would take 6 % of extra memory.
_CHUNK = 32
# Rows of half precision are added one after the other up to this length; 512 keeps law 4 where the
# tokens cancel, 2,000 does not.
_LONGEST_RUN_OF_HALVES = 512
# Rows copied at a time where a copy is needed: small enough to stay in cache.
_BLOCK = 512
# float16 has no numbers between 0 and 2**-24: what a weight has below that is pooled 4,096 times
# larger and scaled back.
_RESCUE = 4096.0


# ---------------------------------------------------------------------------------------- kernels


def weighted_sum(batch: TokenBatch, weights: Float[Tensor, "*token"]) -> Float[Tensor, "sentences dim"]:
    """Σₜ wₜ xₜ over each sentence's real tokens, 0 for an empty one.

    ``weights`` may have a last dimension of heads, (…, heads): head ``h`` then sums its own slice of
    ``dim / heads`` features. Sums are made in float32 (float64 for float64).
    """
    if batch.dense:
        x = where_real(batch, batch.padded).to(batch.accumulation_dtype)
        w = where_real(batch, weights)
        if w.dim() == 2:
            return (x * w.unsqueeze(2)).sum(dim=1).to(batch.dtype)
        by_head = x.reshape(*w.shape, batch.dim // w.shape[2])
        return (by_head * w.unsqueeze(3)).sum(dim=1).flatten(1).to(batch.dtype)
    if weights.dim() == 1:
        return _spmm(batch.values, weights, batch.index, batch.offsets)
    heads, tokens = weights.shape[1], batch.index.numel()
    # Each head's slice of a row is a row of its own: heads one after the other, sentences within them.
    slices = batch.values.reshape(-1, batch.dim // heads)
    index = (batch.index * heads + torch.arange(heads).unsqueeze(1)).view(-1)
    starts = torch.arange(heads).unsqueeze(1) * tokens + batch.offsets[:-1]
    offsets = torch.cat([starts.view(-1), torch.tensor([heads * tokens])])
    pooled = _spmm(slices, weights.t().reshape(-1), index, offsets)
    return pooled.view(heads, batch.lengths.numel(), batch.dim // heads).transpose(0, 1).flatten(1)


def maximum(batch: TokenBatch) -> Float[Tensor, "sentences dim"]:
    """The largest value of each feature over each sentence's real tokens, 0 for an empty one."""
    if batch.dense:
        if batch.padded.shape[1] == 0:
            return batch.padded.sum(dim=1)
        assert batch.mask is not None
        x = torch.where(batch.mask.unsqueeze(2), batch.padded, float("-inf"))
        return torch.where(batch.mask.any(dim=1, keepdim=True), x.amax(dim=1), 0.0)
    return _apply(_Maximum, batch.values, batch.index, batch.offsets)


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
    return _sddmm(batch.values, queries, batch.index.repeat(heads), owner).view(heads, tokens).t()


def softmax(batch: TokenBatch, scores: Float[Tensor, "*token heads"]) -> Float[Tensor, "*token heads"]:
    """Softmax of per-token scores over each sentence's real tokens; 0 at pads (dense route)."""
    if batch.dense:
        assert batch.mask is not None
        real = batch.mask.unsqueeze(2)
        kept = torch.where(real, scores, float("-inf"))
        top = kept.detach().amax(dim=1, keepdim=True) if kept.shape[1] else kept.detach().sum(dim=1, keepdim=True)
        top = torch.where(real.any(dim=1, keepdim=True), top, 0.0)
        raised = torch.where(real, torch.where(real, scores - top, 0.0).exp(), 0.0)
        return raised / raised.sum(dim=1, keepdim=True).clamp(min=torch.finfo(raised.dtype).tiny)
    owner = batch.sentence_of_token
    exact = scores.double()  # thousands of equal numbers, added one after the other, lose digits in float32
    top = exact.detach().new_full((batch.lengths.numel(), scores.shape[1]), float("-inf"))
    top = top.scatter_reduce(0, owner.unsqueeze(1).expand_as(exact), exact.detach(), reduce="amax")
    raised = (exact - top.index_select(0, owner)).exp()
    total = torch.zeros_like(top).index_add(0, owner, raised)
    return (raised / total.index_select(0, owner)).to(scores.dtype)


# --------------------------------------------------------------- between tokens, sentences, layouts


def spread(batch: TokenBatch, per_sentence: Float[Tensor, " sentences"]) -> Float[Tensor, "*token"]:
    """Give each token its sentence's number."""
    if batch.dense:
        assert batch.mask is not None
        return per_sentence.unsqueeze(1).expand(batch.mask.shape)
    return torch.repeat_interleave(per_sentence, batch.lengths, output_size=batch.index.numel())


def total(batch: TokenBatch, per_token: Int[Tensor, "*token"]) -> Int[Tensor, " sentences"]:
    """Σₜ over each sentence's real tokens, exactly, in integers."""
    if batch.dense:
        return where_real(batch, per_token).sum(dim=1)
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
    return batch.values.index_select(0, batch.index)


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


# --------------------------------------------------------------------------------- eager machinery


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
    return _spmm(batch.values, None, batch.index[token[present]], offsets)


def _spmm(
    values: Float[Tensor, "rows dim"],
    weights: Float[Tensor, " tokens"] | None,
    index: Int[Tensor, " tokens"],
    offsets: Int[Tensor, " sentences_plus_1"],
) -> Float[Tensor, "sentences dim"]:
    if torch.is_grad_enabled() and (values.requires_grad or (weights is not None and weights.requires_grad)):
        return _apply(_WeightedSum, values, weights, index, offsets)
    return _sum_rows(values, weights, index, offsets)


def _apply(function: type[torch.autograd.Function], *inputs: Tensor | None) -> Tensor:
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]  # torch has no types for it
    return result


class _WeightedSum(torch.autograd.Function):
    """A product of a sparse matrix with the rows; its backward is the transposed product.

    `embedding_bag` itself has no second derivative; this has, because the backward is made of this
    very function and of differentiable operations.
    """

    @staticmethod
    def forward(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor) -> Tensor:
        return _sum_rows(values, weights, index, offsets)

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, weights, index, offsets = ctx.saved_tensors
        sentences = torch.arange(offsets.numel() - 1)
        owner = torch.repeat_interleave(sentences, offsets.diff(), output_size=index.numel())
        grad_values = grad_weights = None
        if ctx.needs_input_grad[0]:
            order, row_offsets = _sorted_by(index, values.shape[0])
            row_weights = None if weights is None else weights.index_select(0, order)
            grad_values = _spmm(grad, row_weights, owner.index_select(0, order), row_offsets)
        if ctx.needs_input_grad[1]:
            grad_weights = _sddmm(values, grad.to(weights.dtype), index, owner)
        return grad_values, grad_weights, None, None


def _sddmm(
    values: Float[Tensor, "rows dim"],
    table: Float[Tensor, "owners dim"],
    index: Int[Tensor, " tokens"],
    owner: Int[Tensor, " tokens"],
) -> Float[Tensor, " tokens"]:
    return _apply(_DotProducts, values, table, index, owner)


class _DotProducts(torch.autograd.Function):
    """Sampled dot products ⟨values[index], table[owner]⟩; each backward is a sparse product.

    With `_WeightedSum`, whose weights' gradient it is, it makes a closed pair: both differentiate into
    one another as often as is asked and read real rows alone.
    """

    @staticmethod
    def forward(values: Tensor, table: Tensor, index: Tensor, owner: Tensor) -> Tensor:
        products = table.new_empty(index.numel())
        if not index.numel():
            return products
        changes = (owner.diff() != 0).nonzero().view(-1) + 1
        blocks = torch.arange(0, index.numel() + _BLOCK, _BLOCK).clamp(max=index.numel())
        bounds = torch.unique(torch.cat([changes, blocks]))
        owners = owner[bounds[:-1]].tolist()
        for own, (start, end, rows) in zip(owners, _pieces(index, bounds), strict=True):
            torch.mv(values[rows].to(table.dtype), table[own], out=products[start:end])
        return products

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, table, index, owner = ctx.saved_tensors
        grad_values = grad_table = None
        if ctx.needs_input_grad[0]:
            order, offsets = _sorted_by(index, values.shape[0])
            coarse = table.to(values.dtype)
            grad_values = _spmm(coarse, grad.index_select(0, order), owner.index_select(0, order), offsets)
        if ctx.needs_input_grad[1]:
            order, offsets = _sorted_by(owner, table.shape[0])
            rows, where = values, index.index_select(0, order)
            if values.dtype != table.dtype:  # halves would round the sum that a parameter learns from
                rows, where = values.index_select(0, where).to(table.dtype), torch.arange(len(order))
            grad_table = _spmm(rows, grad.index_select(0, order), where, offsets)
        return grad_values, grad_table, None, None


def _pieces(
    index: Int[Tensor, " tokens"], bounds: Int[Tensor, " pieces_plus_1"]
) -> Iterator[tuple[int, int, slice | Tensor]]:
    """Cut ``index`` at ``bounds``: start, end and rows of each piece, a slice (so no copy) where they are a run."""
    last = max(index.numel() - 1, 0)
    gaps = torch.nn.functional.pad((index.diff() != 1).cumsum(0), (1, 0))
    is_run = (gaps[(bounds[1:] - 1).clamp(0, last)] == gaps[bounds[:-1].clamp(max=last)]).tolist()
    firsts = index[bounds[:-1].clamp(max=last)].tolist() if index.numel() else []
    for (start, end), run, first in zip(pairwise(bounds.tolist()), is_run, firsts, strict=bool(firsts)):
        yield start, end, slice(first, first + end - start) if run else index[start:end]


def _sorted_by(keys: Int[Tensor, " tokens"], number: int) -> tuple[Tensor, Tensor]:
    """Order in which tokens with key 0, 1, … follow each other, and where each key's tokens begin."""
    counts = torch.zeros(number + 1, dtype=torch.int64).index_add_(0, keys + 1, torch.ones_like(keys))
    in_order = not (keys.diff() < 0).any()  # as rows of a contiguous batch always are
    order = torch.arange(keys.numel()) if in_order else keys.argsort(stable=True)
    return order, counts.cumsum(0)


class _Maximum(torch.autograd.Function):
    """Per-sentence maximum; tokens that tie share the gradient equally, as in `torch.amax`."""

    @staticmethod
    def forward(values: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        ones = torch.ones(index.numel(), dtype=values.dtype)
        shape = (offsets.numel() - 1, values.shape[0])
        with warnings.catch_warnings():
            # torch says once per process that its sparse tensors are in beta; the caller has made none.
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            matrix = torch.sparse_csr_tensor(offsets, index, ones, shape, check_invariants=False)
        largest: Tensor = torch.sparse.mm(matrix, values, "amax")
        return largest

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        values, index, offsets = inputs
        ctx.save_for_backward(values, output, index, offsets)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _apply(_Winners, grad, *ctx.saved_tensors), None, None


class _Winners(torch.autograd.Function):
    """Hands each sentence's gradient to the tokens that hold its maximum: linear in the gradient."""

    @staticmethod
    def forward(grad: Tensor, values: Tensor, output: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        grad_values = torch.zeros_like(values)
        for sentence, (start, end, rows) in enumerate(_pieces(index, offsets)):
            if end > start:
                won, ties = _winners(values[rows], output[sentence])
                # Added, not stored: one row may be several tokens, of one sentence (expanded) or of many (spans).
                grad_values.index_add_(0, index[start:end], won.mul_(grad[sentence] / ties).to(values.dtype))
        return grad_values

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @once_differentiable
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        values, output, index, offsets = ctx.saved_tensors
        transposed = torch.zeros_like(output)
        for sentence, (start, end, rows) in enumerate(_pieces(index, offsets)):
            if end > start:
                won, ties = _winners(values[rows], output[sentence])
                transposed[sentence] = (won.mul_(grad[rows]).sum(dim=0) / ties).to(values.dtype)
        return transposed, None, None, None, None


def _winners(rows: Float[Tensor, "tokens dim"], largest: Float[Tensor, " dim"]) -> tuple[Tensor, Tensor]:
    """1 where a token holds a feature's maximum, else 0; and how many hold it, at least 1 (nobody equals NaN)."""
    won = (rows == largest).to(torch.promote_types(rows.dtype, torch.float32))
    return won, won.sum(dim=0).clamp_(min=1)


def _sum_rows(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor) -> Tensor:
    """Σₜ wₜ xₜ without a gradient, by `embedding_bag`, which reads the named rows alone."""
    if values.dtype in (torch.float16, torch.bfloat16):
        return _sum_half_rows(values, weights, index, offsets)
    lengths = offsets.diff()
    if not lengths.numel() or int(lengths.max()) <= _CHUNK:
        return _bag(values, weights, index, offsets)
    chunks = (lengths + _CHUNK - 1).div(_CHUNK, rounding_mode="floor")
    chunk_offsets = torch.nn.functional.pad(chunks.cumsum(0), (1, 0))
    number = int(chunk_offsets[-1])
    rank = torch.arange(number)
    skipped = offsets[:-1] - _CHUNK * chunk_offsets[:-1]
    starts = _CHUNK * rank + torch.repeat_interleave(skipped, chunks, output_size=number)
    sums = _bag(values, weights, index, torch.cat([starts, offsets[-1:]]))
    return _sum_rows(sums, None, rank, chunk_offsets)


def _sum_half_rows(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor) -> Tensor:
    """The same for float16 and bfloat16; which way a sentence takes depends on its own length alone."""
    lengths = offsets.diff()
    if not lengths.numel() or int(lengths.max()) <= _LONGEST_RUN_OF_HALVES:
        return _sum_short_half_rows(values, weights, index, offsets)
    pooled = []
    bounds = offsets.tolist()
    for start, end in pairwise(bounds):
        own = None if weights is None else weights[start:end]
        if end - start > _LONGEST_RUN_OF_HALVES:
            pooled.append(_sum_long_half_rows(values, own, index[start:end]))
        else:
            pooled.append(_sum_short_half_rows(values, own, index[start:end], torch.tensor([0, end - start])))
    return torch.cat(pooled)


def _sum_short_half_rows(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor) -> Tensor:
    """`embedding_bag` adds halves in float32 and rounds once.

    It wants weights of the rows' dtype, too coarse for a float32 weight: each is handed over as a sum
    of three, its row being named three times (the second and third time it is in cache).
    """
    if weights is None:
        return _bag(values, None, index, offsets)
    parts, rest = _split(weights, values.dtype)
    thrice = index.to(torch.int32).unsqueeze(1).expand(-1, 3).reshape(-1)
    thrice_offsets = offsets.to(torch.int32) * 3
    pooled = _bag(values, parts, thrice, thrice_offsets)
    if not rest.any():
        return pooled
    parts, _ = _split(rest * _RESCUE, values.dtype)
    return (pooled.float() + _bag(values, parts, thrice, thrice_offsets).float() / _RESCUE).to(values.dtype)


def _sum_long_half_rows(values: Tensor, weights: Tensor | None, index: Tensor) -> Tensor:
    """One sentence by way of float32 copies, a piece at a time: sequential sums would lose digits."""
    pieces = []
    for start in range(0, index.numel(), _LONGEST_RUN_OF_HALVES):
        here = slice(start, start + _LONGEST_RUN_OF_HALVES)
        pieces.append(_sum_all(values.index_select(0, index[here]).float(), None if weights is None else weights[here]))
    return _sum_all(torch.cat(pieces), None).to(values.dtype)


def _sum_all(rows: Tensor, weights: Tensor | None) -> Tensor:
    return _sum_rows(rows, weights, torch.arange(len(rows)), torch.tensor([0, len(rows)]))


def _split(weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Write each weight as a sum of three numbers of ``dtype``, plus what they leave over."""
    parts, rest = [], weights.float()
    for _ in range(3):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].float()
    return torch.stack(parts, dim=1).view(-1), rest


def _bag(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor) -> Tensor:
    return embedding_bag(index, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
