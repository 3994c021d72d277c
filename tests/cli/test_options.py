"""Test that errors name the options of the command line instead of the library's arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from maskpool.bench.design.study import CorpusSource, Study
from maskpool.cli.app import app
from maskpool.cli.audit import OPTIONS as AUDIT
from maskpool.cli.bench import OPTIONS as BENCH
from maskpool.cli.endpoint import OPTIONS as ENDPOINT
from maskpool.cli.report import OPTIONS as REPORT
from maskpool.errors import FolderError, InvalidTypeError, InvalidValueError, MaskpoolError, StorageError
from tests.bench import tiny
from tests.command import assert_refused, run
from tests.matrix import spread

PROBLEM = "must be another, got this one"


def fail(error: MaskpoolError) -> Callable[..., None]:
    def failing(*_: object, **__: object) -> None:
        raise error

    return failing


def words(*path: str) -> dict[str, str]:
    """Return the options and arguments of a command by the parameter name of its function."""
    command: Any = typer.main.get_command(app)  # Any: typer's own copy of click has no public types
    for name in path:
        command = command.commands[name]
    return {
        str(parameter.name): parameter.opts[0] if parameter.opts[0].startswith("-") else str(parameter.metavar)
        for parameter in command.params
    }


@pytest.mark.parametrize(
    ("table", "path"),
    [(AUDIT, ["audit"]), (ENDPOINT, ["audit"]), (BENCH, ["bench"]), (REPORT, ["bench", "report"])],
    ids=["audit", "endpoint", "bench", "report"],
)
def test_tables_contain_only_existing_options(table: dict[str, str], path: list[str]) -> None:
    """Every value of a table is an option or argument of the command."""
    assert set(table.values()) <= set(words(*path).values())


def test_every_option_of_a_study_is_translated() -> None:
    """The table contains every option that is passed on to the library."""
    display = {"--dry-run", "--quiet", "--json"}
    assert set(words("bench").values()) - display == set(BENCH.values())
    assert set(words("audit").values()) - {"--explain", *display} == {*AUDIT.values(), *ENDPOINT.values()}
    renamed = {"poolings", "models", "corpora", "device", "out", "file"}
    arguments = {*Study.__dataclass_fields__, *CorpusSource.__dataclass_fields__}
    assert set(BENCH) - renamed <= arguments


@pytest.mark.parametrize(("argument", "option"), BENCH.items(), ids=BENCH)
def test_bench_names_its_options(argument: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error about an argument names the option."""
    monkeypatch.setattr("maskpool.bench.run.run_study", fail(InvalidValueError(argument, PROBLEM)))
    monkeypatch.setattr("maskpool.cli.bench.notes_on_pooling", lambda *_: [])
    assert_refused(run("bench", "--out", tmp_path), f"{option} {PROBLEM}")


