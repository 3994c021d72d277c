"""Fits: one treatment's vectors of one subsample, clustered and scored."""

from __future__ import annotations

import base64
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from maskpool.bench.design.subsamples import FULL, Subsample
from maskpool.bench.design.treatments import EXCLUDED, TREATMENTS, PooledTexts
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.encode.positions import Source
from maskpool.bench.score.clusterers import cluster
from maskpool.bench.score.metrics import ami, score
from maskpool.bench.score.mixed import FIT, INDEX, nearest_accuracy, predicted_ami
from maskpool.bench.score.shift import deciles
from maskpool.bench.vectors import Vectors
from maskpool.plans import Ints, Plan

# The one score that intervals are given for, by what makes it.
PRIMARY = {INDEX: "accuracy", FIT: "ami"}


@dataclass(frozen=True)
class Comparison:
    """A treatment of a pooling under a plan, against the same texts alone, unpadded.

    Attributes:
        layer: Of the encoder.
        pooling: Mode.
        plan: How texts are padded.
        treatment: What is pooled.
        by: How it is scored: a clusterer, or a mixed plan.
        leak: The public bug that it re-creates.
    """

    layer: int
    pooling: str
    plan: Plan
    treatment: str
    by: str
    leak: str | None = None

    @property
    def source(self) -> Source:
        """The states that it reads."""
        return Source(self.plan.side, TREATMENTS[self.treatment].masked)

    @property
    def scored_under(self) -> str | None:
        """The plan under which a text must have a pad to be scored; None scores all texts."""
        return self.plan.name if TREATMENTS[self.treatment].padded_texts_only else None

    def fit(self, subsample: int) -> Fit:
        """The fit of this treatment in a subsample."""
        return Fit(self.layer, self.pooling, self.treatment, self.plan.name, self.by, self.scored_under, subsample)

    def reference(self, subsample: int) -> Fit:
        """The fit of the same texts alone."""
        return Fit(self.layer, self.pooling, EXCLUDED, None, self.by, self.scored_under, subsample)


@dataclass(frozen=True)
class Fit:
    """What identifies one fit; ``plan`` is None for texts that stand alone."""

    layer: int
    pooling: str
    treatment: str
    plan: str | None
    by: str
    scored_under: str | None
    subsample: int

    def key(self, part: str) -> dict[str, Any]:
        """The key of its cell."""
        return {"kind": "fit", "part": part, **asdict(self)}


def scored_texts(pooled: Pooled, subsample: Subsample, scored_under: str | None) -> Ints:
    """Places in ``subsample.texts`` of the texts that are scored."""
    if scored_under is None:
        return np.arange(len(subsample.texts))
    return np.flatnonzero(subsample.widths[scored_under] > pooled.lengths[subsample.texts])


def alone_vectors(
    pooled: Pooled, subsample: Subsample, layer: int, pooling: str, scored_under: str | None = None
) -> Vectors:
    """The vectors of a subsample's texts alone, unpadded."""
    return pooled.alone(layer, pooling, subsample.texts[scored_texts(pooled, subsample, scored_under)])


def treatment_vectors(
    pooled: Pooled, subsample: Subsample, layer: int, pooling: str, treatment: str, plan: Plan
) -> Vectors:
    """The vectors of a subsample's texts in a treatment; of those with a pad alone, where the treatment needs one."""
    kind, source = TREATMENTS[treatment], Source(plan.side, TREATMENTS[treatment].masked)
    chosen = scored_texts(pooled, subsample, plan.name if kind.padded_texts_only else None)
    texts, widths = subsample.texts[chosen], subsample.widths[plan.name][chosen]
    return kind.apply(
        PooledTexts(
            pooled.read(source, kind.positions, layer, pooling, texts, widths),
            pooled.lengths[texts],
            widths,
            pooling,
            alone=lambda: pooled.alone(layer, pooling, texts),
            rng=lambda purpose: subsample.rng(f"{purpose} {plan.name}"),
        )
    )


def compute_fit(pooled: Pooled, codes: Ints, subsample: Subsample, fit: Fit, plan: Plan | None) -> dict[str, Any]:
    """Cluster and score.

    Args:
        pooled: The vectors.
        codes: Labels of the corpus as integers.
        subsample: The texts.
        fit: What is asked for.
        plan: Of the fit; None for texts alone.

    Returns:
        ``texts``, ``scores`` (a list over seeds for each; only the primary score for half-samples); for all texts also
        ``assignments`` and ``length_ami``, the AMI of the clusters with the deciles of the texts' lengths.
    """
    chosen = scored_texts(pooled, subsample, fit.scored_under)
    labels = codes[subsample.texts[chosen]]
    alone = alone_vectors(pooled, subsample, fit.layer, fit.pooling, fit.scored_under)
    vectors = (
        alone if plan is None else treatment_vectors(pooled, subsample, fit.layer, fit.pooling, fit.treatment, plan)
    )
    found: dict[str, Any] = {"texts": len(labels)}
    if fit.by == INDEX:
        # Nothing in it is drawn from a seed.
        found["scores"] = {"accuracy": [nearest_accuracy(vectors, alone, labels)] * len(subsample.seeds)}
        return found
    if fit.by == FIT:
        found["scores"] = {"ami": [predicted_ami(vectors, alone, labels, seed) for seed in subsample.seeds]}
        return found
    clusters = len(np.unique(labels))
    assignments = [cluster(vectors, clusters, seed, fit.by) for seed in subsample.seeds]
    if subsample.number != FULL:  # intervals are those of the primary score
        found["scores"] = {"ami": [ami(labels, one) for one in assignments]}
    else:
        scores = [score(labels, one) for one in assignments]
        found["scores"] = {name: [one[name] for one in scores] for name in scores[0]}
        length_deciles = deciles(pooled.lengths[subsample.texts[chosen]])
        found["length_ami"] = float(np.mean([ami(length_deciles, one) for one in assignments]))
        found["assignments"] = [pack(one) for one in assignments]
    return found


def floor_values(pooled: Pooled, codes: Ints, subsample: Subsample, reference: Fit, fits: int) -> list[float]:
    """The primary score of texts alone, over seeds and orders of the texts."""
    chosen = subsample.texts[scored_texts(pooled, subsample, reference.scored_under)]
    vectors = pooled.alone(reference.layer, reference.pooling, chosen)
    values = []
    for seed in range(fits):
        order = np.random.default_rng([subsample.seed, seed]).permutation(len(chosen))
        labels, shuffled = codes[chosen][order], vectors[order]
        if reference.by == INDEX:
            values.append(nearest_accuracy(shuffled, shuffled, labels))
        elif reference.by == FIT:
            values.append(predicted_ami(shuffled, shuffled, labels, seed))
        else:
            values.append(ami(labels, cluster(shuffled, len(np.unique(labels)), seed, reference.by)))
    return values


def pack(assignment: Ints) -> str:
    """Clusters as a short string; `unpack` gives them back.

    Example:
        >>> unpack(pack(np.array([3, -1, 3]))).tolist()
        [3, -1, 3]
    """
    return base64.b85encode(zlib.compress(assignment.astype("<i4").tobytes(), 9)).decode()


def unpack(packed: str) -> Ints:
    """Clusters from `pack`."""
    return np.frombuffer(zlib.decompress(base64.b85decode(packed)), dtype="<i4").astype(np.int64)
