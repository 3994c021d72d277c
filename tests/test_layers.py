"""Poolings of several layers: the learned mix, and first-last average."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from transformers.modeling_outputs import BaseModelOutput

from maskpool import TokenBatch
from maskpool.errors import InvalidValueError
from maskpool.functional import first_last_average_pool, mean_pool, mix_layers
from maskpool.nn import FirstLastAveragePooling, LayerMix, MeanPooling
from maskpool.training import train
from tests.batches import PACKINGS, all_layouts, as_padded, dense_route, masks, poison, tokens
from tests.matrix import cut, pairwise, spread
from tests.oracles import sentence
from tests.poolings import DIM, DTYPES, ONE_PER_FAMILY, PLAIN, SPECS, WIDTHS, every_dtype, every_pooling, make

either_route = pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
LAYERS = 3


def _states(dtype: torch.dtype = torch.float32, dim: int = DIM) -> tuple[tuple[Tensor, ...], Tensor]:
    _, mask = all_layouts()
    return tuple(tokens(*mask.shape, dim, dtype=dtype, seed=seed) for seed in range(LAYERS)), mask


def _mix(name: str = "mean", dim: int = DIM) -> LayerMix:
    mix = LayerMix(LAYERS, pooling=make(name, dim))
    with torch.no_grad():
        mix.layer_logits.copy_(torch.tensor([0.5, -1.0, 0.2]))
    return mix


@spread(5, name=SPECS, dtype=DTYPES, dense=[False, True])
def test_mix_pools_the_weighted_sum(name: str, dtype: torch.dtype, dense: bool) -> None:
    """The mix pools Σ softmax(w) x, in the dtype of the layers."""
    mix, (states, mask) = _mix(name), _states(dtype)
    weights = mix.layer_logits.double().softmax(dim=0)
    mixed = sum(weight * state.double() for weight, state in zip(weights, states, strict=True))
    assert isinstance(mixed, Tensor)
    with dense_route() if dense else torch.enable_grad():
        pooled = mix(states, mask)
    assert pooled.dtype == dtype
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-5}.get(dtype, 3 * torch.finfo(dtype).eps)
    expected = mix.pooling(mixed.detach(), mask).to(dtype)
    torch.testing.assert_close(pooled, expected, rtol=tolerance, atol=tolerance)


def test_mix_starts_even() -> None:
    """A new mix is the mean of the layers, and the weights always add up to 1."""
    states, mask = _states()
    average = torch.stack(states).mean(dim=0)
    torch.testing.assert_close(LayerMix(LAYERS)(states, mask), mean_pool(average, mask))
    torch.testing.assert_close(_mix().layer_weights.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("packing", PACKINGS)
def test_layouts_agree(packing: str) -> None:
    """Packed and nested layers give the same vectors."""
    lengths, rows = [2, 0, 3], [tokens(5, DIM, seed=seed) for seed in range(LAYERS)]
    given = [PACKINGS[packing](layer, lengths) for layer in rows]
    options = {key: value for key, value in given[0].items() if key != "token_embeddings"}
    states = [layer["token_embeddings"] for layer in given]
    expected = [PACKINGS["packed"](layer, lengths) for layer in rows]
    offsets = {"cu_seqlens": expected[0]["cu_seqlens"]}
    assert torch.equal(_mix("max")(states, **options), _mix("max")(rows, **offsets))
    assert torch.equal(FirstLastAveragePooling()(states, **options), FirstLastAveragePooling()(rows, **offsets))


@pytest.mark.parametrize("wrap", [tuple, list, torch.stack], ids=["tuple", "list", "stacked"])
def test_sequences_of_layers(wrap: Callable[[Sequence[Tensor]], Any]) -> None:
    """A tuple, a list and a stacked tensor of layers, and prepared batches, give the same vectors."""
    states, mask = _states()
    expected = _mix()(states, mask)
    assert torch.equal(_mix()(wrap(states), mask), expected)
    assert torch.equal(_mix()([TokenBatch.from_padded(state, mask) for state in states]), expected)


@either_route
@every_dtype
def test_first_last_average(dense: bool, dtype: torch.dtype) -> None:
    """The result is the mean of the first and last layers' means; layers in between are not read."""
    (first, _, last), mask = _states(dtype)
    nothing = torch.full_like(first, torch.nan)
    with dense_route() if dense else torch.enable_grad():
        pooled = FirstLastAveragePooling()((first, nothing, last), mask)
    expected = ((mean_pool(first.double(), mask) + mean_pool(last.double(), mask)) / 2).to(dtype)
    torch.testing.assert_close(pooled, expected)


