"""Answer what people ask about the pads of a model, with its own numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from maskpool.encoder import Encoder, check_texts
from maskpool.errors import InvalidTypeError, rename_arguments
from maskpool.pads.answers import QUESTIONS, Result, show
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
    """A question about pads and its answer for one model.

    Attributes:
        key: The short name of the question.
        question: The question.
        sentence: The answer; starts with "does not apply, because" if the model lacks what the question is about.
        number: The number behind the sentence; None if the question does not apply or the setting is not set.
        numbers: Further numbers, by name.
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
        details = (self.sentence, facts, self.source and f"from: {self.source}")
        return "\n  ".join([self.question, *filter(None, details)])


@dataclass(frozen=True)
class Explanation:
    """All answers for one model; iterates over them, and finds them by key.

    Attributes:
        model: The name of the model, as the user gave it.
        pad_token: The pad token of the tokenizer; None without one.
        pad_token_id: The id of the pad token; None without one.
        answers: The answers, in reading order.
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
        """Return everything as types that JSON supports."""
        answers = [vars(answer) | {"numbers": dict(answer.numbers)} for answer in self.answers]
        return {
            "model": self.model,
            "pad_token": self.pad_token,
            "pad_token_id": self.pad_token_id,
            "answers": answers,
        }


def explain(model: str | Encoder, texts: Iterable[str] | None = None) -> Explanation:
    """Answer what people ask about pads, with numbers measured on a model.

    It measures copies: the model, its hooks and modes, and the random state are unchanged.

    Args:
        model: A name on the hub, a folder, or an encoder.
        texts: The texts to measure on; None takes `TEXTS`.

    Returns:
        One answer per question: ``zero_row``, ``tied``, ``padding_idx``, ``attention``, ``zeroing``, ``cosines``,
        ``token_types``, ``finite_mask``, ``mask_from_ids``, ``end_of_text``, ``input_gradient``, ``head_gradient``,
        ``weight_decay`` and ``ignore_index``.

    Raises:
        InvalidTypeError: ``model`` is neither a string nor an encoder, or ``texts`` does not hold strings.
        InvalidValueError: No text has a token.
        MaskpoolError: The model cannot be loaded.

    See Also:
        `maskpool.freeze_pad_row`: keep the pad row unchanged in training.
        `maskpool.audit_padding`: find out whether padding changes the vectors of a pipeline.

    Example::

        print(explain("all-MiniLM-L6-v2")["zeroing"])
    """
    if not isinstance(model, str | Encoder):
        raise InvalidTypeError(
            "model", f"must be a name, a folder or an Encoder, got {type(model).__name__}: see Encoder.of"
        )
    checked = check_texts(TEXTS if texts is None else texts)
    with _same_random_state(), torch.inference_mode(False), torch.no_grad():
        with rename_arguments({"name": "model"}):
            encoder = Encoder.load(model) if isinstance(model, str) else model
        subject = Subject(encoder, checked)
        answers = tuple(_answer(subject, *question) for question in QUESTIONS)
    return Explanation(encoder.name, encoder.tokenizer.pad_token, encoder.tokenizer.pad_token_id, answers)


def _answer(subject: Subject, key: str, question: str, answer: Callable[[Subject], Result]) -> Answer:
    try:
        result = answer(subject)
    except DoesNotApplyError as error:
        return Answer(key, question, f"does not apply, because {error}")
    except Exception as error:  # a model that fails at one question can answer others
        reason = next(iter(str(error).strip().splitlines()), "")
        return Answer(key, question, f"does not apply, because the model raised {type(error).__name__}: {reason}")
    return Answer(key, question, **vars(result))


@contextmanager
def _same_random_state() -> Iterator[None]:
    """Restore torch's generators: heads that a model lacks get random weights."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # explicit devices, or torch warns
        torch.manual_seed(0)
        yield
