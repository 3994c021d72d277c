"""Every planted leak is found and named, and clean pipelines have none."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, DistilBertConfig, GPT2Config, LlamaConfig, RobertaConfig, T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel

from maskpool import audit_padding, build_pooling
from maskpool.audit.pipelines import Pipeline
from maskpool.audit.probes import TEXTS, difference
from maskpool.leaks import PADDING_BUGS
from tests.audit import planted
from tests.audit.planted import CURES, DIM, FEW, PLANTS, WORDS, WRONG_ALONE
from tests.matrix import FULL, sampled
from tests.poolings import BY_NAME_ONLY

ROOT = Path(__file__).parents[2]
# What is true besides: a first column that is a pad needs pads on the left, which shift this model's positions, and
# statistics over positions of a batch are those of other texts as well.
ALSO = {
    ("first column taken as cls", ""): {"position ids under left padding"},
    ("normalisation over positions", "batch"): {"coupling through the batch"},
}


# By default one way to plant each bug.
@pytest.mark.parametrize(
    ("cause", "word"), PLANTS if FULL else list({cause: (cause, word) for cause, word in PLANTS}.values())[::2], ids=str
)
def test_every_planted_leak_is_found_and_named(cause: str, word: str) -> None:
    """The verdict is leaks, and the only cause is the planted one."""
    report = audit_padding(PLANTS[cause, word]())
    assert report.verdict == "leaks", report
    assert {finding.cause for finding in report.findings} == {cause} | ALSO.get((cause, word), set()), report
    assert all(finding.leak and finding.evidence and finding.fix for finding in report.findings)
    assert all((ROOT / finding.url).is_file() for finding in report.findings)


@pytest.mark.parametrize(("cause", "word"), sampled(CURES, every=4), ids=lambda value: value)
def test_the_fix_of_each_cause_cures_its_plant(cause: str, word: str) -> None:
    """With its fix the pipeline is clean, and gives each text its vector alone if that was right."""
    cured, plant = CURES[cause, word](), PLANTS[cause, word]()
    report = audit_padding(cured, FEW)
    assert (report.verdict, report.findings) == ("clean", ()), report
    after, before = Pipeline(cured), Pipeline(plant)
    together = after(FEW)
    for text, vector in zip(FEW, together, strict=True):
        assert difference(vector, after([text])[0]) < 1e-4
        if f"{cause}, {word}" not in WRONG_ALONE:
            assert difference(vector, before([text])[0]) < 1e-4


def test_every_cause_has_a_plant() -> None:
    """Each leak of the catalogue is planted, and, except in black boxes, cured by its fix."""
    planted_causes = {cause for cause, _ in PLANTS}
    assert {name for name, cause in PADDING_BUGS.items() if cause.leak} == planted_causes | set(BLACK)
    assert {cause for cause, _ in CURES} == planted_causes


BLACK = {
    "divided by the batch width": lambda x, width: x.sum(dim=0) / width,
    "max over pads": lambda x, width: nn.functional.pad(x, (0, 0, 0, width - len(x)), value=0.7).amax(dim=0),
    "zeroed pads in a max": lambda x, width: nn.functional.pad(x, (0, 0, 0, width - len(x))).amax(dim=0),
    "mean over pads": lambda x, width: nn.functional.pad(x, (0, 0, 0, width - len(x)), value=0.7).mean(dim=0),
    "NaN where texts are padded": lambda x, width: x.mean(dim=0) + (torch.nan if width > len(x) else 0.0),
    "padding of unknown cause": lambda x, width: torch.roll(x.mean(dim=0), width - len(x)),
}


def word_vector(word: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(ord(letter) * 31**place for place, letter in enumerate(word)))
    return torch.randn(DIM, generator=generator)


def black(pool: Callable[[Tensor, int], Tensor]) -> Callable[[list[str]], list[list[float]]]:
    """Build a pipeline without modules: words are numbers drawn from their letters."""

    def embed(texts: list[str]) -> list[list[float]]:
        rows = [torch.stack([word_vector(word) for word in text.split()]) for text in texts]
        width = max(len(row) for row in rows)
        return [pool(row, width).tolist() for row in rows]

    return embed


@pytest.mark.parametrize("cause", BLACK)
def test_causes_told_from_vectors_alone(cause: str) -> None:
    """Without modules, the vectors show the cause, or the report says that they do not."""
    report = audit_padding(black(BLACK[cause]))
    assert report.verdict == "leaks"
    assert [finding.cause for finding in report.findings] == [cause], report
    assert any("no torch module was seen" in note for note in report.notes)


def test_a_black_box_that_shows_no_width_is_unknown() -> None:
    """A black box whose vectors never change may pad all texts to one width: unknown."""
    report = audit_padding(black(lambda x, width: x.mean(dim=0)))
    assert (report.verdict, report.findings) == ("unknown", ()), report
    assert "pads every text to the same width" in report.notes[0]


COMMON: dict[str, Any] = {"vocab_size": len(WORDS) + 4, "pad_token_id": 0}
FAMILIES: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(
        hidden_size=DIM, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **COMMON
    ),
    "distilbert": lambda: DistilBertConfig(dim=DIM, n_layers=2, n_heads=4, hidden_dim=48, **COMMON),
    "roberta": lambda: RobertaConfig(
        hidden_size=DIM, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **COMMON
    ),
    "gpt2": lambda: GPT2Config(n_embd=DIM, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3, **COMMON),
    "llama": lambda: LlamaConfig(
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        bos_token_id=2,
        eos_token_id=3,
        **COMMON,
    ),
    "t5": lambda: T5Config(d_model=DIM, num_layers=2, num_heads=4, d_ff=48, d_kv=8, **COMMON),
}


def clean(seed: int, dtype: torch.dtype) -> Any:
    """Draw a random correct pipeline: model, pooling, layer of code and precision."""
    draw = random.Random(seed)
    family = draw.choice(list(FAMILIES))
    config = FAMILIES[family]()
    model = T5EncoderModel(config) if family == "t5" else AutoModel.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    model = planted.drawn(model, seed).to(dtype)
    mode, tokens, unit = draw.choice(BY_NAME_ONLY), planted.tokenizer(), draw.random() < 0.5
    if family in ("gpt2", "llama") and mode == "cls":
        mode = "lasttoken"  # the first token of a causal model knows nothing of the text
    if draw.random() < 0.3:
        return model, tokens, mode
    pooling, front = build_pooling(mode), draw.random() < 0.5

    def embed(texts: list[str]) -> Tensor:
        ids, mask = planted.batch(texts, tokens)
        vectors = pooling(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        vectors = vectors.float() if front else vectors
        return nn.functional.normalize(vectors, dim=1) if unit else vectors

    return embed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "seeds", [pytest.param(range(5), id="short"), pytest.param(range(50), id="long", marks=pytest.mark.full)]
)
def test_clean_pipelines_raise_no_alarm(seeds: range, dtype: torch.dtype) -> None:
    """Noise of any precision and other shapes of batches are not leaks."""
    reports = [audit_padding(clean(seed, dtype), FEW) for seed in seeds]
    print(f"largest {max(report.largest for report in reports):.1e}")
    assert [str(report) for report in reports if report.verdict != "clean" or report.findings] == []


def test_dropout_is_a_finding_of_its_own() -> None:
    """A model in training mode is non-deterministic, which is not a leak, and stays in training mode."""
    model = planted.bert(hidden_dropout_prob=0.3).train()
    report = audit_padding(planted.encoded_by(model))
    assert report.verdict == "unknown", report
    assert "call model.eval()" in report.notes[0]
    (finding,) = report.findings
    assert finding.cause == "non-determinism"
    assert "Dropout" in finding.evidence
    assert not finding.leak
    assert all(module.training for module in model.modules())


def test_a_leak_behind_dropout_is_found() -> None:
    """Non-determinism does not hide a leak if the model has an evaluation mode."""
    model, tokens = planted.bert(hidden_dropout_prob=0.3).train(), planted.tokenizer()
    report = audit_padding((model, tokens, lambda states, mask: states.mean(dim=1)))
    assert {finding.cause for finding in report.findings} == {"non-determinism", "mean over pads"}


def test_noise_that_nothing_stops_is_unknown() -> None:
    """If equal calls differ and no module explains it, the verdict is unknown."""
    report = audit_padding(lambda texts: torch.randn(len(texts), 8))
    assert report.verdict == "unknown"
    assert [finding.cause for finding in report.findings] == ["non-determinism"]


def test_truncation_is_no_leak() -> None:
    """A pipeline that cuts texts to a few tokens is clean."""
    model, tokens = planted.bert(), planted.tokenizer()

    def embed(texts: list[str]) -> Tensor:
        features = tokens(texts, padding=True, truncation=True, max_length=7, return_tensors="pt")
        return planted.mean(model(**features).last_hidden_state, features["attention_mask"])

    assert audit_padding(embed).verdict == "clean"


def test_one_text_at_a_time_is_clean_and_said() -> None:
    """A pipeline that never pads is clean, and the report says that no text was padded."""
    inner = planted.pooled_by(lambda states, mask: states.mean(dim=1))
    report = audit_padding(lambda texts: torch.cat([inner([text]) for text in texts]))
    assert report.verdict == "clean"
    assert any("no text was seen padded" in note for note in report.notes)


def always_padded(pool: Callable[[Tensor, Tensor], Tensor], **options: Any) -> planted.Embed:
    """Build a pipeline whose tokenizer pads a text even alone."""
    model, tokens = planted.bert(), planted.tokenizer()

    def embed(texts: list[str]) -> Tensor:
        features = tokens(texts, return_tensors="pt", **options)
        return pool(model(**features).last_hidden_state, features["attention_mask"])

    return embed


PADDED_ALONE: list[dict[str, Any]] = [
    {"padding": "max_length", "max_length": 64},
    {"padding": True, "pad_to_multiple_of": 8},
]


@pytest.mark.parametrize("options", PADDED_ALONE, ids=["one width", "multiples"])
def test_texts_that_are_padded_alone_as_well(options: dict[str, Any]) -> None:
    """A mean over the pads of a fixed width is found although no batch changes it; the right mean is clean."""
    report = audit_padding(always_padded(lambda states, _: states.mean(dim=1), **options))
    assert (report.verdict, [finding.cause for finding in report.findings]) == ("leaks", ["mean over pads"]), report
    clean_report = audit_padding(always_padded(planted.mean, **options))
    assert (clean_report.verdict, clean_report.findings) == ("clean", ()), clean_report


def test_a_rectified_maximum_is_clean() -> None:
    """A maximum of real tokens after a rectifier is not a zeroed pad."""
    right = build_pooling("max")
    assert audit_padding(planted.pooled_by(lambda s, m: right(s, m).relu())).verdict == "clean"


def test_dropout_in_halves_is_no_leak() -> None:
    """A bfloat16 model in training mode is only non-deterministic."""
    model: Any = planted.bert(hidden_dropout_prob=0.3)
    model.to(torch.bfloat16).train()
    report = audit_padding(planted.encoded_by(model))
    assert [finding.cause for finding in report.findings] == ["non-determinism"], report


def test_autocast_is_no_leak() -> None:
    """Rounding by autocast is noise, although vectors and states are float32."""
    inner = planted.pooled_by(planted.mean)

    def embed(texts: list[str]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return inner(texts)

    assert audit_padding(embed).verdict == "clean"


def test_a_pooling_that_hides_the_end_of_text_is_named() -> None:
    """A pooling mask made from ids, where the pad token ends each text, is found; the encoder's mask is right."""
    model, tokens = planted.gpt2(), planted.tokenizer(pad="[SEP]", ends=False)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = planted.batch(texts, tokens)
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return planted.mean(states, (ids != tokens.pad_token_id).long())

    report = audit_padding(embed)
    assert [finding.cause for finding in report.findings] == ["pad token is end-of-text"], report


def test_vectors_that_are_all_alike_are_unknown() -> None:
    """A pipeline that gives every text the same vector is unknown."""
    report = audit_padding(lambda texts: torch.ones(len(texts), 4))
    assert report.verdict == "unknown"
    assert any("the same vector" in note for note in report.notes)


def test_default_texts_are_short() -> None:
    """Even with one token per byte, a default text has under 200 tokens."""
    assert all(len(text.encode()) < 200 for text in TEXTS)
