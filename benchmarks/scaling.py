"""Benchmark `maskpool embed` on one machine: texts per second, memory, and what an output folder costs.

``python -m benchmarks.scaling`` writes ``benchmarks/results/scaling.json``; ``--sections`` measures some sections again
and keeps the others.

- ``speed``: all-MiniLM-L6-v2 on short, mixed and long texts, against ``SentenceTransformer.encode`` in batches of 32
  and against its pool of two processes, which share the threads of the run. Each contestant has opened its model. Ours
  reads a file and writes parts; the others get a list and return an array. All run in one process, in turn, with
  another one first in each round; numbers are medians over rounds. The run stops unless all vectors are the same.
- ``memory``: the peak resident memory of a process that embeds up to a million short texts with a tiny encoder.
- ``folder``: the sizes of parts, journal and manifest, and the time to plan a run and to list what is finished.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness_memory import save_model
from benchmarks.timing import environment, last_level_cache
from maskpool.embed.manifest import MANIFEST, keep_manifest, manifest_of
from maskpool.embed.parts import JOURNAL, PartSummary, finished_parts, note_part, part_name, write_journal, write_part
from maskpool.embed.reading import read_embeddings
from maskpool.embed.run import PART_ROWS, embed_corpus
from maskpool.embed.settings import Settings
from maskpool.embed.sources import Slice, SlicePlan, make_plan
from maskpool.embed.worker import embed_slice, identity, open_embedder
from maskpool.encoder import BUNDLED, Encoder
from maskpool.plans import Plan

ROOT = Path(__file__).parent.parent
DATA = ROOT / "benchmarks" / "studies" / "data"
RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
REQUESTS = ROOT / "examples" / "requests.csv"
BANKING = "BANKING77"
OURS, ENCODE, POOL = "maskpool", "encode", "pool of processes"
PROCESSES, BATCH = 2, 32
TOLERANCE = 1e-6
# The shortest and longest text in tokens, whether lengths are spread evenly over their logarithm, and the number of
# texts in a block.
LENGTHS = {"mixed": (5, 250, True, 800), "long": (200, 250, False, 200)}
SHORT = 2_000  # texts of a block of BANKING77
# The bars: times as fast as encode at least, by texts; the share of pads at most; memory of a million texts at most
# in terms of that of ten thousand.
LEAST_GAIN = {BANKING: 1.15, "mixed": 1.1}
MOST_PADS, MOST_GROWTH = 0.03, 1.2
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
_TINY_WIDTH, _TINY_WORDS = 64, 12
_PARTS, _LINES, _FILES = 100_000, 200_000, 10_000


def banking(folder: Path) -> list[str] | None:
    """Read the first texts of BANKING77's training set; None if the folder does not have them."""
    file = folder / "banking77" / "train.csv"
    if not file.exists():
        return None
    with file.open(encoding="utf-8", newline="") as lines:
        return [row["text"] for row in csv.DictReader(lines)][:SHORT]


def made_texts(encoder: Encoder, shortest: int, longest: int, logarithmic: bool, count: int) -> list[str]:
    """Join the words of the example requests to texts of ``shortest`` to ``longest`` tokens, special ones included."""
    with REQUESTS.open(encoding="utf-8", newline="") as lines:
        requests = [row["text"] for row in csv.DictReader(lines)]
    rng = np.random.default_rng(0)
    words = " ".join(requests[place] for place in rng.permutation(len(requests))).split()
    special = len(encoder.tokenizer("")["input_ids"])
    sizes = [len(encoder.tokenizer(word)["input_ids"]) - special for word in words]
    texts = []
    for _ in range(count):
        ends = np.log([shortest, longest + 1]) if logarithmic else np.array([shortest, longest + 1])
        room = int(np.exp(draw) if logarithmic else draw) - special if (draw := rng.uniform(*ends)) else 0
        place, taken = int(rng.integers(len(words))), []
        while room > 0:
            taken.append(words[place % len(words)])
            room -= sizes[place % len(words)]
            place += 1
        texts.append(" ".join(taken if room == 0 or len(taken) == 1 else taken[:-1]))
    return texts


