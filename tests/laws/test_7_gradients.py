"""Law 7: first and second derivatives are right."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from maskpool.batch.token_batch import SparseBatch
from tests.batches import dense_route, tokens
from tests.matrix import FULL, spread
from tests.poolings import DIM, DTYPES, SPECS, WEIGHTED, every_pooling, make

MASK = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]])


def _without_ties(*shape: int) -> Tensor:
    # A maximum has no derivative at a tie and a power none at 0; a finite difference must not reach the next number.
    count = int(torch.tensor(shape).prod())
    return ((torch.randperm(count).double() + 0.3) / count - 0.5).reshape(shape)


@spread(3, name=SPECS, dense=[False, True], check=[gradcheck, gradgradcheck])
def test_derivatives(name: str, dense: bool, check: Callable[..., bool]) -> None:
    """Derivatives by tokens and by learned parameters agree with finite differences, holes and empties included."""
    layer = make(name, 2).double()
    parameters = {key: value.detach().requires_grad_() for key, value in layer.named_parameters()}

    def pool(x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(parameters, values, strict=True))
        result: Tensor = torch.func.functional_call(layer, named, (x, MASK))
        return result

    x = _without_ties(*MASK.shape, 2).requires_grad_()
    with dense_route() if dense else torch.enable_grad():
        assert check(pool, (x, *parameters.values()), fast_mode=not FULL)


@every_pooling
def test_derivatives_through_strides(name: str) -> None:
    """Derivatives are right through a view of the caller's tensor that leaves rows and features out."""
    layer = make(name, 2).double()
    whole = _without_ties(4, 5, 3).requires_grad_()
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x: layer(x[:, 1:, :2], MASK[:, 1:]), (whole,), fast_mode=not FULL)


@every_pooling
def test_derivatives_through_packed_rows(name: str) -> None:
    """Derivatives are right where a row belongs to several sentences or to none."""
    layer = make(name, 2).double()
    values = _without_ties(5, 2).requires_grad_()
    index, offsets = torch.tensor([0, 1, 3, 1, 3]), torch.tensor([0, 3, 3, 5])
    for check in (gradcheck, gradgradcheck):
        assert check(lambda rows: layer(SparseBatch(rows, index, offsets)), (values,), fast_mode=not FULL)


@spread(5, name=SPECS, dtype=DTYPES, weighted=[False, True])
def test_gradient_without_a_graph(name: str, dtype: torch.dtype, weighted: bool) -> None:
    """The gradient by the tokens is the same with and without a graph for second derivatives.

    Without one, some poolings have a formula for it. Zeros, equal tokens and weights of 0 are edges of these.
    """
    layer, mask = make(name).requires_grad_(False), MASK[[0, 1, 3]]
    x = tokens(*mask.shape, DIM, dtype=dtype)
    x[:, :, 0], x[:, :, 1], x[1, 1] = 0, 2, 0
    named = {}
    if weighted:
        if name not in WEIGHTED:
            return
        named["token_weights"] = torch.tensor([0.0, 1.0, 2.0, 0.0, 0.5]).expand(mask.shape)
    leaf = x.requires_grad_()
    pooled = layer(leaf, mask, **named)
    upstream = tokens(*pooled.shape, dtype=dtype, seed=3)
    (gradient,) = torch.autograd.grad(pooled, leaf, upstream, retain_graph=True)
    (expected,) = torch.autograd.grad(pooled, leaf, upstream, create_graph=True)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(gradient, expected.detach(), rtol=tolerance, atol=tolerance)


def test_ties_share_the_gradient_of_max() -> None:
    """Tokens that tie for the maximum share its gradient equally, on both routes, and pads get none of it."""
    layer, mask = make("max", 1), torch.tensor([[1, 1, 0, 1]])
    x = torch.tensor([[[2.0], [2.0], [2.0], [1.0]]], requires_grad=True)
    expected = torch.tensor([[[0.5], [0.5], [0.0], [0.0]]])
    torch.testing.assert_close(torch.autograd.grad(layer(x, mask).sum(), x)[0], expected)
    with dense_route():
        torch.testing.assert_close(torch.autograd.grad(layer(x, mask).sum(), x)[0], expected)
