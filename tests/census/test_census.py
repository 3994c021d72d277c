"""The padding census: how it runs, what it refuses, and that its committed results agree with their numbers."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import CONFIG_MAPPING, BertConfig, BertModel, LlamaConfig

from benchmarks.census import run as census
from benchmarks.census import table
from benchmarks.census.models import VARIANTS, Variant, build, draw_weights, every_variant
from maskpool import audit_padding
from maskpool.audit.census import CensusRow, describe, find_row, load
from maskpool.audit.encoder_probes import Trial, judge
from maskpool.tolerances import CLEAN
from tests.audit import planted

RESULTS = json.loads(census.RESULTS.read_text(encoding="utf-8"))
MEASURED = [row for row in RESULTS["rows"] if row["status"] == "measured"]
A_FEW = ["bert", "gpt2", "t5"]
MORE = ["llama", "mistral", "mobilebert", "roberta"]


of_the_committed_version = pytest.mark.skipif(
    RESULTS["transformers"] != transformers.__version__,
    reason=f"the committed census is of transformers {RESULTS['transformers']}",
)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Reduce the census to three architectures, one without text; return the names of those measured."""
    measured: list[str] = []

    def measure(variant: Variant, seed: int, seconds: float) -> dict[str, Any]:
        measured.append(variant.key)
        return real(variant, seed, seconds)

    real = census.run_apart
    monkeypatch.setattr(census, "every_variant", lambda: (Variant("bert"), Variant("vit"), Variant("gpt2")))
    monkeypatch.setattr(census, "run_apart", measure)
    return measured


def test_at_least_two_hundred_architectures_are_measured() -> None:
    """The committed census covers 200 architectures and gives a reason for every row that is missing."""
    assert len({row["architecture"] for row in MEASURED}) >= 200
    assert all(row["reason"] for row in RESULTS["rows"] if row["status"] != "measured")


@of_the_committed_version
def test_no_architecture_is_left_out() -> None:
    """The committed census has rows of every architecture of its version of transformers, and of no other."""
    assert {row["architecture"] for row in RESULTS["rows"]} == {variant.architecture for variant in every_variant()}


def test_every_verdict_follows_from_its_numbers() -> None:
    """Judging the committed trials again gives the committed verdicts."""
    for row in MEASURED:
        judgement = judge([Trial(**trial) for trial in row["trials"]], max(row["limits"].values(), default=0))
        assert judgement.verdict == row["verdict"], row["architecture"]
        assert {name: row[name] for name in vars(judgement)} == json.loads(json.dumps(vars(judgement)))


@of_the_committed_version
def test_architectures_have_the_settings_of_their_variants() -> None:
    """A variant switches on the mechanism in its name, by settings that its architecture has."""
    for variant in VARIANTS:
        defaults = CONFIG_MAPPING[variant.architecture]()
        assert any(hasattr(defaults, name) for name in variant.settings), variant.key


def test_rows_of_sliding_windows_have_sliding_layers() -> None:
    """The layers of a variant named after its sliding windows had them when it was measured."""
    for row in MEASURED:
        if "sliding window" in row["variant"]:
            assert row["switches"]["sliding_window"] == "set"
            assert "sliding" in row["switches"].get("layer_types", "sliding"), row["architecture"]


def test_every_clean_row_saw_something() -> None:
    """In a row that is not vacuous, another token moves the states by far more than the bound of a leak."""
    for row in MEASURED:
        if not row["vacuous"]:
            assert row["sizes"]["token changed"] > 1e-3, row["architecture"]


def test_table_and_shipped_file_follow_from_the_results() -> None:
    """The table and the file in the package are derived from the results."""
    minutes = sum(row["seconds"] for row in RESULTS["rows"]) / 60
    assert census.TABLE.read_text(encoding="utf-8") == table.markdown(RESULTS, minutes, CLEAN)
    assert json.loads(census.SHIPPED.read_text(encoding="utf-8")) == json.loads(json.dumps(table.short(RESULTS)))


@of_the_committed_version
@pytest.mark.parametrize("architecture", A_FEW + [pytest.param(name, marks=pytest.mark.full) for name in MORE])
def test_another_seed_gives_the_committed_verdict(architecture: str) -> None:
    """Weights and texts of another seed change the numbers and not the verdict."""
    committed = next(row for row in MEASURED if (row["architecture"], row["variant"]) == (architecture, ""))
    measured = census.measure(Variant(architecture), seed=7)
    assert measured["verdict"] == committed["verdict"]
    assert measured["sizes"] != committed["sizes"]


def _hang(*_: Any) -> dict[str, Any]:
    time.sleep(60)
    return {}


def _die(*_: Any) -> dict[str, Any]:
    os._exit(9)


def _fetch(*_: Any) -> dict[str, Any]:
    socket.create_connection(("127.0.0.1", 1))
    return {}


