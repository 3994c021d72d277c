"""Fits: the vectors of each treatment, their clusters and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN, KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_mutual_info_score

from maskpool.bench.design.clusterers import CLUSTERERS
from maskpool.bench.design.subsamples import FULL, Subsample
from maskpool.bench.design.treatments import EXCLUDED, FIT, INCLUDED, INDEX, TREATMENTS, Positions
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.encode.positions import RIGHT, Source
from maskpool.bench.score.fits import (
    Comparison,
    Fit,
    alone_vectors,
    compute_fits,
    floor_values,
    pack,
    treatment_vectors,
    unpack,
)
from maskpool.bench.score.metrics import score
from maskpool.bench.score.scorers import nearest_accuracy, predicted_ami
from maskpool.bench.score.shift import deciles
from maskpool.nn import MaxPooling, MinPooling
from maskpool.plans import Plan
from tests.bench import tiny

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors
    from maskpool.plans import Ints

RIGHT_PLAN, LEFT_PLAN = Plan("random", 4), Plan("random", 4, side="left")
PLANS = {"right": RIGHT_PLAN, "left": LEFT_PLAN}
TEXTS, DIM = 60, 6
MODES = ("mean", MaxPooling.mode, MinPooling.mode)
LENGTHS = np.random.default_rng(1).integers(3, 12, TEXTS)
CODES = np.random.default_rng(2).integers(0, 3, TEXTS)
HALF = np.arange(0, TEXTS, 2)


def subsample_of(number: int, texts: Ints, seed: int = 0) -> Subsample:
    widths = {plan.name: plan.widths(LENGTHS[texts], np.random.default_rng(number)) for plan in PLANS.values()}
    return Subsample(number, texts, widths, (4, 9), seed)


SUBSAMPLES = {FULL: subsample_of(FULL, np.arange(TEXTS)), 1: subsample_of(1, HALF)}
Laid = Mapping[tuple[Source, Positions, str], Mapping[tuple[int, int], "Vectors"]]


@pytest.fixture(scope="module")
def laid() -> Laid:
    """Make a vector per source, positions, mode, text and width; clusters overlap."""
    rng = np.random.default_rng(0)
    pairs = {
        (int(text), int(width))
        for subsample in SUBSAMPLES.values()
        for widths in subsample.widths.values()
        for text, width in zip(subsample.texts, widths, strict=True)
    }
    pairs |= set(enumerate(LENGTHS.tolist()))
    centres = 2 * np.eye(DIM)
    return {
        (Source(side, masked), positions, mode): {  # type: ignore[arg-type]  # the sides are those that there are
            (text, width): (centres[CODES[text]] + rng.normal(0, 1, DIM)).astype(np.float32) for text, width in pairs
        }
        for side in PLANS
        for masked in (True, False)
        for positions in get_args(Positions)
        for mode in MODES
    }


@pytest.fixture(scope="module")
def pooled(laid: Laid, tmp_path_factory: pytest.TempPathFactory) -> Pooled:
    return tiny.write_vectors(tmp_path_factory.mktemp("vectors"), LENGTHS, laid)


def looked_up(
    laid: Laid, source: Source, positions: Positions, subsample: Subsample, plan: Plan, mode: str = "mean"
) -> Vectors:
    """Return the vectors of a subsample as a plan pads it, looked up text by text."""
    there = laid[source, positions, mode]
    return np.array(
        [
            there[text, width]
            for text, width in zip(subsample.texts.tolist(), subsample.widths[plan.name].tolist(), strict=True)
        ]
    )


def has_pads(subsample: Subsample, plan: Plan) -> list[bool]:
    return [width > LENGTHS[text] for text, width in zip(subsample.texts, subsample.widths[plan.name], strict=True)]


@pytest.mark.parametrize("number", SUBSAMPLES)
@pytest.mark.parametrize("side", PLANS)
@pytest.mark.parametrize(
    ("treatment", "positions", "masked"),
    [
        (EXCLUDED, "real", True),
        (INCLUDED, "whole", True),
        ("common pad", "common", True),
        ("another's pads", "another", True),
        ("mask not passed", "real", False),
    ],
)
def test_treatments_that_are_read_directly(
    laid: Laid, pooled: Pooled, treatment: str, positions: Positions, masked: bool, side: str, number: int
) -> None:
    """These treatments are the vectors of one set of positions, at the width and on the side of the plan, in order."""
    subsample, plan = SUBSAMPLES[number], PLANS[side]
    expected = looked_up(laid, Source(plan.side, masked), positions, subsample, plan)
    np.testing.assert_array_equal(treatment_vectors(pooled, subsample, -1, "mean", treatment, plan), expected)


@pytest.mark.parametrize("number", SUBSAMPLES)
@pytest.mark.parametrize("side", PLANS)
def test_pads_only_are_those_of_texts_that_have_some(laid: Laid, pooled: Pooled, side: str, number: int) -> None:
    """The treatment has a vector for each text with a pad, and none for the others."""
    subsample, plan = SUBSAMPLES[number], PLANS[side]
    padded = has_pads(subsample, plan)
    assert 0 < sum(padded) < len(padded)
    expected = looked_up(laid, Source(plan.side), "pads", subsample, plan)[padded]
    np.testing.assert_array_equal(treatment_vectors(pooled, subsample, -1, "mean", "pads only", plan), expected)


@pytest.mark.parametrize("number", SUBSAMPLES)
@pytest.mark.parametrize("side", PLANS)
def test_another_s_pads_only_are_never_the_text_s_own(laid: Laid, pooled: Pooled, side: str, number: int) -> None:
    """Each text with a pad gets the pads of another text with pads, and the pads of each text are used once."""
    subsample, plan = SUBSAMPLES[number], PLANS[side]
    own = looked_up(laid, Source(plan.side), "pads", subsample, plan)[has_pads(subsample, plan)].tolist()
    given = treatment_vectors(pooled, subsample, -1, "mean", "another's pads only", plan).tolist()
    givers = [own.index(vector) for vector in given]
    assert sorted(givers) == list(range(len(own)))
    assert all(giver != text for text, giver in enumerate(givers))
    # If labels are in order in the corpus, its next text would not be a random text.
    assert len({giver - text for text, giver in enumerate(givers)}) > 5
    assert treatment_vectors(pooled, subsample, -1, "mean", "another's pads only", plan).tolist() == given


@pytest.mark.parametrize("number", SUBSAMPLES)
@pytest.mark.parametrize("side", PLANS)
def test_noise_is_as_far_from_alone_as_included(laid: Laid, pooled: Pooled, side: str, number: int) -> None:
    """Each noise vector has the length of the included vector and its cosine to the text alone, and differs from it."""
    subsample, plan = SUBSAMPLES[number], PLANS[side]
    noise = treatment_vectors(pooled, subsample, -1, "mean", "noise", plan)
    for text, turned, included in zip(
        subsample.texts.tolist(), noise, looked_up(laid, Source(plan.side), "whole", subsample, plan), strict=True
    ):
        alone = laid[RIGHT, "real", "mean"][text, int(LENGTHS[text])].astype(float)
        sizes = np.linalg.norm(included) * np.linalg.norm(alone)
        assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(included), rel=1e-5)
        assert turned @ alone / sizes == pytest.approx(included @ alone / sizes, abs=1e-5)
        assert np.linalg.norm(turned - included) > 0.01 * np.linalg.norm(included)
    np.testing.assert_array_equal(treatment_vectors(pooled, subsample, -1, "mean", "noise", plan), noise)


def test_random_treatments_differ_between_subsamples(pooled: Pooled) -> None:
    """Another subsample of the same texts has other noise and other partners."""
    subsamples = subsample_of(FULL, np.arange(TEXTS)), subsample_of(FULL, np.arange(TEXTS), seed=1)
    for treatment in ("noise", "another's pads only"):
        first, second = (
            treatment_vectors(pooled, subsample, -1, "mean", treatment, RIGHT_PLAN) for subsample in subsamples
        )
        assert not np.allclose(first, second)


@pytest.mark.parametrize("side", PLANS)
def test_divided_by_width_is_the_sum_over_the_width(laid: Laid, pooled: Pooled, side: str) -> None:
    """The vector is the mean of real tokens times their number, divided by the padded length."""
    subsample, plan = SUBSAMPLES[1], PLANS[side]
    real = looked_up(laid, Source(plan.side), "real", subsample, plan)
    vectors = treatment_vectors(pooled, subsample, -1, "mean", "divided by width", plan)
    assert vectors.dtype == np.float32
    for place, text in enumerate(subsample.texts):
        total = real[place].astype(float) * LENGTHS[text]
        np.testing.assert_allclose(vectors[place], total / subsample.widths[plan.name][place], rtol=1e-6)


@pytest.mark.parametrize("mode", [MaxPooling.mode, MinPooling.mode])
@pytest.mark.parametrize("side", PLANS)
def test_zeroed_pads_add_a_zero_to_the_extreme(laid: Laid, pooled: Pooled, mode: str, side: str) -> None:
    """In texts with a pad, and only there, the extreme is taken over one more number, which is 0."""
    subsample, plan = SUBSAMPLES[FULL], PLANS[side]
    extreme = min if mode == MinPooling.mode else max
    padded = has_pads(subsample, plan)
    expected = [
        [extreme(number, 0.0) if pad else number for number in vector]
        for vector, pad in zip(
            looked_up(laid, Source(plan.side), "real", subsample, plan, mode).tolist(), padded, strict=True
        )
    ]
    np.testing.assert_array_equal(
        treatment_vectors(pooled, subsample, -1, mode, "zeroed pads", plan), np.array(expected)
    )


def test_every_treatment_has_its_test() -> None:
    """Every treatment of the catalogue is tested in this file."""
    read_directly = {EXCLUDED, INCLUDED, "common pad", "another's pads", "mask not passed"}
    made = {"pads only", "another's pads only", "noise", "divided by width", "zeroed pads"}
    assert set(TREATMENTS) == read_directly | made


def expected_clusters(vectors: Vectors, by: str, seed: int) -> Ints:
    """Cluster with scikit-learn, with the settings that each name means."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    labels: Ints
    match by:
        case "kmeans":
            model = KMeans(3, init="k-means++", n_init=1, random_state=seed)
            labels = model.fit((vectors / lengths).astype(np.float32)).labels_
        case "minibatch_kmeans":  # MTEB
            labels = MiniBatchKMeans(3, batch_size=512, n_init=1, random_state=seed).fit_predict(vectors)
        case "hdbscan":  # BERTopic without UMAP
            components = PCA(5, random_state=seed).fit_transform(vectors)
            labels = HDBSCAN(min_cluster_size=10, copy=True).fit_predict(components)
        case _:
            pytest.fail(f"{by} needs its recipe here")
    return labels


