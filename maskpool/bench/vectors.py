"""The types of pooled vectors and of their row numbers, and normalisation."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Rows: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def unit(vectors: Vectors) -> Vectors:
    """Scale each vector to length 1; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled
