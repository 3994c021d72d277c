"""Tables, sentences and figures of the report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from maskpool.bench.design.study import Study
from maskpool.bench.design.treatments import TREATMENTS
from maskpool.bench.report import figures, results
from maskpool.bench.report.figures import FIGURES
from maskpool.bench.report.pages import (
    VECTOR_WORDS,
    causes,
    cost_table,
    headline_words,
    label_amis,
    leak_table,
    learned_table,
    show,
)
from maskpool.bench.report.results import about_unmeasured, lead_plan, main_table_of
from maskpool.bench.report.verdicts import difference, judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def head(trained: str, served: str, delta: float, half: float) -> dict[str, object]:
    numbers = {"ami": 0.5, "floor": 0.02, "attention_on_pads": 0.25, "pad_fraction": 0.5}
    interval = {"delta": delta, "low": delta - half, "high": delta + half}
    return {"pooling": "attention", "trained": trained, "served": served, **interval, **numbers}


def test_only_the_masked_head_is_the_reference() -> None:
    """A head whose difference is the same in every split shows it; the reference is only the head with the mask."""
    rows = [
        head("with mask", "with mask", 0.0, 0.0),
        head("with mask", "without mask", -0.2, 0.0),
        head("without mask", "with mask", 0.0, 0.0),
        head("without mask", "without mask", -0.3, 0.01),
    ]
    table = learned_table({"learned": {"rows": [judged(row) for row in rows]}, "margin": 0.03})
    assert [cells[2] for cells in table] == ["reference", "lowered", "no change above 0.03", "lowered"]
    assert [cells[3] for cells in table] == [
        "",
        "−0.200 [−0.200, −0.200]",
        "0",
        "−0.300 [−0.310, −0.290]",
    ]


def plan(order: str = "random", pad_to: str | int = "longest", side: str = "right", leaks: bool = False) -> Any:
    """Make a plan in the form of results, named after its settings."""
    numbers = {"tokens": 100, "pad_fraction": 0.5, "seconds": 1.0, "happens": "so", "label_width_ami": 0.001}
    about = {"plan": {"order": order, "pad_to": pad_to, "side": side}, "for_leaks_alone": leaks, "confounded": False}
    return about | numbers | {"name": f"{order} {pad_to} {side}"}


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """Add the verdict on a difference."""
    return row | {"verdict": judge({"metric": "AMI", "texts": 60} | row, 0.03, 5)}


def row(treatment: str, delta: float, half: float = 0.01, **more: object) -> dict[str, Any]:
    """A row of a table, under random batches."""
    interval = {"delta": delta, "low": delta - half, "high": delta + half, "floor": 0.02, "ami": 0.5, "reference": 0.6}
    shift = {"cosine_shift": 0.1, "by_pad_fraction": [{"pad_fraction": 0.5, "mean": 0.1, "p5": 0.05, "p95": 0.2}]}
    about = {"pooling": "mean", "plan": "random longest right", "treatment": treatment, "texts": 60}
    return judged(about | interval | shift | {"neighbours_kept": 0.5} | more)


def part(*tables: tuple[int, str, list[dict[str, Any]]]) -> dict[str, Any]:
    tables_with_rows = [{"layer": layer, "by": by, "rows": rows} for layer, by, rows in tables]
    corpus = {"name": "colours", "texts": 60, "demonstration": False}
    about: dict[str, Any] = {"learned": None, "margin": 0.03, "batch_effect": []}
    return about | {"tables": tables_with_rows, "plans": [plan()], "corpus": corpus, "model": {"name": "tiny"}}


@pytest.mark.parametrize(
    ("plans", "lead"),
    [
        ([plan("sorted"), plan()], "random longest right"),
        ([plan(pad_to=128), plan("sorted"), plan()], "random longest right"),
        ([plan(side="left"), plan()], "random longest right"),
        ([plan("sorted"), plan(side="left")], "random longest left"),
        ([plan(side="left"), plan(leaks=True)], "random longest left"),
        ([plan("natural"), plan(pad_to=128)], "natural longest right"),
    ],
)
def test_sentences_are_about_random_batches(plans: list[dict[str, Any]], lead: str) -> None:
    """Random batches padded to their longest text lead, right padding first; plans only for leaks never lead."""
    assert lead_plan(plans) == lead


@pytest.mark.parametrize(
    ("tables", "chosen"),
    [
        ([(0, "kmeans"), (-1, "kmeans")], (-1, "kmeans")),
        ([(-1, "hdbscan"), (-1, "kmeans")], (-1, "hdbscan")),
        ([(0, "kmeans"), (2, "kmeans"), (1, "kmeans")], (2, "kmeans")),
        ([(0, "kmeans"), (-2, "kmeans")], (-2, "kmeans")),
        ([(-1, "mixed"), (0, "kmeans"), (0, "mixed")], (0, "kmeans")),
    ],
)
def test_what_is_said_is_of_the_deepest_layer(tables: list[tuple[int, str]], chosen: tuple[int, str]) -> None:
    """Verdict, causes, leaks and costs are of one table, the deepest layer's by the first clusterer, and name it."""
    layer, by = chosen
    noise: dict[str, Any] = {"against_noise": judged({"delta": -0.2, "low": -0.3, "high": -0.1})}
    right = [row("included", -0.222, leak="mean over pads", recreates="x", **noise), row("noise", 0.0)]
    wrong = [row("included", 0.444, leak="mean over pads", recreates="x", **noise), row("noise", 0.0)]
    results_of_part = part(*((*table, right if table == chosen else wrong) for table in tables))
    assert main_table_of(results_of_part)["rows"] == right
    named = ("" if layer == -1 else f", layer {layer}") + ("" if by == "kmeans" else f", {by}")
    (sentence,) = results._conclusions(Study(), results_of_part)["headline"]
    assert sentence == "Mean pooling: harmed under “random longest right” (lowered AMI by 0.222 [0.212, 0.232])."
    assert list(causes(results_of_part)) == [f"mean{named}, random longest right"]
    (cost,), (leak,) = cost_table(results_of_part), leak_table(results_of_part)
    assert cost[4] == "+0.001"
    results_of_part["plans"][0] |= {"label_width_ami": 0.031, "confounded": True}
    assert cost_table(results_of_part)[0][4] == "+0.031, confounded"
    assert label_amis(results_of_part).endswith(": +0.031, confounded under “random longest right”.")
    results_of_part["plans"][0] |= {"label_width_ami": -0.0237, "confounded": False}
    assert cost_table(results_of_part)[0][4] == "−0.024"
    assert leak[0] == f"mean over pads{named}"
    assert leak[4].startswith("−0.222")


