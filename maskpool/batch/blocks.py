"""Learned poolings in blocks: a few padded sentences at a time, cut to their tokens, in dense operations and in cache.

This is the fast form of a learned pooling on the CPU, for padded batches. Short texts are one block, whose operations
are those of a hand-written pooling; of long texts with many pads each is a block, so pads are not read. Scores are
computed in float32 if it holds them to 1e-6, which their size shows, else in float64. Packed tokens, token weights and
empty sentences take the packed form: the kernels of the sparse batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from operator import sub
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from maskpool.batch.token_batch import PaddedBatch, SparseBatch, TokenBatch
from maskpool.kernels.pattern import Pattern
from maskpool.types import Padded, PaddedMask, PerSentence, PerToken

Learned: TypeAlias = Callable[[TokenBatch], tuple[PerSentence, PerToken]]

# Bytes of the tokens of a block; those of a block in half precision are copied.
_BLOCK_BYTES, _CONVERTED_BYTES = 2**24, 2**21
# Blocks of fewer bytes take longer to call than to compute.
_SMALL_BYTES = 2**16
# Numbers up to which scores in float64 take less time than to see whether float32 is enough.
_FEW = 2**14
# Tokens whose sum is one product. A longer sum of equal numbers loses digits, on some processors with every number of
# features, on others if features do not fill registers.
_RUN = 48
# float32 holds scores up to this size to less than 1e-6, and sums of products of this size.
_LARGE_SCORE = 8.0


class InexactError(Exception):
    """The scores are too large for float32."""


class Span(NamedTuple):
    """The sentences and positions of a block, and whether all of these are real tokens.

    The positions are all, or those from the first to the last token of one sentence: rows in sequence, which products
    need not copy.
    """

    start: int
    end: int
    left: int
    right: int
    full: bool


class Scores:
    """The scores of all blocks of a batch, of which float32 must hold the largest.

    Args:
        first: Returns the first token of each sentence, (sentences, dim).
    """

    def __init__(self, first: Callable[[], PerSentence]) -> None:
        self._first: Callable[[], PerSentence] | None = first
        self._tops: list[Tensor] = []

    def of_queries(self, queries: Tensor) -> None:
        """Raise `InexactError` if products of first tokens are large: their sums lose digits, though they are small."""
        if self._first is not None:
            products = self._first().detach().to(queries.dtype).unsqueeze(1) * queries.detach()
            self._tops.append(torch.linalg.vector_norm(products, dim=2))
            self._first = None

    def add(self, scores: PerToken) -> None:
        """Add the scores of a block; the largest of each sentence counts, as smaller ones have smaller weights."""
        self._tops.append(scores.detach().amax(dim=1))

    def check(self) -> None:
        """Raise `InexactError` if a score is large."""
        if self._tops:
            lowest, highest = torch.cat(self._tops).aminmax()
            if not -_LARGE_SCORE <= float(lowest) <= float(highest) <= _LARGE_SCORE:
                raise InexactError


class Block(PaddedBatch):
    """A few padded sentences. Pads are finite or were replaced, so a weight of 0 is enough to exclude them.

    Scores are in float64 in a small block or without ``scores``, else in float32, and ``scores`` looks at their size.

    Args:
        padded: (batch, seq, dim), in the accumulation dtype.
        mask: bool, (batch, seq), True at real tokens; None if all are.
        dtype: The dtype of results.
        scores: The scores of all blocks.
    """

    def __init__(self, padded: Padded, mask: PaddedMask | None, dtype: torch.dtype, scores: Scores | None) -> None:
        TokenBatch.__init__(self, padded)
        self.padded = padded
        self.dtype = dtype
        self._scores = None if padded.numel() <= _FEW or padded.dtype == torch.float64 else scores
        self.score_dtype = torch.float64 if self._scores is None else padded.dtype
        self._known = mask

    @property
    def mask(self) -> PaddedMask:  # type: ignore[override]  # noqa: D102  # made only if it is read; see PaddedBatch
        if self._known is None:
            return torch.ones(self.padded.shape[:2], dtype=torch.bool, device="cpu")
        return self._known

    @property
    def _counted(self) -> PaddedMask:  # type: ignore[override]  # as mask
        return self.mask

    def with_rows(self, rows: PerToken) -> Block:  # noqa: D102  # see Kernels
        return Block(rows, self._known, rows.dtype, self._scores)

    def weighted_sum(self, weights: PerToken | None, uniform: bool = False) -> PerSentence:  # noqa: D102  # see Kernels
        if weights is None:
            return super().weighted_sum(weights)
        if weights.dim() == 2:
            return self._sums(self._where_real(weights).unsqueeze(2)).squeeze(1).to(self.dtype)
        return self._slices(self._sums(weights))

    def weighted_sums(self, weights: PerToken, dtype: torch.dtype | None = None) -> PerSentence:  # noqa: D102  # see Kernels
        return self._sums(weights).to(self.dtype if dtype is None else dtype)

    def attend(  # noqa: D102  # see Kernels
        self, queries: Tensor, sliced: bool, weights: PerToken | None = None, dtype: torch.dtype | None = None
    ) -> tuple[PerSentence, PerToken]:
        sums, attention = _attend(self, queries.to(self.score_dtype))
        return self._slices(sums) if sliced else sums.to(self.dtype if dtype is None else dtype), attention

    def _sums(self, weights: PerToken) -> Tensor:
        padded, by_head = self.padded.to(self.accumulation_dtype), weights.transpose(1, 2)
        if padded.shape[1] <= _RUN or padded.dtype == torch.float64:
            return torch.bmm(by_head, padded)
        parts = zip(torch.split(by_head, _RUN, dim=2), torch.split(padded, _RUN, dim=1), strict=True)
        return torch.stack([torch.bmm(*part) for part in parts]).sum(dim=0)

    def _slices(self, sums: Tensor) -> PerSentence:
        """Return of the sums of all features by each head its slice."""
        heads = sums.shape[1]
        if heads == 1:
            return sums.squeeze(1).to(self.dtype)
        slices = sums.view(len(sums), heads, heads, self.dim // heads).diagonal(dim1=1, dim2=2)
        return slices.transpose(1, 2).flatten(1).to(self.dtype)

    def dot_products(self, queries: Tensor) -> PerToken:  # noqa: D102  # see Kernels
        if self._scores is not None:
            self._scores.of_queries(queries)
        return torch.matmul(self.padded.to(queries.dtype), queries.t())

    def require_exact_scores(self) -> None:  # noqa: D102  # see TokenBatch
        if self._scores is not None:
            raise InexactError

    def softmax(self, scores: PerToken, weights: PerToken | None = None) -> PerToken:  # noqa: D102  # see Kernels
        assert weights is None
        if self._known is not None:
            scores = scores.masked_fill(~self._known.unsqueeze(2), -torch.inf)
        if self._scores is not None:
            self._scores.add(scores)
        return scores.softmax(dim=1).to(self.accumulation_dtype)

    def _where_real(self, per_token: PerToken) -> PerToken:
        return per_token if self._known is None else super()._where_real(per_token)


def _attend(block: Block, queries: Tensor) -> tuple[Tensor, PerToken]:
    if torch.is_grad_enabled() and (block.padded.requires_grad or queries.requires_grad):
        result: tuple[Tensor, Tensor] = _Attend.apply(block.padded, queries, block)  # type: ignore[no-untyped-call]  # untyped
        return result
    attention = block.softmax(block.dot_products(queries))
    return block._sums(attention), attention


class _Attend(torch.autograd.Function):
    """Attention of queries, whose gradient by the tokens is one product instead of the sum of two."""

    @staticmethod
    # Any: autograd's context objects have no public type.
    def forward(ctx: Any, padded: Tensor, queries: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        attention = block.softmax(block.dot_products(queries))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(padded, queries, attention)
        return block._sums(attention), attention

    @staticmethod
    # Any: see forward.
    def backward(ctx: Any, grad: Tensor | None, grad_attention: Tensor | None) -> tuple[Tensor | None, ...]:
        padded, queries, attention = ctx.saved_tensors
        if grad is None:
            grad = padded.new_zeros(padded.shape[0], attention.shape[2], padded.shape[2])
        by_weight = torch.bmm(padded, grad.transpose(1, 2))
        if grad_attention is not None:
            by_weight = by_weight + grad_attention
        by_score = attention * (by_weight - (attention * by_weight).sum(dim=1, keepdim=True))
        grad_padded = grad_queries = None
        if ctx.needs_input_grad[0]:
            rows = queries.to(padded.dtype).unsqueeze(0).expand(padded.shape[0], -1, -1)
            grad_padded = torch.bmm(torch.cat([attention, by_score], dim=2), torch.cat([grad, rows], dim=1))
        if ctx.needs_input_grad[1]:
            grad_queries = (by_score.flatten(0, 1).t() @ padded.flatten(0, 1)).to(queries.dtype)
        return grad_padded, grad_queries, None


def in_blocks(
    batch: TokenBatch,
    weights: PerToken | None,
    learned: Callable[[TokenBatch, PerToken | None], tuple[PerSentence, PerToken]],
    *parameters: Tensor,
) -> tuple[PerSentence, PerToken]:
    """Pool in blocks, or the whole batch in the packed form.

    Args:
        batch: The batch.
        weights: Token weights.
        learned: Returns the pooled vectors and the weights of the tokens of a batch.
        parameters: All tensors that it learns.
    """
    if weights is not None or not isinstance(batch, SparseBatch):
        return learned(batch, weights)
    pattern = batch.pattern
    if pattern.grid is None or not pattern.tokens or not pattern.shortest or not batch.dim:
        return learned(batch, weights)
    row_bytes = batch.dim * batch.accumulation_dtype.itemsize
    most = _BLOCK_BYTES if batch.dtype == batch.accumulation_dtype else _CONVERTED_BYTES
    spans = pattern.once(("spans", row_bytes, most), lambda: _spans(pattern, row_bytes, most))
    if not spans:
        return learned(batch, weights)
    mask = None if pattern.tokens == pattern.grid[0] * pattern.grid[1] else batch.mask
    blocks = _Blocks(mask, spans, lambda block: learned(block, None), Scores(batch.first))
    x = batch.values.view(*pattern.grid, batch.dim)
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        try:
            return _pool(x, blocks, parameters)
        except InexactError:
            return _pool(x, blocks._replace(scores=None), parameters)


def _pool(x: Padded, blocks: _Blocks, parameters: Sequence[Tensor]) -> tuple[PerSentence, PerToken]:
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters))):
        pooled, attention = blocks.pool(x, clean=False)
        if blocks.mask is not None and not math.isfinite(pooled.sum().item()):  # a pad may have been, times 0
            pooled, attention = blocks.pool(x, clean=True)
        return pooled, attention
    if len(blocks.spans) == 1:
        return blocks.pool(x, clean=True)
    result: tuple[Tensor, Tensor] = _InBlocks.apply(x, blocks, *parameters)  # type: ignore[no-untyped-call]  # untyped
    return result


def _spans(pattern: Pattern, row_bytes: int, most: int) -> list[Span]:
    """Group sentences while they are small, if half of their positions are real tokens.

    Returns:
        The blocks; none if most would be too small.
    """
    assert pattern.grid is not None
    batch, seq = pattern.grid
    together = min(max(most // (seq * row_bytes), 1), batch)
    if together > 1 and 2 * pattern.tokens >= batch * seq:
        spans = []
        for start in range(0, batch, together):
            end = min(start + together, batch)
            tokens = pattern.bounds[end] - pattern.bounds[start]
            spans.append(Span(start, end, 0, seq, tokens == (end - start) * seq))
        return spans
    if batch > 1 and pattern.tokens * row_bytes < batch * _SMALL_BYTES:
        return []
    lefts = pattern.index.index_select(0, pattern.offsets[:-1]).remainder_(seq).tolist()
    rights = pattern.index.index_select(0, pattern.offsets[1:] - 1).remainder_(seq).add_(1).tolist()
    lengths = map(sub, pattern.bounds[1:], pattern.bounds)
    return [
        Span(sentence, sentence + 1, left, right, length == right - left)
        for sentence, (left, right, length) in enumerate(zip(lefts, rights, lengths, strict=True))
    ]


class _Blocks(NamedTuple):
    """The blocks of a batch, and what is computed of each."""

    mask: PaddedMask | None
    spans: list[Span]
    learned: Learned
    scores: Scores | None

    def pool(self, x: Padded, clean: bool) -> tuple[PerSentence, PerToken]:
        """Pool all blocks; ``clean`` replaces pads by 0, which gradients need and numbers that are not finite."""
        parts = [self.pool_one(_cut(x, span), span, clean) for span in self.spans]
        if self.scores is not None:
            self.scores.check()
        return _joined(parts)

    def pool_one(self, tokens: Padded, span: Span, clean: bool) -> tuple[PerSentence, PerToken]:
        """Pool one block; its attention has a row for each real token."""
        padded = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        if span.full or self.mask is None:
            pooled, attention = self.learned(Block(padded, None, tokens.dtype, self.scores))
            return pooled, attention.flatten(0, 1)
        mask = _cut(self.mask, span)
        if clean:
            padded = padded.masked_fill(~mask.unsqueeze(2), 0.0)
        pooled, attention = self.learned(Block(padded, mask, tokens.dtype, self.scores))
        return pooled, attention[mask]


def _cut(padded: Tensor, span: Span) -> Tensor:
    """Return the positions of a block."""
    if span.end - span.start < padded.shape[0]:
        padded = padded[span.start : span.end]
    return padded if span.right - span.left == padded.shape[1] else padded[:, span.left : span.right]


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    return torch.cat([pooled for pooled, _ in parts]), torch.cat([attention for _, attention in parts])


class _InBlocks(torch.autograd.Function):
    """Pool and differentiate block by block; the gradient of a block is written once, where it belongs."""

    @staticmethod
    # Any: autograd's context objects have no public type.
    def forward(ctx: Any, x: Tensor, blocks: _Blocks, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        kept = []
        with torch.enable_grad():
            for span in blocks.spans:
                tokens = _cut(x.detach(), span).requires_grad_(x.requires_grad)
                kept.append((tokens, *blocks.pool_one(tokens, span, clean=True)))
        if blocks.scores is not None:
            blocks.scores.check()
        ctx.set_materialize_grads(False)
        ctx.blocks = blocks
        # The graphs of the blocks are freed with the saved tensors.
        ctx.save_for_backward(x, *parameters, *(tensor for part in kept for tensor in part))
        return _joined([(pooled.detach(), attention.detach()) for _, pooled, attention in kept])

    @staticmethod
    # Any: see forward.
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in upstream):
            return tuple(None for _ in ctx.needs_input_grad)
        spans, number = ctx.blocks.spans, len(ctx.needs_input_grad) - 1
        inputs, kept = ctx.saved_tensors[:number], ctx.saved_tensors[number:]
        by_x, *by_parameter = ctx.needs_input_grad[:1] + ctx.needs_input_grad[2:]
        needed = [parameter for parameter, is_needed in zip(inputs[1:], by_parameter, strict=True) if is_needed]
        if torch.is_grad_enabled():  # a second derivative needs a graph that begins at the inputs
            wanted = [*inputs[: int(by_x)], *needed]
            grads = _gradients(ctx.blocks.pool(inputs[0], clean=True), upstream, wanted, create_graph=True)
            grad_x, sums = (grads[0] if by_x else None), grads[int(by_x) :]
        else:
            grad_x, sums = None, [None] * len(needed)
            if by_x:
                covered = all(span.right - span.left == inputs[0].shape[1] for span in spans)
                grad_x = torch.empty_like(inputs[0]) if covered else torch.zeros_like(inputs[0])
            token = 0
            for span, tokens, pooled, attention in zip(spans, kept[::3], kept[1::3], kept[2::3], strict=True):
                places = (slice(span.start, span.end), slice(token, token + len(attention)))
                token += len(attention)
                given = [None if grad is None else grad[at] for grad, at in zip(upstream, places, strict=True)]
                wanted = [*([tokens] if by_x else []), *needed]
                grads = _gradients((pooled, attention), given, wanted, create_graph=False)
                if grad_x is not None:
                    part = grads.pop(0)
                    _cut(grad_x, span).copy_(torch.zeros(()) if part is None else part)
                sums = [_sum(*pair) for pair in zip(sums, grads, strict=True)]
            pairs = zip(sums, needed, strict=True)
            sums = [None if total is None else total.to(parameter.dtype) for total, parameter in pairs]
        by_place = iter(sums)
        return grad_x, None, *(next(by_place) if is_needed else None for is_needed in by_parameter)


def _gradients(
    outputs: Sequence[Tensor], upstream: Sequence[Tensor | None], inputs: Sequence[Tensor], create_graph: bool
) -> list[Tensor | None]:
    pairs = [(output, grad) for output, grad in zip(outputs, upstream, strict=True) if grad is not None]
    pairs = [(output, grad) for output, grad in pairs if output.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    return list(
        torch.autograd.grad(
            [output for output, _ in pairs],
            inputs,
            [grad for _, grad in pairs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
    )


def _sum(known: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Add the gradient of another block in float32, because a half would round every partial sum."""
    if more is None:
        return known
    more = more.to(torch.promote_types(more.dtype, torch.float32))
    return more if known is None else known + more
