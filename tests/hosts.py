"""Marks for tests that need a newer host library than the lowest version that maskpool supports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import pytest
from packaging.version import Version


def needs(package: str, minimum: str, why: str) -> pytest.MarkDecorator:
    """Skip a test, or with ``pytestmark`` a file, where a package is older than a version."""
    return pytest.mark.skipif(Version(version(package)) < Version(minimum), reason=f"needs {package}>={minimum}: {why}")


def except_on_older(names: Iterable[str], needing: Mapping[str, tuple[str, str, str]]) -> list[Any]:
    """Return the names to parametrize a test by; some need a version of a package, for a given reason."""
    return [pytest.param(name, marks=needs(*needing[name]) if name in needing else ()) for name in names]


# Older hosts read pads on the left in cls, count weightedmean from them, and sum in half precision.
compares_with_the_host = needs("sentence-transformers", "6.2", "older hosts pool some masks differently")
