"""Vet the files of a transformers model: configuration, tokenizer, processor, weights.

The rules follow the source of transformers 5.23. A field that transformers ignores is accepted with any value, because
published models have stale paths and names in such fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskpool.errors import FolderError
from maskpool.trust.fields import (
    ATTENTION,
    BOOLEAN,
    DTYPES,
    EXPERTS,
    LAYER_COUNTS,
    LENGTH,
    STRING,
    TOKEN,
    check_fields,
    check_sizes,
    one_of,
    optional,
    refused,
)
from maskpool.trust.files import Folder, is_plain_name, names_a_place, shortened
from maskpool.trust.loading import as_folder_error
from maskpool.trust.processors import PROCESSORS, REFUSED_TYPES, check_processor_classes, check_processor_fields
from maskpool.trust.tokenizer_file import check_tokenizer_file

CONFIG = "config.json"
_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_ADAPTER = "adapter_config.json"
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_FEWEST_TENSORS = 32  # models whose layers share weights have fewer weights than layers
# Names of files that some tokenizer reads as its vocabulary.
_VOCABULARIES = re.compile(
    r"(tokenizer\.json|vocab\..*|.*\.model|merges\.txt|.*\.spm|bpe\.codes|.*vocab.*\.(json|txt)|tekken\.json|"
    r".*\.tiktoken|spiece.*)\Z"
)
# Architectures that create their weights through other packages, from names or pickles.
_REFUSED_TYPES = {
    "timm_wrapper": "it takes its network from another package by name",
    "timm_backbone": "it takes its network from another package by name",
    "rag": "it reads an index of documents from elsewhere",
    **REFUSED_TYPES,
}
# Fields that take weights or code from elsewhere. They are refused at any depth of a configuration.
_REFUSED_FIELDS = {
    "backbone": "names a network outside the folder",
    "backbone_kwargs": "passes arguments on to another package",
    "base_model_name_or_path": "names a model outside the folder",
    "custom_generate": "names code",
    "distributed_config": "sets up processes",
    "fusion_config": "rewrites the model's layers",
    "gguf_file": "names weights in another format",
    "kernel_config": "names kernels, which are code",
    "quantization_config": "names a quantisation, whose kernels are code: save the model without quantisation",
    "use_kernels": "loads kernels, which are code",
    "use_pretrained_backbone": "takes weights from outside the folder",
    "use_timm_backbone": "takes its network from another package by name",
    "audio_tokenizer": "names a model outside the folder",
}
_ATTENTION_FIELDS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_EXPERTS_FIELDS = ("experts_implementation", "_experts_implementation", "_experts_implementation_internal")
# Keys of auto_map that transformers ignores if it has a native class. A processor's code would be run.
_IGNORED_CODE = re.compile(r"(AutoConfig|AutoTokenizer|AutoModel\w*)\Z")
# Strings that are not paths, and paths that transformers overwrites or never reads.
_IGNORED = (
    "name_or_path",
    "_name_or_path",
    "tokenizer_file",
    "special_tokens_map_file",
    "tokenizer_config_file",
    "added_tokens_file",
    "vocab_file",
    "chat_template",
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "id2label",
    "label2id",
    "task_specific_params",
    "auto_map",
)
_SENTENCEPIECE_ARGUMENTS = ("enable_sampling", "nbest_size", "alpha", "add_bos", "add_eos", "reverse")
_WORD_TOKENIZERS = {
    "mecab_kwargs": {
        "mecab_dic": optional(one_of(("ipadic", "unidic", "unidic_lite"))),
        "do_lower_case": BOOLEAN,
        "normalize_text": BOOLEAN,
    },
    "sudachi_kwargs": {"sudachi_split_mode": one_of("ABC"), "sudachi_dict_type": one_of(("small", "core", "full"))},
    "jumanpp_kwargs": {"trim_whitespace": BOOLEAN},
}
_TOKENIZER_FIELDS = {
    "model_max_length": optional(LENGTH),
    "padding_side": optional(one_of(("left", "right"))),
    "truncation_side": optional(one_of(("left", "right"))),
    "tokenizer_class": optional(STRING),
    "processor_class": optional(STRING),
    **{f"{name}_token": TOKEN for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")},
}


def check_transformer(folder: Folder, subfolder: str = "", weights: bool = True, tokenizer: bool = True) -> None:
    """Vet the files of a transformers model before they are opened.

    Args:
        folder: The folder.
        subfolder: The subfolder that holds the model.
        weights: Whether weights that torch reads are required.
        tokenizer: Whether a tokenizer is required.

    Raises:
        FolderError: A file is malformed, or refers to code or to something outside the folder.
    """
    # Transformers looks for an adapter in the top folder as well.
    adapter = folder.find(_ADAPTER) or folder.find(subfolder, _ADAPTER)
    if adapter is not None:
        raise FolderError(
            f"{adapter} makes the model an adapter of another model, which is outside the "
            "folder: merge the adapter into its base model, and save the whole"
        )
    config = folder.table(subfolder, CONFIG)
    if config is None:
        raise FolderError(f"{folder.at(subfolder)} must hold a {CONFIG}: it is not the folder of a transformers model")
    _check_config(folder.at(subfolder, CONFIG), config)
    for name in _files(config, "configuration_files", folder.at(subfolder, CONFIG)):
        versioned = folder.table(subfolder, name)
        if versioned is not None:
            _check_config(folder.at(subfolder, name), versioned)
    check_tokenizer(folder, subfolder, tokenizer)
    audio = folder.find(subfolder, "audio_tokenizer_config.json")
    if audio is not None:
        raise FolderError(f"{audio} names a model outside the folder: remove the file")
    if weights:
        _check_weights(folder, subfolder, config)


def _check_layers(path: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse more layers than there are weights: transformers would build them and fill them with random numbers."""
    for name, value, at in _fields(config):
        if name in LAYER_COUNTS and isinstance(value, int) and value > max(tensors, _FEWEST_TENSORS):
            raise FolderError(
                f"{path} must have in {at} a number of layers that fits the weights, got {value} for {tensors} "
                "weights in all: the two belong to different models"
            )


