"""Test the exit codes of the command, its one-sentence errors, and its notes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as host

from tests.bench import tiny
from tests.command import assert_refused, in_a_process, make_small, no_tokenizer, run
from tests.matrix import spread
from tests.once import once
from tests.poolings import NEEDS_OPTION, REQUIRED_OPTION

AUDIT, BENCH = ("audit",), ("bench", "--pooling", "mean", "--model")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture(scope="session")
def plain(model_folder: Path) -> Path:
    return model_folder


@pytest.fixture(scope="session")
def cls(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the same model with cls pooling."""

    def save(folder: Path) -> None:
        modules = [host.Transformer(str(plain)), host.Pooling(32, "cls")]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder))

    return once(tmp_path_factory, "cls", save)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_csv(tmp_path / "colours.csv", tiny.make_texts(60))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("w1 w2\nw3\nw4 w5 w6 w7 w8 w9\nw1 w2 w3\n", "utf-8")
    return path


def by_words(offset: float) -> Callable[[list[str]], Any]:
    """Make a pipeline that adds ``offset`` to a vector for each word of padding."""

    def embed(texts: list[str]) -> Any:
        counts = [len(text.split()) for text in texts]
        return np.array([[count, 1.0 + offset * (max(counts) - count)] for count in counts])

    return embed


# ------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("pipeline", "code"),
    [(by_words(0.0), 3), (by_words(0.5), 1), (lambda texts: np.ones((len(texts), 2)), 3)],
    ids=["black box", "leak", "constant"],
)
def test_the_exit_code_is_the_verdict(
    plain: Path, monkeypatch: pytest.MonkeyPatch, pipeline: Callable[[list[str]], Any], code: int
) -> None:
    """The exit code is 0 for a clean model, 1 for a leak and 3 for an unknown verdict."""
    monkeypatch.setattr("maskpool.audit.opening.open_pipeline", lambda *_: pipeline)
    ran = run("audit", plain, "--json")
    verdict = json.loads(ran.out)["verdict"]
    assert ran.code == {"clean": 0, "leaks": 1, "unknown": 3}[verdict]


def test_a_clean_model_is_0(plain: Path, texts: Path) -> None:
    """The exit code for a clean model is 0."""
    assert run("audit", plain, "--texts", texts).code == 0


# ------------------------------------------------------------------------------------------------ users' errors


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "damaged weights": (cut_weights, r"\S*/model\.safetensors must be a complete safetensors file.*"),
    "missing weights": (no_weights, r"\S* must hold weights in model\.safetensors, got none.*"),
    "missing tokenizer": (no_tokenizer, r"\S* must hold a tokenizer, such as tokenizer\.json.*"),
}


@pytest.mark.parametrize("command", [AUDIT, BENCH], ids=["audit", "bench"])
@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("kind", ["plain", "cls"])
def test_damaged_folders_are_named(
    request: pytest.FixtureRequest, data: Path, tmp_path: Path, kind: str, name: str, command: tuple[str, ...]
) -> None:
    """Damaged or missing weights and a missing tokenizer are reported in one sentence, with exit code 2."""
    damage, sentence = DAMAGED[name]
    folder = tmp_path / "model"
    subprocess.run(["cp", "-r", str(request.getfixturevalue(kind)), str(folder)], check=True)
    damage(folder)
    more = ["--data", data, "--out", tmp_path / "out"] if command is BENCH else []
    prefix = r"((--model|NAME_OR_PATH) must be .* could not be loaded: )?"
    assert_refused(run(*command, folder, *more), prefix + sentence)


