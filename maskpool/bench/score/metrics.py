"""Metrics of how well clusters agree with labels."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln, xlogy
from sklearn.metrics import adjusted_rand_score, homogeneity_completeness_v_measure
from sklearn.metrics.cluster import contingency_matrix

from maskpool.bench.design.clusterers import UnitKMeans
from maskpool.bench.vectors import Vectors
from maskpool.plans import Ints


def accuracy(labels_true: Ints, labels_pred: Ints) -> float:
    """Return the share of texts in the cluster of their label, under the best one-to-one assignment of clusters.

    Papers on clustering short texts report this accuracy. Source: Kuhn 1955 (the assignment).

    Example:
        >>> accuracy(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 7]))
        0.75
    """
    return float((matched(labels_true, labels_pred) == labels_true).mean())


def matched(labels_true: Ints, labels_pred: Ints) -> Ints:
    """Rename clusters to labels one to one to agree in as many texts as possible; −1 for clusters without a label.

    Example:
        >>> matched(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 7])).tolist()
        [0, 0, 0, 1]
    """
    labels, names = np.unique(labels_true), np.unique(labels_pred, return_inverse=True)[1]
    rows, columns = linear_sum_assignment(contingency_matrix(labels_true, labels_pred), maximize=True)
    renamed = np.full(names.max() + 1, -1, dtype=np.int64)
    renamed[columns] = labels[rows]
    labels_matched: Ints = renamed[names]
    return labels_matched


def ami(labels_true: Ints, labels_pred: Ints) -> float:
    """Return the adjusted mutual information, the primary score for unbalanced labels (Romano et al. 2016).

    It is scikit-learn's ``adjusted_mutual_info_score`` up to rounding, in a fraction of the time: the information that
    chance gives is computed once for all clusters of one size.

    Example:
        >>> ami(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7]))
        1.0
    """
    labels, clusters = (np.unique(names, return_inverse=True)[1] for names in (labels_true, labels_pred))
    shape, texts = (int(labels.max()) + 1, int(clusters.max()) + 1), len(labels)
    if shape in ((1, 1), (texts, texts)):
        return 1.0
    if 1 in shape:
        return 0.0
    together = np.bincount(labels * shape[1] + clusters) / texts
    sizes = np.bincount(labels), np.bincount(clusters)
    entropies = [-xlogy(of_names / texts, of_names / texts).sum() for of_names in sizes]
    information = sum(entropies) + xlogy(together, together).sum()
    by_chance = _information_by_chance(*sizes)
    return float((information - by_chance) / (sum(entropies) / 2 - by_chance))


def _information_by_chance(label_sizes: Ints, cluster_sizes: Ints) -> float:
    """Return the expected mutual information of random clusters with these sizes (Vinh et al. 2010)."""
    texts = int(label_sizes.sum())
    log_factorial = gammaln(np.arange(texts + 1) + 1.0)
    columns, times_columns = np.unique(cluster_sizes, return_counts=True)
    expected = 0.0
    for row, times_row in zip(*np.unique(label_sizes, return_counts=True), strict=True):
        common = np.arange(1, min(row, columns[-1]) + 1)[:, None]
        outside = texts - row - columns + common  # texts with neither the label nor the cluster
        possible = (common <= columns) & (outside >= 0)
        # The hypergeometric probability of so many texts in common.
        log_chance = log_factorial[row] + log_factorial[columns] + log_factorial[texts - row]
        log_chance = log_chance + log_factorial[texts - columns] - log_factorial[common] - log_factorial[texts]
        log_chance -= log_factorial[row - common] + log_factorial[np.maximum(columns - common, 0)]
        log_chance -= log_factorial[np.maximum(outside, 0)]
        of_each = common / texts * np.log(texts * common / (row * columns)) * np.exp(log_chance)
        expected += times_row * float(np.where(possible, of_each, 0.0).sum(axis=0) @ times_columns)
    return expected


def score(labels_true: Ints, labels_pred: Ints) -> dict[str, float]:
    """Compute every score of an assignment, each at most 1; V-measure, MTEB's score, is not adjusted for chance."""
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
    """Return the AMI of k-means with as many clusters as labels."""
    return ami(labels_true, UnitKMeans().fit_predict(vectors, len(np.unique(labels_true)), seed))
