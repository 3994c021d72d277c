"""`pytest -m full` runs whole test matrices, however it is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import test_blocks
from tests.matrix import FULL

ROOT = Path(__file__).parents[1]
FILE = Path(test_blocks.__file__)


@pytest.mark.skipif(FULL, reason="it compares the default suite with the full suite")
def test_one_file_in_one_process_runs_whole_matrices(request: pytest.FixtureRequest) -> None:
    """`pytest -m full FILE -n 0` collects more than the default run of the same file."""
    collected = {}
    for marked in ((), ("-m", "full")):
        command = [sys.executable, "-m", "pytest", *marked, "-n", "0", "--collect-only", str(FILE)]
        ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        collected[marked] = ran.stdout.count(f"{FILE.name}::")
    assert 0 < collected[()] < collected["-m", "full"]
