"""Intervals for a difference between two treatments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from maskpool.bench.score.intervals import floor, half_sample_intervals

if TYPE_CHECKING:
    from maskpool.bench.score.intervals import Cube, Intervals, Table

REPLICATES = 50


def halves_that_only_texts_move(rng: np.random.Generator, number: int, comparisons: int) -> tuple[Table, Cube]:
    """Differences that no seed moves: each has one degree of freedom less than there are replicates."""
    full, replicates = rng.normal(size=(comparisons, 1)), rng.normal(size=(number, comparisons, 1))
    return np.repeat(full, 5, axis=1), np.repeat(replicates, 3, axis=2)


def quantile(intervals: Intervals) -> float:
    """The factor of the standard error that comparisons share if they have equal degrees of freedom."""
    factors = (intervals.high - intervals.delta) / intervals.standard_error
    np.testing.assert_allclose(factors, factors[0])
    return float(factors[0])


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def slow_standard_errors(full: Table, replicates: Cube) -> list[float]:
    """Var(replicates) − mean seed variance within them / s + seed variance of the full data / S, number by number.

    The latter is the mean of what the full data's seeds say and of what the half-samples' say.
    """
    errors = []
    for comparison in range(full.shape[0]):
        means, within = [], []
        for replicate in replicates:
            values = [float(value) for value in replicate[comparison]]
            means.append(sum(values) / len(values))
            within.append(variance(values))
        on_half = sum(within) / len(within)
        from_seeds = on_half / replicates.shape[2]
        seeds = full.shape[1]
        on_full = (variance([float(value) for value in full[comparison]]) + on_half) / 2
        errors.append((max(variance(means) - from_seeds, 0.0) + on_full / seeds) ** 0.5)
    return errors


@pytest.mark.parametrize(("comparisons", "inner", "outer"), [(1, 3, 5), (4, 3, 5), (4, 2, 2)])
def test_standard_error_is_its_formula(comparisons: int, inner: int, outer: int) -> None:
    """Standard errors are the formula counted in a plain loop, and intervals are centred on the full difference."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, comparisons + 1)[:, None]
    full = rng.normal(0.1, 0.02, (comparisons, outer)) * scale
    replicates = (rng.normal(0.1, 0.03, (20, comparisons, 1)) + rng.normal(0, 0.02, (20, comparisons, inner))) * scale
    intervals = half_sample_intervals(full, replicates)
    np.testing.assert_allclose(intervals.standard_error, slow_standard_errors(full, replicates))
    np.testing.assert_allclose(intervals.delta, full.mean(axis=1))
    np.testing.assert_allclose((intervals.low + intervals.high) / 2, intervals.delta)


def test_seed_noise_alone_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only seeds move the difference, the standard error is that of a mean over the full data's seeds."""
    # The quantile of 400 comparisons is not needed.
    monkeypatch.setattr("maskpool.bench.score.intervals._DRAWS", 100)
    rng = np.random.default_rng(0)
    intervals = half_sample_intervals(rng.normal(0, 1, (400, 5)), rng.normal(0, 1, (REPLICATES, 400, 3)))
    assert np.sqrt(np.mean(intervals.standard_error**2)) == pytest.approx((1 / 5) ** 0.5, rel=0.1)


def test_one_comparison_has_students_quantile() -> None:
    """For one comparison the interval is Student's, with one degree of freedom less than replicates."""
    rng = np.random.default_rng(0)
    intervals = half_sample_intervals(*halves_that_only_texts_move(rng, REPLICATES, 1))
    assert quantile(intervals) == pytest.approx(stats.t.ppf(0.975, REPLICATES - 1))


def test_independent_comparisons_have_sidaks_quantile() -> None:
    """For twenty independent comparisons the quantile is near Šidák's, which is the normal's at 0.95^(1/20)."""
    rng = np.random.default_rng(0)
    number = 2_000  # replicates, enough for correlations near 0 and a Student quantile near the normal quantile
    intervals = half_sample_intervals(*halves_that_only_texts_move(rng, number, 20))
    assert quantile(intervals) == pytest.approx(stats.norm.ppf((1 + 0.95 ** (1 / 20)) / 2), rel=0.01)


def test_twenty_copies_of_a_comparison_count_as_one() -> None:
    """For perfectly correlated comparisons the quantile is that of one."""
    rng = np.random.default_rng(0)
    full, replicates = halves_that_only_texts_move(rng, REPLICATES, 1)
    # Of either sign, and of any size: what counts is |t|.
    scale = np.linspace(-2, 3, 20)[:, None]
    intervals = half_sample_intervals(full * scale, replicates * scale)
    assert quantile(intervals) == pytest.approx(stats.t.ppf(0.975, REPLICATES - 1), rel=0.02)


