"""Probe a server: the same texts in requests of every form, and texts of growing length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from maskpool.audit.endpoint.clients import TOO_LARGE, EndpointClient, decoded
from maskpool.audit.endpoint.texts import (
    DOCUMENTS,
    EQUAL,
    LENGTHS,
    SHORT_CROSSED,
    TAILS,
    TOGETHER,
    SentTexts,
    crossed,
    with_tail,
)
from maskpool.audit.pipelines import Pipeline
from maskpool.audit.probes import Measured, difference, measure
from maskpool.audit.report import Finding
from maskpool.audit.run import find_causes, find_nondeterminism
from maskpool.errors import EndpointError, rename_arguments
from maskpool.leaks import (
    BASE64_DIFFERS,
    CONCURRENT_REQUESTS,
    DUPLICATES_MERGED,
    EMPTY_TEXT_FAILS,
    LONG_TEXTS_NOT_NORMALISED,
    ROWS_IN_ANOTHER_ORDER,
    SHARED_BEGINNING,
    STRING_AND_LIST,
    Fault,
)
from maskpool.tolerances import (
    GRID,
    LOW_RANK,
    LOW_RANK_CONTROL,
    SAME_INPUT,
    TIMES_NOISE,
    UNIT_LENGTH,
)

_TOGETHER_ROUNDS = 2
_INT8 = 127
_FLOAT32 = torch.finfo(torch.float32).eps
_FEWEST_NUMBERS = 8  # fewer may fit a grid by chance
_DECIMALS = range(1, 6)
Embed: TypeAlias = Callable[[Sequence[str]], Tensor]


@dataclass
class Probed:
    """What the probes of a server saw.

    Attributes:
        sent: The texts.
        findings: The faults.
        facts: What is not a fault by itself, by its name.
        measured: What the probes of batches measured; None if they could not run.
        cut: The number of words that fill the maximum length: words behind them change nothing. None if no text was
            long enough.
        longest: The number of words of the longest text that was accepted.
        stale: Whether texts with the same beginning share a vector.
        chunks: Whether vectors of long texts are sums of vectors of their parts; None if it could not be seen.
        spacing: The spacing of the numbers near the largest of a vector, relative to it.
        unit_length: Whether the vectors of short texts have length 1.
    """

    sent: SentTexts
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    measured: Measured | None = None
    cut: int | None = None
    longest: int = 0
    stale: bool = False
    chunks: bool | None = None
    spacing: float = 0.0
    unit_length: bool = False

    @property
    def threshold(self) -> float:
        """The largest difference that does not count."""
        assert self.measured is not None
        return self.measured.threshold

    def rounded(self, size: float) -> bool:
        """Return whether a difference may be rounding in half precision."""
        assert self.measured is not None
        return self.measured.rounded(size)

    def add(self, fault: Fault, evidence: str, size: float, texts: Sequence[str] = ()) -> None:
        """Add a finding, once per fault."""
        if fault not in [finding.bug for finding in self.findings]:
            self.findings.append(Finding(fault, evidence, size, tuple(texts)))


def probe(client: EndpointClient, sent: SentTexts) -> Probed:
    """Run all probes that need no reference.

    Raises:
        EndpointError: The server cannot be reached, refuses, or answers with something else than vectors.
        InvalidValueError: It gives NaN for a text alone.
    """
    probed = Probed(sent)
    first = client([sent.audited[0]])
    probed.facts["dimension"] = str(client.dimension)
    probed.spacing, probed.facts["numbers"] = _format_of(first)
    if _repeated_texts(client, probed):  # other probes repeat texts, too
        return probed
    pipeline = Pipeline(client)
    pipeline.precision = probed.spacing
    with rename_arguments({"pipeline": "url"}):
        probed.measured = measured = measure(pipeline, sent.audited)
        probed.findings += find_nondeterminism(pipeline, measured)
    if measured.loud or measured.vacuous:
        return probed
    probed.findings += find_causes(measured)
    lengths = torch.stack([moved.alone for moved in measured.padded]).norm(dim=1)
    probed.unit_length = bool(((lengths - 1).abs() <= max(UNIT_LENGTH, probed.spacing)).all())
    probed.facts["length of vectors"] = "1" if probed.unit_length else f"{lengths.min():.3g} to {lengths.max():.3g}"
    _string(client, probed)
    _base64(client, probed)
    _concurrent_requests(client, probed)
    _empty_text(client, probed)
    _capitals(client, probed)
    _long_texts(client, probed)
    _chunks(client, probed)
    return probed


def _format_of(rows: Tensor) -> tuple[float, str]:
    """Return the relative spacing of numbers near the largest of a vector, and its name."""
    numbers = rows.flatten()
    largest = float(numbers.abs().max()) if len(numbers) else 0.0
    if not math.isfinite(largest) or not largest or len(set(numbers.tolist())) < _FEWEST_NUMBERS:
        return _FLOAT32, "float32"
    if torch.equal(numbers, numbers.round()):
        return 1 / largest, "int8" if largest <= _INT8 + 1 else "integers"
    # Of the rounding of JSON, single precision is the finest that servers write.
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        if torch.equal(numbers.to(dtype).to(torch.float32), numbers.to(torch.float32)):
            return torch.finfo(dtype).eps, name
    for digits in _DECIMALS:
        scaled = numbers * 10**digits
        if bool(((scaled - scaled.round()).abs() <= GRID * scaled.abs().clamp(min=1)).all()):
            return 10**-digits / largest, f"{digits} digits behind the point"
    for steps in range(_FEWEST_NUMBERS, _INT8 + 2):
        scaled = numbers / largest * steps
        if bool(((scaled - scaled.round()).abs() <= GRID * steps).all()):
            return 1 / steps, "int8"
    return _FLOAT32, "float32"


def _repeated_texts(client: EndpointClient, probed: Probed) -> bool:
    """Report whether a list with repeated texts has fewer vectors than texts."""
    first, other, third, *_ = probed.sent.audited
    client.rows_of(client.answer([first, other, third]), 3)
    texts = [first, other, first]
    rows = client.answer(texts)
    if isinstance(rows, list) and len(rows) == len(set(texts)):
        evidence = f"a list of {len(texts)} texts, two of which are equal, has {len(rows)} vectors"
        probed.add(DUPLICATES_MERGED, evidence, 1.0, texts)
        return True
    client.rows_of(rows, len(texts))
    return False


def _string(client: EndpointClient, probed: Probed) -> None:
    text = probed.sent.audited[0]
    try:
        vector = client.rows_of(client.answer(text, tries=1), 1)[0]
    except EndpointError:
        probed.facts["a text that is not in a list"] = "refused"
        return
    alone = client([text])[0]
    if (size := difference(vector, alone)) > probed.threshold:
        probed.add(
            STRING_AND_LIST, f"as a string it has another vector than in a list of one, by {size:.2g}", size, [text]
        )


def _base64(client: EndpointClient, probed: Probed) -> None:
    if not client.form.base64:
        return
    text = probed.sent.audited[0]
    try:
        rows = client.answer([text], {"encoding_format": "base64"}, tries=1)
    except EndpointError:
        rows = None
    if not isinstance(rows, list) or len(rows) != 1 or not isinstance(rows[0], str):
        probed.facts["base64"] = "refused" if rows is None else "ignored"
        return
    probed.facts["base64"] = "supported"
    vector, alone = decoded(rows[0]), client([text])[0]
    if vector is None or len(vector) != len(alone):
        numbers = "nothing" if vector is None else f"{len(vector)} numbers"
        probed.add(BASE64_DIFFERS, f"decoded as float32 it gives {numbers} instead of {len(alone)}", 1.0, [text])
    elif (size := difference(vector, alone)) > probed.threshold:
        probed.add(BASE64_DIFFERS, f"decoded as float32 it differs from the numbers by {size:.2g}", size, [text])


def _concurrent_requests(client: EndpointClient, probed: Probed) -> None:
    """Send texts in requests that arrive together, which servers may batch; first of all their requests."""
    control = probed.sent.audited[0]
    spelling_matters = difference(client([control])[0], client([control + " "])[0]) > probed.threshold
    for lengths, texts in (("different", TOGETHER), ("equal", EQUAL)):
        rounds = [client.together(texts) for _ in range(_TOGETHER_ROUNDS)]
        # A cache of answers would repeat the vector of a text, but not of its other spelling.
        alone = [client([text])[0] for text in texts]
        respelled = [client([text + " "])[0] for text in texts]
        for place, text in enumerate(texts):
            for vector in (rows[place] for rows in rounds):
                own = [alone[place]] if spelling_matters else [alone[place], respelled[place]]
                size = max(difference(vector, other) for other in own)
                if size <= probed.threshold or probed.rounded(size):
                    continue
                swapped = [
                    other
                    for other, row in zip(texts, alone, strict=True)
                    if difference(vector, row) <= probed.threshold
                ]
                if swapped and swapped != [text]:
                    evidence = f"in requests that arrive together {text!r} has the vector of {swapped[0]!r}"
                    probed.add(ROWS_IN_ANOTHER_ORDER, evidence, size, texts)
                elif not any(finding.leak for finding in probed.findings):
                    evidence = (
                        f"{text!r} moves by {size:.2g} if its request arrives together with those of "
                        f"{len(texts) - 1} other texts of {lengths} lengths"
                    )
                    probed.add(CONCURRENT_REQUESTS, evidence, size, (text, *(t for t in texts if t != text)))


def _empty_text(client: EndpointClient, probed: Probed) -> None:
    text = probed.sent.audited[0]
    try:
        rows = client.rows_of(client.answer([""], tries=1), 1)
    except EndpointError as error:
        if error.status is not None and 400 <= error.status < 500:
            probed.facts["empty text"] = f"refused with HTTP status {error.status}"
            return
        probed.add(EMPTY_TEXT_FAILS, f"the request with an empty text fails: {error.problem}", 1.0, [""])
        return
    if not bool(rows.isfinite().all()):
        probed.add(EMPTY_TEXT_FAILS, "the vector of an empty text holds NaN or infinity", 1.0, [""])
        return
    probed.facts["empty text"] = "a vector of zeros" if not bool(rows.any()) else "a vector"
    both, alone = client(["", text])[1], client([text])[0]
    if (size := difference(both, alone)) > probed.threshold:
        probed.add(
            EMPTY_TEXT_FAILS, f"next to an empty text the vector of a text moves by {size:.2g}", size, [text, ""]
        )


def _capitals(client: EndpointClient, probed: Probed) -> None:
    size = difference(*client([DOCUMENTS[0], DOCUMENTS[0].lower()]))
    probed.facts["capitals"] = "change vectors" if size > probed.threshold else "do not change vectors"


def _same_input(probed: Probed) -> float:
    """Return the largest difference of two texts that are equal once they are cut."""
    assert probed.measured is not None
    return max(SAME_INPUT, TIMES_NOISE * probed.measured.repeated)


def ends_matter(client: EndpointClient, words: int, least: float) -> bool:
    """Return whether what follows the first words of a text changes its vector."""
    return difference(*client([with_tail(words, tail) for tail in TAILS])) > least


def _long_texts(client: EndpointClient, probed: Probed) -> None:
    """Find how many words are read, whether longer texts are refused, and whether a cache mixes them up."""
    least = _same_input(probed)
    for words in LENGTHS:
        try:
            if not ends_matter(client, words, least):
                probed.cut = words
                break
        except EndpointError as error:
            if error.status not in TOO_LARGE:
                raise
            probed.facts["long texts"] = f"texts of {words} words and more are refused with HTTP status {error.status}"
            break
        probed.longest = words
    if probed.cut is None:
        probed.facts.setdefault("long texts", f"the end of texts of up to {probed.longest} words is read")
        return
    low, high = probed.cut // 2 if probed.cut > LENGTHS[0] else 0, probed.cut
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ends_matter(client, middle, least) else (low, middle)
    probed.cut = high
    # No cache holds the beginnings with blanks in front.
    leads = [(" ", TAILS[0]), ("  ", TAILS[1]), ("   ", TAILS[0])]
    first, second, again = (client([with_tail(high, tail, lead)])[0] for lead, tail in leads)
    if difference(first, again) <= probed.threshold < (size := difference(first, second)):
        evidence = (
            f"two texts that differ only behind their first {high} words have one vector; with blanks in front, which "
            f"change nothing else, they differ by {size:.2g}"
        )
        texts = [with_tail(high, tail) for tail in TAILS]
        probed.cut, probed.stale = None, True
        probed.add(SHARED_BEGINNING, evidence, size, texts)
    else:
        probed.facts["long texts"] = f"cut: words behind the first {high} change nothing"


def _chunks(client: EndpointClient, probed: Probed) -> None:
    """Find out whether a long text is cut into chunks whose vectors are averaged.

    Beginnings and ends of texts that fall into different chunks add up: the nine vectors of three beginnings and three
    ends are combinations of five. In a model that reads the whole text they are not, as in short texts.
    """
    if probed.cut is not None or probed.stale or probed.longest < 2 * SHORT_CROSSED or client.dimension is None:
        return
    short, long = (client(crossed(words)) for words in (SHORT_CROSSED, probed.longest))
    if not bool(long.isfinite().all() & short.isfinite().all()):
        return
    lengths = long.norm(dim=1)
    if probed.unit_length and not bool(((lengths - 1).abs() <= max(UNIT_LENGTH, probed.spacing)).all()):
        evidence = f"vectors of short texts have length 1, of texts of {probed.longest} words {lengths.mean():.3g}"
        probed.add(LONG_TEXTS_NOT_NORMALISED, evidence, float((lengths - 1).abs().max()))
    if client.dimension <= len(long):  # nine vectors of so few numbers are combinations of five anyway
        return
    low = max(LOW_RANK, probed.spacing)
    rest, control = _rest_of_rank(long), _rest_of_rank(short)
    if control < LOW_RANK_CONTROL * low:  # so are those of a model that adds up words
        return
    probed.chunks = rest <= low
    if probed.chunks:
        probed.facts["long texts"] = f"averages of chunks: the parts of texts of {probed.longest} words do not interact"


def _rest_of_rank(rows: Tensor) -> float:
    """Return what five vectors leave of nine, relative to the largest singular value."""
    values = torch.linalg.svdvals(rows / rows.norm(dim=1, keepdim=True))
    return float(values[5] / values[0])
