"""Test that hostile folders are refused, and that opening them never runs their code or reads files outside."""

from __future__ import annotations

import builtins
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskpool.errors import MaskpoolError
from maskpool.integrations.sentence_transformers import load
from tests.bench import tiny
from tests.command import run
from tests.hosts import needs
from tests.matrix import FULL, sampled
from tests.security.bases import TEXTS, at_most, host_vectors
from tests.security.entrances import ENTRANCES
from tests.security.hostile import CASES, HOST, MODEL, PLAIN, SECRET, Case, canary, nothing

_FEWEST = 80
_OPENED_ANYWAY: list[str] = []  # filled by the audit hook
_WATCHING = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        named = os.fsdecode(arguments[0])
        # A link is opened by its own name, unless the call refuses links.
        follows = not arguments[2] & getattr(os, "O_NOFOLLOW", 0)
        place = os.path.realpath(named if follows else os.path.dirname(named))
        if SECRET in named or SECRET in place:
            _OPENED_ANYWAY.append(named)
    if _WATCHING and event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        _OPENED_ANYWAY.append(event)


sys.addaudithook(_watch)


def _damage(case: Case, bases: Path, at: Path, twin: bool = False) -> tuple[Path, Path]:
    """Make a damaged copy of a base, and next to it the folder with the secrets and the canary."""
    outside = at / SECRET
    outside.mkdir(parents=True)
    for file in ("vocab.txt", "vocab.json", "merges.txt", "config.json", "tokenizer.json", "spm.model"):
        (outside / file).write_text("{}")
    folder = at / case.base
    shutil.copytree(bases / case.base, folder)
    (case.twin if twin else case.change)(folder, outside)
    return folder, outside


_STRACE = shutil.which("strace") is not None