def test_more_comparisons_than_replicates() -> None:
    """With more comparisons than replicates the quantile lies between one comparison's and Bonferroni's."""
    rng = np.random.default_rng(0)
    intervals = half_sample_intervals(*halves_that_only_texts_move(rng, 10, 30))
    assert stats.t.ppf(0.975, 9) < quantile(intervals) < stats.t.ppf(1 - 0.025 / 30, 9)


def test_a_treatment_that_equals_the_other_has_width_0() -> None:
    """A treatment that never differs gets the interval [0, 0], and costs the other comparison nothing."""
    rng = np.random.default_rng(0)
    full, replicates = rng.normal(size=(1, 5)), rng.normal(size=(REPLICATES, 1, 3))
    alone = half_sample_intervals(full, replicates)
    both = half_sample_intervals(
        np.concatenate([np.zeros((1, 5)), full]), np.concatenate([np.zeros((REPLICATES, 1, 3)), replicates], axis=1)
    )
    assert (both.low[0], both.delta[0], both.high[0], both.standard_error[0]) == (0, 0, 0, 0)
    assert (both.low[1], both.high[1]) == pytest.approx((alone.low[0], alone.high[0]))
    nothing = half_sample_intervals(np.zeros((2, 5)), np.zeros((REPLICATES, 2, 3)))
    assert not nothing.low.any()
    assert not nothing.high.any()


def test_intervals_are_the_same_every_time() -> None:
    """Equal seeds give equal intervals, digit by digit."""
    rng = np.random.default_rng(0)
    full, replicates = rng.normal(size=(6, 5)), rng.normal(size=(REPLICATES, 6, 3))
    first, again = half_sample_intervals(full, replicates, seed=3), half_sample_intervals(full, replicates, seed=3)
    np.testing.assert_array_equal(first.high, again.high)


