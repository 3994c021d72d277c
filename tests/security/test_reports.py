"""Test reports of untrusted results folders: their strings are escaped, and malformed cells are named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskpool.bench.store.cells import content_hash
from tests.bench import tiny
from tests.command import make_small, run
from tests.once import once

_MARKUP = "<script>alert(1)</script>`<img src=x>` | [a](javascript:b) $\\frac{$\n\n# heading \x1b[31m"
_STUDY = 'models = ["model"]\npoolings = ["mean"]\nreplicates = 3\nseeds = 2\n[[corpora]]\ndata = "colours.csv"\n'


def _finish(folder: Path) -> None:
    tiny.write_csv(folder / "colours.csv", tiny.make_texts(60))
    model = tiny.save_model(folder / "model")
    (folder / "study.toml").write_text(_STUDY.replace('"model"', f'"{model}"'), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        ran = run("bench", "--study", folder / "study.toml", "--out", folder / "out", "--quiet")
    assert ran.code == 0, ran.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a small study and return its folder."""
    return once(tmp_path_factory, "reported-study", _finish) / "out"


def _rewritten(finished: Path, folder: Path, alter: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a results folder, alter its cells and update their hashes."""
    shutil.copytree(finished, folder)
    path = folder / "cells.jsonl"
    cells = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for cell in cells:
        alter(cell)
        cell["cell"] = content_hash({"key": cell["key"], "value": cell["value"]})
    path.write_text("".join(json.dumps(cell) + "\n" for cell in cells), encoding="utf-8")
    return folder


def _put_markup(cell: dict[str, Any]) -> None:
    if cell["key"]["kind"] != "facts":
        return
    facts = cell["value"]
    facts["model"] |= {"name": _MARKUP, "weights_sha256": _MARKUP, "pad_token": _MARKUP, "padding_side": _MARKUP}
    facts["corpus"] |= {"name": _MARKUP, "sha256": _MARKUP, "versions": {_MARKUP: _MARKUP}}
    facts["environment"] |= {"platform": _MARKUP, "packages": {_MARKUP: _MARKUP}}


def test_a_report_escapes_markup(finished: Path, tmp_path: Path) -> None:
    """HTML, Markdown and formulas in names, hashes, versions and tokens of a results folder are escaped."""
    folder = _rewritten(finished, tmp_path / "out", _put_markup)
    ran = run("bench", "report", folder)
    assert ran.code == 0, ran.err
    written = (folder / "report.md").read_text(encoding="utf-8")
    assert written.count("alert(1)") >= 8
    # Markup does not count in code spans and after a backslash.
    outside = re.sub(
        r"\\[\\`*_<>|#&~\]]", "", "\n".join(re.sub(r"(?<!\\)`[^`]*`", "", line) for line in written.splitlines())
    )
    assert not re.search(r"<\w|</|\]\(javascript", outside), outside
    assert "`" not in re.sub(r"`maskpool[^`]*`", "", outside)
    assert not re.search(r"^# heading", written, re.MULTILINE)
    assert "\x1b" not in written
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img" not in page


def test_the_report_of_a_usual_study_has_no_needless_backslashes(finished: Path) -> None:
    """Numbers, intervals and plain names are not escaped."""
    written = (finished / "report.md").read_text(encoding="utf-8")
    assert not re.search(r"\\[^_|]", written)
    assert re.search(r"\| [−+]0\.\d{3} \[[−+]", written)  # the minus sign of reports


def _without(kind: str, *names: str) -> Callable[[dict[str, Any]], object]:
    def alter(cell: dict[str, Any]) -> None:
        value = cell["value"]
        if cell["key"]["kind"] == kind:
            for name in names[:-1]:
                value = value[name]
            value.pop(names[-1])

    return alter


MISSING = [  # only the first runs by default
    ("facts", "corpus", "longest"),
    *(
        pytest.param(names, marks=pytest.mark.full)
        for names in (
            ("forward", "encoder_seconds"),
            ("baselines", "tfidf"),
            ("proof", "difference"),
            ("facts", "environment"),
            ("facts", "environment", "platform"),
            ("facts", "corpus", "sha256"),
            ("facts", "model", "pad_token"),
        )
    ),
]


@pytest.mark.parametrize("names", MISSING)
def test_a_missing_field_of_a_cell_is_named(names: tuple[str, ...], finished: Path, tmp_path: Path) -> None:
    """The error names the file of the cells and the missing field."""
    folder = _rewritten(finished, tmp_path / "out", _without(*names))
    ran = run("bench", "report", folder)
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert str(folder / "cells.jsonl") in line
    assert names[-1] in line
    assert "unexpected" not in line


def test_a_missing_cell_is_not_malformed(finished: Path, tmp_path: Path) -> None:
    """A study without one of its cells is reported as unfinished."""
    folder = _rewritten(finished, tmp_path / "out", lambda cell: None)
    path = folder / "cells.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line}\n" for line in lines if '"kind": "forward"' not in line), encoding="utf-8")
    ran = run("bench", "report", folder)
    assert ran.code == 2
    assert "is not finished" in ran.err
