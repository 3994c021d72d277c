"""Fits: one treatment's vectors of one subsample, clustered and scored."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from maskpool.bench.design.clusterers import CLUSTERERS
from maskpool.bench.design.subsamples import FULL, Subsample
from maskpool.bench.design.treatments import EXCLUDED, MIXED, TREATMENTS, PooledTexts
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.encode.positions import Source
from maskpool.bench.score.metrics import ami, score
from maskpool.bench.score.scorers import SCORERS
from maskpool.bench.score.shift import deciles
from maskpool.bench.vectors import Vectors
from maskpool.plans import Ints, Plan


@dataclass(frozen=True)
class Comparison:
    """A treatment of a pooling under a plan, against the same texts alone, unpadded.

    Attributes:
        layer: Layer of the encoder.
        pooling: Mode of the pooling.
        plan: How texts are batched and padded.
        treatment: What is pooled.
        by: How it is scored: by a clusterer or a mixed plan.
        leak: The public bug that the treatment re-creates.
    """

    layer: int
    pooling: str
    plan: Plan
    treatment: str
    by: str
    leak: str | None = None

    @property
    def source(self) -> Source:
        """The kind of pass whose states it reads."""
        return Source(self.plan.side, TREATMENTS[self.treatment].masked)

    @property
    def scored_under(self) -> str | None:
        """The plan under which a text must have a pad to be scored; None scores all texts."""
        return self.plan.name if TREATMENTS[self.treatment].padded_texts_only else None

    def fit(self, subsample: int) -> Fit:
        """Return the fit of this treatment in a subsample."""
        return replace(self.reference(subsample), treatment=self.treatment, plan=self.plan.name)

    def shift_key(self, part: str) -> dict[str, Any]:
        """Return the key of the shift of the treatment's vectors."""
        names = ("layer", "pooling", "treatment")
        about = {name: getattr(self, name) for name in names}
        return {"kind": "shift", "part": part, **about, "plan": self.plan.name}

    def reference(self, subsample: int) -> Fit:
        """Return the fit of the same texts alone in a subsample."""
        return Fit(self.layer, self.pooling, EXCLUDED, None, self.by, self.scored_under, subsample)


@dataclass(frozen=True)
class Fit:
    """The identity of a fit; ``plan`` is None for texts alone, unpadded, and ``seed`` for all seeds of a subsample."""

    layer: int
    pooling: str
    treatment: str
    plan: str | None
    by: str
    scored_under: str | None
    subsample: int
    seed: int | None = None

    def of_seeds(self, seeds: int) -> list[Fit]:
        """Return the fits of its cells: one per seed for all texts, so seeds can be added, and else one for all."""
        return [replace(self, seed=seed) for seed in range(seeds)] if self.subsample == FULL else [self]

    def key(self, part: str) -> dict[str, Any]:
        """Return the key of the fit's cell."""
        return {"kind": "fit", "part": part, **asdict(self)}

    def floor_key(self, part: str) -> dict[str, Any]:
        """Return the key of the floor of a reference's fits."""
        names = ("layer", "pooling", "by", "scored_under")
        return {"kind": "floor", "part": part, **{name: getattr(self, name) for name in names}}


def scored_texts(pooled: Pooled, subsample: Subsample, scored_under: str | None) -> Ints:
    """Return the indices in ``subsample.texts`` of the texts that are scored."""
    if scored_under is None:
        return np.arange(len(subsample.texts))
    return np.flatnonzero(subsample.widths[scored_under] > pooled.lengths[subsample.texts])


def alone_vectors(
    pooled: Pooled, subsample: Subsample, layer: int, pooling: str, scored_under: str | None = None
) -> Vectors:
    """Return the vectors of a subsample's texts alone, unpadded."""
    return pooled.alone(layer, pooling, subsample.texts[scored_texts(pooled, subsample, scored_under)])


def treatment_vectors(
    pooled: Pooled, subsample: Subsample, layer: int, pooling: str, treatment: str, plan: Plan
) -> Vectors:
    """Return the vectors of a subsample's texts in a treatment, only of texts with pads if the treatment needs pads."""
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


