"""Learned poolings: heads trained here, served with and without the mask, and heads that were trained elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from maskpool.bench.design.study import is_saved
from maskpool.bench.encode.forward import States
from maskpool.bench.score.intervals import CONFIDENCE, floor
from maskpool.bench.score.metrics import cluster_ami
from maskpool.bench.vectors import unit
from maskpool.encoder import TokenStates
from maskpool.errors import FolderError, InvalidValueError
from maskpool.nn import MeanPooling, PoolingLayer
from maskpool.plans import Ints
from maskpool.poolings.build import build_pooling
from maskpool.poolings.spelling import parse_mode
from maskpool.trust import Folder

if TYPE_CHECKING:
    from maskpool.integrations.sklearn import PoolingClassifier

HEAD_SEEDS = 5
MOST_TEXTS = 2_000  # whose token states are kept, 128 x 384 floats each
FEWEST_LABELS = 4  # two to train on, two to cluster


@dataclass(frozen=True)
class HeadRow:
    """One cell of the 2 × 2 table, over head seeds.

    Attributes:
        trained: "with mask" or "without mask" in training.
        served: "with mask" or "without mask" when the other classes are pooled.
        ami: Mean AMI of the clusters of the unseen classes.
        ami_sd: Standard deviation of the AMI over head seeds, each with its own split of the classes.
        delta: Mean difference from the head trained and served with the mask, split by split.
        low: Lower end of the 95 % interval of this single difference, Student's over head seeds.
        high: Upper end of the interval.
        floor: How far two means over head seeds of the masked head differ only by seeds and splits.
        attention_on_pads: Mean share of attention on pads.
        pad_fraction: Mean share of positions that are pads; a head that ignores content puts this share on pads.
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


def two_by_two(
    mode: str, states: States, codes: Ints, seeds: int, seed: int, on_head: Callable[[], None]
) -> dict[str, object]:
    """Train heads on half of the classes, pool and cluster the other half, with and without the mask.

    A head is scored on classes that it never saw. A head that clusters the labels it was trained on would be a
    classifier.

    Args:
        mode: One of `maskpool.bench.design.study.LEARNED`.
        states: Token states with their pads.
        codes: The label of each of their texts.
        seeds: Number of k-means seeds per cell.
        seed: Seed of the class splits and the heads.
        on_head: Called after each trained head.

    Returns:
        Rows of the table, the AMI of mean pooling on the same texts, and the sizes.
    """
    ami: dict[tuple[bool, bool], list[float]] = {(t, s): [] for t in (True, False) for s in (True, False)}
    on_pads: dict[tuple[bool, bool], list[float]] = {cell: [] for cell in ami}
    plain: list[float] = []
    epochs: list[int] = []
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
            classifier = _train(mode, states.values[learn], mask[learn], codes[seen], head_seed)
            epochs.append(classifier.n_iter_)
            for served in (True, False):
                mask = states.mask if served else everywhere
                with torch.inference_mode():
                    pooled, weights = classifier.pooling_(states.values[unseen], mask[unseen], return_weights=True)
                ami[trained, served].append(clusters(pooled))
                pads = ~states.mask[unseen].unsqueeze(1)
                on_pads[trained, served].append(float((weights * pads).sum() / weights.sum()))
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
        "epochs": max(epochs),
    }


def hold_at_once(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Join the tables of `two_by_two` by mode and widen the intervals to hold simultaneously (Bonferroni)."""
    first = next(iter(tables.values()))
    freedom, compared = first["head_seeds"] - 1, sum(len(of_mode["rows"]) - 1 for of_mode in tables.values())
    wider = stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * compared), freedom) / stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    rows = []
    for mode, of_mode in tables.items():
        for row in of_mode["rows"]:
            half_width = float(wider * (row["high"] - row["low"]) / 2)
            ends = {"low": row["delta"] - half_width, "high": row["delta"] + half_width}
            rows.append({"pooling": mode, **row, **ends})
    return first | {"rows": rows, "compared": compared}


def recipe(mode: str) -> dict[str, Any]:
    """Return a mode with the settings of its training, for the key of its cell."""
    from maskpool.integrations.sklearn import PoolingClassifier

    settings = {name: repr(value) for name, value in PoolingClassifier(mode).get_params().items()}
    return {"pooling": mode, "training": settings}


def saved_hash(folder: str) -> str:
    """Return the SHA-256 of a saved head's files."""
    Folder(folder).check_tree()
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def layers_of(poolings: Sequence[str], dimension: int) -> dict[str, PoolingLayer]:
    """Build the layers of modes without parameters, and open heads that were trained elsewhere.

    Raises:
        FolderError: A folder does not hold a head.
        InvalidValueError: A head is for token states of another width.
    """
    layers = {}
    for pooling in poolings:
        if is_saved(pooling):
            layers[pooling] = _opened(pooling, dimension)
        else:
            mode, options = parse_mode(pooling)
            layers[pooling] = build_pooling(mode, **options)
    return layers


def _opened(folder: str, dimension: int) -> PoolingLayer:
    from maskpool.integrations.sentence_transformers import Pooling as PoolingModule

    try:
        settings = Folder(folder).table("config.json") or {}
        if "pooling_mode" not in settings:
            names = ("*_Pooling", "*_AttentionPoolingModule")  # early versions wrote the second
            inside = sorted(path.name for name in names for path in Path(folder).glob(name))
            within = f", {Path(folder) / inside[0]}" if inside else ""
            raise FolderError(
                "its config.json has no pooling_mode, like the config.json of a whole model: name the folder of its "
                f"head{within or ', or save only the head with save_head'}"
            )
        module = PoolingModule.load(folder, local_files_only=True)
    # Invalid settings, and missing, cut or resized weights, raise errors of many kinds.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise FolderError(
            f"must be modes or folders that save_head or Pooling.save has written; {folder} could not "
            f"be opened: {reason}",
            argument="poolings",
        ) from error
    if module.embedding_dimension != dimension:
        raise InvalidValueError(
            "poolings",
            f"must fit the model, whose token states are {dimension} wide; the head in {folder} is for tokens that are "
            f"{module.embedding_dimension} wide: take it out, or measure the model it was trained on",
        )
    layer: PoolingLayer = module.pooling.eval().requires_grad_(False)
    return layer


def _train(mode: str, states: Tensor, mask: Tensor, codes: Ints, seed: int) -> PoolingClassifier:
    """Train the head that users train: `PoolingClassifier` with its defaults, on the tokens where the mask is true."""
    from maskpool.integrations.sklearn import PoolingClassifier

    offsets = nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0))
    return PoolingClassifier(mode, random_state=seed).fit(TokenStates(states[mask], offsets), codes)
