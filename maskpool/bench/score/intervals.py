"""Confidence intervals for differences between two treatments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import stats

Table: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Cube: TypeAlias = np.ndarray[tuple[int, int, int], np.dtype[np.float64]]

CONFIDENCE = 0.95
# With fewer half-samples the standard error itself is too uncertain.
ENOUGH_REPLICATES = 50
_DRAWS = 100_000


@dataclass(frozen=True)
class Intervals:
    """Differences on the full data, their standard errors and intervals, one entry per comparison.

    ``sampling_variance`` and ``seed_variance`` add up to the squared standard error; the half-width of an interval is
    ``quantile`` times the standard error.
    """

    delta: np.ndarray[tuple[int], np.dtype[np.float64]]
    standard_error: np.ndarray[tuple[int], np.dtype[np.float64]]
    low: np.ndarray[tuple[int], np.dtype[np.float64]]
    high: np.ndarray[tuple[int], np.dtype[np.float64]]
    sampling_variance: np.ndarray[tuple[int], np.dtype[np.float64]]
    seed_variance: np.ndarray[tuple[int], np.dtype[np.float64]]
    quantile: np.ndarray[tuple[int], np.dtype[np.float64]]


def half_sample_intervals(full: Table, replicates: Cube, seed: int = 0) -> Intervals:
    """Compute simultaneous 95 % intervals for differences that were refitted on half-samples.

    A replicate takes half of the texts without replacement, in one shuffle and with a few seeds. The standard
    deviation over replicates is the standard error of the full-data difference (delete-half jackknife). Seed variance
    does not shrink with the data, so the variance of the replicates' s seeds is replaced by that of the full data's S
    seeds: SE² = Var(replicates) − (mean seed variance within replicates)/s + (seed variance on full data)/S. Because
    a few seeds give a poor estimate of their variance, the variance on half-samples, which is rather larger, counts
    as one more seed: ((S − 1) · full + half) / S. The intervals are centred on the full-data difference and hold
    simultaneously with 95 % probability: their half-width is the 95 % quantile of max|t| over the comparisons, a
    multivariate t with the replicates' correlations.

    Source: Shao and Wu 1989 (delete-half); Romano and Wolf 2005 (max-|t|).

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
    full_seeds = ((outer - 1) * full.var(axis=1, ddof=1) + half_seeds) / outer
    sampling_variance = np.maximum(means.var(axis=0, ddof=1) - half_seeds / inner, 0.0)
    seed_variance = full_seeds / outer
    standard_error = np.sqrt(sampling_variance + seed_variance)
    quantile = _max_t_quantile(means, number - 1, comparisons, np.random.default_rng(seed))
    delta = full.mean(axis=1)
    half_width = quantile * standard_error
    return Intervals(
        *(delta, standard_error, delta - half_width, delta + half_width),
        *(sampling_variance, seed_variance, np.full(comparisons, quantile)),
    )


def _max_t_quantile(means: Table, freedom: int, comparisons: int, rng: np.random.Generator) -> float:
    spread = means.std(axis=0, ddof=1)
    moving = spread > 0  # equal treatments have no correlation, and an interval of width 0
    if moving.sum() <= 1:
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    correlation = np.corrcoef(means[:, moving], rowvar=False)
    normal = rng.multivariate_normal(np.zeros(int(moving.sum())), correlation, _DRAWS, method="eigh")
    t = normal / np.sqrt(rng.chisquare(freedom, (_DRAWS, 1)) / freedom)
    return float(np.quantile(np.abs(t).max(axis=1), CONFIDENCE))


def floor(values: np.ndarray[tuple[int], np.dtype[np.float64]], seeds: int) -> float:
    """Compute how large a difference between equal treatments gets only from seeds: 1.96 √(2/seeds) sd.

    Args:
        values: The scores of the reference treatment under many seeds and orders of the texts.
        seeds: Number of seeds that a treatment's mean score is taken over.
    """
    return float(stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(2 / seeds) * values.std(ddof=1))
