"""The black-box probes: the same texts alone, next to others, in other orders and at other batch sizes."""

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

# Lower case and without punctuation, so that words in another order are as many tokens. Under 200 letters, so that
# tokenizers of bytes stay under 200 tokens as well.
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


def difference(one: Tensor, other: Tensor) -> float:
    """‖a − b‖ / max(‖a‖, ‖b‖): 0 for equal vectors, 1 where one of them is zero, inf where a number is not finite."""
    if not bool(one.isfinite().all() & other.isfinite().all()):
        return math.inf
    largest = max(float(one.abs().max()), float(other.abs().max())) if one.numel() else 0.0
    if not largest:
        return 0.0
    one, other = one / largest, other / largest  # squares of large or tiny numbers leave the range of floats
    return float((one - other).norm()) / max(float(one.norm()), float(other.norm()))


@dataclass(frozen=True)
class Moved:
    """A text whose vector changes next to other texts.

    Attributes:
        texts: The text, and then the others of the batch.
        alone: Its vector alone.
        there: Its vector in the batch.
        place: Its place in the batch.
    """

    texts: tuple[str, ...]
    alone: Tensor
    there: Tensor
    place: int = 0

    @property
    def batch(self) -> tuple[str, ...]:
        """The texts in the order in which they were embedded."""
        text, *others = self.texts
        return (*others[: self.place], text, *others[self.place :])

    @cached_property
    def size(self) -> float:
        """The relative difference."""
        return difference(self.alone, self.there)


