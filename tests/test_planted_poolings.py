"""The laws can fail: a bug that is planted in a learned pooling breaks each law that can detect it."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from maskpool import TokenBatch
from maskpool.batch.token_batch import PaddedBatch, SparseBatch
from maskpool.kernels.base import Kernels
from maskpool.nn import (
    POOLINGS,
    GeneralizedMeanPooling,
    LatentAttentionPooling,
    LayerMix,
    LearnedPooling,
    MeanPooling,
)
from tests.batches import dense_route, poison, render, tokens
from tests.laws.test_2_invariance import alone
from tests.oracles import ORACLES, assert_equals_loop
from tests.poolings import DIM, LEARNED, SPECS, assert_same, fresh, make

EVERY = [*LEARNED, "layer_mix"]
# Poolings that compute a softmax over each sentence.
SOFTMAX = [name for name in LEARNED if ORACLES[SPECS[name][0]].softmax]  # type: ignore[index]  # one mode
SPARSE, DENSE = False, True

PATTERNS = [torch.ones(length, dtype=torch.bool) for length in (3, 1, 5)]
VALUES = [tokens(len(pattern), DIM, seed=seed) for seed, pattern in enumerate(PATTERNS)]
LEFTS, SEQ = [2, 0, 1], 7

# Takes a function and returns the one that replaces it.
Bug = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Mixed(nn.Module):
    """A mix of two layers, made from the tokens of one layer, that is called like other poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = LayerMix(2)
        with torch.no_grad():
            self.mix.layer_logits.copy_(torch.tensor([0.5, -1.0]))

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.mix([x, x.roll(1, dims=2)], mask)

    def by_hand(self, x: Tensor) -> Tensor:
        weights = self.mix.layer_logits.detach().softmax(dim=0)
        return weights[0] * x + weights[1] * x.roll(1, dims=2)


def _invariance(name: str, layer: Any, pad: float) -> Callable[[], None]:
    """Compare a padded batch with each sentence alone, law 2: pools now, judges when called."""
    x, mask = render(PATTERNS, VALUES, LEFTS, SEQ)
    pooled, expected = layer(poison(x, mask, pad), mask), alone(layer, PATTERNS, VALUES)
    return lambda: assert_same(name, pooled, expected)


def _oracle(name: str, layer: Any, pad: float) -> Callable[[], None]:
    """Compare a padded batch with the float64 loop, law 4: pools now, judges when called."""
    x, mask = render(PATTERNS, VALUES, LEFTS, SEQ)
    pooled = layer(poison(x, mask, pad), mask)
    if isinstance(layer, _Mixed):
        return lambda: assert_equals_loop(MeanPooling(), pooled, layer.by_hand(x), mask)
    return lambda: assert_equals_loop(layer, pooled, x, mask)


# ------------------------------------------------------------------------------------------- bugs


