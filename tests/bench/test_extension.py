"""A finished study is extended: only what is new is computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

from maskpool.bench.design.study import Study
from maskpool.bench.report.results import results_of
from maskpool.bench.run import load_corpora, run_study
from maskpool.bench.score.fits import compute_fits
from maskpool.bench.score.heads import _train
from maskpool.bench.store.folder import StudyFolder
from maskpool.encoder import Encoder
from maskpool.errors import InvalidValueError
from maskpool.integrations.sentence_transformers import Pooling
from maskpool.plans import Plan
from tests.bench import tiny
from tests.bench.test_resume import SMALL, Quiet, write_base
from tests.command import use_one_process, without_times
from tests.matrix import sampled

STUDY = SMALL
# By what is added: the study, and the kinds of cells that are computed again besides those that describe a whole study.
ADDITIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "pooling": ({"poolings": ("mean", "max")}, set()),
    "plan": ({"plans": (*STUDY.plans, Plan("sorted", 16))}, set()),
    "treatment": ({"treatments": ("included", "noise")}, set()),
    "bug": ({"leaks": ("divided by the batch width",)}, set()),
    "clusterer": ({"clusterers": ("kmeans", "minibatch_kmeans")}, set()),
    "half-sample": ({"replicates": 3}, set()),
    "seed": ({"seeds": 3}, set()),
    "layer": ({"layers": (-1, 0)}, {"proof"}),
    "longer plan": ({"plans": (*STUDY.plans, Plan("sorted", 16, 64))}, {"proof"}),
}


def write_finished(folder: Path) -> Path:
    """Write a model, a corpus, and the folder of a finished study of them."""
    write_base(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_one_process(patch)
        run(STUDY, folder, folder / "finished")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.chdir(base)
    monkeypatch.setattr("maskpool.bench.score.intervals._DRAWS", 1_000)
    use_one_process(monkeypatch)


def run(study: Study, base: Path, out: Path) -> None:
    """Run a study on one thread, so sums are rounded alike."""
    with threadpool_limits(1):
        run_study(study, base, StudyFolder(out), "cpu", Quiet())


def cells_of(out: Path) -> dict[str, dict[str, Any]]:
    """Return the cells by key."""
    cells = map(json.loads, (out / "cells.jsonl").read_text(encoding="utf-8").splitlines())
    return {json.dumps(cell["key"], sort_keys=True): cell for cell in cells}


def close_to(value: Any) -> Any:
    """Return JSON whose numbers equal others up to the rounding of the encoder at another padded length."""
    if isinstance(value, dict):
        return {name: close_to(item) for name, item in value.items()}
    if isinstance(value, list):
        return [close_to(item) for item in value]
    return pytest.approx(value, rel=1e-6, abs=1e-6) if isinstance(value, float) else value


@pytest.mark.parametrize("addition", sampled(ADDITIONS, every=2))
def test_an_addition_computes_only_what_is_new(base: Path, tmp_path: Path, addition: str) -> None:
    """An extended study keeps all cells, computes no cell twice, and reports what a new study of that size reports."""
    changes, again = ADDITIONS[addition]
    study = replace(STUDY, **changes)
    shutil.copytree(base / "finished", tmp_path / "extended")
    before = (tmp_path / "extended" / "cells.jsonl").read_bytes()
    run(study, base, tmp_path / "extended")
    run(study, base, tmp_path / "new")
    assert (tmp_path / "extended" / "cells.jsonl").read_bytes().startswith(before)
    kept, extended, new = (cells_of(folder) for folder in (base / "finished", tmp_path / "extended", tmp_path / "new"))
    added = extended.keys() - kept.keys()
    assert added == new.keys() - kept.keys(), "the addition computed something that no study of that size needs"
    repeated = {extended[key]["key"]["kind"] for key in kept.keys() - new.keys()}
    assert repeated == {"facts", "forward", *again}
    for key, cell in new.items():
        assert without_times(extended[key]["value"]) == close_to(without_times(cell["value"])), key
    results = [without_times(results_of(StudyFolder(tmp_path / name))) for name in ("extended", "new")]
    assert results[0] == close_to(results[1])


def counted(calls: list[Any], function: Callable[..., Any], what: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls.append(what(*arguments))
        return function(*arguments)

    return call


def test_another_seed_trains_fits_and_encodes_only_what_is_new(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed makes one fit for each treatment of all texts, trains two heads, and encodes each text once."""
    for least in ("_FEWEST_EPOCHS", "_FEWEST_STEPS"):
        monkeypatch.setattr(f"maskpool.integrations.sklearn.heads.{least}", 1)
    study = replace(STUDY, poolings=("mean", "attention"))
    run(study, base, tmp_path / "out")
    before = cells_of(tmp_path / "out")
    fits: list[int] = []
    heads: list[Any] = []
    encoded: list[int] = []
    monkeypatch.setattr("maskpool.bench.run.compute_fits", counted(fits, compute_fits, lambda *given: len(given[3])))
    monkeypatch.setattr("maskpool.bench.score.heads._train", counted(heads, _train, lambda *given: given[-1]))
    monkeypatch.setattr(Encoder, "layers", counted(encoded, Encoder.layers, lambda *given: len(given[1])))
    for name in ("floor_values", "compute_shifts", "batch_effect", "baselines", "seconds", "prove_prefix"):
        monkeypatch.setattr(f"maskpool.bench.run.{name}", pytest.fail)
    run(replace(study, seeds=3), base, tmp_path / "out")
    assert sorted(encoded) == [1, 1, 30, 30]  # single texts show what the model gives
    assert heads == [2, 2]
    added = [cell["key"] for key, cell in cells_of(tmp_path / "out").items() if key not in before]
    assert {(key["subsample"], key["seed"]) for key in added if key["kind"] == "fit"} == {(0, 2)}
    assert sum(fits) == sum(key["kind"] == "fit" for key in added) > 0


