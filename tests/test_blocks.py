"""Learned poolings have a form in blocks and a packed form: every choice between them gives the same vectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from maskpool import TokenBatch
from maskpool.batch import blocks
from maskpool.batch.token_batch import SparseBatch
from maskpool.nn import AttentionPooling, LearnedPooling, PoolingLayer
from tests.batches import poison, tokens
from tests.matrix import pairwise, spread
from tests.oracles import ORACLES, assert_equals_loop, sharpen
from tests.poolings import DIM, DTYPES, LEARNED, make

_THREE_ROWS = 3 * 40 * DIM * 4  # in float32
# The limits that choose the form of the batch below, and the number of its blocks; none is the packed form.
FORMS: dict[str, tuple[dict[str, float], int]] = {
    "one block, float64": ({}, 1),
    "one block": ({"_FEW": 0}, 1),
    "blocks of whole rows": ({"_FEW": 0, "_BLOCK_BYTES": _THREE_ROWS}, 3),
    "a block for each": ({"_FEW": 0, "_BLOCK_BYTES": 1, "_SMALL_BYTES": 0}, 7),
    "packed": ({"_BLOCK_BYTES": 1}, 0),
}
# Poolings that are computed in blocks.
NAMES = [name for name in LEARNED if ORACLES[make(name).mode].scores is not None and make(name).start == "mean"]
LENGTHS = torch.tensor([40, 33, 1, 17, 40, 40, 29])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the number of blocks of each call."""
    numbers: list[int] = []
    real = blocks._spans

    def spans(*arguments: object) -> list[blocks.Span]:
        made = real(*arguments)  # type: ignore[arg-type]  # those of the call
        numbers.append(len(made))
        return made

    monkeypatch.setattr(blocks, "_spans", spans)
    return numbers


def _use(form: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32) -> int:
    limits, number = FORMS[form]
    for name, limit in limits.items():
        if name == "_BLOCK_BYTES":
            monkeypatch.setattr(blocks, "_CONVERTED_BYTES", limit)
        monkeypatch.setattr(blocks, name, limit * (2 if (dtype, limit) == (torch.float64, _THREE_ROWS) else 1))
    return number


def _batch(dtype: torch.dtype = torch.float32, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """Return a batch with pads on the right, on the left, and a hole."""
    mask = torch.arange(40) < LENGTHS.unsqueeze(1)
    mask[1] = mask[1].flip(0)
    mask[3, 5] = False
    return tokens(7, 40, dim, dtype=dtype), mask


def _results(layer: PoolingLayer, x: Tensor, mask: Tensor) -> list[Tensor]:
    """Return the vectors, the attention, and the gradients of both by tokens and parameters."""
    leaf = x.clone().requires_grad_()
    assert isinstance(layer, LearnedPooling)
    pooled, attention = layer(leaf, mask, return_weights=True)
    loss = (pooled * tokens(*pooled.shape, dtype=x.dtype, seed=3)).sum() + attention.square().sum()
    return [pooled.detach(), attention.detach(), *torch.autograd.grad(loss, [leaf, *layer.parameters()])]


@pairwise(name=NAMES, form=FORMS, dtype=DTYPES)
def test_forms_agree(
    name: str, form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, counted: list[int]
) -> None:
    """Vectors, attention and gradients are those of the packed form, whichever form is chosen."""
    layer, (x, mask) = make(name), _batch(dtype)
    packed = TokenBatch.of(x[mask], cu_seqlens=torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)))
    expected = layer(packed)
    number = _use(form, monkeypatch, dtype)
    results = _results(layer, x, mask)
    assert counted == [number]
    tolerance = 1e-6 if dtype in (torch.float32, torch.float64) else torch.finfo(dtype).eps
    torch.testing.assert_close(results[0], expected, rtol=tolerance, atol=tolerance)
    assert_equals_loop(layer, results[0], x, mask)
    with monkeypatch.context() as patches:
        patches.setattr(blocks, "_BLOCK_BYTES", 1)
        patches.setattr(blocks, "_CONVERTED_BYTES", 1)
        patches.setattr(blocks, "_SMALL_BYTES", 2**40)
        gradients = _results(layer, x, mask)
    assert counted[1:] == [0]
    for result, other in zip(results, gradients, strict=True):
        torch.testing.assert_close(result, other, rtol=10 * tolerance, atol=10 * tolerance)