def _drop_the_mask(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, mask: real(x, torch.ones_like(mask))


def _shift_the_mask(real: Callable[..., Any]) -> Callable[..., Any]:
    # Sentences without pads are unchanged; only positions in a padded batch are wrong.
    return lambda x, mask: real(x, mask.roll(1, dims=1))


def _shift_the_offsets(real: Callable[..., Any]) -> Callable[..., Any]:
    def bug(x: Tensor, mask: Tensor) -> TokenBatch:
        batch = real(x, mask)
        assert isinstance(batch, SparseBatch)
        batch.offsets[1:-1] += 1
        return batch

    return bug


def _let_pads_through(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda batch, per_token: per_token


def _softmax_over_the_batch(real: Callable[..., Any]) -> Callable[..., Any]:
    def bug(batch: Kernels, scores: Tensor, weights: Tensor | None = None) -> Any:
        if isinstance(batch, SparseBatch):
            return real(SparseBatch(batch.values, batch.index, batch.offsets[[0, -1]]), scores, weights)
        assert isinstance(batch, PaddedBatch)
        whole = PaddedBatch(batch.padded.flatten(0, 1).unsqueeze(0), batch.mask.view(1, -1))
        return real(whole, scores.flatten(0, 1).unsqueeze(0), weights).view(scores.shape)

    return bug


def _softmax_over_pads(real: Callable[..., Any]) -> Callable[..., Any]:
    def bug(batch: PaddedBatch, scores: Tensor, weights: Tensor | None = None) -> Any:
        return real(PaddedBatch(batch.padded, torch.ones_like(batch.mask)), scores, weights)

    return bug


def _forget_the_mean(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: torch.zeros_like(real(*arguments))


def _lose_the_sign(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, p: real(x.abs(), p)


def _stay_linear(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: x


def _take_the_logits(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda logits, **options: logits


@dataclass(frozen=True)
class Plant:
    """A bug: the function that it replaces, the poolings and routes it is planted in, and the laws that detect it."""

    target: str | dict[bool, str]
    bug: Bug
    names: list[str]
    routes: tuple[bool, ...] = (SPARSE, DENSE)
    laws: tuple[Callable[[str, Any, float], Callable[[], None]], ...] = (_invariance, _oracle)
    pad: float = 2.0
    start: str | None = None


FROM_PADDED = "maskpool.batch.token_batch.TokenBatch.from_padded"
SOFTMAX_KERNEL: dict[bool, str] = {
    SPARSE: "maskpool.kernels.csr.CSRKernels.softmax",
    DENSE: "maskpool.kernels.dense.DenseKernels.softmax",
}
PLANTS = {
    "the mask is dropped": Plant(FROM_PADDED, _drop_the_mask, EVERY),
    "the mask is a place off": Plant(FROM_PADDED, _shift_the_mask, EVERY),
    "offsets are one off": Plant(FROM_PADDED, _shift_the_offsets, EVERY, (SPARSE,)),
    "pads are not put to zero": Plant(
        "maskpool.kernels.dense.DenseKernels._where_real", _let_pads_through, EVERY, (DENSE,), pad=float("nan")
    ),
    "the softmax is over the batch": Plant(SOFTMAX_KERNEL, _softmax_over_the_batch, SOFTMAX),
    "the softmax counts pads": Plant(SOFTMAX_KERNEL, _softmax_over_pads, SOFTMAX, (DENSE,)),
    # These change single sentences and batches in the same way, so only the loop can detect them.
    "the start does not replace the mean": Plant(
        "maskpool.poolings.learned.mean", _forget_the_mean, LEARNED, laws=(_oracle,), start="max"
    ),
    "the sign is lost": Plant(
        {
            SPARSE: "maskpool.poolings.power_mean._signed_power_of_rows",
            DENSE: "maskpool.poolings.power_mean._signed_power",
        },
        _lose_the_sign,
        [GeneralizedMeanPooling.mode],
        laws=(_oracle,),
    ),
    "the hidden layer is linear": Plant(
        "maskpool.poolings.latent.gelu", _stay_linear, [LatentAttentionPooling.mode], laws=(_oracle,)
    ),
    "layers are weighted by their logits": Plant("torch.softmax", _take_the_logits, ["layer_mix"], laws=(_oracle,)),
}


def _layer(name: str, start: str | None) -> nn.Module:
    if name == "layer_mix":
        return _Mixed()
    options: dict[str, Any] = {} if start is None or "start" in SPECS[name][1] else {"start": start}
    return make(name, **options)


@pytest.mark.parametrize(
    ("what", "name", "dense"),
    [
        pytest.param(what, name, dense, id=f"{what}-{name}-{'dense' if dense else 'sparse'}")
        for what, plant in PLANTS.items()
        for name in plant.names
        for dense in plant.routes
    ],
)
def test_a_planted_bug_breaks_the_laws(what: str, name: str, dense: bool) -> None:
    """A learned pooling obeys the laws, and a planted bug breaks each law that can detect it."""
    plant = PLANTS[what]
    layer = _layer(name, plant.start)
    with dense_route() if dense else torch.enable_grad():
        for law in plant.laws:
            law(name, layer, plant.pad)()
        target = plant.target if isinstance(plant.target, str) else plant.target[dense]
        real = pkgutil.resolve_name(target)
        # Pooled with the bug and judged without it, so only the law can fail.
        with mock.patch(target, autospec=True, side_effect=plant.bug(real)) as planted:
            judgements = []
            for law in plant.laws:
                planted.reset_mock()
                judgements.append(law(name, layer, plant.pad))
                assert planted.called, "the bug was not reached"
    for judge in judgements:
        with pytest.raises(AssertionError):
            judge()


def test_bugs_are_planted_in_every_learned_layer() -> None:
    """Bugs are planted in every layer that learns."""
    learned = {layer for layer in POOLINGS.values() if issubclass(layer, LearnedPooling)}
    assert {type(fresh(name)) for name in LEARNED} == learned
