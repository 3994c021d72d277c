"""Sparse products and choices over rows, as autograd functions with derivatives of any order.

A batch is given as rows and the `Pattern` of its tokens. Rows that are not in the pattern are never read.
"""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskpool.kernels.pattern import Pattern
from maskpool.types import PerSentence, Rows

try:
    import numpy
except ImportError:  # only torch is required; it imports numpy itself if it is installed
    numpy = None  # type: ignore[assignment]  # a module or None

Choice: TypeAlias = Literal["amax", "amin", "lower_median", "largest"]

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


def spmm(values: Rows, weights: Tensor | None, pattern: Pattern, uniform: bool = False) -> PerSentence:
    """Return Σₜ wₜ xₜ over each sentence's rows, 0 for an empty sentence; None weighs every token 1.

    ``uniform`` promises that all weights of a sentence are equal, which makes float16 and bfloat16 faster.
    """
    if torch.is_grad_enabled() and (values.requires_grad or (weights is not None and weights.requires_grad)):
        return _apply(_WeightedSum, values, weights, pattern, uniform)
    return _sum_rows(values, weights, pattern, uniform)


def _sum_rows(values: Tensor, weights: Tensor | None, pattern: Pattern, uniform: bool) -> Tensor:
    if values.dtype in _HALVES:
        return _sum_half_rows(values, weights, pattern, uniform)
    return _sum_chunks(values, weights, pattern)


def _apply(function: type[torch.autograd.Function], *inputs: object) -> Tensor:
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]  # torch has no types for it
    return result


class _WeightedSum(torch.autograd.Function):
    """The product of a sparse matrix with the rows; its backward is the transposed product.

    `embedding_bag` has no second derivative. This function has one, because its backward consists of itself and of
    differentiable operations.
    """

    @staticmethod
    def forward(values: Tensor, weights: Tensor | None, pattern: Pattern, uniform: bool) -> Tensor:
        return _sum_rows(values, weights, pattern, uniform)

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, weights, ctx.pattern, _ = inputs
        ctx.save_for_backward(values, weights)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (values, weights), pattern = ctx.saved_tensors, ctx.pattern
        grad_values = grad_weights = None
        if ctx.needs_input_grad[0]:
            if pattern.grid is not None and values.dtype not in _HALVES:
                grad_values = _spread(grad, weights, pattern)
            else:
                order, sentences = pattern.transposed(values.shape[0])
                row_weights = weights if weights is None or order is None else weights.index_select(0, order)
                grad_values = spmm(grad, row_weights, sentences, sentences.longest <= 1)
        if ctx.needs_input_grad[1]:
            grad_weights = sddmm(values, grad.to(weights.dtype), pattern)
        return grad_values, grad_weights, None, None


def _spread(per_sentence: Tensor, weights: Tensor | None, pattern: Pattern) -> Tensor:
    """Return wₜ times the row of its sentence at each position of a padded batch, 0 at pads."""
    assert pattern.grid is not None
    batch, seq = pattern.grid
    by_position = per_sentence.new_ones(pattern.tokens) if weights is None else weights
    pads = batch * seq - pattern.tokens
    if pads:
        by_position = by_position.new_zeros(batch * seq).index_copy(0, pattern.index, by_position)
    rows = (per_sentence.unsqueeze(1) * by_position.view(batch, seq, 1)).view(batch * seq, per_sentence.shape[1])
    if pads and not math.isfinite(per_sentence.sum().item()):  # infinity times 0 is NaN
        is_pad = torch.ones(batch * seq, dtype=torch.bool).index_fill_(0, pattern.index, False)
        rows = rows.masked_fill(is_pad.unsqueeze(1), 0.0)
    return rows


def sddmm(values: Rows, table: Tensor, pattern: Pattern, every: bool = False) -> Tensor:
    """Return ⟨xₜ, table[s]⟩ of each token t of each sentence s, (tokens,), in the table's dtype.

    With ``every``, each token is multiplied with every row of the table, (tokens, table rows).
    """
    products = _apply(_DotProducts, values, table, pattern, every)
    return products.view(len(table), pattern.tokens).t() if every else products