def check_tokenizer(folder: Folder, subfolder: str = "", needed: bool = True) -> None:
    """Vet the files of a tokenizer or processor.

    Raises:
        FolderError: A file is malformed, or refers to code or to something outside the folder.
    """
    at = folder.at(subfolder)
    names = {entry.name for entry in at.iterdir() if entry.is_file()} if at.is_dir() else set()
    no_tokenizer = FolderError(
        f"{at} must hold a tokenizer, such as tokenizer.json: save the tokenizer next to the model with "
        "tokenizer.save_pretrained"
    )
    vocabulary = any(map(_VOCABULARIES.match, names))
    needed = needed and not names & set(PROCESSORS)  # an image model has only a processor
    if needed and not vocabulary and _TOKENIZER_CONFIG not in names:
        raise no_tokenizer
    settings = folder.table(subfolder, _TOKENIZER_CONFIG)
    if settings is not None:
        kind = _check_tokenizer_config(folder.at(subfolder, _TOKENIZER_CONFIG), settings, "tokenizer.json" in names)
        if needed and not vocabulary and getattr(kind, "vocab_files_names", None):  # tokenizers of bytes have none
            raise no_tokenizer
        for name in _files(settings, "fast_tokenizer_files", folder.at(subfolder, _TOKENIZER_CONFIG)):
            folder.find(subfolder, name)
    definition = folder.table(subfolder, _TOKENIZER)
    if definition is not None:
        check_tokenizer_file(folder.at(subfolder, _TOKENIZER), definition)
    special = folder.table(subfolder, "special_tokens_map.json")
    if special is not None:
        _check_special_tokens(folder.at(subfolder, "special_tokens_map.json"), special, only=True)
    added = folder.table(subfolder, "added_tokens.json") or {}
    for token, number in added.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 31:
            raise refused(folder.at(subfolder, "added_tokens.json"), token, "the number of a token", number)
    generation = folder.table(subfolder, "generation_config.json")
    if generation is not None:
        _check_values(folder.at(subfolder, "generation_config.json"), generation, places=False)
    for name in PROCESSORS:
        content = folder.table(subfolder, name)
        if content is not None:
            _check_config(folder.at(subfolder, name), content, processor=True)
            check_processor_fields(folder.at(subfolder, name), content)
    # A processor has further tokenizers in separate folders. Without a processor file, model_type determines it.
    for entry in sorted(at.iterdir()) if at.is_dir() else ():
        has_processor = names & set(PROCESSORS) and (entry / _TOKENIZER_CONFIG).is_file()
        if entry.is_dir() and ("tokenizer" in entry.name or has_processor):
            inner = f"{subfolder}/{entry.name}".lstrip("/")
            check_tokenizer(folder, inner, needed=False)
            config = folder.table(inner, CONFIG)
            if config is not None:
                _check_config(folder.at(inner, CONFIG), config, tokenizer=True)


