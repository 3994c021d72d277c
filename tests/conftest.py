"""Settings and fixtures of all tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from tests.matrix import FULL
from tests.once import once

if TYPE_CHECKING:
    from maskpool.encoder import Encoder

# By default every run draws the same examples, so a failure repeats; the full suite draws new ones and prints how to
# repeat a failure. No deadline: torch's first calls are slow.
settings.register_profile("default suite", deadline=None, derandomize=True, max_examples=15, database=None)
settings.register_profile("full suite", deadline=None, derandomize=False, max_examples=50, print_blob=True)
settings.load_profile("full suite" if FULL else "default suite")

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
