"""The page of answers says what the command says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskpool.pads.explanation import Explanation

PAGE = Path(__file__).parents[2] / "docs" / "pads.md"


@pytest.fixture(scope="module")
def explained(minilm: tuple[Explanation, float]) -> Explanation:
    return minilm[0]


@pytest.mark.full  # the real model; tiny models are explained by default
def test_every_number_of_the_page_is_the_models_own(explained: Explanation) -> None:
    """Each number in bold is, to two digits, one that the answer named behind it gives for the bundled model."""
    text = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
    found = re.findall(r"\*\*([\d.]+)\*\*([^`]*)\(?`", text)
    assert len(found) >= 12
    keys = {answer.key for answer in explained}
    for number, behind in re.findall(r"\*\*([\d.]+)\*\*(.*?)(?=\*\*|##|$)", text):
        named = [key for key in re.findall(r"`(\w+)`", behind) if key in keys]
        assert named, f"no answer is named behind {number}"
        answer = explained[named[0]]
        values = [abs(value) for value in (answer.number, *answer.numbers.values()) if value is not None]
        # Sums in another order, on another machine, move the last digits; weights that are trained more so.
        assert any(value == pytest.approx(float(number), rel=0.02) for value in values), (number, named[0], values)


@pytest.mark.full  # the real model; tiny models are explained by default
def test_every_question_is_answered(explained: Explanation) -> None:
    """The bundled model answers every question with a number or a reason."""
    for answer in explained:
        assert answer.number is not None or "does not apply, because" in answer.sentence, answer
