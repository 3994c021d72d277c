"""The file of finished cells."""

from __future__ import annotations

import errno
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskpool.bench.store.cells import Cells, content_hash
from maskpool.errors import MaskpoolError

KEYS: list[dict[str, Any]] = [
    {"kind": "fit", "part": "a", "subsample": 0, "plan": None},
    {"kind": "floor", "part": "a"},
    {"kind": "fit", "part": "a", "subsample": 1, "plan": "padded to 64"},
]
VALUES: list[Any] = [{"scores": [0.1, 2e-17, -1.0]}, [1, 2, 3], "é 漢字 🙂 \u2028 \x85 \r\n"]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of three cells."""
    cells = Cells(tmp_path / "cells.jsonl")
    for key, value in zip(KEYS, VALUES, strict=True):
        cells.add(key, value, 1.23456)
    return tmp_path / "cells.jsonl"


def stored(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def line(key: Any, value: object = 1, cell: object = None) -> bytes:
    name = content_hash({"key": key, "value": value}) if cell is None else cell
    fields = {"cell": name, "key": key, "value": value, "seconds": 1.0}
    return json.dumps(fields).encode() + b"\n"


def test_added_cells_are_stored(path: Path) -> None:
    """Added cells are found when the file is opened again, each on one line with its hash and time."""
    cells = Cells(path)
    assert len(cells) == 3
    assert [cells[key] for key in KEYS] == VALUES
    assert stored(path) == [
        {"cell": content_hash({"key": key, "value": value}), "key": key, "value": value, "seconds": 1.2346}
        for key, value in zip(KEYS, VALUES, strict=True)
    ]


def test_no_file_no_cells(tmp_path: Path) -> None:
    """A missing file has no cells, and opening does not create it."""
    cells = Cells(tmp_path / "cells.jsonl")
    assert len(cells) == 0
    assert KEYS[0] not in cells
    assert not cells.path.exists()


def test_opening_changes_nothing(path: Path) -> None:
    """Opening a complete file does not change it."""
    before = path.read_bytes()
    Cells(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("reopened", [False, True])
def test_a_missing_cell_is_no_cell(path: Path, reopened: bool) -> None:
    """A key that differs in one value or has one more name is another cell."""
    cells = Cells(path) if reopened else Cells(path.with_name("new"))
    cells.add({"kind": "x", "subsample": 1}, None, 0)
    for other in (
        {"kind": "x", "subsample": 2},
        {"kind": "x"},
        {"kind": "x", "subsample": 1, "more": None},
        {"kind": "x", "subsample": "1"},
    ):
        assert other not in cells
        with pytest.raises(KeyError):
            cells[other]


json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@given(key=st.dictionaries(st.text(max_size=4), json_values, min_size=1), data=st.data())
def test_the_order_of_names_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, key: dict[str, Any], data: st.DataObject
) -> None:
    """A key with its names in another order, or read back from JSON, is the same cell."""
    key = {"kind": "any", **key}
    shuffled = dict(data.draw(st.permutations(list(key.items()))))
    cells = Cells(tmp_path_factory.mktemp("cells") / "cells.jsonl")
    cells.add(key, 1, 0)
    assert shuffled in cells
    assert cells[shuffled] == 1
    assert json.loads(json.dumps(shuffled)) in Cells(cells.path)


@given(value=json_values)
def test_any_value_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """Any JSON value with any characters is stored on one line and read back unchanged."""
    cells = Cells(tmp_path_factory.mktemp("cells") / "cells.jsonl")
    for key in KEYS:
        cells.add(key, value, 0)
    assert cells.path.read_bytes().count(b"\n") == 3
    assert [Cells(cells.path)[key] for key in KEYS] == [value] * 3


def test_a_torn_last_line_is_cut_off(path: Path) -> None:
    """An incomplete last line is cut off only when the next cell is added, and the cells before it are kept."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n", 0, -1) + 1]
    for kept in range(len(whole), len(content)):
        path.write_bytes(content[:kept])
        cells = Cells(path)
        assert path.read_bytes() == content[:kept], "reading does not change the file"
        assert [key in cells for key in KEYS] == [True, True, False]
        for key in ({"kind": "next"}, {"kind": "last"}):
            cells.add(key, 5, 0)
        assert path.read_bytes().startswith(whole + b'{"cell": ')
        assert [key in Cells(path) for key in (*KEYS, {"kind": "next"}, {"kind": "last"})] == [
            True,
            True,
            False,
            True,
            True,
        ]


