"""The verdict claims no more than the run could have seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskpool import assert_padding_invariant, audit_padding, build_pooling
from maskpool.audit.probes import TEXTS
from maskpool.audit.run import MAX_TEXTS
from tests.audit import planted

FIXED: dict[str, Callable[[], Any]] = {
    "max_length, no mask": lambda: planted.padded_to(64, encoder_mask="none"),
    "a mask of ones": lambda: planted.padded_to(64, encoder_mask="ones"),
    "a mask in the pooling only": lambda: planted.padded_to(64, encoder_mask="none", pool=build_pooling("mean")),
    "a tokenizer's file": planted.fixed_in_its_file,
    "multiples of 64": lambda: planted.padded_to(64, encoder_mask="none", padding=True, pad_to_multiple_of=64),
    "one graph shape": lambda: planted.padded_to(64, planted.OneWidth(), encoder_mask="ones"),
}


@pytest.mark.parametrize("name", FIXED)
def test_no_text_that_is_padded_to_one_width_hides_a_leak(name: str) -> None:
    """A leak is found even if every text has one width and no batch moves a vector."""
    report = audit_padding(FIXED[name]())
    assert report.largest < report.threshold
    assert report.verdict == "leaks", report


def test_one_width_with_the_right_mask_is_clean_only_by_an_unpadded_run() -> None:
    """A correct pipeline of one width is clean, or unknown if the encoder cannot run without pads."""
    assert audit_padding(planted.padded_to(64)).verdict == "clean"
    report = audit_padding(planted.padded_to(64, planted.OneWidth()))
    assert report.verdict == "unknown", report
    assert "every text is padded to the same width" in report.notes[0]


@pytest.mark.parametrize("side", ["right", "left"])
def test_evidence_counts_real_tokens(side: str) -> None:
    """The evidence has the numbers of the tokenizer, with and without a mask and at one width."""
    tokens = planted.tokenizer(side)
    for options in ({}, {"padding": "max_length", "max_length": 64, "truncation": True}):
        model = planted.bert()

        def embed(texts: list[str], options: dict[str, Any] = options, model: Any = model) -> Tensor:
            features = tokens(texts, return_tensors="pt", **(options or {"padding": True}))
            states: Tensor = model(input_ids=features["input_ids"]).last_hidden_state
            return states.mean(dim=1)

        report = audit_padding(embed)
        finding = report.findings[0]
        length = len(tokens(finding.texts[0])["input_ids"])
        width = 64 if options else max(len(tokens(text)["input_ids"]) for text in finding.texts)
        assert f"({length} real tokens in {width} columns)" in finding.evidence, finding


def test_texts_of_equal_length_get_longer_companions() -> None:
    """Texts of three tokens never pad each other; next to themselves plus one word they show the leak."""
    leaky = planted.pooled_by(lambda states, _: states.mean(dim=1))
    texts = ["the cat", "the mat", "old town", "rain fell"]
    assert audit_padding(leaky, texts).verdict == "leaks"
    assert audit_padding(planted.pooled_by(planted.mean), texts).verdict == "clean"


def test_texts_that_are_all_cut_to_one_length_say_nothing() -> None:
    """A tokenizer that cuts all texts to three tokens never pads: the verdict is unknown, with what to pass instead."""
    model, tokens = planted.bert(), planted.tokenizer()

    def embed(texts: list[str]) -> Tensor:
        features = tokens(texts, padding=True, truncation=True, max_length=3, return_tensors="pt")
        return torch.as_tensor(model(**features).last_hidden_state.mean(dim=1))

    report = audit_padding(embed)
    assert report.verdict == "unknown", report
    assert "all texts are 3 tokens long" in report.notes[0]
    with pytest.raises(AssertionError, match="all texts are 3 tokens long"):
        assert_padding_invariant(embed)


def test_words_without_ids_say_nothing() -> None:
    """If the tokenizer maps all words to the unknown token, the verdict is unknown."""
    report = audit_padding(planted.pooled_by(planted.mean), [text.upper() for text in TEXTS])
    assert report.verdict == "unknown", report
    assert "gives all words the same id" in report.notes[0]


def test_a_leak_that_only_training_mode_shows_is_not_called_clean() -> None:
    """BatchNorm after dropout couples texts only in training mode: unknown, not clean."""

    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm, self.drop = planted.bert(), nn.BatchNorm1d(planted.DIM), nn.Dropout(0.5)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            output: Tensor = self.drop(self.norm(states.transpose(1, 2)).transpose(1, 2))
            return output

    model = Trained().train()
    assert audit_padding((model, planted.tokenizer(), "mean")).verdict == "unknown"
    assert audit_padding((model.eval(), planted.tokenizer(), "mean")).verdict == "clean"


def test_nan_goes_through_json_as_null() -> None:
    """A vector that becomes NaN has an infinite size, which is None in JSON."""
    report = audit_padding(planted.encoded_and_pooled(planted.Windowed(1), planted.times_mask))
    content = report.to_dict()
    assert report.largest == float("inf")
    assert content["largest"] is None
    assert "Infinity" not in json.dumps(content)


@pytest.mark.parametrize("most", [4, pytest.param(MAX_TEXTS, marks=pytest.mark.full)])
def test_many_texts_are_sampled_and_counted(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are too many texts, a seeded sample with the longest two is audited, and the report says so."""
    assert MAX_TEXTS == 32
    monkeypatch.setattr("maskpool.audit.run.MAX_TEXTS", most)
    words = ["the", "cat", "sat", "on", "the", "old", "mat", "and", "rain", "fell"]
    texts = [" ".join(words[: 2 + number % 7]) + " the cat" * (number // 7) for number in range(60)]
    calls: list[int] = []
    seen: set[str] = set()
    inner = planted.pooled_by(planted.mean)

    def embed(batch: list[str]) -> Tensor:
        seen.update(batch)
        return inner(batch)

    first = audit_padding(embed, texts, on_call=calls.append)
    again = audit_padding(embed, texts)
    assert first == again
    assert {*sorted(texts, key=len)[-2:]} <= seen
    assert calls == list(range(1, first.calls + 1))
    assert f"a sample of {most} of 60 texts was audited, drawn with seed 0" in first.notes[0]


def test_concatenations_are_looked_into_part_by_part() -> None:
    """Two correct concatenated poolings are clean, at one width as well; a leaky part is named."""
    right = build_pooling(("cls", "mean"))
    assert audit_padding(planted.padded_to(64, pool=right)).verdict == "clean"
    report = audit_padding(planted.pooled_by(lambda s, m: torch.cat([s[:, 0], s.mean(dim=1)], dim=1)))
    assert [finding.cause for finding in report.findings] == ["mean over pads"]
    assert "in part 2 of 2" in report.findings[0].evidence


def test_calls_of_forward_are_seen_and_given_back() -> None:
    """A host that calls model.forward, which runs no hooks, is seen; its model keeps its forward."""

    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = planted.gpt2()

        def forward(self, features: dict[str, Tensor]) -> Tensor:
            states: Tensor = self.model.forward(**features).last_hidden_state
            return planted.mean(states, features["attention_mask"])

    host, tokens = Host(), planted.tokenizer("left")
    report = audit_padding(lambda texts: host(dict(tokens(texts, padding=True, return_tensors="pt"))))
    assert [finding.cause for finding in report.findings] == ["position ids under left padding"], report
    assert "forward" not in vars(host.model)
