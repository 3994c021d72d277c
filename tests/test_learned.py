"""Learned poolings: their start, their weights, and the penalty on their hops."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskpool import TokenBatch, build_pooling
from maskpool.errors import InvalidValueError
from maskpool.functional import attention_penalty, mean_pool
from maskpool.nn import (
    AttentionPooling,
    GatedAttentionPooling,
    GeneralizedMeanPooling,
    LatentAttentionPooling,
    LayerMix,
    LearnedPooling,
    MaxPooling,
    MultiheadAttentionPooling,
    StructuredAttentionPooling,
)
from maskpool.poolings.learned import starts
from maskpool.training import train
from tests.batches import all_layouts, dense_route, poison, tokens
from tests.matrix import cut, pairwise
from tests.oracles import ORACLES
from tests.poolings import BY_NAME_ONLY, DIM, LEARNED, NEEDS_OPTION, SPECS, WIDER, WIDTHS, fresh, make

MODES = sorted({str(SPECS[name][0]) for name in LEARNED})
every_learned_pooling = pytest.mark.parametrize("name", LEARNED)
either_route = pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])


def _options(mode: str) -> dict[str, Any]:
    return next(options for known, options in SPECS.values() if known == mode)


@pairwise(mode=MODES, start=starts(), dtype=[torch.float32, torch.bfloat16])
def test_starts_as_the_given_pooling(mode: str, start: str, dtype: torch.dtype) -> None:
    """A new layer equals the pooling that ``start`` names, in each part of its result and for empty sentences."""
    x, mask = all_layouts(dtype)
    layer = build_pooling(mode, DIM, **_options(mode) | {"start": start})
    expected = build_pooling(start)(x, mask).repeat(1, WIDTHS.get(mode, 1))
    torch.testing.assert_close(layer(x, mask), expected)


@pytest.mark.parametrize("mode", MODES)
def test_starts_as_the_mean(mode: str) -> None:
    """By default a layer starts as the mean."""
    x, mask = all_layouts()
    torch.testing.assert_close(
        build_pooling(mode, DIM, **_options(mode))(x, mask), mean_pool(x, mask).repeat(1, WIDTHS.get(mode, 1))
    )


def _losses(layer: nn.Module, loss: Callable[[], Tensor], rate: float, steps: int) -> list[float]:
    """Train a layer, one batch an epoch, and return the loss before each step."""
    optimizer = torch.optim.Adam(layer.parameters(), lr=rate)
    return train(layer, lambda _: loss(), [torch.arange(1)], optimizer, epochs=steps).losses


@every_learned_pooling
def test_learns_away_from_its_start(name: str) -> None:
    """A new layer can learn: some parameter has a gradient, and a few steps lower a loss."""
    layer, (x, mask) = fresh(name), all_layouts()
    target = tokens(len(mask), DIM * WIDTHS.get(name, 1), seed=8)
    losses = _losses(layer, lambda: (layer(x, mask) - target).square().mean(), rate=0.05, steps=cut(4, 10))
    assert losses[-1] < losses[0]


@pairwise(name=LEARNED, dense=[False, True], dtype=[torch.float32, torch.float16])
def test_returned_weights(name: str, dense: bool, dtype: torch.dtype) -> None:
    """Weights are (batch, …, seq) in float32 and exactly 0 at pads, and do not change the vectors."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    with dense_route() if dense else torch.enable_grad():
        pooled, weights = layer(poison(x, mask, torch.nan), mask, return_weights=True)
        assert torch.equal(pooled, layer(x, mask))
    assert weights.shape[0::2] == mask.shape
    assert weights.dtype == torch.float32
    assert not weights[~mask.bool().unsqueeze(1).expand_as(weights)].any()
    latent = isinstance(
        layer, LatentAttentionPooling
    )  # its weights add up to 1 per token, those of other layers per sentence
    expected = mask.float() if latent else mask.any(dim=1, keepdim=True).float().expand(weights.shape[:2])
    torch.testing.assert_close(weights.sum(dim=1 if latent else 2), expected)


@every_learned_pooling
def test_returned_weights_of_packed_tokens(name: str) -> None:
    """Weights of a packed batch have one row per token."""
    layer, (x, mask) = make(name), all_layouts()
    offsets = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    weights = layer(x[mask.bool()], cu_seqlens=offsets, return_weights=True)[1]
    padded = layer(x, mask, return_weights=True)[1]
    torch.testing.assert_close(weights, padded.transpose(1, 2)[mask.bool()])