@pytest.mark.parametrize(
    "tail", [b"\0" * 50, b"\xff\xfe", b'{"cell": "', b"{}", b"\r"], ids=["zeros", "no text", "half", "JSON", "return"]
)
def test_a_torn_line_need_not_be_text(path: Path, tail: bytes) -> None:
    """A tail without a newline is cut off for any content, and the next cell is on a new line."""
    content = path.read_bytes()
    path.write_bytes(content + tail)
    cells = Cells(path)
    cells.add({"kind": "next"}, 5, 0)
    assert path.read_bytes().startswith(content)
    assert Cells(path)[{"kind": "next"}] == 5
    assert len(Cells(path)) == 4


NO_CELLS: dict[str, bytes] = {
    "blank": b"\n",
    "no JSON": b"mine\n",
    "half": b'{"cell": "1", "key"\n',
    "no text": b"\xff\xfe\n",
    "a table without a cell": b"{}\n",
    "a list": b"[]\n",
    "null": b"null\n",
    "a number": b"7\n",
    "a string": b'"cell"\n',
    "no key": b'{"cell": "0123456789abcdef", "value": 1}\n',
    "no value": b'{"cell": "0123456789abcdef", "key": {"kind": "fit"}}\n',
    "a hash that is a list": line({"kind": "fit"}, cell=[]),
    "another's hash": line({"kind": "fit"}, cell="0123456789abcdef"),
    "a key that is a string": line("fit"),
    "a key that is a list": line(["kind"]),
    "a key that is null": line(None),
    "a key without a kind": line({"part": "a"}),
}


@pytest.mark.parametrize("no_cell", NO_CELLS.values(), ids=NO_CELLS)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_line_that_is_not_a_cell_is_refused(path: Path, no_cell: bytes, place: int) -> None:
    """A complete line that is not a cell is refused in one sentence with the file, which is unchanged."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:place], no_cell, *lines[place:]]) + b"torn")
    before = path.read_bytes()
    with pytest.raises(MaskpoolError) as refused:
        Cells(path)
    expected = f"{path} must hold a finished cell in each line, but line {place + 1} does not: "
    assert re.fullmatch(re.escape(expected) + ".+; delete the line and run the study again.+", str(refused.value))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0.1", b"0.2"),
        (b"-1.0", b"1.0"),
        (b'"subsample": 0', b'"subsample": 2'),
        (b'"part": "a"', b'"part": "b"'),
        (b'"scores"', b'"score"'),
    ],
)
def test_an_altered_cell_is_refused(path: Path, old: bytes, new: bytes) -> None:
    """A complete line whose key or value was changed is refused by its number and the cell's kind and key."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[0]
    path.write_bytes(b"".join([lines[1], lines[0].replace(old, new, 1), lines[2]]))
    with pytest.raises(MaskpoolError, match=r"line 2 does not: the cell 'fit' \(.*subsample.*\) was changed after"):
        Cells(path)


def test_repeated_and_reordered_lines_are_accepted(path: Path) -> None:
    """Lines in another order, and a line that is there twice, give the same cells."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*reversed(lines), lines[1]]))
    assert [Cells(path)[key] for key in KEYS] == VALUES


def test_two_values_of_a_cell_are_refused(path: Path) -> None:
    """Two lines of the same cell with different values are refused by the number of the second."""
    path.write_bytes(path.read_bytes() + line(KEYS[1], [1, 2, 4]))
    with pytest.raises(MaskpoolError, match="line 4 does not: the cell 'floor' has another value in an earlier line"):
        Cells(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A folder in the place of the file is refused with its path."""
    sentence = f"{tmp_path} must be a file, got a folder"
    with pytest.raises(MaskpoolError, match=re.escape(sentence)):
        Cells(tmp_path)


class FullDisk(io.FileIO):
    """A file on a disk with 20 free bytes, which raises an error or writes less."""

    says_so = True

    def write(self, content: Any, /) -> int:
        written = super().write(bytes(content)[:20])
        if self.says_so:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written or 0


