"""Measurements other than fits, compared with loops over texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL, Subsample
from maskpool.bench.design.treatments import INCLUDED
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.encode.positions import RIGHT
from maskpool.bench.part import Part
from maskpool.bench.score.fits import Comparison
from maskpool.bench.score.measures import baselines, compute_shifts, seconds, tfidf_of
from maskpool.encoder import Encoder
from maskpool.plans import Plan
from tests.bench import tiny

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors

PLAN = Plan("random", 4)
TEXTS, DIM = 50, 6
LENGTHS = np.random.default_rng(0).integers(2, 20, TEXTS)
WIDTHS = PLAN.widths(LENGTHS, np.random.default_rng(1))
SUBSAMPLE = Subsample(FULL, np.arange(TEXTS), {PLAN.name: WIDTHS}, (0, 1), 0)


@pytest.fixture(scope="module")
def laid() -> dict[str, Vectors]:
    """Make vectors of texts alone, with pads included, and of only pads; included pads move a text by their share."""
    rng = np.random.default_rng(2)
    alone = rng.normal(0, 1, (TEXTS, DIM))
    share = (1 - LENGTHS / WIDTHS)[:, None]
    whole = 1.5 * (alone + share * rng.normal(0, 1, (TEXTS, DIM)))
    pads = rng.normal(0, 3, (TEXTS, DIM))
    return {name: vectors.astype(np.float32) for name, vectors in (("real", alone), ("whole", whole), ("pads", pads))}


@pytest.fixture(scope="module")
def pooled(laid: dict[str, Vectors], tmp_path_factory: pytest.TempPathFactory) -> Pooled:
    def placed(name: str) -> dict[tuple[int, int], Vectors]:
        alone = {(text, length): laid["real"][text] for text, length in enumerate(LENGTHS.tolist())}
        return alone | {(text, width): laid[name][text] for text, width in enumerate(WIDTHS.tolist())}

    position_sets = {(RIGHT, positions, "mean"): placed(positions) for positions in ("real", "whole", "pads")}
    return tiny.write_vectors(tmp_path_factory.mktemp("vectors"), LENGTHS, position_sets)  # type: ignore[arg-type]  # position_sets


def size(vector: Vectors) -> float:
    return float(sum(float(number) ** 2 for number in vector) ** 0.5)


def shifts(alone: Vectors, other: Vectors) -> list[float]:
    return [
        1 - sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / size(a) / size(b)
        for a, b in zip(alone, other, strict=True)
    ]


def quantile(values: Sequence[float], share: float) -> float:
    """Interpolate between the two values on either side of the share."""
    ordered, place = sorted(values), share * (len(values) - 1)
    below = ordered[int(place)]
    return below + (place - int(place)) * (ordered[min(int(place) + 1, len(ordered) - 1)] - below)


def jaccard(alone: Vectors, moved: Vectors) -> float:
    indices = []
    for text in range(len(alone)):
        near = []
        for vectors in (alone, moved):
            rest = [place for place in range(len(alone)) if place != text]
            by_cosine = sorted(rest, key=lambda place: shifts(vectors[text : text + 1], vectors[place : place + 1])[0])
            near.append(set(by_cosine[:10]))
        indices.append(len(near[0] & near[1]) / len(near[0] | near[1]))
    return sum(indices) / len(indices)


def assert_moved(measures: dict[str, Any], alone: Vectors, moved: Vectors) -> list[float]:
    """Check the measures of every treatment against slow loops, to the seven digits of float32."""
    expected = shifts(alone, moved)
    assert measures["cosine_shift"] == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert measures["cosine_shift_p95"] == pytest.approx(quantile(expected, 0.95), abs=1e-6)
    assert measures["cosine_shift_max"] == pytest.approx(max(expected), abs=1e-6)
    ratios = [size(b) / size(a) for a, b in zip(alone, moved, strict=True)]
    assert measures["length_ratio"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-6)
    assert measures["neighbours_kept"] == pytest.approx(jaccard(alone, moved), abs=1e-9)
    return expected


@pytest.mark.parametrize(
    ("texts", "terms"),
    [
        (["a b", "ab cd", "b ab"], {"ab", "cd"}),
        (["a b", "b c"], {"a", "b", "c"}),
        (["? !", "!!"], {"?", " ", "!"}),
    ],
)
def test_tfidf_is_of_words_where_there_are_some(texts: list[str], terms: set[str]) -> None:
    """Terms are words of two characters; if no text has one, words of one character, or else characters."""
    assert tfidf_of(texts).shape == (len(texts), len(terms))
    if "ab" in terms:
        assert (tfidf_of(texts) != TfidfVectorizer(sublinear_tf=True).fit_transform(texts)).nnz == 0


def test_shift_of_included_is_the_slow_loop(laid: dict[str, Vectors], pooled: Pooled) -> None:
    """The shift by pads, its correlation with the pads and its bins equal those counted text by text."""
    measures = compute_shifts(pooled, SUBSAMPLE, [Comparison(-1, "mean", PLAN, INCLUDED, "kmeans")])[0]
    shift = assert_moved(measures, laid["real"], laid["whole"])
    fractions = [1 - length / width for length, width in zip(LENGTHS.tolist(), WIDTHS.tolist(), strict=True)]
    # Spearman's correlation is Pearson's of the ranks; texts without pads are tied despite float32 noise in shifts.
    unmoved = [value if fraction else 0.0 for value, fraction in zip(shift, fractions, strict=True)]
    expected = np.corrcoef(rankdata(unmoved), rankdata(fractions))[0, 1]
    assert measures["shift_by_padding"] == pytest.approx(expected, abs=1e-9)
    assert sum(bin_of_texts["texts"] for bin_of_texts in measures["by_pad_fraction"]) == TEXTS
    bins: dict[int, list[int]] = {}
    for text, fraction in enumerate(fractions):
        bins.setdefault(min(int(fraction * 10), 9), []).append(text)
    for bin_of_texts, (_, texts) in zip(measures["by_pad_fraction"], sorted(bins.items()), strict=True):
        inside = [shift[text] for text in texts]
        assert bin_of_texts["texts"] == len(texts)
        assert bin_of_texts["pad_fraction"] == pytest.approx(
            sum(fractions[text] for text in texts) / len(texts), abs=1e-9
        )
        assert bin_of_texts["mean"] == pytest.approx(sum(inside) / len(inside), abs=1e-6)
        assert bin_of_texts["p5"] == pytest.approx(quantile(inside, 0.05), abs=1e-6)
        assert bin_of_texts["p95"] == pytest.approx(quantile(inside, 0.95), abs=1e-6)


def test_shift_of_pads_only_is_of_the_texts_that_have_some(laid: dict[str, Vectors], pooled: Pooled) -> None:
    """Only pads are compared with the same texts alone, without a correlation with the share of pads."""
    measures = compute_shifts(pooled, SUBSAMPLE, [Comparison(-1, "mean", PLAN, "pads only", "kmeans")])[0]
    padded = WIDTHS > LENGTHS
    assert 10 < padded.sum() < TEXTS
    assert_moved(measures, laid["real"][padded], laid["pads"][padded])
    assert not measures.keys() & {"shift_by_padding", "by_pad_fraction"}


@pytest.mark.parametrize(("moved", "identical"), [(0.0, True), (5e-7, True), (2e-6, False)])
def test_identical_vectors_equal_those_of_the_texts_alone(
    laid: dict[str, Vectors], tmp_path: Path, moved: float, identical: bool
) -> None:
    """Vectors are identical if none differs by more than 1e-6 of its length; one that differs is enough."""
    real = {(text, length): laid["real"][text] for text, length in enumerate(LENGTHS.tolist())}
    whole = laid["real"].astype(np.float64)
    whole[7] += moved * np.linalg.norm(whole[7]) * np.eye(DIM)[0]
    whole = whole.astype(np.float32)
    padded = real | {(text, width): whole[text] for text, width in enumerate(WIDTHS.tolist())}
    position_sets: Any = {(RIGHT, "real", "mean"): real | padded, (RIGHT, "whole", "mean"): padded}
    pooled = tiny.write_vectors(tmp_path, LENGTHS, position_sets)
    measures = compute_shifts(pooled, SUBSAMPLE, [Comparison(-1, "mean", PLAN, INCLUDED, "kmeans")])[0]
    assert measures["identical"] is identical


def test_shifts_of_several_treatments_are_those_of_each(pooled: Pooled) -> None:
    """Treatments that are compared with the same texts alone have the measures of each measured without the others."""
    comparisons = [Comparison(-1, "mean", PLAN, treatment, "kmeans") for treatment in (INCLUDED, "noise")]
    together = compute_shifts(pooled, SUBSAMPLE, comparisons)
    assert together == [compute_shifts(pooled, SUBSAMPLE, [comparison])[0] for comparison in comparisons]
    assert together[0]["neighbours_kept"] != together[1]["neighbours_kept"]


def test_a_treatment_other_than_included_has_no_bins(pooled: Pooled) -> None:
    """Only the included treatment has a curve over the share of pads; each treatment of all texts has a correlation."""
    measures = compute_shifts(pooled, SUBSAMPLE, [Comparison(-1, "mean", PLAN, "noise", "kmeans")])[0]
    assert "shift_by_padding" in measures
    assert "by_pad_fraction" not in measures


@pytest.fixture(scope="module")
def part(encoder: Encoder) -> Part:
    texts, labels = zip(*tiny.make_texts(90), strict=True)
    study = Study(poolings=("mean",), replicates=2, seeds=3)
    return Part.of(study, Corpus("colours", list(texts), list(labels)), encoder)


def test_a_plan_whose_padded_lengths_follow_the_labels_is_confounded(encoder: Encoder) -> None:
    """The AMI of labels and padded lengths is scikit-learn's; batches of a file sorted by label are confounded."""
    texts, labels = zip(*sorted(tiny.make_texts(320), key=lambda pair: pair[1]), strict=True)
    plans = (Plan("natural", 8), Plan("random", 8), Plan("random", 8, 40))
    study = Study(poolings=("mean",), replicates=2, seeds=3, plans=plans)
    part = Part.of(study, Corpus("sorted", list(texts), list(labels)), encoder)
    natural, shuffled, fixed = part.facts()["plans"]
    widths = part.subsamples[FULL].widths
    for plan in (natural, shuffled, fixed):
        expected = metrics.adjusted_mutual_info_score(labels, widths[plan["name"]])
        assert plan["label_width_ami"] == pytest.approx(expected, abs=1e-12)
    assert [plan["confounded"] for plan in (natural, shuffled, fixed)] == [True, False, False]
    assert fixed["label_width_ami"] == 0


