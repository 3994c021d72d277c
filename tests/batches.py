"""Batches to pool: masks of every layout, tensors of every stride."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from tests.matrix import cut
from tests.poolings import DIM

few_examples = settings(max_examples=cut(4, 50))  # for each pooling

LAYOUTS = ["right", "left", "both", "holes"]
MASK_DTYPES = [torch.bool, torch.int64, torch.int32, torch.uint8]


def tokens(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return standard normal numbers, the same on every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def padded_ids(words: int, width: int, seed: int) -> Tensor:
    """Return ids of five texts of at least one token, padded with 0 on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, words, (5, width), generator=generator)
    lengths = torch.randint(1, width, (5, 1), generator=generator)
    return torch.where(torch.arange(width) < lengths, ids, 0)


def poison(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """Put a number into every pad."""
    return torch.where(mask.bool().unsqueeze(2), x, value)


@st.composite
def masks(draw: st.DrawFn, min_sentences: int = 1, max_sentences: int = 4, max_tokens: int = 9) -> Tensor:
    """Draw a mask of any layout and dtype; some of its rows may be empty sentences."""
    sentences, seq = draw(st.integers(min_sentences, max_sentences)), draw(st.integers(1, max_tokens))
    layout = draw(st.sampled_from(LAYOUTS))
    rows = []
    for _ in range(sentences):
        length = draw(st.integers(0, seq))
        before = {"right": 0, "left": seq - length}.get(layout)
        if layout == "holes":
            rows.append(draw(st.lists(st.booleans(), min_size=seq, max_size=seq)))
            continue
        if before is None:
            before = draw(st.integers(0, seq - length))
        rows.append([before <= column < before + length for column in range(seq)])
    return torch.tensor(rows, dtype=torch.bool).reshape(sentences, seq).to(draw(st.sampled_from(MASK_DTYPES)))


@st.composite
def sentences(draw: st.DrawFn, max_tokens: int = 70) -> list[Tensor]:
    """Draw sentences as patterns of real positions: each begins and ends with a token, or is empty."""
    patterns = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(0, max_tokens))
        pattern = torch.ones(length, dtype=torch.bool)
        if length > 2 and draw(st.booleans()):
            pattern[1:-1] = tokens(length - 2, seed=draw(st.integers(0, 99))) > 0
        patterns.append(pattern)
    return patterns


def render(patterns: list[Tensor], values: list[Tensor], lefts: list[int], seq: int) -> tuple[Tensor, Tensor]:
    """Write sentences into one padded batch, sentence ``s`` from column ``lefts[s]`` on; pads are NaN."""
    x = values[0].new_full((len(values), seq, values[0].shape[1]), torch.nan)
    mask = torch.zeros(len(values), seq, dtype=torch.int64)
    for row, (pattern, rows, left) in enumerate(zip(patterns, values, lefts, strict=True)):
        x[row, left : left + len(pattern)] = rows
        mask[row, left : left + len(pattern)] = pattern.long()
    return x, mask


def _wide(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.new_full(shape, torch.nan)


def _filled(view: Tensor, x: Tensor) -> Tensor:
    return view.copy_(x)


# Each writes the same numbers to memory in another layout, with NaN in the gaps.
STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "prefix of longer rows": lambda x: _filled(_wide(x, (len(x), x.shape[1] + 3, x.shape[2]))[:, : x.shape[1]], x),
    "suffix of longer rows": lambda x: _filled(_wide(x, (len(x), x.shape[1] + 3, x.shape[2]))[:, 3:], x),
    "every second token": lambda x: _filled(_wide(x, (len(x), 2 * x.shape[1], x.shape[2]))[:, ::2], x),
    "every second sentence": lambda x: _filled(_wide(x, (2 * len(x), *x.shape[1:]))[::2], x),
    "part of wider tokens": lambda x: _filled(_wide(x, (*x.shape[:2], x.shape[2] + 2))[:, :, 1:-1], x),
    "whole of wider tokens": lambda x: _filled(_wide(x, (*x.shape[:2], 2 * x.shape[2]))[:, :, : x.shape[2]], x),
    "every second feature": lambda x: _filled(_wide(x, (*x.shape[:2], 2 * x.shape[2]))[:, :, ::2], x),
    "sequence first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "sequence first, prefix": lambda x: _filled(
        _wide(x, (x.shape[1] + 2, len(x) + 1, x.shape[2]))[: x.shape[1], : len(x)].transpose(0, 1), x
    ),
    "features first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "layers between": lambda x: _filled(_wide(x, (len(x), x.shape[1], 3, x.shape[2]))[:, :, 1], x),
    # These three repeat some of the numbers.
    "one sentence expanded": lambda x: x[:1].expand(x.shape),
    "one token expanded": lambda x: x[:, :1].expand(x.shape),
    "one vector expanded": lambda x: x[:1, :1].expand(x.shape),
}


