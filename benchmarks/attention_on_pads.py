"""Does a learned attention head over a frozen encoder learn to ignore the pads?

``python -m benchmarks.attention_on_pads`` trains attention heads (`AttentionPooling` under a linear classifier) on the
token states of frozen all-MiniLM-L6-v2, with the mask and without it, and writes
``benchmarks/results/attention_on_pads.json`` and two figures, a PNG and an SVG. The texts are read from
``benchmarks/studies/data`` (see ``benchmarks/studies/*.toml`` for where they come from). ``--quick`` is a short form.

*With the mask* the head reads only real tokens. *Without it* the head is given ones over the padded width and can
attend to the encoder's outputs at pads; the encoder itself is always given its mask. Three tasks: BANKING77
and SNIPS, one label a text; and SNIPS texts of which about half are joined in pairs, "A. B", of two different labels,
which must both be found.

Every head has the same texts, optimiser (Adam), epochs and batch size. The learning rate is chosen for each treatment
separately from one grid, by mean accuracy over seeds on the fifth of the training texts that a seed does not
learn from. A seed draws that fifth, the first weights and the order of the texts; intervals are Student's 95 % over
seeds, with the same test texts throughout, so they hold no sampling of test texts. Every rate's accuracy is in the
results, to separate a treatment's choice of rate from the effect of its mask.

Widths differ only in pads: texts of more than 32 tokens are left out of every width (the results say how many), for
a text cut at 32 tokens is another text. One pass padded to 128 then holds, as its beginning, the states of every
shorter padding; the script checks that on a sample before it relies on it. States are kept in half precision.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from scipy import stats
from torch import Tensor, nn

from maskpool import training
from maskpool.bench.design.corpora import Corpus, read_file
from maskpool.bench.score.metrics import cluster_ami
from maskpool.encoder import BUNDLED, Encoder
from maskpool.errors import MaskpoolError
from maskpool.files import atomic_write
from maskpool.nn import AttentionPooling
from maskpool.training import ShuffledBatches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from maskpool.plans import Ints

DATA = Path(__file__).parent / "studies" / "data"
RESULTS = Path(__file__).parent / "results" / "attention_on_pads.json"
WIDTHS = (32, 64, 128)
TOP = max(WIDTHS)
UNPADDED = "unpadded"
_TOLERANCE = 2e-5  # of the states' root mean square; noise of float32 stays below 9e-6
_CONFIDENCE = 0.95
_CHUNK = 256
_BLOCK = 32
_HIDDEN = 128  # of additive scores
_SAMPLED = 50  # each so-manieth test text shows that states may be shared
# Okabe and Ito's colours, which people with any colour vision can distinguish; shapes say it again.
_STYLES = {None: ("#444444", "P"), 32: ("#0072B2", "o"), 64: ("#009E73", "s"), 128: ("#D55E00", "^")}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        train: Training texts of BANKING77; the other two tasks have half as many.
        test: Test texts of BANKING77; the same.
        curve: How many of the test texts are watched through training.
        seeds: Heads per treatment.
        epochs: Passes over the training texts.
        batch: Texts a step.
        rates: Learning rates to choose from.
        clusterings: k-means seeds a head.
    """

    train: int = 3_000
    test: int = 2_000
    curve: int = 400
    seeds: int = 5
    epochs: int = 10
    batch: int = 32
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    clusterings: int = 3


QUICK = Sizes(train=120, test=60, curve=30, seeds=2, epochs=2, batch=16, rates=(1e-2, 3e-2), clusterings=1)


@dataclass(frozen=True)
class Treatment:
    """How a head is trained: without the mask at a padded width, or with the mask, where any width gives the same."""

    width: int | None

    @property
    def name(self) -> str:
        """What it is called in results."""
        return "with mask" if self.width is None else f"without mask, {self.width}"


TREATMENTS = (Treatment(None), *map(Treatment, WIDTHS))