def scores(labels: Sequence[str], clusters: Sequence[int]) -> dict[str, float]:
    """Compute scikit-learn's scores, and the accuracy of the best of all assignments of clusters to labels."""
    names = sorted(set(labels))
    together = Counter(zip(labels, clusters, strict=True))
    ways = permutations(range(max(clusters) + 1), len(names))
    best = max(sum(together[pair] for pair in zip(names, way, strict=True)) for way in ways)
    return {
        "ami": metrics.adjusted_mutual_info_score(labels, clusters),
        "ari": metrics.adjusted_rand_score(labels, clusters),
        "v_measure": metrics.v_measure_score(labels, clusters),
        "homogeneity": metrics.homogeneity_score(labels, clusters),
        "completeness": metrics.completeness_score(labels, clusters),
        "accuracy": best / len(labels),
    }


def test_baselines_are_scikit_learns(part: Part) -> None:
    """k-means on TF-IDF over five seeds, and the deciles of the lengths, have scikit-learn's scores."""
    baseline_scores = baselines(part.corpus, part.lengths)
    matrix = TfidfVectorizer(sublinear_tf=True).fit_transform(part.corpus.texts)
    fits = [KMeans(5, n_init=1, random_state=seed).fit_predict(matrix).tolist() for seed in range(5)]
    each = [scores(part.corpus.labels, clusters) for clusters in fits]
    assert baseline_scores["tfidf"] == pytest.approx(
        {name: sum(scores_of_fit[name] for scores_of_fit in each) / 5 for name in each[0]}, abs=1e-9
    )
    tokens = [len(text.split()) + 2 for text in part.corpus.texts]
    cuts = [quantile(tokens, share / 10) for share in range(1, 10)]
    deciles = [sum(number > cut + 1e-9 for cut in cuts) for number in tokens]
    assert baseline_scores["length_deciles"] == pytest.approx(scores(part.corpus.labels, deciles), abs=1e-9)


