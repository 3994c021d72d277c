"""Batch effects: how the clusters change if only the batches change."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from maskpool.bench.design.clusterers import UnitKMeans
from maskpool.bench.design.kmeans import fit_kmeans
from maskpool.bench.design.subsamples import OTHER_SEEDS, Subsample
from maskpool.bench.design.treatments import INCLUDED
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.score.fits import treatment_vectors
from maskpool.bench.score.metrics import matched
from maskpool.bench.score.shift import neighbours, neighbours_kept
from maskpool.bench.vectors import unit
from maskpool.plans import Ints, Plan

_NEIGHBOURS = 10
_EXAMPLES = 3
_SHOWN_NEIGHBOURS = 3


def changed(labels: Ints, other: Ints) -> float:
    """Return the share of texts that change cluster, under the best one-to-one matching of the clusters.

    Example:
        >>> changed(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1]))
        0.25
    """
    return float((matched(labels, other) != labels).mean())


def batch_effect(
    pooled: Pooled, codes: Ints, full: Subsample, other: Subsample, layer: int, pooling: str, plan: Plan
) -> dict[str, Any]:
    """Measure how many texts change cluster if only their batch changes, and if only the seed changes.

    Both changes are counted between fits of k-means, with the clusters matched one to one. With fixed clusters (fitted
    on texts alone), a text can only change cluster because of its batch.

    Args:
        pooled: The vectors.
        codes: Labels as integers.
        full: All texts in their batches.
        other: All texts in other batches.
        layer: Layer of the encoder.
        pooling: Mode of the pooling.
        plan: A plan with random batches.

    Returns:
        Shares of texts, and examples: texts that change between fixed clusters and change neighbours, the most first.
    """
    clusters = len(np.unique(codes))
    alone = pooled.alone(layer, pooling, full.texts)
    here, there = (treatment_vectors(pooled, subsample, layer, pooling, INCLUDED, plan) for subsample in (full, other))
    kmeans, seeds = UnitKMeans(), tuple(range(OTHER_SEEDS))
    fits = {
        "here": kmeans.fit_predict_seeds(here, clusters, seeds),
        "there": kmeans.fit_predict_seeds(there, clusters, seeds),
    }
    fixed = fit_kmeans(unit(alone), clusters, seeds[0])
    labels_here, labels_there = fixed.predict(unit(here)), fixed.predict(unit(there))
    kept = neighbours_kept(here, there)
    moved = np.flatnonzero((labels_here != labels_there) & (kept < 1))
    examples = moved[np.argsort(kept[moved], kind="stable")][:_EXAMPLES]
    near_here, near_there = (neighbours(vectors, examples, _NEIGHBOURS) for vectors in (here, there))
    return {
        "by_batch": float(np.mean([changed(a, b) for a, b in zip(fits["here"], fits["there"], strict=True)])),
        "by_seed": float(np.mean([changed(a, b) for a, b in combinations(fits["here"], 2)])),
        "by_batch_fixed_clusters": float((labels_here != labels_there).mean()),
        "neighbours_kept": float(kept.mean()),
        "examples": [
            {
                "text": int(text),
                "widths": [int(subsample.widths[plan.name][text]) for subsample in (full, other)],
                # Neighbours in only one of the two batches come first.
                "neighbours": [
                    sorted(near[place].tolist(), key=lambda row: row in other[place])[:_SHOWN_NEIGHBOURS]
                    for near, other in ((near_here, near_there), (near_there, near_here))
                ],
            }
            for place, text in enumerate(examples)
        ],
    }