@pytest.mark.parametrize("device", ["nonsense", "cuda:7", "xpu", ""])
@pytest.mark.parametrize("command", [AUDIT, BENCH], ids=["audit", "bench"])
@pytest.mark.parametrize("kind", ["plain", "cls"])
def test_a_device_that_does_not_exist_is_named(
    request: pytest.FixtureRequest, data: Path, tmp_path: Path, kind: str, command: tuple[str, ...], device: str
) -> None:
    """The error for a device that torch cannot use names the option and the device."""
    more = ["--data", data, "--out", tmp_path / "out"] if command is BENCH else []
    ran = run(*command, request.getfixturevalue(kind), "--device", device, *more)
    assert_refused(ran, f"--device must be one that torch can use here, such as cpu, got '{device}': .+")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no/such/folder"], r"NAME_OR_PATH must be .*'no/such/folder' could not be loaded: .*"),
        (["{plain}", "--pooling", "meann"], r"--pooling must be one of 'mean', .*, got 'meann'; did you mean 'mean'\?"),
        (
            ["{plain}", "--pooling", "attention(num_heads=5)"],
            r"--pooling must fit .*, got 'attention\(num_heads=5\)': num_heads must .*",
        ),
        (
            ["{plain}", "--pooling", NEEDS_OPTION],
            rf"--pooling must give {REQUIRED_OPTION}, as in '{NEEDS_OPTION}\(.*\)', got '{NEEDS_OPTION}'",
        ),
        (["{plain}", "--texts", "{tmp}/one.txt"], "--texts must hold at least three different texts .*, got 1.*"),
        (["{plain}", "--texts", "{plain}"], "--texts must be a file of texts in UTF-8, one per line, got .*"),
    ],
)
def test_arguments_are_named_as_options(plain: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """Errors about Python arguments name the option or argument of the command; blank lines do not count as texts."""
    (tmp_path / "one.txt").write_text("one text\n\n  \n\t\n", "utf-8")
    assert_refused(run("audit", *(argument.format(plain=plain, tmp=tmp_path) for argument in arguments)), sentence)


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["--nonsense"], ["audit", "x", "--nonsense"], ["bench", "report"], ["bench", "x"]],
    ids=" ".join,
)
def test_usage_errors_are_2(arguments: list[str]) -> None:
    """A wrong command line ends with exit code 2 and without a traceback."""
    ran = run(*arguments)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert "Usage" in ran.out or "--help lists what is accepted" in ran.err


def test_an_audit_of_nothing_is_2() -> None:
    """Without a model and a server the audit says what is missing."""
    assert_refused(run("audit"), "NAME_OR_PATH or --endpoint is missing: name a model or a server")


@pytest.mark.parametrize("command", [["report", "{none}"], ["compare", "{none}", "{none}"]])
def test_no_study_is_2(tmp_path: Path, command: list[str]) -> None:
    """A folder without a study gives one sentence and exit code 2."""
    assert_refused(run("bench", *(word.format(none=tmp_path / "none") for word in command)), ".+")


# What is typed as the model, and what the message says of it after its name.
NOT_MODELS = {
    "none": "there is no such folder, and no such model in the cache of .* hub, which is offline because .* is set",
    "all-minilm-l6-v2": r"there is no .* \(did you mean 'all-MiniLM-L6-v2'\?\)",
    "all-minilm": r"there is no .* \(did you mean 'all-MiniLM-L6-v2'\?\)",
    "all-MiniLM-L12-v2": "there is no such folder, and no such model .* is set",
    "./none": "there is no such folder, and the Hugging Face hub accepts no such name",
    "{tmp}/one.txt": "it is a file, not a folder",
    "{tmp}/empty": r"it must hold a config.json: it is not the folder of a transformers model",
    "{tmp}/bad": r"\S*/bad/config.json must be a JSON table: .*",
}


