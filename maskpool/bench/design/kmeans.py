"""k-means: scikit-learn's starts, iterations and clusters, in less time, for several seeds at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix, issparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from maskpool.bench.vectors import Rows, Vectors
from maskpool.plans import Ints

_MOST_AT_ONCE = 2048  # vectors of which all distances are held, 50 MB while they are computed
_MOST_ITERATIONS, _TOLERANCE = 300, 1e-4  # scikit-learn's


@dataclass(frozen=True)
class Clusters:
    """The result of k-means.

    Attributes:
        labels: The cluster of each vector.
        centres: The mean of each cluster, (clusters, dim).
    """

    labels: Ints
    centres: Vectors

    def predict(self, vectors: Vectors) -> Ints:
        """Return the cluster whose centre is nearest to each vector."""
        nearest: Ints = _nearness(vectors, self.centres).argmax(axis=1)
        return nearest


def fit_kmeans(vectors: Vectors | csr_matrix, clusters: int, seed: int) -> Clusters:
    """Fit k-means with one k-means++ start; do not warn if identical vectors give fewer clusters."""
    return fit_kmeans_of_seeds(vectors, clusters, [seed])[0]


def fit_kmeans_of_seeds(vectors: Vectors | csr_matrix, clusters: int, seeds: Sequence[int]) -> list[Clusters]:
    """Fit k-means once for each seed, as `fit_kmeans` does, in less time."""
    if issparse(vectors) or len(vectors) < clusters:
        return [_fit(vectors, clusters, "k-means++", seed) for seed in seeds]
    starts = [vectors[rows] for rows in plus_plus(vectors, clusters, seeds)]
    fits = _fit_dense(vectors, starts)
    return [fit or _fit(vectors, clusters, start, 0) for fit, start in zip(fits, starts, strict=True)]


def _fit(vectors: Vectors | csr_matrix, clusters: int, start: str | Vectors, seed: int) -> Clusters:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(clusters, init=start, n_init=1, random_state=seed).fit(vectors)
    return Clusters(model.labels_, model.cluster_centers_)


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


def _fit_dense(vectors: Vectors, starts: Sequence[Vectors]) -> list[Clusters | None]:
    """Run Lloyd's iterations from each start as scikit-learn does; None if a cluster has lost its last vector.

    One product serves all starts. Distances to centres that did not move are kept, and only the clusters that a vector
    left or joined are added up again. Sums have scikit-learn's order, one vector after the other, so centres and labels
    are the same.
    """
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    tolerance = float(np.mean(np.var(vectors, axis=0)) * _TOLERANCE)
    runs = [_Run(centred, start - mean) for start in starts]
    for _ in range(_MOST_ITERATIONS):
        running = [run for run in runs if run.running]
        if not running:
            break
        nearness = _nearness(centred, np.concatenate([run.centres[run.moved] for run in running]))
        ends = np.cumsum([len(run.moved) for run in running])
        for run, of_run in zip(running, np.split(nearness, ends[:-1], axis=1), strict=True):
            run.step(of_run, tolerance)
    for run in runs:
        if len(run.moved):  # after the last assignment
            run.assign(_nearness(centred, run.centres[run.moved]))
    return [Clusters(run.labels, run.centres + mean) if run.sizes.all() else None for run in runs]


class _Run:
    """The iterations of one start.

    Attributes:
        centres: The centres, (clusters, dim).
        nearness: Of each vector to each centre.
        labels: The cluster of each vector.
        sizes: The number of vectors of each cluster.
        changed: Whether a vector left or joined each cluster in the last iteration.
        moved: The clusters whose centres moved in the last iteration.
        running: Whether it has not converged.
    """

    def __init__(self, vectors: Vectors, centres: Vectors) -> None:
        self.vectors, self.centres = torch.from_numpy(vectors), centres
        self.nearness = vectors[:, :0]  # to each centre; the first moves of all of them fill it
        self.labels = np.full(len(vectors), -1)  # of no cluster yet
        self.sizes, self.changed = np.ones(len(centres), np.int64), np.ones(len(centres), bool)
        self.moved = np.arange(len(centres))
        self.running = True

    def assign(self, nearness: Vectors) -> None:
        """Assign each vector to the nearest centre, given the nearness to moved ones; note changed clusters."""
        if len(self.moved) == len(self.centres):
            self.nearness = nearness
        else:
            self.nearness[:, self.moved] = nearness
        before, self.labels = self.labels, self.nearness.argmax(axis=1)
        here = np.flatnonzero(before != self.labels)
        self.changed[:] = False
        self.changed[before[here]] = self.changed[self.labels[here]] = True

    def step(self, nearness: Vectors, tolerance: float) -> None:
        """Assign the vectors, and move the centres of the clusters that change."""
        self.assign(nearness)
        self.moved = np.flatnonzero(self.changed)
        self.sizes = np.bincount(self.labels, minlength=len(self.centres))
        self.running = len(self.moved) > 0 and bool(self.sizes.all())
        if not self.running:
            return
        members = np.flatnonzero(self.changed[self.labels])
        # In small integers, which are sorted faster.
        clusters = self.labels[members].astype(np.min_scalar_type(len(self.centres)))
        members, sizes = members[clusters.argsort(kind="stable")], self.sizes[self.moved]
        sums = torch.embedding_bag(self.vectors, torch.from_numpy(members), torch.from_numpy(sizes.cumsum() - sizes))[0]
        centres = sums.numpy() * (1 / sizes.astype(self.centres.dtype))[:, None]
        self.running = float(np.square(centres - self.centres[self.moved]).sum()) > tolerance
        self.centres[self.moved] = centres


def _nearness(vectors: Vectors, centres: Vectors) -> Vectors:
    """Return x·c − c·c / 2, which is half the square of x less half the squared distance of x and c."""
    nearness: Vectors = vectors @ centres.T
    nearness -= np.einsum("ij,ij->i", centres, centres) / 2
    return nearness
