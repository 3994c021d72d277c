"""A pipeline from the name of a model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from maskpool.encoder import Encoder, bundled_folder_of
from maskpool.errors import UserError
from maskpool.modules import build_pooling


def open_pipeline(name: str, pooling: str | None = None, device: str = "cpu") -> Any:
    """What `audit_padding` takes, for a model as its users run it.

    Args:
        name: A folder, or a name on the hub.
        pooling: Pool the token states of the transformer by this mode; None takes the pooling that the model is saved
            with, as sentence-transformers runs it, or the mean where it has none.
        device: Where it runs.

    Returns:
        A ``SentenceTransformer``, or a tuple (model, tokenizer, pooling).

    Raises:
        UserError: There is no such model, or no such pooling.
    """
    source = bundled_folder_of(name)
    plain_folder = Path(source).is_dir() and not (Path(source) / "modules.json").is_file()
    if pooling is None and not plain_folder:
        from maskpool.integrations.sentence_transformers import load

        try:
            return load(name, device=device)
        except FileNotFoundError:  # no modules.json on the hub: a plain model
            pass
        except (ValueError, OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"NAME_OR_PATH must be a model that can be loaded, {name!r} cannot: {reason}") from error
    try:
        encoder = Encoder.load(name, device)
    except UserError as error:  # its words are those of an option
        raise UserError(str(error).replace("--model", "NAME_OR_PATH", 1)) from error
    try:
        layer = build_pooling(pooling or "mean", encoder.dimension)
    except (ValueError, TypeError) as error:
        raise UserError(f"--pooling: {error}") from error
    tokenizer = copy.copy(encoder.tokenizer)
    return encoder.model, tokenizer, layer
