"""Mixed plans: pipelines in which one side is padded and the other is not."""

from __future__ import annotations

import numpy as np

from maskpool.bench.design.clusterers import fit_kmeans
from maskpool.bench.design.treatments import FIT, INDEX
from maskpool.bench.score.metrics import ami
from maskpool.bench.score.shift import similarities
from maskpool.bench.vectors import Vectors, unit
from maskpool.plans import Ints

METRIC = {INDEX: "1-NN accuracy", FIT: "AMI"}


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
        fitted: Vectors of which one half is clustered, (texts, dim).
        predicted: Vectors of the same texts of which the other half is assigned, (texts, dim).
        labels: Labels of the texts.
        seed: Seed of the split and of k-means.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    fit, predict = order[::2], order[1::2]
    clusters = min(len(np.unique(labels)), len(fit))  # with rare labels, half of the texts may be fewer than the labels
    model = fit_kmeans(unit(fitted[fit]), clusters, seed)
    return ami(labels[predict], model.predict(unit(predicted[predict])))