def _check_config(path: Path, config: dict[str, Any], processor: bool = False, tokenizer: bool = False) -> None:
    check_sizes(path, config)
    _check_values(path, config, places=processor)
    kind = config.get("model_type")
    if not isinstance(kind, str | None):
        raise refused(path, "model_type", "a string", kind)
    for inner in _tables(config):
        reason = _REFUSED_TYPES.get(str(inner.get("model_type")))
        if reason:
            raise FolderError(f"{path} must not have the model_type {inner['model_type']!r}: {reason}")
    if "auto_map" in config:
        _check_auto_map(path, config, native=not (processor or tokenizer) and kind is not None and _is_native(kind))
    check_processor_classes(path, config)
    architectures = config.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(architecture, str) for architecture in architectures)
    ):
        raise refused(path, "architectures", "a list of strings", architectures)
    for name, value, at in _fields(config):
        if name == "tokenizer_class":
            _check_class(path, at, value)
    explicit = config.get("transformers_weights")
    if explicit is not None and not (
        is_plain_name(explicit) and explicit.endswith((".safetensors", ".safetensors.index.json"))
    ):
        raise refused(path, "transformers_weights", "the name of a safetensors file in the same folder", explicit)


def _check_values(path: Path, content: Mapping[str, Any], places: bool = True) -> None:
    """Refuse fields that take code or data from elsewhere, at any depth.

    Args:
        path: The file.
        content: The content of the file.
        places: Whether strings that name a place are refused as well. Tokenizers and processors open such paths;
            models of transformers open only those in fields that are refused by name.
    """
    for name, value, at in _fields(content):
        if name in _REFUSED_FIELDS and value not in (None, False, {}, [], ""):
            raise FolderError(f"{path} must not set {at}, which {_REFUSED_FIELDS[name]}: remove the field")
        if name == "auto_map" and at != "auto_map":
            raise FolderError(f"{path} must not set {at}, which names code: remove the field")
        if name in _ATTENTION_FIELDS:
            _check_implementation(path, at, value, ATTENTION)
        elif name in _EXPERTS_FIELDS:
            _check_implementation(path, at, value, EXPERTS)
        elif name in ("dtype", "torch_dtype"):
            for dtype in value.values() if isinstance(value, dict) else [value]:
                plain = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
                if plain is not None and plain not in DTYPES:
                    raise refused(path, at, f"one of {', '.join(DTYPES)}", value)
        elif places and isinstance(value, str) and names_a_place(value) and not _is_ignored(at):
            raise FolderError(
                f"{path} must not name a place outside the folder in {at or 'a field without a name'}, got "
                f"{shortened(value)}: remove the field"
            )


def _check_implementation(path: Path, at: str, value: object, known: tuple[str, ...]) -> None:
    for implementation in value.values() if isinstance(value, dict) else [value]:
        if implementation is not None and implementation not in known:
            raise FolderError(
                f"{path} must have in {at} one of {', '.join(known)}, because others may load code, got "
                f"{shortened(implementation)}: remove the field, and pass attn_implementation in model_kwargs yourself"
            )


def _check_auto_map(path: Path, content: Mapping[str, Any], native: bool) -> None:
    """Accept a map to code only if transformers has a native class, which it uses unless the caller trusts the code."""
    names = content["auto_map"]
    if names in (None, {}, []):
        return
    if not native or not isinstance(names, dict | list):
        raise FolderError(
            f"{path} names code in auto_map, which maskpool never runs: a model whose architecture is not part of "
            "transformers cannot be opened here; if you trust its code, open it with transformers or "
            "sentence-transformers yourself, with trust_remote_code=True, and pass on the opened model"
        )
    if isinstance(names, list) or any(not isinstance(path, str | list | None) for path in names.values()):
        raise refused(path, "auto_map", "a table of strings", names)
    for name in names:
        if not _IGNORED_CODE.match(name):
            raise FolderError(
                f"{path} must not name code in auto_map.{shortened(name)[1:-1]}, which maskpool never runs: remove the "
                "field"
            )


