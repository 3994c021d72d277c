"""What every docstring's example may use without importing it."""

from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _names_for_doctests(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch
