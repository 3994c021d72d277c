"""Count how often a study's simultaneous intervals and verdicts are right.

``python -m benchmarks.coverage`` simulates 4,000 studies per setting and writes ``benchmarks/results/coverage.json``.
It skips settings that the file already has. A study has 15 or 40 differences from one reference, 50 half-samples of 3
seeds and 5 seeds on all texts; scores are normal numbers with a part from the texts and a part from the seeds. Seeds
make up between 0 and 85 % of the squared standard error, in all comparisons alike or rising from comparison to
comparison, and may spread more on half-samples than on all texts.

It counts studies in which all intervals hold their truths, studies without an effect in which any verdict is "lowered"
or "raised", and studies with true changes of 1.5 margins in which any verdict is "no change".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import joblib
import numpy as np

from maskpool.bench.report.verdicts import judge
from maskpool.bench.score import intervals
from maskpool.files import atomic_write

if TYPE_CHECKING:
    from maskpool.bench.score.intervals import Cube, Intervals, Table

RESULTS = Path(__file__).parent / "results" / "coverage.json"
STUDIES, HALVES, HALF_SEEDS, SEEDS = 4_000, 50, 3, 5
# The least and the largest share of studies whose intervals all hold, and the largest share of false verdicts.
LEAST, MOST, FALSE = 0.93, 0.98, 0.05
# Of the quantile: 50,000 would take hours.
_DRAWS = 1_000
_AT_ONCE = 250


@dataclass(frozen=True)
class Setting:
    """The parts of a simulated study's scores.

    Attributes:
        comparisons: Differences from the one reference.
        seed_share: The seeds' part of the squared standard error, which is 1.
        rising: Whether the share rises from 0 to ``seed_share`` over the comparisons.
        on_halves: Seed variance on half-samples divided by that on all texts.
        margin: The margin of the verdicts, in standard errors.
    """

    comparisons: int
    seed_share: float
    rising: bool = False
    on_halves: float = 1.0
    margin: float = 4.0


SETTINGS = [
    Setting(comparisons, share, rising, on_halves)
    for share, rising, on_halves in (
        (0.0, False, 1.0),
        (0.3, False, 1.0),
        (0.6, False, 1.0),
        (0.85, False, 1.0),
        (0.85, True, 1.0),
        (0.85, False, 1.5),
    )
    for comparisons in (15, 40)
]


def simulate(setting: Setting, rng: np.random.Generator) -> tuple[Table, Cube]:
    """Draw the differences of a study whose true differences are 0, on all texts and on half-samples."""
    number = setting.comparisons
    share = np.linspace(0 if setting.rising else setting.seed_share, setting.seed_share, number)

    def differences(samples: int, seeds: int, seed_variance: float) -> Cube:
        def minus_reference(*shape: int) -> Cube:
            scores = rng.normal(0, 0.5**0.5, (samples, number + 1, *shape))
            return scores[:, 1:] - scores[:, :1]

        of_seeds = (SEEDS * seed_variance * share[:, None]) ** 0.5 * minus_reference(seeds)
        return (1 - share[:, None]) ** 0.5 * minus_reference(1) + of_seeds

    return differences(1, SEEDS, 1.0)[0], differences(HALVES, HALF_SEEDS, setting.on_halves)


def kinds(measured: Intervals, effect: float, margin: float) -> set[str]:
    """Return the kinds of a study's verdicts if every true difference is ``effect``."""
    about = {"metric": "AMI", "texts": 1_000}
    ends = zip(measured.delta + effect, measured.low + effect, measured.high + effect, strict=True)
    rows = (about | {"delta": delta, "low": low, "high": high} for delta, low, high in ends)
    return {judge(row, margin, SEEDS)["kind"] for row in rows}


def count(setting: Setting, studies: range) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count studies whose intervals all hold, that report a change without one, and that miss a change.

    Args:
        setting: The parts of the scores.
        studies: Seeds of the studies.
    """
    counts = np.zeros(3, dtype=np.int64)
    with patch.object(intervals, "_DRAWS", _DRAWS):
        for seed in studies:
            measured = intervals.half_sample_intervals(*simulate(setting, np.random.default_rng(seed)), seed)
            without = kinds(measured, 0.0, setting.margin)
            counts += (
                bool(((measured.low <= 0) & (measured.high >= 0)).all()),
                not without.isdisjoint({"lowered", "raised"}),
                "no change" in kinds(measured, 1.5 * setting.margin, setting.margin),
            )
    return counts


def shares(setting: Setting, studies: int, jobs: int) -> dict[str, Any]:
    """Return a setting with the shares of its studies that `count` counts."""
    parts = [range(first, min(first + _AT_ONCE, studies)) for first in range(0, studies, _AT_ONCE)]
    counts = joblib.Parallel(n_jobs=jobs)(joblib.delayed(count)(setting, part) for part in parts)
    names = ("coverage", "false_changes", "missed_changes")
    return (
        asdict(setting)
        | {"studies": studies}
        | dict(zip(names, (np.sum(counts, axis=0) / studies).tolist(), strict=True))
    )


def holds(measured: dict[str, Any]) -> bool:
    """Return whether a setting is within the bars."""
    false = max(measured["false_changes"], measured["missed_changes"])
    return bool(LEAST <= measured["coverage"] <= MOST and false <= FALSE)


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate the settings that are missing, and print all."""
    parser = argparse.ArgumentParser(prog="benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    jobs = parser.parse_args(argv).jobs
    results: dict[str, Any] = {"simulated": []}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for setting in SETTINGS:
        if not any(asdict(setting).items() <= measured.items() for measured in results["simulated"]):
            results["simulated"].append(shares(setting, STUDIES, jobs))
            by_coverage = sorted(results["simulated"], key=lambda measured: measured["coverage"])
            results["lowest"], results["highest"] = by_coverage[0], by_coverage[-1]
            with atomic_write(RESULTS) as path:
                path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(results["simulated"][-1], flush=True)
    for measured in results["simulated"]:
        print("holds" if holds(measured) else "FAILS", measured)


if __name__ == "__main__":
    main()
