"""Law 1: the content of a pad changes nothing, and its gradient is exactly zero."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maskpool.nn import PoolingLayer
from tests.batches import dense_route, few_examples, masks, poison, tokens
from tests.poolings import DIM, any_dtype, every_pooling, make

POISONS = [torch.nan, torch.inf, -torch.inf, 6e4, -3.0]


def _value_and_gradients(layer: PoolingLayer, x: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    pooled = layer(x, mask)
    weights = tokens(*pooled.shape, dtype=x.dtype, seed=3)
    return pooled.detach(), list(torch.autograd.grad((pooled * weights).sum(), [x, *layer.parameters()]))


@every_pooling
@few_examples
@given(dtype=any_dtype, mask=masks(), value=st.sampled_from(POISONS), seed=st.integers(0, 99))
def test_pads_change_nothing(name: str, dtype: torch.dtype, mask: Tensor, value: float, seed: int) -> None:
    """Any number in the pads, NaN and infinities too, leaves the vectors bit for bit the same."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    assert torch.equal(layer(poison(x, mask, value), mask), layer(poison(x, mask, 0.0), mask))


@every_pooling
@few_examples
@given(dtype=any_dtype, mask=masks(), value=st.sampled_from(POISONS))
def test_pads_get_no_gradient(name: str, dtype: torch.dtype, mask: Tensor, value: float) -> None:
    """The gradient at a pad is exactly zero, and the content of the pad changes no other gradient."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype)
    pooled, gradients = _value_and_gradients(layer, poison(x, mask, value), mask)
    expected, expected_gradients = _value_and_gradients(layer, poison(x, mask, 0.0), mask)
    assert torch.equal(pooled, expected)
    assert not gradients[0][~mask.bool()].any()
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(gradient, other)


@every_pooling
@few_examples
@given(mask=masks(), value=st.sampled_from(POISONS))
def test_pads_change_nothing_on_the_dense_route(name: str, mask: Tensor, value: float) -> None:
    """The dense route excludes pads as exactly as the sparse one: values and gradients."""
    layer, x = make(name), tokens(*mask.shape, DIM)
    with dense_route():
        pooled, gradients = _value_and_gradients(layer, poison(x, mask, value), mask)
        expected, expected_gradients = _value_and_gradients(layer, poison(x, mask, 0.0), mask)
    assert torch.equal(pooled, expected)
    assert not gradients[0][~mask.bool()].any()
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(gradient, other)


@every_pooling
def test_pads_get_no_second_derivative(name: str) -> None:
    """NaN in the pads does not reach second derivatives."""
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    layer = make(name)
    x = poison(tokens(2, 3, DIM), mask, torch.nan).requires_grad_()
    inputs = [x, *layer.parameters()]
    first = torch.autograd.grad(layer(x, mask).square().sum(), inputs, create_graph=True)
    for second in torch.autograd.grad([g.square().sum() for g in first], inputs, allow_unused=True):
        assert second is not None
        assert second.isfinite().all()
        if second.shape == x.shape:
            assert not second[~mask.bool()].any()


@every_pooling
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_real_nan_stays_in_its_sentence(name: str, dense: bool) -> None:
    """A NaN in a real token makes its own sentence NaN, and no other."""
    mask = torch.tensor([[1, 0], [1, 0], [0, 1]])
    x, layer = tokens(3, 2, DIM), make(name)
    x[1] = torch.nan
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert pooled[1].isnan().all()
    assert pooled[[0, 2]].isfinite().all()


@every_pooling
def test_pads_far_above_the_tokens(name: str) -> None:
    """Gradients stay finite for tokens so far below 0 that the exponential of a pad's 0 would overflow."""
    layer, mask = make(name), torch.tensor([[1, 1, 0]])
    x = (tokens(1, 3, DIM) - 300).requires_grad_()
    with dense_route():
        pooled = layer(x, mask)
    for gradient in torch.autograd.grad(pooled.sum(), [x, *layer.parameters()]):
        assert gradient.isfinite().all()


@every_pooling
def test_gradients_that_are_not_finite_stay_off_pads(name: str) -> None:
    """An upstream gradient of infinity reaches no pad on the sparse route."""
    x, mask = tokens(3, 4, DIM).requires_grad_(), torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]])
    pooled = make(name)(x, mask)
    (gradient,) = torch.autograd.grad(pooled, x, torch.full_like(pooled, torch.inf))
    assert not gradient[mask == 0].any()
