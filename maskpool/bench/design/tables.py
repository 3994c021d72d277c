"""Tables: files with named columns, read with every row or refused."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from maskpool.errors import DataError, InvalidValueError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
COMPRESSED = (".gz", ".zip")
Quotes: TypeAlias = Literal["enclose", "ordinary"]
UNLABELLED = object()  # the value of a text without a class, whose code is -1
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_USUAL_GUESS = "cp1252"
# What pandas reads as a missing value. A csv file has no other way to write one, and such words may also be labels.
MISSING_WORDS = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "n/a", "NA", "NULL", "null", "None", "NaN", "nan", "-NaN", "-nan"),
    )
)
# Excel reads, and some programs write, the separator in a line above the header.
_NAMED_SEPARATOR = re.compile(r'"?sep=(.)"?(?=\r|\n)', re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """Named columns of equal length.

    Attributes:
        name: The name of the file or dataset.
        names: The names of the columns, which may repeat.
        columns: The values of each column; None is a missing value. Those that are not wanted may be left empty.
        notes: Sentences on how the file was read, where that was not certain.
        way_out: What may help if a column is missing, for the error.
        missing_words: Words that mean that a value is missing.
    """

    name: str
    names: list[str]
    columns: list[list[object]]
    notes: tuple[str, ...] = ()
    way_out: str = ""
    missing_words: frozenset[str] = frozenset()

    def column(self, name: str, argument: str) -> list[object]:
        """Return a column.

        Args:
            name: The column's name.
            argument: The argument that names it, for the error.

        Raises:
            InvalidValueError: There is no such column, or there are several.
        """
        times = self.names.count(name)
        if times == 0:
            raise InvalidValueError(
                argument,
                f"must be one of the columns {', '.join(self.names)} of {self.name}, got {name!r}{self.way_out}",
            )
        if times > 1:
            raise InvalidValueError(
                argument, f"must name one column of {self.name}, but {times} are called {name!r}: rename the others"
            )
        return self.columns[self.names.index(name)]


def check_file(path: Path) -> None:
    """Check that a file exists and that its name ends in a known suffix, without reading it.

    Args:
        path: The file.

    Raises:
        InvalidValueError: It does not exist, is a folder, or its name has another suffix.
    """
    if path.is_dir():
        raise InvalidValueError("data", f"must name a file, got the folder {path}")
    if _inner(path.name).suffix.lower() not in SUFFIXES and path.suffix.lower() != ".zip":
        raise _unknown_suffix(path.name)
    if not path.is_file():
        raise InvalidValueError("data", f"must name a file, but there is none at {path}")


def read_table(
    path: Path,
    wanted: Sequence[str],
    encoding: str | None = None,
    separator: str | None = None,
    header: bool = True,
    quotes: Quotes | None = None,
    keep_na: bool = False,
) -> Table:
    """Read a csv, tsv, json, jsonl or parquet file, or one such file in a gz or zip file.

    Args:
        path: The file.
        wanted: Names of the columns that will be read, by which the separator is recognised.
        encoding: The encoding of its text; None reads UTF-8 and what a byte-order mark says, and guesses otherwise.
        separator: What separates the fields of a csv or tsv file; None recognises it.
        header: Whether the first row of a csv or tsv file has the names of the columns; otherwise these are numbers
            from 1.
        quotes: Whether the quotes of a csv or tsv file ``"enclose"`` fields or are ``"ordinary"`` characters; None
            recognises it.
        keep_na: Whether words such as NA are values of a csv or tsv file; otherwise they are missing values. Other
            kinds of files write missing values in another way.

    Raises:
        InvalidValueError: The file cannot be read, or an argument does not fit it.
    """
    check_file(path)
    with _unreadable(path):
        name, content = _uncompressed(path)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise _unknown_suffix(f"{name} in {path.name}")
    separated, parquet = suffix in (".csv", ".tsv"), suffix == ".parquet"
    for argument, given, allowed, kinds in (
        ("separator", separator is not None, separated, "csv and tsv"),
        ("header", not header, separated, "csv and tsv"),
        ("quotes", quotes is not None, separated, "csv and tsv"),
        ("encoding", encoding is not None, not parquet, "csv, tsv, json and jsonl"),
    ):
        if given and not allowed:
            raise InvalidValueError(argument, f"applies only to {kinds} files, got {path.name}: leave it out")
    if parquet:
        with _unreadable(path):
            return _read_parquet(path.name, content, wanted)
    text, notes = _decoded(path.name, content, encoding)
    with _unreadable(path):
        if separated:
            table = _read_separated(path.name, text, suffix, wanted, separator, header, quotes)
            table = replace(table, missing_words=frozenset() if keep_na else MISSING_WORDS)
        else:
            table = _read_json(path.name, text)
        return replace(table, notes=(*notes, *table.notes))


def stem(path: Path) -> str:
    """Return a file's name without its suffixes.

    Example:
        >>> stem(Path("folder/texts.csv.gz")), stem(Path("v1.2.json"))
        ('texts', 'v1.2')
    """
    inner = _inner(path.name)
    return inner.stem if inner.suffix.lower() in SUFFIXES else inner.name


def with_class_names(values: list[object], feature: object) -> list[object]:
    """Replace the codes of a column of classes by the names of the classes, and -1 by ``UNLABELLED``.

    Args:
        values: The values of a column.
        feature: Its type in datasets; values of other types than classes are returned unchanged.

    Raises:
        ValueError: A code does not belong to a class.
    """
    from datasets import ClassLabel

    if not isinstance(feature, ClassLabel):
        return values
    name_of: dict[object, object] = {None: None, -1: UNLABELLED, **dict(enumerate(feature.names))}
    unknown = next((code for code in values if code not in name_of), None)
    if unknown is not None:
        raise DataError(f"a label has the code {unknown}, but there are {len(feature.names)} classes")
    return [name_of[code] for code in values]


def _inner(name: str) -> PurePosixPath:
    """Return a file's name without the suffix of a compressed file."""
    path = PurePosixPath(name)
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def _unknown_suffix(name: str) -> InvalidValueError:
    return InvalidValueError(
        "data",
        f"must be a file that ends in {', '.join(SUFFIXES)}, or one such file in {' or '.join(COMPRESSED)}, got "
        f"{name}: save it as one of them",
    )


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """Raise the errors of parsers as ours."""
    try:
        yield
    except InvalidValueError:
        raise
    # The parsers of pyarrow, datasets, gzip and zipfile raise many kinds of errors; each means an unreadable file.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        kind = "".join(PurePosixPath(path.name).suffixes[-2:] if path.suffix.lower() in COMPRESSED else [path.suffix])
        raise InvalidValueError(
            "data", f"must be a readable {kind[1:].lower()} file; {path.name} is not: {reason}"
        ) from error


