"""Probe a pipeline as a black box: the same texts alone, next to others, in other orders and batch sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice

import torch
from torch import Tensor

from maskpool.audit.columns import Unpadded, without_pads
from maskpool.audit.pipelines import Pipeline
from maskpool.audit.trace import Call, watch
from maskpool.errors import InvalidValueError
from maskpool.tolerances import (
    COARSER_THAN_FLOAT64,
    HALF_ROUNDING,
    SAME_FOR_ALL_TEXTS,
    TIMES_NOISE,
    TOO_NOISY,
    VECTOR_CHANGE,
    VECTOR_ROUNDINGS,
)

# Lower case and without punctuation: words in another order are equally many tokens. Under 200 letters: tokenizers of
# bytes stay under 200 tokens.
TEXTS = (
    "the cat sat on the mat",
    "a small boat left the old port at night",
    "rain fell on us",
    "she bought bread and milk this morning",
    "the bank sent me a new card but it does not work in any shop of the town",
    "when the first train of the day came in the people on the platform folded their papers and picked up their bags "
    "and looked along the line for their own carriage",
)
_TURNS = 4
_LARGE = 35  # texts in one call: more than the usual batch sizes, and three in an incomplete last batch of 4, 8, 16, 32


def difference(a: Tensor, b: Tensor) -> float:
    """Return ‖a − b‖ / max(‖a‖, ‖b‖): 0 for equal vectors, 1 if one is zero, inf if a number is not finite."""
    if not bool(a.isfinite().all() & b.isfinite().all()):
        return math.inf
    largest = max(float(a.abs().max()), float(b.abs().max())) if a.numel() else 0.0
    if not largest:
        return 0.0
    a, b = a / largest, b / largest  # squares of large or tiny numbers leave the range of floats
    return float((a - b).norm()) / max(float(a.norm()), float(b.norm()))


@dataclass(frozen=True)
class Moved:
    """The vectors of a text alone and in a batch.

    Attributes:
        texts: The text, followed by the others of the batch.
        alone: Its vector alone.
        batched: Its vector in the batch.
        place: Its row of the batch.
    """

    texts: tuple[str, ...]
    alone: Tensor
    batched: Tensor
    place: int = 0

    @property
    def batch(self) -> tuple[str, ...]:
        """The texts in the order of the batch."""
        text, *others = self.texts
        return (*others[: self.place], text, *others[self.place :])

    @cached_property
    def size(self) -> float:
        """The relative difference of the two vectors."""
        return difference(self.alone, self.batched)


@dataclass
class Measured:
    """The measurements of the probes.

    Attributes:
        repeated: The largest difference between two equal calls.
        noise: The text that differs most between alone and next to others of its length, unpadded.
        coupling: The text that differs most between batches of equal shape with different other texts.
        padded: Texts next to longer ones, the largest difference first.
        cached: A text that keeps the vector of its first, padded call; None if none does.
        cache_checked: Whether a cache could be detected.
        respelled: Whether a text that was first embedded in a padded batch ran through the model again alone, with
            another number of pads, under another spelling of the same tokens.
        vacuous: Whether all texts get the same vector in all batches.
        precision: The spacing of numbers near 1 in the coarsest type of vectors or token states.
        alone: What was seen of calls with one text, by the text.
        batches: What was seen of calls with several texts, by the batch.
        unpadded: As ``alone``, without pads that a text has even alone.
        own_unpadded: Texts that are padded even alone, run again without these pads.
        equal: Pairs of texts with equally many tokens, as seen by modules.
        pipeline: The pipeline that was measured.
        training: Names of modules in training mode whose outputs depend on it.
    """

    repeated: float = 0.0
    noise: Moved | None = None
    coupling: Moved | None = None
    padded: list[Moved] = field(default_factory=list)
    cached: Moved | None = None
    cache_checked: bool = True
    respelled: bool = False
    vacuous: bool = False
    precision: float = 0.0
    alone: dict[str, Call] = field(default_factory=dict)
    batches: dict[tuple[str, ...], Call] = field(default_factory=dict)
    training: set[str] = field(default_factory=set)
    unpadded: dict[str, Call] = field(default_factory=dict)
    own_unpadded: dict[str, Unpadded] = field(default_factory=dict)
    equal: list[tuple[str, str]] = field(default_factory=list)
    pipeline: Pipeline | None = None

    @property
    def step(self) -> float:
        """The smallest change that counts as a difference: many times what rounding does to a vector."""
        return max(VECTOR_CHANGE, VECTOR_ROUNDINGS * self.precision)

    @property
    def floor(self) -> float:
        """Numeric noise: the largest change without padding, by repetition or other batch shapes."""
        noise = self.noise.size if self.noise is not None and self.coupled is None else 0.0
        return max(self.repeated, noise)

    @property
    def threshold(self) -> float:
        """The largest change that does not count as a leak."""
        return max(self.step, TIMES_NOISE * self.floor)

    @property
    def coupled(self) -> Moved | None:
        """The text that other texts change most without any padding; None if none does."""
        least = max(self.step, TIMES_NOISE * self.repeated)
        moved = [text for text in (self.coupling, self.noise) if text is not None and text.size > least]
        return max(moved, key=lambda text: text.size, default=None)

    @property
    def inside(self) -> bool:
        """Whether modules received token ids."""
        return any(call.tokens for call in self.alone.values())

    @property
    def doubtful(self) -> bool:
        """Whether the largest difference may be rounding in half precision behind an output in float32."""
        largest = self.padded[0].size if self.padded else 0.0
        return self.threshold < largest and self.rounded(largest)

    def rounded(self, size: float) -> bool:
        """Return whether a difference may be rounding in half precision."""
        return not self.inside and self.precision > COARSER_THAN_FLOAT64 and size < HALF_ROUNDING

    @property
    def loud(self) -> bool:
        """Whether equal calls differ too much to recognise a leak."""
        return self.repeated > TOO_NOISY


def measure(pipeline: Pipeline, texts: Sequence[str]) -> Measured:
    """Embed texts alone, in batches, in other orders and batch sizes, and compare their vectors.

    Args:
        pipeline: The pipeline to measure.
        texts: At least two texts of different lengths; the longest two are the companions.
    """
    measured = Measured()
    *subjects, middle, longest = sorted(texts, key=len)
    subjects = subjects or [middle]
    late, early = subjects[0], subjects[1:] or subjects
    if late not in early:  # its first call is padded: a cache would keep that vector
        first = _embed_batch(pipeline, measured, (late, longest))
    alone = {text: _embed_alone(pipeline, measured, text) for text in (*early, middle, longest)}
    _check_finite(alone)
    again = {text: pipeline([text])[0] for text in early}
    measured.repeated = max(difference(alone[text], again[text]) for text in early)
    if late not in early:
        alone[late] = _embed_alone(pipeline, measured, late)
        _check_finite({late: alone[late]})
        measured.padded.append(Moved((late, longest), alone[late], first))
        _find_cache(pipeline, measured, first, early[0], late, alone)
    _find_noise(pipeline, measured, early, (longest, middle), alone)
    for text in early:
        slightly_longer = f"{text} {text.split()[0]}" if text.split() else f"{text} {middle}"  # few pads
        for batch in ((text, longest), (text, middle), (text, longest, middle), (text, slightly_longer)):
            measured.padded.append(Moved(batch, alone[text], _embed_batch(pipeline, measured, batch)))
        measured.padded.append(
            Moved((text, longest), alone[text], _embed_batch(pipeline, measured, (longest, text), 1), 1)
        )
    everything = [*early, longest, middle]
    for whole in (tuple(everything), tuple(islice(cycle((middle, *early)), _LARGE))):
        with watch() as together:
            vectors = pipeline(whole)
        measured.batches[whole] = together
        for place, (text, vector) in enumerate(zip(whole, vectors, strict=True)):
            others = (*whole[:place], *whole[place + 1 :])
            measured.padded.append(Moved((text, *others), alone[text], vector, place))
    # State may remain from the calls in between.
    last = pipeline([early[0]])[0]
    measured.repeated = max(measured.repeated, difference(alone[early[0]], last))
    measured.padded.sort(key=lambda moved: -moved.size)
    measured.vacuous = measured.padded[0].size < SAME_FOR_ALL_TEXTS and all(
        difference(alone[early[0]], vector) < SAME_FOR_ALL_TEXTS for vector in alone.values()
    )
    measured.precision = max([pipeline.precision, *(call.precision for call in measured.alone.values())])
    measured.unpadded, measured.own_unpadded = without_pads(pipeline, measured.alone, measured.batches)
    measured.pipeline = pipeline
    return measured


def _check_finite(alone: dict[str, Tensor]) -> None:
    for text, vector in alone.items():
        if not bool(vector.isfinite().all()):
            raise InvalidValueError(
                "pipeline",
                f"must give finite numbers; for {[text]!r} alone it gave NaN or infinity: an empty mean (0 / 0) or an "
                "overflow; fix that first",
            )


def _embed_alone(pipeline: Pipeline, measured: Measured, text: str) -> Tensor:
    with watch() as call:
        vector = pipeline([text])[0]
    measured.alone[text] = call
    measured.training |= call.training
    return vector


def _embed_batch(pipeline: Pipeline, measured: Measured, texts: tuple[str, ...], place: int = 0) -> Tensor:
    with watch() as call:
        vector = pipeline(texts)[place]
    measured.batches[texts] = call
    return vector


def _find_noise(
    pipeline: Pipeline, measured: Measured, texts: Sequence[str], longer: Sequence[str], alone: dict[str, Tensor]
) -> None:
    noise, coupling = [], []
    for text in texts:
        for row in pipeline([text, text]):  # of equal length for every tokenizer
            noise.append(Moved((text, text), alone[text], row))
        candidates = (other for other in _as_many_words(text, longer) if other != text)
        others = list(islice((other for other in candidates if _as_long(measured, pipeline, text, other)), 3))
        if others and measured.alone[text].tokens:
            measured.equal.append((text, others[0]))
        vectors = [pipeline([text, other])[0] for other in others[:2]]
        noise += [Moved((text, other), alone[text], vector) for other, vector in zip(others, vectors, strict=False)]
        if len(vectors) == 2:
            coupling.append(Moved((text, *others[:2]), vectors[0], vectors[1]))
        if len(others) > 2:
            noise.append(Moved((text, *others[:3]), alone[text], pipeline([text, *others[:3]])[0]))
    measured.noise = max(noise, key=lambda moved: moved.size, default=None)
    measured.coupling = max(coupling, key=lambda moved: moved.size, default=None)


def _as_many_words(text: str, others: Sequence[str]) -> Iterator[str]:
    """Yield texts of equally many words, mostly equally many tokens: parts of others, then its own words rotated."""
    words = text.split()
    for other in others:
        if len(other_words := other.split()) >= len(words):
            yield " ".join(other_words[-len(words) :])
            yield " ".join(other_words[: len(words)])
    for step in range(1, min(len(words), _TURNS)):
        yield " ".join(words[step:] + words[:step])


def _as_long(measured: Measured, pipeline: Pipeline, text: str, other: str) -> bool:
    """Return whether two texts appear to have equally many tokens."""
    call = measured.alone[text]
    if not call.tokens:  # compare letters
        return len(other) == len(text)
    with watch() as seen:
        pipeline([other])
    return bool(seen.tokens) and _shape(seen.tokens[0].ids[0].tolist()) == _shape(call.tokens[0].ids[0].tolist())


def _shape(ids: list[int]) -> tuple[int, int, int]:
    """Return the columns and the lengths of the runs of one id at both ends, which may be pads."""
    left, right = (next((n for n, other in enumerate(row) if other != row[0]), len(row)) for row in (ids, ids[::-1]))
    return len(ids), left, right


def _find_cache(
    pipeline: Pipeline, measured: Measured, first: Tensor, control: str, text: str, alone: dict[str, Tensor]
) -> None:
    """Embed a text under another spelling of the same tokens, which no cache contains.

    Accept a respelling only if it leaves the vector of a never-padded control text unchanged.
    """
    small = max(VECTOR_CHANGE, TIMES_NOISE * measured.repeated)
    for spell in (lambda t: t + " ", lambda t: t.replace(" ", "  ", 1), str.upper, str.capitalize):
        if spell(control) == control or spell(text) == text:  # the same text again
            continue
        if difference(pipeline([spell(control)])[0], alone[control]) <= small:
            with watch() as call:
                fresh = pipeline([spell(text)])[0]
            padded = next((seen.tokens for texts, seen in measured.batches.items() if texts[0] == text), [])
            widths = {tokens.ids.shape[1] for tokens in padded}
            measured.respelled = any(tokens.ids.shape[1] not in widths for tokens in call.tokens if widths)
            if torch.equal(first, alone[text]) and difference(fresh, first) > small:
                measured.cached = Moved((text,), fresh, first)
            return
    measured.cache_checked = False
