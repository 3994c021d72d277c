"""Measure the padding census: build each architecture, probe it, and write the results.

``python -m benchmarks.census`` builds every text architecture that ``AutoModel`` knows, tiny and with random weights,
and runs the audit's probes of encoders (`maskpool.audit.encoder_probes`) on it: one process per architecture, with
a time limit. It writes ``benchmarks/results/census.json`` (all numbers), ``benchmarks/census.md`` (the table) and
``maskpool/audit/census/census.json`` (what the audit and the harness read). An interrupted run
resumes where it stopped.

``--only bert,llama`` measures and prints only these. ``--compare FILE`` lists the rows whose verdict differs in FILE, a
run with another ``--seed``.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import socket
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers reads it

import torch
import transformers
from rich.console import Console
from rich.progress import track

from benchmarks.census.models import (
    NotAttemptedError,
    Variant,
    build,
    every_variant,
    lengths_of,
    limits_of,
    pad_of,
    words_of,
)
from benchmarks.census.table import counts, markdown, row_of, short
from maskpool.audit.census import switches
from maskpool.audit.encoder_probes import Text, Trial, find_cause, judge, kind_of, probe
from maskpool.files import atomic_write
from maskpool.tolerances import CLEAN, LEAK
from maskpool.types import SIDES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "census.json"
TABLE = ROOT / "benchmarks" / "census.md"
SHIPPED = ROOT / "maskpool" / "audit" / "census" / "census.json"
SECONDS = 60
_MEMORY = 6 << 30


def measure(variant: Variant, seed: int) -> dict[str, Any]:
    """Measure one architecture and return its row: numbers, verdict and causes."""
    try:
        model = build(variant, seed)
    except NotAttemptedError as error:
        return {"status": "not attempted", "reason": str(error)}
    config, words, pad_id, limits = model.config, words_of(model.config), pad_of(model.config), limits_of(model.config)
    default = str(getattr(config, "_attn_implementation", "eager"))
    trials: list[tuple[Trial, Text]] = []
    for attention in dict.fromkeys((default, "eager")):
        if attention != default:
            model.set_attn_implementation(attention)
        for length, pads in lengths_of(limits):
            generator = torch.Generator().manual_seed(seed * 1000 + length)
            text = Text.drawn(words, length, pads, generator)
            trials.append((_rounded(probe(model, text, pad_id, attention)), text))
    if any(trial.single["batch size"] is None for trial, _ in trials):
        return {"status": "failed", "reason": "its states are NaN or infinite, padded or not"}
    judgement = judge([trial for trial, _ in trials], max(limits.values(), default=0))
    causes = {}
    for side in SIDES:
        leaking = [(t, text) for t, text in trials if kind_of(t, side) == getattr(judgement, side) != "clean"]
        if leaking:
            trial, text = leaking[0]
            if trial.attention != str(getattr(config, "_attn_implementation", "eager")):
                model.set_attn_implementation(trial.attention)
            cause = find_cause(model, text, pad_id, side)
            causes[side] = {"cause": cause.cause, "evidence": cause.evidence} if cause else None
    return {
        "status": "measured",
        "class": type(model).__name__,
        "weights": sum(weight.numel() for weight in model.parameters()),
        "model_type": config.model_type,
        "switches": switches(config),
        "limits": limits,
        "pad_id": pad_id,
        "verdict": judgement.verdict,
        "sizes": _worst([trial for trial, _ in trials]),
        **asdict(judgement),
        "causes": causes,
        "trials": [asdict(trial) for trial, _ in trials],
    }


def _rounded(trial: Trial) -> Trial:
    """Round all numbers to three digits, which are kept and judged."""

    def cut(sizes: Mapping[str, float | None]) -> dict[str, float | None]:
        return {name: None if size is None else float(f"{size:.2e}") for name, size in sizes.items()}

    return replace(trial, single=cut(trial.single), double=cut(trial.double))


def _worst(trials: Sequence[Trial]) -> dict[str, float | None]:
    """Return the largest difference of each probe, in float64 if measured; None if a trial gave none."""
    worst: dict[str, float | None] = {}
    longest = max(trials, key=lambda trial: len(trial.single))
    for name in longest.single:
        sizes = [trial.double.get(name, trial.single.get(name)) for trial in trials if name in trial.single]
        failed = "positions" in name and len(sizes) < len(trials)
        if not failed:
            worst[name] = None if None in sizes else max(size for size in sizes if size is not None)
    return worst


def _refuse_network(*_: Any) -> None:
    raise ConnectionError("the network is not available")


def _in_process(variant: Variant, seed: int, answers: Connection) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    socket.socket.connect = _refuse_network  # type: ignore[method-assign]  # no downloads
    try:
        row = measure(variant, seed)
    except Exception as error:  # models raise anything; the row says what
        installed = f"{Path(transformers.__file__).parent.parent}/"  # a private path
        lines = str(error).replace(installed, "").strip().splitlines() or [""]
        row = {"status": "failed", "reason": f"{type(error).__name__}: {lines[0][:200]}"}
    answers.send(row)


def run_apart(variant: Variant, seed: int, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure in a separate process, which may hang or die."""
    context = multiprocessing.get_context("fork")  # transformers is loaded once
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(variant, seed, theirs), daemon=True)
    begun = time.monotonic()
    process.start()
    theirs.close()
    row: dict[str, Any] = {"status": "failed", "reason": f"no answer within {seconds:.0f} s"}
    try:
        if ours.poll(seconds):
            row = ours.recv()
    except EOFError:
        process.join()
        row = {"status": "failed", "reason": f"its process died (exit code {process.exitcode})"}
    process.kill()
    process.join()
    named = {"architecture": variant.architecture, "variant": variant.name, "settings": dict(variant.settings)}
    return {**named, **row, "seconds": round(time.monotonic() - begun, 1)}


