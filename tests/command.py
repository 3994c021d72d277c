"""Run the command in this process or another, and compare its outputs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pytest

from maskpool import cli
from maskpool.bench.design.study import Study

REPLICATES, SEEDS = 3, 2


@dataclass(frozen=True)
class Ran:
    """Hold the exit code and the output of a finished command."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Ran:
    """Run the command in this process and return its exit code and output."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["maskpool", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def in_a_process(*command: str) -> Ran:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return Ran(finished.returncode, finished.stdout, finished.stderr)


def assert_refused(ran: Ran, sentence: str) -> None:
    """Check for exit code 2, an empty standard output, and one matching line on standard error."""
    assert ran.code == 2
    assert ran.out == ""
    lines = [line for line in ran.err.splitlines() if line != "loading …"]
    assert len(lines) == 1, ran.err
    assert re.fullmatch(f"maskpool: {sentence}", lines[0]), lines[0]


choose_backend = joblib.parallel_config


def use_one_process(patch: pytest.MonkeyPatch) -> None:
    """Run jobs in this process, because starting processes would take most of the time."""
    patch.setattr(joblib, "parallel_config", lambda *_, **__: choose_backend("sequential"))


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Write empty figures, because drawing takes longer than a small study."""
    patch.setattr("maskpool.bench.report.pages._draw", lambda _, __, path: path.write_text('<svg width="1pt"></svg>'))


def make_small(patch: pytest.MonkeyPatch, figures: bool = False) -> None:
    """Reduce the number of fits below what a finding needs, run them in this process, and disable the hub.

    Args:
        patch: Undoes it.
        figures: Whether figures are drawn.
    """
    if not figures:
        draw_nothing(patch)
    initialise = Study.__init__

    def with_few_replicates(self: Study, **given: Any) -> None:
        initialise(self, **({"replicates": REPLICATES} | given))

    patch.setattr(Study, "__init__", with_few_replicates)
    patch.setattr("maskpool.bench.score.intervals._DRAWS", 1_000)
    patch.setattr("maskpool.bench.run.FLOOR_FITS", 3)
    use_one_process(patch)
    patch.setattr("maskpool.integrations.sklearn.heads._FEWEST_EPOCHS", 2)
    patch.setattr("maskpool.integrations.sklearn.heads._FEWEST_STEPS", 1)
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class Silent:
    """Show no progress."""

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda steps: None


def without_times(results: Any) -> Any:
    """Remove all durations from results."""
    if isinstance(results, dict):
        return {name: without_times(value) for name, value in results.items() if "seconds" not in name}
    return [without_times(value) for value in results] if isinstance(results, list) else results


def no_tokenizer(folder: Path) -> None:
    """Remove the tokenizer of a model."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
