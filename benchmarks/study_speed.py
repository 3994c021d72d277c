"""Benchmark the time of a study's cells: shared searches and starts against the plain way, cell by cell.

``python -m benchmarks.study_speed`` makes the vectors of the default study and of BANKING77's (from
``benchmarks/studies/data`` if it is there), computes a sample of their cells as a study does and the plain way, and
writes ``benchmarks/results/study_speed.json``. A cell the plain way is scikit-learn's: one ``KMeans`` with its own
k-means++ start for each seed, its AMI, its ``NearestNeighbors``, and a search of both sets of vectors for each
comparison. The same cell must have the same value, up to the rounding of its scores and to ties of nearest neighbours.

The sample has a few jobs of each kind; the seconds of all cells are those of the sample times the cells of the kind
over the cells of the sample. The shifts of one reference are sampled by two of its comparisons and counted in searches.
What both contestants share is measured once: the proof, TF-IDF, the seconds of the plans and the training of learned
poolings. The encoder's pass is not counted.

*k-means* is compared over many seeds on half of each corpus: its inertia, and mean and standard deviation of AMI, with
intervals of the mean difference that hold simultaneously over the corpora. *Neighbours* are compared with those of
scikit-learn in float64.

*Large* is a study of 20,000 synthetic texts in 20 topics, one pooling, three plans and the default treatments, against
the seconds of the encoder's pass with all-MiniLM-L6-v2, of which a few blocks are measured. The vectors of the cells
are those of a small model with states of the same size.

Contestants run in turn in one process with one thread. Seconds are those of the processor, because they hardly depend
on what else the machine does; the load is recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from scipy.stats import t as student
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from benchmarks.harness_memory import make_corpus, save_model
from benchmarks.timing import environment, last_level_cache
from maskpool.bench.design.corpora import Corpus, docstrings
from maskpool.bench.design.kmeans import Clusters, fit_kmeans_of_seeds
from maskpool.bench.design.study import Study, read_study
from maskpool.bench.design.treatments import INDEX
from maskpool.bench.encode.forward import Pooled, pool_corpus, prove_prefix
from maskpool.bench.part import Grid, Part
from maskpool.bench.run import Job, head_cells, jobs_of, load_corpora
from maskpool.bench.score import heads
from maskpool.bench.score.measures import baselines, compute_shifts, seconds
from maskpool.bench.score.metrics import ami
from maskpool.bench.score.shift import Neighbourhoods
from maskpool.bench.vectors import Vectors, unit
from maskpool.encoder import BUNDLED, Encoder
from maskpool.plans import Ints
from maskpool.tolerances import SAME_SIMILARITY

RESULTS = Path(__file__).parent / "results" / "study_speed.json"
BANKING = Path(__file__).parent / "studies" / "banking77.toml"
NOW, PLAIN = "now", "plain"
LEAST_GAIN = {"default": 2.0, "BANKING77": 3.0}
MOST_INERTIA, MOST_PASSES = 1.001, 1.0
_ROUNDING = 1e-12
# The share of texts whose nearest text may be another one: float32 decides between texts that are equally near.
_TIES = 5e-4
_SAMPLED_SHIFTS = 2


def plain_kmeans(vectors: Vectors, clusters: int, seeds: Sequence[int]) -> list[Clusters]:
    """Fit scikit-learn's k-means for each seed."""
    models = [KMeans(clusters, init="k-means++", n_init=1, random_state=seed).fit(vectors) for seed in seeds]
    return [Clusters(model.labels_, model.cluster_centers_) for model in models]


def plain_accuracy(index: Vectors, queries: Vectors, labels: Ints) -> float:
    """Return the 1-NN accuracy with scikit-learn's search."""
    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(unit(index))
    near = search.kneighbors(unit(queries), return_distance=False)
    nearest = np.where(near[:, 0] == np.arange(len(labels)), near[:, 1], near[:, 0])
    return float((labels[nearest] == labels).mean())


@contextmanager
def plain_parts() -> Iterator[None]:
    """Replace the shared work of fits by scikit-learn's functions."""
    with ExitStack() as stack:
        for name, plain in {
            **{f"design.{module}.fit_kmeans_of_seeds": plain_kmeans for module in ("clusterers", "kmeans")},
            "score.scorers.nearest_accuracy": plain_accuracy,
            **{f"score.{module}.ami": adjusted_mutual_info_score for module in ("fits", "metrics", "scorers")},
        }.items():
            stack.enter_context(patch(f"maskpool.bench.{name}", plain))
        yield


def compute_now(job: Job) -> list[Any]:
    """Compute the cells of a job as a study does."""
    return job.compute(*job.arguments)


def compute_plainly(job: Job) -> list[Any]:
    """Compute the cells of a job one by one, with scikit-learn's functions."""
    shared, last = job.arguments[:-1], job.arguments[-1]
    with plain_parts():
        if job.compute is compute_shifts:
            return [job.compute(*shared, [comparison])[0] for comparison in last]
        if job.keys[0]["kind"] == "fit":
            return [job.compute(*shared[:-1], [fit], last)[0] for fit in shared[-1]]
        return job.compute(*job.arguments)


CONTESTANTS: dict[str, Callable[[Job], list[Any]]] = {NOW: compute_now, PLAIN: compute_plainly}


def difference(first: Any, second: Any) -> float:
    """Return the largest difference of numbers in two JSON values; infinite if anything else differs."""
    if isinstance(first, Mapping) and first.keys() == second.keys():
        return max((difference(first[name], second[name]) for name in first), default=0.0)
    if isinstance(first, list) and len(first) == len(second):
        return max(map(difference, first, second), default=0.0)
    if isinstance(first, float):
        return abs(first - float(second))
    return 0.0 if first == second else float("inf")


def kind_of(job: Job) -> str:
    """Name the kind of a job: fits also by how they are scored and by whether they are of all texts."""
    key = job.keys[0]
    if key["kind"] != "fit":
        return str(key["kind"])
    return f"{key['by']}, {'a half-sample' if key['subsample'] else 'all texts'}"


def sampled(job: Job) -> tuple[Job, dict[str, float]]:
    """Return a job to time in place of a job, and by what to multiply its seconds."""
    if job.compute is not compute_shifts or len(job.keys) <= _SAMPLED_SHIFTS:
        return job, {NOW: 1.0, PLAIN: 1.0}
    *shared, comparisons = job.arguments
    few = Job(job.keys[:_SAMPLED_SHIFTS], job.compute, (*shared, comparisons[:_SAMPLED_SHIFTS]))
    # Now the reference is searched once; the plain way searches it for each comparison.
    now = (1 + len(job.keys)) / (1 + _SAMPLED_SHIFTS)
    return few, {NOW: now, PLAIN: len(job.keys) / _SAMPLED_SHIFTS}


def time_cells(jobs: Sequence[Job], each: int, progress: Console) -> dict[str, Any]:
    """Time a sample of jobs in turn, and estimate the seconds of all cells of each kind.

    Raises:
        ValueError: The contestants give different values.
    """
    kinds: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        kinds[kind_of(job)].append(job)
    report: dict[str, Any] = {}
    for kind, of_kind in kinds.items():
        places = np.linspace(0, len(of_kind) - 1, min(each, len(of_kind))).round().astype(int)
        spent, cells, largest = dict.fromkeys(CONTESTANTS, 0.0), 0, 0.0
        for turn, place in enumerate(places.tolist()):
            job, times = sampled(of_kind[place])
            values = {}
            for name in list(CONTESTANTS)[:: 1 if turn % 2 else -1]:
                began = time.process_time()
                values[name] = CONTESTANTS[name](job)
                spent[name] += (time.process_time() - began) * times[name]
            cells += len(of_kind[place].keys)
            largest = max(largest, difference(*values.values()))
        if not largest <= (_TIES if kind.startswith(INDEX) else _ROUNDING):
            raise ValueError(f"cells must be the same the plain way; those of {kind} differ by {largest:.1e}")
        total = sum(len(job.keys) for job in of_kind)
        report[kind] = {"cells": total, "sampled": cells, "largest_difference": largest}
        report[kind] |= {f"{name}_s": spent[name] * total / cells for name in CONTESTANTS}
        progress.print(kind, report[kind], highlight=False)
    return report


def time_the_rest(part: Part, states: Any) -> float:
    """Time what both contestants share: proof, TF-IDF, seconds of the plans and learned poolings."""
    began = time.process_time()
    prove_prefix(part.encoder, part.ids, part.top, part.study.layers, np.random.default_rng(part.study.seed))
    baselines(part.corpus, part.lengths)
    for plan in part.plans:
        seconds(part.encoder, part.ids, plan, part.batches(plan))
    for mode, head_seed, _ in head_cells(part):
        heads.measure_head(mode, states, part.codes[part.kept], head_seed, lambda: None)
    return time.process_time() - began


