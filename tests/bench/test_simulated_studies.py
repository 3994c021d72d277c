"""Whole studies of simulated corpora: the coverage of intervals, and the rate of false alarms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import joblib
import numpy as np
import pytest

from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL, make_subsamples
from maskpool.bench.design.treatments import INCLUDED
from maskpool.bench.encode.forward import Pooled, _file, _pairs_file, pair_keys
from maskpool.bench.encode.positions import RIGHT
from maskpool.bench.report.results import Results, _rows
from maskpool.bench.run import FLOOR_FITS
from maskpool.bench.score.fits import Comparison, compute_fits, floor_values
from maskpool.bench.store.cells import Cells
from maskpool.plans import Plan
from tests.matrix import FULL as FULL_SUITE
from tests.matrix import cut

if TYPE_CHECKING:
    from maskpool.plans import Ints

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Make: TypeAlias = Callable[[np.random.Generator], "Simulated"]

PLAN = Plan("random", batch_size=8)
LAYER = -1
SHORTEST, LONGEST = 4, 24
STUDY = Study(poolings=("mean",), plans=(PLAN,), treatments=(INCLUDED,), seeds=3)
FEW = replace(STUDY, replicates=8)


@dataclass(frozen=True)
class Simulated:
    """A corpus with random vectors.

    Attributes:
        codes: Label of each text.
        lengths: Number of tokens of each text.
        treatments: For each pooling the vectors of texts alone, and the vectors with pads of every text at every
            padded length.
    """

    codes: Ints
    lengths: Ints
    treatments: dict[str, tuple[Floats, Floats]]

    def write(self, folder: Path) -> Pooled:
        """Write the vectors to the files of the encoder's vectors."""
        np.save(folder / _pairs_file(RIGHT), pair_keys(*every_pair(self.lengths)))
        for pooling, (alone, padded) in self.treatments.items():
            np.save(folder / _file(RIGHT, "real", LAYER, pooling), alone.astype(np.float32))
            np.save(folder / _file(RIGHT, "whole", LAYER, pooling), padded.astype(np.float32))
        return Pooled(self.lengths, True, folder)


def every_pair(lengths: Ints) -> tuple[Ints, Ints]:
    """Return each text at each length that a batch can pad it to: texts and widths."""
    texts = np.repeat(np.arange(len(lengths)), LONGEST - lengths + 1)
    widths = np.concatenate([np.arange(length, LONGEST + 1) for length in lengths])
    return texts, widths


def diluted_by_pads(rng: np.random.Generator) -> Simulated:
    """Simulate overlapping clusters, and pads that pull each text in a random direction, more pads further."""
    codes = rng.integers(0, 4, 100)
    lengths = rng.integers(SHORTEST, LONGEST + 1, len(codes))
    centres = np.array([[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3]])
    alone = centres[codes] + rng.normal(0, 1, (len(codes), 4))
    pads = rng.normal(0, 1, alone.shape)
    texts, widths = every_pair(lengths)
    real = (lengths[texts] / widths)[:, None]
    return Simulated(codes, lengths, {"mean": (alone, real * alone[texts] + (1 - real) * pads[texts])})


def swapped_by_a_coin(rng: np.random.Generator, poolings: int) -> Simulated:
    """Simulate two equally perturbed vectors of each text; a coin decides which of them has pads."""
    codes = rng.integers(0, 4, 100)
    lengths = rng.integers(SHORTEST, LONGEST + 1, len(codes))
    texts = every_pair(lengths)[0]
    treatments = {}
    for pooling in range(poolings):
        common = 3 * np.eye(4)[codes] + rng.normal(0, 0.7, (len(codes), 4))
        first, second = common + rng.normal(0, 0.7, (2, *common.shape))
        coin = rng.integers(0, 2, (len(codes), 1)) == 1
        treatments[f"pooling {pooling}"] = (np.where(coin, first, second), np.where(coin, second, first)[texts])
    return Simulated(codes, lengths, treatments)


def comparisons_of(corpus: Simulated) -> list[Comparison]:
    return [Comparison(LAYER, pooling, PLAN, INCLUDED, "kmeans") for pooling in corpus.treatments]


