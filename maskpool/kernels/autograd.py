"""Sparse products and choices over rows, as autograd functions with derivatives of any order.

A batch is given as rows, the index of the rows that are tokens, and the offsets at which each sentence's tokens begin.
Rows that are not in the index are never read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from maskpool.types import Index, Offsets, PerSentence, Rows

try:
    import numpy
except ImportError:  # only torch is required; it imports numpy itself if it is installed
    numpy = None  # type: ignore[assignment]  # a module or None

Choice: TypeAlias = Literal["amax", "amin", "lower_median", "largest"]

# A float32 sum of n equal numbers, added one after the other, is off by up to n * 2**-25. Sums of sums
# of 32 keep the error below 1e-6 at any length; 64 does not, and 16 would take 6 % of extra memory.
_CHUNK = 32
# Rows of half precision are added one after the other up to this length; 512 keeps the error of cancelling tokens in
# bounds, 2,000 does not.
_LONGEST_RUN_OF_HALVES = 512
# Rows copied at a time where a copy is needed: small enough to stay in cache.
_BLOCK = 512
# Rows converted to float64 at a time.
_CONVERTED = 128
# float16 has no numbers between 0 and 2**-24: the part of a weight below that is summed 4,096 times larger and scaled
# back.
_RESCUE = 4096.0
# The part of a result that may be lost before it is rounded to a half: a quarter of float16's last place.
_NEGLIGIBLE = 2**-13
_HALVES = (torch.float16, torch.bfloat16)
# Rows that an int32 can count.
_INT32 = 2**31 - 1


def spmm(
    values: Rows,
    weights: Tensor | None,
    index: Index,
    offsets: Offsets,
    uniform: bool = False,
) -> PerSentence:
    """Return Σₜ wₜ xₜ over each sentence's rows, 0 for an empty sentence; None weighs every token 1.

    ``uniform`` promises that all weights of a sentence are equal, which makes float16 and bfloat16 faster.
    """
    if torch.is_grad_enabled() and (values.requires_grad or (weights is not None and weights.requires_grad)):
        result: Tensor = _WeightedSum.apply(values, weights, index, offsets, uniform)  # type: ignore[no-untyped-call]  # torch has no types for it
        return result
    if values.dtype in _HALVES:
        return _sum_half_rows(values, weights, index, offsets, uniform)
    return _sum_chunks(values, weights, index, offsets.tolist())


def _apply(function: type[torch.autograd.Function], *inputs: object) -> Tensor:
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]  # torch has no types for it
    return result


class _WeightedSum(torch.autograd.Function):
    """The product of a sparse matrix with the rows; its backward is the transposed product.

    `embedding_bag` has no second derivative. This function has one, because its backward consists of itself and of
    differentiable operations.
    """

    @staticmethod
    def forward(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor, uniform: bool) -> Tensor:
        if values.dtype in _HALVES:
            return _sum_half_rows(values, weights, index, offsets, uniform)
        return _sum_chunks(values, weights, index, offsets.tolist())

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *saved, _ = inputs
        ctx.save_for_backward(*saved)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        values, weights, index, offsets = ctx.saved_tensors
        sentences = torch.arange(offsets.numel() - 1)
        owner = torch.repeat_interleave(sentences, offsets.diff(), output_size=index.numel())
        grad_values = grad_weights = None
        if ctx.needs_input_grad[0]:
            order, row_offsets = _sorted_by(index, values.shape[0])
            row_weights = None if weights is None else weights.index_select(0, order)
            grad_values = spmm(grad, row_weights, owner.index_select(0, order), row_offsets, _one_each(row_offsets))
        if ctx.needs_input_grad[1]:
            grad_weights = sddmm(values, grad.to(weights.dtype), index, owner)
        return grad_values, grad_weights, None, None, None


def sddmm(values: Rows, table: Tensor, index: Index, owner: Index | None) -> Tensor:
    """Return ⟨values[index], table[owner]⟩ of each token, (tokens,), in the table's dtype.

    Without an owner every token is multiplied with every row of the table, (tokens, table rows).
    """
    products: Tensor = _DotProducts.apply(values, table, index, owner)  # type: ignore[no-untyped-call]  # torch has no types for it
    return products if owner is not None else products.view(len(table), index.numel()).t()


class _DotProducts(torch.autograd.Function):
    """Sampled dot products ⟨values[index], table[owner]⟩; each backward is a sparse product.

    This is the gradient of `_WeightedSum` by its weights. The two are closed under differentiation: the backward of
    each calls the other and reads real rows only.
    """

    @staticmethod
    def forward(values: Tensor, table: Tensor, index: Tensor, owner: Tensor | None) -> Tensor:
        tokens = index.numel()
        if owner is None:
            blocks = torch.arange(0, tokens + _CONVERTED, _CONVERTED).clamp(max=tokens)
            block = values.new_empty(min(tokens, _CONVERTED), values.shape[1], dtype=table.dtype)  # stays in cache
            every = table.new_empty(len(table), tokens)
            for start, end, rows in pieces(index, blocks):
                converted = block[: end - start].copy_(values[rows])
                if len(table) == 1:
                    torch.mv(converted, table[0], out=every[0, start:end])
                else:
                    every[:, start:end] = table @ converted.t()
            return every.view(-1)
        products = table.new_empty(tokens)
        if not tokens:
            return products
        changes = (owner.diff() != 0).nonzero().view(-1) + 1
        bounds = torch.unique(torch.cat([changes, torch.arange(0, tokens + _BLOCK, _BLOCK).clamp(max=tokens)]))
        owners = owner[bounds[:-1]].tolist()
        for table_row, (start, end, rows) in zip(owners, pieces(index, bounds), strict=True):
            torch.mv(values[rows].to(table.dtype), table[table_row], out=products[start:end])
        return products

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, table, index, owner = ctx.saved_tensors
        grad_values = grad_table = None
        if owner is None:
            owner = torch.arange(len(table)).repeat_interleave(index.numel())
            index = index.repeat(len(table))
        if ctx.needs_input_grad[0]:
            order, offsets = _sorted_by(index, values.shape[0])
            coarse = table.to(values.dtype)
            row_weights, row_owners = grad.index_select(0, order).to(_wide(values.dtype)), owner.index_select(0, order)
            grad_values = spmm(coarse, row_weights, row_owners, offsets, _one_each(offsets))
        if ctx.needs_input_grad[1]:
            order, offsets = _sorted_by(owner, table.shape[0])
            rows, where, wide = values, index.index_select(0, order), _wide(values.dtype)
            if values.dtype != wide:  # halves would round the sum that a parameter learns from
                rows, where = values.index_select(0, where).to(wide), torch.arange(len(order))
            grad_table = spmm(rows, grad.index_select(0, order).to(wide), where, offsets).to(table.dtype)
        return grad_values, grad_table, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def pieces(index: Index, bounds: Offsets) -> Iterator[tuple[int, int, slice | Tensor]]:
    """Cut ``index`` at ``bounds``: the start, end and rows of each piece; rows that follow each other are a slice."""
    last = max(index.numel() - 1, 0)
    gaps = torch.nn.functional.pad((index.diff() != 1).cumsum(0), (1, 0))
    is_run = (gaps[(bounds[1:] - 1).clamp(0, last)] == gaps[bounds[:-1].clamp(max=last)]).tolist()
    firsts = index[bounds[:-1].clamp(max=last)].tolist() if index.numel() else []
    for (start, end), run, first in zip(pairwise(bounds.tolist()), is_run, firsts, strict=bool(firsts)):
        yield start, end, slice(first, first + end - start) if run else index[start:end]


def _one_each(row_offsets: Offsets) -> bool:
    """Return whether each row is at most one token (overlapping spans share rows), so its weights are uniform."""
    return bool((row_offsets.diff() <= 1).all())


def _sorted_by(keys: Index, number: int) -> tuple[Index, Offsets]:
    """Return the order that sorts the tokens by key, and where the tokens of each key begin."""
    counts = torch.zeros(number + 1, dtype=torch.int64).index_add_(0, keys + 1, torch.ones_like(keys))
    in_order = not (keys.diff() < 0).any()  # as rows of a contiguous batch always are
    order = torch.arange(keys.numel()) if in_order else keys.argsort(stable=True)
    return order, counts.cumsum(0)


def choose(
    values: Rows,
    index: Index,
    offsets: Offsets,
    choice: Choice,
    k: int = 1,
) -> PerSentence:
    """Return the largest, smallest or lower median number of each feature, or the mean of its ``k`` largest.

    Empty sentences give 0, and NaN in a token gives NaN. Tied tokens share the gradient equally, as in `torch.amax`.
    """
    with torch.no_grad():
        if choice in ("amax", "amin"):
            pooled = threshold = _extreme(values, index, offsets, choice)
        else:
            pooled, threshold = _ordered(values, index, offsets, choice, k)
    if not (torch.is_grad_enabled() and values.requires_grad):
        return pooled
    return _apply(_Choice, values, pooled, threshold, index, offsets, choice, k)


def _extreme(values: Tensor, index: Tensor, offsets: Tensor, choice: Choice) -> Tensor:
    ones = torch.ones(index.numel(), dtype=values.dtype)
    shape = (offsets.numel() - 1, values.shape[0])
    with warnings.catch_warnings():
        # torch warns once per process that its sparse tensors are in beta; the caller created none.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(offsets, index, ones, shape, check_invariants=False)
    pooled: Tensor = torch.sparse.mm(matrix, values, choice)
    return pooled


def _ordered(values: Tensor, index: Tensor, offsets: Tensor, choice: Choice, k: int) -> tuple[Tensor, Tensor]:
    """Return the pooled numbers and the smallest numbers that were chosen; each sentence stays in cache."""
    pooled = values.new_zeros(offsets.numel() - 1, values.shape[1])
    threshold = torch.zeros_like(pooled)
    for sentence, (start, end, rows) in enumerate(pieces(index, offsets)):
        length = end - start
        if not length:
            continue
        columns = values[rows].t().to(torch.promote_types(values.dtype, torch.float32)).contiguous()
        place = (length - 1) // 2 if choice == "lower_median" else max(length - k, 0)
        ordered = _partitioned(columns, place)
        chosen = ordered[:, place] if choice == "lower_median" else ordered[:, place:].mean(dim=1)
        pooled[sentence] = torch.where(columns.amax(dim=1).isnan(), torch.nan, chosen)
        threshold[sentence] = ordered[:, place]
    return pooled, threshold


def _partitioned(columns: Tensor, place: int) -> Tensor:
    """Move the ``place``-th number of each line to where sorting would put it, and larger numbers behind it."""
    if numpy is None:
        return columns.sort(dim=1).values
    return torch.from_numpy(numpy.partition(columns.numpy(), place, axis=1))


class _Choice(torch.autograd.Function):
    """Return the chosen numbers; the backward gives their gradient to the tokens that hold them."""

    @staticmethod
    def forward(
        values: Tensor, pooled: Tensor, threshold: Tensor, index: Tensor, offsets: Tensor, choice: Choice, k: int
    ) -> Tensor:
        return pooled.clone()

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, _, threshold, index, offsets, ctx.choice, ctx.k = inputs
        ctx.save_for_backward(values, threshold, index, offsets)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _apply(_Chosen, grad, *ctx.saved_tensors, ctx.choice, ctx.k), None, None, None, None, None, None


class _Chosen(torch.autograd.Function):
    """Give each sentence's gradient to the chosen tokens; linear in the gradient."""

    @staticmethod
    def forward(
        grad: Tensor, values: Tensor, threshold: Tensor, index: Tensor, offsets: Tensor, choice: Choice, k: int
    ) -> Tensor:
        grad_values = torch.zeros_like(values)
        for sentence, (start, end, rows) in enumerate(pieces(index, offsets)):
            if end > start:
                shares, divisor = _shares(values[rows], threshold[sentence], choice, k)
                # Added, not stored: one row may be several tokens, of one sentence (expanded) or of many (spans).
                grad_values.index_add_(0, index[start:end], shares.mul_(grad[sentence] / divisor).to(values.dtype))
        return grad_values

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *saved, ctx.choice, ctx.k = inputs[1:]
        ctx.save_for_backward(*saved)

    @staticmethod
    @once_differentiable
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, threshold, index, offsets = ctx.saved_tensors
        transposed = torch.zeros_like(threshold)
        for sentence, (start, end, rows) in enumerate(pieces(index, offsets)):
            if end > start:
                shares, divisor = _shares(values[rows], threshold[sentence], ctx.choice, ctx.k)
                transposed[sentence] = (shares.mul_(grad[rows]).sum(dim=0) / divisor).to(values.dtype)
        return transposed, None, None, None, None, None, None


