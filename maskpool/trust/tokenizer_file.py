"""Vet the steps of a tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from maskpool.errors import FolderError
from maskpool.trust.fields import refused

_GROWTH = 64  # the factor by which a text may grow before it is tokenized
_MOST_IDS = 512  # tokens that may be added to each text


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
