"""Vectors pooled from few passes equal those of batches that are really run."""

from __future__ import annotations

import errno
import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AlbertConfig, AlbertModel

from maskpool.bench.design.subsamples import FULL, Subsample
from maskpool.bench.design.treatments import Positions
from maskpool.bench.encode.forward import Pooled, States, pool_corpus, prove_prefix
from maskpool.bench.encode.positions import RIGHT, Source
from maskpool.encoder import Encoder
from maskpool.errors import MaskpoolError
from maskpool.plans import Plan
from tests.bench import tiny
from tests.matrix import sampled, spread
from tests.poolings import HOST_MODES
from tests.test_plans import SEED, batches, characters_of

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors
    from maskpool.plans import Ints

TOP = 40
NUMBER = 75  # leaves an incomplete last batch in each plan
LAYERS = (0, 1, -1)
KEPT = (0, 3, 31, 32, 64, 74)
PLANS = [
    Plan("random", 8),
    Plan("random", 1),
    Plan("sorted", 8, TOP),
    Plan("sorted", 8, multiple_of=6),
    Plan("random", 8, side="left"),
    Plan("sorted", 8, TOP, side="left"),
]
# Whether the states are a prefix of one pass or each batch is run, and the source.
WAYS = {
    "right, a prefix of one pass": (True, RIGHT),
    "right, run for real": (False, RIGHT),
    "left": (True, Source("left")),
    "right, no mask": (True, Source("right", masked=False)),
    "left, no mask": (True, Source("left", masked=False)),
}
BUGS = [tiny.CountsItsPads, tiny.ForgetsItsMask]


def widths_of(plan: Plan, lengths: Ints) -> Ints:
    return plan.widths(lengths, np.random.default_rng(SEED), characters_of(lengths))


def subsamples_of(lengths: Ints, plans: Sequence[Plan] = PLANS) -> list[Subsample]:
    """Make a subsample of all texts and one of half of them, with separate batches."""
    subsamples = []
    for number, texts in enumerate((np.arange(len(lengths)), np.arange(0, len(lengths), 2))):
        widths = {plan.name: widths_of(plan, lengths[texts]) for plan in plans}
        subsamples.append(Subsample(number, texts, widths, (0, 1), 0))
    return subsamples


def naive(mode: str, x: Tensor) -> Tensor:
    """Pool every position of one sentence, (positions, dim); no position gives zeros."""
    x = x.double()
    steps = torch.arange(1.0, len(x) + 1, dtype=torch.float64).unsqueeze(1)
    if not len(x):
        return x.new_zeros(x.shape[1])
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


def assert_close(vector: Vectors, expected: Tensor) -> None:
    """Assert that a vector is equal to 1e-5 of its length."""
    error = float((torch.as_tensor(vector).double() - expected).norm())
    assert error <= 1e-5 * float(expected.norm()), error


@dataclass
class Truth:
    """A model that runs batches padded by hand, and the vectors pooled from few passes."""

    encoder: Encoder
    ids: list[list[int]]
    layers: tuple[int, ...]
    pooled: Mapping[bool, tuple[Pooled, States]]
    runs: dict[tuple[tuple[int, ...], int, Source], dict[int, Tensor]] = field(default_factory=dict)
    partners: dict[tuple[bool, Source, int, int], int] = field(default_factory=dict)

    @property
    def lengths(self) -> Ints:
        return np.array([len(tokens) for tokens in self.ids])

    def run(self, texts: Sequence[int], width: int, source: Source) -> dict[int, Tensor]:
        """Return the states of a batch by layer, pads included."""
        key = (tuple(texts), width, source)
        if key not in self.runs:
            pads = [[0] * (width - len(self.ids[text])) for text in texts]
            real = [self.ids[text] for text in texts]
            right = source.side == "right"
            input_ids = torch.tensor([a + b if right else b + a for a, b in zip(real, pads, strict=True)])
            masks = [([1] * len(a), [0] * len(b)) for a, b in zip(real, pads, strict=True)]
            mask = torch.tensor([a + b if right else b + a for a, b in masks])
            passed_mask = mask if source.masked else torch.ones_like(mask)
            model = self.encoder.model
            with torch.no_grad():
                last = model(input_ids=input_ids, attention_mask=passed_mask).last_hidden_state
                states = {-1: last}
                if 1 in self.layers:
                    output = model(input_ids=input_ids, attention_mask=passed_mask, output_hidden_states=True)
                    states[1] = output.hidden_states[1]
                    states[0] = model.get_input_embeddings()(input_ids)
            self.runs[key] = states
        return self.runs[key]

    def parts(self, states: Tensor, length: int, source: Source) -> tuple[Tensor, Tensor]:
        """Split the states of one padded text into real tokens and pads."""
        pads = len(states) - length
        return (states[:length], states[length:]) if source.side == "right" else (states[pads:], states[:pads])

    def all_at(self, width: int, source: Source) -> tuple[list[int], dict[int, Tensor]]:
        """Return all texts shorter than a padded length, and their states at that length."""
        texts = np.flatnonzero(self.lengths < width).tolist()
        return texts, self.run(texts, width, source)

    def borrowed(self, text: int, width: int, prefix: bool, source: Source, layer: int, other: int) -> Tensor:
        """Return as many pads of another text as a text needs, repeated from the first if there are too few."""
        texts, states = self.all_at(TOP if prefix and source == RIGHT else width, source)
        pads = self.parts(states[layer][texts.index(other)], int(self.lengths[other]), source)[1]
        return torch.stack([pads[place % len(pads)] for place in range(width - int(self.lengths[text]))])

    def borrowed_sums(self, text: int, width: int, prefix: bool, source: Source, layer: int) -> Tensor:
        """Return the sum of `borrowed` for every text that has a pad, in order."""
        texts, by_layer = self.all_at(TOP if prefix and source == RIGHT else width, source)
        states, lengths = by_layer[layer], torch.from_numpy(self.lengths[texts]).unsqueeze(1)
        pads = states.shape[1] - lengths
        places = torch.arange(width - int(self.lengths[text])) % pads + (lengths if source.side == "right" else 0)
        return states[torch.arange(len(texts)).unsqueeze(1), places].sum(1)

    def partner(self, text: int, width: int, prefix: bool, source: Source) -> int:
        """Return the text whose pads explain the mean that was read; it is another text if another has pads."""
        key = (prefix, source, text, width)
        if key not in self.partners:
            layer, pooled = self.layers[-1], self.pooled[prefix][0]
            vectors = pooled.read(source, "another", layer, "mean", np.array([text]), np.array([width]))
            mean = torch.from_numpy(vectors[0])
            texts, _ = self.all_at(TOP if prefix and source == RIGHT else width, source)
            own_texts, own = self.all_at(width, source)
            real, _ = self.parts(own[layer][own_texts.index(text)], int(self.lengths[text]), source)
            means = (real.sum(0) + self.borrowed_sums(text, width, prefix, source, layer)) / width
            self.partners[key] = texts[int((means - mean).norm(dim=1).argmin())]
            assert (self.partners[key] == text) == (len(texts) == 1)
        return self.partners[key]

    def expected(
        self, states: Tensor, text: int, prefix: bool, source: Source, layer: int, positions: Positions, common: Tensor
    ) -> Tensor:
        """Return the states that a set of positions selects from one text of a batch that was run."""
        width = len(states)
        real, pads = self.parts(states, int(self.lengths[text]), source)
        if positions == "real":
            return real
        if positions == "pads":
            return pads
        if positions == "common":
            pads = common.expand(len(pads), -1)
        elif positions == "another" and len(pads):
            other = self.partner(text, width, prefix, source)
            pads = self.borrowed(text, width, prefix, source, layer, other)
        return torch.cat([real, pads] if source.side == "right" else [pads, real])


