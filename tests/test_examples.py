"""The examples run, and each notebook is its script, executed."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
FAST = {"late_chunking", "pool_a_model"}
NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
# Paths that a machine leaves in outputs: absolute ones, those of a user, temporary folders.
MACHINE_PATH = re.compile(r"(?:^|[\s'\"(=])(?:/[\w.-]+/|~/|[A-Za-z]:\\)")


def cells_of(script: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    return cells


def as_script(cells: list[dict[str, Any]]) -> str:
    """Return the cells of a notebook as a script in percent format."""
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = "\n".join(f"# {line}".rstrip() for line in source.split("\n"))
        parts.append(f"# %%{' [markdown]' if cell['cell_type'] == 'markdown' else ''}\n{source}\n")
    return "\n".join(parts)


def printed(cells: list[dict[str, Any]]) -> str:
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert {output["output_type"] for output in outputs} == {"stream"}
    return "".join("".join(output["text"]) for output in outputs)


def words(text: str) -> list[str]:
    """Return the lines of an output without its numbers, whose last digits depend on the machine."""
    return [" ".join(NUMBER.sub("#", line).split()) for line in text.splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_its_script(script: Path) -> None:
    """A notebook has the cells of its script: run `make notebooks` after changing one."""
    without_blank_lines = re.sub(r"\n{2,}(?=# %%)", "\n\n", script.read_text(encoding="utf-8"))
    assert as_script(cells_of(script)) == without_blank_lines


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_executed(script: Path) -> None:
    """Every cell of a notebook was run once, in order, and its output names no path of the machine that ran it."""
    cells = cells_of(script)
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert printed(cells)
    assert not MACHINE_PATH.search(printed(cells))


def test_paths_of_machines_are_found() -> None:
    """Absolute paths are found, and addresses and paths of the repository are not."""
    assert all(map(MACHINE_PATH.search, ("/tmp/x", "in '/home/me/x'", "~/x", r"C:\Users", "a\n/usr/lib")))
    assert not MACHINE_PATH.search("https://example.org/a/b docs/bugs/x.md 1/n and/or")


def test_the_index_lists_every_example() -> None:
    """The README of the examples links to every script and notebook."""
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert {f"{script.stem}{suffix}" for script in SCRIPTS for suffix in (".py", ".ipynb")} <= set(
        re.findall(r"\]\((\w+\.(?:py|ipynb))\)", index)
    )
    assert {notebook.stem for notebook in EXAMPLES.glob("*.ipynb")} == {script.stem for script in SCRIPTS}


@pytest.mark.parametrize("name", sorted(FAST))
def test_a_fast_example_prints_what_its_notebook_shows(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script runs and prints the output of its notebook, up to the digits of numbers."""
    monkeypatch.chdir(EXAMPLES)
    runpy.run_path(f"{name}.py", run_name="__main__")
    assert words(capsys.readouterr().out) == words(printed(cells_of(EXAMPLES / f"{name}.py")))


@pytest.mark.full  # trains, audits and clusters
@pytest.mark.parametrize(
    "script", [script for script in SCRIPTS if script.stem not in FAST], ids=lambda path: path.stem
)
def test_an_example_prints_what_its_notebook_shows(script: Path, tmp_path: Path) -> None:
    """As a user runs it, a script prints the output of its notebook, up to the digits of numbers."""
    pytest.importorskip("accelerate", reason='needs pip install "sentence-transformers[train]"')
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    ran = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path / "examples", env=os.environ | {"PYTHONUTF8": "1"},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    if (
        script.stem != "bench_your_csv"
    ):  # k-means of few texts, and so the verdicts, may depend on a processor's rounding
        assert words(ran.stdout) == words(printed(cells_of(script)))
    left = {path.name for path in (tmp_path / "examples").iterdir()} - {path.name for path in EXAMPLES.iterdir()}
    assert not left, "an example writes to temporary folders only"
