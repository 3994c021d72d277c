"""Benchmark the time of a study's vectors: one pass for all plans against a run of the encoder for each plan.

``python -m benchmarks.harness_speed`` computes six poolings under ten right-padded plans, with pads excluded and
included, on the default corpus with the default model, and writes ``benchmarks/results/harness_speed.json``. Clustering
is left out because its cost does not depend on how the vectors were made.

The harness' time covers everything from token ids to vectors: the subsamples, the proof that one pass is enough, the
pass, the poolings, and the files of the vectors. It is measured once for all texts, and once including the half-samples
for a study's intervals, each of which has new batches. The other contestant batches the texts by each plan, pads each
batch to its longest text, runs it, and pools it with pads excluded and included; it has no half-samples. The longest
pass is the encoder's time under the plan that pads furthest.

All contestants run in one process, in turn, with another one first in each round; numbers are medians over rounds. The
run stops unless the harness' vectors equal those of the batches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.timing import environment, last_level_cache
from maskpool import TokenBatch, build_pooling
from maskpool.bench.design.corpora import docstrings
from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL
from maskpool.bench.design.treatments import EXCLUDED, INCLUDED, TREATMENTS
from maskpool.bench.encode.forward import Pooled, pair_keys, pool_corpus, prove_prefix
from maskpool.bench.encode.positions import RIGHT
from maskpool.bench.part import Grid, Part
from maskpool.bench.score.measures import compute_shifts, seconds
from maskpool.encoder import BUNDLED, Encoder
from maskpool.plans import Plan

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors

RESULTS = Path(__file__).parent / "results" / "harness_speed.json"
POOLINGS = ("mean", "max", "cls", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
FIXED = (96, 128)
EACH_PLAN, ALL_TEXTS, HALVES = "each plan", "harness, all texts", "harness, half-samples too"
CONTESTANTS = [EACH_PLAN, ALL_TEXTS, HALVES]
# The bars: the harness' time in longest passes at most, and its share of the possible gain at least.
MOST_PASSES, LEAST_PART = 1.5, 0.65
# Relative to the largest number of a set of vectors. Rounding in float32 moves single states by up to 3e-5 in any run;
# one pad more or fewer moves a mean by thousandths.
TOLERANCE = 1e-4
_QUICK_TEXTS = 120


def ten_plans(shorter: int, longer: int) -> tuple[Plan, ...]:
    """Make ten common right-padded plans, the last two with fixed lengths."""
    return (
        Plan("random", 8),
        Plan("random", 32),  # a loader that shuffles
        Plan("random", 128),
        Plan("random", 32, multiple_of=64),  # few shapes to compile
        Plan("natural", 32),
        Plan("natural", 32, multiple_of=8),  # pad_to_multiple_of=8, for tensor cores
        Plan("sorted", 32),  # sentence-transformers' encode
        Plan("sorted", 32, multiple_of=16),
        Plan("sorted", 32, shorter),
        Plan("sorted", 32, longer),
    )


@dataclass(frozen=True)
class Batched:
    """The result of running each plan batch by batch.

    Attributes:
        encoder: Seconds in the encoder, by the plan's name.
        pooling: Seconds of pooling, by the plan's name.
        vectors: Vectors by plan, treatment and pooling.
    """

    encoder: dict[str, float]
    pooling: dict[str, float]
    vectors: Mapping[tuple[str, str, str], Vectors]


def run_each_plan(part: Part) -> Batched:
    """Run every plan's batches through the encoder and pool them, pads excluded and included."""
    poolings = {mode: build_pooling(mode) for mode in part.study.poolings}
    encoder: dict[str, float] = {}
    pooling: dict[str, float] = {}
    vectors: dict[tuple[str, str, str], Vectors] = {}
    for plan in part.plans:
        began, encoder[plan.name] = time.perf_counter(), 0.0
        for treatment in (EXCLUDED, INCLUDED):
            for mode in poolings:
                vectors[plan.name, treatment, mode] = np.empty((len(part.ids), part.encoder.dimension), np.float32)
        for texts, width in part.batches(plan):
            started = time.perf_counter()
            (states,) = part.encoder.layers([part.ids[text] for text in texts.tolist()], (-1,), width)
            encoder[plan.name] += time.perf_counter() - started
            mask = torch.arange(width) < torch.from_numpy(part.lengths[texts]).unsqueeze(1)
            for treatment, counted in ((EXCLUDED, mask), (INCLUDED, torch.ones_like(mask))):
                batch = TokenBatch.from_padded(states, counted)
                for mode, layer in poolings.items():
                    vectors[plan.name, treatment, mode][texts] = layer.pool(batch).numpy()
        pooling[plan.name] = time.perf_counter() - began - encoder[plan.name]
    return Batched(encoder, pooling, vectors)


