"""Each leak, compared with the public bug itself: a few lines over batches that the tokenizer padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL
from maskpool.bench.encode.forward import Pooled, pool_corpus
from maskpool.bench.part import Grid, Part
from maskpool.bench.score.fits import alone_vectors, treatment_vectors
from maskpool.encoder import Encoder
from maskpool.leaks import REMADE
from maskpool.plans import Plan
from tests.bench import tiny

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors

TEXTS, LABELS = (list(column) for column in zip(*tiny.make_texts(70), strict=True))
# The public code's input: the model, and the token ids and mask of a batch.
Recipe = Callable[[PreTrainedModel, Tensor, Tensor], Tensor]


def mean_over_pads(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    states: Tensor = model(ids, mask).last_hidden_state
    return states.mean(1)


def divided_by_width(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    x: Tensor = model(ids, mask).last_hidden_state
    return (x * mask[:, :, None]).sum(1) / x.shape[1]


def zeroed_before_max(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    zeroed: Tensor = model(ids, mask).last_hidden_state * mask[:, :, None]
    return zeroed.max(1).values


def last_column(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    last: Tensor = model(ids, mask).last_hidden_state[:, -1]
    return last


def first_column(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    first: Tensor = model(ids, mask).last_hidden_state[:, 0]
    return first


def no_mask(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    x: Tensor = model(ids).last_hidden_state
    return (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


RECIPES: dict[str, Recipe] = {
    "mean over pads": mean_over_pads,
    "divided by the batch width": divided_by_width,
    "zeroed pads in a max": zeroed_before_max,
    "last column taken as last token": last_column,
    "first column taken as cls": first_column,
    "mask not passed to the encoder": no_mask,
}


@dataclass
class Measured:
    """A study of every leak, and the vectors of its cells."""

    part: Part
    grid: Grid
    pooled: Pooled


@pytest.fixture(scope="module")
def measured(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    plans = (Plan("random", 8), Plan("sorted", 32, 48), Plan("random", 8, side="left"))
    study = Study(poolings=("mean",), plans=plans, treatments=(), leaks=tuple(REMADE))
    part = Part.of(study, Corpus("colours", TEXTS, LABELS), encoder)
    grid = Grid(study, part.plans, prefix=True, with_pads=())
    pooled, _, _ = pool_corpus(
        encoder, part.ids, part.request(grid), tmp_path_factory.mktemp("vectors"), lambda texts: None
    )
    return Measured(part, grid, pooled)


def really_done(part: Part, plan: Plan, recipe: Recipe) -> Vectors:
    """Run the public code on each batch of a plan, padded by the model's tokenizer."""
    tokenizer, subsample = part.encoder.tokenizer, part.subsamples[FULL]
    vectors = np.zeros((len(TEXTS), part.encoder.dimension), np.float32)
    before = tokenizer.padding_side
    tokenizer.padding_side = plan.side
    try:
        for batch, width in plan.batches(part.lengths, subsample.rng(plan.name), part.characters):
            texts = [TEXTS[text] for text in batch]
            fixed = plan.pad_to != "longest"
            given = tokenizer(
                texts,
                padding="max_length" if fixed else True,
                max_length=plan.pad_to if fixed else None,
                return_tensors="pt",
            )
            assert given["input_ids"].shape[1] == width
            with torch.no_grad():
                vectors[batch] = recipe(part.encoder.model, given["input_ids"], given["attention_mask"]).numpy()
    finally:
        tokenizer.padding_side = before
    return vectors


@pytest.mark.parametrize("name", REMADE)
def test_a_leak_is_the_public_bug(measured: Measured, name: str) -> None:
    """For every text and plan of its side, a leak gives the same vector as the public code."""
    comparisons = [comparison for comparison in measured.grid.comparisons() if comparison.leak == name]
    sides = [plan.name for plan in measured.part.plans if plan.side == REMADE[name].side]
    assert [comparison.plan.name for comparison in comparisons] == sides
    subsample = measured.part.subsamples[FULL]
    for comparison in comparisons:
        layer, pooling, plan = comparison.layer, comparison.pooling, comparison.plan
        expected = really_done(measured.part, plan, RECIPES[name])
        vectors = treatment_vectors(measured.pooled, subsample, layer, pooling, comparison.treatment, plan)
        error = np.linalg.norm(vectors - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert error.max() < 1e-5


@pytest.mark.parametrize("name", REMADE)
def test_a_leak_moves_only_texts_with_pads(measured: Measured, name: str) -> None:
    """A leak gives a text without pads the vector of the text alone, and moves most of the others."""
    subsample = measured.part.subsamples[FULL]
    for comparison in (comparison for comparison in measured.grid.comparisons() if comparison.leak == name):
        layer, pooling, plan = comparison.layer, comparison.pooling, comparison.plan
        alone = alone_vectors(measured.pooled, subsample, layer, pooling)
        vectors = treatment_vectors(measured.pooled, subsample, layer, pooling, comparison.treatment, plan)
        moved = np.linalg.norm(vectors - alone, axis=1) / np.linalg.norm(alone, axis=1)
        padded = subsample.widths[plan.name] > measured.part.lengths
        assert moved[~padded].max(initial=0) < 1e-5
        assert np.mean(moved[padded] > 1e-3) > 0.9


def test_every_leak_has_its_recipe() -> None:
    """Every leak is compared with the bug that it re-creates."""
    assert set(RECIPES) == set(REMADE)
