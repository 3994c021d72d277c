"""Positions of padded texts that a vector is pooled from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from maskpool.batch.token_batch import SparseBatch
from maskpool.plans import Ints
from maskpool.types import Side


@dataclass(frozen=True, order=True)
class Source:
    """The kind of a pass: the side of the pads, and whether the encoder got the mask."""

    side: Side = "right"
    masked: bool = True


RIGHT = Source()


@dataclass(frozen=True)
class Windows:
    """Positions of padded texts in a block of states, one entry per padded text.

    Attributes:
        real_tokens: Number of real tokens of each row of the block.
        rows: Row of the block of each entry.
        widths: Padded length of each entry.
        left: Whether the pads are on the left.
    """

    real_tokens: Ints
    rows: Ints
    widths: Ints
    left: bool = False

    @property
    def lengths(self) -> Ints:
        """Real tokens of each entry."""
        return self.real_tokens[self.rows]

    def real(self, states: Annotated[Tensor, "batch seq dim"]) -> SparseBatch:
        """Return the real tokens."""
        starts = self.widths - self.lengths if self.left else np.zeros_like(self.widths)
        return spans(states, self.rows, starts, starts + self.lengths)

    def whole(self, states: Annotated[Tensor, "batch seq dim"]) -> SparseBatch:
        """Return every position."""
        return spans(states, self.rows, np.zeros_like(self.widths), self.widths)

    def pads(self, states: Annotated[Tensor, "batch seq dim"]) -> SparseBatch:
        """Return the pads."""
        starts = np.zeros_like(self.widths) if self.left else self.lengths
        return spans(states, self.rows, starts, starts + self.widths - self.lengths)

    def with_pads(self, states: Annotated[Tensor, "batch seq dim"], source: Ints | None, common: Tensor) -> SparseBatch:
        """Return every position, with the pads replaced.

        Args:
            states: The block of states.
            source: For each row of the block, the row whose pads replace its pads in order, repeated from the first if
                there are fewer; None replaces each pad by ``common``.
            common: The vector of the common pad, (dim,).
        """
        batch, seq, _ = states.shape
        offsets = np.concatenate([[0], np.cumsum(self.widths)])
        of = np.repeat(np.arange(len(self.rows)), self.widths)
        column = np.arange(offsets[-1]) - offsets[of]
        lengths = self.lengths[of]
        is_pad = column < self.widths[of] - lengths if self.left else column >= lengths
        index = self.rows[of] * seq + column
        if source is None:
            index[is_pad] = batch * seq
        else:
            ordinal = (column if self.left else column - lengths)[is_pad]
            other = source[self.rows[of[is_pad]]]
            first = np.zeros_like(other) if self.left else self.real_tokens[other]
            index[is_pad] = other * seq + first + ordinal % (seq - self.real_tokens[other])
        values = torch.cat([states.flatten(0, 1), common.unsqueeze(0)])
        return SparseBatch(values, torch.from_numpy(index), torch.from_numpy(offsets))


def partners(lengths: Ints, seq: int) -> Ints:
    """Find for each text of a block the next text with pads at width ``seq``; the text itself if it is the only one.

    Example:
        >>> partners(np.array([3, 8, 4, 5]), seq=8).tolist()
        [2, 2, 3, 0]
    """
    padded = np.flatnonzero(lengths < seq)
    if not padded.size:
        return np.arange(len(lengths))
    after = np.searchsorted(padded, np.arange(len(lengths)), side="right")
    chosen: Ints = padded[after % len(padded)]
    return chosen


def spans(states: Annotated[Tensor, "batch seq dim"], rows: Ints, starts: Ints, ends: Ints) -> SparseBatch:
    """Make a batch of spans, positions ``starts[i]`` to ``ends[i]`` of row ``rows[i]``, without copying states.

    Example:
        >>> import numpy as np
        >>> batch = spans(torch.zeros(2, 4, 3), np.array([0, 1]), np.array([0, 2]), np.array([2, 4]))
        >>> batch.index.tolist(), batch.offsets.tolist()
        ([0, 1, 6, 7], [0, 2, 4])
    """
    lengths = torch.from_numpy(ends - starts)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    first = torch.from_numpy(rows * states.shape[1] + starts) - offsets[:-1]
    index = torch.arange(int(offsets[-1])) + torch.repeat_interleave(first, lengths)
    return SparseBatch(states.flatten(0, 1), index, offsets)