@every_learned_pooling
@either_route
def test_autocast_does_not_reach_inside(name: str, dense: bool) -> None:
    """Under bfloat16 autocast vectors and weights are the float32 ones, bit for bit."""
    layer, (x, mask) = make(name), all_layouts()
    with dense_route() if dense else torch.enable_grad():
        expected = layer(x, mask, return_weights=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = layer(x, mask, return_weights=True)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


@every_learned_pooling
def test_half_parameters_are_used_in_float32(name: str) -> None:
    """A layer in bfloat16 pools like a float32 layer with the same rounded parameters."""
    half, exact = make(name).bfloat16(), make(name)
    exact.load_state_dict(half.state_dict())
    x, mask = all_layouts(torch.bfloat16)
    for ours, theirs in zip(half(x, mask, return_weights=True), exact(x, mask, return_weights=True), strict=True):
        assert torch.equal(ours, theirs)


def test_multihead_attention_equals_torch() -> None:
    """The layer equals torch.nn.MultiheadAttention with the same weights and the mask."""
    layer = make(MultiheadAttentionPooling.mode)
    assert isinstance(layer, MultiheadAttentionPooling)
    x, mask = all_layouts()
    x, mask = x[mask.any(dim=1)], mask[mask.any(dim=1)]  # torch gives NaN for sentences without tokens
    host = torch.nn.MultiheadAttention(DIM, layer.num_heads, bias=False, batch_first=True)
    projections = [torch.eye(DIM), layer.key_weight, layer.value_weight]
    host.load_state_dict({"in_proj_weight": torch.cat(projections), "out_proj.weight": layer.output_weight})
    expected, attention = host(
        layer.queries.expand(len(x), -1, -1), x, x, key_padding_mask=~mask.bool(), average_attn_weights=False
    )
    pooled, weights = layer(x, mask, return_weights=True)
    torch.testing.assert_close(pooled, expected.flatten(1))
    torch.testing.assert_close(weights, attention.transpose(1, 2).flatten(1, 2))


@pytest.mark.parametrize("p", [0.5, 1.0, 2.5])
def test_generalized_mean_weights(p: float) -> None:
    """The sum of the tokens with these weights is the mean of the powers, Σₜ |xₜ|ᵖ⁻¹ xₜ / n, up to its scale."""
    layer, (x, mask) = GeneralizedMeanPooling(p=p), all_layouts()
    pooled, weights = layer(x, mask, return_weights=True)
    for row, real in enumerate(mask.bool()):
        if not real.any():
            continue
        rows = x[row][real]
        scale = rows.abs().pow(p - 1).mean(dim=0)
        power = (weights[row][:, real].t() * rows).sum(dim=0) * scale
        torch.testing.assert_close(power, pooled[row].sign() * pooled[row].abs() ** p)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_penalty_is_a_loop_over_sentences(packed: bool) -> None:
    """The penalty is the mean of ‖A Aᵀ − I‖² over the sentences with tokens, padded and packed."""
    layer, (x, mask) = make(StructuredAttentionPooling.mode), all_layouts()
    assert isinstance(layer, StructuredAttentionPooling)
    offsets = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    weights = layer(x, mask, return_weights=True)[1]
    norms = []
    for attention, real in zip(weights, mask.bool(), strict=True):
        if not real.any():
            continue
        a = attention[:, real].double()
        norms.append((a @ a.t() - torch.eye(2)).square().sum())
    by_token = weights.transpose(1, 2)[mask.bool()]
    penalty = layer.penalty(by_token, offsets) if packed else layer.penalty(weights)
    torch.testing.assert_close(penalty.double(), torch.stack(norms).mean())


def test_penalty_drives_hops_apart() -> None:
    """Minimising the penalty gives each hop its own token."""
    layer = make(StructuredAttentionPooling.mode)
    assert isinstance(layer, StructuredAttentionPooling)
    x, mask = tokens(4, 5, DIM), torch.ones(4, 5, dtype=torch.bool)
    values = _losses(layer, lambda: layer.penalty(layer(x, mask, return_weights=True)[1]), rate=0.1, steps=60)
    assert values[-1] < 0.1 * values[0]


@pytest.mark.parametrize(("shape", "packed"), [((4, 2), False), ((1, 2, 4), True), ((4,), False)])
def test_penalty_refuses_other_shapes(shape: tuple[int, ...], packed: bool) -> None:
    """Weights that are neither padded nor packed are refused, and the error names both forms."""
    text = r"attention_weights must have the shape \(batch, hops, seq\), or \(tokens, hops\) with cu_seqlens; got "
    with pytest.raises(ValueError, match=text + re.escape(str(shape))):
        attention_penalty(torch.ones(shape), torch.tensor([0, shape[0]]) if packed else None)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_autocast_does_not_reach_the_penalty(packed: bool, dtype: torch.dtype) -> None:
    """Under bfloat16 autocast, and for bfloat16 weights, the penalty and its gradient have full precision."""
    weights = tokens(3, 2, 5).softmax(dim=2).to(dtype)
    exact = torch.promote_types(dtype, torch.float32)
    leaves = [weights.clone().requires_grad_(), weights.to(exact).requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        offsets = torch.tensor([0, 5, 10, 15]) if packed else None
        given = leaves[0].transpose(1, 2).flatten(0, 1) if packed else leaves[0]
        penalty = attention_penalty(given, offsets)
    expected = attention_penalty(leaves[1])
    assert penalty.dtype == exact
    torch.testing.assert_close(penalty, expected)
    gradients = [torch.autograd.grad(value, leaf)[0] for value, leaf in zip((penalty, expected), leaves, strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1].to(dtype))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_penalty_without_tokens_is_zero(packed: bool) -> None:
    """Without sentences or without tokens the penalty is 0, and so are its gradients."""
    for sentences in (0, 3):
        weights = torch.zeros((0, 2) if packed else (sentences, 2, 4), requires_grad=True)
        penalty = attention_penalty(weights, torch.zeros(sentences + 1, dtype=torch.int64) if packed else None)
        assert penalty.item() == 0
        assert not torch.autograd.grad(penalty, weights)[0].any()


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_penalty_keeps_nan(packed: bool) -> None:
    """A NaN in the weights does not count as an empty sentence: the penalty is NaN."""
    weights = torch.full((1, 2, 3), torch.nan)
    assert (attention_penalty(weights[0].t(), torch.tensor([0, 3])) if packed else attention_penalty(weights)).isnan()


def test_token_weights_need_a_start_that_takes_them() -> None:
    """A layer whose start takes no token weights refuses them, and the error names a start that does."""
    layer, (x, mask) = build_pooling("attention", DIM, start="max"), all_layouts()
    text = "need a start that takes token weights, such as 'mean', got start='max'"
    with pytest.raises(InvalidValueError, match=re.escape(text)) as refused:
        layer(x, mask, token_weights=torch.ones(mask.shape))
    assert refused.value.argument == "token_weights"


def test_token_weights_reach_the_start() -> None:
    """A start that takes token weights gets them: tokens of weight 0 do not count."""
    layer, (x, mask) = build_pooling("attention", DIM, start="sum"), all_layouts()
    weights = torch.ones(mask.shape)
    weights[:, 1] = 0
    expected = build_pooling("sum")(x, mask * (weights > 0))
    torch.testing.assert_close(layer(x, mask, token_weights=weights), expected)


@pytest.mark.parametrize("mode", MODES)
def test_unknown_start(mode: str) -> None:
    """An unknown start is refused with a suggestion, and an unsuitable mode with the list of suitable ones."""
    with pytest.raises(InvalidValueError, match="got 'average'; did you mean 'mean'") as refused:
        build_pooling(mode, DIM, **_options(mode) | {"start": "average"})
    assert refused.value.argument == "start"
    for wrong in (WIDER, "attention", NEEDS_OPTION):  # too wide, with parameters, with a required option
        with pytest.raises(InvalidValueError, match=f"got '{wrong}'") as refused:
            build_pooling(mode, DIM, **_options(mode) | {"start": wrong})
        assert refused.value.problem.startswith(f"must be one of {', '.join(map(repr, starts()))}, got")


def test_starts() -> None:
    """A start has no parameters, no required options, and results as wide as a token."""
    assert starts() == BY_NAME_ONLY
    assert {"mean", "sum", "max", "cls"} < set(starts())


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (StructuredAttentionPooling, {"num_hops": 0}, "num_hops must be a positive integer, got 0"),
        (StructuredAttentionPooling, {"hidden_dimension": 1.5}, "hidden_dimension must be a positive integer, got 1.5"),
        (MultiheadAttentionPooling, {"num_heads": 4}, "num_heads must divide the dimension 6 of a token, got 4"),
        (MultiheadAttentionPooling, {"num_queries": True}, "num_queries must be a positive integer, got True"),
        (LatentAttentionPooling, {"num_latents": -1}, "num_latents must be a positive integer, got -1"),
        (LatentAttentionPooling, {"num_heads": 5}, "num_heads must divide the dimension 6 of a token, got 5"),
        (GatedAttentionPooling, {"hidden_dimension": 0}, "hidden_dimension must be a positive integer, got 0"),
        (GatedAttentionPooling, {"num_heads": 4}, "num_heads must divide the dimension 6 of a token, got 4"),
    ],
)
def test_bad_sizes(kind: type[LearnedPooling], options: dict[str, Any], text: str) -> None:
    """A size that is not a positive integer, or does not divide, is refused by its name."""
    with pytest.raises(ValueError, match=re.escape(text)):
        kind(DIM, **options)


