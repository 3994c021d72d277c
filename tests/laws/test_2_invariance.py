"""Law 2: pads, padding side, other sentences, row order and memory layout change no vector."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maskpool.nn import LearnedPooling
from tests.batches import (
    MASK_DTYPES,
    STRIDES,
    all_layouts,
    dense_route,
    few_examples,
    lengths_to_offsets,
    masks,
    render,
    sentences,
    tokens,
)
from tests.matrix import FULL, spread
from tests.oracles import ORACLES, sharpen
from tests.poolings import (
    COUNT_POSITIONS,
    DIM,
    DTYPES,
    LEARNED,
    PLAIN,
    SPECS,
    any_dtype,
    assert_same,
    every_plain_pooling,
    every_pooling,
    make,
)

SCORED = [name for name in LEARNED if ORACLES[make(name).mode].scores is not None]


def alone(layer: Callable[[Tensor, Tensor], Tensor], patterns: list[Tensor], values: list[Tensor]) -> Tensor:
    pairs = zip(patterns, values, strict=True)
    return torch.cat([layer(rows.unsqueeze(0), pattern.unsqueeze(0)) for pattern, rows in pairs])


def _values(patterns: list[Tensor], dtype: torch.dtype, dim: int = DIM) -> list[Tensor]:
    return [tokens(len(pattern), dim, dtype=dtype, seed=seed) for seed, pattern in enumerate(patterns)]


@every_pooling
@few_examples
@given(dtype=any_dtype, patterns=sentences(), data=st.data())
def test_any_padding_plan(name: str, dtype: torch.dtype, patterns: list[Tensor], data: st.DataObject) -> None:
    """A padded sentence has the vector that it has alone, for any number of pads on either side."""
    dim = data.draw(st.sampled_from([2, 6, 34]))
    layer, values = make(name, dim), _values(patterns, dtype, dim)
    seq = max(map(len, patterns)) + data.draw(st.integers(0, 40))
    lefts = [data.draw(st.integers(0, seq - len(pattern))) for pattern in patterns]
    x, mask = render(patterns, values, lefts, seq)
    assert_same(name, layer(x, mask), alone(layer, patterns, values))


@every_pooling
@few_examples
@given(dtype=any_dtype, patterns=sentences())
def test_padding_side(name: str, dtype: torch.dtype, patterns: list[Tensor]) -> None:
    """Left padding and right padding give the same vectors."""
    layer, values, seq = make(name), _values(patterns, dtype), max(map(len, patterns)) + 1
    right = render(patterns, values, [0] * len(patterns), seq)
    left = render(patterns, values, [seq - len(pattern) for pattern in patterns], seq)
    assert_same(name, layer(*left), layer(*right))


@every_pooling
@few_examples
@given(dtype=any_dtype, mask=masks(min_sentences=2), data=st.data())
def test_row_order(name: str, dtype: torch.dtype, mask: Tensor, data: st.DataObject) -> None:
    """Sentences in another order give the same vectors in that order."""
    order = data.draw(st.permutations(range(len(mask))))
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype)
    assert_same(name, layer(x[order], mask[order]), layer(x, mask)[order])


@spread(7, name=SPECS, dtype=DTYPES, length=[1, 31, 33, 700])
def test_companions_of_other_lengths(name: str, dtype: torch.dtype, length: int) -> None:
    """A vector stays the same next to sentences that are empty, shorter or thousands of tokens longer."""
    patterns = [torch.ones(n, dtype=torch.bool) for n in (0, length, 3000, 5)]
    layer, values = make(name), _values(patterns, dtype)
    x, mask = render(patterns, values, [0, 7, 100, 2900], 3100)
    assert_same(name, layer(x, mask)[1:2], alone(layer, patterns[1:2], values[1:2]))


@spread(11, name=SPECS, dtype=DTYPES, stride=STRIDES)
def test_memory_layout(name: str, dtype: torch.dtype, stride: str) -> None:
    """The memory layout of the token embeddings changes neither vectors nor gradients."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    leaf = x.clone().requires_grad_()
    strided = STRIDES[stride](leaf if "expanded" in stride else x)
    if "expanded" not in stride:
        leaf = strided.detach().requires_grad_()
        strided = leaf
    plain = strided.detach().contiguous().clone().requires_grad_()
    pooled, expected = layer(strided, mask), layer(plain, mask)
    assert_same(name, pooled, expected)
    if "expanded" not in stride:
        (gradient,) = torch.autograd.grad(pooled.sum(), leaf)
        (expected_gradient,) = torch.autograd.grad(expected.sum(), plain)
        assert_same(name, gradient, expected_gradient)


# The rows of a packed tensor in other memory layouts, with NaN in the gaps.
PACKED_STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "every second token": lambda x: x.new_full((2 * len(x), x.shape[1]), torch.nan)[::2].copy_(x),
    "part of wider tokens": lambda x: x.new_full((len(x), x.shape[1] + 2), torch.nan)[:, 1:-1].copy_(x),
    "every second feature": lambda x: x.new_full((len(x), 2 * x.shape[1]), torch.nan)[:, ::2].copy_(x),
    "features first": lambda x: x.t().contiguous().t(),
}


