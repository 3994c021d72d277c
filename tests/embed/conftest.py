"""A corpus and a model small enough that a run takes a fraction of a second."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.bench import tiny
from tests.once import once

ROWS = 60


def texts(number: int = ROWS, seed: int = 0) -> list[str]:
    """Make texts of 0 to 80 words; their lengths are spread like those of real texts, few of them long."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.uniform(0, np.log(81), number)).astype(int) - 1
    return [" ".join(rng.choice(tiny.VOCABULARY[4:], length)) for length in lengths]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random BERT, saved without a pooling."""
    return once(tmp_path_factory, "embed-model", tiny.save_model)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a jsonl file of ids and texts."""
    path = tmp_path / "corpus.jsonl"
    rows = [{"id": f"doc {number}", "text": text} for number, text in enumerate(texts())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