@every_learned_pooling
def test_state_dict_round_trip(name: str) -> None:
    """A layer that is saved and loaded with strict keys gives the same vectors."""
    layer, other, (x, mask) = make(name), fresh(name), all_layouts()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x, mask), layer(x, mask))


@every_learned_pooling
def test_state_dict_keys(name: str) -> None:
    """The names of the parameters do not change, because saved models depend on them."""
    more = {"hidden.weight", "hidden.bias"} if name == "attention-additive" else set()
    assert set(fresh(name).state_dict()) == ORACLES[str(SPECS[name][0])].parameters | more


def _marked(batch: int, seq: int = 6, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(batch, seq, width)
    x[:, :, 0] = 0
    place = torch.randint(seq - 1, (batch,))
    x[torch.arange(batch), place, 0] = 3
    mask = torch.ones(batch, seq, dtype=torch.bool)
    mask[:, -1] = False
    return x, mask, x[torch.arange(batch), place, 1:]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (AttentionPooling, {}),
        (GatedAttentionPooling, {"hidden_dimension": 16}),
        (MultiheadAttentionPooling, {}),
        (StructuredAttentionPooling, {"num_hops": 1, "hidden_dimension": 16}),
    ],
)
def test_training_finds_the_token_that_matters(kind: type[LearnedPooling], options: dict[str, Any]) -> None:
    """Each attention that is trained to return the token that a feature marks learns to attend to it."""
    layer = kind(8, **options)

    def loss() -> Tensor:
        x, mask, target = _marked(32)
        result: Tensor = (layer(x, mask)[:, 1:] - target).square().mean()
        return result

    losses = _losses(layer, loss, rate=0.05, steps=cut(60, 150))
    assert losses[-1] < 0.2 * losses[0]


