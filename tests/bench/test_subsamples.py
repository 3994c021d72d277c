"""The subsamples of a study: which texts, in which batches, clustered from which seeds."""

from __future__ import annotations

import numpy as np

from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL, OTHER_BATCHES, REPLICATE_SEEDS, make_subsamples
from maskpool.plans import Plan

LENGTHS = np.random.default_rng(0).integers(3, 40, 101)
PLAN = Plan("random", 8)
STUDY = Study(seeds=5, replicates=6, seed=3)
SUBSAMPLES = make_subsamples([PLAN, Plan("sorted", 8)], LENGTHS, STUDY)
HALVES = {number: subsample for number, subsample in SUBSAMPLES.items() if number > 0}


def test_half_samples_are_halves_of_their_own() -> None:
    """Each half-sample is half of the texts, no text twice, and no two half-samples are the same texts."""
    assert len(HALVES) == STUDY.replicates
    assert {len(np.unique(subsample.texts)) for subsample in HALVES.values()} == {len(LENGTHS) // 2}
    assert len({tuple(subsample.texts) for subsample in HALVES.values()}) == STUDY.replicates


def test_no_two_draws_share_a_seed() -> None:
    """All texts are clustered from the study's seeds, each half-sample from its own, so their noise is independent."""
    assert SUBSAMPLES[FULL].seeds == SUBSAMPLES[OTHER_BATCHES].seeds == tuple(range(STUDY.seeds))
    seeds = [seed for subsample in HALVES.values() for seed in subsample.seeds]
    assert len({*seeds, *SUBSAMPLES[FULL].seeds}) == REPLICATE_SEEDS * STUDY.replicates + STUDY.seeds


def test_other_batches_are_of_the_same_texts() -> None:
    """Both subsamples of all texts hold them in order; a random plan batches them otherwise, a sorted one alike."""
    one, other = SUBSAMPLES[FULL], SUBSAMPLES[OTHER_BATCHES]
    assert one.texts.tolist() == other.texts.tolist() == list(range(len(LENGTHS)))
    assert (one.widths[PLAN.name] != other.widths[PLAN.name]).any()
    assert (one.widths["sorted batches of 8"] == other.widths["sorted batches of 8"]).all()
    assert all((subsample.widths[PLAN.name] >= LENGTHS[subsample.texts]).all() for subsample in SUBSAMPLES.values())


def test_draws_are_those_of_the_study_seed() -> None:
    """A study draws the same again, and one with another seed draws other texts and other batches."""
    again, other = (make_subsamples([PLAN], LENGTHS, Study(seeds=5, replicates=6, seed=seed)) for seed in (3, 4))
    for number, subsample in SUBSAMPLES.items():
        np.testing.assert_array_equal(again[number].texts, subsample.texts)
        np.testing.assert_array_equal(again[number].widths[PLAN.name], subsample.widths[PLAN.name])
    assert other[1].texts.tolist() != SUBSAMPLES[1].texts.tolist()
    assert other[FULL].widths[PLAN.name].tolist() != SUBSAMPLES[FULL].widths[PLAN.name].tolist()
