"""Fits: one arm's vectors of one draw, clustered and scored."""

from __future__ import annotations

import base64
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from maskpool.bench.design.subsamples import FULL, Draw
from maskpool.bench.design.treatments import ARMS, EXCLUDED, Vectors, matched_noise
from maskpool.bench.encode.forward import Pooled, Source
from maskpool.bench.score.clusterers import ami, cluster, score
from maskpool.bench.score.mixed import FIT, INDEX, nearest_accuracy, predicted_ami
from maskpool.bench.score.shift import deciles
from maskpool.plans import Ints, Plan

# The one score that intervals are given for, by what makes it.
PRIMARY = {INDEX: "accuracy", FIT: "ami"}


@dataclass(frozen=True)
class Comparison:
    """An arm of a pooling under a plan, against the same texts alone, unpadded.

    Attributes:
        layer: Of the encoder.
        pooling: Mode.
        plan: How texts are padded.
        arm: What is pooled.
        by: How it is scored: a clusterer, or a mixed plan.
        leak: The public bug that it re-creates.
    """

    layer: int
    pooling: str
    plan: Plan
    arm: str
    by: str
    leak: str | None = None

    @property
    def source(self) -> Source:
        """The states that it reads."""
        return Source(self.plan.side, ARMS[self.arm].masked)

    @property
    def scored_under(self) -> str | None:
        """The plan under which a text must have a pad to be scored; None scores all texts."""
        return self.plan.name if ARMS[self.arm].padded_texts_alone else None

    def fit(self, draw: int) -> Fit:
        """The fit of this arm in a draw."""
        return Fit(self.layer, self.pooling, self.arm, self.plan.name, self.by, self.scored_under, draw)

    def reference(self, draw: int) -> Fit:
        """The fit of the same texts alone."""
        return Fit(self.layer, self.pooling, EXCLUDED, None, self.by, self.scored_under, draw)


@dataclass(frozen=True)
class Fit:
    """What identifies one fit; ``plan`` is None for texts that stand alone."""

    layer: int
    pooling: str
    arm: str
    plan: str | None
    by: str
    scored_under: str | None
    draw: int

    def key(self, part: str) -> dict[str, Any]:
        """The key of its cell."""
        return {"kind": "fit", "part": part, **asdict(self)}


def scored_texts(pooled: Pooled, draw: Draw, scored_under: str | None) -> Ints:
    """Places in ``draw.texts`` of the texts that are scored."""
    if scored_under is None:
        return np.arange(len(draw.texts))
    return np.flatnonzero(draw.widths[scored_under] > pooled.lengths[draw.texts])


def alone_vectors(pooled: Pooled, draw: Draw, layer: int, pooling: str, scored_under: str | None = None) -> Vectors:
    """The vectors of a draw's texts alone, unpadded."""
    return pooled.alone(layer, pooling, draw.texts[scored_texts(pooled, draw, scored_under)])


def arm_vectors(pooled: Pooled, draw: Draw, layer: int, pooling: str, arm: str, plan: Plan) -> Vectors:
    """The vectors of a draw's texts in an arm; of those with a pad alone, where the arm needs one."""
    kind, source = ARMS[arm], Source(plan.side, ARMS[arm].masked)
    chosen = scored_texts(pooled, draw, plan.name if kind.padded_texts_alone else None)
    texts, widths = draw.texts[chosen], draw.widths[plan.name][chosen]
    found = pooled.read(source, kind.reading, layer, pooling, texts, widths)
    lengths = pooled.lengths[texts]
    if arm == "noise":
        alone = pooled.alone(layer, pooling, texts)
        return matched_noise(alone, found, draw.rng(f"noise {plan.name}"))
    if arm == "another's pads only":
        order = draw.rng(f"strangers {plan.name}").permutation(len(found))
        strangers = np.empty_like(found)
        strangers[order] = found[np.roll(order, 1)]
        return strangers
    if arm == "divided by width":
        scaled: Vectors = (found * (lengths / widths)[:, None]).astype(np.float32)
        return scaled
    if arm == "zeroed pads":
        zeroed = np.maximum(found, 0) if pooling == "max" else np.minimum(found, 0)
        return np.where((widths > lengths)[:, None], zeroed, found)
    return found


def compute_fit(pooled: Pooled, codes: Ints, draw: Draw, fit: Fit, plan: Plan | None) -> dict[str, Any]:
    """Cluster and score.

    Args:
        pooled: The vectors.
        codes: Labels of the corpus as integers.
        draw: The texts.
        fit: What is asked for.
        plan: Of the fit; None for texts alone.

    Returns:
        ``texts``, ``scores`` (a list over seeds for each; of a half-sample the primary one alone); of the draw of all
        texts also ``assignments`` and
        ``length_ami``, the AMI of the clusters with the deciles of the texts' lengths.
    """
    chosen = scored_texts(pooled, draw, fit.scored_under)
    labels = codes[draw.texts[chosen]]
    alone = alone_vectors(pooled, draw, fit.layer, fit.pooling, fit.scored_under)
    vectors = alone if plan is None else arm_vectors(pooled, draw, fit.layer, fit.pooling, fit.arm, plan)
    found: dict[str, Any] = {"texts": len(labels)}
    if fit.by == INDEX:
        # Nothing in it is drawn from a seed.
        found["scores"] = {"accuracy": [nearest_accuracy(vectors, alone, labels)] * len(draw.seeds)}
        return found
    if fit.by == FIT:
        found["scores"] = {"ami": [predicted_ami(vectors, alone, labels, seed) for seed in draw.seeds]}
        return found
    clusters = len(np.unique(labels))
    assignments = [cluster(vectors, clusters, seed, fit.by) for seed in draw.seeds]
    if draw.number != FULL:  # intervals are those of the primary score
        found["scores"] = {"ami": [ami(labels, one) for one in assignments]}
    else:
        scores = [score(labels, one) for one in assignments]
        found["scores"] = {name: [one[name] for one in scores] for name in scores[0]}
        length_deciles = deciles(pooled.lengths[draw.texts[chosen]])
        found["length_ami"] = float(np.mean([ami(length_deciles, one) for one in assignments]))
        found["assignments"] = [pack(one) for one in assignments]
    return found


def floor_values(pooled: Pooled, codes: Ints, draw: Draw, reference: Fit, fits: int) -> list[float]:
    """The primary score of texts alone, over seeds and orders of the texts."""
    chosen = draw.texts[scored_texts(pooled, draw, reference.scored_under)]
    vectors = pooled.alone(reference.layer, reference.pooling, chosen)
    values = []
    for seed in range(fits):
        order = np.random.default_rng([draw.seed, seed]).permutation(len(chosen))
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
