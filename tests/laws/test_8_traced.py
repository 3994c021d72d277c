"""Law 8: traced equals eager."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from torch import Tensor

from maskpool.nn import AttentionPooling, PoolingLayer
from tests.batches import all_layouts, dense_route, few_examples, masks, poison, tokens
from tests.matrix import FULL
from tests.poolings import DIM, ONE_PER_FAMILY, SPECS, any_dtype, every_pooling, make

# Compiling takes a second, so by default only one pooling of each family file is compiled.
pooling_to_trace = pytest.mark.parametrize("name", SPECS if FULL else ONE_PER_FAMILY)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


def _gradients(
    pool: Callable[..., Tensor], layer: PoolingLayer, x: Tensor, mask: Tensor
) -> tuple[Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    pooled = pool(x, mask)
    weights = tokens(*pooled.shape, dtype=x.dtype, seed=3)
    return pooled.detach(), list(torch.autograd.grad((pooled * weights).sum(), [x, *layer.parameters()]))


def _assert_traced_equals_eager(traced: Callable[..., Tensor], layer: PoolingLayer, x: Tensor, mask: Tensor) -> None:
    poisoned = poison(x, mask, torch.nan)
    pooled, gradients = _gradients(traced, layer, poisoned, mask)
    expected, expected_gradients = _gradients(layer, layer, x, mask)
    torch.testing.assert_close(pooled, expected, rtol=1e-6, atol=1e-6)
    assert not gradients[0][~mask.bool()].any()
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


def _shapes() -> list[tuple[Tensor, Tensor]]:
    x, mask = all_layouts()
    longer = torch.nn.functional.pad(x, (0, 0, 1, 2)), torch.nn.functional.pad(mask, (1, 2))
    return [(x, mask), (longer[0][:5], longer[1][:5]), (longer[0][5:], longer[1][5:])]


@pytest.mark.parametrize("name", SPECS if FULL else ONE_PER_FAMILY[::3])
def test_compiled(name: str) -> None:
    """One full graph serves all shapes, with eager vectors and gradients and no gradient at NaN pads."""
    layer, graphs = make(name), 0

    def count(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        compiled: Callable[..., object] = torch._dynamo.lookup_backend("aot_eager")(module, inputs)
        return compiled

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=count)
    for x, mask in _shapes():
        _assert_traced_equals_eager(compiled, layer, x, mask)
    assert graphs == 1


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_to_machine_code() -> None:
    """Inductor's kernels give the eager vectors and gradients."""
    layer = make("concat")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for x, mask in _shapes():
        _assert_traced_equals_eager(compiled, layer, x, mask)


@pooling_to_trace
def test_exported(name: str) -> None:
    """An exported program takes any batch size and length, including 1, and gives the eager vectors."""
    layer, (x, mask) = make(name, on_empty="nan"), all_layouts()
    batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq")
    program = torch.export.export(layer, (x, mask), dynamic_shapes=({0: batch, 1: seq}, {0: batch, 1: seq}))
    exported = program.module()
    for other, other_mask in [*_shapes(), (x[:1], mask[:1]), (x[1:3, 2:3], mask[1:3, 2:3])]:
        pooled = exported(poison(other, other_mask, torch.nan), other_mask)
        torch.testing.assert_close(pooled, layer(other, other_mask), rtol=1e-6, atol=1e-6, equal_nan=True)


def test_traced_attention_weights() -> None:
    """The attention weights of a compiled layer are the eager ones, exactly 0 at pads."""
    layer, (x, mask) = make("attention-heads"), all_layouts()
    assert isinstance(layer, AttentionPooling)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    weights = compiled(poison(x, mask, torch.nan), mask, return_weights=True)[1]
    torch.testing.assert_close(weights, layer(x, mask, return_weights=True)[1])
    assert not weights[~mask.bool().unsqueeze(1).expand_as(weights)].any()


# The shape checks compare sizes that never change within a trace; the tracer warns of each.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@every_pooling
def test_traced_by_jit(name: str) -> None:
    """torch.jit.trace, which older exporters use, takes the dense route as well."""
    layer, (x, mask) = make(name).requires_grad_(False), all_layouts()
    # torch.jit has no types.
    traced = torch.jit.trace(layer, (x[:3], mask[:3]), check_trace=False)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(poison(x, mask, torch.nan), mask), layer(x, mask), rtol=1e-6, atol=1e-6)


@every_pooling
@few_examples
@given(dtype=any_dtype, mask=masks(min_sentences=0))
def test_dense_route_equals_sparse_route(name: str, dtype: torch.dtype, mask: Tensor) -> None:
    """The two routes agree on every mask: vectors, and gradients of tokens and parameters."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype)
    expected, expected_gradients = _gradients(layer, layer, x, mask)
    with dense_route():
        pooled, gradients = _gradients(layer, layer, x, mask)
    torch.testing.assert_close(pooled, expected)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        if dtype in (torch.float16, torch.bfloat16) and other.numel():
            # Autograd adds the gradients through the scores and through the sum, each rounded to the tokens'
            # dtype: relative to the largest gradient, not to each.
            unit = 2 * torch.finfo(dtype).eps
            torch.testing.assert_close(gradient, other, rtol=unit, atol=unit * float(other.abs().max()))
        else:
            torch.testing.assert_close(gradient, other)


REFUSAL = r"on_empty\W+must be 'zero' or 'nan' under torch.compile, .* got 'raise'"


@every_pooling
def test_raise_is_refused_at_once_on_other_devices(name: str) -> None:
    """on_empty="raise" never waits for a device: it is refused for any batch, and the error names alternatives."""
    layer = make(name, on_empty="raise").to("meta")
    with pytest.raises(ValueError, match=REFUSAL):
        layer(torch.ones(2, 3, DIM, device="meta"), torch.ones(2, 3, dtype=torch.int64, device="meta"))


def test_raise_is_refused_at_once_when_compiled() -> None:
    """on_empty="raise" under torch.compile raises while tracing and names alternatives."""
    layer, (x, mask) = make("mean", on_empty="raise"), all_layouts()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=REFUSAL):
        compiled(x[:5], mask[:5])


def test_raise_is_refused_at_once_when_exported() -> None:
    """on_empty="raise" under torch.export raises while tracing and names alternatives."""
    layer, (x, mask) = make("mean", on_empty="raise"), all_layouts()
    with pytest.raises(Exception, match=REFUSAL):
        torch.export.export(layer, (x[:5], mask[:5]))
