"""A killed study resumes where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from threadpoolctl import threadpool_limits

from maskpool.bench.design.study import CorpusSource, Study
from maskpool.bench.encode import forward
from maskpool.bench.report.results import results_of
from maskpool.bench.run import run_study
from maskpool.bench.store.cells import Cells
from maskpool.bench.store.checks import STUDY
from maskpool.bench.store.folder import StudyFolder
from maskpool.encoder import Encoder
from maskpool.errors import MaskpoolError
from maskpool.plans import Plan
from tests.bench import tiny
from tests.command import use_one_process, without_times
from tests.matrix import FULL, cut
from tests.once import once

STUDY_TO_KILL = Study(
    models=("model",),
    corpora=(CorpusSource(data="colours.csv"),),
    poolings=("mean", "cls"),
    plans=(Plan("random", 16), Plan("sorted", 16, 64)),
    treatments=("included", "index padded, query alone"),
    leaks=("first column taken as cls",),  # pads on the left, which adds blocks of every length
    replicates=2,
    seeds=2,
)
SMALL = replace(STUDY_TO_KILL, poolings=("mean",), plans=(Plan("random", 16),), treatments=("included",), leaks=())


class Point(NamedTuple):
    """Where a process is killed: when it reaches a place for the given time; -1 is the last time."""

    place: str
    number: int = 1


# The kills of each case, in order; the start after them runs to the end.
ALL_KILLS: dict[str, list[Point]] = {
    "at the claim": [Point("at an exchange")],
    "in the first block": [Point("in a block")],
    "in a block": [Point("in a block", 3)],
    "before a block is counted": [Point("at an exchange", 3)],
    "after a block": [Point("after a block", 2)],
    "after the last block": [Point("after a block", -1)],
    "at the first fit": [Point("after a cell", 4)],
    "within a line": [Point("within a cell", 20)],
    "at the last cell": [Point("within a cell", -1)],
    "after the last cell": [Point("after a cell", -1)],
    "before the vectors are deleted": [Point("at the deletion")],
    "again and again": [
        *[Point("after a block", 2)] * cut(1, 2),
        Point("in a block", 2),
        *[Point("after a cell", 9), Point("within a cell", 9)] * cut(1, 2),
    ],
    "at some time": [Point("at some time")] * cut(1, 3),
}
# In a block, within a line, after the last cell, and at a time that nobody chose.
SHORT = ["before a block is counted", "within a line", "before the vectors are deleted", "at some time"]
KILLS = ALL_KILLS if FULL else {name: ALL_KILLS[name] for name in SHORT}


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskpool.bench.score.intervals._DRAWS", 1_000)
    use_one_process(monkeypatch)


class Quiet:
    """Progress that is not shown."""

    def __init__(self, on_block: Callable[[], None] = lambda: None) -> None:
        self.on_block = on_block

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Report each block that the encoder has finished."""
        blocks = iter([False, *[True] * total])  # the first step is that of earlier starts
        yield lambda steps: self.on_block() if "encoder" in description and next(blocks) else None