@pytest.mark.parametrize("command", [AUDIT, BENCH], ids=["audit", "bench"])
@pytest.mark.parametrize("typed", NOT_MODELS)
def test_a_name_that_is_not_a_model_is_explained(
    data: Path, tmp_path: Path, typed: str, command: tuple[str, ...]
) -> None:
    """The message names the option and what was typed, and says why it is not a model, with the way out."""
    (tmp_path / "one.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{nope", "utf-8")
    model = typed.format(tmp=tmp_path)
    more = ["--data", data, "--out", tmp_path / "out"] if command is BENCH else []
    option = "--model" if command is BENCH else "NAME_OR_PATH"
    expected = rf"{option} must be a folder .*; '{re.escape(model)}' could not be loaded: {NOT_MODELS[typed]}"
    assert_refused(run(*command, model, *more), expected)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["bench", "--out", ""], "--out"),
        (["bench", "--data", ""], "--data"),
        (["bench", "--study", ""], "--study"),
        (["bench", "report", ""], "DIR"),
        (["bench", "compare", "", "x"], "DIR_A"),
        (["bench", "compare", "x", ""], "DIR_B"),
        (["audit", "x", "--texts", ""], "--texts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_empty_path_is_refused(arguments: list[str], name: str) -> None:
    """An empty path, as of an unset variable, does not mean the working folder."""
    ran = run(*arguments)
    assert ran.code == 2
    assert f"Invalid value for '{name}': must not be empty" in ran.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pad-to", "0"], "--pad-to must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--seeds", "1"], "--seeds must be at least 2, got 1"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--model", ""], "--model must not be empty"),
        (["--pad-to", "x"], "Invalid value for '--pad-to': .*integer.*; maskpool bench --help lists what is accepted"),
        (["--no-such"], "No such option: --no-such.*; maskpool bench --help lists what is accepted"),
        (["extra"], "No such command 'extra'; maskpool bench --help lists what is accepted"),
        (["report"], "Missing argument 'DIR'; maskpool bench report --help lists what is accepted"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_refused_in_one_sentence(arguments: list[str], sentence: str) -> None:
    """A wrong option, value, command or number of arguments is refused in one line that names it."""
    assert_refused(run("bench", *arguments), sentence)


def test_names_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message names a folder and a study file that do not fit once, and another key without the file's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\na,NA\n")
    (tmp_path / "a.toml").write_text('[[corpora]]\ndata = "a.csv"\n')
    ran = run("bench", "--model", "folder")
    assert_refused(ran, ".*'folder' could not be loaded: it must hold a config.json: it is not the folder of a .*")
    study = run("bench", "--study", "folder")
    assert_refused(study, "--study must name a TOML file that can be read, got folder: it is a folder")
    ran = run("bench", "--study", "a.toml", "--out", "out")
    assert_refused(ran, "a.toml: drop_missing .* or set keep_na of \\[\\[corpora\\]\\] if these are values")
    ran = run("bench", "--data", "a.csv", "--out", "out")
    assert_refused(ran, "--drop-missing must be set to leave out 1 of 3 rows .* or set --keep-na if these are values")


def test_a_folder_as_data_is_named(tmp_path: Path) -> None:
    """A folder passed as the data is named as it was typed."""
    assert_refused(run("bench", "--data", tmp_path), f"--data must name a file, got the folder {tmp_path}")


def test_a_folder_that_is_not_a_head_is_refused_before_anything_is_written(
    plain: Path, data: Path, tmp_path: Path
) -> None:
    """A pooling that names the folder of something else is refused before the folder of the study is made."""
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "config.json").write_text("{}", "utf-8")
    out = tmp_path / "out"
    ran = run("bench", "--model", plain, "--data", data, "--pooling", tmp_path / "head", "--out", out)
    assert_refused(ran, r"--pooling must be .*; \S*/head could not be opened: .*")
    assert not out.exists()


# ------------------------------------------------------------------------------------------------ unexpected errors


class PanicException(BaseException):
    """Imitate a panic of the tokenizers package, which does not derive from Exception."""


