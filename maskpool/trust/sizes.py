"""Compare a model's configuration and tokenizer with its weights, before it takes memory or fails on a text."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskpool.errors import FolderError, MaskpoolError, WeightsError
from maskpool.trust.loading import as_folder_error, is_panic

_FREE = 1 << 24  # parameters that a model may have in addition, for any size of its weights
# Files may hold only the encoder of a model, at eight bits per parameter, and the model is built as a whole.
_NUMBERS_A_BYTE = 2
_TEXTS = ("a text", "ẞ☃ 𝕏")  # few vocabularies have the characters of the second text


def check_size(place: str | os.PathLike[str], config: Any) -> None:
    """Refuse a configuration of a model much larger than its weights, before the model takes memory.

    Args:
        place: The folder of the model.
        config: The model's configuration, opened by transformers.

    Raises:
        FolderError: The configuration and the weights belong to different models.
    """
    from transformers import AutoModel

    files = [path for path in Path(place).iterdir() if path.suffix in (".safetensors", ".bin") and path.is_file()]
    size = sum(path.stat().st_size for path in files)
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]  # untyped
    except Exception:  # opening the model reports the error in the configuration
        return
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if numbers > _NUMBERS_A_BYTE * size + _FREE:
        raise FolderError(
            f"{Path(place) / 'config.json'} must describe the model whose weights are next to it; it describes a model "
            f"of {numbers:,} numbers, and the weights have {size:,} bytes: the two belong to different models"
        )


@contextmanager
def naming_tokenizer(place: str | os.PathLike[str]) -> Iterator[None]:
    """Raise an error that names tokenizer.json if an error inside the block comes from a malformed one.

    Args:
        place: The folder of the tokenizer.

    Raises:
        FolderError: The tokenizer.json cannot be read.
    """
    try:
        yield
    except MaskpoolError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        path = Path(place) / "tokenizer.json"
        if path.is_file():
            from tokenizers import Tokenizer

            with as_folder_error(f"{path} must hold a tokenizer that can be loaded"):
                Tokenizer.from_file(str(path))
        raise


def check_token_ids(place: str | os.PathLike[str], tokenizer: Any, model: nn.Module) -> None:
    """Refuse a tokenizer that cannot read a text, or that has tokens without a row in the model's embedding.

    Added tokens that the tokenizer does not put into texts are ignored: some models do not know them.

    Args:
        place: The folder of the tokenizer.
        tokenizer: A tokenizer of the transformers or tokenizers package.
        model: The embedding layer, or the transformers model that contains it.

    Raises:
        FolderError: The tokenizer does not fit; the message names the file and the token.
    """
    path = Path(place) / "tokenizer.json"
    path = path if path.is_file() else Path(place)
    of_transformers = hasattr(tokenizer, "vocab_files_names")
    with as_folder_error(f"{path} must hold a tokenizer that can read a text"):
        if of_transformers:
            ids = [token_id for text in tokenizer(list(_TEXTS))["input_ids"] for token_id in text]
        else:
            ids = [token_id for text in tokenizer.encode_batch(list(_TEXTS)) for token_id in text.ids]
    try:
        layer: Any = model.get_input_embeddings() if of_transformers else model  # type: ignore[operator]
        weight: Any = getattr(layer, "weight", None)
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        added = tokenizer.get_added_vocab() if of_transformers else ()
    except (
        Exception
    ):  # some models have no embedding matrix, and some tokenizers, such as those of bytes, no vocabulary
        return
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return
    used = {token: number for token, number in vocabulary.items() if token not in added or number in ids}
    token = max(used, key=used.__getitem__, default=None)
    if token is not None and used[token] >= len(weight):
        raise FolderError(
            f"{path} must have ids of tokens below {len(weight)}, the rows of the model's embedding, got "
            f"{used[token]} for {token!r}: the tokenizer and the weights belong to different models"
        )


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
