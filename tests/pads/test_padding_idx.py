"""The classical ways of torch to keep pads out of training, compared with mean pooling."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from maskpool.functional import mean_pool
from tests.batches import padded_ids

WORDS, DIM, WIDTH = 20, 6, 9


def _table(seed: int, pad: float) -> Tensor:
    table = torch.randn(WORDS, DIM, generator=torch.Generator().manual_seed(seed))
    table[0] = pad
    return table


def _upstream(seed: int) -> Tensor:
    return torch.randn(5, DIM, generator=torch.Generator().manual_seed(seed + 100))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pad", [0.0, 3.0], ids=["zero pad row", "loaded pad row"])
def test_embedding_bag(seed: int, pad: float) -> None:
    """EmbeddingBag(padding_idx=0) and mean_pool over an Embedding agree in vectors and gradients; pads get none."""
    ids, table = padded_ids(WORDS, WIDTH, seed), _table(seed, pad)
    bag = nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="mean", padding_idx=0)
    words = nn.Embedding.from_pretrained(table.clone(), freeze=False)  # type: ignore[no-untyped-call]  # untyped
    theirs, ours = bag(ids), mean_pool(words(ids), ids != 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    (their_gradient,) = torch.autograd.grad(theirs, bag.weight, _upstream(seed))
    (our_gradient,) = torch.autograd.grad(ours, words.weight, _upstream(seed))
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-6, atol=1e-6)
    assert not their_gradient[0].any()
    assert not our_gradient[0].any()


def test_a_text_of_pads() -> None:
    """A text of only pads is zeros in both."""
    ids, table = torch.zeros(1, 3, dtype=torch.int64), _table(0, 3.0)
    bag = nn.EmbeddingBag.from_pretrained(table, mode="mean", padding_idx=0)
    assert not bag(ids).any()
    assert not mean_pool(table[ids], ids != 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_padding_idx_alone_is_wrong_by_the_denominator(seed: int) -> None:
    """A mean over Embedding(padding_idx=0) divides by the width: the right vector times length over width."""
    ids, table = padded_ids(WORDS, WIDTH, seed), _table(seed, 0.0)
    words = nn.Embedding.from_pretrained(table, padding_idx=0)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    naive, right = words(ids).mean(dim=1), mean_pool(words(ids), ids != 0)
    share = (ids != 0).sum(dim=1, keepdim=True) / WIDTH
    torch.testing.assert_close(naive, right * share)
    assert not torch.allclose(naive, right)


def test_a_loaded_pad_row_is_worse() -> None:
    """A loaded table keeps its pad row despite padding_idx, and the mean over pads moves towards that row."""
    ids, table = padded_ids(WORDS, WIDTH, 0), _table(0, 3.0)
    words = nn.Embedding.from_pretrained(table, padding_idx=0)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert torch.equal(words.weight[0], table[0])
    share = (ids != 0).sum(dim=1, keepdim=True) / WIDTH
    right = mean_pool(words(ids), ids != 0)
    torch.testing.assert_close(words(ids).mean(dim=1), right * share + table[0] * (1 - share))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_masking_before_a_dense_layer(bias: bool) -> None:
    """A Linear adds its bias at zeroed pads; the usual recipe has no bias, mean_pool needs no such care."""
    ids, table = padded_ids(WORDS, WIDTH, 1), _table(1, 3.0)
    mask, dense = (ids != 0).unsqueeze(2), nn.Linear(DIM, 4, bias=bias)
    states = dense(table[ids] * mask)
    at_pads = states[~mask.squeeze(2)]
    expected = torch.zeros_like(at_pads) if dense.bias is None else dense.bias.expand_as(at_pads)
    torch.testing.assert_close(at_pads, expected)
    exact = mean_pool(linear(table[ids], dense.weight, dense.bias), ids != 0)
    torch.testing.assert_close(mean_pool(states, ids != 0), exact)
    lengths = mask.sum(dim=1)
    off = 0.0 if dense.bias is None else dense.bias * (WIDTH - lengths) / lengths
    torch.testing.assert_close(states.sum(dim=1) / lengths, exact + off)
