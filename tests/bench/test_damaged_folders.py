"""Damaged study folders and study files are refused, or give the same numbers."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskpool.bench.report.results import results_of
from maskpool.bench.store.cells import content_hash
from maskpool.bench.store.folder import StudyFolder
from maskpool.errors import MaskpoolError
from tests.bench.test_extension import write_finished
from tests.command import run as run_command
from tests.command import without_times
from tests.matrix import cut

CASES = cut(60, 1_000)
STUDY_FILE = """models = ["model"]
poolings = ["mean", "max"]
treatments = ["included", "noise"]
seeds = 3
replicates = 2
margin = 0.05

[[corpora]]
data = "colours.csv"
label_column = "label"

[[plans]]
order = ["random", "sorted"]
batch_size = 16
"""
JUNK: list[Any] = [None, True, -1, 0, 10**400, 1e308, "", "\0", "x" * 10_000, [], [[]], {}, {"a": {"b": []}}, "nan"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.chdir(base)
    monkeypatch.setattr("maskpool.bench.score.intervals._DRAWS", 1_000)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Damage bytes: flip, delete, insert or repeat some of them, or cut them off."""
    if not content:
        return b"\xff"
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice([1, 1, 1, 4, 100, 10_000]))
    change: Callable[[bytes], bytes] = rng.choice(
        [
            lambda part: bytes(byte ^ (1 << rng.randrange(8)) for byte in part),
            lambda part: b"",
            lambda part: part + rng.randbytes(3),
            lambda part: part * 2,
            lambda part: rng.choice([b"NaN", b"1e999", b"null", b"\n", b"\r\n", b"[" * 3_000, b"\xff\xfe", b'"', b"9"]),
        ]
    )
    if rng.random() < 0.15:
        return content[:start]
    return content[:start] + change(content[start:stop]) + content[stop:]


def damaged_lines(content: bytes, rng: random.Random) -> bytes:
    """Delete, repeat, join or exchange lines."""
    lines = content.splitlines(keepends=True)
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[first]
    elif kind == 1:
        lines.insert(second, lines[first])
    elif kind == 2:
        lines[first] = lines[first].rstrip(b"\n")
    elif kind == 3:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        random.Random(rng.random()).shuffle(lines)
    return b"".join(lines)


def damaged_value(value: Any, rng: random.Random) -> Any:
    """Put junk in a random place of JSON."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        kept = {key: item for key, item in value.items() if key != name}
        return kept if rng.random() < 0.1 else kept | {name: damaged_value(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], damaged_value(value[place], rng), *value[place + 1 :]]
    return rng.choice(JUNK)


def outcome(out: Path) -> tuple[Any, str]:
    """Return the results of a folder without seconds, or the message of its refusal."""
    try:
        return without_times(results_of(StudyFolder(out))), ""
    except MaskpoolError as error:
        return None, str(error)


@pytest.mark.parametrize("file", ["cells.jsonl", "study.json"])
def test_a_damaged_folder_is_refused_or_gives_the_same_numbers(base: Path, tmp_path: Path, file: str) -> None:
    """A file damaged at random is refused in one sentence that names it, or the results are those of the whole one."""
    whole = without_times(results_of(StudyFolder(base / "finished")))
    content = (base / "finished" / file).read_bytes()
    shutil.copytree(base / "finished", tmp_path / "out")
    for case in range(CASES):
        rng = random.Random(case)
        damage = damaged_lines if file == "cells.jsonl" and case % 3 == 0 else damaged_bytes
        (tmp_path / "out" / file).write_bytes(damage(content, rng))
        results, refusal = outcome(tmp_path / "out")
        # The seconds of a cell have no hash, because no other number depends on them.
        assert results == whole if results else (str(tmp_path / "out") in refusal and "\n" not in refusal), (
            case,
            refusal,
        )


def test_a_cell_of_another_form_is_refused(base: Path, tmp_path: Path) -> None:
    """A cell whose value has another form under a right hash is refused in one sentence, or not read."""
    lines = (base / "finished" / "cells.jsonl").read_bytes().splitlines(keepends=True)
    shutil.copytree(base / "finished", tmp_path / "out")
    for case in range(CASES // 2):
        rng = random.Random(case)
        place = rng.randrange(len(lines))
        cell = json.loads(lines[place])
        cell["value"] = damaged_value(cell["value"], rng)
        cell["cell"] = content_hash({"key": cell["key"], "value": cell["value"]})
        line = json.dumps(cell).encode() + b"\n"
        (tmp_path / "out" / "cells.jsonl").write_bytes(b"".join([*lines[:place], line, *lines[place + 1 :]]))
        ran = run_command("bench", "report", tmp_path / "out") if case % 10 == 0 else None
        assert "\n" not in outcome(tmp_path / "out")[1], case
        assert ran is None or ran.code in (0, 2), (case, ran.err)


@pytest.mark.parametrize("damage", [damaged_bytes, damaged_lines])
def test_a_damaged_study_file_is_refused_or_read(
    base: Path, tmp_path: Path, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    """A study file damaged at random is refused in one sentence by the command, or is another valid study."""
    shutil.copy(base / "colours.csv", tmp_path / "colours.csv")
    shutil.copytree(base / "model", tmp_path / "model")
    for case in range(CASES // 6):
        (tmp_path / "study.toml").write_bytes(damage(STUDY_FILE.encode(), random.Random(case)))
        ran = run_command("bench", "--study", tmp_path / "study.toml", "--out", tmp_path / "out", "--dry-run")
        assert ran.code in (0, 2), (case, ran.err)
        if ran.code == 2:
            assert len([line for line in ran.err.splitlines() if line != "loading …"]) == 1, (case, ran.err)


def test_a_number_that_is_not_a_score_is_refused(base: Path, tmp_path: Path) -> None:
    """A huge score under a right hash is refused; an AMI that rounding took above 1 is read."""
    cells = [json.loads(line) for line in (base / "finished" / "cells.jsonl").read_bytes().splitlines()]
    (place, *_) = (place for place, cell in enumerate(cells) if cell["key"]["kind"] == "floor")
    shutil.copytree(base / "finished", tmp_path / "out")
    for score, refused in ((1.0000000000000002, False), (1e308, True)):
        cells[place]["value"][0] = score
        cells[place]["cell"] = content_hash({"key": cells[place]["key"], "value": cells[place]["value"]})
        (tmp_path / "out" / "cells.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in cells))
        assert ("must hold scores, got" in outcome(tmp_path / "out")[1]) == refused
