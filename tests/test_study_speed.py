"""The benchmark of a study's cells compares the same cells and counts all of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import study_speed
from benchmarks.study_speed import NOW, PLAIN
from maskpool.bench.design.corpora import Corpus
from maskpool.bench.run import Job
from maskpool.bench.score.measures import compute_shifts
from tests.bench import tiny


@pytest.mark.full  # trains learned poolings
def test_study_speed_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both contestants compute cells of every kind with the same values, and a report is written."""
    texts, labels = zip(*tiny.make_texts(150, longest=60), strict=True)
    monkeypatch.setattr(study_speed, "docstrings", lambda: Corpus("colours", list(texts), list(labels)))
    out = tmp_path / "new" / "speed.json"
    report = study_speed.main(["--quick", "--model", str(tiny.save_model(tmp_path / "model")), "--out", str(out)])
    assert json.loads(out.read_text(encoding="utf-8")) == report
    (study,) = report["studies"].values()
    assert {"shift", "floor", "batch_effect", "kmeans, all texts", "kmeans, a half-sample"} <= study["cells"].keys()
    assert study["kmeans"]["same_labels"] == study["kmeans"]["seeds"]
    assert study["neighbours"]["different"] == 0


def test_a_sample_counts_for_all_cells_of_its_kind() -> None:
    """The seconds of a kind are those of its sample, times its cells over the cells of the sample."""
    jobs = [Job([{"kind": "floor"}] * 2, lambda _: [0.5, 0.5], ("vectors",)) for _ in range(6)]
    report = study_speed.time_cells(jobs, 2, Console(quiet=True))["floor"]
    assert (report["cells"], report["sampled"], report["largest_difference"]) == (12, 4, 0)


def test_other_values_stop_the_run() -> None:
    """A cell that has another value the plain way is refused."""
    values = itertools.count()
    jobs = [Job([{"kind": "floor"}], lambda _: [float(next(values))], ("vectors",))]
    with pytest.raises(ValueError, match="those of floor differ by 1"):
        study_speed.time_cells(jobs, 1, Console(quiet=True))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"a": [0.5, 1.0]}, {"a": [0.5, 1.25]}, 0.25),
        ({"a": 1}, {"b": 1}, np.inf),
        ([1.0], [1.0, 2.0], np.inf),
        ("x", "y", np.inf),
        ([True, None, "x"], [True, None, "x"], 0.0),
    ],
)
def test_differences_of_values(first: Any, second: Any, expected: float) -> None:  # Any: JSON
    """Numbers differ by their distance, and everything else by infinity."""
    assert study_speed.difference(first, second) == expected


def test_shifts_are_sampled_by_searches() -> None:
    """Of eight shifts two are timed: three of nine searches as a study does, and four of sixteen the plain way."""
    job, times = study_speed.sampled(
        Job([{"kind": "shift"}] * 8, compute_shifts, ("pooled", "subsample", list("abcdefgh")))
    )
    assert job.arguments == ("pooled", "subsample", ["a", "b"])
    assert times == {NOW: 3, PLAIN: 4}


def test_each_bar_is_required() -> None:
    """A study that is too slow, fits worse, scores otherwise or has other neighbours misses its bar."""
    study = {
        "gain": 1.9,
        "kmeans": {"inertia_ratio": 1.002, "ami_difference": [0.1, 0.01], "seeds": 100},
        "neighbours": {"different": 1},
    }
    compared = study_speed.compare({"default": study}, {"passes": 1.1})
    assert not any(bar["reached"] for bars in compared.values() for bar in bars.values())
    study = {
        "gain": 2.1,
        "kmeans": {"inertia_ratio": 1.0, "ami_difference": [0.0, 0.0], "seeds": 100},
        "neighbours": {"different": 0},
    }
    compared = study_speed.compare({"default": study}, {"passes": 0.9})
    assert all(bar["reached"] for bars in compared.values() for bar in bars.values())
