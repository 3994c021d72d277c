"""Studies from files, and what can be done with their folders."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from maskpool.bench.design.study import read_study
from maskpool.bench.part import Grid, Part
from maskpool.bench.report.results import results_of
from maskpool.bench.run import load_corpora, run_study
from maskpool.bench.store.folder import CELLS, StudyFolder
from maskpool.encoder import Encoder
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
quote = false

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
    """A study and one of fewer things, beside their corpus."""
    tiny.write_csv(folder / "colours.csv", tiny.make_texts(60))
    text = STUDY.format(model=model)
    (folder / "study.toml").write_text(text, "utf-8")
    text = text.replace("layers = [-1, 0]", "layers = [-1]").replace('leaks = "all"', "")
    (folder / "small.toml").write_text(text.replace('"kmeans", "hdbscan"', '"kmeans"'), "utf-8")


@pytest.fixture(scope="session")
def file(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study beside its corpus, in a folder that is not the working one."""
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
    """A study of fewer things, and the folder of its results."""
    file = file.with_name("small.toml")
    return file, once(tmp_path_factory, "small", lambda folder: measure(file, folder)) / "out"


@pytest.fixture
def drawn(finished: tuple[Ran, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that are copies of those of `finished`: drawing takes longer than the rest."""
    bytes_of = {path.name: path.read_bytes() for path in finished[1].glob("*.*g")}
    monkeypatch.setattr("maskpool.bench.report.pages._draw", lambda _, __, path: path.write_bytes(bytes_of[path.name]))


def test_json_is_the_results_and_nothing_else(finished: tuple[Ran, Path]) -> None:
    """With --json standard output is the content of results.json, and standard error is empty."""
    ran, out = finished
    assert json.loads(ran.out) == json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert ran.err == ""


def test_everything_that_the_file_asks_for_is_measured(finished: tuple[Ran, Path]) -> None:
    """Each layer, clusterer, pooling, plan and treatment of the file has its row, and each leak its name."""
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
                        "left padding may move even the excluded treatment"
                    )
    leaks = {row["leak"] for row in tables[-1, "kmeans"] if "leak" in row}
    assert leaks == {
        "mean over pads",
        "divided by the batch width",
        "zeroed pads in a max",
        "last column taken as last token",
        "first column taken as cls",
        "mask not passed to the encoder",
    }


def test_no_difference_stands_without_its_interval_and_floor(finished: tuple[Ran, Path]) -> None:
    """Every row with a difference has an interval around it and a floor."""
    (part,) = json.loads(finished[0].out)["parts"]
    rows = [row for table in part["tables"] for row in table["rows"]]
    assert any("delta" in row for row in rows)
    for row in rows:
        assert row["floor"] >= 0
        if "delta" in row:
            assert row["low"] <= row["delta"] <= row["high"]


def test_texts_are_not_quoted_where_the_study_forbids_it(finished: tuple[Ran, Path], file: Path) -> None:
    """Without quote no text of the corpus stands in any file of the results."""
    texts = [text for text, _ in tiny.make_texts(60) if len(text.split()) > 3]
    for name, written in content(finished[1]).items():
        if not name.endswith(".png"):
            assert not any(text.encode() in written for text in texts), name


@pytest.mark.usefixtures("drawn")
def test_the_same_study_again_computes_nothing(finished: tuple[Ran, Path], file: Path) -> None:
    """A finished study that is started again adds no cell and gives the same results, times included."""
    ran, out = finished
    cells = (out / CELLS).read_bytes()
    again = run("bench", "--study", file, "--out", out, "--json")
    assert again.out == ran.out
    assert (out / CELLS).read_bytes() == cells


def test_another_study_is_refused_its_folder(finished: tuple[Ran, Path], file: Path, tmp_path: Path) -> None:
    """A folder with another study's cells is refused, what differs is named, and nothing in it changes."""
    before = content(finished[1])
    (tmp_path / "colours.csv").write_bytes(file.with_name("colours.csv").read_bytes())
    other = tmp_path / "other.toml"
    other.write_text(file.read_text("utf-8").replace("replicates = 2", "replicates = 4"), "utf-8")
    ran = run("bench", "--study", other, "--out", finished[1])
    says = r"--out must be a folder without another study's cells; .* replicates 2 \(now 4\): choose .*"
    assert_refused(ran, says)
    assert_refused(run("bench", "--study", other, "--out", finished[1], "--dry-run"), says)
    assert content(finished[1]) == before


def test_the_report_is_rebuilt_from_the_cells(finished: tuple[Ran, Path], tmp_path: Path) -> None:
    """From cells and study alone, report makes every file again, byte by byte."""
    before = content(finished[1])
    for name in ("study.json", CELLS):
        (tmp_path / name).write_bytes(before[name])
    ran = run("bench", "report", tmp_path)
    assert ran.code == 0, ran.err
    after = content(tmp_path)
    assert sorted(after) == sorted(before)
    # PNGs carry the version of their maker; SVGs are compared.
    for name in [name for name in before if not name.endswith(".png")]:
        assert after[name] == before[name], name


def test_report_of_no_study_is_refused(tmp_path: Path) -> None:
    """A folder that is none of a study, or of one that has not finished, is refused with one sentence."""
    assert_refused(run("bench", "report", tmp_path), ".* must be the folder of a study, with a study.json: .*")
    assert_refused(run("bench", "report", tmp_path / "none"), ".* must be the folder of a study, with a study.json: .*")


def test_report_of_an_unfinished_study_is_refused(finished: tuple[Ran, Path], tmp_path: Path) -> None:
    """A study whose last cells are missing gives no report."""
    (tmp_path / "study.json").write_bytes((finished[1] / "study.json").read_bytes())
    lines = (finished[1] / CELLS).read_bytes().splitlines(keepends=True)
    (tmp_path / CELLS).write_bytes(b"".join(lines[:-3]))
    assert_refused(run("bench", "report", tmp_path), "the study in .* is not finished: .* run the study again, .*")


def test_dry_run_computes_nothing(finished: tuple[Ran, Path], file: Path, tmp_path: Path) -> None:
    """A dry run counts the cells that would be computed, of a finished study none, gives a time, leaves no folder."""
    ran = run("bench", "--study", file, "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0, ran.err
    cells, finished_cells = (int(number) for number in re.findall(r"(\d+) (?:cells|finished)", ran.out))
    # Facts and the proof are known before anything is asked for.
    assert cells == len((finished[1] / CELLS).read_bytes().splitlines()) - 2
    assert finished_cells == 0
    assert "In all about" in ran.out
    assert not (tmp_path / "out").exists()
    (one,) = json.loads(run("bench", "--study", file, "--out", finished[1], "--dry-run", "--json").out)
    assert one["finished"] == one["cells"] == cells
    assert one["texts_for_the_encoder"] == 0


@pytest.mark.usefixtures("drawn")
def test_quiet_prints_nothing(finished: tuple[Ran, Path], file: Path) -> None:
    """With --quiet a run that succeeds prints nothing at all."""
    ran = run("bench", "--study", file, "--out", finished[1], "--quiet")
    assert ran == Ran(0, "", "")
    assert run("bench", "--study", file, "--out", finished[1], "--quiet", "--dry-run") == Ran(0, "", "")


def test_a_study_and_options_are_refused_together(file: Path, tmp_path: Path) -> None:
    """An option that the file decides is refused beside it, by name."""
    ran = run("bench", "--study", file, "--pooling", "mean", "--seeds", 3, "--out", tmp_path / "out")
    assert_refused(ran, "--study says what is measured: give --pooling, --seeds in study.toml instead")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"mean"', '"meann"', "study.toml: poolings must be one of .*, got 'meann' .did you mean 'mean'.*"),
        ("replicates", "replicate", "study.toml: a key of the study must be .*, got 'replicate' .*'replicates'.*"),
        ("order =", "ordre =", r"study.toml: a key of \[\[plans\]\] must be .*, got 'ordre' .*'order'.*"),
        ('"random"', '"shuffled"', r"study.toml: \[\[plans\]\]: order must be one of .*, got 'shuffled'"),
        ("pad_to = 24", "pad_to = 999", r"study.toml: pad_to must be between 22, .* and 160, .*; got 'padded to 999'"),
        ('"colours.csv"', '"few.csv"', "few must have at least 20 texts, because hdbscan clusters halves .*, got 19"),
        ("layers = [-1, 0]", "layers = [9]", "study.toml: layers must be 0 .*, got 9 for .*"),
        (
            "colours.csv",
            "none.csv",
            r"study.toml: data of \[\[corpora\]\] must name a file, but there is none at .*none.csv",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused(file: Path, tmp_path: Path, old: str, new: str, sentence: str) -> None:
    """What is wrong in a study's file is one sentence with the nearest known name, and no folder is left half-made."""
    wrong = tmp_path / "study.toml"
    (tmp_path / "colours.csv").write_bytes(file.with_name("colours.csv").read_bytes())
    tiny.write_csv(wrong.parent / "few.csv", tiny.make_texts(19, labels=2))
    assert old in file.read_text("utf-8")
    wrong.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
    assert_refused(run("bench", "--study", wrong, "--out", tmp_path / "out"), sentence)
    assert not (tmp_path / "out").exists()


def test_hdbscan_is_given_as_many_padded_texts_as_it_needs(file: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Where fewer than ten texts have a pad, treatments that read pads alone are left out beside HDBSCAN alone."""
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
        treatments[by] = {one.treatment for one in Grid(study, part.plans, True, part.with_pads()).comparisons()}
    assert treatments["kmeans"] - treatments["hdbscan"] == {"pads only"}
    assert "included" in treatments["hdbscan"]
    run_study(study, tmp_path, StudyFolder(tmp_path / "out"), "cpu", Silent())
    rows_of_hdbscan = results_of(StudyFolder(tmp_path / "out"))["parts"][0]["tables"][0]["rows"]
    assert {row["treatment"] for row in rows_of_hdbscan} == {"excluded", "included", "noise"}


def lowered(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell of a study in which every treatment with pads scores 0.1 less."""
    if cell["key"]["kind"] == "fit" and cell["key"]["treatment"] == "included":
        scores = cell["value"]["scores"]
        cell["value"]["scores"] = {name: [value - 0.1 for value in values] for name, values in scores.items()}
    return cell


def test_compare_tells_what_differs(small: tuple[Path, Path], tmp_path: Path) -> None:
    """Two studies are set side by side, each difference with its intervals, and what differs between them is named."""
    _, out = small
    about = json.loads((out / "study.json").read_text("utf-8"))
    about["study"]["dtype"] = "bfloat16"
    (tmp_path / "study.json").write_text(json.dumps(about), "utf-8")
    cells = [lowered(json.loads(line)) for line in (out / CELLS).read_text("utf-8").splitlines()]
    (tmp_path / CELLS).write_text("".join(json.dumps(cell) + "\n" for cell in cells), "utf-8")
    found = json.loads(run("bench", "compare", out, tmp_path, "--json").out)
    assert found["settings"] == [["dtype", "float32", "bfloat16"]]
    assert found["only_in_a"] == found["only_in_b"] == 0
    for row in found["rows"]:
        if row["treatment"] in ("included", "noise"):
            assert row["delta"] == pytest.approx(-0.1 if row["treatment"] == "included" else 0.0)
        assert row["delta"] == pytest.approx(row["b"]["delta"] - row["a"]["delta"])
        assert row["low"] <= row["delta"] <= row["high"]
    shown = run("bench", "compare", out, tmp_path).out
    assert 'dtype: "float32" in A, "bfloat16" in B' in shown
    same = json.loads(run("bench", "compare", out, out, "--json").out)
    assert same["settings"] == []
    assert {row["delta"] for row in same["rows"]} == {0.0}


@pytest.mark.full  # a real process; Ctrl-C while a command runs in process is tested by default
def test_interrupted_it_says_how_to_go_on(small: tuple[Path, Path], tmp_path: Path) -> None:
    """Ctrl-C ends with code 130 and one sentence; the same command then ends with the same results."""
    file, whole = small
    out = tmp_path / "out"
    command = [sys.executable, "-m", "maskpool", "bench", "--study", str(file), "--out", str(out)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    # A group of its own, as a terminal's foreground job is: its processes get the signal as well.
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
    done = run("bench", "--study", file, "--out", out, "--json")
    assert done.code == 0, done.err
    assert (out / CELLS).read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "nothing was computed anew"

    def comparable(text: str) -> Any:
        # The seeds of the floors are many in a process of its own, and few here.
        (part,) = without_times(json.loads(text))["parts"]
        return [
            {name: value for name, value in row.items() if name != "floor"}
            for table in part["tables"]
            for row in table["rows"]
        ]

    assert comparable(done.out) == comparable((whole / "results.json").read_text("utf-8"))
