"""Measures of how far vectors move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from maskpool.bench.score.shift import cosine_shift, neighbours_kept
from maskpool.bench.vectors import unit

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors


def vectors(number: int, seed: int, dim: int = 7) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((number, dim), dtype=np.float32))


def jaccard(reference: Vectors, other: Vectors, count: int) -> float:
    """Compute the mean Jaccard index in a slow loop that sorts the other texts by cosine for each text."""
    indices = []
    for text in range(len(reference)):
        near = []
        for vectors_of in (reference, other):
            rest = [row for row in range(len(vectors_of)) if row != text]
            by_cosine = sorted(rest, key=lambda row: -float(vectors_of[text] @ vectors_of[row]))
            near.append(set(by_cosine[:count]))
        indices.append(len(near[0] & near[1]) / len(near[0] | near[1]))
    return float(np.mean(indices))


def test_cosine_shift_is_scipys() -> None:
    """The shift of each text is scipy's cosine distance of its two vectors."""
    first, second = vectors(40, 0), vectors(40, 1)
    expected = [cosine(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(cosine_shift(first, second), expected, atol=1e-6)


def test_cosine_shift_of_equal_orthogonal_and_opposite_vectors() -> None:
    """The shift is 0 for equal, 1 for orthogonal and 2 for opposite vectors."""
    first = np.eye(2, dtype=np.float32)[[0, 0, 0]]
    second = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    assert cosine_shift(first, second).tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 3, 10])
def test_neighbours_kept_is_the_slow_loop(count: int) -> None:
    """The neighbours kept are the mean Jaccard index of two sorted lists; a text is not its own neighbour."""
    one = vectors(60, 0)
    other = unit((one + vectors(60, 1)).astype(np.float32))
    assert neighbours_kept(one, other, count) == pytest.approx(jaccard(one, other, count))


def test_with_fewer_texts_than_neighbours_all_others_are_neighbours() -> None:
    """With four texts and ten neighbours, each text has the other three as neighbours in both treatments."""
    assert neighbours_kept(vectors(4, 0), vectors(4, 1)) == 1.0


def test_neighbours_of_equal_treatments_are_kept_and_of_unrelated_treatments_are_not() -> None:
    """Equal treatments keep every neighbour, and unrelated treatments keep hardly any."""
    one, other = vectors(400, 0), vectors(400, 1)
    assert neighbours_kept(one, one) == 1.0
    assert neighbours_kept(one, other) < 0.05


def test_twins_are_kept() -> None:
    """A text that is in the corpus twice keeps its neighbours if nothing moves."""
    one = vectors(30, 0)[np.arange(60) // 2]
    assert neighbours_kept(one, one.copy()) == 1.0