@pairwise(name=NAMES, form=FORMS, scale=[1.0, 7.9, 8.1, 100.0])
def test_large_scores(name: str, form: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below and above the largest score of float32, and with scores up to 100, vectors are exact to 1e-6."""
    layer, (x, mask) = make(name), _batch()
    assert isinstance(layer, LearnedPooling)
    sharpen(layer, x, mask, scale)
    _use(form, monkeypatch)
    with torch.no_grad():
        assert_equals_loop(layer, layer(x, mask), x, mask)


@pytest.mark.parametrize("score", [5.0, 7.0, 12.0, 40.0, 100.0, -100.0])
@pytest.mark.parametrize("form", FORMS)
def test_equally_large_scores(form: str, score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of large and nearly equal scores, each of which has a weight, are weighed exactly to 1e-6."""
    _use(form, monkeypatch)
    layer, (x, mask) = AttentionPooling(384), _batch(dim=384)
    with torch.no_grad():
        layer.query.normal_(std=384**-0.5, generator=torch.Generator().manual_seed(9))
        x = x + layer.query * score / layer.query.square().sum()
        assert_equals_loop(layer, layer(x, mask), x, mask)


@pytest.mark.parametrize("dim", [1, 24, 64])
@pytest.mark.parametrize("length", [150, 1023, 8191])
def test_long_sums_of_equal_tokens(length: int, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of equal tokens, whose rounding errors add up, are summed exactly to 1e-6."""
    monkeypatch.setattr(blocks, "_FEW", 0)
    layer, mask = AttentionPooling(dim), torch.ones(1, length, dtype=torch.bool)
    with torch.no_grad():
        layer.query.fill_(0.1)
        for value in (0.1, -0.7, 1 / 3):
            x = torch.full((1, length, dim), value)
            assert_equals_loop(layer, layer(x, mask), x, mask)


@pytest.mark.parametrize("form", FORMS)
def test_small_sums_of_large_products(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores near 0 of large products, as of features that are large in every token, are exact to 1e-6 too."""
    _use(form, monkeypatch)
    layer, (x, mask) = AttentionPooling(64), _batch(dim=64)
    with torch.no_grad():
        layer.query.normal_(std=64**-0.5, generator=torch.Generator().manual_seed(9))
        layer.query[0, 1] = -layer.query[0, 0]
        x[:, :, :2] = 3000 + x[:, :, :1]
        assert_equals_loop(layer, layer(x, mask), x, mask)


@pairwise(name=NAMES, form=FORMS, value=[torch.nan, torch.inf, 6e4, 3e38])
def test_pads_change_nothing(name: str, form: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every form the content of pads changes no bit of vectors, attention and gradients, and gets no gradient."""
    _use(form, monkeypatch)
    layer, (x, mask) = make(name), _batch()
    with torch.no_grad():
        assert torch.equal(layer(poison(x, mask, value), mask), layer(poison(x, mask, 0.0), mask))
    results, expected = (_results(layer, poison(x, mask, pad), mask) for pad in (value, 0.0))
    for result, other in zip(results, expected, strict=True):
        assert torch.equal(result, other)
    assert not results[2][~mask].any()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_that_are_not_finite_stay_off_pads(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient of infinity reaches no pad."""
    _use(form, monkeypatch)
    layer, (x, mask) = make("attention"), _batch()
    x.requires_grad_()
    layer(x, mask).sum().mul(torch.inf).backward()
    assert x.grad is not None
    assert not x.grad[~mask].any()


@spread(3, name=["attention", "gated_attention", "multihead_attention", "latent_attention"], form=FORMS)
def test_derivatives(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second derivatives of every form are correct."""
    _use(form, monkeypatch, torch.float64)
    monkeypatch.setattr(blocks, "_SMALL_BYTES", 0 if form != "packed" else 2**40)
    layer, (x, mask) = make(name).double(), _batch(torch.float64)
    inputs = [x.requires_grad_(), *layer.parameters()]
    assert gradcheck(lambda x, *_: layer(x, mask), inputs, fast_mode=True)
    assert gradgradcheck(lambda x, *_: layer(x, mask), inputs, fast_mode=True)


def test_tokens_that_need_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With frozen tokens the parameters still get their gradients, in one block and in many."""
    layer, (x, mask) = make("gated_attention"), _batch()
    gradients = []
    for form in ("one block", "a block for each"):
        with monkeypatch.context() as patches:
            _use(form, patches)
            gradients.append(torch.autograd.grad(layer(x, mask).square().sum(), list(layer.parameters())))
    for whole, by_block in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, by_block)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_of_parameters_are_added_in_float32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a query in half precision is as exact for a hundred blocks as for one."""
    x = tokens(100, 40, DIM, dtype=dtype)
    mask = torch.arange(40) < 1 + torch.arange(100).unsqueeze(1) % 40
    layer, exact = AttentionPooling(DIM).to(dtype), AttentionPooling(DIM).double()
    torch.nn.init.normal_(layer.query, generator=torch.Generator().manual_seed(0))
    exact.load_state_dict(layer.state_dict())
    (expected,) = torch.autograd.grad(exact(x.double(), mask).sum(), exact.query)
    _use("a block for each", monkeypatch)
    (grad,) = torch.autograd.grad(layer(x, mask).sum(), layer.query)
    error = (grad.double() - expected).abs().max() / expected.abs().max()
    assert error < 0.75 * torch.finfo(dtype).eps


def test_a_second_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is kept can be run twice, one that is not cannot."""
    _use("a block for each", monkeypatch)
    layer, (x, mask) = make("attention"), _batch()
    x.requires_grad_()
    loss = layer(x, mask).sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, x)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x)


def test_empty_sentences_and_few_tokens_are_packed(counted: list[int]) -> None:
    """A batch with an empty sentence, token weights or no padding takes the packed form."""
    layer, (x, mask) = make("attention"), _batch()
    empty = mask.clone()
    empty[2] = False
    layer(x, empty)
    layer(x, mask, token_weights=torch.ones(mask.shape))
    layer(x[mask], cu_seqlens=torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)))
    assert counted == []
    layer(x, mask)
    assert counted == [1]


def test_sentences_of_a_selection() -> None:
    """A selection of tokens pools only these."""
    layer, (x, mask) = make("attention"), _batch()
    keep = torch.ones_like(mask)
    keep[:, 20] = False
    batch = TokenBatch.of(x, mask)
    assert isinstance(batch, SparseBatch)
    torch.testing.assert_close(layer(batch.select(keep)), layer(x, mask & keep), rtol=1e-6, atol=1e-6)
