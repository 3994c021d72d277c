"""Mixed plans: one side of a pipeline padded, the other not."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from maskpool.bench.score.clusterers import fit_kmeans
from maskpool.bench.score.metrics import ami
from maskpool.bench.vectors import Vectors, unit
from maskpool.plans import Ints

INDEX, FIT = "index padded, query alone", "fit padded, predict alone"
MIXED = {
    INDEX: "an index of vectors with pads included, queried with each text alone: share of texts whose nearest other "
    "text has their label (1-NN accuracy)",
    FIT: "k-means fitted on half of the texts with pads included, the other half, each alone, assigned to its "
    "clusters: AMI of those",
}
METRIC = {INDEX: "1-NN accuracy", FIT: "AMI"}


def nearest_accuracy(index: Vectors, queries: Vectors, labels: Ints) -> float:
    """Share of texts whose nearest other text, by cosine, has the same label.

    Args:
        index: (texts, dim), what is searched.
        queries: (texts, dim), the same texts; a query does not find its own text.
        labels: Of the texts.

    Example:
        >>> vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
        >>> nearest_accuracy(vectors, vectors, np.array([0, 0, 1, 0]))
        0.5
    """
    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(unit(index))
    found = search.kneighbors(unit(queries), return_distance=False)
    nearest = np.where(found[:, 0] == np.arange(len(labels)), found[:, 1], found[:, 0])
    return float((labels[nearest] == labels).mean())


def predicted_ami(fitted: Vectors, predicted: Vectors, labels: Ints, seed: int) -> float:
    """AMI of one half of the texts, assigned to the k-means clusters of the other half.

    Args:
        fitted: (texts, dim), of which one half is clustered.
        predicted: (texts, dim), the same texts, of which the other half is assigned.
        labels: Of the texts.
        seed: Of the split and of k-means.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    fit, predict = order[::2], order[1::2]
    model = fit_kmeans(unit(fitted[fit]), len(np.unique(labels)), seed)
    return ami(labels[predict], model.predict(unit(predicted[predict])))
