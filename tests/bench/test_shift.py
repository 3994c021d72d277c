"""Measures of how far vectors move."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from maskpool.bench.score.shift import Floats32, Neighbourhoods, cosine_shift, neighbours, neighbours_kept
from maskpool.bench.vectors import unit
from maskpool.tolerances import SAME_SIMILARITY
from tests.matrix import spread

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors
    from maskpool.plans import Ints


def vectors(number: int, seed: int, dim: int = 7) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((number, dim), dtype=np.float32))


def jaccard(reference: Vectors, other: Vectors, count: int) -> float:
    """Compute the mean Jaccard index in a slow loop that sorts the other texts by cosine for each text."""
    indices = []
    for text in range(len(reference)):
        near = []
        for vectors_of in (reference, other):
            rest = [row for row in range(len(vectors_of)) if row != text]
            by_cosine = sorted(rest, key=lambda row: -float(vectors_of[text] @ vectors_of[row]))
            near.append(set(by_cosine[:count]))
        indices.append(len(near[0] & near[1]) / len(near[0] | near[1]))
    return float(np.mean(indices))


def test_cosine_shift_is_scipys() -> None:
    """The shift of each text is scipy's cosine distance of its two vectors."""
    first, second = vectors(40, 0), vectors(40, 1)
    expected = [cosine(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(cosine_shift(first, second), expected, atol=1e-6)


def test_cosine_shift_of_equal_orthogonal_and_opposite_vectors() -> None:
    """The shift is 0 for equal, 1 for orthogonal and 2 for opposite vectors."""
    first = np.eye(2, dtype=np.float32)[[0, 0, 0]]
    second = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    assert cosine_shift(first, second).tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 3, 10])
def test_neighbours_kept_is_the_slow_loop(count: int) -> None:
    """Without ties it is the mean Jaccard index of two sorted lists; a text is not its own neighbour."""
    reference = vectors(60, 0)
    moved = unit((reference + vectors(60, 1)).astype(np.float32))
    assert neighbours_kept(reference, moved, count).mean() == pytest.approx(jaccard(reference, moved, count))


def places(vectors: Vectors, text: int, count: int) -> dict[int, Fraction]:
    """Fill the places of a text's neighbours one by one; texts that are tied at the last one share what is left."""
    similar = {row: float(vectors[text] @ vectors[row]) for row in range(len(vectors)) if row != text}
    last = sorted(similar.values(), reverse=True)[count - 1]
    nearer = [row for row, value in similar.items() if value > last + 4e-6]
    tied = [row for row, value in similar.items() if abs(value - last) <= 4e-6]
    return dict.fromkeys(nearer, Fraction(1)) | dict.fromkeys(tied, Fraction(count - len(nearer), len(tied)))


def slow_kept(reference: Vectors, other: Vectors, count: int) -> list[float]:
    """Compute the weighted Jaccard index of each text's places, in fractions."""
    indices = []
    for text in range(len(reference)):
        a, b = (places(both.astype(np.float64), text, count) for both in (reference, other))
        rows = a.keys() | b.keys()
        smaller, larger = (sum(of(a.get(row, 0), b.get(row, 0)) for row in rows) for of in (min, max))
        indices.append(float(smaller / larger))
    return indices


def repeated() -> Vectors:
    """Make 90 texts of which some repeat up to thirty times, as in logs or in templates."""
    return vectors(20, 0)[np.minimum(np.random.default_rng(0).geometric(0.2, 90) - 1, 19)]


