"""The layout of files that sentence-transformers 5.3 wrote, which all versions and servers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from maskpool.config.statement import OLD, EmbeddingConfig, Fact
from maskpool.trust.modules import LEGACY_MODES

POOLING_FOLDER = "1_Pooling"  # some readers open this folder and do not read modules.json
TYPES = {
    kind: f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize", "Dense", "Dropout")
}
# Settings that files of 5.3 do not have, and the values that mean the same as leaving them out.
_NEW_TRANSFORMER = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings", None),
    "processing_kwargs": (None, {}),
    "unpad_inputs": (None, False),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "modality_config": (
        None,
        {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    ),
}
_OLD_NAMES = {"model_kwargs": "model_args", "processor_kwargs": "tokenizer_args", "config_kwargs": "config_args"}


def obstacles(config: EmbeddingConfig) -> list[str]:
    """Return what the layout cannot express of a saved model, in words."""
    kinds = [stored.rpartition(".")[2] for stored in config.files.types]
    modes = config.pooling.value or ()
    foreign = [mode for mode in modes if mode not in LEGACY_MODES.values()]
    order = [mode for mode in LEGACY_MODES.values() if mode in modes]
    return [
        *(f"a {kind} module" for kind in kinds if kind not in TYPES),
        *(f"{mode} pooling, which only maskpool computes" for mode in foreign),
        *(f"{name}={value!r}, which only maskpool knows" for name, value in config.pooling_options.value.items()),
        *([] if config.include_special_tokens.value else ["include_special_tokens=False, which only maskpool knows"]),
        *([] if config.files.pooling_path not in ("", ".") else ["a pooling without a folder"]),
        *([] if foreign or order == list(modes) else [f"poolings in another order than {', '.join(order)}"]),
        *([] if "Transformer" in kinds else ["no Transformer"]),
        *new_settings(config.files.transformer, _NEW_TRANSFORMER, config.files.transformer_file),
    ]


def new_settings(stored: Mapping[str, Any], new: Mapping[str, tuple[Any, ...]], file: str) -> list[str]:
    """Return the settings of a file that 5.3 does not know and whose values change something, in words."""
    return [
        f"{name}={stored[name]!r} in {file}"
        for name, harmless in new.items()
        if name in stored and stored[name] not in harmless
    ]


def as_old(config: EmbeddingConfig) -> EmbeddingConfig:
    """Return what the files of a model state once they have the layout; the model has no `obstacles`."""
    files = replace(
        config.files,
        types=tuple(TYPES[stored.rpartition(".")[2]] for stored in config.files.types),
        pooling_path=POOLING_FOLDER,
        pooling=old_pooling(config),
        transformer=old_transformer(config),
        transformer_file=config.files.transformer_file or "sentence_bert_config.json",
        tokenizer_length=config.max_length.value or config.files.tokenizer_length,
    )
    return replace(config, layout=OLD, files=files, pooling_options=Fact({}, ""))


def old_pooling(config: EmbeddingConfig) -> dict[str, Any]:
    """Return the settings of a pooling, with the keys of 5.3."""
    stored = config.files.pooling
    modes = config.pooling.value or ()
    return {
        "word_embedding_dimension": stored.get("embedding_dimension", stored.get("word_embedding_dimension")),
        **{flag: mode in modes for flag, mode in LEGACY_MODES.items()},
        "include_prompt": config.include_prompt.value,
    }


def old_transformer(config: EmbeddingConfig) -> dict[str, Any]:
    """Return the settings of a Transformer, with the keys of 5.3."""
    stored = {name: value for name, value in config.files.transformer.items() if name not in _NEW_TRANSFORMER}
    for new, old in _OLD_NAMES.items():
        if new in stored:
            stored[old] = stored.pop(new)
    return stored | {"max_seq_length": config.max_length.value, "do_lower_case": config.lower_case.value}
