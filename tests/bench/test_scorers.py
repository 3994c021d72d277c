"""Scores of clusters and mixed plans, compared with loops over texts."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

from maskpool.bench.design.clusterers import CLUSTERERS
from maskpool.bench.design.treatments import MIXED
from maskpool.bench.score.scorers import SCORERS, nearest_accuracy, predicted_ami

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors
    from maskpool.plans import Ints


def blobs(texts: int, spread: float, seed: int) -> tuple[Vectors, Ints]:
    """Make vectors around four centres, whose lengths differ by a factor of a hundred, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, texts)
    vectors = np.eye(6)[labels] + rng.normal(0, spread, (texts, 6))
    return (vectors * np.geomspace(0.1, 10, texts)[:, None]).astype(np.float32), labels


def cosine(first: Vectors, second: Vectors) -> float:
    a, b = first.astype(float), second.astype(float)
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def slow_accuracy(index: Vectors, queries: Vectors, labels: Ints) -> float:
    right = 0
    for text, query in enumerate(queries):
        others = [other for other in range(len(index)) if other != text]
        right += labels[max(others, key=lambda other: cosine(index[other], query))] == labels[text]
    return right / len(queries)


@pytest.mark.parametrize("spread", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_nearest_accuracy_is_the_slow_loop(spread: float, seed: int) -> None:
    """The accuracy equals that of a search in the index for each text's nearest other text, by cosine."""
    index, labels = blobs(80, spread, seed)
    queries = (index + np.random.default_rng(seed).normal(0, spread / 2, index.shape)).astype(np.float32)
    accuracy = nearest_accuracy(index, queries, labels)
    assert accuracy == pytest.approx(slow_accuracy(index, queries, labels), abs=1e-9)


def test_index_and_queries_cannot_be_swapped() -> None:
    """The accuracy depends on which side is the index."""
    index, labels = blobs(80, 0.4, 0)
    queries = blobs(80, 0.4, 1)[0]
    assert nearest_accuracy(index, queries, labels) != nearest_accuracy(queries, index, labels)


@pytest.mark.parametrize(("labels", "expected"), [([0, 0, 1, 1], 1.0), ([0, 1, 0, 1], 0.0)])
def test_twins_find_each_other(labels: list[int], expected: float) -> None:
    """A text with a twin in the corpus finds the twin, never itself."""
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    assert nearest_accuracy(vectors, vectors, np.array(labels)) == expected


@pytest.mark.parametrize("copies", [3, 7])
def test_many_twins_find_a_twin(copies: int) -> None:
    """Each of several equal texts finds one of the others, for any order of ties."""
    vectors = np.repeat(np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32), copies, axis=0)
    labels = np.repeat(np.arange(5), copies)
    order = np.random.default_rng(1).permutation(len(labels))
    assert nearest_accuracy(vectors[order], vectors[order], labels[order]) == 1.0
    alone = np.arange(len(labels))
    assert nearest_accuracy(vectors[order], vectors[order], alone) == 0.0, "a text does not find itself"


def test_of_texts_equally_near_one_is_found() -> None:
    """A query halfway between two other texts gets the label of either."""
    vectors = np.array([[1, 1], [1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    accuracy = nearest_accuracy(vectors, vectors, np.array([0, 0, 0, 1, 2]))
    assert accuracy == pytest.approx(3 / 5)


def slow_predicted_ami(fitted: Vectors, predicted: Vectors, labels: Ints, seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    fit = [text for place, text in enumerate(order) if place % 2 == 0]
    predict = [text for place, text in enumerate(order) if place % 2 == 1]
    rows = np.array([fitted[text] / np.linalg.norm(fitted[text]) for text in fit])
    model = KMeans(len(set(labels.tolist())), init="k-means++", n_init=1, random_state=seed).fit(rows)
    assigned = []
    for text in predict:
        vector = predicted[text] / np.linalg.norm(predicted[text])
        assigned.append(
            min(range(model.n_clusters), key=lambda c: float(np.sum((model.cluster_centers_[c] - vector) ** 2)))
        )
    return float(adjusted_mutual_info_score(labels[predict], assigned))


@pytest.mark.parametrize("texts", [80, 81])
@pytest.mark.parametrize("seed", range(4))
def test_predicted_ami_is_the_slow_loop(texts: int, seed: int) -> None:
    """The AMI equals that of every second text of an order, assigned to the nearest centre of the others."""
    fitted, labels = blobs(texts, 0.5, seed)
    predicted = (fitted + np.random.default_rng(seed).normal(0, 0.5, fitted.shape)).astype(np.float32)
    agreement = predicted_ami(fitted, predicted, labels, seed)
    assert agreement == pytest.approx(slow_predicted_ami(fitted, predicted, labels, seed), abs=1e-9)


def test_no_text_is_fitted_and_predicted() -> None:
    """Only half of the fitted vectors and the other half of the predicted vectors influence the AMI."""
    fitted, labels = blobs(40, 0.5, 0)
    predicted = blobs(40, 0.5, 1)[0]
    before = predicted_ami(fitted, predicted, labels, 3)
    moved_by = {"fitted": 0, "predicted": 0}
    for text in range(40):
        without = np.delete(np.arange(40), text)
        for name, vectors in (("fitted", fitted), ("predicted", predicted)):
            changed = vectors.copy()
            # As far as possible from the text's label.
            changed[text] = -vectors[without].sum(axis=0)
            both = {"fitted": fitted, "predicted": predicted, name: changed}
            moved_by[name] += predicted_ami(both["fitted"], both["predicted"], labels, 3) != before
    assert 0 < moved_by["fitted"] <= 20
    assert 0 < moved_by["predicted"] <= 20


def test_blobs_far_apart_are_found_again() -> None:
    """Texts of distant clusters are assigned to their clusters, although their vectors are scaled."""
    fitted, labels = blobs(120, 0.02, 0)
    predicted = (fitted * 3).astype(np.float32)
    assert max(predicted_ami(fitted, predicted, labels, seed) for seed in range(5)) == pytest.approx(1)


def test_texts_all_alike_are_one_cluster_without_a_warning() -> None:
    """Vectors that are all alike say nothing of the labels, and k-means says nothing of them."""
    vectors = np.ones((20, 3), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predicted_ami(vectors, vectors, np.arange(20) % 4, 0) == pytest.approx(0, abs=1e-9)


def test_everything_that_a_comparison_names_has_a_scorer() -> None:
    """Each clusterer and each mixed plan has a scorer."""
    assert set(SCORERS) == {*CLUSTERERS, *MIXED}
