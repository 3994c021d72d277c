"""Law 4: every pooling equals a float64 loop that slices each sentence."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maskpool import TokenBatch
from maskpool.functional import attention_pool, mean_pool
from maskpool.nn import POOLINGS, LearnedPooling
from tests.batches import dense_route, few_examples, masks, tokens
from tests.matrix import spread
from tests.oracles import ORACLES, assert_equals_loop, sharpen
from tests.poolings import DIM, DTYPES, LEARNED, SPECS, any_dtype, every_dtype, every_pooling, gain, make


def test_every_mode_has_an_oracle() -> None:
    """Every registered pooling has a loop to test it against."""
    assert list(ORACLES.keys() - POOLINGS.keys()) == []
    assert [mode for mode in POOLINGS if mode not in ORACLES] == []


@every_pooling
@few_examples
@given(dtype=any_dtype, mask=masks(max_tokens=40), seed=st.integers(0, 99))
def test_short_sentences(name: str, dtype: torch.dtype, mask: Tensor, seed: int) -> None:
    """Sentences of any mask agree with the loop."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    assert_equals_loop(layer, layer(x, mask), x, mask)


@every_pooling
@few_examples
@given(dtype=any_dtype, mask=masks(max_tokens=40), seed=st.integers(0, 99))
def test_short_sentences_on_the_dense_route(name: str, dtype: torch.dtype, mask: Tensor, seed: int) -> None:
    """The dense route agrees with the loop too."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    with dense_route():
        pooled = layer(x, mask)
    assert_equals_loop(layer, pooled, x, mask)


LONG = 8192
CANCELS = 8190  # not a power of two, whose inverse would be an exact weight
DATA: dict[str, Callable[[], Tensor]] = {
    "constant": lambda: torch.tensor([0.1, -0.7, 1 / 3, 1e-3]).expand(LONG, 4),
    "ramp": lambda: torch.linspace(0, 1, LONG).unsqueeze(1) * torch.tensor([1.0, -3.0, 0.01, 0.3]) + 0.1,
    "alternating": lambda: (1 - 2 * (torch.arange(LONG) % 2)).unsqueeze(1) * torch.tensor([1.0, 0.1, 3.3, 1e-3]),
    # A third of the tokens, then the rest, half as large and negative: rounding up and down does not cancel.
    "thirds": lambda: (
        torch.where(torch.arange(LONG) < CANCELS // 3, 1.0, -0.5).unsqueeze(1) * torch.tensor([1.0, 0.1, 3.3, 1e-3])
    ),
    "normal": lambda: tokens(LONG, 4, seed=5),
}


@spread(13, name=SPECS, dtype=DTYPES, data=DATA, dense=[False, True])
def test_long_sentences(name: str, dtype: torch.dtype, data: str, dense: bool) -> None:
    """Up to 8,192 tokens no digits are lost, for numbers that are equal, grow, cancel or vary."""
    lengths = [1, 33, 4097, CANCELS, LONG]
    x = DATA[data]().to(dtype).expand(len(lengths), LONG, 4)
    mask = torch.arange(LONG) < torch.tensor(lengths).unsqueeze(1)
    layer = make(name, 4)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert_equals_loop(layer, pooled, x, mask)


@spread(5, name=SPECS, value=[6e4, 65504.0, -65504.0], dense=[False, True])
def test_large_halves_stay_finite(name: str, value: float, dense: bool) -> None:
    """float16 numbers near the end of its range, 4,096 of them, pool to a finite vector."""
    value /= gain(name, 4096)  # the exact vector is this many times larger than a token
    x, mask = torch.full((2, 4096, 2), value, dtype=torch.float16), torch.ones(2, 4096, dtype=torch.bool)
    layer = make(name, 2)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert pooled.isfinite().all()
    assert_equals_loop(layer, pooled, x, mask)


@pytest.mark.parametrize("name", [name for name in LEARNED if ORACLES[make(name).mode].scores is not None])
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@few_examples
@given(mask=masks(max_tokens=40), seed=st.integers(0, 99))
def test_sharp_attention(name: str, dense: bool, mask: Tensor, seed: int) -> None:
    """With scores up to 100, where float32 would lose 1e-5 of a weight, poolings agree with the loop within 1e-6."""
    layer, x = make(name), tokens(*mask.shape, DIM, seed=seed)
    assert isinstance(layer, LearnedPooling)
    if mask.any():
        sharpen(layer, x, mask, 100.0)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert_equals_loop(layer, pooled, x, mask)


@every_dtype
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_weights_smaller_than_any_half(dtype: torch.dtype, dense: bool) -> None:
    """A weight that is too small for float16 counts in full if the token is large."""
    x = torch.tensor([[[0.0], [6e4]]], dtype=dtype)
    with dense_route() if dense else torch.enable_grad():
        pooled, _ = attention_pool(x, torch.tensor([[1, 1]]), scores=torch.tensor([[[0.0, -18.0]]]))
    expected = torch.tensor([[0.0, -18.0]], dtype=torch.float64).softmax(dim=1)[:, 1:] * x[0, 1].double()
    torch.testing.assert_close(pooled, expected.to(dtype))


@every_pooling
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_halves(name: str, dtype: torch.dtype) -> None:
    """Gradients of half tokens are those of the same tokens in float64, rounded."""
    layer = make(name)
    half = tokens(3, 700, DIM, dtype=dtype).requires_grad_()
    exact = half.detach().double().requires_grad_()
    mask = torch.arange(700) < torch.tensor([[3], [40], [700]])
    (actual,) = torch.autograd.grad(layer(half, mask).sum(), half)
    (expected,) = torch.autograd.grad(layer(exact, mask).sum(), exact)
    # Attention adds two gradients, each rounded to a half; where they cancel, their sizes still count.
    info = torch.finfo(dtype)
    allowed = 2 * info.eps * expected.abs().amax(dim=2, keepdim=True) + info.smallest_normal * info.eps
    assert ((actual.double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_through_weights_smaller_than_any_half(dtype: torch.dtype) -> None:
    """A weight that is too small for float16 passes back its full share of a large gradient."""
    x, scores = torch.zeros(1, 2, 1, dtype=dtype, requires_grad=True), torch.tensor([[[0.0, -12.0]]])
    pooled, _ = attention_pool(x, torch.tensor([[1, 1]]), scores=scores)
    (gradient,) = torch.autograd.grad(pooled, x, torch.full_like(pooled, 1000.0))
    expected = 1000 * scores.double().softmax(dim=2).view(1, 2, 1)
    torch.testing.assert_close(gradient.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_that_cancel_where_spans_overlap(dtype: torch.dtype) -> None:
    """A token of two sentences with cancelling gradients keeps no rounding error of its weights."""
    x = torch.zeros(7, 1, dtype=dtype, requires_grad=True)
    batch = TokenBatch.from_spans(x, torch.tensor([0, 2]), torch.tensor([3, 7]))
    (gradient,) = torch.autograd.grad(mean_pool(batch), x, torch.tensor([[3.0], [-5.0]], dtype=dtype))
    assert gradient[2].abs() <= 2e-6  # the two gradients here are 1 and -1