def truth_of(encoder: Encoder, folder: Path, layers: tuple[int, ...], unmasked: bool, ways: Sequence[bool]) -> Truth:
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(NUMBER)])
    lengths = np.array([len(tokens) for tokens in ids])
    pooled_of = {}
    for prefix in ways:
        request = tiny.ask(
            lengths,
            subsamples_of(lengths),
            PLANS,
            prefix=prefix,
            layers=layers,
            modes=HOST_MODES,
            kept=KEPT,
            top=TOP,
            unmasked=unmasked,
        )
        (folder / str(prefix)).mkdir()
        pooled, states, _ = pool_corpus(encoder, ids, request, folder / str(prefix), lambda texts: None)
        pooled_of[prefix] = (pooled, states)
    return Truth(encoder, ids, layers, pooled_of)


@pytest.fixture(scope="module")
def truth(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return truth_of(encoder, tmp_path_factory.mktemp("vectors"), LAYERS, True, (True, False))


@pytest.fixture(scope="module")
def planted(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[type[tiny.Planted], Truth]:
    """Return models without the prefix property, with vectors of their last layer only."""
    return {
        bug: truth_of(tiny.plant(encoder, bug), tmp_path_factory.mktemp("vectors"), (-1,), False, (False,))
        for bug in BUGS
    }


def assert_as_run(truth: Truth, prefix: bool, source: Source, positions: Positions, mode: str) -> None:
    """Compare every text of every subsample and plan of a side with its batch, run and pooled naively."""
    pooled, _ = truth.pooled[prefix]
    # The common pad vector, read from the padded end of a text.
    end = "lasttoken" if source.side == "right" else "cls"
    commons = {
        layer: torch.from_numpy(pooled.read(source, "common", layer, end, np.array([0]), np.array([TOP]))[0])
        for layer in truth.layers
    }
    for plan in (plan for plan in PLANS if plan.side == source.side):
        for subsample in subsamples_of(truth.lengths):
            widths = subsample.widths[plan.name]
            for layer in truth.layers:
                vectors = pooled.read(source, positions, layer, mode, subsample.texts, widths)
                for batch in batches(plan, truth.lengths[subsample.texts]):
                    states = truth.run(subsample.texts[batch].tolist(), int(widths[batch[0]]), source)[layer]
                    for row, place in enumerate(batch):
                        text = int(subsample.texts[place])
                        states_read = truth.expected(
                            states[row], text, prefix, source, layer, positions, commons[layer]
                        )
                        assert_close(vectors[place], naive(mode, states_read))


@spread(11, way=WAYS, positions=get_args(Positions), mode=HOST_MODES)
def test_positions_equal_those_of_batches_that_are_run(truth: Truth, way: str, positions: Positions, mode: str) -> None:
    """Vectors of each set of positions equal those of batches that are run and pooled naively."""
    prefix, source = WAYS[way]
    assert_as_run(truth, prefix, source, positions, mode)


@spread(7, bug=BUGS, side=["right", "left"], positions=get_args(Positions), mode=HOST_MODES)
def test_without_the_prefix_property_batches_are_run(
    planted: dict[type[tiny.Planted], Truth], bug: type[tiny.Planted], side: str, positions: Positions, mode: str
) -> None:
    """For a model whose states depend on the padded length, vectors equal those of batches that are run."""
    assert_as_run(planted[bug], False, RIGHT if side == "right" else Source("left"), positions, mode)


@pytest.mark.parametrize("mode", HOST_MODES)
@pytest.mark.parametrize("prefix", [True, False])
def test_a_text_alone_is_a_batch_of_one(truth: Truth, prefix: bool, mode: str) -> None:
    """The vector of a text alone is that of an unpadded batch of one, in every layer."""
    for layer in LAYERS:
        alone = truth.pooled[prefix][0].alone(layer, mode, np.arange(NUMBER))
        for text, length in enumerate(truth.lengths.tolist()):
            assert_close(alone[text], naive(mode, truth.run([text], length, RIGHT)[layer][0]))


@pytest.mark.parametrize("bug", BUGS)
def test_alone_is_alone_though_pads_leak(planted: dict[type[tiny.Planted], Truth], bug: type[tiny.Planted]) -> None:
    """Of a model in which pads move real tokens, a text alone is the text that no pad has moved."""
    truth = planted[bug]
    alone = truth.pooled[False][0].alone(-1, "mean", np.arange(NUMBER))
    moved = truth.pooled[False][0].read(RIGHT, "whole", -1, "mean", np.arange(NUMBER), np.full(NUMBER, TOP))
    for text, length in enumerate(truth.lengths.tolist()):
        assert_close(alone[text], naive("mean", truth.run([text], length, RIGHT)[-1][0]))
    assert np.linalg.norm(alone - moved, axis=1).min() > 1e-3


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_common_pad_is_the_mean_of_pads(encoder: Encoder, tmp_path: Path, side: str, prefix: bool) -> None:
    """The common pad vector is the mean of all pads, with each text padded to the longest length on that side."""
    plan = Plan("sorted", 8, TOP, side="left" if side == "left" else "right")
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(20)])
    lengths = np.array([len(tokens) for tokens in ids])
    subsamples = subsamples_of(lengths, [plan])
    end = "lasttoken" if side == "right" else "cls"
    request = tiny.ask(lengths, subsamples, [plan], prefix=prefix, modes=[end], layers=(1, -1), top=TOP)
    pooled, _, _ = pool_corpus(encoder, ids, request, tmp_path, lambda texts: None)
    source = Source(plan.side)
    everything = np.arange(20)
    for layer in (1, -1):
        truth = Truth(encoder, ids, (1, -1), {})
        states = truth.run(everything.tolist(), TOP, source)[layer]
        pads = [truth.parts(x, int(n), source)[1] for x, n in zip(states, lengths, strict=True)]
        for vector in pooled.read(source, "common", layer, end, everything, np.full(20, TOP)):
            assert_close(vector, torch.cat(pads).double().mean(0))


