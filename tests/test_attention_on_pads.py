"""The benchmark of attention on pads, in its short form on a model of random weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import attention_on_pads as measured
from maskpool.encoder import Encoder
from tests.bench import tiny
from tests.command import use_one_process

pytestmark = pytest.mark.full  # the benchmark trains heads


@pytest.fixture(scope="module", autouse=True)
def _quicker() -> Iterator[None]:
    """Use fewer texts than a quick run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "QUICK", replace(measured.QUICK, train=60, test=40, curve=20))
        yield


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Path:
    return model_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write texts in the files and columns of the real sets; some are too long for the smallest width."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("banking77", "snips"):
        (folder / name).mkdir()
    for seed, name in enumerate(("train", "test")):
        with (folder / "banking77" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [*tiny.make_texts(140, seed=seed), (" ".join(["w1"] * 40), "red")]
            csv.writer(file).writerows([("text", "category"), *rows])
    lines = [json.dumps({"text": text, "label": label}) for text, label in tiny.make_texts(150, seed=2, longest=10)]
    (folder / "snips" / "snips.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def run(model: Path, data: Path, states: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out") / "pads.json"
    arguments = ["--quick", "--model", str(model), "--data", str(data), "--states", str(states), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        use_one_process(patch)
        return measured.main(arguments), out


@pytest.fixture(scope="module")
def tasks(run: object, model: Path, data: Path, states: Path) -> list[measured.Task]:
    return measured.read_tasks(Encoder.load(str(model)), data, measured.QUICK, states)[0]


def rows_of(report: dict[str, Any], masked: bool) -> list[dict[str, Any]]:
    return [row for row in report["rows"] if (row["width"] is None) == masked]


@pytest.mark.full  # trains every treatment
def test_every_treatment_of_every_task_is_reported(run: tuple[dict[str, Any], Path]) -> None:
    """The file on disk holds four treatments for each of three tasks, and additive scores on the first; figures too."""
    report, out = run
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == report["rows"]
    kinds = [("BANKING77", "linear"), ("BANKING77", "additive"), ("SNIPS", "linear"), ("SNIPS pairs", "linear")]
    assert [(row["task"], row["scores"], row["width"]) for row in report["rows"]] == [
        (*kind, width) for kind in kinds for width in (None, 32, 64, 128)
    ]
    assert sorted(file.suffix for file in out.parent.iterdir()) == [".json", ".png", ".svg"]
    assert report["tasks"]["BANKING77"]["longer_texts_left_out"] == [1, 1]


@pytest.mark.full  # trains heads
def test_masked_heads_give_pads_nothing(run: tuple[dict[str, Any], Path]) -> None:
    """With the mask, attention on pads is exactly 0 at every look, and every padded width gives the same vectors."""
    for row in rows_of(run[0], masked=True):
        assert row["pad_share"] == 0
        assert {point["mean"] for point in row["curve"]} == {0.0}
        for head, width in ((head, width) for head in row["heads"] for width in measured.WIDTHS):
            assert head[f"attention_on_pads_at_{width}"] == 0
            assert head[f"difference_at_{width}"] <= 1e-6
    assert run[0]["masked_training_at_128_minus_at_32"] <= 1e-6


def test_unmasked_heads_start_uniform(run: tuple[dict[str, Any], Path], tasks: list[measured.Task]) -> None:
    """Before training, attention on pads without the mask is the pads' share of the positions; after, it has moved."""
    lengths = {task.name: task.test.lengths for task in tasks}
    spread = {task.name: measured.spread(task.test, measured.QUICK.curve) for task in tasks}
    for row in rows_of(run[0], masked=False):
        watched = lengths[row["task"]][spread[row["task"]]]
        assert row["curve"][0]["epoch"] == 0
        assert row["curve"][0]["mean"] == pytest.approx(float((1 - watched / row["width"]).mean()), abs=1e-6)
        assert row["pad_share"] == pytest.approx(float((1 - lengths[row["task"]] / row["width"]).mean()))
        assert abs(row["curve"][-1]["mean"] - row["curve"][0]["mean"]) > 1e-3


def test_training_width_keeps_the_accuracy(run: tuple[dict[str, Any], Path]) -> None:
    """At its training width a head has its accuracy after training; at other widths some heads differ."""
    for row in run[0]["rows"]:
        own = "unpadded" if row["width"] is None else str(row["width"])
        for head in row["heads"]:
            assert head["served"][own]["accuracy"] == head["accuracy"]
            assert head["served"][own]["attention_on_pads"] == head["attention_on_pads"]
        assert row["served"][own]["accuracy_change"]["mean"] == 0
    changes = [served["accuracy_change"]["mean"] for row in run[0]["rows"] for served in row["served"].values()]
    assert any(changes)


def test_each_treatment_takes_the_rate_that_validates_best(run: tuple[dict[str, Any], Path]) -> None:
    """Each treatment reports the heads of the learning rate with the best mean validation accuracy."""
    for row in run[0]["rows"]:
        valid = {rate: result["validation_accuracy"]["mean"] for rate, result in row["by_learning_rate"].items()}
        assert valid[str(row["learning_rate"])] == max(valid.values())
        assert row["by_learning_rate"][str(row["learning_rate"])]["accuracy"] == row["accuracy"]
        assert row["accuracy"]["mean"] == pytest.approx(np.mean([head["accuracy"] for head in row["heads"]]))


def test_serving_equals_a_loop(tasks: list[measured.Task]) -> None:
    """Vectors, logits and attention on pads are those of a loop over texts, with the mask and without it."""
    task = tasks[0]
    rows = np.arange(12)
    head = measured.train(task.train, rows, measured.Treatment(64), measured.QUICK, hidden=None, rate=1e-2, seed=3)
    query = head.pooling.query.detach()[0]
    for width in (None, 32, 128):
        pooled, logits, on_pads = measured.serve(head, task.test, rows, width)
        shares = []
        for row in rows:
            length = int(task.test.lengths[row])
            tokens = torch.from_numpy(np.array(task.test.states()[row, : width or length])).float()
            attention = torch.softmax(tokens @ query, dim=0)
            torch.testing.assert_close(pooled[row], attention @ tokens, rtol=1e-4, atol=1e-5)
            shares.append(float(attention[length:].sum()))
        torch.testing.assert_close(logits, pooled @ head.classifier.weight.detach().T + head.classifier.bias.detach())
        assert on_pads == pytest.approx(np.mean(shares), abs=1e-5)


def test_states_of_each_width_are_the_models(tasks: list[measured.Task], model: Path, data: Path) -> None:
    """At each width a head reads the states of the texts padded to that width, in half precision."""
    encoder = Encoder.load(str(model))
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(140, seed=1)])
    of_length = [tokens for tokens in ids if len(tokens) == tasks[0].test.lengths[0]]
    for width in measured.WIDTHS:
        values, mask = tasks[0].test.batch(np.array([0]), width)
        assert values.shape[1] == width
        assert mask.all()
        nearest = (encoder.states(of_length, width)[0] - values).abs().amax(dim=(1, 2)).min()
        assert nearest < 1e-2


