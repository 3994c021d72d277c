"""One sentence after the other, in cache: how poolings that transform their tokens stay near the speed of memory.

Transforming a whole batch writes and reads copies of all its tokens; a sentence's own copy stays in cache. So the
eager forward pass walks over the sentences. Derivatives and the dense route take the same formula over the whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from maskpool.sparse import pieces

if TYPE_CHECKING:
    from maskpool.tokens import TokenBatch

Parameter: TypeAlias = Tensor | float | None
# Of the rows of one sentence in the accumulation dtype, their weights, and a hyperparameter.
OfRows: TypeAlias = Callable[[Tensor, Tensor | None, Parameter], Tensor]
# Of a batch, in the accumulation dtype.
OfBatch: TypeAlias = "Callable[[TokenBatch, Tensor | None, Parameter], Tensor]"


def by_sentence(
    batch: TokenBatch,
    of_rows: OfRows,
    of_batch: OfBatch,
    by_token: Tensor | None = None,
    parameter: Parameter = None,
) -> Tensor:
    """One vector a sentence, in the batch's dtype, 0 for an empty one.

    Args:
        batch: What to pool.
        of_rows: The formula for the rows of one sentence, (tokens, dim), at least one.
        of_batch: The same formula for all sentences, in differentiable operations.
        by_token: Numbers that come with the tokens, in the batch's own form.
        parameter: The formula's hyperparameter; a tensor learns.
    """
    if batch.dense:
        return of_batch(batch, by_token, parameter).to(batch.dtype)
    tensors = (batch.values, by_token, parameter)
    if torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in tensors):
        result: Tensor = _BySentence.apply(batch, of_rows, of_batch, *tensors)  # type: ignore[no-untyped-call]  # untyped
        return result
    return _forward(batch, of_rows, *tensors)


def _forward(
    batch: TokenBatch, of_rows: OfRows, values: Tensor, by_token: Tensor | None, parameter: Parameter
) -> Tensor:
    exact = batch.accumulation_dtype
    if not batch.index.numel():  # the formula says how wide its result is
        width = len(of_rows(torch.zeros(1, batch.dim, dtype=exact), None, parameter))
        return values.new_zeros(batch.lengths.numel(), width)
    pooled: list[Tensor | None] = []
    for start, end, rows in pieces(batch.index, batch.offsets):
        own = None if by_token is None else by_token[start:end]
        if end == start:
            pooled.append(None)
            continue
        # Contiguous: torch groups the sum over a single strided feature differently, which changes its last digit.
        pooled.append(of_rows(values[rows].to(exact).contiguous(), own, parameter).to(batch.dtype))
    zeros = torch.zeros_like(next(vector for vector in pooled if vector is not None))
    return torch.stack([zeros if vector is None else vector for vector in pooled])


class _BySentence(torch.autograd.Function):
    """Forward sentence by sentence; backward through the formula over the whole batch, made anew."""

    @staticmethod
    def forward(
        batch: TokenBatch,
        of_rows: OfRows,
        of_batch: OfBatch,
        values: Tensor,
        by_token: Tensor | None,
        parameter: Parameter,
    ) -> Tensor:
        return _forward(batch, of_rows, values, by_token, parameter)

    @staticmethod
    # Any: autograd's context objects have no public type.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        batch, _, ctx.of_batch, values, by_token, parameter = inputs
        ctx.batch = copy.copy(batch)
        del ctx.batch.values  # saved below, where autograd looks after it
        learns = isinstance(parameter, Tensor)
        ctx.fixed = None if learns else parameter
        ctx.save_for_backward(values, by_token, parameter if learns else None)

    @staticmethod
    # Any: see setup_context.
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        batch, again = copy.copy(ctx.batch), torch.is_grad_enabled()
        tensors = ctx.saved_tensors
        batch.values, by_token, parameter = tensors
        wanted = [tensor for tensor, needed in zip(tensors, ctx.needs_input_grad[3:], strict=True) if needed]
        with torch.enable_grad():
            pooled = ctx.of_batch(batch, by_token, ctx.fixed if parameter is None else parameter).to(batch.dtype)
            found = iter(torch.autograd.grad(pooled, wanted, grad, create_graph=again, allow_unused=True))
        return None, None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[3:])
