"""Load models safely: the arguments of every load, errors that name the file, and checks of the loaded model."""

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


def find_device(device: str | torch.device) -> torch.device:
    """Return a device that torch can compute on, with its index, as torch reports it for tensors on the device.

    Raises:
        DeviceError: Torch cannot use the device.
    """
    try:
        probe = torch.zeros(1, device=torch.device(device))
        probe.item()
    # Torch raises AssertionError for a device it was built without, and TypeError for a value that is not a device.
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise DeviceError(
            f"must be one that torch can use here, such as cpu, got {str(device)!r}: {reason_of(error)}",
            argument="device",
        ) from error
    return probe.device


def refuse_partial(name: str, model: nn.Module, info: Mapping[str, Collection[Any]]) -> None:
    """Refuse weights that do not fill the model, or that belong to layers the model does not have.

    Weights of heads are not part of the model and may be left over. The weights of an unused pooler may be missing.

    Args:
        name: The name of the opened folder, for the message.
        model: The model.
        info: The loading report of transformers.

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