def _miss(*_: Any) -> dict[str, Any]:
    raise ImportError("it requires the timm library\nbut it was not found")


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (_hang, "no answer within 1 s"),
        (_die, r"its process died \(exit code 9\)"),
        (_fetch, "ConnectionError: the network is not available"),
        (_miss, "ImportError: it requires the timm library$"),
    ],
)
def test_failures_are_reported_in_the_row(monkeypatch: pytest.MonkeyPatch, measure: Any, reason: str) -> None:
    """A row reports that its architecture hung, died, tried to download or lacks a package."""
    monkeypatch.setattr(census, "measure", measure)
    row = census.run_apart(Variant("bert"), 0, seconds=1)
    assert (row["architecture"], row["status"]) == ("bert", "failed")
    assert re.search(reason, row["reason"])


def test_a_run_writes_its_results_and_resumes(tmp_path: Path, few: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run measures only missing and cut-off rows, and gives the same results."""
    committed = {row["architecture"]: row for row in RESULTS["rows"] if row["variant"] == ""}

    def read(variant: Variant, *_: Any) -> dict[str, Any]:
        few.append(variant.key)
        return {**committed[variant.key], "seconds": len(few)}

    monkeypatch.setattr(census, "run_apart", read)
    out = tmp_path / "new" / "census.json"
    census.main(["--out", str(out)])
    whole = json.loads(out.read_text(encoding="utf-8"))
    assert [row["status"] for row in whole["rows"]] == ["measured", "not attempted", "measured"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["census.json"]
    run = {name: whole[name] for name in ("transformers", "torch", "seed", "seconds", "code_sha256")}
    lines = [json.dumps(line) + "\n" for line in (run, *whole["rows"])]
    out.with_suffix(".rows.jsonl").write_text("".join(lines[:2]) + lines[2][:20], encoding="utf-8")
    few.clear()
    census.main(["--out", str(out)])
    assert few == ["vit", "gpt2"]
    again = json.loads(out.read_text(encoding="utf-8"))
    for row in (*whole["rows"], *again["rows"]):
        row.pop("seconds")
    assert again == whole


def test_rows_of_another_run_are_refused(tmp_path: Path, few: list[str]) -> None:
    """An interrupted run of another seed is not resumed."""
    out = tmp_path / "census.json"
    run = {"transformers": "1", "torch": "2", "seed": 3, "code_sha256": "4"}
    out.with_suffix(".rows.jsonl").write_text(json.dumps(run) + "\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"holds another run.*'seed': 3.*choose another --out"):
        census.main(["--out", str(out)])
    assert few == []


def test_another_seed_needs_another_file(few: list[str]) -> None:
    """The committed results are not overwritten by those of another seed."""
    with pytest.raises(SystemExit, match="--out must name another file for another --seed"):
        census.main(["--seed", "1"])
    assert few == []


def test_unknown_names_are_listed() -> None:
    """The error lists unknown architectures with similar names."""
    with pytest.raises(SystemExit, match=r"unknown: 'lama' \(near: .*'?llama.*\); 'no such thing'"):
        census.main(["--only", "bert,lama,no such thing"])
    with pytest.raises(SystemExit, match="an empty list"):
        census.main(["--only", ","])


def test_only_prints_and_writes_nothing(capsys: pytest.CaptureFixture[str], few: list[str]) -> None:
    """With --only, the command prints verdict, advice and numbers of these rows."""
    before = census.RESULTS.read_bytes()
    census.main(["--only", "gpt2"])
    assert few == ["gpt2"]
    printed = capsys.readouterr().out
    assert "gpt2: position shift, left, cured by position ids from 0\n" in printed
    assert "pad on the right, or on the left" in printed
    assert "ids under the mask, right: 0.0" in printed
    assert census.RESULTS.read_bytes() == before


def test_runs_are_compared_by_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--compare lists rows whose verdicts differ; the exit code says whether any do."""
    other = json.loads(json.dumps(RESULTS))
    changed = next(row for row in other["rows"] if row["status"] == "measured")
    changed["verdict"] = "another"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        census.main(["--compare", str(path)])
    assert stop.value.code == 1
    assert re.fullmatch(r".*, verdict: .* / another", capsys.readouterr().out.strip())
    with pytest.raises(SystemExit) as stop:
        census.main(["--compare", str(census.RESULTS)])
    assert stop.value.code == 0
    with pytest.raises(SystemExit, match="needs two files of results"):
        census.main(["--compare", str(tmp_path / "none.json")])


def test_random_weights_hide_nothing() -> None:
    """Norms are not one, biases and pad rows not zero, and one seed gives one model."""
    model = BertModel(BertConfig(vocab_size=40, hidden_size=16, num_attention_heads=2, num_hidden_layers=1))
    draw_weights(model, 0)
    weights = model.state_dict()
    assert weights["encoder.layer.0.output.LayerNorm.weight"].std() > 0.1
    assert weights["encoder.layer.0.output.LayerNorm.bias"].abs().min() > 0
    assert model.embeddings.word_embeddings.weight[0].abs().min() > 0
    first, second = (build(Variant("bert"), 5).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_row_is_selected_by_settings() -> None:
    """Mechanisms select the row, sizes do not; settings that were not measured have none."""
    assert find_row(LlamaConfig(hidden_size=64, num_attention_heads=2)) == find_row(LlamaConfig())
    row = find_row(BertConfig.from_dict({"position_embedding_type": "absolute"}))  # as in old files
    assert row is not None
    assert (row.architecture, row.variant) == ("bert", "")
    dynamic = LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0})
    dynamic_row = find_row(dynamic)
    assert dynamic_row is not None
    assert dynamic_row.variant == "dynamic rope"
    unmeasured = BertConfig.from_dict({"sliding_window": 5})
    assert find_row(unmeasured) is None
    assert "but not with its settings: sliding_window set" in describe(unmeasured)
    assert describe(BertConfig()).startswith("bert, measured with random weights in transformers")


