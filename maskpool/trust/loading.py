"""What every load passes on explicitly, and what is refused of what came out."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from maskpool.errors import DeviceError, FolderError, InvalidTypeError, InvalidValueError, MaskpoolError, WeightsError

# Explicit: transformers neither asks on the terminal nor goes to the hub.
EXPLICIT: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


_QUESTIONS = threading.Lock()
_OPENING: list[Any] = []  # for each opening in progress, the seconds that transformers waits for an answer


@contextmanager
def no_questions() -> Iterator[None]:
    """Refuse code of a folder where transformers would ask on the terminal whether to run it.

    Some loaders of transformers do not pass on ``trust_remote_code=False`` to those inside of them. An undecided value
    is an error while this context is open, in all threads.
    """
    module: Any = importlib.import_module("transformers.dynamic_module_utils")
    with _QUESTIONS:
        _OPENING.append(_OPENING[0] if _OPENING else module.TIME_OUT_REMOTE_CODE)
        module.TIME_OUT_REMOTE_CODE = 0  # transformers then raises an error in place of the question
    try:
        yield
    finally:
        with _QUESTIONS:
            seconds = _OPENING.pop()
            if not _OPENING:
                module.TIME_OUT_REMOTE_CODE = seconds


@contextmanager
def as_folder_error(what: str) -> Iterator[None]:
    """Raise whatever goes wrong inside as a FolderError that says what was opened.

    Args:
        what: The beginning of the message.
    """
    try:
        yield
    except (InvalidTypeError, InvalidValueError) as error:  # of settings in the folder, not of the caller
        raise FolderError(f"{what}: {reason_of(error)}") from error
    except MaskpoolError:
        raise
    # Malformed files raise errors of many kinds, and panics of the tokenizers, which are not subclasses of Exception.
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise FolderError(f"{what}: {reason_of(error)}") from error


@contextmanager
def no_panics(what: str) -> Iterator[None]:
    """Raise panics of a tokenizer, which no handler of exceptions catches, as a FolderError; other errors stay.

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
    """Whether an error is a panic of the tokenizers, which is no Exception."""
    return type(error).__name__ == "PanicException"


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    if "ignore_mismatched_sizes" in str(error):  # the host's words name an option that would hide it
        return "its weights have other shapes than its config.json describes: the two belong to different models"
    if "Padding_idx must be within" in str(error):
        return "its config.json must have in pad_token_id the id of a token, less than vocab_size: correct the field"
    wrong_type = re.search(r"Validation error for field '([^']+)'", str(error))  # of a configuration of transformers
    if wrong_type:
        about = re.search(r"expected (\S+), got (\S+)", str(error))
        types = f"a value of type {about[1]}, got {about[2]}" if about else "a value of another type"
        return f"its config.json must have in {wrong_type[1]} {types}: correct or remove the field"
    lines = [line.strip() for line in str(error).strip().split("\n") if line.strip()]
    text = lines[0] if lines else type(error).__name__
    # The lines behind name the weights that do not fit.
    return " ".join(lines[:2]) if text.endswith(":") and len(lines) > 1 else text


def find_device(device: str | torch.device) -> torch.device:
    """A device that torch can compute on, with its number, as a model on it names it.

    Raises:
        DeviceError: Torch cannot use it.
    """
    try:
        probe = torch.zeros(1, device=torch.device(device))
        probe.item()
    # Torch without support for a device raises AssertionError, and TypeError for what names no device.
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise DeviceError(
            f"must be one that torch can use here, such as cpu, got {str(device)!r}: {reason_of(error)}",
            argument="device",
        ) from error
    return probe.device


def refuse_partial(name: str, model: nn.Module, info: Mapping[str, Collection[Any]]) -> None:
    """Refuse weights that do not fill the model, or hold layers it does not have.

    Weights of heads are not part of the model and may be left over; a pooler that nothing reads may be missing.

    Args:
        name: What was opened, for the message.
        model: The model.
        info: What transformers says of the loading.

    Raises:
        WeightsError: The weights belong to another model.
    """
    missing = sorted(str(key) for key in info.get("missing_keys", ()) if "pooler" not in str(key).split("."))
    if missing:
        raise WeightsError(
            f"{name} must hold all weights of its model, and {len(missing)} are missing, such as {missing[0]}, which "
            "would be random numbers: its weights and its config.json belong to different models"
        )
    shapes = {_without_numbers(key) for key in model.state_dict()}
    prefix = str(getattr(model, "base_model_prefix", "")) + "."
    left = [str(key) for key in info.get("unexpected_keys", ())]
    layers = sorted(
        key for key in left if re.search(r"\d", key) and _without_numbers(key.removeprefix(prefix)) in shapes
    )
    if layers:
        raise WeightsError(
            f"{name} must have a config.json that fits its weights, and {len(layers)} weights of further layers are "
            f"left over, such as {layers[0]}: set the number of layers in config.json to that of the weights"
        )


def _without_numbers(key: str) -> str:
    return re.sub(r"\d+", "0", key)
