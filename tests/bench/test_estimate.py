"""The estimate of what a study would compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from maskpool.bench.design.study import CorpusSource, Study
from maskpool.bench.design.subsamples import FULL
from maskpool.bench.design.treatments import INCLUDED
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.estimate import estimate
from maskpool.bench.part import Grid, Part
from maskpool.bench.run import jobs_of, load_corpora, load_parts, own_cells, run_study
from maskpool.bench.score.fits import Comparison
from maskpool.bench.store.cells import Cells
from maskpool.bench.store.folder import StudyFolder
from maskpool.plans import Plan
from tests.bench import tiny
from tests.command import Silent, make_small


@pytest.fixture(scope="module")
def study(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    folder = tmp_path_factory.mktemp("study")
    tiny.write_csv(folder / "colours.csv", tiny.make_texts(40))
    plans = (Plan("random", 8), Plan("sorted", 8, side="left"))
    return (
        Study(
            models=(str(model_folder),),
            corpora=(CorpusSource(data="colours.csv"),),
            poolings=("mean", "max"),
            plans=plans,
            leaks=("mask not passed to the encoder",),
            seeds=2,
            replicates=2,
        ),
        folder,
    )


@pytest.fixture
def part(study: tuple[Study, Path]) -> Part:
    (only_part,) = load_parts(study[0], load_corpora(*study), "cpu")
    return only_part


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def test_an_estimate_counts_what_is_then_computed(study: tuple[Study, Path], part: Part, tmp_path: Path) -> None:
    """An estimate counts the cells and texts that the study then computes; after the study nothing is missing."""
    before = estimate(part, None)
    assert before["finished"] == 0
    assert before["one_pass_for_all_right_padded_plans"]
    assert set(before["about_seconds"]) == {"encoder", "fits", "other"}
    assert all(value >= 0 for value in before["about_seconds"].values())
    run_study(*study, StudyFolder(tmp_path / "out"), "cpu", Silent())
    cells = Cells(tmp_path / "out" / "cells.jsonl")
    facts_and_proof = 2
    assert before["cells"] == len(cells) - facts_and_proof
    ((_, forward),) = cells.of_kind("forward")
    assert before["texts_for_the_encoder"] == forward["texts"]
    after = estimate(part, cells)
    assert (after["cells"], after["finished"]) == (before["cells"], before["cells"])
    assert after["texts_for_the_encoder"] == 0
    assert after["about_seconds"] == {"encoder": 0, "fits": 0, "other": 0}


# Clustering half of the texts with three seeds takes three seconds, and there are two processes. All texts take twice
# as long, and each of their seeds is a fit.
@pytest.mark.parametrize(("subsample", "share"), [(1, 1.5), (FULL, 1.0)])
def test_an_estimate_grows_with_what_is_missing(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subsample: int, share: float
) -> None:
    """Each finished fit reduces the count by one cell and the time of fits by its share; nothing is written."""
    monkeypatch.setattr("maskpool.bench.estimate.timeit.repeat", lambda *_, **__: [3.0])
    monkeypatch.setattr("maskpool.bench.estimate.joblib.cpu_count", lambda: 2)
    cells = Cells(tmp_path / "cells.jsonl")
    whole = estimate(part, cells)
    assert not list(tmp_path.iterdir())
    fit = Comparison(-1, "mean", part.plans[0], INCLUDED, "kmeans").fit(subsample)
    cells.add(fit.of_seeds(part.study.seeds)[0].key(part.key), {}, 0)
    rest = estimate(part, cells)
    assert rest["finished"] == 1
    assert whole["about_seconds"]["fits"] - rest["about_seconds"]["fits"] == pytest.approx(share)


# Comparing all texts takes four times as long as comparing half of them. A batch effect needs two searches and eleven
# fits; three fits of half of the texts take a second.
@pytest.mark.parametrize(
    ("kind", "share"), [("shift", 2.0), ("batch_effect", 4 + 11 / 3), ("baselines", 5.0), ("head", 1.0)]
)
def test_an_estimate_counts_other_cells(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, share: float
) -> None:
    """Each finished cell of another kind reduces the time of the cells that are not fits by its share."""
    monkeypatch.setattr("maskpool.bench.estimate.timeit.repeat", lambda *_, **__: [1.0])
    monkeypatch.setattr("maskpool.bench.estimate.joblib.cpu_count", lambda: 2)
    monkeypatch.setattr("maskpool.bench.estimate._seconds_a_token", lambda *_: 0.0)
    part = replace(part, study=replace(part.study, poolings=("mean", "attention")))
    cells = Cells(tmp_path / "cells.jsonl")
    whole = estimate(part, cells)
    grid = Grid(part.study, part.plans, True, part.with_pads())
    jobs = jobs_of(part, grid, Pooled(part.lengths, True, tmp_path))
    keys = [*(key for job in jobs for key in job.keys), *own_cells(part)]
    cells.add(next(key for key in keys if key["kind"] == kind), {}, 0)
    rest = estimate(part, cells)
    assert whole["about_seconds"]["other"] - rest["about_seconds"]["other"] == pytest.approx(share, abs=0.1)


def test_a_model_without_the_prefix_property_is_run_for_every_padded_length(part: Part) -> None:
    """If one pass cannot replace all plans, the estimate says so and counts more texts for the encoder."""
    leaking = replace(part, encoder=tiny.plant(part.encoder, tiny.ForgetsItsMask))
    estimated = estimate(leaking, None)
    assert not estimated["one_pass_for_all_right_padded_plans"]
    assert estimated["texts_for_the_encoder"] > estimate(part, None)["texts_for_the_encoder"]
