"""A study, from settings to results: the cells of models, corpora, poolings, plans and arms."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, get_args

import joblib
import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from maskpool import __version__
from maskpool.bench import heads
from maskpool.bench.arms import Arm, matched_noise
from maskpool.bench.corpora import Corpus
from maskpool.bench.forward import Pooled, pool_corpus, prove_prefix
from maskpool.bench.quality import cluster, cluster_ami, score
from maskpool.bench.shift import cosine_shift, neighbours_kept
from maskpool.bench.statistics import floor, half_sample_intervals
from maskpool.encoder import Encoder
from maskpool.errors import UserError
from maskpool.modules.build import POOLINGS, build_pooling
from maskpool.plans import Plan, default_plans

if TYPE_CHECKING:
    from maskpool.bench.arms import Vectors
    from maskpool.bench.statistics import Table
    from maskpool.plans import Ints

# A result is JSON: its values are numbers, strings, lists and dictionaries of them.
Results: TypeAlias = dict[str, Any]

DEFAULT_PAD_TO = 128
REPLICATES = 50
_REPLICATE_SEEDS = 3
_FLOOR_FITS = 10
_FRACTION_BINS = 10
# An arm that reads pads alone scores only texts that have some; fewer than this a cluster say nothing.
_FEWEST_TEXTS_A_CLUSTER = 2


class Progress(Protocol):
    """Shows how far long work has come."""

    def task(self, description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begin a piece of work of ``total`` steps; the function that it gives counts them."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for.

    Attributes:
        poolings: Mode strings.
        pad_to: The fixed padded length; None means 128, or the longest text if that is longer.
        batch_size: Texts in a batch of the plans that have batches.
        seeds: k-means seeds on the full data.
        seed: Of the shuffles, half-samples and heads.
    """

    poolings: tuple[str, ...] = ("mean", "max", "attention")
    pad_to: int | None = None
    batch_size: int = 32
    seeds: int = 5
    seed: int = 0

    def check(self) -> Settings:
        """Return the settings if every pooling is known.

        Raises:
            UserError: One is not.
        """
        # A mode string alone cannot say how many topk_mean shall take.
        known = [mode for mode in POOLINGS if mode != "topk_mean"]
        for mode in self.poolings:
            if mode not in known:
                raise UserError(f"--pooling must be one of {', '.join(known)}, got {mode!r}")
        return self


@dataclass(frozen=True)
class Draw:
    """Texts that are clustered together, how far each plan pads them, and seeds.

    Attributes:
        texts: Rows of the corpus.
        widths: For each plan, the padded length of each of these texts.
        kmeans: Seeds of k-means.
        noise: Seed of the noise arm.
    """

    texts: Ints
    widths: tuple[Ints, ...]
    kmeans: tuple[int, ...]
    noise: int


@dataclass(frozen=True)
class Comparison:
    """An arm against the excluded arm of the same pooling, on the same texts."""

    mode: str
    plan: int
    arm: Arm


