"""Load models safely: the arguments of every load, and errors that name the file."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maskpool.errors import FolderError, InvalidTypeError, InvalidValueError, MaskpoolError

# With these arguments transformers does not ask on the terminal and does not contact the hub.
EXPLICIT: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


_QUESTIONS = threading.Lock()
_OPENING: list[Any] = []  # for each opening in progress, the seconds that transformers waits for an answer


@contextmanager
def no_questions() -> Iterator[None]:
    """Refuse a folder's code instead of letting transformers ask on the terminal whether to run it.

    Some loaders of transformers do not pass on ``trust_remote_code=False`` to the loaders they call. While this context
    is open, an undecided value is an error in all threads.
    """
    module: Any = importlib.import_module("transformers.dynamic_module_utils")
    with _QUESTIONS:
        _OPENING.append(_OPENING[0] if _OPENING else module.TIME_OUT_REMOTE_CODE)
        module.TIME_OUT_REMOTE_CODE = 0  # transformers then raises an error instead of asking
    try:
        yield
    finally:
        with _QUESTIONS:
            seconds = _OPENING.pop()
            if not _OPENING:
                module.TIME_OUT_REMOTE_CODE = seconds


@contextmanager
def as_folder_error(what: str) -> Iterator[None]:
    """Turn every error inside the block into a FolderError that says what was opened.

    Args:
        what: The beginning of the message.
    """
    try:
        yield
    except (InvalidTypeError, InvalidValueError) as error:  # about settings in the folder, not about the caller's
        raise FolderError(f"{what}: {reason_of(error)}") from error
    except MaskpoolError:
        raise
    # Malformed files raise many types of errors, and panics of tokenizers, which are not subclasses of Exception.
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise FolderError(f"{what}: {reason_of(error)}") from error


@contextmanager
def no_panics(what: str) -> Iterator[None]:
    """Turn panics of a tokenizer, which ``except Exception`` does not catch, into a FolderError; pass other errors on.

    Args:
        what: The beginning of the message.
    """
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise FolderError(f"{what}: {reason_of(error)}") from error


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic of the tokenizers package, which does not derive from Exception."""
    return type(error).__name__ == "PanicException"


def reason_of(error: BaseException) -> str:
    """Return the reason for an error in one line."""
    if "ignore_mismatched_sizes" in str(error):  # the host's message recommends an option that would hide the problem
        return "its weights have other shapes than its config.json describes: the two belong to different models"
    if "Padding_idx must be within" in str(error):
        return "its config.json must have in pad_token_id the id of a token, less than vocab_size: correct the field"
    # transformers raises it for a field of a configuration.
    wrong_type = re.search(r"Validation error for field '([^']+)'", str(error))
    if wrong_type:
        about = re.search(r"expected (\S+), got (\S+)", str(error))
        types = f"a value of type {about[1]}, got {about[2]}" if about else "a value of another type"
        return f"its config.json must have in {wrong_type[1]} {types}: correct or remove the field"
    lines = [line.strip() for line in str(error).strip().split("\n") if line.strip()]
    text = lines[0] if lines else type(error).__name__
    # The next line names the weights that do not fit.
    return " ".join(lines[:2]) if text.endswith(":") and len(lines) > 1 else text
