"""Settings and fixtures of all tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tests.once import once

if TYPE_CHECKING:
    from maskpool.encoder import Encoder

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)


# The imports are in the fixtures because most tests need none of this.
@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model, which no test changes."""
    from tests.bench import tiny

    return once(tmp_path_factory, "model", tiny.save_model)


@pytest.fixture(scope="session")
def encoder(model_folder: Path) -> Encoder:
    """Return the tiny model, loaded once per process."""
    from maskpool.encoder import Encoder

    return Encoder.load(str(model_folder))
