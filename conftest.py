"""What every test and every docstring's example runs under."""

import os
from typing import Any

# One thread a worker, before torch and numpy are loaded: the tensors of a test are small, and workers share the cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest  # noqa: E402  # after the threads are set
import torch  # noqa: E402  # the same


def pytest_configure(config: pytest.Config) -> None:
    """Let ``pytest -m full`` run everything: the long tests, the others, and whole matrices."""
    if config.option.markexpr == "full":
        os.environ["MASKPOOL_TESTS"] = "full"  # for tests.matrix, also in the processes of xdist
        config.option.markexpr = ""


@pytest.fixture(autouse=True)
def _names_for_doctests(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch
