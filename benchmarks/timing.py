"""Shared tools of the benchmarks: timing contestants in turn, and the peak memory of a call."""

from __future__ import annotations

import gc
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

# torch reads it when it is imported; without it the profiler would print every start and stop.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch.profiler import ProfilerActivity, profile

Item = TypeVar("Item")


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keep Python from collecting garbage in the block."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _seconds(call: Callable[[Item], object], ring: Iterator[Item], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call(next(ring))
    return (time.perf_counter() - start) / number


def time_in_turn(
    calls: Mapping[str, Callable[[Item], object]], buffers: Sequence[Item], rounds: int, block_s: float
) -> dict[str, list[float]]:
    """Time calls in blocks of about ``block_s`` seconds, whose order rotates; return seconds per call in each round."""
    ring = itertools.cycle(buffers)
    names = list(calls)
    with without_garbage_collection():
        for name in names:  # warm up, because torch sets itself up in the first call
            _seconds(calls[name], ring, 2)
        sizes = {name: min(max(3, round(block_s / _seconds(calls[name], ring, 3))), 1000) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(_seconds(calls[name], ring, sizes[name]))
    return seconds


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the peak bytes of ``call``, including its result, from torch's memory profiler."""
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


def last_level_cache() -> int | None:
    """Return the bytes of the largest cache that the kernel reports, or None if it reports none."""
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
    """Return the machine and the versions that the numbers depend on."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "last_level_cache_bytes": cache_bytes,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "sentence-transformers", "maskpool")},
    }
