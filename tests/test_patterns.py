"""Batches of one shape without pads share their pattern, and nothing that a caller does reaches the others."""

from __future__ import annotations

import pytest
import torch

from maskpool import TokenBatch
from maskpool.batch.token_batch import SparseBatch
from maskpool.kernels.pattern import Pattern, without_pads
from tests.batches import tokens
from tests.poolings import DIM, PLAIN, make


def _batch(seq: int) -> SparseBatch:
    batch = TokenBatch.of(tokens(2, seq, DIM), torch.ones(2, seq, dtype=torch.int64))
    assert isinstance(batch, SparseBatch)
    return batch


def test_equal_shapes_share_a_pattern() -> None:
    """Two batches of one shape without pads have one pattern; a batch with pads has its own."""
    assert _batch(5).pattern is _batch(5).pattern is not _batch(6).pattern
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    first, second = (TokenBatch.of(tokens(2, 3, DIM), mask) for _ in range(2))
    assert isinstance(first, SparseBatch)
    assert isinstance(second, SparseBatch)
    assert first.pattern is not second.pattern


@pytest.mark.parametrize("part", ["index", "offsets"])
def test_writing_to_a_batch_reaches_no_later_one(part: str) -> None:
    """A caller that writes to the index or offsets of a batch does not change the batches that come after it."""
    expected = make("mean")(_batch(7))
    getattr(_batch(7), part).zero_()
    assert torch.equal(make("mean")(_batch(7)), expected)


@pytest.mark.parametrize("name", PLAIN)
def test_training_after_inference(name: str) -> None:
    """A shape that was first pooled in inference mode can be trained on."""
    without_pads.__globals__["_shared"].cache_clear()
    layer, mask = make(name), torch.ones(3, 4, dtype=torch.int64)
    with torch.inference_mode():
        layer(tokens(3, 4, DIM), mask)
    x = tokens(3, 4, DIM).requires_grad_()
    layer(x, mask).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", PLAIN)
def test_default_device_does_not_reach_the_pattern(name: str) -> None:
    """A shape that was first pooled while another device was the default gives the same vectors."""
    without_pads.__globals__["_shared"].cache_clear()
    layer, mask, x = make(name), torch.ones(3, 5, dtype=torch.int64), tokens(3, 5, DIM)
    with torch.device("meta"):
        batch = TokenBatch.of(x, mask)
        assert isinstance(batch, SparseBatch)
        parts = [batch.pattern.owner, batch.pattern.positions, batch.pattern.lengths, batch.offsets]
    assert {part.device.type for part in parts} == {"cpu"}
    assert layer(x, mask).device.type == "cpu"


def test_rows_of_pieces() -> None:
    """Rows in sequence are a slice, others an index, and each piece has the rows of its tokens."""
    pattern = Pattern(torch.tensor([1, 2, 3, 7, 9, 10]), torch.tensor([0, 3, 3, 5, 6]))
    rows = torch.arange(12)
    pieces = pattern.sentence_rows()
    assert [(start, end) for start, end, _ in pieces] == [(0, 3), (3, 3), (3, 5), (5, 6)]
    assert [rows[where].tolist() for *_, where in pieces] == [[1, 2, 3], [], [7, 9], [10]]
    assert [isinstance(where, slice) for *_, where in pieces] == [True, True, False, True]


@pytest.mark.parametrize("sentences", [3, 300])
def test_range_of_lengths(sentences: int) -> None:
    """The shortest and the longest length are those of the lengths, of few and of many sentences."""
    lengths = torch.arange(sentences) % 3
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    pattern = Pattern(torch.arange(int(offsets[-1])), offsets)
    assert (pattern.shortest, pattern.longest) == (0, 2)
