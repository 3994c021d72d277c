"""The ablations of the census: each script removes a mechanism, and the leak that it explains goes with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks" / "census").glob("*.py"))
each_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"census_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@each_script
def test_ablation(path: Path) -> None:
    """Each leak vanishes with its mechanism."""
    script = load(path)
    assert script.measure(False) > 1e-3
    assert script.measure(True) <= 2e-5


@each_script
def test_first_line(path: Path) -> None:
    """Each script says in one sentence, which is a row of the table, what leaks and what its ablation does."""
    first_line = (load(path).__doc__ or "").splitlines()[0]
    assert first_line.endswith(".")
    assert ". " not in first_line
    assert len(first_line) <= 200


def test_found() -> None:
    """There are scripts, so that the tests above are not of nothing."""
    assert SCRIPTS
