"""Benchmark how long one call of a pooling takes on few texts: median and 95th percentile over thousands of calls.

``python -m benchmarks.pooling_latency`` writes ``benchmarks/results/pooling_latency.json`` and a figure of the same
name. The contestants are those of `benchmarks.pooling_speed` for padded batches, the modules of sentence-transformers
and of maskpool as ``SentenceTransformer.encode`` calls them, and ten small tensor operations, which say what a
microsecond is worth on the machine. They are called one after the other, one call each, in an order that rotates, in
inference mode; a batch is in cache, as it is after an encoder. Recipes of learned poolings hide pads by their scores,
so a NaN in a pad reaches the vector, except for the one that replaces pads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.batches import Buffer, Shape, make_ring
from benchmarks.contestants import IDF, MODES, SCORED, contestants, in_encode
from benchmarks.pooling_speed import DTYPES, check_agreement
from benchmarks.timing import environment, last_level_cache, without_garbage_collection
from maskpool.files import atomic_write
from maskpool.nn import GeneralizedMeanPooling, TopKMeanPooling

mpl.use("agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results" / "pooling_latency.json"
SHAPES = ("1x16x384", "8x32x384", "8x32x384:0.7", "32x128x384")
TEN = "ten small operations"
LATENCY_MODES = tuple(mode for mode in MODES if mode not in (SCORED, IDF))
# Calls that take longer together are fewer.
SECONDS = 2.0


@dataclass(frozen=True)
class Row:
    """Microseconds of a call: median and 95th percentile, by contestant."""

    mode: str
    shape: str
    dtype: str
    threads: int
    calls: int
    median_us: dict[str, float]
    p95_us: dict[str, float]


def _ten_operations(buffer: Buffer) -> None:
    for _ in range(10):
        buffer.mask + 1


def time_calls(calls: Mapping[str, Callable[[Buffer], object]], buffer: Buffer, number: int) -> dict[str, list[float]]:
    """Return the seconds of each of at most ``number`` calls of each contestant, called in turn."""
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with without_garbage_collection():
        for name in names * 3:  # warm up
            calls[name](buffer)
        end = time.perf_counter() + SECONDS
        for turn in range(number):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                calls[name](buffer)
                seconds[name].append(time.perf_counter() - start)
            if turn >= 20 and time.perf_counter() > end:
                break
    return seconds


def measure(mode: str, shape: Shape, dtype: torch.dtype, threads: int, number: int) -> Row:
    """Measure one mode."""
    buffer = make_ring(shape, "padded", dtype, 1, 0, True).buffers[0]
    buffer.x.requires_grad_(False)
    pools, _ = contestants(mode, "padded", shape.dim, dtype, False)
    with torch.inference_mode():
        check_agreement(mode, pools, [], buffer, None)
        calls = {**pools, TEN: _ten_operations}
        if mode not in (TopKMeanPooling.mode, GeneralizedMeanPooling.mode):  # they are built with other options
            calls |= in_encode(mode, shape.dim)
        seconds = time_calls(calls, buffer, number)
    return Row(
        mode=mode,
        shape=str(shape),
        dtype=str(dtype).removeprefix("torch."),
        threads=threads,
        calls=len(seconds["ours"]),
        median_us={name: statistics.median(times) * 1e6 for name, times in seconds.items()},
        p95_us={name: statistics.quantiles(times, n=20)[-1] * 1e6 for name, times in seconds.items()},
    )


def table_of(rows: Sequence[Row]) -> Table:
    """Make a table of the rows of one shape, dtype and number of threads."""
    head = rows[0]
    table = Table(title=f"{head.shape} {head.dtype}, {head.threads} threads: µs a call, median (95th percentile)")
    names = list(dict.fromkeys(itertools.chain(*(row.median_us for row in rows))))
    table.add_column("mode", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        cells = (
            f"{row.median_us[name]:,.0f} ({row.p95_us[name]:,.0f})" if name in row.median_us else "-" for name in names
        )
        table.add_row(row.mode, *cells)
    return table


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the medians of ours, the host and the recipe at each shape, float32 on one thread."""
    chosen = [row for row in rows if (row["dtype"], row["threads"]) == (rows[0]["dtype"], rows[0]["threads"])]
    shapes = list(dict.fromkeys(row["shape"] for row in chosen))
    modes = list(dict.fromkeys(row["mode"] for row in chosen))[::-1]
    figure, axes = plt.subplots(
        1, len(shapes), figsize=(4 * len(shapes), 6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, shape in zip(axes[0], shapes, strict=True):
        for name, colour in (("ours", "#0072b2"), ("host", "#d55e00"), ("recipe", "#009e73")):
            points = [
                (row["median_us"][name], modes.index(row["mode"]))
                for row in chosen
                if row["shape"] == shape and name in row["median_us"]
            ]
            axis.plot([x for x, _ in points], [y for _, y in points], "o", color=colour, label=name)
        axis.set_xscale("log")
        axis.set_yticks(range(len(modes)), modes)
        axis.set_title(shape.replace("x", " × ").replace(":", ", real: "))
        axis.set_xlabel("microseconds a call")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.pooling_latency", description="Latency of pooling few texts.")
    parser.add_argument("--modes", default=";".join(LATENCY_MODES), help="separated by ; (default: all)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="batchxseqxdim:real fraction, …")
    parser.add_argument("--dtypes", default="float32;bfloat16", help="separated by ;")
    parser.add_argument("--threads", default="1;2", help="separated by ;")
    parser.add_argument("--calls", type=int, default=2000, help="the most calls of each contestant")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    args = parser.parse_args(argv)
    unknown = [mode for mode in args.modes.split(";") if mode not in LATENCY_MODES]
    if unknown:
        parser.error(f"modes must be among {'; '.join(LATENCY_MODES)}, got {'; '.join(unknown)}")
    console = Console(width=max(Console().width, 190))
    before, rows = torch.get_num_threads(), list[Row]()
    try:
        for threads in map(int, args.threads.split(";")):
            torch.set_num_threads(threads)
            for text, dtype in itertools.product(args.shapes.split(","), args.dtypes.split(";")):
                shape = Shape.parse(text)
                new = [measure(mode, shape, DTYPES[dtype], threads, args.calls) for mode in args.modes.split(";")]
                console.print(table_of(new))
                rows += new
    finally:
        torch.set_num_threads(before)
    written = [asdict(row) for row in rows]
    report = {"environment": environment(last_level_cache() or 0), "rows": written}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(written, args.out.with_suffix(".png"))
    console.print(f"written to {args.out} and {args.out.with_suffix('.png')}", highlight=False)
    return rows


if __name__ == "__main__":
    main()