# Each command with a function that it calls.
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "audit": (("audit", "x"), "maskpool.audit.opening.open_pipeline"),
    "info": (("info",), "maskpool.cli.info.collect"),
    "bench": (("bench", "--data", "{data}", "--out", "{out}"), "maskpool.bench.run.run_study"),
    "report": (("bench", "report", "{out}"), "maskpool.bench.report.results.results_of"),
    "compare": (("bench", "compare", "{out}", "{out}"), "maskpool.bench.report.compare.compare"),
    "compare, its studies": (("bench", "compare", "{out}", "{out}"), "maskpool.bench.report.compare.Finished.of"),
}
UNEXPECTED: list[tuple[BaseException, str]] = [
    (ZeroDivisionError("division by zero\nand more"), "unexpected ZeroDivisionError: division by zero"),
    (ZeroDivisionError(), "unexpected ZeroDivisionError"),
    (RuntimeError("out of memory"), "unexpected RuntimeError: out of memory"),
    (MemoryError(), "unexpected MemoryError"),
    (RecursionError("too deep"), "unexpected RecursionError: too deep"),
    (EOFError("no more"), "unexpected EOFError: no more"),
    (OSError(5, "Input/output error"), r"unexpected OSError: \[Errno 5\] Input/output error"),
    (SystemExit(1), "unexpected SystemExit: 1"),
    (SystemExit("words"), "unexpected SystemExit: words"),
    (SystemExit(0), "unexpected SystemExit: 0"),
    (PanicException("index out of bounds"), "unexpected PanicException: index out of bounds"),
]


def start(command: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *flags: str) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    arguments, place = COMMANDS[command]
    monkeypatch.setattr("maskpool.bench.store.checks.read_description", lambda _: {})
    if command == "compare":
        monkeypatch.setattr("maskpool.bench.report.compare.Finished.of", lambda _: {})
    monkeypatch.setattr(place, fail)
    data = tiny.write_csv(tmp_path / "colours.csv", tiny.make_texts(60))
    return run(*flags, *(word.format(data=data, out=tmp_path / "out") for word in arguments))