def _shares(rows: Tensor, threshold: Tensor, choice: Choice, k: int) -> tuple[Tensor, Tensor | int]:
    """Return how much of each feature was taken from each token, and the divisor."""
    ties = (rows == threshold).to(torch.promote_types(rows.dtype, torch.float32))
    number = ties.sum(dim=0).clamp_(min=1)  # nothing equals NaN
    if choice != "largest":
        return ties, number
    above = (rows > threshold).to(ties.dtype)
    kept = min(k, len(rows))
    return above + ties * ((kept - above.sum(dim=0)) / number), kept


def _sum_chunks(values: Tensor, weights: Tensor | None, index: Tensor, bounds: list[int]) -> Tensor:
    """Return Σₜ wₜ xₜ as sums of sums of chunks, by `embedding_bag`, which reads the rows of the index only.

    Python lists are faster here than a dozen small tensors.
    """
    starts: list[int] = []
    chunk_bounds = [0]
    for start, end in pairwise(bounds):
        starts.extend(range(start, end, _CHUNK) or (start,))
        chunk_bounds.append(len(starts))
    if values.shape[0] <= _INT32:  # half the bytes to read: 15 % of the time
        index = index.to(torch.int32)
    chunks = torch.tensor([*starts, bounds[-1]], dtype=index.dtype)
    sums = embedding_bag(index, values, chunks, mode="sum", per_sample_weights=weights, include_last_offset=True)
    if len(starts) == len(bounds) - 1:
        return sums
    return _sum_chunks(sums, None, torch.arange(len(starts), dtype=torch.int32), chunk_bounds)


