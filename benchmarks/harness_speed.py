"""Time of a study's vectors: the harness' one pass for all plans, beside each plan run through the encoder.

``python -m benchmarks.harness_speed`` takes six poolings under ten right-padded plans, pads excluded and included, on
the default corpus with the default model, and writes ``benchmarks/results/harness_speed.json``. Clusterings are left
out: they cost the same whoever makes the vectors.

The harness' time is that of everything between token ids and vectors: the subsamples, the proof that one pass will do,
the pass, the poolings, and the files that the vectors lie in; once for the texts as a whole, and once with the
half-samples that a study's intervals rest on, each of which is batched anew. The other contestant batches the texts as
each plan says, pads each batch to its own width, runs it, and pools it both ways with the same poolings; it has no
half-samples. The longest pass is the encoder's time under the plan that pads furthest.

All run in one process, in turn, another one first in each round; figures are medians over rounds. What the harness
has in its files must be what the batches gave, or the run stops.
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
from maskpool.bench.score.measures import compute_shift, seconds
from maskpool.encoder import BUNDLED, Encoder
from maskpool.plans import Plan

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors

RESULTS = Path(__file__).parent / "results" / "harness_speed.json"
POOLINGS = ("mean", "max", "cls", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
FIXED = (96, 128)
EACH_PLAN, ALL_TEXTS, HALVES = "each plan", "harness, all texts", "harness, half-samples too"
CONTESTANTS = [EACH_PLAN, ALL_TEXTS, HALVES]
# How many of the longest passes the harness may take, and the least part of what is there to gain that it must gain.
MOST_PASSES, LEAST_PART = 1.5, 0.65
# Relative to the largest number of a set of vectors. Rounding in float32 moves single states by up to 3e-5, whichever
# way they are run; one pad more or fewer moves a mean by thousandths.
TOLERANCE = 1e-4
_QUICK_TEXTS = 120


def ten_plans(shorter: int, longer: int) -> tuple[Plan, ...]:
    """Ten right-padded plans that people have, the last two of fixed lengths."""
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
    """What came of each plan, batch after batch.

    Attributes:
        encoder: Seconds in the encoder, by the plan's name.
        pooling: Seconds of pooling.
        vectors: By plan, treatment and pooling.
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
        for texts, width in plan.batches(part.lengths, part.subsamples[FULL].rng(plan.name)):
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
    """What came of the harness' one pass.

    Attributes:
        seconds: In all, and by what they were spent on.
        texts: How many texts at a padded length of their own were pooled with their pads.
        grid: The comparisons.
        pooled: The vectors.
    """

    seconds: dict[str, float]
    texts: int
    grid: Grid
    pooled: Pooled


def run_harness(part: Part, halves: bool, folder: Path) -> Harnessed:
    """Make a study's vectors as the harness does, for all texts and, if request, for the half-samples.

    Raises:
        SystemExit: The model is not one whose passes may be shared.
    """
    part = replace(part)  # whose subsamples are not made yet
    began = time.perf_counter()
    top, with_pads = part.top, part.with_pads()
    drawn = time.perf_counter()
    proof = prove_prefix(part.encoder, part.ids, top, part.study.layers, np.random.default_rng(part.study.seed))
    if not proof.holds:
        raise SystemExit(f"--model must be one of which a pass holds all plans; {part.encoder.name} is not")
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
    """The largest difference of two vectors, relative to the largest number of their set.

    Raises:
        ValueError: The harness' vectors are not those of the batches; the message names the first set that is not.
    """
    full, found = part.subsamples[FULL], 0.0
    for (plan, treatment, mode), expected in batched.vectors.items():
        got = pooled.read(RIGHT, TREATMENTS[treatment].positions, -1, mode, full.texts, full.widths[plan])
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        if not error <= TOLERANCE:
            raise ValueError(f"harness and batches must agree: {mode}, {treatment}, {plan} differ by {error:.1e}")
        found = max(found, error)
    return found


def time_the_rest(part: Part, harnessed: Harnessed) -> dict[str, float]:
    """Seconds of what else a study computes of these cells without a clusterer, in one process."""
    began = time.perf_counter()
    for plan in part.plans:
        seconds(part, plan)
    timed = time.perf_counter()
    for one in harnessed.grid.moved():
        compute_shift(harnessed.pooled, part.subsamples[FULL].only(one.plan.name), one)
    return {"timing each plan": timed - began, "shifts": time.perf_counter() - timed}


def measure(part: Part, rounds: int) -> dict[str, Any]:
    """Run the contestants in turn and compare them."""
    part.encoder.layers(part.ids[:32], (-1,), part.top)  # what is done only once, such as torch's own set-up
    batched: list[Batched] = []
    harnessed: dict[str, list[Harnessed]] = {ALL_TEXTS: [], HALVES: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            first = turn % len(CONTESTANTS)
            for name in CONTESTANTS[first:] + CONTESTANTS[:first]:
                if name == EACH_PLAN:
                    batched = [*(replace(one, vectors={}) for one in batched), run_each_plan(part)]
                    continue
                where = Path(folder, f"{name} {turn}")
                where.mkdir()
                harnessed[name].append(run_harness(part, name == HALVES, where))
        difference = max(
            check_agreement(part, one.pooled, batched[-1]) for found in harnessed.values() for one in found
        )
        rest = time_the_rest(part, harnessed[HALVES][-1])
    full = part.subsamples[FULL]
    plans = [
        {
            "plan": plan.name,
            "happens": plan.happens,
            "tokens": int(full.widths[plan.name].sum()),
            "encoder_s": median(one.encoder[plan.name] for one in batched),
            "pooling_s": median(one.pooling[plan.name] for one in batched),
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
        "each_plan_s": median(sum(one.encoder.values()) + sum(one.pooling.values()) for one in batched),
        "harness": {
            name: {
                "texts_at_lengths": found[0].texts,
                "seconds": {what: median(one.seconds[what] for one in found) for what in found[0].seconds},
                "rounds_s": [one.seconds["all"] for one in found],
            }
            for name, found in harnessed.items()
        },
        "rest_of_a_study_s": rest,
        "largest_difference": difference,
    }


def compare(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What the bars are about, from what has been measured."""
    longest = max(measured["plans"], key=lambda plan: plan["tokens"])["encoder_s"]
    to_gain = sum(plan["encoder_s"] for plan in measured["plans"]) / longest
    compared = {}
    for name, found in measured["harness"].items():
        passes, gain = found["seconds"]["all"] / longest, measured["each_plan_s"] / found["seconds"]["all"]
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
    """The plans, and the contestants."""
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
        "of what is to gain",
    )
    contestants = Table("", *columns, title="All plans")
    contestants.add_row(EACH_PLAN, f"{report['each_plan_s']:.2f}")
    for name, found in report["harness"].items():
        ratios = compared["harness"][name]
        contestants.add_row(
            name,
            *(f"{value:.2f}" for value in found["seconds"].values()),
            *(f"{ratios[what]:.2f}" for what in ("passes", "gain", "part_of_gain")),
        )
    return [plans, contestants]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.harness_speed", description="Time of a study's vectors.")
    parser.add_argument("--quick", action="store_true", help="few texts and half-samples, one round: does it run?")
    parser.add_argument("--model", default=BUNDLED, help=f"name or folder (default: {BUNDLED})")
    parser.add_argument("--limit", type=int, help=f"a sample of so many texts, with --quick {_QUICK_TEXTS}")
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
    console.print("beside them, once:", report["rest_of_a_study_s"], highlight=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        console.print(f"written to {out}", highlight=False)
    return report


if __name__ == "__main__":
    main()
