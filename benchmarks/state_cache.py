"""Benchmark the cache of token states: its size, its reading speed, and the time of an epoch with and without it.

``python -m benchmarks.state_cache`` caches the token states of BANKING77's training texts (from
``benchmarks/studies/data`` if they are there, else of the default corpus) with the default model, once in float16 and
once in float32, and writes ``benchmarks/results/state_cache.json``.

*Size*: bytes of the file over tokens × dim × bytes per number. *Reading*: `TokenStates.batch` against ``numpy.memmap``
on the same file, both for 64 random texts at a time and both up to a float32 tensor with the same numbers. The plain
read has two forms, concatenated slices and one index of all rows, and the faster one counts. From the float16 file both
convert to float32; from the float32 file neither does. The file was just written and checked, so it is in the page
cache, and disks are not measured. An *epoch* is all texts once, in a new random order.

*Training*: one epoch of an attention head under a linear classifier, from the cache, against the same with the frozen
encoder run on every batch. The encoder gets token ids, so its time does not include tokenising, and it runs without
gradients. It is timed twice: on the same random batches, padded to their longest text, and on batches of texts of
similar length, which pad least; the faster one counts.

All contestants run in one process, in turn, with another one first in each round; numbers are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.timing import environment, last_level_cache, time_in_turn
from maskpool import TokenBatch
from maskpool.bench.design.corpora import Corpus, docstrings, read_file
from maskpool.encoder import BUNDLED, Encoder, TokenStates, cache_states
from maskpool.errors import MaskpoolError
from maskpool.files import atomic_write
from maskpool.nn import AttentionPooling
from maskpool.training import train

DATA = Path(__file__).parent / "studies" / "data" / "banking77" / "train.csv"
RESULTS = Path(__file__).parent / "results" / "state_cache.json"
BATCH = 64
OURS, SLICES, ROWS = "TokenStates.batch", "memmap, slices", "memmap, rows"
CACHED, SHUFFLED, BY_LENGTH = "cache", "encoder, random batches", "encoder, batches by length"
MOST_SIZE, LEAST_READ, LEAST_GAIN = 1.02, 0.7, 20.0
_QUICK_TEXTS = 400


def readers(states: TokenStates, path: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """Make the functions that read the token states of some texts as one float32 tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        first = json.loads(file.read(length))["values"]["data_offsets"][0]
    dtype = np.dtype(str(states.values.dtype).removeprefix("torch."))
    plain = np.memmap(path, dtype, "r", 8 + length + first, tuple(states.values.shape))
    offsets = states.offsets.numpy()

    def slices(texts: Tensor) -> Tensor:
        parts = [plain[offsets[text] : offsets[text + 1]] for text in texts.tolist()]
        return torch.from_numpy(np.concatenate(parts)).float()

    def rows(texts: Tensor) -> Tensor:
        wanted = np.concatenate([np.arange(offsets[text], offsets[text + 1]) for text in texts.tolist()])
        return torch.from_numpy(plain[wanted]).float()  # a memmap's rows are a copy

    return {OURS: lambda texts: states.batch(texts).values, SLICES: slices, ROWS: rows}


def check_agreement(calls: Mapping[str, Callable[[Tensor], Tensor]], texts: Tensor) -> None:
    """Check that all readers read the same numbers before they are timed.

    Raises:
        ValueError: A reader's numbers or dtype differ.
    """
    expected = calls[OURS](texts)
    for name, call in calls.items():
        values = call(texts)
        if values.dtype != torch.float32 or not torch.equal(values, expected):
            raise ValueError(f"{name} and {OURS} must agree before they are timed")


def epoch(texts: int, seed: int) -> list[Tensor]:
    """Split all texts into random batches."""
    order = torch.randperm(texts, generator=torch.Generator().manual_seed(seed))
    return list(torch.split(order, BATCH))


def measure_reading(states: TokenStates, path: Path, rounds: int, block_s: float) -> dict[str, Any]:
    """Time the readers, a batch at a time and an epoch at a time."""
    calls = readers(states, path)
    epochs = [epoch(len(states), seed) for seed in range(8)]
    batches = [batch for batches in epochs for batch in batches if len(batch) == min(BATCH, len(states))]
    for batch in batches[:50]:
        check_agreement(calls, batch)

    def all_of(call: Callable[[Tensor], Tensor]) -> Callable[[list[Tensor]], None]:
        def read(some: list[Tensor]) -> None:
            for batch in some:
                call(batch)

        return read

    reading: dict[str, Any] = {}
    for what, seconds in (
        ("batch", time_in_turn(calls, batches, rounds, block_s)),
        ("epoch", time_in_turn({name: all_of(call) for name, call in calls.items()}, epochs, rounds, block_s)),
    ):
        medians = {name: median(times) for name, times in seconds.items()}
        ratio = min(medians[SLICES], medians[ROWS]) / medians[OURS]
        reading[what] = {"seconds": medians, "rounds_s": seconds, "speed_of_plain_read": ratio}
    return reading


