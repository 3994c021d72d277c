"""Input files: how they are cut into slices, and what is refused."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskpool.embed.settings import Settings
from maskpool.embed.sources import find_files, make_plan, read_slice
from maskpool.errors import DataError, InvalidValueError, MaskpoolError, NotFoundError
from tests.command import assert_refused, run

Rows = list[tuple[str, str]]
SETTINGS = Settings(id_column="id")


def read(path: Path, part_rows: int, settings: Settings = SETTINGS) -> list[tuple[int, str | None, str | None]]:
    """Return the rows of all slices of a file, after a check that the slices cover it."""
    plan = make_plan(path, settings, part_rows)
    assert all(piece.rows <= part_rows for piece in plan.slices)
    assert [piece.number for piece in plan.slices] == list(range(len(plan.slices)))
    return [(row.number, row.id, row.text) for piece in plan.slices for row in read_slice(piece, settings)]


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *rows])


def write_tsv(path: Path, rows: Rows) -> None:
    path.write_text("id\ttext\n" + "".join(f"{name}\t{text}\n" for name, text in rows), "utf-8")


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in rows), "utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    names, values = zip(*rows, strict=True)
    pq.write_table(pa.table({"id": names, "text": values}), path, row_group_size=7)


WRITERS = {".csv": write_csv, ".tsv": write_tsv, ".jsonl": write_jsonl, ".parquet": write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("part_rows", [1, 4, 10, 1_000])
def test_slices_cover_a_file_in_order(suffix: str, part_rows: int, tmp_path: Path) -> None:
    """The slices of a file have its rows once and in order in every format and at every size of a slice."""
    rows = [(f"a{number}", f"text {number} é 😀") for number in range(25)]
    path = tmp_path / f"data{suffix}"
    WRITERS[suffix](path, rows)
    assert read(path, part_rows) == [(number, *row) for number, row in enumerate(rows)]


@given(
    rows=st.lists(st.tuples(st.text("abc", min_size=1), st.text('ab ,"\n\r\t;é', min_size=1)), min_size=1, max_size=12),
    part_rows=st.integers(1, 5),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_slices_are_those_of_the_csv_module(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, part_rows: int, end: str
) -> None:
    """Fields with quotes, separators and line breaks are read as the csv module writes them, in slices of any size."""
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        # With line feeds only, the csv module does not quote a carriage return by itself.
        all_quoted = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
        (all_quoted if end == "\n" else csv.writer(file)).writerows([("id", "text"), *rows])
    assert read(path, part_rows) == [(number, *row) for number, row in enumerate(rows)]


def test_separators_are_recognised(tmp_path: Path) -> None:
    """A csv file may separate fields by semicolons or tabs; the header shows which."""
    for separator in ";\t|":
        path = tmp_path / "data.csv"
        path.write_text(f"id{separator}text\n1{separator}a, b\n", "utf-8")
        assert read(path, 10) == [(0, "1", "a, b")]


def test_quotes_in_a_file_of_tabs_may_be_ordinary(tmp_path: Path) -> None:
    """In a tsv file a quote encloses a field if it can, also over lines, and is an ordinary character otherwise."""
    path = tmp_path / "data.tsv"
    path.write_text('id\ttext\n1\t"quoted"\n2\t"open\n3\t5" disk\n4\t"so" they say\n', "utf-8")
    assert [row[2] for row in read(path, 2)] == ["quoted", '"open', '5" disk', '"so" they say']
    path.write_text('id\ttext\tmore\n1\t"two\nlines"\tx\n2\tb\ty\n', "utf-8")
    assert [row[2] for row in read(path, 1)] == ["two\nlines", "b"]


def test_a_mark_and_blank_lines_are_not_rows(tmp_path: Path) -> None:
    """A byte-order mark, blank lines and a missing last line break change nothing."""
    for suffix, head in ((".csv", "id,text\n"), (".jsonl", "")):
        path = tmp_path / f"data{suffix}"
        lines = ["1,a", "2,b"] if head else ['{"id": 1, "text": "a"}', '{"id": 2, "text": "b"}']
        path.write_bytes(b"\xef\xbb\xbf" + f"\n{head}\n{lines[0]}\n\n \n{lines[1]}".encode())
        assert read(path, 1) == [(0, "1", "a"), (1, "2", "b")]


def test_folders_and_patterns(tmp_path: Path) -> None:
    """A folder is searched with its subfolders, in the order of names; other and hidden files are left out."""
    for name in ("b.jsonl", "a/c.csv", "a/b.parquet", "notes.txt", ".hidden.jsonl", "_SUCCESS"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files, left_out = find_files(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == ["a/b.parquet", "a/c.csv", "b.jsonl"]
    assert left_out == [str(tmp_path / "notes.txt")]
    pattern, _ = find_files([f"{tmp_path}/**/*.csv", tmp_path / "b.jsonl", tmp_path / "b.jsonl"])
    assert [path.name for path in pattern] == ["c.csv", "b.jsonl"]


def test_rows_are_numbered_over_all_files(tmp_path: Path) -> None:
    """Row numbers go on from file to file, and parts do not mix files."""
    write_csv(tmp_path / "a.csv", [("1", "x"), ("2", "y"), ("3", "z")])
    write_parquet(tmp_path / "b.parquet", [("4", "u"), ("5", "v")])
    plan = make_plan(tmp_path, SETTINGS, 2)
    assert [(piece.first_row, piece.rows) for piece in plan.slices] == [(0, 2), (2, 1), (3, 2)]
    assert [row[1] for piece in plan.slices for row in read_slice(piece, SETTINGS)] == ["1", "2", "3", "4", "5"]


def test_long_texts_make_short_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice ends where its texts reach a number of bytes, so memory is bounded by bytes as well."""
    monkeypatch.setattr("maskpool.embed.sources._SLICE_BYTES", 1_000)
    rows = [(str(number), "word " * 50) for number in range(20)]
    for suffix, write in WRITERS.items():
        path = tmp_path / f"data{suffix}"
        write(path, rows)
        plan = make_plan(path, SETTINGS, 10_000)
        assert len(plan.slices) >= 3, suffix
        assert [row[1] for piece in plan.slices for row in read_slice(piece, SETTINGS)] == [row[0] for row in rows]