CORPORA = {
    "no text repeats": vectors(90, 0),
    "each text twice": vectors(45, 0)[np.arange(90) // 2],
    "texts repeat": repeated(),
    "half of the texts collapsed": np.where(np.arange(90)[:, None] < 45, vectors(1, 0), vectors(90, 1)),
    "collapsed": vectors(1, 0)[np.zeros(90, int)],
    "zero": np.zeros((90, 7), np.float32),
}


@spread(5, here=CORPORA, there=CORPORA)
def test_tied_texts_share_places(here: str, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two of the corpora, the score of each text is that of a slow loop, and is symmetric."""
    monkeypatch.setattr("maskpool.bench.score.shift._BLOCK", 7 * 90)  # several blocks, the last one smaller
    kept = neighbours_kept(CORPORA[here], CORPORA[there])
    np.testing.assert_allclose(kept, slow_kept(CORPORA[here], CORPORA[there], 10), atol=1e-12)
    np.testing.assert_array_equal(kept, neighbours_kept(CORPORA[there], CORPORA[here]))


@pytest.mark.parametrize(("here", "again"), [("no text repeats", 0), ("texts repeat", 0), ("collapsed", 13)])
def test_neighbourhoods_are_searched_once(here: str, again: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept neighbourhoods give what their vectors give without another search, unless most texts are tied."""
    monkeypatch.setattr("maskpool.bench.score.shift._BLOCK", 7 * 90)  # 13 blocks
    monkeypatch.setattr("maskpool.bench.score.shift._MOST_PAIRS", 4)
    searched: list[Neighbourhoods] = []
    search = Neighbourhoods._search

    def watched(self: Neighbourhoods, block: Ints) -> tuple[Ints, Floats32]:
        searched.append(self)
        return search(self, block)

    monkeypatch.setattr(Neighbourhoods, "_search", watched)
    neighbourhoods = Neighbourhoods(CORPORA[here])
    for there in CORPORA.values():
        kept = neighbours_kept(neighbourhoods, there)
        np.testing.assert_array_equal(kept, neighbours_kept(CORPORA[here], there))
    assert searched.count(neighbourhoods) == 13 + again * (len(CORPORA) - 1)


@pytest.mark.parametrize("name", [name for name in CORPORA if name != "zero"])
@pytest.mark.parametrize("size", [1e-9, 1e-8, 1e-7])
def test_rounding_noise_keeps_all_neighbours(name: str, size: float) -> None:
    """Noise of the size of rounding changes no neighbour of any text, however often texts repeat."""
    for seed in range(20):
        noise = size * np.random.default_rng(seed).standard_normal((90, 7))
        assert neighbours_kept(CORPORA[name], (CORPORA[name] + noise).astype(np.float32)).tolist() == [1.0] * 90


def test_rounding_noise_moves_no_text_out_of_a_tie() -> None:
    """If vectors almost collapse, noise moves texts across the limit of a tie, which changes no score."""
    almost = unit((np.eye(7)[0] + 0.02 * vectors(400, 0)).astype(np.float32))
    noisy = (almost + 1e-7 * np.random.default_rng(1).standard_normal(almost.shape)).astype(np.float32)
    assert np.mean(slow_kept(almost, noisy, 10)) < 1
    assert neighbours_kept(almost, noisy).tolist() == [1.0] * 400


@pytest.mark.parametrize(
    ("before", "after", "kept"), [(0.8, 1.2, 1.0), (1.2, 0.8, 1.0), (0.3, 1.9, 0.8), (1.9, 0.3, 0.8)]
)
def test_a_text_leaves_a_tie_only_beyond_rounding(before: float, after: float, kept: float) -> None:
    """A text that is nearer than a tie by less than rounding stays in it, also if the nearest text moves.

    Of three places, the nearest text has one. The tied texts share the others: 2/3 each of three, or 1 and 1/2 each of
    two if one has left the tie, which makes (1 + 2/3 + 1/2 + 1/2) / (1 + 1 + 2/3 + 2/3).
    """

    def at(*cosines: float) -> Vectors:
        return np.array([(1.0, 0.0), *((cosine, (1 - cosine**2) ** 0.5) for cosine in cosines)], np.float32)

    here, there = (at(near, 0.5 + steps * SAME_SIMILARITY, 0.5, 0.5) for near, steps in ((0.9, before), (0.95, after)))
    assert neighbours_kept(here, there, 3)[0] == pytest.approx(kept, abs=1e-12)


def test_collapsed_vectors_keep_only_what_chance_keeps() -> None:
    """If all vectors are equal, each other text is a neighbour by a share, and almost no neighbour is kept."""
    kept = neighbours_kept(CORPORA["no text repeats"], CORPORA["collapsed"])
    np.testing.assert_allclose(kept, (10 * 10 / 89) / (20 - 10 * 10 / 89), atol=1e-12)


def test_one_move_among_repeated_texts_is_seen() -> None:
    """If one text moves away, it and the texts whose neighbour it was keep less; the others keep all."""
    here = repeated()
    there = here.copy()
    there[0] = -here[0]
    kept = neighbours_kept(here, there)
    assert kept[0] == 0
    np.testing.assert_allclose(kept, slow_kept(here, there, 10), atol=1e-12)
    assert (kept == 1).any()


def test_rounding_noise_in_a_tie_moves_no_place() -> None:
    """If texts move away from repeated texts, the others stay tied although noise separates them."""
    here = repeated()
    there = here.copy()
    there[:9] = vectors(9, 3)
    noise = 1e-7 * np.random.default_rng(1).standard_normal((2, *here.shape)).astype(np.float32)
    kept = neighbours_kept(here + noise[0], there + noise[1])
    np.testing.assert_allclose(kept, slow_kept(here, there, 10), atol=1e-12)
    assert len(np.unique(kept.round(9))) > 5


def test_with_fewer_texts_than_neighbours_all_others_are_neighbours() -> None:
    """With four texts and ten neighbours, each text has the other three as neighbours in both treatments."""
    assert neighbours_kept(vectors(4, 0), vectors(4, 1)).tolist() == [1.0] * 4


def test_neighbours_of_equal_treatments_are_kept_and_of_unrelated_treatments_are_not() -> None:
    """Equal treatments keep every neighbour, and unrelated treatments keep hardly any."""
    reference, unrelated = vectors(400, 0), vectors(400, 1)
    assert neighbours_kept(reference, reference).mean() == 1.0
    assert neighbours_kept(reference, unrelated).mean() < 0.05


@pytest.mark.parametrize("count", [3, 10])
def test_neighbours_are_the_nearest_other_texts(count: int) -> None:
    """Neighbours are listed nearest first, without the text itself."""
    some, texts = vectors(8, 0), np.array([5, 2])
    for text, near in zip(texts.tolist(), neighbours(some, texts, count), strict=True):
        others = [row for row in range(8) if row != text]
        assert near.tolist() == sorted(others, key=lambda row: -float(some[text] @ some[row]))[:count]
