"""The audit for its users: accepted input, output, errors, and what stays unchanged."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskpool import assert_padding_invariant, audit_padding
from maskpool.integrations.transformers import SentenceEmbedder
from maskpool.nn import AttentionPooling
from tests.audit import planted
from tests.bench import tiny
from tests.command import assert_refused, run


def leaky() -> planted.Embed:
    return planted.pooled_by(lambda states, _: states.mean(dim=1))


def test_the_report_tells_people_what_to_do() -> None:
    """The printed report contains verdict, cause, evidence with its numbers, texts and fix."""
    report = audit_padding(leaky())
    text = str(report)
    for words in (
        "embed: leaks",
        "LEAK: mean over pads",
        "the mean of all columns",
        "real tokens in",
        "fix: pool with the mask: maskpool.functional.mean_pool",
        "more: docs/bugs/mean-over-pads.md, https://github.com/huggingface/transformers/issues/17463",
        *(repr(text) for text in report.findings[0].texts),
    ):
        assert words in text


def test_coupling_without_modules_names_quantisation() -> None:
    """Vectors rounded by a scale of the whole batch, by code without torch modules, are said to look like int8."""

    def embed(texts: list[str]) -> Any:
        seeds = [zlib.crc32(text.encode()) for text in texts]
        vectors = np.array([np.random.default_rng(seed).normal(size=8) * (1 + seed % 7) for seed in seeds])
        scale = np.abs(vectors).max() / 20
        return np.round(vectors / scale) * scale

    evidence = [finding.evidence for finding in audit_padding(embed).findings if "coupling" in finding.cause]
    assert len(evidence) == 1
    assert "dynamic quantisation does this as well, as of an ONNX graph in int8" in evidence[0]


def test_the_report_is_json() -> None:
    """The dictionary has the content of the report, and survives JSON unchanged."""
    report = audit_padding(leaky())
    content = report.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["verdict"] == "leaks"
    assert content["findings"][0]["cause"] == report.findings[0].cause
    assert content["findings"][0]["fix"] == report.findings[0].fix
    assert content["findings"][0]["url"] == report.findings[0].url
    assert content["findings"][0]["threads"] == list(report.findings[0].threads)
    assert (content["largest"], content["floor"], content["threshold"]) == (
        report.largest,
        report.floor,
        report.threshold,
    )


def test_an_invariant_pipeline_passes() -> None:
    """A clean pipeline does not raise; a leaky one raises AssertionError with the report."""
    assert_padding_invariant(planted.pooled_by(planted.mean))
    with pytest.raises(AssertionError, match="LEAK: mean over pads"):
        assert_padding_invariant(leaky())


def test_an_embedder_of_ours_is_clean() -> None:
    """A SentenceEmbedder can be audited."""
    assert audit_padding(SentenceEmbedder(planted.bert(), planted.tokenizer())).verdict == "clean"


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_model_by_folder(tmp_path: Path, as_type: type) -> None:
    """A folder is opened and audited; a model that does not exist is refused."""
    texts = [text for text, _ in tiny.make_texts(8)]
    report = audit_padding(as_type(tiny.save_model(tmp_path)), texts)
    assert report.verdict == "clean"
    assert report.pipeline == "BertModel"
    with pytest.raises(FileNotFoundError, match=r"pipeline must be .*'no/folder' could not be loaded"):
        audit_padding(as_type("no/folder"))


def test_a_tokenizer_without_a_pad_token_works_in_an_embedder() -> None:
    """GPT-2 without a pad token is clean in a SentenceEmbedder, and refused as a tuple."""
    tokens = planted.tokenizer()
    tokens.pad_token = None
    with pytest.warns(UserWarning, match="pad"):
        embedder = SentenceEmbedder(planted.gpt2(), tokens)
    assert audit_padding(embedder).verdict == "clean"
    with pytest.raises(TypeError, match=r"tokenizer must have a pad token.*SentenceEmbedder"):
        audit_padding((planted.gpt2(), tokens, "mean"))


def test_own_texts_are_taken() -> None:
    """The texts of a finding are the caller's."""
    texts = ["rain fell", "the cat sat on the mat", "a small boat left the old port at night"]
    report = audit_padding(leaky(), texts)
    assert set(report.findings[0].texts) <= set(texts)


def test_a_learned_pooling_is_looked_into() -> None:
    """A learned layer of maskpool is clean; the same layer without its mask is a pooling leak."""
    pooling = planted.drawn(AttentionPooling(planted.DIM), 1)
    assert audit_padding((planted.bert(), planted.tokenizer(), pooling)).verdict == "clean"
    report = audit_padding((planted.bert(), planted.tokenizer(), lambda x, m: pooling(x, torch.ones_like(m))))
    assert [finding.cause for finding in report.findings] == ["pads read by the pooling"]


class Counting(nn.Module):
    """A model with statistics that training mode changes, and a user's hook."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = planted.bert()
        self.norm = nn.BatchNorm1d(planted.DIM)
        self.called = 0
        self.register_forward_hook(self.count)

    def count(self, *_: Any) -> None:
        self.called += 1

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        normalised: torch.Tensor = self.norm(states.transpose(1, 2)).transpose(1, 2)
        return normalised


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_written_to_the_model(training: bool) -> None:
    """Parameters, buffers, gradients, hooks, modes and random states are unchanged, for every verdict."""
    model = Counting().train(training)
    model.inner.train(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    assert not nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    before = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    audit_padding((model, planted.tokenizer(), "mean"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()} == hooks
    assert not nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state(legacy=False)) == str(before[1])
    assert random.getstate() == before[2]


class Growing(nn.Module):
    """A model that replaces a buffer by a longer one, like caches of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words = planted.drawn(nn.Embedding(len(planted.WORDS) + 4, planted.DIM), 0)
        self.register_buffer("positions", torch.arange(1.0))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if len(self.positions) < input_ids.shape[1]:  # type: ignore[arg-type]  # a buffer, to mypy a module as well
            self.register_buffer("positions", torch.arange(float(input_ids.shape[1])))
        embeddings: torch.Tensor = self.words(input_ids)
        return embeddings


