"""Poolings of several layers: the learned mix, and first-last average."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from maskpool import (
    FirstLastAveragePooling,
    LayerMix,
    MeanPooling,
    TokenBatch,
    first_last_average_pool,
    mean_pool,
    mix_layers,
)
from tests.batches import PACKINGS, all_layouts, dense_route, poison, tokens
from tests.poolings import DIM, WIDTHS, every_dtype, every_pooling, make

either_route = pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
LAYERS = 3


def _states(dtype: torch.dtype = torch.float32, dim: int = DIM) -> tuple[tuple[Tensor, ...], Tensor]:
    _, mask = all_layouts()
    return tuple(tokens(*mask.shape, dim, dtype=dtype, seed=seed) for seed in range(LAYERS)), mask


def _mix(name: str = "mean", dim: int = DIM) -> LayerMix:
    mix = LayerMix(LAYERS, make(name, dim))
    with torch.no_grad():
        mix.layer_logits.copy_(torch.tensor([0.5, -1.0, 0.2]))
    return mix


@every_pooling
@every_dtype
@either_route
def test_mix_pools_the_weighted_sum(name: str, dtype: torch.dtype, dense: bool) -> None:
    """The mix is the pooling of Σ softmax(w) x, in the dtype of the layers."""
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
    """A new mix is the plain average of the layers, and its weights add up to 1 whatever it learns."""
    states, mask = _states()
    average = torch.stack(states).mean(dim=0)
    torch.testing.assert_close(LayerMix(LAYERS)(states, mask), mean_pool(average, mask))
    torch.testing.assert_close(_mix().layer_weights.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("packing", PACKINGS)
def test_layouts_agree(packing: str) -> None:
    """Layers come packed or nested as well as padded."""
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
    """A tuple, a list and a stacked tensor of layers are one; so are prepared batches."""
    states, mask = _states()
    expected = _mix()(states, mask)
    assert torch.equal(_mix()(wrap(states), mask), expected)
    assert torch.equal(_mix()([TokenBatch.from_padded(state, mask) for state in states]), expected)


@either_route
@every_dtype
def test_first_last_average(dense: bool, dtype: torch.dtype) -> None:
    """The mean of the first and of the last layer, halved and added; layers between are not read."""
    (first, _, last), mask = _states(dtype)
    nothing = torch.full_like(first, torch.nan)
    with dense_route() if dense else torch.enable_grad():
        pooled = FirstLastAveragePooling()((first, nothing, last), mask)
    expected = ((mean_pool(first.double(), mask) + mean_pool(last.double(), mask)) / 2).to(dtype)
    torch.testing.assert_close(pooled, expected)


def test_first_last_average_takes_weights() -> None:
    """Token weights divide by their sum, as in the mean."""
    (first, _, last), mask = _states()
    weights = torch.rand(mask.shape)
    expected = (mean_pool(first, mask, weights=weights) + mean_pool(last, mask, weights=weights)) / 2
    torch.testing.assert_close(first_last_average_pool((first, last), mask, weights=weights), expected)


def test_large_halves_stay_finite() -> None:
    """Layers near the end of float16's range neither meet nor overflow."""
    states = tuple(torch.full((1, 50, 2), 6e4, dtype=torch.float16) for _ in range(LAYERS))
    mask = torch.ones(1, 50, dtype=torch.bool)
    for layer in (_mix(dim=2), FirstLastAveragePooling()):
        torch.testing.assert_close(layer(states, mask), states[0][:, 0])


@every_pooling
@either_route
def test_pads_of_no_layer_are_read(name: str, dense: bool) -> None:
    """NaN in the pads of any layer changes no bit and no gradient, that of the layers' weights included."""
    (states, mask), mix = _states(), _mix(name)
    found = []
    for value in (torch.nan, 0.0):
        leaves = [poison(state, mask, value).requires_grad_() for state in states]
        with dense_route() if dense else torch.enable_grad():
            pooled = mix(leaves, mask)
        found.append((pooled, *torch.autograd.grad(pooled.square().sum(), [*leaves, mix.layer_logits])))
        for gradient in found[-1][1 : 1 + LAYERS]:
            assert not gradient[~mask.bool()].any()
    for actual, expected in zip(*found, strict=True):
        assert torch.equal(actual, expected)


