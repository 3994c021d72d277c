"""`pytest -m full` runs whole test matrices, however it is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.matrix import FULL, sampled

FILE = Path(__file__)


@pytest.mark.parametrize("value", sampled(range(4), every=2))
def test_every_second_value_is_sampled(value: int) -> None:
    """By default, every second value of a sample of two is a test, and in the full suite each."""
    assert FULL or value % 2 == 0


@pytest.mark.skipif(FULL, reason="it starts the full suite from the default one")
def test_one_file_in_one_process_runs_whole_matrices() -> None:
    """`pytest -m full FILE -n 0` collects all values of a sample."""
    command = [sys.executable, "-m", "pytest", "-m", "full", "-n", "0", "--collect-only", "-q", str(FILE)]
    ran = subprocess.run(command, cwd=FILE.parents[1], check=True, capture_output=True, text=True)
    assert f"{FILE.name}: 5" in ran.stdout
