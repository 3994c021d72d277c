"""Law 4: every pooling equals a float64 loop that slices each sentence."""

import copy
from collections.abc import Callable
from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from maskpool.modules.build import output_dimension
from torch import Tensor

from maskpool import TokenBatch
from maskpool.functional import attention_pool, mean_pool
from maskpool.nn import (
    AttentionPooling,
    ConcatPooling,
    GatedAttentionPooling,
    GeneralizedMeanPooling,
    LatentAttentionPooling,
    LearnedPooling,
    MultiheadAttentionPooling,
    PoolingLayer,
    SoftmaxPooling,
    StructuredAttentionPooling,
    TopKMeanPooling,
)
from tests.batches import dense_route, masks, tokens
from tests.poolings import DIM, any_dtype, every_dtype, every_pooling, make

# The errors of the law, relative to the scale that each oracle gives; float64 is held to its own digits.
RELATIVE = {torch.float64: 1e-12}
# Units in the last place of a half result, on top of that: 0 for what is chosen, not computed.
ULPS = {"CLSPooling": 0, "LastTokenPooling": 0, "MaxPooling": 0, "MinPooling": 0, "MedianPooling": 0, "MeanPooling": 1}

Oracle = Callable[[PoolingLayer, Tensor, Tensor], tuple[Tensor, Tensor]]


