"""Whose token states they are: what states say of themselves, compared and told in few words."""

from __future__ import annotations

from typing import Any

# What is only said of states: the same ones may come by another name, or from another release.
_ONLY_SAID = ("name", "versions", "cut_off")
# What other texts of the same encoder, or another precision of storage, may differ in.
_OF_THE_TEXTS = ("dtype", "texts", "tokens_sha256", "versions", "cut_off")
_HASH_DIGITS, _DIGITS_SHOWN = 64, 12


def of_the_encoder(identity: dict[str, Any]) -> dict[str, Any]:
    """Of what states say of themselves, what they say of their encoder."""
    return {name: value for name, value in identity.items() if name not in _OF_THE_TEXTS}


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what makes two identities those of different states."""
    return [name for name in {**one, **other} if name not in _ONLY_SAID and one.get(name) != other.get(name)]


def told(identity: dict[str, Any], names: list[str]) -> str:
    """An identity by its name and some of what it says, hashes by their first digits."""
    said = ", ".join(f"{name} {short(identity.get(name))}" for name in names)
    return f"{identity.get('name')} ({said})"


def short(value: object) -> str:
    """A value in a message: a hash by its first digits."""
    text = str(value)
    return text if len(text) != _HASH_DIGITS else text[:_DIGITS_SHOWN] + "…"
