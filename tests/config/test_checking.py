"""What servers make of a saved model, by the table of servers."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from benchmarks import server_readers
from maskpool.config.converting import convert
from maskpool.config.reading import read_config
from maskpool.config.servers.checking import ServerJudgement, check_servers
from maskpool.config.servers.rows import Aspect, Known, Row, Server, Verdict, pooled_as
from maskpool.config.servers.table import DEFAULT_SERVERS, SERVERS
from maskpool.errors import InvalidValueError
from maskpool.nn import MedianPooling
from tests.bench import tiny
from tests.command import assert_refused, run
from tests.config.folders import LENGTH, MODES, write, write_model
from tests.config.test_gguf import write_gguf
from tests.matrix import sampled

PROMPT = {"prompts": {"query": "find: "}, "default_prompt_name": "query"}
HEAVY = ("torch", "numpy", "transformers", "sentence_transformers", "typer", "rich", "pydantic", "httpx2")
ROWS = [(server.name, row) for server in SERVERS.values() for row in server.rows]


def matrix(folder: Path) -> Iterator[tuple[Path, str]]:
    """Write models of all layouts, modes and settings, one after the other."""
    settings: list[dict[str, Any]] = [
        {},
        {"include_prompt": False, "config_sentence_transformers": PROMPT},
        {"config_sentence_transformers": PROMPT | {"truncate_dim": 4}},
        {"dense": True},
    ]
    combinations = itertools.product(("old", "new", "ours"), [*MODES, ("cls", "mean")], (False, True), settings)
    for number, (layout, mode, normalize, extra) in enumerate(combinations):
        yield write_model(folder / str(number), layout, mode, normalize=normalize, **extra), f"{layout} {mode} {extra}"


def test_every_verdict_rests_on_a_row(tmp_path: Path) -> None:
    """Each verdict about models of every layout, mode and setting rests on a row, and same never on an inferred one."""
    for folder, name in matrix(tmp_path):
        reports = check_servers(read_config(folder))
        assert len(reports) == len(DEFAULT_SERVERS)
        for report in reports:
            for judgement in (item for version in report.versions for item in version.judgements):
                special = judgement.aspect is Aspect.SPECIAL_TOKENS
                assert judgement.row is not None or special, (name, report.server.name, judgement)
                assert (
                    judgement.row is None
                    or judgement.row.known is not Known.INFERRED
                    or (judgement.verdict is not Verdict.SAME)
                )
                assert "`" not in judgement.repair
                assert not re.search(r"\{\w+(!r)?\}", judgement.repair), judgement.repair


def judgements(folder: Path, server: Server, **given: Any) -> Iterator[ServerJudgement]:
    (report,) = check_servers(read_config(folder), [server.name], **given)
    yield from (item for version in report.versions for item in version.judgements)


def test_a_conversion_is_advised_if_it_works(tmp_path: Path) -> None:
    """``maskpool config convert`` is a repair exactly where it writes files that the server reads right."""
    only_ours: list[dict[str, Any]] = [
        {"mode": MedianPooling.mode},
        {"include_special_tokens": False},
        {"on_empty": "nan"},
    ]
    folders = [folder for folder, _ in sampled(matrix(tmp_path), every=11)]
    folders += [write_model(tmp_path / f"ours {n}", "ours", **settings) for n, settings in enumerate(only_ours)]
    folders.append(write_model(tmp_path / "order", "new", ("mean", "cls")))
    advised, outcomes = "maskpool config convert FOLDER", set()
    for folder, server in itertools.product(folders, SERVERS.values()):
        repairable = [item for item in judgements(folder, server) if item.row is not None and item.row.convert]
        if not repairable:
            continue
        try:
            convert(folder, tmp_path / "out", server.name)
        except InvalidValueError:
            assert all(advised not in item.repair for item in repairable), (folder, server.name)
            outcomes.add("refused")
        else:
            assert all(advised in item.repair for item in repairable), (folder, server.name)
            repaired = {item.aspect for item in repairable}
            newest = check_servers(read_config(tmp_path / "out"), [server.name])[0].versions[-1].judgements
            wrong = [item for item in newest if item.aspect in repaired and item.verdict.rank > Verdict.CALLER.rank]
            assert wrong == [], (folder, server.name)
            shutil.rmtree(tmp_path / "out")
            outcomes.add("converted")
    assert outcomes == {"refused", "converted"}


def test_a_pooling_that_is_advised_works(tmp_path: Path) -> None:
    """A repair that names the pooling to pass makes the pooling the same."""
    tried = 0
    for folder, name in sampled(matrix(tmp_path), every=3):
        for server in SERVERS.values():
            for item in judgements(folder, server):
                named = item.row is not None and "{name}" in item.row.repair
                if item.aspect is not Aspect.POOLING or not named or not item.repair:
                    continue
                (mode,) = pooled_as(read_config(folder))
                given: dict[str, Any] = {"pooling": mode}
                if server.name == "vllm":
                    given = {"pooler_config": {"pooling_type": server.poolings[mode]}}
                again = [j.verdict for j in judgements(folder, server, **given) if j.aspect is Aspect.POOLING]
                assert set(again) == {Verdict.SAME}, (name, server.name, item)
                tried += 1
    assert tried > 20


def test_nothing_is_said_about_files_that_no_one_has_tried(tmp_path: Path) -> None:
    """A server whose reading of GGUF files is not known is unknown, and none is asked for a folder's repair."""
    config = read_config(write_gguf(tmp_path / "model.gguf"))
    reports = {report.server.name: report for report in check_servers(config)}
    for name in ("vllm", "txtai"):
        assert [item.verdict for part in reports[name].versions for item in part.judgements] == [Verdict.UNKNOWN]
    for name in ("fastembed", "transformers.js"):
        assert "reads no GGUF files" in str(reports[name])
        assert "->" not in str(reports[name])
    # The header does not say whether the model normalizes, so no wish is right or wrong.
    for wish in (True, False, None):
        assert verdict(tmp_path / "model.gguf", "llama.cpp", normalize=wish) is Verdict.CALLER


