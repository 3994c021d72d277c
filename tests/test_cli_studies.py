"""Test studies that are read from files, and the commands that read their folders."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from maskpool.bench.design.study import Study, parse_study, read_study
from maskpool.bench.part import Grid, Part, key_of
from maskpool.bench.report.results import results_of
from maskpool.bench.report.verdicts import judge
from maskpool.bench.run import load_corpora, run_study
from maskpool.bench.store.cells import content_hash
from maskpool.bench.store.checks import CELLS
from maskpool.bench.store.folder import StudyFolder
from maskpool.encoder import Encoder
from maskpool.leaks import REMADE
from tests.bench import tiny
from tests.command import Ran, Silent, assert_refused, content, make_small, run, without_times
from tests.once import once

STUDY = """
models = ["{model}"]
poolings = ["mean", "cls"]
treatments = ["included", "pads only", "noise", "index padded, query alone"]
leaks = "all"
layers = [-1, 0]
clusterers = ["kmeans", "hdbscan"]
replicates = 2
seeds = 2

[[corpora]]
data = "colours.csv"

[[plans]]
order = "random"
batch_size = 8

[[plans]]
pad_to = 24
side = ["right", "left"]
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def write_studies(folder: Path, model: Path) -> None:
    """Write a study file and a smaller one, next to their corpus."""
    tiny.write_csv(folder / "colours.csv", tiny.make_texts(60))
    text = STUDY.format(model=model)
    (folder / "study.toml").write_text(text, "utf-8")
    text = text.replace("layers = [-1, 0]", "layers = [-1]").replace('leaks = "all"', "")
    (folder / "small.toml").write_text(text.replace('"kmeans", "hdbscan"', '"kmeans"'), "utf-8")


