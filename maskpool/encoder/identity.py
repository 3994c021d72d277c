"""Compare the identities of token states, which record how the states were computed, and describe them briefly."""

from __future__ import annotations

from typing import Any

# Fields that do not distinguish states: equal states may have another model name or come from another release.
_INFORMATIVE = ("name", "versions", "cut_off")
# Fields that depend on the texts or on the storage dtype, not on the encoder.
_OF_THE_TEXTS = ("dtype", "texts", "tokens_sha256", "versions", "cut_off")
_HASH_DIGITS, _DIGITS_SHOWN = 64, 12


def of_the_encoder(identity: dict[str, Any]) -> dict[str, Any]:
    """Select the fields of an identity that describe the encoder."""
    return {name: value for name, value in identity.items() if name not in _OF_THE_TEXTS}


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """List the names of the fields in which two identities differ, informative fields excepted."""
    return [name for name in {**first, **second} if name not in _INFORMATIVE and first.get(name) != second.get(name)]


def described(identity: dict[str, Any], names: list[str]) -> str:
    """Describe an identity by its model name and some of its fields, with shortened hashes."""
    fields = ", ".join(f"{name} {short(identity.get(name))}" for name in names)
    return f"{identity.get('name')} ({fields})"


def short(value: object) -> str:
    """Format a value for a message; a hash is cut to its first digits."""
    text = str(value)
    return text if len(text) != _HASH_DIGITS else text[:_DIGITS_SHOWN] + "…"
