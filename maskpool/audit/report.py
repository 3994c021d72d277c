"""What an audit found, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from maskpool.leaks import PADDING_BUGS

_SHOWN = 6  # texts of a finding that the report prints
Verdict = Literal["clean", "leaks", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        cause: A title of `maskpool.leaks.PADDING_BUGS`.
        evidence: What shows it, in a sentence with its numbers.
        size: The relative difference, ‖a − b‖ / max(‖a‖, ‖b‖), or what the evidence says.
        texts: The batch that shows it; the first is the text whose vector moves.
    """

    cause: str
    evidence: str
    size: float
    texts: tuple[str, ...] = ()

    @property
    def fix(self) -> str:
        """What to do about it."""
        return PADDING_BUGS[self.cause].fix

    @property
    def threads(self) -> tuple[str, ...]:
        """Public threads of people who met it."""
        return PADDING_BUGS[self.cause].threads

    @property
    def leak(self) -> bool:
        """Whether it makes vectors depend on padding, or on other texts."""
        return PADDING_BUGS[self.cause].leak


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        pipeline: What was audited.
        verdict: ``clean``, ``leaks`` or ``unknown``.
        findings: What is wrong, causes first.
        largest: The largest relative difference between a text alone and the same text in a padded batch.
        floor: The largest that has nothing to do with padding: numeric noise of this pipeline.
        threshold: What counts as a leak: max(1e-4, 20 × floor, 8 × the spacing of the coarsest numbers seen near 1).
        census: What the padding census says of the model's architecture; empty where no model of transformers was seen.
        notes: What else the reader must know; where the verdict is ``unknown``, the first says why and what would
            settle it.
        calls: How often the pipeline was called.
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
        """The report as JSON values; a size that is infinite, because a vector became NaN, is None."""
        report: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)
        for entry, finding in zip(report["findings"], self.findings, strict=True):
            entry |= {"fix": finding.fix, "leak": finding.leak}
        return report

    def __str__(self) -> str:
        """The report for people."""
        words = {
            "clean": "clean: no padding reaches the vectors",
            "leaks": "leaks: vectors depend on padding or on other texts",
            "unknown": "unknown: this run could not tell",
        }
        lines = [
            f"{self.pipeline}: {words[self.verdict]}",
            f"  largest difference between a text alone and in a padded batch {self.largest:.1e}, noise "
            f"{self.floor:.1e}, threshold {self.threshold:.1e} ({self.calls} calls)",
        ]
        for finding in self.findings:
            lines += [
                f"{'LEAK' if finding.leak else 'NOTE'}: {finding.cause}",
                f"  {finding.evidence}",
                *(
                    f"  {'text' if not number else 'with'}: {text!r}"
                    for number, text in enumerate(finding.texts[:_SHOWN])
                ),
                *([f"  with: {len(finding.texts) - _SHOWN} more"] if len(finding.texts) > _SHOWN else []),
                f"  fix: {finding.fix}",
            ]
        lines += [f"census: {self.census}"] if self.census else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
