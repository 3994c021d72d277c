"""Every pooling under test, by name, with learned weights that are not zero.

All lists here are derived from the registry and from `tests.oracles`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import maskpool.functional
from maskpool import build_pooling
from maskpool.nn import POOLINGS, LearnedPooling, PoolingLayer
from tests.oracles import ORACLES

DIM = 6


def _specs() -> dict[str, tuple[str | tuple[str, ...], dict[str, Any]]]:
    specs: dict[str, tuple[str | tuple[str, ...], dict[str, Any]]] = {}
    for mode in POOLINGS:
        if mode not in ORACLES:
            continue  # test_every_mode_has_an_oracle fails for it
        specs[mode] = (mode, dict(ORACLES[mode].options))
        for variant, options in ORACLES[mode].variants.items():
            specs[f"{mode}-{variant}"] = (mode, {**ORACLES[mode].options, **options})
    specs["concat"] = (("max", "weightedmean", "mean"), {})
    return specs


# The arguments of `build_pooling` for each pooling, with the options to test; variants are named mode-variant.
SPECS = _specs()


def fresh(name: str, dim: int = DIM, **options: Any) -> PoolingLayer:
    """Build a pooling that has learned nothing yet."""
    mode, own = SPECS[name]
    return build_pooling(mode, dim, **own, **options)


def make(name: str, dim: int = DIM, **options: Any) -> PoolingLayer:
    """Build a pooling whose learned scores are of order one on standard normal tokens."""
    layer = fresh(name, dim, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in layer.parameters():
            fan_in = parameter.shape[-1] if parameter.dim() else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return layer


def _takes_weights(layer: PoolingLayer) -> bool:
    starts = isinstance(layer, LearnedPooling) and layer.start != "mean"
    return layer.takes_token_weights and (not starts or POOLINGS[layer.start].takes_token_weights)  # type: ignore[index]  # learned


def _counts_positions(layer: PoolingLayer) -> bool:
    x = torch.arange(3.0).reshape(1, 3, 1).expand(1, 3, DIM)
    holed, cut = layer(x, torch.tensor([[1, 0, 1]])), layer(x[:, ::2], torch.ones(1, 2, dtype=torch.bool))
    return not torch.allclose(holed, cut)


_LAYERS = {name: make(name) for name in SPECS}

PLAIN = [name for name, layer in _LAYERS.items() if not layer.learns]
LEARNED = [name for name, layer in _LAYERS.items() if layer.learns]
# For tests of one graph: every pooling except those that "concat" contains.
TOGETHER = [name for name in SPECS if name not in SPECS["concat"][0]]
# Poolings that return how much each learned query weighs each token.
ATTENTION = [name for name in LEARNED if SPECS[name][0] == "attention" and "start" not in SPECS[name][1]]
# Poolings whose learned projections change tokens: only before training do they return the token of a one-token
# sentence unchanged.
PROJECT = [name for name in LEARNED if ORACLES[_LAYERS[name].mode].projects]
# Poolings that count positions, so a hole changes the result.
COUNT_POSITIONS = [name for name, layer in _LAYERS.items() if _counts_positions(layer)]
# Poolings that take token weights.
WEIGHTED = [name for name, layer in _LAYERS.items() if _takes_weights(layer)]
# Poolings that depend only on the ratios of the weights.
RELATIVE = [name for name in WEIGHTED if _LAYERS[name].power_of_weights in (None, -1.0)]
# Widths of the results, as multiples of the token width.
WIDTHS = {name: layer.output_dimension(DIM) // DIM for name, layer in _LAYERS.items()}
# The first pooling of each family file, and a concatenation.
ONE_PER_FAMILY = list({type(layer).__module__: name for name, layer in reversed(_LAYERS.items())}.values())
# One pooling per mode, without variants of its options.
MODES = [name for name in SPECS if "-" not in name]


def required(mode: str) -> dict[str, Any]:
    """Return the options that a mode cannot be built without, with values to test."""
    return {option: ORACLES[mode].options[option] for option in POOLINGS[mode].required_options()}


# Modes without parameters.
PLAIN_MODES = [mode for mode in POOLINGS if mode in PLAIN]
# A mode with a required option, and the option.
NEEDS_OPTION, REQUIRED_OPTION = next((mode, option) for mode in PLAIN_MODES for option in required(mode))
# A plain and a learned mode with results wider than a token.
WIDER, WIDER_LEARNED = (
    next(mode for mode in POOLINGS if mode in names and WIDTHS[mode] > 1) for names in (PLAIN, LEARNED)
)
# Modes that can be built from their name only, with results as wide as a token.
BY_NAME_ONLY = [mode for mode in PLAIN_MODES if WIDTHS[mode] == 1 and not required(mode)]
# The first learned pooling of each family file.
LEARNED_FAMILIES = [name for name in ONE_PER_FAMILY if name in LEARNED]

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

every_pooling = pytest.mark.parametrize("name", [*PLAIN, *LEARNED])
every_weighted_pooling = pytest.mark.parametrize("name", WEIGHTED)
every_plain_pooling = pytest.mark.parametrize("name", PLAIN)
every_attention_pooling = pytest.mark.parametrize("name", ATTENTION)
any_dtype = st.sampled_from(DTYPES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def __getattr__(name: str) -> list[str]:
    if name == "HOST_MODES":  # sentence-transformers' own list, imported by the tests that ask for it
        from maskpool.integrations.st_host import modules

        return list(modules.Pooling.POOLING_MODES)
    raise AttributeError(name)


def gain(name: str, tokens: int) -> float:
    """Return how many times larger than its tokens the vector of a sentence may be."""
    if name not in POOLINGS:
        return 1.0
    power = POOLINGS[name].power_of_weights
    return ORACLES[name].gain if power is None else tokens ** (1 + power)


def parameters_of(layer: PoolingLayer) -> dict[str, Tensor]:
    """Return a layer's parameters by the names that the functions give them."""
    return {name.replace(".", "_"): value.detach() for name, value in layer.named_parameters()}