@dataclass(frozen=True)
class Split:
    """Token states of some texts, padded to ``TOP`` in a file, and what a head learns from them.

    Attributes:
        file: A float16 array (texts, TOP, dim).
        lengths: Real tokens of each text.
        targets: A class of each text, or (texts, classes) of 0 and 1.
    """

    file: Path
    lengths: Ints
    targets: np.ndarray[Any, Any]

    def states(self) -> np.ndarray[Any, np.dtype[np.float16]]:
        """The states, mapped into memory."""
        states: np.ndarray[Any, np.dtype[np.float16]] = np.load(self.file, mmap_mode="r")
        return states

    def batch(self, rows: Ints, width: int | None) -> tuple[Tensor, Tensor]:
        """States of some texts and the mask that a head is given: ones over ``width``, or with None the true one."""
        reach = min(WIDTHS) if width is None else width
        values = torch.from_numpy(self.states()[rows, :reach]).float()
        if width is None:
            return values, torch.arange(reach) < torch.from_numpy(self.lengths[rows]).unsqueeze(1)
        return values, torch.ones(len(rows), width, dtype=torch.bool)

    def is_pad(self, rows: Ints, width: int) -> Tensor:
        """Which of the positions up to ``width`` are pads."""
        return torch.arange(width) >= torch.from_numpy(self.lengths[rows]).unsqueeze(1)

    def pad_share(self, rows: Ints, width: int | None) -> float:
        """Mean share of positions that are pads, which is what a head that looks at nothing gives them."""
        return 0.0 if width is None else float(self.is_pad(rows, width).double().mean())


@dataclass(frozen=True)
class Task:
    """What heads learn.

    Attributes:
        name: What it is called in results.
        train: Texts to learn from.
        test: Texts to measure on.
        facts: Sizes and hashes.
    """

    name: str
    train: Split
    test: Split
    facts: dict[str, Any]

    @property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return self.train.targets.ndim == 2


@dataclass(frozen=True)
class Head:
    """An attention head and the classifier over it.

    Attributes:
        pooling: The head.
        classifier: What was trained over it.
        curve: (epochs, attention on pads) while it was trained.
    """

    pooling: AttentionPooling
    classifier: nn.Linear
    curve: list[tuple[float, float]]


