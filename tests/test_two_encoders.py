"""The comparison of two encoders says what their studies say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from benchmarks import encoders
from benchmarks.encoders import Effect
from benchmarks.models import FOLDER
from maskpool.bench.design.study import Study, read_study
from maskpool.functional import mean_pool, mean_sqrt_len_pool

STUDIES = Path(encoders.__file__).parent / "studies"
CORPORA = ("banking77", "snips", "docstrings")
FAMILIES = ("batches", "layer0", "hdbscan", "bugs")


def _comparisons(study: Study) -> set[tuple[str, str]]:
    plans = [plan.name for plan in study.plans] or ["random batches of 32", "sorted batches of 32", "padded to 128"]
    return {(pooling, plan) for pooling in study.poolings for plan in plans}


@pytest.mark.parametrize("corpus", CORPORA)
def test_both_encoders_have_the_primary_family(corpus: str) -> None:
    """The studies of each encoder cover every pooling and plan on every corpus, on the same texts."""
    family = {(pooling, plan) for pooling in encoders.POOLINGS for plan in encoders.PLANS}
    studies = {name: read_study(STUDIES / f"{name}.toml") for name in encoders.STUDIES if name.startswith(corpus)}
    second = studies.pop(f"{corpus}-l3")
    assert second.models == (str(FOLDER),)
    assert _comparisons(second) == family
    assert set().union(*map(_comparisons, studies.values())) >= family
    assert {study.corpora for study in studies.values()} == {second.corpora}
    assert {study.replicates for study in studies.values()} == {second.replicates}


@pytest.mark.parametrize("family", FAMILIES)
def test_secondary_families_are_the_same_for_both_encoders(family: str) -> None:
    """The two studies of a secondary family differ in nothing but the model."""
    studies = [read_study(STUDIES / f"{family}-{name}.toml").as_json() for name in ("l6", "l3")]
    assert [study.pop("models") for study in studies] == [["all-MiniLM-L6-v2"], [str(FOLDER)]]
    assert studies[0] == studies[1]


def test_mean_sqrt_len_is_the_mean_on_unit_vectors() -> None:
    """It is not measured, because only its length differs from the mean's, with pads or without."""
    torch.manual_seed(0)
    states, mask = torch.randn(4, 9, 8), torch.arange(9) < torch.tensor([[1], [4], [7], [9]])
    for read in (mask, torch.ones_like(mask)):
        mean, by_root = mean_pool(states, read), mean_sqrt_len_pool(states, read)
        torch.testing.assert_close(normalize(mean, dim=-1), normalize(by_root, dim=-1))
        assert not torch.allclose(mean, by_root)


def _row(pooling: str, plan: str, delta: float, kind: str, treatment: str = "included") -> dict[str, Any]:
    ends = {"low": delta - 0.02, "high": delta + 0.02}
    return {"pooling": pooling, "plan": plan, "treatment": treatment, "delta": delta, **ends, "verdict": {"kind": kind}}


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> list[Effect]:
    """Write the results of two studies, of which the second has another verdict in one comparison."""
    folder = tmp_path_factory.mktemp("results")
    random, fixed = "random batches of 32", "padded to 128"
    studies = {
        "banking77": ("all-MiniLM-L6-v2", [_row("mean", random, -0.1, "lowered"), _row("max", random, 0.0, "unknown")]),
        "banking77-l3": (
            "build/models/paraphrase-MiniLM-L3-v2",
            [
                _row("mean", random, 0.0, "unknown"),
                _row("max", random, 0.0, "unknown"),
                _row("max", fixed, 0.0, "no change"),
                _row("cls", random, 0.0, "identical"),
                _row("mean", random, -0.5, "lowered", treatment="noise"),
                _row("mean", "padded to 64", -0.5, "lowered"),
            ],
        ),
    }
    for name, (model, rows) in studies.items():
        tables = [{"layer": -1, "by": "kmeans", "rows": rows}, {"layer": -1, "by": "hdbscan", "rows": rows}]
        part = {"model": {"name": model}, "corpus": {"name": "BANKING77 test"}, "margin": 0.03, "tables": tables}
        (folder / name).mkdir()
        (folder / name / "results.json").write_text(json.dumps({"parts": [part]}), encoding="utf-8")
    return encoders.read_effects(encoders.STUDIES, folder)


def test_only_the_primary_family_is_read(effects: list[Effect]) -> None:
    """Other treatments, clusterers and plans are left out, and studies that do not exist."""
    assert len(effects) == 6
    assert {effect.delta for effect in effects} == {-0.1, 0.0}


def test_each_disagreement_is_named(effects: list[Effect]) -> None:
    """Each comparison with different verdicts is listed once, and no other."""
    assert encoders.disagreements(effects) == [
        "- BANKING77 test, mean, random batches of 32: all-MiniLM-L6-v2 −0.100 [−0.120, −0.080], lowered; "
        "paraphrase-MiniLM-L3-v2 +0.000 [−0.020, +0.020], could not tell (the intervals do not overlap)."
    ]


def test_the_table_has_every_comparison(effects: list[Effect]) -> None:
    """A row counts the verdicts of its comparisons, with the margin of those that saw no change."""
    rows = {line.split(" | ")[0].strip("| "): line for line in encoders.table(effects)}
    assert len(rows) == 2 + len(encoders.POOLINGS) * len(encoders.PLANS)
    random = rows["mean, random batches of 32"]
    assert "lowered in 1 of 2, could not tell in 1 of 2 | **−0.100 [−0.120, −0.080]** | +0.000" in random
    assert "| no change larger than 0.03 in 1 of 1 | not measured |" in rows["max, padded to 128"]
    assert "identical vectors in 1 of 1 | not measured | identical |" in rows["cls, random batches of 32"]


def test_sentences_hold_the_range(effects: list[Effect]) -> None:
    """The sentence of a pooling has the verdicts and the range of the differences of each plan."""
    mean = encoders.sentences(effects)[0]
    assert "random batches of 32, lowered in 1 of 2, could not tell in 1 of 2 (ΔAMI −0.100 to +0.000)" in mean


def test_the_figure_is_drawn(effects: list[Effect], tmp_path: Path) -> None:
    """A forest of all effects is written, 800 pixels wide."""
    encoders.draw(effects, tmp_path / "new.png")
    content = (tmp_path / "new.png").read_bytes()
    assert int.from_bytes(content[16:20]) == 800