# Arguments of functions that no layer learns: scores by layout, and weights of one layer.
_SCORES = {"padded": torch.zeros(2, 2, 3), "packed": torch.zeros(5, 2)}


def arguments_of(function: str, layout: str = "padded") -> dict[str, Any]:
    """Return arguments that a function of `maskpool.functional` requires in addition to the batch, for DIM features.

    Parameters are those of the layer in the same file that has them all.

    Args:
        function: The function's name.
        layout: ``"padded"`` for a batch of (2, 3), ``"packed"`` for 5 tokens.
    """
    signature = inspect.signature(getattr(maskpool.functional, function))
    keywords = [parameter for parameter in signature.parameters.values() if parameter.kind is parameter.KEYWORD_ONLY]
    missing: set[str] = set()
    for name, layer in _LAYERS.items():
        if type(layer).__module__ != getattr(maskpool.functional, function).__module__:
            continue
        known = {
            **SPECS[name][1],
            **parameters_of(layer),
            "scores": _SCORES[layout],
            "layer_weights": torch.ones(1),
        }
        arguments = {parameter.name: known[parameter.name] for parameter in keywords if parameter.name in known}
        missing = {parameter.name for parameter in keywords if parameter.default is parameter.empty} - arguments.keys()
        # Some take a hidden layer that a variant learns.
        optional = {parameter.name for parameter in keywords if parameter.name.startswith("hidden")} - arguments.keys()
        if not missing and not optional:
            return arguments
    if not missing:
        return {"layer_weights": torch.ones(1)} if "layer_weights" in signature.parameters else {}
    raise AssertionError(f"no layer of {function}'s file has the parameters {missing}")


# The functions that take a batch of tokens, and those that take several layers' batches.
BATCH_FUNCTIONS = [
    name
    for name in maskpool.functional.__all__
    if next(iter(inspect.signature(getattr(maskpool.functional, name)).parameters)) == "token_embeddings"
]
LAYERS_FUNCTIONS = [
    name
    for name in maskpool.functional.__all__
    if next(iter(inspect.signature(getattr(maskpool.functional, name)).parameters)) == "hidden_states"
]


def function_of(name: str) -> Callable[..., Tensor] | None:
    """Return the function of a mode, with the options under test; None if the mode has none that takes only these."""
    _, options = SPECS[name]
    wanted = type(_LAYERS[name]).__name__.lower().removesuffix("ing")
    for function in maskpool.functional.__all__:
        if function.replace("_", "") == wanted and not _LAYERS[name].learns:
            return lambda *args, **given: getattr(maskpool.functional, function)(*args, **options, **given)
    return None


FUNCTIONS = {name: function for name in MODES if (function := function_of(name)) is not None}


def assert_same(name: str, actual: Tensor, expected: Tensor) -> None:
    """Assert that results agree as laws 2 and 3 require: bit for bit, or up to rounding for learned poolings."""
    if name in PLAIN:
        assert torch.equal(actual, expected)
        return
    # Learned scores come out of matrix products, which group their sums by shape.
    tolerance = 1e-6 if actual.dtype in (torch.float32, torch.float64) else torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