@pytest.mark.parametrize("by", CLUSTERERS)
def test_the_full_data_get_every_score_for_each_seed(laid: Laid, pooled: Pooled, by: str) -> None:
    """A fit of all texts has the clusters and scores of each seed, and their AMI with the deciles of lengths."""
    subsample = SUBSAMPLES[FULL]
    fit = Comparison(-1, "mean", RIGHT_PLAN, INCLUDED, by).fit(FULL)
    result = compute_fits(pooled, CODES, subsample, [fit], RIGHT_PLAN)[0]
    vectors = looked_up(laid, RIGHT, "whole", subsample, RIGHT_PLAN)
    expected = [expected_clusters(vectors, by, seed) for seed in subsample.seeds]
    assert result["texts"] == TEXTS
    for packed, clusters in zip(result["assignments"], expected, strict=True):
        assert unpack(packed).tolist() == clusters.tolist()
    scores = [score(CODES, clusters) for clusters in expected]
    assert result["scores"] == {name: [by_name[name] for by_name in scores] for name in scores[0]}
    agreement = np.mean([adjusted_mutual_info_score(deciles(LENGTHS), clusters) for clusters in expected])
    assert result["length_ami"] == pytest.approx(agreement, abs=1e-9)


@pytest.mark.parametrize("by", [*CLUSTERERS, INDEX, FIT])
def test_fits_of_several_seeds_are_those_of_each(pooled: Pooled, by: str) -> None:
    """Fits that are computed together have the values of each computed without the others."""
    fits = Comparison(-1, "mean", RIGHT_PLAN, INCLUDED, by).fit(FULL).of_seeds(2)
    together = compute_fits(pooled, CODES, SUBSAMPLES[FULL], fits, RIGHT_PLAN)
    assert together == [compute_fits(pooled, CODES, SUBSAMPLES[FULL], [fit], RIGHT_PLAN)[0] for fit in fits]


