"""Replace the pooling of a sentence-transformers model by maskpool's, or maskpool's by the host's."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from typing import Any, TypeAlias

import torch
from torch import nn

from maskpool.encoder.saved_pooling import warn_about_pooling
from maskpool.errors import InvalidValueError
from maskpool.integrations.sentence_transformers.card import name_in_card
from maskpool.integrations.sentence_transformers.opening import open_model
from maskpool.integrations.sentence_transformers.pooling import Pooling
from maskpool.integrations.st_host import SentenceTransformer
from maskpool.integrations.st_host import modules as host

Model: TypeAlias = SentenceTransformer | str | os.PathLike[str]
Modes: TypeAlias = str | tuple[str, ...] | list[str]


def replace_pooling(model: Model, pooling_mode: Modes | None = None, **options: Any) -> SentenceTransformer:
    """Replace a model's pooling by `Pooling`, in place.

    The new module has the settings, device and dtype of the old one, and its weights if mode and sizes stay. Embeddings
    stay equal up to rounding, except where the old module read pads or gave something else than a vector of the text
    to an empty text.

    Args:
        model: A ``SentenceTransformer`` with one pooling module, of sentence-transformers or maskpool; or the name or
            folder of a model, opened by `load`.
        pooling_mode: Another mode, as `build_pooling` takes it; None keeps the model's.
        **options: ``include_prompt``, ``on_empty``, ``include_special_tokens`` and the options of the mode.

    Returns:
        The model that was given or opened.

    Raises:
        TypeError: ``model`` is something else, or an option that no mode takes.
        ValueError: The model has no pooling module or several, or a layer behind the pooling was built for another
            dimension than the new mode gives; or an unknown mode.
        MaskpoolError: A name or folder cannot be opened.

    Example::

        model = replace_pooling("all-MiniLM-L6-v2", "max")
    """
    model = open_model(model)
    name, old = _find_pooling(model)
    mode = old.pooling_mode if pooling_mode is None else pooling_mode
    if isinstance(mode, tuple | list):  # as the host stores it
        mode = mode[0] if len(mode) == 1 else tuple(mode)
    same_mode = mode == old.pooling_mode
    kept: dict[str, Any] = {"include_prompt": old.include_prompt}
    if isinstance(old, Pooling):
        kept |= {"on_empty": old.on_empty, "include_special_tokens": old.include_special_tokens}
        kept |= old.options if same_mode else {}
    new = Pooling(old.embedding_dimension, mode, **{**kept, **options})
    if isinstance(old, Pooling) and same_mode and _shapes(old) == _shapes(new):
        new.load_state_dict(old.state_dict())
    _put(model, name, old, new)
    return model


def with_pooling(model: Model, pooling_mode: Modes | None = None, **options: Any) -> SentenceTransformer:
    """Return a model with another pooling that shares all other modules with the given one, which stays as it is.

    Arguments and errors are those of `replace_pooling`.
    """
    model = open_model(model)
    name, _ = _find_pooling(model)
    if "." in name:  # inside of another module, which cannot be shared and changed
        return replace_pooling(copy.deepcopy(model), pooling_mode, **options)
    modules: Any = OrderedDict(model.named_children())  # Any: the host's type allows only lists
    prompts: Any = dict(model.prompts)  # Any: the host takes no None, which it gives
    other = SentenceTransformer(
        modules=modules,
        device=str(model.device),
        prompts=prompts,
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )
    other.module_kwargs = model.module_kwargs
    other.training = model.training
    return replace_pooling(other, pooling_mode, **options)


def warn_if_pooled_otherwise(
    source: object, model: SentenceTransformer, pooling_mode: Modes | None, stacklevel: int
) -> None:
    """Warn that a model opened from a folder gets another pooling than it is saved with.

    Args:
        source: The folder or name.
        model: The model as it is saved.
        pooling_mode: The other mode; None is the saved one.
        stacklevel: As of `warnings.warn`, counted from the caller of this function.

    Warns:
        UserWarning: The mode is not the saved one.
    """
    _, saved = _find_pooling(model)
    modes = [(mode,) if isinstance(mode, str) else tuple(mode) for mode in (saved.pooling_mode, pooling_mode or "")]
    if pooling_mode is not None and modes[0] != modes[1]:
        warn_about_pooling(source, " + ".join(modes[0]), "pooling_mode", repr(pooling_mode), stacklevel + 1)


def as_host_pooling(model: Model) -> SentenceTransformer:
    """Replace `Pooling` by the class of sentence-transformers, in place, which opens without maskpool once it is saved.

    The installed version of sentence-transformers and newer ones open the saved model. Older versions and servers may
    read other files: `maskpool.config` says what each computes from it, and writes files that it reads right.

    The class of sentence-transformers reads NaN in pads, and does not apply ``on_empty``. It adds in another order, so
    vectors are equal up to rounding.

    Args:
        model: A ``SentenceTransformer`` with one `Pooling`, of modes that sentence-transformers has too; or the name
            or folder of one.

    Returns:
        The model that was given or opened.

    Raises:
        TypeError: ``model`` is something else.
        ValueError: It has no `Pooling` or several, or one with a setting that sentence-transformers does not have.
    """
    model = open_model(model)
    name, ours = _find_pooling(model)
    if not isinstance(ours, Pooling):
        raise InvalidValueError(
            "model", f"must have a pooling of maskpool, got {type(ours).__name__}, the host's own already"
        )
    modes = (ours.pooling_mode,) if isinstance(ours.pooling_mode, str) else ours.pooling_mode
    foreign = [f"pooling_mode {mode!r}" for mode in modes if mode not in host.Pooling.POOLING_MODES]
    foreign += [] if ours.include_special_tokens else ["include_special_tokens=False"]
    if foreign:
        raise InvalidValueError(
            "model",
            f"must have a pooling that the host's own Pooling has too, got {', '.join(foreign)}; the host's modes are "
            f"{', '.join(map(repr, host.Pooling.POOLING_MODES))}",
        )
    _put(model, name, ours, host.Pooling(ours.embedding_dimension, ours.pooling_mode, ours.include_prompt))
    return model


def _find_pooling(model: SentenceTransformer) -> tuple[str, host.Pooling]:
    """Return the one pooling module of a model, and its name in the model."""
    poolings = [(name, module) for name, module in model.named_modules() if isinstance(module, host.Pooling)]
    if len(poolings) != 1:
        names = ", ".join(f"{name} ({type(module).__name__})" for name, module in poolings or model.named_children())
        what = "none" if not poolings else str(len(poolings))
        raise InvalidValueError("model", f"must have one pooling module, got {what}: {names}")
    return poolings[0]


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _put(model: SentenceTransformer, name: str, old: host.Pooling, new: host.Pooling) -> None:
    before, after = old.get_embedding_dimension(), new.get_embedding_dimension()
    place, _, last = name.rpartition(".")
    behind = list(model.get_submodule(place).named_children())
    behind = behind[[child for child, _ in behind].index(last) + 1 :]
    behind += [] if not place else list(model.named_children())[1:]
    built = [type(module).__name__ for _, module in behind if any(True for _ in module.parameters())]
    if before != after and built:
        raise InvalidValueError(
            "pooling_mode",
            f"{new.pooling_mode!r} gives vectors of dimension {after}, and {', '.join(built)} behind the pooling was "
            f"built for {before}",
        )
    parameter = next(model.parameters(), None)
    new.to(device=model.device, dtype=None if parameter is None else parameter.dtype)
    new.train(old.training)
    model.get_submodule(place).register_module(last, new)
    if isinstance(new, Pooling):  # the host's own learns nothing from a model
        new.on_model_ready(model)
    else:
        name_in_card(model)