def measure_training(states: TokenStates, encoder: Encoder, corpus: Corpus, rounds: int) -> dict[str, Any]:
    """Time an epoch of an attention head, from the cache and with the encoder."""
    ids, _ = encoder.tokenize(corpus.texts)
    labels = torch.from_numpy(np.unique(corpus.labels, return_inverse=True)[1])
    by_length = list(torch.split(torch.tensor(sorted(range(len(ids)), key=lambda text: len(ids[text]))), BATCH))

    def encoded(texts: Tensor) -> TokenBatch:
        with torch.no_grad():  # states of inference mode could not be saved for the head's backward
            inputs, mask = encoder.pad([ids[text] for text in texts.tolist()])
            token_states = encoder.model(input_ids=inputs, attention_mask=mask).last_hidden_state
        return TokenBatch.from_padded(token_states, mask)

    def train_head(read: Callable[[Tensor], TokenBatch], batches: Sequence[Tensor]) -> None:
        head, classifier = AttentionPooling(states.dimension), nn.Linear(states.dimension, int(labels.max()) + 1)
        module = nn.ModuleList([head, classifier])

        def loss(texts: Tensor) -> Tensor:
            return nn.functional.cross_entropy(classifier(head(read(texts))), labels[texts])

        train(module, loss, batches, torch.optim.Adam(module.parameters(), lr=1e-2))

    seconds: dict[str, list[float]] = {CACHED: [], SHUFFLED: [], BY_LENGTH: []}
    names = list(seconds)
    for turn in range(rounds):
        shuffled = epoch(len(ids), turn)
        sources: dict[str, tuple[Callable[[Tensor], TokenBatch], Sequence[Tensor]]] = {
            CACHED: (states.batch, shuffled),
            SHUFFLED: (encoded, shuffled),
            BY_LENGTH: (encoded, by_length),
        }
        for name in names[turn % 3 :] + names[: turn % 3]:
            torch.manual_seed(turn)
            began = time.perf_counter()
            train_head(*sources[name])
            seconds[name].append(time.perf_counter() - began)
    medians = {name: median(times) for name, times in seconds.items()}
    gain = min(medians[SHUFFLED], medians[BY_LENGTH]) / medians[CACHED]
    return {"epoch_s": medians, "rounds_s": seconds, "times_as_fast": gain}


def measure_file(
    encoder: Encoder, corpus: Corpus, path: Path, dtype: str, rounds: int, block_s: float
) -> tuple[TokenStates, dict[str, Any]]:
    """Make a cache and measure its creation, size, opening and reading."""
    began = time.perf_counter()
    states = cache_states(encoder, corpus.texts, path, dtype=dtype)
    made = time.perf_counter() - began
    opening = []
    for _ in range(rounds):
        began = time.perf_counter()
        TokenStates.open(path)
        opening.append(time.perf_counter() - began)
    size = path.stat().st_size
    return states, {
        "made_s": made,
        "bytes": size,
        "tokens": len(states.values),
        "size_ratio": size / (states.values.numel() * states.values.itemsize),
        "opened_s": median(opening),
        "checked_gb_a_second": size / 1e9 / median(opening),
        "reading": measure_reading(states, path, rounds, block_s),
    }


def compare(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the measurements with the bars."""
    files = measured["files"].values()
    size = max(file["size_ratio"] for file in files)
    read = min(timed["speed_of_plain_read"] for file in files for timed in file["reading"].values())
    gain = measured["training"]["times_as_fast"]
    return {
        "size_ratio": {"found": size, "at_most": MOST_SIZE, "reached": size <= MOST_SIZE},
        "speed_of_plain_read": {"found": read, "at_least": LEAST_READ, "reached": read >= LEAST_READ},
        "epoch_times_as_fast": {"found": gain, "at_least": LEAST_GAIN, "reached": gain >= LEAST_GAIN},
    }


def read_corpus(limit: int | None) -> Corpus:
    """Read BANKING77's training texts if they are there, else the default corpus; with ``limit`` a sample."""
    corpus = read_file(DATA, "text", "category") if DATA.is_file() else docstrings()
    return corpus if limit is None else corpus.sample(limit, seed=0)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.state_cache", description="The cache of token states.")
    parser.add_argument("--quick", action="store_true", help="few texts and short blocks, to check that it runs")
    parser.add_argument("--model", default=BUNDLED, help=f"name or folder (default: {BUNDLED})")
    parser.add_argument("--rounds", type=int, help="of reading, default 9, with --quick 2; a third as many of training")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/, with --quick none)")
    args = parser.parse_args(argv)
    out = args.out or (None if args.quick else RESULTS)
    rounds, block_s = args.rounds or (2 if args.quick else 9), 0.01 if args.quick else 0.3
    try:
        corpus, encoder = read_corpus(_QUICK_TEXTS if args.quick else None), Encoder.load(args.model)
    except MaskpoolError as error:
        raise SystemExit(f"state_cache: {error}") from None
    measured: dict[str, Any] = {
        "environment": environment(last_level_cache() or 0)
        | {package: version(package) for package in ("transformers", "numpy", "safetensors")},
        "model": encoder.identity(),
        "corpus": {"name": corpus.name, "texts": len(corpus.texts), "sha256": corpus.sha256},
        "batch": BATCH,
        "rounds": rounds,
        "files": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "float16"):  # training reads the last file
            path = Path(folder, dtype)
            states, measured["files"][dtype] = measure_file(encoder, corpus, path, dtype, rounds, block_s)
        measured["training"] = measure_training(states, encoder, corpus, max(1, rounds // 3))
    report = measured | {"compared": compare(measured)}
    console = Console()
    console.print(report["environment"])
    for dtype, file in report["files"].items():
        plain = {what: f"{timed['speed_of_plain_read']:.2f}" for what, timed in file["reading"].items()}
        console.print(f"{dtype}: size × {file['size_ratio']:.4f}, of a plain read's speed {plain}", highlight=False)
        console.print(f"{dtype}: opened at {file['checked_gb_a_second']:.2f} GB/s", highlight=False)
    console.print("seconds an epoch:", report["training"]["epoch_s"], highlight=False)
    console.print(report["compared"])
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        console.print(f"written to {out}", highlight=False)
    return report


if __name__ == "__main__":
    main()
