"""What every test and every docstring's example runs under."""

import os
from typing import Any

# One thread a worker, before torch and numpy are loaded: the tensors of a test are small, and workers share the cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest  # noqa: E402  # after the threads are set
import torch  # noqa: E402  # the same
from hypothesis import settings  # noqa: E402  # the same

# By default every run draws the same examples, so a failure repeats; the full suite draws new ones and prints how to
# repeat a failure. No deadline: torch's first calls are slow.
settings.register_profile("default suite", deadline=None, derandomize=True, max_examples=15, database=None)
settings.register_profile("full suite", deadline=None, derandomize=False, max_examples=50, print_blob=True)

pytest_plugins = ["pytester"]  # for tests/test_pytest_plugin.py; pytest accepts it here only


def pytest_configure(config: pytest.Config) -> None:
    """Let ``pytest -m full`` run everything: the long tests, the others, and whole matrices."""
    if config.option.markexpr == "full":
        os.environ["MASKPOOL_TESTS"] = "full"  # for tests.matrix, also in the processes of xdist
        config.option.markexpr = ""
    from tests.matrix import FULL  # here, because it reads the variable

    settings.load_profile("full suite" if FULL else "default suite")


@pytest.fixture(autouse=True)
def _names_for_doctests(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch
