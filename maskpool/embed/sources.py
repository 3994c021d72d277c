"""Find the input files, cut them into slices, and read one slice."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from maskpool.embed.lines import LINE_SUFFIXES, LineFile, refuse_column
from maskpool.embed.settings import Settings
from maskpool.errors import DataError, InvalidValueError, NotFoundError, StorageError

Inputs: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
SUFFIXES = (*LINE_SUFFIXES, ".parquet")
_SLICE_BYTES = 64 * 1024 * 1024  # of text; a slice of long texts has fewer rows
_PARQUET_BATCH = 1_000  # rows that are decoded together
_LINES_NAMED = 5  # broken lines that a message names
_LINES_KEPT = 1_000  # broken lines of a file that the manifest lists


@dataclass(frozen=True)
class Slice:
    """A range of rows of one file, which becomes one part. Slices can be pickled.

    Attributes:
        number: The number of the part.
        path: The file.
        first_row: The number of its first row, counted from 0 over all files.
        rows: The number of its rows, broken lines included.
        start: Where it begins: a byte, or a row of a parquet file.
        stop: Where it ends, in the same unit.
    """

    number: int
    path: str
    first_row: int
    rows: int
    start: int
    stop: int


class InputRow(NamedTuple):
    """A row of the input: its number over all files, its id, and its text, None if it has no text."""

    number: int
    id: str | None
    text: str | None


@dataclass
class InputFile:
    """An input file, as the manifest describes it.

    Attributes:
        path: The file.
        bytes: Its size.
        rows: Its rows, broken lines included.
        sha256: Hash of its content; of a parquet file, of its footer, which lists every row group.
        bad_lines: Its number of broken lines.
        bad: The numbers of the first of them, and what is wrong with each.
        separator: What separates the fields of a csv or tsv file.
    """

    path: str
    bytes: int
    rows: int = 0
    sha256: str = ""
    bad_lines: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    separator: str = ""


@dataclass(frozen=True)
class SlicePlan:
    """The input files of a run and the slices that they are cut into, both in the order of the input.

    Attributes:
        files: The files.
        slices: Their slices; slice number k is the k-th.
        left_out: The names of files in an input folder that are in none of the known formats.
    """

    files: list[InputFile]
    slices: list[Slice]
    left_out: list[str]

    @property
    def rows(self) -> int:
        """The number of rows, broken lines included."""
        return sum(file.rows for file in self.files)


def find_files(inputs: Inputs) -> tuple[list[Path], list[str]]:
    """Find the files that inputs name, and those in folders that are in none of the known formats.

    Args:
        inputs: A file, a folder, which is searched with its subfolders, or a glob pattern; or a list of these.

    Returns:
        The files, sorted within each input and without repetition, and the names of the files left out.

    Raises:
        NotFoundError: An input names no file.
        InvalidValueError: A file has an unknown format, or there is no input.
    """
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    files: dict[Path, None] = {}
    left_out: list[str] = []
    for each in given:
        path = Path(each)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file, path))
            known = [file for file in inside if file.suffix.lower() in SUFFIXES]
            left_out += [str(file) for file in inside if file.suffix.lower() not in SUFFIXES]
            if not known:
                raise NotFoundError(
                    f"must hold {', '.join(SUFFIXES)} files, but the folder {path} has none", argument="inputs"
                )
            files |= dict.fromkeys(known)
            continue
        matches = [path] if path.is_file() else sorted(map(Path, glob.glob(str(each), recursive=True)))
        if not matches:
            raise NotFoundError(
                f"must name a file, a folder or a pattern such as 'folder/*.jsonl', but nothing is at {each}",
                argument="inputs",
            )
        for file in filter(Path.is_file, matches):
            if file.suffix.lower() not in SUFFIXES:
                raise InvalidValueError(
                    "inputs", f"must be {', '.join(SUFFIXES)} files, got {file.name}: convert it or unpack it first"
                )
            files[file] = None
    if not files:
        raise InvalidValueError("inputs", "must name at least one file")
    return list(files), left_out


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file is hidden, or written by another program for itself, such as _SUCCESS."""
    return any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def make_plan(inputs: Inputs, settings: Settings, part_rows: int) -> SlicePlan:
    """Read the input once, line by line, and cut it into slices.

    Args:
        inputs: As in `find_files`.
        settings: The columns, and whether broken lines are left out.
        part_rows: The largest number of rows of a slice. Slices of long texts are shorter.

    Raises:
        DataError: A line is broken and ``skip_bad`` is False, or there are no rows.
        InvalidValueError: A file does not have a column, or its texts are not text.
        StorageError: A file cannot be read.
    """
    paths, left_out = find_files(inputs)
    files: list[InputFile] = []
    slices: list[Slice] = []
    row = 0
    for path in paths:
        try:
            file = InputFile(str(path), path.stat().st_size)
            cuts = _cut_parquet if path.suffix.lower() == ".parquet" else _cut_lines
            for rows, start, stop in cuts(path, file, settings, part_rows):
                slices.append(Slice(len(slices), str(path), row, rows, start, stop))
                row += rows
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}", argument="inputs") from error
        file.rows = sum(piece.rows for piece in slices if piece.path == file.path)
        files.append(file)
    if not settings.skip_bad:
        _refuse_bad(files)
    if not slices:
        names = paths[0].name if len(paths) == 1 else f"none of the {len(paths)} files"
        raise DataError(f"{names} has rows: there is nothing to embed" if len(paths) > 1 else f"{names} has no rows")
    return SlicePlan(files, slices, left_out)


def _refuse_bad(files: Sequence[InputFile]) -> None:
    total = sum(file.bad_lines for file in files)
    if total:
        worst = [(file, line, problem) for file in files for line, problem in file.bad][:_LINES_NAMED]
        named = "; ".join(f"line {line} of {Path(file.path).name} {problem}" for file, line, problem in worst)
        more = f" (and {total - len(worst)} more)" if total > len(worst) else ""
        raise DataError(f"{named}{more}: correct the input, or set `skip_bad` to leave broken lines out")


def _cut_lines(path: Path, file: InputFile, settings: Settings, part_rows: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of rows, the first byte and the end of each slice."""
    source = LineFile(path, settings.text_column)
    file.separator = source.separator
    seen: set[str] = set(source.columns or ())
    if source.columns is not None:
        _refuse_columns(path, source.columns, settings)
    rows, start, stop = 0, source.first_byte, source.first_byte
    wanted = {settings.text_column, *filter(None, [settings.id_column])}
    for record in source.records(source.first_byte):
        if record.problem:
            file.bad_lines += 1
            if len(file.bad) < _LINES_KEPT:
                file.bad.append((record.line, record.problem))
        elif not wanted <= seen:
            seen.update(record.fields)
        rows, stop = rows + 1, record.stop
        if rows == part_rows or stop - start >= _SLICE_BYTES:
            yield rows, start, stop
            rows, start = 0, stop
    if rows:
        yield rows, start, stop
    if seen:
        _refuse_columns(path, sorted(seen), settings)
    with path.open("rb") as content:
        file.sha256 = hashlib.file_digest(content, "sha256").hexdigest()


def _refuse_columns(path: Path, columns: Sequence[str], settings: Settings) -> None:
    refuse_column(path, columns, settings.text_column, "text_column")
    if settings.id_column is not None:
        refuse_column(path, columns, settings.id_column, "id_column")


def _cut_parquet(path: Path, file: InputFile, settings: Settings, part_rows: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of rows, the first row and the end of each slice; none has rows of two row groups."""
    import pyarrow as pa

    with _opened(path) as parquet:
        schema = parquet.schema_arrow
        _refuse_columns(path, schema.names, settings)
        kind = schema.field(settings.text_column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not _is_text(kind):
            raise InvalidValueError(
                "text_column", f"must be a column of texts, but {settings.text_column} of {path.name} has type {kind}"
            )
        first = 0
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            bytes_a_row = max(1, group.total_byte_size // max(1, group.num_rows))
            step = max(1, min(part_rows, _SLICE_BYTES // bytes_a_row))
            for start in range(first, first + group.num_rows, step):
                stop = min(start + step, first + group.num_rows)
                yield stop - start, start, stop
            first += group.num_rows
        file.sha256 = hashlib.sha256(_footer(path)).hexdigest()


def _is_text(kind: Any) -> bool:  # Any: pyarrow ships no types
    return str(kind) in ("string", "large_string", "string_view")


def _opened(path: Path) -> Any:  # Any: pyarrow ships no types
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path.name} is not a parquet file: {error}") from error


def _footer(path: Path) -> bytes:
    """Return the description of a parquet file at its end; its length is in the last eight bytes."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return file.read(length)


def read_slice(piece: Slice, settings: Settings) -> Iterator[InputRow]:
    """Read the rows of a slice, without broken lines.

    Args:
        piece: The slice.
        settings: The columns.

    Raises:
        DataError: The file is not the one that the slice was cut from.
        StorageError: The file cannot be read.
    """
    read = _read_parquet if piece.path.lower().endswith(".parquet") else _read_lines
    rows = 0
    try:
        for number, row in enumerate(read(piece, settings), piece.first_row):
            rows += 1
            if row is not None:
                yield InputRow(number, *row)
    except OSError as error:
        raise StorageError(f"{piece.path} cannot be read: {error.strerror or error}") from error
    if rows != piece.rows:
        raise DataError(f"{piece.path} has changed since the run began: restore it, or start a new run in a new folder")


def _read_lines(piece: Slice, settings: Settings) -> Iterator[tuple[str | None, str | None] | None]:
    source = LineFile(Path(piece.path), settings.text_column)
    no_text = "" if source.columns is not None else None  # csv has no other way to write that a value is missing
    for record in source.records(piece.start, piece.stop):
        if record.problem:
            yield None
            continue
        text = record.fields.get(settings.text_column)
        name = record.fields.get(settings.id_column) if settings.id_column is not None else None
        yield None if name is None else str(name), text if isinstance(text, str) and text != no_text else None


def _read_parquet(piece: Slice, settings: Settings) -> Iterator[tuple[str | None, str | None]]:
    columns = [settings.text_column, *filter(None, [settings.id_column])]
    with _opened(Path(piece.path)) as parquet:
        first = 0
        for number in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(number).num_rows
            if first < piece.stop and first + rows > piece.start:
                place = first
                for batch in parquet.iter_batches(_PARQUET_BATCH, [number], list(dict.fromkeys(columns))):
                    low, high = max(piece.start - place, 0), min(piece.stop - place, batch.num_rows)
                    if low < high:
                        wanted = batch.slice(low, high - low)
                        texts = wanted.column(settings.text_column).to_pylist()
                        names = [None] * len(texts)
                        if settings.id_column is not None:
                            names = wanted.column(settings.id_column).to_pylist()
                        for name, text in zip(names, texts, strict=True):
                            yield None if name is None else str(name), text
                    place += batch.num_rows
                    if place >= piece.stop:
                        break
            first += rows
