"""Clusters, and how well they agree with the labels."""

from itertools import combinations, permutations, product

import numpy as np
import pytest
from scipy.stats import entropy, hypergeom
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from maskpool.bench.design.clusterers import CLUSTERERS, BERTopicHDBSCAN, UnitKMeans
from maskpool.bench.design.kmeans import fit_kmeans, fit_kmeans_of_seeds, plus_plus
from maskpool.bench.score.metrics import ami, cluster_ami, score
from maskpool.bench.vectors import unit
from maskpool.plans import Ints
from tests.bench.tiny import LABELS
from tests.matrix import cut

TRUE = np.repeat(np.arange(3), 8)

SCORES = ("ami", "ari", "v_measure", "homogeneity", "completeness", "accuracy")


def test_a_renamed_copy_of_the_labels_is_perfect() -> None:
    """Every score of the labels under other names is 1."""
    assert score(TRUE, (TRUE + 1) % 3) == pytest.approx(dict.fromkeys(SCORES, 1))


def test_one_cluster_says_nothing() -> None:
    """One cluster for all texts has completeness 1, accuracy 1/3, and 0 in every other score."""
    expected = dict.fromkeys(SCORES, 0.0) | {"completeness": 1.0, "accuracy": 1 / 3}
    assert score(TRUE, np.zeros_like(TRUE)) == pytest.approx(expected, abs=1e-12)


