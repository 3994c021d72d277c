"""Read what a model computes from its folder or GGUF file, without opening the model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskpool.config.saved import (
    SavedModule,
    TransformerSettings,
    normalizes_vectors,
    read_modules,
    read_pooling,
    read_prompts,
    read_transformer,
    read_truncation,
)
from maskpool.config.statement import ALL, NEW, OLD, OURS, PLAIN, EmbeddingConfig, Fact, Files
from maskpool.errors import FolderError, NotFoundError
from maskpool.trust.fields import LENGTH, STRING, check_fields, one_of, optional, refused
from maskpool.trust.files import Folder
from maskpool.trust.modules import LEGACY_MODES

_SETTINGS = "config_sentence_transformers.json"
_TOKENIZER = "tokenizer_config.json"
# Places that exporters write ONNX files to; other tools look here.
_ONNX_FOLDERS = ("onnx", "")
_LARGEST_LENGTH = 1 << 31  # tokenizers without a length say 1e30


def read_config(path: str | os.PathLike[str]) -> EmbeddingConfig:
    """Read what a model computes.

    Args:
        path: A folder of sentence-transformers, maskpool or transformers, which may hold ONNX files; or a GGUF file.

    Raises:
        NotFoundError: The path does not exist.
        FolderError: A file is malformed, or the modules have no pooling, several, or classes of other packages.
        RequirementError: A GGUF file needs the package gguf.
    """
    place, expected = Path(path), f"must be the folder of a model, or a GGUF file, got {path}"
    if not place.exists():
        raise NotFoundError(f"{expected}, which does not exist", argument="path")
    if place.suffix == ".gguf" and not place.is_dir():
        from maskpool.config.gguf_file import read_gguf

        return read_gguf(place)
    if not place.is_dir():
        raise NotFoundError(f"{expected}, which is another file", argument="path")
    folder = Folder(place)
    modules = read_modules(folder)
    return _read_saved(folder, modules) if modules else _read_plain(folder)


def _read_plain(folder: Folder) -> EmbeddingConfig:
    root = SavedModule("", "")
    config = _read_model(folder, root)
    if config is None:
        raise FolderError(f"must hold a modules.json or a config.json, got none in {folder}", argument="path")
    settings = read_transformer(folder, root)
    none = "no modules.json"
    return EmbeddingConfig(
        layout=PLAIN,
        layer=Fact("last_hidden_state", none),
        pooling=Fact(None, f"{none}; sentence-transformers pools by the mean"),
        pooling_options=Fact({}, none),
        include_prompt=Fact(True, none),
        include_special_tokens=Fact(True, none),
        normalize=Fact(False, none),
        dense=Fact((), none),
        **_texts(folder, root, settings, config),
        files=_files(folder, root, settings, config),
    )


def _read_saved(folder: Folder, modules: list[SavedModule]) -> EmbeddingConfig:
    path = folder.at("modules.json")
    foreign = [module.stored for module in modules if not module.is_known]
    if foreign:
        raise FolderError(
            f"{path} must name modules of sentence-transformers or maskpool, got {', '.join(foreign)}: what "
            "they compute is not in the files"
        )
    places = [place for place, module in enumerate(modules) if module.kind == "Pooling"]
    kinds = [module.kind for module in modules]
    if len(places) != 1:
        raise FolderError(
            f"{path} must name one pooling module, got {len(places) or 'none'} in {', '.join(kinds)}: maskpool config "
            "reads models that pool token states once"
        )
    place = places[0]
    pooling = modules[place]
    settings = read_pooling(folder, pooling)
    file = f"{pooling.path}/config.json" if pooling.path else "config.json"
    before = [kind for kind in kinds[:place] if kind != "Dropout"]
    first = next((module for module in modules[:place] if module.kind == "Transformer"), SavedModule("", ""))
    transformer = read_transformer(folder, first)
    config = _read_model(folder, first) or {}
    layer = Fact(transformer.layer, _in(transformer, "modality_config"))
    if before != ["Transformer"]:
        layer = Fact(" -> ".join(before), "modules.json")
    behind = [module for module in modules[place + 1 :] if module.kind != "Dropout"]
    steps = [_step(folder, module) for module in behind]
    last = behind[-1] if behind else None
    unit = last is not None and last.kind == "Normalize" and normalizes_vectors(folder, last)
    flags = {name for name in LEGACY_MODES if name in settings.stored}
    mode = "pooling_mode" if "pooling_mode" in settings.stored else "pooling_mode_*" if flags else "default"
    return EmbeddingConfig(
        layout=OURS if pooling.is_ours else NEW if "pooling_mode" in settings.stored else OLD,
        layer=layer,
        pooling=Fact(settings.modes, f"{file}: {mode}"),
        pooling_options=Fact(settings.options, file),
        include_prompt=_flag(file, settings.stored, "include_prompt", settings.include_prompt),
        include_special_tokens=_flag(file, settings.stored, "include_special_tokens", settings.include_special_tokens),
        normalize=Fact(unit, "modules.json"),
        dense=Fact(tuple(steps[:-1] if unit else steps), "modules.json"),
        **_texts(folder, first, transformer, config),
        files=_files(
            folder,
            first,
            transformer,
            config,
            types=tuple(module.stored for module in modules),
            pooling_path=pooling.path,
            pooling=settings.stored,
        ),
    )


def _step(folder: Folder, module: SavedModule) -> str:
    if module.kind != "Dense":
        return f"{module.kind} ({module.path})" if module.path else module.kind
    settings = folder.table(module.path, "config.json") or {}
    activation = str(settings.get("activation_function", "Tanh")).rpartition(".")[2]
    return f"Dense {settings.get('in_features')} -> {settings.get('out_features')} {activation} ({module.path})"


def _flag(file: str, stored: Mapping[str, Any], name: str, value: bool) -> Fact[bool]:
    return Fact(value, f"{file}: {name}" if name in stored else "default")


def _in(settings: TransformerSettings, name: str) -> str:
    return f"{settings.file}: {name}" if name in settings.stored else "default"


def _read_model(folder: Folder, module: SavedModule) -> dict[str, Any] | None:
    """Read the fields of the model's config.json that say what texts become."""
    config = folder.table(module.path, "config.json")
    if config is None:
        return None
    path = folder.at(module.path, "config.json")
    known = {"model_type": STRING, "max_position_embeddings": optional(LENGTH)}
    check_fields(path, {name: config[name] for name in known if name in config}, known)
    return config