class _DotProducts(torch.autograd.Function):
    """Sampled dot products; each backward is a sparse product.

    This is the gradient of `_WeightedSum` by its weights. The two are closed under differentiation: the backward of
    each calls the other and reads real rows only.
    """

    @staticmethod
    def forward(values: Tensor, table: Tensor, pattern: Pattern, every: bool) -> Tensor:
        tokens = pattern.tokens
        if every:
            blocks = [*range(0, tokens, _CONVERTED), tokens]
            block = values.new_empty(min(tokens, _CONVERTED), values.shape[1], dtype=table.dtype)  # stays in cache
            products = table.new_empty(len(table), tokens)
            for start, end, rows in pattern.pieces(blocks):
                converted = block[: end - start].copy_(values[rows])
                if len(table) == 1:
                    torch.mv(converted, table[0], out=products[0, start:end])
                else:
                    products[:, start:end] = table @ converted.t()
            return products.view(-1)
        products = table.new_empty(tokens)
        blocks, owners = [0], []
        for sentence, (start, end) in enumerate(pairwise(pattern.bounds)):
            for first in range(start, end, _BLOCK):
                owners.append(sentence)
                blocks.append(min(first + _BLOCK, end))
        for owner, (start, end, rows) in zip(owners, pattern.pieces(blocks), strict=True):
            torch.mv(values[rows].to(table.dtype), table[owner], out=products[start:end])
        return products

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, table, ctx.pattern, ctx.every = inputs
        ctx.save_for_backward(values, table)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (values, table), pattern = ctx.saved_tensors, ctx.pattern
        wide = torch.promote_types(values.dtype, torch.float32)
        pattern = pattern.as_one().by_head(len(table), sliced=False) if ctx.every else pattern
        grad_values = grad_table = None
        if ctx.needs_input_grad[0]:
            order, sentences = pattern.transposed(values.shape[0])
            row_weights = (grad if order is None else grad.index_select(0, order)).to(wide)
            grad_values = spmm(table.to(values.dtype), row_weights, sentences, sentences.longest <= 1)
        if ctx.needs_input_grad[1]:
            rows = values
            if values.dtype != wide:  # halves would round the sum that a parameter learns from
                rows, pattern = values.index_select(0, pattern.index).to(wide), pattern.packed()
            grad_table = spmm(rows, grad.to(wide), pattern).to(table.dtype)
        return grad_values, grad_table, None, None


def choose(values: Rows, pattern: Pattern, choice: Choice, k: int = 1) -> PerSentence:
    """Return the largest, smallest or lower median number of each feature, or the mean of its ``k`` largest.

    Empty sentences give 0, and NaN in a token gives NaN. Tied tokens share the gradient equally, as in `torch.amax`.
    """
    with torch.no_grad():
        if choice in ("amax", "amin"):
            pooled = threshold = _extreme(values, pattern, choice)
        else:
            pooled, threshold = _ordered(values, pattern, choice, k)
    if not (torch.is_grad_enabled() and values.requires_grad):
        return pooled
    return _apply(_Choice, values, pooled, threshold, pattern, choice, k)


def _extreme(values: Tensor, pattern: Pattern, choice: Choice) -> Tensor:
    ones = torch.ones(pattern.tokens, dtype=values.dtype)
    shape = (pattern.sentences, values.shape[0])
    with warnings.catch_warnings():
        # torch warns once per process that its sparse tensors are in beta; the caller created none.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(pattern.offsets, pattern.index, ones, shape, check_invariants=False)
    pooled: Tensor = torch.sparse.mm(matrix, values, choice)
    return pooled


def _ordered(values: Tensor, pattern: Pattern, choice: Choice, k: int) -> tuple[Tensor, Tensor]:
    """Return the pooled numbers and the smallest numbers that were chosen; each sentence stays in cache."""
    pooled = values.new_zeros(pattern.sentences, values.shape[1])
    threshold = torch.zeros_like(pooled)
    for sentence, (start, end, rows) in enumerate(pattern.sentence_rows()):
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
    def forward(values: Tensor, pooled: Tensor, threshold: Tensor, pattern: Pattern, choice: Choice, k: int) -> Tensor:
        return pooled.clone()

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, _, threshold, *ctx.choice = inputs
        ctx.save_for_backward(values, threshold)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _apply(_Chosen, grad, *ctx.saved_tensors, *ctx.choice), None, None, None, None, None


class _Chosen(torch.autograd.Function):
    """Give each sentence's gradient to the chosen tokens; linear in the gradient."""

    @staticmethod
    def forward(grad: Tensor, values: Tensor, threshold: Tensor, pattern: Pattern, choice: Choice, k: int) -> Tensor:
        grad_values = torch.zeros_like(values)
        for sentence, (start, end, rows) in enumerate(pattern.sentence_rows()):
            if end > start:
                shares, divisor = _shares(values[rows], threshold[sentence], choice, k)
                shares.mul_(grad[sentence] / divisor)
                if pattern.grid is not None:
                    grad_values[rows] = shares.to(values.dtype)
                else:  # added, not stored: one row may be several tokens, of one sentence (expanded) or of many (spans)
                    grad_values.index_add_(0, pattern.index[start:end], shares.to(values.dtype))
        return grad_values

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, values, threshold, *ctx.choice = inputs
        ctx.save_for_backward(values, threshold)

    @staticmethod
    @once_differentiable
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (values, threshold), (pattern, choice, k) = ctx.saved_tensors, ctx.choice
        transposed = torch.zeros_like(threshold)
        for sentence, (start, end, rows) in enumerate(pattern.sentence_rows()):
            if end > start:
                shares, divisor = _shares(values[rows], threshold[sentence], choice, k)
                transposed[sentence] = (shares.mul_(grad[rows]).sum(dim=0) / divisor).to(values.dtype)
        return transposed, None, None, None, None, None


