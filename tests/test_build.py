"""Layers from mode strings, single and concatenated, and the one-call function `pool`."""

import copy
import inspect
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import maskpool.functional
import maskpool.nn
from maskpool import TokenBatch, build_pooling, pool
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.functional import max_pool, mean_pool, sum_pool
from maskpool.nn import (
    POOLINGS,
    AttentionPooling,
    CLSPooling,
    ConcatPooling,
    FirstLastAveragePooling,
    GeneralizedMeanPooling,
    LatentAttentionPooling,
    LayerMix,
    LearnedPooling,
    LogSumExpPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    MultiheadAttentionPooling,
    PoolingLayer,
    PositionWeightedMeanPooling,
    TopKMeanPooling,
    register,
)
from maskpool.poolings import registry
from maskpool.poolings.registry import suggestion
from maskpool.poolings.spelling import example, parse_mode, spell_mode
from maskpool.types import OnEmpty
from tests.batches import all_layouts, tokens
from tests.poolings import DIM, NEEDS_OPTION, REQUIRED_OPTION, SPECS, WEIGHTED, WIDER, WIDTHS, make, required

KNOWN = ", ".join(map(repr, POOLINGS))
# Classes that are not named after their mode, which is sentence-transformers' spelling.
RENAMED = {"weightedmean": PositionWeightedMeanPooling, "mean_sqrt_len_tokens": MeanSqrtLenPooling}


@pytest.mark.parametrize("mode", POOLINGS)
def test_a_mode_is_a_class(mode: str) -> None:
    """Each mode string builds its layer, with a dimension and, if no parameter needs it, without."""
    layer, needed = POOLINGS[mode], required(mode)
    assert getattr(maskpool.nn, layer.__name__) is layer
    assert layer is RENAMED.get(mode) or layer.__name__.lower() == mode.replace("_", "") + "pooling"
    assert layer.mode == mode
    assert layer.formula
    assert layer.source
    assert type(build_pooling(mode, DIM, **needed)) is layer
    assert type(build_pooling((mode,), DIM, **needed)) is layer
    if not any(DIM in parameter.shape for parameter in make(mode).parameters()):
        assert type(build_pooling(mode, **needed)) is layer


@pytest.mark.parametrize("container", [tuple, list])
def test_several_modes_are_concatenated(container: type[Any]) -> None:
    """The results of a tuple or list of modes are concatenated in its order."""
    modes = ["max", "attention", "mean"]
    layer, (x, mask) = build_pooling(container(modes), DIM), all_layouts()
    assert isinstance(layer, ConcatPooling)
    expected = torch.cat([build_pooling(mode, DIM)(x, mask) for mode in modes], dim=1)
    assert torch.equal(layer(x, mask), expected)


def test_options_reach_the_layers_that_take_them() -> None:
    """An option is passed to the layers that take it."""
    layer = build_pooling(("cls", "attention"), DIM, num_heads=2, hidden_dimension=3, on_empty="nan")
    assert isinstance(layer, ConcatPooling)
    first, second = layer.poolings
    assert isinstance(first, CLSPooling)
    assert isinstance(second, AttentionPooling)
    assert (second.num_heads, second.hidden_dimension) == (2, 3)
    assert (first.on_empty, second.on_empty) == ("nan", "nan")


def test_concat_sets_on_empty() -> None:
    """A concatenation's on_empty is set in all its layers, and None keeps the setting of each."""
    x, mask = torch.ones(1, 2, 1), torch.zeros(1, 2, dtype=torch.int64)
    assert ConcatPooling([MeanPooling(), MaxPooling()], on_empty="nan")(x, mask).isnan().tolist() == [[True, True]]
    mixed = ConcatPooling([MeanPooling(on_empty="nan"), MaxPooling()])(x, mask)
    assert mixed.isnan().tolist() == [[True, False]]


def test_concat_leaves_the_layers_of_the_caller() -> None:
    """With on_empty a concatenation keeps the given layers as they are, and shares their parameters."""
    mean, attention = MeanPooling(), AttentionPooling(DIM)
    concat = ConcatPooling([mean, attention], on_empty="nan")
    assert (mean.on_empty, attention.on_empty) == ("zero", "zero")
    assert [layer.on_empty for layer in concat.layers()] == ["nan", "nan"]
    assert next(concat.parameters()) is attention.query


