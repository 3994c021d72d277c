"""Write the configuration files of models, without weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskpool.trust.modules import LEGACY_MODES

MODES = tuple(LEGACY_MODES.values())
WIDTH = 8
OLD_TYPES = {kind: f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize", "Dense")}
NEW_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
}
OUR_TYPES = NEW_TYPES | {"Pooling": "maskpool.integrations.sentence_transformers.Pooling"}
TYPES = {"old": OLD_TYPES, "new": NEW_TYPES, "ours": OUR_TYPES}
LENGTH, POSITIONS = 64, 128


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def write_model(
    folder: Path,
    layout: str = "new",
    mode: str | Sequence[str] = "mean",
    *,
    normalize: bool = False,
    dense: bool = False,
    **settings: Any,
) -> Path:
    """Write the files of a model as a version of sentence-transformers saves them.

    Args:
        folder: Where to.
        layout: ``"old"``, ``"new"`` or ``"ours"``.
        mode: The mode of the pooling, or several.
        normalize: Whether a Normalize module follows.
        dense: Whether a Dense module follows the pooling.
        **settings: Settings of the pooling, such as ``include_prompt``, or ``config_sentence_transformers``.
    """
    modes = [mode] if isinstance(mode, str) else list(mode)
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    places = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    modules = [
        {"idx": index, "name": str(index), "path": place, "type": TYPES[layout][kind]}
        for index, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    write(folder / "modules.json", modules)
    write(folder / "config_sentence_transformers.json", settings.pop("config_sentence_transformers", {}))
    if layout == "old":
        pooling: dict[str, Any] = {"word_embedding_dimension": WIDTH}
        pooling |= {flag: legacy in modes for flag, legacy in LEGACY_MODES.items()}
        transformer: dict[str, Any] = {"max_seq_length": LENGTH, "do_lower_case": False}
    else:
        pooling = {"embedding_dimension": WIDTH, "pooling_mode": modes[0] if len(modes) == 1 else modes}
        pooling |= {"include_prompt": True}
        transformer = {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        }
    if layout == "ours":
        pooling |= {"on_empty": "zero", "include_special_tokens": True}
    write(folder / "1_Pooling" / "config.json", pooling | settings)
    write(folder / "sentence_bert_config.json", transformer)
    if dense:
        activation = "torch.nn.modules.activation.Tanh"
        about = {"in_features": WIDTH, "out_features": 4, "bias": True, "activation_function": activation}
        write(folder / "2_Dense" / "config.json", about)
    write(folder / "tokenizer.json", {})
    write(folder / "tokenizer_config.json", {"model_max_length": LENGTH})
    config = {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": POSITIONS}
    write(folder / "config.json", config)
    return folder