def test_a_half_sample_gets_only_the_primary_score(laid: Laid, pooled: Pooled) -> None:
    """A fit of half of the texts has only the AMI of each seed, against the labels of that half."""
    subsample = SUBSAMPLES[1]
    fit = Comparison(-1, "mean", RIGHT_PLAN, INCLUDED, "kmeans").fit(1)
    result = compute_fits(pooled, CODES, subsample, [fit], RIGHT_PLAN)[0]
    vectors = looked_up(laid, RIGHT, "whole", subsample, RIGHT_PLAN)
    amis = [
        adjusted_mutual_info_score(CODES[HALF], expected_clusters(vectors, "kmeans", seed)) for seed in subsample.seeds
    ]
    assert result == {"texts": len(HALF), "scores": {"ami": pytest.approx(amis, abs=1e-9)}}


@pytest.mark.parametrize("number", SUBSAMPLES)
def test_the_reference_of_pads_only_is_of_the_same_texts(laid: Laid, pooled: Pooled, number: int) -> None:
    """A treatment of only the texts with pads is compared with the same texts alone, under the same labels."""
    subsample = SUBSAMPLES[number]
    padded = np.array(has_pads(subsample, RIGHT_PLAN))
    comparison = Comparison(-1, "mean", RIGHT_PLAN, "pads only", "kmeans")
    labels = CODES[subsample.texts[padded]]
    alone = np.array(
        [laid[RIGHT, "real", "mean"][text, int(LENGTHS[text])] for text in subsample.texts[padded].tolist()]
    )
    pads = looked_up(laid, RIGHT, "pads", subsample, RIGHT_PLAN)[padded]
    for fit, plan, vectors in ((comparison.reference(number), None, alone), (comparison.fit(number), RIGHT_PLAN, pads)):
        result = compute_fits(pooled, CODES, subsample, [fit], plan)[0]
        assert result["texts"] == sum(padded)
        amis = [
            adjusted_mutual_info_score(labels, expected_clusters(vectors, "kmeans", seed)) for seed in subsample.seeds
        ]
        assert result["scores"]["ami"] == pytest.approx(amis, abs=1e-9)


