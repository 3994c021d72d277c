"""Learned poolings: heads trained here, and heads that others have trained."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import stats
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor

from maskpool import build_pooling
from maskpool.bench.design.study import LEARNED, is_saved, parse_study, read_study
from maskpool.bench.encode.forward import States
from maskpool.bench.report.verdicts import judge
from maskpool.bench.score import heads
from maskpool.bench.score.metrics import cluster_ami
from maskpool.encoder import TokenStates
from maskpool.errors import MaskpoolError
from maskpool.integrations.sentence_transformers import Pooling
from maskpool.integrations.sklearn import PoolingClassifier
from maskpool.nn import TopKMeanPooling
from tests.bench import tiny
from tests.matrix import cut, sampled

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors
    from maskpool.plans import Ints

CLASSES, TEXTS, WIDTH, DIM = 6, 90, 10, 12
ENOUGH_SEEDS = 5


@pytest.fixture(scope="module", autouse=True)
def _little_training() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskpool.integrations.sklearn.heads._FEWEST_STEPS", cut(20, 400))
        yield


@pytest.fixture(scope="module")
def codes() -> Ints:
    return np.arange(TEXTS) % CLASSES * 7  # labels need not be 0, 1, 2, …


@pytest.fixture(scope="module")
def states(codes: Ints) -> States:
    """Return texts with one token of their class among noise, and large random values at pads."""
    random = torch.Generator().manual_seed(1)
    values = torch.randn(TEXTS, WIDTH, DIM, generator=random) / 2
    lengths = torch.randint(2, WIDTH, (TEXTS,), generator=random)
    mask = torch.arange(WIDTH) < lengths.unsqueeze(1)
    values[:, 0, :CLASSES] += 3 * torch.nn.functional.one_hot(torch.from_numpy(codes // 7), CLASSES)
    values[~mask] = 20 * torch.randn(int((~mask).sum()), DIM, generator=random)
    return States(np.arange(TEXTS), values, mask)


def measure(
    states: States, codes: Ints, seed: int = 0, mode: str = "attention", seeds: int = cut(3, ENOUGH_SEEDS)
) -> list[dict[str, Any]]:
    return [heads.measure_head(mode, states, codes, head_seed, lambda: None) for head_seed in range(seed, seed + seeds)]


@pytest.fixture(scope="module")
def measured(states: States, codes: Ints) -> list[dict[str, Any]]:
    return measure(states, codes)


@pytest.fixture(scope="module")
def table(measured: list[dict[str, Any]]) -> dict[str, Any]:
    return heads.two_by_two({"attention": measured})


def test_a_masked_head_gives_pads_no_attention(table: dict[str, Any]) -> None:
    """A head gives pads exactly 0 attention with the mask and more without, no matter how it was trained."""
    shares = {(row["trained"], row["served"]): row["attention_on_pads"] for row in table["rows"]}
    assert len(shares) == 4
    for (_, served), share in shares.items():
        assert share == 0 if served == "with mask" else 0 < share <= 1


def test_pad_fraction_is_the_share_of_pads(table: dict[str, Any], states: States) -> None:
    """The result has the fraction of pads, which a head that ignores content would give as attention."""
    assert table["rows"][0]["pad_fraction"] == pytest.approx(1 - float(states.mask.double().mean()))
    assert table["width"] == WIDTH
    assert table["texts"] == TEXTS


def test_garbage_in_pads_harms_the_head_that_reads_it(table: dict[str, Any]) -> None:
    """The head that never reads pads clusters better than the one that always does, and is the reference."""
    ami = {(row["trained"], row["served"]): row["ami"] for row in table["rows"]}
    assert ami["with mask", "with mask"] > ami["without mask", "without mask"] + 0.2
    reference = table["rows"][0]
    assert (reference["trained"], reference["served"]) == ("with mask", "with mask")
    assert (reference["delta"], reference["low"], reference["high"]) == (0, 0, 0)
    for row in table["rows"]:
        assert row["delta"] == pytest.approx(row["ami"] - reference["ami"])
        assert (row["low"] + row["high"]) / 2 == pytest.approx(row["delta"])
        assert row["floor"] == reference["floor"] > 0


def test_intervals_hold_at_once(measured: list[dict[str, Any]]) -> None:
    """Intervals are those of scipy's paired t-test over head seeds, with 5 % divided by their number."""
    for modes in (LEARNED[:1], LEARNED[:2]):
        table = heads.two_by_two(dict.fromkeys(modes, measured))
        assert table["compared"] == 3 * len(modes)
        for row, (mode, place) in zip(table["rows"], product(modes, range(4)), strict=True):
            values = np.array([of_seed["ami"] for of_seed in measured])
            assert (row["pooling"], row["ami"]) == (mode, pytest.approx(values[:, place].mean()))
            if place:
                test = stats.ttest_rel(values[:, place], values[:, 0])
                interval = test.confidence_interval(1 - 0.05 / table["compared"])
                assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