def test_the_only_text_with_pads_keeps_them(encoder: Encoder, tmp_path: Path) -> None:
    """If no other text of the corpus has a pad, another's pads are those of the text itself."""
    ids, _ = encoder.tokenize(["w1 w2 w3 w4", "w1 w2", "red1 red2 w3 w4"])
    lengths = np.array([len(tokens) for tokens in ids])
    plan = Plan("natural", 3)
    request = tiny.ask(lengths, subsamples_of(lengths, [plan])[:1], [plan], top=6)
    pooled, _, _ = pool_corpus(encoder, ids, request, tmp_path, lambda texts: None)
    texts, widths = np.arange(3), np.full(3, 6)
    own = pooled.read(RIGHT, "whole", -1, "mean", texts, widths)
    np.testing.assert_allclose(pooled.read(RIGHT, "another", -1, "mean", texts, widths), own, rtol=1e-6)


@pytest.mark.parametrize("prefix", [True, False])
def test_kept_states_are_the_longest_padding(truth: Truth, prefix: bool) -> None:
    """Kept states are those of the last layer at the longest padding, in the requested order."""
    _, states = truth.pooled[prefix]
    assert states.texts.tolist() == list(KEPT)
    assert states.values.shape == (len(KEPT), TOP, truth.encoder.dimension)
    for place, text in enumerate(KEPT):
        alone = truth.run([text], TOP, RIGHT)[-1][0]
        torch.testing.assert_close(states.values[place], alone, rtol=1e-4, atol=1e-5)
        assert states.mask[place].tolist() == [column < truth.lengths[text] for column in range(TOP)]


def some(encoder: Encoder, number: int = NUMBER) -> tuple[list[list[int]], Ints]:
    ids, _ = encoder.tokenize([text for text, _ in tiny.make_texts(number)])
    return ids, np.array([len(tokens) for tokens in ids])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.mark.parametrize(("prefix", "place"), sampled(product([True, False], [0, 1, 2, -1]), every=3))
