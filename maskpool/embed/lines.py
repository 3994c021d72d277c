"""Read the records of csv, tsv and jsonl files, in part or whole, with their places in the file."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from maskpool.bench.design.tables import SEPARATORS
from maskpool.errors import DataError, InvalidValueError

LINE_SUFFIXES = (".csv", ".tsv", ".jsonl")
LONGEST_LINE = 32 * 1024 * 1024  # bytes; a file without line breaks is not read into memory
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe": "UTF-16 or UTF-32", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}


@dataclass(frozen=True)
class Record:
    """A record of a file.

    Attributes:
        line: The number of its first line, from 1.
        stop: The byte after its last line.
        fields: Its values by the names of the columns.
        problem: What is wrong with it; empty if it could be read.
    """

    line: int
    stop: int
    fields: Mapping[str, object]
    problem: str = ""


class LineFile:
    """A csv, tsv or jsonl file in UTF-8, read record by record.

    Args:
        path: The file.
        text_column: The column of texts, by which the separator of a csv file is recognised.

    Attributes:
        columns: The names of the columns of a csv or tsv file; None for jsonl, whose records name their fields.
        first_byte: Where the first record begins.
        first_line: The number of the line there.
        separator: What separates the fields; empty for jsonl.

    Raises:
        DataError: The file is not UTF-8.
        InvalidValueError: A csv or tsv file does not have the column of texts.
    """

    def __init__(self, path: Path, text_column: str) -> None:
        self.path = path
        self.columns: list[str] | None = None
        self.first_byte, self.first_line, self.separator = 0, 1, ""
        with path.open("rb") as file:
            start = file.read(4)
            for mark, name in _OTHER_MARKS.items():
                if start.startswith(mark):
                    raise DataError(f"{path.name} is {name}: save it as UTF-8")
            self.first_byte = len(_UTF8_MARK) if start.startswith(_UTF8_MARK) else 0
            if path.suffix.lower() != ".jsonl":
                self._read_header(file, text_column)

    def records(self, start: int, stop: int | None = None) -> Iterator[Record]:
        """Read the records between two bytes.

        Lines without content are not records.

        Args:
            start: Where a record begins.
            stop: Where the last record ends; None for the end of the file.
        """
        line = self.first_line  # of the whole file; of a part, line numbers count from it
        with self.path.open("rb") as file, _long_fields():
            reader = _Reader(file, start)
            while stop is None or reader.place < stop:
                raw = reader.line()
                if not raw:
                    return
                if raw.strip():
                    lines, fields, problem = self._parse(reader, raw)
                    yield Record(line, reader.place, fields, problem)
                    line += lines
                else:
                    line += 1

    def _parse(self, reader: _Reader, raw: bytes) -> tuple[int, Mapping[str, object], str]:
        """Return the number of lines of a record, its fields, and what is wrong with it."""
        if len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
            while (rest := reader.line()) and not rest.endswith(b"\n"):
                pass
            return 1, {}, f"is longer than {LONGEST_LINE // 1024**2} MiB"
        if b"\0" in raw:
            return 1, {}, "has a NUL byte"
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return 1, {}, "is not UTF-8"
        if self.columns is None:
            return 1, *_parse_json(text)
        place = reader.place
        fields, lines, problem = _split(text, self.separator, len(self.columns), reader)
        if problem:
            reader.go_to(place)
            return 1, {}, problem
        return lines, dict(zip(self.columns, fields, strict=False)), ""

    def _read_header(self, file: BinaryIO, text_column: str) -> None:
        reader = _Reader(file, self.first_byte)
        raw = reader.line()
        while raw and not raw.strip():
            self.first_line += 1
            raw = reader.line()
        usual = "\t" if self.path.suffix.lower() == ".tsv" else ","
        place, after = reader.place, {}
        for separator in dict.fromkeys([usual, *SEPARATORS]):
            reader.go_to(place)
            try:
                rows = csv.reader(reader.texts(raw.decode()), delimiter=separator, strict=True)
                names = [name.strip() for name in next(rows, [])]
            except (csv.Error, UnicodeDecodeError):
                continue
            after[separator] = names, reader.place, rows.line_num
        matching = [separator for separator, (names, *_) in after.items() if text_column in names]
        self.separator = next(iter(matching), usual)
        self.columns, self.first_byte, lines = after.get(self.separator, ([], place, 1))
        self.first_line += lines


class _Reader:
    """Read lines of a file and know the place of the next."""

    def __init__(self, file: BinaryIO, place: int) -> None:
        self.file, self.place = file, place
        file.seek(place)

    def line(self) -> bytes:
        raw = self.file.readline(LONGEST_LINE)
        self.place += len(raw)
        return raw

    def texts(self, first: str) -> Iterator[str]:
        """Yield a line that was read and those that follow it."""
        return itertools.chain([first], (raw.decode() for raw in iter(self.line, b"")))

    def go_to(self, place: int) -> None:
        self.place = place
        self.file.seek(place)


def _parse_json(text: str) -> tuple[Mapping[str, object], str]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, f"is not JSON ({error})"
    if not isinstance(fields, dict):
        return {}, f"is not a JSON object with named fields, but {text.strip()[:40]!r}"
    return fields, ""


def _split(text: str, separator: str, width: int, reader: _Reader) -> tuple[Sequence[str], int, str]:
    """Return the fields of a record, its number of lines, and what is wrong with it.

    In a file of tabs a quote may be an ordinary character; a quoted field goes over several lines only if its first
    line is not a record.
    """
    plain = text.rstrip("\r\n").split(separator)
    if '"' not in text and "\r" not in plain[-1]:
        fields, problem = _fitted(plain, width)
        return fields, 1, problem
    one_line = separator == "\t" and len(plain) == width
    try:
        rows = csv.reader([text] if one_line else reader.texts(text), delimiter=separator, strict=True)
        fields, problem = _fitted(next(rows), width)
        if not problem:
            return fields, rows.line_num, ""
    except (csv.Error, UnicodeDecodeError) as error:
        problem = f"is not valid ({str(error) or 'a quote that never ends'})"
    return (plain, 1, "") if one_line else ((), 1, problem)


def _fitted(fields: list[str], width: int) -> tuple[Sequence[str], str]:
    """Leave out empty fields behind the last column; refuse other numbers of fields."""
    if len(fields) >= width and not any(fields[width:]):
        return fields[:width], ""
    were = "field" if len(fields) == 1 else "fields"
    return (), f"has {len(fields)} {were} where {width} are expected"


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read fields that are as long as a line may be."""
    limit = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def refuse_column(path: Path, columns: Sequence[str], name: str, argument: str) -> None:
    """Refuse a column that a file does not have exactly once.

    Args:
        path: The file.
        columns: The names of its columns.
        name: The wanted column.
        argument: The argument that names it.

    Raises:
        InvalidValueError: The file does not have the column, or has several of that name.
    """
    times = list(columns).count(name)
    if times == 0:
        known = ", ".join(columns) or "none"
        raise InvalidValueError(argument, f"must be one of the columns {known} of {path.name}, got {name!r}")
    if times > 1:
        raise InvalidValueError(
            argument, f"must name one column of {path.name}, but {times} are called {name!r}: rename the others"
        )
