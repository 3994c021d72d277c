"""The command: what it prints, its exit codes, and how Ctrl-C ends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main

from maskpool import cli
from maskpool.cli.embed import OPTIONS
from maskpool.errors import InvalidValueError
from maskpool.integrations.transformers import SentenceEmbedder
from tests.command import assert_refused, run
from tests.embed.conftest import ROWS

PROBLEM = "must be another, got this one"


def test_the_command_embeds(corpus: Path, model: Path, tmp_path: Path) -> None:
    """The command writes parts, says what became of the rows, and ends with exit code 0; a second time it resumes."""
    ran = run("embed", corpus, "--out", tmp_path / "out", "--model", model, "--id-column", "id")
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{ROWS} vectors of {ROWS} rows; ")
    assert ran.out.endswith(f"Written to {tmp_path / 'out'}/: 1 part\n")
    again = run("embed", corpus, "--out", tmp_path / "out", "--model", model, "--id-column", "id")
    assert again.out.endswith(": 1 part (1 were there before)\n")


def test_json_is_the_report(corpus: Path, model: Path, tmp_path: Path) -> None:
    """--json prints the report and nothing else; --quiet prints nothing."""
    ran = run("embed", corpus, "--out", tmp_path / "out", "--model", model, "--json")
    report = json.loads(ran.out)
    assert (ran.err, report["vectors"], report["parts"]) == ("", ROWS, 1)
    quiet = run("embed", corpus, "--out", tmp_path / "out", "--model", model, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_failed_texts_end_with_1(corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that could not be embedded are named, and the exit code is 1."""
    whole = SentenceEmbedder.embed_tokens

    def fails(self: SentenceEmbedder, ids: Any, **keywords: Any) -> Any:
        if any(len(tokens) > 80 for tokens in ids):
            raise RuntimeError("too long for this kernel")
        return whole(self, ids, **keywords)

    monkeypatch.setattr(SentenceEmbedder, "embed_tokens", fails)
    ran = run("embed", corpus, "--out", tmp_path / "out", "--model", model)
    assert ran.code == 1
    assert "could not be embedded and have no vector: row " in ran.out
    assert ": too long for this kernel" in ran.out


def test_ctrl_c_says_how_to_resume(corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with one sentence that says how to resume, and exit code 130."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SentenceEmbedder, "embed_tokens", interrupted)
    ran = run("embed", corpus, "--out", tmp_path / "out", "--model", model, "--quiet")
    assert ran.code == 130
    assert ran.err == (
        f"maskpool: stopped; 0 finished parts are in {tmp_path / 'out'}: the same command resumes from there\n"
    )


@pytest.mark.parametrize(("argument", "option"), OPTIONS.items(), ids=OPTIONS)
def test_errors_name_options(
    argument: str, option: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error about an argument names the command's option, which exists."""

    def fail(*_: object, **__: object) -> None:
        raise InvalidValueError(argument, PROBLEM)

    monkeypatch.setattr("maskpool.embed.run.run", fail)
    assert_refused(run("embed", corpus, "--out", tmp_path / "out"), f"{option} {PROBLEM}")
    command: Any = typer.main.get_command(cli.app)  # Any: typer's own copy of click has no public types
    known = [name for parameter in command.commands["embed"].params for name in (*parameter.opts, parameter.metavar)]
    assert option in known
