"""The pattern of a sparse batch: which rows are real tokens, and where each sentence begins."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from operator import sub
from typing import TypeVar

import torch
from torch import Tensor

from maskpool.types import Index, Lengths, Mask, Offsets, PerToken

_Part = TypeVar("_Part")

# A float32 sum of n equal numbers, added one after the other, is off by up to n * 2**-25. Sums of sums
# of 32 keep the error below 1e-6 at any length; 64 does not, and 16 would take 6 % of extra memory.
CHUNK = 32
# Sentences up to which a list is faster than a dozen small tensors.
_SHORT_LIST = 256
# An index of int32 takes half as long to read, which is 15 % of the time of a sum, if it is longer than this and can
# count the rows.
_SHORT_INDEX, _INT32 = 4096, 2**31 - 1
# Batches without pads share their patterns up to this many tokens; larger batches take longer to pool than to prepare.
_SHARED_TOKENS, _SHARED_PATTERNS = 4096, 32


class Pattern:
    """Sentence ``s`` has the rows ``index[offsets[s]:offsets[s + 1]]``: a CSR matrix without its values.

    What the kernels derive from it is computed once, when it is first needed. A pattern may be shared by batches, so
    nothing writes to its tensors.

    Args:
        index: int64, (tokens,), the rows that are real tokens, sentence after sentence.
        offsets: int64, (sentences + 1,), where each sentence begins in ``index``.
        places: int64, (tokens,), where each token is among all positions, from which positions are counted; None if
            the tokens follow each other without gaps.
        grid: The sizes (batch, seq) of a padded batch whose rows are its positions; None for others.
        **known: Parts that are known already, by name: ``lengths``, or ``positions`` that do not count from the first
            of these tokens.
    """

    def __init__(
        self,
        index: Index,
        offsets: Offsets,
        places: Index | None = None,
        grid: tuple[int, int] | None = None,
        **known: Tensor,
    ) -> None:
        self.index = index
        self.grid = grid
        self.offsets = offsets
        self.tokens = index.numel()
        self.sentences = offsets.numel() - 1
        self._places = places
        self._is_shared = False
        self._parts: dict[Hashable, object] = dict(known.items())

    def once(self, key: Hashable, compute: Callable[[], _Part]) -> _Part:
        """Return the part of this key, which is computed at the first call."""
        part = self._parts.get(key)
        if part is None:  # not an exception, which would take longer than most parts
            with torch.inference_mode(False) if self._is_shared else nullcontext():
                part = self._parts[key] = compute()
        return part  # type: ignore[return-value]  # a key belongs to one type

    def once_for(self, weights: PerToken, key: Hashable, compute: Callable[[], _Part]) -> _Part:
        """Compute a part of weights: once, if the weights are a part of the pattern, else at each call."""
        if not any(weights is part for part in self._parts.values()):
            return compute()
        return self.once((id(weights), key), compute)

    @property
    def lengths(self) -> Lengths:
        """Number of tokens of each sentence, int64."""
        return self.once("lengths", self.offsets.diff)

    @property
    def bounds(self) -> list[int]:
        """``offsets`` as numbers."""
        return self.once("bounds", self.offsets.tolist)

    @property
    def shortest(self) -> int:
        """The length of the shortest sentence; 1 without sentences."""
        return self.once("range", self._range)[0]

    @property
    def longest(self) -> int:
        """The length of the longest sentence; 1 without sentences."""
        return self.once("range", self._range)[1]

    def _range(self) -> tuple[int, int]:
        if self.sentences > _SHORT_LIST:
            shortest, longest = self.lengths.aminmax()
            return int(shortest), int(longest)
        lengths = list(map(sub, self.bounds[1:], self.bounds)) or [1]
        return min(lengths), max(lengths)

    @property
    def owner(self) -> Index:
        """The sentence of each token, int64."""
        return self.once("owner", lambda: self.spread(torch.arange(self.sentences, device="cpu")))

    @property
    def positions(self) -> Index:
        """The distance of each token from its sentence's first real position; holes count."""
        return self.once("positions", self._count_positions)

    def _count_positions(self) -> Index:
        places = torch.arange(self.tokens, device="cpu") if self._places is None else self._places
        if not self.tokens:
            return places
        first = places.index_select(0, self.offsets[:-1].clamp(max=self.tokens - 1))
        return places - self.spread(first)

    @property
    def is_packed(self) -> bool:
        """Whether token ``t`` is row ``t``."""
        return self.once("is_packed", lambda: torch.equal(self.index, torch.arange(self.tokens, device="cpu")))

    def spread(self, per_sentence: Tensor) -> PerToken:
        """Repeat each sentence's number for its tokens."""
        return torch.repeat_interleave(per_sentence, self.lengths, output_size=self.tokens)

    def packed(self) -> Pattern:
        """Return the pattern of the same sentences if ``values[index]`` are the rows."""
        if self.is_packed and (self.grid is None or self.tokens == self.grid[0] * self.grid[1]):
            return self
        known = {name: self._parts[name] for name in ("lengths", "positions") if name in self._parts}
        return Pattern(torch.arange(self.tokens, device="cpu"), self.offsets, self._places, **known)  # type: ignore[arg-type]  # tensors

    # ------------------------------------------------------------------------------------------- pieces of the rows

    def pieces(self, bounds: Sequence[int]) -> Iterator[tuple[int, int, slice | Tensor]]:
        """Cut the tokens at ``bounds``: the start, end and rows of each piece; rows in sequence are a slice."""
        if not self.tokens:
            yield from ((0, 0, slice(0, 0)) for _ in bounds[1:])
            return
        breaks: list[int] = self.once("breaks", lambda: (self.index.diff() != 1).nonzero().view(-1).tolist())
        starts = torch.tensor(bounds[:-1], dtype=torch.int64, device="cpu").clamp_(max=self.tokens - 1)
        firsts = self.index.index_select(0, starts).tolist()
        for (start, end), first in zip(pairwise(bounds), firsts, strict=True):
            place = bisect_left(breaks, start)
            in_sequence = place == len(breaks) or breaks[place] >= end - 1
            yield start, end, slice(first, first + end - start) if in_sequence else self.index[start:end]

    def sentence_rows(self) -> list[tuple[int, int, slice | Tensor]]:
        """Return the start, end and rows of each sentence."""
        return self.once("sentence_rows", lambda: list(self.pieces(self.bounds)))

    # ---------------------------------------------------------------------------------------- inputs of `embedding_bag`

    def index_and_offsets(self, rows: int) -> tuple[Index, Offsets]:
        """Return ``index`` and ``offsets`` in the faster dtype."""
        if self.tokens <= _SHORT_INDEX or rows > _INT32:
            return self.index, self.offsets
        return self.once("int32", lambda: (self.index.to(torch.int32), self.offsets.to(torch.int32)))

    def chunks(self, rows: int) -> list[tuple[Index, Offsets]]:
        """Return the index and offsets of the sums of chunks, of the sums of these sums, and so on."""
        index, offsets = self.index_and_offsets(rows)
        if self.longest <= CHUNK:
            return [(index, offsets)]
        return self.once(("chunks", index.dtype), lambda: self._chunks(index))

    def _chunks(self, index: Index) -> list[tuple[Index, Offsets]]:
        levels, bounds = [], self.bounds
        while True:
            starts: list[int] = []
            next_bounds = [0]
            for start, end in pairwise(bounds):
                starts.extend(range(start, end, CHUNK) or (start,))
                next_bounds.append(len(starts))
            levels.append((index, torch.tensor([*starts, bounds[-1]], dtype=index.dtype, device="cpu")))
            if len(starts) == self.sentences:
                return levels
            index, bounds = torch.arange(len(starts), dtype=index.dtype, device="cpu"), next_bounds

    # ------------------------------------------------------------------------------------------------ other patterns

    def by_head(self, heads: int, sliced: bool) -> Pattern:
        """Return the pattern of every token once per head, heads one after the other and sentences within them.

        With ``sliced``, each row is cut into as many rows as there are heads, and a head has its own.
        """

        def by_head() -> Pattern:
            starts = torch.arange(heads, device="cpu").unsqueeze(1) * self.tokens + self.offsets[:-1]
            index = self.index.expand(heads, -1)
            index = index * heads + torch.arange(heads, device="cpu").unsqueeze(1) if sliced else index
            return Pattern(
                index.reshape(-1), torch.cat([starts.view(-1), torch.tensor([heads * self.tokens], device="cpu")])
            )

        return self.once(("heads", heads, sliced), by_head)

    def as_one(self) -> Pattern:
        """Return the pattern of one sentence that has the tokens of all."""
        return self.once("one", lambda: Pattern(self.index, torch.tensor([0, self.tokens], device="cpu")))

    def repeated(self, times: int) -> Pattern:
        """Return the pattern in which every token follows itself ``times`` times, for weights in as many parts."""

        def repeat() -> Pattern:
            index = self.index.unsqueeze(1).expand(-1, times).reshape(-1)
            return Pattern(index, self.offsets * times)

        return self.once(("repeated", times), repeat)

    def transposed(self, rows: int) -> tuple[Index | None, Pattern]:
        """Return the order of the tokens by row, None if it is theirs, and the pattern of each row's sentences."""
        return self.once(("transposed", rows), lambda: self._transposed(rows))

    def _transposed(self, rows: int) -> tuple[Index | None, Pattern]:
        order, offsets = _sorted_by(self.index, rows)
        return order, Pattern(self.owner if order is None else self.owner.index_select(0, order), offsets)


