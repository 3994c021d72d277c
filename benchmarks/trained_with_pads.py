"""What if a model was trained with pads in its mean, and should its pooling be corrected when it is served?

``python -m benchmarks.trained_with_pads`` fine-tunes paraphrase-MiniLM-L3-v2 (see ``benchmarks.models``) on the
training texts of BANKING77 with `SentenceTransformerTrainer` and our modules. It writes a file for each seed and arm
into ``benchmarks/results/trained_with_pads``, and ``trained_with_pads.json`` next to it from all complete seeds. A run
that was killed resumes. The texts are read from ``benchmarks/studies/data``, see
``benchmarks/studies/banking77.toml``.

The encoder always gets the mask; only the pooling differs. Arms:

- *untrained*: the model as it is;
- *excluded*: the mean of real tokens, in batches of 32 pairs padded to the longest text of each column;
- *included at 32*: the same batches, but the mean of all positions, pads included;
- *included at width 128*: the same, with both columns padded to 128 tokens;
- *cls*: the first token.

A seed draws half of the 77 classes, from which pairs of different texts of one class are drawn; a batch holds 32
different classes. All arms of a seed start from the same weights and see the same pairs in the same order for the same
number of steps; dropout differs. The loss is `MultipleNegativesRankingLoss`. The host pads the two columns of a pair
separately, so an anchor and its positive usually have different numbers of pads.

A trained model is evaluated on test texts of the classes that it has not seen, served alone, in random batches of 8 and
of 32, and padded to 64 and to 128 tokens, each with the mask and without it. One pass padded to 128 holds the states of
every shorter padding as its prefix, which the harness proves for each trained model on a sample. With the mask all
plans therefore give the same vectors. Texts of more than 64 tokens are left out of everything, and counted.

Declared before any run, for both arms with pads, with AMI of k-means (mean of 5 seeds) and with the accuracy of the
nearest other text (1-NN), on unseen classes:

(a) *residual harm* = trained with pads and served as trained, minus trained and served with the mask;
(b) *benefit of correcting* = trained with pads and served with the mask, minus the same model served as trained.

*As trained* is in random batches of 32 without the mask, or padded to 128 without the mask. These are eight
differences. Each is paired within a seed; its interval is Student's over seeds, so it counts the split of classes, the
texts and the order of training together. ``interval`` is the 95 % interval of one difference; ``simultaneous``, which
decides, holds for all eight at once (Bonferroni). Everything else in the results is exploratory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import SequentialSampler

from benchmarks.models import FOLDER
from benchmarks.timing import environment, last_level_cache
from maskpool.bench.design.corpora import Corpus, read_file
from maskpool.bench.encode.forward import prove_prefix
from maskpool.bench.report.pages import markdown_table
from maskpool.bench.score.metrics import ami, cluster_ami
from maskpool.bench.score.scorers import nearest_accuracy
from maskpool.bench.score.shift import deciles
from maskpool.encoder import Encoder
from maskpool.errors import InvalidValueError, MaskpoolError
from maskpool.files import atomic_write
from maskpool.functional import cls_pool, mean_pool
from maskpool.integrations.sentence_transformers import Pooling
from maskpool.plans import Ints, Plan

DATA = Path(__file__).parent / "studies" / "data"
RESULTS = Path(__file__).parent / "results" / "trained_with_pads.json"
LONGEST, TOP = 64, 128  # tokens: the longest text that is used, and the longest padded length
COLUMNS = ("anchor", "positive")
PLANS = {
    "alone": Plan("random", 1),
    "random batches of 8": Plan("random", 8),
    "random batches of 32": Plan("random", 32),
    "padded to 64": Plan(pad_to=LONGEST),
    "padded to 128": Plan(pad_to=TOP),
}
MASKED = "with mask"
MEASURES = ("ami", "nearest")
_CONFIDENCE = 0.95
_BLOCK = 32


@dataclass(frozen=True)
class Arm:
    """How a model is trained and pooled.

    Attributes:
        name: Its name in results.
        mode: Its pooling.
        trains: Whether it is trained.
        pads: Whether the pooling reads pads in training.
        width: The padded length in training; None is the longest text of a column.
    """

    name: str
    mode: str = "mean"
    trains: bool = True
    pads: bool = False
    width: int | None = None

    @property
    def as_trained(self) -> str:
        """How a model that was trained with pads is served without a change."""
        return _unmasked("random batches of 32" if self.width is None else f"padded to {self.width}")


def _unmasked(plan: str) -> str:
    return f"{plan}, without mask"


EXCLUDED = Arm("excluded")
WITH_PADS = (Arm("included at 32", pads=True), Arm("included at width 128", pads=True, width=TOP))
ARMS = (Arm("untrained", trains=False), EXCLUDED, *WITH_PADS, Arm("cls", mode="cls"))


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        seeds: Number of seeds.
        steps: Steps of training.
        pairs: Pairs in a batch, each of another class.
        rate: Highest learning rate, after a tenth of the steps; it then falls to 0 linearly.
        per_class: Test texts of each unseen class.
        clusterings: Seeds of k-means.
    """

    seeds: int = 8
    steps: int = 25
    pairs: int = 32
    rate: float = 2e-4
    per_class: int = 20
    clusterings: int = 5


