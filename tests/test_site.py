"""The site of the documentation is built without warnings, and documents every public name."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import pytest

from benchmarks import site
from benchmarks.site import MODULES
from benchmarks.tables import public_names


@pytest.fixture(scope="module")
def built() -> Path:
    if importlib.util.find_spec("zensical") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the extra docs is not installed")
    return site.build()


@pytest.mark.full  # builds the site
def test_every_public_name_has_an_entry(built: Path) -> None:
    """Every public name of the documented modules is in the Reference."""
    inventory = zlib.decompress((built / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    documented = {line.split(" ", 1)[0] for line in inventory.splitlines()}
    names = {f"{module}.{name}" for module in MODULES for name in public_names(module)}
    assert len(names) > 100
    assert names - documented == set()
