"""What the bundled model's pads are, computed once for all workers."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from maskpool.pads.explanation import Explanation, explain
from tests.once import once


def _explain(folder: Path) -> None:
    start = time.process_time()
    found = explain("all-MiniLM-L6-v2")
    (folder / "found").write_bytes(pickle.dumps((found, time.process_time() - start)))


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Explanation, float]:
    """The answers for all-MiniLM-L6-v2, and the processor's seconds that they took."""
    folder = once(tmp_path_factory, "explained", _explain)
    found: tuple[Explanation, float] = pickle.loads((folder / "found").read_bytes())
    return found
