"""The report of the audit of an endpoint, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from maskpool.audit.report import Finding

_VERDICTS = {
    "clean": "clean: a text has the same vector in every form of request",
    "faults": "faults: the server gives other vectors than it should",
    "unknown": "unknown: this run could not decide",
}


@dataclass(frozen=True)
class EndpointReport:
    """The result of the audit of an endpoint; ``str(report)`` is the report in words.

    Attributes:
        url: The address.
        server: The kind of server that it was spoken to as.
        model: The name of the model that was asked for; empty without one.
        reference: The model that it was compared with; empty without one.
        verdict: ``clean``, ``faults`` or ``unknown``. Findings that may be intended, such as rounded numbers, do not
            count.
        findings: The faults, causes first.
        facts: What the server does, by name.
        largest: The largest relative difference between a text alone and in a list, ‖a − b‖ / max(‖a‖, ‖b‖).
        floor: The same between equal calls and next to texts of the same length: numeric noise.
        threshold: The largest difference that is not a fault.
        notes: Further facts; if the verdict is ``unknown``, the first says why and what would settle it.
        requests: The number of requests.
    """

    url: str
    server: str
    model: str
    reference: str
    verdict: Literal["clean", "faults", "unknown"]
    findings: tuple[Finding, ...]
    facts: Mapping[str, str]
    largest: float
    floor: float
    threshold: float
    notes: tuple[str, ...]
    requests: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; an infinite size, of a vector with NaN, is None."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        content["findings"] = [{**finding.to_dict(), "kind": finding.bug.label} for finding in self.findings]
        report: dict[str, Any] = json.loads(json.dumps(content), parse_constant=lambda _: None)
        return report

    def __str__(self) -> str:
        """Return the report in words."""
        verdict = _VERDICTS[self.verdict]
        if self.verdict == "clean" and self.reference:
            verdict += ", that of the reference"
        return "\n".join(
            [
                f"{self.url}: {verdict}",
                f"  largest difference between a text alone and in a list {self.largest:.1e}, noise {self.floor:.1e}, "
                f"threshold {self.threshold:.1e} ({self.requests} requests)",
                *map(str, self.findings),
                *(f"{name}: {fact}" for name, fact in self.facts.items()),
                *(f"note: {note}" for note in self.notes),
            ]
        )