def test_half_of_the_texts_carry_two_labels(tasks: list[measured.Task]) -> None:
    """Texts of the third task carry one label or two, and about half carry two."""
    counts = tasks[2].train.targets.sum(axis=1)
    assert set(counts.tolist()) == {1.0, 2.0}
    assert 0.25 < (counts == 2).mean() < 0.75


def test_scores_of_several_labels() -> None:
    """Accuracy requires the whole set of labels; micro-F1 counts labels over all texts."""
    logits = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])
    scores = measured.scores(logits, np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]], dtype=np.float32))
    assert scores == {"accuracy": pytest.approx(1 / 3), "micro_f1": pytest.approx(2 * 3 / (4 + 5))}


def test_training_and_validation_texts_are_disjoint() -> None:
    """The two parts of the training texts are disjoint, cover all texts, and change with the seed."""
    learnt, held = measured.part(50, 0)
    assert sorted([*learnt, *held]) == list(range(50))
    assert len(held) == 10
    assert measured.part(50, 1)[1].tolist() != held.tolist()


def test_watched_texts_are_spread_evenly(tasks: list[measured.Task]) -> None:
    """Watched texts are spread evenly over all texts, because a file may be sorted by label."""
    rows = measured.spread(tasks[0].test, 7)
    assert (rows[0], rows[-1], len(rows)) == (0, len(tasks[0].test.lengths) - 1, 7)
    assert np.ptp(np.diff(rows)) <= 1
    assert len(measured.spread(tasks[0].test, 10_000)) == len(tasks[0].test.lengths)


def test_an_encoder_whose_pads_count_is_refused(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If states depend on the number of pads, nothing is measured and no file is written."""
    planted = tiny.plant(Encoder.load(str(model)), tiny.CountsItsPads)
    monkeypatch.setattr(Encoder, "load", lambda name: planted)
    out = tmp_path / "out" / "pads.json"
    with pytest.raises(SystemExit, match="not the beginning of those at a greater one"):
        measured.main(["--quick", "--model", str(model), "--data", str(data), "--out", str(out)])
    assert not list(out.parent.iterdir())


def test_missing_data_is_reported_in_one_sentence(model: Path, tmp_path: Path) -> None:
    """A folder without the data is reported by name, without a traceback."""
    with pytest.raises(SystemExit, match=r"there is none at .*train\.csv"):
        measured.main(["--quick", "--model", str(model), "--data", str(tmp_path), "--out", str(tmp_path / "o.json")])