@spread(3, command=COMMANDS, unexpected=UNEXPECTED)
def test_an_unexpected_error_is_one_sentence(
    command: str, unexpected: tuple[BaseException, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every error of a command gives one sentence and exit code 2, never 1."""
    error, sentence = unexpected
    ran = start(command, error, monkeypatch, tmp_path)
    assert_refused(ran, f"{sentence}; maskpool --debug shows the traceback")


@pytest.mark.parametrize("command", COMMANDS)
def test_debug_shows_the_traceback(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With --debug the traceback is shown and the exit code is still 2; the next run does not show it."""
    ran = start(command, ZeroDivisionError("division by zero"), monkeypatch, tmp_path, "--debug")
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "Traceback (most recent call last)" in ran.err
    assert "Traceback" not in start(command, ZeroDivisionError(), monkeypatch, tmp_path).err


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_is_130(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C in any command gives exit code 130 and one sentence."""
    ran = start(command, KeyboardInterrupt(), monkeypatch, tmp_path)
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.splitlines()[-1].startswith("maskpool: stopped")


def test_a_closed_output_is_2() -> None:
    """If the reader of the output has closed it, the exit code is 2 and nothing is printed."""
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [sys.executable, "-m", "maskpool", "--help"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (ran.returncode, ran.stderr) == (2, b"")


@pytest.mark.parametrize("missing", ["typer", "rich.console"])
def test_a_package_that_the_command_needs_is_named(missing: str) -> None:
    """Without the packages of the command line, the command names the extra and ends with exit code 2."""
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['', 'info']; import maskpool.__main__"
    assert_refused(
        in_a_process(sys.executable, "-c", code),
        rf'{missing} is not installed; the command needs: pip install "maskpool\[bench\]"',
    )


def test_a_process_ends_with_2() -> None:
    """A command that runs as a module ends with the exit code of its error and without a traceback."""
    ran = in_a_process(sys.executable, "-m", "maskpool", "nonsense")
    assert (ran.code, ran.out) == (2, "")
    assert "No such command 'nonsense'" in ran.err
    assert "Traceback" not in ran.err


# ------------------------------------------------------------------------------------------------ texts, notes


@pytest.mark.full  # slow; the tests of the audit cover the sample by default
def test_many_texts_are_sampled_and_reported(plain: Path, tmp_path: Path) -> None:
    """The audit and the explanation measure a sample of 32 texts, say so, and take the same sample every time."""
    path = tmp_path / "many.txt"
    path.write_text("\n".join(" ".join(f"w{(n * k) % 30}" for k in range(1, 3 + n % 7)) for n in range(100)), "utf-8")
    first, again = (json.loads(run("audit", plain, "--texts", path, "--explain", "--json").out) for _ in range(2))
    assert any(re.search(r"32 of .*\d+", note) for note in first["notes"])
    assert "the explanation measures a sample of 32 of the 100 texts (seed 0)" in first["notes"]
    assert first == again


def test_progress_is_shown_on_a_terminal(plain: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, standard error shows the number of calls; with --json or in a log it shows nothing."""
    assert run("audit", plain, "--texts", texts).err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich treats the error stream as a terminal
    ran = run("audit", plain, "--texts", texts)
    assert ran.code == 0
    assert re.search(r"auditing .*: \d+ calls", "".join(ran.err.split("\n")))
    assert ran.out.startswith("BertModel: clean")
    assert run("audit", plain, "--texts", texts, "--json").err == ""


@pytest.mark.parametrize("as_json", [False, True])
def test_a_failing_explanation_keeps_the_verdict(
    plain: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """If only the explanation fails, the verdict is printed and the exit code is 2."""

    def fail(*_: object) -> None:
        raise ValueError("no explanation\nat all")

    monkeypatch.setattr("maskpool.pads.explanation.explain", fail)
    ran = run("audit", plain, "--texts", texts, "--explain", *(["--json"] if as_json else []))
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == "maskpool: no explanation"
    if as_json:
        results = json.loads(ran.out)
        assert results["verdict"] == "clean"
        assert "explanation" not in results
    else:
        assert ran.out.startswith("BertModel: clean")


def test_a_study_that_cannot_be_read_names_the_option(tmp_path: Path) -> None:
    """An error of the reader of study files names the command's option."""
    (tmp_path / "study.toml").write_text("models = [", "utf-8")
    assert_refused(run("bench", "--study", tmp_path / "study.toml"), "--study must be a TOML file; study.toml is not.*")
    assert_refused(run("bench", "--study", tmp_path / "none"), "--study must name a TOML file that can be read, got .*")


def test_another_pooling_than_the_saved_one_is_noted(cls: Path, plain: Path) -> None:
    """A pooling other than the saved one is noted on the screen and in the JSON."""
    note = f"{cls} is saved with cls pooling; max pools differently"
    assert f"note: {note}" in run("audit", cls, "--pooling", "max").out.splitlines()
    assert note in json.loads(run("audit", cls, "--pooling", "max", "--json").out)["notes"]
    assert "is saved with" not in run("audit", cls, "--pooling", "cls").out
    assert "is saved with" not in run("audit", plain, "--pooling", "max").out


def test_bench_notes_other_poolings(
    cls: Path, plain: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study with a pooling other than the saved one prints a note."""
    monkeypatch.setattr("maskpool.bench.run.run_study", lambda *_: None)
    monkeypatch.setattr("maskpool.bench.report.results.results_of", lambda _: {"parts": []})
    monkeypatch.setattr("maskpool.bench.report.pages.write", lambda *_: [])
    monkeypatch.setattr("maskpool.bench.report.pages.show", lambda _: "")
    more = ["--data", data, "--out", tmp_path / "out", "--pooling", "mean,cls"]
    several = f"note: {cls} is saved with cls pooling; mean, max pool differently"
    assert several in run("bench", "--model", cls, *more[:-1], "mean,max,cls").out.splitlines()
    note = f"note: {cls} is saved with cls pooling; mean pools differently"
    assert note in run("bench", "--model", cls, *more).out.splitlines()
    assert "is saved with" not in run("bench", "--model", plain, *more).out
    assert run("bench", "--model", cls, *more, "--quiet").out == ""
