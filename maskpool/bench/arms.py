"""Arms: which positions of a padded text are pooled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from jaxtyping import Float

    from maskpool.plans import Ints

    Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]

Arm = Literal["excluded", "included", "pads only", "noise"]

MEANING: dict[Arm, str] = {
    "excluded": "real tokens alone: what the mask is for, and the reference",
    "included": "every position of the padded text, as if there were no mask",
    "pads only": "the pads alone, over the texts that have any: what they know of the sentence",
    "noise": "excluded, turned at random until its cosine to excluded is that of included, text by text",
}


def spans(states: Float[Tensor, "batch seq dim"], rows: Ints, starts: Ints, ends: Ints) -> TokenBatch:
    """One sentence a span of positions ``starts[i]`` to ``ends[i]`` of row ``rows[i]``, without copying states.

    Example:
        >>> import numpy as np
        >>> batch = spans(torch.zeros(2, 4, 3), np.array([0, 1]), np.array([0, 2]), np.array([2, 4]))
        >>> batch.index.tolist(), batch.offsets.tolist()
        ([0, 1, 6, 7], [0, 2, 4])
    """
    lengths = torch.from_numpy(ends - starts)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    first = torch.from_numpy(rows * states.shape[1] + starts) - offsets[:-1]
    index = torch.arange(int(offsets[-1])) + torch.repeat_interleave(first, lengths)
    return TokenBatch(states.flatten(0, 1), index, offsets)


def unit(vectors: Vectors) -> Vectors:
    """Scale each vector to length 1 (a zero vector stays)."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled


def matched_noise(reference: Vectors, other: Vectors, rng: np.random.Generator) -> Vectors:
    """Turn each unit vector of ``reference`` in a random direction, as far as ``other`` is from it.

    c·u + √(1 − c²)·n, with c the cosine of the text's two vectors and n a random unit vector
    orthogonal to u. A shift of the same size that knows nothing of pads: what it does to clusters is
    what any such shift does.
    """
    cosine = np.clip((reference * other).sum(axis=1, keepdims=True), -1, 1)
    noise = rng.standard_normal(reference.shape, dtype=np.float32)
    noise -= (noise * reference).sum(axis=1, keepdims=True) * reference
    turned: Vectors = (cosine * reference + np.sqrt(1 - cosine**2) * unit(noise)).astype(np.float32)
    return turned