def compute_fits(
    pooled: Pooled, codes: Ints, subsample: Subsample, fits: Sequence[Fit], plan: Plan | None
) -> list[dict[str, Any]]:
    """Cluster the vectors of fits that differ only in their seed, and score the clusters.

    Args:
        pooled: The vectors.
        codes: Labels of the corpus as integers.
        subsample: The texts.
        fits: The fits to compute.
        plan: The plan of the fits; None for texts alone.

    Returns:
        For each fit ``texts`` and ``scores``, a list over seeds for each score (half-samples have only the primary
        score). A fit of all texts also has ``assignments`` and ``length_ami``, the AMI of the clusters with the deciles
        of lengths.
    """
    fit = fits[0]
    chosen = scored_texts(pooled, subsample, fit.scored_under)
    seeds_of = [subsample.seeds if of_seed.seed is None else (of_seed.seed,) for of_seed in fits]
    seeds = list(chain(*seeds_of))
    labels = codes[subsample.texts[chosen]]
    if plan is None:
        vectors = alone_vectors(pooled, subsample, fit.layer, fit.pooling, fit.scored_under)
    else:
        vectors = treatment_vectors(pooled, subsample, fit.layer, fit.pooling, fit.treatment, plan)
    if fit.by in MIXED or subsample.number != FULL:  # half-samples only serve the intervals of the primary score
        scorer, alone = SCORERS[fit.by], vectors
        if fit.by in MIXED and plan is not None:  # clusterers do not read the texts alone
            alone = alone_vectors(pooled, subsample, fit.layer, fit.pooling, fit.scored_under)
        scores = iter(scorer.scores(vectors, alone, labels, seeds))
        return [{"texts": len(labels), "scores": {scorer.score: list(islice(scores, len(of)))}} for of in seeds_of]
    assignments = iter(CLUSTERERS[fit.by].fit_predict_seeds(vectors, len(np.unique(labels)), seeds))
    length_deciles = deciles(pooled.lengths[subsample.texts[chosen]])
    return [_every_score(labels, length_deciles, list(islice(assignments, len(of)))) for of in seeds_of]


def _every_score(labels: Ints, length_deciles: Ints, assignments: Sequence[Ints]) -> dict[str, Any]:
    scores = [score(labels, assignment) for assignment in assignments]
    return {
        "texts": len(labels),
        "scores": {name: [of_seed[name] for of_seed in scores] for name in scores[0]},
        "length_ami": float(np.mean([ami(length_deciles, assignment) for assignment in assignments])),
        "assignments": [pack(assignment) for assignment in assignments],
    }


def join_seeds(of_seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the values of one fit's cells."""
    first = of_seeds[0]
    joined = first | {
        "scores": {name: [score for value in of_seeds for score in value["scores"][name]] for name in first["scores"]}
    }
    if "length_ami" in first:
        joined["length_ami"] = float(np.mean([value["length_ami"] for value in of_seeds]))
    return joined


def floor_values(pooled: Pooled, codes: Ints, subsample: Subsample, reference: Fit, fits: int) -> list[float]:
    """Compute the primary score of texts alone under several seeds and orders of the texts."""
    chosen = subsample.texts[scored_texts(pooled, subsample, reference.scored_under)]
    vectors = pooled.alone(reference.layer, reference.pooling, chosen)
    values = []
    for seed in range(fits):
        order = np.random.default_rng([subsample.seed, seed]).permutation(len(chosen))
        labels, shuffled = codes[chosen][order], vectors[order]
        values += SCORERS[reference.by].scores(shuffled, shuffled, labels, [seed])
    return values


def pack(assignment: Ints) -> str:
    """Encode clusters as a short string; `unpack` decodes it.

    Example:
        >>> unpack(pack(np.array([3, -1, 3]))).tolist()
        [3, -1, 3]
    """
    return base64.b85encode(zlib.compress(assignment.astype("<i4").tobytes(), 9)).decode()


def unpack(packed: str) -> Ints:
    """Decode clusters from a string of `pack`."""
    return np.frombuffer(zlib.decompress(base64.b85decode(packed)), dtype="<i4").astype(np.int64)