@pytest.mark.parametrize(
    ("plan", "timed", "batches"),
    [
        (Plan("random", 8), 4, 12),
        (Plan("sorted", 8), 4, 12),
        (Plan("sorted", 4, 40, side="left"), 8, 23),
        (Plan("random", 64), 2, 2),
        (Plan("natural", 128), 1, 1),
    ],
)
def test_seconds_are_scaled_from_batches_to_all_tokens(
    part: Part, monkeypatch: pytest.MonkeyPatch, plan: Plan, timed: int, batches: int
) -> None:
    """If each position takes a millisecond, a plan takes as many milliseconds as it has positions, with pads."""
    now = 0.0
    seen: list[tuple[int, int | None, str]] = []

    def encode(
        self: Encoder, ids: Sequence[Sequence[int]], layers: Sequence[int], width: int, side: str
    ) -> list[Tensor]:
        nonlocal now
        assert max(map(len, ids)) <= width
        now += len(ids) * width / 1000
        seen.append((len(ids), width, side))
        return [torch.zeros(0)]

    monkeypatch.setattr("maskpool.bench.score.measures.TIMED_TEXTS", 32)
    monkeypatch.setattr("maskpool.bench.score.measures.time.perf_counter", lambda: now)
    monkeypatch.setattr(Encoder, "layers", encode)
    subsample = Subsample(FULL, np.arange(90), {}, (), part.study.seed)
    estimate = seconds(part.encoder, part.ids, plan, part.batches(plan))
    assert estimate["seconds"] == pytest.approx(
        plan.widths(part.lengths, subsample.rng(plan.name), part.characters).sum() / 1000
    )
    assert (estimate["timed_batches"], estimate["batches"], len(seen)) == (timed, batches, timed)
    assert {side for *_, side in seen} == {plan.side}
    widths = [width for _, width in plan.batches(part.lengths, subsample.rng(plan.name), part.characters)]
    assert {min(widths), max(widths)} <= {width for _, width, _ in seen}, "from the narrowest to the widest"