def test_rows_of_an_architecture_differ_in_their_settings() -> None:
    """No two rows describe the same models."""
    keys = [(row.architecture, tuple(row.switches.items())) for row in load().rows]
    assert len(set(keys)) == len(keys)


def row(**changed: Any) -> CensusRow:
    given: dict[str, Any] = {
        **{"right": "clean", "left": "clean", "cures": {}, "coupled": False, "state": False, "vacuous": False},
        **{"short": (), "appends": {"sdpa": True}, "architecture": "some", "variant": "", "switches": {}},
        **{"model_type": "some", "only": ""},
        **{"limits": ("sliding_window",), "causes": {}},
    }
    return CensusRow(**{**given, **changed})


@pytest.mark.parametrize(
    ("census_row", "advice"),
    [
        (row(), "pad on either side"),
        (row(left="positions"), "pad on the right"),
        (
            row(left="positions", cures={"left": "from 0"}),
            "pad on the right, or on the left passing position_ids that count real tokens from 0",
        ),
        (
            row(right="length", left="positions", cures={"right": "from 0", "left": "from pad + 1"}),
            "pad on the right, passing position_ids that count real tokens from 0",
        ),
        (row(left="content"), "pad on the right"),
        (row(left="ids"), "pad on either side, on the left with no other id than the pad's under the mask"),
        (row(right="content"), "pad on the left"),
        (row(right="content", left="content"), "run texts of one length together, without pads"),
        (
            row(right="length", left="length", short=("right", "left")),
            "pad on the right as long as text and pads together stay within sliding_window; beyond, run texts of one "
            "length together",
        ),
        (row(vacuous=True), "nothing: no token reads another"),
        (row(coupled=True), "run each text separately: texts of a batch affect each other"),
        (
            row(right="length", only="sdpa"),
            "pad on the left; or use another attention implementation than sdpa",
        ),
    ],
)
def test_advice(census_row: CensusRow, advice: str) -> None:
    """The advice names side, position ids and lengths."""
    assert census_row.advice == advice


@pytest.mark.parametrize(
    ("census_row", "effect"),
    [
        (row(), "pads on either side change nothing"),
        (
            row(left="positions"),
            "pads on the right change nothing, pads on the left shift the positions of real tokens",
        ),
        (row(right="ids", left="ids"), "pads on either side change nothing if masked positions hold the pad's id"),
        (
            row(right="length", left="length", short=("right",)),
            "pads on the right change real tokens by their number once text and pads exceed sliding_window, "
            "pads on the left change real tokens by their number",
        ),
    ],
)
def test_effects(census_row: CensusRow, effect: str) -> None:
    """The effect says in words what pads on each side do."""
    assert census_row.effect == effect


def test_the_audit_reports_the_row_of_the_model(model_folder: Path) -> None:
    """The report describes the row of the model, also of one inside a host's modules; other pipelines have none."""
    report = audit_padding((planted.bert(), planted.tokenizer(), "mean"))
    assert report.census == describe(planted.bert().config)
    measured = f"census: bert, measured with random weights in transformers {load().release}"
    assert f"{measured}: pads on the right change nothing, pads on the left shift the positions" in str(report)
    assert audit_padding(planted.pooled_by(planted.mean)).census == report.census
    modules = [Transformer(str(model_folder)), Pooling(32, "mean")]
    hosted = SentenceTransformer(modules=modules, device="cpu")
    assert audit_padding(hosted).census == report.census
    assert audit_padding(lambda texts: [[float(len(text)), 1.0] for text in texts]).census == ""
