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
from maskpool.bench.design.subsamples import OTHER_SEEDS
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

ARMS = ((True, True), (True, False), (False, True), (False, False))  # trained and served with the mask
MOST_TEXTS = 2_000  # whose token states are kept, 128 x 384 floats each
FEWEST_LABELS = 4  # two to train on, two to cluster


@dataclass(frozen=True)
class HeadRow:
    """One cell of the 2 × 2 table, over head seeds.

    Attributes:
        pooling: The mode.
        trained: "with mask" or "without mask" in training.
        served: "with mask" or "without mask" when the other classes are pooled.
        texts: Number of texts that heads are trained on and cluster.
        ami: Mean AMI of the clusters of the unseen classes.
        ami_sd: Standard deviation of the AMI over head seeds, each with its own split of the classes.
        delta: Mean difference from the head trained and served with the mask, split by split.
        low: Lower end of the 95 % interval.
        high: Upper end of the interval.
        sampling_variance: The part of the squared standard error that more texts would lower.
        seed_variance: The part that more head seeds would lower.
        quantile: The half-width of the interval, in standard errors.
        freedom: Degrees of freedom of the standard error.
        floor: How far two means over head seeds of the masked head differ only by seeds and splits.
        attention_on_pads: Mean share of attention on pads.
        pad_fraction: Mean share of positions that are pads; a head that ignores content puts this share on pads.
    """

    pooling: str
    trained: str
    served: str
    texts: int
    ami: float
    ami_sd: float
    delta: float
    low: float
    high: float
    sampling_variance: float
    seed_variance: float
    quantile: float
    freedom: int
    floor: float
    attention_on_pads: float
    pad_fraction: float


def measure_head(mode: str, states: States, codes: Ints, head_seed: int, on_head: Callable[[], None]) -> dict[str, Any]:
    """Train heads on half of the classes, pool and cluster the other half, with and without the mask.

    A head is scored on classes that it never saw. A head that clusters the labels it was trained on would be a
    classifier.

    Args:
        mode: One of `maskpool.bench.design.study.LEARNED`.
        states: Token states with their pads.
        codes: The label of each of their texts.
        head_seed: Seed of the split of the classes and of the heads.
        on_head: Called after each trained head.

    Returns:
        ``ami`` and ``attention_on_pads`` as lists with an item for each of `ARMS`; the AMI of mean pooling on the same
        texts, the largest number of epochs, and the sizes.
    """
    everywhere = torch.ones_like(states.mask)
    classes = np.random.default_rng(head_seed).permutation(np.unique(codes))
    seen = np.isin(codes, classes[: len(classes) // 2])
    learn, unseen = torch.from_numpy(seen), torch.from_numpy(~seen)
    labels = codes[~seen]

    def clusters(pooled: Tensor) -> float:
        vectors = unit(pooled.numpy())
        return float(np.mean([cluster_ami(vectors, labels, seed) for seed in range(OTHER_SEEDS)]))

    ami: list[float] = []
    on_pads: list[float] = []
    epochs: list[int] = []
    classifiers = {}
    for trained in (True, False):
        mask = states.mask if trained else everywhere
        classifiers[trained] = _train(mode, states.values[learn], mask[learn], codes[seen], head_seed)
        epochs.append(classifiers[trained].n_iter_)
        on_head()
    for trained, served in ARMS:
        mask = states.mask if served else everywhere
        with torch.inference_mode():
            pooled, weights = classifiers[trained].pooling_(states.values[unseen], mask[unseen], return_weights=True)
        ami.append(clusters(pooled))
        pads = ~states.mask[unseen].unsqueeze(1)
        on_pads.append(float((weights * pads).sum() / weights.sum()))
    return {
        "ami": ami,
        "attention_on_pads": on_pads,
        "mean_pooling_ami": clusters(MeanPooling()(states.values[unseen], states.mask[unseen])),
        "epochs": max(epochs),
        "texts": len(codes),
        "width": states.mask.shape[1],
        "pad_fraction": float((~states.mask).float().mean()),
    }


def two_by_two(measured: dict[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Make the table of learned poolings from the measurements of their heads.

    The intervals are Student's over head seeds, and hold for all differences at once (Bonferroni). The error of a
    difference comes from the seeds only, so its other part is 0.

    Args:
        measured: By mode, what `measure_head` returns for each head seed.

    Returns:
        Rows of the table, the AMI of mean pooling on the same texts, and the sizes.
    """
    words = {True: "with mask", False: "without mask"}
    first = next(iter(measured.values()))
    seeds, compared = len(first), (len(ARMS) - 1) * len(measured)
    quantile = float(stats.t.isf((1 - CONFIDENCE) / (2 * compared), seeds - 1))
    rows = []
    for mode, of_seeds in measured.items():
        ami = np.array([of_seed["ami"] for of_seed in of_seeds])
        on_pads = np.mean([of_seed["attention_on_pads"] for of_seed in of_seeds], axis=0)
        for place, (trained, served) in enumerate(ARMS):
            difference = ami[:, place] - ami[:, 0]
            delta, error = float(difference.mean()), float(stats.sem(difference))
            row = HeadRow(
                pooling=mode,
                trained=words[trained],
                served=words[served],
                texts=of_seeds[0]["texts"],
                ami=float(ami[:, place].mean()),
                ami_sd=float(ami[:, place].std(ddof=1)),
                delta=delta,
                low=delta - quantile * error,
                high=delta + quantile * error,
                sampling_variance=0.0,
                seed_variance=error**2,
                quantile=quantile,
                freedom=seeds - 1,
                floor=floor(ami[:, 0], seeds),
                attention_on_pads=float(on_pads[place]),
                pad_fraction=of_seeds[0]["pad_fraction"],
            )
            rows.append(asdict(row))
    return {
        "rows": rows,
        "mean_pooling_ami": float(np.mean([of_seed["mean_pooling_ami"] for of_seed in first])),
        "texts": first[0]["texts"],
        "width": first[0]["width"],
        "head_seeds": seeds,
        "epochs": max(of_seed["epochs"] for of_seeds in measured.values() for of_seed in of_seeds),
        "compared": compared,
    }


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