def test_first_last_average_takes_weights() -> None:
    """Token weights are divided by their sum, as in the mean."""
    (first, _, last), mask = _states()
    weights = torch.rand(mask.shape)
    expected = (mean_pool(first, mask, token_weights=weights) + mean_pool(last, mask, token_weights=weights)) / 2
    torch.testing.assert_close(first_last_average_pool((first, last), mask, token_weights=weights), expected)


def test_large_halves_stay_finite() -> None:
    """Layers near the end of float16's range do not overflow."""
    states = tuple(torch.full((1, 50, 2), 6e4, dtype=torch.float16) for _ in range(LAYERS))
    mask = torch.ones(1, 50, dtype=torch.bool)
    for layer in (_mix(dim=2), FirstLastAveragePooling()):
        torch.testing.assert_close(layer(states, mask), states[0][:, 0])


@pairwise(name=SPECS, dense=[False, True])
def test_pads_of_all_layers_are_ignored(name: str, dense: bool) -> None:
    """NaN in the pads of any layer changes no bit of the vectors and gradients, also of the layers' weights."""
    (states, mask), mix = _states(), _mix(name)
    results = []
    for value in (torch.nan, 0.0):
        leaves = [poison(state, mask, value).requires_grad_() for state in states]
        with dense_route() if dense else torch.enable_grad():
            pooled = mix(leaves, mask)
        results.append((pooled, *torch.autograd.grad(pooled.square().sum(), [*leaves, mix.layer_logits])))
        for gradient in results[-1][1 : 1 + LAYERS]:
            assert not gradient[~mask.bool()].any()
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pairwise(
    dense=[False, True], name=[name for name in ONE_PER_FAMILY if name in PLAIN], check=[gradcheck, gradgradcheck]
)
def test_derivatives(dense: bool, name: str, check: Callable[..., bool]) -> None:
    """Derivatives by the layers and by their weights agree with finite differences."""
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    states = [((torch.randperm(12).double() + 0.3) / 12 - 0.5).reshape(2, 3, 2).requires_grad_() for _ in range(2)]
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64, requires_grad=True)
    layer = make(name, 2).double().requires_grad_(False)
    with dense_route() if dense else torch.enable_grad():
        assert check(lambda w, *x: layer(mix_layers(x, mask, layer_weights=w)), (weights, *states))


@pytest.mark.parametrize("on_empty", ["zero", "nan"])
def test_empty_sentences(on_empty: Any) -> None:
    """Empty sentences get on_empty of the inner pooling, or of first-last average."""
    states, mask = _states()
    expected = torch.full((DIM,), 0.0 if on_empty == "zero" else torch.nan)
    for layer in (LayerMix(LAYERS, pooling=MeanPooling(on_empty=on_empty)), FirstLastAveragePooling(on_empty=on_empty)):
        torch.testing.assert_close(layer(states, mask)[6], expected, equal_nan=True)


def test_a_mix_learns() -> None:
    """Training on a target that one layer contains moves the weight to that layer."""
    states, mask = _states()
    target, mix = mean_pool(states[1], mask), LayerMix(LAYERS)
    optimizer = torch.optim.Adam(mix.parameters(), lr=0.2)
    rows = torch.arange(len(mask))
    train(mix, lambda _: (mix(states, mask) - target).square().mean(), [rows], optimizer, epochs=60)
    assert mix.layer_weights[1] > 0.9