def test_missing_texts(tmp_path: Path) -> None:
    """Null and other values than text, and empty fields of csv files, are missing; an empty JSON string is a text."""
    path = tmp_path / "data.jsonl"
    values = ['"a"', "null", "3", '["a"]', '""', "true"]
    lines = [f'{{"id": {n}, "text": {value}}}' for n, value in enumerate(values)]
    path.write_text("\n".join([*lines, '{"id": 6}']), "utf-8")
    assert [row[2] for row in read(path, 3)] == ["a", None, None, None, "", None, None]
    path = tmp_path / "data.csv"
    path.write_text("id,text\n1,\n2,a\n", "utf-8")
    assert [row[2] for row in read(path, 3)] == [None, "a"]
    pq.write_table(pa.table({"id": [1, None], "text": pa.array([None, "a"])}), tmp_path / "data.parquet")
    assert read(tmp_path / "data.parquet", 3) == [(0, "1", None), (1, None, "a")]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "not JSON": ("jsonl", b'{"text": "a"}\n{"text": \n', r"line 2 of data\.jsonl is not JSON \(.*\)"),
    "a JSON list": ("jsonl", b'{"text": "a"}\n["a"]\n', r"line 2 of data\.jsonl is not a JSON object with named .*"),
    "deep JSON": ("jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", r"line 2 of data\.jsonl is not JSON .*"),
    "other bytes": ("jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"line 2 of data\.jsonl is not UTF-8"),
    "NUL": ("csv", b"id,text\n1,a\0\n", r"line 2 of data\.csv has a NUL byte"),
    "too few fields": ("csv", b"id,text,c\n1,a,b\n1\n", r"line 3 of data\.csv has 1 field where 3 are expected"),
    "too many fields": ("csv", b"id,text\n1,a,b\n", r"line 2 of data\.csv has 3 fields where 2 are expected"),
    "a quote that never ends": ("csv", b'id,text\n1,"a\n2,b\n', r"line 2 of data\.csv is not valid \(.*\)"),
    "behind a quote": ("csv", b'id,text\n1,"a"b\n2,b\n', r"line 2 of data\.csv is not valid \(.*\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_lines_are_named_or_left_out(name: str, tmp_path: Path) -> None:
    """A broken line is refused by its number, before anything is embedded, or left out and counted."""
    suffix, content, problem = BROKEN[name]
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{problem}: correct the input, or set `skip_bad` to leave broken lines out$"):
        make_plan(path, Settings(), 10)
    plan = make_plan(path, Settings(skip_bad=True), 10)
    assert plan.files[0].bad_lines == 1
    rows = [row for piece in plan.slices for row in read_slice(piece, Settings(skip_bad=True))]
    assert len(rows) == plan.rows - 1


def test_a_broken_line_costs_no_other(tmp_path: Path) -> None:
    """Random damage to some lines of a csv file loses these lines only."""
    chance = random.Random(0)
    lines = [f'{number},"text, {number}"' for number in range(200)]
    damaged = sorted(chance.sample(range(200), 20))
    for number in damaged:
        lines[number] = chance.choice([f"{number}", f'{number},"a"b', f"{number},a,b,c", f"{number},\0"])
    path = tmp_path / "data.csv"
    path.write_text("id,text\n" + "\n".join(lines) + "\n", "utf-8")
    settings = Settings(id_column="id", skip_bad=True)
    plan = make_plan(path, settings, 7)
    assert [line for line, _ in plan.files[0].bad] == [number + 2 for number in damaged]
    kept = [int(name or "") for _, name, _ in read(path, 7, settings)]
    assert kept == [number for number in range(200) if number not in damaged]


def test_a_line_without_end_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is longer than any text is broken; the next one is read."""
    monkeypatch.setattr("maskpool.embed.lines.LONGEST_LINE", 1_000)
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"text": "a" * 5_000}) + '\n{"text": "b"}\n', "utf-8")
    settings = Settings(skip_bad=True)
    assert [row[2] for row in read(path, 3, settings)] == ["b"]


def _touch(path: Path) -> None:
    path.touch()


def _csv(content: str) -> Callable[[Path], int]:
    return lambda path: path.write_text(content, "utf-8")


def _numbers(path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), path)


REFUSED: dict[str, tuple[str, Callable[[Path], Any], type[MaskpoolError], str]] = {
    "no file": ("none.csv", lambda path: None, NotFoundError, "INPUT must name a file, a folder or a pattern .*"),
    "an empty folder": ("none", Path.mkdir, NotFoundError, "INPUT must hold .csv, .tsv, .* but the folder .* has none"),
    "an unknown format": ("data.xlsx", _touch, InvalidValueError, r"INPUT must be .* files, got data\.xlsx: .*"),
    "an empty csv": ("data.csv", _touch, InvalidValueError, r"--text-column must be one of the columns none of .*"),
    "an empty jsonl": ("data.jsonl", _touch, DataError, r"data\.jsonl has no rows"),
    "a header only": ("data.csv", _csv("text\n"), DataError, r"data\.csv has no rows"),
    "an unknown column": (
        "data.csv",
        _csv("id,body\n1,a\n"),
        InvalidValueError,
        r"--text-column must be one of the columns id, body of data\.csv, got 'text'",
    ),
    "an unknown field": (
        "data.jsonl",
        _csv('{"id": 1, "body": "a"}\n'),
        InvalidValueError,
        r"--text-column must be one of the columns body, id of data\.jsonl, got 'text'",
    ),
    "two columns of a name": (
        "data.csv",
        _csv("text,text\n1,a\n"),
        InvalidValueError,
        r"--text-column must name one column of data\.csv, but 2 are called 'text': .*",
    ),
    "numbers": (
        "data.parquet",
        _numbers,
        InvalidValueError,
        r"--text-column must be a column of texts, but text of data\.parquet has type int64",
    ),
    "no parquet": ("data.parquet", _csv("text\na\n"), DataError, r"data\.parquet is not a parquet file: .*"),
    "UTF-16": (
        "data.csv",
        lambda path: path.write_text("text\na\n", "utf-16"),
        DataError,
        r"data\.csv is UTF-16 or UTF-32: save it as UTF-8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(name: str, tmp_path: Path) -> None:
    """Bad input is refused in one sentence with exit code 2, and no folder is created."""
    file, make, kind, sentence = REFUSED[name]
    make(tmp_path / file)
    assert_refused(run("embed", tmp_path / file, "--out", tmp_path / "out"), sentence)
    assert not (tmp_path / "out").exists()
    with pytest.raises(kind):
        make_plan(tmp_path / file, Settings(), 10)


def test_a_changed_input_is_noticed(tmp_path: Path) -> None:
    """A file that changes while it is embedded is refused by the slice whose rows are gone."""
    path = tmp_path / "data.csv"
    write_csv(path, [("1", "a"), ("2", "b"), ("3", "c")])
    plan = make_plan(path, SETTINGS, 3)
    write_csv(path, [("1", "a"), ("2", "b")])
    with pytest.raises(DataError, match=f"{re.escape(str(path))} has changed since the run began"):
        list(read_slice(plan.slices[0], SETTINGS))
