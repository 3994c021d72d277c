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
# A text that is less near than this has certainly moved if the other vectors make it a neighbour or tie it with one.
_NEAR = 3 * SAME_SIMILARITY
_MOST_PAIRS = 8  # kept per neighbour, 100 bytes


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
    for block in _blocks(len(index)):
        yield block, _similarities(index, queries, block)


def _blocks(texts: int) -> Iterator[Ints]:
    for start in range(0, texts, step := max(1, _BLOCK // texts)):
        yield np.arange(start, min(start + step, texts))


def _similarities(index: Vectors, queries: Vectors, texts: Ints) -> Vectors:
    similar: Vectors = queries[texts] @ index.T
    similar[np.arange(len(texts)), texts] = -np.inf
    return similar


def neighbours(vectors: Vectors, texts: Ints, count: int) -> Rows:
    """Find the nearest other texts of some texts, by cosine, nearest first; (texts, count)."""
    vectors = unit(vectors)
    nearest: Rows = np.argsort(-_similarities(vectors, vectors, texts), axis=1, kind="stable")[
        :, : min(count, len(vectors) - 1)
    ]
    return nearest


class Neighbourhoods:
    """The texts near the last neighbour of each text or nearer, searched once for any number of comparisons.

    Args:
        vectors: Vectors of texts, (texts, dim).
        count: The number of neighbours of a text; all other texts if there are fewer.
    """

    def __init__(self, vectors: Vectors, count: int = 10) -> None:
        self.vectors = unit(vectors)
        self.count = min(count, len(vectors) - 1)
        self._found: dict[int, tuple[Ints, Floats32]] = {}  # by the first text of the block

    def blocks(self) -> Iterator[tuple[Ints, Ints, Floats32]]:
        """Yield blocks of texts, their pairs with near texts, and how much nearer each is than the last neighbour.

        A pair is a sorted number: the place of the text in the block times the number of texts, plus the near text.
        """
        for block in _blocks(len(self.vectors)):
            yield block, *(self._found.get(int(block[0])) or self._search(block))

    def _search(self, block: Ints) -> tuple[Ints, Floats32]:
        similar = _similarities(self.vectors, self.vectors, block)
        last = np.partition(similar, -self.count, axis=1)[:, -self.count]
        pairs = np.flatnonzero(similar >= last[:, None] - _NEAR)
        margins = similar.ravel()[pairs] - last[pairs // len(self.vectors)]
        # If most texts are tied, the pairs would fill the memory.
        if len(pairs) <= _MOST_PAIRS * self.count * len(block):
            self._found[int(block[0])] = pairs, margins
        return pairs, margins


def neighbours_kept(reference: Vectors | Neighbourhoods, other: Vectors, count: int = 10) -> Floats:
    """Compute for each text how many of its nearest neighbours are the same in the two sets, from 0 to 1.

    Without ties this is the Jaccard index, |A ∩ B| / |A ∪ B|, of the text's ``count`` nearest other texts in each set,
    by cosine. A text is tied if its similarity equals that of the last neighbour up to rounding, as if texts repeat;
    tied texts share the remaining places equally. So each text belongs to A with a weight a between 0 and 1, and the
    weights add up to ``count``; the score is the weighted Jaccard index, Σ min(a, b) / Σ max(a, b). It is exactly 1 if
    no text near the last neighbour comes nearer or moves away by more than rounding. If there are fewer than ``count``
    other texts, all of them are neighbours.

    Args:
        reference: Vectors of texts, (texts, dim), or their neighbourhoods, which are then searched once for several
            calls; their number of neighbours replaces ``count``.
        other: Other vectors of the same texts, (texts, dim).
        count: The number of neighbours.

    Source: Caspari et al. 2024 (neighbours); Ioffe 2010 (weighted Jaccard index).

    Example:
        >>> import numpy as np
        >>> neighbours_kept(np.eye(3), np.eye(3), count=1).tolist()
        [1.0, 1.0, 1.0]
    """
    here = reference if isinstance(reference, Neighbourhoods) else Neighbourhoods(reference, count)
    there = Neighbourhoods(other, here.count)
    kept = np.ones(len(other))
    for (block, pairs, margins), (_, pairs_there, margins_there) in zip(here.blocks(), there.blocks(), strict=True):
        either = np.union1d(pairs, pairs_there)
        in_a, in_b = (np.full(len(either), -np.inf, margins.dtype) for _ in range(2))
        in_a[np.searchsorted(either, pairs)] = margins
        in_b[np.searchsorted(either, pairs_there)] = margins_there
        near = np.maximum(in_a, in_b) >= -SAME_SIMILARITY
        in_a, in_b, rows, size = in_a[near], in_b[near], either[near] // len(kept), len(block)
        a, b = (_weights(margins, rows, size, here.count) for margins in (in_a, in_b))
        jaccard = np.bincount(rows, np.minimum(a, b), size) / np.bincount(rows, np.maximum(a, b), size)
        clearly = 2 * SAME_SIMILARITY  # a text that is nearer by more than this in both sets keeps its place
        moved = np.abs(np.minimum(in_a, clearly) - np.minimum(in_b, clearly)) > SAME_SIMILARITY
        kept[block] = np.where(np.bincount(rows, moved, size) > 0, jaccard, 1.0)
    return kept


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
