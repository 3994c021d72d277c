"""Read what a model computes from the header of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskpool.config.statement import ALL, GGUF, EmbeddingConfig, Fact, Files
from maskpool.errors import FolderError, RequirementError
from maskpool.trust.files import check_regular
from maskpool.trust.loading import reason_of

# As llama.cpp numbers them.
POOLING_TYPES: dict[int, tuple[str, ...]] = {1: ("mean",), 2: ("cls",), 3: ("lasttoken",)}
_DENSE = ("dense_2", "dense_3")
_OTHER_TYPES = {0: "none: the states of all tokens", 4: "rank: a score"}


def read_gguf(path: Path) -> EmbeddingConfig:
    """Read what a model in a GGUF file computes.

    Raises:
        NotFoundError: The file does not exist.
        FolderError: The file is not a GGUF file, or is cut off.
        RequirementError: The package gguf is not installed.
    """
    check_regular(path, "a GGUF file")
    fields = _header(path)
    architecture = str(fields.get("general.architecture", ""))
    key = f"{architecture}.pooling_type"
    number = fields.get(key)
    mode = POOLING_TYPES.get(number) if isinstance(number, int) else None
    source = f"no {key}; llama.cpp then pools as --pooling says"
    if number is not None:
        source = key if mode else f"{key} = {number}: {_OTHER_TYPES.get(number, 'not a pooling of llama.cpp')}"
    length_key = f"{architecture}.context_length"
    length = fields.get(length_key)
    header = "not in GGUF headers"
    return EmbeddingConfig(
        layout=GGUF,
        layer=Fact("last_hidden_state", header),
        pooling=Fact(mode, source),
        pooling_options=Fact({}, header),
        include_prompt=Fact(True, header),
        include_special_tokens=Fact(True, header),
        prompts=Fact({}, header),
        default_prompt=Fact("", header),
        lower_case=Fact(False, header),
        normalize=Fact(None, f"{header}: llama-server normalizes unless --embd-normalize says otherwise"),
        dense=Fact(
            tuple(name for name in ("dense_2", "dense_3") if f"{architecture}.{name}_feat_out" in fields), header
        ),
        truncate_dim=Fact(None, ALL),
        max_length=Fact(length if isinstance(length, int) else None, length_key),
        padding_side=Fact("none", "llama.cpp does not pad"),
        files=Files(model_type=architecture),
    )


def _header(path: Path) -> dict[str, Any]:
    """Return the fields of a GGUF file's header that hold one value."""
    try:
        import numpy as np
        from gguf import GGUFReader
    except ModuleNotFoundError:
        raise RequirementError(
            'gguf is not installed; reading GGUF files needs: pip install "maskpool[gguf]"'
        ) from None

    class Reader(GGUFReader):
        """Raise an error at the end of the file, where the class itself reads empty values without end."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:  # Any: as it does
            if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError(f"it ends at byte {len(self.data):,}, inside of a value")
            return super()._get(offset, dtype, count, override_order)

    try:
        reader = Reader(path)
        return {name: field.contents() for name, field in reader.fields.items() if len(field.types) == 1}
    except Exception as error:  # malformed files raise errors of numpy, struct and gguf
        raise FolderError(f"{path} must be a complete GGUF file; it cannot be read: {reason_of(error)}") from error