def test_latent_attention_learns_a_mean_of_absolute_values() -> None:
    """Latents change single tokens: they learn the mean of absolute values, which token weights cannot express."""
    layer = LatentAttentionPooling(4, num_latents=8, num_heads=4, hidden_dimension=16)

    def loss() -> Tensor:
        x = torch.randn(64, 5, 4)
        result: Tensor = (layer(x, torch.ones(64, 5, dtype=torch.bool)) - x.abs().mean(dim=1)).square().mean()
        return result

    losses = _losses(layer, loss, rate=0.02, steps=200)
    assert losses[-1] < 0.2 * losses[0]


def test_layer_mix_returns_its_weights() -> None:
    """With return_weights a mix of layers returns the weight of each layer and the same vectors."""
    mix, (x, mask) = LayerMix(2, pooling=MaxPooling()), all_layouts()
    with torch.no_grad():
        mix.layer_logits.copy_(torch.tensor([0.0, 1.0]))
    pooled, weights = mix([x, 2 * x], mask, return_weights=True)
    assert torch.equal(pooled, mix([x, 2 * x], mask))
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0]).softmax(dim=0))


def test_start_is_a_submodule() -> None:
    """A start other than the mean is a submodule that the layer prints."""
    assert "(starting): MaxPooling()" in repr(build_pooling("attention", DIM, start="max"))
    assert "starting" not in repr(build_pooling("attention", DIM))


def test_one_preparation_serves_learned_layers() -> None:
    """Several layers pool one prepared batch like the raw arguments."""
    x, mask = all_layouts()
    batch = TokenBatch.of(x, mask)
    for name in LEARNED:
        layer = make(name)
        assert isinstance(layer, LearnedPooling)
        assert torch.equal(layer(batch), layer(x, mask))
