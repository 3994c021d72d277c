"""How far embeddings move: measures between two sets of unit vectors of the same texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    from maskpool.bench.arms import Vectors

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def cosine_shift(reference: Vectors, other: Vectors) -> Floats:
    """1 − cosine of each text's two unit vectors: 0 unmoved, 1 orthogonal."""
    shift: Floats = 1.0 - (reference.astype(np.float64) * other).sum(axis=1)
    return shift


def neighbours_kept(reference: Vectors, other: Vectors, neighbours: int = 10) -> float:
    """Mean Jaccard index, |A ∩ B| / |A ∪ B|, of each text's nearest neighbours in the two sets.

    With fewer than ``neighbours`` other texts, all of them are neighbours. Source: Caspari et al. 2024.

    Example:
        >>> import numpy as np
        >>> neighbours_kept(np.eye(3), np.eye(3), neighbours=1)
        1.0
    """
    count = min(neighbours, len(reference) - 1)
    near = [
        NearestNeighbors(n_neighbors=count, algorithm="brute").fit(vectors).kneighbors(return_distance=False)
        for vectors in (reference, other)
    ]
    shared = np.array([len(np.intersect1d(a, b)) for a, b in zip(*near, strict=True)])
    return float(np.mean(shared / (2 * count - shared)))
