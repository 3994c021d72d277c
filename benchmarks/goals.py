"""Goals of the speed of poolings: the largest ratio of maskpool's time to a peer's that each goal allows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import HOST_MODES, LEARNED_RECIPES, MODES, NAN_SAFE
from benchmarks.pooling_latency import SHAPES
from benchmarks.pooling_speed import DIRECTIONS, DTYPES, READ
from maskpool.nn import AttentionPooling, GeneralizedMeanPooling, MeanPooling

FORWARD, BOTH = DIRECTIONS
ONE, EIGHT, EIGHT_WITH_PADS, MANY = (shape if ":" in shape else f"{shape}:1" for shape in SHAPES)
LARGE = "64x512x768:0.3"
ATTENTION = (AttentionPooling.mode,)
OTHERS = tuple(mode for mode in LEARNED_RECIPES if mode not in ATTENTION)


@dataclass(frozen=True)
class Goal:
    """The largest ratio of maskpool's time to a peer's, over the rows of padded batches that it is about.

    Attributes:
        what: The peer and the rows, in words.
        most: The largest ratio.
        modes: Modes of the rows.
        peers: The first of these that a row has is the peer.
        shapes: Shapes of the rows; all if there are none.
        dtype: Dtype of the rows.
        direction: Direction of the rows.
    """

    what: str
    most: float
    modes: Collection[str]
    peers: Sequence[str]
    shapes: Collection[str] = ()
    dtype: str = "float32"
    direction: str = FORWARD

    def ratios(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, str]]:
        """Yield the ratio and the mode of each row that the goal is about."""
        for row in rows:
            times = row["times"]
            peer = next((name for name in self.peers if name in times), None)
            about = (row["dtype"], row["direction"], row["layout"]) == (self.dtype, self.direction, "padded")
            if about and peer and row["mode"] in self.modes and (not self.shapes or row["shape"] in self.shapes):
                yield times["ours"] / times[peer], row["mode"]


GOALS = (
    Goal("sentence-transformers, up to 8 × 32", 1.5, HOST_MODES, ["host"], [ONE, EIGHT]),
    Goal("sentence-transformers, 8 × 32, 70% real", 1.5, HOST_MODES, ["host"], [EIGHT_WITH_PADS]),
    Goal("the recipe of attention, 1 × 16", 2.5, ATTENTION, ["recipe"], [ONE]),
    Goal("the recipe of attention, 32 × 128", 1.3, ATTENTION, ["recipe"], [MANY]),
    Goal("the recipe of attention, 64 × 512, 30% real", 0.6, ATTENTION, ["recipe"], [LARGE]),
    Goal("the recipe of attention that replaces pads, 8 × 32", 1.0, ATTENTION, [NAN_SAFE], [EIGHT, EIGHT_WITH_PADS]),
    Goal("the recipe of attention that replaces pads, 32 × 128", 1.0, ATTENTION, [NAN_SAFE], [MANY]),
    Goal("recipes of other learned poolings, 1 × 16", 2.5, (*OTHERS, GeneralizedMeanPooling.mode), ["recipe"], [ONE]),
    Goal("recipes of other learned poolings, 64 × 512, 30% real", 1.0, OTHERS, ["recipe"], [LARGE]),
    *(
        Goal(
            f"sentence-transformers or the recipe, forward and backward, {dtype}",
            *(1.0, MODES, ["host", "recipe"]),
            dtype=dtype,
            direction=BOTH,
        )
        for dtype in DTYPES
    ),
    *(
        Goal(f"reading the real tokens, mean, {dtype}", 1.5, [MeanPooling.mode], [READ], [LARGE], dtype)
        for dtype in ("float32", "bfloat16")
    ),
)


def largest_ratios(latency: Mapping[str, Any], speed: Mapping[str, Any]) -> Iterator[tuple[Goal, float, str]]:
    """Yield each measured goal with the largest ratio in the results of the two benchmarks, and its mode."""
    rows = [row | {"layout": "padded", "direction": FORWARD, "times": row["median_us"]} for row in latency["rows"]]
    rows += [row | {"times": row["ms"]} for row in speed["rows"]]
    for goal in GOALS:
        largest = max(goal.ratios(rows), default=None)
        if largest is not None:
            yield (goal, *largest)
