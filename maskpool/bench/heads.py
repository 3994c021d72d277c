"""Attention heads, trained and served with and without the mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from maskpool.bench.arms import unit
from maskpool.bench.quality import cluster_ami
from maskpool.bench.statistics import CONFIDENCE, floor
from maskpool.modules import AttentionPooling, MeanPooling

if TYPE_CHECKING:
    from maskpool.bench.forward import States
    from maskpool.plans import Ints

HEAD_SEEDS = 5
MOST_TEXTS = 2_000  # of which token states are kept, 128 x 384 floats each
FEWEST_LABELS = 4  # two to train on, two to cluster
_EPOCHS = 15
_BATCH = 64
_LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class HeadRow:
    """One cell of the 2 × 2, over head seeds.

    Attributes:
        trained: "with mask" or "without mask".
        served: The same, when the other classes were pooled.
        ami: Mean AMI of the clusters of the unseen classes.
        ami_sd: Its standard deviation over head seeds, each with a split of the classes of its own.
        delta: Mean difference to the head trained and served with the mask, split by split.
        low: Lower end of its 95 % interval, Student's over head seeds, for this difference alone.
        high: Upper end.
        floor: How far two means over head seeds of the masked head differ by seeds and splits alone.
        attention_on_pads: Mean share of attention that lands on pads.
        pad_fraction: Mean share of positions that are pads: what a head that ignores content would give.
    """

    trained: str
    served: str
    ami: float
    ami_sd: float
    delta: float
    low: float
    high: float
    floor: float
    attention_on_pads: float
    pad_fraction: float


def two_by_two(states: States, codes: Ints, seeds: int, seed: int, on_head: Callable[[], None]) -> dict[str, object]:
    """Train heads on half of the classes, pool and cluster the other half, with and without the mask.

    Scored on classes that it never saw: a head trained on the labels that it then clusters would be a
    classifier.

    Args:
        states: Token states with their pads.
        codes: The label of each of their texts.
        seeds: k-means seeds a cell.
        seed: Of the class splits and the heads.
        on_head: Called after each trained head.

    Returns:
        Rows of the table, the mean pooling of the same texts as a reference, and the sizes.
    """
    ami: dict[tuple[bool, bool], list[float]] = {(t, s): [] for t in (True, False) for s in (True, False)}
    on_pads: dict[tuple[bool, bool], list[float]] = {cell: [] for cell in ami}
    plain: list[float] = []
    everywhere = torch.ones_like(states.mask)
    for head_seed in range(seed, seed + HEAD_SEEDS):
        classes = np.random.default_rng(head_seed).permutation(np.unique(codes))
        seen = np.isin(codes, classes[: len(classes) // 2])
        learn, unseen = torch.from_numpy(seen), torch.from_numpy(~seen)
        labels = codes[~seen]

        def clusters(pooled: Tensor, labels: Ints = labels) -> float:
            vectors = unit(pooled.numpy())
            return float(np.mean([cluster_ami(vectors, labels, s) for s in range(seeds)]))

        for trained in (True, False):
            mask = states.mask if trained else everywhere
            head = _train(states.values[learn], mask[learn], torch.from_numpy(codes[seen]), head_seed)
            for served in (True, False):
                mask = states.mask if served else everywhere
                with torch.inference_mode():
                    pooled, weights = head(states.values[unseen], mask[unseen], return_weights=True)
                ami[trained, served].append(clusters(pooled))
                pads = ~states.mask[unseen].unsqueeze(1)
                on_pads[trained, served].append(float((weights * pads).sum(dim=2).mean()))
            on_head()
        plain.append(clusters(MeanPooling()(states.values[unseen], states.mask[unseen])))
    words = {True: "with mask", False: "without mask"}
    rows = []
    for (trained, served), values in ami.items():
        difference = np.subtract(values, ami[True, True])
        half_width = stats.t.ppf((1 + CONFIDENCE) / 2, HEAD_SEEDS - 1) * stats.sem(difference)
        row = HeadRow(
            words[trained],
            words[served],
            float(np.mean(values)),
            float(np.std(values, ddof=1)),
            float(difference.mean()),
            float(difference.mean() - half_width),
            float(difference.mean() + half_width),
            floor(np.array(ami[True, True]), HEAD_SEEDS),
            float(np.mean(on_pads[trained, served])),
            float((~states.mask).float().mean()),
        )
        rows.append(asdict(row))
    return {
        "rows": rows,
        "mean_pooling_ami": float(np.mean(plain)),
        "texts": len(codes),
        "width": states.mask.shape[1],
        "head_seeds": HEAD_SEEDS,
        "epochs": _EPOCHS,
    }


def hold_at_once(found: dict[str, Any]) -> dict[str, Any]:
    """What `two_by_two` found, its three intervals widened until they hold together (Bonferroni)."""
    freedom, compared = found["head_seeds"] - 1, len(found["rows"]) - 1
    wider = stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * compared), freedom) / stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    rows = []
    for row in found["rows"]:
        half_width = float(wider * (row["high"] - row["low"]) / 2)
        rows.append(row | {"low": row["delta"] - half_width, "high": row["delta"] + half_width})
    return found | {"rows": rows}


def _train(states: Tensor, mask: Tensor, codes: Tensor, seed: int) -> AttentionPooling:
    """Fit a head under a linear classifier that is thrown away afterwards."""
    targets = torch.unique(codes, return_inverse=True)[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AttentionPooling(states.shape[2])
        classifier = nn.Linear(states.shape[2], int(targets.max()) + 1)
        optimizer = torch.optim.Adam([*head.parameters(), *classifier.parameters()], lr=_LEARNING_RATE)
        for _ in range(_EPOCHS):
            for batch in torch.split(torch.randperm(len(states)), _BATCH):
                loss = nn.functional.cross_entropy(classifier(head(states[batch], mask[batch])), targets[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
    return head
