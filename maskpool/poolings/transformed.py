"""Helpers of the poolings that transform tokens before summing them.

Each formula is written twice: for the rows of one sentence, and for a whole batch in differentiable operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskpool.batch.token_batch import TokenBatch
from maskpool.kernels.base import Kernels
from maskpool.poolings.base import shares
from maskpool.types import PerSentence, PerToken


def validated_shares(batch: TokenBatch, weights: PerToken | None) -> tuple[PerToken | None, PerSentence | None]:
    """Return token weights as shares of their sentence, and the total weights; None without weights."""
    return (None, None) if weights is None else shares(batch, weights)


def weighted_mean_of_rows(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of one sentence's rows; weights add up to 1."""
    return rows.mean(dim=0) if weights is None else (rows * weights.unsqueeze(1)).sum(dim=0)


def weighted_mean_of_batch(batch: Kernels, rows: PerToken, weights: PerToken | None) -> PerSentence:
    """Return the mean of each sentence's rows; weights add up to 1."""
    if weights is None:
        weights, _ = shares(batch, batch.ones())
    return batch.with_rows(rows).weighted_sum(weights)


def without_weightless(batch: Kernels, weights: PerToken | None, neutral: float) -> Kernels:
    """Replace tokens of weight 0 by a number that is never the maximum, because they must not set the scale."""
    if weights is None:
        return batch
    return batch.with_rows(torch.where(weights.unsqueeze(-1) == 0, neutral, batch.rows()))


def finite(top: Tensor) -> Tensor:
    """Replace infinities by 0: infinity minus infinity is NaN. `torch.logsumexp` does the same."""
    return top.nan_to_num(nan=torch.nan, posinf=0.0, neginf=0.0)
