"""A module with a bug for host libraries, and marks for tests that need newer ones than the lowest supported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import pytest
from packaging.version import Version
from torch import nn


class MeanOverPads(nn.Module):
    """Average every position of the batch, as last_hidden_state.mean(1) does."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return features | {"sentence_embedding": features["token_embeddings"].mean(1)}


def needs(package: str, minimum: str, why: str) -> pytest.MarkDecorator:
    """Skip a test, or with ``pytestmark`` a file, where a package is older than a version."""
    return pytest.mark.skipif(Version(version(package)) < Version(minimum), reason=f"needs {package}>={minimum}: {why}")


def except_on_older(names: Iterable[str], needing: Mapping[str, tuple[str, str, str]]) -> list[Any]:
    """Return the names to parametrize a test by; some need a version of a package, for a given reason."""
    return [pytest.param(name, marks=needs(*needing[name]) if name in needing else ()) for name in names]


# Older hosts read pads on the left in cls, count weightedmean from them, and sum in half precision.
compares_with_the_host = needs("sentence-transformers", "6.2", "older hosts pool some masks differently")