def _check_tokenizer_config(path: Path, settings: dict[str, Any], has_json: bool) -> Any:  # Any: a class
    """Vet tokenizer_config.json, and return the tokenizer's class if it is known.

    Args:
        path: The file.
        settings: The content of the file.
        has_json: Whether the folder has a tokenizer.json, which then holds the vocabulary.
    """
    _check_special_tokens(path, settings)
    for name, field in _TOKENIZER_FIELDS.items():
        if name in settings and not field.holds(settings[name]):
            raise refused(path, name, field.words, settings[name])
    kind = _check_class(path, "tokenizer_class", settings.get("tokenizer_class"))
    check_processor_classes(path, settings)
    if "auto_map" in settings:
        known = settings.get("tokenizer_class")
        native = isinstance(known, str) and _find_tokenizer(known) is not None
        if isinstance(settings["auto_map"], list):
            native = False
        _check_auto_map(path, settings, native)
    _check_values(path, {name: value for name, value in settings.items() if not name.endswith("_token")})
    for name in ("init_inputs", "vocab", "merges", "tokenizer_object", "slow_tokenizer", "fast_tokenizer", "config"):
        if settings.get(name) not in (None, [], {}):
            raise FolderError(f"{path} must not set {name}, which replaces the tokenizer's own files: remove the field")
    if settings.get("trust_remote_code") not in (None, False):
        raise FolderError(f"{path} must not set trust_remote_code, which only a caller may: remove the field")
    overwritten = getattr(kind, "vocab_files_names", {}) if has_json else {}
    for name, value in settings.items():
        if name in _WORD_TOKENIZERS and value:
            if not isinstance(value, dict):
                raise refused(path, name, "a table", value)
            check_fields(path, value, _WORD_TOKENIZERS[name], f"{name}.")
        elif name == "sp_model_kwargs" and value:
            if not isinstance(value, dict):
                raise refused(path, name, "a table", value)
            for inner in value:
                if inner not in _SENTENCEPIECE_ARGUMENTS:
                    raise FolderError(
                        f"{path} must not set {name}.{inner}; only {', '.join(_SENTENCEPIECE_ARGUMENTS)} are passed on "
                        "to SentencePiece: remove the field"
                    )
        elif (
            re.search(r"_(file|files|path|dir|spm)\Z", name)
            and name
            not in (
                *_IGNORED,
                *overwritten,
                "fast_tokenizer_files",
            )
            and value
        ):
            raise FolderError(
                f"{path} must not name a file in {name}, which would be opened from the working directory, got "
                f"{shortened(value)}: remove the field"
            )
    return kind


def _check_special_tokens(path: Path, content: Mapping[str, Any], only: bool = False) -> None:
    """Vet the special tokens; with ``only``, refuse all other fields."""
    for name, value in content.items():
        if only and not name.endswith("_token") and name not in ("additional_special_tokens", "extra_special_tokens"):
            raise FolderError(f"{path} must hold special tokens only, got {shortened(name)}: remove the field")
        if only and name.endswith("_token") and not TOKEN.holds(value):
            raise refused(path, name, TOKEN.words, value)
    decoder = content.get("added_tokens_decoder")
    if decoder is not None and not (
        isinstance(decoder, dict)
        and all(str(place).isdecimal() and len(str(place)) < 10 for place in decoder)
        and all(isinstance(token, dict) and isinstance(token.get("content"), str) for token in decoder.values())
    ):
        raise refused(path, "added_tokens_decoder", "a table of tokens by their number", decoder)
    for name in ("additional_special_tokens", "extra_special_tokens"):
        value = content.get(name)
        if value is not None and not isinstance(value, list | dict):
            raise refused(path, name, "a list or table of tokens", value)


