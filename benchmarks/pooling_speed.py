"""Time and memory of pooling: maskpool beside sentence-transformers' own module and the usual recipes.

``python -m benchmarks.pooling_speed`` measures everything and writes ``benchmarks/results/pooling_speed.json``.

All contestants run in one process, in turn, a block of calls each; a figure is the median over rounds of a block's
time per call. Calls walk round a ring of buffers that together are several times the last-level cache, so that hardly
any meets a batch that is still in cache. Each call gets raw tensors, so ours pays for checking and preparing the
batch. The yardstick is how fast the machine reads: ``sum()`` over as many contiguous bytes as the real rows, a
contestant like the others. Pads hold finite numbers; a contestant that disagrees with ours stops the run.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TypeAlias

# Read when torch is imported: its profiler would announce every start and stop.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from rich.console import Console
from rich.table import Table
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from maskpool import build_pooling

RESULTS = Path(__file__).parent / "results" / "pooling_speed.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# How far from ours a contestant may be, relative to the largest number in the result: the recipes round more often.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
# All buffers together, in last-level caches.
TIMES_CACHE = 4.0
MIN_BUFFERS = 6
ONE_ROW_MODES = ("cls", "lasttoken")  # they read one row a sentence: reading all real rows is no yardstick
READ = "read"

Pool: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Call: TypeAlias = Callable[["Buffer"], object]


@dataclass(frozen=True)
class Shape:
    """A batch's sizes and the fraction of its tokens that is real, about."""

    batch: int
    seq: int
    dim: int
    fraction: float

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``64x512x768:0.3``."""
        sizes, _, fraction = text.partition(":")
        batch, seq, dim = map(int, sizes.split("x"))
        return cls(batch, seq, dim, float(fraction or 1))

    def __str__(self) -> str:
        return f"{self.batch}x{self.seq}x{self.dim}:{self.fraction:g}"


DEFAULT_SHAPES = "64x512x768:0.3,64x512x768:1,32x128x384:0.6"


@dataclass(frozen=True)
class Buffer:
    """One right-padded batch, and as many contiguous bytes of it as its real rows have, read as float32."""

    x: Tensor
    mask: Tensor
    as_real_rows: Tensor


@dataclass(frozen=True)
class Ring:
    """Equal batches in different memory, to be walked round."""

    shape: Shape
    buffers: list[Buffer]
    real_fraction: float
    real_bytes: int
    times_cache: float


@dataclass(frozen=True)
class Row:
    """One line of the result; times are medians over rounds, in milliseconds a call."""

    mode: str
    shape: str
    dtype: str
    direction: str
    buffers: int
    times_cache: float
    real_fraction: float
    ours_ms: float
    host_ms: float | None
    recipe_ms: float
    host_over_ours: float | None
    recipe_over_ours: float
    host_minus_ours_us: float | None
    recipe_minus_ours_us: float
    ours_gb_per_s: float | None
    read_gb_per_s: float | None
    ours_of_read: float | None
    peak_memory: dict[str, float]
    rounds_ms: dict[str, list[float]]


# ------------------------------------------------------------------------------------- contestants


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _mean_sqrt_len(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True).sqrt().to(x.dtype)


def _weighted_mean(x: Tensor, mask: Tensor) -> Tensor:
    # In float32 as everybody writes it: bfloat16 cannot count beyond 256.
    weights = (mask * torch.arange(1, mask.shape[1] + 1)).float()
    return ((x * weights.unsqueeze(2)).sum(dim=1) / weights.sum(dim=1, keepdim=True)).to(x.dtype)


def _max(x: Tensor, mask: Tensor) -> Tensor:
    # amax, because `.max(1).values`, which the host uses, also finds places and takes twice as long.
    return x.masked_fill(mask.unsqueeze(2) == 0, -torch.inf).amax(dim=1)


def _cls(x: Tensor, mask: Tensor) -> Tensor:
    return x[:, 0]


def _last_token(x: Tensor, mask: Tensor) -> Tensor:
    return x[torch.arange(x.shape[0]), mask.sum(dim=1) - 1]


def _attention(query: Tensor) -> Pool:
    def pool(x: Tensor, mask: Tensor) -> Tensor:
        scores = (x @ query.squeeze(0)).masked_fill(mask == 0, -torch.inf)
        return torch.einsum("bs,bsd->bd", scores.softmax(dim=1), x)

    return pool


RECIPES: dict[str, Pool] = {
    "mean": _mean,
    "max": _max,
    "cls": _cls,
    "lasttoken": _last_token,
    "weightedmean": _weighted_mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
}
MODES = (*RECIPES, "attention")


def contestants(mode: str, dim: int, dtype: torch.dtype) -> tuple[dict[str, Pool], list[nn.Parameter]]:
    """Ours, the host's where it has the mode, and the recipe; and the parameters, which they share."""
    ours = build_pooling(mode, embedding_dimension=dim).to(dtype)
    learned = list(ours.parameters())
    if mode == "attention":
        (query,) = learned
        nn.init.normal_(query, std=dim**-0.5)
        return {"ours": ours, "recipe": _attention(query)}, learned
    host = Pooling(dim, pooling_mode=mode)

    def pool_by_host(x: Tensor, mask: Tensor) -> Tensor:
        pooled: Tensor = host({"token_embeddings": x, "attention_mask": mask})["sentence_embedding"]
        return pooled

    return {"ours": ours, "host": pool_by_host, "recipe": RECIPES[mode]}, learned


