"""The script that samples studies from real texts counts what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import coverage_on_texts as script
from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import Subsample
from maskpool.bench.part import Grid
from maskpool.bench.score.metrics import cluster_ami
from maskpool.encoder import Encoder
from maskpool.plans import Plan
from tests.bench import tiny

LONGEST = 16
STUDY = Study(
    poolings=("mean", "max"),
    plans=(Plan("random", 4), Plan("sorted", 4, LONGEST)),
    treatments=("included",),
    seeds=2,
    replicates=2,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a run take a second."""
    sizes = {"LABELS": 3, "TEXTS": 24, "STUDIES": 3, "SHUFFLES": 2, "LONGEST": LONGEST, "_AT_ONCE": 1}
    for name, size in sizes.items():
        monkeypatch.setattr(script, name, size)
    monkeypatch.setattr(script, "STUDY", STUDY)
    monkeypatch.setattr(script, "COMPARISONS", Grid(STUDY, STUDY.plans, True, ()).comparisons())


def write_texts(folder: Path, seed: int = 0) -> Path:
    """Write 76 texts of five labels, of which "black" is the rarest."""
    rows = [row for row in tiny.make_texts(90, seed=seed) if row[1] != "black" or len(row[0]) < 40]
    file = tiny.write_csv(folder / "train.csv", rows)
    file.write_text(file.read_text().replace("text,label", "text,category", 1))
    return file


@pytest.mark.full
def test_an_interrupted_run_resumes_to_the_same_results(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was interrupted between studies measures only the missing ones, and ends with the same file."""
    file, whole, parts = write_texts(tmp_path), tmp_path / "whole.json", tmp_path / "parts.json"
    script.main([str(file), "--model", str(model_folder), "--out", str(whole)])
    results = json.loads(whole.read_text())
    assert len(results["studies"]) == script.STUDIES
    of_fixed_length = {tuple(study["delta"][1::2]) for study in results["studies"]}  # depends on no shuffle
    assert len(of_fixed_length) == script.STUDIES
    assert capsys.readouterr().out.split()[0] == ("holds" if results["coverage"] >= script.LEAST else "FAILS")
    measured, real = [], script.measure

    def interrupted(population: script.Population, number: int) -> dict[str, list[float]]:
        measured.append(number)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return real(population, number)

    monkeypatch.setattr(script, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.main([str(file), "--model", str(model_folder), "--out", str(parts)])
    assert json.loads(parts.read_text())["studies"] == results["studies"][:1]
    script.main([str(file), "--model", str(model_folder), "--out", str(parts)])
    assert measured == [0, 1, 1, 2]
    assert json.loads(parts.read_text()) == results


def test_a_study_measures_its_texts_as_they_are_padded(tmp_path: Path, model_folder: Path) -> None:
    """A difference is AMI of vectors pooled with their pads minus AMI of each text run alone."""
    encoder = Encoder.load(str(model_folder))
    corpus, ids = script.read_texts(write_texts(tmp_path), encoder)
    population = script.encode(corpus, ids, encoder, tmp_path)
    rows = np.arange(5, 5 + script.TEXTS)
    subsample = population.subsamples(rows, 0, 2)[0]
    alone = torch.cat([encoder.layers([ids[row]], (-1,))[0].mean(dim=1) for row in rows]).numpy()
    padded = encoder.layers([ids[row] for row in rows], (-1,), LONGEST)[0].mean(dim=1).numpy()
    codes = population.codes[rows]
    expected = [cluster_ami(padded, codes, seed) - cluster_ami(alone, codes, seed) for seed in subsample.seeds]
    place = [(of.pooling, of.plan.pad_to) for of in script.COMPARISONS].index(("mean", LONGEST))
    assert population.differences(subsample)[place].tolist() == pytest.approx(expected)
    assert any(expected)


def test_only_frequent_labels_and_short_texts_are_kept(tmp_path: Path, model_folder: Path) -> None:
    """The labels with the most texts are kept, without texts that the fixed length would cut."""
    encoder = Encoder.load(str(model_folder))
    corpus, ids = script.read_texts(write_texts(tmp_path), encoder)
    assert set(corpus.labels) == {"blue", "green", "red"}  # "white" has as many, but comes later
    assert max(map(len, ids)) == LONGEST
    assert [len(text.split()) + 2 for text in corpus.texts] == list(map(len, ids))


def test_truth_has_separate_orders_and_seeds(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shuffle of the truth clusters all texts in another order with other seeds."""
    encoder = Encoder.load(str(model_folder))
    population = script.encode(*script.read_texts(write_texts(tmp_path), encoder), encoder, tmp_path)
    seen: list[Subsample] = []

    def differences(_: script.Population, subsample: Subsample) -> np.ndarray[Any, np.dtype[np.float64]]:
        seen.append(subsample)
        return np.zeros((4, 2))

    monkeypatch.setattr(script.Population, "differences", differences)
    for shuffle in range(3):
        script.shuffled(population, shuffle)
    assert all(len(subsample.texts) == len(population.codes) for subsample in seen)
    assert len({subsample.widths["random batches of 4"].tobytes() for subsample in seen}) == 3
    assert len({seed for subsample in seen for seed in subsample.seeds}) == 6


def test_a_study_is_covered_if_all_its_intervals_hold() -> None:
    """Shares count studies whose every interval holds the truth, or the mean of the studies."""
    studies = [
        {"delta": [0.0, 0.1], "half_width": [0.11, 0.11]},
        {"delta": [0.0, 0.3], "half_width": [0.11, 0.11]},
        {"delta": [0.2, 0.2], "half_width": [0.11, 0.2]},
        {"delta": [0.2, 0.2], "half_width": [0.25, 0.25]},
    ]
    measured = script.summary([0.05, 0.05], studies)
    assert measured == {
        "coverage": 0.5,
        "coverage_of_each": [0.75, 0.75],
        "coverage_of_mean": 1.0,
        "mean": [0.1, 0.2],
    }


def test_a_missing_file_is_skipped_and_other_texts_are_refused(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the texts nothing is measured; results of other texts are not continued."""
    out = tmp_path / "out.json"
    script.main([str(tmp_path / "no.csv"), "--out", str(out)])
    assert capsys.readouterr().out == f"Nothing was measured: there is no file {tmp_path / 'no.csv'}.\n"
    assert not out.exists()
    monkeypatch.setattr(script, "STUDIES", 1)
    script.main([str(write_texts(tmp_path)), "--model", str(model_folder), "--out", str(out)])
    before = out.read_text()
    with pytest.raises(SystemExit, match="has studies of other texts or another model: remove it"):
        script.main([str(write_texts(tmp_path, seed=1)), "--model", str(model_folder), "--out", str(out)])
    assert out.read_text() == before