@pytest.mark.parametrize(("server", "row"), ROWS, ids=[f"{name} {row.aspect}" for name, row in ROWS])
def test_rows_are_complete(server: str, row: Row) -> None:
    """A row has a source on the web, a date that has passed, and versions as pip writes them."""
    assert row.source.startswith("https://"), server
    assert date.fromisoformat(row.date) <= date.today()
    assert str(SpecifierSet(row.versions)) is not None
    assert row.computes or row.verdict is Verdict.SAME
    assert row.repair.count("`") % 2 == 0


def test_inferred_rows_never_say_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is only inferred gives unknown where it says same."""
    txtai = SERVERS["txtai"]
    rows = tuple(replace(row, known=Known.INFERRED) if row.aspect is Aspect.POOLING else row for row in txtai.rows)
    monkeypatch.setitem(SERVERS, "txtai", replace(txtai, rows=rows))
    config = read_config(write_model(tmp_path, normalize=True))
    assert check_servers(config, ["txtai"])[0].verdict is Verdict.UNKNOWN


def verdict(folder: Path, server: str, **given: Any) -> Verdict:
    return check_servers(read_config(folder), [server], **given)[0].verdict


def test_versions_decide(tmp_path: Path) -> None:
    """A named version has its own verdict; without one, verdicts that differ are listed by range."""
    folder = write_model(tmp_path, normalize=True)
    assert verdict(folder, "vllm==0.23") is Verdict.DIFFERENT
    assert verdict(folder, "vllm==0.30.0") is Verdict.SAME
    assert verdict(folder, "vllm==0.33") is Verdict.SAME
    assert verdict(folder, "vllm==99") is Verdict.UNKNOWN
    assert verdict(folder, "vllm==0.1") is Verdict.UNKNOWN
    (report,) = check_servers(read_config(folder), ["vllm"])
    assert report.verdict is Verdict.DEPENDS
    assert [(part.versions, part.verdict) for part in report.versions] == [
        ("before 0.30", Verdict.DIFFERENT),
        ("0.30 or newer", Verdict.SAME),
    ]


def test_the_callers_arguments_decide(tmp_path: Path) -> None:
    """A pooling that is passed to a server is compared with the model's, under the name of any server."""
    folder = write_model(tmp_path, mode="lasttoken", normalize=True)
    write(folder / "onnx" / "model.onnx", "")
    write(folder / "tokenizer_config.json", {"model_max_length": LENGTH, "padding_side": "left"})
    assert verdict(folder, "fastembed") is Verdict.CALLER
    for name in ("lasttoken", "last", "last-token", "last_token", "LAST"):
        assert verdict(folder, "fastembed", pooling=name, normalize=True) is Verdict.SAME
    assert verdict(folder, "fastembed", pooling="mean", normalize=True) is Verdict.DIFFERENT
    assert verdict(folder, "fastembed", pooling="last", normalize=False) is Verdict.DIFFERENT
    assert verdict(folder, "vllm==0.23", pooler_config={"pooling_type": "LAST"}) is Verdict.SAME
    assert verdict(folder, "vllm==0.33", pooler_config={"pooling_type": "MEAN"}) is Verdict.DIFFERENT