@pytest.mark.full
def test_hidden_states_of_a_transformer() -> None:
    """A transformer's hidden states are accepted as they are."""
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    ids, mask = torch.randint(1, 30, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        model = BertModel(config).eval()  # type: ignore[no-untyped-call]  # untyped
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    states = output.hidden_states
    torch.testing.assert_close(
        LayerMix(3)(states, mask).detach(), mean_pool(torch.stack(states).mean(dim=0), mask), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        FirstLastAveragePooling()(states, mask), mean_pool((states[0] + states[-1]) / 2, mask), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("states", "error", "text"),
    [
        (
            torch.ones(2, 5, DIM),
            TypeError,
            "hidden_states must be a sequence with one batch of token embeddings per layer",
        ),
        ((), ValueError, "hidden_states must hold at least one layer, got none"),
        ([torch.ones(2, 5, DIM)] * 2, ValueError, "as many layers as layer_weights, (3,), got 2"),
        (
            [torch.ones(2, 5, DIM), torch.ones(2, 5, DIM), torch.ones(2, 5, 4)],
            ValueError,
            "hidden_states must have one shape in all layers, (2, 5, 6); layer 2 has (2, 5, 4)",
        ),
        ([None, None, None], TypeError, "token_embeddings must be a torch.Tensor"),
        (None, TypeError, "got one NoneType: run the model with output_hidden_states=True"),
        (3, TypeError, "got one int: run the model with output_hidden_states=True"),
        (
            BaseModelOutput(hidden_states=(torch.ones(2, 5, DIM),) * 3),
            TypeError,
            "got one BaseModelOutput: pass output.hidden_states of the model, run with output_hidden_states=True",
        ),
        (BaseModelOutput(), TypeError, "got one BaseModelOutput: pass output.hidden_states of the model, run with"),
    ],
)
def test_bad_layers(states: Any, error: type[Exception], text: str) -> None:
    """Everything except a sequence of equal batches, one per weight, is refused."""
    with pytest.raises(error, match=re.escape(text)):
        LayerMix(LAYERS)(states, torch.ones(2, 5, dtype=torch.bool))


def test_bad_arguments() -> None:
    """Invalid numbers of layers, poolings and weights are refused by name."""
    with pytest.raises(ValueError, match="num_layers must be a positive integer, got 0"):
        LayerMix(0)
    with pytest.raises(TypeError, match="pooling must be a maskpool layer, got Identity"):
        LayerMix(2, pooling=torch.nn.Identity())  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="on_empty must be one of"):
        FirstLastAveragePooling(on_empty="skip")  # type: ignore[arg-type]  # the point of the test
    states, mask = _states()
    with pytest.raises(TypeError, match=re.escape("layer_weights must be a floating torch.Tensor, got list")):
        mix_layers(states, mask, layer_weights=[1.0])  # type: ignore[arg-type]  # the point of the test


@every_pooling
def test_width(name: str) -> None:
    """A mix is as wide as its pooling."""
    states, mask = _states()
    assert _mix(name)(states, mask).shape == (len(mask), WIDTHS.get(name, 1) * DIM)


# ---------------------------------------------------------------------------------------- loops as the reference


@every_pooling
@settings(max_examples=cut(2, 50))
@given(mask=masks(), seed=st.integers(0, 99), dense=st.booleans())
def test_mix_equals_a_loop(name: str, mask: Tensor, seed: int, dense: bool) -> None:
    """Each vector equals law 4's loop over the sentence's tokens, mixed layer by layer in float64."""
    mix = _mix(name)
    states = [tokens(*mask.shape, DIM, seed=1000 * layer + seed) for layer in range(LAYERS)]
    raised = [math.exp(logit) for logit in mix.layer_logits.tolist()]
    with dense_route() if dense else torch.enable_grad():
        pooled = mix(states, mask).detach().double()
    for row, real in enumerate(mask.bool()):
        at = real.nonzero().view(-1)
        if not len(at):
            assert not pooled[row].any()
            continue
        rows = torch.zeros(len(at), DIM, dtype=torch.float64)
        for state, weight in zip(states, raised, strict=True):
            rows += weight / sum(raised) * state[row, at].double()
        with torch.no_grad():
            expected, scale = sentence(mix.pooling, rows, at)
        assert ((pooled[row] - expected).abs() <= 1e-5 * (1 + scale)).all()


@either_route
@given(mask=masks(), seed=st.integers(0, 99), weighted=st.booleans())
def test_first_last_average_equals_a_loop(dense: bool, mask: Tensor, seed: int, weighted: bool) -> None:
    """Each vector equals a loop over the sentence's tokens: the mean of Σ w x / Σ w of the first and last layers."""
    first, last = (tokens(*mask.shape, DIM, seed=1000 * layer + seed) for layer in range(2))
    weights = tokens(*mask.shape, seed=seed).exp() if weighted else None
    with dense_route() if dense else torch.enable_grad():
        pooled = FirstLastAveragePooling()((first, first * torch.nan, last), mask, token_weights=weights).double()
    for row, real in enumerate(mask.bool()):
        at = real.nonzero().view(-1).tolist()
        expected, total = torch.zeros(DIM, dtype=torch.float64), 0.0
        for place in at:
            weight = 1.0 if weights is None else float(weights[row, place])
            expected += weight * (first[row, place].double() + last[row, place].double()) / 2
            total += weight
        torch.testing.assert_close(pooled[row], expected / (total or 1.0), rtol=1e-6, atol=1e-6)


