"""Compare a model's configuration and tokenizer with its weights, before it takes memory or fails on a text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskpool.errors import FolderError, MaskpoolError
from maskpool.trust.fields import refused
from maskpool.trust.loading import as_folder_error, is_panic

_FREE = 1 << 24  # parameters that a model may have in addition, for any size of its weights
# Files may hold only the encoder of a model, at eight bits per parameter, and the model is built as a whole.
_NUMBERS_A_BYTE = 2
_GROWTH = 64  # the factor by which a text may grow before it is tokenized
_TEXTS = ("a text", "ẞ☃ 𝕏")  # few vocabularies have the characters of the second text
_MOST_IDS = 512  # tokens that may be added to each text


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


def check_tokenizer_file(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse steps of a tokenizer.json that make texts or batches many times longer.

    Args:
        path: The file.
        content: The content of the file.

    Raises:
        FolderError: A step adds too much; the message names the field.
    """
    for part in ("normalizer", "pre_tokenizer"):
        growth = 1
        for step in _steps(content.get(part)):
            # A step may replace or prepend at every character.
            for name in ("content", "prepend"):
                text = step.get(name)
                if isinstance(text, str):
                    growth *= max(1, len(text))
            if growth > _GROWTH:
                raise FolderError(
                    f"{path} must not make texts more than {_GROWTH} times longer, and the {part} replaces or prepends "
                    f"{growth:,} characters: remove the step"
                )
    for step in _steps(content.get("post_processor")):
        added = 0
        for kind in ("single", "pair"):
            template = step.get(kind)
            added = max(added, len(template) if isinstance(template, list) else 0)
        special = step.get("special_tokens")
        for token in special.values() if isinstance(special, dict) else ():
            ids = token.get("ids") if isinstance(token, dict) else None
            added += len(ids) if isinstance(ids, list) else 0
        if added > _MOST_IDS:
            raise refused(path, "post_processor", f"a template of up to {_MOST_IDS} tokens", added)


def _steps(part: object) -> Iterable[Mapping[str, Any]]:
    """Yield the steps of a part of a tokenizer, including those inside sequences."""
    if isinstance(part, Mapping):
        yield part
        for value in part.values():
            if isinstance(value, list):
                for inner in value:
                    yield from _steps(inner)