@pytest.mark.parametrize("name", CASES)
def test_hostile_folders_are_refused(name: str, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No entrance runs a hostile folder's code, reads outside it or asks; those that read the field refuse it."""
    global _WATCHING
    case = CASES[name]
    folder, outside = _damage(case, bases, tmp_path)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asked on the terminal"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    _OPENED_ANYWAY.clear()
    # By default the traced test below covers the other entrances.
    for entrance in case.refused if _STRACE and not FULL else case.tried:
        refused = None
        _WATCHING = True
        try:
            with at_most(20):
                ENTRANCES[entrance](str(folder))
        except MaskpoolError as error:
            refused = error
        finally:
            _WATCHING = False
        assert not canary(outside).exists(), f"{entrance} ran the folder's code"
        assert not _OPENED_ANYWAY, f"{entrance} read or ran {_OPENED_ANYWAY}"
        if entrance in case.refused:
            assert refused is not None, f"{entrance} opened the folder"
            assert case.names in str(refused), f"{entrance} says: {refused}"
            assert "\n" not in str(refused)
    assert "evil" not in sys.modules


_TRACES = pytest.mark.skipif(not _STRACE, reason="strace is needed to trace system calls")


def _traced(log: Path, *arguments: str) -> list[str]:
    """Trace the system calls of a Python process that open files or start programs, with paths of descriptors."""
    calls = "open,openat,openat2,creat,execve,execveat"
    command = ["strace", "-f", "-y", "--seccomp-bpf", "-qq", "-e", f"trace={calls}", "-s", "4096", "-o", str(log)]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, sys.executable, "-W", "ignore", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return log.read_text(errors="replace").splitlines()


def _secrets(lines: list[str]) -> list[str]:
    """Select the calls that name a secret or whose descriptor is a secret."""
    named, opened = rf'open\w*\(.*"[^"]*{SECRET}', rf"= \d+<[^>]*{SECRET}"
    return [line for line in lines if re.search(f"{named}|{opened}", line)]


@pytest.mark.full  # the default tests use an audit hook, which does not see native code
@_TRACES
def test_nothing_outside_is_read_or_run(bases: Path, tmp_path: Path) -> None:
    """The system calls of all entrances on all hostile folders never open a secret or start a program."""
    for number, case in enumerate(CASES.values()):
        _damage(case, bases, tmp_path / str(number))
    lines = _traced(tmp_path / "calls", "-m", "tests.security.entrances", str(tmp_path))
    assert len(lines) > 1000, "the calls were traced"
    assert sum(f"{tmp_path}/" in line for line in lines) > len(CASES), "and those of the folders among them"
    secret = _secrets(lines)
    assert not secret, secret[:5]
    started = [line for line in lines if "execve" in line and f'"{sys.executable}"' not in line]
    assert not [line for line in started if str(tmp_path) in line], started[:5]
    assert not list(tmp_path.glob("*/*/canary"))


def _link_to_a_secret(at: Path) -> Path:
    (at / SECRET).mkdir()
    (at / SECRET / "a").write_text("{}")
    (at / "link").symlink_to(at / SECRET / "a")
    return at / "link"


@_TRACES
def test_the_trace_sees_a_read_through_a_link(tmp_path: Path) -> None:
    """Control: the trace shows a link that is opened without vetting."""
    path = _link_to_a_secret(tmp_path)
    lines = _traced(tmp_path / "calls", "-c", "import sys; open(sys.argv[1]).close()", str(path))
    assert len(_secrets(lines)) == 1


def test_the_watch_sees_a_read_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the audit hook sees a link that is opened without vetting."""
    path = _link_to_a_secret(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "_WATCHING", True)
    _OPENED_ANYWAY.clear()
    path.read_bytes()
    assert [str(path)] == _OPENED_ANYWAY
    _OPENED_ANYWAY.clear()


# Without the twins that equal their base: `test_whole_models_open` opens the bases.
TWINS = [name for name, case in CASES.items() if case.twin is not nothing]


_ALSO = ("Encoder.load", "SentenceEmbedder")  # read the same files as `load`, or fewer, through the same checks


_NEED_NEWER_HOSTS = {
    "config.json quantization_config": ("transformers", "5.23"),
    "tokenizer of another kind": ("transformers", "5.23"),
    "tokenizer spm_file": ("transformers", "5.23"),
    "words map": ("sentence-transformers", "6.2"),
}


@pytest.mark.parametrize(
    ("number", "name"),
    [
        pytest.param(
            number,
            name,
            marks=needs(*_NEED_NEWER_HOSTS[name], "older versions fail on it") if name in _NEED_NEWER_HOSTS else (),
        )
        for number, name in sampled(enumerate(name for name in TWINS if CASES[name].refused[0] in MODEL), every=3)
    ],
)
def test_harmless_twins_open(number: int, name: str, bases: Path, tmp_path: Path) -> None:
    """The harmless version of a hostile model opens through every entrance and gives the host's vectors.

    All entrances use `load`, `Encoder.load` or `SentenceEmbedder`. By default only every fourth twin that `load` opens
    is also opened with the other two.
    """
    case = CASES[name]
    folder, _ = _damage(case, bases, tmp_path, twin=True)
    for entrance in _ALSO:
        if entrance in case.refused and (FULL or "load" not in case.refused or number % 4 == 0):
            ENTRANCES[entrance](str(folder))
    if "load" in case.refused:
        expected = host_vectors(bases / case.base)
        np.testing.assert_allclose(load(str(folder), device="cpu").encode(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused[0] not in MODEL])
def test_other_harmless_twins_open(name: str, bases: Path, tmp_path: Path) -> None:
    """The harmless version of a hostile head, cache, weights file or study opens."""
    case = CASES[name]
    folder, _ = _damage(case, bases, tmp_path, twin=True)
    for entrance in case.refused:
        if entrance == "cache npy":
            entrance = "cache"
        if entrance == "vectors":
            np.save(folder / "v.npy", np.zeros((1, 1), np.float32))
        ENTRANCES[entrance](str(folder))


OPENED_BY = {
    "model": (*MODEL, "SentenceEmbedder"),
    "learned": (*MODEL, "SentenceEmbedder"),
    "router": HOST,
    "words": HOST,
    "wrapped": HOST,
    "static": ("load", "audit"),  # it has no pooling to replace
    "plain": PLAIN,
}


_WRAPPED = needs("sentence-transformers", "6.2", "older hosts cannot tokenize for it, which is refused")


@pytest.mark.parametrize(
    ("base", "entrance"),
    [
        pytest.param(base, entrance, marks=_WRAPPED if base == "wrapped" else ())
        for base, entrances in OPENED_BY.items()
        for entrance in entrances
    ],
)
def test_whole_models_open(base: str, entrance: str, bases: Path) -> None:
    """An unchanged model opens through every entrance for its kind."""
    ENTRANCES[entrance](str(bases / base))


COMMANDS: dict[str, list[str]] = {
    "model_args.weights_only": ["audit", "{folder}"],
    "words question": ["audit", "{folder}", "--explain"],
    "tree hidden path": ["audit", "{folder}", "--json"],
    "config.json nested auto_map": ["bench", "--model", "{folder}", "--pooling", "mean", "--out", "{out}"],
    "head payload": ["bench", "--model", "{model}", "--data", "{data}", "--pooling", "{folder}", "--out", "{out}"],
    "study file pipe": ["bench", "--study", "{folder}/study.toml", "--out", "{out}"],
    "study link study.json": ["bench", "report", "{folder}"],
}


def _arguments(name: str, bases: Path, at: Path) -> tuple[list[str], Path]:
    folder, outside = _damage(CASES[name], bases, at)
    places = {"folder": folder, "out": at / "out", "model": bases / "plain", "data": at / "data.csv"}
    tiny.write_csv(at / "data.csv", tiny.make_texts(20))
    return [argument.format(**places) for argument in COMMANDS[name]], outside


def _assert_refused(code: int, out: str, err: str) -> None:
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    sentences = [line for line in err.splitlines() if line.startswith("maskpool: ")]
    assert sentences == err.splitlines()[-1:], err  # progress comes before the error
    assert "unexpected" not in sentences[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_refuse_in_one_sentence(
    name: str, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands end with exit code 2 and one sentence, without running code or asking."""
    arguments, outside = _arguments(name, bases, tmp_path)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asked on the terminal"))
    monkeypatch.chdir(tmp_path)
    ran = run(*arguments)
    _assert_refused(ran.code, ran.out, ran.err)
    assert not canary(outside).exists()


@pytest.mark.full  # starts a process; the default tests run the commands in this process
@pytest.mark.parametrize(
    "name", [*[*COMMANDS][:1], *(pytest.param(name, marks=pytest.mark.full) for name in [*COMMANDS][1:])]
)
def test_the_commands_refuse_in_a_process(name: str, bases: Path, tmp_path: Path) -> None:
    """The commands do the same in a separate process, and do not read the answers on standard input."""
    arguments, outside = _arguments(name, bases, tmp_path)
    ran = subprocess.run(
        [sys.executable, "-m", "maskpool", *arguments],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "500"},
        input="y\n" * 9,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    _assert_refused(ran.returncode, ran.stdout, ran.stderr)
    assert not canary(outside).exists()


def test_there_are_enough_hostile_folders() -> None:
    """There are at least eighty hostile folders, and on average at least two entrances refuse each."""
    assert len(CASES) >= _FEWEST
    assert sum(len(case.refused) for case in CASES.values()) >= 2 * _FEWEST
