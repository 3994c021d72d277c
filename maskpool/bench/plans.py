"""Padding plans: how texts are put into batches, and how far each is padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Ints: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Plan:
    """One way of batching and padding, on the right.

    Attributes:
        order: The order in which texts fill the batches.
        batch_size: Texts in a batch.
        pad_to: The padded length: the longest text of each batch, or a fixed number of tokens.
    """

    order: Literal["sorted", "random"]
    batch_size: int
    pad_to: Literal["longest"] | int

    @property
    def name(self) -> str:
        """What the plan is called in results."""
        if self.pad_to != "longest":
            return f"padded to {self.pad_to}"
        return f"{self.order} batches of {self.batch_size}"

    @property
    def happens(self) -> str:
        """How the plan happens to people."""
        if self.pad_to != "longest":
            return 'padding="max_length", or a graph of fixed shape'
        if self.order == "sorted":
            return "a library that sorts texts by length before it batches them"
        return "padding=True over batches in any order"

    def widths(self, lengths: Ints, rng: np.random.Generator) -> Ints:
        """The padded length of each text; ``rng`` shuffles the texts of a random order."""
        if self.pad_to != "longest":
            return np.full_like(lengths, self.pad_to)
        order = np.argsort(lengths, kind="stable") if self.order == "sorted" else rng.permutation(len(lengths))
        widths = np.empty_like(lengths)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            widths[batch] = lengths[batch].max()
        return widths


def default_plans(batch_size: int, pad_to: int) -> list[Plan]:
    """The three plans of the default study: the bug hidden, shown in part, shown in full."""
    return [
        Plan("sorted", batch_size, "longest"),
        Plan("random", batch_size, "longest"),
        Plan("sorted", batch_size, pad_to),
    ]