def compare_kmeans(vectors: Vectors, labels: Ints, seeds: int) -> dict[str, Any]:
    """Compare k-means with scikit-learn's over many seeds."""
    vectors, clusters = unit(vectors), len(np.unique(labels))
    spent, same = dict.fromkeys(CONTESTANTS, 0.0), 0
    inertias: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    amis: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for first in range(0, seeds, 3):  # a half-sample has three seeds
        some, fits = list(range(first, min(first + 3, seeds))), {}
        for name, fit in ((NOW, fit_kmeans_of_seeds), (PLAIN, plain_kmeans))[:: 1 if first % 2 else -1]:
            began = time.process_time()
            fits[name] = fit(vectors, clusters, some)
            spent[name] += time.process_time() - began
            inertias[name] += [float(np.square(vectors - fit.centres[fit.labels]).sum()) for fit in fits[name]]
        amis[NOW] += [ami(labels, fit.labels) for fit in fits[NOW]]
        amis[PLAIN] += [float(adjusted_mutual_info_score(labels, fit.labels)) for fit in fits[PLAIN]]
        same += sum(np.array_equal(a.labels, b.labels) for a, b in zip(fits[NOW], fits[PLAIN], strict=True))
    differences = np.subtract(amis[NOW], amis[PLAIN])
    return {
        "texts": len(vectors),
        "clusters": clusters,
        "seeds": seeds,
        "same_labels": same,
        "inertia_ratio": float(np.mean(inertias[NOW]) / np.mean(inertias[PLAIN])),
        "largest_inertia_ratio": float(np.max(np.divide(inertias[NOW], inertias[PLAIN]))),
        "ami_mean": {name: float(np.mean(amis[name])) for name in CONTESTANTS},
        "ami_sd": {name: float(np.std(amis[name], ddof=1)) for name in CONTESTANTS},
        "ami_difference": [float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(seeds))],
        "seconds": spent,
    }


def compare_neighbours(vectors: Vectors, count: int = 10) -> dict[str, int]:
    """Count texts whose neighbours differ from scikit-learn's in float64 by more than ties."""
    neighbourhoods, texts = Neighbourhoods(vectors, count), len(vectors)
    exact = unit(vectors.astype(np.float64))
    _, near = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(exact).kneighbors(exact)
    expected = [set(row.tolist()) - {text} for text, row in enumerate(near)]
    different = 0
    for block, pairs, margins in neighbourhoods.blocks():
        for place, text in enumerate(block.tolist()):
            mine = pairs // texts == place
            tied = set((pairs[mine & (margins >= -SAME_SIMILARITY)] % texts).tolist())
            nearer = set((pairs[mine & (margins > SAME_SIMILARITY)] % texts).tolist())
            # A repeated text may take the place of the text itself in scikit-learn's list.
            different += not (nearer <= expected[text] and len(expected[text] - tied) == 0)
    return {"texts": texts, "different": different}


def pooled_study(part: Part, folder: Path) -> tuple[list[Job], Pooled, Any, float]:
    """Make the vectors of a study and list its jobs; return also the states of heads and the encoder's seconds."""
    grid = Grid(part.study, part.plans, True, part.with_pads())
    folder.mkdir()
    began = time.process_time()
    pooled, states, _ = pool_corpus(part.encoder, part.ids, part.request(grid), folder, lambda texts: None)
    return jobs_of(part, grid, pooled), pooled, states, time.process_time() - began


def measure(part: Part, folder: Path, each: int, seeds: int, console: Console) -> dict[str, Any]:
    """Measure the cells, k-means and neighbours of a study."""
    jobs, pooled, states, pass_s = pooled_study(part, folder)
    vectors = pooled.alone(-1, "mean", np.arange(len(part.ids)))
    half = part.subsamples[1].texts
    kinds = time_cells(jobs, each, console)
    report = {
        "texts": len(part.ids),
        "half_samples": part.study.replicates,
        "pass_s": pass_s,
        "rest_s": time_the_rest(part, states),
        "cells": kinds,
        "kmeans": compare_kmeans(vectors[half], part.codes[half], seeds),
        "neighbours": compare_neighbours(vectors),
    }
    totals = {name: report["rest_s"] + sum(kind[f"{name}_s"] for kind in kinds.values()) for name in CONTESTANTS}
    return report | {"seconds": totals, "gain": totals[PLAIN] / totals[NOW]}


