"""Test `maskpool bench` from its arguments to its files."""

from __future__ import annotations

import csv
import errno
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from transformers import BertModel, CLIPConfig, CLIPModel, T5Config, T5EncoderModel
from typer.testing import CliRunner

import maskpool
from maskpool import bench
from maskpool.bench.design.study import CorpusSource, Study
from maskpool.bench.design.subsamples import make_subsamples
from maskpool.bench.part import Part
from maskpool.bench.report import pages as report
from maskpool.bench.report import results
from maskpool.bench.report.figures import FIGURES
from maskpool.bench.report.pages import CSV_COLUMNS, HEADER
from maskpool.bench.run import load_corpora
from maskpool.bench.score.heads import two_by_two
from maskpool.bench.store.checks import CELLS, STUDY
from maskpool.bench.store.folder import StudyFolder
from maskpool.cli.app import app
from maskpool.encoder import Encoder
from maskpool.errors import MaskpoolError
from maskpool.integrations.sentence_transformers import Pooling
from tests.bench import tiny
from tests.command import (
    REPLICATES,
    SEEDS,
    Ran,
    assert_refused,
    content,
    in_a_process,
    make_small,
    no_tokenizer,
    run,
    without_times,
)
from tests.once import once
from tests.poolings import LEARNED_FAMILIES, NEEDS_OPTION

