"""From mode strings to layers, alone and side by side."""

import re
from typing import Any

import pytest
import torch

from maskpool import build_pooling
from maskpool.nn import (
    POOLINGS,
    AttentionPooling,
    CLSPooling,
    ConcatPooling,
    GatedAttentionPooling,
    GeneralizedMeanPooling,
    LastTokenPooling,
    LatentAttentionPooling,
    LogSumExpPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    MeanStdPooling,
    MedianPooling,
    MinPooling,
    MultiheadAttentionPooling,
    PoolingLayer,
    PositionWeightedMeanPooling,
    SoftmaxPooling,
    StdPooling,
    StructuredAttentionPooling,
    SumPooling,
    TopKMeanPooling,
)
from tests.batches import all_layouts
from tests.poolings import DIM

CLASSES: dict[str, type[PoolingLayer]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "cls": CLSPooling,
    "lasttoken": LastTokenPooling,
    "weightedmean": PositionWeightedMeanPooling,
    "mean_sqrt_len_tokens": MeanSqrtLenPooling,
    "min": MinPooling,
    "sum": SumPooling,
    "std": StdPooling,
    "mean_std": MeanStdPooling,
    "median": MedianPooling,
    "topk_mean": TopKMeanPooling,
    "logsumexp": LogSumExpPooling,
    "softmax": SoftmaxPooling,
    "generalized_mean": GeneralizedMeanPooling,
    "attention": AttentionPooling,
    "gated_attention": GatedAttentionPooling,
    "structured_attention": StructuredAttentionPooling,
    "multihead_attention": MultiheadAttentionPooling,
    "latent_attention": LatentAttentionPooling,
}
KNOWN = (
    "'mean', 'max', 'cls', 'lasttoken', 'weightedmean', 'mean_sqrt_len_tokens', 'min', 'sum', 'std', 'mean_std', "
    "'median', 'topk_mean', 'logsumexp', 'softmax', 'generalized_mean', 'attention', 'gated_attention', "
    "'structured_attention', 'multihead_attention', 'latent_attention'"
)
# What a mode cannot be made without.
NEEDED: dict[str, dict[str, Any]] = {"topk_mean": {"k": 2}}


def test_every_mode_is_tested() -> None:
    """The registry holds the modes of this file and no other."""
    assert POOLINGS == CLASSES


@pytest.mark.parametrize("mode", CLASSES)
def test_a_mode_is_a_class(mode: str) -> None:
    """Each mode string makes the layer that it names, with or without a dimension that it does not need."""
    needed = NEEDED.get(mode, {})
    assert type(build_pooling(mode, DIM, **needed)) is CLASSES[mode]
    assert type(build_pooling((mode,), DIM, **needed)) is CLASSES[mode]
    if not mode.endswith("attention"):
        assert type(build_pooling(mode, **needed)) is CLASSES[mode]


@pytest.mark.parametrize("container", [tuple, list])
def test_several_modes_are_concatenated(container: type[Any]) -> None:
    """A tuple or list of modes pools side by side, in its order."""
    modes = ["max", "attention", "mean"]
    layer, (x, mask) = build_pooling(container(modes), DIM), all_layouts()
    assert isinstance(layer, ConcatPooling)
    expected = torch.cat([build_pooling(mode, DIM)(x, mask) for mode in modes], dim=1)
    assert torch.equal(layer(x, mask), expected)


def test_options_reach_those_that_take_them() -> None:
    """An option goes to each layer that knows it, and to no other."""
    layer = build_pooling(("cls", "attention"), DIM, num_heads=2, hidden_dimension=3, on_empty="nan")
    assert isinstance(layer, ConcatPooling)
    first, second = layer.poolings
    assert isinstance(first, CLSPooling)
    assert isinstance(second, AttentionPooling)
    assert (second.num_heads, second.hidden_dimension) == (2, 3)
    assert (first.on_empty, second.on_empty) == ("nan", "nan")


def test_concat_sets_on_empty() -> None:
    """A concatenation's on_empty goes to all its layers, and None leaves each its own."""
    x, mask = torch.ones(1, 2, 1), torch.zeros(1, 2, dtype=torch.int64)
    assert ConcatPooling([MeanPooling(), MaxPooling()], on_empty="nan")(x, mask).isnan().tolist() == [[True, True]]
    mixed = ConcatPooling([MeanPooling(on_empty="nan"), MaxPooling()])(x, mask)
    assert mixed.isnan().tolist() == [[True, False]]


def test_concat_trains_its_layers() -> None:
    """Learned layers in a concatenation are among its parameters and get gradients."""
    layer, (x, mask) = build_pooling(("mean", "attention"), DIM), all_layouts()
    (query,) = layer.parameters()
    (gradient,) = torch.autograd.grad(layer(x, mask).square().sum(), query)
    assert gradient.abs().sum() > 0


def test_concat_nests() -> None:
    """A concatenation is a layer like any other, and may stand in another."""
    x, mask = all_layouts()
    inner = ConcatPooling([MeanPooling(), MaxPooling()])
    outer = ConcatPooling([CLSPooling(), inner])
    assert torch.equal(outer(x, mask), torch.cat([CLSPooling()(x, mask), inner(x, mask)], dim=1))


@pytest.mark.parametrize(
    ("mode", "dimension", "options", "error", "text"),
    [
        ("average", None, {}, ValueError, f"pooling_mode must be one of {KNOWN}, got 'average'"),
        ("", None, {}, ValueError, f"pooling_mode must be one of {KNOWN}, got ''"),
        (("mean", "Max"), None, {}, ValueError, f"pooling_mode must be one of {KNOWN}, got 'Max'"),
        ((), None, {}, ValueError, f"pooling_mode must name at least one of {KNOWN}, got none"),
        (None, None, {}, TypeError, "pooling_mode must be a string or a tuple of strings, got NoneType"),
        (("mean", 3), None, {}, TypeError, "pooling_mode must be a string or a tuple of strings, got int"),
        (
            "attention",
            None,
            {},
            ValueError,
            "embedding_dimension is required for the pooling_mode 'attention', got None",
        ),
        ("topk_mean", None, {}, ValueError, "k is required for the pooling_mode 'topk_mean', got None"),
        ("mean", None, {"num_heads": 2}, TypeError, "options of pooling_mode 'mean' are on_empty; got num_heads"),
        (
            ("cls", "attention"),
            DIM,
            {"heads": 2},
            TypeError,
            "options of pooling_mode ('cls', 'attention') are hidden_dimension, num_heads, on_empty, start; got heads",
        ),
        ("mean", None, {"on_empty": "skip"}, ValueError, "on_empty must be one of 'zero', 'nan', 'raise', got 'skip'"),
    ],
)
def test_refusals(mode: Any, dimension: int | None, options: dict[str, Any], error: type[Exception], text: str) -> None:
    """A mode or option that does not exist is refused, and those that do are listed."""
    with pytest.raises(error, match=re.escape(text)):
        build_pooling(mode, dimension, **options)


def test_layers_show_what_they_are() -> None:
    """A layer prints its hyperparameters, defaults left out."""
    assert repr(MeanPooling()) == "MeanPooling()"
    assert repr(MaxPooling(on_empty="nan")) == "MaxPooling(on_empty='nan')"
    assert "embedding_dimension=4, num_heads=2, on_empty='raise'" in repr(
        AttentionPooling(4, num_heads=2, on_empty="raise")
    )