@spread(7, packing=PACKINGS, name=SPECS, dense=[False, True])
def test_layouts_equal_the_padded_one(packing: str, name: str, dense: bool) -> None:
    """Packed and nested layers give the vectors of padded ones, in mix and first-last average."""
    lengths, rows = [2, 0, 3], [tokens(5, DIM, seed=seed) for seed in range(LAYERS)]
    results = []
    for pack in (PACKINGS[packing], as_padded):
        given_ = [pack(layer, lengths) for layer in rows]
        options = {key: value for key, value in given_[0].items() if key != "token_embeddings"}
        states = [layer["token_embeddings"] for layer in given_]
        with dense_route() if dense else torch.enable_grad():
            results.append((_mix(name)(states, **options), FirstLastAveragePooling()(states, **options)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_one_layer_is_first_and_last() -> None:
    """The first-last average and the mix of one layer are its pooling."""
    (state, *_), mask = _states()
    expected = mean_pool(state, mask)
    torch.testing.assert_close(first_last_average_pool([state], mask), expected)
    torch.testing.assert_close(LayerMix(1)([state], mask), expected)
    assert torch.equal(LayerMix(1).layer_weights, torch.ones(1))


def test_layer_weights_are_taken_as_they_are() -> None:
    """mix_layers does not normalise the weights: they may be negative and need not add up to 1."""
    states, mask = _states()
    mixed = mix_layers(states, mask, layer_weights=torch.tensor([2.0, -1.0, 0.0]))
    torch.testing.assert_close(mean_pool(mixed), 2 * mean_pool(states[0], mask) - mean_pool(states[1], mask))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@either_route
def test_mix_of_halves_rounds_once(dtype: torch.dtype, dense: bool) -> None:
    """A mix of half-precision layers and parameters is the float32 mix rounded once, and gets gradients."""
    states, mask = _states(dtype)
    mix = _mix().to(dtype)
    with dense_route() if dense else torch.enable_grad():
        pooled = mix(states, mask)
    share = mix.layer_logits.detach().double().softmax(dim=0)
    exact = mean_pool(torch.einsum("l,lbsd->bsd", share, torch.stack(states).double()), mask)
    assert pooled.dtype == dtype
    ulp = torch.finfo(dtype).eps * torch.exp2((torch.frexp(exact).exponent - 1).double())
    assert ((pooled.detach().double() - exact).abs() <= 0.51 * ulp + 1e-6).all()
    (gradient,) = torch.autograd.grad(pooled.sum(), mix.layer_logits)
    assert gradient.isfinite().all()


# --------------------------------------------------------------------------------- gradients, pads, traced


@pytest.mark.full
@every_pooling
@either_route
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck], ids=["first", "second"])
def test_derivatives_of_every_pooling(name: str, dense: bool, check: Callable[..., bool]) -> None:
    """For every pooling, derivatives by the layers and by the mix's logits agree with finite differences."""
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    states = [((torch.randperm(12).double() + 0.3) / 12 - 0.5).reshape(2, 3, 2).requires_grad_() for _ in range(2)]
    logits = torch.tensor([0.4, -0.6], dtype=torch.float64, requires_grad=True)
    layer = make(name, 2).double().requires_grad_(False)
    with dense_route() if dense else torch.enable_grad():
        assert check(lambda w, *x: layer(mix_layers(x, mask, layer_weights=w.softmax(0))), (logits, *states))


@either_route
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck], ids=["first", "second"])
def test_derivatives_of_the_first_last_average(dense: bool, check: Callable[..., bool]) -> None:
    """Derivatives of the first-last average, token weights included, agree with finite differences."""
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    states = [tokens(2, 3, 2, dtype=torch.float64, seed=seed).requires_grad_() for seed in range(2)]
    weights = (torch.rand(2, 3, dtype=torch.float64) + 0.5).requires_grad_()
    with dense_route() if dense else torch.enable_grad():
        assert check(lambda w, *x: first_last_average_pool(x, mask, token_weights=w), (weights, *states))


