"""How far embeddings move: measures between two sets of vectors of the same texts."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from maskpool.bench.vectors import Vectors, unit
from maskpool.plans import Ints

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def cosine_shift(reference: Vectors, other: Vectors) -> Floats:
    """1 − cosine of each text's two vectors: 0 unmoved, 1 orthogonal."""
    reference, other = unit(reference), unit(other)
    shift: Floats = 1.0 - (reference.astype(np.float64) * other).sum(axis=1)
    return shift


def neighbours(vectors: Vectors, count: int) -> Ints:
    """The nearest other texts of each, by cosine, nearest first; (texts, count)."""
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(unit(vectors))
    found: Ints = search.kneighbors(return_distance=False)
    return found


def neighbours_kept(reference: Vectors, other: Vectors, count: int = 10) -> float:
    """Mean Jaccard index, |A ∩ B| / |A ∪ B|, of each text's nearest neighbours in the two sets.

    With fewer than ``count`` other texts, all of them are neighbours. Source: Caspari et al. 2024.

    Example:
        >>> import numpy as np
        >>> neighbours_kept(np.eye(3), np.eye(3), count=1)
        1.0
    """
    count = min(count, len(reference) - 1)
    shared = shared_neighbours(neighbours(reference, count), neighbours(other, count))
    return float(np.mean(shared / (2 * count - shared)))


def shared_neighbours(one: Ints, other: Ints) -> Ints:
    """How many neighbours each text has in both of two lists of them."""
    return np.array([len(np.intersect1d(a, b)) for a, b in zip(one, other, strict=True)], dtype=np.int64)


def length_leakage(shift: Floats, pad_fraction: Floats) -> float:
    """Spearman's correlation of the shift with the share of pads; 0 where either does not vary.

    Example:
        >>> import numpy as np
        >>> length_leakage(np.array([0.1, 0.2, 0.4]), np.array([0.0, 0.5, 0.6]))
        1.0
    """
    shift = np.round(shift, 6)  # float32 leaves seven digits, and ranks would be made of its noise
    if np.ptp(shift) == 0 or np.ptp(pad_fraction) == 0:
        return 0.0
    return round(float(spearmanr(shift, pad_fraction).statistic), 12)


def deciles(lengths: Ints) -> Ints:
    """The decile of each length, as clusters that know nothing of a text but its length."""
    found: Ints = np.searchsorted(np.quantile(lengths, np.linspace(0.1, 0.9, 9)), lengths).astype(np.int64)
    return found
