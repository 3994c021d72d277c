"""Say in a saved model that its pooling is one of maskpool: in its model card, and in its requirements."""

from __future__ import annotations

import json
from pathlib import Path

from maskpool import __version__
from maskpool.config.notice import NOTICE, without_notice
from maskpool.files import atomic_write
from maskpool.integrations.st_host import ModelCardData, SentenceTransformer
from maskpool.trust.files import read_table


class NoticeCardData(ModelCardData):
    """The data of a model card whose usage begins with the line that opens the model."""

    def generate_usage_snippet(self) -> str:
        """Return the notice, if the model has a pooling of maskpool, and the host's code."""
        notice = f"{NOTICE}\n" if self.model is not None and _needs_maskpool(self.model) else ""
        return notice + super().generate_usage_snippet()


def name_in_card(model: SentenceTransformer) -> None:
    """Name maskpool in the card that a model is saved with, if one of its poolings is maskpool's.

    Cards that the host generates get the notice when they are generated. If the model was opened with a card, the host
    saves that text: it gets the notice now, or loses it.
    """
    if type(model.model_card_data) is ModelCardData:
        model.model_card_data.__class__ = NoticeCardData
    text = model._model_card_text
    if text:
        bare = without_notice(text)
        model._model_card_text = bare + NOTICE if _needs_maskpool(model) else bare


def add_requirement(settings: Path) -> None:
    """Add maskpool to the requirements of a model, which sentence-transformers 6 checks before it loads a module.

    Args:
        settings: The ``config_sentence_transformers.json`` of the model, which the host writes before its modules.
    """
    if not settings.is_file():
        return
    content = read_table(settings)
    requirements = {"maskpool": f">={__version__}", **(content.get("requirements") or {})}
    with atomic_write(settings) as temporary:
        text = json.dumps(content | {"requirements": requirements}, indent=2, sort_keys=True)
        temporary.write_text(text, encoding="utf-8")


def _needs_maskpool(model: SentenceTransformer) -> bool:
    return any(type(module).__module__.startswith("maskpool.") for module in model.modules())
