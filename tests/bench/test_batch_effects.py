"""Batch effects, compared with loops over texts."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.cluster import KMeans

from maskpool.bench.design.subsamples import FULL, OTHER_BATCHES, Subsample
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.encode.positions import RIGHT
from maskpool.bench.score.batch_effects import batch_effect, changed
from maskpool.plans import Plan
from tests.bench import tiny

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors
    from maskpool.plans import Ints

PLAN = Plan("random", 5)
TEXTS, DIM, CLUSTERS = 45, 5, 3
LENGTHS = np.random.default_rng(0).integers(3, 15, TEXTS)
CODES = np.random.default_rng(1).integers(0, CLUSTERS, TEXTS)
SEEDS = (0, 1, 2)


def slow_changed(labels: Ints, other: Ints) -> float:
    """Try every renaming of the other clusters to those of the labels."""
    clusters, names = np.unique(other).tolist(), np.unique(labels).tolist()
    names += [-1] * max(0, len(clusters) - len(names))
    return min(
        float(np.mean([dict(zip(clusters, order, strict=True))[b] != a for a, b in zip(labels, other, strict=True)]))
        for order in permutations(names, len(clusters))
    )


@pytest.mark.parametrize(("here", "there"), [(3, 3), (4, 2), (2, 4), (1, 3), (3, 1)])
def test_changed_is_the_least_of_all_renamings(here: int, there: int) -> None:
    """The share of texts in another cluster is the smallest under any one-to-one renaming, in both directions."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, here, 30), 10 + rng.integers(0, there, 30)
        assert changed(first, second) == pytest.approx(slow_changed(first, second), abs=1e-12)
        assert changed(second, first) == pytest.approx(changed(first, second), abs=1e-12)


def test_renaming_clusters_changes_no_text() -> None:
    """Clusters that differ only in their names change no text."""
    assert changed(np.array([0, 1, 2, 0]), np.array([7, 0, 1, 7])) == 0


def subsample_of(number: int, seed: int) -> Subsample:
    widths = PLAN.widths(LENGTHS, np.random.default_rng(seed))
    return Subsample(number, np.arange(TEXTS), {PLAN.name: widths}, SEEDS, 0)


HERE, THERE = subsample_of(FULL, 0), subsample_of(OTHER_BATCHES, 1)


@pytest.fixture(scope="module")
def laid() -> dict[tuple[int, int], Vectors]:
    """Make a vector of each text at each padded length; more pads move it further from the text alone."""
    rng = np.random.default_rng(2)
    alone = np.eye(DIM)[CODES] + rng.normal(0, 0.4, (TEXTS, DIM))
    return {
        (text, width): (alone[text] + rng.normal(0, 0.08, DIM) * (width - LENGTHS[text])).astype(np.float32)
        for text in range(TEXTS)
        for width in range(LENGTHS[text], 15)
    }


@pytest.fixture(scope="module")
def pooled(laid: dict[tuple[int, int], Vectors], tmp_path_factory: pytest.TempPathFactory) -> Pooled:
    folder: Path = tmp_path_factory.mktemp("vectors")
    return tiny.write_vectors(folder, LENGTHS, {(RIGHT, "whole", "mean"): laid, (RIGHT, "real", "mean"): laid})


def units(vectors: Vectors) -> Vectors:
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def slow_neighbours(vectors: Vectors, text: int) -> list[int]:
    others = [other for other in range(TEXTS) if other != text]
    return sorted(others, key=lambda other: -float(vectors[text].astype(float) @ vectors[other]))[:10]