def test_a_killed_call_resumes(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, prefix: bool
) -> None:
    """After a kill, the next call runs only the missing blocks and writes the same files."""
    ids, lengths = some(encoder)
    plans = [PLANS[2], PLANS[5]]
    request = tiny.ask(
        lengths, subsamples_of(lengths), plans, prefix=prefix, layers=(0, -1), modes=("mean", "max"), kept=KEPT, top=TOP
    )
    blocks = request.blocks(lengths)
    stop = range(len(blocks))[place]
    asked_for: list[tuple[int, int | None]] = []
    really = Encoder.layers

    def counted(
        self: Encoder,
        ids: Sequence[Sequence[int]],
        layers: Sequence[int] = (-1,),
        width: int | None = None,
        *others: object,
    ) -> list[Tensor]:
        asked_for.append((len(ids), width))
        return really(self, ids, layers, width, *others)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Encoder, "layers", counted)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, whole_states, _ = pool_corpus(encoder, ids, request, tmp_path / "whole", lambda texts: None)
    preparations = len(asked_for) - len(blocks)
    assert asked_for[preparations:] == blocks
    seen: list[int] = []

    def killed(texts: int) -> None:
        if len(seen) == stop + 1:
            raise KeyboardInterrupt
        seen.append(texts)

    with pytest.raises(KeyboardInterrupt):
        pool_corpus(encoder, ids, request, tmp_path / "killed", killed)
    assert seen == [0, *(texts for texts, _ in blocks[:stop])]
    asked_for.clear()
    counts: list[int] = []
    pooled, states, cost = pool_corpus(encoder, ids, request, tmp_path / "killed", counts.append)
    # The block after which the call was killed is finished, because its count was written before the callback.
    assert asked_for[preparations:] == blocks[stop + 1 :]
    assert counts == [sum(texts for texts, _ in blocks[: stop + 1]), *(texts for texts, _ in blocks[stop + 1 :])]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert torch.equal(states.values, whole_states.values)
    assert min(cost.encoder, cost.treatments) > 0
    everything = np.arange(NUMBER)
    np.testing.assert_array_equal(pooled.alone(-1, "max", everything), whole.alone(-1, "max", everything))


