"""The numbers of docs/pads.md are those of the command."""

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
def test_every_number_of_the_page_is_of_the_model(explained: Explanation) -> None:
    """Each number in bold agrees, to two digits, with the answer whose key follows it."""
    text = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
    assert len(re.findall(r"\*\*([\d.]+)\*\*([^`]*)\(?`", text)) >= 12
    keys = {answer.key for answer in explained}
    for number, following in re.findall(r"\*\*([\d.]+)\*\*(.*?)(?=\*\*|##|$)", text):
        named = [key for key in re.findall(r"`(\w+)`", following) if key in keys]
        assert named, f"no key follows {number}"
        answer = explained[named[0]]
        values = [abs(value) for value in (answer.number, *answer.numbers.values()) if value is not None]
        # The last digits depend on the order of sums, and so on the machine; trained weights more so.
        assert any(value == pytest.approx(float(number), rel=0.02) for value in values), (number, named[0], values)


@pytest.mark.full  # the real model; tiny models are explained by default
def test_every_question_is_answered(explained: Explanation) -> None:
    """The bundled model answers every question with a number or a reason."""
    for answer in explained:
        assert answer.number is not None or "does not apply, because" in answer.sentence, answer