@pytest.mark.parametrize("number", SUBSAMPLES)
def test_mixed_plans_pad_one_side(laid: Laid, pooled: Pooled, number: int) -> None:
    """The index or the fitted vectors are padded, and queries are texts alone; in the reference, both are alone."""
    subsample = SUBSAMPLES[number]
    whole = looked_up(laid, RIGHT, "whole", subsample, RIGHT_PLAN)
    alone = alone_vectors(pooled, subsample, -1, "mean")
    labels = CODES[subsample.texts]
    for plan, vectors in ((RIGHT_PLAN, whole), (None, alone)):

        def computed(by: str, plan: Plan | None = plan) -> dict[str, Any]:
            comparison = Comparison(-1, "mean", RIGHT_PLAN, INCLUDED, by)
            fit = comparison.reference(number) if plan is None else comparison.fit(number)
            return compute_fits(pooled, CODES, subsample, [fit], plan)[0]

        accuracy = nearest_accuracy(vectors, alone, labels)
        assert computed(INDEX) == {"texts": len(labels), "scores": {"accuracy": [accuracy] * 2}}
        amis = [predicted_ami(vectors, alone, labels, seed) for seed in subsample.seeds]
        assert computed(FIT) == {"texts": len(labels), "scores": {"ami": amis}}
    assert nearest_accuracy(whole, alone, labels) != nearest_accuracy(alone, whole, labels)