def test_concat_trains_its_layers() -> None:
    """Parameters of layers in a concatenation are its parameters and get gradients."""
    layer, (x, mask) = build_pooling(("mean", "attention"), DIM), all_layouts()
    (query,) = layer.parameters()
    (gradient,) = torch.autograd.grad(layer(x, mask).square().sum(), query)
    assert gradient.abs().sum() > 0


def test_concat_nests() -> None:
    """A concatenation can contain another."""
    x, mask = all_layouts()
    inner = ConcatPooling([MeanPooling(), MaxPooling()])
    outer = ConcatPooling([CLSPooling(), inner])
    assert torch.equal(outer(x, mask), torch.cat([CLSPooling()(x, mask), inner(x, mask)], dim=1))


@pytest.mark.parametrize(
    ("mode", "dimension", "options", "error", "text"),
    [
        ("average", None, {}, ValueError, f"pooling_mode must be one of {KNOWN}, got 'average'; did you mean 'mean'?"),
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
        (
            NEEDS_OPTION,
            None,
            {},
            ValueError,
            f"{REQUIRED_OPTION} is required for the pooling_mode '{NEEDS_OPTION}', got None",
        ),
        (
            "mean",
            None,
            {"num_heads": 2},
            TypeError,
            "num_heads must be an option of pooling_mode 'mean'; its options are on_empty",
        ),
        (
            ("cls", "attention"),
            DIM,
            {"heads": 2},
            TypeError,
            "heads must be an option of pooling_mode ('cls', 'attention'); its options are hidden_dimension, "
            "num_heads, on_empty, start",
        ),
        ("mean", None, {"on_empty": "skip"}, ValueError, "on_empty must be one of 'zero', 'nan', 'raise', got 'skip'"),
    ],
)
def test_refusals(mode: Any, dimension: int | None, options: dict[str, Any], error: type[Exception], text: str) -> None:
    """Unknown modes and options are refused, and the error lists the known ones."""
    with pytest.raises(error, match=re.escape(text)) as refused:
        build_pooling(mode, dimension, **options)
    assert isinstance(refused.value, InvalidValueError | InvalidTypeError)
    assert refused.value.argument == text.split()[0]


def test_layers_print_their_hyperparameters() -> None:
    """A layer prints its hyperparameters, except for defaults."""
    assert repr(MeanPooling()) == "MeanPooling()"
    assert repr(MaxPooling(on_empty="nan")) == "MaxPooling(on_empty='nan')"
    assert "embedding_dimension=4, num_heads=2, on_empty='raise'" in repr(
        AttentionPooling(4, num_heads=2, on_empty="raise")
    )


# ---------------------------------------------------------------------------------------------------------------- pool


def test_pool() -> None:
    """`pool` computes what the built layer computes, by default the mean, from every layout."""
    x, mask = all_layouts()
    assert torch.equal(pool(x, mask), mean_pool(x, mask))
    modes, options = ("max", NEEDS_OPTION), required(NEEDS_OPTION)
    assert torch.equal(pool(x, mask, modes, **options), build_pooling(modes, **options)(x, mask))
    assert torch.equal(pool(x, mask, ["max"], on_empty="nan").isnan().any(dim=1), ~mask.any(dim=1))
    weights = tokens(*mask.shape).exp()
    assert torch.equal(pool(x, mask, "sum", token_weights=weights), sum_pool(x, mask, token_weights=weights))
    assert torch.equal(pool(TokenBatch.of(x, mask), pooling_mode="max"), pool(x, mask, "max"))
    rows, offsets = x[mask.bool()], torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0))
    assert torch.equal(pool(rows, cu_seqlens=offsets, pooling_mode=WIDER), pool(x, mask, WIDER))


