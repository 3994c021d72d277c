"""Law 5: a sentence without a real token follows on_empty."""

import pytest
import torch

from maskpool.types import OnEmpty
from tests.batches import all_layouts, dense_route, tokens
from tests.matrix import spread
from tests.oracles import ORACLES
from tests.poolings import DIM, DTYPES, PROJECT, SPECS, WIDTHS, every_pooling, fresh, make

EMPTY = 6  # the row of all_layouts that has no real token


@spread(5, name=SPECS, dtype=DTYPES, dense=[False, True])
def test_zero(name: str, dtype: torch.dtype, dense: bool) -> None:
    """By default an empty sentence gets zeros and does not change the other sentences."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    with dense_route() if dense else torch.enable_grad():
        pooled, others = layer(x, mask), layer(x[:EMPTY], mask[:EMPTY])
    assert torch.equal(pooled[EMPTY], torch.zeros_like(pooled[EMPTY]))
    torch.testing.assert_close(pooled[:EMPTY], others)


@spread(5, name=SPECS, dtype=DTYPES, dense=[False, True])
def test_nan(name: str, dtype: torch.dtype, dense: bool) -> None:
    """on_empty="nan" gives NaN to empty sentences and to no other."""
    layer, (x, mask) = make(name, on_empty="nan"), all_layouts(dtype)
    with dense_route() if dense else torch.enable_grad():
        pooled, others = layer(x, mask), make(name)(x, mask)
    assert pooled[EMPTY].isnan().all()
    assert torch.equal(pooled[:EMPTY], others[:EMPTY])


@every_pooling
def test_raise(name: str) -> None:
    """on_empty="raise" names the argument, the rows and the alternatives, and lets full batches through."""
    layer, (x, mask) = make(name, on_empty="raise"), all_layouts()
    with pytest.raises(
        ValueError, match=r"^attention_mask must leave .*a real token .*1 of 7 have none \(rows 6\).*'zero' or 'nan'"
    ):
        layer(x, mask)
    assert torch.equal(layer(x[:EMPTY], mask[:EMPTY]), make(name)(x[:EMPTY], mask[:EMPTY]))


@spread(5, name=SPECS, on_empty=["zero", "nan"], dense=[False, True], seq=[0, 1, 4])
def test_only_empty_sentences(name: str, on_empty: OnEmpty, dense: bool, seq: int) -> None:
    """A batch of empty sentences backpropagates, and every gradient is exactly zero."""
    layer = make(name, on_empty=on_empty)
    x = torch.full((3, seq, DIM), torch.nan, requires_grad=True)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, torch.zeros(3, seq, dtype=torch.int64))
    expected = 0.0 if on_empty == "zero" else torch.nan
    torch.testing.assert_close(pooled, torch.full_like(pooled, expected), equal_nan=True)
    for gradient in torch.autograd.grad(pooled.sum(), [x, *layer.parameters()]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@spread(5, name=SPECS, dtype=DTYPES, dense=[False, True])
def test_empty_sentence_gets_no_gradient(name: str, dtype: torch.dtype, dense: bool) -> None:
    """The gradient of an empty sentence is zero at each of its positions, NaN in them or not."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    x[EMPTY] = torch.nan
    x.requires_grad_()
    with dense_route() if dense else torch.enable_grad():
        (gradient,) = torch.autograd.grad(layer(x, mask).sum(), x)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[EMPTY], torch.zeros_like(gradient[EMPTY]))


@spread(11, name=SPECS, dtype=DTYPES, shape=[(3, 0), (0, 3), (0, 0)], dense=[False, True])
def test_no_tokens_or_no_sentences(name: str, dtype: torch.dtype, shape: tuple[int, int], dense: bool) -> None:
    """Sequences of length zero and batches without sentences pool to zeros of the right shape and backpropagate."""
    layer, x = make(name), torch.empty(*shape, DIM, dtype=dtype, requires_grad=True)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, torch.zeros(shape, dtype=torch.bool))
    assert torch.equal(pooled, torch.zeros(shape[0], WIDTHS[name] * DIM, dtype=dtype))
    (gradient,) = torch.autograd.grad(pooled.sum(), x)
    assert gradient.shape == x.shape


@spread(5, name=SPECS, dtype=DTYPES, dense=[False, True])
def test_single_token(name: str, dtype: torch.dtype, dense: bool) -> None:
    """A sentence of one token pools to that token, at any position; its deviation is 0. Projections are untrained."""
    layer = fresh(name) if name in PROJECT else make(name)
    x = tokens(3, 3, DIM, dtype=dtype)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, torch.eye(3, dtype=torch.int64))
    token, oracle = x[torch.arange(3), torch.arange(3)], ORACLES.get(name.partition("-")[0])
    expected = token.repeat(1, WIDTHS[name]) if oracle is None or oracle.of_one is None else oracle.of_one(token)
    if oracle is not None and oracle.rounds_one:
        torch.testing.assert_close(pooled, expected)
    else:
        assert torch.equal(pooled, expected)


@every_pooling
@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
def test_neighbours_of_infinities(name: str, infinity: float) -> None:
    """An empty sentence between infinite ones is zeros."""
    layer, x = make(name), torch.full((3, 2, DIM), infinity)
    pooled = layer(x, torch.tensor([[1, 1], [0, 0], [1, 1]]))
    assert torch.equal(pooled[1], torch.zeros_like(pooled[1]))
