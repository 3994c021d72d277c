"""The script that simulates studies counts what it says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from benchmarks.coverage import SETTINGS, Setting
from maskpool.bench.score import intervals
from maskpool.bench.score.intervals import Intervals

if TYPE_CHECKING:
    from maskpool.bench.score.intervals import Table, Vector

SEEDS = Setting(15, 0.85)


def of_interval(low: float, high: float) -> Intervals:
    """Return two equal comparisons with this interval."""
    ends = (np.full(2, value, np.float64) for value in ((low + high) / 2, 1, low, high, 0.5, 0.5, 2, 9))
    return Intervals(*ends)


@pytest.mark.parametrize(
    "setting", [Setting(15, 0.6), Setting(15, 0.85, rising=True), Setting(15, 0.85, on_halves=1.5)]
)
def test_a_simulated_study_has_the_parts_of_its_setting(setting: Setting) -> None:
    """The squared standard error is 1, of which seeds are the share; half-samples vary by as much for their seeds."""
    studies = [coverage.simulate(setting, np.random.default_rng(seed)) for seed in range(600)]
    full, halves = (np.stack(part) for part in zip(*studies, strict=True))
    share = np.linspace(0, 0.85, 15) if setting.rising else np.full(15, setting.seed_share)
    of_seeds = full.var(axis=2, ddof=1).mean(axis=0) / coverage.SEEDS
    assert full.mean(axis=2).var(axis=0) == pytest.approx(1, abs=0.2)
    assert of_seeds == pytest.approx(share, abs=0.1)
    assert halves.var(axis=3, ddof=1).mean(axis=(0, 1)) / coverage.SEEDS == pytest.approx(
        share * setting.on_halves, abs=0.03
    )
    spread = 1 - share + share * setting.on_halves * coverage.SEEDS / coverage.HALF_SEEDS
    assert halves.mean(axis=3).var(axis=1).mean(axis=0) == pytest.approx(spread, abs=0.1)


def test_comparisons_of_a_simulated_study_share_their_reference() -> None:
    """Differences from one reference correlate by one half."""
    halves = coverage.simulate(Setting(2, 0.3), np.random.default_rng(0))[1]
    many = np.concatenate([coverage.simulate(Setting(2, 0.3), np.random.default_rng(n))[1] for n in range(40)])
    assert halves.shape == (coverage.HALVES, 2, coverage.HALF_SEEDS)
    assert np.corrcoef(many.mean(axis=2).T)[0, 1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("low", "high", "counts"),
    [
        (-7.0, 7.0, [1, 0, 0]),  # holds 0; too wide for any verdict
        (-7.0, -3.0, [0, 1, 1]),  # "lowered" without an effect; moved by 1.5 margins it is inside the margin
        (3.0, 7.0, [0, 1, 0]),  # "raised", with an effect too
        (-4.0, -1.0, [0, 1, 0]),  # moved by 1.5 margins it does not hold 0
        (-3.0, 3.0, [1, 0, 0]),  # inside the margin; moved by 1.5 margins it does not hold 0
    ],
)
def test_each_kind_of_study_is_counted(
    monkeypatch: pytest.MonkeyPatch, low: float, high: float, counts: list[int]
) -> None:
    """A study counts if all intervals hold 0, if any verdict is a change, and if any misses a true change."""
    monkeypatch.setattr(intervals, "half_sample_intervals", lambda *_: of_interval(low, high))
    assert coverage.count(Setting(2, 0.0), range(3)).tolist() == [3 * number for number in counts]


def test_one_interval_that_misses_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study with one wrong interval of many counts as not covered."""
    wrong = of_interval(-3, 3)
    wrong.low[1] = 0.1
    monkeypatch.setattr(intervals, "half_sample_intervals", lambda *_: wrong)
    assert coverage.count(Setting(2, 0.0), range(3)).tolist() == [0, 3, 0]


