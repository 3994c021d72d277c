"""Plant random bugs in the kernels, masks and poolings, and list those that no core test finds.

``python -m benchmarks.mutation --sample 120 --seed 0`` plants the bugs with cosmic-ray in a clone of the last commit.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUTATED = ["maskpool/kernels", "maskpool/masks.py", "maskpool/poolings"]
# Tests that find most bugs come first, because a mutant's run ends at the first failure; tests that compile come last.
TESTS = """tests/laws/test_4_oracle.py tests/laws/test_9_refusals.py tests/test_masks.py tests/test_inputs.py
    tests/test_build.py tests/test_layers.py tests/test_token_batch.py tests/test_token_weights.py tests/test_learned.py
    tests/test_attention.py tests/test_shapes.py tests/test_parity.py tests/laws
    maskpool/masks.py maskpool/poolings"""
# Plain asserts, because compiled tests are not kept and each run would rewrite all of them.
COMMAND = [sys.executable, "-m", "pytest", "-x", "-n0", "-pno:cacheprovider", "--assert=plain", *TESTS.split()]

Span = tuple[tuple[int, int], tuple[int, int]]


def _unobservable(source: str) -> list[Span]:
    """Find the code whose mutants tests cannot see: annotations, type-checking code, and messages of errors."""
    nodes: list[ast.expr | ast.stmt | None] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(decorator_list=[ast.Name(id="overload") as overload]):
                nodes += [overload, node]
            case ast.FunctionDef():
                nodes.append(node.returns)
            case ast.arg() | ast.AnnAssign():
                nodes.append(node.annotation)
            case ast.Raise() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
                nodes.append(node)
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)) for node in nodes if node
    ]


def keep_sample(database: sqlite3.Connection, folder: Path, size: int, seed: int) -> None:
    """Delete all but a seeded sample of the mutants, at most one per place, because one operator has eleven mutants."""
    columns = "job_id, module_path, start_pos_row, start_pos_col, operator_name, operator_args, occurrence"
    jobs = database.execute(f"SELECT {columns} FROM mutation_specs ORDER BY 2, 3, 4, 5, 6, 7").fetchall()
    random.Random(seed).shuffle(jobs)
    places = {}
    for path in sorted({job[1] for job in jobs}):
        source = (folder / path).read_text(encoding="utf-8")
        lines, spans = source.splitlines(), _unobservable(source)
        for job, _, row, column, *_ in (job for job in jobs if job[1] == path):
            separator = lines[row - 1].startswith("*,", column)  # of keyword-only arguments, taken for a product
            if not separator and not any(start <= (row, column) < end for start, end in spans):
                places[path, row, column] = job
    kept = set(random.Random(seed).sample(list(places.values()), min(size, len(places))))
    for table in ("mutation_specs", "work_items"):
        database.executemany(f"DELETE FROM {table} WHERE job_id = ?", [job[:1] for job in jobs if job[0] not in kept])
    database.commit()
    print(f"{len(kept)} mutants, at as many of {len(places)} places", flush=True)


def report(database: sqlite3.Connection) -> str:
    """Return the survivors, and how many mutants were tested; a mutant without a test's outcome was not."""
    (planted,) = database.execute("SELECT count(*) FROM work_items").fetchone()
    results = database.execute(
        "SELECT test_outcome, output IS 'timeout', diff FROM work_results WHERE test_outcome IN ('SURVIVED', 'KILLED')"
    ).fetchall()
    survivors = [diff for outcome, _, diff in results if outcome == "SURVIVED"]
    timeouts = sum(timed_out for _, timed_out, _ in results)
    counts = (
        f"{len(results)} of {planted} tested, {len(survivors)} survived; {timeouts} of the others ran into the timeout"
    )
    return "\n\n".join([*survivors, counts])


def main() -> None:
    """Clone the repository, plant and test the mutants, and print the survivors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=120, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="which mutants")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        start = time.perf_counter()
        subprocess.run(COMMAND, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        timeout = 3 * (time.perf_counter() - start)
        (folder / "mutation.toml").write_text(
            f"[cosmic-ray]\nmodule-path = {json.dumps(MUTATED)}\ntimeout = {timeout}\nexcluded-modules = []\n"
            f'test-command = {json.dumps(shlex.join(COMMAND))}\ndistributor.name = "local"\n'
        )
        subprocess.run(["cosmic-ray", "init", "mutation.toml", "mutation.sqlite"], cwd=folder, check=True)
        database = sqlite3.connect(folder / "mutation.sqlite")
        keep_sample(database, folder, arguments.sample, arguments.seed)
        status = 0
        with contextlib.suppress(KeyboardInterrupt):  # an interrupted run reports the finished mutants
            status = subprocess.run(["cosmic-ray", "exec", "mutation.toml", "mutation.sqlite"], cwd=folder).returncode
        print(report(database))
    if status:
        raise SystemExit(f"cosmic-ray failed with exit status {status}: not every mutant was tested")


if __name__ == "__main__":
    main()
