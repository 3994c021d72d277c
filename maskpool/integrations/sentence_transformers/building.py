"""Load the modules of a saved SentenceTransformer whose files `maskpool.trust` has vetted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from maskpool.encoder import text_encoder
from maskpool.errors import WeightsError
from maskpool.integrations.st_host import check_word_embeddings
from maskpool.integrations.st_host import modules as host
from maskpool.trust import EXPLICIT, Folder, ModuleEntry, as_folder_error, no_questions
from maskpool.trust.sizes import check_size, check_token_ids, naming_tokenizer, refuse_partial
from maskpool.trust.transformer import find_weights, tensor_shapes

_WITH_WEIGHTS = (host.CNN, host.Dense, host.LSTM, host.LayerNorm, host.WeightedLayerPooling)


def build_module(
    folder: Folder, entry: ModuleEntry, classes: Mapping[str, type[host.Module]], given: Mapping[str, Any]
) -> host.Module:
    """Load one vetted module, and those inside of it.

    Args:
        folder: The model's folder.
        entry: The module.
        classes: The classes a module may have, by every path they are stored under.
        given: What the caller passes on to transformers: ``model_kwargs``, ``processor_kwargs``, ``config_kwargs``
            and ``backend``.

    Raises:
        FolderError: The module cannot be loaded, or its weights belong to another.
        RequirementError: The host is too old to run the module.
    """
    cls = classes[entry.kind]
    place = folder.at(entry.path)
    if issubclass(cls, host.Router):
        # Not by the class' own loader, which would import the classes of inner modules by name.
        inner = {inner.name: build_module(folder, inner, classes, given) for inner in entry.inner}
        routes: Any = {route: [inner[name] for name in names] for route, names in entry.structure.items()}
        with as_folder_error(f"{place} must hold a {cls.__name__} that can be loaded"):
            return cls(routes, **entry.parameters)
    with (
        as_folder_error(f"{place} must hold a {cls.__name__} that can be loaded"),
        no_questions(),
        naming_tokenizer(place),
    ):
        if issubclass(cls, _WITH_WEIGHTS):
            config = cls.load_config(str(folder), subfolder=entry.path)
            config.pop("activation_function", None)  # a name here, and without weights that could misfit
            check_fit(folder, entry.path, lambda: cls(**config))
        where: dict[str, Any] = {"subfolder": entry.path, "local_files_only": True}
        if issubclass(cls, host.Transformer):
            opened: type[Any] = cls  # mypy takes the inner class for its base
            return _load_transformer(opened, str(folder), where, given)
        module = cls.load(str(folder), trust_remote_code=False, **where, **given)
        if isinstance(module, host.StaticEmbedding):
            check_token_ids(place, module.tokenizer, module.embedding)
        elif isinstance(module, host.WordEmbeddings) and hasattr(module.tokenizer, "tokenizer"):
            check_token_ids(place, module.tokenizer.tokenizer, module.emb_layer)
            check_word_embeddings(place)
        return module


def build_plain(source: str, given: Mapping[str, Any]) -> host.Transformer:
    """Load a vetted transformers model that was not saved as a SentenceTransformer."""
    what = f"{source} must hold a transformers model that can be loaded"
    with as_folder_error(what), no_questions(), naming_tokenizer(source):
        return _load_transformer(host.Transformer, source, None, given)


def check_fit(folder: Folder, subfolder: str, make: Callable[[], nn.Module]) -> None:
    """Refuse weights that do not have the names and shapes of a module, before the module takes any memory.

    Args:
        folder: The model's folder.
        subfolder: The module's.
        make: Builds the module; called on torch's meta device.

    Raises:
        WeightsError: They do not fit; the message names the file and the first weight.
    """
    path = find_weights(folder, subfolder)
    if path.suffix == ".bin":
        with as_folder_error(f"{path} must hold the weights of a module"):
            stored = torch.load(path, map_location="meta", weights_only=True)
            shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    else:
        shapes = tensor_shapes(path)
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
    for name in [*expected, *shapes]:
        if name.startswith("activation_function."):
            continue
        if expected.get(name) != shapes.get(name):
            theirs, ours = (str(which.get(name, "nothing")) for which in (shapes, expected))
            raise WeightsError(
                f"{path} must hold the weights that its configuration describes, got {theirs} for {name} in place of "
                f"{ours}: the two belong to different modules"
            )


class _CheckedTransformer(host.Transformer):
    """A transformer of the host that refuses weights of another architecture, which the host only logs."""

    # Any: the host's own types.
    def _load_model(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> PreTrainedModel:
        if self.backend != "torch":
            return super()._load_model(model_name_or_path, *args, **kwargs)
        place = os.path.join(model_name_or_path, kwargs.get("subfolder") or "")
        check_size(place, kwargs.get("config", args[1] if len(args) > 1 else None))
        loaded: Any = super()._load_model(model_name_or_path, *args, **{**kwargs, "output_loading_info": True})
        model, info = loaded
        refuse_partial(place, model, info)
        return model  # type: ignore[no-any-return]  # transformers knows no type of the pair


class _CheckedCLIP(_CheckedTransformer, host.CLIPModel):
    """The same of the host's older class for CLIP."""


def _load_transformer(
    cls: type[host.Transformer], source: str, where: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> host.Transformer:
    opening = _CheckedCLIP if issubclass(cls, host.CLIPModel) else _CheckedTransformer
    # Explicit; what a caller passes goes first.
    kwargs = {**given, "model_kwargs": {"weights_only": True, **(given.get("model_kwargs") or {})}}
    if where is None:
        for name in ("model_kwargs", "processor_kwargs", "config_kwargs"):
            kwargs[name] = {**EXPLICIT, **(kwargs.get(name) or {})}
        module: host.Transformer = opening(source, **kwargs)
    else:
        module = opening.load(source, trust_remote_code=False, **where, **kwargs)
    place = os.path.join(source, where["subfolder"] if where else "")
    model, tokenizer = text_encoder(module.auto_model), module.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerBase):  # models of images have none
        check_token_ids(place, tokenizer, model)
    module.__class__ = cls  # the class that is saved with the model
    return module