def _sum_half_rows(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor, uniform: bool) -> Tensor:
    """Sum the rows of float16 and bfloat16; the method for a sentence depends on its length only."""
    lengths = offsets.diff()
    if not lengths.numel() or int(lengths.max()) <= _LONGEST_RUN_OF_HALVES:
        return _sum_short_half_rows(values, weights, index, offsets, uniform)
    pooled = []
    bounds = offsets.tolist()
    for start, end in pairwise(bounds):
        sentence_weights = None if weights is None else weights[start:end]
        if end - start > _LONGEST_RUN_OF_HALVES:
            pooled.append(_sum_long_half_rows(values, sentence_weights, index[start:end]))
        else:
            sentence_offsets = torch.tensor([0, end - start])
            pooled.append(_sum_short_half_rows(values, sentence_weights, index[start:end], sentence_offsets, uniform))
    return torch.cat(pooled)


def _sum_short_half_rows(
    values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor, uniform: bool
) -> Tensor:
    """Sum with `embedding_bag`, which adds halves in float32 and rounds once.

    It requires weights of the rows' dtype, which is too coarse for a float32 weight. Each weight is passed as a sum of
    parts, with its row repeated (the repeated row is in cache). Three parts of bfloat16 make a float32; two of float16
    leave a remainder, which `_RESCUE` handles. If tokens cancel, a lost digit of a weight is a large part of the
    result. If the weights are equal, it is as small a part of the result as of the weight, and two parts are enough.
    """
    if weights is None:
        return _bag(values, None, index, offsets)
    number = 3 if values.dtype == torch.bfloat16 and not uniform else 2
    parts, rest = _split(weights, values.dtype, number)
    pooled = _bag(values, parts, index.unsqueeze(1).expand(-1, number).reshape(-1), offsets * number)
    lost = rest.abs() > weights.abs() * _NEGLIGIBLE if uniform else rest != 0
    if not lost.any():
        return pooled
    tokens = lost.nonzero().view(-1)
    owners = torch.searchsorted(offsets, tokens, right=True) - 1
    sentences, counts = torch.unique_consecutive(owners, return_counts=True)
    parts, _ = _split(rest[tokens] * _RESCUE, values.dtype, number)
    ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0)) * number
    more = _bag(values, parts, index[tokens].unsqueeze(1).expand(-1, number).reshape(-1), ends)
    rescued = (pooled[sentences].float() + more.float() / _RESCUE).to(values.dtype)
    return pooled.index_copy_(0, sentences, rescued)


