"""Metrics of how well clusters agree with labels."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, homogeneity_completeness_v_measure
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
    """Return the adjusted mutual information, the primary score for unbalanced labels (Romano et al. 2016)."""
    return float(adjusted_mutual_info_score(labels_true, labels_pred))


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
