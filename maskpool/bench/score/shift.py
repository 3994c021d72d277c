"""Measures of how far vectors move between two sets of vectors of the same texts."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from maskpool.bench.vectors import Vectors, unit
from maskpool.plans import Ints

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def cosine_shift(reference: Vectors, other: Vectors) -> Floats:
    """Compute 1 − cosine of each text's two vectors: 0 if unmoved, 1 if orthogonal."""
    reference, other = unit(reference), unit(other)
    shift: Floats = 1.0 - (reference.astype(np.float64) * other).sum(axis=1)
    return shift


def neighbours(vectors: Vectors, count: int) -> Ints:
    """Find the nearest other texts of each text, by cosine, nearest first; (texts, count)."""
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(unit(vectors))
    nearest: Ints = search.kneighbors(return_distance=False)
    return nearest


def neighbours_kept(reference: Vectors, other: Vectors, count: int = 10) -> float:
    """Return the mean Jaccard index, |A ∩ B| / |A ∪ B|, of each text's nearest neighbours in the two sets.

    If there are fewer than ``count`` other texts, all of them are neighbours. Source: Caspari et al. 2024.

    Example:
        >>> import numpy as np
        >>> neighbours_kept(np.eye(3), np.eye(3), count=1)
        1.0
    """
    count = min(count, len(reference) - 1)
    shared = shared_neighbours(neighbours(reference, count), neighbours(other, count))
    return float(np.mean(shared / (2 * count - shared)))


def shared_neighbours(reference: Ints, other: Ints) -> Ints:
    """Count the neighbours of each text that are in both of its lists of neighbours."""
    return np.array([len(np.intersect1d(a, b)) for a, b in zip(reference, other, strict=True)], dtype=np.int64)


def length_leakage(shift: Floats, pad_fraction: Floats) -> float:
    """Return Spearman's correlation of the shift with the share of pads; 0 if either is constant.

    Example:
        >>> import numpy as np
        >>> length_leakage(np.array([0.1, 0.2, 0.4]), np.array([0.0, 0.5, 0.6]))
        1.0
    """
    shift = np.round(shift, 6)  # float32 has seven digits, and its noise would determine the ranks
    if np.ptp(shift) == 0 or np.ptp(pad_fraction) == 0:
        return 0.0
    return round(float(spearmanr(shift, pad_fraction).statistic), 12)


def deciles(lengths: Ints) -> Ints:
    """Return the decile of each length, which serves as clusters that depend only on a text's length."""
    clusters: Ints = np.searchsorted(np.quantile(lengths, np.linspace(0.1, 0.9, 9)), lengths).astype(np.int64)
    return clusters
