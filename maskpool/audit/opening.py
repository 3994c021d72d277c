"""Open the pipeline to audit from the name or the folder of a model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from maskpool.encoder import Encoder, bundled_folder_of
from maskpool.encoder.transformer import silence_transformers
from maskpool.errors import FolderError, InvalidValueError, MaskpoolError
from maskpool.poolings.build import build_pooling
from maskpool.poolings.spelling import parse_mode


def open_pipeline(name: str, pooling: str | None = None, device: str = "cpu") -> Any:
    """Open a model as its users run it, in a form that `audit_padding` takes.

    Args:
        name: A folder, or a name on the hub.
        pooling: The mode that pools the token states, with options as in ``topk_mean(k=3)``. None takes the saved
            pooling of the model, as sentence-transformers runs it, or the mean without one.
        device: The device of the model.

    Returns:
        A ``SentenceTransformer``, or a tuple (model, tokenizer, pooling).

    Raises:
        MaskpoolError: The model cannot be loaded, the pooling needs options, or torch cannot use the device.
    """
    source = bundled_folder_of(name)
    plain_folder = Path(source).is_dir() and not (Path(source) / "modules.json").is_file()
    if pooling is None and not plain_folder:
        from maskpool.integrations.sentence_transformers import load

        silence_transformers()  # an error would follow its progress bars
        try:
            return load(name, device=device)
        except FileNotFoundError:  # no modules.json on the hub: a plain model
            pass
        except MaskpoolError:
            raise
        except (ValueError, OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FolderError(
                f"must be a model that can be loaded, {name!r} cannot: {reason}", argument="name"
            ) from error
    mode, options = parse_mode("mean" if pooling is None else pooling, "pooling")
    encoder = Encoder.load(name, device)
    try:
        layer = build_pooling(mode, encoder.dimension, **options)
    except (ValueError, TypeError) as error:  # an option that does not fit the width of the model
        raise InvalidValueError("pooling", f"must fit {name}, got {pooling!r}: {error}") from error
    return encoder.model, copy.copy(encoder.tokenizer), layer