def _sum_long_half_rows(values: Tensor, weights: Tensor | None, index: Tensor) -> Tensor:
    """Sum one sentence through float32 copies of its pieces, because sequential sums would lose digits."""
    pieces = []
    for start in range(0, index.numel(), _LONGEST_RUN_OF_HALVES):
        here = slice(start, start + _LONGEST_RUN_OF_HALVES)
        pieces.append(_sum_all(values.index_select(0, index[here]).float(), None if weights is None else weights[here]))
    return _sum_all(torch.cat(pieces), None).to(values.dtype)


def _sum_all(rows: Tensor, weights: Tensor | None) -> Tensor:
    return _sum_chunks(rows, weights, torch.arange(len(rows)), [0, len(rows)])


def _split(weights: Tensor, dtype: torch.dtype, number: int) -> tuple[Tensor, Tensor]:
    """Split each weight into a sum of ``number`` numbers of ``dtype`` and a remainder."""
    parts, rest = [], weights.float()
    for _ in range(number):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].float()
    return torch.stack(parts, dim=1).view(-1), rest


def _bag(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor) -> Tensor:
    if values.shape[0] <= _INT32:  # half the bytes to read: 15 % of the time
        index, offsets = index.to(torch.int32), offsets.to(torch.int32)
    return embedding_bag(index, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