def quantiles_without_simultaneity(means: Table, freedom: Vector, rng: np.random.Generator) -> Vector:
    return np.asarray(stats.t.isf(0.025, freedom))


def normal_quantiles(means: Table, freedom: Vector, rng: np.random.Generator) -> Vector:
    return MAX_T(means, np.full_like(freedom, 1e6), rng)


MAX_T = intervals._max_t_quantiles


@pytest.mark.parametrize(
    ("quantiles", "least", "most"),
    [(MAX_T, 0.88, 1.0), (quantiles_without_simultaneity, 0.0, 0.7), (normal_quantiles, 0.0, 0.8)],
)
def test_wrong_quantiles_are_seen(monkeypatch: pytest.MonkeyPatch, quantiles: Any, least: float, most: float) -> None:
    """Coverage falls clearly if intervals hold one at a time, or if eight half-samples are taken for many."""
    monkeypatch.setattr(coverage, "HALVES", 8)
    monkeypatch.setattr(intervals, "_max_t_quantiles", quantiles)
    studies = 60
    covered, changed, _ = coverage.count(Setting(15, 0.0), range(studies)) / studies
    assert least <= covered <= most
    assert changed == pytest.approx(1 - covered)  # without an effect, an interval without 0 is a change


def test_every_study_is_simulated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a setting are its studies, each once, and shares are of all of them."""
    simulated: list[int] = []

    def counted(_: Setting, studies: range) -> Any:
        simulated.extend(studies)
        return np.array([len(studies), 2, 1])

    monkeypatch.setattr(coverage, "count", counted)
    measured = coverage.shares(SEEDS, 600, jobs=1)
    assert simulated == list(range(600))
    shares = {"coverage": 1.0, "false_changes": 6 / 600, "missed_changes": 3 / 600}
    assert measured == asdict(SEEDS) | {"studies": 600} | shares


@pytest.mark.parametrize(
    ("covered", "changed", "missed", "holds"),
    [
        (0.95, 0.05, 0.0, True),
        (0.93, 0.05, 0.05, True),
        (0.98, 0.0, 0.0, True),
        (0.929, 0.05, 0.0, False),
        (0.981, 0.0, 0.0, False),
        (0.95, 0.051, 0.0, False),
        (0.95, 0.05, 0.051, False),
    ],
)
def test_the_bars_are_coverage_and_both_false_verdicts(
    covered: float, changed: float, missed: float, holds: bool
) -> None:
    """A setting holds if 93 to 98 % of studies are covered and at most 5 % have a false verdict of each kind."""
    shares = {"coverage": covered, "false_changes": changed, "missed_changes": missed}
    assert coverage.holds(shares) is holds


def test_only_missing_settings_are_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run adds the settings that its file lacks, after each the file is complete, and names the ends."""
    out = tmp_path / "coverage.json"
    monkeypatch.setattr(coverage, "RESULTS", out)
    simulated: list[Setting] = []

    def measured(setting: Setting, studies: int, jobs: int) -> dict[str, Any]:
        if len(simulated) == 5:
            raise KeyboardInterrupt
        simulated.append(setting)
        covered = {SETTINGS[3]: 0.92, SETTINGS[6]: 0.97}.get(setting, 0.95)
        return asdict(setting) | {"studies": studies, "coverage": covered, "false_changes": 0, "missed_changes": 0}

    monkeypatch.setattr(coverage, "shares", measured)
    with pytest.raises(KeyboardInterrupt):
        coverage.main([])
    assert len(json.loads(out.read_text())["simulated"]) == 5
    simulated.clear()
    monkeypatch.setattr(coverage, "SETTINGS", SETTINGS[:9])
    coverage.main([])
    assert simulated == SETTINGS[5:9]
    results = json.loads(out.read_text())
    assert results["lowest"] == results["simulated"][3]
    assert results["highest"] == results["simulated"][6]
    said = capsys.readouterr().out
    assert said.count("FAILS") == 1
    assert said.count("holds") == 8