def test_quotes_are_added_to_a_finished_study(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished study that may quote texts gains only the quotes, and one that no longer may reports none."""
    shutil.copytree(base / "finished", out := tmp_path / "out")
    before, plain = cells_of(out), results_of(StudyFolder(out))
    monkeypatch.setattr("maskpool.bench.run.pool_corpus", pytest.fail)
    run(replace(STUDY, quote=True), base, out)
    added = [cell for key, cell in cells_of(out).items() if key not in before]
    (effect,) = results_of(StudyFolder(out))["parts"][0]["batch_effect"]
    assert [(cell["key"]["kind"], cell["value"]) for cell in added] == [("quotes", effect["quotes"])]
    texts, labels = zip(*tiny.make_texts(60), strict=True)
    rows = {
        row
        for example in effect["examples"]
        for of_text in ([example["text"]], *example["neighbours"])
        for row in of_text
    }
    assert effect["quotes"] == {str(row): [texts[row], labels[row]] for row in sorted(rows)} != {}
    run(STUDY, base, out)
    assert results_of(StudyFolder(out)) == plain


def test_a_saved_head_is_added_but_its_weights_stay(base: Path, tmp_path: Path) -> None:
    """A saved head is added like a mode; a head with other weights under its name is refused, and no cell is added."""
    shutil.copytree(base / "finished", tmp_path / "out")
    finished, head = cells_of(tmp_path / "out"), tmp_path / "head"
    head.mkdir()
    Pooling(32, "attention").save(str(head))
    study = replace(STUDY, poolings=("mean", str(head)))
    run(study, base, tmp_path / "out")
    added = cells_of(tmp_path / "out")
    fits = [cell["key"] for key, cell in added.items() if key not in finished and cell["key"]["kind"] == "fit"]
    assert {key["pooling"] for key in fits} == {str(head)}
    weights = Pooling(32, "attention")
    torch.nn.init.normal_(weights.pooling.get_parameter("query"))
    weights.save(str(head))
    with pytest.raises(InvalidValueError, match="measured with other weights of the head in"):
        run(study, base, tmp_path / "out")
    assert cells_of(tmp_path / "out") == added


def test_a_study_without_a_plan_of_its_folder_is_refused(base: Path, tmp_path: Path) -> None:
    """A study that lacks a plan of the folder's study is refused with the plan's name."""
    shutil.copytree(base / "finished", tmp_path / "out")
    with pytest.raises(InvalidValueError, match=r"also has random batches of 16, which its report would lose"):
        run(replace(STUDY, plans=(Plan("sorted", 16),)), base, tmp_path / "out")


def test_cells_that_depend_on_the_longest_length_keep_it(base: Path, tmp_path: Path) -> None:
    """A longer plan is refused where the mean of all pads was measured, which would be that of other pads."""
    shutil.copytree(base / "finished", tmp_path / "out")
    study = replace(STUDY, treatments=("included", "common pad"))
    run(study, base, tmp_path / "out")
    finished = cells_of(tmp_path / "out")
    with pytest.raises(InvalidValueError, match=r"common pad in .* were measured with pads up to"):
        run(replace(study, plans=(*STUDY.plans, Plan("sorted", 16, 64))), base, tmp_path / "out")
    assert cells_of(tmp_path / "out") == finished


def test_rows_that_are_left_out_are_counted_again(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file gains or loses rows that are left out, a finished study reports the new counts and computes nothing."""
    shutil.copytree(base / "finished", out := tmp_path / "out")
    before, lines = results_of(StudyFolder(out)), sorted((out / "cells.jsonl").read_bytes().splitlines())
    monkeypatch.setattr("maskpool.bench.encode.forward.pool_corpus", pytest.fail)
    for dropped in ({"without a label": 2}, {"without a label": 2, "without a text": 1}, {}):
        loaded = [replace(corpus, dropped=dropped) for corpus in load_corpora(STUDY, base)]
        monkeypatch.setattr("maskpool.bench.run.load_corpora", lambda *_, loaded=loaded: loaded)
        run(STUDY, base, out)
        results = results_of(StudyFolder(out))
        corpus = results["parts"][0]["corpus"]
        assert (corpus["dropped"], corpus["rows"]) == (dropped, corpus["texts"] + sum(dropped.values()))
        changed = set(lines) ^ set((out / "cells.jsonl").read_bytes().splitlines())
        assert {json.loads(line)["key"]["kind"] for line in changed} <= {"facts"}
    assert results == before