def test_the_mean_by_root_of_length_has_the_direction_of_the_mean(tmp_path: Path) -> None:
    """Normalized, mean_sqrt_len_tokens is the mean; not so without Normalize, or with a layer between."""
    names: dict[str, dict[str, Any]] = {
        "normalize": {"normalize": True},
        "plain": {},
        "dense": {"normalize": True, "dense": True},
    }
    pooled = {
        name: pooled_as(read_config(write_model(tmp_path / name, mode="mean_sqrt_len_tokens", **settings)))
        for name, settings in names.items()
    }
    assert pooled == {"normalize": ("mean",), "plain": ("mean_sqrt_len_tokens",), "dense": ("mean_sqrt_len_tokens",)}


def test_exit_codes(tmp_path: Path) -> None:
    """Exit code 0 is the same everywhere asked, 1 different somewhere, 3 unknown; the JSON says as much."""
    old = write_model(tmp_path / "old", "old", normalize=True)
    new = write_model(tmp_path / "new", "new", normalize=True)
    same = ("--server", "sentence-transformers==5.3", "--server", "text-embeddings-inference")
    assert run("config", "check", old, *same).code == 0
    failing = run("config", "check", new, *same, "--json")
    assert failing.code == 1
    assert [report["verdict"] for report in json.loads(failing.out)] == ["fails to load", "fails to load"]
    assert run("config", "check", new, "--server", "vllm").code == 3
    assert run("config", "check", new, "--server", "llama.cpp", "--pooling", "mean").code == 3


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "server": (("--server", "ollama"), "--server must be among text-embeddings-inference, .*, got 'ollama'"),
    "version": (("--server", "vllm==new"), "--server must be a name with ==VERSION, .*, got 'vllm==new'"),
    "no versions": (("--server", "llama.cpp==b100"), "--server must not give a version of llama.cpp, .*"),
    "pooling": (("--pooling", MedianPooling.mode), f"--pooling must be one of .*, got '{MedianPooling.mode}'"),
    "broken JSON": (("--pooler-config", "{"), "--pooler-config must be JSON, got {: .*"),
    "no table": (("--pooler-config", "[1]"), "--pooler-config must be a JSON table, got .*"),
    "unknown key": (("--pooler-config", '{"task": "x"}'), "--pooler-config must hold only .*, got 'task'"),
    "wrong type": (("--pooler-config", '{"pooling_type": 3}'), "--pooler-config must have a string in .*"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_are_refused(tmp_path: Path, name: str) -> None:
    """An unknown server, version, pooling or pooler configuration is refused by its option."""
    arguments, sentence = REFUSED[name]
    assert_refused(run("config", "check", write_model(tmp_path), *arguments), sentence)


def test_models_without_a_pooling_are_refused(tmp_path: Path) -> None:
    """A plain folder names no pooling that servers can be compared with."""
    write(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(InvalidValueError, match="model must name a pooling, and has none"):
        check_servers(read_config(tmp_path))
    assert_refused(run("config", "check", tmp_path), "FOLDER must name a pooling, and has none .*")


def test_light(tmp_path: Path) -> None:
    """`config check` loads neither torch nor numpy nor transformers, and neither typer nor pydantic for its options."""
    write_model(tmp_path)
    script = f"""
import sys
from maskpool import cli
sys.argv = ["maskpool", "config", "check", {str(tmp_path)!r}]
try: cli.main()
finally: print([name for name in {HEAVY} if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr
    assert ran.returncode == 1


WRONG: dict[tuple[str, ...], str] = {
    ("nonsense",): "argument COMMAND: invalid choice: 'nonsense' .*; maskpool config --help lists what is accepted",
    ("show",): "the following arguments are required: FOLDER; maskpool config show --help lists what is accepted",
    ("show", ""): "argument FOLDER: must not be empty; maskpool config show --help .*",
    ("show", "a", "b"): "unrecognized arguments: b; maskpool config --help .*",
    ("check", "a", "--server"): "argument --server: expected one argument; maskpool config check --help .*",
    ("check", "a", "--serv", "vllm"): "unrecognized arguments: --serv vllm; maskpool config --help .*",
    ("convert", "a"): "the following arguments are required: OUT, --for; maskpool config convert --help .*",
    (
        "convert",
        "a",
        "b",
        "--for",
        "vllm",
    ): "FOLDER must be the folder of a model, .*",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_command_lines_are_refused(arguments: tuple[str, ...]) -> None:
    """A wrong command line is refused in one sentence that names the command whose help says more."""
    assert_refused(run("config", *arguments), WRONG[arguments])


def test_help_is_printed() -> None:
    """Without a command, the help is printed and nothing else; with --help, the exit code is 0."""
    for arguments, code in (((), 2), (("--help",), 0), (("check", "--help"), 0)):
        ran = run("config", *arguments)
        assert (ran.code, ran.err) == (code, "")
        assert ran.out.startswith("usage: maskpool config")
    assert "--server NAME[==VERSION]" in ran.out
    listed = run()
    assert (listed.code, listed.err) == (2, "")
    assert "config" in listed.out


def test_options_of_the_command_come_first(tmp_path: Path) -> None:
    """Behind options of the command itself, config runs as without them."""
    folder = write_model(tmp_path)
    for arguments in (("check", folder, "--server", "vllm", "--json"), ("show", folder), ("check", "--help")):
        assert run("--debug", "config", *arguments) == run("config", *arguments)


def test_ctrl_c_stops_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with one sentence and exit code 130."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("maskpool.config.reading.read_config", stop)
    for debug in ((), ("--debug",)):
        ran = run(*debug, "config", "show", tmp_path)
        assert (ran.code, ran.out, ran.err) == (130, "", "maskpool: stopped\n")


@pytest.mark.full
def test_the_readers_find_wrong_verdicts(tmp_path: Path) -> None:
    """The comparison with readers agrees with the installed host, and finds a reader that always pools by the mean."""
    folders = server_readers.save(tmp_path / "new", tiny.save_model(tmp_path / "plain"), MODES)
    host = server_readers.READERS["sentence-transformers"]
    program = [sys.executable, "-c"]
    assert list(server_readers.disagreements(host, program, folders, "6.2")) == []
    by_mean = host.code.replace(
        "return SentenceTransformer(folder, device='cpu')",
        "model = SentenceTransformer(folder, device='cpu'); model[1].pooling_mode = 'mean'; return model",
    ).replace("def read(folder): ", "def read(folder):\n    ")
    wrong = server_readers.disagreements(replace(host, code=by_mean), program, folders, "6.2")
    modes = {words.partition(",")[0].partition("/")[2].partition("-")[0] for words, _, _ in wrong}
    assert modes == set(MODES) - {"mean"}


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # torch's tracer warns while it writes the ONNX files
@pytest.mark.parametrize("name", [name for name in server_readers.READERS if name != "sentence-transformers"])
def test_the_table_agrees_with_a_reader(name: str, tmp_path: Path) -> None:
    """What a server's own code computes from saved models is what the table says; READERS says how to install it."""
    environment = Path(os.environ.get("MASKPOOL_READERS", "")) / name
    if not os.environ.get("MASKPOOL_READERS") or not environment.is_dir():
        pytest.skip(f"MASKPOOL_READERS does not name a folder with the environment {name}")
    reader = server_readers.READERS[name]
    folders = server_readers.save_for(reader, tmp_path)
    assert list(server_readers.disagreements(reader, server_readers.program_in(environment, name), folders)) == []