QUICK = Sizes(seeds=2, steps=2, pairs=4, per_class=3, clusterings=1)


class PaddedTransformer(Transformer):
    """A transformer that can pad to a fixed width, and counts what it is given.

    Attributes:
        width: The padded length; None keeps that of the batch.
        seen: Padded length, number of positions and number of real tokens of each call.
    """

    width: int | None = None
    seen: list[tuple[int, int, int]]

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Pad the features further, then run the model."""
        mask = features["attention_mask"]
        missing = 0 if self.width is None else self.width - mask.shape[1]
        assert self.tokenizer is not None  # the host's type allows models of images
        fillers = {"input_ids": self.tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
        wider = {
            name: pad(features[name], (0, missing), value=fill) for name, fill in fillers.items() if name in features
        }
        self.seen.append((wider["input_ids"].shape[1], wider["input_ids"].numel(), int(mask.sum())))
        return super().forward({**features, **wider}, **kwargs)


class PadsIncluded(nn.Module):
    """Make every position a real token for the modules that follow: the bug."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace the mask by ones."""
        return {**features, "attention_mask": torch.ones_like(features["attention_mask"])}


def build(arm: Arm, folder: str) -> SentenceTransformer:
    """Open the model of an arm, untrained."""
    transformer = PaddedTransformer(folder, max_seq_length=TOP)
    transformer.width, transformer.seen = arm.width, []
    pooling = Pooling(transformer.auto_model.config.hidden_size, arm.mode)
    return SentenceTransformer(modules=[transformer, *[PadsIncluded()] * arm.pads, pooling], device="cpu")


@dataclass(frozen=True)
class Split:
    """What a seed draws.

    Attributes:
        pairs: Texts of one seen class each, in the order of training.
        test: Test texts of unseen classes.
        seen: Number of seen classes.
    """

    pairs: list[tuple[str, str]]
    test: Corpus
    seen: int