def _shares(rows: Tensor, threshold: Tensor, choice: Choice, k: int) -> tuple[Tensor, Tensor | int]:
    """Return how much of each feature was taken from each token, and the divisor."""
    # Comparisons into a floating tensor: torch takes several times as long to write a bool one and to convert it.
    ties = rows.new_empty(rows.shape, dtype=torch.promote_types(rows.dtype, torch.float32))
    torch.eq(rows, threshold, out=ties)
    number = ties.sum(dim=0).clamp_(min=1)  # nothing equals NaN
    if choice != "largest":
        return ties, number
    above = torch.gt(rows, threshold, out=torch.empty_like(ties))
    kept = min(k, len(rows))
    return ties.mul_((kept - above.sum(dim=0)) / number).add_(above), kept


def _sum_chunks(values: Tensor, weights: Tensor | None, pattern: Pattern) -> Tensor:
    """Return Σₜ wₜ xₜ as sums of sums of chunks, by `embedding_bag`, which reads the rows of the pattern only."""
    for index, offsets in pattern.chunks(values.shape[0]):
        values, weights = _bag(values, weights, index, offsets), None
    return values


def _sum_half_rows(values: Tensor, weights: Tensor | None, pattern: Pattern, uniform: bool) -> Tensor:
    """Sum the rows of float16 and bfloat16; the method for a sentence depends on its length only."""
    if pattern.longest <= _LONGEST_RUN_OF_HALVES:
        return _sum_short_half_rows(values, weights, pattern, uniform)
    pooled = []
    for start, end in pairwise(pattern.bounds):
        sentence_weights, index = None if weights is None else weights[start:end], pattern.index[start:end]
        if end - start > _LONGEST_RUN_OF_HALVES:
            pooled.append(_sum_long_half_rows(values, sentence_weights, index))
        else:
            sentence = Pattern(index, torch.tensor([0, end - start]))
            pooled.append(_sum_short_half_rows(values, sentence_weights, sentence, uniform))
    return torch.cat(pooled)


def _sum_short_half_rows(values: Tensor, weights: Tensor | None, pattern: Pattern, uniform: bool) -> Tensor:
    """Sum with `embedding_bag`, which adds halves in float32 and rounds once.

    It requires weights of the rows' dtype, which is too coarse for a float32 weight. Each weight is passed as a sum of
    parts, with its row repeated (the repeated row is in cache). Three parts of bfloat16 make a float32; two of float16
    leave a remainder, which `_RESCUE` handles. If tokens cancel, a lost digit of a weight is a large part of the
    result. If the weights are equal, it is as small a part of the result as of the weight, and two parts are enough.
    """
    if weights is None:
        return _run(values, None, pattern)
    dtype = values.dtype
    number = 3 if dtype == torch.bfloat16 and not uniform else 2
    parts, rest, lost = pattern.once_for(
        weights, (values.dtype, number), lambda: _split(weights, values.dtype, number, uniform)
    )
    pooled = _run(values, parts, pattern.repeated(number))
    if lost is None:
        return pooled
    tokens = lost.nonzero().view(-1)
    sentences, counts = torch.unique_consecutive(pattern.owner[tokens], return_counts=True)
    parts, _, _ = _split(rest[tokens] * _RESCUE, values.dtype, number, uniform)
    few = Pattern(pattern.index[tokens], torch.nn.functional.pad(counts.cumsum(0), (1, 0)))
    more = _run(values, parts, few.repeated(number))
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
    return _sum_chunks(rows, weights, Pattern(torch.arange(len(rows)), torch.tensor([0, len(rows)])))


def _split(weights: Tensor, dtype: torch.dtype, number: int, uniform: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Split each weight into a sum of ``number`` numbers of ``dtype`` and a remainder; say which remainders matter."""
    parts, rest = [], weights.float()
    for _ in range(number):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].float()
    lost = rest.abs() > weights.abs() * _NEGLIGIBLE if uniform else rest != 0
    return torch.stack(parts, dim=1).view(-1), rest, lost if lost.any() else None


def _run(values: Tensor, weights: Tensor | None, pattern: Pattern) -> Tensor:
    """Sum each sentence's rows one after the other."""
    return _bag(values, weights, *pattern.index_and_offsets(values.shape[0]))


def _bag(values: Tensor, weights: Tensor | None, index: Tensor, offsets: Tensor) -> Tensor:
    # Not torch.nn.functional.embedding_bag, whose checks take as long as the sum of a short text.
    return torch.embedding_bag(values, index, offsets, False, 0, False, weights, True)[0]
