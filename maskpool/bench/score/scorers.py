"""Scorers: how well a treatment's vectors recover the labels, by a clusterer or in a mixed plan.

In a mixed plan one side of a pipeline is padded and the other is not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from maskpool.bench.design.clusterers import CLUSTERERS, Clusterer
from maskpool.bench.design.kmeans import fit_kmeans
from maskpool.bench.design.treatments import FIT, INDEX
from maskpool.bench.score.metrics import ami
from maskpool.bench.score.shift import similarities
from maskpool.bench.vectors import Vectors, unit
from maskpool.plans import Ints


class Scorer(ABC):
    """Scores a treatment's vectors; its score is the one that gets intervals.

    Attributes:
        score: Name of the score in cells.
        metric: Name of the score in reports.
        seeded: Whether the score depends on the seed.
    """

    score: str = "ami"
    metric: str = "AMI"
    seeded: bool = True

    @abstractmethod
    def scores(self, padded: Vectors, alone: Vectors, labels: Ints, seeds: Sequence[int]) -> list[float]:
        """Return the score for each seed.

        Args:
            padded: Vectors of the treatment, (texts, dim).
            alone: Vectors of the same texts alone, unpadded, (texts, dim).
            labels: Labels of the texts.
            seeds: The seeds.
        """


class ClustererScorer(Scorer):
    """Scores the clusters of the treatment's vectors by AMI."""

    def __init__(self, clusterer: Clusterer) -> None:
        """Score the clusters of ``clusterer``."""
        self.clusterer = clusterer

    def scores(self, padded: Vectors, alone: Vectors, labels: Ints, seeds: Sequence[int]) -> list[float]:  # noqa: D102  # see Scorer
        assignments = self.clusterer.fit_predict_seeds(padded, len(np.unique(labels)), seeds)
        return [ami(labels, assignment) for assignment in assignments]


class IndexScorer(Scorer):
    """Scores an index of the treatment's vectors that is queried with each text alone."""

    score, metric, seeded = "accuracy", "1-NN accuracy", False

    def scores(self, padded: Vectors, alone: Vectors, labels: Ints, seeds: Sequence[int]) -> list[float]:  # noqa: D102  # see Scorer
        return [nearest_accuracy(padded, alone, labels)] * len(seeds)


class FitScorer(Scorer):
    """Scores k-means that is fitted on the treatment's vectors and assigns texts alone."""

    def scores(self, padded: Vectors, alone: Vectors, labels: Ints, seeds: Sequence[int]) -> list[float]:  # noqa: D102  # see Scorer
        return [predicted_ami(padded, alone, labels, seed) for seed in seeds]


# By what a comparison names: a clusterer or a mixed plan.
SCORERS: dict[str, Scorer] = {
    **{name: ClustererScorer(clusterer) for name, clusterer in CLUSTERERS.items()},
    INDEX: IndexScorer(),
    FIT: FitScorer(),
}


def nearest_accuracy(index: Vectors, queries: Vectors, labels: Ints) -> float:
    """Return the share of texts whose nearest other text, by cosine, has the same label.

    Args:
        index: Vectors that are searched, (texts, dim).
        queries: Vectors of the same texts, (texts, dim); a query does not find its own text.
        labels: Labels of the texts.

    Example:
        >>> vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
        >>> nearest_accuracy(vectors, vectors, np.array([0, 0, 1, 0]))
        0.5
    """
    nearest = np.concatenate([similar.argmax(axis=1) for _, similar in similarities(unit(index), unit(queries))])
    return float((labels[nearest] == labels).mean())


def predicted_ami(fitted: Vectors, predicted: Vectors, labels: Ints, seed: int) -> float:
    """Return the AMI of one half of the texts, assigned to the k-means clusters of the other half.

    Args:
        fitted: Vectors; one half is clustered, (texts, dim).
        predicted: Vectors of the same texts; the other half is assigned, (texts, dim).
        labels: Labels of the texts.
        seed: Seed of the split and of k-means.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    fit, predict = order[::2], order[1::2]
    clusters = min(len(np.unique(labels)), len(fit))  # with rare labels, half of the texts may be fewer than the labels
    model = fit_kmeans(unit(fitted[fit]), clusters, seed)
    return ami(labels[predict], model.predict(unit(predicted[predict])))
