"""Handle the end of a command: exit codes, error messages, Ctrl-C and closed pipes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from maskpool.errors import MaskpoolError, RequirementError, printable

# Exit codes. Only the audit ends with LEAK or UNKNOWN.
SUCCESS, LEAK, FAILURE, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 130


class Debug:
    """Hold whether errors show their traceback."""

    wanted = False


class CommandError(MaskpoolError, ValueError):
    """Options exclude each other, or an argument of the command is not accepted."""


@contextlib.contextmanager
def stoppable(out: Path | None = None, count: Callable[[Path], str] | None = None) -> Iterator[None]:
    """Turn Ctrl-C into one sentence and exit code 130.

    Args:
        out: The folder of a run that can be resumed.
        count: Says what is finished in the folder. Default: the cells of a study.
    """
    try:
        yield
    except KeyboardInterrupt:
        import typer

        words = "stopped"
        if out is not None:
            finished = (count or _finished_cells)(out)
            words = f"stopped; {finished} are in {out}: the same command resumes from there"
        print(f"maskpool: {words}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except EOFError as error:
        import typer

        raise typer.Abort from error  # typer does the same and also prints an empty line


def _finished_cells(out: Path) -> str:
    cells = out / "cells.jsonl"  # counted as lines: the code that reads cells may not be loaded yet
    count = cells.read_bytes().count(b"\n") if cells.is_file() else 0
    return f"{count} finished cells"


def not_empty(text: str) -> Path:
    """Read a path from the command line; an empty one, as of an unset variable, would be the working folder.

    Raises:
        BadParameter: The path is empty.
    """
    if not text:
        import typer

        raise typer.BadParameter("must not be empty")
    return Path(text)


def was_given(context: Any, name: str) -> bool:  # Any: a typer.Context; some commands run without typer
    """Return whether a parameter was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def spell(name: str) -> str:
    """Return the option of a parameter."""
    return "--" + name.replace("_", "-").removeprefix("as-")


@contextlib.contextmanager
def needs_extra(extra: str = "bench") -> Iterator[None]:
    """Turn the error for a missing package into one that says which extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise RequirementError(f'{error.name} is not installed; get it with: pip install "maskpool[{extra}]"') from None


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Turn argument errors of other libraries into a CommandError."""
    try:
        yield
    except (TypeError, ValueError, ImportError) as error:
        if isinstance(error, MaskpoolError):
            raise
        raise CommandError((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def sentence(error: BaseException) -> str:
    """Describe an error in one sentence."""
    if isinstance(error.__cause__, EOFError):  # of the Abort that stoppable raises
        error = error.__cause__
    if isinstance(error, MaskpoolError):
        return printable(str(error))
    words = printable(next(iter(str(error).strip().splitlines()), ""))
    return f"unexpected {type(error).__name__}{': ' + words if words else ''}; maskpool --debug shows the traceback"


def wrong_usage(error: BaseException) -> str:
    """Describe a wrong command line in one line; typer would draw a box. Empty if the help was shown instead."""
    problem = " ".join(str(error.format_message()).split()).rstrip(".")  # type: ignore[attr-defined]  # typer's own class is private
    if not problem:
        return ""
    command = getattr(getattr(error, "ctx", None), "command_path", "maskpool")
    return printable(f"maskpool: {problem}; {command} --help lists what is accepted") + "\n"


def is_broken_pipe(error: BaseException) -> bool:
    """Return whether the reader closed the output; typer turns that error into SystemExit."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(cause, OSError) and cause.errno == errno.EPIPE


def discard_output() -> None:
    """Redirect the output to the null device: flushing a broken pipe at exit would change the exit code."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]  # suppressed