def test_scores_by_hand() -> None:
    """Two clusters that each hold one text of each label have an ARI and AMI of −1/2 and a V-measure of 0."""
    scores = score(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert scores["ari"] == pytest.approx(-0.5)
    assert scores["v_measure"] == pytest.approx(0, abs=1e-12)
    assert scores["ami"] == pytest.approx(-0.5)


def test_v_measure_is_the_normalised_mutual_information() -> None:
    """V-measure is 2 I(labels; clusters) / (H(labels) + H(clusters)), the normalised mutual information."""
    rng = np.random.default_rng(0)
    true, assigned = rng.integers(0, 4, 200), rng.integers(0, 6, 200)
    joint = np.zeros((4, 6))
    np.add.at(joint, (true, assigned), 1 / 200)
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    information = np.nansum(joint * np.log(joint / np.outer(rows, columns), where=joint > 0, out=np.zeros_like(joint)))
    entropies = -(rows * np.log(rows)).sum() - (columns * np.log(columns)).sum()
    assert score(true, assigned)["v_measure"] == pytest.approx(2 * information / entropies, abs=1e-9)
    assert score(true, assigned)["v_measure"] == pytest.approx(normalized_mutual_info_score(true, assigned), abs=1e-9)


def clusterings(labels: int, clusters: int, texts: int) -> tuple[Ints, Ints]:
    """Return labels of unequal sizes, and clusters that agree with 40 % of them."""
    rng = np.random.default_rng([labels, clusters])
    true = np.minimum(rng.geometric(0.4, texts) - 1, labels - 1)
    assigned = np.where(rng.random(texts) < 0.4, true % clusters, rng.integers(0, clusters, texts))
    return true, assigned


SIZES = [(3, 3), (5, 2), (2, 7), (6, 10)]


@pytest.mark.parametrize(("labels", "clusters"), SIZES)
def test_ami_by_sums_over_the_hypergeometric(labels: int, clusters: int) -> None:
    """AMI is (I − E[I]) / (mean entropy − E[I]), with E[I] summed over all sizes that an overlap can have by chance."""
    true, assigned = clusterings(labels, clusters, 90)
    rows, columns = np.bincount(true), np.bincount(assigned)

    def share_of_information(overlap: int, row: int, column: int) -> float:
        return overlap / 90 * np.log(90 * overlap / (row * column)) if overlap else 0.0

    information = expected = 0.0
    for label, row in enumerate(rows):
        for cluster_id, column in enumerate(columns):
            information += share_of_information(int(np.sum((true == label) & (assigned == cluster_id))), row, column)
            for overlap in range(1, min(row, column) + 1):
                chance = float(hypergeom.pmf(overlap, 90, row, column))
                expected += chance * share_of_information(overlap, row, column)
    mean_entropy = (entropy(rows) + entropy(columns)) / 2
    by_hand = (information - expected) / (mean_entropy - expected)
    assert score(true, assigned)["ami"] == pytest.approx(by_hand, abs=1e-9)
    assert ami(true, assigned) == score(true, assigned)["ami"]


@pytest.mark.parametrize(("labels", "clusters"), [*SIZES, (1, 1), (1, 4), (4, 1), (70, 90), (2, 900)])
def test_ami_is_scikit_learns(labels: int, clusters: int) -> None:
    """AMI is scikit-learn's, in either order of the two, and 1 between two clusterings of single texts."""
    true, assigned = clusterings(labels, clusters, 900)
    for pair in ((true, assigned), (assigned, true), (true, true), (true, np.arange(900)), (np.arange(900),) * 2):
        assert ami(*pair) == pytest.approx(adjusted_mutual_info_score(*pair), abs=1e-12)


@pytest.mark.parametrize(("labels", "clusters"), SIZES)
def test_ari_by_counting_pairs(labels: int, clusters: int) -> None:
    """ARI is the share of pairs together in both, adjusted by what chance gives, over the mean of both sides' pairs."""
    true, assigned = clusterings(labels, clusters, 60)
    pairs = list(combinations(range(60), 2))
    in_labels = sum(true[a] == true[b] for a, b in pairs)
    in_clusters = sum(assigned[a] == assigned[b] for a, b in pairs)
    in_both = sum(true[a] == true[b] and assigned[a] == assigned[b] for a, b in pairs)
    chance = in_labels * in_clusters / len(pairs)
    by_hand = (in_both - chance) / ((in_labels + in_clusters) / 2 - chance)
    assert score(true, assigned)["ari"] == pytest.approx(by_hand, abs=1e-9)


def test_homogeneity_and_completeness_by_entropies() -> None:
    """Homogeneity is 1 − H(labels | clusters) / H(labels), and completeness is the same with both exchanged."""
    rng = np.random.default_rng(1)
    true, assigned = rng.integers(0, 3, 150), rng.integers(0, 5, 150)

    def conditional(of: Ints, given: Ints) -> float:
        entropies = (entropy(np.bincount(of[given == group])) * np.mean(given == group) for group in np.unique(given))
        return float(sum(entropies))

    scores = score(true, assigned)
    assert scores["homogeneity"] == pytest.approx(
        1 - conditional(true, assigned) / entropy(np.bincount(true)), abs=1e-9
    )
    assert scores["completeness"] == pytest.approx(
        1 - conditional(assigned, true) / entropy(np.bincount(assigned)), abs=1e-9
    )


@pytest.mark.parametrize("clusters", [2, 4, 5])
def test_accuracy_by_trying_every_assignment(clusters: int) -> None:
    """Accuracy is the best share over all one-to-one assignments of clusters to labels, of any numbers."""
    rng = np.random.default_rng(2)
    true, assigned = rng.integers(0, 4, 40), rng.integers(0, clusters, 40)
    names = range(max(4, clusters))
    best = max(np.mean(np.array(order)[assigned] == true) for order in permutations(names))
    assert score(true, assigned)["accuracy"] == pytest.approx(best, abs=1e-12)


def test_chance_is_worth_nothing_to_ami_and_ari() -> None:
    """The mean AMI and ARI of random clusters are 0, and the mean V-measure is not."""
    rng = np.random.default_rng(0)
    scores = [score(rng.integers(0, 5, 60), rng.integers(0, 5, 60)) for _ in range(100)]
    assert np.mean([by_name["ami"] for by_name in scores]) == pytest.approx(0, abs=0.01)
    assert np.mean([by_name["ari"] for by_name in scores]) == pytest.approx(0, abs=0.01)
    assert np.mean([by_name["v_measure"] for by_name in scores]) > 0.05


def test_k_means_returns_the_requested_clusters() -> None:
    """k-means separates distant blobs, returns the requested number of clusters, and is reproducible under a seed."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(LABELS)), 20)
    blobs = (5 * np.eye(len(LABELS))[labels] + rng.normal(0, 0.05, (100, len(LABELS)))).astype(np.float32)
    assert max(cluster_ami(blobs, labels, seed) for seed in range(5)) == pytest.approx(1)
    noise = rng.normal(size=(100, 4)).astype(np.float32)
    first, again, other = (UnitKMeans().fit_predict(noise, 7, seed) for seed in (0, 0, 1))
    assert sorted(set(first.tolist())) == list(range(7))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert cluster_ami(blobs, labels, 3) == pytest.approx(
        score(labels, UnitKMeans().fit_predict(blobs, len(LABELS), 3))["ami"]
    )


@pytest.mark.parametrize("repeats", [1, 4])
@pytest.mark.parametrize(("clusters", "most_at_once"), [(1, 2048), (2, 2048), (30, 2048), (30, 0)])
def test_k_means_is_scikit_learns(
    clusters: int, most_at_once: int, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several seeds at once give the labels and centres that scikit-learn gives for each, also if texts repeat."""
    monkeypatch.setattr("maskpool.bench.design.kmeans._MOST_AT_ONCE", most_at_once)
    rng, seeds = np.random.default_rng(clusters), range(cut(10, 100))
    centres = rng.normal(size=(40, 16))
    vectors = unit((centres[rng.integers(0, 40, 300)] + 0.5 * rng.normal(size=(300, 16))).astype(np.float32))
    vectors = vectors.repeat(repeats, axis=0)
    others = unit(rng.normal(size=(200, 16)).astype(np.float32))
    for seed, fit in zip(seeds, fit_kmeans_of_seeds(vectors, clusters, seeds), strict=True):
        alone = KMeans(clusters, n_init=1, random_state=seed).fit(vectors)
        np.testing.assert_array_equal(fit.labels, alone.labels_)
        np.testing.assert_allclose(fit.centres, alone.cluster_centers_, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(fit.predict(others), alone.predict(others))
        np.testing.assert_array_equal(fit_kmeans(vectors, clusters, seed).labels, alone.labels_)


def test_k_means_refills_clusters_as_scikit_learn_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster without texts gets the one that scikit-learn gives it."""
    vectors, rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), [3, 3, 5, 8]
    monkeypatch.setattr("maskpool.bench.design.kmeans.plus_plus", lambda *_: np.array([rows]))
    fit, alone = fit_kmeans(vectors, 4, 0), KMeans(4, init=vectors[rows], n_init=1).fit(vectors)
    assert sorted(set(fit.labels.tolist())) == [0, 1, 2, 3]
    np.testing.assert_array_equal(fit.labels, alone.labels_)


def test_k_means_stops_where_scikit_learn_does() -> None:
    """Fits that end by the tolerance have the labels and centres of scikit-learn's."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, 3)).astype(np.float32)
    fit, alone = fit_kmeans(vectors, 12, 0), KMeans(12, n_init=1, random_state=0).fit(vectors)
    assert (alone.predict(vectors) != KMeans(12, n_init=1, random_state=0, tol=0).fit(vectors).labels_).any()
    np.testing.assert_array_equal(fit.labels, alone.labels_)
    np.testing.assert_allclose(fit.centres, alone.cluster_centers_, rtol=0, atol=1e-6)


def test_draws_are_rounded_as_scikit_learns() -> None:
    """Starts are scikit-learn's also for seeds of which a draw lies so near a text that another sum rounds past it."""
    rng, seeds = np.random.default_rng(4), [4, 19]
    vectors = unit(rng.normal(size=(1500, 8)).astype(np.float32))
    for seed, rows in zip(seeds, plus_plus(vectors, 100, seeds), strict=True):
        _, expected = kmeans_plusplus(vectors - vectors.mean(axis=0), 100, random_state=seed)
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("name", CLUSTERERS)
def test_every_clusterer_finds_blobs(name: str) -> None:
    """Each clusterer finds blobs that are far apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    blobs = (5 * np.eye(8)[labels] + rng.normal(0, 0.05, (120, 8))).astype(np.float32)
    assert max(ami(labels, CLUSTERERS[name].fit_predict(blobs, 4, seed)) for seed in range(5)) == pytest.approx(1)


def test_hdbscan_sees_five_principal_components() -> None:
    """HDBSCAN separates blobs along the five largest principal components, and not along the sixth."""
    corners = np.repeat(np.array(list(product((0, 1), repeat=6))), 12, axis=0)
    noise = np.random.default_rng(0).normal(0, 0.05, corners.shape)
    vectors = (corners * [10, 9, 8, 7, 6, 5] + noise).astype(np.float32)
    labels = corners[:, :5] @ 2 ** np.arange(5)
    assert ami(labels, BERTopicHDBSCAN().fit_predict(vectors, 32, 0)) == pytest.approx(1)


@pytest.mark.parametrize("name", CLUSTERERS)
def test_every_clusterer_takes_its_fewest_texts(name: str) -> None:
    """Each clusterer clusters as few texts as it declares."""
    clusterer = CLUSTERERS[name]
    vectors = np.random.default_rng(0).normal(size=(clusterer.min_texts, 8)).astype(np.float32)
    assert clusterer.fit_predict(vectors, 1, 0).shape == (clusterer.min_texts,)
