"""Read and build the pooling that a sentence-transformers folder is saved with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from maskpool.config.saved import (
    SavedModule,
    normalizes_vectors,
    read_modules,
    read_pooling,
    read_prompts,
    read_transformer,
)
from maskpool.encoder.annotations import PreTrainedModel
from maskpool.errors import FolderError, NotFoundError
from maskpool.nn import PoolingLayer
from maskpool.poolings.build import build_pooling
from maskpool.poolings.spelling import spell_mode
from maskpool.trust import Folder, as_folder_error, reason_of
from maskpool.trust.transformer import find_weights, tensor_shapes


@dataclass(frozen=True)
class SavedPooling:
    """Describe the pooling module of a saved model and the modules around it.

    Attributes:
        folder: The model's folder.
        path: The folder of the pooling module inside it.
        mode: Its mode, or a tuple of modes to concatenate.
        options: Options of the mode that differ from the default, ``on_empty`` included.
        include_prompt: Whether tokens of a prompt are pooled.
        include_special_tokens: Whether tokens that the tokenizer adds are pooled.
        learned: Whether the pooling has weights.
        normalize: Whether vectors are saved to have length 1.
        left_out: Steps of the saved model that a pooling of token states does not perform.
        unusable: Why token states cannot be pooled as the model is saved; empty if they can.
    """

    folder: Folder
    path: str = ""
    mode: str | tuple[str, ...] = "mean"
    options: Mapping[str, Any] = field(default_factory=dict)
    include_prompt: bool = True
    include_special_tokens: bool = True
    learned: bool = False
    normalize: bool = False
    left_out: tuple[str, ...] = ()
    unusable: str = ""

    @property
    def name(self) -> str:
        """Return the mode and the settings that differ from the default."""
        modes = self.mode if isinstance(self.mode, str) else " + ".join(self.mode)
        settings = [f"{name}={value!r}" for name, value in self.options.items()]
        settings += [] if self.include_special_tokens else ["include_special_tokens=False"]
        settings += ["learned weights"] if self.learned else []
        return f"{modes} ({', '.join(settings)})" if settings else modes

    def is_mode(self, mode: str | tuple[str, ...] | list[str]) -> bool:
        """Return whether a mode, with options as `spell_mode` writes them, is this pooling."""
        modes = (mode,) if isinstance(mode, str) else tuple(mode)
        own = (self.mode,) if isinstance(self.mode, str) else self.mode
        if self.learned or not self.include_special_tokens:
            return False
        if len(own) == 1 and "on_empty" not in self.options:
            return modes == (spell_mode(own[0], dict(self.options)),)
        return modes == own and not self.options

    def build(self, dimension: int) -> PoolingLayer:
        """Build the layer, with its weights if it has any.

        Args:
            dimension: Width of a token state.

        Raises:
            FolderError: The layer cannot be built as it is saved.
        """
        if self.unusable:
            raise FolderError(self.unusable)
        with as_folder_error(f"{self.folder.at(self.path, 'config.json')} must hold the settings of a pooling"):
            with torch.device("meta"):
                planned = build_pooling(self.mode, dimension, **self.options)
            if not self.learned:
                return build_pooling(self.mode, dimension, **self.options)
        expected = {f"pooling.{name}": tuple(tensor.shape) for name, tensor in planned.state_dict().items()}
        weights = find_weights(self.folder, self.path)
        with as_folder_error(f"{weights} must hold the weights of a {self.mode} pooling"):
            if weights.suffix == ".safetensors":
                shapes = tensor_shapes(weights)
            else:
                stored = torch.load(weights, map_location="cpu", weights_only=True)
                shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
            if shapes != expected:
                raise FolderError(
                    f"{weights} must hold weights of the shapes {expected} for tokens of width {dimension}, "
                    f"got {shapes}"
                )
            if weights.suffix == ".safetensors":
                from safetensors.torch import load_file

                stored = load_file(weights)
            layer = build_pooling(self.mode, dimension, **self.options)
            layer.load_state_dict({name.removeprefix("pooling."): tensor for name, tensor in stored.items()})
        return layer


def warn_about_pooling(source: object, saved: str, argument: str, used: str, stacklevel: int) -> None:
    """Warn that a pooling other than the saved one is used.

    Args:
        source: The folder or name of the model.
        saved: A description of the pooling that the model is saved with.
        argument: The argument that chose the other pooling.
        used: The value of the argument, as text.
        stacklevel: As in `warnings.warn`, counted from the caller of this function.

    Warns:
        UserWarning: Always.
    """
    warnings.warn(
        f"{source} is saved with {saved} pooling, and {argument}={used} is used: leave {argument} out to use the saved "
        "one",
        UserWarning,
        stacklevel=stacklevel + 1,
    )


def saved_pooling_of(model: PreTrainedModel) -> SavedPooling | None:
    """Find the pooling saved in the folder or hub repository that a model was loaded from.

    Args:
        model: A transformers model. It keeps the repository name but not the revision, so the main revision is read.

    Returns:
        The pooling, or None if the model was not loaded from a folder that saves one.

    Raises:
        FolderError: The folder is malformed.

    Warns:
        UserWarning: The files that name the pooling are not in the hub's cache and cannot be downloaded.
    """
    name = str(model.name_or_path or "")
    try:
        return find_saved_pooling(name)
    except NotFoundError as error:
        warnings.warn(f"{error}; the mean is the default, and pooling= sets another", UserWarning, stacklevel=3)
        return None


def find_saved_pooling(name: str) -> SavedPooling | None:
    """Find the pooling that a model is saved with.

    Args:
        name: A folder, or a name on the hub.

    Returns:
        The pooling, or None if the model has none, or if ``name`` is neither a folder nor a valid name on the hub.

    Raises:
        FolderError: The folder is malformed.
        NotFoundError: The files that name the pooling are not in the hub's cache and cannot be downloaded.
    """
    if os.path.isdir(name):
        return read_saved_pooling(name)
    if not name or os.path.isabs(name):  # not loaded from a folder, or the folder no longer exists
        return None
    try:
        folder = _snapshot(name)
    except FolderError:
        raise
    except Exception as error:  # no network, no permission, a read-only cache: the hub raises many types
        raise NotFoundError(
            f"the pooling that {name} is saved with could not be read from the Hugging Face hub: {reason_of(error)}"
        ) from error
    return None if folder is None else read_saved_pooling(folder)


def read_saved_pooling(source: str | os.PathLike[str]) -> SavedPooling | None:
    """Read the pooling that a folder is saved with.

    Args:
        source: A folder.

    Returns:
        The pooling, or None if the folder has no ``modules.json`` or the file does not name a pooling.

    Raises:
        FolderError: A file is malformed; the message names the file and the field.
    """
    folder = Folder(source)
    modules = read_modules(folder)
    if not modules:
        return None
    places = [place for place, module in enumerate(modules) if module.kind == "Pooling"]
    behind = modules[places[0] + 1 :] if places else []
    normalize = any(module.kind == "Normalize" and normalizes_vectors(folder, module) for module in behind)
    unusable = _unusable(folder, modules, places)
    if unusable:
        return SavedPooling(folder, normalize=normalize, unusable=unusable)
    if not places:
        return None
    left_out = [f"{module.kind} ({module.path})" for module in behind if module.kind not in ("Normalize", "Dropout")]
    transformer = next(module for module in modules if module.kind == "Transformer")
    left_out += _changes_of_texts(folder, transformer)
    return _read_settings(folder, modules[places[0]], normalize, left_out)


def _unusable(folder: Folder, modules: list[SavedModule], places: list[int]) -> str:
    advice = (
        "pass pooling= to pool the token states by a mode of your choice, or open the whole model with "
        "maskpool.integrations.sentence_transformers.load"
    )
    path = folder.at("modules.json")
    if len(places) > 1:
        return f"{path} names {len(places)} poolings, and token states can be pooled by one: {advice}"
    before = [module.kind for module in (modules[: places[0]] if places else modules)]
    others = [kind for kind in before if kind not in ("Transformer", "Dropout")]
    if others or (places and "Transformer" not in before):
        between = ", ".join(others) or "no Transformer"
        where = "in front of the pooling" if places else "and no pooling of sentence-transformers or maskpool"
        return f"{path} names {between} {where}, so token states cannot be pooled as the model is saved: {advice}"
    return ""


def _changes_of_texts(folder: Folder, transformer: SavedModule) -> list[str]:
    """List the changes that the saved model makes to texts before it tokenizes them."""
    changes = []
    if read_transformer(folder, transformer).lower_case:
        changes.append("lower-casing (do_lower_case=True)")
    prompts, name = read_prompts(folder)
    return [*changes, *([f"the default prompt {prompts[name]!r}"] if name and prompts.get(name) else [])]


def _read_settings(folder: Folder, module: SavedModule, normalize: bool, left_out: list[str]) -> SavedPooling:
    settings = read_pooling(folder, module)
    mode = settings.modes[0] if len(settings.modes) == 1 else settings.modes
    options = settings.options
    file = folder.at(module.path, "config.json")
    with as_folder_error(f"{file} must hold the settings of a pooling"), torch.device("meta"):
        learned = any(True for _ in build_pooling(mode, settings.width, **options).parameters())
    if not settings.include_prompt:
        left_out = [*left_out, "a pooling without the tokens of a prompt (include_prompt=False)"]
    return SavedPooling(
        folder,
        module.path,
        mode,
        options,
        include_prompt=settings.include_prompt,
        include_special_tokens=settings.include_special_tokens,
        learned=learned,
        normalize=normalize,
        left_out=tuple(left_out),
    )


def _snapshot(name: str) -> Path | None:
    """Download the files of a repository that describe its pooling; return None if it does not have modules."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    def fetch(file: str, required: bool = True) -> Path | None:
        try:
            return Path(hf_hub_download(name, file))
        except LocalEntryNotFoundError:  # offline, and not in the cache
            known_missing = try_to_load_from_cache(name, file) is not None
            if required and not known_missing:
                raise
        except (EntryNotFoundError, HFValidationError):  # the file does not exist, or the name is invalid on the hub
            pass
        return None

    modules = fetch("modules.json")
    if modules is None:
        return None
    folder = Folder(modules.parent)
    for module in read_modules(folder):
        if module.path and module.kind in ("Pooling", "Normalize"):
            fetch(f"{module.path}/config.json", required=module.kind == "Pooling")
        if module.path and module.is_ours:
            fetch(f"{module.path}/model.safetensors", required=False)
    fetch("config_sentence_transformers.json", required=False)
    return modules.parent
