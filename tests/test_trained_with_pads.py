"""The benchmark of models trained with pads, in its short form on a model of random weights."""

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
from scipy import stats

from benchmarks import trained_with_pads as measured
from maskpool.bench.design.corpora import Corpus
from maskpool.encoder import Encoder
from maskpool.errors import InvalidValueError
from tests.bench import tiny

CLASSES = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write texts of a few classes in the files and columns of the real set; some are too long to be used."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "banking77").mkdir()
    for seed, name in enumerate(("train", "test")):
        with (folder / "banking77" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            texts = [text for text, _ in tiny.make_texts(10 * CLASSES, seed=seed)]
            rows = [(text, f"class {number % CLASSES}") for number, text in enumerate(texts)]
            long = (" ".join(["w1"] * 70), "class 0")
            csv.writer(file).writerows([("text", "category"), *rows, long])
    return folder


@pytest.fixture(scope="module", autouse=True)
def _quicker() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "QUICK", replace(measured.QUICK, pairs=3))
        yield


@pytest.fixture(scope="module")
def run(model_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out") / "trained.json"
    return measured.main(["--quick", "--model", str(model_folder), "--data", str(data), "--out", str(out)]), out


def _read(out: Path) -> dict[str, Any]:
    return {file.name: json.loads(file.read_text(encoding="utf-8")) for file in out.with_suffix("").iterdir()}


@pytest.mark.full  # trains eight models
def test_every_seed_has_every_arm(run: tuple[dict[str, Any], Path]) -> None:
    """Each seed has one file for each arm, with the padding of both columns and every way of serving."""
    report, out = run
    cells = _read(out)
    assert len(cells) == measured.QUICK.seeds * len(measured.ARMS)
    assert report == json.loads(out.read_text(encoding="utf-8"))
    assert report["seeds"] == measured.QUICK.seeds
    assert report["settings"]["left_out"] == {"train": 1, "test": 1}
    for cell in cells.values():
        assert len(cell["served"]) == 1 + len(measured.PLANS)
        assert (cell["seen_classes"], cell["unseen_classes"]) == (CLASSES // 2, CLASSES // 2)
        if cell["arm"] != "untrained":
            widths = {column["mean_width"] for column in cell["columns"].values()}
            assert (widths == {measured.TOP}) == (cell["arm"] == "included at width 128")


@pytest.mark.full  # the same
def test_only_pads_move_vectors(run: tuple[dict[str, Any], Path]) -> None:
    """Serving alone without the mask, and cls with any pads, score as with the mask."""
    for cell in _read(run[1]).values():
        served = cell["served"]
        assert served["alone, without mask"] == served[measured.MASKED]
        if cell["arm"] == "cls":
            assert all(scores == served[measured.MASKED] for scores in served.values())


@pytest.mark.full  # the same
def test_a_killed_run_resumes(run: tuple[dict[str, Any], Path], model_folder: Path, data: Path) -> None:
    """A run computes only the files that are missing, and its result is the same as without the interruption."""
    report, out = run
    folder = out.with_suffix("")
    lost = folder / "1-excluded.json"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    scores = json.loads(lost.read_text(encoding="utf-8"))["served"]
    lost.unlink()
    again = measured.main(["--quick", "--model", str(model_folder), "--data", str(data), "--out", str(out)])
    after = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert [name for name in before if before[name] != after[name]] == [lost.name]
    assert json.loads(lost.read_text(encoding="utf-8"))["served"] == scores
    assert again["declared"] == report["declared"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """Results of other settings are not mixed with new ones."""
    (tmp_path / "0-cls.json").write_text(json.dumps({"settings": {"steps": 1}}), encoding="utf-8")
    assert measured.read_cell(tmp_path / "1-cls.json", {"steps": 2}) is None
    with pytest.raises(InvalidValueError, match=r"must hold results of the same settings, but 0-cls\.json has others"):
        measured.read_cell(tmp_path / "0-cls.json", {"steps": 2})


def test_an_absent_corpus_is_named(model_folder: Path, tmp_path: Path) -> None:
    """Without the texts, the run ends with a sentence that names the file."""
    with pytest.raises(SystemExit, match=r"trained_with_pads: .*banking77.train\.csv"):
        measured.main(["--model", str(model_folder), "--data", str(tmp_path), "--out", str(tmp_path / "out.json")])


def test_pads_are_read_without_the_mask_only(encoder: Encoder) -> None:
    """Vectors with the mask are the mean of real states; without it, of all states of a really padded batch."""
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(6)])
    vectors = measured.serve(encoder, ids, "mean", 0)
    states, mask = encoder.states(ids, measured.LONGEST)
    expected = torch.stack([of_text[real.bool()].mean(dim=0) for of_text, real in zip(states, mask, strict=True)])
    np.testing.assert_allclose(vectors[measured.MASKED], expected.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(vectors["padded to 64, without mask"], states.mean(dim=1).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ends", "words"),
    [((-0.03, -0.01), "lower"), ((0.01, 0.03), "higher"), ((-0.01, 0.02), "no change larger than 0.020")],
)
def test_verdicts_need_an_interval(ends: tuple[float, float], words: str) -> None:
    """A difference has a direction only if its simultaneous interval does not contain 0."""
    assert measured.words_of({"simultaneous": ends, "interval": (0.1, 0.2)}) == words


@pytest.mark.parametrize("arm", measured.ARMS, ids=lambda arm: arm.name)
def test_arms_pool_what_they_say(model_folder: Path, arm: measured.Arm) -> None:
    """Only arms with pads pool pads in training, at their width, and the encoder gets the mask in every arm."""
    model = measured.build(arm, str(model_folder)).eval()
    transformer: Any = model[0]
    pooled = model(transformer.preprocess(["red0 w1 w2 green3", "blue1"]))["sentence_embedding"]
    encoder = Encoder.of(transformer.auto_model, transformer.tokenizer)
    states = encoder.states(encoder.tokenize(["red0 w1 w2 green3", "blue1"])[0], arm.width)
    real = states[1].bool() if not arm.pads else torch.ones_like(states[1]).bool()
    means = torch.stack([of_text[of_real].mean(dim=0) for of_text, of_real in zip(states[0], real, strict=True)])
    expected = states[0][:, 0] if arm.mode == "cls" else means
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_pairs_are_of_one_seen_class() -> None:
    """A batch has pairs of different classes, and no test text is of a class that was seen."""
    texts, labels = zip(*[(f"{label}: text {number}", label) for label in "abcdef" for number in range(5)], strict=True)
    corpus = Corpus("made up", list(texts), list(labels))
    split = measured.draw_split(corpus, corpus, measured.QUICK, seed=0)
    assert len(split.pairs) == measured.QUICK.steps * measured.QUICK.pairs
    for start in range(0, len(split.pairs), measured.QUICK.pairs):
        batch = split.pairs[start : start + measured.QUICK.pairs]
        assert all(anchor[0] == positive[0] and anchor != positive for anchor, positive in batch)
        assert len({anchor[0] for anchor, _ in batch}) == measured.QUICK.pairs
    assert not {anchor[0] for anchor, _ in split.pairs} & set(split.test.labels)


def test_declared_differences_are_students_over_seeds(tmp_path: Path) -> None:
    """Both differences of each arm with pads have a Student's interval over seeds, wider if it is simultaneous."""
    rng = np.random.default_rng(0)
    served = [measured.MASKED, *(f"{plan}, without mask" for plan in measured.PLANS)]

    def cell() -> dict[str, Any]:
        scores = {name: {measure: rng.random() for measure in measured.MEASURES} for name in served}
        return {"served": scores, "length_deciles_ami": 0.0, "cpu_seconds": 1.0}

    cells = [{arm.name: cell() for arm in measured.ARMS} for _ in range(8)]
    report = {"settings": {"steps": 1, "pairs": 1}, **measured.summarise(cells)}
    declared = report["declared"]
    measured.draw(report, tmp_path / "new.png")
    assert (tmp_path / "new.png").stat().st_size > 10_000
    assert measured.block(report).count("residual harm") == 4
    assert len(declared) == 8
    row = next(row for row in declared if (row["arm"], row["measure"]) == ("included at width 128", "ami"))
    assert row["contrast"] == "residual harm"
    by_seed = [
        seed["included at width 128"]["served"]["padded to 128, without mask"]["ami"]
        - seed["excluded"]["served"]["with mask"]["ami"]
        for seed in cells
    ]
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert row["interval"] == pytest.approx([expected.low, expected.high])
    wider = stats.ttest_1samp(by_seed, 0).confidence_interval(1 - 0.05 / 8)
    assert row["simultaneous"] == pytest.approx([wider.low, wider.high])