def start(study: Study, base: Path, out: Path, on: Callable[[str], None] = lambda place: None) -> Counter[str]:
    """Run a study and count how often it reaches each place; ``on`` is called at each place and may kill it.

    Each block is also noted in a file next to the folder, which outlives a kill.
    """
    done: Counter[str] = Counter()

    def come_to(place: str) -> None:
        done[place] += 1
        if place == "in a block":
            with blocks_file(out).open("a") as file:
                file.write("block\n")
        on(place)

    pool_block, add, delete, exchange = forward._pool_block, Cells.add, shutil.rmtree, os.replace

    def pooling(*arguments: Any) -> None:
        come_to("in a block")
        pool_block(*arguments)

    def adding(cells: Cells, key: Any, value: Any, seconds: float) -> None:
        size = cells.path.stat().st_size if cells.path.exists() else 0
        add(cells, key, value, seconds)
        line = cells.path.read_bytes()[size:]
        os.truncate(cells.path, size + len(line) // 2)
        come_to("within a cell")
        with cells.path.open("ab") as file:
            file.write(line[len(line) // 2 :])
        come_to("after a cell")

    def deleting(*arguments: Any, **options: Any) -> None:
        come_to("at the deletion")
        delete(*arguments, **options)

    def exchanging(*arguments: Any) -> None:
        come_to("at an exchange")
        exchange(*arguments)

    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(forward, "_pool_block", pooling)
        patch.setattr(Cells, "add", adding)
        patch.setattr("maskpool.bench.run.shutil", SimpleNamespace(rmtree=deleting))
        patch.setattr(os, "replace", exchanging)
        run_study(study, base, StudyFolder(out), "cpu", Quiet(lambda: come_to("after a block")))
    return done


def blocks_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.blocks")


def blocks_of_all_starts(out: Path) -> int:
    return len(blocks_file(out).read_text().splitlines()) if blocks_file(out).exists() else 0


def kill_oneself(point: Point) -> Callable[[str], None]:
    """Return a callback that kills this process at a point."""
    left = point.number

    def come_to(place: str) -> None:
        nonlocal left
        left -= place == point.place
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return come_to


def kill_all(base: Path, folder: Path) -> None:
    """Start each study in a separate process and kill it as a file specifies; write how each process ended."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        use_one_process(patch)
        kills = json.loads((folder / "kills.json").read_text())
        ends = {
            name: [killed(base, folder / name, Point(*point)) for point in points] for name, points in kills.items()
        }
    (folder / "ends.json").write_text(json.dumps(ends))


def killed(base: Path, out: Path, point: Point) -> int:
    """Kill a study at a point, and return the signal that ended its process."""
    process = os.fork()
    if not process:
        try:
            # A time is a number of milliseconds.
            start(STUDY_TO_KILL, base, out, kill_oneself(point))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if point.place == "at some time":
        time.sleep(point.number / 1000)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


@dataclass(frozen=True)
class Whole:
    """A study that was not killed, and how the processes of the killed ones ended."""

    folder: Path
    did: dict[str, int]
    ends: dict[str, list[int]]

    @property
    def blocks(self) -> int:
        return self.did["in a block"]

    @property
    def cells(self) -> int:
        return self.did["after a cell"]

    @cached_property
    def results(self) -> dict[str, Any]:
        return results_of(StudyFolder(self.folder / "whole"))


def write_base(base: Path) -> None:
    tiny.save_model(base / "model")
    tiny.write_csv(base / "colours.csv", tiny.make_texts(60))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model and a corpus, which no test changes."""
    return once(tmp_path_factory, "base", write_base)


def run_and_kill(base: Path, folder: Path) -> None:
    """Run the study, and start it in processes that are killed; each kill has a folder of its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        use_one_process(patch)
        did = start(STUDY_TO_KILL, base, folder / "whole")
    (folder / "did.json").write_text(json.dumps(did))
    last = {
        "after a block": did["in a block"],
        "after a cell": did["after a cell"],
        "within a cell": did["after a cell"],
    }
    kills = {
        name: [(place, last[place] if number == -1 else number) for place, number in points]
        for name, points in KILLS.items()
    }
    kills["at some time"] = [("at some time", random.randint(50, 400)) for _ in KILLS["at some time"]]
    (folder / "kills.json").write_text(json.dumps(kills))
    # Forks need a process without threads.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    driver = [sys.executable, "-m", "tests.bench.test_resume", str(base), str(folder)]
    root = Path(__file__).parents[2]
    environment = os.environ | alone | {"PYTHONPATH": str(root), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(driver, capture_output=True, text=True, cwd=base, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.fixture(scope="session")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = once(tmp_path_factory, "killed", lambda folder: run_and_kill(base, folder))
    return Whole(folder, *(json.loads((folder / name).read_text()) for name in ("did.json", "ends.json")))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def hashes(folder: Path) -> list[str]:
    """Return the hashes of the complete cells, in the order of the file."""
    path = folder / "cells.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["cell"] for line in lines]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.full) for name in ALL_KILLS]
)
def test_a_killed_study_resumes(base: Path, whole: Whole, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed study has no results, resumes, computes nothing twice, and ends with the results of an unbroken one."""
    monkeypatch.chdir(base)
    out, places = whole.folder / name, [point.place for point in KILLS[name]]
    for end, place in zip(whole.ends[name], places, strict=True):
        assert end == signal.SIGKILL or place == "at some time"
    finished = hashes(out)
    if len(finished) < whole.cells:
        with pytest.raises(MaskpoolError) as refused:
            results_of(StudyFolder(out))
        assert "\n" not in str(refused.value)
    did = start(STUDY_TO_KILL, base, out)
    assert did["after a cell"] == whole.cells - len(finished)
    assert hashes(out)[: len(finished)] == finished
    assert len(set(hashes(out))) == len(hashes(out)) == whole.cells
    # Work on an unfinished block is lost.
    lost = places.count("in a block") + (name == "before a block is counted")
    assert 0 <= blocks_of_all_starts(out) - whole.blocks - lost <= places.count("at some time"), kills_of(whole)
    assert without_times(results_of(StudyFolder(out))) == without_times(whole.results)
    assert files(out) == ["cells.jsonl", STUDY]


def kills_of(whole: Whole) -> str:
    """Return the specified kills, including their times."""
    return (whole.folder / "kills.json").read_text()


def test_a_finished_study_is_not_run_again(base: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished study that is started again encodes at most one text and adds no cell."""
    monkeypatch.chdir(base)
    out, passed, layers = whole.folder / "whole", [], Encoder.layers
    before = (out / "cells.jsonl").read_bytes(), (out / STUDY).read_bytes(), files(out)

    def counting(encoder: Encoder, ids: Any, *arguments: Any, **options: Any) -> Any:
        passed.extend(ids)
        return layers(encoder, ids, *arguments, **options)

    monkeypatch.setattr(Encoder, "layers", counting)
    did = start(STUDY_TO_KILL, base, out)
    assert not did["in a block"] + did["after a cell"]
    assert len(passed) <= 1  # to see that the model has the layers
    assert ((out / "cells.jsonl").read_bytes(), (out / STUDY).read_bytes(), files(out)) == before
    assert results_of(StudyFolder(out)) == whole.results


def stop_at(point: Point) -> Callable[[str], None]:
    """Return a callback that raises KeyboardInterrupt at a point."""
    left = Counter({point.place: point.number})

    def come_to(place: str) -> None:
        left[place] -= 1
        if place == point.place and not left[place]:
            raise KeyboardInterrupt

    return come_to


def test_a_study_of_two_parts_resumes_in_either(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped study of two corpora has no results, reports the missing part, and keeps the finished one."""
    monkeypatch.chdir(base)
    tiny.write_csv(tmp_path / "more.csv", tiny.make_texts(40, seed=1))
    two = replace(SMALL, corpora=(*SMALL.corpora, CorpusSource(data=str(tmp_path / "more.csv"))))
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        start(two, base, out, stop_at(Point("at the deletion")))
    first = hashes(out)
    with pytest.raises(
        MaskpoolError, match=r"is not finished: 1 of 2 parts \(a model on a corpus\) have begun; run [^\n]+\Z"
    ):
        results_of(StudyFolder(out))
    with pytest.raises(KeyboardInterrupt):
        start(two, base, out, stop_at(Point("after a cell", 12)))
    with pytest.raises(MaskpoolError, match=rf"not finished: it has {len(first) + 12} cells, and some are missing;"):
        results_of(StudyFolder(out))
    assert start(two, base, out)["after a cell"] == len(first) - 12
    parts = results_of(StudyFolder(out))["parts"]
    assert [part["corpus"]["name"] for part in parts] == ["colours", "more"]
    assert hashes(out)[: len(first)] == first
    assert files(out) == ["cells.jsonl", STUDY]


def test_a_study_that_lacks_any_cell_has_no_results(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that lacks any cell has no results, and one that lacks only its heads resumes with them."""
    monkeypatch.chdir(base)
    for least in ("_FEWEST_EPOCHS", "_FEWEST_STEPS"):
        monkeypatch.setattr(f"maskpool.integrations.sklearn.heads.{least}", 1)
    study = replace(SMALL, poolings=("mean", "attention"))
    start(study, base, tmp_path)
    results_of(StudyFolder(tmp_path))
    path = tmp_path / "cells.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    believed = []
    for place, line in enumerate(lines):
        path.write_bytes(b"".join(lines[:place] + lines[place + 1 :]))
        with contextlib.suppress(MaskpoolError):
            results_of(StudyFolder(tmp_path))
            believed.append(json.loads(line)["key"])
    assert believed == []
    heads = [line for line in lines if json.loads(line)["key"]["kind"] == "head"]
    assert heads == lines[-2:]
    path.write_bytes(b"".join(lines[:-2]))
    start(study, base, tmp_path)
    assert hashes(tmp_path) == [json.loads(line)["cell"] for line in lines]


@pytest.mark.parametrize("poolings", [("mean",), pytest.param(("cls", "max"), marks=pytest.mark.full)])
def test_vectors_of_another_study_are_not_taken(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poolings: tuple[str, ...]
) -> None:
    """Another study of the same model and texts does not read the vectors that a killed study left."""
    monkeypatch.chdir(base)
    with pytest.raises(KeyboardInterrupt):
        start(SMALL, base, tmp_path / "out", stop_at(Point("after a cell", 6)))
    assert list((tmp_path / "out" / ".vectors").rglob("*.npy"))
    (tmp_path / "out" / "cells.jsonl").unlink()
    other = replace(SMALL, poolings=poolings, plans=(Plan("random", 4),))
    for out in ("out", "fresh"):
        start(other, base, tmp_path / out)
    results = [without_times(results_of(StudyFolder(tmp_path / out))) for out in ("out", "fresh")]
    assert results[0] == results[1]
    assert files(tmp_path / "out") == ["cells.jsonl", STUDY]


def test_a_running_study_is_not_started_twice(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start of a running study is refused, and the first one finishes."""
    monkeypatch.chdir(base)
    refused = []

    def again(place: str) -> None:
        if place == "in a block":
            with pytest.raises(MaskpoolError, match="out must be a folder in which no other study runs") as refusal:
                run_study(SMALL, base, StudyFolder(tmp_path), "cpu", Quiet())
            refused.append(refusal)

    start(SMALL, base, tmp_path, again)
    assert refused
    assert len(set(hashes(tmp_path))) == len(hashes(tmp_path))
    assert results_of(StudyFolder(tmp_path))["parts"]


@pytest.mark.parametrize(
    "twins",
    [
        {"models": ("model", "./model")},
        {"corpora": (CorpusSource(data="colours.csv"), CorpusSource(data="colours.csv", name="again"))},
    ],
    ids=["model", "corpus"],
)
def test_one_model_or_corpus_under_two_names(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twins: dict[str, Any]
) -> None:
    """A study with the same weights or texts under two names finishes with both parts, or is refused."""
    monkeypatch.chdir(base)
    refused = ""
    try:
        start(replace(SMALL, **twins), base, tmp_path)
    except MaskpoolError as error:
        refused = str(error)
    assert refused or len(results_of(StudyFolder(tmp_path))["parts"]) == 2


@pytest.mark.parametrize("finished", [True, False])
def test_other_weights_of_the_same_name_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """Other weights under the same name are refused when a study resumes, and its cells stay."""
    monkeypatch.chdir(tmp_path)
    tiny.save_model(tmp_path / "model")
    out = tmp_path / "out"
    with contextlib.suppress(KeyboardInterrupt):
        start(SMALL, base, out, stop_at(Point("after a cell", 10**6 if finished else 9)))
    before = hashes(out)
    tiny.save_model(tmp_path / "model", seed=1)
    with pytest.raises(MaskpoolError, match=r"other weights or another tokenizer of model: choose another folder"):
        start(SMALL, base, out)
    assert hashes(out) == before


if __name__ == "__main__":
    kill_all(Path(sys.argv[1]), Path(sys.argv[2]))