def calls_of(pools: Mapping[str, Pool], learned: list[nn.Parameter], grad: Tensor | None) -> dict[str, Call]:
    """What one timed call does; with ``grad`` a forward and a backward, all gradients dropped afterwards."""

    def forward(pool: Pool) -> Call:
        return lambda buffer: pool(buffer.x, buffer.mask)

    def forward_backward(pool: Pool) -> Call:
        def call(buffer: Buffer) -> None:
            pool(buffer.x, buffer.mask).backward(grad)  # type: ignore[no-untyped-call]  # torch has no types for it
            buffer.x.grad = None
            for parameter in learned:
                parameter.grad = None

        return call

    return {name: (forward if grad is None else forward_backward)(pool) for name, pool in pools.items()}


# ----------------------------------------------------------------------------------------- batches


def make_ring(shape: Shape, dtype: torch.dtype, cache_bytes: int, memory_bytes: float, quick: bool) -> Ring:
    """Make enough batches to outgrow the cache, within the memory that is allowed."""
    generator = torch.Generator().manual_seed(0)
    low, high = shape.fraction * shape.seq / 2, min(shape.fraction * shape.seq * 1.5, shape.seq)
    drawn = torch.empty(shape.batch).uniform_(low, high, generator=generator).round().clamp(1, shape.seq).long()
    lengths = drawn if shape.fraction < 1 else torch.full((shape.batch,), shape.seq)
    base = torch.randn(shape.batch, shape.seq, shape.dim, generator=generator).to(dtype)
    token_bytes = base.numel() * base.itemsize
    real_bytes = int(lengths.sum()) * shape.dim * base.itemsize
    wanted = MIN_BUFFERS if quick else max(MIN_BUFFERS, math.ceil(TIMES_CACHE * cache_bytes / token_bytes))
    number = max(MIN_BUFFERS, min(wanted, int(memory_bytes // token_bytes)))
    buffers = []
    for _ in range(number):
        # Another order of the same lengths: the work is the same in every buffer.
        mine = lengths[torch.randperm(shape.batch, generator=generator)]
        mask = (torch.arange(shape.seq) < mine.unsqueeze(1)).long()
        x = base.clone()
        buffers.append(Buffer(x.requires_grad_(), mask, x.detach().view(-1).view(torch.float32)[: real_bytes // 4]))
    return Ring(shape, buffers, real_bytes / token_bytes, real_bytes, number * token_bytes / cache_bytes)


def check_agreement(pools: Mapping[str, Pool], learned: list[nn.Parameter], buffer: Buffer, grad: Tensor) -> None:
    """Stop unless all contestants give the same vectors and the same gradients.

    Raises:
        ValueError: One of them does not; the message names it.
    """
    ties_differ = buffer.x.dtype != torch.float32  # halves tie, and `max` then picks one winner where `amax` shares
    reference: list[Tensor] = []
    for name, pool in pools.items():
        pooled = pool(buffer.x, buffer.mask)
        found = [pooled.detach(), *torch.autograd.grad(pooled, [buffer.x, *learned], grad)]
        if ties_differ:
            found[1] = found[1].float().sum(dim=1)
        reference = reference or found
        for part, expected, got in zip(["vectors", "token gradient", "query gradient"], reference, found, strict=False):
            error = float((got.double() - expected.double()).abs().max() / expected.double().abs().max())
            if not error <= TOLERANCE[buffer.x.dtype]:
                raise ValueError(f"{name} and ours must agree before they are timed: {part} differ by {error:.1e}")


# ------------------------------------------------------------------------------------ measurements


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _seconds(call: Call, ring: Iterator[Buffer], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call(next(ring))
    return (time.perf_counter() - start) / number


def time_in_turn(
    calls: Mapping[str, Call], buffers: Sequence[Buffer], rounds: int, block_s: float
) -> dict[str, list[float]]:
    """Seconds a call in each round; blocks last about ``block_s`` for everyone, and their order turns."""
    ring = itertools.cycle(buffers)
    names = list(calls)
    with _no_garbage_collection():
        for name in names:  # what is done only once, such as torch's own set-up
            _seconds(calls[name], ring, 2)
        sizes = {name: min(max(3, round(block_s / _seconds(calls[name], ring, 3))), 1000) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(_seconds(calls[name], ring, sizes[name]))
    return seconds


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that ``call`` holds at once, its result included, by torch's profiler of memory."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    peak: int = max(itertools.accumulate((change for _, change in changes), initial=0))
    return peak


def _peak_memory(
    pools: Mapping[str, Pool], learned: list[nn.Parameter], buffer: Buffer, grad: Tensor | None
) -> dict[str, float]:
    """Peak of one call as a fraction of the token tensor; with ``grad`` the gradients count too."""

    def forward_backward(pool: Pool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(pool(buffer.x, buffer.mask), [buffer.x, *learned], grad)

    peaks = {}
    for name, pool in pools.items():
        call = (
            (lambda pool=pool: pool(buffer.x, buffer.mask))
            if grad is None
            else (lambda pool=pool: forward_backward(pool))
        )
        call()
        peaks[name] = peak_bytes(call) / (buffer.x.numel() * buffer.x.itemsize)
    return peaks


def measure(mode: str, ring: Ring, backward: bool, rounds: int, block_s: float) -> Row:
    """Measure one mode in one direction."""
    x = ring.buffers[0].x
    pools, learned = contestants(mode, ring.shape.dim, x.dtype)
    upstream = torch.randn(ring.shape.batch, ring.shape.dim, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    check_agreement(pools, learned, ring.buffers[0], upstream)
    grad = upstream if backward else None
    calls = calls_of(pools, learned, grad)
    yardstick = not backward and mode not in ONE_ROW_MODES
    if yardstick:
        calls[READ] = lambda buffer: buffer.as_real_rows.sum()
    with torch.set_grad_enabled(backward):
        seconds = time_in_turn(calls, ring.buffers, rounds, block_s)
        memory = _peak_memory(pools, learned, ring.buffers[0], grad)
    middle = {name: median(times) for name, times in seconds.items()}
    ours, host, recipe = middle["ours"], middle.get("host"), middle["recipe"]
    return Row(
        mode=mode,
        shape=str(ring.shape),
        dtype=str(x.dtype).removeprefix("torch."),
        direction="forward+backward" if backward else "forward",
        buffers=len(ring.buffers),
        times_cache=ring.times_cache,
        real_fraction=ring.real_fraction,
        ours_ms=ours * 1e3,
        host_ms=None if host is None else host * 1e3,
        recipe_ms=recipe * 1e3,
        host_over_ours=None if host is None else host / ours,
        recipe_over_ours=recipe / ours,
        host_minus_ours_us=None if host is None else (host - ours) * 1e6,
        recipe_minus_ours_us=(recipe - ours) * 1e6,
        ours_gb_per_s=ring.real_bytes / ours / 1e9 if yardstick else None,
        read_gb_per_s=ring.real_bytes / middle[READ] / 1e9 if yardstick else None,
        ours_of_read=middle[READ] / ours if yardstick else None,
        peak_memory=memory,
        rounds_ms={name: [round(s * 1e3, 6) for s in times] for name, times in seconds.items()},
    )


# ------------------------------------------------------------------------------ the machine, output


def last_level_cache() -> int | None:
    """Bytes of the largest cache that the kernel reports; None where it reports none."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        sizes.append(int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=None)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def environment(cache_bytes: int) -> dict[str, str | int | None]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "last_level_cache_bytes": cache_bytes,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "sentence-transformers", "maskpool")},
    }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def table_of(rows: Sequence[Row]) -> Table:
    """The rows of one shape and dtype as a table."""
    head = rows[0]
    table = Table(
        title=f"{head.shape} {head.dtype}: {head.real_fraction:.0%} real, {head.buffers} buffers, "
        f"together {head.times_cache:.2g} x the last-level cache"
    )
    for column in ("mode", "shape", "dtype", "direction"):
        table.add_column(column, no_wrap=True)
    for column in (
        *("ours ms", "host ms", "recipe ms", "host / ours", "recipe / ours", "host - ours µs", "recipe - ours µs"),
        *("ours GB/s", "read GB/s", "ours / read", "memory ours", "memory host", "memory recipe"),
    ):
        table.add_column(column, justify="right")
    for row in rows:
        memory = [_number(row.peak_memory.get(name)) for name in ("ours", "host", "recipe")]
        table.add_row(
            *(row.mode, row.shape, row.dtype, row.direction),
            *(_number(value) for value in (row.ours_ms, row.host_ms, row.recipe_ms)),
            *(_number(value) for value in (row.host_over_ours, row.recipe_over_ours)),
            *(_number(value) for value in (row.host_minus_ours_us, row.recipe_minus_ours_us)),
            *(_number(value) for value in (row.ours_gb_per_s, row.read_gb_per_s, row.ours_of_read)),
            *memory,
        )
    return table


def _modes(text: str) -> list[str]:
    modes = text.split(",")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise argparse.ArgumentTypeError(f"modes must be among {','.join(MODES)}, got {','.join(unknown)}")
    return modes


def _dtypes(text: str) -> list[torch.dtype]:
    unknown = [name for name in text.split(",") if name not in DTYPES]
    if unknown:
        raise argparse.ArgumentTypeError(f"dtypes must be among {','.join(DTYPES)}, got {','.join(unknown)}")
    return [DTYPES[name] for name in text.split(",")]


def _shapes(text: str) -> list[Shape]:
    try:
        return [Shape.parse(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"shapes must look like {DEFAULT_SHAPES}, got {text}") from None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.pooling_speed", description="Time and memory of pooling.")
    parser.add_argument("--quick", action="store_true", help="few rounds and buffers: does it run?")
    parser.add_argument("--modes", type=_modes, default=",".join(MODES), help="comma-separated (default: all)")
    parser.add_argument("--shapes", type=_shapes, default=DEFAULT_SHAPES, help="batchxseqxdim:real fraction, …")
    parser.add_argument("--dtypes", type=_dtypes, default=",".join(DTYPES), help="comma-separated (default: all)")
    parser.add_argument("--rounds", type=int, help="default 15, with --quick 3")
    parser.add_argument("--memory-gib", type=float, default=10.0, help="the most that the buffers may take")
    parser.add_argument("--cache-mib", type=float, help="last-level cache, where the kernel does not report it")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/, with --quick none)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    args = _arguments(argv)
    cache_bytes = int(args.cache_mib * 2**20) if args.cache_mib else last_level_cache()
    if cache_bytes is None:
        raise SystemExit("the kernel does not report the last-level cache: say --cache-mib")
    rounds = args.rounds or (3 if args.quick else 15)
    block_s = 0.005 if args.quick else 0.1
    out = args.out or (None if args.quick else RESULTS)
    about = environment(cache_bytes)
    console = Console(width=max(Console().width, 205))
    console.print(about)
    console.print(
        f"Medians over {rounds} rounds of blocks of about {block_s:g} s (at least 3 calls), contestants in turn, over "
        "rotating buffers. Memory: peak over one call as a fraction of the token tensor, result (and gradients) "
        "included, from torch.profiler's record of torch's CPU allocator.",
        highlight=False,
    )
    rows: list[Row] = []
    for shape, dtype in itertools.product(args.shapes, args.dtypes):
        ring = make_ring(shape, dtype, cache_bytes, args.memory_gib * 2**30, args.quick)
        found = [
            measure(mode, ring, backward, rounds, block_s)
            for backward, mode in itertools.product((False, True), args.modes)
        ]
        del ring  # before the next one is made
        console.print(table_of(found))
        rows += found
    if out is not None:
        settings = {
            "rounds": rounds,
            "block_s": block_s,
            "quick": args.quick,
            "memory": "torch.profiler, CPU allocator",
        }
        report = {"environment": about, "settings": settings, "rows": [asdict(row) for row in rows]}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        console.print(f"written to {out}", highlight=False)
    return rows


if __name__ == "__main__":
    main()
