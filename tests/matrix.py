"""Choose how much of a test matrix runs: every pair of values by default, every combination in the full suite."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from itertools import product
from typing import Any, TypeVar

import pytest
from allpairspy import AllPairs

_T = TypeVar("_T")

# Set by conftest.py for `pytest -m full`, before any test module is imported.
FULL = os.environ.get("MASKPOOL_TESTS") == "full"


def pairwise(**axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test over all axes: each pair of values of two axes occurs; in the full suite, each combination.

    Args:
        **axes: The values of each argument. Tests with one argument use `pytest.mark.parametrize`.
    """
    values = [list(axis) for axis in axes.values()]
    rows = list(product(*values)) if FULL or len(values) < 3 else [tuple(row) for row in AllPairs(values)]
    return pytest.mark.parametrize(tuple(axes), rows)


def spread(every: int, **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test over all axes: every n-th combination by default; in the full suite, each combination.

    Args:
        every: n. Each value of each axis occurs, because n has no factor in common with the numbers of values of the
            axes after the first.
        **axes: The values of each argument.
    """
    first, *others = (list(axis) for axis in axes.values())
    assert math.gcd(every, math.prod(map(len, others))) == 1
    return pytest.mark.parametrize(tuple(axes), sampled(product(first, *others), every))


def sampled(values: Iterable[_T], every: int) -> list[_T]:
    """Return every n-th value by default, all values in the full suite."""
    return list(values) if FULL else list(values)[::every]


def cut(few: int, many: int) -> int:
    """Return ``few`` by default, ``many`` in the full suite: for counts of random examples."""
    return many if FULL else few
