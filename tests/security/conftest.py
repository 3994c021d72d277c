"""Save the folders and files that the tests damage, once for all workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.once import once
from tests.security.bases import make_bases


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "bases", make_bases)