def measure_large(texts: int, each: int, folder: Path, console: Console) -> dict[str, Any]:
    """Measure a study of many texts against the pass of the default model."""
    save_model(folder / "model", 128)
    corpus = make_corpus(texts, longest=64)
    study = Study(poolings=("mean",))
    part = Part.of(study, corpus, Encoder.load(str(folder / "model")))
    jobs, _, _, _ = pooled_study(part, folder / "large")
    encoder = Encoder.load(BUNDLED)
    rng, block = np.random.default_rng(0), 64
    ids = [rng.integers(1000, 20_000, length).tolist() for length in part.lengths[:block].tolist()]
    passes = []
    for _ in range(4):
        began = time.process_time()
        encoder.layers(ids, (-1,), part.top)
        passes.append(time.process_time() - began)
    pass_s = float(np.median(passes[1:])) * texts / block
    kinds = time_cells(jobs, each, console)
    totals = {name: sum(kind[f"{name}_s"] for kind in kinds.values()) for name in CONTESTANTS}
    return {
        "texts": texts,
        "labels": len(set(corpus.labels)),
        "width": part.top,
        "plans": len(part.plans),
        "half_samples": study.replicates,
        "pass_s": pass_s,
        "cells": kinds,
        "seconds": totals,
        "passes": totals[NOW] / pass_s,
        "gain": totals[PLAIN] / totals[NOW],
    }


def compare(studies: Mapping[str, Any], large: Mapping[str, Any] | None) -> dict[str, Any]:
    """Compare the measurements with the bars."""
    compared: dict[str, Any] = {}
    for name, study in studies.items():
        kmeans, (mean, error) = study["kmeans"], study["kmeans"]["ami_difference"]
        # Bonferroni: the intervals hold together over all corpora.
        within = float(student.ppf(1 - 0.025 / len(studies), kmeans["seeds"] - 1)) * error
        compared[name] = {
            "gain": {
                "found": study["gain"],
                "at_least": LEAST_GAIN[name],
                "reached": study["gain"] >= LEAST_GAIN[name],
            },
            "inertia": {
                "found": kmeans["inertia_ratio"],
                "at_most": MOST_INERTIA,
                "reached": kmeans["inertia_ratio"] <= MOST_INERTIA,
            },
            "ami": {"found": mean, "within": within, "reached": abs(mean) <= within + _ROUNDING},
            "neighbours": {"found": study["neighbours"]["different"], "at_most": 0},
        }
        compared[name]["neighbours"]["reached"] = study["neighbours"]["different"] == 0
    if large is not None:
        passes = large["passes"]
        compared["large"] = {"passes": {"found": passes, "at_most": MOST_PASSES, "reached": passes <= MOST_PASSES}}
    return compared


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.study_speed", description="Time of a study's cells.")
    parser.add_argument("--quick", action="store_true", help="the default corpus, cut, to check that it runs")
    parser.add_argument("--model", default=BUNDLED, help=f"name or folder (default: {BUNDLED})")
    parser.add_argument("--limit", type=int, help="texts of the default corpus, with --quick 120")
    parser.add_argument("--texts", type=int, default=20_000, help="texts of the large study (default 20000)")
    parser.add_argument("--each", type=int, help="jobs that are timed of each kind, default 4, with --quick 1")
    parser.add_argument("--seeds", type=int, help="seeds of k-means, default 102, with --quick 6")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/, with --quick none)")
    args = parser.parse_args(argv)
    out = args.out or (None if args.quick else RESULTS)
    each, seeds = args.each or (1 if args.quick else 4), args.seeds or (6 if args.quick else 102)
    limit = args.limit or (120 if args.quick else None)
    corpus = docstrings() if limit is None else docstrings().sample(limit, seed=0)
    default = replace(Study(), replicates=2) if args.quick else Study()
    studies: dict[str, tuple[Study, Corpus]] = {"default": (default, corpus)}
    if not args.quick and (BANKING.parent / "data" / "banking77" / "test.csv").exists():
        study = read_study(BANKING)
        (banking,) = load_corpora(study, BANKING.parent)
        studies["BANKING77"] = (study, banking)
    encoder, console, large = Encoder.load(args.model), Console(), None
    measured: dict[str, Any] = {}

    def report() -> dict[str, Any]:
        about = environment(last_level_cache() or 0) | {"threads": 1, "load_average": os.getloadavg()[2]}
        about["scikit-learn"] = version("scikit-learn")
        made = {"environment": about, "studies": measured, "large": large, "compared": compare(measured, large)}
        if out is not None:  # after each study, so an interrupted run keeps its measurements
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        return made

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
            for number, (label, (study, texts)) in enumerate(studies.items()):
                part = Part.of(study, texts, encoder)
                measured[label] = measure(part, Path(name, str(number)), each, seeds, console)
                report()
            if not args.quick:
                large = measure_large(args.texts, 1, Path(name), console)
    finally:
        torch.set_num_threads(threads)
    whole = report()
    console.print(whole["compared"], highlight=False)
    if out is not None:
        console.print(f"written to {out}", highlight=False)
    return whole


if __name__ == "__main__":
    main()
