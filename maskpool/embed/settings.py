"""Define what an embedding run computes, apart from its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.poolings.spelling import parse_mode

Dtype: TypeAlias = Literal["float32", "float16"]
# Tokens of a batch, pads included. A core of a CPU computes small batches from its cache; a GPU needs large ones.
_BATCH_TOKENS = {"cpu": 2_048}
_BATCH_TOKENS_ELSEWHERE = 16_384


@dataclass(frozen=True)
class Settings:
    """The settings of an embedding run.

    Attributes:
        model: A model's name on the hub, or its folder.
        text_column: The column of texts.
        id_column: The column of ids; None for parts without ids.
        pooling: A mode, with options as in ``"topk_mean(k=3)"``; None pools as the model is saved.
        prompt: Text that is put in front of each text; None applies the default prompt that the model is saved with.
        normalize: Whether vectors have length 1; None as the model is saved.
        dtype: The dtype of the stored vectors.
        batch_tokens: The largest number of tokens of a batch, pads included; None is 2,048 on a CPU, 16,384 elsewhere.
        device: The device that the model runs on.
        drop_missing: Whether rows without a text are left out; otherwise they have no vector.
        skip_bad: Whether broken lines are left out; otherwise they are refused.

    Raises:
        InvalidValueError: A setting is not accepted.
    """

    model: str = "all-MiniLM-L6-v2"
    text_column: str = "text"
    id_column: str | None = None
    pooling: str | None = None
    prompt: str | None = None
    normalize: bool | None = None
    dtype: Dtype = "float32"
    batch_tokens: int | None = None
    device: str = "cpu"
    drop_missing: bool = False
    skip_bad: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that are not accepted."""
        for name, optional in (("model", False), ("text_column", False), ("id_column", True), ("device", False)):
            value = getattr(self, name)
            if not (isinstance(value, str) or (optional and value is None)):
                raise InvalidTypeError(name, f"must be a string, got {type(value).__name__}")
        if self.pooling is not None:
            if not isinstance(self.pooling, str):
                raise InvalidTypeError("pooling", f"must be a mode string, got {type(self.pooling).__name__}")
            parse_mode(self.pooling, "pooling")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise InvalidTypeError("prompt", f"must be a string, got {type(self.prompt).__name__}")
        if self.dtype not in get_args(Dtype):
            raise InvalidValueError("dtype", f"must be one of {', '.join(get_args(Dtype))}, got {self.dtype!r}")
        if self.batch_tokens is not None:
            check_positive("batch_tokens", self.batch_tokens)

    @property
    def token_budget(self) -> int:
        """The largest number of tokens of a batch, pads included."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        return _BATCH_TOKENS.get(self.device.partition(":")[0], _BATCH_TOKENS_ELSEWHERE)


def check_positive(name: str, number: object) -> None:
    """Refuse a number that is not a positive integer.

    Args:
        name: The argument's name.
        number: Its value.

    Raises:
        InvalidValueError: It is not a positive integer.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InvalidValueError(name, f"must be a positive integer, got {number!r}")