@dataclass(frozen=True)
class Harnessed:
    """The result of the harness' single pass.

    Attributes:
        seconds: Seconds in total and by phase.
        texts: Number of pairs of a text and a padded length that were pooled with pads.
        grid: The comparisons.
        pooled: The vectors.
    """

    seconds: dict[str, float]
    texts: int
    grid: Grid
    pooled: Pooled


def run_harness(part: Part, halves: bool, folder: Path) -> Harnessed:
    """Make a study's vectors as the harness does, for all texts and, with ``halves``, for the half-samples.

    Raises:
        SystemExit: The model does not have the prefix property.
    """
    part = replace(part)  # a copy whose subsamples are not made yet
    began = time.perf_counter()
    top, with_pads = part.top, part.with_pads()
    drawn = time.perf_counter()
    proof = prove_prefix(part.encoder, part.ids, top, part.study.layers, np.random.default_rng(part.study.seed))
    if not proof.holds:
        raise SystemExit(f"--model must have the prefix property; {part.encoder.name} does not")
    proven = time.perf_counter()
    grid = Grid(part.study, part.plans, proof.holds, with_pads)
    request = part.request(grid)
    if not halves:
        full = part.subsamples[FULL]
        keys = [pair_keys(full.texts, full.widths[plan.name]) for plan in part.plans]
        request = replace(request, pairs={RIGHT: np.unique(np.concatenate(keys))})
    pooled, _, cost = pool_corpus(part.encoder, part.ids, request, folder, lambda texts: None)
    spent = {"all": time.perf_counter() - began, "subsamples": drawn - began, "proof": proven - drawn}
    return Harnessed(
        {**spent, "encoder": cost.encoder, "pooling": cost.treatments}, len(request.pairs[RIGHT]), grid, pooled
    )


def check_agreement(part: Part, pooled: Pooled, batched: Batched) -> float:
    """Return the largest difference between two vectors, relative to the largest number of their set.

    Raises:
        ValueError: The harness' vectors differ from those of the batches; the message names the first set that differs.
    """
    full, largest = part.subsamples[FULL], 0.0
    for (plan, treatment, mode), expected in batched.vectors.items():
        got = pooled.read(RIGHT, TREATMENTS[treatment].positions, -1, mode, full.texts, full.widths[plan])
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        if not error <= TOLERANCE:
            raise ValueError(f"harness and batches must agree: {mode}, {treatment}, {plan} differ by {error:.1e}")
        largest = max(largest, error)
    return largest


def time_the_rest(part: Part, harnessed: Harnessed) -> dict[str, float]:
    """Time the other cells that a study computes without a clusterer, in one process."""
    began = time.perf_counter()
    for plan in part.plans:
        seconds(part.encoder, part.ids, plan, part.batches(plan))
    timed = time.perf_counter()
    for comparison in harnessed.grid.moved():
        compute_shifts(harnessed.pooled, part.subsamples[FULL].only(comparison.plan.name), [comparison])
    return {"timing each plan": timed - began, "shifts": time.perf_counter() - timed}