def _check_class(path: Path, at: str, value: object) -> Any:  # Any: a class of transformers, or None
    """Refuse a name that transformers has for something other than a tokenizer, and return the tokenizer's class."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.isidentifier():
        raise refused(path, at, "the name of a class", value)
    import transformers

    cls = _find_tokenizer(value)
    if cls is None and hasattr(transformers, value):
        raise refused(path, at, "the name of a tokenizer of transformers", value)
    return cls


def _find_tokenizer(name: str) -> Any:  # Any: a class of transformers, or None
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    try:
        cls: Any = tokenizer_class_from_name(name)
    except Exception:  # its module needs a missing package, which opening the tokenizer reports
        return None
    return cls if isinstance(cls, type) and issubclass(cls, PreTrainedTokenizerBase) else None


def _is_native(kind: str) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return kind in MODEL_MAPPING_NAMES


def _files(content: Mapping[str, Any], name: str, path: Path) -> list[str]:
    """Return the names of files for several versions of transformers, each in the same folder."""
    names = content.get(name)
    if names is None:
        return []
    if not isinstance(names, list) or not all(map(is_plain_name, names)):
        raise refused(path, name, "a list of files in the same folder", names)
    return names


def _check_weights(folder: Folder, subfolder: str, config: Mapping[str, Any]) -> None:
    explicit = config.get("transformers_weights")
    names = (explicit, *_WEIGHTS) if isinstance(explicit, str) else _WEIGHTS
    at = folder.at(subfolder)
    if any(re.match(r"shard-\d+-model-\d+-of-\d+\.safetensors\Z", entry.name) for entry in at.iterdir()):
        raise FolderError(f"{at} must not hold a distributed checkpoint: save the model with model.save_pretrained")
    name = next((name for name in names if folder.find(subfolder, name) is not None), None)
    if name is None:
        raise _missing_weights(at)
    config_path = folder.at(subfolder, CONFIG)
    if not name.endswith(".index.json"):
        path = folder.at(subfolder, name)
        _check_layers(config_path, config, len(tensor_shapes(path) if name.endswith(".safetensors") else _pickle(path)))
        return
    index, path = folder.table(subfolder, name) or {}, folder.at(subfolder, name)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(map(is_plain_name, shards.values())):
        raise refused(path, "weight_map", "the name of a file in the same folder for each weight", shards)
    if not isinstance(index.get("metadata"), dict):
        raise refused(path, "metadata", "a table", index.get("metadata"))
    for shard in sorted(set(shards.values())):
        if not shard.endswith((".safetensors", ".bin")):
            raise refused(path, "weight_map", "files that end in .safetensors or .bin", shard)
        if folder.find(subfolder, shard) is None:
            raise FolderError(f"{path} names {shard} in weight_map, but the file does not exist: save the model again")
        if shard.endswith(".safetensors"):
            tensor_shapes(folder.at(subfolder, shard))
    _check_layers(config_path, config, len(shards))


def find_weights(folder: Folder, subfolder: str) -> Path:
    """Find the file with the weights of a module.

    Raises:
        FolderError: The file does not exist.
    """
    path = folder.find(subfolder, "model.safetensors") or folder.find(subfolder, "pytorch_model.bin")
    if path is None:
        raise _missing_weights(folder.at(subfolder))
    return path


def _missing_weights(place: Path) -> FolderError:
    return FolderError(f"{place} must hold weights in model.safetensors, got none: save the model again")


def _pickle(path: Path) -> Mapping[str, Any]:
    """Read the names and shapes of the weights in a pickle, without their values."""
    import torch

    with as_folder_error(f"{path} must hold the weights of a model"):
        stored = torch.load(path, map_location="meta", weights_only=True)
        if not isinstance(stored, Mapping):
            raise FolderError(f"{path} must hold the weights of a model: it holds a {type(stored).__name__}")
        return stored


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the tensors from a safetensors file's header, and check that the file is complete.

    Raises:
        FolderError: The file is not a safetensors file, or is cut off.
    """
    expected = f"{path} must be a complete safetensors file"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, 100_000_000):
                raise FolderError("its header is incomplete")
            header = json.loads(file.read(length))
        end = 0
        shapes: dict[str, tuple[int, ...]] = {}
        for name, about in header.items():
            if name == "__metadata__":
                continue
            shapes[name] = tuple(int(extent) for extent in about["shape"])
            end = max(end, int(about["data_offsets"][1]))
    except OSError as error:
        raise FolderError(f"{expected}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise FolderError(f"{expected}; it cannot be read: {error}: copy or save it again") from error
    if size != 8 + length + end:
        raise FolderError(
            f"{expected}: it has {size:,} bytes, and its header says {8 + length + end:,}: copy or save it again"
        )
    return shapes


def _is_ignored(at: str) -> bool:
    parts = at.split(".")
    return any(part in _IGNORED or part.endswith("_token") for part in parts)


def _fields(content: object, at: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield the name, value and place of every field, at any depth; fields in a list have the place of the list."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            inner = f"{at}.{name}" if at else str(name)
            yield str(name), value, inner
            yield from _fields(value, inner)
    elif isinstance(content, list):
        for value in content:
            if isinstance(value, str):
                yield "", value, at
            yield from _fields(value, at)


def _tables(content: object) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from _tables(value)
    elif isinstance(content, list):
        for value in content:
            yield from _tables(value)
