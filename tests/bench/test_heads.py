"""Attention heads, trained and served with and without the mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskpool import AttentionPooling
from maskpool.bench import heads
from maskpool.bench.forward import States
from maskpool.bench.quality import cluster_ami

if TYPE_CHECKING:
    from maskpool.bench.arms import Vectors
    from maskpool.plans import Ints

CLASSES, TEXTS, WIDTH, DIM = 6, 90, 10, 12


@pytest.fixture(scope="module")
def codes() -> Ints:
    return np.arange(TEXTS) % CLASSES * 7  # labels need not be 0, 1, 2, …


@pytest.fixture(scope="module")
def states(codes: Ints) -> States:
    """Each text has one token of its class among noise, and its pads are loud garbage."""
    random = torch.Generator().manual_seed(1)
    values = torch.randn(TEXTS, WIDTH, DIM, generator=random) / 2
    lengths = torch.randint(2, WIDTH, (TEXTS,), generator=random)
    mask = torch.arange(WIDTH) < lengths.unsqueeze(1)
    values[:, 0, :CLASSES] += 3 * torch.nn.functional.one_hot(torch.from_numpy(codes // 7), CLASSES)
    values[~mask] = 20 * torch.randn(int((~mask).sum()), DIM, generator=random)
    return States(np.arange(TEXTS), values, mask)


def measure(states: States, codes: Ints, seed: int = 0) -> dict[str, Any]:
    return heads.two_by_two(states, codes, 2, seed, lambda: None)


@pytest.fixture(scope="module")
def found(states: States, codes: Ints) -> dict[str, Any]:
    return measure(states, codes)


def test_a_masked_head_spends_nothing_on_pads(found: dict[str, Any]) -> None:
    """Served with the mask, a head spends exactly 0 attention on pads, however it was trained; without, it does not."""
    shares = {(row["trained"], row["served"]): row["attention_on_pads"] for row in found["rows"]}
    assert len(shares) == 4
    for (_, served), share in shares.items():
        assert share == 0 if served == "with mask" else 0 < share <= 1


def test_pad_fraction_is_the_share_of_pads(found: dict[str, Any], states: States) -> None:
    """Beside the attention stands what a head that ignores content would give."""
    assert found["rows"][0]["pad_fraction"] == pytest.approx(1 - float(states.mask.double().mean()))
    assert found["width"] == WIDTH
    assert found["texts"] == TEXTS


def test_garbage_in_pads_harms_the_head_that_reads_it(found: dict[str, Any]) -> None:
    """The head that never sees a pad clusters better than the one that always does; its own row is the reference."""
    ami = {(row["trained"], row["served"]): row["ami"] for row in found["rows"]}
    assert ami["with mask", "with mask"] > ami["without mask", "without mask"] + 0.2
    reference = found["rows"][0]
    assert (reference["trained"], reference["served"]) == ("with mask", "with mask")
    assert (reference["delta"], reference["low"], reference["high"]) == (0, 0, 0)
    for row in found["rows"]:
        assert row["delta"] == pytest.approx(row["ami"] - reference["ami"])
        assert (row["low"] + row["high"]) / 2 == pytest.approx(row["delta"])
        assert row["floor"] == reference["floor"] > 0


def test_intervals_hold_at_once(found: dict[str, Any]) -> None:
    """The three intervals of the table are Student's at a third of 5 % each, around the same differences."""
    wide = heads.hold_at_once(found)
    assert {**wide, "rows": found["rows"]} == found
    for row, narrow in zip(wide["rows"], found["rows"], strict=True):
        assert {**row, "low": narrow["low"], "high": narrow["high"]} == narrow
        factor = stats.t.ppf(1 - 0.05 / 6, heads.HEAD_SEEDS - 1) / stats.t.ppf(0.975, heads.HEAD_SEEDS - 1)
        for end in ("low", "high"):
            assert row[end] - row["delta"] == pytest.approx(factor * (narrow[end] - narrow["delta"]))


def test_the_same_seed_gives_the_same_table(found: dict[str, Any], states: States, codes: Ints) -> None:
    """Equal seeds give equal tables, whatever torch's own seed, and other seeds give others."""
    torch.manual_seed(99)
    assert measure(states, codes) == found
    assert measure(states, codes, seed=5) != found


def test_pads_do_not_reach_the_masked_row(found: dict[str, Any], states: States, codes: Ints) -> None:
    """Other garbage in the pads changes no digit of the head that is trained and served with the mask."""
    other = States(states.texts, states.values.masked_fill(~states.mask.unsqueeze(2), 1e3), states.mask)
    assert measure(other, codes)["rows"][0] == found["rows"][0]


def test_scored_classes_were_not_trained_on(states: States, codes: Ints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each head is trained on half of the classes and scored on all texts of the other half, and of no other."""
    trained: list[set[int]] = []
    scored: list[tuple[set[int], int]] = []
    train = heads._train

    def spy_train(values: Tensor, mask: Tensor, labels: Tensor, seed: int) -> AttentionPooling:
        trained.append(set(labels.tolist()))
        return train(values, mask, labels, seed)

    def spy_score(vectors: Vectors, labels: Ints, seed: int) -> float:
        scored.append((set(labels.tolist()), len(labels)))
        if len(scored) % 2 == 0:  # the second seed of a cell
            assert scored[-1] == scored[-2]
        for last in trained[-1:]:
            assert not last & set(labels.tolist())
            assert last | set(labels.tolist()) == set(codes.tolist())
        return cluster_ami(vectors, labels, seed)

    monkeypatch.setattr(heads, "_train", spy_train)
    monkeypatch.setattr(heads, "cluster_ami", spy_score)
    measure(states, codes)
    assert len(trained) == 2 * heads.HEAD_SEEDS
    assert {len(classes) for classes in trained} == {CLASSES // 2}
    assert len({frozenset(classes) for classes in trained}) > 1, "each head seed has a split of its own"
    assert {number for _, number in scored} == {TEXTS // 2}


def test_each_head_is_counted(states: States, codes: Ints) -> None:
    """Progress adds up to two heads a seed, and torch's own random numbers are left as they were."""
    before, done = torch.random.get_rng_state(), []
    heads.two_by_two(states, codes, 2, 0, lambda: done.append(1))
    assert len(done) == 2 * heads.HEAD_SEEDS
    assert torch.equal(before, torch.random.get_rng_state())
