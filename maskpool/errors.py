"""The errors that maskpool raises on purpose.

Each derives from `MaskpoolError`, and also from the built-in error a caller would catch.
"""

import re

_LONGEST_WORD = 400


def printable(message: str) -> str:
    """A message on one line, with control characters escaped and very long words cut."""
    letters = (letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in message)
    return re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:200]}…{word[0][-100:]}", "".join(letters))


class MaskpoolError(Exception):
    """Base of all errors that maskpool raises on purpose.

    Attributes:
        argument: The name of the argument that was refused; None if no single argument was.
    """

    argument: str | None = None


class UserError(MaskpoolError):
    """An error the user can fix: the message names the argument or file and what would be accepted."""


class _ArgumentError(UserError):
    """An argument is refused. The message is the argument's name followed by the problem.

    Args:
        argument: The name of the argument.
        problem: What was expected, what was given, and the way out: ``"must be …, got …"``.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)  # both, because pickle calls the class with them again
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        """Return the sentence."""
        return f"{self.argument} {self.problem}"


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
    """An attribute that is fixed when its object is made was set."""


class ExistsError(_ArgumentError, FileExistsError):
    """There is something at a path that must be new."""


class FolderError(UserError, ValueError):
    """A folder or file is malformed, or asks for something that opening it must never do.

    Args:
        message: The words, in which control characters are escaped and very long words are cut: the folder's author
            chose what is quoted.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class WeightsError(FolderError, RuntimeError):
    """Weights belong to another model; torch raises RuntimeError for these."""


class NotFoundError(UserError, FileNotFoundError):
    """There is no such model, folder or file."""


class DeviceError(UserError, ValueError):
    """Torch cannot use the device."""


class RequirementError(UserError, ImportError):
    """A package is missing, or has a version that the model does not accept."""
