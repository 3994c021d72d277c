"""Intervals for a difference between two treatments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import stats

Table: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Cube: TypeAlias = np.ndarray[tuple[int, int, int], np.dtype[np.float64]]

CONFIDENCE = 0.95
# With fewer half-samples the standard error is itself too uncertain to be relied on.
ENOUGH_REPLICATES = 50
_DRAWS = 100_000


@dataclass(frozen=True)
class Intervals:
    """One entry a comparison: the difference on the full data, its standard error and its interval."""

    delta: np.ndarray[tuple[int], np.dtype[np.float64]]
    standard_error: np.ndarray[tuple[int], np.dtype[np.float64]]
    low: np.ndarray[tuple[int], np.dtype[np.float64]]
    high: np.ndarray[tuple[int], np.dtype[np.float64]]


def half_sample_intervals(full: Table, replicates: Cube, seed: int = 0) -> Intervals:
    """Simultaneous 95 % intervals for differences that were refitted on half-samples.

    A replicate takes half of the texts without replacement, one shuffle and a few seeds. The standard
    deviation over replicates is the standard error of the full-data difference (delete-half jackknife),
    once the seeds, which do not shrink with the data, are counted as often as the full data has them:
    SE² = Var(replicates) − (mean seed variance within replicates)/s + (seed variance on full data)/S,
    with s and S seeds. A few seeds tell their variance badly, so that of the half-samples, which is larger if
    anything, is counted beside it as one seed more: ((S − 1) · full + half) / S. The intervals are centred on
    the full-data difference and hold together with 95 % probability: their half-width is the 95 % quantile of
    max|t| over the comparisons, a multivariate t with the replicates' correlations.

    Source: Shao and Wu 1989 (delete-half); Romano and Wolf 2005 (max-|t|).

    Args:
        full: (comparisons, S seeds), the differences on the full data.
        replicates: (replicates, comparisons, s seeds).
        seed: Of the draws that find the quantile.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = half_sample_intervals(rng.normal(0.1, 0.01, (1, 5)), rng.normal(0.1, 0.01, (50, 1, 3)))
        >>> bool(found.low[0] < 0.1 < found.high[0])
        True
    """
    number, comparisons, inner = replicates.shape
    outer = full.shape[1]
    means = replicates.mean(axis=2)
    half_seeds = replicates.var(axis=2, ddof=1).mean(axis=0)
    full_seeds = ((outer - 1) * full.var(axis=1, ddof=1) + half_seeds) / outer
    variance = np.maximum(means.var(axis=0, ddof=1) - half_seeds / inner, 0.0) + full_seeds / outer
    standard_error = np.sqrt(variance)
    quantile = _max_t_quantile(means, number - 1, comparisons, np.random.default_rng(seed))
    delta = full.mean(axis=1)
    return Intervals(delta, standard_error, delta - quantile * standard_error, delta + quantile * standard_error)


def _max_t_quantile(means: Table, freedom: int, comparisons: int, rng: np.random.Generator) -> float:
    spread = means.std(axis=0, ddof=1)
    moving = spread > 0  # a treatment that equals the other has no correlation, and an interval of width 0
    if moving.sum() <= 1:
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    correlation = np.corrcoef(means[:, moving], rowvar=False)
    normal = rng.multivariate_normal(np.zeros(int(moving.sum())), correlation, _DRAWS, method="eigh")
    t = normal / np.sqrt(rng.chisquare(freedom, (_DRAWS, 1)) / freedom)
    return float(np.quantile(np.abs(t).max(axis=1), CONFIDENCE))


def floor(values: np.ndarray[tuple[int], np.dtype[np.float64]], seeds: int) -> float:
    """How large a difference of two equal treatments gets by seeds alone: 1.96 √(2/seeds) sd.

    Args:
        values: The reference treatment's score under many seeds and orders of the texts.
        seeds: How many of them each treatment's score is a mean of.
    """
    return float(stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(2 / seeds) * values.std(ddof=1))
