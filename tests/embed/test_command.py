"""The command: what it prints, its exit codes, and how Ctrl-C ends it."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer.main

from maskpool import embed_corpus
from maskpool.cli.app import app
from maskpool.cli.embed import OPTIONS
from maskpool.errors import InvalidValueError, StorageError
from maskpool.integrations.transformers import SentenceEmbedder
from tests.command import assert_refused, content, run
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


def test_a_dry_run_writes_nothing(corpus: Path, model: Path, tmp_path: Path) -> None:
    """--dry-run reports rows, parts and time, creates no folder, and counts the parts of a folder."""
    arguments = ("embed", corpus, "--out", tmp_path / "out", "--model", model)
    ran = run(*arguments, "--dry-run")
    assert ran.code == 0, ran.err
    assert re.match(rf"{ROWS} rows in 1 files, \d+ tokens a text; 1 parts, 0 finished; vectors of about", ran.out)
    assert not (tmp_path / "out").exists()
    run(*arguments)
    before = content(tmp_path / "out")
    estimate = json.loads(run(*arguments, "--dry-run", "--json").out)
    assert (estimate["parts"], estimate["finished"], estimate["about_seconds"]) == (1, 1, 0)
    assert content(tmp_path / "out") == before
    assert_refused(run(*arguments, "--dry-run", "--pooling", "max"), "--out must be a new folder or that of .*")


def test_verify_and_embed_exclude_each_other(corpus: Path, tmp_path: Path) -> None:
    """Options that have no effect, and missing ones, are refused."""
    assert_refused(run("embed", corpus, "--verify", tmp_path), "--verify checks what .* leave out INPUT")
    assert_refused(run("embed", corpus), "INPUT and --out must be given: .*")


def test_other_folders_are_refused(corpus: Path, model: Path, tmp_path: Path) -> None:
    """A file, a folder with other content, and the folder of the input are refused before anything is written."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("precious", "utf-8")
    before = content(other)
    assert_refused(run("embed", corpus, "--out", other), r"--out must be a new or empty folder, .* has mine\.txt")
    assert content(other) == before
    assert_refused(run("embed", corpus, "--out", corpus), r"--out must be a folder, got the file .*corpus\.jsonl")
    out = tmp_path / "out"
    assert run("embed", corpus, "--out", out, "--model", model).code == 0
    assert_refused(
        run("embed", out / "part-000000.parquet", "--out", out, "--text-column", "id"), "--text-column must be .*"
    )
    inside = out / "more.jsonl"
    inside.write_bytes(corpus.read_bytes())
    assert_refused(run("embed", inside, "--out", out), r"--out must not hold the input, but .*more\.jsonl is in .*")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(
    number: int, corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk and a read-only folder end with one sentence; finished parts stay, and the same call resumes."""
    settings: dict[str, Any] = {"part_rows": 20}
    embed_corpus(corpus, tmp_path / "whole", model, **settings)
    write = pq.write_table

    def fail(table: Any, path: Path, **keywords: Any) -> None:
        if len(list(path.parent.glob("part-*.parquet"))) == 1:
            path.write_bytes(b"half")
            raise OSError(number, os.strerror(number), str(path))
        write(table, path, **keywords)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        patch.setattr("maskpool.embed.run.PART_ROWS", 20)
        with pytest.raises(StorageError, match=f"cannot be written \\({os.strerror(number)}\\): finished parts are"):
            embed_corpus(corpus, out, model, **settings)
    assert sorted(content(out)) == ["part-000000.parquet", "parts.jsonl", "run.json"]
    assert embed_corpus(corpus, out, model, **settings).new_parts == 2
    assert content(out) == content(tmp_path / "whole")


def test_a_read_only_folder_is_one_sentence(corpus: Path, model: Path) -> None:
    """A folder that cannot be created is reported with exit code 2."""
    assert_refused(
        run("embed", corpus, "--out", "/dev/null/out", "--model", model), "--out must be a folder, got .*|--out /dev.*"
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
    command: Any = typer.main.get_command(app)  # Any: typer's own copy of click has no public types
    known = [name for parameter in command.commands["embed"].params for name in (*parameter.opts, parameter.metavar)]
    assert option in known