@either_route
@pytest.mark.parametrize("name", ["mean", "max", "std", "attention"])
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck], ids=["first", "second"])
def test_derivatives(dense: bool, name: str, check: Callable[..., bool]) -> None:
    """Derivatives by the layers and by their weights agree with finite differences."""
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    states = [((torch.randperm(12).double() + 0.3) / 12 - 0.5).reshape(2, 3, 2).requires_grad_() for _ in range(2)]
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64, requires_grad=True)
    layer = make(name, 2).double().requires_grad_(False)
    with dense_route() if dense else torch.enable_grad():
        assert check(lambda w, *x: layer(mix_layers(x, mask, layer_weights=w)), (weights, *states))


def test_traced() -> None:
    """A compiled and an exported mix take a tuple of layers and give the eager vectors."""
    (states, mask), mix = _states(), _mix("max").requires_grad_(False)
    expected = mix(states, mask)
    compiled = torch.compile(mix, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(states, mask), expected)
    torch.compiler.reset()
    torch.testing.assert_close(torch.export.export(mix, (states, mask)).module()(states, mask), expected)


@pytest.mark.parametrize("on_empty", ["zero", "nan"])
def test_empty_sentences(on_empty: Any) -> None:
    """Empty sentences follow on_empty: the inner pooling's, and that of first-last average."""
    states, mask = _states()
    expected = torch.full((DIM,), 0.0 if on_empty == "zero" else torch.nan)
    for layer in (LayerMix(LAYERS, MeanPooling(on_empty)), FirstLastAveragePooling(on_empty)):
        torch.testing.assert_close(layer(states, mask)[6], expected, equal_nan=True)


def test_a_mix_learns() -> None:
    """Training on a target that one layer holds moves the weight to that layer."""
    states, mask = _states()
    target, mix = mean_pool(states[1], mask), LayerMix(LAYERS)
    optimiser = torch.optim.Adam(mix.parameters(), lr=0.2)
    for _ in range(60):
        optimiser.zero_grad()
        (mix(states, mask) - target).square().mean().backward()
        optimiser.step()
    assert mix.layer_weights[1] > 0.9


def test_hidden_states_of_a_transformer() -> None:
    """A transformer's hidden states go in as they come."""
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
            "hidden_states must be a sequence with one batch of token embeddings a layer",
        ),
        ((), ValueError, "hidden_states must hold at least one layer, got none"),
        ([torch.ones(2, 5, DIM)] * 2, ValueError, "as many layers as layer_weights, (3,), got 2"),
        (
            [torch.ones(2, 5, DIM), torch.ones(2, 5, DIM), torch.ones(2, 5, 4)],
            ValueError,
            "hidden_states must have one shape in all layers, (2, 5, 6); layer 2 has (2, 5, 4)",
        ),
        ([None, None, None], TypeError, "token_embeddings must be a torch.Tensor"),
    ],
)
def test_bad_layers(states: Any, error: type[Exception], text: str) -> None:
    """What is no sequence of equal batches, one for each weight, is refused."""
    with pytest.raises(error, match=re.escape(text)):
        LayerMix(LAYERS)(states, torch.ones(2, 5, dtype=torch.bool))


def test_bad_arguments() -> None:
    """Numbers of layers, poolings and weights that make no sense are refused by name."""
    with pytest.raises(ValueError, match="num_layers must be a positive integer, got 0"):
        LayerMix(0)
    with pytest.raises(TypeError, match="pooling must be a maskpool layer, got Identity"):
        LayerMix(2, torch.nn.Identity())  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="on_empty must be one of"):
        FirstLastAveragePooling("skip")  # type: ignore[arg-type]  # the point of the test
    states, mask = _states()
    with pytest.raises(TypeError, match=re.escape("layer_weights must be a floating torch.Tensor, got list")):
        mix_layers(states, mask, layer_weights=[1.0])  # type: ignore[arg-type]  # the point of the test


@every_pooling
def test_width(name: str) -> None:
    """A mix is as wide as its pooling."""
    states, mask = _states()
    assert _mix(name)(states, mask).shape == (len(mask), WIDTHS.get(name, 1) * DIM)
