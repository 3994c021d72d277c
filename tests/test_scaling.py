"""The benchmark of `maskpool embed` measures what it claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import scaling
from maskpool.embed.settings import Settings
from maskpool.embed.worker import open_embedder
from maskpool.encoder import Encoder
from tests.bench import tiny


class Host:
    """An ``encode`` that returns given vectors."""

    def __init__(self, vectors: np.ndarray[Any, Any]) -> None:
        self.vectors = vectors

    def encode(self, texts: list[str], **_: Any) -> np.ndarray[Any, Any]:
        return self.vectors[: len(texts)]


def test_contestants_are_timed_on_the_same_vectors(tmp_path: Path) -> None:
    """Rates and ratios follow from the times of every round, and vectors that differ stop the run."""
    model = str(tiny.save_model(tmp_path / "model"))
    settings = Settings(model=model)
    embedder, _ = open_embedder(settings)
    texts = [text for text, _ in tiny.make_texts(40)]
    file = scaling.write_texts(tmp_path / "texts.jsonl", texts)
    vectors = embedder.embed(texts)
    row = scaling.time_block(Host(vectors), None, embedder, settings, file, texts, rounds=2)
    assert row["count"] == 40
    assert row["shortest"] < row["longest"] < row["tokens"]
    assert 0 <= row["pads"] < row["pads_of_encode"] < 1
    assert {name: len(times) for name, times in row["rounds_s"].items()} == dict.fromkeys(
        (scaling.OURS, scaling.ENCODE, scaling.POOL), 2
    )
    median_s = {name: sum(times) / 2 for name, times in row["rounds_s"].items()}
    assert row["times_as_fast_as"][scaling.ENCODE] == pytest.approx(median_s[scaling.ENCODE] / median_s[scaling.OURS])
    assert row["texts_per_second"][scaling.OURS] == pytest.approx(40 / median_s[scaling.OURS])
    with pytest.raises(SystemExit, match="must be the same"):
        scaling.time_block(
            Host(vectors + 2e-6), None, embedder, settings, file.rename(tmp_path / "b.jsonl"), texts, rounds=1
        )


def test_texts_have_the_lengths_that_they_are_made_for(tmp_path: Path) -> None:
    """Texts are joined to at most the longest length, half of them below the geometric mean of both lengths."""
    encoder = Encoder.load(str(tiny.save_model(tmp_path / "model")))
    texts = scaling.made_texts(encoder, 5, 125, True, 300)
    lengths = np.array([len(ids) for ids in encoder.tokenize(texts)[0]])
    assert lengths.min() == 5
    assert 120 < lengths.max() <= 125
    assert 0.4 < (lengths <= 25).mean() < 0.6
    assert len(set(texts)) > 250


def test_a_missing_corpus_is_none(tmp_path: Path) -> None:
    """A folder without BANKING77 gives no texts, and one with it the first of them."""
    assert scaling.banking(tmp_path) is None
    (tmp_path / "banking77").mkdir()
    (tmp_path / "banking77" / "train.csv").write_text('text,category\n"a, b",c\n', encoding="utf-8")
    assert scaling.banking(tmp_path) == ["a, b"]


def test_every_bar_is_required() -> None:
    """A bar is reached at its number and missed beyond it."""

    def reached(gain: float, pads: float, growth: float) -> dict[str, bool]:
        row = {"texts": "mixed", "times_as_fast_as": {scaling.ENCODE: gain}, "pads": pads}
        peaks = [{"texts": 10_000, "peak_bytes": 100}, {"texts": 1_000_000, "peak_bytes": 100 * growth}]
        return scaling.compare({"speed": {"rows": [row]}, "memory": {"rows": peaks}})

    names = ["speed on mixed", "pads on mixed", "memory"]
    assert reached(1.11, 0.029, 1.19) == dict.fromkeys(names, True)
    assert list(reached(1.09, 0.029, 1.19).values()) == [False, True, True]
    assert list(reached(1.11, 0.031, 1.19).values()) == [True, False, True]
    assert list(reached(1.11, 0.029, 1.21).values()) == [True, True, False]


def test_sections_are_measured_again_alone(tmp_path: Path) -> None:
    """A section replaces its former results and leaves the others as they are."""
    out = tmp_path / "new" / "scaling.json"
    model = tiny.save_model(tmp_path / "model")
    out.parent.mkdir()
    out.write_text(json.dumps({"memory": {"rows": []}, "folder": {"listed_parts": 0}}), encoding="utf-8")
    arguments = ["--quick", "--sections", "folder", "--model", str(model), "--out", str(out)]
    report = scaling.main(arguments)
    assert json.loads(out.read_text(encoding="utf-8")) == report
    assert report["memory"] == {"rows": []}
    folder = report["folder"]
    assert folder["environment"]["torch"] == torch.__version__
    assert folder["listed_parts"] == 20
    numbers = folder["part_rows"] * folder["dimension"]
    sizes = folder["bytes_of_part"]
    assert 4 * numbers < sizes["float32"] < 4 * numbers + 20 * folder["part_rows"]
    assert sizes["float32"] - sizes["float16"] == pytest.approx(2 * numbers, rel=0.01)
    assert folder["bytes_held_per_part"] > folder["bytes_of_journal_per_part"] > 100


@pytest.mark.full  # starts processes
def test_speed_and_memory_are_measured(tmp_path: Path) -> None:
    """Without BANKING77 the other texts are measured, and each number of texts is embedded in a separate process."""
    out = tmp_path / "scaling.json"
    model = tiny.save_model(tmp_path / "model")
    arguments = ["--quick", "--sections", "speed,memory", "--rounds", "1", "--model", str(model)]
    report = scaling.main([*arguments, "--data", str(tmp_path), "--out", str(out)])
    assert report["speed"]["skipped"] == [scaling.BANKING]
    assert [row["texts"] for row in report["speed"]["rows"]] == list(scaling.LENGTHS)
    assert [row["texts"] for row in report["memory"]["rows"]] == [100, 200]
    assert all(row["peak_bytes"] > 10**8 for row in report["memory"]["rows"])