@contextmanager
def dense_route() -> Iterator[None]:
    """Make CPU tensors take the route of other devices and of tracing, without tracing."""
    with mock.patch("maskpool.batch.token_batch.on_eager_cpu", return_value=False):
        yield


def all_layouts(dtype: torch.dtype = torch.float32, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """Return a batch with pads right, left, on both sides, holes, no pad, one token, and an empty sentence."""
    mask = torch.tensor(
        [
            [1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1],
            [0, 1, 1, 0, 0],
            [1, 0, 1, 0, 1],
            [1, 1, 1, 1, 1],
            [0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0],
        ]
    )
    return tokens(*mask.shape, dim, dtype=dtype), mask


def lengths_to_offsets(lengths: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
    """Cumulative lengths."""
    return torch.nn.functional.pad(torch.tensor(lengths, dtype=torch.int64).cumsum(0), (1, 0)).to(dtype)


def as_padded(rows: Tensor, lengths: list[int]) -> dict[str, Tensor]:
    """Write packed sentences to the right of a wider batch, whose pads are NaN."""
    width = max(lengths) + 1
    mask = torch.arange(width) >= width - torch.tensor(lengths).unsqueeze(1)
    padded = rows.new_full((len(lengths), width, rows.shape[1]), torch.nan).masked_scatter(mask.unsqueeze(2), rows)
    return {"token_embeddings": padded, "attention_mask": mask}


def as_jagged(rows: Tensor, lengths: list[int]) -> dict[str, Tensor]:
    """Write packed sentences as a nested tensor."""
    return {"token_embeddings": torch.nested.nested_tensor_from_jagged(rows, lengths_to_offsets(lengths, torch.int64))}


def as_gapped(rows: Tensor, lengths: list[int]) -> dict[str, Tensor]:
    """Write packed sentences as a nested tensor with NaN in the gaps between them."""
    width = max(lengths) + 2
    starts = torch.arange(len(lengths)) % 2
    mask = torch.arange(width) - starts.unsqueeze(1)
    mask = (mask >= 0) & (mask < torch.tensor(lengths).unsqueeze(1))
    padded = rows.new_full((len(lengths), width, rows.shape[1]), torch.nan).masked_scatter(mask.unsqueeze(2), rows)
    return {"token_embeddings": torch.nested.narrow(padded, 1, starts, torch.tensor(lengths), layout=torch.jagged)}


# A layer's arguments for the same sentences, in every layout except the plain padded one.
PACKINGS: dict[str, Callable[[Tensor, list[int]], dict[str, Tensor]]] = {
    "packed": lambda rows, lengths: {"token_embeddings": rows, "cu_seqlens": lengths_to_offsets(lengths)},
    "packed, int64": lambda rows, lengths: {
        "token_embeddings": rows,
        "cu_seqlens": lengths_to_offsets(lengths, torch.int64),
    },
    "packed, batch of one": lambda rows, lengths: {
        "token_embeddings": rows.unsqueeze(0),
        "cu_seqlens": lengths_to_offsets(lengths),
    },
    "nested": as_jagged,
    "nested, gaps": as_gapped,
}