def test_batch_effect_is_the_slow_loop(laid: dict[tuple[int, int], Vectors], pooled: Pooled) -> None:
    """Shares equal those counted text by text, and the examples are the moved texts that keep the fewest neighbours."""
    effect = batch_effect(pooled, CODES, HERE, THERE, -1, "mean", PLAN)
    here, there = (
        units(np.array([laid[text, width] for text, width in enumerate(subsample.widths[PLAN.name].tolist())]))
        for subsample in (HERE, THERE)
    )
    alone = units(np.array([laid[text, length] for text, length in enumerate(LENGTHS.tolist())]))

    def fitted(vectors: Vectors, seed: int) -> Any:  # Any: scikit-learn ships no types
        return KMeans(CLUSTERS, init="k-means++", n_init=1, random_state=seed).fit(vectors)

    by_seed = [slow_changed(fitted(here, a).labels_, fitted(here, b).labels_) for a, b in combinations(range(5), 2)]
    by_batch = [slow_changed(fitted(here, seed).labels_, fitted(there, seed).labels_) for seed in range(5)]
    assert effect["by_seed"] == pytest.approx(np.mean(by_seed), abs=1e-9)
    assert effect["by_batch"] == pytest.approx(np.mean(by_batch), abs=1e-9)
    centres = fitted(alone, 0).cluster_centers_
    moved, kept = [], []
    for text in range(TEXTS):
        cluster_here, cluster_there = (
            int(np.sum((centres - vectors[text]) ** 2, axis=1).argmin()) for vectors in (here, there)
        )
        near, near_there = set(slow_neighbours(here, text)), set(slow_neighbours(there, text))
        kept.append(len(near & near_there) / len(near | near_there))
        if cluster_here != cluster_there:
            moved.append(text)
    assert len(moved) > 3
    assert effect["by_batch_fixed_clusters"] == pytest.approx(len(moved) / TEXTS, abs=1e-9)
    assert effect["neighbours_kept"] == pytest.approx(np.mean(kept), abs=1e-9)
    expected = sorted(moved, key=lambda text: kept[text])[:3]
    assert [example["text"] for example in effect["examples"]] == expected
    for example in effect["examples"]:
        text = example["text"]
        assert example["widths"] == [subsample.widths[PLAN.name][text] for subsample in (HERE, THERE)]
        assert example["neighbours"] == [slow_neighbours(vectors, text)[:3] for vectors in (here, there)]


def test_examples_changed_neighbours(tmp_path: Path) -> None:
    """A text that changes cluster but keeps its neighbours is not an example."""
    rng = np.random.default_rng(0)
    alone = rng.normal(0, 1, (TEXTS, DIM)).astype(np.float32)
    # All texts padded to one length move together, so every text keeps its neighbours, and some change cluster.
    turn, _ = np.linalg.qr(rng.normal(0, 1, (DIM, DIM)))
    padded = (alone @ turn).astype(np.float32)
    longest, wider = int(LENGTHS.max()), int(LENGTHS.max()) + 1
    laid = {(text, longest): alone[text] for text in range(TEXTS)} | {
        (text, wider): padded[text] for text in range(TEXTS)
    }
    real = {(text, length): alone[text] for text, length in enumerate(LENGTHS.tolist())}
    laid, real = laid | {pair: vector for pair, vector in real.items() if pair not in laid}, laid | real
    pooled = tiny.write_vectors(
        tmp_path, LENGTHS, {(RIGHT, "whole", "mean"): laid, (RIGHT, "real", "mean"): laid | real}
    )
    here, there = (replace(HERE, widths={PLAN.name: np.full(TEXTS, width, np.int64)}) for width in (longest, wider))
    effect = batch_effect(pooled, CODES, here, there, -1, "mean", PLAN)
    assert effect["by_batch_fixed_clusters"] > 0
    assert effect["neighbours_kept"] > 0.99
    assert effect["examples"] == []


def test_equal_batches_change_no_text(pooled: Pooled) -> None:
    """With the same batches no text changes cluster, each keeps its neighbours, and only seeds move texts."""
    effect = batch_effect(pooled, CODES, HERE, HERE, -1, "mean", PLAN)
    assert effect.pop("by_seed") > 0
    assert effect == {"by_batch": 0, "by_batch_fixed_clusters": 0, "neighbours_kept": 1, "examples": []}


def test_pads_without_influence_change_no_text(tmp_path: Path) -> None:
    """If padding does not move vectors, other batches do not change the clusters."""
    rng = np.random.default_rng(0)
    alone = rng.normal(0, 1, (TEXTS, DIM)).astype(np.float32)
    same = {(text, width): alone[text] for text in range(TEXTS) for width in range(LENGTHS[text], 15)}
    pooled = tiny.write_vectors(tmp_path, LENGTHS, {(RIGHT, "whole", "mean"): same, (RIGHT, "real", "mean"): same})
    assert (HERE.widths[PLAN.name] != THERE.widths[PLAN.name]).any()
    effect = batch_effect(pooled, CODES, HERE, THERE, -1, "mean", PLAN)
    assert (effect["by_batch"], effect["by_batch_fixed_clusters"], effect["neighbours_kept"]) == (0, 0, 1)
