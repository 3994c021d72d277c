"""Law 3: the same tokens in another layout give the same vector."""

import pytest
import torch
from hypothesis import given
from torch import Tensor

from maskpool import TokenBatch
from tests.batches import all_layouts, masks, tokens
from tests.poolings import DIM, LEARNED, any_dtype, every_dtype, every_pooling, make


def _packed(x: Tensor, mask: Tensor) -> TokenBatch:
    offsets = torch.nn.functional.pad(mask.bool().sum(1).cumsum(0), (1, 0))
    return TokenBatch(x[mask.bool()], torch.arange(int(offsets[-1])), offsets)


@every_pooling
@given(dtype=any_dtype, mask=masks())
def test_packed_by_hand(name: str, dtype: torch.dtype, mask: Tensor) -> None:
    """Rows packed one sentence after the other agree with the padded form, sentences without holes."""
    mask = mask.bool() if name not in ("weightedmean", "concat") else mask.bool().sort(dim=1, descending=True).values
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype)
    pooled, expected = layer(_packed(x, mask)), layer(x, mask)
    if name in LEARNED:
        torch.testing.assert_close(pooled, expected)
    else:
        assert torch.equal(pooled, expected)


@pytest.mark.parametrize("name", ["cls", "max", "mean", "mean_sqrt_len_tokens", "lasttoken", *LEARNED])
@every_dtype
def test_rows_in_any_order(name: str, dtype: torch.dtype) -> None:
    """The index names the rows: their own order in memory does not matter."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    packed = _packed(x, mask)
    order = torch.randperm(len(packed.values))
    shuffled = TokenBatch(packed.values[order], order.argsort(), packed.offsets)
    torch.testing.assert_close(layer(shuffled), layer(x, mask))


@every_pooling
@every_dtype
def test_prepared_batch(name: str, dtype: torch.dtype) -> None:
    """A batch prepared once gives, pooling after pooling, what the raw arguments give."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    batch = TokenBatch.from_padded(x, mask)
    for _ in range(2):
        assert torch.equal(layer(batch), layer(x, mask))


@every_pooling
def test_gradient_through_packed_rows(name: str) -> None:
    """Gradients reach the same tokens through packed rows as through padded ones."""
    layer, (x, mask) = make(name), all_layouts(torch.float64)
    mask[3] = torch.tensor([1, 1, 1, 0, 0])  # bare offsets know no holes
    packed, padded = x.clone().requires_grad_(), x.clone().requires_grad_()
    (actual,) = torch.autograd.grad(layer(_packed(packed, mask)).square().sum(), packed)
    (expected,) = torch.autograd.grad(layer(padded, mask).square().sum(), padded)
    torch.testing.assert_close(actual, expected)