def measure(part: Part, rounds: int) -> dict[str, Any]:
    """Run the contestants in turn and compare them."""
    part.encoder.layers(part.ids[:32], (-1,), part.top)  # warm up, because torch sets itself up in the first call
    batched: list[Batched] = []
    harnessed: dict[str, list[Harnessed]] = {ALL_TEXTS: [], HALVES: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            first = turn % len(CONTESTANTS)
            for name in CONTESTANTS[first:] + CONTESTANTS[:first]:
                if name == EACH_PLAN:
                    batched = [*(replace(earlier, vectors={}) for earlier in batched), run_each_plan(part)]
                    continue
                where = Path(folder, f"{name} {turn}")
                where.mkdir()
                harnessed[name].append(run_harness(part, name == HALVES, where))
        runs = [run for of_contestant in harnessed.values() for run in of_contestant]
        difference = max(check_agreement(part, run.pooled, batched[-1]) for run in runs)
        rest = time_the_rest(part, harnessed[HALVES][-1])
    full = part.subsamples[FULL]
    plans = [
        {
            "plan": plan.name,
            "happens": plan.happens,
            "tokens": int(full.widths[plan.name].sum()),
            "encoder_s": median(run.encoder[plan.name] for run in batched),
            "pooling_s": median(run.pooling[plan.name] for run in batched),
        }
        for plan in part.plans
    ]
    return {
        "model": part.encoder.identity(),
        "corpus": {"name": part.corpus.name, "texts": len(part.ids), "mean_length": float(part.lengths.mean())},
        "poolings": list(part.study.poolings),
        "longest_width": part.top,
        "half_samples": part.study.replicates,
        "rounds": rounds,
        "plans": plans,
        "each_plan_s": median(sum(run.encoder.values()) + sum(run.pooling.values()) for run in batched),
        "harness": {
            name: {
                "texts_at_lengths": rounds_run[0].texts,
                "seconds": {phase: median(run.seconds[phase] for run in rounds_run) for phase in rounds_run[0].seconds},
                "rounds_s": [run.seconds["all"] for run in rounds_run],
            }
            for name, rounds_run in harnessed.items()
        },
        "rest_of_a_study_s": rest,
        "largest_difference": difference,
    }


def compare(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the measurements with the bars."""
    longest = max(measured["plans"], key=lambda plan: plan["tokens"])["encoder_s"]
    to_gain = sum(plan["encoder_s"] for plan in measured["plans"]) / longest
    compared = {}
    for name, harness in measured["harness"].items():
        passes, gain = harness["seconds"]["all"] / longest, measured["each_plan_s"] / harness["seconds"]["all"]
        compared[name] = {
            "passes": passes,
            "gain": gain,
            "part_of_gain": gain / to_gain,
            "reached": passes <= MOST_PASSES and gain >= LEAST_PART * to_gain,
        }
    return {
        "longest_pass_s": longest,
        "encoder_passes_of_all_plans": to_gain,
        "bars": {"passes_at_most": MOST_PASSES, "part_of_gain_at_least": LEAST_PART},
        "harness": compared,
    }


def tables_of(report: Mapping[str, Any]) -> list[Table]:
    """Make the tables of the plans and of the contestants."""
    plans = Table("plan", *("tokens", "encoder s", "pooling s"), title="Each plan, batch after batch")
    for plan in report["plans"]:
        plans.add_row(
            plan["plan"], f"{plan['tokens']:,}", *(f"{plan[what]:.2f}" for what in ("encoder_s", "pooling_s"))
        )
    compared = report["compared"]
    columns = (
        "s",
        "subsamples",
        "proof",
        "encoder",
        "pooling",
        "longest passes",
        "times as fast",
        "share of possible gain",
    )
    contestants = Table("", *columns, title="All plans")
    contestants.add_row(EACH_PLAN, f"{report['each_plan_s']:.2f}")
    for name, harness in report["harness"].items():
        ratios = compared["harness"][name]
        contestants.add_row(
            name,
            *(f"{value:.2f}" for value in harness["seconds"].values()),
            *(f"{ratios[what]:.2f}" for what in ("passes", "gain", "part_of_gain")),
        )
    return [plans, contestants]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.harness_speed", description="Time of a study's vectors.")
    parser.add_argument(
        "--quick", action="store_true", help="few texts and half-samples, one round, to check that it runs"
    )
    parser.add_argument("--model", default=BUNDLED, help=f"name or folder (default: {BUNDLED})")
    parser.add_argument("--limit", type=int, help=f"number of texts to sample, with --quick {_QUICK_TEXTS}")
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/, with --quick none)")
    args = parser.parse_args(argv)
    out = args.out or (None if args.quick else RESULTS)
    corpus = docstrings()
    study = Study(poolings=POOLINGS, plans=ten_plans(*FIXED), treatments=(INCLUDED,))
    if args.quick:
        study = replace(study, replicates=2)
    limit = args.limit or (_QUICK_TEXTS if args.quick else None)
    corpus = corpus if limit is None else corpus.sample(limit, seed=0)
    part = Part.of(study, corpus, Encoder.load(args.model))
    about = environment(last_level_cache() or 0) | {"transformers": version("transformers")}
    measured = measure(part, args.rounds or (1 if args.quick else 3))
    report = {"environment": about, **measured, "compared": compare(measured)}
    console = Console()
    console.print(about)
    for table in tables_of(report):
        console.print(table)
    console.print("the rest of a study, once:", report["rest_of_a_study_s"], highlight=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        console.print(f"written to {out}", highlight=False)
    return report


if __name__ == "__main__":
    main()