def _uncompressed(path: Path) -> tuple[str, bytes]:
    """Return the name and content of a file, or of the only file in a compressed one."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return path.stem, gzip.decompress(path.read_bytes())
    if suffix != ".zip":
        return path.name, path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        # macOS adds a hidden file with the attributes of each file.
        files = [file for file in archive.infolist() if not file.is_dir() and not file.filename.startswith("__MACOSX/")]
        if len(files) != 1:
            raise DataError(f"it must have one file, but has {len(files)}")
        return PurePosixPath(files[0].filename).name, archive.read(files[0])


def _decoded(name: str, content: bytes, encoding: str | None) -> tuple[str, list[str]]:
    """Decode a text file and say which encoding was guessed."""
    codec = encoding or next((codec for mark, codec in _MARKS if content.startswith(mark)), "utf-8")
    guessable = encoding is None and codec == "utf-8"
    text, notes = "", []
    try:
        text = content.decode(codec)
        # Text in UTF-16 without a mark can often be read as UTF-8, with NUL characters.
        guessable = guessable and 4 * text.count("\0") > len(text)
    except UnicodeError as error:
        if not guessable:
            raise _wrong_encoding(name, f"which cannot be read as {codec}: {error}") from error
    except (LookupError, ValueError) as error:
        raise InvalidValueError(
            "encoding", f"must be an encoding that Python knows, such as 'cp1252' or 'utf-16', got {encoding!r}"
        ) from error
    if guessable:
        codec, text = _guessed(name, content)
        notes.append(f"{name} is not UTF-8; it was read as {codec}, which is a guess.")
    if "\0" in text:
        raise _wrong_encoding(name, f"which has NUL characters if it is read as {codec}")
    return text.removeprefix("\ufeff"), notes


def _wrong_encoding(name: str, problem: str) -> InvalidValueError:
    return InvalidValueError("encoding", f"must be the encoding of {name}, {problem}: set the right one")


def _guessed(name: str, content: bytes) -> tuple[str, str]:
    """Guess the encoding of text that is not UTF-8, and decode it."""
    from charset_normalizer import from_bytes

    replaced = content.decode("utf-8", "replace")
    damaged = replaced.count("\ufffd")
    if sum(letter > "\x7f" for letter in replaced) > 2 * damaged:
        line = replaced[: replaced.index("\ufffd")].count("\n") + 1
        raise _wrong_encoding(name, f"which is UTF-8 but for {damaged} characters, the first in line {line}")
    guesses = [codec for match in from_bytes(content) for codec in (match.encoding, *match.could_be_from_charset)]
    # Short texts fit several related encodings, of which this one is by far the most common.
    if _USUAL_GUESS in guesses:
        codec = _USUAL_GUESS
    elif len(set(guesses)) == 1:
        codec = guesses[0]
    else:
        several = f", and could be {', '.join(dict.fromkeys(guesses))}" if guesses else " and could not be guessed"
        raise _wrong_encoding(name, f"which is not UTF-8{several}")
    try:
        return codec, content.decode(codec)
    except UnicodeError as error:
        raise _wrong_encoding(name, f"which is not UTF-8, and not {codec}, as guessed") from error


# ------------------------------------------------------------------------------------------------- csv and tsv


@dataclass(frozen=True)
class _ParsedRows:
    """The rows of a file under a separator, how many fields a row should have, and the last line of each row."""

    separator: str
    rows: list[list[str]]
    width: int
    ends: list[int]

    @property
    def wrong(self) -> list[list[str]]:
        """The rows with more or fewer fields."""
        return [row for row in self.rows if len(row) != self.width]

    @property
    def fits(self) -> bool:
        """Whether the file may have been written like this: each row but a short one has the same fields."""
        return self.width > 1 and all(len(row) < self.width for row in self.wrong)


def _read_separated(
    name: str,
    text: str,
    suffix: str,
    wanted: Sequence[str],
    separator: str | None,
    header: bool,
    quotes: Quotes | None,
) -> Table:
    """Read every field as a string: 1 and 01 are two labels.

    The csv module says how many fields a row has, and refuses text behind a closing quote. pandas fills short rows and
    joins lines between stray quotes silently.
    """
    if separator is not None:
        separator = {"\\t": "\t"}.get(separator, separator)  # as it is typed in a shell
        if len(separator) != 1 or separator in '"\r\n':
            raise InvalidValueError("separator", f"must be one character, such as ';', got {separator!r}")
    notes = []
    named = _NAMED_SEPARATOR.match(text)
    if named is not None:
        text = text[named.end() :]  # the rest of the line is blank, and lines keep their numbers
        notes.append(f"The first line of {name} is not a row: it says that {named[1]!r} separates the fields.")
        separator = separator or named[1]
    usual = separator or ("\t" if suffix == ".tsv" else ",")
    tried = [separator] if separator else list(dict.fromkeys([usual, *SEPARATORS]))
    candidates, refusals = _parsed_by(tried, name, text, header, quotes)
    matching = _matching(candidates, wanted, header)
    if len(matching) > 1 and not header:
        both = " and ".join(SEPARATORS[parsed.separator] for parsed in matching)
        raise InvalidValueError("separator", f"must be given for {name}, whose rows fit {both}")
    if not matching and separator and named is None:
        others = _matching(_parsed_by(SEPARATORS, name, text, header, quotes)[0], wanted, header)
        if others:
            fit = " or ".join(SEPARATORS[parsed.separator] for parsed in others)
            raise InvalidValueError(
                "separator",
                f"must be what separates the fields of {name}, got {separator!r}, but {fit} fit: leave it out",
            )
    if not matching:
        matching = [parsed for parsed in candidates if parsed.separator == usual]
        if refusals and (not matching or matching[0].width < 2):
            raise refusals[0]
    parsed = matching[0]
    rows = parsed.rows[header:]
    if not rows:
        raise DataError("it has no rows")
    if parsed.separator != usual:
        notes.append(f"The fields of {name} are separated by {SEPARATORS[parsed.separator]}.")
    # A separator at the end of a line makes a field without a name and content.
    rows = [row[: parsed.width] if not any(row[parsed.width :]) else row for row in rows]
    _refuse_long_rows(parsed, rows)
    short = [number for number, row in enumerate(rows, 1) if len(row) < parsed.width]
    if short:
        notes.append(
            f"{len(short)} of {len(rows)} rows of {name} have fewer than {parsed.width} fields, the first is row "
            f"{short[0]}; the others were read as missing."
        )
    filled: list[list[Any]] = [row + [None] * (parsed.width - len(row)) for row in rows]
    columns = [list(column) for column in zip(*filled, strict=True)]
    if header:
        names = [field.strip() for field in parsed.rows[0]]
        way_out = "; the file may have no header, or another separator"
    else:
        names = [str(number) for number in range(1, parsed.width + 1)]
        way_out = ": without a header, columns are numbered from 1"
    if '"' in text and quotes is None and all(names.count(column) == 1 for column in wanted):
        _refuse_joined_rows(name, text, parsed, names.index(wanted[1]))
    return Table(name, names, columns, tuple(notes), way_out)


def _parsed_by(
    separators: Iterable[str], name: str, text: str, header: bool, quotes: Quotes | None
) -> tuple[list[_ParsedRows], list[Exception]]:
    """Return the rows under each separator that can be read, and the errors of the others."""
    candidates: list[_ParsedRows] = []
    refusals: list[Exception] = []
    for separator in separators:
        try:
            candidates.append(_parse_rows(name, text, separator, header, quotes))
        except (csv.Error, InvalidValueError) as error:
            refusals.append(error)
    return candidates, refusals


def _matching(candidates: Sequence[_ParsedRows], wanted: Sequence[str], header: bool) -> list[_ParsedRows]:
    """Return the candidates whose header has the wanted columns or, without a header, whose rows fit best."""
    if header:
        return [r for r in candidates if r.rows and set(wanted) <= {field.strip() for field in r.rows[0]}]
    fitting = [parsed for parsed in candidates if parsed.fits]
    fewest = min((len(parsed.wrong) for parsed in fitting), default=0)
    return [parsed for parsed in fitting if len(parsed.wrong) == fewest]


def _refuse_long_rows(parsed: _ParsedRows, rows: Sequence[Sequence[str]]) -> None:
    """Refuse rows with more fields than columns, in which a field has separators.

    Raises:
        DataError: There are such rows.
    """
    ends = parsed.ends[len(parsed.ends) - len(rows) :]
    long = [(end, len(row)) for end, row in zip(ends, rows, strict=True) if len(row) > parsed.width]
    if long:
        (line, fields), marks = long[0], SEPARATORS.get(parsed.separator, repr(parsed.separator))
        others = f" ({len(long)} of {len(rows)} rows have too many)" if len(long) > 1 else ""
        raise DataError(
            f"line {line} has {fields} fields where {parsed.width} are expected{others}: put quotes around the field "
            f"that contains {marks}, save the file as jsonl, or set `separator` if {marks} do not separate fields"
        )


def _parse_rows(name: str, text: str, separator: str, header: bool, quotes: Quotes | None) -> _ParsedRows:
    """Read rows; decide whether quotes enclose fields, or are ordinary characters, if it is not given.

    Quotes are ordinary if they cannot enclose fields, or in a file of tabs, whose format has no quotes, if no quote
    can open or close a field over several lines. Otherwise the parser would swallow rows up to the next quote.

    Raises:
        InvalidValueError: A quote is neither, or the quotes of a file without tabs can be read in both ways.
    """
    if quotes == "ordinary":
        return _parsed(text, separator, header, csv.QUOTE_NONE)
    enclosing: _ParsedRows | csv.Error
    try:
        enclosing = _parsed(text, separator, header, csv.QUOTE_MINIMAL)
    except csv.Error as error:
        enclosing = error
    if isinstance(enclosing, _ParsedRows) and (quotes or '"' not in text):
        return enclosing
    ordinary = _parsed(text, separator, header, csv.QUOTE_NONE)
    quotes_doubled = separator != "\t" and '""' in text  # as the csv format writes a quote within quotes
    possible = ordinary.fits and not quotes_doubled and not any(map(_may_continue, ordinary.wrong))
    if isinstance(enclosing, csv.Error):
        # A text may hold commas more often than tabs, so two parts of a row can look like rows.
        halves = separator != "\t" and any("".join(row).count('"') % 2 for row in ordinary.rows)
        if possible and not halves and not quotes:
            return ordinary
        raise InvalidValueError(
            "quotes",
            f"must be 'ordinary' if the quotes of {name} are ordinary characters; they cannot enclose its fields, "
            f"because of {enclosing}: set it to 'ordinary', or correct the quote",
        ) from enclosing
    if not possible:
        return enclosing
    if len(ordinary.rows) == len(enclosing.rows):
        return min((enclosing, ordinary), key=lambda parsed: len(parsed.wrong))
    if separator == "\t":
        return ordinary
    raise InvalidValueError(
        "quotes",
        f"must be given for {name}, which has {len(enclosing.rows) - header} rows if they enclose fields of several "
        f"lines ('enclose'), and {len(ordinary.rows) - header} if they are ordinary characters ('ordinary')",
    )


def _may_continue(row: Sequence[str]) -> bool:
    """Return whether a line could be a part of a row whose quoted field goes over several lines."""
    opens = row[-1].startswith('"') and (len(row[-1]) == 1 or not row[-1].endswith('"'))
    closes = row[0].endswith('"') and (len(row[0]) == 1 or not row[0].startswith('"'))
    return opens or closes


def _parsed(text: str, separator: str, header: bool, quoting: Any) -> _ParsedRows:  # Any: a constant of csv
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(text)))
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True)
        rows, ends = [], []
        try:
            for row in lines:
                if len(row) > 1 or (row and row[0].strip()):
                    rows.append(row)
                    ends.append(lines.line_num)
        except csv.Error as error:
            raise csv.Error(f"a quote in line {lines.line_num} or before: {error}") from error
    finally:
        csv.field_size_limit(limit)
    widths = Counter(map(len, rows))
    width = len(rows[0]) if header and rows else max(widths, key=lambda fields: widths[fields], default=0)
    return _ParsedRows(separator, rows, width, ends)


def _refuse_joined_rows(name: str, text: str, parsed: _ParsedRows, label_index: int) -> None:
    """Refuse a row over several lines if two of them could be rows.

    One line proves nothing: it may hold the row's own label, next to a field with a line break.

    Raises:
        InvalidValueError: There is such a row, because of a stray quote.
    """
    lines = list(io.StringIO(text, newline=""))
    labels = {row[label_index] for row in parsed.rows if len(row) > label_index}
    for before, end in zip([0, *parsed.ends], parsed.ends, strict=False):
        possible = []
        for number in range(before, end):
            fields = lines[number].rstrip("\r\n").split(parsed.separator)
            if len(fields) == parsed.width and fields[label_index] in labels:
                possible.append(number + 1)
        if len(possible) > 1:
            raise InvalidValueError(
                "quotes",
                f"must be given for {name}: lines {possible[0]} and {possible[1]} could be rows, but a quote that "
                f"opens in line {before + 1} joins them: set it to 'enclose' if they are one row, or to 'ordinary' "
                "if quotes are ordinary characters",
            )


# ------------------------------------------------------------------------------------------------- json and jsonl


def _read_json(name: str, text: str) -> Table:
    """Read records: an array, the only array in an object, or one record per line; tables in them become columns.

    The json module keeps 1, 1.0, "01" and dates as they are written, and fields that first appear late.
    """
    if not text.strip():
        raise DataError("it has no rows")
    try:
        content = json.loads(text, object_pairs_hook=_record)
        records = content if isinstance(content, list) else _only_array(content)
    except json.JSONDecodeError as error:
        lines = [line for line in io.StringIO(text, newline=None) if line.strip()]
        if len(lines) < 2 or not lines[0].lstrip().startswith("{"):
            raise
        try:
            records = [json.loads(line, object_pairs_hook=_record) for line in lines]
        except json.JSONDecodeError as of_line:
            # Of a record over several lines, the error of the whole file says more.
            row = next(row for row, line in enumerate(lines, 1) if line == of_line.doc)
            raise (error if row == 1 else ValueError(f"row {row}: {of_line}")) from of_line
    flat: list[dict[str, object]] = []
    for row, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise DataError(f"row {row} is not a record with named fields, but {str(record)[:40]!r}")
        pairs = [pair for key, value in record.items() for pair in _flattened(key, value)]
        flat.append(_record(pairs))
    if not flat:
        raise DataError("it has no rows")
    names = list(dict.fromkeys(key for record in flat for key in record))
    return Table(name, names, [[record.get(key) for record in flat] for key in names])


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        repeated = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise DataError(f"a record has two fields {repeated!r}")
    return record


def _flattened(key: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(key.strip(), value)]
    return [(f"{key.strip()}.{inner.strip()}", nested) for inner, nested in value.items()]


def _only_array(content: object) -> list[Any]:
    """Return the array of records in an object; an object without one is itself a record."""
    if not isinstance(content, dict):
        raise DataError(f"it holds {content!r} instead of records")
    arrays = {
        key: value
        for key, value in content.items()
        if isinstance(value, list) and any(isinstance(item, dict) for item in value)
    }
    if len(arrays) > 1:
        raise DataError(f"it must have one array of records, but has {', '.join(arrays)}: save one of them")
    return next(iter(arrays.values()), [content])


# ------------------------------------------------------------------------------------------------- parquet


def _read_parquet(name: str, content: bytes, wanted: Sequence[str]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    table = pq.ParquetFile(pa.BufferReader(content)).read()
    features = Features.from_arrow_schema(table.schema).flatten(max_depth=2)
    flat = table.flatten()
    if not flat.num_rows:
        raise DataError("it has no rows")
    names = [column.strip() for column in flat.column_names]
    columns = [
        with_class_names(column.to_pylist(), features.get(label)) if name in wanted else []
        for name, label, column in zip(names, flat.column_names, flat.columns, strict=True)
    ]
    return Table(name, names, columns)
