"""The kernels of a sparse batch: pads are neither read nor computed with."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maskpool.kernels.autograd import Choice, choose, sddmm, spmm
from maskpool.kernels.base import HIGHEST_EXPONENT, Formula, Kernels, Parameter
from maskpool.kernels.pattern import Pattern
from maskpool.types import Index, Offsets, PaddedMask, PerSentence, PerToken, Rows


class CSRKernels(Kernels):
    """Kernels over the rows ``values``; ``pattern`` says which sentence each row belongs to."""

    values: Rows
    pattern: Pattern

    @property
    @abstractmethod
    def mask(self) -> PaddedMask | None:
        """The mask of padded inputs, bool, (batch, seq); None for others."""

    # ------------------------------------------------------------------------------------------------------------ sums

    def weighted_sum(self, weights: PerToken | None, uniform: bool = False) -> PerSentence:  # noqa: D102  # see Kernels
        if weights is None or weights.dim() == 1:
            return spmm(self.values, weights, self.pattern, uniform)
        heads = weights.shape[1]
        if heads == 1:
            return spmm(self.values, weights.reshape(-1), self.pattern)
        # Each head's slice of a row becomes a separate row: heads one after the other, sentences within them.
        slices = self.values.reshape(-1, self.dim // heads)
        pooled = spmm(slices, weights.t().reshape(-1), self.pattern.by_head(heads, sliced=True))
        return pooled.view(heads, self.pattern.sentences, self.dim // heads).transpose(0, 1).flatten(1)

    def fixed_weights(self, name: str, compute: Callable[[], PerToken]) -> PerToken:  # noqa: D102  # see Kernels
        return self.pattern.once((name, self.accumulation_dtype), compute)

    def weighted_sums(self, weights: PerToken, dtype: torch.dtype | None = None) -> PerSentence:  # noqa: D102  # see Kernels
        heads, values, pattern = weights.shape[1], self.values, self.pattern
        if dtype not in (None, self.dtype):
            values, pattern = self.rows().to(dtype), pattern.packed()
        sums = spmm(values, weights.t().reshape(-1), pattern.by_head(heads, sliced=False))
        return sums.view(heads, pattern.sentences, self.dim).transpose(0, 1)

    def total(self, per_token: PerToken) -> PerSentence:  # noqa: D102  # see Kernels
        if per_token.is_floating_point():
            zeros = torch.zeros(self.pattern.sentences, *per_token.shape[1:], dtype=torch.float64)
            return zeros.index_add(0, self.pattern.owner, per_token.double())
        running = torch.nn.functional.pad(per_token.cumsum(0), (1, 0))
        return running[self.pattern.offsets].diff()

    def by_sentence(
        self, formula: Formula, weights: PerToken | None = None, parameter: Parameter = None
    ) -> PerSentence:
        """Walk over the sentences, each of which stays in cache; derivatives use the formula of the whole batch."""
        tensors = (self.values, weights, parameter)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in tensors):
            result: Tensor = _BySentence.apply(self, formula, *tensors)  # type: ignore[no-untyped-call]  # untyped
            return result
        return _by_sentence(self, formula, *tensors)

    # --------------------------------------------------------------------------------------------------------- choices

    def maximum(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._choose("amax")

    def minimum(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._choose("amin")

    def lower_median(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._choose("lower_median")

    def mean_of_largest(self, k: int) -> PerSentence:  # noqa: D102  # see Kernels
        return self._choose("largest", k)

    def _choose(self, choice: Choice, k: int = 1) -> PerSentence:
        return choose(self.values, self.pattern, choice, k)

    def first(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._take("first", lambda offsets: offsets[:-1])

    def last(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._take("last", lambda offsets: offsets[1:] - 1)

    def _take(self, name: str, token: Callable[[Offsets], Index]) -> PerSentence:
        pattern = self.pattern
        if pattern.shortest:
            where = pattern.once(name, lambda: pattern.index.index_select(0, token(pattern.offsets)))
            return self.values.index_select(0, where)
        # A sum over one token or none, so empty sentences need no special case.
        present = pattern.lengths > 0
        offsets = torch.nn.functional.pad(present.cumsum(0), (1, 0))
        return spmm(self.values, None, Pattern(pattern.index[token(pattern.offsets)[present]], offsets))

    # ------------------------------------------------------------------------------------------------------- attention

    def dot_products(self, queries: Tensor) -> PerToken:  # noqa: D102  # see Kernels
        return sddmm(self.values, queries, self.pattern, every=True)

    def softmax(self, scores: PerToken, weights: PerToken | None = None) -> PerToken:
        """Compute in float64: thousands of equal numbers, added one after the other, lose digits in float32."""
        owner = self.pattern.owner
        exact = scores.double()
        # Tokens without weight do not set the scale: their scores may exceed the others', and exp may overflow.
        weighed = exact.detach()
        if weights is not None:
            weighed = torch.where(weights.unsqueeze(1) == 0, float("-inf"), weighed)
        top = weighed.new_full((self.pattern.sentences, scores.shape[1]), float("-inf"))
        top = top.scatter_reduce(0, owner.unsqueeze(1).expand_as(weighed), weighed, reduce="amax")
        top = torch.where(top.isneginf(), 0.0, top)
        raised = (exact - top.index_select(0, owner)).clamp(max=HIGHEST_EXPONENT).exp()
        if weights is not None:
            raised = raised * weights.unsqueeze(1)
        sums = torch.zeros_like(top).index_add(0, owner, raised)
        shares = raised / torch.where(sums > 0, sums, 1.0).index_select(0, owner)
        return shares.to(self.accumulation_dtype)

    # ------------------------------------------------------------------------------- between tokens, sentences, layouts

    def spread(self, per_sentence: PerSentence) -> PerToken:  # noqa: D102  # see Kernels
        if per_sentence.dim() == 1:
            return self.pattern.spread(per_sentence)
        return per_sentence.index_select(0, self.pattern.owner)

    def rows(self) -> PerToken:  # noqa: D102  # see Kernels
        return self.values if self.is_packed() else self.values.index_select(0, self.pattern.index)

    def is_packed(self) -> bool:
        """Return whether the rows are exactly the real tokens, in order."""
        return self.pattern.tokens == len(self.values) and self.pattern.is_packed

    def ones(self) -> PerToken:  # noqa: D102  # see Kernels
        return torch.ones(self.pattern.tokens, dtype=self.accumulation_dtype)

    def from_positions(self, per_position: Tensor) -> PerToken:  # noqa: D102  # see Kernels
        return per_position if self.mask is None else per_position[self.mask]

    def to_layout(self, per_token: PerToken) -> Tensor:  # noqa: D102  # see Kernels
        if self.mask is None:
            return per_token
        padded = per_token.new_zeros(*self.mask.shape, per_token.shape[1])
        return padded.index_put((self.mask,), per_token).transpose(1, 2)

    def from_layout(self, per_position: Tensor) -> PerToken:  # noqa: D102  # see Kernels
        return per_position if self.mask is None else per_position.transpose(1, 2)[self.mask]


def _by_sentence(
    batch: CSRKernels, formula: Formula, values: Tensor, weights: Tensor | None, parameter: Parameter
) -> Tensor:
    exact = batch.accumulation_dtype
    if not batch.pattern.tokens:  # the formula determines the width of its result
        width = len(formula.of_rows(torch.zeros(1, batch.dim, dtype=exact), None, parameter))
        return values.new_zeros(batch.pattern.sentences, width)
    pooled: list[Tensor] = []
    empty: list[int] = []
    for sentence, (start, end, rows) in enumerate(batch.pattern.sentence_rows()):
        if end == start:
            empty.append(sentence)
            continue
        sentence_weights = None if weights is None else weights[start:end]
        # Contiguous: torch groups the sum over a single strided feature differently, which changes its last digit.
        pooled.append(formula.of_rows(values[rows].to(exact).contiguous(), sentence_weights, parameter).to(batch.dtype))
    for sentence in empty:
        pooled.insert(sentence, torch.zeros_like(pooled[0]))
    return torch.stack(pooled) if len(pooled) > 1 else pooled[0].unsqueeze(0)


class _BySentence(torch.autograd.Function):
    """Forward and backward sentence by sentence, if only the tokens need a gradient.

    Gradients by weights and parameters, and second derivatives, go through the formula of the batch, computed again.
    """

    @staticmethod
    def forward(
        batch: CSRKernels, formula: Formula, values: Tensor, weights: Tensor | None, parameter: Parameter
    ) -> Tensor:
        return _by_sentence(batch, formula, values, weights, parameter)

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        batch, formula, values, weights, parameter = inputs
        ctx.formula = formula
        ctx.batch = copy.copy(batch)
        del ctx.batch.values  # saved below, where autograd manages it
        learns = isinstance(parameter, Tensor)
        ctx.fixed = None if learns else parameter
        # A vector in half precision is too coarse for a gradient.
        pooled = output if output.dtype == batch.accumulation_dtype else None
        ctx.save_for_backward(values, weights, parameter if learns else None, pooled)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        batch, again = copy.copy(ctx.batch), torch.is_grad_enabled()
        *tensors, pooled = ctx.saved_tensors
        batch.values, weights, parameter = tensors
        if not again and ctx.needs_input_grad[2:] == (True, False, False):
            given = ctx.fixed if parameter is None else parameter
            return None, None, _gradient(batch, ctx.formula, grad, weights, given, pooled), None, None
        wanted = [tensor for tensor, needed in zip(tensors, ctx.needs_input_grad[2:], strict=True) if needed]
        with torch.enable_grad():
            pooled = ctx.formula.of_batch(batch, weights, ctx.fixed if parameter is None else parameter).to(batch.dtype)
            grads = iter(torch.autograd.grad(pooled, wanted, grad, create_graph=again, allow_unused=True))
        return None, None, *(next(grads) if needed else None for needed in ctx.needs_input_grad[2:])


def _gradient(
    batch: CSRKernels,
    formula: Formula,
    grad: Tensor,
    weights: Tensor | None,
    parameter: Parameter,
    pooled: Tensor | None,
) -> Tensor:
    exact, pattern = batch.accumulation_dtype, batch.pattern
    upstream, grad_values = grad.to(exact), torch.zeros_like(batch.values)
    for sentence, (start, end, where) in enumerate(pattern.sentence_rows()):
        if start == end:
            continue
        rows, own = batch.values[where].to(exact), None if weights is None else weights[start:end]
        vector = formula.of_rows(rows, own, parameter) if pooled is None else pooled[sentence]
        part = formula.gradient(rows, own, parameter, vector, upstream[sentence])
        if pattern.grid is not None:
            grad_values[where] = part.to(batch.dtype)
        elif isinstance(where, slice):  # added, not stored: one row may be several tokens
            grad_values[where].add_(part.to(batch.dtype))
        else:
            grad_values.index_add_(0, where, part.to(batch.dtype))
    return grad_values