def _chosen(place: Callable[[int], int]) -> Oracle:
    def oracle(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        return rows.sort(dim=0).values[place(len(rows))], torch.zeros_like(rows[0])

    return oracle


def _weighted(weigh: Callable[[Tensor], Tensor]) -> Oracle:
    def oracle(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        products = weigh(at).unsqueeze(1) * rows
        return products.sum(dim=0), products.abs().sum(dim=0)

    return oracle


def _attention_of(scores: Tensor, w: Tensor | None) -> Tensor:
    raised = scores.softmax(dim=0)
    if w is None:
        return raised
    counted = raised * w.unsqueeze(1)
    return counted / counted.sum(dim=0)


def _sliced(rows: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    products = rows * attention.repeat_interleave(rows.shape[1] // attention.shape[1], dim=1)
    return products.sum(dim=0), products.abs().sum(dim=0)


def attention(layer: PoolingLayer, rows: Tensor, at: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, AttentionPooling)
    hidden = rows if layer.hidden is None else (rows @ layer.hidden.weight.double().t() + layer.hidden.bias.double())
    scores = (hidden if layer.hidden is None else hidden.tanh()) @ layer.query.double().t()
    return _sliced(rows, _attention_of(scores, w))


def gated_attention(layer: PoolingLayer, rows: Tensor, at: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, GatedAttentionPooling)
    exact = copy.deepcopy(layer).double()
    scores = (exact.hidden(rows).tanh() * exact.gate(rows).sigmoid()) @ exact.query.t()
    return _sliced(rows, _attention_of(scores, w))


def structured_attention(
    layer: PoolingLayer, rows: Tensor, at: Tensor, w: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, StructuredAttentionPooling)
    exact = copy.deepcopy(layer).double()
    weights = _attention_of(exact.hidden(rows).tanh() @ exact.query.t(), w)
    return (weights.t() @ rows).flatten(), (weights.t() @ rows.abs()).flatten()


def multihead_attention(
    layer: PoolingLayer, rows: Tensor, at: Tensor, w: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, MultiheadAttentionPooling)
    exact = copy.deepcopy(layer).double()
    dim = rows.shape[1]
    host = torch.nn.MultiheadAttention(dim, layer.num_heads, bias=False, dtype=torch.float64)
    projections = [torch.eye(dim, dtype=torch.float64), exact.key_weight, exact.value_weight]
    host.load_state_dict({"in_proj_weight": torch.cat(projections), "out_proj.weight": exact.output_weight})
    pooled, weights = host(exact.queries, rows, rows, average_attn_weights=False)
    if w is not None:
        weights = weights * w / (weights * w).sum(dim=2, keepdim=True)

    def project(rows: Tensor, value: Tensor, output: Tensor) -> Tensor:
        values = (rows @ value.t()).view(len(rows), layer.num_heads, -1)
        return torch.einsum("hqt,thw->qhw", weights, values).flatten(1) @ output.t()

    if w is not None:
        pooled = project(rows, exact.value_weight, exact.output_weight)
    return pooled.flatten(), project(rows.abs(), exact.value_weight.abs(), exact.output_weight.abs()).flatten()


def latent_attention(layer: PoolingLayer, rows: Tensor, at: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, LatentAttentionPooling)
    exact = copy.deepcopy(layer).double()
    queries, latents = (x.view(len(x), layer.num_heads, -1).transpose(0, 1) for x in (rows, exact.latents))
    read = torch.nn.functional.scaled_dot_product_attention(queries, latents, latents).transpose(0, 1).flatten(1)
    moved = rows + exact.output(torch.nn.functional.gelu(exact.hidden(read)))
    # A score of float32 has lost digits in proportion to its size, and all that is behind it has them no more.
    size = 1 + rows.abs() @ exact.latents.abs().amax(dim=0)
    hidden = (size[:, None] * read.abs()) @ exact.hidden.weight.abs().t() + exact.hidden.bias.abs()
    scale = rows.abs() + hidden @ exact.output.weight.abs().t() + exact.output.bias.abs()
    share = torch.full((len(rows),), 1 / len(rows), dtype=rows.dtype) if w is None else w / w.sum()
    return share @ moved, share @ scale


def _std(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    return rows.std(dim=0, correction=0), rows.square().mean(dim=0).sqrt()


def _mean_std(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    std, scale = _std(layer, rows, at)
    return torch.cat([rows.mean(dim=0), std]), torch.cat([rows.abs().mean(dim=0), scale])


def _topk_mean(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, TopKMeanPooling)
    largest = rows.topk(min(layer.k, len(rows)), dim=0).values
    return largest.mean(dim=0), largest.abs().mean(dim=0)


def _logsumexp(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    expected = rows.logsumexp(dim=0)
    return expected, 1 + expected.abs()


def _softmax(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, SoftmaxPooling)
    scores = rows / layer.temperature
    products = scores.softmax(dim=0) * rows
    # An exponent of float32 has lost digits in proportion to its size.
    return products.sum(dim=0), (products * (1 + scores.amax(dim=0) - scores)).abs().sum(dim=0)


def _generalized_mean(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, GeneralizedMeanPooling)
    p = float(layer.p.detach())

    def root(power: Tensor) -> Tensor:
        return power.sign() * power.abs() ** (1 / p)

    powers = rows.sign() * rows.abs() ** p
    # The law holds for the mean of the powers; its root may be steep, near 0 without bound.
    slack = 1e-6 * (1 + p) * powers.abs().mean(dim=0)
    expected = root(powers.mean(dim=0))
    width = torch.maximum(root(powers.mean(dim=0) + slack) - expected, expected - root(powers.mean(dim=0) - slack))
    return expected, width / 1e-6 + expected.abs()


ORACLES: dict[str, Oracle] = {
    "CLSPooling": lambda layer, rows, at: (rows[0], torch.zeros_like(rows[0])),
    "LastTokenPooling": lambda layer, rows, at: (rows[-1], torch.zeros_like(rows[0])),
    "MaxPooling": _chosen(lambda length: -1),
    "MinPooling": _chosen(lambda length: 0),
    "MedianPooling": _chosen(lambda length: (length - 1) // 2),
    "TopKMeanPooling": _topk_mean,
    "MeanPooling": _weighted(lambda at: torch.ones_like(at) / len(at)),
    "MeanSqrtLenPooling": _weighted(lambda at: torch.ones_like(at) / sqrt(len(at))),
    "PositionWeightedMeanPooling": _weighted(lambda at: (at - at[0] + 1) / (at - at[0] + 1).sum()),
    "SumPooling": _weighted(torch.ones_like),
    "StdPooling": _std,
    "MeanStdPooling": _mean_std,
    "LogSumExpPooling": _logsumexp,
    "SoftmaxPooling": _softmax,
    "GeneralizedMeanPooling": _generalized_mean,
    "AttentionPooling": attention,
    "GatedAttentionPooling": gated_attention,
    "StructuredAttentionPooling": structured_attention,
    "MultiheadAttentionPooling": multihead_attention,
    "LatentAttentionPooling": latent_attention,
}


def sentence(layer: PoolingLayer, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The float64 vector of one sentence, and the scale to which its error is relative; 0 means exact."""
    if not len(at):
        width = output_dimension(layer, rows.shape[1])
        return rows.new_zeros(width), rows.new_zeros(width)
    expected, scale = ORACLES[type(layer).__name__](layer, rows, at.double())
    if isinstance(layer, LearnedPooling) and layer.start != "mean":
        start, start_scale = ORACLES[type(layer.starting).__name__](layer.starting, rows, at.double())
        parts = len(expected) // rows.shape[1]
        expected = expected + (start - rows.mean(dim=0)).repeat(parts)
        scale = scale + (start.abs() + start_scale + rows.abs().mean(dim=0)).repeat(parts)
    return expected, scale


def _ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    info = torch.finfo(dtype)
    exponent = torch.frexp(value).exponent - 1
    return (info.eps * torch.exp2(exponent.double())).clamp(min=info.smallest_normal * info.eps)


def assert_equals_loop(layer: PoolingLayer, pooled: Tensor, x: Tensor, mask: Tensor) -> None:
    if isinstance(layer, ConcatPooling):
        for part, columns in zip(layer.poolings, pooled.chunk(len(layer.poolings), dim=1), strict=True):
            assert isinstance(part, PoolingLayer)
            assert_equals_loop(part, columns, x, mask)
        return
    at = [row.nonzero().view(-1) for row in mask]
    pairs = [sentence(layer, x[b][rows].detach().double(), rows) for b, rows in enumerate(at)]
    expected, scale = (torch.stack(part) for part in zip(*pairs, strict=True))
    allowed = RELATIVE.get(x.dtype, 1e-6) * scale
    if x.dtype in (torch.float16, torch.bfloat16):
        allowed += ULPS.get(type(layer).__name__, 2) * _ulp(expected, x.dtype)
    error = (pooled.detach().double() - expected).abs()
    worst = (error - allowed).argmax()
    assert (error <= allowed).all(), (
        f"{type(layer).__name__} {x.dtype}: off by {error.view(-1)[worst]:.3g}, allowed {allowed.view(-1)[worst]:.3g}, "
        f"relative to its scale {(error / scale).view(-1)[worst]:.3g}"
    )


@every_pooling
@given(dtype=any_dtype, mask=masks(max_tokens=40), seed=st.integers(0, 99))
def test_short_sentences(name: str, dtype: torch.dtype, mask: Tensor, seed: int) -> None:
    """Sentences of any mask agree with the loop."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    assert_equals_loop(layer, layer(x, mask), x, mask)


@every_pooling
@given(dtype=any_dtype, mask=masks(max_tokens=40), seed=st.integers(0, 99))
def test_short_sentences_on_the_dense_route(name: str, dtype: torch.dtype, mask: Tensor, seed: int) -> None:
    """The dense route agrees with the loop too."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    with dense_route():
        pooled = layer(x, mask)
    assert_equals_loop(layer, pooled, x, mask)


LONG = 8192
CANCELS = 8190  # no power of two, whose inverse would be an exact weight
DATA: dict[str, Callable[[], Tensor]] = {
    "constant": lambda: torch.tensor([0.1, -0.7, 1 / 3, 1e-3]).expand(LONG, 4),
    "ramp": lambda: torch.linspace(0, 1, LONG).unsqueeze(1) * torch.tensor([1.0, -3.0, 0.01, 0.3]) + 0.1,
    "alternating": lambda: (1 - 2 * (torch.arange(LONG) % 2)).unsqueeze(1) * torch.tensor([1.0, 0.1, 3.3, 1e-3]),
    # A third of the tokens, then the rest, half as large below zero: roundings going up and down do not mirror.
    "thirds": lambda: (
        torch.where(torch.arange(LONG) < CANCELS // 3, 1.0, -0.5).unsqueeze(1) * torch.tensor([1.0, 0.1, 3.3, 1e-3])
    ),
    "normal": lambda: tokens(LONG, 4, seed=5),
}


@every_pooling
@every_dtype
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_long_sentences(name: str, dtype: torch.dtype, data: str, dense: bool) -> None:
    """Up to 8,192 tokens no digits are lost, whether the numbers agree, grow, cancel or scatter."""
    lengths = [1, 33, 4097, CANCELS, LONG]
    x = DATA[data]().to(dtype).expand(len(lengths), LONG, 4)
    mask = torch.arange(LONG) < torch.tensor(lengths).unsqueeze(1)
    layer = make(name, 4)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert_equals_loop(layer, pooled, x, mask)


@every_pooling
@pytest.mark.parametrize("value", [6e4, 65504.0, -65504.0])
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_large_halves_stay_finite(name: str, value: float, dense: bool) -> None:
    """float16 numbers near the end of its range, 4,096 of them, pool to a finite vector."""
    # The true vector is √4096 or 4096 times a token, or a projection of one.
    value /= {"mean_sqrt_len_tokens": 64, "sum": 4096, "multihead_attention": 64}.get(name, 1)
    x, mask = torch.full((2, 4096, 2), value, dtype=torch.float16), torch.ones(2, 4096, dtype=torch.bool)
    layer = make(name, 2)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert pooled.isfinite().all()
    assert_equals_loop(layer, pooled, x, mask)


@every_dtype
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_weights_smaller_than_any_half(dtype: torch.dtype, dense: bool) -> None:
    """A weight too small for float16 counts in full where the token is large."""
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
    """A weight too small for float16 hands its whole share of a large gradient back."""
    x, scores = torch.zeros(1, 2, 1, dtype=dtype, requires_grad=True), torch.tensor([[[0.0, -12.0]]])
    pooled, _ = attention_pool(x, torch.tensor([[1, 1]]), scores=scores)
    (gradient,) = torch.autograd.grad(pooled, x, torch.full_like(pooled, 1000.0))
    expected = 1000 * scores.double().softmax(dim=2).view(1, 2, 1)
    torch.testing.assert_close(gradient.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_that_cancel_where_spans_overlap(dtype: torch.dtype) -> None:
    """A token of two sentences whose gradients cancel is left with none of the digits that its weights lost."""
    x = torch.zeros(7, 1, dtype=dtype, requires_grad=True)
    batch = TokenBatch.from_spans(x, torch.tensor([0, 2]), torch.tensor([3, 7]))
    (gradient,) = torch.autograd.grad(mean_pool(batch), x, torch.tensor([[3.0], [-5.0]], dtype=dtype))
    assert gradient[2].abs() <= 2e-6  # of the two that meet here, 1 and -1
