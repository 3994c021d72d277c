"""The difference between token states."""

from __future__ import annotations

from torch import Tensor


def relative(states: Tensor, others: Tensor) -> float:
    """Return max|a − b| over the root mean square of a; NaN if any element is NaN."""
    scale = float(states.double().square().mean().sqrt())
    largest = float((states.double() - others.double()).abs().max())
    return largest / scale if scale else largest
