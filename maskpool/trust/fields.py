"""Check the fields of a configuration file one by one, and name each field with an invalid value."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskpool.errors import FolderError
from maskpool.trust.files import shortened

DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")
ATTENTION = ("eager", "sdpa")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
_LARGEST_INTEGER = 1 << 31
_MOST_LAYERS = 1024
_MOST_LABELS = 1 << 20
_LONGEST_LIST = 1 << 16
# Parts of the names of fields that count layers, or that list a value for each layer.
_COUNTED = (
    *("layers", "layer_types", "depth", "num_blocks", "block_sizes", "num_heads", "n_layer", "attention_heads"),
    *("n_head", "experts", "groups", "group_num", "num_feedforward_networks", "repeats", "num_stages"),
)
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


@dataclass(frozen=True)
class Field:
    """Describe the values that a field accepts, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def one_of(known: Collection[object]) -> Field:
    """Accept one of the known values."""
    return Field(
        f"one of {', '.join(map(repr, known))}",
        lambda value: any(value is option or value == option for option in known),
    )


def integer(lowest: int = 0, highest: int = _LARGEST_INTEGER) -> Field:
    """Accept an integer in a range."""
    return Field(
        f"an integer from {lowest} to {highest}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest,
    )


def integers(lowest: int = 0, highest: int = _LARGEST_INTEGER, most: int = 1024) -> Field:
    """Accept a list of integers in a range."""
    inner = integer(lowest, highest)
    return Field(
        f"a list of up to {most} integers from {lowest} to {highest}",
        lambda value: isinstance(value, list) and len(value) <= most and all(map(inner.holds, value)),
    )


def table(most: int = 100_000) -> Field:
    """Accept a table with any content."""
    return Field("a table", lambda value: isinstance(value, dict) and len(value) <= most)


def optional(field: Field) -> Field:
    """Accept the values of another field, or null."""
    return Field(f"{field.words} or null", lambda value: value is None or field.holds(value))


BOOLEAN = Field("true or false", lambda value: isinstance(value, bool))
NUMBER = Field(
    "a finite number",
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value),
)
STRING = Field("a string", lambda value: isinstance(value, str))
STRINGS = Field("a list of strings", lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value))
LENGTH = Field(
    "a positive number", lambda value: NUMBER.holds(value) and value > 0 and (value < 1e31 or isinstance(value, int))
)
FALSE = one_of([False])
TOKEN = Field("a string, a table or null", lambda value: value is None or isinstance(value, str | dict))


def check_fields(path: Path, content: Mapping[str, Any], known: Mapping[str, Field], at: str = "") -> None:
    """Refuse every field that is unknown or has an invalid value.

    Args:
        path: The file.
        content: The content of the file, or a table inside it.
        known: The fields by name.
        at: The place of the table inside the file.

    Raises:
        FolderError: A field is refused; the message names the file, the field and the values that it accepts.
    """
    for name, value in content.items():
        field = known.get(name)
        if field is None:
            raise FolderError(
                f"{path} must not set {at}{shortened(name)[1:-1]}: maskpool passes on only "
                f"{', '.join(known)} from this file; remove the field, or pass it as an argument yourself"
            )
        if not field.holds(value):
            raise refused(path, at + name, field.words, value)


def refused(path: Path, name: str, words: str, value: object) -> FolderError:
    """Return the error for a field with an invalid value."""
    return FolderError(f"{path} must have in {name} {words}, got {shortened(value)}: correct or remove the field")


def check_sizes(path: Path, content: object, at: str = "") -> None:
    """Refuse sizes larger than those of any model, which would take too much memory or time.

    Raises:
        FolderError: A size is too large; the message names the field.
    """
    if isinstance(content, dict):
        for name, value in content.items():
            inner = f"{at}.{name}" if at else str(name)
            lower = name.lower()
            counts = any(part in lower for part in _COUNTED)
            if isinstance(value, int) and not isinstance(value, bool):
                positions = "position" in lower or lower in ("n_ctx", "seq_length", "max_sequence_length")
                most = _MOST_LAYERS if counts else 1 << 24 if positions else _LARGEST_INTEGER
                most = _MOST_LABELS if lower in ("num_labels", "num_classes") else most
                # A chunk size must divide every text length.
                most = 1 if lower == "chunk_size_feed_forward" else most
                least = 0 if name in LAYER_COUNTS else -most
                # The theta of rotary embeddings is a base, not a size.
                if not least <= value <= most and "theta" not in lower:
                    raise refused(path, inner, f"an integer from {least} to {most}", value)
            elif isinstance(value, float) and math.isnan(value):
                raise refused(path, inner, "a number", value)
            elif isinstance(value, list) and len(value) > (_MOST_LAYERS if counts else _LONGEST_LIST):
                longest = _MOST_LAYERS if counts else _LONGEST_LIST
                raise refused(path, inner, f"a list of up to {longest} values", value)
            check_sizes(path, value, inner)
    elif isinstance(content, list):
        above, _, name = at.rpartition(".")
        for value in content:
            if isinstance(value, int | float):
                check_sizes(path, {name: value}, above)
            else:
                check_sizes(path, value, at)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False