@pairwise(dense=[False, True], dtype=DTYPES, value=[torch.nan, torch.inf, 6e4], poisoned=range(LAYERS))
def test_pads_of_one_layer(dense: bool, dtype: torch.dtype, value: float, poisoned: int) -> None:
    """The pads of a single layer change no bit and no gradient of first-last average and mix."""
    states, mask = _states(dtype)
    mix, results = _mix(), []
    for at_pads in (value, 0.0):
        leaves = [poison(x, mask, at_pads if i == poisoned else 1.0).requires_grad_() for i, x in enumerate(states)]
        with dense_route() if dense else torch.enable_grad():
            pooled = (mix(leaves, mask), FirstLastAveragePooling()(leaves, mask))
        gradients = torch.autograd.grad(
            sum(vectors.float().square().sum() for vectors in pooled), [*leaves, mix.layer_logits]
        )
        for gradient in gradients[:LAYERS]:
            assert not gradient[~mask.bool()].any()
        results.append((*pooled, *gradients))
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "name", ["mean", *(pytest.param(name, marks=pytest.mark.full) for name in ("max", "attention", "first-last"))]
)
def test_traced_once_for_all_shapes(name: str) -> None:
    """A mix and a first-last average that are compiled or exported for one shape take batches of another."""
    layer = FirstLastAveragePooling() if name == "first-last" else _mix(name).requires_grad_(False)
    states, mask = _states()
    other = tuple(tokens(3, 11, DIM, seed=seed) for seed in range(LAYERS))
    other_mask = (torch.arange(11) < torch.tensor([[4], [0], [11]])).to(mask.dtype)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = {"hidden_states": (sizes,) * LAYERS, "attention_mask": sizes}
    program = torch.export.export(layer, (states, mask), dynamic_shapes=shapes)
    for given_, mask_ in ((states, mask), (other, other_mask)):
        expected = layer(given_, mask_)
        torch.testing.assert_close(compiled(given_, mask_), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(program.module()(given_, mask_), expected, rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


# --------------------------------------------------------------------------------------- empty, refused


def test_empty_sentences_raise() -> None:
    """on_empty="raise" names the rows; in a mix the inner pooling does."""
    states, mask = _states()
    for layer in (LayerMix(LAYERS, pooling=MeanPooling(on_empty="raise")), FirstLastAveragePooling(on_empty="raise")):
        with pytest.raises(InvalidValueError, match=re.escape("1 of 7 have none (rows 6)")) as refused:
            layer(states, mask)
        assert refused.value.argument == "attention_mask"
        assert layer([x[:6] for x in states], mask[:6]).shape == (6, DIM)


@pytest.mark.parametrize("number", [0, -1, 2.0, True, "2", None])
def test_bad_numbers_of_layers(number: Any) -> None:
    """A number of layers is a positive integer."""
    with pytest.raises(ValueError, match=re.escape(f"num_layers must be a positive integer, got {number!r}")):
        LayerMix(number)


@pytest.mark.parametrize(
    ("states", "error", "text"),
    [
        (torch.ones(2, 5, DIM), TypeError, "got one Tensor: run the model with output_hidden_states=True"),
        (
            TokenBatch.from_packed(torch.ones(5, 2), torch.tensor([0, 5])),
            TypeError,
            "got one SparseBatch: run the model",
        ),
        ((), ValueError, "hidden_states must hold at least one layer, got none"),
        ([torch.ones(2, 5, 4), torch.ones(2, 5, 3)], ValueError, "in all layers, (2, 5, 4); layer 1 has (2, 5, 3)"),
    ],
    ids=["tensor", "batch", "none", "widths"],
)
def test_bad_layers_of_the_first_last_average(states: Any, error: type[Exception], text: str) -> None:
    """First-last average refuses everything except a sequence of equal batches, with the messages of the mix."""
    mask = None if isinstance(states, TokenBatch) else torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(error, match=re.escape(text)):
        FirstLastAveragePooling()(states, mask)


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        (torch.ones(3).long(), TypeError, "layer_weights must be a floating torch.Tensor, got torch.int64"),
        (torch.ones(3, 1), ValueError, "as many layers as layer_weights, (3, 1), got 3"),
        (torch.ones(4), ValueError, "as many layers as layer_weights, (4,), got 3"),
    ],
    ids=["integers", "column", "four"],
)
def test_bad_layer_weights(weights: Tensor, error: type[Exception], text: str) -> None:
    """Layer weights must be floating, one per layer."""
    with pytest.raises(error, match=re.escape(text)):
        mix_layers(*_states(), layer_weights=weights)
