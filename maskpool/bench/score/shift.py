"""Measures of how far vectors move between two sets of vectors of the same texts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import spearmanr

from maskpool.bench.vectors import Rows, Vectors, unit
from maskpool.plans import Ints
from maskpool.tolerances import SAME_SIMILARITY

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Floats32 = np.ndarray[tuple[int], np.dtype[np.float32]]

_BLOCK = 2**21  # similarities held at once, 8 MB


def cosine_shift(reference: Vectors, other: Vectors) -> Floats:
    """Compute 1 − cosine of each text's two vectors: 0 if unmoved, 1 if orthogonal."""
    reference, other = unit(reference), unit(other)
    shift: Floats = 1.0 - (reference.astype(np.float64) * other).sum(axis=1)
    return shift


def similarities(index: Vectors, queries: Vectors) -> Iterator[tuple[Ints, Vectors]]:
    """Yield blocks of texts and the cosines of their queries with all texts; −inf with the text itself.

    Args:
        index: Unit vectors, (texts, dim).
        queries: Unit vectors of the same texts, (texts, dim).
    """
    texts = len(index)
    for start in range(0, texts, step := max(1, _BLOCK // texts)):
        block = np.arange(start, min(start + step, texts))
        similar = queries[block] @ index.T
        similar[np.arange(len(block)), block] = -np.inf
        yield block, similar


def neighbours(vectors: Vectors, texts: Ints, count: int) -> Rows:
    """Find the nearest other texts of some texts, by cosine, nearest first; (texts, count)."""
    vectors = unit(vectors)
    similar = vectors[texts] @ vectors.T
    similar[np.arange(len(texts)), texts] = -np.inf
    nearest: Rows = np.argsort(-similar, axis=1, kind="stable")[:, : min(count, len(vectors) - 1)]
    return nearest


def neighbours_kept(reference: Vectors, other: Vectors, count: int = 10) -> Floats:
    """Compute for each text how many of its nearest neighbours are the same in the two sets, from 0 to 1.

    Without ties this is the Jaccard index, |A ∩ B| / |A ∪ B|, of the text's ``count`` nearest other texts in each set,
    by cosine. A text is tied if its similarity equals that of the last neighbour up to rounding, as if texts repeat;
    tied texts share the remaining places equally. So each text belongs to A with a weight a between 0 and 1, and the
    weights add up to ``count``; the score is the weighted Jaccard index, Σ min(a, b) / Σ max(a, b). It is exactly 1 if
    no text near the last neighbour comes nearer or moves away by more than rounding. If there are fewer than ``count``
    other texts, all of them are neighbours.

    Source: Caspari et al. 2024 (neighbours); Ioffe 2010 (weighted Jaccard index).

    Example:
        >>> import numpy as np
        >>> neighbours_kept(np.eye(3), np.eye(3), count=1).tolist()
        [1.0, 1.0, 1.0]
    """
    reference, other = unit(reference), unit(other)
    count = min(count, len(reference) - 1)
    kept = np.ones(len(reference))
    in_both = zip(similarities(reference, reference), similarities(other, other), strict=True)
    for (block, similar), (_, similar_other) in in_both:
        beyond, beyond_other = (_beyond_the_last(cosines, count) for cosines in (similar, similar_other))
        near = np.maximum(beyond, beyond_other) >= -SAME_SIMILARITY
        rows, size = np.nonzero(near)[0], len(block)
        in_a, in_b = beyond[near], beyond_other[near]
        a, b = (_weights(margins, rows, size, count) for margins in (in_a, in_b))
        jaccard = np.bincount(rows, np.minimum(a, b), size) / np.bincount(rows, np.maximum(a, b), size)
        clearly = 2 * SAME_SIMILARITY  # a text that is nearer by more than this in both sets keeps its place
        moved = np.abs(np.minimum(in_a, clearly) - np.minimum(in_b, clearly)) > SAME_SIMILARITY
        kept[block] = np.where(np.bincount(rows, moved, size) > 0, jaccard, 1.0)
    return kept


def _beyond_the_last(similar: Vectors, count: int) -> Vectors:
    """Compute how much more similar each text is than the last neighbour, in place; (texts, all texts)."""
    last = similar.shape[1] - count
    similar -= np.partition(similar, last, axis=1)[:, last, None]
    return similar


def _weights(margins: Floats32, rows: Ints, size: int, count: int) -> Floats:
    """Weigh texts as neighbours: 1 if nearer than the last neighbour, a share of the places left if tied with it."""
    nearer, tied = margins > SAME_SIMILARITY, np.abs(margins) <= SAME_SIMILARITY
    share = (count - np.bincount(rows, nearer, size)) / np.bincount(rows, tied, size)
    weights: Floats = nearer + tied * share[rows]
    return weights


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
