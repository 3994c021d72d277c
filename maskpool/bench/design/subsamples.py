"""Draws: texts that are clustered together, how far each plan pads them, and the clusterer's seeds."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maskpool.bench.design.study import Study
from maskpool.plans import Ints, Plan

REPLICATE_SEEDS = 3
# Numbers of the subsamples that hold all texts: the one that results are of, and one that shuffles them anew.
FULL, OTHER_BATCHES = 0, -1


@dataclass(frozen=True)
class Subsample:
    """Texts that are clustered together.

    Attributes:
        number: ``FULL``, ``OTHER_BATCHES``, or that of a half-sample, from 1.
        texts: Rows of the corpus.
        widths: For each plan by name, the padded length of each of these texts.
        seeds: Of the clusterer.
        seed: Of whatever else is random in it.
    """

    number: int
    texts: Ints
    widths: Mapping[str, Ints]
    seeds: tuple[int, ...]
    seed: int

    def only(self, *plans: str | None) -> Subsample:
        """The subsample without the widths of other plans: what a process needs that clusters one treatment."""
        return replace(self, widths={plan: self.widths[plan] for plan in plans if plan is not None})

    def rng(self, name: str) -> np.random.Generator:
        """Random numbers of this subsample, for one purpose."""
        return np.random.default_rng([self.seed, self.number + 1, zlib.crc32(name.encode())])


def make_subsamples(plans: Sequence[Plan], lengths: Ints, study: Study) -> dict[int, Subsample]:
    """Every subsample of a study, by number: all texts, all texts in other batches, and the half-samples."""
    everything = np.arange(len(lengths))
    found = {}
    for number in (FULL, OTHER_BATCHES, *range(1, study.replicates + 1)):
        texts, seeds = everything, range(study.seeds)
        if number > 0:
            order = np.random.default_rng([study.seed, number]).permutation(everything)
            texts = np.sort(order[: len(everything) // 2])
            first = study.seeds + number * REPLICATE_SEEDS
            seeds = range(first, first + REPLICATE_SEEDS)
        empty = Subsample(number, texts, {}, tuple(seeds), study.seed)
        widths = {plan.name: plan.widths(lengths[texts], empty.rng(plan.name)) for plan in plans}
        found[number] = Subsample(number, texts, widths, tuple(seeds), study.seed)
    return found