@dataclass
class Measured:
    """What the probes found.

    Attributes:
        repeated: The largest difference between two equal calls.
        noise: The same between a text alone and next to others of its length, which need no padding.
        coupling: The same between batches of equal shape whose other texts differ.
        padded: Texts next to longer ones, the largest difference first.
        cached: A text whose vector stays what its first, padded call gave; None if there is none.
        cache_checked: Whether that could be found out.
        respelled: Whether a text that was first embedded in a padded batch ran through the model again alone, with
            another number of pads, under another spelling of the same tokens.
        vacuous: Whether all texts get one vector, in any company.
        precision: The spacing of numbers near 1 in the coarsest type seen, of vectors or token states.
        alone: What was seen of calls with one text, by the text.
        beside: What was seen of calls with companions, by the batch.
        unpadded: As ``alone``, without the pads that a text has alone as well.
        own_unpadded: Texts that are padded alone, run again without their pads.
        equal: Texts with another that has as many tokens, where modules showed it.
        pipeline: What was measured.
        training: Names of modules in training mode that depend on it.
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
    beside: dict[tuple[str, ...], Call] = field(default_factory=dict)
    training: set[str] = field(default_factory=set)
    unpadded: dict[str, Call] = field(default_factory=dict)
    own_unpadded: dict[str, Unpadded] = field(default_factory=dict)
    equal: list[tuple[str, str]] = field(default_factory=list)
    pipeline: Pipeline | None = None

    @property
    def step(self) -> float:
        """What rounding alone may do to a vector, many times over: nothing that is smaller is called a difference."""
        return max(VECTOR_CHANGE, VECTOR_ROUNDINGS * self.precision)

    @property
    def floor(self) -> float:
        """Numeric noise: what other batch shapes do without padding."""
        noise = self.noise.size if self.noise is not None and self.coupled is None else 0.0
        return max(self.repeated, noise)

    @property
    def threshold(self) -> float:
        """What counts as a difference."""
        return max(self.step, TIMES_NOISE * self.floor)

    @property
    def coupled(self) -> Moved | None:
        """A text that other texts move without any padding."""
        least = max(self.step, TIMES_NOISE * self.repeated)
        found = [one for one in (self.coupling, self.noise) if one is not None and one.size > least]
        return max(found, key=lambda one: one.size, default=None)

    @property
    def inside(self) -> bool:
        """Whether modules were seen with token ids."""
        return any(call.tokens for call in self.alone.values())

    @property
    def doubtful(self) -> bool:
        """Whether the difference may be rounding in halves behind a front that gives float32."""
        largest = self.padded[0].size if self.padded else 0.0
        return self.threshold < largest and self.rounded(largest)

    def rounded(self, size: float) -> bool:
        """Whether a difference may be rounding in halves."""
        return not self.inside and self.precision > COARSER_THAN_FLOAT64 and size < HALF_ROUNDING

    @property
    def loud(self) -> bool:
        """Whether equal calls differ so much that no leak could be recognised."""
        return self.repeated > TOO_NOISY


def measure(pipeline: Pipeline, texts: Sequence[str]) -> Measured:
    """Embed texts in every company.

    Args:
        pipeline: What is measured.
        texts: At least two of different lengths; the longest two are companions.
    """
    found = Measured()
    *subjects, middle, longest = sorted(texts, key=len)
    subjects = subjects or [middle]
    late, early = subjects[0], subjects[1:] or subjects
    if late not in early:  # its first call is a padded one: a cache would keep that
        first = _beside(pipeline, found, (late, longest))
    alone = {text: _alone(pipeline, found, text) for text in (*early, middle, longest)}
    _check_finite(alone)
    again = {text: pipeline([text])[0] for text in early}
    found.repeated = max(difference(alone[text], again[text]) for text in early)
    if late not in early:
        alone[late] = _alone(pipeline, found, late)
        _check_finite({late: alone[late]})
        found.padded.append(Moved((late, longest), alone[late], first))
        _find_cache(pipeline, found, first, early[0], late, alone)
    _find_noise(pipeline, found, early, (longest, middle), alone)
    for text in early:
        a_bit_longer = f"{text} {text.split()[0]}" if text.split() else f"{text} {middle}"  # few pads
        for batch in ((text, longest), (text, middle), (text, longest, middle), (text, a_bit_longer)):
            found.padded.append(Moved(batch, alone[text], _beside(pipeline, found, batch)))
        found.padded.append(Moved((text, longest), alone[text], _beside(pipeline, found, (longest, text), 1), 1))
    everything = [*early, longest, middle]
    for whole in (tuple(everything), tuple(islice(cycle((middle, *early)), _LARGE))):
        with watch() as together:
            vectors = pipeline(whole)
        found.beside[whole] = together
        for place, (text, vector) in enumerate(zip(whole, vectors, strict=True)):
            others = (*whole[:place], *whole[place + 1 :])
            found.padded.append(Moved((text, *others), alone[text], vector, place))
    # Calls in between may have left something behind.
    last = pipeline([early[0]])[0]
    found.repeated = max(found.repeated, difference(alone[early[0]], last))
    found.padded.sort(key=lambda one: -one.size)
    found.vacuous = found.padded[0].size < SAME_FOR_ALL_TEXTS and all(
        difference(alone[early[0]], vector) < SAME_FOR_ALL_TEXTS for vector in alone.values()
    )
    found.precision = max([pipeline.precision, *(call.precision for call in found.alone.values())])
    found.unpadded, found.own_unpadded = without_pads(pipeline, found.alone, found.beside)
    found.pipeline = pipeline
    return found


def _check_finite(alone: dict[str, Tensor]) -> None:
    for text, vector in alone.items():
        if not bool(vector.isfinite().all()):
            raise InvalidValueError(
                "pipeline",
                f"must give finite numbers; for {[text]!r} alone it gave NaN or infinity: an empty mean (0 / 0) or an "
                "overflow; fix that first",
            )


def _alone(pipeline: Pipeline, found: Measured, text: str) -> Tensor:
    with watch() as call:
        vector = pipeline([text])[0]
    found.alone[text] = call
    found.training |= call.training
    return vector


def _beside(pipeline: Pipeline, found: Measured, texts: tuple[str, ...], place: int = 0) -> Tensor:
    with watch() as call:
        vector = pipeline(texts)[place]
    found.beside[texts] = call
    return vector


def _find_noise(
    pipeline: Pipeline, found: Measured, texts: Sequence[str], longer: Sequence[str], alone: dict[str, Tensor]
) -> None:
    noise, coupling = [], []
    for text in texts:
        for row in pipeline([text, text]):  # as long as itself, whatever a token is
            noise.append(Moved((text, text), alone[text], row))
        candidates = (one for one in _as_many_words(text, longer) if one != text)
        others = list(islice((one for one in candidates if _as_long(found, pipeline, text, one)), 3))
        if others and found.alone[text].tokens:
            found.equal.append((text, others[0]))
        vectors = [pipeline([text, other])[0] for other in others[:2]]
        noise += [Moved((text, other), alone[text], there) for other, there in zip(others, vectors, strict=False)]
        if len(vectors) == 2:
            coupling.append(Moved((text, *others[:2]), vectors[0], vectors[1]))
        if len(others) > 2:
            noise.append(Moved((text, *others[:3]), alone[text], pipeline([text, *others[:3]])[0]))
    found.noise = max(noise, key=lambda one: one.size, default=None)
    found.coupling = max(coupling, key=lambda one: one.size, default=None)


def _as_many_words(text: str, others: Sequence[str]) -> Iterator[str]:
    """Other texts of as many words, which are mostly as many tokens: the beginnings of others, then its own turned."""
    words = text.split()
    for other in others:
        if len(found := other.split()) >= len(words):
            yield " ".join(found[-len(words) :])
            yield " ".join(found[: len(words)])
    for step in range(1, min(len(words), _TURNS)):
        yield " ".join(words[step:] + words[:step])


def _as_long(found: Measured, pipeline: Pipeline, text: str, other: str) -> bool:
    """Whether two texts are the same number of tokens, as far as can be seen."""
    call = found.alone[text]
    if not call.tokens:  # as many letters
        return len(other) == len(text)
    with watch() as seen:
        pipeline([other])
    return bool(seen.tokens) and _shape(seen.tokens[0].ids[0].tolist()) == _shape(call.tokens[0].ids[0].tolist())


def _shape(ids: list[int]) -> tuple[int, int, int]:
    """Columns, and the lengths of the runs of one id at both ends, which pads to a width may be."""
    left, right = (next((n for n, other in enumerate(row) if other != row[0]), len(row)) for row in (ids, ids[::-1]))
    return len(ids), left, right


def _find_cache(
    pipeline: Pipeline, found: Measured, first: Tensor, control: str, text: str, alone: dict[str, Tensor]
) -> None:
    """Ask for the text under another spelling that makes the same tokens, and so has no entry in a cache.

    Accept a respelling only if it leaves the vector of a never-padded control text unchanged.
    """
    small = max(VECTOR_CHANGE, TIMES_NOISE * found.repeated)
    for spell in (lambda t: t + " ", lambda t: t.replace(" ", "  ", 1), str.upper, str.capitalize):
        if spell(control) == control or spell(text) == text:  # asks for the same again
            continue
        if difference(pipeline([spell(control)])[0], alone[control]) <= small:
            with watch() as call:
                fresh = pipeline([spell(text)])[0]
            padded = next((seen.tokens for texts, seen in found.beside.items() if texts[0] == text), [])
            widths = {tokens.ids.shape[1] for tokens in padded}
            found.respelled = any(tokens.ids.shape[1] not in widths for tokens in call.tokens if widths)
            if torch.equal(first, alone[text]) and difference(fresh, first) > small:
                found.cached = Moved((text,), fresh, first)
            return
    found.cache_checked = False
