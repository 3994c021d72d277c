"""What every test runs under."""

import pytest
import torch
from hypothesis import settings

# Derandomised: a red run stays red. No deadline: torch's first calls are slow.
settings.register_profile("maskpool", deadline=None, derandomize=True, max_examples=20, database=None)
settings.load_profile("maskpool")


# The tensors of a test are small: more threads would wait for each other longer than they work.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)