@pytest.mark.parametrize("dim", [1, 2, 3, 8] if FULL else [1, 3])
@every_plain_pooling
def test_memory_layout_of_narrow_tokens(name: str, dim: int) -> None:
    """Narrow tokens in long sentences keep their vectors bit for bit in any memory layout: padded, packed, nested.

    torch chooses the order of a sum by the strides, which is visible in sums of more numbers than fit into a vector
    register.
    """
    lengths = [*(range(33, 73) if FULL else (33, 47, 64, 71)), 130, 7, 0, 1]
    layer, patterns = make(name, dim), [torch.ones(length, dtype=torch.bool) for length in lengths]
    values = _values(patterns, torch.float32, dim)
    x, mask = render(patterns, values, [place % 4 for place in range(len(lengths))], 134)
    expected = alone(layer, patterns, values)
    for stride, laid_out in STRIDES.items():
        if "expanded" not in stride:
            assert torch.equal(layer(laid_out(x), mask), expected), stride
    numbers = tokens(*x.shape, seed=1)
    for stride in (stride for stride in STRIDES if "expanded" in stride):
        expanded = STRIDES[stride](numbers)
        assert torch.equal(layer(expanded, mask), layer(expanded.clone(), mask)), stride
    rows, offsets = torch.cat(values), lengths_to_offsets(lengths, torch.int64)
    for stride, laid_out in PACKED_STRIDES.items():
        assert torch.equal(layer(laid_out(rows), cu_seqlens=offsets), expected), stride
        jagged = torch.nested.nested_tensor_from_jagged(laid_out(rows), offsets)
        assert torch.equal(layer(jagged), expected), stride


@every_pooling
@pytest.mark.parametrize("stride", [stride for stride in STRIDES if "expanded" in stride])
def test_gradient_of_expanded_tokens(name: str, stride: str) -> None:
    """A token that is expanded over sentences or positions gets the sum of their gradients."""
    layer, (x, mask) = make(name).double(), all_layouts(torch.float64)
    leaf, copy = x.clone().requires_grad_(), x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(STRIDES[stride](leaf), mask).square().sum(), leaf)
    (expected,) = torch.autograd.grad(layer(STRIDES[stride](copy).clone(), mask).square().sum(), copy)
    torch.testing.assert_close(gradient, expected)


@every_pooling
@few_examples
@given(mask=masks(), stride=st.sampled_from(list(STRIDES)), seed=st.integers(0, 99))
def test_memory_layout_of_any_shape(name: str, mask: Tensor, stride: str, seed: int) -> None:
    """The memory layout changes nothing in batches of one sentence or one token."""
    layer, x = make(name), STRIDES[stride](tokens(*mask.shape, DIM, seed=seed))
    assert_same(name, layer(x, mask), layer(x.contiguous().clone(), mask))


@spread(3, name=SPECS, dtype=MASK_DTYPES)
def test_mask_dtype(name: str, dtype: torch.dtype) -> None:
    """A bool mask and an integer mask of any width give the same vectors."""
    layer, (x, mask) = make(name), all_layouts()
    assert torch.equal(layer(x, mask.to(dtype)), layer(x, mask))


@every_pooling
def test_mask_memory_layout(name: str) -> None:
    """The memory layout of the mask changes nothing."""
    layer, (x, mask) = make(name), all_layouts()
    assert torch.equal(layer(x, mask.t().contiguous().t()), layer(x, mask))
    expanded = mask[3:4].expand(mask.shape)
    assert torch.equal(layer(x, expanded), layer(x, expanded.clone()))


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in COUNT_POSITIONS])
@few_examples
@given(dtype=any_dtype, patterns=sentences())
def test_holes_are_pads(name: str, dtype: torch.dtype, patterns: list[Tensor]) -> None:
    """Removing a token and masking it out give the same vector, for every pooling that does not count positions."""
    layer, values = make(name), _values(patterns, dtype)
    whole = [pattern[pattern] for pattern in patterns]
    cut = [rows[pattern] for rows, pattern in zip(values, patterns, strict=True)]
    assert_same(name, alone(layer, patterns, values), alone(layer, whole, cut))


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("side", ["right", "left"])
@few_examples
@given(patterns=sentences(), companion=st.integers(1, 90))
def test_sharp_attention(name: str, dense: bool, side: str, patterns: list[Tensor], companion: int) -> None:
    """With scores up to 100, which amplify errors in the weights, padding changes vectors by at most 1e-6."""
    layer, values = make(name), _values(patterns, torch.float32)
    values.append(tokens(companion, DIM, seed=companion))
    patterns = [*patterns, torch.ones(companion, dtype=torch.bool)]
    seq = max(map(len, patterns)) + 3
    x, mask = render(patterns, values, [(seq - len(p)) * (side == "left") for p in patterns], seq)
    assert isinstance(layer, LearnedPooling)
    sharpen(layer, x, mask, 100.0)
    with dense_route() if dense else torch.enable_grad():
        pooled, expected = layer(x, mask), alone(layer, patterns, values)
    torch.testing.assert_close(pooled, expected, rtol=1e-6, atol=1e-6)


@spread(3, name=SPECS, dtype=DTYPES)
def test_number_of_threads(name: str, dtype: torch.dtype) -> None:
    """The number of threads does not change the vectors."""
    layer, x = make(name, 64), tokens(33, 50, 64, dtype=dtype)
    mask = torch.arange(50) < torch.arange(0, 66, 2).clamp(max=50).unsqueeze(1)
    expected, threads = layer(x, mask), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(name, layer(x, mask), expected)
    finally:
        torch.set_num_threads(threads)