@pytest.mark.parametrize("scored_under", [None, RIGHT_PLAN.name])
def test_floors_shuffle_texts_with_their_labels(
    laid: Laid, pooled: Pooled, monkeypatch: pytest.MonkeyPatch, scored_under: str | None
) -> None:
    """Each floor value clusters texts alone in another order and with another seed, and keeps labels with vectors."""
    subsample = SUBSAMPLES[FULL]
    chosen = range(TEXTS) if scored_under is None else np.flatnonzero(has_pads(subsample, RIGHT_PLAN)).tolist()
    name_of = {laid[RIGHT, "real", "mean"][text, int(LENGTHS[text])].tobytes(): text for text in chosen}
    calls: list[tuple[list[int], int, list[int]]] = []

    def clustered(vectors: Vectors, clusters: int, seeds: list[int]) -> list[Ints]:
        texts = [name_of[vector.tobytes()] for vector in vectors]
        calls.append((texts, clusters, seeds))
        return [CODES[texts]]

    monkeypatch.setattr(CLUSTERERS["kmeans"], "fit_predict_seeds", clustered)
    fit = Fit(-1, "mean", EXCLUDED, None, "kmeans", scored_under, FULL)
    values = floor_values(pooled, CODES, subsample, fit, 4)
    assert values == pytest.approx([1.0] * 4), "clusters that are the labels are right in any order"
    assert [rest for _, *rest in calls] == [[3, [seed]] for seed in range(4)]
    assert all(sorted(texts) == list(chosen) for texts, *_ in calls)
    assert len({tuple(texts) for texts, *_ in calls}) == 4


@pytest.mark.parametrize("by", ["kmeans", FIT])
def test_floors_spread_as_seeds_do(pooled: Pooled, by: str) -> None:
    """Floors of overlapping clusters differ between seeds, and a second call returns the same floors."""
    fit = Fit(-1, "mean", EXCLUDED, None, by, None, FULL)
    values = floor_values(pooled, CODES, SUBSAMPLES[FULL], fit, 5)
    assert len(set(values)) > 2
    assert floor_values(pooled, CODES, SUBSAMPLES[FULL], fit, 5) == values


def test_the_floor_of_an_index_is_constant(pooled: Pooled) -> None:
    """Floors of nearest neighbours, which have no seed and no order, are all the accuracy of texts alone."""
    fit = Fit(-1, "mean", EXCLUDED, None, INDEX, None, FULL)
    alone = alone_vectors(pooled, SUBSAMPLES[FULL], -1, "mean")
    values = floor_values(pooled, CODES, SUBSAMPLES[FULL], fit, 3)
    assert values == pytest.approx([nearest_accuracy(alone, alone, CODES)] * 3)


@pytest.mark.parametrize("assignment", [[], [0], [-1, 5, 2**31 - 1, 0, -1], list(range(3000))])
def test_packed_clusters_come_back(assignment: list[int]) -> None:
    """Packed clusters are ASCII, and are unpacked as the same int64 numbers, including −1 of HDBSCAN."""
    packed = pack(np.array(assignment, dtype=np.int64))
    assert packed.isascii()
    unpacked = unpack(packed)
    assert unpacked.dtype == np.int64
    assert unpacked.tolist() == assignment
