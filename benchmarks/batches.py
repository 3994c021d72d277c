"""Batches to time poolings on: the same sentences padded, packed and nested, in rings larger than the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# The size of all buffers together, in last-level caches.
TIMES_CACHE = 4.0
MIN_BUFFERS = 6
LAYOUTS = ("padded", "packed", "nested")


@dataclass(frozen=True)
class Shape:
    """A batch's sizes and the approximate fraction of its tokens that are real."""

    batch: int
    seq: int
    dim: int
    fraction: float

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``64x512x768:0.3``."""
        sizes, _, fraction = text.partition(":")
        batch, seq, dim = map(int, sizes.split("x"))
        return cls(batch, seq, dim, float(fraction or 1))

    def __str__(self) -> str:
        return f"{self.batch}x{self.seq}x{self.dim}:{self.fraction:g}"


@dataclass(frozen=True)
class Buffer:
    """One batch, right-padded or packed without pads, with its lengths as a mask and as offsets."""

    x: Tensor  # (batch, seq, dim) padded, (tokens, dim) packed and nested
    mask: Tensor
    lengths: Tensor
    cu_seqlens: Tensor
    token_weights: Tensor  # per position of x
    scores: Tensor  # (batch, 1, seq) or (tokens, 1)
    as_real_rows: Tensor  # as many contiguous bytes as the real rows have, read as float32


@dataclass(frozen=True)
class Ring:
    """Equal batches in different memory, used in turn."""

    shape: Shape
    layout: str
    buffers: list[Buffer]
    real_fraction: float
    real_bytes: int
    times_cache: float


def draw_lengths(shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw lengths uniformly from half to one and a half times the average, at most the width."""
    if shape.fraction >= 1:
        return torch.full((shape.batch,), shape.seq)
    average = shape.fraction * shape.seq
    drawn = torch.empty(shape.batch).uniform_(average / 2, min(average * 1.5, shape.seq), generator=generator)
    return drawn.round().clamp(1, shape.seq).long()


def make_ring(
    shape: Shape,
    layout: str,
    dtype: torch.dtype,
    cache_bytes: int,
    memory_bytes: float,
    quick: bool,
    lengths: Tensor | None = None,
) -> Ring:
    """Make enough batches to exceed the cache, within the allowed memory."""
    generator = torch.Generator().manual_seed(0)
    lengths = draw_lengths(shape, generator) if lengths is None else lengths
    size = (shape.batch, shape.seq) if layout == "padded" else (int(lengths.sum()),)
    # Centred at 1, not 0, because the gradient of a root has no precision if the powers under it cancel.
    base = (torch.randn(*size, shape.dim, generator=generator) + 1).to(dtype)
    token_bytes = base.numel() * base.itemsize
    real_bytes = int(lengths.sum()) * shape.dim * base.itemsize
    wanted = MIN_BUFFERS if quick else max(MIN_BUFFERS, math.ceil(TIMES_CACHE * cache_bytes / token_bytes))
    number = max(MIN_BUFFERS, min(wanted, int(memory_bytes // token_bytes)))
    buffers = []
    for _ in range(number):
        # Another order of the same lengths, so the work is the same in every buffer.
        shuffled = lengths[torch.randperm(shape.batch, generator=generator)]
        x = base.clone()
        scores = torch.randn(*size, generator=generator)
        buffers.append(
            Buffer(
                x=x.requires_grad_(),
                mask=(torch.arange(shape.seq) < shuffled.unsqueeze(1)).long(),
                lengths=shuffled,
                cu_seqlens=torch.nn.functional.pad(shuffled.cumsum(0), (1, 0)).to(torch.int32),
                token_weights=torch.rand(*size, generator=generator) + 0.5,
                scores=scores.unsqueeze(1),
                as_real_rows=x.detach().view(-1).view(torch.float32)[: real_bytes // 4],
            )
        )
    fraction = int(lengths.sum()) / (shape.batch * shape.seq)
    return Ring(shape, layout, buffers, fraction, real_bytes, number * token_bytes / cache_bytes)
