"""Clusterers: algorithms that assign vectors to clusters.

To add a clusterer, write a subclass of `Clusterer` here and add an instance to ``CLUSTERERS``.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.cluster import HDBSCAN, KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from maskpool.bench.vectors import Rows, Vectors, unit
from maskpool.plans import Ints

_MOST_AT_ONCE = 2048  # vectors of which all distances are held, 50 MB while they are computed


def fit_kmeans(vectors: Vectors | csr_matrix, clusters: int, seed: int) -> KMeans:
    """Fit k-means with one k-means++ start; do not warn if identical vectors give fewer clusters."""
    return fit_kmeans_of_seeds(vectors, clusters, [seed])[0]


def fit_kmeans_of_seeds(vectors: Vectors | csr_matrix, clusters: int, seeds: Sequence[int]) -> list[KMeans]:
    """Fit k-means once for each seed, as `fit_kmeans` does, in less time."""
    if issparse(vectors) or len(vectors) < clusters:
        starts: Sequence[str | Vectors] = ["k-means++"] * len(seeds)
    else:
        starts = [vectors[rows] for rows in plus_plus(vectors, clusters, seeds)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            KMeans(clusters, init=start, n_init=1, random_state=seed).fit(vectors)
            for start, seed in zip(starts, seeds, strict=True)
        ]


def plus_plus(vectors: Vectors, clusters: int, seeds: Sequence[int]) -> Rows:
    """Choose the vectors at which scikit-learn's k-means starts, for each seed; return rows, (seeds, clusters).

    scikit-learn converts all vectors to float64 again for each cluster, which takes most of a fit with many clusters.
    Here they are converted once, and one matrix product per cluster serves all seeds; the distances of few vectors are
    one product.

    References:
        Arthur and Vassilvitskii 2007, k-means++; scikit-learn, ``sklearn.cluster.kmeans_plusplus``.
    """
    exact = (vectors - vectors.mean(axis=0)).astype(np.float64)
    norms, texts = np.einsum("ij,ij->i", exact, exact), len(exact)
    tries = 2 + int(np.log(clusters))

    def squared_distances(rows: Ints | slice) -> Vectors:
        squares = exact[rows] @ exact.T
        squares *= -2
        squares += norms[rows, None]
        squares += norms
        distances: Vectors = np.maximum(squares.astype(vectors.dtype), 0)
        return distances

    # The product of a matrix with itself is half the work of other products.
    at_once = len(seeds) * clusters * tries >= texts / 2 and texts <= _MOST_AT_ONCE
    table = squared_distances(slice(None)) if at_once else None

    def distances_of(rows: Ints) -> Vectors:
        flat = squared_distances(rows.ravel()) if table is None else table[rows.ravel()]
        return flat.reshape(*rows.shape, texts)

    # The draws and sums are scikit-learn's, in its order and dtype, so a seed gives the same start.
    weights, every_seed = np.ones(texts, vectors.dtype), np.arange(len(seeds))
    rngs = [np.random.RandomState(seed) for seed in seeds]
    chosen = np.empty((len(seeds), clusters), np.int64)
    chosen[:, 0] = [rng.choice(texts, p=weights / weights.sum()) for rng in rngs]
    nearest = distances_of(chosen[:, 0])
    potentials = [of_seed @ weights for of_seed in nearest[:, None]]
    for place in range(1, clusters):
        draws = [rng.uniform(size=tries) * potential for rng, potential in zip(rngs, potentials, strict=True)]
        tried = np.array([np.searchsorted(np.cumsum(row), draw) for row, draw in zip(nearest, draws, strict=True)])
        tried = tried.clip(max=texts - 1)
        squares = np.minimum(nearest[:, None], distances_of(tried))
        # A sum of one row may round differently, which moves a draw to another text.
        sums = squares @ weights
        best = sums.argmin(axis=1)
        potentials = list(sums[every_seed, best, None])
        nearest, chosen[:, place] = squares[every_seed, best], tried[every_seed, best]
    return chosen


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
        return [model.labels_ for model in fit_kmeans_of_seeds(unit(vectors), clusters, seeds)]


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
