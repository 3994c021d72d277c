"""`pytest -m full` runs whole test matrices, however it is started."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.matrix import FULL, sampled, spread

FILE = Path(__file__)
ROOT = FILE.parents[1]


@pytest.mark.parametrize("value", sampled(range(4), every=2))
def test_every_second_value_is_sampled(value: int) -> None:
    """By default, every second value of a sample of two is a test, and in the full suite each."""
    assert FULL or value % 2 == 0


def test_each_value_of_a_spread_occurs() -> None:
    """A spread over three axes has each value of each axis, a fifth of the combinations by default and each in full."""
    rows = spread(5, a=range(4), b=range(3), c=range(2)).args[1]
    assert [set(values) for values in zip(*rows, strict=True)] == [set(range(4)), set(range(3)), set(range(2))]
    assert len(rows) == (24 if FULL else 5)


def test_the_marker_full_selects_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-m full` selects every test, and whole matrices in the modules that are imported later."""
    monkeypatch.setenv("MASKPOOL_TESTS", "")
    options = SimpleNamespace(markexpr="full")
    runpy.run_path(str(ROOT / "conftest.py"))["pytest_configure"](SimpleNamespace(option=options))
    assert options.markexpr == ""
    assert runpy.run_path(str(ROOT / "tests" / "matrix.py"))["FULL"]


@pytest.mark.full  # the test above is its short form
def test_one_file_in_one_process_runs_whole_matrices() -> None:
    """`pytest -m full FILE -n 0` collects all values of a sample."""
    command = [sys.executable, "-m", "pytest", "-m", "full", "-n", "0", "--collect-only", "-q", str(FILE)]
    environment = os.environ | {"MASKPOOL_TESTS": ""}
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=environment)
    assert f"{FILE.name}: 7" in ran.stdout