FIGURE_FILES = [f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")]
REPORT_FILES = ["results.csv", *FIGURE_FILES, "report.md", "report.html", "results.json"]
FILES = [STUDY, CELLS, *REPORT_FILES]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Path:
    return model_folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = tiny.make_texts(60)
    return once(tmp_path_factory, "data", lambda folder: tiny.write_csv(folder / "colours.csv", rows)) / "colours.csv"


@dataclass(frozen=True)
class Measured:
    ran: Ran
    folder: Path

    @property
    def results(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
        return content

    @property
    def part(self) -> dict[str, Any]:
        (part,) = self.results["parts"]
        return dict(part)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table of clusters."""
        return list(self.part["tables"][0]["rows"])


@pytest.fixture(scope="session")
def study(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Run a small study into a folder that does not exist yet."""

    def measure(base: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            make_small(patch, figures=True)
            ran = run("bench", "--model", model, "--data", data, "--seeds", SEEDS, "--out", base / "new" / "folder")
        (base / "ran.json").write_text(json.dumps(asdict(ran)), "utf-8")

    base = once(tmp_path_factory, "study", measure)
    return Measured(Ran(**json.loads((base / "ran.json").read_text("utf-8"))), base / "new" / "folder")


def copy_of(study: Measured, folder: Path) -> tuple[object, ...]:
    """Copy a finished study's cells to a folder; return the command that resumes there and has nothing to compute."""
    folder.mkdir(exist_ok=True)
    for name in (STUDY, CELLS):
        shutil.copy(study.folder / name, folder)
    request = json.loads((folder / STUDY).read_text("utf-8"))["study"]
    (model,), (corpus,) = request["models"], request["corpora"]
    return "bench", "--model", model, "--data", corpus["data"], "--seeds", SEEDS, "--out", folder


def test_a_run_writes_its_files(study: Measured) -> None:
    """A run creates its folder, writes exactly its files, and prints where they are."""
    assert study.ran.code == 0, study.ran.err
    assert sorted(content(study.folder)) == sorted(FILES)
    assert f"Written to {study.folder}/: {', '.join(REPORT_FILES)}" in study.ran.out
    assert study.results["study"]["replicates"] == REPLICATES


def test_the_screen_shows_the_results(study: Measured) -> None:
    """The verdicts are printed first, then a row with the AMI of each pooling and plan, pads included."""
    printed = " ".join(study.ran.out.split())
    places = [printed.index(" ".join(line.split())) for line in (study.part["advice"], *study.part["headline"])]
    assert places == sorted(places)
    assert places[-1] < printed.index("Clusters: kmeans")
    for row in study.rows:
        if row["treatment"] == "included":
            assert re.search(rf"^ *{row['pooling']} .*{row['plan']}.* {row['ami']:.3f} ", study.ran.out, re.M)


def test_figures_are_images(study: Measured) -> None:
    """Each figure is a PNG that can be read to its last byte."""
    for name in (f"{figure}.png" for figure in FIGURES):
        with Image.open(study.folder / name) as image:
            assert image.format == "PNG"
            image.load()
            assert min(image.size) > 300


def test_the_csv_file_has_the_rows_of_the_results(study: Measured) -> None:
    """results.csv has the rows and numbers of results.json, each with its model, corpus, layer and clusterer."""
    with (study.folder / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    about = {"model": study.part["model"]["name"], "corpus": "colours", "layer": -1, "margin": 0.03}
    expected = [
        about | {"by": table["by"]} | row | row.get("verdict", {}) | {"verdict": row.get("verdict", {}).get("kind", "")}
        for table in study.part["tables"]
        for row in table["rows"]
    ]
    for csv_row, row in zip(rows, expected, strict=True):
        values = {name: row.get(name, "") for name in CSV_COLUMNS}
        assert csv_row == {name: "" if value is None else str(value) for name, value in values.items()}


def tables(markdown: str) -> list[list[list[str]]]:
    """Return the cells of each table, beginning with its header."""
    parsed: list[list[list[str]]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            parsed[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif parsed[-1]:
            parsed.append([])
    return [table for table in parsed if table]


def numbers_in(results: object) -> Iterator[float]:
    if isinstance(results, dict):
        for value in results.values():
            yield from numbers_in(value)
    elif isinstance(results, list):
        for value in results:
            yield from numbers_in(value)
    elif isinstance(results, (int, float)):
        yield float(results)


def test_every_number_of_the_report_is_in_the_results(study: Measured) -> None:
    """Each number in a table of the report is a rounded number of results.json."""
    known = list(numbers_in(study.results))
    checked = 0
    for table in tables((study.folder / "report.md").read_text(encoding="utf-8")):
        if table[0][0] not in ("plan", "pooling", "trained") or "only by seed" in table[0]:
            continue
        for cells in table[2:]:
            for cell in cells[2:]:
                cell = cell.replace(",", "")  # the thousands separator
                for number, percent in re.findall(r"([-+]?\d+(?:\.\d+)?)( ?%)?", cell):
                    half = 0.5000001 * 10.0 ** -len(number.partition(".")[2])
                    scale = 100 if percent else 1
                    # The sign of a difference that rounds to zero is arbitrary.
                    assert any(abs(abs(value * scale) - abs(float(number))) <= half for value in known), cell
                    checked += 1
    assert checked > 150


def test_the_report_has_a_row_for_each_comparison(study: Measured) -> None:
    """The rows of the report's main table have the numbers of the rows of results.json, in the same order."""
    (main,) = [table for table in tables((study.folder / "report.md").read_text("utf-8")) if table[0] == list(HEADER)]
    for cells, row in zip(main[2:], study.rows, strict=False):
        assert [*cells[:3], cells[-1]] == [row["pooling"], row["plan"], row["treatment"], str(row["texts"])]
        assert cells[5:8] == [f"{row[name]:.3f}" for name in ("ami", "ari", "v_measure")]
        if row["treatment"] == "excluded":
            assert cells[3:5] == ["reference", ""]
        else:
            signed = [f"{row[name]:+z.3f}".replace("-", "−") for name in ("delta", "low", "high")]
            assert cells[4] == "{} [{}, {}]".format(*signed)
            assert row["low"] <= row["delta"] <= row["high"]
    assert [cells[0] for cells in main[2 + len(study.rows) :]] == ["TF-IDF", "length deciles"]


def test_differences_are_relative_to_the_excluded_treatment(study: Measured) -> None:
    """The difference of a treatment that scores all texts is its AMI minus that of the excluded treatment."""
    reference = {row["pooling"]: row["ami"] for row in study.rows if row["treatment"] == "excluded"}
    rows = [row for row in study.rows if row["treatment"] in ("included", "noise")]
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        assert row["delta"] == pytest.approx(row["ami"] - reference[row["pooling"]])


def test_noise_has_the_cosine_shift_of_pads(study: Measured) -> None:
    """For each included row there is a noise row with the same cosine shift."""
    shift = {
        (row["pooling"], row["plan"], row["treatment"]): row["cosine_shift"] for row in study.rows if "delta" in row
    }
    for (pooling, plan, treatment), value in shift.items():
        if treatment == "noise":
            assert value == pytest.approx(shift[pooling, plan, "included"], abs=1e-6)
        if treatment == "included":
            assert value > 1e-4


def test_pads_against_noise_is_a_comparison_of_the_table(study: Measured) -> None:
    """Pads are compared with noise by their scores per subsample, with the tail probability of the other intervals."""
    cells = [json.loads(line) for line in (study.folder / CELLS).read_text().splitlines()]
    fits: dict[tuple[Any, ...], list[float]] = {}
    for cell in cells:
        if cell["key"]["kind"] == "fit" and cell["key"]["by"] == "kmeans":
            name = tuple(cell["key"][part] for part in ("pooling", "plan", "treatment", "subsample"))
            fits.setdefault(name, []).extend(cell["value"]["scores"]["ami"])
    tails = [
        float(stats.t.sf((row["high"] - row["delta"]) / row["standard_error"], row["freedom"]))
        for row in study.rows
        if row.get("standard_error")
    ]
    assert tails == pytest.approx([tails[0]] * len(tails))
    rows = [row for row in study.rows if row["treatment"] == "included"]
    assert len(rows) == 2 * 3
    for row in rows:
        about = row["pooling"], row["plan"]
        full, *subsamples = (
            np.subtract(fits[*about, "included", subsample], fits[*about, "noise", subsample])
            for subsample in range(REPLICATES + 1)
        )
        halves = np.array(subsamples)
        by_seeds = halves.var(axis=1, ddof=1).mean()
        variance = halves.mean(axis=1).var(ddof=1) - by_seeds / halves.shape[1]
        on_full = ((len(full) - 1) * full.var(ddof=1) + by_seeds) / len(full)
        error = np.sqrt(max(variance, 0) + on_full / len(full))
        comparison = row["against_noise"]
        assert comparison["delta"] == pytest.approx(full.mean())
        half_width = stats.t.isf(tails[0], comparison["freedom"]) * error
        assert comparison["high"] - comparison["delta"] == pytest.approx(half_width, rel=1e-4)
        assert comparison["delta"] - comparison["low"] == pytest.approx(half_width, rel=1e-4)
    assert all(("against_noise" in row) == (row["treatment"] == "included") for row in study.rows)


def test_the_table_of_heads_has_the_numbers_of_their_cells(study: Measured) -> None:
    """The results have the table of heads, computed from one cell for each head seed."""
    cells = [json.loads(line) for line in (study.folder / CELLS).read_text().splitlines()]
    of_seeds = [cell["value"] for cell in cells if cell["key"]["kind"] == "head"]
    assert len(of_seeds) == SEEDS
    learned = study.part["learned"]
    rows = [{name: value for name, value in row.items() if name != "verdict"} for row in learned["rows"]]
    assert learned | {"rows": rows} == two_by_two({"attention": of_seeds})


def test_the_screen_says_how_far_lengths_follow_labels(study: Measured) -> None:
    """The terminal shows the AMI of labels and padded lengths of every plan, and marks those that are confounded."""
    shown = " ".join(study.ran.out.split())
    plans = study.part["plans"]
    for plan in plans:
        mark = ", confounded" * plan["confounded"]
        assert f"{abs(plan['label_width_ami']):.3f}{mark} under “{plan['name']}”" in shown
    assert [plan["label_width_ami"] > 0.02 for plan in plans] == [plan["confounded"] for plan in plans]


def test_words_are_explained_before_they_are_used(study: Measured) -> None:
    """The page opens with the advice; words of the headlines come before them, and all others before the tables."""
    for name, headlines, table in (("report.html", "<ul><li>", "<table"), ("report.md", "\n- ", "| pooling |")):
        content = (study.folder / name).read_text("utf-8")
        first = content[: content.index(headlines)]
        advice = study.part["advice"]
        assert advice in first
        said = " ".join([*study.part["headline"], *study.part["shift_headline"]])
        for word, meaning in report._FIRST_WORDS.items():
            assert (meaning in first.replace("&#39;", "'")) == (word in said), word
        assert first.index(advice) < first.index("AMI says how well")
        assert content.index(headlines) < content.index("What the words mean</h2>" if "html" in name else "## What the")
        for term in report.TERMS:
            assert content.index(f"<dt>{term}" if "html" in name else f"| {term} |") < content.index(table)


def test_few_half_samples_are_reported(study: Measured) -> None:
    """Only a study with fewer than 50 half-samples says so, in the report and on the screen."""
    sentence = f"the intervals are based on {REPLICATES} half-samples, and with fewer than 50 their width is unreliable"
    for name in ("report.md", "report.html"):
        assert sentence in (study.folder / name).read_text("utf-8")
    assert sentence in " ".join(study.ran.out.split())
    assert results._notes(Study(replicates=50)) == []
    assert len(results._notes(Study(replicates=49))) == 1


def test_a_finished_run_again_gives_the_same_results(study: Measured, tmp_path: Path) -> None:
    """Running a finished study again replaces older results by the same results, times included."""
    command = copy_of(study, tmp_path)
    for name in REPORT_FILES:
        (tmp_path / name).write_text("older")
    assert run(*command).code == 0
    assert Measured(study.ran, tmp_path).results == study.results
    for name in ("results.csv", "report.md", CELLS):
        assert (tmp_path / name).read_bytes() == (study.folder / name).read_bytes(), name
    assert sorted(content(tmp_path)) == sorted(FILES)


def measured_cells(folder: Path, *poolings: str) -> dict[str, Any]:
    """Return the values of the cells of some poolings by their keys, without times."""
    cells = [json.loads(line) for line in (folder / CELLS).read_text("utf-8").splitlines()]
    return {
        json.dumps(cell["key"], sort_keys=True): without_times(cell["value"])
        for cell in cells
        if cell["key"].get("pooling") in poolings
    }


@pytest.mark.parametrize(
    "poolings",
    [("mean",), pytest.param(("mean", "max", "attention"), marks=pytest.mark.full)],
    ids=["one pooling", "all poolings"],
)
def test_the_same_run_twice_gives_the_same_numbers(
    study: Measured, model: Path, data: Path, tmp_path: Path, poolings: tuple[str, ...]
) -> None:
    """A second measurement gives each cell of a pooling the same value, with any other poolings in the study."""
    request = ("--model", model, "--data", data, "--seeds", SEEDS, "--out", tmp_path, "--pooling", ",".join(poolings))
    assert run("bench", *request).code == 0
    cells = measured_cells(tmp_path, *poolings)
    assert cells == measured_cells(study.folder, *poolings)
    assert len(cells) > 80


@pytest.mark.parametrize("spelling", [["--pooling", "mean", "--pooling", "cls"], ["--pooling", " mean,cls,mean"]])
def test_poolings_may_be_repeated_or_listed(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: list[str]
) -> None:
    """Poolings may be given by a repeated option or separated by commas, and each is measured once."""
    request: list[Study] = []
    monkeypatch.setattr("maskpool.bench.run.run_study", lambda study, *_: request.append(study))
    run("bench", "--model", model, "--data", data, "--out", tmp_path, *spelling)
    assert [study.poolings for study in request] == [("mean", "cls")]


def test_a_saved_head_next_to_a_mode(model: Path, data: Path, tmp_path: Path) -> None:
    """The folder of a trained head is measured like a mode; a head with other weights makes another study."""
    head = Pooling(32, "attention")
    torch.nn.init.normal_(head.pooling.get_parameter("query"))
    (tmp_path / "head").mkdir()
    head.save(str(tmp_path / "head"))
    poolings = f"mean,{tmp_path / 'head'}"
    request = ("--model", model, "--data", data, "--seeds", SEEDS, "--out", tmp_path / "out", "--pooling", poolings)
    assert run("bench", *request).code == 0
    part = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["parts"][0]
    (table,) = (table for table in part["tables"] if table["by"] == "kmeans")
    scores = {row["pooling"]: row["ami"] for row in table["rows"] if row["treatment"] == "excluded"}
    assert set(scores) == {"mean", str(tmp_path / "head")}
    assert scores["mean"] != scores[str(tmp_path / "head")]
    torch.nn.init.normal_(head.pooling.get_parameter("query"))
    head.save(str(tmp_path / "head"))
    again = run("bench", *request)
    assert again.code == 2
    assert "must be a folder without another study's cells" in again.err


def test_learned_poolings_only(model: Path, data: Path, tmp_path: Path) -> None:
    """A study of only learned poolings reports each, trained and served with and without the mask, in one table."""
    modes = LEARNED_FAMILIES[:3]
    ran = run("bench", "--model", model, "--data", data, "--out", tmp_path, "--pooling", ",".join(modes))
    assert ran.code == 0, ran.err
    part = Measured(ran, tmp_path).part
    assert part["tables"] == []
    assert [row["pooling"] for row in part["learned"]["rows"]] == [mode for mode in modes for _ in range(4)]
    assert part["learned"]["compared"] == 9
    for mode in modes:
        assert f"| {mode} | without mask / without mask |" in (tmp_path / "report.md").read_text("utf-8")
    assert sorted(content(tmp_path)) == sorted(FILES)


def test_too_few_labels_for_heads_are_reported(model: Path, tmp_path: Path) -> None:
    """With two labels the screen and the report say that learned poolings were not measured, and why."""
    data = tiny.write_csv(tmp_path / "two.csv", tiny.make_texts(40, labels=2))
    request = ("--model", model, "--data", data, "--seeds", SEEDS, "--out", tmp_path / "out")
    ran = run("bench", *request, "--pooling", "mean,attention")
    assert ran.code == 0
    text = "attention was not measured: it needs four labels with at least four texts each, two has 2."
    assert text in ran.out.splitlines()
    assert all(text in (tmp_path / "out" / f"report.{suffix}").read_text("utf-8") for suffix in ("md", "html"))


def test_a_folder_saved_as_an_encoder_of_t5(data: Path, tmp_path: Path) -> None:
    """A folder that T5EncoderModel saved is measured: its vectors move as far as those of that class."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(tiny.VOCABULARY), d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    saved = T5EncoderModel(config).eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    saved.save_pretrained(tmp_path / "t5")
    tiny.tokenizer().save_pretrained(tmp_path / "t5")
    text = f'models = ["{tmp_path / "t5"}"]\npoolings = ["mean"]\ntreatments = ["included"]\nseeds = 2\n'
    text += f'[[corpora]]\ndata = "{data}"\n[[plans]]\npad_to = 24\n'
    (tmp_path / "study.toml").write_text(text, "utf-8")
    ran = run("bench", "--study", tmp_path / "study.toml", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    with data.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    features = tiny.tokenizer()(texts, padding="max_length", max_length=24, return_tensors="pt")
    with torch.inference_mode():
        states, mask = saved(features.input_ids, features.attention_mask)[0], features.attention_mask.unsqueeze(2)
    alone, padded = (states * mask).sum(dim=1) / mask.sum(dim=1), states.mean(dim=1)
    shift = 1 - torch.cosine_similarity(alone, padded).mean().item()
    rows = {(row["plan"], row["treatment"]): row for row in Measured(ran, tmp_path / "out").rows}
    assert rows["padded to 24", "included"]["cosine_shift"] == pytest.approx(shift, abs=1e-6)
    assert shift > 0.01


def test_a_model_with_few_positions(data: Path, tmp_path: Path) -> None:
    """The texts of a model whose limit is below the default padded length are padded to the limit."""
    small = tiny.save_model(tmp_path / "small", limit=40)
    (corpus,) = load_corpora(Study(corpora=(CorpusSource(data=str(data)),)), tmp_path)
    part = Part.of(Study(), corpus, Encoder.load(str(small)))
    assert part.top == 40 > part.lengths.max()


def test_pads_that_one_text_causes(model: Path, tmp_path: Path) -> None:
    """A corpus with one long text among texts of equal length is measured; half-samples without it have no pads."""
    rows = [(f"{label}{place % 8} w{place % 30}", label) for place in range(24) for label in ("red", "green")]
    rows[0] = ("red1 w1 w2 w3 w4 w5 w6", "red")
    ones = np.ones(len(rows), np.int64)
    halves = [subsample.texts for number, subsample in make_subsamples([], ones, ones, Study()).items() if number > 0]
    assert {bool((half == 0).any()) for half in halves} == {True, False}
    data = tiny.write_csv(tmp_path / "one.csv", rows)
    request = ("--model", model, "--data", data, "--seeds", SEEDS, "--out", tmp_path / "out", "--pooling", "mean")
    ran = run("bench", *request)
    assert ran.code == 0, ran.err


def test_texts_that_are_cut_off_are_reported(data: Path, tmp_path: Path) -> None:
    """The screen and the results give the number of texts beyond the model's limit."""
    small = tiny.save_model(tmp_path / "small", limit=10)
    arguments = ["bench", "--model", small, "--data", data, "--out", tmp_path / "out", "--pad-to", 10]
    ran = run(*arguments, "--pooling", "mean")
    assert ran.code == 0, ran.err
    cut = sum(len(text.split()) > 8 for text, _ in tiny.make_texts(60))
    assert f"{cut} texts were cut off at 10 tokens." in ran.out
    assert Measured(ran, tmp_path / "out").part["corpus"]["truncated"] == cut


REFUSED: dict[str, tuple[list[str], str]] = {
    "model": (["--model", "no-such-model"], "--model must be a folder .*hub, or all-MiniLM-L6-v2 .*'no-such-model' .*"),
    "text column": (
        ["--text-column", "body"],
        "--text-column must be one of the columns text, label of .*, got 'body'; .*",
    ),
    "label column": (
        ["--label-column", "x"],
        "--label-column must be one of the columns text, label of .*, got 'x'; .*",
    ),
    "file": (["--data", "none.csv"], "--data must name a file, but there is none at none.csv"),
    "two corpora": (
        ["--task", "TwentyNewsgroupsClustering.v2"],
        "only one corpus can be measured at a time, got --data, --task; a --study may have more",
    ),
    "suffix": (
        ["--data", "none.xls"],
        "--data must be a file that ends in .csv, .tsv, .*, got none.xls: save it as .*",
    ),
    "pooling": (
        ["--pooling", "mean,average"],
        "--pooling must be one of mean, .*, or the folder of a saved head, got 'average'.*",
    ),
    "pooling with options": (["--pooling", NEEDS_OPTION], f"--pooling must give .*, as in '{NEEDS_OPTION}.*'.*"),
    "no pooling": (
        ["--pooling", ""],
        "--pooling must be one of mean, .*, or the folder of a saved head, got ''.*",
    ),
    "no head": (
        ["--pooling", "heads/mistyped"],
        "--pooling must be .*, or the folder of a saved head, got 'heads/mistyped'.*",
    ),
    "device": (
        ["--device", "nonsense"],
        "--device must be one that torch can use here, such as cpu, got 'nonsense': .*",
    ),
    "pad to too little": (
        ["--pad-to", "5"],
        r"--pad-to must be at least 22 .* and at most 160 .*, got 5",
    ),
    "pad to too much": (
        ["--pad-to", "161"],
        r"--pad-to must be at least 22 .* and at most 160 .*, got 161",
    ),
    "limit": (["--limit", "19"], "--limit must be at least 20 to keep 4 texts of each of the 5 labels .*, got 19"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED)
def test_invalid_arguments_are_refused(
    model: Path, data: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    """An error the user can fix is one sentence that names the argument and the accepted values; results stay."""
    for name in REPORT_FILES:
        (tmp_path / name).write_text(f"older {name}")
    before = content(tmp_path)
    given = {"--model": str(model), "--data": str(data), "--out": str(tmp_path)}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert_refused(run("bench", *(word for pair in given.items() for word in pair)), sentence)
    assert content(tmp_path) == before


ROWS = tiny.make_texts(40)
BAD_TEXTS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "no token": (
        [*ROWS, (tiny.NO_TOKEN, "red")],
        r"mine must hold texts of at least one token; text 41 has none: '\\u200b'",
    ),
    "one label": (tiny.make_texts(40, labels=1), "mine must have at least two labels to score clusters by, got 1"),
    "no text": (
        [*ROWS, (" ", "red")],
        r"--drop-missing must be set .* 1 of 41 rows of mine.csv, .* \(1 with a blank text; .* row 41\): .*",
    ),
    "no label": (
        [*ROWS, ("w1", "")],
        r"--drop-missing must be set .* 1 of 41 rows of mine.csv, .* \(1 without a label; .* row 41\): .*",
    ),
}


@pytest.mark.parametrize(("rows", "sentence"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_texts_that_cannot_be_measured_are_refused(
    model: Path, tmp_path: Path, rows: list[tuple[str, str]], sentence: str
) -> None:
    """A corpus that cannot be clustered or scored is refused, and the error names the row or the label."""
    data = tiny.write_csv(tmp_path / "mine.csv", rows)
    assert_refused(run("bench", "--model", model, "--data", data, "--out", tmp_path / "out"), sentence)
    assert not (tmp_path / "out").exists(), "the folder is created only when something can be measured"


def other_words(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {(w if w.startswith("[") else f"other-{w}"): place for w, place in vocabulary.items()}
    path.write_text(json.dumps(content), "utf-8")


def small_matrix(folder: Path) -> None:
    model = BertModel.from_pretrained(folder)
    model.resize_token_embeddings(len(tiny.VOCABULARY) - 1)
    model.save_pretrained(folder)


def new_pad_token(folder: Path) -> None:
    tokenizer = tiny.tokenizer(pad_token=None)
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(folder)


def needs_images(folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=sizes | {"vocab_size": len(tiny.VOCABULARY), "max_position_embeddings": tiny.LIMIT},
        vision_config=sizes | {"image_size": 8, "patch_size": 4},
    )
    CLIPModel(config).save_pretrained(folder)


NO_TEXT_MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer": (no_tokenizer, r"--model must be .* could not be loaded: .* must hold a tokenizer, such as .*"),
    "other words": (other_words, r"--model must have a tokenizer that knows the texts; .* 100% .*\[UNK\].*"),
    "small matrix": (small_matrix, ".*tokenizer.json must have ids of tokens below 73, .* got 73 for 'white7': .*"),
    "new pad token": (new_pad_token, "--model must have an embedding .* has 74, but its tokenizer gives the id 74: .*"),
    "images": (needs_images, "--model must need only texts; .* could not be run on token ids .*: .+"),
}


@pytest.mark.parametrize(("damage", "sentence"), NO_TEXT_MODELS.values(), ids=NO_TEXT_MODELS)
def test_a_model_that_does_not_fit_its_tokenizer_is_refused(
    data: Path, tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    """A model with a missing or wrong tokenizer, or with other inputs than texts, is refused with the reason."""
    model = tiny.save_model(tmp_path / "model")
    damage(model)
    assert_refused(run("bench", "--model", model, "--data", data, "--out", tmp_path / "out"), sentence)


@pytest.mark.parametrize(
    ("place", "options"),
    [("encoder.Encoder.load", []), ("bench.report.pages.write", []), ("bench.estimate.estimate", ["--dry-run"])],
)
@pytest.mark.parametrize("has_cells", [False, True], ids=["new", "resumed"])
def test_ctrl_c_says_how_to_resume(
    study: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, options: list[str], has_cells: bool
) -> None:
    """Ctrl-C while models load, while a report is written or in a dry run ends with code 130 and one sentence."""

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    command = copy_of(study, tmp_path)
    finished = (tmp_path / CELLS).read_bytes().count(b"\n")
    if not has_cells:
        if place == "bench.report.pages.write":
            pytest.skip("only a finished study has a report")
        (tmp_path / CELLS).unlink()
        finished = 0
    monkeypatch.setattr(f"maskpool.{place}", stop)
    ran = run(*command, *options)
    assert (ran.code, ran.out) == (130, "")
    sentence = f"maskpool: stopped; {finished} finished cells are in {tmp_path}: the same command resumes from there"
    assert ran.err.strip().splitlines()[-1] == sentence


@pytest.mark.parametrize("place", ["numpy.save", "pathlib.Path.write_text"])
def test_a_disk_without_space_for_vectors_is_reported(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A disk that fills up while vectors or their count are written gives one sentence and exit code 2."""
    write_text = Path.write_text

    def full_for_counts(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name.endswith(".done.json"):  # the temporary file has this suffix, too
            full_disk()
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(place, full_disk if place == "numpy.save" else full_for_counts)
    ran = run("bench", "--model", model, "--data", data, "--out", tmp_path, "--pooling", "mean")
    assert ran.code == 2, ran.err
    assert re.fullmatch(
        r"maskpool: --out must be a writable folder; the vectors could not be written to .*: "
        r"No space left on device; make room .*",
        ran.err.splitlines()[-1],
    )
    assert "Traceback" not in ran.err


def test_a_file_as_output_folder_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    """An --out that is a file, or a path below a file, is refused before anything is measured."""
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        ran = run("bench", "--model", model, "--data", data, "--out", out)
        assert_refused(ran, rf"--out must be a writable folder, got {re.escape(str(out))}: .*\w")
    assert file.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in which files cannot be created is refused before anything is measured."""

    def refuse(**options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("maskpool.bench.store.checks.tempfile.TemporaryFile", refuse)
    ran = run("bench", "--model", model, "--data", data, "--out", tmp_path)
    assert_refused(ran, "--out must be a writable folder, got .*: Permission denied")


def full_disk(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def mistake(*arguments: object, **options: object) -> None:
    raise ZeroDivisionError


def older(folder: Path) -> dict[str, bytes]:
    """Write results of an earlier run."""
    folder.mkdir(exist_ok=True)
    for name in REPORT_FILES:
        (folder / name).write_text(f"older {name}")
    return content(folder)


def test_a_disk_that_fills_up_is_reported(study: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while files are written gives one sentence, and older results stay unchanged."""
    out = tmp_path / "out"
    command = copy_of(study, out)
    before = older(out)
    with monkeypatch.context() as patch:
        patch.setattr("maskpool.bench.report.pages.markdown", full_disk)
        ran = run(*command)
    assert ran.code == 2
    last = ran.err.splitlines()[-1]
    assert last == f"maskpool: --out must be a writable folder, got {out}: No space left on device"
    assert "Traceback" not in ran.err
    assert content(out) == before
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert run("bench", "report", out).code == 0, "the computed cells are not lost"
    assert (out / "results.csv").read_bytes() == (study.folder / "results.csv").read_bytes()


@pytest.mark.parametrize("step", ["_write_csv", "_draw", "markdown", "page", "json.dumps"])
@pytest.mark.parametrize(("bug", "error"), [(full_disk, MaskpoolError), (mistake, ZeroDivisionError)])
def test_a_failing_step_leaves_older_results(
    study: Measured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    bug: Callable[..., None],
    error: type[Exception],
) -> None:
    """If any file cannot be written, all older files stay unchanged and no other file remains."""
    out, results = tmp_path / "out", study.results
    before = older(out)
    monkeypatch.setattr(f"maskpool.bench.report.pages.{step}", bug)
    with pytest.raises(error):
        report.write(results, StudyFolder(out))
    assert content(out) == before
    assert sorted(path.name for path in out.iterdir()) == sorted(REPORT_FILES)


@pytest.mark.parametrize("name", REPORT_FILES)
def test_a_folder_with_the_name_of_a_file_leaves_older_results(study: Measured, tmp_path: Path, name: str) -> None:
    """If a folder has the name of a results file, writing is refused and no file is replaced."""
    out = tmp_path / "out"
    older(out)
    (out / name).unlink()
    (out / name).mkdir()
    (out / name / "mine").write_text("mine")
    before = content(out)
    with pytest.raises(MaskpoolError, match="out must be a writable folder"):
        report.write(study.results, StudyFolder(out))
    assert content(out) == before


def test_version() -> None:
    """The installed command prints its version."""
    installed = str(Path(sys.executable).with_name("maskpool"))
    assert in_a_process(installed, "--version") == Ran(0, f"maskpool {maskpool.__version__}\n", "")


def test_help_names_the_command() -> None:
    """The help of the command lists bench, with --help and without arguments."""
    for arguments in (["--help"], []):
        assert "bench" in CliRunner().invoke(app, arguments).output


def test_help_names_every_option() -> None:
    """The help of bench names each of its options."""
    shown = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    options = ["model", "data", "text-column", "label-column", "limit", "pooling", "pad-to", "batch-size", "seeds"]
    for option in [*options, "study", "dry-run", "quiet", "json", "device", "out"]:
        assert f"--{option} " in shown


@pytest.mark.parametrize(
    "arguments", [["--limit", "0"], ["--pad-to", "0"], ["--batch-size", "0"], ["--seeds", "1"], ["--seeds", "many"]]
)
def test_numbers_out_of_range_are_refused(arguments: list[str]) -> None:
    """A number out of range is refused, and the error names the option."""
    ran = run("bench", *arguments)
    assert ran.code == 2
    assert arguments[0] in ran.err
    assert "Traceback" not in ran.err


def test_a_missing_package_is_named(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a package of the extra, the error names the command that installs it."""
    monkeypatch.setattr(maskpool, "bench", bench)  # restores the module that this test replaces
    for name in [name for name in sys.modules if name.startswith("maskpool.bench")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = run("bench", "--model", model, "--data", data, "--out", tmp_path)
    assert_refused(ran, r'matplotlib\S* is not installed; get it with: pip install "maskpool\[bench\]"')