def run_study(corpus: Corpus, encoder: Encoder, settings: Settings, folder: Path, progress: Progress) -> Results:
    """Measure what pooling over pads does to the embeddings and clusters of ``corpus``.

    Args:
        corpus: The texts and labels.
        encoder: The model.
        settings: What the command line asks for.
        folder: Where vectors lie while the study runs.
        progress: Shows how far it has come.

    Returns:
        Everything that the report says, as JSON values.

    Raises:
        UserError: The corpus, the model or the settings do not allow it; the message says which.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".vectors-") as scratch:
        return _run_study(corpus, encoder, settings, Path(scratch), progress)


def _run_study(corpus: Corpus, encoder: Encoder, settings: Settings, scratch: Path, progress: Progress) -> Results:
    began = time.perf_counter()
    ids, truncated = encoder.tokenize(corpus.texts)
    lengths = _check_lengths(corpus, encoder, ids, settings)
    pad_to = settings.pad_to or max(min(DEFAULT_PAD_TO, encoder.max_length), int(lengths.max()))
    plans = default_plans(settings.batch_size, pad_to)
    full, replicates = _draws(plans, lengths, settings)
    codes = corpus.codes
    modes = [mode for mode in settings.poolings if mode != "attention"]
    kept = _kept_for_heads(codes, settings)

    proving = time.perf_counter()
    difference = prove_prefix(encoder, ids, pad_to, np.random.default_rng(settings.seed))
    proving = time.perf_counter() - proving
    asked = [(draw.texts, widths) for draw in (full, *replicates) for widths in draw.widths]
    poolings = {mode: build_pooling(mode) for mode in modes}
    with progress.task(f"forward pass at width {pad_to}", len(ids)) as advance:
        pooled, states, cost = pool_corpus(encoder, ids, poolings, asked, kept, scratch, advance)

    rows: list[Results] = []
    with progress.task("clustering", len(replicates) + 1) as advance:
        if modes:
            rows = _compare(pooled, codes, plans, full, replicates, settings, lambda: advance(1))
    attention: Results | None = None
    if kept.size:
        with progress.task("attention heads", 2 * heads.HEAD_SEEDS) as advance:
            attention = heads.two_by_two(states, codes[kept], settings.seeds, settings.seed, lambda: advance(1))
    return {
        "demonstration": corpus.demonstration,
        "corpus": {
            "name": corpus.name,
            "texts": len(corpus.texts),
            "labels": len(set(corpus.labels)),
            "sha256": corpus.sha256,
            "versions": corpus.versions,
            "longest": int(lengths.max()),
            "mean_length": float(lengths.mean()),
            "truncated": truncated,
        },
        "model": encoder.identity(),
        "settings": {**asdict(settings), "pad_to": pad_to, "replicates": len(replicates)},
        "plans": [
            {
                "name": plan.name,
                "happens": plan.happens,
                "mean_width": float(widths.mean()),
                "pad_fraction": float(1 - lengths.sum() / widths.sum()),
            }
            for plan, widths in zip(plans, full.widths, strict=True)
        ],
        "baselines": _baselines(corpus, lengths, settings.seeds),
        "rows": rows,
        "attention": attention,
        "prefix": {"largest_relative_difference": difference},
        "cost": {
            "encoder_seconds": cost.encoder,
            "arms_seconds": cost.arms,
            "proof_seconds": proving,
            "times_one_forward_pass": (cost.encoder + cost.arms + proving) / cost.encoder,
            "seconds": time.perf_counter() - began,
        },
        "environment": environment(encoder),
    }


def environment(encoder: Encoder) -> Results:
    """What a result depends on besides its settings."""
    packages = ("torch", "transformers", "scikit-learn", "scipy", "numpy")
    return {
        "maskpool": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(encoder.model.device),
        "dtype": str(encoder.model.dtype).removeprefix("torch."),
        "packages": {name: version(name) for name in packages},
    }


def _check_lengths(corpus: Corpus, encoder: Encoder, ids: Sequence[Sequence[int]], settings: Settings) -> Ints:
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
    blank = np.flatnonzero(lengths <= encoder.special_tokens)
    if blank.size:
        raise UserError(
            f"{corpus.name} must hold texts of at least one token; text {blank[0] + 1} has none: "
            f"{corpus.texts[int(blank[0])]!r}"
        )
    if settings.pad_to is not None and not lengths.max() <= settings.pad_to <= encoder.max_length:
        raise UserError(
            f"--pad-to must be between {lengths.max()}, the longest text of {corpus.name} in tokens, and "
            f"{encoder.max_length}, the most that {encoder.name} reads; got {settings.pad_to}"
        )
    return lengths


def _draws(plans: Sequence[Plan], lengths: Ints, settings: Settings) -> tuple[Draw, list[Draw]]:
    def draw(texts: Ints, kmeans: range, rng: np.random.Generator) -> Draw:
        widths = tuple(plan.widths(lengths[texts], rng) for plan in plans)
        return Draw(texts, widths, tuple(kmeans), int(rng.integers(2**31)))

    everything = np.arange(len(lengths))
    full = draw(everything, range(settings.seeds), np.random.default_rng([settings.seed, 0]))
    replicates = []
    for number in range(1, REPLICATES + 1):
        rng = np.random.default_rng([settings.seed, number])
        half = np.sort(rng.permutation(everything)[: len(everything) // 2])
        first = settings.seeds + number * _REPLICATE_SEEDS
        replicates.append(draw(half, range(first, first + _REPLICATE_SEEDS), rng))
    return full, replicates


def _kept_for_heads(codes: Ints, settings: Settings) -> Ints:
    if "attention" not in settings.poolings or len(np.unique(codes)) < heads.FEWEST_LABELS:
        return np.zeros(0, dtype=np.int64)
    chosen = np.random.default_rng(settings.seed).permutation(len(codes))[: heads.MOST_TEXTS]
    return np.sort(chosen)


def _compare(
    pooled: Pooled,
    codes: Ints,
    plans: Sequence[Plan],
    full: Draw,
    replicates: Sequence[Draw],
    settings: Settings,
    on_draw: Callable[[], None],
) -> list[Results]:
    clusters = len(np.unique(codes))
    draws = (full, *replicates)
    comparisons = [
        Comparison(mode, number, arm)
        for mode in pooled.excluded
        for number in range(len(plans))
        for arm in get_args(Arm)
        if arm != "excluded" and (arm != "pads only" or _have_pads(pooled.lengths, draws, number, clusters))
    ]
    # Processes, because k-means holds Python's lock for most of its time on data of this size.
    tables: list[Table] = []
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        jobs = (joblib.delayed(_deltas)(pooled, codes, comparisons, draw) for draw in draws)
        for table in joblib.Parallel(n_jobs=-1, return_as="generator")(jobs):
            tables.append(table)
            on_draw()
    intervals = half_sample_intervals(tables[0], np.stack(tables[1:]), settings.seed)
    floors: dict[tuple[str, bytes], float] = {}

    def row(mode: str, plan: Plan | None, arm: Arm, texts: Ints, reference: Vectors, other: Vectors) -> Results:
        key = (mode, texts.tobytes())
        if key not in floors:
            floors[key] = _floor(reference, codes[texts], settings)
        return _row(mode, plan, arm, codes[texts], reference, other, full.kmeans) | {"floor": floors[key]}

    rows = []
    for mode, vectors in pooled.excluded.items():
        rows.append(row(mode, None, "excluded", full.texts, vectors, vectors))
        for number, plan in enumerate(plans):
            for place, comparison in enumerate(comparisons):
                if comparison.mode != mode or comparison.plan != number:
                    continue
                texts, reference, other = _vectors(pooled, comparison, full)
                found = row(mode, plan, comparison.arm, texts, reference, other)
                found |= {
                    "delta": float(intervals.delta[place]),
                    "low": float(intervals.low[place]),
                    "high": float(intervals.high[place]),
                    "standard_error": float(intervals.standard_error[place]),
                }
                if comparison.arm == "included":
                    found["by_pad_fraction"] = _by_fraction(pooled.lengths, full.widths[number], reference, other)
                rows.append(found)
    return rows


def _have_pads(lengths: Ints, draws: Sequence[Draw], plan: int, clusters: int) -> bool:
    """Whether enough texts have pads, in every draw, for an arm that reads pads alone."""
    padded = [np.sum(draw.widths[plan] > lengths[draw.texts]) for draw in draws]
    return bool(min(padded) >= _FEWEST_TEXTS_A_CLUSTER * clusters)


def _vectors(pooled: Pooled, comparison: Comparison, draw: Draw) -> tuple[Ints, Vectors, Vectors]:
    """The texts that an arm scores, with their vectors in the excluded arm and in this one."""
    mode, widths, texts = comparison.mode, draw.widths[comparison.plan], draw.texts
    pairs = pooled.pairs(texts, widths)
    if comparison.arm == "pads only":
        padded = widths > pooled.lengths[texts]
        return texts[padded], pooled.excluded[mode][texts[padded]], pooled.pads[mode][pairs[padded]]
    reference, included = pooled.excluded[mode][texts], pooled.included[mode][pairs]
    if comparison.arm == "included":
        return texts, reference, included
    return texts, reference, matched_noise(reference, included, np.random.default_rng([draw.noise, comparison.plan]))


def _deltas(pooled: Pooled, codes: Ints, comparisons: Sequence[Comparison], draw: Draw) -> Table:
    """AMI of each arm minus that of the excluded arm on the same texts, (comparisons, seeds)."""
    known: dict[tuple[str, bytes, int], float] = {}

    def excluded_ami(mode: str, texts: Ints, vectors: Vectors, seed: int) -> float:
        key = (mode, texts.tobytes(), seed)
        if key not in known:
            known[key] = cluster_ami(vectors, codes[texts], seed)
        return known[key]

    table = np.zeros((len(comparisons), len(draw.kmeans)))
    for place, comparison in enumerate(comparisons):
        texts, reference, other = _vectors(pooled, comparison, draw)
        for column, seed in enumerate(draw.kmeans):
            there = cluster_ami(other, codes[texts], seed)
            table[place, column] = there - excluded_ami(comparison.mode, texts, reference, seed)
    return table


def _floor(vectors: Vectors, codes: Ints, settings: Settings) -> float:
    """The excluded arm against itself, over seeds and orders of the texts."""
    values = []
    for seed in range(_FLOOR_FITS):
        order = np.random.default_rng([settings.seed, seed]).permutation(len(codes))
        values.append(cluster_ami(vectors[order], codes[order], seed))
    return floor(np.array(values), settings.seeds)


def _row(
    mode: str, plan: Plan | None, arm: Arm, labels: Ints, reference: Vectors, vectors: Vectors, seeds: Sequence[int]
) -> Results:
    shift = cosine_shift(reference, vectors)
    clusters = len(np.unique(labels))
    scores = [score(labels, cluster(vectors, clusters, seed)) for seed in seeds]
    return {
        "pooling": mode,
        "plan": plan.name if plan else "any",
        "arm": arm,
        "texts": len(labels),
        "cosine_shift": float(shift.mean()),
        "cosine_shift_p95": float(np.quantile(shift, 0.95)),
        "cosine_shift_max": float(shift.max()),
        "neighbours_kept": neighbours_kept(reference, vectors),
        **{name: float(np.mean([one[name] for one in scores])) for name in scores[0]},
    }


def _by_fraction(lengths: Ints, widths: Ints, reference: Vectors, other: Vectors) -> list[Results]:
    """Cosine shift in equal bins of the pad fraction, the bins that hold texts."""
    fraction = 1 - lengths / widths
    bins = np.minimum((fraction * _FRACTION_BINS).astype(int), _FRACTION_BINS - 1)
    shift = cosine_shift(reference, other)
    return [
        {
            "pad_fraction": float(fraction[bins == one].mean()),
            "texts": int(np.sum(bins == one)),
            "p5": float(np.quantile(shift[bins == one], 0.05)),
            "mean": float(shift[bins == one].mean()),
            "p95": float(np.quantile(shift[bins == one], 0.95)),
        }
        for one in np.unique(bins)
    ]


def _baselines(corpus: Corpus, lengths: Ints, seeds: int) -> Results:
    """What a trivial method gets: k-means on TF-IDF, and the lengths' deciles as clusters."""
    codes = corpus.codes
    clusters = len(np.unique(codes))
    tfidf = TfidfVectorizer(sublinear_tf=True).fit_transform(corpus.texts)
    scores = [score(codes, cluster(tfidf, clusters, seed)) for seed in range(seeds)]
    deciles = np.searchsorted(np.quantile(lengths, np.linspace(0.1, 0.9, 9)), lengths).astype(np.int64)
    return {
        "tfidf": {name: float(np.mean([one[name] for one in scores])) for name in scores[0]},
        "length_deciles": score(codes, deciles),
    }