def train(
    split: Split,
    rows: Ints,
    treatment: Treatment,
    sizes: Sizes,
    *,
    hidden: int | None,
    rate: float,
    seed: int,
    watched: Split | None = None,
) -> Head:
    """Fit an attention head and a linear classifier over it.

    Args:
        split: Texts to learn from.
        rows: Which of them.
        treatment: With or without the mask, and at which width.
        sizes: Epochs, batch, and how many texts are watched.
        hidden: Width of the hidden layer of additive scores; None for linear ones.
        rate: Adam's learning rate.
        seed: Of the first weights and the order of the texts.
        watched: Texts whose attention on pads is measured while the head learns.
    """
    several = split.targets.ndim == 2
    classes = split.targets.shape[1] if several else int(split.targets.max()) + 1
    targets = torch.from_numpy(split.targets)
    dimension = split.states().shape[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(AttentionPooling(dimension, hidden_dimension=hidden), nn.Linear(dimension, classes), [])
        module = nn.ModuleList([head.pooling, head.classifier])
        optimizer = torch.optim.Adam(module.parameters(), lr=rate)
        steps = -(-len(rows) // sizes.batch)
        # Most happens in the first epoch, so it is watched in quarters.
        looks = {0, *(steps * quarter // 4 for quarter in (1, 2, 3)), *(steps * (e + 1) for e in range(sizes.epochs))}
        done = 0

        def look() -> None:
            if watched is not None and done in looks:
                head.curve.append(
                    (done / steps, serve(head, watched, spread(watched, sizes.curve), treatment.width)[2])
                )

        def look_after_step(*_: object) -> None:
            nonlocal done
            done += 1
            look()

        def loss(places: Tensor) -> Tensor:
            batch = rows[places.numpy()]
            logits = head.classifier(head.pooling(*split.batch(batch, treatment.width)))
            if several:
                return nn.functional.binary_cross_entropy_with_logits(logits, targets[batch])
            return nn.functional.cross_entropy(logits, targets[batch])

        look()
        optimizer.register_step_post_hook(look_after_step)
        batches = ShuffledBatches(torch.arange(len(rows)), sizes.batch)
        training.train(module, loss, batches, optimizer, epochs=sizes.epochs)
    return head


@torch.inference_mode()
def serve(head: Head, split: Split, rows: Ints, width: int | None) -> tuple[Tensor, Tensor, float]:
    """Pooled vectors, logits, and the mean share of attention on pads, of texts padded to ``width`` without a mask.

    With None each text is read with its mask, which is the same as unpadded.
    """
    vectors, on_pads = [], 0.0
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        values, mask = split.batch(some, width)
        pooled, attention = head.pooling(values, mask, return_weights=True)
        vectors.append(pooled)
        on_pads += float((attention[:, 0].double() * split.is_pad(some, mask.shape[1])).sum())
    pooled = torch.cat(vectors)
    return pooled, head.classifier(pooled), on_pads / len(rows)


def scores(logits: Tensor, targets: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return the accuracy, and with several labels per text also micro-F1; a text is right if all its labels are."""
    if targets.ndim == 1:
        return {"accuracy": float((logits.argmax(dim=1).numpy() == targets).mean())}
    predicted, true = (logits > 0).numpy(), targets > 0
    hits = int((predicted & true).sum())
    return {
        "accuracy": float((predicted == true).all(axis=1).mean()),
        "micro_f1": 2 * hits / max(int(predicted.sum()) + int(true.sum()), 1),
    }


def spread(split: Split, texts: int) -> Ints:
    """So many rows, spread over a split, which may lie in the order of its labels."""
    return np.unique(np.linspace(0, len(split.lengths) - 1, texts).astype(np.int64))


def part(texts: int, seed: int) -> tuple[Ints, Ints]:
    """Four fifths of the training texts to learn from, and one to validate on."""
    order = np.random.default_rng(seed).permutation(texts)
    return np.sort(order[texts // 5 :]), np.sort(order[: texts // 5])


def measure_head(
    task: Task, hidden: int | None, treatment: Treatment, sizes: Sizes, rate: float, seed: int
) -> dict[str, Any]:
    """Train one head and serve it at every width."""
    rows, held = part(len(task.train.lengths), seed)
    head = train(task.train, rows, treatment, sizes, hidden=hidden, rate=rate, seed=seed, watched=task.test)
    valid = scores(serve(head, task.train, held, treatment.width)[1], task.train.targets[held])
    every = np.arange(len(task.test.lengths))
    pooled, logits, on_pads = serve(head, task.test, every, treatment.width)
    row: dict[str, Any] = {
        "seed": seed,
        "validation_accuracy": valid["accuracy"],
        "curve": [list(point) for point in head.curve],
        "attention_on_pads": on_pads,
        **scores(logits, task.test.targets),
        "served": {},
    }
    if not task.several:
        row["ami"] = _ami(pooled, task.test.targets, sizes)
    for width in (*WIDTHS, None):
        if treatment.width is None and width is not None:
            # With the mask, at a padded width: the law says that nothing changes, and that no pad gets anything.
            values = torch.from_numpy(task.test.states()[every[:_CHUNK], :width]).float()
            pads = task.test.is_pad(every[:_CHUNK], width)
            with torch.inference_mode():
                again, attention = head.pooling(values, ~pads, return_weights=True)
            row[f"difference_at_{width}"] = float((again - pooled[:_CHUNK]).abs().max())
            row[f"attention_on_pads_at_{width}"] = float(attention[:, 0][pads].sum())
            continue
        _, logits, on_pads = serve(head, task.test, every, width)
        row["served"][UNPADDED if width is None else str(width)] = {
            **scores(logits, task.test.targets),
            "attention_on_pads": on_pads,
        }
    return row


def ami_unseen(task: Task, hidden: int | None, treatment: Treatment, sizes: Sizes, rate: float, seed: int) -> float:
    """AMI of the test texts of one half of the classes, pooled by a head that learnt the other half."""
    classes = np.random.default_rng(seed).permutation(np.unique(task.train.targets))
    seen = np.sort(classes[: len(classes) // 2])
    rows = np.flatnonzero(np.isin(task.train.targets, seen))
    head = train(task.train, rows, treatment, sizes, hidden=hidden, rate=rate, seed=seed)
    other = np.flatnonzero(~np.isin(task.test.targets, seen))
    return _ami(serve(head, task.test, other, treatment.width)[0], task.test.targets[other], sizes)


def _ami(pooled: Tensor, labels: Ints, sizes: Sizes) -> float:
    return float(np.mean([cluster_ami(pooled.numpy(), labels, seed) for seed in range(sizes.clusterings)]))


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean of some seeds, and Student's 95 % interval over them."""
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    mean = float(np.mean(values))
    return {"mean": mean, "low": mean - float(half), "high": mean + float(half)}


def summarise(
    task: Task, treatment: Treatment, heads: Sequence[dict[str, Any]], masked: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return a treatment's row: means and intervals over seeds, also of the differences to masked heads."""
    row: dict[str, Any] = {"pad_share": task.test.pad_share(np.arange(len(task.test.lengths)), treatment.width)}
    for name in ("attention_on_pads", "accuracy", "micro_f1", "ami", "ami_unseen_classes"):
        if name in heads[0]:
            row[name] = interval([head[name] for head in heads])
            if treatment.width is not None and name != "attention_on_pads":
                pairs = zip(heads, masked, strict=True)
                row[f"{name}_minus_masked"] = interval([head[name] - masked_head[name] for head, masked_head in pairs])
    epochs = [at for at, _ in heads[0]["curve"]]
    row["curve"] = [
        {"epoch": at, **interval([head["curve"][place][1] for head in heads])} for place, at in enumerate(epochs)
    ]
    row["served"] = {
        width: {
            **{name: interval([head["served"][width][name] for head in heads]) for name in served},
            "accuracy_change": interval([head["served"][width]["accuracy"] - head["accuracy"] for head in heads]),
        }
        for width, served in heads[0]["served"].items()
    }
    return row


def largest_prefix_difference(encoder: Encoder, ids: Sequence[Sequence[int]]) -> float:
    """How far states padded to each shorter width are from the beginning of those padded to ``TOP``.

    The largest difference of a number, relative to the states' root mean square.
    """
    top = encoder.states(ids, TOP)[0]
    scale = float(top.double().square().mean().sqrt())
    return max(float((encoder.states(ids, width)[0] - top[:, :width]).abs().max()) / scale for width in WIDTHS[:-1])


def store_states(encoder: Encoder, ids: Sequence[Sequence[int]], folder: Path) -> Path:
    """Run the encoder over texts padded to ``TOP``; a file that is there already is of these ids and this model."""
    content = json.dumps([encoder.identity()["weights_sha256"], TOP, ids]).encode()
    path = folder / f"{hashlib.sha256(content).hexdigest()}.npy"
    if not path.exists():
        shape = (len(ids), TOP, encoder.dimension)
        with atomic_write(path) as temporary:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            for start in track(range(0, len(ids), _BLOCK), "encoder", console=Console(stderr=True)):
                array[start : start + _BLOCK] = encoder.states(ids[start : start + _BLOCK], TOP)[0].numpy()
            array.flush()
    return path


def read_tasks(encoder: Encoder, data: Path, sizes: Sizes, folder: Path) -> tuple[list[Task], list[list[int]]]:
    """The three tasks, their states in ``folder``, and the token ids of some of their texts.

    Raises:
        MaskpoolError: A file of the data is missing or cannot be read.
    """
    banking = [read_file(data / "banking77" / f"{name}.csv", "text", "category") for name in ("train", "test")]
    snips = read_file(data / "snips" / "snips.jsonl", "text", "label")
    fitting = [_fitting(encoder, corpus) for corpus in (*banking, snips)]
    few = sizes.train // 2
    both = fitting[2].sample(few + sizes.test // 2, 0)
    order = np.random.default_rng(0).permutation(len(both.texts)).tolist()
    parts = both.take(order[:few]), both.take(order[few:])
    left_out = [len(a.texts) - len(b.texts) for a, b in zip((*banking, snips), fitting, strict=True)]
    bank = fitting[0].sample(sizes.train, 0), fitting[1].sample(sizes.test, 0)
    tasks = [
        _task("BANKING77", encoder, bank, folder, {"longer_texts_left_out": left_out[:2]}),
        _task("SNIPS", encoder, parts, folder, {"longer_texts_left_out": left_out[2:]}),
        _task("SNIPS pairs", encoder, [_pairs(encoder, half, seed) for seed, half in enumerate(parts)], folder, {}),
    ]
    texts = [corpus.texts[row] for corpus in (bank[1], parts[1]) for row in range(0, len(corpus.texts), _SAMPLED)]
    return tasks, encoder.tokenize(texts)[0]


def _fitting(encoder: Encoder, corpus: Corpus) -> Corpus:
    """The texts that fit into the smallest width."""
    return corpus.take([row for row, ids in enumerate(encoder.tokenize(corpus.texts)[0]) if len(ids) <= min(WIDTHS)])


def _pairs(encoder: Encoder, corpus: Corpus, seed: int) -> Corpus:
    """As many texts, drawn again, about half of them joined in pairs; labels are joined alike, by a line break."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    labels: list[str] = []
    while len(texts) < len(corpus.texts):
        first, second = (int(row) for row in rng.integers(0, len(corpus.texts), 2))
        text, label = corpus.texts[first], corpus.labels[first]
        if rng.random() < 0.5:
            # Two of one label, or two that are too long together: drawn again.
            text, label = f"{text.rstrip(' .?!')}. {corpus.texts[second]}", f"{label}\n{corpus.labels[second]}"
            if corpus.labels[first] == corpus.labels[second] or len(encoder.tokenize([text])[0][0]) > min(WIDTHS):
                continue
        texts.append(text)
        labels.append(label)
    return Corpus(f"{corpus.name} pairs", texts, labels)


def _task(name: str, encoder: Encoder, corpora: Sequence[Corpus], folder: Path, facts: dict[str, Any]) -> Task:
    classes = sorted({label for corpus in corpora for labels in corpus.labels for label in labels.split("\n")})
    several = any("\n" in labels for corpus in corpora for labels in corpus.labels)
    splits = []
    for corpus in corpora:
        ids, _ = encoder.tokenize(corpus.texts)
        hot = np.array([[label in labels.split("\n") for label in classes] for labels in corpus.labels])
        targets = hot.astype(np.float32) if several else hot.argmax(axis=1)
        lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
        splits.append(Split(store_states(encoder, ids, folder), lengths, targets))
    facts |= {
        "classes": len(classes),
        "train_texts": len(corpora[0].texts),
        "test_texts": len(corpora[1].texts),
        "mean_tokens": float(np.concatenate([split.lengths for split in splits]).mean()),
        "train_sha256": corpora[0].sha256,
        "test_sha256": corpora[1].sha256,
    }
    if several:
        facts["texts_with_two_labels"] = [int((split.targets.sum(axis=1) == 2).sum()) for split in splits]
    return Task(name, splits[0], splits[1], facts)


def law_in_training(task: Task, sizes: Sizes) -> float:
    """The largest difference of weights between heads trained with the mask at the least width and at the greatest.

    One epoch of the same batches, the tokens of the second padded to ``TOP``.
    """
    heads = []
    for width in (min(WIDTHS), TOP):
        torch.manual_seed(0)
        pooling, classifier = AttentionPooling(task.train.states().shape[2]), nn.Linear(task.train.states().shape[2], 2)
        module = nn.ModuleList([pooling, classifier])

        def loss(
            rows: Tensor, pooling: AttentionPooling = pooling, classifier: nn.Linear = classifier, width: int = width
        ) -> Tensor:
            values = torch.from_numpy(task.train.states()[rows.numpy(), :width]).float()
            logits: Tensor = classifier(pooling(values, ~task.train.is_pad(rows.numpy(), width)))
            return logits.square().mean()

        batches = torch.split(torch.arange(len(task.train.lengths)), sizes.batch)
        training.train(module, loss, batches, torch.optim.Adam(module.parameters(), lr=sizes.rates[0]))
        heads.append(pooling.query.detach())
    return float((heads[0] - heads[1]).abs().max())


def measure(tasks: Sequence[Task], sizes: Sizes) -> list[dict[str, Any]]:
    """Train and measure every treatment of every task at every rate; additive scores only on the first task."""
    kinds: list[tuple[Task, int | None]] = [
        (tasks[0], None),
        (tasks[0], _HIDDEN),
        *((task, None) for task in tasks[1:]),
    ]
    grid = [(task, hidden, treatment) for task, hidden in kinds for treatment in TREATMENTS]
    tried = [(*cell, sizes, rate, seed) for cell in grid for rate in sizes.rates for seed in range(sizes.seeds)]
    by_treatment = _grouped(_grouped(_in_processes(measure_head, tried, "heads"), sizes.seeds), len(sizes.rates))
    valid = np.array([[[head["validation_accuracy"] for head in heads] for heads in rates] for rates in by_treatment])
    best = valid.mean(axis=2).argmax(axis=1).tolist()
    chosen = [rates[place] for rates, place in zip(by_treatment, best, strict=True)]
    clustered = [n for n, (task, hidden, _) in enumerate(grid) if hidden is None and not task.several]
    halves = [(*grid[n], sizes, sizes.rates[best[n]], seed) for n in clustered for seed in range(sizes.seeds)]
    amis_of_cells = _grouped(_in_processes(ami_unseen, halves, "heads of half the classes"), sizes.seeds)
    for number, amis in zip(clustered, amis_of_cells, strict=True):
        for head, ami in zip(chosen[number], amis, strict=True):
            head["ami_unseen_classes"] = ami
    rows = []
    for number, (task, hidden, treatment) in enumerate(grid):
        masked = chosen[number - number % len(TREATMENTS)]  # the masked treatment is the first of its kind
        by_rate = {
            str(rate): {
                name: interval([head[name] for head in heads])
                for name in ("validation_accuracy", "accuracy", "attention_on_pads")
            }
            for rate, heads in zip(sizes.rates, by_treatment[number], strict=True)
        }
        rows.append(
            {
                "task": task.name,
                "scores": "linear" if hidden is None else "additive",
                "treatment": treatment.name,
                "width": treatment.width,
                "learning_rate": sizes.rates[best[number]],
                "by_learning_rate": by_rate,
                **summarise(task, treatment, chosen[number], masked),
                "heads": chosen[number],
            }
        )
    return rows


def _grouped(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _in_processes(call: Any, arguments: Sequence[tuple[Any, ...]], what: str) -> list[Any]:
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        work = joblib.Parallel(n_jobs=-1, return_as="generator")(
            joblib.delayed(call)(*of_call) for of_call in arguments
        )
        return list(track(work, what, len(arguments), console=Console(stderr=True)))


def draw(report: dict[str, Any], path: Path) -> None:
    """Attention on pads through training above, accuracy at every width below; a column for each task and scores."""
    kinds = list(dict.fromkeys((row["task"], row["scores"]) for row in report["rows"]))
    figure = Figure(figsize=(3.3 * len(kinds), 6.9), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, len(kinds), squeeze=False)
    for place, kind in enumerate(kinds):
        rows = [row for row in report["rows"] if (row["task"], row["scores"]) == kind]
        _draw_curves(upper[place], rows)
        _draw_matrix(lower[place], rows)
        upper[place].set_title(f"{kind[0]}, {kind[1]} scores", fontsize="medium")
    upper[0].set_ylabel("attention that lands on pads\n(dotted: pads' share of positions)")
    lower[0].set_ylabel("head trained")
    figure.suptitle(f"Attention heads over frozen {report['model']['name']}, {report['sizes']['seeds']} seeds each")
    # Text stays text, and equal results give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "maskpool"}):
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_curves(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        epochs = [point["epoch"] for point in row["curve"]]
        colour, marker = _STYLES[row["width"]]
        if row["width"] is not None:
            axes.plot([0, epochs[-1]], [row["pad_share"]] * 2, color=colour, linestyle=":", linewidth=1.2)
        low, high = ([point[end] for point in row["curve"]] for end in ("low", "high"))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(epochs, [point["mean"] for point in row["curve"]], color=colour, marker=marker, markersize=3.5)
        # At the pads' share, where the labels of the widths are apart; the curves themselves may end together.
        label, height = ("mask", 0.0) if row["width"] is None else (str(row["width"]), row["pad_share"])
        axes.annotate(
            label, (epochs[-1], height), (5, 0), textcoords="offset points", va="center", color=colour, fontsize="small"
        )
    axes.set_xlim(right=1.17 * rows[0]["curve"][-1]["epoch"])
    axes.set_ylim(-0.03, 1)
    axes.set_xlabel("epochs of training\n(label: padded width, or with mask)")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_matrix(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    columns = [*map(str, WIDTHS), UNPADDED]
    # A head with the mask serves every padded width as it serves texts alone.
    values = np.array(
        [[100 * row["served"].get(c, row["served"][UNPADDED])["accuracy"]["mean"] for c in columns] for row in rows]
    )
    own = [columns.index(UNPADDED if row["width"] is None else str(row["width"])) for row in rows]
    lost = values[np.arange(len(rows)), own][:, None] - values
    axes.imshow(lost, cmap="Oranges", vmin=0, vmax=20, aspect="auto")
    for place, row in enumerate(rows):
        for column in range(len(columns)):
            weight = "bold" if row["width"] is None or column == own[place] else "normal"
            axes.text(column, place, f"{values[place, column]:.1f}", ha="center", va="center", fontweight=weight)
    axes.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    axes.grid(which="minor", color="#cccccc", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), ["mask" if row["width"] is None else str(row["width"]) for row in rows])
    axes.spines[:].set_color("#cccccc")
    axes.set_xlabel("served at padded width\n(test accuracy, %; bold: as trained;\ndarker: less than as trained)")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.attention_on_pads", description="Attention heads trained with and without the mask."
    )
    parser.add_argument("--quick", action="store_true", help="few texts, two seeds, two epochs: shows that it runs")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with banking77 and snips")
    parser.add_argument("--model", default=BUNDLED, help=f"a folder or a hub name (default {BUNDLED}, bundled)")
    parser.add_argument("--states", type=Path, help="folder that keeps token states for a next run (default: none)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; its figures are next to it")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else Sizes()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if args.states is None else args.states
        try:
            folder.mkdir(parents=True, exist_ok=True)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            encoder = Encoder.load(args.model)
            tasks, sample = read_tasks(encoder, args.data, sizes, folder)
            difference = largest_prefix_difference(encoder, sample)
        except (MaskpoolError, OSError) as error:
            raise SystemExit(f"attention_on_pads: {error}") from None
        if not difference <= _TOLERANCE:
            raise SystemExit(
                f"--model {args.model}: its states at one padded width are not the beginning of those at a greater one "
                f"(they differ by {difference:.1e} of their root mean square), and cannot be shared: choose "
                "another"
            )
        report: dict[str, Any] = {
            "command": "python -m benchmarks.attention_on_pads" + (" --quick" if args.quick else ""),
            "environment": {
                "platform": platform.platform(),
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "scikit-learn", "numpy", "maskpool")},
            },
            "model": encoder.identity(),
            "sizes": asdict(sizes),
            "widths": WIDTHS,
            "states_kept_as": "float16",
            "prefix_difference": difference,
            "masked_training_at_128_minus_at_32": law_in_training(tasks[0], sizes),
            "intervals": "Student's 95 % over seeds (part of the training texts, first weights, order), the same test "
            "texts for all; each for itself",
            "tasks": {task.name: task.facts for task in tasks},
            "rows": measure(tasks, sizes),
        }
    with atomic_write(args.out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for suffix in (".png", ".svg"):
        with atomic_write(args.out.with_suffix(suffix)) as temporary:
            draw(report, temporary)
    Console().print(f"written to {args.out}", highlight=False, soft_wrap=True)
    return report


if __name__ == "__main__":
    main()