@pytest.fixture(scope="session")
def file(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a study file next to its corpus, in a folder other than the working directory."""
    return once(tmp_path_factory, "studies", lambda folder: write_studies(folder, model_folder)) / "study.toml"


def measure(file: Path, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        ran = run("bench", "--study", file, "--out", folder / "out", "--json")
    (folder / "ran.json").write_text(json.dumps(asdict(ran)), "utf-8")


@pytest.fixture(scope="session")
def finished(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    folder = once(tmp_path_factory, "finished", lambda folder: measure(file, folder))
    ran = Ran(**json.loads((folder / "ran.json").read_text("utf-8")))
    assert ran.code == 0, ran.err
    return ran, folder / "out"


@pytest.fixture(scope="session")
def small(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run the smaller study; return its file and the folder of its results."""
    file = file.with_name("small.toml")
    return file, once(tmp_path_factory, "small", lambda folder: measure(file, folder)) / "out"


def test_json_prints_only_the_results(finished: tuple[Ran, Path]) -> None:
    """With --json, standard output is the content of results.json, and standard error is empty."""
    ran, out = finished
    assert json.loads(ran.out) == json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert ran.err == ""


def test_everything_in_the_study_file_is_measured(finished: tuple[Ran, Path]) -> None:
    """Every layer, clusterer, pooling, plan and treatment of the file has a row, and every leak has its name."""
    (part,) = json.loads(finished[0].out)["parts"]
    tables = {(table["layer"], table["by"]): table["rows"] for table in part["tables"]}
    assert set(tables) == {(layer, by) for layer in (-1, 0) for by in ("kmeans", "hdbscan", "mixed")}
    plans = ["random batches of 8", "padded to 24", "padded to 24, left"]
    for (_, by), rows in tables.items():
        for pooling in ("mean", "cls"):
            for plan in plans:
                treatments = {row["treatment"] for row in rows if row["pooling"] == pooling and row["plan"] == plan}
                if by == "mixed":
                    assert treatments == {"index padded, query alone"}
                else:
                    assert {"included", "noise"} <= treatments
                    assert ("excluded" in treatments) == plan.endswith("left"), (
                        "left padding may change even the excluded treatment"
                    )
    leaks = {row["leak"] for row in tables[-1, "kmeans"] if "leak" in row}
    assert leaks == set(REMADE)


def test_every_difference_has_an_interval_and_a_floor(finished: tuple[Ran, Path]) -> None:
    """Every row has a floor, and every difference lies in its interval."""
    (part,) = json.loads(finished[0].out)["parts"]
    rows = [row for table in part["tables"] for row in table["rows"]]
    assert any("delta" in row for row in rows)
    for row in rows:
        assert row["floor"] >= 0
        if "delta" in row:
            assert row["low"] <= row["delta"] <= row["high"]


def test_texts_of_the_data_are_not_quoted(finished: tuple[Ran, Path], file: Path) -> None:
    """Unless the study asks for it, the files of the results do not contain any text of the corpus."""
    texts = [text for text, _ in tiny.make_texts(60) if len(text.split()) > 3]
    for name, written in content(finished[1]).items():
        if not name.endswith(".png"):
            assert not any(text.encode() in written for text in texts), name


def test_a_finished_study_is_judged_by_another_margin(finished: tuple[Ran, Path], file: Path, tmp_path: Path) -> None:
    """Another margin changes verdicts in every output, and no cell and no number."""
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    assert run("bench", "report", out, "--margin", "0.75").code == 0
    before, after = (json.loads((folder / "results.json").read_text("utf-8")) for folder in (finished[1], out))
    pairs = [
        (old, new)
        for old_table, new_table in zip(before["parts"][0]["tables"], after["parts"][0]["tables"], strict=True)
        for old, new in zip(old_table["rows"], new_table["rows"], strict=True)
        if "delta" in old
    ]
    assert all(new["verdict"] == judge(new | _identical(new), 0.75, 2) for _, new in pairs)
    assert any(old["verdict"]["kind"] == "unknown" and new["verdict"]["kind"] == "no change" for old, new in pairs)
    assert all(old["low"] == new["low"] and old["high"] == new["high"] for old, new in pairs)
    assert (out / CELLS).read_bytes() == (finished[1] / CELLS).read_bytes()
    for name in ("report.md", "report.html", "results.csv"):
        assert "0.75" in (out / name).read_text("utf-8"), name
    # The same study with another margin in its file is the same study.
    again = file.with_name("margin.toml")
    again.write_text(f"margin = 0.75\n{file.read_text('utf-8')}", "utf-8")
    ran = run("bench", "--study", again, "--out", out, "--json")
    assert json.loads(ran.out) == after
    assert (out / CELLS).read_bytes() == (finished[1] / CELLS).read_bytes()


def _identical(row: dict[str, Any]) -> dict[str, bool]:
    return {"identical": row["verdict"]["kind"] == "identical"}


@pytest.mark.parametrize(
    ("margin", "problem"),
    [(value, f"a number greater than 0 and less than 1, got {float(value)}") for value in ("0", "1", "nan")],
)
def test_a_margin_is_between_0_and_1(finished: tuple[Ran, Path], tmp_path: Path, margin: str, problem: str) -> None:
    """A margin of 0, 1 or no number is refused by its option, in a run and in a report."""
    assert_refused(run("bench", "report", finished[1], "--margin", margin), f"--margin must be {problem}")
    assert_refused(run("bench", "--out", tmp_path / "out", "--margin", margin), f"--margin must be {problem}")
    assert not (tmp_path / "out").exists()


def test_the_same_study_again_computes_nothing(finished: tuple[Ran, Path], file: Path) -> None:
    """Running a finished study again adds no cells and gives the same results, times included."""
    ran, out = finished
    cells = (out / CELLS).read_bytes()
    again = run("bench", "--study", file, "--out", out, "--json")
    assert again.out == ran.out
    assert (out / CELLS).read_bytes() == cells


def test_the_folder_of_another_study_is_refused(finished: tuple[Ran, Path], file: Path, tmp_path: Path) -> None:
    """A folder with another study's cells is refused and unchanged, and the error says what differs."""
    before = content(finished[1])
    (tmp_path / "colours.csv").write_bytes(file.with_name("colours.csv").read_bytes())
    other = tmp_path / "other.toml"
    other.write_text(file.read_text("utf-8").replace("replicates = 2", "replicates = 2\ndtype = 'bfloat16'"), "utf-8")
    ran = run("bench", "--study", other, "--out", finished[1])
    differs = r'dtype "float32" \(now "bfloat16"\)'
    sentence = f"--out must be a folder without another study's cells; .* {differs}: choose .*"
    assert_refused(ran, sentence)
    assert_refused(run("bench", "--study", other, "--out", finished[1], "--dry-run"), sentence)
    assert content(finished[1]) == before


def test_the_report_is_rebuilt_from_the_cells(finished: tuple[Ran, Path], tmp_path: Path) -> None:
    """The report command rebuilds every file from only the cells and the study, with the same bytes."""
    before = content(finished[1])
    for name in ("study.json", CELLS):
        (tmp_path / name).write_bytes(before[name])
    ran = run("bench", "report", tmp_path)
    assert ran.code == 0, ran.err
    after = content(tmp_path)
    assert sorted(after) == sorted(before)
    assert after == before


def test_report_refuses_a_folder_without_a_study(tmp_path: Path) -> None:
    """An empty and a missing folder are refused with one sentence that names the argument."""
    expected = "must be the folder of a study, with a study.json, got .*"
    assert_refused(run("bench", "report", tmp_path), f"DIR {expected}")
    assert_refused(run("bench", "report", tmp_path / "none"), f"DIR {expected}")
    assert_refused(run("bench", "compare", tmp_path / "none", tmp_path), f"DIR_A {expected}none: .*")


def test_report_refuses_an_unfinished_study(finished: tuple[Ran, Path], tmp_path: Path) -> None:
    """A study without its last cells is refused."""
    (tmp_path / "study.json").write_bytes((finished[1] / "study.json").read_bytes())
    lines = (finished[1] / CELLS).read_bytes().splitlines(keepends=True)
    (tmp_path / CELLS).write_bytes(b"".join(lines[:-3]))
    assert_refused(run("bench", "report", tmp_path), "the study in .* is not finished: .* run the study again, .*")


def test_dry_run_computes_nothing(finished: tuple[Ran, Path], file: Path, tmp_path: Path) -> None:
    """A dry run reports the cells to compute and a time, and creates no folder; a finished study has none left."""
    ran = run("bench", "--study", file, "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0, ran.err
    cells, finished_cells = (int(number) for number in re.findall(r"(\d+) (?:cells|finished)", ran.out))
    # The cells of the facts and of the proof are not counted.
    assert cells == len((finished[1] / CELLS).read_bytes().splitlines()) - 2
    assert finished_cells == 0
    assert "In all about" in ran.out
    assert not (tmp_path / "out").exists()
    (estimate,) = json.loads(run("bench", "--study", file, "--out", finished[1], "--dry-run", "--json").out)
    assert estimate["finished"] == estimate["cells"] == cells
    assert estimate["texts_for_the_encoder"] == 0


def test_a_dry_run_runs_few_batches(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run needs at most twelve forward passes of at most 32 texts, most of them for the prefix proof."""
    batches = []
    forward = Encoder.layers

    def count(self: Encoder, ids: Sequence[Sequence[int]], *rest: Any) -> Any:
        batches.append(len(ids))
        return forward(self, ids, *rest)

    monkeypatch.setattr(Encoder, "layers", count)
    assert run("bench", "--study", file, "--out", tmp_path / "out", "--dry-run").code == 0
    assert 0 < len(batches) <= 12
    assert max(batches) <= 32


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("key", "wrong", "sentence"),
    [
        ("models", ["{model}", "no/such"], "study.toml: models must be a folder .*'no/such' could not be loaded: .*"),
        ("models", ["{model}", "{tmp}"], r"study.toml: models must be a folder .* must hold a config\.json: .*"),
        ("data", "none.csv", r"study.toml: data of \[\[corpora\]\] must name a file, but there is none at .*none.csv"),
        ("out", "study.toml/out", "--out must be a writable folder, got .*"),
        ("study", "none.toml", "--study must name a TOML file that can be read, got .*none.toml: .*"),
    ],
    ids=["no model", "not a model", "data", "out", "study"],
)
def test_wrong_paths_are_refused_before_a_model_is_loaded(
    key: str, wrong: Any, sentence: str, dry: list[str], model_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """A wrong path of the last model, the data, the study or the output is refused at once, in a dry run too."""
    monkeypatch.setattr(Encoder, "load", lambda *_: pytest.fail("a model was loaded"))
    tiny.write_csv(tmp_path / "colours.csv", tiny.make_texts(60))
    models = wrong if key == "models" else ["{model}"]
    models = [name.format(model=model_folder, tmp=tmp_path) for name in models]
    data = wrong if key == "data" else "colours.csv"
    study = f'models = {json.dumps(models)}\n[[corpora]]\ndata = "{data}"\n'
    (tmp_path / "study.toml").write_text(study, "utf-8")
    file = tmp_path / (wrong if key == "study" else "study.toml")
    out = tmp_path / (wrong if key == "out" else "out")
    assert_refused(run("bench", "--study", file, "--out", out, *dry), sentence)


def test_every_run_says_which_rows_are_measured(model_folder: Path, tmp_path: Path) -> None:
    """The terminal, both reports and a dry run say how many rows a file has, how many are used, and why not the rest.

    The counts are those of the rows that the test wrote.
    """
    used = [*tiny.make_texts(40), ("w1 w2 w3", "rare"), ("w3 w2 w1", "rare")]
    without_text, blank, without_label = [("", "red")] * 2, [("  ", "red")], [("w1", "")] * 3
    rows = [*without_text, *used, *blank, *without_label]
    (tmp_path / "mine.csv").write_text("text;label\n" + "".join(f"{text};{label}\n" for text, label in rows), "utf-8")
    command = ["bench", "--data", tmp_path / "mine.csv", "--model", model_folder, "--pooling", "mean", "--pad-to", 24]
    command += ["--seeds", 2, "--drop-missing", "--out", tmp_path / "out"]
    dry, ran = run(*command, "--dry-run"), run(*command)
    assert (dry.code, ran.code) == (0, 0), dry.err + ran.err
    page = html.unescape(re.sub(r"<[^>]*>", "", (tmp_path / "out" / "report.html").read_text("utf-8")))
    for said in (dry.out, ran.out, (tmp_path / "out" / "report.md").read_text("utf-8"), page):
        assert (
            "mine: 42 of 48 rows are measured; left out: 2 without a text, 1 with a blank text, 3 without a label."
            in said
        )
        assert "The fields of mine.csv are separated by semicolons." in said
        assert "1 of 6 labels has fewer than four texts (2 texts). It is kept" in said
    (corpus,) = (part["corpus"] for part in json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["parts"])
    assert (corpus["rows"], corpus["texts"]) == (len(rows), len(used))
    assert corpus["dropped"] == {"without a text": 2, "with a blank text": 1, "without a label": 3}


def test_quiet_prints_nothing(finished: tuple[Ran, Path], file: Path) -> None:
    """With --quiet, a successful run prints nothing."""
    ran = run("bench", "--study", file, "--out", finished[1], "--quiet")
    assert ran == Ran(0, "", "")
    assert run("bench", "--study", file, "--out", finished[1], "--quiet", "--dry-run") == Ran(0, "", "")


def test_a_study_and_options_are_refused_together(file: Path, tmp_path: Path) -> None:
    """An option whose value the study file sets is refused next to --study, and the error names it."""
    ran = run("bench", "--study", file, "--pooling", "mean", "--seeds", 3, "--out", tmp_path / "out")
    assert_refused(ran, "--study says what is measured: give --pooling, --seeds in study.toml instead")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"mean"', '"meann"', "study.toml: poolings must be one of .*, got 'meann' .did you mean 'mean'.*"),
        ("replicates", "replicate", "study.toml: a key of the study must be .*, got 'replicate' .*'replicates'.*"),
        ("order =", "ordre =", r"study.toml: a key of plans\[0\] must be .*, got 'ordre' .*'order'.*"),
        ('"random"', '"shuffled"', r"study.toml: plans\[0\]\.order must be one of .*, got 'shuffled'"),
        ("pad_to = 24", "pad_to = 999", r"study.toml: pad_to must be at least 22 .* and at most 160 .*, got 999"),
        ('"colours.csv"', '"few.csv"', "few must have at least 20 texts, because hdbscan clusters halves .*, got 19"),
        ("layers = [-1, 0]", "layers = [9]", "study.toml: layers must be 0 .*, got 9 for .*"),
        (
            "colours.csv",
            "none.csv",
            r"study.toml: data of \[\[corpora\]\] must name a file, but there is none at .*none.csv",
        ),
    ],
)
def test_an_invalid_study_is_refused(file: Path, tmp_path: Path, old: str, new: str, sentence: str) -> None:
    """A mistake in a study file is reported in one sentence, with the nearest known name, and creates no folder."""
    invalid = tmp_path / "study.toml"
    (tmp_path / "colours.csv").write_bytes(file.with_name("colours.csv").read_bytes())
    tiny.write_csv(invalid.parent / "few.csv", tiny.make_texts(19, labels=2))
    assert old in file.read_text("utf-8")
    invalid.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
    assert_refused(run("bench", "--study", invalid, "--out", tmp_path / "out"), sentence)
    assert not (tmp_path / "out").exists()


def test_hdbscan_skips_treatments_with_too_few_padded_texts(file: Path, encoder: Encoder, tmp_path: Path) -> None:
    """If fewer than ten texts have a pad, treatments that read only pads are left out for HDBSCAN, not for k-means."""
    rows = [(f"{label}{place % 8} w{place % 30}", label) for place in range(15) for label in ("red", "green")]
    rows[:14] = [(f"{text} w1", label) for text, label in rows[:14]]
    tiny.write_csv(tmp_path / "few.csv", rows)
    text = file.read_text("utf-8").replace("colours.csv", "few.csv").replace('leaks = "all"', "")
    text = text.replace("[-1, 0]", "[-1]").replace('"mean", "cls"', '"mean"')
    text = text[: text.index("[[plans]]")] + '[[plans]]\norder = "random"\nbatch_size = 30\n'
    treatments = {}
    for by in ("kmeans", "hdbscan"):
        request = tmp_path / f"{by}.toml"
        request.write_text(text.replace('"kmeans", "hdbscan"', f'"{by}"'), "utf-8")
        study = read_study(request)
        (corpus,) = load_corpora(study, tmp_path)
        part = Part.of(study, corpus, encoder)
        grid = Grid(study, part.plans, True, part.with_pads())
        treatments[by] = {comparison.treatment for comparison in grid.comparisons()}
    assert treatments["kmeans"] - treatments["hdbscan"] == {"pads only"}
    assert "included" in treatments["hdbscan"]
    run_study(study, tmp_path, StudyFolder(tmp_path / "out"), "cpu", Silent())
    rows_of_hdbscan = results_of(StudyFolder(tmp_path / "out"))["parts"][0]["tables"][0]["rows"]
    assert {row["treatment"] for row in rows_of_hdbscan} == {"excluded", "included", "noise"}


def lowered(cell: dict[str, Any], study: Study) -> dict[str, Any]:
    """Lower the scores of a cell by 0.1 if its treatment is "included", as another study would have measured it."""
    if cell["key"]["kind"] == "fit" and cell["key"]["treatment"] == "included":
        scores = cell["value"]["scores"]
        cell["value"]["scores"] = {name: [value - 0.1 for value in values] for name, values in scores.items()}
    if "study" in cell["key"]:
        cell["key"] = key_of(study, cell["key"]["part"], cell["key"]["kind"])
    cell["cell"] = content_hash({"key": cell["key"], "value": cell["value"]})
    return cell


def test_compare_reports_differences(small: tuple[Path, Path], tmp_path: Path) -> None:
    """Two studies are compared row by row, each difference has its interval, and differing settings are named."""
    _, out = small
    description = StudyFolder(out).read()
    description["study"]["dtype"] = "bfloat16"
    written = description | {"sha256": content_hash(description)}
    (tmp_path / "study.json").write_text(json.dumps(written), "utf-8")
    study = parse_study(description["study"])
    cells = [lowered(json.loads(line), study) for line in (out / CELLS).read_text("utf-8").splitlines()]
    (tmp_path / CELLS).write_text("".join(json.dumps(cell) + "\n" for cell in cells), "utf-8")
    compared = json.loads(run("bench", "compare", out, tmp_path, "--json").out)
    assert compared["settings"] == [["dtype", "float32", "bfloat16"]]
    assert compared["only_in_a"] == compared["only_in_b"] == 0
    for row in compared["rows"]:
        if row["treatment"] in ("included", "noise"):
            assert row["delta"] == pytest.approx(-0.1 if row["treatment"] == "included" else 0.0)
        assert row["delta"] == pytest.approx(row["b"]["delta"] - row["a"]["delta"])
        assert row["low"] <= row["delta"] <= row["high"]
    shown = run("bench", "compare", out, tmp_path).out
    assert 'dtype: "float32" in A, "bfloat16" in B' in shown
    halves = f"{study.replicates} half-samples and {study.seeds} seeds"
    assert f"The studies share their texts, {halves}: B − A is taken in each half-sample.\n" in shown
    same = json.loads(run("bench", "compare", out, out, "--json").out)
    assert same["settings"] == []
    assert same["unpaired"] == []
    assert {row[name] for row in same["rows"] for name in ("delta", "low", "high")} == {0.0}


@pytest.mark.full  # a real process; the default tests interrupt a command in this process
def test_an_interrupted_run_says_how_to_resume(small: tuple[Path, Path], tmp_path: Path) -> None:
    """Ctrl-C ends with code 130 and one sentence; the same command then resumes and gives the same results."""
    file, whole = small
    out = tmp_path / "out"
    command = [sys.executable, "-m", "maskpool", "bench", "--study", str(file), "--out", str(out)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    # A separate process group, like a terminal's foreground job: child processes get the signal as well.
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    began = time.monotonic()
    while not (out / CELLS).exists() or len((out / CELLS).read_bytes().splitlines()) < 12:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() - began < 120
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    last = err.strip().splitlines()[-1]
    assert re.fullmatch(
        rf"maskpool: stopped; \d+ finished cells are in {re.escape(str(out))}: the same command .*", last
    )
    assert "Traceback" not in err
    before = (out / CELLS).read_bytes()
    resumed = run("bench", "--study", file, "--out", out, "--json")
    assert resumed.code == 0, resumed.err
    assert (out / CELLS).read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "no cell is computed twice"

    def comparable(text: str) -> Any:
        # The floors rest on fewer fits in this process than in the other.
        (part,) = without_times(json.loads(text))["parts"]
        return [
            {name: value for name, value in row.items() if name != "floor"}
            for table in part["tables"]
            for row in table["rows"]
        ]

    assert comparable(resumed.out) == comparable((whole / "results.json").read_text("utf-8"))
