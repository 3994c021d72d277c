"""Vet the modules of a saved SentenceTransformer: the module list and the configuration of each module."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskpool.errors import FolderError
from maskpool.trust.fields import (
    ATTENTION,
    BOOLEAN,
    DTYPES,
    FALSE,
    LENGTH,
    NUMBER,
    STRING,
    STRINGS,
    Field,
    check_fields,
    integer,
    integers,
    one_of,
    optional,
    refused,
    table,
)
from maskpool.trust.files import Folder, is_inner_path, is_plain_name, shortened
from maskpool.trust.tokenizer_file import check_tokenizer_file
from maskpool.trust.transformer import check_tokenizer, check_transformer, find_weights, tensor_shapes

_MOST_ROUTERS = 8  # nesting depth
_WIDTH = integer(1, 1 << 24)
_SMALL = integer(0, 4096)
_TRUE = one_of([True])
_DTYPE = optional(one_of((*DTYPES, *(f"torch.{name}" for name in DTYPES))))
_FLAGS = ("output_attentions", "output_hidden_states", "use_cache", "return_dict")
# The arguments that sentence_bert_config.json may pass on to transformers. All others are refused by name.
_ARGUMENTS = {
    "model": {
        "dtype": _DTYPE,
        "torch_dtype": _DTYPE,
        "attn_implementation": optional(one_of(ATTENTION)),
        "trust_remote_code": FALSE,
        "weights_only": _TRUE,
        "use_safetensors": optional(BOOLEAN),
        "add_pooling_layer": BOOLEAN,
        "low_cpu_mem_usage": BOOLEAN,
    },
    "processor": {
        "trust_remote_code": FALSE,
        "model_max_length": optional(LENGTH),
        "max_length": optional(LENGTH),
        "padding_side": one_of(("left", "right")),
        "truncation_side": one_of(("left", "right")),
        "use_fast": BOOLEAN,
        "do_lower_case": BOOLEAN,
        "strip_accents": optional(BOOLEAN),
        "clean_up_tokenization_spaces": BOOLEAN,
        "add_prefix_space": BOOLEAN,
        "add_bos_token": BOOLEAN,
        "add_eos_token": BOOLEAN,
        "add_special_tokens": BOOLEAN,
        "fix_mistral_regex": BOOLEAN,
        "legacy": BOOLEAN,
        "min_pixels": integer(),
        "max_pixels": integer(),
        **{f"{name}_token": optional(STRING) for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")},
    },
    "config": {
        "trust_remote_code": FALSE,
        "is_causal": BOOLEAN,
        "is_decoder": BOOLEAN,
        "add_cross_attention": BOOLEAN,
        "use_bidirectional_attention": BOOLEAN,
        "num_labels": integer(0, 1 << 20),
        "attention_dropout": NUMBER,
        "hidden_dropout_prob": NUMBER,
        "attention_probs_dropout_prob": NUMBER,
        "dtype": _DTYPE,
        "torch_dtype": _DTYPE,
        **dict.fromkeys(_FLAGS, BOOLEAN),
    },
}
_OLD_NAMES = {"model": "model_args", "processor": "tokenizer_args", "config": "config_args"}
# Methods of a transformers model that return states or vectors. The host calls the named method on every batch.
_METHODS = (
    "forward",
    "get_text_features",
    "get_image_features",
    "get_audio_features",
    "get_video_features",
)
_MODALITIES = {"text", "image", "audio", "video", "message"}
_MODALITY = {
    "method": one_of(_METHODS),
    "method_output_name": Field(
        "a string, a list of strings and integers, or null",
        lambda value: (
            value is None
            or isinstance(value, str)
            or (isinstance(value, list) and all(isinstance(element, str | int) for element in value))
        ),
    ),
    "format": one_of(("auto", "structured", "flat")),
}
_TASKS = ("feature-extraction", "fill-mask", "sequence-classification", "text-generation", "any-to-any")
_TRANSFORMER = {
    "max_seq_length": optional(integer(1)),
    "do_lower_case": BOOLEAN,
    "transformer_task": one_of(_TASKS),
    "modality_config": table(),
    "module_output_name": optional(STRING),
    "processing_kwargs": optional(table()),
    "unpad_inputs": optional(BOOLEAN),
    "query_length": optional(integer(1)),
    "document_length": optional(integer(1)),
    "query_expansion": optional(table()),
    **{name: optional(table()) for name in _OLD_NAMES.values()},
    **{f"{name}_kwargs": optional(table()) for name in _OLD_NAMES},
}
_PROCESSING = {
    "add_special_tokens": BOOLEAN,
    "truncation": Field("true, false or a name", lambda value: isinstance(value, bool | str)),
    "padding": Field("true, false or a name", lambda value: isinstance(value, bool | str)),
    "max_length": optional(integer(1)),
    "padding_side": one_of(("left", "right")),
    "stride": integer(),
    "pad_to_multiple_of": optional(integer(1)),
    "return_token_type_ids": BOOLEAN,
    "return_attention_mask": BOOLEAN,
    "do_resize": BOOLEAN,
    "do_rescale": BOOLEAN,
    "do_normalize": BOOLEAN,
    "min_pixels": integer(),
    "max_pixels": integer(),
    "sampling_rate": integer(1),
    "fps": NUMBER,
    "add_generation_prompt": BOOLEAN,
    "continue_final_message": BOOLEAN,
    "enable_thinking": BOOLEAN,
}
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
# Torch modules that are functions of a single tensor.
_ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid"),
    *("LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softplus", "Softshrink"),
    *("Softsign", "Tanh", "Tanhshrink"),
)
_ACTIVATION_NAMES = (
    "torch.nn.modules.linear.Identity",
    "torch.nn.Identity",
    *(f"torch.nn.{module}{name}" for module in ("modules.activation.", "") for name in _ACTIVATIONS),
)
_WORDS = Field("a list of words", lambda value: isinstance(value, list) and all(isinstance(w, str) for w in value))
_WORD_WEIGHTS = Field(
    "a table of numbers", lambda value: isinstance(value, dict) and all(map(NUMBER.holds, value.values()))
)
_POOLING_MODES = Field(
    "a mode or a list of modes",
    lambda value: (
        isinstance(value, str)
        or (isinstance(value, list) and 0 < len(value) <= 64 and all(isinstance(mode, str) for mode in value))
    ),
)
# Up to version 5.3, sentence-transformers saved a boolean for each mode.
LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_HOST_POOLING = {
    "embedding_dimension": _WIDTH,
    "word_embedding_dimension": _WIDTH,
    "pooling_mode": _POOLING_MODES,
    "include_prompt": BOOLEAN,
    **dict.fromkeys(LEGACY_MODES, BOOLEAN),
}
_HEAD = {**_HOST_POOLING, "include_special_tokens": BOOLEAN, "on_empty": STRING}
_WORD_TOKENIZER = {"vocab": _WORDS, "stop_words": STRINGS, "do_lower_case": BOOLEAN}
_WORD_TOKENIZERS: dict[str, tuple[str, dict[str, Field]]] = {
    "WhitespaceTokenizer": ("whitespacetokenizer_config.json", _WORD_TOKENIZER),
    "PhraseTokenizer": (
        "phrasetokenizer_config.json",
        _WORD_TOKENIZER | {"ngram_separator": optional(STRING), "max_ngram_length": integer(1, 1000)},
    ),
    "TransformersTokenizerWrapper": ("", {}),
}
_WORD_TOKENIZER_MODULES = tuple(
    f"sentence_transformers.{path}"
    for path in ("models.tokenizer", "sentence_transformer.modules.tokenizer", "base.modules.tokenizer")
)


@dataclass(frozen=True)
class _Config:
    """Describe the configuration file of a module, and whether the module has weights."""

    file: str
    fields: Mapping[str, Field]
    weights: bool = False
    optional: bool = False
    needed: tuple[str, ...] = ()


# By class name of the host. Functions vet Transformer, CLIPModel, Router and maskpool's own poolings.
_CONFIGS = {
    "BoW": _Config(
        "config.json",
        {
            "vocab": _WORDS,
            "word_weights": _WORD_WEIGHTS,
            "unknown_word_weight": NUMBER,
            "cumulative_term_frequency": BOOLEAN,
        },
        needed=("vocab",),
    ),
    "CNN": _Config(
        "cnn_config.json",
        {
            "in_embedding_dimension": _WIDTH,
            "in_word_embedding_dimension": _WIDTH,
            "out_channels": _WIDTH,
            "kernel_sizes": integers(1, 4096),
            "stride_sizes": optional(integers(1, 4096)),
        },
        weights=True,
    ),
    "Dense": _Config(
        "config.json",
        {
            "in_features": _WIDTH,
            "out_features": _WIDTH,
            "bias": BOOLEAN,
            "activation_function": one_of(_ACTIVATION_NAMES),
            "module_input_name": STRING,
            "module_output_name": optional(STRING),
            "use_residual": BOOLEAN,
        },
        weights=True,
        needed=("in_features", "out_features"),
    ),
    "Dropout": _Config("config.json", {"dropout": NUMBER}, optional=True),
    "LSTM": _Config(
        "lstm_config.json",
        {
            "embedding_dimension": _WIDTH,
            "word_embedding_dimension": _WIDTH,
            "hidden_dim": _WIDTH,
            "num_layers": integer(1, 256),
            "dropout": NUMBER,
            "bidirectional": BOOLEAN,
        },
        weights=True,
    ),
    "LayerNorm": _Config("config.json", {"dimension": _WIDTH}, weights=True, needed=("dimension",)),
    "Normalize": _Config(
        "config.json", {"module_input_name": STRING, "module_output_name": optional(STRING)}, optional=True
    ),
    "Pooling": _Config("config.json", _HOST_POOLING),
    "WeightedLayerPooling": _Config(
        "config.json",
        {
            "embedding_dimension": _WIDTH,
            "word_embedding_dimension": _WIDTH,
            "layer_start": _SMALL,
            "num_hidden_layers": _SMALL,
        },
        weights=True,
    ),
    "WordWeights": _Config(
        "config.json",
        {"vocab": _WORDS, "word_weights": _WORD_WEIGHTS, "unknown_word_weight": NUMBER},
        needed=("vocab", "word_weights"),
    ),
}


@dataclass(frozen=True)
class ModuleEntry:
    """Describe a vetted module of a saved model.

    Attributes:
        name: The module's name in the model.
        path: The module's folder, relative to the model's folder.
        kind: The stored path of the module's class, which is a key of the known classes.
        keywords: Keywords of ``encode`` that the module accepts.
        inner: The modules of a router, named by their ids.
        structure: The ids of the modules of each route of a router.
        parameters: Further arguments of a router.
    """

    name: str
    path: str
    kind: str
    keywords: tuple[str, ...] = ()
    inner: tuple[ModuleEntry, ...] = ()
    structure: Mapping[str, list[str]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadConfig:
    """Hold the vetted settings of a maskpool pooling."""

    path: Path
    settings: Mapping[str, Any]


def check_modules(folder: Folder, classes: Mapping[str, type], weights: bool = True) -> list[ModuleEntry] | None:
    """Vet the modules of a saved model before they are loaded.

    Args:
        folder: The model's folder.
        classes: The allowed classes, by every path that they are stored under.
        weights: Whether a transformer must have weights that torch reads.

    Returns:
        The modules in order, or None if the folder has no modules.json.

    Raises:
        FolderError: The list or a module is malformed, names an unknown class, or refers to code or to a place outside
            the folder.
    """
    stored = read_module_list(folder)
    if stored is None:
        return None
    path = folder.at("modules.json")
    entries = []
    for entry in stored:
        if not entry["name"] or "." in entry["name"]:
            raise FolderError(f"{path} must give each module a name without dots, got {entry['name']!r}")
        keywords = entry.get("kwargs", [])
        if not isinstance(keywords, list) or not all(isinstance(keyword, str) for keyword in keywords):
            raise refused(path, "kwargs", "a list of names", keywords)
        entries.append((entry, tuple(keywords)))
    names = [entry["name"] for entry, _ in entries]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise FolderError(f"{path} must give each module a unique name, and two are named {duplicate!r}")
    for entry, _ in entries:
        _check_known(path, entry["type"], classes)
    return [
        _check_module(
            folder, ModuleEntry(entry["name"], _normal(entry["path"]), entry["type"], keywords), classes, weights, ()
        )
        for entry, keywords in entries
    ]


def read_module_list(folder: Folder) -> list[dict[str, Any]] | None:
    """Read the entries of modules.json, each with a name, a type, and a path inside the folder.

    Returns:
        The entries, or None if the folder has no modules.json.

    Raises:
        FolderError: The list is malformed.
    """
    stored = folder.json("modules.json")
    if stored is None:
        return None
    path = folder.at("modules.json")
    if not isinstance(stored, list) or not stored:
        raise FolderError(f"{path} must be a list of modules, got {type(stored).__name__}")
    for entry in stored:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("name", "path", "type")):
            raise FolderError(f"{path} must give each module a name, a path and a type, got {shortened(entry)}")
        _check_place(path, "paths", entry["path"])
    return stored


def check_head(folder: Folder, subfolder: str = "") -> HeadConfig:
    """Vet the settings of a maskpool pooling before it is built.

    Raises:
        FolderError: The settings are malformed or missing.
    """
    path = folder.at(subfolder, "config.json")
    settings = folder.table(subfolder, "config.json")
    if settings is None:
        raise FolderError(f"{folder.at(subfolder)} must hold a config.json with the settings of a pooling, got none")
    for name, value in settings.items():
        if name in ("layers", "layer_indices"):
            continue
        expected = _HEAD.get(name)
        if expected is not None and not expected.holds(value):
            raise refused(path, name, expected.words, value)
        _check_option(path, name, value)
    for name in ("model.safetensors", "pytorch_model.bin"):
        weights = folder.find(subfolder, name)
        if weights is not None and name.endswith(".safetensors"):
            tensor_shapes(weights)
    return HeadConfig(path, settings)


def _check_option(path: Path, name: str, value: Any) -> None:  # Any: what JSON holds
    """Refuse an option that is not a number, a string or a list of them, or that is larger than in any pooling."""
    elements = value if isinstance(value, list) else [value]
    if len(elements) > 4096 or not all(isinstance(element, int | float | str | None) for element in elements):
        raise refused(path, name, "a number, a string or a list of them", value)
    for element in elements:
        is_number = isinstance(element, int | float) and not isinstance(element, bool)
        if is_number and not (NUMBER.holds(element) and abs(element) <= 1 << 24):
            raise refused(path, name, f"a number of at most {1 << 24}", element)


def _check_known(path: Path, kind: str, classes: Mapping[str, type]) -> None:
    if kind not in classes:
        raise FolderError(
            f"{path} names the class {kind!r}, which is part of neither maskpool nor sentence-transformers; if you "
            "trust its code, open the model with SentenceTransformer(..., trust_remote_code=True)"
        )


def _check_place(path: Path, what: str, place: object) -> None:
    if not is_inner_path(place):
        raise FolderError(f"{path} must have {what} inside the model, got {place!r}")


def _normal(place: str) -> str:
    return Path(place).as_posix() if place not in ("", ".") else ""


def _check_module(
    folder: Folder, entry: ModuleEntry, classes: Mapping[str, type], weights: bool, routers: tuple[str, ...]
) -> ModuleEntry:
    cls = classes[entry.kind]
    if cls.__module__.startswith("maskpool."):
        check_head(folder, entry.path)
        return entry
    if cls.__name__ in ("Transformer", "CLIPModel"):
        _check_transformer_module(folder, entry.path, weights)
        return entry
    if cls.__name__ == "Router":
        return _check_router(folder, entry, classes, weights, routers)
    if cls.__name__ == "StaticEmbedding":
        tokenizer = folder.table(entry.path, "tokenizer.json")
        if tokenizer is None:
            raise FolderError(f"{folder.at(entry.path)} must hold a tokenizer.json, got none")
        check_tokenizer_file(folder.at(entry.path, "tokenizer.json"), tokenizer)
        _check_module_weights(folder, entry.path)
        return entry
    if cls.__name__ == "WordEmbeddings":
        _check_word_embeddings(folder, entry.path)
        return entry
    config = _CONFIGS[cls.__name__]
    content = folder.table(entry.path, config.file)
    path = folder.at(entry.path, config.file)
    if content is None:
        if not config.optional:
            raise FolderError(f"{folder.at(entry.path)} must hold a {config.file} for its {cls.__name__}, got none")
    else:
        check_fields(path, content, config.fields)
        missing = next((name for name in config.needed if name not in content), None)
        if missing is not None:
            raise FolderError(f"{path} must set {missing} for its {cls.__name__}: save the model again")
    if config.weights:
        _check_module_weights(folder, entry.path)
    return entry


def _check_module_weights(folder: Folder, place: str) -> None:
    path = find_weights(folder, place)
    if path.suffix == ".safetensors":
        tensor_shapes(path)


def _check_transformer_module(folder: Folder, place: str, weights: bool) -> None:
    # The host reads the first file that is not empty.
    for name in TRANSFORMER_FILES:
        content = folder.table(place, name)
        if content:
            _check_transformer_config(folder.at(place, name), content)
            break
    check_transformer(folder, place, weights)


def _check_transformer_config(path: Path, content: dict[str, Any]) -> None:
    check_fields(path, content, _TRANSFORMER)
    for kind, old in _OLD_NAMES.items():
        for name in (old, f"{kind}_kwargs"):
            if name in content and content[name] is None:
                raise refused(path, name, "a table", None)
            check_fields(path, content.get(name, {}), _ARGUMENTS[kind], f"{name}.")
    for modality, about in content.get("modality_config", {}).items():
        at = f"modality_config.{modality}"
        if not isinstance(about, dict) or not set(modality.split("+")) <= _MODALITIES:
            raise refused(path, at, f"a table for one of {', '.join(sorted(_MODALITIES))}", about)
        check_fields(path, about, _MODALITY, f"{at}.")
        if "method" not in about or "method_output_name" not in about:
            raise refused(path, at, "a method and a method_output_name", about)
    if "modality_config" in content and not isinstance(content.get("module_output_name"), str):
        raise refused(path, "module_output_name", "a string", content.get("module_output_name"))
    for part, about in (content.get("processing_kwargs") or {}).items():
        if part not in ("common", "text", "audio", "image", "video", "chat_template") or not isinstance(about, dict):
            raise refused(path, f"processing_kwargs.{part}", "a table of a known modality", about)
        check_fields(path, about, _PROCESSING, f"processing_kwargs.{part}.")


def _check_word_embeddings(folder: Folder, place: str) -> None:
    path = folder.at(place, "wordembedding_config.json")
    content = folder.table(place, "wordembedding_config.json")
    if content is None:
        raise FolderError(f"{folder.at(place)} must hold a wordembedding_config.json, got none")
    check_fields(path, content, {"tokenizer_class": STRING, "update_embeddings": BOOLEAN, "max_seq_length": integer(1)})
    stored = content.get("tokenizer_class")
    module, _, name = str(stored).rpartition(".")
    known = [f"{prefix}{middle}" for prefix in _WORD_TOKENIZER_MODULES for middle in ("", f".{name}", _file_of(name))]
    if name not in _WORD_TOKENIZERS or module not in known:
        raise FolderError(
            f"{path} names the tokenizer_class {shortened(stored)}, which is not one of sentence-transformers: "
            f"{', '.join(_WORD_TOKENIZERS)}"
        )
    file, fields = _WORD_TOKENIZERS[name]
    if file:
        words = folder.table(place, file)
        if words is None:
            raise FolderError(f"{folder.at(place)} must hold a {file} for its tokenizer, got none")
        check_fields(folder.at(place, file), words, fields)
    else:
        _check_wrapped_tokenizer(folder, place)
    _check_module_weights(folder, place)


def _check_wrapped_tokenizer(folder: Folder, place: str) -> None:
    """Vet a tokenizer that the host opens without ``trust_remote_code=False``."""
    check_tokenizer(folder, place)
    for name in ("tokenizer_config.json", "config.json"):
        if (folder.table(place, name) or {}).get("auto_map"):
            raise FolderError(f"{folder.at(place, name)} names code in auto_map, which maskpool never runs: remove it")
    if folder.find(place, "config.json") is not None:
        check_transformer(folder, place, weights=False)


def _file_of(name: str) -> str:
    return {"WhitespaceTokenizer": ".whitespace", "PhraseTokenizer": ".phrase"}.get(name, ".word")


def _check_router(
    folder: Folder, entry: ModuleEntry, classes: Mapping[str, type], weights: bool, routers: tuple[str, ...]
) -> ModuleEntry:
    place = os.path.realpath(folder.at(entry.path))
    if place in routers or len(routers) >= _MOST_ROUTERS:
        raise FolderError(f"{folder.at(entry.path)} must not hold routers nested without end: a router contains itself")
    file = "router_config.json"
    content = folder.table(entry.path, file)
    if not content:
        file = "config.json"  # the name in older versions, where routers were called Asym
        content = folder.table(entry.path, file)
    path = folder.at(entry.path, file)
    if not content:
        raise FolderError(f"{folder.at(entry.path)} must hold a router_config.json for its Router, got none")
    types, structure, parameters = (content.get(name) for name in ("types", "structure", "parameters"))
    if not isinstance(types, dict) or not types:
        raise refused(path, "types", "a table of classes", types)
    for name, kind in types.items():
        if not is_plain_name(name):
            _check_place(path, "types", name)
            raise FolderError(f"{path} must have in types the names of folders next to it, got {name!r}")
        if not isinstance(kind, str):
            raise refused(path, f"types.{name}", "the path of a class", kind)
        _check_known(path, kind, classes)
    if not isinstance(structure, dict) or not structure:
        raise refused(path, "structure", "a table of routes", structure)
    for route, ids in structure.items():
        if not isinstance(ids, list) or not ids or not all(isinstance(name, str) and name in types for name in ids):
            raise refused(path, f"structure.{route}", "a list of names that are in types", ids)
    inner = tuple(
        _check_module(
            folder,
            ModuleEntry(name, f"{entry.path}/{name}".lstrip("/"), kind),
            classes,
            weights,
            (*routers, place),
        )
        for name, kind in types.items()
    )
    return ModuleEntry(
        entry.name,
        entry.path,
        entry.kind,
        entry.keywords,
        inner,
        structure,
        _router_parameters(path, {} if parameters is None else parameters),
    )


def _router_parameters(path: Path, parameters: object) -> dict[str, Any]:
    if not isinstance(parameters, dict):
        raise refused(path, "parameters", "a table", parameters)
    known = {"default_route": optional(STRING), "allow_empty_key": BOOLEAN, "route_mappings": optional(table(1000))}
    check_fields(path, parameters, known, "parameters.")
    mappings = parameters.get("route_mappings")
    if not mappings:
        return dict(parameters)
    routes: dict[Any, str] = {}
    for key, route in mappings.items():
        try:
            pair = ast.literal_eval(key) if len(key) < 1000 else None  # a literal: it is not executed
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pair = None
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(route, str) or not _is_pair(pair):
            raise refused(path, "parameters.route_mappings", "routes by pairs of a task and a modality", key)
        routes[pair] = route
    return {**parameters, "route_mappings": routes}


def _is_pair(pair: tuple[Any, ...]) -> bool:
    return all(
        isinstance(element, str | None)
        or (isinstance(element, tuple) and all(isinstance(part, str) for part in element))
        for element in pair
    )