@pytest.fixture(params=["raises", "writes less"])
def fill(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Fill the disk until the patch is undone; no line fits."""

    def act() -> None:
        monkeypatch.setattr(FullDisk, "says_so", request.param == "raises")
        monkeypatch.setattr(Path, "open", lambda self, mode="r", buffering=-1: FullDisk(self, mode.replace("b", "")))

    return act


def test_a_disk_that_fills_up_leaves_the_file(
    path: Path, fill: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk fills up within a line, the file is unchanged, and once there is room the same cell is added."""
    cells, key, before = Cells(path), {"kind": "next"}, path.read_bytes()
    fill()
    with pytest.raises(MaskpoolError) as refused:
        cells.add(key, "x" * 100, 0)
    sentence = rf"{re.escape(str(path))} could not be written \(no space left.*\); its 3 cells are complete: .+"
    assert re.fullmatch(sentence, str(refused.value), re.IGNORECASE)
    assert key not in cells
    monkeypatch.undo()
    assert path.read_bytes() == before
    cells.add(key, "x" * 100, 0)
    assert [Cells(path)[finished] for finished in (*KEYS, key)] == [*VALUES, "x" * 100]


def test_a_disk_that_is_full_from_the_start(
    tmp_path: Path, fill: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first cell that does not fit leaves neither a cell nor an incomplete line."""
    cells = Cells(tmp_path / "cells.jsonl")
    fill()
    with pytest.raises(MaskpoolError, match="its 0 cells are complete"):
        cells.add(KEYS[0], 1, 0)
    monkeypatch.undo()
    assert len(Cells(cells.path)) == 0
    assert not cells.path.exists() or cells.path.read_bytes() == b""


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("tail", [b"", b'{"cell": '])
def test_a_value_is_replaced(path: Path, number: int, tail: bytes) -> None:
    """A replaced cell has only its new value, the other cells stay as they were, and a torn line is cut off."""
    path.write_bytes(path.read_bytes() + line(KEYS[number], VALUES[number]) + tail)
    before = stored(path)
    cells = Cells(path)
    cells.replace(KEYS[number], "new")
    cells.add({"kind": "later"}, 1, 0)
    for opened in (cells, Cells(path)):
        assert opened[KEYS[number]] == "new"
        assert [opened[key] for key in KEYS if key != KEYS[number]] == [v for v in VALUES if v != VALUES[number]]
        assert len(opened) == 4
    kept = [cell for cell in before if cell["key"] != KEYS[number]]
    assert [stored(path)[:2], len(stored(path))] == [kept, 4]


def test_a_full_disk_keeps_the_old_value(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full while a value is replaced, the file stays as it was."""
    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(MaskpoolError, match="could not be written: No space left on device"):
        Cells(path).replace(KEYS[0], "new")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_finished_cell_is_not_computed_again(path: Path) -> None:
    """A cell is computed once and its time is stored; neither this object nor a later one computes it again."""
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"value": len(calls)}

    cells, key = Cells(path), {"kind": "next", "part": "a"}
    assert cells.once(key, compute) == {"value": 1}
    assert cells.once(dict(reversed(key.items())), compute) == {"value": 1}
    assert Cells(path).once(key, compute) == {"value": 1}
    assert len(calls) == 1
    assert stored(path)[-1]["seconds"] >= 0
    assert len(stored(path)) == 4


@pytest.mark.parametrize("nothing", [None, 0, "", [], {}, False])
def test_an_empty_value_is_a_value(path: Path, nothing: object) -> None:
    """A cell whose value is null, zero or empty is finished and is not computed again."""
    cells, key = Cells(path), {"kind": "next"}
    assert cells.once(key, lambda: nothing) == nothing
    assert key in cells
    assert Cells(path).once(key, lambda: 1 / 0) == nothing


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failed_computation_leaves_no_cell(path: Path, error: type[BaseException]) -> None:
    """A computation that fails or is interrupted does not change the file."""
    before = path.read_bytes()

    def compute() -> None:
        raise error

    with pytest.raises(error):
        Cells(path).once({"kind": "next"}, compute)
    assert path.read_bytes() == before


def test_a_value_that_json_cannot_hold_leaves_no_cell(path: Path) -> None:
    """A value that is not JSON raises an error and does not change the file."""
    before = path.read_bytes()
    with pytest.raises(TypeError):
        Cells(path).add({"kind": "next"}, object(), 0)
    assert path.read_bytes() == before


def test_kinds_come_in_the_order_of_the_file(path: Path) -> None:
    """The cells of a kind are in the order in which they were added, before and after opening the file again."""
    cells = Cells(path)
    for subsample in (9, 2, 5):
        cells.add({"kind": "fit", "subsample": subsample}, -subsample, 0)
    expected = [(KEYS[0], VALUES[0]), (KEYS[2], VALUES[2]), *(({"kind": "fit", "subsample": d}, -d) for d in (9, 2, 5))]
    assert cells.of_kind("fit") == expected
    assert Cells(path).of_kind("fit") == expected
    assert cells.of_kind("floor") == [(KEYS[1], VALUES[1])]
    assert cells.of_kind("none") == []