def draw_split(train: Corpus, test: Corpus, sizes: Sizes, seed: int) -> Split:
    """Draw the classes, the pairs and the test texts of a seed."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(train.labels))
    seen, unseen = classes[: len(classes) // 2], classes[len(classes) // 2 :]
    labels, test_labels = np.array(train.labels), np.array(test.labels)
    rows = {name: np.flatnonzero(labels == name) for name in seen}
    pairs = []
    for _ in range(sizes.steps):
        for name in rng.choice(seen, sizes.pairs, replace=False):
            anchor, positive = rng.choice(rows[name], 2, replace=False).tolist()
            pairs.append((train.texts[anchor], train.texts[positive]))
    chosen = [rng.permutation(np.flatnonzero(test_labels == name))[: sizes.per_class] for name in unseen]
    return Split(pairs, test.take(sorted(np.concatenate(chosen).tolist())), len(seen))


def in_order(dataset: Dataset, *, batch_size: int, drop_last: bool, **_: object) -> DefaultBatchSampler:
    """Batch the pairs in the order in which they were drawn."""
    return DefaultBatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def fit(model: SentenceTransformer, split: Split, sizes: Sizes, seed: int) -> float:
    """Train a model for one epoch over the pairs of a seed, and return the mean loss."""
    columns = {name: [pair[place] for pair in split.pairs] for place, name in enumerate(COLUMNS)}
    with tempfile.TemporaryDirectory() as folder:
        settings = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=sizes.pairs,
            learning_rate=sizes.rate,
            warmup_steps=max(1, sizes.steps // 10),
            batch_sampler=in_order,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_dict(columns),
            loss=MultipleNegativesRankingLoss(model),
        )
        return float(trainer.train().training_loss)


def padding_of(seen: Sequence[tuple[int, int, int]]) -> dict[str, dict[str, float]]:
    """Return the mean padded length and the share of pads of each column; the loss runs one after the other."""
    facts = {}
    for place, name in enumerate(COLUMNS):
        widths, positions, real = np.array(seen[place :: len(COLUMNS)]).T
        facts[name] = {"mean_width": float(widths.mean()), "pad_share": float(1 - real.sum() / positions.sum())}
    return facts


def serve(encoder: Encoder, ids: Sequence[Sequence[int]], mode: str, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the vectors of every way of serving, (texts, dim) each, from one pass padded to 128."""
    lengths: Ints = np.array([len(tokens) for tokens in ids])
    rng = np.random.default_rng(seed)
    widths = {MASKED: lengths} | {_unmasked(name): plan.widths(lengths, rng, lengths) for name, plan in PLANS.items()}
    pool = mean_pool if mode == "mean" else cls_pool
    parts: dict[str, list[Tensor]] = {name: [] for name in widths}
    for start in range(0, len(ids), _BLOCK):
        block = slice(start, start + _BLOCK)
        states, _ = encoder.states(ids[block], TOP)
        for name, of_texts in widths.items():
            parts[name].append(pool(states, torch.arange(TOP) < torch.from_numpy(of_texts[block]).unsqueeze(1)))
    return {name: torch.cat(blocks).numpy() for name, blocks in parts.items()}