class Rows:
    """The rows of a run, appended to a file as they are measured, from which an interrupted run resumes.

    Args:
        path: The file; its first line identifies the run.
        run: Versions, seed and code of the run.

    Raises:
        SystemExit: The file belongs to another run.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        first, *others = [json.loads(line) for line in lines[:-1]] or [run]  # drop a line that was cut off
        if first != run:
            raise SystemExit(f"census: {path} holds another run, {first}: remove it, or choose another --out")
        self.by_key = {_key(row): row for row in others}
        _write(path, "".join(json.dumps(line) + "\n" for line in (run, *others)))

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.by_key[_key(row)] = row


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["architecture"], row["variant"]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def disagreements(results: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """List where two runs disagree: in verdicts, in the status of rows, or in what the harness reads."""
    other_rows = {_key(row): row for row in others["rows"]}
    lines = []
    for row in results["rows"]:
        other = other_rows.get(_key(row), {})
        for name in ("status", "verdict", "short", "appends"):
            if row.get(name) != other.get(name):
                lines.append(f"{' '.join(_key(row)).strip()}, {name}: {row.get(name)} / {other.get(name)}")
    return lines


def chosen(only: str | None) -> list[Variant]:
    """Return the variants to measure.

    Args:
        only: Architectures, or variants such as ``llama (yarn)``, separated by commas; None takes all.

    Raises:
        SystemExit: Some are unknown.
    """
    every = every_variant()
    if only is None:
        return list(every)
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = {variant.key for variant in every}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        near = {name: difflib.get_close_matches(name, known, 3) for name in unknown}
        hints = "; ".join(f"{name!r}" + (f" (near: {', '.join(near[name])})" if near[name] else "") for name in unknown)
        raise SystemExit(
            f"census: --only must name architectures of transformers {transformers.__version__}, separated by commas, "
            f"such as bert,llama; unknown: {hints or 'an empty list'}"
        )
    return [variant for variant in every if variant.key in names or variant.architecture in names]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write or print."""
    parser = argparse.ArgumentParser(prog="benchmarks.census", description="The padding census of transformers.")
    parser.add_argument("--only", help="architectures, separated by commas; printed, not written (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and texts (default 0)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"limit per architecture (default {SECONDS})")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="JSON file; by default also the table and the shipped file"
    )
    parser.add_argument("--compare", type=Path, help="measure nothing: list where --out and this run disagree")
    args = parser.parse_args(argv)
    if args.compare:
        _compare(args.out, args.compare)
        return
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers does not type it
    if args.seed and args.out == RESULTS and not args.only:
        raise SystemExit("census: --out must name another file for another --seed: the committed results are of seed 0")
    variants, console = chosen(args.only), Console(stderr=True)
    if args.only:
        for variant in track(variants, console=console):
            row = run_apart(variant, args.seed, args.seconds)
            print(f"{variant.key}: {row.get('verdict') or row['reason']}")
            if row["status"] == "measured":
                print(f"  {row_of(row).advice}")
                print("\n".join(f"  {name}: {size}" for name, size in row["sizes"].items()))
        return
    code = sorted([*SHIPPED.parents[1].rglob("*.py"), *Path(__file__).parent.glob("*.py")])
    identity = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "seed": args.seed,
        "seconds": args.seconds,
        "code_sha256": hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest(),
    }
    rows_path = args.out.with_suffix(".rows.jsonl")
    rows = Rows(rows_path, identity)
    for variant in track(variants, console=console):
        if (variant.architecture, variant.name) not in rows.by_key:
            rows.add(run_apart(variant, args.seed, args.seconds))
    results = {
        "command": f"python -m benchmarks.census --seed {args.seed} --seconds {args.seconds:g}",
        **identity,
        "python": platform.python_version(),
        "bounds": {"clean": CLEAN, "leak": LEAK},
        "rows": list(rows.by_key.values()),
    }
    minutes = sum(row["seconds"] for row in results["rows"]) / 60
    _write(args.out, json.dumps(results, indent=None).replace('{"architecture"', '\n{"architecture"') + "\n")
    if args.out == RESULTS:
        _write(TABLE, markdown(results, minutes, CLEAN))
        _write(SHIPPED, json.dumps(short(results)).replace('{"architecture"', '\n{"architecture"') + "\n")
    rows_path.unlink()
    print(f"{counts(results)}\n\n{minutes:.1f} minutes in all; written to {args.out}")


def _compare(path: Path, other_path: Path) -> None:
    runs = []
    for file in (path, other_path):
        try:
            runs.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise SystemExit(f"census: --compare needs two files of results, {file} cannot be read: {error}") from None
    lines = disagreements(*runs)
    print("\n".join(lines) or "nothing differs")
    raise SystemExit(1 if lines else 0)