def test_seeds_that_settle_a_head_are_said() -> None:
    """A head's verdict that is unknown says how many seeds settle it, and heads that vary as much do settle it."""
    rng = np.random.default_rng(0)

    def row_of(seeds: int) -> dict[str, Any]:
        spread = np.resize([-0.03, 0.03], seeds) + rng.normal(0, 1e-4, seeds)
        cells = [
            {"ami": [0.5, 0.5 + d, 0.5, 0.5], "attention_on_pads": [0.0] * 4, "mean_pooling_ami": 0.5, "epochs": 1}
            | {"texts": 90, "width": 8, "pad_fraction": 0.5}
            for d in spread
        ]
        row: dict[str, Any] = heads.two_by_two({"attention": cells})["rows"][1]
        return row | judge(row | {"metric": "AMI"}, 0.03, seeds)

    unknown = row_of(4)
    assert (unknown["kind"], unknown["texts_needed"]) == ("unknown", None)
    needed = unknown["seeds_needed"]
    assert unknown["sentence"].endswith(f"about {needed} seeds would settle it")
    assert row_of(2 * (needed // 2 + 1))["kind"] != "unknown"
    assert row_of(2 * (needed // 4))["kind"] == "unknown"


def test_the_same_seed_gives_the_same_numbers(measured: list[dict[str, Any]], states: States, codes: Ints) -> None:
    """Equal seeds give equal numbers for any global seed of torch, and different seeds give different numbers."""
    torch.manual_seed(99)
    assert measure(states, codes) == measured
    assert measure(states, codes, seed=5, seeds=1) != measured[:1]


@pytest.mark.parametrize("mode", sampled(LEARNED, every=3))
@pytest.mark.parametrize("masked", [True, False])
def test_the_head_is_the_one_that_users_train(mode: str, masked: bool, states: States, codes: Ints) -> None:
    """On the same tokens and with the same seed, the harness and `PoolingClassifier` give the same weights."""
    mask = states.mask if masked else torch.ones_like(states.mask)
    texts = [text[real] for text, real in zip(states.values, mask, strict=True)]
    offsets = torch.tensor([0, *map(len, texts)]).cumsum(0)
    expected = PoolingClassifier(mode, random_state=3).fit(TokenStates(torch.cat(texts), offsets), codes).pooling_
    trained = heads._train(mode, states.values, mask, codes, 3).pooling_.state_dict()
    assert trained.keys() == expected.state_dict().keys() != set()
    assert all(torch.equal(weight, trained[name]) for name, weight in expected.state_dict().items())


def test_pads_do_not_reach_the_masked_row(measured: list[dict[str, Any]], states: States, codes: Ints) -> None:
    """Other values at pads change no digit of the head that is trained and served with the mask."""
    other = States(states.texts, states.values.masked_fill(~states.mask.unsqueeze(2), 1e3), states.mask)
    for alone, changed in zip(measured, measure(other, codes), strict=True):
        assert changed["ami"][0] == alone["ami"][0]
        assert changed["ami"][3] != alone["ami"][3]


def test_scored_classes_were_not_trained_on(states: States, codes: Ints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each head is trained on half of the classes and scored on exactly the texts of the other half."""
    trained: list[set[int]] = []
    scored: list[tuple[set[int], int]] = []
    train = heads._train

    def spy_train(mode: str, values: Tensor, mask: Tensor, labels: Ints, seed: int) -> PoolingClassifier:
        trained.append(set(labels.tolist()))
        return train(mode, values, mask, labels, seed)

    def spy_score(vectors: Vectors, labels: Ints, seed: int) -> float:
        scored.append((set(labels.tolist()), len(labels)))
        for last in trained[-1:]:
            assert not last & set(labels.tolist())
            assert last | set(labels.tolist()) == set(codes.tolist())
        return cluster_ami(vectors, labels, seed)

    monkeypatch.setattr(heads, "_train", spy_train)
    monkeypatch.setattr(heads, "cluster_ami", spy_score)
    measure(states, codes)
    assert len(trained) == 2 * cut(3, ENOUGH_SEEDS)
    assert {len(classes) for classes in trained} == {CLASSES // 2}
    assert len({frozenset(classes) for classes in trained}) > 1, "each head seed has a different split"
    assert {number for _, number in scored} == {TEXTS // 2}


def test_each_head_is_counted(states: States, codes: Ints) -> None:
    """Progress counts two heads per head seed, and the global random state of torch does not change."""
    before, done = torch.random.get_rng_state(), []
    heads.measure_head("attention", states, codes, 0, lambda: done.append(1))
    assert len(done) == 2
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("mode", sampled(LEARNED, every=3))
def test_every_learned_pooling(mode: str, states: States, codes: Ints) -> None:
    """Each learned pooling can be trained, and gives pads weight 0 if and only if it is served with the mask."""
    rows = heads.two_by_two({mode: measure(states, codes, mode=mode, seeds=ENOUGH_SEEDS)})["rows"]
    assert rows[0]["ami"] > 0.1
    for row in rows:
        assert (row["attention_on_pads"] == 0) == (row["served"] == "with mask")


def _saved(folder: Path, dim: int = DIM, **options: Any) -> Path:
    module = Pooling(dim, "attention", **options)
    torch.nn.init.normal_(module.pooling.get_parameter("query"), generator=torch.Generator().manual_seed(0))
    folder.mkdir()
    module.save(str(folder))
    return folder


def test_a_mode_is_served_with_its_options(states: States) -> None:
    """A spelling with options pools as the layer with these options."""
    spelling = f"{TopKMeanPooling.mode}(k=2)"
    pooled = heads.layers_of([spelling], DIM)[spelling](states.values, states.mask)
    assert torch.equal(pooled, TopKMeanPooling(k=2)(states.values, states.mask))
    assert not torch.equal(pooled, TopKMeanPooling(k=3)(states.values, states.mask))


def test_a_saved_head_is_not_trained(tmp_path: Path, states: States) -> None:
    """The folder of a trained head can be named like a mode, and its weights are frozen."""
    path = str(_saved(tmp_path / "head"))
    layers = heads.layers_of(["mean", path], DIM)
    expected = build_pooling("attention", DIM)
    expected.load_state_dict(Pooling.load(path).pooling.state_dict())
    assert torch.equal(layers[path](states.values, states.mask), expected(states.values, states.mask))
    assert not any(parameter.requires_grad for parameter in layers[path].parameters())
    assert is_saved(path)
    assert not is_saved("mean")


def test_the_hash_of_a_head_follows_its_weights(tmp_path: Path) -> None:
    """The hash of a head changes with its weights and with its settings."""
    path = _saved(tmp_path / "head")
    first = heads.saved_hash(str(path))
    assert first == heads.saved_hash(str(path))
    assert first != heads.saved_hash(str(_saved(tmp_path / "other", num_heads=2)))
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert first != heads.saved_hash(str(path))


def test_heads_that_do_not_fit(tmp_path: Path) -> None:
    """A head for another width, or one with a broken file, is refused with the reason."""
    wide = str(_saved(tmp_path / "wide", 2 * DIM))
    with pytest.raises(
        MaskpoolError, match=rf"states are {DIM} wide; the head in .*wide is for tokens that are {2 * DIM}"
    ):
        heads.layers_of([wide], DIM)
    broken = _saved(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(MaskpoolError, match=r"poolings must be modes or folders.*broken could not be opened"):
        heads.layers_of([str(broken)], DIM)
    (broken / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(MaskpoolError, match="could not be opened"):
        heads.layers_of([str(broken)], DIM)


def test_a_whole_model_is_not_a_head(tmp_path: Path) -> None:
    """The folder of a whole model is refused; the message names the folder of its head if it has one."""
    model = tiny.save_model(tmp_path / "model")
    with pytest.raises(MaskpoolError, match=r"could not be opened: .* has no pooling_mode, .*, or save only the head"):
        heads.layers_of([str(model)], DIM)
    module = Pooling(32, "attention")
    modules: Any = [Transformer(str(model)), module]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "whole"))
    inside = str(tmp_path / "whole" / "1_Pooling")
    with pytest.raises(MaskpoolError, match=rf"of a whole model: name the folder of its head, {inside}$"):
        heads.layers_of([str(tmp_path / "whole")], 32)
    assert list(heads.layers_of([inside], 32)) == [inside]


def test_the_folder_of_a_head_is_relative_to_the_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a head is relative to the study file, like data files, and not to the working directory."""
    for place in ("study/heads", "elsewhere/heads"):
        (tmp_path / place).mkdir(parents=True)
    head, other = _saved(tmp_path / "study" / "heads" / "mine"), _saved(tmp_path / "elsewhere" / "heads" / "other")
    file = tmp_path / "study" / "study.toml"
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.write_text(f'poolings = ["mean", "heads/mine", "{other}"]', encoding="utf-8")
    study = read_study(file)
    assert study.poolings == ("mean", str(head), str(other))
    assert parse_study(study.as_json()) == study
    file.write_text('poolings = ["heads/other"]', encoding="utf-8")
    sentence = f"or the folder of a saved head relative to {file.parent}, got 'heads/other'"
    with pytest.raises(MaskpoolError, match=sentence):
        read_study(file)


def test_an_empty_name_is_not_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty name is not a head, even if the working directory is the folder of one."""
    monkeypatch.chdir(_saved(tmp_path / "head"))
    assert not is_saved("")
    assert is_saved(".")
