"""Vet the files of a processor: the classes they name, and the fields whose values those classes open as files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskpool.errors import FolderError
from maskpool.trust.fields import refused
from maskpool.trust.files import shortened

PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# The base classes of the class that each field may name. Old files name an image processor as feature extractor.
_BASES = {
    "processor_class": ("ProcessorMixin",),
    "feature_extractor_type": ("FeatureExtractionMixin", "ImageProcessingMixin"),
    "image_processor_type": ("ImageProcessingMixin", "FeatureExtractionMixin"),
    "image_processor_class": ("ImageProcessingMixin", "FeatureExtractionMixin"),
    "feature_extractor_class": ("FeatureExtractionMixin", "ImageProcessingMixin"),
    "video_processor_type": ("BaseVideoProcessor",),
    "video_processor_class": ("BaseVideoProcessor",),
}
_WORDS = {
    "ProcessorMixin": "a processor",
    "FeatureExtractionMixin": "a feature extractor",
    "ImageProcessingMixin": "an image processor",
    "BaseVideoProcessor": "a video processor",
}
# These processors open further files, whose names do not refer to a vetted folder.
_REFUSED = {
    "BarkProcessor": "it opens arrays at paths that a file names",
    "MgpstrProcessor": "it loads the tokenizers of other models by name",
    "OneFormer": "it opens a file of classes by name",
    "Wav2Vec2ProcessorWithLM": "it opens a language model in another format",
}
# The model types of these processors. The type determines the processor if no file names one.
REFUSED_TYPES = {
    "bark": "its processor opens arrays at paths that a file names",
    "mgp-str": "its processor loads the tokenizers of other models by name",
    "oneformer": "its processor opens a file of classes by name",
}
_OPENS = re.compile(r"(.*_(file|files|path|paths|dir|folder)|repo_.*|file|path)\Z")
_NEVER_READ = ("name_or_path", "_name_or_path")


def check_processor_classes(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse names of classes that are not processors, at any depth.

    Args:
        path: The file of a processor, or a config.json.
        content: The content of the file.

    Raises:
        FolderError: A field names another class, or a processor that reads files from elsewhere.
    """
    for name, value, at in _named(content):
        if name in _BASES and value is not None:
            _check_class(path, at, value, _BASES[name])


def check_processor_fields(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse fields that name a file for a processor to open, at any depth.

    Raises:
        FolderError: A field names a file.
    """
    for name, value, at in _named(content):
        if _OPENS.match(name) and name not in _NEVER_READ and value not in (None, False, "", [], {}):
            raise FolderError(
                f"{path} must not name a file in {at}, which would be opened from the working directory or from the "
                f"hub, got {shortened(value)}: remove the field"
            )


def _check_class(path: Path, at: str, value: object, bases: tuple[str, ...]) -> None:
    words = " or ".join(_WORDS[base] for base in bases)
    if not isinstance(value, str) or not value.isidentifier():
        raise refused(path, at, f"the name of the class of {words}", value)
    for name, reason in _REFUSED.items():
        if value.startswith(name):
            raise FolderError(f"{path} must not name {value} in {at}: {reason}")
    import transformers

    cls = getattr(transformers, value, None)
    # A dummy replaces a class whose packages are missing, and raises an error when it is called.
    if cls is None or type(cls).__name__ == "DummyObject":
        return
    if not isinstance(cls, type) or not issubclass(cls, tuple(_base(transformers, base) for base in bases)):
        raise refused(path, at, f"the name of {words} of transformers", value)


def _base(transformers: Any, name: str) -> type:  # Any: a module
    if name == "BaseVideoProcessor":
        from transformers.video_processing_utils import BaseVideoProcessor

        return BaseVideoProcessor
    base: type = getattr(transformers, name)
    return base


def _named(content: object, at: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield the name, value and place of every field, at any depth."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            inner = f"{at}.{name}" if at else str(name)
            yield str(name), value, inner
            yield from _named(value, inner)
    elif isinstance(content, list):
        for value in content:
            yield from _named(value, at)
