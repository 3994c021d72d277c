"""The lowest supported versions are the same in the code, in pyproject.toml and in the tested constraints."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from maskpool.cli.info import EXTRAS
from maskpool.integrations import MINIMUM

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _bounds() -> dict[str, str]:
    """Return the lower bound of each package that a user may install, by name."""
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra])]
    bounds: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            continue
        (bound,) = requirement.specifier
        assert bound.operator in (">=", "=="), f"{requirement} has no lower bound"
        bounds[canonicalize_name(requirement.name)] = bound.version
    return bounds


@pytest.mark.parametrize("package", MINIMUM)
def test_code_and_pyproject_agree(package: str) -> None:
    """The version that an integration requires is the lower bound of the package's metadata."""
    assert _bounds()[package] == MINIMUM[package]


@pytest.mark.parametrize("package", _bounds())
def test_lowest_constraints_are_the_bounds(package: str) -> None:
    """constraints-lowest.txt installs exactly the lower bound of each package."""
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = {str(canonicalize_name(name)): pin for name, _, pin in (line.partition("==") for line in lines) if pin}
    release, bound = Version(pinned[package]).release, Version(_bounds()[package]).release
    assert release[: len(bound)] == bound
