"""Clusters, and how well they agree with the labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from sklearn.cluster import HDBSCAN, KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    homogeneity_completeness_v_measure,
)
from sklearn.metrics.cluster import contingency_matrix

from maskpool.bench.design.treatments import Vectors, unit
from maskpool.plans import Ints


def accuracy(labels_true: Ints, labels_pred: Ints) -> float:
    """Share of texts in the cluster of their label, under the best assignment of clusters to labels, one to one.

    Source: Kuhn 1955 (the assignment); what papers on clustering short texts report.

    Example:
        >>> accuracy(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 7]))
        0.75
    """
    return float((matched(labels_true, labels_pred) == labels_true).mean())


def matched(labels_true: Ints, labels_pred: Ints) -> Ints:
    """Clusters renamed after labels, one to one, so that as many texts as possible agree; −1 where none is left.

    Example:
        >>> matched(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 7])).tolist()
        [0, 0, 0, 1]
    """
    labels, names = np.unique(labels_true), np.unique(labels_pred, return_inverse=True)[1]
    rows, columns = linear_sum_assignment(contingency_matrix(labels_true, labels_pred), maximize=True)
    renamed = np.full(names.max() + 1, -1, dtype=np.int64)
    renamed[columns] = labels[rows]
    found: Ints = renamed[names]
    return found


def fit_kmeans(vectors: Vectors | csr_matrix, clusters: int, seed: int) -> KMeans:
    """k-means, k-means++ once; vectors that are all alike make fewer clusters, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(clusters, init="k-means++", n_init=1, random_state=seed).fit(vectors)


def _kmeans(vectors: Vectors, clusters: int, seed: int) -> Ints:
    labels: Ints = fit_kmeans(unit(vectors), clusters, seed).labels_
    return labels


def _minibatch_kmeans(vectors: Vectors, clusters: int, seed: int) -> Ints:
    model = MiniBatchKMeans(clusters, batch_size=512, init="k-means++", n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels: Ints = model.fit_predict(vectors)
    return labels


def _hdbscan(vectors: Vectors, clusters: int, seed: int) -> Ints:
    with np.errstate(invalid="ignore"):  # vectors that are all alike have no variance to share out
        few = PCA(min(5, *vectors.shape), random_state=seed).fit_transform(vectors)
    model = HDBSCAN(min_cluster_size=10, metric="euclidean", cluster_selection_method="eom", copy=True)
    labels: Ints = model.fit_predict(few).astype(np.int64)
    return labels


CLUSTERERS: dict[str, Callable[[Vectors, int, int], Ints]] = {
    "kmeans": _kmeans,
    "minibatch_kmeans": _minibatch_kmeans,
    "hdbscan": _hdbscan,
}
CLUSTERER_MEANING = {
    "kmeans": "k-means on unit vectors, as many clusters as labels, k-means++ once a seed",
    "minibatch_kmeans": "mini-batch k-means as MTEB sets it (batches of 512, one start), on vectors as they are",
    "hdbscan": "HDBSCAN as BERTopic sets it (at least 10 texts a cluster) on five principal components, which is what "
    "BERTopic takes where UMAP is not installed; texts that it leaves out are one cluster more",
}


def cluster(vectors: Vectors, clusters: int, seed: int, clusterer: str = "kmeans") -> Ints:
    """Assign each vector to a cluster.

    Args:
        vectors: As they were pooled; k-means makes unit vectors of them.
        clusters: How many; HDBSCAN finds as many as it finds.
        seed: Of the clusterer's start.
        clusterer: A key of ``CLUSTERERS``.
    """
    return CLUSTERERS[clusterer](vectors, clusters, seed)


def ami(labels_true: Ints, labels_pred: Ints) -> float:
    """Adjusted mutual information, the primary score: the labels are unbalanced (Romano et al. 2016)."""
    return float(adjusted_mutual_info_score(labels_true, labels_pred))


def score(labels_true: Ints, labels_pred: Ints) -> dict[str, float]:
    """Every score of an assignment, each 1 at best; V-measure is what MTEB reports, and not adjusted for chance."""
    homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(labels_true, labels_pred)
    return {
        "ami": ami(labels_true, labels_pred),
        "ari": float(adjusted_rand_score(labels_true, labels_pred)),
        "v_measure": float(v_measure),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "accuracy": accuracy(labels_true, labels_pred),
    }


def cluster_ami(vectors: Vectors, labels_true: Ints, seed: int) -> float:
    """AMI of k-means with as many clusters as there are labels."""
    clusters = len(np.unique(labels_true))
    return ami(labels_true, cluster(vectors, clusters, seed))
