"""The report of an audit, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Literal

from maskpool.leaks import Fault

_SHOWN = 6  # texts of a finding that the report prints
Verdict = Literal["clean", "leaks", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One bug of a pipeline, or fault of a server, with its evidence.

    Attributes:
        bug: The cause, an entry of `maskpool.leaks`.
        evidence: A sentence with the numbers that show it.
        size: The relative difference, ‖a − b‖ / max(‖a‖, ‖b‖), unless the evidence says otherwise.
        texts: The batch that shows it; the vector of the first text moves.
    """

    bug: Fault
    evidence: str
    size: float
    texts: tuple[str, ...] = ()

    @property
    def cause(self) -> str:
        """The title of the bug."""
        return self.bug.title

    @property
    def fix(self) -> str:
        """How to fix it."""
        return self.bug.fix

    @property
    def threads(self) -> tuple[str, ...]:
        """Public threads about the bug."""
        return self.bug.threads

    @property
    def url(self) -> str:
        """The page of the documentation about the bug, relative to the root of the repository."""
        return self.bug.url

    @property
    def leak(self) -> bool:
        """Whether it makes vectors depend on padding, or on other texts."""
        return self.bug.leak

    def __str__(self) -> str:
        """Return the finding in words."""
        texts = [f"  {'with' if number else 'text'}: {text!r}" for number, text in enumerate(self.texts[:_SHOWN])]
        more = [f"  with: {len(self.texts) - _SHOWN} more"] if len(self.texts) > _SHOWN else []
        return "\n".join(
            [
                f"{self.bug.label}: {self.cause}",
                f"  {self.evidence}",
                *texts,
                *more,
                f"  fix: {self.fix}",
                f"  more: {', '.join((self.url, *self.threads))}",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "cause": self.cause,
            "evidence": self.evidence,
            "size": self.size,
            "texts": list(self.texts),
            "fix": self.fix,
            "threads": list(self.threads),
            "url": self.url,
            "leak": self.leak,
        }


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit; ``str(report)`` is the report in words.

    Attributes:
        pipeline: The name of the audited pipeline.
        verdict: ``clean``, ``leaks`` or ``unknown``.
        findings: The bugs, causes first.
        largest: The largest relative difference between a text alone and the same text in a padded batch.
        floor: The largest relative difference without padding: the numeric noise of this pipeline.
        threshold: The largest difference that is not a leak: max(1e-4, 20 × floor, 8 × the spacing near 1 of the
            coarsest numbers seen); see `maskpool.tolerances`.
        census: The row of the padding census for the model; empty if no model of transformers was seen.
        notes: Further facts; if the verdict is ``unknown``, the first says why and what would settle it.
        calls: The number of calls of the pipeline.
    """

    pipeline: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    largest: float
    floor: float
    threshold: float
    census: str
    notes: tuple[str, ...]
    calls: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; an infinite size, of a vector with NaN, is None."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        content["findings"] = [finding.to_dict() for finding in self.findings]
        report: dict[str, Any] = json.loads(json.dumps(content), parse_constant=lambda _: None)
        return report

    def __str__(self) -> str:
        """Return the report in words."""
        words = {
            "clean": "clean: no padding reaches the vectors",
            "leaks": "leaks: vectors depend on padding or on other texts",
            "unknown": "unknown: this run could not decide",
        }
        lines = [
            f"{self.pipeline}: {words[self.verdict]}",
            f"  largest difference between a text alone and in a padded batch {self.largest:.1e}, noise "
            f"{self.floor:.1e}, threshold {self.threshold:.1e} ({self.calls} calls)",
        ]
        lines += map(str, self.findings)
        lines += [f"census: {self.census}"] if self.census else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