def _sorted_by(keys: Index, number: int) -> tuple[Index | None, Offsets]:
    """Return the order that sorts tokens by key, None if they are sorted, and where the tokens of each key begin."""
    counts = torch.zeros(number + 1, dtype=torch.int64, device="cpu").index_add_(0, keys + 1, torch.ones_like(keys))
    in_order = not (keys.diff() < 0).any()  # as rows of a contiguous batch always are
    return None if in_order else keys.argsort(stable=True), counts.cumsum(0)


def without_pads(batch: int, seq: int) -> Pattern:
    """Return the pattern of a contiguous padded batch in which every token is real."""
    if batch * seq > _SHARED_TOKENS:
        return _without_pads(batch, seq)
    pattern = _shared(batch, seq)
    if pattern.index._version or pattern.offsets._version:  # a caller wrote to what a batch showed it
        _shared.cache_clear()
        pattern = _shared(batch, seq)
    return pattern


def of_mask(mask: Mask) -> Pattern:
    """Return the pattern of a contiguous padded batch."""
    places = mask.bool().reshape(-1).nonzero().view(-1)
    batch, seq = mask.shape
    offsets = torch.searchsorted(places, _row_ends(batch, seq))
    return Pattern(places, offsets, places, (batch, seq))


def _without_pads(batch: int, seq: int) -> Pattern:
    return Pattern(torch.arange(batch * seq, device="cpu"), _row_ends(batch, seq).clone(), grid=(batch, seq))


@lru_cache(maxsize=_SHARED_PATTERNS)
def _shared(batch: int, seq: int) -> Pattern:
    with torch.inference_mode(False):  # tensors of the inference mode cannot be used in training
        pattern = _without_pads(batch, seq)
    pattern._is_shared = True
    return pattern


@lru_cache(maxsize=_SHARED_PATTERNS)
def _row_ends(batch: int, seq: int) -> Offsets:
    with torch.inference_mode(False):
        return torch.arange(batch + 1, device="cpu") * seq