def test_a_buffer_that_is_exchanged_is_given_back() -> None:
    """A model that replaces its buffer during the audit gets the old one back, and the same vectors."""
    model = Growing()
    audit_padding((model, planted.tokenizer(), "mean"))
    assert torch.equal(model.positions, torch.arange(1.0))  # type: ignore[arg-type]  # the same


def test_a_host_that_sets_evaluation_mode_leaves_none() -> None:
    """A model in training mode is in training mode after the audit, even if its embedder runs it in evaluation mode."""
    model = planted.bert().train()
    assert audit_padding(SentenceEmbedder(model, planted.tokenizer())).verdict == "clean"
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("pipeline", "error", "message"),
    [
        (
            lambda texts: torch.ones(len(texts) + 1, 3),
            ValueError,
            r"one row for each text; for 2 texts it gave \(3, 3\)",
        ),
        (lambda texts: torch.ones(3), ValueError, r"shape \(texts, dim\).*it gave \(3,\)"),
        (lambda texts: torch.full((len(texts), 3), torch.nan), ValueError, "finite numbers.*gave NaN or infinity"),
        (lambda texts: [[1.0, 2.0], [1.0]][: len(texts) + 1], ValueError, "one vector for each text"),
        (lambda texts: [["a"] for _ in texts], ValueError, "one vector for each text"),
        (lambda texts: None, ValueError, "one vector for each text"),
        (lambda texts: 1 / 0, ValueError, "raised ZeroDivisionError: division by zero. Pass a callable"),
        (planted.bert(), TypeError, "a model without its tokenizer, BertModel: pass"),
        (3, TypeError, "pipeline must be a callable.*got int"),
        ((planted.bert(), planted.tokenizer()), TypeError, r"got a tuple of \(BertModel, "),
        ((planted.bert(), planted.tokenizer(), "meann"), ValueError, "pooling must be one of"),
        ((planted.bert(), planted.tokenizer(), 3), TypeError, "pooling must be a mode.*got int"),
    ],
)
def test_what_is_no_pipeline_is_refused(pipeline: object, error: type[Exception], message: str) -> None:
    """An object that cannot be audited is refused in one sentence that says what to pass instead."""
    with pytest.raises(error, match=message):
        audit_padding(pipeline)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one text", TypeError, "be a list of strings, got one str: put it into a list"),
        (3, TypeError, "be a list of strings, got one int"),
        (["a", 2, "c"], TypeError, "hold only strings, got int at place 1"),
        (["a b", "c d e"], ValueError, "hold at least three"),
        (["a", "b", "c"], ValueError, "hold at least three"),
        (iter(["a b", "c d e"]), ValueError, "hold at least three different texts of different lengths, got 2"),
    ],
)
def test_texts_that_show_nothing_are_refused(texts: Any, error: type[Exception], message: str) -> None:
    """Texts must be at least three strings of different lengths."""
    with pytest.raises(error, match=f"^texts must {message}"):
        audit_padding(leaky(), texts)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    planted.bert().save_pretrained(folder)
    planted.tokenizer().save_pretrained(folder)
    return folder


def test_the_command_ends_with_the_verdict(saved: Path) -> None:
    """A clean model gives exit code 0; with --json the command prints only the report."""
    ran = run("audit", saved)
    assert (ran.code, ran.out.splitlines()[0]) == (0, "BertModel: clean: no padding reaches the vectors")
    content = json.loads(run("audit", saved, "--pooling", "max", "--json").out)
    assert (content["verdict"], content["model"]) == ("clean", str(saved))


def test_the_command_tells_a_leak(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak gives exit code 1 and the cause."""
    monkeypatch.setattr("maskpool.audit.opening.open_pipeline", lambda *_: leaky())
    ran = run("audit", saved)
    assert ran.code == 1
    assert "LEAK: mean over pads" in ran.out


def test_the_command_reports_what_it_could_not_see(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown verdict gives exit code 3 and the report."""
    monkeypatch.setattr("maskpool.audit.opening.open_pipeline", lambda *_: lambda texts: torch.ones(len(texts), 2))
    ran = run("audit", saved)
    assert ran.code == 3
    assert "unknown" in ran.out


def test_the_command_explains(saved: Path) -> None:
    """With --explain, the answers about pads follow the report, in print and in JSON."""
    ran = run("audit", saved, "--explain")
    assert ran.code == 0
    assert "What the pads of" in ran.out
    assert json.loads(run("audit", saved, "--explain", "--json").out)["explanation"]["answers"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no/such/folder"], ".*no/such/folder.*"),
        (["{saved}", "--pooling", "meann"], r"--pooling must be one of .*; did you mean 'mean'\?"),
        (["{saved}", "--texts", "none.txt"], "--texts must be a file of texts in UTF-8, one per line, got none.*"),
        (["{saved}", "--texts", "{saved}/one.txt"], "--texts must hold at least three different texts.*"),
        (["{saved}", "--device", "abacus"], "--device must be one that torch can use here.*"),
    ],
)
def test_what_cannot_be_audited_is_one_sentence(saved: Path, arguments: list[str], sentence: str) -> None:
    """A user error gives exit code 2 and one line on standard error."""
    (saved / "one.txt").write_text("one text\n", encoding="utf-8")
    assert_refused(run("audit", *(argument.format(saved=saved) for argument in arguments)), sentence)
