"""What the pads of a model are: the questions people ask about them, answered with its own numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from maskpool.encoder import Encoder, check_texts
from maskpool.errors import InvalidTypeError, rename_arguments
from maskpool.pads.answers import QUESTIONS, Found, show
from maskpool.pads.measures import DoesNotApplyError
from maskpool.pads.subject import Subject

TEXTS = (
    "The cat sat on the mat.",
    "A man is playing a guitar on the stage.",
    "Paris is the capital of France, and Berlin that of Germany.",
    "Thank you very much!",
    "She bought three apples, two pears and a loaf of bread at the market before it began to rain.",
    "The stock market fell sharply on Monday.",
    "Water boils at one hundred degrees.",
    "How do I reset my password?",
)


@dataclass(frozen=True)
class Answer:
    """A question about pads, answered for one model.

    Attributes:
        key: Its short name.
        question: The question.
        sentence: The answer; begins with "does not apply, because" where the model has no such thing.
        number: What the sentence rests on; None where the question does not apply, or where nothing is set.
        numbers: Further ones, by name.
        source: The parameter that was read, or what was measured on which texts.
    """

    key: str
    question: str
    sentence: str
    number: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    def __str__(self) -> str:
        number = "" if self.number is None else show(self.number)
        others = "; ".join(f"{name}: {show(value)}" for name, value in self.numbers.items())
        facts = f"{number} ({others})" if number and others else number or others
        below = (self.sentence, facts, self.source and f"from: {self.source}")
        return "\n  ".join([self.question, *filter(None, below)])


@dataclass(frozen=True)
class Explanation:
    """All answers for one model.

    Attributes:
        model: What the user called it.
        pad_token: The tokenizer's pad token.
        pad_token_id: Its id.
        answers: In the order of reading.
    """

    model: str
    pad_token: str | None
    pad_token_id: int | None
    answers: tuple[Answer, ...]

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, key: str) -> Answer:
        return {answer.key: answer for answer in self.answers}[key]

    def __str__(self) -> str:
        pad = "no pad token" if self.pad_token_id is None else f"pad token {self.pad_token} (id {self.pad_token_id})"
        return "\n\n".join([f"What the pads of {self.model} are: {pad}", *map(str, self.answers)])

    def to_dict(self) -> dict[str, Any]:
        """Everything, in what JSON can hold."""
        answers = [vars(answer) | {"numbers": dict(answer.numbers)} for answer in self.answers]
        return {
            "model": self.model,
            "pad_token": self.pad_token,
            "pad_token_id": self.pad_token_id,
            "answers": answers,
        }


def explain(model: str | Encoder, texts: Iterable[str] | None = None) -> Explanation:
    """Answer what people ask about pad embeddings, with numbers from the model at hand.

    All is measured on copies: the model, its hooks and modes, and the random state stay as they are.

    Args:
        model: A hub name, a folder, or an encoder.
        texts: What to measure on; None takes `TEXTS`.

    Raises:
        InvalidTypeError: An argument is something else.
        InvalidValueError: No text gives a token.
        MaskpoolError: The model cannot be loaded.

    Example::

        print(explain("all-MiniLM-L6-v2")["zeroing"])
    """
    if not isinstance(model, str | Encoder):
        raise InvalidTypeError(
            "model", f"must be a name, a folder or an Encoder, got {type(model).__name__}: see Encoder.of"
        )
    found = check_texts(TEXTS if texts is None else texts)
    with _same_random_state(), torch.inference_mode(False), torch.no_grad():
        with rename_arguments({"name": "model"}):
            encoder = Encoder.load(model) if isinstance(model, str) else model
        subject = Subject(encoder, found)
        answers = tuple(_answer(subject, *question) for question in QUESTIONS)
    return Explanation(encoder.name, encoder.tokenizer.pad_token, encoder.tokenizer.pad_token_id, answers)


def _answer(subject: Subject, key: str, question: str, find: Callable[[Subject], Found]) -> Answer:
    try:
        found = find(subject)
    except DoesNotApplyError as error:
        return Answer(key, question, f"does not apply, because {error}")
    except Exception as error:  # models of every kind come here, and one that fails at one question can answer others
        reason = next(iter(str(error).strip().splitlines()), "")
        return Answer(key, question, f"does not apply, because the model raised {type(error).__name__}: {reason}")
    return Answer(key, question, **vars(found))


@contextmanager
def _same_random_state() -> Iterator[None]:
    """Leave torch's generators as they were: a head that a model comes without is drawn."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # said, because torch warns where it has to guess
        torch.manual_seed(0)
        yield