@pytest.mark.parametrize("mode", [mode for mode, layer in POOLINGS.items() if layer.learns])
def test_pool_refuses_modes_that_learn(mode: str) -> None:
    """A mode with parameters cannot be used in one call, and the error says how to build and train it."""
    for modes in (mode, ("mean", mode)):
        with pytest.raises(InvalidValueError, match=re.escape(f"build_pooling('{mode}', …)")) as no:
            pool(*all_layouts(), modes)
        assert no.value.argument == "pooling_mode"


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"pooling_mode": "avg"}, "pooling_mode"),
        ({"pooling_mode": ()}, "pooling_mode"),
        ({"k": 3}, "k"),
        ({"pooling_mode": NEEDS_OPTION}, REQUIRED_OPTION),
        ({"pooling_mode": "max", "token_weights": torch.ones(7, 5)}, "token_weights"),
        ({"cu_seqlens": torch.tensor([0, 5])}, "attention_mask"),
    ],
    ids=["mode", "no mode", "option", "missing option", "weights", "two layouts"],
)
def test_pool_refuses(options: dict[str, Any], argument: str) -> None:
    """`pool` refuses what the layers and `build_pooling` refuse, by the argument's name."""
    with pytest.raises((InvalidValueError, InvalidTypeError)) as refused:
        pool(*all_layouts(), **options)
    assert isinstance(refused.value, InvalidValueError | InvalidTypeError)
    assert refused.value.argument == argument


# -------------------------------------------------------------------------------------------------------- constructors


@pytest.mark.parametrize(
    ("make_layer", "name", "given", "advice"),
    [
        (lambda: MeanPooling(384), "MeanPooling", "384", "(on_empty=…)"),  # type: ignore[call-arg, arg-type]  # the point
        (lambda: MaxPooling("nan"), "MaxPooling", "'nan'", "(on_empty=…)"),  # type: ignore[call-arg]  # the point
        (lambda: TopKMeanPooling(8), "TopKMeanPooling", "8", "(k=…"),  # type: ignore[call-arg]  # the point
        (lambda: GeneralizedMeanPooling(8), "GeneralizedMeanPooling", "8", "(p=…"),  # type: ignore[call-arg]  # the point
        (lambda: AttentionPooling(8, 4), "AttentionPooling", "4", "(hidden_dimension=…, num_heads=…"),  # type: ignore[call-arg]  # the point
        (lambda: ConcatPooling([MeanPooling()], "nan"), "ConcatPooling", "'nan'", "(on_empty=…)"),  # type: ignore[call-arg]  # the point
    ],
    ids=["mean", "max", "topk", "generalized", "attention", "concat"],
)
def test_options_by_position(make_layer: Callable[[], object], name: str, given: str, advice: str) -> None:
    """Options that are passed by position are refused, and the error lists the options to pass by name."""
    with pytest.raises(InvalidTypeError, match=re.escape(f"by position, got {given}: pass options by name")) as refused:
        make_layer()
    assert refused.value.argument == name
    assert advice in str(refused.value)
    assert ("no embedding dimension" in str(refused.value)) == (name not in ("AttentionPooling", "ConcatPooling"))


def test_subclasses_explain_positional_arguments() -> None:
    """A user's layer gets the same explanation, and its own options are listed."""

    class Scaled(MeanPooling):
        def __init__(self, scale: float, *, offset: float = 0.0, on_empty: OnEmpty = "zero") -> None:
            super().__init__(on_empty=on_empty)
            self.scale, self.offset = scale, offset

    assert Scaled(2.0, offset=1.0).scale == 2.0
    assert set(Scaled.options()) == {"offset", "on_empty"}
    with pytest.raises(InvalidTypeError, match=re.escape("Scaled takes only scale by position, got 3.0")):
        Scaled(2.0, 3.0)  # type: ignore[call-arg]  # the point


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_copies_of_layers(name: str, copied: Callable[[Any], Any]) -> None:
    """A copied or pickled layer gives the same vectors and shares no parameters."""
    layer, (x, mask) = make(name), all_layouts()
    other = copied(layer)
    assert torch.equal(other(x, mask), layer(x, mask))
    assert repr(other) == repr(layer)
    assert not set(map(id, other.parameters())) & set(map(id, layer.parameters()))


