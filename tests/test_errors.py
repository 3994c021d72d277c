"""Test the error classes, their arguments, and the wording of messages."""

from __future__ import annotations

import ast
import inspect
import io
import pickle
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskpool
from maskpool import errors
from maskpool.errors import InvalidValueError, MaskpoolError, rename_arguments

ROOT = Path(maskpool.__file__).parent
# Below the command: all files except the package of the command and `python -m maskpool`.
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT / "cli" and path.name != "__main__.py"]
# These name the options of servers, and how to run a converter.
OF_SERVERS = {ROOT / "config" / name for name in ("servers/table.py", "converting.py", "gguf_file.py")}
CONVERTED = [
    path
    for path in SOURCES
    if path.relative_to(ROOT).parts[0] in ("bench", "encoder", "audit", "trust", "weights.py", "pads", "plans.py")
]
CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, MaskpoolError) and not cls.__name__.startswith("_")
]
COMMAND_WORDS = re.compile(
    r"""
      (?<![\w-])--(?=[a-z{]|$)            # an option, also one whose name an f-string fills in
    | (?<!pip\ )\bcommands?\b
    | \bmaskpool\ (?:bench|audit)\b
    | \bNAME_OR_PATH\b | \bDIR(?:_[AB])?\b
    """,
    re.VERBOSE,
)
BARE = {"Exception", "ValueError", "TypeError", "RuntimeError", "OSError", "ImportError", "FileNotFoundError"}


def words_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield each string literal, including docstrings and f-strings, and each comment, with its line number."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):  # replacement fields become {}
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def bare_raises(source: str) -> Iterator[tuple[int, str]]:
    """Yield each ``raise`` of a built-in error, with its line number."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(raised, ast.Name) and raised.id in BARE:
                yield node.lineno, raised.id


def places(hits_by_path: dict[Path, list[tuple[int, str]]]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{line}: {what}" for path, hits in hits_by_path.items() for line, what in hits]


def test_nothing_below_the_command_knows_its_words() -> None:
    """No string, docstring or comment outside ``cli/`` contains an option or the name of a command."""
    assert len(SOURCES) > 50
    hits = {
        path: [(line, words) for line, words in words_of(path.read_text("utf-8")) if COMMAND_WORDS.search(words)]
        for path in SOURCES
        if path not in OF_SERVERS
    }
    assert places(hits) == []


@pytest.mark.parametrize(
    "source",
    [
        '"--data must be"',
        'f"--{name} must be"',
        '"--" + name',
        '"""Of --hub."""',
        "1  # --limit",
        "1  # the same command",
    ],
)
def test_words_of_the_command_are_found(source: str) -> None:
    """Options are found in strings, f-strings, docstrings and comments."""
    assert any(COMMAND_WORDS.search(words) for _, words in words_of(source))


@pytest.mark.parametrize(
    "source", ['"a -- b"', '"<!-- x -->"', '"models--owner"', "# ---- a rule", '"the pip command"']
)
def test_other_dashes_are_not_options(source: str) -> None:
    """Dashes between words, in comments and in file names are not options, and pip's command is not maskpool's."""
    assert not any(COMMAND_WORDS.search(words) for _, words in words_of(source))


def test_no_bare_built_in_error_is_raised() -> None:
    """The packages of the bench, encoder, audit and trust raise only errors of maskpool."""
    assert len(CONVERTED) > 40
    assert places({path: list(bare_raises(path.read_text("utf-8"))) for path in CONVERTED}) == []


def test_bare_raises_are_found() -> None:
    """A raised class and a raised instance are found; maskpool's errors and AssertionError are not."""
    source = "raise ValueError\nraise OSError(1)\nraise InvalidValueError('a', 'b')\nraise AssertionError\nraise"
    assert list(bare_raises(source)) == [(1, "ValueError"), (2, "OSError")]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_errors_are_built_in_ones_too(kind: type[MaskpoolError]) -> None:
    """Each error derives from a built-in error other than Exception, and the module's table lists it."""
    if kind is MaskpoolError:
        return
    built_in = ValueError | TypeError | OSError | ImportError | RuntimeError | AttributeError | ArithmeticError
    assert issubclass(kind, built_in)
    assert f"| `{kind.__name__}` |" in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_errors_survive_pickle(kind: type[MaskpoolError]) -> None:
    """An error keeps its message and argument when it is pickled, also if the argument was renamed."""
    error = kind("k", "must be 1") if issubclass(kind, errors._ArgumentError) else kind("must be 1", argument="k")
    with pytest.raises(kind) as caught, rename_arguments({"k": "neighbours"}):
        raise error
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is kind
    assert (str(copy), copy.argument, copy.problem) == ("neighbours must be 1", "neighbours", "must be 1")


def test_only_named_arguments_are_renamed() -> None:
    """Errors without an argument, for other arguments, and from other libraries pass unchanged."""
    for error in (MaskpoolError("k is wrong"), InvalidValueError("j", "is wrong"), ValueError("k is wrong")):
        with pytest.raises(type(error)) as caught, rename_arguments({"k": "neighbours"}):
            raise error
        assert str(caught.value) == str(error)
    assert MaskpoolError("whole message").argument is None
