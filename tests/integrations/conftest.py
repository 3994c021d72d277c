"""Settings of the tests with host libraries."""

from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer


@pytest.fixture(autouse=True)
def _without_model_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save models without their README.md, which takes longer than the rest of a tiny model."""
    monkeypatch.setattr(SentenceTransformer, "_create_model_card", lambda *_, **__: None)