def _texts(
    folder: Folder, module: SavedModule, settings: TransformerSettings, config: Mapping[str, Any]
) -> dict[str, Any]:
    """State what texts become before they reach the model."""
    prompts, name = read_prompts(folder)
    if name is not None and name not in prompts:
        raise refused(folder.at(_SETTINGS), "default_prompt_name", f"one of {', '.join(prompts) or 'no prompts'}", name)
    tokenizer = _read_tokenizer(folder, module)
    side = settings.padding_side or tokenizer.get("padding_side")
    where = "" if settings.padding_side is None else f"{settings.file}: processor_kwargs.padding_side"
    dimension = read_truncation(folder)
    return {
        "prompts": Fact(prompts, f"{_SETTINGS}: prompts" if prompts else "none saved"),
        "default_prompt": Fact(
            prompts.get(name, "") if name else "",
            "no default_prompt_name" if name is None else f"{_SETTINGS}: default_prompt_name",
        ),
        "lower_case": Fact(settings.lower_case, _in(settings, "do_lower_case")),
        "truncate_dim": Fact(dimension, ALL if dimension is None else f"{_SETTINGS}: truncate_dim"),
        "max_length": _max_length(settings, tokenizer, config),
        "padding_side": Fact(
            side or "right", where or (f"{_TOKENIZER}: padding_side" if side else "default of most tokenizers")
        ),
    }


def _read_tokenizer(folder: Folder, module: SavedModule) -> dict[str, Any]:
    tokenizer = folder.table(module.path, _TOKENIZER) or {}
    known = {"model_max_length": optional(LENGTH), "padding_side": one_of(("left", "right"))}
    path = folder.at(module.path, _TOKENIZER)
    for name, field in known.items():
        if name in tokenizer and not field.holds(tokenizer[name]):
            raise refused(path, name, field.words, tokenizer[name])
    return tokenizer


def _max_length(
    settings: TransformerSettings, tokenizer: Mapping[str, Any], config: Mapping[str, Any]
) -> Fact[int | None]:
    """Return the length that sentence-transformers cuts texts to."""
    if settings.max_length is not None:
        return Fact(settings.max_length, _in(settings, "max_seq_length"))
    lengths = {
        f"{_TOKENIZER}: model_max_length": _length(tokenizer.get("model_max_length")),
        "config.json: max_position_embeddings": _length(config.get("max_position_embeddings")),
    }
    known = {source: length for source, length in lengths.items() if length is not None}
    if not known:
        return Fact(None, f"neither {_TOKENIZER} nor config.json says")
    source = min(known, key=known.__getitem__)
    return Fact(known[source], source)


def _length(value: Any) -> int | None:  # Any: what JSON holds
    return int(value) if value is not None and 0 < value < _LARGEST_LENGTH else None


def _files(
    folder: Folder, module: SavedModule, settings: TransformerSettings, config: Mapping[str, Any], **more: Any
) -> Files:
    onnx = [
        f"{place}/{name}".lstrip("/")
        for place in _ONNX_FOLDERS
        for name in sorted(os.listdir(folder.at(place)) if folder.at(place).is_dir() else [])
        if name.endswith(".onnx")
    ]
    return Files(
        transformer=settings.stored,
        transformer_file=settings.file,
        model_type=str(config.get("model_type", "")),
        positions=_length(config.get("max_position_embeddings")),
        tokenizer_length=_length(_read_tokenizer(folder, module).get("model_max_length")),
        tokenizer_json=folder.find(module.path, "tokenizer.json") is not None,
        onnx=tuple(onnx),
        **more,
    )