def coverage(simulations: int, comparisons: int = 1) -> float:
    """How often the intervals hold the truth together, over data that are drawn afresh.

    The statistic is the mean of 40 texts' numbers, and each fit adds noise of its seed.
    """
    rng = np.random.default_rng(0)
    texts, truth, seed_noise = 40, 0.3, 0.15

    def fits(numbers: Table, seeds: int) -> Table:
        noise: Table = numbers.mean(axis=0)[:, None] + rng.normal(0, seed_noise, (comparisons, seeds))
        return noise

    held = 0
    for _ in range(simulations):
        data = rng.normal(truth, 1, (texts, comparisons))
        halves = [fits(data[rng.permutation(texts)[: texts // 2]], 3) for _ in range(REPLICATES)]
        intervals = half_sample_intervals(fits(data, 5), np.stack(halves))
        held += bool(((intervals.low <= truth) & (truth <= intervals.high)).all())
    return held / simulations


def test_coverage_in_short() -> None:
    """Over 200 fresh data sets some 95 % of the intervals hold the truth."""
    assert 0.90 <= coverage(200) <= 0.99


@pytest.mark.full  # the test above is its short form
def test_coverage() -> None:
    """Over 1,000 fresh data sets 95 % of the intervals hold the truth."""
    assert 0.93 <= coverage(1_000) <= 0.97


@pytest.mark.full  # by default tests/bench/test_coverage.py does this for settings of more comparisons
def test_coverage_of_several_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 1,000 fresh data sets three independent intervals hold their truths together 95 % of the time."""
    # 1,000 quantiles of 50,000 draws take half a minute.
    monkeypatch.setattr("maskpool.bench.score.intervals._DRAWS", 2_000)
    assert 0.93 <= coverage(1_000, comparisons=3) <= 0.97


def test_floor() -> None:
    """The floor of ten fits is exceeded by 5 % of differences of two equal treatments; the normal quantile by 8 %."""
    rng = np.random.default_rng(1)
    values = rng.normal(0.7, 0.02, (20_000, 10))
    limits = np.array([floor(of_study, 5) for of_study in values])
    two = rng.normal(0.7, 0.02, (2, 20_000, 5)).mean(axis=2)
    assert np.mean(np.abs(two[0] - two[1]) > limits) == pytest.approx(0.05, abs=0.006)
    assert limits[0] == pytest.approx(2.2622 * (2 / 5) ** 0.5 * variance(values[0].tolist()) ** 0.5, rel=1e-4)
    assert floor(np.full(10, 0.7), 5) == pytest.approx(0, abs=1e-12)


def test_degrees_of_freedom_are_satterthwaites() -> None:
    """One comparison's quantile is Student's, with degrees of freedom from the mean squares counted in loops."""
    rng = np.random.default_rng(2)
    full = rng.normal(0, 1, (1, 5))
    replicates = rng.normal(0, 1.5, (REPLICATES, 1, 1)) + rng.normal(0, 1, (REPLICATES, 1, 3))
    means = variance([float(np.mean(values)) for (values,) in replicates])
    half = float(np.mean([variance(values.tolist()) for (values,) in replicates]))
    parts = ((1, means, 49), (1 / 10 - 1 / 3, half, 100), (1 / 10, variance(full[0].tolist()), 4))
    square = sum(weight * part for weight, part, _ in parts)
    freedom = square**2 / sum((weight * part) ** 2 / own for weight, part, own in parts)
    assert 5 < freedom < 49
    intervals = half_sample_intervals(full, replicates)
    assert intervals.standard_error[0] ** 2 == pytest.approx(square)
    assert intervals.quantile[0] == pytest.approx(stats.t.ppf(0.975, freedom))


def test_only_the_seed_part_has_degrees_of_freedom_where_no_sampling_is_seen() -> None:
    """Replicates that spread less than their seeds explain leave the seed variance alone."""
    rng = np.random.default_rng(3)
    full = rng.normal(0, 1, (1, 5))
    replicates = rng.normal(0, 1, (REPLICATES, 1, 3))
    replicates -= replicates.mean(axis=2, keepdims=True)
    half = float(np.mean([variance(values.tolist()) for (values,) in replicates]))
    from_full, from_half = variance(full[0].tolist()) / 10, half / 10
    freedom = (from_full + from_half) ** 2 / (from_full**2 / 4 + from_half**2 / 100)
    assert half_sample_intervals(full, replicates).quantile[0] == pytest.approx(stats.t.ppf(0.975, freedom))


def test_nothing_is_subtracted_where_the_subtraction_is_mostly_error() -> None:
    """A sampling part that barely exceeds the seeds' does not make an interval infinitely wide."""
    rng = np.random.default_rng(5)
    full, replicates = np.full((1, 20), 0.1), rng.normal(0, 1, (REPLICATES, 1, 3))
    means, half = (float(x) for x in (replicates.mean(axis=2).var(ddof=1), replicates.var(axis=2, ddof=1).mean()))
    scale = (1.05 * half / 3 / means) ** 0.5
    centre = replicates.mean(axis=2, keepdims=True)
    replicates = replicates - centre + centre * scale  # replicates spread 5 % more than their seeds explain
    intervals = half_sample_intervals(full, replicates)
    assert intervals.sampling_variance[0] == pytest.approx(1.05 * half / 3)
    assert intervals.quantile[0] < stats.t.ppf(0.975, 19)


def test_unequal_degrees_of_freedom_share_a_tail_probability() -> None:
    """A comparison that seeds move has a larger quantile than one that texts move, beyond both at equal odds."""
    rng = np.random.default_rng(4)
    full, replicates = halves_that_only_texts_move(rng, REPLICATES, 2)
    full[1], replicates[:, 1] = rng.normal(size=5), rng.normal(size=(REPLICATES, 3)) * 0.1
    intervals = half_sample_intervals(full, replicates)
    tail = 2 * stats.t.sf(intervals.quantile[0], REPLICATES - 1)
    assert tail == pytest.approx(0.0253, rel=0.1)  # Šidák: 1 − √0.95
    assert intervals.quantile[1] > 1.3 * intervals.quantile[0]


def test_the_parts_of_an_error_add_up() -> None:
    """The sampling and the seed part add up to the squared standard error, and the quantile gives the half-width."""
    rng = np.random.default_rng(0)
    full, replicates = rng.normal(0, 0.01, (2, 5)), rng.normal(0, 0.02, (60, 2, 3))
    replicates[:, 1] += rng.normal(0, 0.05, (60, 1))
    intervals = half_sample_intervals(full, replicates)
    parts = intervals.sampling_variance + intervals.seed_variance
    assert parts == pytest.approx(intervals.standard_error**2)
    assert intervals.high - intervals.delta == pytest.approx(intervals.quantile * intervals.standard_error)
    # The first comparison has seed noise only, the second mostly sampling noise.
    assert intervals.sampling_variance[0] < intervals.seed_variance[0]
    assert intervals.sampling_variance[1] > 10 * intervals.seed_variance[1]