def test_a_finished_call_runs_nothing(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished call is read again without running a block, and counts all its texts."""
    ids, lengths = some(encoder)
    request = replace(
        tiny.ask(lengths, subsamples_of(lengths), PLANS[:1], top=TOP), position_sets={RIGHT: ("real", "whole")}
    )
    first, _, cost = pool_corpus(encoder, ids, request, tmp_path, lambda texts: None)
    before = contents(tmp_path)
    really = Encoder.layers

    def of_one(self: Encoder, ids: Sequence[Sequence[int]], layers: Sequence[int]) -> list[Tensor]:
        assert len(ids) == 1, "one text says how wide the layers are"
        return really(self, ids, layers)

    monkeypatch.setattr(Encoder, "layers", of_one)
    counts: list[int] = []
    again, _, later = pool_corpus(encoder, ids, request, tmp_path, counts.append)
    assert counts == [NUMBER]
    assert later == cost
    assert contents(tmp_path) == before
    np.testing.assert_array_equal(again.alone(-1, "mean", np.arange(9)), first.alone(-1, "mean", np.arange(9)))


@pytest.mark.parametrize("prefix", [True, False])
def test_every_text_is_counted_once(encoder: Encoder, tmp_path: Path, prefix: bool) -> None:
    """Progress adds up to the texts that run: once each with the prefix property, else once per padded length."""
    ids, lengths = some(encoder, 40)
    plan = Plan("sorted", 8, 30)
    request = tiny.ask(lengths, subsamples_of(lengths, [plan]), [plan], prefix=prefix, top=30)
    done: list[int] = []
    pool_corpus(encoder, ids, request, tmp_path, done.append)
    assert sum(done) == sum(texts for texts, _ in request.blocks(lengths)) == (40 if prefix else 80)


@pytest.mark.parametrize("prefix", [True, False])
def test_blocks_of_padded_texts_have_nearly_one_size(encoder: Encoder, prefix: bool) -> None:
    """Blocks of one padded length have nearly the same size, at most 32, and hold each text once."""
    _, lengths = some(encoder)
    request = tiny.ask(lengths, subsamples_of(lengths, PLANS[2:3]), PLANS[2:3], prefix=prefix, top=TOP)
    sizes = [texts for texts, width in request.blocks(lengths) if width == TOP]
    assert sizes == [25, 25, 25]


def test_vectors_are_read_from_files(encoder: Encoder, tmp_path: Path) -> None:
    """The object for other processes does not hold vectors; it reads them from their files each time."""
    ids, lengths = some(encoder)
    request = tiny.ask(lengths, subsamples_of(lengths), PLANS[:1], top=TOP)
    pooled, _, _ = pool_corpus(encoder, ids, request, tmp_path, lambda texts: None)
    assert len(pickle.dumps(pooled)) < 4000 < pooled.alone(-1, "mean", np.arange(NUMBER)).nbytes
    there = pickle.loads(pickle.dumps(pooled))
    np.testing.assert_array_equal(there.alone(-1, "mean", np.arange(9)), pooled.alone(-1, "mean", np.arange(9)))
    file = tmp_path / "right masked real -1 mean.npy"
    np.save(file, np.full_like(np.load(file), 7))
    assert (pooled.alone(-1, "mean", np.arange(NUMBER)) == 7).all()


def test_reading_returns_a_copy(truth: Truth) -> None:
    """Writing to vectors that were read does not change what the next reader gets."""
    pooled, _ = truth.pooled[True]
    first = pooled.alone(-1, "mean", np.arange(5))
    first[:] = 0
    assert pooled.alone(-1, "mean", np.arange(5)).all()


@pytest.mark.parametrize("kept", [(), KEPT])
def test_a_full_disk_is_refused(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Sequence[int]
) -> None:
    """A full disk is refused before the encoder runs, with the missing space in the message."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    ids, lengths = some(encoder)
    request = tiny.ask(lengths, subsamples_of(lengths), PLANS[:1], kept=kept, top=TOP)
    with pytest.raises(
        MaskpoolError, match=r"out must have room for the vectors, 0\.0 GB more: No space left on device"
    ):
        pool_corpus(encoder, ids, request, tmp_path, lambda texts: pytest.fail("a block was run"))


def some_ids(encoder: Encoder, number: int) -> list[list[int]]:
    return some(encoder, number)[0]


@pytest.mark.parametrize("layers", [(-1,), (0, 1, -1)])
@pytest.mark.parametrize("number", [1, 2, 60])
def test_the_clean_model_holds(encoder: Encoder, number: int, layers: tuple[int, ...]) -> None:
    """A model that masks correctly differs by float32 noise, and not at all in its embeddings."""
    proof = prove_prefix(encoder, some_ids(encoder, number), 64, layers, np.random.default_rng(0))
    assert proof.holds
    assert proof.difference < 1e-5
    assert prove_prefix(encoder, some_ids(encoder, 5), 64, (0,), np.random.default_rng(0)).difference == 0


def difference(encoder: Encoder, ids: list[list[int]], top: int) -> float:
    """Return the largest difference between any text alone and padded to ``top``, by a slow loop."""
    differences = []
    for tokens in ids:
        alone, _ = encoder.states([tokens])
        padded, _ = encoder.states([tokens], top)
        differences.append(float((alone - padded[:, : len(tokens)]).abs().max() / alone.square().mean().sqrt()))
    return max(differences)


def test_a_sample_is_not_trusted_against_the_census(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix property is denied if the census says that outputs at pads count the pads in this attention."""
    here = str(encoder.model.config._attn_implementation)
    for appends, holds in (({here: True}, True), ({here: False}, False), ({here: True, "other": False}, True)):
        row = SimpleNamespace(name="some architecture", appends=appends)
        monkeypatch.setattr("maskpool.bench.encode.forward.find_row", lambda _, row=row: row)
        proof = prove_prefix(encoder, some_ids(encoder, 5), 64, (-1,), np.random.default_rng(0))
        assert (proof.holds, proof.denied_by) == (holds, "" if holds else "some architecture")
        assert proof.difference < 1e-5


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize("number", [3, 60])
def test_a_leak_is_found(encoder: Encoder, bug: type[tiny.Planted], number: int) -> None:
    """A model whose pads count the pads or leak into real tokens lacks the prefix property, even on few texts."""
    proof = prove_prefix(tiny.plant(encoder, bug), some_ids(encoder, number), 64, (-1,), np.random.default_rng(0))
    assert not proof.holds
    assert proof.difference > 2e-3


def test_a_leak_is_found_in_texts_of_one_length(encoder: Encoder) -> None:
    """Pads that reach real tokens are found even if all texts have one length."""
    ids, _ = encoder.tokenize(["w1 w2 w3", "w4 w5 w6", "red1 red2 w3"])
    leaking = tiny.plant(encoder, tiny.ForgetsItsMask)
    proof = prove_prefix(leaking, ids, 64, (-1,), np.random.default_rng(0))
    assert not proof.holds
    # Every text is in the sample: the largest difference is that of a slow loop, to float64.
    assert proof.difference == pytest.approx(difference(leaking, ids, 64), rel=0.2)


@pytest.mark.parametrize("layers", [(-1,), (-1, 0), (0, -1)])
def test_nan_states_are_refused(encoder: Encoder, layers: tuple[int, ...]) -> None:
    """A model that returns NaN at pads is refused, because vectors that include pads cannot be clustered."""
    planted = tiny.plant(encoder, tiny.GivesNoNumbersAtPads)
    with pytest.raises(
        MaskpoolError, match=r"\Amodels must give token states that are numbers; some of .* are NaN: choose another"
    ):
        prove_prefix(planted, some_ids(encoder, 60), 64, layers, np.random.default_rng(0))


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_infinite_vectors_are_refused(encoder: Encoder, tmp_path: Path, mode: str) -> None:
    """States that overflow in a text outside the sample are refused when they are pooled."""

    class Overflows(tiny.Planted):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
            states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return SimpleNamespace(last_hidden_state=states.masked_fill((input_ids == 5).unsqueeze(2), torch.inf))

    ids, _ = encoder.tokenize(["w2 w3", "w4 w5", "w1 w2"])
    assert 5 in ids[2]
    lengths = np.array([len(tokens) for tokens in ids])
    request = replace(tiny.ask(lengths, [], [], modes=[mode], top=6), position_sets={RIGHT: ("real",)})
    with pytest.raises(MaskpoolError, match=rf"some vectors of layer -1 pooled by {mode} are not finite"):
        pool_corpus(tiny.plant(encoder, Overflows), ids, request, tmp_path, lambda texts: None)


def narrow() -> Encoder:
    """An ALBERT, whose embedding matrix is narrower than its layers."""
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=len(tiny.VOCABULARY), embedding_size=12, hidden_size=32, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=48, max_position_embeddings=tiny.LIMIT,
    )  # fmt: skip
    return Encoder.of(AlbertModel(config).train(False), tiny.tokenizer())


def test_layers_may_have_different_widths(tmp_path: Path) -> None:
    """Vectors and kept states have the width of their layer, even if the embedding matrix is narrower."""
    encoder = narrow()
    ids, lengths = some(encoder, 6)
    for layers, widths in (((0, -1), (12, 32)), ((0,), (12,))):
        folder = tmp_path / str(layers)
        folder.mkdir()
        request = tiny.ask(lengths, [], [], layers=layers, kept=(1, 2), top=30)
        pooled, states, _ = pool_corpus(
            encoder, ids, replace(request, position_sets={RIGHT: ("real",)}), folder, lambda n: None
        )
        assert tuple(pooled.alone(layer, "mean", np.arange(6)).shape[1] for layer in layers) == widths
        assert states.values.shape[2] == widths[-1]


@pytest.mark.parametrize(
    ("layers", "deepest"), [((-2, 0), -2), ((-1, 1), -1), ((2, -3), 2), ((0, 2), 2), ((1, -3), 1), ((-3, -2), -2)]
)
def test_the_deepest_layer_is_kept(tmp_path: Path, layers: tuple[int, ...], deepest: int) -> None:
    """Heads read the states of the layer nearest to the output, with layers counted from either end."""
    encoder = narrow()
    ids, lengths = some(encoder, 4)
    request = replace(tiny.ask(lengths, [], [], layers=layers, kept=(1, 3), top=30), position_sets={RIGHT: ("real",)})
    _, states, _ = pool_corpus(encoder, ids, request, tmp_path, lambda texts: None)
    (expected,) = encoder.layers([ids[1], ids[3]], (deepest,), 30)
    torch.testing.assert_close(states.values, expected, rtol=1e-4, atol=1e-5)


def test_a_changed_request_has_another_hash() -> None:
    """Equal requests have equal hashes, and a change of any part changes the hash."""
    lengths = np.arange(3, 12)
    request = tiny.ask(lengths, subsamples_of(lengths), PLANS[:1], kept=(1, 2))
    others = [
        tiny.ask(lengths, subsamples_of(lengths), PLANS[:2], kept=(1, 2)),
        tiny.ask(lengths, subsamples_of(lengths)[:1], PLANS[1:2], kept=(1, 2)),
        tiny.ask(lengths, subsamples_of(lengths), PLANS[:1], kept=(1, 3)),
        replace(request, poolings=tiny.ask(lengths, [], [], modes=["max"]).poolings),
        replace(request, position_sets={RIGHT: ("real",)}),
        replace(request, layers=(0,)),
        replace(request, prefix=False),
        replace(request, top=41),
        replace(request, seed=1),
    ]
    assert tiny.ask(lengths, subsamples_of(lengths), PLANS[:1], kept=(1, 2)).sha256 == request.sha256
    assert len({changed.sha256 for changed in (request, *others)}) == 1 + len(others)


def test_states_that_depend_on_other_texts_are_refused(encoder: Encoder) -> None:
    """A model whose states depend on the other texts of a batch is refused, even at one padded length."""
    planted = tiny.plant(encoder, tiny.ReadsItsBatch)
    with pytest.raises(MaskpoolError, match=r"models .*depend on the other texts of the batch, even if all are padded"):
        prove_prefix(planted, some_ids(encoder, 60), 64, (-1,), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "holds"),
    [(lambda encoder: encoder, True)] + [(lambda encoder, bug=bug: tiny.plant(encoder, bug), False) for bug in BUGS],
)
def test_noise_is_measured_again_and_forgiven(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, make: Callable[[Encoder], Encoder], holds: bool
) -> None:
    """A large difference is noise if it vanishes in float64, and a leak otherwise."""
    monkeypatch.setattr("maskpool.bench.encode.forward.CLEAN", 1e-10)
    proof = prove_prefix(make(encoder), some_ids(encoder, 60), 64, (-1,), np.random.default_rng(0))
    assert proof.holds == holds
    assert proof.difference > 1e-10


def test_half_precision_is_forgiven(model_folder: Path) -> None:
    """A model in bfloat16 has the prefix property in spite of larger noise, and stays in bfloat16."""
    half = Encoder.load(str(model_folder), dtype="bfloat16")
    proof = prove_prefix(half, some_ids(half, 60), 64, (-1,), np.random.default_rng(0))
    assert proof.holds
    assert half.model.dtype == torch.bfloat16


def test_the_first_subsample_is_full() -> None:
    """The first subsample of these tests has the number of the full data."""
    assert subsamples_of(np.arange(3, 9))[0].number == FULL