def write_texts(path: Path, texts: Iterator[str] | Sequence[str]) -> Path:
    """Write a jsonl file, one line per text."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return path


@contextmanager
def pool_of(model: Any, threads: int) -> Iterator[Any]:
    """Start the pool of processes of sentence-transformers, whose processes share the threads."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, threads // PROCESSES))
    try:
        pool = model.start_multi_process_pool(["cpu"] * PROCESSES)
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    try:
        yield pool
    finally:
        model.stop_multi_process_pool(pool)


def measure_speed(model_name: str, data: Path, rounds: int, shrink: int = 1) -> dict[str, Any]:
    """Time the contestants on each set of texts.

    Args:
        model_name: The model's name or folder.
        data: The folder with BANKING77.
        rounds: How often each contestant embeds each block.
        shrink: How many times smaller than usual the blocks are.
    """
    from maskpool.integrations.sentence_transformers import replace_pooling

    host = replace_pooling(model_name, "mean")
    settings = Settings(model=model_name)
    embedder, _ = open_embedder(settings)
    sets = {BANKING: banking(data)} | {
        name: made_texts(embedder.encoder, *about[:3], about[3] // shrink) for name, about in LENGTHS.items()
    }
    skipped = [name for name, texts in sets.items() if texts is None]
    rows = []
    with pool_of(host, torch.get_num_threads()) as pool, tempfile.TemporaryDirectory() as folder:
        for name, texts in sets.items():
            if texts is None:
                continue
            block = texts[: len(texts) // shrink] if name == BANKING else texts
            file = write_texts(Path(folder, f"{name}.jsonl"), block)
            rows.append({"texts": name, **time_block(host, pool, embedder, settings, file, block, rounds)})
    return {
        "model": BUNDLED if model_name == BUNDLED else "another",
        "rounds": rounds,
        "skipped": skipped,
        "rows": rows,
    }


def time_block(
    host: Any, pool: Any, embedder: Any, settings: Settings, file: Path, texts: list[str], rounds: int
) -> dict[str, Any]:
    """Time the contestants on the texts of one file, and compare their vectors.

    Raises:
        SystemExit: The vectors differ.
    """
    outs = iter(range(rounds + 1))

    def ours() -> Path:
        out = file.with_suffix(f".{next(outs)}")
        out.mkdir()
        plan = make_plan(file, settings, PART_ROWS)
        keep_manifest(out, manifest_of(about, settings, plan, PART_ROWS))
        for piece in plan.slices:
            note_part(out, embed_slice(piece, embedder, settings, out))
        return out

    about = identity(embedder, settings)
    calls: dict[str, Callable[[], Any]] = {
        OURS: ours,
        ENCODE: lambda: host.encode(texts, batch_size=BATCH, show_progress_bar=False),
        POOL: lambda: host.encode(texts, batch_size=BATCH, pool=pool, show_progress_bar=False),
    }
    for name in (ENCODE, POOL):  # warm up, because torch sets itself up in the first call
        host.encode(texts[:BATCH], pool=pool if name == POOL else None, show_progress_bar=False)
    out = ours()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    results: dict[str, Any] = {}
    for turn in range(rounds):
        first = turn % len(calls)
        for name in [*calls][first:] + [*calls][:first]:
            began = time.perf_counter()
            results[name] = calls[name]()
            seconds[name].append(time.perf_counter() - began)
    vectors = np.concatenate([rows.vectors for rows in read_embeddings(out).by_part()])
    difference = max(float(np.abs(vectors - results[name]).max()) for name in (ENCODE, POOL))
    if not difference <= TOLERANCE:
        raise SystemExit(f"the vectors of {file.name} must be the same, and differ by {difference:.1e}")
    (summary,) = finished_parts(out).values()
    lengths = np.array([len(ids) for ids in embedder.encoder.tokenize(texts)[0]])
    characters = np.array([len(text) for text in texts])
    batches = Plan("sorted", BATCH).batches(lengths, np.random.default_rng(0), characters)
    positions = sum(len(places) * width for places, width in batches)
    medians = {name: median(times) for name, times in seconds.items()}
    return {
        "count": len(texts),
        "tokens": summary.tokens,
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
        "pads": 1 - summary.tokens / summary.positions,
        "pads_of_encode": 1 - summary.tokens / positions,
        "rounds_s": seconds,
        "texts_per_second": {name: len(texts) / spent for name, spent in medians.items()},
        "times_as_fast_as": {name: medians[name] / medians[OURS] for name in (ENCODE, POOL)},
        "largest_difference": difference,
    }


def short_texts(count: int) -> Iterator[str]:
    """Make texts of up to a dozen words that the tiny encoder knows."""
    rng = np.random.default_rng(0)
    for length in rng.integers(1, _TINY_WORDS + 1, count).tolist():
        yield " ".join(f"w{number}" for number in rng.integers(0, 5_000, length).tolist())


def embed_in_this_process(file: str, out: str, model: str) -> dict[str, Any]:
    """Embed a file, and return the peak resident memory of the process and the seconds.

    Raises:
        SystemExit: The kernel does not report the peak.
    """
    began = time.perf_counter()
    report = embed_corpus(file, out, model)
    spent = time.perf_counter() - began
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return {"texts": report.vectors, "peak_bytes": int(line.split()[1]) * 1024, "seconds": spent}
    raise SystemExit("the kernel does not report VmHWM; Linux does")


def measure_memory(counts: Sequence[int]) -> dict[str, Any]:
    """Embed numbers of short texts, each in a separate process, and compare the peaks of their memory."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        save_model(model, 32, _TINY_WIDTH)
        for count in counts:
            file = write_texts(Path(folder, "texts.jsonl"), short_texts(count))
            out = Path(folder, f"out-{count}")
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                rows.append(process.submit(embed_in_this_process, str(file), str(out), str(model)).result())
    return {"dimension": _TINY_WIDTH, "part_rows": PART_ROWS, "rows": rows}


def measure_folder(model_name: str, parts: int, lines: int) -> dict[str, Any]:
    """Measure the files of an output folder, and the time to plan a run and to list the finished parts.

    Args:
        model_name: The model's name or folder, whose identity the manifest holds.
        parts: The number of parts of the folder that is listed. Their files are empty; the journal is complete.
        lines: The number of lines of the planned file.
    """
    settings = Settings(model=model_name)
    embedder, _ = open_embedder(settings)
    about, width = identity(embedder, settings), embedder.dimension
    sample = PartSummary(
        number=0,
        first_row=0,
        input_rows=PART_ROWS,
        rows=PART_ROWS,
        bad=0,
        dropped=0,
        missing=0,
        failed=(),
        truncated=0,
        tokens=15 * PART_ROWS,
        positions=15 * PART_ROWS,
        sha256="0" * 64,
    )
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((PART_ROWS, width), np.float32)
    every, none = np.ones(PART_ROWS, np.bool_), np.zeros(PART_ROWS, np.bool_)
    numbers, tokens = range(PART_ROWS), np.full(PART_ROWS, 15, np.int32)
    bytes_of_part = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dtype in ("float32", "float16"):
            began = time.perf_counter()
            summary = write_part(folder, sample, None, numbers, vectors.astype(dtype), every, tokens, none)
            written = time.perf_counter() - began
            bytes_of_part[dtype] = (folder / part_name(0)).stat().st_size
        file = write_texts(folder / "lines.jsonl", short_texts(lines))
        began = time.perf_counter()
        planned = make_plan(file, settings, PART_ROWS)
        planning = time.perf_counter() - began
        listed = folder / "listed"
        listed.mkdir()
        write_journal(listed, (replace(summary, number=k, first_row=k * PART_ROWS) for k in range(parts)))
        for number in range(parts):
            (listed / part_name(number)).touch()
        began = time.perf_counter()
        finished = finished_parts(listed)
        listing = time.perf_counter() - began
        tracemalloc.start()
        held = [finished_parts(listed), [Slice(k, str(file), k * PART_ROWS, PART_ROWS, k, k + 1) for k in range(parts)]]
        bytes_held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(held[0]) == len(finished) == parts
        manifests = []
        for count in (1, 2):
            several = SlicePlan(planned.files * count, planned.slices, [])
            out = folder / f"manifest-{count}"
            out.mkdir()
            keep_manifest(out, manifest_of(about, settings, several, PART_ROWS))
            manifests.append((out / MANIFEST).stat().st_size)
        journal = (listed / JOURNAL).stat().st_size
    return {
        "dimension": width,
        "part_rows": PART_ROWS,
        "bytes_of_part": bytes_of_part,
        "seconds_to_write_a_part": written,
        "bytes_of_journal_per_part": journal / parts,
        "bytes_of_manifest": manifests[0],
        "bytes_of_manifest_per_file": manifests[1] - manifests[0],
        "planned_lines": lines,
        "seconds_to_plan": planning,
        "listed_parts": parts,
        "seconds_to_list": listing,
        "bytes_held_per_part": bytes_held / parts,
    }


def compare(report: Mapping[str, Any]) -> dict[str, bool]:
    """Compare the measured sections with the bars."""
    reached = {}
    for row in report.get("speed", {}).get("rows", ()):
        if row["texts"] in LEAST_GAIN:
            reached[f"speed on {row['texts']}"] = row["times_as_fast_as"][ENCODE] >= LEAST_GAIN[row["texts"]]
        reached[f"pads on {row['texts']}"] = row["pads"] <= MOST_PADS
    peaks = {row["texts"]: row["peak_bytes"] for row in report.get("memory", {}).get("rows", ())}
    if 10_000 in peaks and 1_000_000 in peaks:
        reached["memory"] = peaks[1_000_000] <= MOST_GROWTH * peaks[10_000]
    return reached


def tables_of(report: Mapping[str, Any]) -> list[Table]:
    """Make the tables of speed and memory."""
    speed = Table("texts", "count", "tokens", "pads", "of encode", *(OURS, ENCODE, POOL), title="Texts per second")
    for row in report.get("speed", {}).get("rows", ()):
        rates = (f"{row['texts_per_second'][name]:.0f}" for name in (OURS, ENCODE, POOL))
        pads = (f"{row[what]:.1%}" for what in ("pads", "pads_of_encode"))
        speed.add_row(row["texts"], f"{row['count']:,}", f"{row['tokens']:,}", *pads, *rates)
    memory = Table("texts", "peak MB", "s", title="Memory")
    for row in report.get("memory", {}).get("rows", ()):
        memory.add_row(f"{row['texts']:,}", f"{row['peak_bytes'] / 1e6:.0f}", f"{row['seconds']:.1f}")
    return [speed, memory]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    sections: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "speed": lambda given: measure_speed(given.model, given.data, given.rounds, 50 if given.quick else 1),
        "memory": lambda given: measure_memory((100, 200) if given.quick else COUNTS),
        "folder": lambda given: measure_folder(given.model, *((20, 300) if given.quick else (_PARTS, _LINES))),
    }
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description="Speed and memory of maskpool embed.")
    parser.add_argument("--quick", action="store_true", help="few texts, to check that it runs")
    parser.add_argument("--sections", default=",".join(sections), help=f"default {','.join(sections)}")
    parser.add_argument("--model", default=BUNDLED, help=f"name or folder (default: {BUNDLED})")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with banking77")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/, with --quick none)")
    args = parser.parse_args(argv)
    chosen = args.sections.split(",")
    if unknown := set(chosen) - set(sections):
        parser.error(f"--sections must be of {', '.join(sections)}, got {', '.join(sorted(unknown))}")
    out = args.out or (None if args.quick else RESULTS)
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out and out.exists() else {}
    console = Console()
    about = environment(last_level_cache() or 0) | {name: version(name) for name in ("transformers", "pyarrow")}
    for section in chosen:
        console.print(f"measuring {section}", highlight=False)
        report[section] = {"environment": about, **sections[section](args)}
        report["reached"] = compare(report)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for table in tables_of(report):
        console.print(table)
    if skipped := report.get("speed", {}).get("skipped"):
        console.print(f"skipped, as {args.data} does not have it: {', '.join(skipped)}", highlight=False)
    console.print(report["reached"], highlight=False)
    return report


if __name__ == "__main__":
    main()
