"""Padding leaks by the names under which people met them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maskpool.bench.design.treatments import INCLUDED


@dataclass(frozen=True)
class Leak:
    """One public bug, as a treatment of one pooling.

    Attributes:
        pooling: The mode that the bug spoils.
        treatment: What is pooled instead.
        side: Where the pads stand.
        recreates: The public bug.
    """

    pooling: str
    treatment: str
    side: Literal["right", "left"]
    recreates: str


LEAKS: dict[str, Leak] = {
    "mean over pads": Leak(
        "mean", INCLUDED, "right", "last_hidden_state.mean(1) over a padded batch (huggingface/transformers #17463)"
    ),
    "divided by the batch width": Leak(
        "mean",
        "divided by width",
        "right",
        "real tokens summed, then divided by the padded length (dpressel/mead-baseline pull request 325)",
    ),
    "zeroed pads in a max": Leak(
        "max",
        "zeroed pads",
        "right",
        "tokens multiplied by the mask before the max, so that no feature falls below zero (a recipe of many "
        "repositories; no public thread found)",
    ),
    "last column taken as last token": Leak(
        "lasttoken", INCLUDED, "right", "last_hidden_state[:, -1] of a batch padded on the right (zihangdai/xlnet #73)"
    ),
    "first column taken as cls under left padding": Leak(
        "cls",
        INCLUDED,
        "left",
        "last_hidden_state[:, 0] of a batch padded on the left (sentence-transformers #3208)",
    ),
    "mask not passed to the encoder": Leak(
        "mean",
        "mask not passed",
        "right",
        "model(input_ids) of a padded batch, pooled with the mask or without (lean-dojo/ReProver #34)",
    ),
}
