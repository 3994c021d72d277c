"""What every test runs under."""

import pytest
import torch
from hypothesis import settings

from tests.matrix import FULL

# By default the same examples on every run, so that a red run stays red; the full suite draws new ones and prints how
# to repeat a failure. No deadline: torch's first calls are slow.
settings.register_profile("default suite", deadline=None, derandomize=True, max_examples=20, database=None)
settings.register_profile("full suite", deadline=None, derandomize=False, max_examples=50, print_blob=True)
settings.load_profile("full suite" if FULL else "default suite")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)