def evaluate(encoder: Encoder, arm: Arm, split: Split, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Score every way of serving a model."""
    ids, _ = encoder.tokenize(split.test.texts)
    proof = prove_prefix(encoder, ids, TOP, (-1,), np.random.default_rng(seed))
    if not proof.holds:
        raise InvalidValueError("encoder", f"must only append states where it pads further, got {proof.difference:.1e}")
    codes, scored, served = split.test.codes, {}, {}
    for name, vectors in serve(encoder, ids, arm.mode, seed).items():
        content = vectors.tobytes()
        if content not in scored:
            amis = [cluster_ami(vectors, codes, number) for number in range(sizes.clusterings)]
            scored[content] = {"ami": float(np.mean(amis)), "nearest": nearest_accuracy(vectors, vectors, codes)}
        served[name] = scored[content]
    lengths = np.array([len(tokens) for tokens in ids])
    return {
        "texts": len(ids),
        "unseen_classes": len(np.unique(codes)),
        "length_deciles_ami": ami(codes, deciles(lengths)),
        "prefix_difference": proof.difference,
        "served": served,
    }


def measure(arm: Arm, folder: str, split: Split, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Train and evaluate one arm of one seed."""
    began, cpu = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    model = build(arm, folder)
    transformer: Any = model[0]
    facts: dict[str, Any] = {"seen_classes": split.seen}
    if arm.trains:
        facts["train_loss"] = fit(model, split, sizes, seed)
        facts["columns"] = padding_of(transformer.seen)
    facts["train_cpu_seconds"] = time.process_time() - cpu
    encoder = Encoder.of(transformer.auto_model.eval(), transformer.tokenizer, TOP)
    facts |= evaluate(encoder, arm, split, sizes, seed)
    return {**facts, "cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - began}


def read_texts(data: Path, encoder: Encoder) -> tuple[Corpus, Corpus, dict[str, int]]:
    """Read the training and test texts of at most 64 tokens, and count those that are left out.

    Raises:
        MaskpoolError: A file is missing or cannot be read.
    """
    kept, left_out = [], {}
    for name in ("train", "test"):
        corpus = read_file(data / "banking77" / f"{name}.csv", "text", "category")
        ids, _ = encoder.tokenize(corpus.texts)
        rows = [row for row, tokens in enumerate(ids) if len(tokens) <= LONGEST]
        left_out[name] = len(ids) - len(rows)
        kept.append(corpus.take(rows))
    return kept[0], kept[1], left_out


def read_cell(file: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read what an earlier run measured for a seed and an arm, or None.

    Raises:
        InvalidValueError: It was measured with other settings.
    """
    if not file.exists():
        return None
    cell: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if cell["settings"] != settings:
        raise InvalidValueError("out", f"must hold results of the same settings, but {file.name} has others: remove it")
    return cell


def interval(values: Sequence[float], differences: int = 1) -> list[float]:
    """Return Student's interval over seeds, which holds for so many differences at once."""
    level = 1 - (1 - _CONFIDENCE) / differences
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def summarise(cells: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the declared differences, and the exploratory means.

    Args:
        cells: The results of each complete seed, by arm.
    """

    def values(arm: str, served: str, measure: str) -> np.ndarray[Any, Any]:
        return np.array([seed[arm]["served"][served][measure] for seed in cells])

    declared = []
    for arm in WITH_PADS:
        for measure in MEASURES:
            as_trained = values(arm.name, arm.as_trained, measure)
            differences = {
                "residual harm": as_trained - values(EXCLUDED.name, MASKED, measure),
                "benefit of correcting": values(arm.name, MASKED, measure) - as_trained,
            }
            declared += [
                {"arm": arm.name, "measure": measure, "contrast": name, "by_seed": by_seed.tolist()}
                for name, by_seed in differences.items()
            ]
    for row in declared:
        by_seed = row["by_seed"]
        row |= {"mean": float(np.mean(by_seed)), "interval": interval(by_seed)}
        row["simultaneous"] = interval(by_seed, len(declared))
    exploratory = []
    for arm in ARMS:
        for served in cells[0][arm.name]["served"]:
            row = {"arm": arm.name, "served": served}
            for measure in MEASURES:
                own = values(arm.name, served, measure)
                to_right = own - values(EXCLUDED.name, MASKED, measure)
                row[measure] = {"mean": float(own.mean()), "interval": interval(own.tolist())}
                row[f"{measure}_minus_excluded"] = {"mean": float(to_right.mean()), "interval": interval(to_right)}
            exploratory.append(row)
    of_arms = {
        arm.name: {
            "length_deciles_ami": float(np.mean([seed[arm.name]["length_deciles_ami"] for seed in cells])),
            "columns": _mean_columns([seed[arm.name].get("columns") for seed in cells]),
            "cpu_hours": sum(seed[arm.name]["cpu_seconds"] for seed in cells) / 3600,
        }
        for arm in ARMS
    }
    return {"seeds": len(cells), "declared": declared, "exploratory": exploratory, "arms": of_arms}


def _mean_columns(columns: Sequence[Any]) -> dict[str, dict[str, float]] | None:
    if columns[0] is None:
        return None
    return {
        name: {fact: float(np.mean([of_seed[name][fact] for of_seed in columns])) for fact in columns[0][name]}
        for name in COLUMNS
    }


def words_of(row: dict[str, Any]) -> str:
    """Say what a declared difference shows: its direction, or how large a change it rules out."""
    low, high = row["simultaneous"]
    if low > 0 or high < 0:
        return "higher" if low > 0 else "lower"
    return f"no change larger than {max(-low, high):.3f}"


def block(report: dict[str, Any]) -> str:
    """Make the block of the documentation: the declared differences, then every way of serving."""
    names = {"ami": "AMI", "nearest": "1-NN accuracy"}
    declared = [
        [row["arm"], row["contrast"], names[row["measure"]], *map(_signed, (row["interval"], row["simultaneous"]))]
        for row in report["declared"]
    ]
    for line, row in zip(declared, report["declared"], strict=True):
        line[3:3] = [f"{row['mean']:+.3f}".replace("-", "−")]
        line.append(words_of(row))
    header = ("trained", "difference", "measure", "mean", "95% interval", "simultaneous", "verdict")
    served = list(dict.fromkeys(row["served"] for row in report["exploratory"]))
    lines = []
    for arm in ARMS:
        of_arm = {row["served"]: row for row in report["exploratory"] if row["arm"] == arm.name}
        cells = [" / ".join(f"{of_arm[name][measure]['mean']:.3f}" for measure in MEASURES) for name in served]
        columns = report["arms"][arm.name]["columns"]
        pads = "" if columns is None else " / ".join(f"{columns[name]['pad_share']:.0%}" for name in COLUMNS)
        lines.append([arm.name, pads, f"{report['arms'][arm.name]['length_deciles_ami']:.3f}", *cells])
    titles = ("trained", "pads in training, anchors / positives", "AMI(label, length decile)", *served)
    hours = sum(arm["cpu_hours"] for arm in report["arms"].values())
    return "\n".join(
        [
            *markdown_table(header, declared),
            "",
            f"{report['seeds']} seeds, {report['settings']['steps']} steps of {report['settings']['pairs']} pairs, "
            f"{hours:.1f} hours of one core. Exploratory: mean AMI / 1-NN accuracy of each model, by how it is served.",
            "",
            *markdown_table(titles, lines),
        ]
    )


def _signed(ends: Sequence[float]) -> str:
    return f"[{ends[0]:+.3f}, {ends[1]:+.3f}]".replace("-", "−")


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the declared differences: a row each, with the simultaneous interval and every seed."""
    rows = report["declared"]
    names = {"ami": "AMI", "nearest": "1-NN"}
    with mpl.rc_context({"font.size": 8, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(4.0, 0.7 + 0.3 * len(rows)), dpi=200, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for height, row in enumerate(rows):
            low, high = row["simultaneous"]
            axes.plot(row["by_seed"], [height + 0.2] * len(row["by_seed"]), "|", color="#777777", markersize=5)
            axes.errorbar(
                row["mean"],
                height - 0.1,
                xerr=[[row["mean"] - low], [high - row["mean"]]],
                color="black",
                marker="o" if row["contrast"] == "residual harm" else "s",
                markerfacecolor="black" if row["contrast"] == "residual harm" else "white",
                markersize=4,
                elinewidth=1,
            )
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_yticks(
            range(len(rows)),
            [f"{row['contrast']}, {names[row['measure']]},\n{row['arm']}" for row in rows],
            fontsize=7,
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("difference; bars are seeds")
        with atomic_write(path) as temporary:
            figure.savefig(temporary)


def measure_all(
    data: Path, model: str, sizes: Sizes, folder: Path, console: Console
) -> Iterator[tuple[dict[str, Any], list[dict[str, dict[str, Any]]]]]:
    """Measure what is missing; after each complete seed, give the settings and the results of all complete seeds.

    Raises:
        MaskpoolError: The texts or the model cannot be read, or the folder holds results of other settings.
    """
    encoder = Encoder.load(model)
    train, test, left_out = read_texts(data, encoder)
    settings = {
        **asdict(sizes),
        "weights_sha256": encoder.identity()["weights_sha256"],
        "train_sha256": train.sha256,
        "test_sha256": test.sha256,
        "left_out": left_out,
    }
    del settings["seeds"]  # more seeds may be added
    folder.mkdir(parents=True, exist_ok=True)
    complete: list[dict[str, dict[str, Any]]] = []
    for seed in range(sizes.seeds):
        split, cells = None, {}
        for arm in ARMS:
            file = folder / f"{seed}-{arm.name.replace(' ', '-')}.json"
            cell = read_cell(file, settings)
            if cell is None:
                split = split or draw_split(train, test, sizes, seed)
                cell = {"settings": settings, "seed": seed, "arm": arm.name}
                cell |= measure(arm, model, split, sizes, seed)
                with atomic_write(file) as temporary:
                    temporary.write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")
                console.print(f"seed {seed}, {arm.name}: {cell['seconds']:.0f} s ({cell['cpu_seconds']:.0f} s of CPU)")
            cells[arm.name] = cell
        complete.append(cells)
        yield settings, complete


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.trained_with_pads", description="Models trained with pads in their mean."
    )
    parser.add_argument("--quick", action="store_true", help="two seeds, two steps: shows that it runs")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with banking77")
    parser.add_argument("--model", default=str(FOLDER), help=f"a folder (default {FOLDER}, see benchmarks.models)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; the folder next to it has the seeds")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else Sizes()
    disable_progress_bars()
    report: dict[str, Any] = {}
    try:
        for settings, complete in measure_all(args.data, args.model, sizes, args.out.with_suffix(""), Console()):
            if len(complete) > 1:  # an interval needs two seeds
                report = {
                    "command": "python -m benchmarks.trained_with_pads" + (" --quick" if args.quick else ""),
                    "environment": environment(last_level_cache() or 0),
                    "settings": settings,
                    **summarise(complete),
                }
                with atomic_write(args.out) as temporary:
                    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                draw(report, args.out.with_suffix(".png"))
    except (MaskpoolError, OSError) as error:
        raise SystemExit(f"trained_with_pads: {error}") from None
    return report


if __name__ == "__main__":
    main()
