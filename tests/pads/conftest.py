"""The explanation of the bundled model, computed once for all workers."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from maskpool.pads.explanation import Explanation, explain
from tests.once import once


def _explain(folder: Path) -> None:
    start = time.process_time()
    explanation = explain("all-MiniLM-L6-v2")
    (folder / "explanation").write_bytes(pickle.dumps((explanation, time.process_time() - start)))


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Explanation, float]:
    """Return the answers for all-MiniLM-L6-v2 and their processor time in seconds."""
    folder = once(tmp_path_factory, "explained", _explain)
    explanation: tuple[Explanation, float] = pickle.loads((folder / "explanation").read_bytes())
    return explanation