@pytest.mark.parametrize("layer", [LayerMix(2), FirstLastAveragePooling(on_empty="nan")], ids=["mix", "first-last"])
def test_copies_of_layers_of_several_states(layer: torch.nn.Module) -> None:
    """Copied and pickled poolings of several layers give the same vectors."""
    x, mask = all_layouts()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other([x, -x], mask), layer([x, -x], mask), rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------------------------ registry


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("avg", "mean"), ("average", "mean"), ("Mean", "mean"), ("MEAN", "mean"), ("mean_pooling", "mean")),
        *(("mean_tokens", "mean"), ("maen", "mean"), ("last", "lasttoken"), ("eos", "lasttoken")),
        *(("token", "lasttoken"), ("tokens", "lasttoken")),
        *(("last_token", "lasttoken"), ("max_pool", "max"), ("Max-Pooling", "max"), ("maximum", "max")),
        *(("weighted_mean", "weightedmean"), ("weightedmaen", "weightedmean"), ("atention", "attention")),
        *(("gem", GeneralizedMeanPooling.mode), ("generalised_mean", GeneralizedMeanPooling.mode)),
        *(("lse", LogSumExpPooling.mode), ("multi-head attention", MultiheadAttentionPooling.mode)),
        *(("meansqrtlen", "mean_sqrt_len_tokens"), ("mean_sqrt", "mean_sqrt_len_tokens"), ("mean+std", "mean_std")),
        *(("attn", AttentionPooling.mode), ("weighted", "weightedmean"), ("wmean", "weightedmean")),
        *(("top-k", TopKMeanPooling.mode), ("stdev", "std"), ("nv-embed", LatentAttentionPooling.mode)),
    ],
)
def test_did_you_mean(given: str, meant: str) -> None:
    """Names of other libraries, other spellings and typing errors are refused with the mode that was probably meant."""
    assert suggestion(given) == meant
    with pytest.raises(InvalidValueError, match=f"got {re.escape(repr(given))}; did you mean {meant!r}\\?$") as refused:
        build_pooling(given)
    assert refused.value.argument == "pooling_mode"


@pytest.mark.parametrize("given", ["", "xyz", "banana", "pool", "pooling", "-", "384"])
def test_no_suggestion_for_nonsense(given: str) -> None:
    """A word that is not close to any mode is refused without a suggestion."""
    assert suggestion(given) is None
    with pytest.raises(InvalidValueError, match=f"got {given!r}$"):
        build_pooling(given)


@pytest.mark.parametrize("mode", POOLINGS)
def test_suggestions_are_modes(mode: str) -> None:
    """Every mode is suggested for its own spelling in capitals and with other separators."""
    assert suggestion(mode.upper()) == suggestion(mode.replace("_", " ")) == suggestion(f"{mode}-pooling") == mode


def test_a_mode_is_registered_once() -> None:
    """A second registration of a mode is refused, and the first layer stays."""
    before = dict(POOLINGS)
    with pytest.raises(InvalidValueError, match=r"mode must be new, got 'mean', which is registered for .*MeanPooling"):
        register("mean", formula="", source="")(MaxPooling)
    assert before == POOLINGS
    assert MaxPooling.mode == "max"


def test_own_layers_can_be_registered() -> None:
    """A user's registered layer is built by its mode string, listed in errors and suggested for its other names."""
    with mock.patch.dict(POOLINGS), mock.patch.dict(registry._ALIASES):

        @register("first_half", formula="mean of the first half", source="this test", also_called=("front",))
        class FirstHalf(MeanPooling):
            def __init__(self, *, share: float, on_empty: OnEmpty = "zero") -> None:
                super().__init__(on_empty=on_empty)
                self.share = share

        assert isinstance(build_pooling("first_half", share=0.5), FirstHalf)
        assert FirstHalf.mode == "first_half"
        assert MeanPooling.mode == "mean"
        with pytest.raises(InvalidValueError, match="share is required for the pooling_mode 'first_half'"):
            build_pooling("first_half")
        with pytest.raises(InvalidValueError, match="'first_half', got 'front'; did you mean 'first_half'"):
            build_pooling("front")
    assert "first_half" not in POOLINGS


@pytest.mark.parametrize(("base", "method"), [(PoolingLayer, "pool"), (LearnedPooling, "learned")])
def test_layers_without_their_method_are_refused(base: type[PoolingLayer], method: str) -> None:
    """A user's layer that lacks the method that pools cannot be created."""
    with pytest.raises(TypeError, match=rf"abstract.*\b{method}\b"):
        type("Lacking", (base,), {})()


def test_layers_take_token_weights_as_their_functions_do() -> None:
    """A layer and its function agree on token weights; what the tests of weights run over is read off the layers."""
    layers = {layer.__name__.lower(): layer.takes_token_weights for layer in POOLINGS.values()}
    functions = {
        f"{name.replace('_', '')}ing": getattr(maskpool.functional, name) for name in maskpool.functional.__all__
    }
    taken = {name: "token_weights" in inspect.signature(function).parameters for name, function in functions.items()}
    both = layers.keys() & taken.keys()
    assert {"meanpooling", "stdpooling", "medianpooling", "attentionpooling"} <= both
    assert {name: layers[name] for name in both} == {name: taken[name] for name in both}


