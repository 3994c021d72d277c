"""Read the modules that sentence-transformers and maskpool save, and the settings of a saved pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskpool.errors import FolderError
from maskpool.trust.fields import BOOLEAN, LENGTH, STRING, Field, integer, one_of, optional, refused, table
from maskpool.trust.files import Folder
from maskpool.trust.modules import LEGACY_MODES, TRANSFORMER_FILES, check_head, read_module_list

HOST_MODES = tuple(LEGACY_MODES.values())
DEFAULTS: dict[str, Any] = {"include_prompt": True, "include_special_tokens": True, "on_empty": "zero"}
OURS = "maskpool.integrations.sentence_transformers."
_HOST = "sentence_transformers."
_DIMENSIONS = ("embedding_dimension", "word_embedding_dimension")


@dataclass(frozen=True)
class SavedModule:
    """Describe an entry of modules.json.

    Attributes:
        stored: The stored path of the class.
        path: The module's folder, relative to the model's folder.
    """

    stored: str
    path: str

    @property
    def kind(self) -> str:
        """The class name for classes of sentence-transformers and maskpool, the stored path for others."""
        name = self.stored.rpartition(".")[2]
        if self.is_ours:
            return "Pooling" if name in ("Pooling", "AttentionPoolingModule") else self.stored
        return name if self.stored.startswith(_HOST) else self.stored

    @property
    def is_ours(self) -> bool:
        """Whether the class is one of maskpool."""
        return self.stored.startswith(OURS)

    @property
    def is_known(self) -> bool:
        """Whether the class is one of sentence-transformers or maskpool."""
        return self.kind != self.stored


@dataclass(frozen=True)
class PoolingSettings:
    """Hold the settings of a saved pooling.

    Attributes:
        modes: The modes; several are concatenated.
        options: Options of the modes that differ from the default, ``on_empty`` included.
        width: Width of a token state.
        include_prompt: Whether tokens of a prompt are pooled.
        include_special_tokens: Whether tokens that the tokenizer adds are pooled.
        stored: The content of the file.
    """

    modes: tuple[str, ...]
    options: Mapping[str, Any]
    width: int
    include_prompt: bool
    include_special_tokens: bool
    stored: Mapping[str, Any]


def read_modules(folder: Folder) -> list[SavedModule]:
    """Read the modules of a saved model; the list is empty if the folder has no modules.json.

    Raises:
        FolderError: The file is malformed.
    """
    return [SavedModule(entry["type"], entry["path"]) for entry in read_module_list(folder) or []]


def read_pooling(folder: Folder, module: SavedModule) -> PoolingSettings:
    """Read the settings of a pooling of sentence-transformers or maskpool.

    Raises:
        FolderError: The settings are malformed; the message names the file and the field.
    """
    stored = check_head(folder, module.path).settings
    settings = dict(stored)
    file = folder.at(module.path, "config.json")
    mode = settings.pop("pooling_mode", None)
    flags = {name: settings.pop(name) for name in LEGACY_MODES if name in settings}
    if mode is None:
        mode = [LEGACY_MODES[name] for name in LEGACY_MODES if flags.get(name)] or "mean"
    modes = (mode,) if isinstance(mode, str) else tuple(mode)
    widths = [settings.pop(name) for name in _DIMENSIONS if name in settings]
    if not widths:
        raise FolderError(f"{file} must set embedding_dimension for its pooling: save the model again")
    included = {name: settings.pop(name, default) for name, default in DEFAULTS.items() if name.startswith("include_")}
    for name, value in included.items():
        if not BOOLEAN.holds(value):
            raise refused(file, name, BOOLEAN.words, value)
    if not module.is_ours:
        unknown = [*settings, *([] if included["include_special_tokens"] else ["include_special_tokens"])]
        if unknown:
            raise FolderError(f"{file} must hold settings of sentence-transformers' Pooling, got {', '.join(unknown)}")
        foreign = [mode_name for mode_name in modes if mode_name not in HOST_MODES]
        if foreign:
            raise refused(file, "pooling_mode", f"one of {', '.join(map(repr, HOST_MODES))}", foreign[0])
    options = {name: value for name, value in settings.items() if DEFAULTS.get(name) != value}
    return PoolingSettings(modes, options, widths[0], stored=stored, **included)


def normalizes_vectors(folder: Folder, module: SavedModule) -> bool:
    """Return whether a Normalize module normalizes sentence vectors, not token states."""
    settings = folder.table(module.path, "config.json") if module.path else None
    name = "sentence_embedding"
    settings = settings or {}
    return settings.get("module_input_name", name) == name and settings.get("module_output_name") in (None, name)


@dataclass(frozen=True)
class TransformerSettings:
    """Hold what a saved Transformer module says about texts, tokens and states.

    Attributes:
        file: The file that holds the settings, relative to the model's folder; empty if there is none.
        stored: The content of the file.
        lower_case: Whether texts are lower-cased.
        max_length: The maximum number of tokens that the settings name, if they do.
        padding_side: The side that the settings pad, if they name one.
        layer: The output of the transformer that is pooled.
    """

    file: str
    stored: Mapping[str, Any]
    lower_case: bool
    max_length: int | None
    padding_side: str | None
    layer: str


def read_transformer(folder: Folder, module: SavedModule) -> TransformerSettings:
    """Read the settings of a Transformer module, from the first of its files that is not empty.

    Raises:
        FolderError: The settings are malformed; the message names the file and the field.
    """
    file, stored = "", {}
    for name in TRANSFORMER_FILES:
        stored = folder.table(module.path, name) or {}
        if stored:
            file = name
            break
    path = folder.at(module.path, file)
    processor: Any = next((stored[name] for name in ("processor_kwargs", "tokenizer_args") if stored.get(name)), {})
    text: Any = stored.get("modality_config") or {}
    for name, content in (("processor_kwargs", processor), ("modality_config", text)):
        _check(path, name, content, table())
    text = text.get("text") or {}
    _check(path, "modality_config.text", text, table())
    longest = processor.get("model_max_length", stored.get("max_seq_length"))
    _check(path, "max_seq_length", longest, optional(LENGTH))
    side = processor.get("padding_side")
    _check(path, "processor_kwargs.padding_side", side, optional(one_of(("left", "right"))))
    lower = stored.get("do_lower_case", False)
    _check(path, "do_lower_case", lower, BOOLEAN)
    layer = text.get("method_output_name", "last_hidden_state")
    return TransformerSettings(file, stored, lower, longest, side, _words(layer))


def read_prompts(folder: Folder) -> tuple[dict[str, str], str | None]:
    """Read the prompts of a model, and the name of the default one.

    Raises:
        FolderError: They are malformed.
    """
    config = folder.table("config_sentence_transformers.json") or {}
    path = folder.at("config_sentence_transformers.json")
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    _check(path, "default_prompt_name", name, optional(STRING))
    _check(path, "prompts", prompts, _PROMPTS)
    return {key: text or "" for key, text in prompts.items()}, name


def read_truncation(folder: Folder) -> int | None:
    """Read the number of dimensions that vectors are cut to, if the model names one.

    Raises:
        FolderError: It is malformed.
    """
    config = folder.table("config_sentence_transformers.json") or {}
    dimension: int | None = config.get("truncate_dim")
    path = folder.at("config_sentence_transformers.json")
    _check(path, "truncate_dim", dimension, optional(integer(1, 1 << 24)))
    return dimension


_PROMPTS = Field(
    "a table of strings",
    lambda value: isinstance(value, dict) and all(isinstance(text, str | None) for text in value.values()),
)


def _check(path: Path, name: str, value: Any, field: Field) -> None:  # Any: what JSON holds
    if not field.holds(value):
        raise refused(path, name, field.words, value)


def _words(layer: Any) -> str:  # Any: what JSON holds
    return ".".join(map(str, layer)) if isinstance(layer, list) else str(layer)
