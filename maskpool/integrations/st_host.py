"""Everything that maskpool uses of sentence-transformers, imported in one place.

Differences between the host's versions are handled here, and nowhere else.
"""

from __future__ import annotations

from typing import Any

from maskpool import __version__
from maskpool.integrations import is_older, require, requirement

require("sentence-transformers", "st")

from sentence_transformers import SentenceTransformer, util  # noqa: E402  # after the check that it can be imported
from sentence_transformers.sentence_transformer import modules  # noqa: E402  # the same
from sentence_transformers.sentence_transformer.model_card import (  # noqa: E402  # the same
    SentenceTransformerModelCardData as ModelCardData,
)
from sentence_transformers.util import batch_to_device, truncate_embeddings  # noqa: E402  # the same
from sentence_transformers.util.decorators import deprecated_kwargs  # noqa: E402  # the same

__all__ = [
    "ModelCardData",
    "SentenceTransformer",
    "batch_to_device",
    "check_version_requirements",
    "check_word_embeddings",
    "deprecated_kwargs",
    "modules",
    "truncate_embeddings",
]


def check_version_requirements(requirements: dict[str, Any] | None, source: str) -> None:  # Any: as the file says
    """Check the versions of packages that a saved model asks for.

    Args:
        requirements: The table ``requirements`` of ``config_sentence_transformers.json``.
        source: The model, for the message.

    Raises:
        ImportError: A version does not fit, or the host is too old to compare versions.
    """
    if not requirements:
        return
    check = getattr(util, "check_version_requirements", None)
    if check is None and set(requirements) == {"maskpool"}:  # which saved models of maskpool name
        _check_maskpool(str(requirements["maskpool"]), source)
    elif check is None:
        purpose = f"to check the package versions that {source} requires ({requirements})"
        raise requirement("sentence-transformers", "6.0", "st", purpose)
    else:
        check(requirements, source=source)


def _check_maskpool(specifier: str, source: str) -> None:
    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(specifier, prereleases=True).contains(__version__):
        raise ImportError(f"{source} requires maskpool{specifier}, and {__version__} is installed")


def check_word_embeddings(place: object) -> None:
    """Check that the host can run word embeddings with a tokenizer of transformers.

    Args:
        place: Where they are saved, for the message.

    Raises:
        RequirementError: The host is too old: it takes a text's first token id for all of them, and fails.
    """
    if is_older("sentence-transformers", "6.2"):
        purpose = f"to tokenize texts for the word embeddings in {place}, whose tokenizer is one of transformers"
        raise requirement("sentence-transformers", "6.2", "st", purpose)
