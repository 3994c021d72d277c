"""Padding plans: how texts are put into batches, and how far each is padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from maskpool.errors import InvalidValueError
from maskpool.types import SIDES, Side

Ints: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Order: TypeAlias = Literal["sorted", "sorted_by_tokens", "natural", "random"]


@dataclass(frozen=True)
class Plan:
    """One way of batching and padding.

    Attributes:
        order: The order in which texts fill the batches: ``"sorted"`` by their number of characters, longest first, as
            sentence-transformers' ``encode`` does; ``"sorted_by_tokens"`` by their number of tokens, longest first;
            ``"natural"`` as they come; or ``"random"``.
        batch_size: Texts in a batch.
        pad_to: The padded length: the longest text of each batch, or a fixed number of tokens.
        multiple_of: Padded lengths are rounded up to a multiple of this.
        side: The side of the pads.

    Raises:
        InvalidValueError: An unknown order or side, or a number that is not a positive integer.

    Example:
        >>> plan = Plan("natural", batch_size=2, multiple_of=4)
        >>> [(batch.tolist(), width) for batch, width in plan.batches(np.array([3, 5, 2]), np.random.default_rng(0))]
        [([0, 1], 8), ([2], 4)]
    """

    order: Order = "sorted"
    batch_size: int = 32
    pad_to: Literal["longest"] | int = "longest"
    multiple_of: int = 1
    side: Side = "right"

    def __post_init__(self) -> None:
        """Refuse an invalid plan."""
        for name, known in (("order", get_args(Order)), ("side", SIDES)):
            if getattr(self, name) not in known:
                raise InvalidValueError(
                    name, f"must be one of {', '.join(map(repr, known))}, got {getattr(self, name)!r}"
                )
        numbers = {"batch_size": self.batch_size, "multiple_of": self.multiple_of}
        if self.pad_to != "longest":
            numbers["pad_to"] = self.pad_to
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                also = "'longest' or " if name == "pad_to" else ""
                raise InvalidValueError(name, f"must be {also}a positive integer, got {number!r}")

    @property
    def name(self) -> str:
        """The name of the plan in results."""
        order = "token-sorted" if self.order == "sorted_by_tokens" else self.order
        name = f"{order} batches of {self.batch_size}" if self.pad_to == "longest" else f"padded to {self.pad_to}"
        name += f" to multiples of {self.multiple_of}" if self.multiple_of > 1 else ""
        return name + (", left" if self.side == "left" else "")

    @property
    def happens(self) -> str:
        """The usage that leads to this plan in practice."""
        if self.pad_to != "longest":
            return 'padding="max_length", or a graph of fixed shape'
        return {
            "sorted": "sentence-transformers' encode, which sorts texts by their characters",
            "sorted_by_tokens": "code that sorts tokenized texts by length before it batches them",
            "natural": "padding=True over the texts in the order of their file",
            "random": "padding=True over texts in an order without regard to length",
        }[self.order]

    def batches(
        self, lengths: Ints, rng: np.random.Generator, characters: Ints | None = None
    ) -> list[tuple[Ints, int]]:
        """Return the texts of each batch, and the length to which they are padded.

        Args:
            lengths: Tokens of each text.
            rng: Shuffles the texts if the order is random; not used otherwise.
            characters: Characters of each text, required if the order is ``"sorted"``; not used otherwise.

        Raises:
            InvalidValueError: A text is longer than the fixed length, or ``characters`` are missing or too few or many.
        """
        if self.pad_to != "longest" and len(lengths) and lengths.max() > self.pad_to:
            raise InvalidValueError(
                "pad_to", f"must be at least the longest text, {lengths.max()} tokens, got {self.pad_to}"
            )
        if self.order == "sorted":
            if characters is None or len(characters) != len(lengths):
                got = "none" if characters is None else len(characters)
                raise InvalidValueError(
                    "characters",
                    f"must be the number of characters of each of {len(lengths)} texts, by which a plan of the order "
                    f"'sorted' batches them, got {got}: pass them, or use the order 'sorted_by_tokens'",
                )
            order = np.argsort(-characters)  # sentence-transformers' own call, which decides ties
        elif self.order == "sorted_by_tokens":
            order = np.argsort(-lengths, kind="stable")
        else:
            order = rng.permutation(len(lengths)) if self.order == "random" else np.arange(len(lengths))
        planned = []
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            width = int(lengths[batch].max()) if self.pad_to == "longest" else self.pad_to
            planned.append((batch, -(-width // self.multiple_of) * self.multiple_of))
        return planned

    def widths(self, lengths: Ints, rng: np.random.Generator, characters: Ints | None = None) -> Ints:
        """Return the padded length of each text; the arguments are those of `batches`."""
        widths = np.empty_like(lengths)
        for batch, width in self.batches(lengths, rng, characters):
            widths[batch] = width
        return widths


def default_plans(batch_size: int, pad_to: int) -> list[Plan]:
    """Return the three plans of the default study.

    Random batches are what careless code does, batches sorted by characters are what sentence-transformers does, and a
    fixed length shows padding bugs in full. The order of the file is left out, because a file may be sorted by label.
    """
    return [
        Plan("random", batch_size),
        Plan("sorted", batch_size),
        Plan("sorted", batch_size, pad_to),
    ]
