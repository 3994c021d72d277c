"""Clusterers: how vectors become clusters.

To add one, write it here: a subclass of `Clusterer`, and its instance in ``CLUSTERERS``.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import HDBSCAN, KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from maskpool.bench.score.metrics import ami
from maskpool.bench.vectors import Vectors, unit
from maskpool.plans import Ints


def fit_kmeans(vectors: Vectors | csr_matrix, clusters: int, seed: int) -> KMeans:
    """k-means, k-means++ once; vectors that are all alike make fewer clusters, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(clusters, init="k-means++", n_init=1, random_state=seed).fit(vectors)


class Clusterer:
    """Assigns vectors to clusters.

    Attributes:
        name: What studies and results call it.
        meaning: How it clusters, in words.
        min_texts: The fewest texts that it can cluster.
    """

    name: str
    meaning: str
    min_texts: int = 1

    def fit_predict(self, vectors: Vectors, clusters: int, seed: int) -> Ints:
        """Assign each vector to a cluster.

        Args:
            vectors: (texts, dim), as they were pooled.
            clusters: How many clusters; a clusterer that finds their number ignores it.
            seed: Of the start.
        """
        raise NotImplementedError


class UnitKMeans(Clusterer):
    """k-means on unit vectors."""

    name = "kmeans"
    meaning = "k-means on unit vectors, as many clusters as labels, k-means++ once a seed"

    def fit_predict(self, vectors: Vectors, clusters: int, seed: int) -> Ints:  # noqa: D102  # see Clusterer
        labels: Ints = fit_kmeans(unit(vectors), clusters, seed).labels_
        return labels


class MTEBKMeans(Clusterer):
    """Mini-batch k-means as MTEB sets it."""

    name = "minibatch_kmeans"
    meaning = "mini-batch k-means as MTEB sets it (batches of 512, one start), on vectors as they are"

    def fit_predict(self, vectors: Vectors, clusters: int, seed: int) -> Ints:  # noqa: D102  # see Clusterer
        model = MiniBatchKMeans(clusters, batch_size=512, init="k-means++", n_init=1, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels: Ints = model.fit_predict(vectors)
        return labels


class BERTopicHDBSCAN(Clusterer):
    """HDBSCAN as BERTopic sets it."""

    name = "hdbscan"
    meaning = (
        "HDBSCAN as BERTopic sets it (at least 10 texts a cluster) on five principal components, which is what "
        "BERTopic takes where UMAP is not installed; texts that it leaves out are one cluster more"
    )
    min_texts = 10

    def fit_predict(self, vectors: Vectors, clusters: int, seed: int) -> Ints:  # noqa: D102  # see Clusterer
        with np.errstate(invalid="ignore"):  # vectors that are all alike have no variance to share out
            components = PCA(min(5, *vectors.shape), random_state=seed).fit_transform(vectors)
        model = HDBSCAN(min_cluster_size=self.min_texts, metric="euclidean", cluster_selection_method="eom", copy=True)
        labels: Ints = model.fit_predict(components).astype(np.int64)
        return labels


CLUSTERERS: dict[str, Clusterer] = {
    clusterer.name: clusterer for clusterer in (UnitKMeans(), MTEBKMeans(), BERTopicHDBSCAN())
}


def cluster(vectors: Vectors, clusters: int, seed: int, clusterer: str = UnitKMeans.name) -> Ints:
    """Assign each vector to a cluster by the clusterer of a name; see `Clusterer.fit_predict`."""
    return CLUSTERERS[clusterer].fit_predict(vectors, clusters, seed)


def cluster_ami(vectors: Vectors, labels_true: Ints, seed: int) -> float:
    """AMI of k-means with as many clusters as there are labels."""
    clusters = len(np.unique(labels_true))
    return ami(labels_true, cluster(vectors, clusters, seed))
