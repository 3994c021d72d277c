"""The tiny model, saved once and loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskpool.encoder import Encoder
from tests.bench import tiny


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def encoder(model_folder: Path) -> Encoder:
    return Encoder.load(str(model_folder))
