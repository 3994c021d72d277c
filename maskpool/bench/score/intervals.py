"""Confidence intervals for differences between two treatments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import special, stats

Vector: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
Table: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Cube: TypeAlias = np.ndarray[tuple[int, int, int], np.dtype[np.float64]]

CONFIDENCE = 0.95
# With fewer half-samples the standard error itself is too uncertain.
ENOUGH_REPLICATES = 50
_DRAWS = 50_000


@dataclass(frozen=True)
class Intervals:
    """Differences on the full data, their standard errors and intervals, one entry per comparison.

    ``sampling_variance`` and ``seed_variance`` add up to the squared standard error; the half-width of an interval is
    ``quantile`` times the standard error. ``freedom`` are the degrees of freedom of the squared standard error.
    """

    delta: Vector
    standard_error: Vector
    low: Vector
    high: Vector
    sampling_variance: Vector
    seed_variance: Vector
    quantile: Vector
    freedom: Vector


def half_sample_intervals(full: Table, replicates: Cube, seed: int = 0) -> Intervals:
    """Compute simultaneous 95 % intervals for differences that were refitted on half-samples.

    A replicate takes half of the texts without replacement, in one shuffle and with a few seeds. The standard
    deviation over replicates is the standard error of the full-data difference (delete-half jackknife). Seed
    variance does not shrink with the data, so the variance of the replicates' s seeds is replaced by that of the
    full data's S seeds: SE² = Var(replicates) − (mean seed variance within replicates)/s + (seed variance on full
    data)/S. Because a few seeds give a poor estimate of their variance, it is the mean of two estimates: that of
    the full data's seeds, and that of the half-samples', which are many and spread rather more. The intervals are
    centred on the full-data difference and hold simultaneously with 95 % probability: their half-widths are
    quantiles of t under one tail probability, that of max|t| over the comparisons with the replicates'
    correlations.

    The degrees of freedom of a comparison are 2 SE⁴ / Var(SE²), with the variances of the mean squares that SE² is
    made of. Where Var(replicates) is not above the seeds' part of it, the sampling variance is set to 0, and only
    the seed variance and its degrees of freedom remain. Where fewer than S − 1 degrees of freedom remain, which the
    seeds of the full data have by themselves, SE² is mostly the error of the subtraction; nothing is subtracted
    there, which makes the interval rather too wide.

    Source: Shao and Wu 1989 (delete-half); Romano and Wolf 2005 (max-|t|); Satterthwaite 1946 (degrees of freedom).

    Args:
        full: The differences on the full data, (comparisons, S seeds).
        replicates: The differences on half-samples, (replicates, comparisons, s seeds).
        seed: Seed of the random draws for the quantile.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> intervals = half_sample_intervals(rng.normal(0.1, 0.01, (1, 5)), rng.normal(0.1, 0.01, (50, 1, 3)))
        >>> bool(intervals.low[0] < 0.1 < intervals.high[0])
        True
    """
    number, comparisons, inner = replicates.shape
    outer = full.shape[1]
    means = replicates.mean(axis=2)
    half_seeds = replicates.var(axis=2, ddof=1).mean(axis=0)
    spread, within = means.var(axis=0, ddof=1), half_seeds / inner
    from_full, from_half = full.var(axis=1, ddof=1) / (2 * outer), half_seeds / (2 * outer)
    seed_variance = from_full + from_half

    def square_and_freedom(subtracted: Vector) -> tuple[Vector, Vector]:
        sampling = np.maximum(spread - subtracted, 0.0)
        sampled = sampling > 0
        variance = (spread * sampled) ** 2 / (number - 1) + from_full**2 / (outer - 1)
        variance += (subtracted * sampled - from_half) ** 2 / (number * (inner - 1))
        return sampling, (sampling + seed_variance) ** 2 / np.where(variance > 0, variance, 1.0)

    sampling_variance, freedom = square_and_freedom(within)
    whole, freedom_of_whole = square_and_freedom(np.zeros(comparisons))
    uncertain = freedom < outer - 1
    sampling_variance = np.where(uncertain, whole, sampling_variance)
    freedom = np.where(uncertain, freedom_of_whole, freedom)
    standard_error = np.sqrt(sampling_variance + seed_variance)
    moving = standard_error > 0  # equal treatments have an interval of width 0, and cost the others nothing
    quantile = np.zeros(comparisons)
    freedom[~moving] = number - 1.0
    quantile[moving] = _max_t_quantiles(means[:, moving], freedom[moving], np.random.default_rng(seed))
    delta = full.mean(axis=1)
    half_width = quantile * standard_error
    return Intervals(
        *(delta, standard_error, delta - half_width, delta + half_width),
        *(sampling_variance, seed_variance, quantile, freedom),
    )


def _max_t_quantiles(means: Table, freedom: Vector, rng: np.random.Generator) -> Vector:
    """Return the quantile of |t| per comparison, with one tail probability that in 95 % of draws none goes beyond."""
    tail = 1 - CONFIDENCE
    if len(freedom) > 1:
        with np.errstate(invalid="ignore"):  # a comparison that only seeds of the full data move
            correlation = np.nan_to_num(np.corrcoef(means, rowvar=False))
        np.fill_diagonal(correlation, 1)
        # Where normal numbers correlate by r, their squares, of which the denominators are made, correlate by r².
        numerator, denominator = (
            rng.multivariate_normal(np.zeros(len(freedom)), matrix, _DRAWS, method="eigh")
            for matrix in (correlation, correlation**2)
        )
        grid = np.linspace(-6, 6, 241)  # interpolated, since chi-square quantiles are slow
        mean_square = stats.chi2.ppf(special.ndtr(grid)[:, None], freedom) / freedom
        for column, of_comparison in enumerate(mean_square.T):
            denominator[:, column] = np.interp(denominator[:, column], grid, of_comparison)
        t = numerator / np.sqrt(denominator)
        tail = float(np.quantile(2 * special.stdtr(freedom, -np.abs(t)).min(axis=1), tail))
    return np.asarray(stats.t.isf(tail / 2, freedom), dtype=np.float64)


def floor(values: Vector, seeds: int) -> float:
    """Compute how large a difference between equal treatments gets only from seeds: t √(2/seeds) sd.

    The quantile t has as many degrees of freedom as the standard deviation, one less than there are values.

    Args:
        values: The scores of the reference treatment under many seeds and orders of the texts.
        seeds: Number of seeds that a treatment's mean score is taken over.
    """
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.sqrt(2 / seeds) * values.std(ddof=1))
