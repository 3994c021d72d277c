"""Treatments: the positions that a text's vector is pooled from instead of its real tokens.

To add a treatment, write it here: a `Treatment`, or a subclass that changes the vectors after they are pooled. Only a
treatment that pools new positions needs more: their name in `Positions`, and the method of that name of
`maskpool.bench.encode.positions.Windows`, which finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maskpool.bench.vectors import Vectors, unit
from maskpool.nn import MaxPooling, MeanPooling, MinPooling
from maskpool.plans import Ints

# The positions of a padded text that a treatment pools.
Positions = Literal["real", "whole", "pads", "common", "another"]


@dataclass(frozen=True)
class PooledTexts:
    """The input of a treatment.

    Attributes:
        vectors: (texts, dim), pooled from the treatment's positions.
        lengths: Number of real tokens of each text.
        widths: Padded length of each text.
        pooling: Mode of the pooling.
        alone: Returns the vectors of the same texts alone, unpadded, (texts, dim).
        rng: Returns a generator of random numbers for one purpose in this subsample and plan.
    """

    vectors: Vectors
    lengths: Ints
    widths: Ints
    pooling: str
    alone: Callable[[], Vectors]
    rng: Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Treatment:
    """One treatment of padded texts.

    Attributes:
        name: Its name in studies and results.
        meaning: What is pooled, in words.
        positions: The positions of a padded text that are pooled.
        masked: Whether the encoder gets the mask.
        padded_texts_only: Whether only texts with a pad are scored.
        poolings: The modes that it applies to; empty for all.
        sentence: What the report says of its result, with the fields ``{ami}``, ``{reference}`` (the AMI of the real
            tokens) and ``{difference}``; empty for nothing.
    """

    name: str
    meaning: str
    positions: Positions
    masked: bool = True
    padded_texts_only: bool = False
    poolings: tuple[str, ...] = ()
    sentence: str = ""

    def apply(self, texts: PooledTexts) -> Vectors:
        """Return the vectors of the treatment, (texts, dim)."""
        return texts.vectors


class Noise(Treatment):
    """Real tokens, moved at random as far as the pads move them."""

    def apply(self, texts: PooledTexts) -> Vectors:
        """Return the vectors of real tokens, each turned at random until its cosine to them is that of the pads."""
        return matched_noise(texts.alone(), texts.vectors, texts.rng("noise"))


class OtherTexts(Treatment):
    """The vectors of other texts."""

    def apply(self, texts: PooledTexts) -> Vectors:
        """Return the vectors in another order, in which every vector changes its place."""
        # The purpose is a part of the seed of published results.
        order = texts.rng("strangers").permutation(len(texts.vectors))
        others = np.empty_like(texts.vectors)
        others[order] = texts.vectors[np.roll(order, 1)]
        return others


class DividedByWidth(Treatment):
    """A mean that divides by the padded length."""

    def apply(self, texts: PooledTexts) -> Vectors:
        """Return means of real tokens, scaled by length / width."""
        scaled: Vectors = (texts.vectors * (texts.lengths / texts.widths)[:, None]).astype(np.float32)
        return scaled


class ZeroedPads(Treatment):
    """A maximum or minimum over real tokens and zeros."""

    def apply(self, texts: PooledTexts) -> Vectors:
        """Return the extremes of real tokens, and of a zero where a text has a pad."""
        extreme = np.maximum if texts.pooling == MaxPooling.mode else np.minimum
        return np.where((texts.widths > texts.lengths)[:, None], extreme(texts.vectors, 0), texts.vectors)


EXCLUDED, INCLUDED, NOISE = "excluded", "included", "noise"
# Positions whose vectors depend on the longest padded length of a study.
OF_TOP = ("common", "another")
TREATMENTS: dict[str, Treatment] = {
    treatment.name: treatment
    for treatment in (
        Treatment(EXCLUDED, "only real tokens: what the mask is for", "real"),
        Treatment(INCLUDED, "every position of the padded text, as if there were no mask", "whole"),
        Treatment(
            "pads only",
            "only the pads, over the texts that have any: how much of the sentence they encode",
            "pads",
            padded_texts_only=True,
            sentence="Only the pads reach an AMI of {ami:.3f} where the real tokens of the same texts reach "
            "{reference:.3f}: Δ {difference}.",
        ),
        Treatment(
            "common pad",
            "included, each pad replaced by one vector, the mean of many texts' pads",
            "common",
            sentence="One vector in place of every pad: Δ {difference}.",
        ),
        Treatment(
            "another's pads",
            "included, each pad replaced by one of another text",
            "another",
            sentence="Another text's pads in place of the text's pads: Δ {difference}.",
        ),
        OtherTexts(
            "another's pads only",
            "only the pads of another text, over the texts that have any: the score by chance",
            "pads",
            padded_texts_only=True,
            sentence="Only another text's pads, the score by chance: Δ {difference}.",
        ),
        Noise(
            NOISE,
            "excluded, turned at random until its cosine to excluded is that of included, for each text",
            "whole",
        ),
        DividedByWidth(
            "divided by width",
            "real tokens summed, divided by the padded length",
            "real",
            poolings=(MeanPooling.mode,),
        ),
        ZeroedPads(
            "zeroed pads", "real tokens, and a zero for the pads", "real", poolings=(MaxPooling.mode, MinPooling.mode)
        ),
        Treatment("mask not passed", "real tokens of an encoder that got no mask", "real", masked=False),
    )
}

# Treatments of mixed plans, which score one treatment against another in their own way.
INDEX, FIT = "index padded, query alone", "fit padded, predict alone"
MIXED = {
    INDEX: "an index of vectors with pads included, queried with each text alone: share of texts whose nearest other "
    "text has the same label (1-NN accuracy)",
    FIT: "k-means fitted on half of the texts with pads included; the texts of the other half, each alone, are "
    "assigned to its clusters: AMI of that half",
}


def matched_noise(reference: Vectors, other: Vectors, rng: np.random.Generator) -> Vectors:
    """Turn each vector of ``reference`` in a random direction, as far as ``other`` is from it, with its length.

    The result is ‖o‖ (c·u + √(1 − c²)·n), with u the unit vector of the reference, c the cosine of the text's two
    vectors and n a random unit vector orthogonal to u. The shift has the same size as that of the pads but does not
    depend on them, so it shows what a shift of this size does to clusters.
    """
    sizes = np.linalg.norm(other, axis=1, keepdims=True)
    reference, other = unit(reference), unit(other)
    cosine = np.clip((reference * other).sum(axis=1, keepdims=True), -1, 1)
    noise = rng.standard_normal(reference.shape, dtype=np.float32)
    noise -= (noise * reference).sum(axis=1, keepdims=True) * reference
    turned: Vectors = (sizes * (cosine * reference + np.sqrt(1 - cosine**2) * unit(noise))).astype(np.float32)
    return turned
