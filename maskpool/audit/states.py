"""How far token states differ, and what counts as a leak among them."""

from __future__ import annotations

from torch import Tensor

# Relative to the root mean square of the states. Noise of clean float32 encoders stays below the first, leaks of
# positions begin near 2e-3, leaks of content near 6e-2. Between the two a difference is measured again in float64,
# where noise all but vanishes and a leak stays.
CLEAN, LEAK = 2e-5, 1e-4


def relative(one: Tensor, other: Tensor) -> float:
    """max|a − b| over the root mean square of a; NaN where any number is none."""
    scale = float(one.double().square().mean().sqrt())
    largest = float((one.double() - other.double()).abs().max())
    return largest / scale if scale else largest
