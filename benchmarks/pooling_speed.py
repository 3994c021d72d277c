"""Benchmark the time and memory of pooling: maskpool and its peers, for every pooling, layout and dtype.

``python -m benchmarks.pooling_speed`` measures everything and writes ``benchmarks/results/pooling_speed.json`` and a
figure of the same name. The peers are sentence-transformers' pooling module (padded and flat), the usual recipe (of
attention two: the usual one, through which a NaN in a pad reaches the vector, and one that replaces pads), plain and
under ``torch.compile``, a loop over sentences, ``torch.nested`` and ``torch.segment_reduce``, if they compute the
same pooling.

All contestants run in one process, in turn, a block of calls each. A number is the median over rounds of a block's time
per call. Calls cycle through buffers that together are several times as large as the last-level cache, so hardly any
call finds its batch in the cache. Each call gets raw tensors, so maskpool's time includes checking and preparing the
batch. The reference is the machine's reading speed: ``sum()`` over as many contiguous bytes as the real rows, timed
like the other contestants. Pads hold finite numbers. If a contestant's result differs from maskpool's, the run stops.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.batches import LAYOUTS, Buffer, Ring, Shape, make_ring
from benchmarks.contestants import MODES, ONE_ROW_MODES, SELECTING_MODES, Pool, contestants
from benchmarks.speed_figures import draw
from benchmarks.timing import environment, last_level_cache, peak_bytes, time_in_turn
from maskpool.files import atomic_write

RESULTS = Path(__file__).parent / "results" / "pooling_speed.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The largest allowed difference from ours, relative to the largest number in the result; recipes round more often.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
# A parameter's gradient adds up the rounding errors of all tokens. That of the queries of multi-head attention is 4e-2
# from float64's in the bfloat16 recipe, and 3e-3 in ours.
OF_PARAMETERS = 2.0
DIRECTIONS = ("forward", "forward+backward")
READ = "read"
# The padding figure: real tokens per sentence, and padded lengths.
FIXED_LENGTH, WIDTHS = 51, (51, 102, 204, 510)

Call: TypeAlias = Callable[[Buffer], object]

DEFAULT_SHAPES = "64x512x768:0.3,32x128x384:0.6"


@dataclass(frozen=True)
class Row:
    """One row of the result; times are medians over rounds in milliseconds per call, by contestant."""

    mode: str
    layout: str
    shape: str
    dtype: str
    direction: str
    buffers: int
    times_cache: float
    real_fraction: float
    ms: dict[str, float]
    ours_of_read: float | None
    peak_memory: dict[str, float]
    rounds_ms: dict[str, list[float]]

    def ratio(self, peer: str) -> float | None:
        """Return how many times as long as ours the peer takes."""
        return self.ms[peer] / self.ms["ours"] if peer in self.ms else None

    def slower_us(self, peer: str) -> float | None:
        """Return by how many microseconds ours is slower."""
        return (self.ms["ours"] - self.ms[peer]) * 1e3 if peer in self.ms else None


def calls_of(pools: Mapping[str, Pool], learned: list[nn.Parameter], grad: Tensor | None) -> dict[str, Call]:
    """Make the timed call of each pool; with ``grad`` it runs forward and backward, then drops all gradients."""

    def forward_backward(pool: Pool) -> Call:
        def call(buffer: Buffer) -> None:
            pool(buffer).backward(grad)  # type: ignore[no-untyped-call]  # torch has no types for it
            buffer.x.grad = None
            for parameter in learned:
                parameter.grad = None

        return call

    return {name: pool if grad is None else forward_backward(pool) for name, pool in pools.items()}


def check_agreement(
    mode: str, pools: Mapping[str, Pool], learned: list[nn.Parameter], buffer: Buffer, grad: Tensor | None
) -> None:
    """Check that all contestants give the same vectors and, with ``grad``, the same gradients.

    Raises:
        ValueError: A contestant's result differs; the message names the contestant.
    """
    reference: list[Tensor] = []
    for name, pool in pools.items():
        pooled = pool(buffer)
        results = [pooled.detach()]
        if grad is not None:
            results += torch.autograd.grad(pooled, [buffer.x, *learned], grad)
            if mode in SELECTING_MODES:
                results[1] = results[1].float().flatten(0, -2).sum(dim=0)
        reference = reference or results
        parts = ["vectors", "token gradient", *(f"gradient of parameter {i}" for i in range(len(learned)))]
        for part, expected, got in zip(parts, reference, results, strict=False):
            error = float((got.double() - expected.double()).abs().max() / expected.double().abs().max())
            allowed = TOLERANCE[buffer.x.dtype] * (OF_PARAMETERS if part.startswith("gradient of") else 1.0)
            if not error <= allowed:
                raise ValueError(
                    f"{mode}: {name} and ours must agree before they are timed: {part} differ by {error:.1e}"
                )


def _peak_memory(
    pools: Mapping[str, Pool], learned: list[nn.Parameter], buffer: Buffer, grad: Tensor | None
) -> dict[str, float]:
    """Measure the peak memory of one call as a fraction of the token tensor, with ``grad`` including gradients."""

    def call(pool: Pool) -> object:
        pooled = pool(buffer)
        return pooled if grad is None else torch.autograd.grad(pooled, [buffer.x, *learned], grad)

    peaks = {}
    for name, pool in pools.items():
        call(pool)
        peaks[name] = peak_bytes(partial(call, pool)) / (buffer.x.numel() * buffer.x.itemsize)
    return peaks


def measure(mode: str, ring: Ring, direction: str, rounds: int, block_s: float, compiled: bool = False) -> Row:
    """Measure one mode in one direction."""
    buffer, backward = ring.buffers[0], direction != "forward"
    pools, learned = contestants(mode, ring.layout, ring.shape.dim, buffer.x.dtype, compiled and not backward)
    with torch.set_grad_enabled(backward):
        width = pools["ours"](buffer).shape[1]
        upstream = torch.randn(ring.shape.batch, width, generator=torch.Generator().manual_seed(1)).to(buffer.x.dtype)
        grad = upstream if backward else None
        check_agreement(mode, pools, learned, buffer, grad)
        calls = calls_of(pools, learned, grad)
        yardstick = not backward and mode not in ONE_ROW_MODES
        if yardstick:
            calls[READ] = lambda buffer: buffer.as_real_rows.sum()
        seconds = time_in_turn(calls, ring.buffers, rounds, block_s)
        memory = _peak_memory(pools, learned, buffer, grad)
    middle = {name: median(times) * 1e3 for name, times in seconds.items()}
    return Row(
        mode=mode,
        layout=ring.layout,
        shape=str(ring.shape),
        dtype=str(buffer.x.dtype).removeprefix("torch."),
        direction=direction,
        buffers=len(ring.buffers),
        times_cache=ring.times_cache,
        real_fraction=ring.real_fraction,
        ms=middle,
        ours_of_read=middle[READ] / middle["ours"] if yardstick else None,
        peak_memory=memory,
        rounds_ms={name: [round(s * 1e3, 6) for s in times] for name, times in seconds.items()},
    )


def measure_padding(
    mode: str, cache_bytes: int, memory_bytes: float, quick: bool, rounds: int, block_s: float
) -> list[Row]:
    """Measure the same real tokens at several padded lengths."""
    rows = []
    for width in WIDTHS:
        shape = Shape(64, width, 768, FIXED_LENGTH / width) if not quick else Shape(4, width, 16, FIXED_LENGTH / width)
        lengths = torch.full((shape.batch,), FIXED_LENGTH)
        ring = make_ring(shape, "padded", torch.float32, cache_bytes, memory_bytes, quick, lengths)
        rows.append(measure(mode, ring, "forward", rounds, block_s))
    return rows


# ------------------------------------------------------------------------------------------ output


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def table_of(rows: Sequence[Row]) -> Table:
    """Make a table of the rows of one shape, layout, dtype and direction."""
    head = rows[0]
    table = Table(
        title=f"{head.shape} {head.layout} {head.dtype} {head.direction}: {head.real_fraction:.0%} real, "
        f"{head.buffers} buffers, together {head.times_cache:.2g} x the last-level cache"
    )
    peers = [name for name in dict.fromkeys(itertools.chain(*(row.ms for row in rows))) if name not in ("ours", READ)]
    table.add_column("mode", no_wrap=True)
    for column in ("ours ms", *peers, *(f"{peer} / ours" for peer in peers), "read / ours", "memory"):
        table.add_column(column, justify="right")
    for row in rows:
        figures = [row.ms["ours"], *(row.ms.get(peer) for peer in peers), *(row.ratio(peer) for peer in peers)]
        table.add_row(row.mode, *map(_number, [*figures, row.ours_of_read, row.peak_memory["ours"]]))
    return table


def _among(known: Sequence[str], what: str) -> Callable[[str], list[str]]:
    # Modes have commas in their names.
    def parse(text: str) -> list[str]:
        chosen = text.split(";") if ";" in text else [text] if text in known else text.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{what} must be among {'; '.join(known)}, got {'; '.join(unknown)}")
        return chosen

    return parse


def _shapes(text: str) -> list[Shape]:
    try:
        return [Shape.parse(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"shapes must look like {DEFAULT_SHAPES}, got {text}") from None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.pooling_speed", description="Time and memory of pooling.")
    parser.add_argument("--quick", action="store_true", help="few rounds and buffers, to check that it runs")
    for name, known in (("modes", MODES), ("layouts", LAYOUTS), ("dtypes", tuple(DTYPES)), ("directions", DIRECTIONS)):
        parser.add_argument(
            f"--{name}", type=_among(known, name), default=list(known), help="separated by ; (default: all)"
        )
    parser.add_argument("--shapes", type=_shapes, default=DEFAULT_SHAPES, help="batchxseqxdim:real fraction, …")
    parser.add_argument("--rounds", type=int, help="default 7, with --quick 3")
    parser.add_argument("--no-compile", action="store_true", help="skip the compiled recipes")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="the most memory for the buffers")
    parser.add_argument("--cache-mib", type=float, help="last-level cache, if the kernel does not report it")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/, with --quick none)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    args = _arguments(argv)
    cache_bytes = int(args.cache_mib * 2**20) if args.cache_mib else last_level_cache()
    if cache_bytes is None:
        raise SystemExit("the kernel does not report the last-level cache: pass --cache-mib")
    rounds = args.rounds or (3 if args.quick else 7)
    block_s = 0.005 if args.quick else 0.1
    memory_bytes = args.memory_gib * 2**30
    out = args.out or (None if args.quick else RESULTS)
    about = environment(cache_bytes)
    console = Console(width=max(Console().width, 205))
    console.print(about)
    console.print(
        f"Medians over {rounds} rounds of blocks of about {block_s:g} s (at least 3 calls), contestants in turn, over "
        "rotating buffers. Memory: peak over one call of ours as a fraction of the token tensor, result (and "
        "gradients) included, from torch.profiler's record of torch's CPU allocator.",
        highlight=False,
    )
    padding = measure_padding("mean", cache_bytes, memory_bytes, args.quick, rounds, block_s)
    console.print(table_of(padding))
    settings = {"rounds": rounds, "block_s": block_s, "quick": args.quick, "memory": "torch.profiler, CPU allocator"}
    report = {"environment": about, "settings": settings, "padding": [asdict(row) for row in padding]}
    rows: list[Row] = []
    for shape, layout, dtype in itertools.product(args.shapes, args.layouts, args.dtypes):
        ring = make_ring(shape, layout, DTYPES[dtype], cache_bytes, memory_bytes, args.quick)
        # Compiling takes minutes, so each mode is compiled only for the first shape in float32.
        compiled = not args.no_compile and not args.quick and (shape, dtype) == (args.shapes[0], "float32")
        # torch.nested's reductions have no backward, so the backward is timed only for the padded layout.
        for direction in args.directions if layout == "padded" else [DIRECTIONS[0]]:
            new_rows = [measure(mode, ring, direction, rounds, block_s, compiled) for mode in args.modes]
            console.print(table_of(new_rows))
            rows += new_rows
        del ring  # frees its memory before the next ring is made
        if out is not None:  # after each ring, so an interrupted run keeps its measurements
            write({**report, "rows": [asdict(row) for row in rows]}, out)
    if out is not None:
        console.print(f"written to {out} and {out.with_suffix('.png')}", highlight=False)
    return rows


def write(report: dict[str, Any], out: Path) -> None:
    """Write the JSON and draw its figure next to it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(report, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