@pytest.mark.parametrize(
    "error",
    [InvalidTypeError("out", PROBLEM), StorageError(PROBLEM, argument="out"), FolderError(PROBLEM, argument="out")],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_any_class_name_options(
    error: MaskpoolError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of every class name the option."""
    monkeypatch.setattr("maskpool.bench.run.run_study", fail(error))
    monkeypatch.setattr("maskpool.cli.bench.notes_on_pooling", lambda *_: [])
    assert_refused(run("bench", "--out", tmp_path), f"--out {PROBLEM}")


@pytest.mark.parametrize(("argument", "option"), AUDIT.items(), ids=AUDIT)
def test_audit_names_its_options(argument: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error about an argument names the option or argument of the command."""
    monkeypatch.setattr("maskpool.audit.opening.open_pipeline", fail(InvalidValueError(argument, PROBLEM)))
    assert_refused(run("audit", "model"), f"{option} {PROBLEM}")


@pytest.mark.parametrize(("argument", "option"), ENDPOINT.items(), ids=ENDPOINT)
def test_the_audit_of_a_server_names_its_options(argument: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error about an argument of the audit of a server names the option."""
    monkeypatch.setattr("maskpool.audit.endpoint.audit_endpoint", fail(InvalidValueError(argument, PROBLEM)))
    assert_refused(run("audit", "--endpoint", "http://localhost/embed"), f"{option} {PROBLEM}")


def test_report_names_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a folder that cannot be written names the command's DIR."""
    monkeypatch.setattr("maskpool.bench.store.checks.read_description", lambda *_: {})
    monkeypatch.setattr("maskpool.bench.report.results.results_of", lambda *_: {})
    monkeypatch.setattr("maskpool.bench.report.pages.write", fail(StorageError(PROBLEM, argument="out")))
    assert_refused(run("bench", "report", tmp_path), f"DIR {PROBLEM}")


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("file", "--study"),
        ("out", "--out"),
        ("device", "--device"),
        ("models", "mine.toml: models"),
        ("poolings", "mine.toml: poolings"),
        ("pad_to", "mine.toml: pad_to"),
        ("corpora", "mine.toml: corpora"),
        ("layers", "mine.toml: layers"),
        ("data", r"mine.toml: data of \[\[corpora\]\]"),
        ("limit", r"mine.toml: limit of \[\[corpora\]\]"),
        ("sha256", r"mine.toml: sha256 of \[\[corpora\]\]"),
        ("text_column", r"mine.toml: text_column of \[\[corpora\]\]"),
    ],
)
def test_errors_name_the_keys_of_a_study_file(
    argument: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a study file, an error names the key of the file, or the option if the argument remains an option."""
    (tmp_path / "mine.toml").write_text("seeds = 2\n", "utf-8")
    monkeypatch.setattr("maskpool.bench.run.run_study", fail(InvalidValueError(argument, PROBLEM)))
    monkeypatch.setattr("maskpool.cli.bench.notes_on_pooling", lambda *_: [])
    assert_refused(run("bench", "--study", tmp_path / "mine.toml", "--out", tmp_path / "out"), f"{name} {PROBLEM}")


def test_errors_without_an_option_are_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error about an argument that is not an option of the command keeps its message."""
    monkeypatch.setattr("maskpool.bench.run.run_study", fail(InvalidValueError("k", PROBLEM)))
    monkeypatch.setattr("maskpool.cli.bench.notes_on_pooling", lambda *_: [])
    assert_refused(run("bench", "--out", tmp_path), f"k {PROBLEM}")


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--newsgroups"], "--newsgroups could not be downloaded: no network; pass the texts as a file"),
        (["--hub", "me/it"], "--hub must name a dataset with a split 'test', got 'me/it': no network"),
        (["--task", "Mine"], "--task must be one of MTEB's clustering tasks, got 'Mine': no network"),
        (
            ["--data", "{data}", "--text-column", "x"],
            "--text-column must be one of the columns text, label .*, got 'x'; .*",
        ),
        (["--data", "{data}", "--label-column", "x"], "--label-column must be .* text, label of mine.csv, got 'x'; .*"),
        (["--data", "{data}", "--limit", "7"], "--limit must be at least 20 .*, got 7"),
        (["--data", "{data}", "--pooling", "avg"], "--pooling must be one of .*, got 'avg'.*"),
        (["--data", "{data}", "--model", "no/such"], "--model must be a folder with a .*'no/such' could not be .*"),
        (["--data", "{data}", "--device", "nowhere"], "--device must be one .* use here, .*, got 'nowhere': .*"),
        (["--data", "mine.xls"], "--data must be a file that ends in .*, got mine.xls: .*"),
        (["--study", "none.toml"], "--study must name a TOML file that can be read, got none.toml: .*"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_mistakes_are_named_by_their_options(
    options: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the library refuses the value of an option, the error names the option."""
    data = tiny.write_csv(tmp_path / "mine.csv", tiny.make_texts(60))
    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups", no_network)
    monkeypatch.setattr("datasets.load_dataset", no_network)
    monkeypatch.setattr("maskpool.integrations.mteb.clustering_task", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = [option.format(data=data) for option in options]
    assert_refused(run("bench", "--out", tmp_path / "out", *given), sentence)
    assert not (tmp_path / "out").exists()


# The options that name a corpus, and those that change how one is read, each with the sources that read it.
SOURCES = {
    "docstrings": [],
    "data": ["--data", "mine.csv"],
    "task": ["--task", "Mine"],
    "hub": ["--hub", "me/it"],
    "newsgroups": ["--newsgroups"],
}
EVERY = set(SOURCES)
READ: dict[str, tuple[list[str], set[str]]] = {
    "--split": (["test"], {"hub"}),
    "--text-column": (["text"], {"data", "hub"}),
    "--label-column": (["label"], {"data", "hub"}),
    "--encoding": (["utf-8"], {"data"}),
    "--separator": ([","], {"data"}),
    "--no-header": ([], {"data"}),
    "--quotes": (["ordinary"], {"data"}),
    "--keep-na": ([], {"data", "hub"}),
    "--drop-missing": ([], {"data", "hub"}),
    "--limit": (["50"], EVERY),
    "--model": (["all-MiniLM-L6-v2"], EVERY),
    "--pooling": (["mean"], EVERY),
    "--pad-to": (["64"], EVERY),
    "--batch-size": (["32"], EVERY),
    "--seeds": (["5"], EVERY),
    "--margin": (["0.03"], EVERY),
    "--device": (["cpu"], EVERY),
    "--quote-texts": ([], EVERY),
}
# Options about the screen and the folder.
ABOUT_THE_RUN = {"--out", "--dry-run", "--quiet", "--json"}


class ReachedError(MaskpoolError):
    """The study would run."""


def test_every_option_is_paired_with_every_source() -> None:
    """No option of the command is missing in the tables."""
    sources = {options[0] for options in SOURCES.values() if options}
    assert set(words("bench").values()) == set(READ) | sources | ABOUT_THE_RUN | {"--study"}


@spread(3, option=READ, source=SOURCES)
def test_an_option_without_effect_is_refused(
    option: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that the source does not read is refused, even with its default value, and the others are accepted."""
    monkeypatch.setattr("maskpool.bench.run.run_study", fail(ReachedError("reached")))
    monkeypatch.setattr("maskpool.cli.bench.notes_on_pooling", lambda *_: [])
    monkeypatch.chdir(tmp_path)
    tiny.write_csv(tmp_path / "mine.csv", tiny.make_texts(4))
    values, sources = READ[option]
    ran = run("bench", "--out", tmp_path / "out", *SOURCES[source], option, *values)
    expected = "reached" if source in sources else f"{option} has no effect with {source}, only with .*: leave it out"
    assert_refused(ran, expected)


@pytest.mark.parametrize("option", [*sorted(set(READ) - {"--device"}), *("--data", "--hub", "--task", "--newsgroups")])
def test_an_option_of_the_study_is_refused_next_to_a_study(option: str, tmp_path: Path) -> None:
    """With a study file, only the device remains an option of what is measured."""
    (tmp_path / "mine.toml").write_text("seeds = 2\n", "utf-8")
    given = READ[option][0] if option in READ else next(words[1:] for words in SOURCES.values() if option in words)
    ran = run("bench", "--study", tmp_path / "mine.toml", "--out", tmp_path / "out", option, *given)
    assert_refused(ran, f"--study says what is measured: give {option} in mine.toml instead")


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize("option", READ)
def test_an_option_in_front_of_another_command_is_refused(option: str, command: str) -> None:
    """Options of ``bench`` in front of one of its commands would be ignored, so they are refused."""
    ran = run("bench", option, *READ[option][0], command, "a", *(["b"] if command == "compare" else []))
    assert_refused(ran, f"{option} before {command} has no effect: options of {command} follow its name")
