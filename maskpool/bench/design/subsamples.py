"""Subsamples: texts that are clustered together, how far each plan pads them, and the clusterer's seeds."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maskpool.bench.design.study import Study
from maskpool.plans import Ints, Plan

REPLICATE_SEEDS = 3
# Number of k-means seeds of baselines, batch effects and heads, which a study with more seeds keeps as well.
OTHER_SEEDS = 5
# Half-sample n has the seeds 5 + 3n to 7 + 3n. They do not depend on the study's number of seeds, so a study that gets
# more seeds keeps its half-samples.
_REPLICATE_SEEDS_AFTER = 5
# Numbers of the two subsamples that hold all texts: the main one, and one with the texts in other batches.
FULL, OTHER_BATCHES = 0, -1


@dataclass(frozen=True)
class Subsample:
    """Texts that are clustered together.

    Attributes:
        number: ``FULL``, ``OTHER_BATCHES``, or the number of a half-sample, from 1.
        texts: Rows of the corpus.
        widths: The padded length of each of these texts, by the name of the plan.
        seeds: Seeds of the clusterer.
        seed: Seed of everything else that is random.
    """

    number: int
    texts: Ints
    widths: Mapping[str, Ints]
    seeds: tuple[int, ...]
    seed: int

    def only(self, *plans: str | None) -> Subsample:
        """Return the subsample without the widths of other plans, which a process for one treatment does not need."""
        return replace(self, widths={plan: self.widths[plan] for plan in plans if plan is not None})

    def rng(self, name: str) -> np.random.Generator:
        """Return a generator of random numbers for one purpose in this subsample."""
        return np.random.default_rng([self.seed, self.number + 1, zlib.crc32(name.encode())])


def make_subsamples(plans: Sequence[Plan], lengths: Ints, characters: Ints, study: Study) -> dict[int, Subsample]:
    """Make the subsamples of a study by number: all texts, all texts in other batches, and the half-samples.

    Args:
        plans: How texts are batched and padded.
        lengths: Tokens of each text.
        characters: Characters of each text.
        study: The study.
    """
    everything = np.arange(len(lengths))
    subsamples = {}
    for number in (FULL, OTHER_BATCHES, *range(1, study.replicates + 1)):
        texts, seeds = everything, range(study.seeds)
        if number > 0:
            order = np.random.default_rng([study.seed, number]).permutation(everything)
            texts = np.sort(order[: len(everything) // 2])
            first = _REPLICATE_SEEDS_AFTER + number * REPLICATE_SEEDS
            seeds = range(first, first + REPLICATE_SEEDS)
        empty = Subsample(number, texts, {}, tuple(seeds), study.seed)
        widths = {plan.name: plan.widths(lengths[texts], empty.rng(plan.name), characters[texts]) for plan in plans}
        subsamples[number] = Subsample(number, texts, widths, tuple(seeds), study.seed)
    return subsamples
