"""The reproductions of the census: each script removes a mechanism, and the leak that it causes vanishes."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.census import reproductions
from maskpool.tolerances import CLEAN
from tests.hosts import needs

NAMES = sorted(path.stem for path in Path(reproductions.__file__).parent.glob("[!_]*.py"))
each_script = pytest.mark.parametrize("name", NAMES)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{reproductions.__name__}.{name}")


@needs("transformers", "5.23", "the scripts replace parts of models as they are there")
@each_script
def test_reproduction(name: str) -> None:
    """Each leak vanishes with its mechanism."""
    script = load(name)
    assert script.measure(False) > 1e-3
    assert script.measure(True) <= CLEAN


@each_script
def test_first_line(name: str) -> None:
    """The first line of each script, which the table of the census shows, is one sentence."""
    # Without importing it: older versions of transformers lack some of the models.
    source = (Path(reproductions.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    first_line = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
    assert first_line.endswith(".")
    assert ". " not in first_line
    assert len(first_line) <= 200


def test_reproductions_exist() -> None:
    """The parametrised tests above run at least one script."""
    assert NAMES
