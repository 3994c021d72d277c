"""Accuracy of learned pooling heads on cached token states, next to logistic regression on mean vectors.

``python -m benchmarks.learned_heads`` fits a `PoolingClassifier` of every pooling that learns, and one of the mean,
with five seeds each, on the token states of frozen all-MiniLM-L6-v2 in a float16 cache, and writes
``benchmarks/results/learned_heads.json``. The texts are read from ``benchmarks/studies/data`` (see
``benchmarks/studies/*.toml`` for where they come from). ``--quick`` is a short form.

There are two tasks: BANKING77 with its training and test texts, and SNIPS with 20 texts per class for training and
5,000 others for testing. The defaults of the estimator were chosen on BANKING77's test texts (one seed, about thirty
recipes), which favours the heads there by a few tenths of a point. SNIPS was not used to choose them.

The peer is scikit-learn's `LogisticRegression` on the mean vectors of the same cache, once as they are and once of
length 1; the better of both, and C, are chosen by three-fold cross-validation on the training texts. It is
deterministic, so all seeds of a head are compared with the same model, text by text.

Intervals are 95 % intervals of a bootstrap that draws test texts (the same for both models) and seeds with replacement.
They cover other test texts and other seeds, but not other training texts. Five seeds are few, so the bootstrap
underestimates their part somewhat; their standard deviation is reported next to it.

Fits are timed one after another, not in turn, so seconds only show the order of magnitude. ``benchmarks.state_cache``
compares an epoch with one that also runs the encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from benchmarks.timing import environment, last_level_cache
from maskpool.bench.design.corpora import Corpus, read_file
from maskpool.encoder import BUNDLED, Encoder, cache_states
from maskpool.errors import MaskpoolError
from maskpool.files import atomic_write
from maskpool.integrations.sklearn import PoolingClassifier, PoolingTransformer
from maskpool.nn import POOLINGS

if TYPE_CHECKING:
    Truths = np.ndarray[Any, np.dtype[np.bool_]]

DATA = Path(__file__).parent / "studies" / "data"
RESULTS = Path(__file__).parent / "results" / "learned_heads.json"
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("mean", {}),
    "attention": ("attention", {}),
    "attention, 8 heads": ("attention", {"num_heads": 8}),
    **{mode: (mode, {}) for mode, layer in POOLINGS.items() if layer.learns and mode != "attention"},
}
PENALTIES = [0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
FEW, UNSEEN = 20, 5_000  # SNIPS: texts a class to learn from, texts to test on
_DRAWS = 2_000
_QUICK: dict[str, Any] = {"max_iter": 2}


class Task:
    """One corpus: token states to learn from and to test on, with their labels."""

    def __init__(self, name: str, learn: Corpus, test: Corpus, encoder: Encoder, folder: Path) -> None:
        self.name = name
        self.labels, self.truth = np.array(learn.labels), np.array(test.labels)
        self.learn = cache_states(encoder, learn.texts, folder / f"{name}-learn.safetensors")
        self.test = cache_states(encoder, test.texts, folder / f"{name}-test.safetensors")


def read_tasks(encoder: Encoder, data: Path, folder: Path) -> list[Task]:
    """Both tasks, their caches in a folder.

    Raises:
        MaskpoolError: A file of the data is missing or cannot be read.
    """
    learn, test = [read_file(data / "banking77" / f"{name}.csv", "text", "category") for name in ("train", "test")]
    snips = read_file(data / "snips" / "snips.jsonl", "text", "label")
    order, labels = np.random.default_rng(0).permutation(len(snips.texts)), np.array(snips.labels)
    few = [place for label in np.unique(labels) for place in order[labels[order] == label][:FEW].tolist()]
    others = [place for place in order.tolist() if place not in set(few)][:UNSEEN]
    return [
        Task("banking77", learn, test, encoder, folder),
        Task("snips", snips.take(few), snips.take(others), encoder, folder),
    ]


def fit_peer(task: Task) -> tuple[dict[str, Any], Truths]:
    """Logistic regression on mean vectors, and which test texts it gets right."""
    mean = PoolingTransformer("mean").fit(task.learn, task.labels)
    vectors, others = mean.transform(task.learn), mean.transform(task.test)
    steps = Pipeline([("scale", Normalizer()), ("classify", LogisticRegression(max_iter=5_000))])
    grid = {"scale": ["passthrough", Normalizer()], "classify__C": PENALTIES}
    start = time.perf_counter()
    search = GridSearchCV(steps, grid, cv=3).fit(vectors, task.labels)
    right = search.predict(others) == task.truth
    facts = {
        "vectors": "of length 1" if isinstance(search.best_params_["scale"], Normalizer) else "as they are",
        "C": search.best_params_["classify__C"],
        "accuracy": float(right.mean()),
        "fit_seconds": search.refit_time_,
        "search_seconds": time.perf_counter() - start,
    }
    return facts, right


def fit_heads(task: Task, name: str, seeds: int, options: dict[str, Any]) -> tuple[dict[str, Any], Truths]:
    """One kind of head with several seeds, and which test texts each gets right, (seeds, texts)."""
    mode, settings = HEADS[name]
    right, seconds = [], []
    for seed in range(seeds):
        head = PoolingClassifier(mode, settings, random_state=seed, **options)
        start = time.perf_counter()
        head.fit(task.learn, task.labels)
        seconds.append(time.perf_counter() - start)
        right.append(head.predict(task.test) == task.truth)
    right_by_seed = np.array(right)
    accuracies = right_by_seed.mean(axis=1)
    facts = {
        "task": task.name,
        "head": name,
        "accuracy": float(accuracies.mean()),
        "accuracies": accuracies.tolist(),
        "sd_over_seeds": float(accuracies.std(ddof=1)),
        "epochs": head.n_iter_,
        "fit_seconds": seconds,
    }
    return facts, right_by_seed


def interval(right: Truths, peer: Truths) -> dict[str, float]:
    """Mean difference of accuracy to the peer, in points, with the interval that the module's first lines say.

    Args:
        right: (seeds, texts), which texts each seed gets right.
        peer: (texts,), which the peer does.
    """
    difference = 100 * (right.astype(np.float64) - peer)
    rng = np.random.default_rng(0)
    seeds, texts = difference.shape
    drawn = []
    for _ in range(_DRAWS):
        weights = np.bincount(rng.integers(seeds, size=seeds), minlength=seeds) / seeds
        drawn.append((weights @ difference)[rng.integers(texts, size=texts)].mean())
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"points": float(difference.mean()), "low": float(low), "high": float(high)}


def show(report: dict[str, Any]) -> Table:
    """The rows as a table."""
    table = Table("task", "head", "accuracy", "points to the peer", "fit, s", "epochs")
    for row in report["rows"]:
        to_peer = row["to_peer"]
        table.add_row(
            row["task"],
            row["head"],
            f"{100 * row['accuracy']:.2f}",
            f"{to_peer['points']:+.2f} [{to_peer['low']:+.2f}, {to_peer['high']:+.2f}]",
            f"{np.median(row['fit_seconds']):.1f}",
            str(row["epochs"]),
        )
    return table


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.learned_heads", description="Learned pooling heads next to logistic regression."
    )
    parser.add_argument("--quick", action="store_true", help="two seeds, two epochs: shows that it runs")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with banking77 and snips")
    parser.add_argument("--model", default=BUNDLED, help=f"a folder or a hub name (default {BUNDLED}, bundled)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]  # what else the machine was doing; seconds are to be read with it
    seeds, options = (2, _QUICK) if args.quick else (5, {})
    with tempfile.TemporaryDirectory() as folder:
        try:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            encoder = Encoder.load(args.model)
            tasks = read_tasks(encoder, args.data, Path(folder))
        except (MaskpoolError, OSError) as error:
            raise SystemExit(f"learned_heads: {error}") from None
        peers = {task.name: fit_peer(task) for task in tasks}
        rows = []
        for task, name in track([(task, name) for task in tasks for name in HEADS], console=Console(stderr=True)):
            facts, right = fit_heads(task, name, seeds, options)
            rows.append(facts | {"to_peer": interval(right, peers[task.name][1])})
    report: dict[str, Any] = {
        "command": "python -m benchmarks.learned_heads" + (" --quick" if args.quick else ""),
        "environment": environment(last_level_cache() or 0) | {"load_average": load},
        "model": encoder.identity(),
        "estimator": PoolingClassifier(**options).get_params(deep=False),
        "cache": "float16",
        "intervals": "95 % bootstrap over test texts (paired) and seeds, each for itself; the training texts are fixed",
        "tasks": {
            task.name: {
                "texts": len(task.learn),
                "test_texts": len(task.test),
                "classes": len(np.unique(task.labels)),
                "peer": peers[task.name][0],
            }
            for task in tasks
        },
        "rows": rows,
    }
    with atomic_write(args.out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console = Console()
    console.print(show(report))
    console.print(f"written to {args.out}", highlight=False, soft_wrap=True)
    return report


if __name__ == "__main__":
    main()
