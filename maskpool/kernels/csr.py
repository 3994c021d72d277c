"""The kernels of a sparse batch: pads are neither read nor computed with."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from maskpool.kernels.autograd import Choice, choose, pieces, sddmm, spmm
from maskpool.kernels.base import HIGHEST_EXPONENT, Formula, Kernels, Parameter
from maskpool.types import Index, Offsets, PaddedMask, PerSentence, PerToken, Rows


class CSRKernels(Kernels):
    """Kernels over the rows ``values[index[offsets[s]:offsets[s + 1]]]`` of each sentence ``s``."""

    values: Rows
    index: Index
    offsets: Offsets
    mask: PaddedMask | None

    @cached_property
    def sentence_of_token(self) -> Index:
        """The sentence of each real token, int64."""
        sentences = torch.arange(self.lengths.numel())
        return torch.repeat_interleave(sentences, self.lengths, output_size=self.index.numel())

    # ------------------------------------------------------------------------------------------------------------ sums

    def scaled_sum(self, scale: PerSentence) -> PerSentence:  # noqa: D102  # see Kernels
        weights = torch.repeat_interleave(scale, self.lengths, output_size=self.index.numel())
        return spmm(self.values, weights, self.index, self.offsets, uniform=True)

    def weighted_sum(self, weights: PerToken | None) -> PerSentence:  # noqa: D102  # see Kernels
        if weights is None or weights.dim() == 1:
            return spmm(self.values, weights, self.index, self.offsets)
        heads, tokens = weights.shape[1], self.index.numel()
        if heads == 1:
            return spmm(self.values, weights.reshape(-1), self.index, self.offsets)
        # Each head's slice of a row becomes a separate row: heads one after the other, sentences within them.
        slices = self.values.reshape(-1, self.dim // heads)
        index = (self.index * heads + torch.arange(heads).unsqueeze(1)).view(-1)
        pooled = spmm(slices, weights.t().reshape(-1), index, self._repeated_offsets(heads, tokens))
        return pooled.view(heads, self.lengths.numel(), self.dim // heads).transpose(0, 1).flatten(1)

    def weighted_sums(self, weights: PerToken, dtype: torch.dtype | None = None) -> PerSentence:  # noqa: D102  # see Kernels
        heads, tokens = weights.shape[1], self.index.numel()
        values, index = self.values, self.index
        if dtype not in (None, self.dtype):
            values, index = self.rows().to(dtype), torch.arange(tokens)
        offsets = self._repeated_offsets(heads, tokens)
        sums = spmm(values, weights.t().reshape(-1), index.repeat(heads), offsets)
        return sums.view(heads, self.lengths.numel(), self.dim).transpose(0, 1)

    def _repeated_offsets(self, heads: int, tokens: int) -> Offsets:
        starts = torch.arange(heads).unsqueeze(1) * tokens + self.offsets[:-1]
        return torch.cat([starts.view(-1), torch.tensor([heads * tokens])])

    def total(self, per_token: PerToken) -> PerSentence:  # noqa: D102  # see Kernels
        if per_token.is_floating_point():
            zeros = torch.zeros(self.lengths.numel(), *per_token.shape[1:], dtype=torch.float64)
            return zeros.index_add(0, self.sentence_of_token, per_token.double())
        running = torch.nn.functional.pad(per_token.cumsum(0), (1, 0))
        return running[self.offsets].diff()

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
        return choose(self.values, self.index, self.offsets, choice, k)

    def first(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._take(self.offsets[:-1])

    def last(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._take(self.offsets[1:] - 1)

    def _take(self, token: Index) -> PerSentence:
        if not self.lengths.numel() or int(self.lengths.min()):
            return self.values.index_select(0, self.index.index_select(0, token))
        # A sum over one token or none, so empty sentences need no special case.
        present = self.lengths > 0
        offsets = torch.nn.functional.pad(present.cumsum(0), (1, 0))
        return spmm(self.values, None, self.index[token[present]], offsets)

    # ------------------------------------------------------------------------------------------------------- attention

    def dot_products(self, queries: Tensor) -> PerToken:  # noqa: D102  # see Kernels
        return sddmm(self.values, queries, self.index, None)

    def softmax(self, scores: PerToken, weights: PerToken | None = None) -> PerToken:
        """Compute in float64: thousands of equal numbers, added one after the other, lose digits in float32."""
        owner = self.sentence_of_token
        exact = scores.double()
        # Tokens without weight do not set the scale: their scores may exceed the others', and exp may overflow.
        weighed = exact.detach()
        if weights is not None:
            weighed = torch.where(weights.unsqueeze(1) == 0, float("-inf"), weighed)
        top = weighed.new_full((self.lengths.numel(), scores.shape[1]), float("-inf"))
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
            return torch.repeat_interleave(per_sentence, self.lengths, output_size=self.index.numel())
        return per_sentence.index_select(0, self.sentence_of_token)

    def rows(self) -> PerToken:  # noqa: D102  # see Kernels
        return self.values if self.is_packed() else self.values.index_select(0, self.index)

    def is_packed(self) -> bool:
        """Return whether the rows are exactly the real tokens, in order."""
        tokens = self.index.numel()
        return tokens == len(self.values) and torch.equal(self.index, torch.arange(tokens))

    def ones(self) -> PerToken:  # noqa: D102  # see Kernels
        return torch.ones(self.index.numel(), dtype=self.accumulation_dtype)

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
    if not batch.index.numel():  # the formula determines the width of its result
        width = len(formula.of_rows(torch.zeros(1, batch.dim, dtype=exact), None, parameter))
        return values.new_zeros(batch.lengths.numel(), width)
    pooled: list[Tensor | None] = []
    for start, end, rows in pieces(batch.index, batch.offsets):
        if end == start:
            pooled.append(None)
            continue
        sentence_weights = None if weights is None else weights[start:end]
        # Contiguous: torch groups the sum over a single strided feature differently, which changes its last digit.
        pooled.append(formula.of_rows(values[rows].to(exact).contiguous(), sentence_weights, parameter).to(batch.dtype))
    zeros = torch.zeros_like(next(vector for vector in pooled if vector is not None))
    return torch.stack([zeros if vector is None else vector for vector in pooled])


class _BySentence(torch.autograd.Function):
    """Forward sentence by sentence; backward through the formula of the whole batch, computed again."""

    @staticmethod
    def forward(
        batch: CSRKernels, formula: Formula, values: Tensor, weights: Tensor | None, parameter: Parameter
    ) -> Tensor:
        return _by_sentence(batch, formula, values, weights, parameter)

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        batch, formula, values, weights, parameter = inputs
        ctx.of_batch = formula.of_batch
        ctx.batch = copy.copy(batch)
        del ctx.batch.values  # saved below, where autograd manages it
        learns = isinstance(parameter, Tensor)
        ctx.fixed = None if learns else parameter
        ctx.save_for_backward(values, weights, parameter if learns else None)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        batch, again = copy.copy(ctx.batch), torch.is_grad_enabled()
        tensors = ctx.saved_tensors
        batch.values, weights, parameter = tensors
        wanted = [tensor for tensor, needed in zip(tensors, ctx.needs_input_grad[2:], strict=True) if needed]
        with torch.enable_grad():
            pooled = ctx.of_batch(batch, weights, ctx.fixed if parameter is None else parameter).to(batch.dtype)
            grads = iter(torch.autograd.grad(pooled, wanted, grad, create_graph=again, allow_unused=True))
        return None, None, *(next(grads) if needed else None for needed in ctx.needs_input_grad[2:])