@pytest.mark.parametrize("name", SPECS)
def test_traits_match_behaviour(name: str) -> None:
    """A layer's traits agree with its behaviour: token weights, parameters, width, the first token."""
    layer, (x, mask) = make(name), all_layouts()
    assert layer.learns == (sum(parameter.numel() for parameter in layer.parameters()) > 0)
    assert layer(x, mask).shape[1] == layer.output_dimension(DIM) == WIDTHS.get(name, 1) * DIM
    weights = tokens(*mask.shape).exp() + 0.5
    if name in WEIGHTED:
        assert layer.takes_token_weights
        pooled = layer(x, mask, token_weights=weights)
        if layer.power_of_weights is not None:
            total = (weights * mask).sum(dim=1, keepdim=True).clamp(min=1e-9)
            torch.testing.assert_close(pooled, sum_pool(x, mask, token_weights=weights) * total**layer.power_of_weights)
    else:
        assert layer.power_of_weights is None
        with pytest.raises(InvalidValueError) as refused:
            layer(x, mask, token_weights=weights)
        assert refused.value.argument == "token_weights"
    first = x[torch.arange(len(x)), mask.argmax(dim=1)] * mask.any(dim=1, keepdim=True)
    assert layer.takes_first_token == (layer.output_dimension(DIM) == DIM and torch.equal(layer(x, mask), first))


def test_unknown_options_are_named() -> None:
    """A layer refuses an unknown option by its name and lists its options."""
    with pytest.raises(
        InvalidTypeError, match="is not an argument of MeanPooling; its options are on_empty="
    ) as refused:
        MeanPooling(embedding_dimension=384)  # type: ignore[call-arg]  # the point of the test
    assert refused.value.argument == "embedding_dimension"


@pytest.mark.parametrize(("make_layer", "most"), [(MeanPooling, 41), (lambda: AttentionPooling(DIM), 52)])
def test_a_layer_takes_few_calls(make_layer: Callable[[], torch.nn.Module], most: int) -> None:
    """Pooling a padded batch takes few Python calls of the package."""
    layer, own = make_layer().requires_grad_(False), str(Path(maskpool.nn.__file__).parent)
    x, mask = all_layouts()
    layer(x, mask)
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_filename) if event == "call" else None)
    layer(x, mask)
    sys.setprofile(None)
    assert 5 < sum(file.startswith(own) for file in calls) <= most


def test_a_class_called_with_tokens_says_how_to_create_it() -> None:
    """A class that is called with token embeddings is refused, and the error says to create the layer first."""
    layers: tuple[type[torch.nn.Module], ...] = (MeanPooling, TopKMeanPooling, FirstLastAveragePooling)
    for make_layer in layers:
        with pytest.raises(InvalidTypeError) as refused:
            make_layer(torch.ones(1, 2, 3), torch.ones(1, 2))
        name = make_layer.__name__
        states = "hidden_states" if make_layer is FirstLastAveragePooling else "token_embeddings"
        assert f"got 2 tensors: make the layer first, {name}(…)({states}, attention_mask)" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert "tensor(" not in str(refused.value)


def test_layers_of_several_states_explain_arguments() -> None:
    """Layers of several hidden states explain arguments that they do not take, as other layers do."""
    with pytest.raises(InvalidTypeError, match=r"takes no embedding dimension.* got 384: pass options by name"):
        FirstLastAveragePooling(384)  # type: ignore[call-arg, arg-type]  # the point of the test
    with pytest.raises(InvalidTypeError, match=r"takes only num_layers by position, got 'mean': .*\(pooling=…\)"):
        LayerMix(13, "mean")  # type: ignore[call-arg, arg-type]  # the point of the test
    with pytest.raises(InvalidTypeError, match="is not an argument of LayerMix; its options are pooling="):
        LayerMix(13, embedding_dimension=8)  # type: ignore[call-arg]  # the point of the test


@pytest.mark.parametrize("given", [MaxPooling, MaxPooling(), max_pool], ids=["class", "layer", "function"])
def test_a_layer_in_place_of_a_mode(given: Any) -> None:
    """A layer or class in place of a mode is refused, and the error names its mode."""
    advice = "" if given is max_pool else ": pass its mode, 'max'"
    with pytest.raises(InvalidTypeError, match=f"must be a string or a tuple of strings, got [A-Za-z]+{advice}$"):
        build_pooling(given)