@pytest.mark.parametrize("kind", FIGURES)
def test_figures_are_of_the_deepest_layer(kind: str, tmp_path: Path) -> None:
    """A figure draws the table that the verdict is of, and names a layer that is not the last."""
    rows, others = [row("included", -0.2)], [row("included", 0.4)]
    tables = {"both": [(0, "kmeans", others), (2, "kmeans", rows)], "alone": [(2, "kmeans", rows)], "none": []}
    drawn = {}
    for name, some in tables.items():
        FIGURES[kind](part(*some), tmp_path / "figure.svg")
        drawn[name] = (tmp_path / "figure.svg").read_text()
    assert drawn["both"] == drawn["alone"] != drawn["none"]
    assert "tiny, layer 2" in drawn["both"]
    assert "layer" not in drawn["none"]
    assert all("band: margin of 0.03" in figure for figure in drawn.values() if figure != drawn["none"])


@pytest.mark.parametrize("kind", FIGURES)
def test_figures_name_every_plan(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure names each plan, and each of its marks is a line of one point, so no line joins plans."""
    axes: list[Axes] = []
    finish = figures._finish

    def kept(figure: Figure, panels: list[Axes], *others: Any, **more: Any) -> None:
        axes.extend(panels)
        finish(figure, panels, *others, **more)

    monkeypatch.setattr(figures, "_finish", kept)
    rows = [row("included", -0.2), row("included", 0.1, plan="sorted longest right")]
    FIGURES[kind](part((-1, "kmeans", rows)) | {"plans": [plan(), plan("sorted")]}, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "random longest right" in drawn
    assert "sorted longest right" in drawn
    marks = [line for panel in axes for line in panel.lines if line.get_marker() not in ("None", "", None)]
    assert len(marks) >= 2
    assert {len(np.atleast_1d(line.get_xdata())) for line in marks} == {1}


@pytest.mark.parametrize(
    ("delta", "half", "says"),
    [
        (-0.05, 0.01, "the pads are worse"),
        (0.05, 0.01, "the pads are better"),
        (-0.05, 0.06, "may do the same"),
    ],
)
def test_pads_are_held_against_noise_by_their_difference(delta: float, half: float, says: str) -> None:
    """Pads are worse or better than noise by the interval of their difference, though their own intervals overlap."""
    against = judged({"delta": delta, "low": delta - half, "high": delta + half})
    rows = [row("included", -0.2, 0.1, against_noise=against), row("noise", -0.2 - delta, 0.1)]
    ((sentence,),) = causes(part((-1, "kmeans", rows))).values()
    assert says in sentence
    assert difference(against) in sentence


def test_causes_say_each_sentence_of_a_treatment() -> None:
    """Each treatment of the table that declares a sentence gives one, with the numbers of its row."""
    rows = [row(name, -0.001 * number, ami=0.1 + number / 100) for number, name in enumerate(TREATMENTS, start=1)]
    ((*sentences,),) = causes(part((-1, "kmeans", [of for of in rows if of["treatment"] != "noise"]))).values()
    expected = [
        treatment.sentence.format(ami=rows[place]["ami"], reference=0.6, difference=difference(rows[place]))
        for place, treatment in enumerate(TREATMENTS.values())
        if treatment.sentence
    ]
    assert sentences == expected
    assert (
        "Only the pads reach an AMI of 0.130 where the real tokens of the same texts reach 0.600: Δ −0.003"
        in (sentences[0])
    )


def test_treatments_look_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two treatments share colour and marker in a figure."""
    axes: list[Axes] = []
    monkeypatch.setattr(figures, "_finish", lambda figure, panels, *_: axes.extend(panels))
    FIGURES["forest"](part((-1, "kmeans", [row(name, -0.2) for name in TREATMENTS])), tmp_path / "figure.svg")
    marks = [line for panel in axes for line in panel.lines if str(line.get_marker()) in figures._MARKERS]
    assert len({(line.get_color(), line.get_marker()) for line in marks}) == len(marks) == len(TREATMENTS)


@pytest.mark.parametrize("kind", FIGURES)
def test_a_name_is_not_read_as_a_formula(kind: str, tmp_path: Path) -> None:
    """A corpus name that looks like a formula is drawn literally, in lines as wide as the figure."""
    results_of_part = part((-1, "kmeans", [row("included", -0.2)]))
    results_of_part["corpus"]["name"] = r"prices in $\here$ and " + "far and wide " * 9
    FIGURES[kind](results_of_part, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert r"prices in $\here$ and far" in drawn
    width = float(re.findall(r'width="([\d.]+)pt"', drawn)[0])
    lines = re.findall(r">([^<>]*far and wide[^<>]*)<", drawn)
    assert len(lines) > 1
    assert max(map(len, lines)) * 5 < width


@pytest.mark.parametrize(
    ("run_for_real", "verdict", "says"),
    [
        (False, None, ["With pads excluded no batch moves any text: in a sample of batched texts of this model"]),
        (True, {"identical": True}, ["With pads excluded no batch moves any text: random longest right were run"]),
        (True, {"identical": False}, ["Also with pads excluded, random longest right, run for real, moved texts by a"]),
        (True, None, []),
    ],
)
def test_excluded_pads_are_said_to_be_harmless_as_measured(
    run_for_real: bool, verdict: dict[str, Any] | None, says: list[str]
) -> None:
    """That no batch moves a text without pads is said after a proof or equal vectors, and not otherwise."""
    rows = [] if verdict is None else [row("excluded", 0.0, cosine_shift_max=0.25, **verdict)]
    results_of_part = part((-1, "kmeans", rows)) | {
        "proof": {"difference": 2e-6},
        "batch_effect": [{"plan": plan()["name"]}],
    }
    results_of_part["plans"] = [plan() | {"run_for_real": run_for_real}, plan("sorted") | {"run_for_real": True}]
    said = results._conclusions(Study(), results_of_part)["excluded_batches"]
    assert len(said) == len(says)
    assert all(sentence.startswith(start) for sentence, start in zip(said, says, strict=True))
    if verdict == {"identical": False}:
        assert "2.5e-01" in said[0]


def test_a_harm_under_a_confounded_plan_is_not_denied() -> None:
    """A harm under a plan that follows the labels is in the headline, and the advice says that length may cause it."""
    results_of_part = part((-1, "kmeans", [row("included", -0.2), row("included", 0.001, plan="sorted longest right")]))
    results_of_part["plans"] = [plan() | {"confounded": True}, plan("sorted") | {"confounded": False}]
    said = results._conclusions(Study(), results_of_part)
    assert "harmed under “random longest right” (confounded with the labels; " in said["headline"][0]
    assert "fell by 0.200 under “random longest right”. The padded length follows the labels" in said["advice"]
    results_of_part["plans"][0]["confounded"] = False
    assert results._conclusions(Study(), results_of_part)["advice"].endswith("mean pooling got worse.")


def test_words_of_headlines_are_explained_where_they_occur() -> None:
    """The condition of what would settle a verdict, and what sorted batches are, are said if a headline needs them."""
    said = {"headline": ["Mean pooling: could not tell under “sorted batches of 32” (about 20 seeds would settle it)."]}
    words = {
        headline: headline_words({"study": {"margin": 0.03}, "parts": [{"shift_headline": [], "headline": sentences}]})
        for headline, sentences in {"known": [], "unknown": said["headline"]}.items()
    }
    for meaning in ("does so if the difference stays the same.", "texts are sorted by their number of characters."):
        assert meaning in words["unknown"]
        assert meaning not in words["known"]


def test_the_screen_explains_vectors_once_before_their_sentences() -> None:
    """The terminal defines the cosine shift and the kept neighbours before it gives their numbers."""
    measured = part((-1, "kmeans", [row("included", -0.2)]))
    measured |= results._conclusions(Study(), measured)
    measured["corpus"] |= {"labels": 3}
    shown = [*show({"notes": [], "study": {"margin": 0.03}, "parts": [measured]}).renderables]
    assert shown.index(VECTOR_WORDS) + 1 == shown.index(f"• {measured['shift_headline'][0]}")


def test_a_sample_with_too_few_labels_for_heads() -> None:
    """Poolings that are not measured are named; the labels are only counted if the corpus has too few."""
    corpus = {"name": "mine", "labels": 5, "rare_labels": {"labels": 2, "texts": 3}}
    modes = ["attention", "latent"]
    (few,) = about_unmeasured({"unmeasured": modes, "corpus": corpus})
    assert few.startswith("attention and latent were not measured: they need four labels")
    assert few.endswith("mine has 3.")
    (many,) = about_unmeasured({"unmeasured": modes, "corpus": corpus | {"labels": 9}})
    assert many.endswith("its sample of texts has fewer.")
    assert about_unmeasured({"unmeasured": [], "corpus": corpus}) == []


def test_only_included_rows_count() -> None:
    """Treatments that explain, and poolings that only a leak needs, are not in the headline."""
    rows = [
        row("pads only", -0.3),
        row("noise", -0.3),
        row("included", -0.3, pooling="lasttoken"),
        row("included", 0.0),
    ]
    said = results._conclusions(Study(poolings=("mean",)), part((-1, "kmeans", rows)))
    assert said["headline"] == [
        "Mean pooling: no change larger than 0.03 under “random longest right” (+0.000 [−0.010, +0.010])."
    ]
    assert len(said["shift_headline"]) == 1
