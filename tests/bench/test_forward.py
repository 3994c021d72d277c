"""One forward pass stands for every plan."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from maskpool import build_pooling
from maskpool.bench.forward import Pooled, States, pool_corpus, prove_prefix
from maskpool.encoder import Encoder
from maskpool.errors import UserError
from maskpool.plans import Plan
from tests.bench import tiny
from tests.poolings import HOST_MODES
from tests.test_plans import SEED, batches

if TYPE_CHECKING:
    from maskpool.plans import Ints

TOP = 40
PLANS = [
    Plan("sorted", 8, "longest"),
    Plan("random", 8, "longest"),
    Plan("random", 1, "longest"),
    Plan("sorted", 8, TOP),
    Plan("sorted", 8, 24),
]
Study = tuple[list[list[int]], "Ints", Pooled, States]


@pytest.fixture(scope="module")
def study(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """75 texts, so that the last batch of each loop is a part of one."""
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(75)])
    lengths = np.array([len(tokens) for tokens in ids])
    everything = np.arange(len(ids))
    asked = [(everything, plan.widths(lengths, np.random.default_rng(SEED))) for plan in PLANS]
    # Half of the texts at other widths: what a replicate asks for.
    half = everything[::2]
    asked.append((half, PLANS[1].widths(lengths[half], np.random.default_rng(1))))
    kept = np.array([0, 3, 31, 32, 64, 74])
    poolings = {mode: build_pooling(mode) for mode in HOST_MODES}
    pooled, states, _ = pool_corpus(
        encoder, ids, poolings, asked, kept, tmp_path_factory.mktemp("vectors"), lambda texts: None
    )
    return ids, lengths, pooled, states


def naive(mode: str, x: Tensor) -> Tensor:
    """Pool every position of one sentence, (positions, dim)."""
    steps = torch.arange(1.0, len(x) + 1).unsqueeze(1)
    match mode:
        case "mean":
            return x.mean(0)
        case "max":
            return x.amax(0)
        case "cls":
            return x[0]
        case "lasttoken":
            return x[-1]
        case "weightedmean":
            return (x * steps).sum(0) / steps.sum()
        case "mean_sqrt_len_tokens":
            return x.sum(0) / math.sqrt(len(x))
    raise AssertionError(mode)


def assert_same_direction(found: object, vector: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(found), vector / vector.norm(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", HOST_MODES)
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}, {plan.batch_size}")
def test_every_plan_is_as_if_it_had_been_run(encoder: Encoder, study: Study, plan: Plan, mode: str) -> None:
    """Pads included, or alone, are what each batch of the plan gives when it is really run and pooled naively."""
    ids, lengths, pooled, _ = study
    everything = np.arange(len(ids))
    pairs = pooled.pairs(everything, plan.widths(lengths, np.random.default_rng(SEED)))
    for batch in batches(plan, lengths):
        width = None if plan.pad_to == "longest" else plan.pad_to
        states, _ = encoder.states([ids[text] for text in batch], width)
        for x, text in zip(states, batch, strict=True):
            assert_same_direction(pooled.included[mode][pairs[text]], naive(mode, x))
            if len(x) > lengths[text]:
                # A position's weight counts from the first real token, not from the first pad.
                pads = pooled.pads[mode][pairs[text]]
                assert_same_direction(pads, naive(mode, x[lengths[text] :]))
            else:
                assert not pooled.pads[mode][pairs[text]].any()


@pytest.mark.parametrize("mode", HOST_MODES)
def test_pads_excluded_is_each_text_alone(encoder: Encoder, study: Study, mode: str) -> None:
    """Pads excluded is what a text gives that is run alone, unpadded."""
    ids, _, pooled, _ = study
    for text, tokens in enumerate(ids):
        states, _ = encoder.states([tokens])
        assert_same_direction(pooled.excluded[mode][text], naive(mode, states[0]))


def test_kept_states_are_the_longest_padding(encoder: Encoder, study: Study) -> None:
    """The states that are kept are those of each text padded furthest, in the order asked for, with their mask."""
    ids, lengths, _, states = study
    assert states.values.shape == (len(states.texts), TOP, encoder.dimension)
    for place, text in enumerate(states.texts.tolist()):
        alone, mask = encoder.states([ids[text]], TOP)
        torch.testing.assert_close(states.values[place], alone[0], rtol=1e-4, atol=1e-5)
        assert states.mask[place].tolist() == mask[0].bool().tolist()
        assert states.mask[place].sum() == lengths[text]


def test_every_text_is_counted_once(encoder: Encoder, tmp_path: Path) -> None:
    """Progress adds up to the number of texts."""
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(40)])
    done: list[int] = []
    everything = np.arange(40)
    asked = [(everything, np.full(40, 30))]
    pool_corpus(encoder, ids, {}, asked, np.zeros(0, np.int64), tmp_path, done.append)
    assert sum(done) == 40


def test_vectors_lie_in_files(study: Study) -> None:
    """Pooled vectors are mapped from files, so that a large corpus takes little memory."""
    _, _, pooled, _ = study
    for vectors in (pooled.excluded, pooled.included, pooled.pads):
        assert all(isinstance(array, np.memmap) for array in vectors.values())


def test_a_full_disk_is_told(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room for the vectors is refused before the encoder runs, with the room that is missing."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(type(encoder), "states", None)
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(40)])
    asked = [(np.arange(40), np.full(40, 30))]
    poolings = {"mean": build_pooling("mean")}
    with pytest.raises(UserError, match=r"--out must have room for the vectors, 0\.0 GB more: No space left on device"):
        pool_corpus(encoder, ids, poolings, asked, np.zeros(0, np.int64), tmp_path, lambda texts: None)


def test_the_clean_model_is_accepted(encoder: Encoder) -> None:
    """The difference of a model that masks properly is noise of float32."""
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(60)])
    assert prove_prefix(encoder, ids, 64, np.random.default_rng(0)) < 1e-5


@pytest.mark.parametrize("bug", [tiny.CountsItsPads, tiny.ForgetsItsMask])
@pytest.mark.parametrize("number", [3, 60])
def test_a_leak_is_refused(encoder: Encoder, bug: type[tiny.Planted], number: int) -> None:
    """A model whose pads count the pads, or leak into real tokens, is refused by name, on few texts too."""
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(number)])
    with pytest.raises(UserError, match=r"--model .*its token states depend on how far a text is padded \(by .*choose"):
        prove_prefix(tiny.plant(encoder, bug), ids, 64, np.random.default_rng(0))


def test_a_leak_is_refused_though_texts_are_equally_long(encoder: Encoder) -> None:
    """Texts of one length need no pads among themselves, and pads that reach real tokens are found all the same."""
    ids, _ = encoder.tokenize(["w1 w2 w3", "w4 w5 w6", "red1 red2 w3"] * 5)
    with pytest.raises(UserError, match="its token states depend on how far a text is padded"):
        prove_prefix(tiny.plant(encoder, tiny.ForgetsItsMask), ids, 64, np.random.default_rng(0))


def test_states_that_are_no_numbers_are_refused(encoder: Encoder) -> None:
    """A model that gives NaN at pads is refused: its vectors with pads included could not be clustered."""
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(60)])
    with pytest.raises(UserError, match="--model"):
        prove_prefix(tiny.plant(encoder, tiny.GivesNoNumbersAtPads), ids, 64, np.random.default_rng(0))


def test_noise_of_float32_is_measured_again_and_forgiven(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that float64 does not show is noise, even where it exceeds what is tolerated."""
    monkeypatch.setattr("maskpool.bench.forward._PREFIX_TOLERANCE", 1e-12)
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(60)])
    assert 1e-12 < prove_prefix(encoder, ids, 64, np.random.default_rng(0)) < 1e-5
