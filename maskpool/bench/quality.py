"""Clusters, and how well they agree with the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    completeness_score,
    homogeneity_score,
    v_measure_score,
)
from sklearn.metrics.cluster import contingency_matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from maskpool.bench.arms import Vectors
    from maskpool.plans import Ints


def accuracy(labels_true: Ints, labels_pred: Ints) -> float:
    """Share of texts in the cluster of their label, under the best assignment of clusters to labels, one to one.

    Source: Kuhn 1955 (the assignment); what papers on clustering short texts report.

    Example:
        >>> accuracy(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 7]))
        0.75
    """
    table = contingency_matrix(labels_true, labels_pred)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels_true))


# AMI is the primary metric: the labels are unbalanced (Romano et al. 2016), and V-measure is not
# adjusted for chance.
SCORES = {
    "ami": adjusted_mutual_info_score,
    "ari": adjusted_rand_score,
    "v_measure": v_measure_score,
    "homogeneity": homogeneity_score,
    "completeness": completeness_score,
    "accuracy": accuracy,
}


def cluster(vectors: Vectors | csr_matrix, clusters: int, seed: int) -> Ints:
    """Assign each vector to one of ``clusters`` by k-means, started by k-means++ under ``seed``."""
    labels: Ints = KMeans(clusters, init="k-means++", n_init=1, random_state=seed).fit_predict(vectors)
    return labels


def score(labels_true: Ints, labels_pred: Ints) -> dict[str, float]:
    """Every score of an assignment, each 1 at best."""
    return {name: float(function(labels_true, labels_pred)) for name, function in SCORES.items()}


def cluster_ami(vectors: Vectors, labels_true: Ints, seed: int) -> float:
    """AMI of k-means with as many clusters as there are labels."""
    clusters = len(np.unique(labels_true))
    return float(adjusted_mutual_info_score(labels_true, cluster(vectors, clusters, seed)))