def rows_of(corpus: Simulated, study: Study) -> list[Results]:
    """Compute the rows of the study's table that are differences; every treatment and subsample is clustered."""
    comparisons = comparisons_of(corpus)
    subsamples = make_subsamples([PLAN], corpus.lengths, corpus.lengths, study)
    with TemporaryDirectory() as name:
        pooled, cells = corpus.write(Path(name)), Cells(Path(name) / "cells.jsonl")
        for comparison in comparisons:
            for subsample in range(study.replicates + 1):
                for fit, plan in ((comparison.reference(subsample), None), (comparison.fit(subsample), PLAN)):
                    for of_seed in fit.of_seeds(study.seeds):
                        value = compute_fits(pooled, corpus.codes, subsamples[subsample], [of_seed], plan)[0]
                        cells.add(of_seed.key("p"), value, 0)
            about = {"layer": LAYER, "pooling": comparison.pooling}
            reference = comparison.reference(FULL)
            values = floor_values(pooled, corpus.codes, subsamples[FULL], reference, cut(4, FLOOR_FITS))
            cells.add({"kind": "floor", "part": "p", **about, "by": comparison.by, "scored_under": None}, values, 0)
            cells.add(
                {"kind": "shift", "part": "p", **about, "plan": PLAN.name, "treatment": comparison.treatment}, {}, 0
            )
        return [row for row in _rows(study, comparisons, "p", cells) if "delta" in row]


def effect_of(make: Make, seed: int, study: Study) -> float:
    """Return the full-data difference of a new corpus."""
    corpus = make(np.random.default_rng([1, seed]))
    (row,) = rows_of(corpus, replace(study, seed=seed, replicates=2))
    return float(row["delta"])


def covers(make: Make, seed: int, study: Study, truth: float) -> tuple[bool, str, float]:
    """Return whether the interval of a new corpus holds the truth, its row's verdict, and its standard error."""
    (row,) = rows_of(make(np.random.default_rng([0, seed])), replace(study, seed=seed))
    return bool(row["low"] <= truth <= row["high"]), str(row["verdict"]["kind"]), float(row["standard_error"])


def alarms(poolings: int, seed: int, study: Study) -> tuple[bool, bool]:
    """Return whether any interval of a null study leaves out zero, and whether any row counts as lower or higher."""
    rows = rows_of(swapped_by_a_coin(np.random.default_rng([2, seed]), poolings), replace(study, seed=seed))
    return any(row["low"] > 0 or row["high"] < 0 for row in rows), any(
        row["verdict"]["kind"] in ("lowered", "raised") for row in rows
    )


def in_parallel(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return the results of a function for each call, computed on every core in the full suite."""
    if not FULL_SUITE:
        return [function(*call) for call in calls]
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        results: list[Any] = joblib.Parallel(n_jobs=-1)(joblib.delayed(function)(*call) for call in calls)
    return results


# The number of corpora, the number of further corpora whose mean is the truth, and the bounds of the coverage: in the
# long form the required bounds, in the short form those that fewer corpora can show (binomial, 1 in 1,000 beyond). By
# default tests/bench/test_coverage.py simulates differences instead of corpora.
@pytest.mark.parametrize(
    ("study", "corpora", "for_truth", "lowest", "highest"),
    [
        pytest.param(FEW, 8, 24, 0.5, 1.0, id="short", marks=pytest.mark.full),
        pytest.param(STUDY, 1_000, 4_000, 0.93, 0.97, id="long", marks=pytest.mark.full),
    ],
)
def test_coverage_of_the_interval(study: Study, corpora: int, for_truth: int, lowest: float, highest: float) -> None:
    """The interval of a study holds the mean difference over new corpora in 95 of 100 cases.

    Its standard error is the spread of the differences of new corpora, which few corpora show better than the coverage.
    """
    effects = in_parallel(effect_of, [(diluted_by_pads, seed, study) for seed in range(for_truth)])
    truth = float(np.mean(effects))
    assert truth < -0.05, "without an effect the test proves nothing"
    covered = in_parallel(covers, [(diluted_by_pads, seed, study, truth) for seed in range(corpora)])
    coverage = float(np.mean([held for held, _, _ in covered]))
    error = float(np.sqrt(np.mean([standard_error**2 for _, _, standard_error in covered])))
    print(f"coverage {coverage:.3f} of {corpora} corpora, effect {truth:+.4f}")
    print(f"standard error {error:.4f}, spread of differences {np.std(effects, ddof=1):.4f}")
    assert lowest <= coverage <= highest
    assert 0.7 < error / np.std(effects, ddof=1) < 1.6
    assert "raised" not in {kind for _, kind, _ in covered}


@pytest.mark.full  # simulates whole studies; the coverage of intervals is tested by default
@pytest.mark.parametrize(
    ("study", "studies", "poolings", "most"),
    [
        pytest.param(FEW, 4, 2, 0.5, id="short"),
        pytest.param(STUDY, 400, 4, 0.05, id="long", marks=pytest.mark.full),
    ],
)
def test_null_studies_raise_few_alarms(study: Study, studies: int, poolings: int, most: float) -> None:
    """If a coin decides which vector is the padded one, few studies with several poolings report an effect."""
    alarms_of = in_parallel(alarms, [(poolings, seed, study) for seed in range(studies)])
    intervals, effects = np.mean(alarms_of, axis=0)
    print(f"alarms in {effects:.3f} of {studies} null studies, intervals without zero in {intervals:.3f}")
    assert effects <= most
    assert intervals <= most