def test_weights_for_a_concatenation_of_unweighted_layers() -> None:
    """Token weights for several poolings are refused, and the error names those that do not sum."""
    x, mask = torch.ones(1, 2, 3), torch.ones(1, 2)
    with pytest.raises(InvalidValueError, match=r"^token_weights cannot be used by MaxPooling, MinPooling in Concat"):
        pool(x, mask, ("mean", "max", "min"), token_weights=mask)


def test_a_mode_in_place_of_the_mask() -> None:
    """A mode in the position of the mask is refused, and the error says how to pass it."""
    with pytest.raises(InvalidTypeError, match="pass a mode as pooling_mode='max'"):
        pool(torch.ones(1, 2, 3), "max")  # type: ignore[arg-type]  # the point of the test


# ------------------------------------------------------------------------------------------------------------ messages


def test_an_unknown_keyword_of_pool_names_its_arguments() -> None:
    """The message for a keyword that neither pool nor the mode has lists those that they have."""
    x, mask = all_layouts()
    with pytest.raises(InvalidTypeError, match=r"^mask must .*attention_mask, pooling_mode, .* 'mean': on_empty$"):
        pool(x, mask=mask)


def test_two_dimensions_have_a_hint() -> None:
    """Token embeddings of two dimensions without cu_seqlens are refused with both ways out."""
    with pytest.raises(InvalidValueError, match=r"\(3, 4\); pass cu_seqlens with .*, or unsqueeze\(0\) .*$"):
        pool(torch.ones(3, 4))


# ------------------------------------------------------------------------------------------------------------ spelling


@pytest.mark.parametrize(
    ("spelling", "mode", "options", "canonical"),
    [
        ("mean", "mean", {}, "mean"),
        ("topk_mean(k=3)", "topk_mean", {"k": 3}, "topk_mean(k=3)"),
        (" topk_mean ( k = 03 )", "topk_mean", {"k": 3}, "topk_mean(k=3)"),
        ("softmax(temperature=0.5)", "softmax", {"temperature": 0.5}, "softmax(temperature=0.5)"),
        ("softmax(temperature=1)", "softmax", {"temperature": 1}, "softmax"),
        ("attention(start=max,num_heads=2)", "attention", {"start": "max", "num_heads": 2}, ""),
    ],
)
def test_modes_are_spelled_with_options(spelling: str, mode: str, options: dict[str, Any], canonical: str) -> None:
    """A spelling gives the mode and its options, and each pooling has one canonical spelling, which reads back."""
    assert parse_mode(spelling) == (mode, options)
    canonical = canonical or "attention(num_heads=2,start=max)"
    assert spell_mode(mode, options) == canonical
    assert spell_mode(*parse_mode(canonical)) == canonical


@pytest.mark.parametrize("mode", POOLINGS)
def test_the_example_of_each_mode_is_accepted(mode: str) -> None:
    """The spelling that errors show for a mode gives every option that the mode requires."""
    assert parse_mode(example(mode))[0] == mode
    assert build_pooling(mode, DIM, **parse_mode(example(mode))[1]).mode == mode


@pytest.mark.parametrize(
    ("spelling", "problem"),
    [
        ("topk_mean", "must give k, as in 'topk_mean(k=3)', got 'topk_mean'"),
        ("topk_mean(k=0)", "must have valid options, got 'topk_mean(k=0)': k must be a positive integer, got 0"),
        ("mean(k=3)", "must be spelled like mean, got 'mean(k=3)': mean takes no options"),
        *(
            (wrong, f"must be spelled like topk_mean(k=3), got {wrong!r}: topk_mean takes k, each at most once")
            for wrong in (
                *("topk_mean()", "topk_mean(3)", "topk_mean(k=3", "topk_mean(k=3,k=3)", "topk_mean(k=3))"),
                *("topk_mean(on_empty=nan)", "topk_mean(k=3,)", "topk_mean(k=[3])", "topk_mean(k=3)(k=3)"),
            )
        ),
    ],
)
def test_wrong_spellings_are_refused(spelling: str, problem: str) -> None:
    """A spelling with a missing, unknown, repeated, malformed or invalid option is refused with one that is right."""
    with pytest.raises(InvalidValueError, match=re.escape(f"pooling_mode {problem}") + "$"):
        parse_mode(spelling)
