"""The subsamples of a study: their texts, batches and seeds."""

from __future__ import annotations

import numpy as np

from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL, OTHER_BATCHES, REPLICATE_SEEDS, make_subsamples
from maskpool.plans import Plan

LENGTHS = np.random.default_rng(0).integers(3, 40, 101)
PLAN = Plan("random", 8)
STUDY = Study(seeds=5, replicates=6, seed=3)
CHARACTERS = np.random.default_rng(1).integers(10, 200, 101)
SUBSAMPLES = make_subsamples([PLAN, Plan("sorted", 8)], LENGTHS, CHARACTERS, STUDY)
HALVES = {number: subsample for number, subsample in SUBSAMPLES.items() if number > 0}


def test_half_samples_are_distinct_halves() -> None:
    """Each half-sample has half of the texts without repeats, and no two half-samples have the same texts."""
    assert len(HALVES) == STUDY.replicates
    assert {len(np.unique(subsample.texts)) for subsample in HALVES.values()} == {len(LENGTHS) // 2}
    assert len({tuple(subsample.texts) for subsample in HALVES.values()}) == STUDY.replicates


def test_no_two_draws_share_a_seed() -> None:
    """The full data use the study's seeds and each half-sample uses other seeds, so their noise is independent."""
    assert SUBSAMPLES[FULL].seeds == SUBSAMPLES[OTHER_BATCHES].seeds == tuple(range(STUDY.seeds))
    seeds = [seed for subsample in HALVES.values() for seed in subsample.seeds]
    assert len({*seeds, *SUBSAMPLES[FULL].seeds}) == REPLICATE_SEEDS * STUDY.replicates + STUDY.seeds


def test_other_batches_are_of_the_same_texts() -> None:
    """Both subsamples of all texts keep their order; a random plan batches them differently, a sorted plan equally."""
    full, other = SUBSAMPLES[FULL], SUBSAMPLES[OTHER_BATCHES]
    assert full.texts.tolist() == other.texts.tolist() == list(range(len(LENGTHS)))
    assert (full.widths[PLAN.name] != other.widths[PLAN.name]).any()
    assert (full.widths["sorted batches of 8"] == other.widths["sorted batches of 8"]).all()
    assert all((subsample.widths[PLAN.name] >= LENGTHS[subsample.texts]).all() for subsample in SUBSAMPLES.values())


def test_half_samples_are_sorted_by_their_own_characters() -> None:
    """A sorted plan batches the texts of a half-sample by the characters of these texts."""
    plan = Plan("sorted", 8)
    for half in HALVES.values():
        expected = plan.widths(LENGTHS[half.texts], np.random.default_rng(0), CHARACTERS[half.texts])
        np.testing.assert_array_equal(half.widths[plan.name], expected)


def test_draws_are_those_of_the_study_seed() -> None:
    """Equal seeds draw the same subsamples, and another seed draws other texts and other batches."""
    again, other = (
        make_subsamples([PLAN], LENGTHS, CHARACTERS, Study(seeds=5, replicates=6, seed=seed)) for seed in (3, 4)
    )
    for number, subsample in SUBSAMPLES.items():
        np.testing.assert_array_equal(again[number].texts, subsample.texts)
        np.testing.assert_array_equal(again[number].widths[PLAN.name], subsample.widths[PLAN.name])
    assert other[1].texts.tolist() != SUBSAMPLES[1].texts.tolist()
    assert other[FULL].widths[PLAN.name].tolist() != SUBSAMPLES[FULL].widths[PLAN.name].tolist()
