"""Clusterers: algorithms that assign vectors to clusters.

To add a clusterer, write a subclass of `Clusterer` here and add an instance to ``CLUSTERERS``.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from sklearn.cluster import HDBSCAN, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from maskpool.bench.design.kmeans import fit_kmeans_of_seeds
from maskpool.bench.vectors import Vectors, unit
from maskpool.plans import Ints


class Clusterer(ABC):
    """Assigns vectors to clusters.

    Attributes:
        name: Its name in studies and results.
        meaning: The algorithm, in words.
        min_texts: The smallest number of texts that it can cluster.
    """

    name: str
    meaning: str
    min_texts: int = 1

    @abstractmethod
    def fit_predict(self, vectors: Vectors, clusters: int, seed: int) -> Ints:
        """Assign each vector to a cluster.

        Args:
            vectors: Pooled vectors, (texts, dim).
            clusters: Number of clusters; ignored by a clusterer that finds the number itself.
            seed: Seed of the start.
        """

    def fit_predict_seeds(self, vectors: Vectors, clusters: int, seeds: Sequence[int]) -> list[Ints]:
        """Assign each vector to a cluster, once for each seed; a subclass may share work between seeds."""
        return [self.fit_predict(vectors, clusters, seed) for seed in seeds]


class UnitKMeans(Clusterer):
    """k-means on unit vectors."""

    name = "kmeans"
    meaning = "k-means on unit vectors, as many clusters as labels, one k-means++ start per seed"

    def fit_predict(self, vectors: Vectors, clusters: int, seed: int) -> Ints:  # noqa: D102  # see Clusterer
        return self.fit_predict_seeds(vectors, clusters, [seed])[0]

    def fit_predict_seeds(self, vectors: Vectors, clusters: int, seeds: Sequence[int]) -> list[Ints]:  # noqa: D102  # see Clusterer
        return [fit.labels for fit in fit_kmeans_of_seeds(unit(vectors), clusters, seeds)]


class MTEBKMeans(Clusterer):
    """Mini-batch k-means with MTEB's settings."""

    name = "minibatch_kmeans"
    meaning = "mini-batch k-means with MTEB's settings (batches of 512, one start), on vectors that are not normalised"

    def fit_predict(self, vectors: Vectors, clusters: int, seed: int) -> Ints:  # noqa: D102  # see Clusterer
        model = MiniBatchKMeans(clusters, batch_size=512, init="k-means++", n_init=1, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels: Ints = model.fit_predict(vectors)
        return labels


class BERTopicHDBSCAN(Clusterer):
    """HDBSCAN with BERTopic's settings."""

    name = "hdbscan"
    meaning = (
        "HDBSCAN with BERTopic's settings (at least 10 texts per cluster) on five principal components, which BERTopic "
        "uses if UMAP is not installed; texts without a cluster form one more cluster"
    )
    min_texts = 10

    def fit_predict(self, vectors: Vectors, clusters: int, seed: int) -> Ints:  # noqa: D102  # see Clusterer
        with np.errstate(invalid="ignore"):  # identical vectors have no variance to explain
            components = PCA(min(5, *vectors.shape), random_state=seed).fit_transform(vectors)
        model = HDBSCAN(min_cluster_size=self.min_texts, metric="euclidean", cluster_selection_method="eom", copy=True)
        labels: Ints = model.fit_predict(components).astype(np.int64)
        return labels


CLUSTERERS: dict[str, Clusterer] = {
    clusterer.name: clusterer for clusterer in (UnitKMeans(), MTEBKMeans(), BERTopicHDBSCAN())
}
