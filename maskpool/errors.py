"""Define the errors that maskpool raises on purpose.

Each error derives from `MaskpoolError` and from the built-in error that a caller would catch:

| error | also a | raised when |
|---|---|---|
| `InvalidValueError` | `ValueError` | an argument has a value that is not accepted |
| `InvalidTypeError` | `TypeError` | an argument has a type or dtype that is not accepted |
| `DeviceError` | `ValueError` | torch cannot use the device |
| `DataError` | `ValueError` | texts, labels, vectors or results do not allow the requested computation |
| `FolderError` | `ValueError` | a folder or file is malformed, or asks for something that is never done |
| `WeightsError` | `FolderError`, `RuntimeError` | weights belong to another model |
| `NotFoundError` | `FileNotFoundError` | a model, folder or file does not exist |
| `ExistsError` | `FileExistsError` | a path that must be new exists already |
| `ReadOnlyError` | `AttributeError` | a read-only attribute was set |
| `StorageError` | `OSError` | a folder or file cannot be read, written, locked or downloaded |
| `EndpointError` | `OSError` | a server cannot be reached, refuses, or answers with something other than vectors |
| `RequirementError` | `ImportError` | a package is missing or has the wrong version |
| `DivergedError` | `ArithmeticError` | a loss or validation score of a training run is not finite |
| `UnfinishedError` | `RuntimeError` | a study has no results yet |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_LONGEST_WORD = 400


def printable(message: str) -> str:
    """Put a message on one line, escape control characters and cut very long words."""
    letters = (letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in message)
    return re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:200]}…{word[0][-100:]}", "".join(letters))


class MaskpoolError(Exception):
    """The base class of all errors that maskpool raises on purpose.

    The message is the name of the argument, if there is one, and the problem: ``"k must be at least 1, got 0"``.

    Args:
        problem: What was expected, what was given, and the way out.
        argument: The name of the refused argument.

    Attributes:
        problem: The problem, as passed.
        argument: The name of the refused argument; None if no single argument was refused.
    """

    def __init__(self, problem: str = "", *, argument: str | None = None) -> None:
        self.args = (problem,)  # not super().__init__(problem), which torch.compile cannot trace
        self.problem = problem
        self.argument = argument

    def __str__(self) -> str:
        """Return the message."""
        return self.problem if self.argument is None else f"{self.argument} {self.problem}"


class _ArgumentError(MaskpoolError):
    """An argument is refused. The message is the argument's name followed by the problem.

    Args:
        argument: The name of the argument.
        problem: What was expected, what was given, and the way out: ``"must be …, got …"``.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(problem, argument=argument)
        self.args = (argument, problem)  # pickle calls the class with these arguments


class InvalidValueError(_ArgumentError, ValueError):
    """An argument has the right type and a value that is not accepted.

    Example:
        >>> raise InvalidValueError("k", "must be a positive integer, got 0")
        Traceback (most recent call last):
        maskpool.errors.InvalidValueError: k must be a positive integer, got 0
    """


class InvalidTypeError(_ArgumentError, TypeError):
    """An argument has a type or dtype that is not accepted.

    Example:
        >>> raise InvalidTypeError("attention_mask", "must be a torch.Tensor, got list")
        Traceback (most recent call last):
        maskpool.errors.InvalidTypeError: attention_mask must be a torch.Tensor, got list
    """


class ReadOnlyError(_ArgumentError, AttributeError):
    """A read-only attribute was set."""


class ExistsError(_ArgumentError, FileExistsError):
    """A path that must be new exists already."""


class DeviceError(MaskpoolError, ValueError):
    """Torch cannot use the device."""


class DataError(MaskpoolError, ValueError):
    """Texts, labels, vectors or results do not allow the requested computation with any arguments."""


class FolderError(MaskpoolError, ValueError):
    """A folder or file is malformed, or asks for something that opening it must never do.

    Args:
        problem: The problem. Control characters are escaped and very long words are cut, because the message quotes
            text that the folder's author chose.
        argument: The argument that named the folder.
    """

    def __init__(self, problem: str = "", *, argument: str | None = None) -> None:
        super().__init__(printable(problem), argument=argument)


class WeightsError(FolderError, RuntimeError):
    """Weights belong to another model; torch raises RuntimeError for these."""


class NotFoundError(MaskpoolError, FileNotFoundError):
    """A model, folder or file does not exist."""


class StorageError(MaskpoolError, OSError):
    """A folder or file cannot be read, written, locked or downloaded."""


class EndpointError(MaskpoolError, OSError):
    """A server cannot be reached, refuses a request, or answers with something other than vectors.

    Args:
        problem: The problem. Control characters are escaped and very long words are cut, because the message quotes
            the server's answer.
        argument: The argument that named the server.
        status: The HTTP status of a refusal.
    """

    def __init__(self, problem: str = "", *, argument: str | None = None, status: int | None = None) -> None:
        super().__init__(printable(problem), argument=argument)
        self.status = status


class RequirementError(MaskpoolError, ImportError):
    """A package is missing, or has a version that the model does not accept."""


class DivergedError(MaskpoolError, ArithmeticError):
    """A loss or validation score of a training run is NaN or infinite."""


class UnfinishedError(MaskpoolError, RuntimeError):
    """A study has no results yet; running it again resumes it."""


def require_numpy() -> None:
    """Raise an error that says what to install if numpy is missing, which the poolings do not need.

    Raises:
        RequirementError: It is missing; the message gives the pip command.
    """
    try:
        import numpy  # noqa: F401  # only whether it is installed
    except ModuleNotFoundError:
        raise RequirementError('numpy is not installed; get it with: pip install "maskpool[st]"') from None


@contextmanager
def rename_arguments(names: Mapping[str, str]) -> Iterator[None]:
    """Rename the arguments of an error: a caller knows the arguments of the outer function, not of inner calls.

    These are the refused argument, and others that the problem names in backquotes.

    Args:
        names: The new name of each argument.

    Example:
        >>> with rename_arguments({"name": "models"}):
        ...     raise InvalidValueError("name", "must be a folder, got 'x'")
        Traceback (most recent call last):
        maskpool.errors.InvalidValueError: models must be a folder, got 'x'
    """
    try:
        yield
    except MaskpoolError as error:
        if error.argument is not None:
            error.argument = names.get(error.argument, error.argument)
        # A file before a colon is named once, by the refused argument.
        error.problem = re.sub(
            r"`(\w+)`", lambda other: names.get(other[1], other[0]).rpartition(": ")[2], error.problem
        )
        raise
