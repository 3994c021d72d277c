"""Kinds of real files: every row is read, or the file is refused with the argument that settles it."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from pandas._libs import parsers  # type: ignore[attr-defined]  # pandas-stubs leave it out

from maskpool.bench.design.corpora import Corpus, read_file
from maskpool.bench.design.study import CorpusSource
from maskpool.errors import MaskpoolError

ROWS = [(f"text {number} is here", "xy"[number % 2]) for number in range(8)]
ACCENTS = [(f"Größe {number}: schön, naïve Bücher für 5 Mädchen", "xy"[number % 2]) for number in range(8)]
FRENCH = [(f"L’élève n° {number} a déjà payé 5 € à la banque", "xy"[number % 2]) for number in range(8)]
SCRIPTS = [("Привет, мир", "x"), ("日本語のテキスト", "y"), ("émoji 🙂", "x"), ("plain", "y")] * 2
SEPARATED = [(f"{text}\u2028\x85{text}", label) for text, label in ROWS]
LISTED = [("one, two\na, b, c, d\nthree", "x"), *ROWS]
QUOTED = [(f'say "{number}", or\nnot; a\ttab', "xy"[number % 2]) for number in range(8)]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        holds: What it holds.
        file: Its name.
        content: Its bytes.
        rows: The texts and labels that are read.
        options: Arguments of the reader.
        dropped: The rows that are left out, by reason.
        notes: A pattern for each note on how it was read.
        columns: The columns of texts and labels.
    """

    holds: str
    file: str
    content: bytes
    rows: list[tuple[str, str]] = field(default_factory=lambda: ROWS)
    options: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    columns: tuple[str, str] = ("text", "label")


def as_csv(rows: Sequence[tuple[str, ...]], header: tuple[str, ...] | None = ("text", "label"), **options: Any) -> str:
    """Write rows as Python's csv module does."""
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([*([header] if header else []), *rows])
    return out.getvalue()


def as_lines(rows: Sequence[tuple[object, object]], ascii_only: bool = True) -> str:
    return "".join(json.dumps({"text": text, "label": n}, ensure_ascii=ascii_only) + "\n" for text, n in rows)


def as_parquet(frame: pd.DataFrame) -> bytes:
    content: bytes = frame.to_parquet()
    return content


def unlabelled() -> bytes:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    codes = [0, 1, -1, 1, 0, 1, 0, -1] * 2
    table = datasets.Dataset.from_dict({"text": [text for text, _ in ROWS * 2], "label": codes}, features=features)
    out = io.BytesIO()
    table.to_parquet(out)
    return out.getvalue()


def zipped(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
        archive.writestr("__MACOSX/._mine.csv", "attributes")
    return out.getvalue()


# As in a file of exported messages: a quote opens in one row and closes in another, and one row lacks its last field.
RAGGED_ROWS = [*ROWS]
RAGGED_ROWS[1], RAGGED_ROWS[4] = ('"text 1 opens a quote', "y"), ('text 4 closes it" here', "x")
RAGGED = "label\ttext\tnote\n" + "".join(
    f"{label}\t{text}\n" if number == 6 else f"{label}\t{text}\tnote\n"
    for number, (text, label) in enumerate(RAGGED_ROWS)
)
# Quotes are ordinary characters, one of them in a row that lacks its last field.
STRAY_ROWS, OPENING_ROWS = [*ROWS], [*ROWS]
STRAY_ROWS[2], STRAY_ROWS[5] = ('a 5" screen', "x"), ('"open', "y")
OPENING_ROWS[2], OPENING_ROWS[5] = ('"open', "x"), ('close" it', "y")
STRAY, OPENING = (
    "label\ttext\tnote\n"
    + "".join(f"{label}\t{text}{'' if place == 2 else chr(9)}\n" for place, (text, label) in enumerate(rows))
    for rows in (STRAY_ROWS, OPENING_ROWS)
)
SWALLOWING = as_csv([*ROWS, *ROWS]).replace("text 1 ", '"text 1 ', 1).replace("text 6 is", '"text 6" is').encode()
SWALLOWED_ROWS = [*ROWS, *ROWS]
SWALLOWED_ROWS[1], SWALLOWED_ROWS[6] = ('"text 1 is here', "y"), ('"text 6" is here', "x")
SWALLOWED_ROWS[14] = SWALLOWED_ROWS[6]
JOINED_LAST = b'label,text\nx,"open\ny,in between\nx,close"\ny,"one, two, three"\n' + b"x,one\ny,two\n" * 4
JOINED_ROWS = [("open\ny,in between\nx,close", "x"), ("one, two, three", "y"), *[("one", "x"), ("two", "y")] * 4]
# The quotes of two rows could enclose one field over several lines.
SPANNING_ROWS = [*ROWS]
SPANNING_ROWS[1], SPANNING_ROWS[4] = ('"text 1 opens a quote', "y"), ('text 4 closes it"', "x")
NESTED = [{"text": text, "meta": {"label": label, "source": "a"}} for text, label in ROWS]
LATE = [*({"text": f"text {number}"} for number in range(20_000)), *({"text": t, "label": n} for t, n in ROWS)]
DATES = ["2024-01-01", "2024-02-30"] * 4
HUGE = [("word " * 100_000, "x"), *ROWS]

KINDS = [
    Kind("quoted commas, quotes, tabs and line breaks", "a.csv", as_csv(QUOTED).encode(), QUOTED),
    Kind("every field quoted", "a.csv", as_csv(QUOTED, quoting=csv.QUOTE_ALL).encode(), QUOTED),
    Kind("quoted fields between tabs", "a.tsv", as_csv(QUOTED, delimiter="\t").encode(), QUOTED),
    Kind(
        "stray quotes and a short row",
        "a.tsv",
        RAGGED.encode(),
        RAGGED_ROWS,
        notes=("1 of 8 rows of a.tsv have fewer than 3 fields, the first is row 7",),
    ),
    Kind(
        "a stray quote in a short row",
        "a.tsv",
        STRAY.encode(),
        STRAY_ROWS,
        notes=("1 of 8 rows of a.tsv have fewer than 3 fields, the first is row 3",),
    ),
    Kind(
        "an opening quote in a short row",
        "a.tsv",
        OPENING.encode(),
        OPENING_ROWS,
        {"quotes": "ordinary"},
        notes=("1 of 8 rows of a.tsv have fewer than 3 fields, the first is row 3",),
    ),
    Kind("rows that quotes join", "a.csv", JOINED_LAST, JOINED_ROWS, {"quotes": "enclose"}),
    Kind("quotes as ordinary characters", "a.csv", SWALLOWING, SWALLOWED_ROWS, {"quotes": "ordinary"}),
    Kind(
        "a separator after the last field",
        "a.csv",
        b"text,label\n" + "".join(f"{text},{label},\n" for text, label in ROWS).encode(),
    ),
    Kind(
        "a separator in the first line",
        "a.csv",
        b"sep=;\r\n" + as_csv(QUOTED, delimiter=";").encode(),
        QUOTED,
        notes=("The first line of a.csv is not a row: it says that ';' separates the fields",),
    ),
    Kind(
        "quotes that could enclose rows",
        "a.tsv",
        ("label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in SPANNING_ROWS)).encode(),
        SPANNING_ROWS,
    ),
    Kind("Windows-1252", "a.csv", as_csv(ACCENTS).encode("cp1252"), ACCENTS, {"encoding": "cp1252"}),
    Kind(
        "German in Windows-1252", "a.csv", as_csv(ACCENTS).encode("cp1252"), ACCENTS, notes=("read as cp1252, which",)
    ),
    Kind("French in Windows-1252", "a.csv", as_csv(FRENCH).encode("cp1252"), FRENCH, {"encoding": "cp1252"}),
    Kind("UTF-16 with a mark", "a.csv", as_csv(SCRIPTS).encode("utf-16"), SCRIPTS),
    Kind("UTF-16 without a mark", "a.csv", as_csv(ROWS).encode("utf-16-le"), notes=("read as utf_16_le, which is",)),
    Kind("UTF-16, named", "a.csv", as_csv(SCRIPTS).encode("utf-16-be"), SCRIPTS, {"encoding": "utf-16-be"}),
    Kind("UTF-8 with a mark", "a.csv", as_csv(SCRIPTS).encode("utf-8-sig"), SCRIPTS),
    Kind("UTF-8 with a mark, named", "a.csv", as_csv(ROWS).encode("utf-8-sig"), options={"encoding": "utf-8"}),
    Kind("unusual line separators in records", "a.jsonl", as_lines(SEPARATED, False).encode(), SEPARATED),
    Kind("commas between quoted line breaks", "a.csv", as_csv(LISTED).encode(), LISTED),
    Kind("records after a mark", "a.jsonl", as_lines(SCRIPTS).encode("utf-8-sig"), SCRIPTS),
    Kind("semicolons", "a.csv", as_csv(QUOTED, delimiter=";").encode(), QUOTED, notes=("separated by semicolons",)),
    Kind("tabs in a csv file", "a.csv", as_csv(ROWS, delimiter="\t").encode(), notes=("separated by tabs",)),
    Kind("another separator", "a.csv", as_csv(QUOTED, delimiter="^").encode(), QUOTED, {"separator": "^"}),
    Kind("no header", "a.csv", as_csv(QUOTED, None).encode(), QUOTED, {"header": False}, columns=("1", "2")),
    Kind(
        "no header, and semicolons",
        "a.csv",
        as_csv(
            [(label, f"{text}, and more, {text}" if label == "x" else text) for text, label in ROWS],
            None,
            delimiter=";",
        ).encode(),
        [(f"{text}, and more, {text}" if label == "x" else text, label) for text, label in ROWS],
        {"header": False},
        columns=("2", "1"),
        notes=("separated by semicolons",),
    ),
    Kind(
        "an array of records",
        "a.json",
        json.dumps([dict(zip(("text", "label"), r, strict=True)) for r in ROWS]).encode(),
    ),
    Kind(
        "records by pandas", "a.json", pd.DataFrame(ROWS, columns=["text", "label"]).to_json(orient="records").encode()
    ),
    Kind(
        "an array in an object",
        "a.json",
        json.dumps({"version": 1, "data": NESTED}, indent=2).encode(),
        columns=("text", "meta.label"),
    ),
    Kind("lines in a json file", "a.json", as_lines(ROWS).encode()),
    Kind("tables in records", "a.jsonl", "\n".join(map(json.dumps, NESTED)).encode(), columns=("text", "meta.label")),
    Kind("tables in parquet", "a.parquet", as_parquet(pd.DataFrame(NESTED)), columns=("text", "meta.label")),
    Kind("a gz file", "a.csv.gz", gzip.compress(as_csv(QUOTED).encode()), QUOTED),
    Kind(
        "a gz file of parquet", "a.parquet.gz", gzip.compress(as_parquet(pd.DataFrame(ROWS, columns=["text", "label"])))
    ),
    Kind("a zip file of one file", "a.zip", zipped(mine_csv=as_csv(QUOTED)), QUOTED),
    Kind(
        "classes, with -1 for none",
        "a.parquet",
        unlabelled(),
        [row for number, row in enumerate(ROWS) if number not in (2, 7)] * 2,
        {"drop_missing": True},
        {"unlabelled": 4},
    ),
    Kind(
        "a field that first appears late",
        "a.jsonl",
        "\n".join(map(json.dumps, LATE)).encode(),
        options={"drop_missing": True},
        dropped={"without a label": 20_000},
    ),
    Kind("blanks in the header", "a.csv", as_csv(ROWS, (" text", "label ")).encode()),
    Kind("blanks in the names of fields", "a.json", json.dumps([{"text ": t, " label": n} for t, n in ROWS]).encode()),
    Kind(
        "other columns of the same name",
        "a.csv",
        as_csv([(*row, "", "") for row in ROWS], ("text", "label", "n", "n")).encode(),
    ),
    Kind(
        "dates as labels",
        "a.csv",
        as_csv([(t, d) for (t, _), d in zip(ROWS, DATES, strict=True)]).encode(),
        [(t, d) for (t, _), d in zip(ROWS, DATES, strict=True)],
    ),
    Kind(
        "dates as labels of records",
        "a.jsonl",
        as_lines([(t, d) for (t, _), d in zip(ROWS, DATES, strict=True)]).encode(),
        [(t, d) for (t, _), d in zip(ROWS, DATES, strict=True)],
    ),
    Kind(
        "dates in parquet",
        "a.parquet",
        as_parquet(
            pd.DataFrame({"text": [t for t, _ in ROWS], "label": [datetime.date(2024, 1, 1 + n % 2) for n in range(8)]})
        ),
        [(text, f"2024-01-0{1 + number % 2}") for number, (text, _) in enumerate(ROWS)],
    ),
    Kind(
        "missing and blank values",
        "a.csv",
        as_csv([("", "x"), ("  ", "x"), ("a", ""), ("a", " "), *ROWS]).encode(),
        options={"drop_missing": True},
        dropped={"without a text": 1, "with a blank text": 1, "without a label": 1, "with a blank label": 1},
    ),
    Kind(
        "missing values in parquet",
        "a.parquet",
        as_parquet(pd.DataFrame([(None, "x"), ("a", None), *ROWS], columns=["text", "label"])),
        options={"drop_missing": True},
        dropped={"without a text": 1, "without a label": 1},
    ),
    Kind("CRLF, and quoted line feeds", "a.csv", as_csv(QUOTED, lineterminator="\r\n").encode(), QUOTED),
    Kind("lone CR", "a.csv", as_csv(ROWS, lineterminator="\r").encode()),
    Kind("lone CR between records", "a.jsonl", as_lines(ROWS).replace("\n", "\r").encode()),
    Kind(
        "mixed line ends",
        "a.csv",
        b"text,label\r\n"
        + b"".join(f"{t},{n}".encode() + (b"\n", b"\r\n", b"\r")[i % 3] for i, (t, n) in enumerate(ROWS)),
    ),
    Kind(
        "no line end, and blank lines",
        "a.csv",
        ("\n\n" + as_csv(ROWS, lineterminator="\n\n") + " \n\n").strip("\n").encode(),
    ),
    Kind(
        "unusual line separators in texts",
        "a.csv",
        as_csv([(f"{t}\u2028\x85\x0b\x1c{t}", n) for t, n in ROWS]).encode(),
        [(f"{t}\u2028\x85\x0b\x1c{t}", n) for t, n in ROWS],
    ),
    Kind(
        "labels 1, 1.0 and 01",
        "a.csv",
        as_csv([(t, ("1", "1.0", "01")[i % 3]) for i, (t, _) in enumerate(ROWS * 3)]).encode(),
        [(t, ("1", "1.0", "01")[i % 3]) for i, (t, _) in enumerate(ROWS * 3)],
    ),
    Kind(
        "the numbers 1 and 1.0",
        "a.jsonl",
        as_lines([(t, (1, 1.0, 2, "x")[i % 4]) for i, (t, _) in enumerate(ROWS)]).encode(),
        [(t, ("1", "1", "2", "x")[i % 4]) for i, (t, _) in enumerate(ROWS)],
    ),
    Kind(
        "truth values",
        "a.jsonl",
        as_lines([(t, n == "x") for t, n in ROWS]).encode(),
        [(t, str(n == "x")) for t, n in ROWS],
    ),
    Kind(
        "truth values and numbers",
        "a.jsonl",
        as_lines([(t, (True, 1, False, 0)[i % 4]) for i, (t, _) in enumerate(ROWS * 2)]).encode(),
        [(t, ("True", "1", "False", "0")[i % 4]) for i, (t, _) in enumerate(ROWS * 2)],
    ),
    Kind(
        "numbers with missing ones",
        "a.jsonl",
        as_lines([("a", None), *((t, int(n == "x")) for t, n in ROWS)]).encode(),
        [(t, str(int(n == "x"))) for t, n in ROWS],
        {"drop_missing": True},
        {"without a label": 1},
    ),
    Kind("very large fields", "a.csv", as_csv(HUGE).encode(), HUGE),
    Kind(
        "words for missing values",
        "a.csv",
        as_csv([("null", "NA"), ("NaN", "None")] * 4).encode(),
        [("null", "NA"), ("NaN", "None")] * 4,
        {"keep_na": True},
    ),
    Kind(
        "words for missing labels",
        "a.csv",
        as_csv([*ROWS, ("a", "NA"), ("b", "nan"), ("None", "x"), ("na", "x")]).encode(),
        [*ROWS, ("na", "x")],
        {"drop_missing": True},
        {"whose label is the word NA": 1, "whose label is the word nan": 1, "whose text is the word None": 1},
    ),
    Kind(
        "words as labels of records",
        "a.jsonl",
        as_lines([("null", "NA"), ("NaN", "None")] * 4).encode(),
        [("null", "NA"), ("NaN", "None")] * 4,
    ),
    Kind(
        "a column of row numbers without a name",
        "a.csv",
        pd.DataFrame(QUOTED, columns=["text", "label"]).to_csv().encode(),
        QUOTED,
    ),
    Kind(
        "line breaks in other columns",
        "a.csv",
        as_csv([(*row, "two\nlines") for row in ROWS], ("text", "label", "note")).encode(),
    ),
    Kind(
        "two stray quotes in a line",
        "a.csv",
        b"note|text|more|label\n" + "".join(f'"{i}|{t}|5"|{n}\n' for i, (t, n) in enumerate(ROWS)).encode(),
        notes=("separated by vertical bars",),
    ),
    Kind(
        "quoted line breaks where rows could begin",
        "a.csv",
        as_csv([("one, two\nthree", "x"), ('a "quote", b', "y"), *ROWS]).encode(),
        [("one, two\nthree", "x"), ('a "quote", b', "y"), *ROWS],
    ),
]


def read(tmp_path: Path, kind: Kind) -> Corpus:
    (tmp_path / kind.file).write_bytes(kind.content)
    source = CorpusSource(data=kind.file, text_column=kind.columns[0], label_column=kind.columns[1], **kind.options)
    return source.load(tmp_path, 0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.holds)
def test_every_row_is_read(tmp_path: Path, kind: Kind) -> None:
    """All rows that the test wrote are read in order, those left out are counted, and every guess is said."""
    corpus = read(tmp_path, kind)
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == kind.rows
    assert (corpus.dropped, corpus.rows) == (kind.dropped, len(kind.rows) + sum(kind.dropped.values()))
    assert len(corpus.notes) == len(kind.notes)
    for note, pattern in zip(corpus.notes, kind.notes, strict=True):
        assert pattern in note
    assert corpus.name == "a"


@pytest.mark.parametrize(
    ("dialect", "suffix"),
    [({"sep": ","}, "csv"), ({"sep": ";"}, "csv"), ({"sep": "\t"}, "tsv"), ({"quoting": 1}, "csv")],
)
def test_well_formed_files_are_read_as_pandas_reads_them(tmp_path: Path, dialect: dict[str, Any], suffix: str) -> None:
    """A file that pandas writes is read with the same fields as by pandas."""
    frame = pd.DataFrame([*QUOTED, *SCRIPTS, *FRENCH], columns=["text", "label"])
    path = tmp_path / f"a.{suffix}"
    frame.to_csv(path, index=False, **dialect)
    oracle = pd.read_csv(path, dtype=str, keep_default_na=False, sep=dialect.get("sep", ","))
    corpus = read_file(path, "text", "label")
    assert [corpus.texts, corpus.labels] == [oracle["text"].tolist(), oracle["label"].tolist()]


# Files of the same rows, of every kind.
CODES = [0, 1, -1, 2, 0, 1, 2, -1] * 4
CODED = [(f"text {number}", code) for number, code in enumerate(CODES)]
FRAME = pd.DataFrame(CODED, columns=["text", "label"])
CODED_FILES = {
    "a.csv": as_csv([(text, str(code)) for text, code in CODED]).encode(),
    "a.tsv": as_csv([(text, str(code)) for text, code in CODED], delimiter="\t").encode(),
    "floats.csv": FRAME.astype({"label": float}).to_csv(index=False).encode(),
    "a.jsonl": as_lines(CODED).encode(),
    "a.json": FRAME.to_json(orient="records").encode(),
    "a.parquet": as_parquet(FRAME),
    "floats.parquet": as_parquet(FRAME.astype({"label": float})),
    "strings.parquet": as_parquet(FRAME.astype({"label": str})),
}


@pytest.mark.parametrize("file", CODED_FILES)
def test_minus_one_next_to_class_numbers_means_unlabelled(tmp_path: Path, file: str) -> None:
    """In every kind of file the label -1 next to 0, 1 and 2 is refused, left out and counted, or kept as a class."""
    (tmp_path / file).write_bytes(CODED_FILES[file])

    def labels(drop_missing: bool = False, keep_na: bool = False) -> tuple[list[int], dict[str, int]]:
        corpus = read_file(tmp_path / file, "text", "label", drop_missing=drop_missing, keep_na=keep_na)
        return [int(float(label)) for label in corpus.labels], corpus.dropped

    with pytest.raises(MaskpoolError, match=r"8 whose label -1 means unlabelled; the first is row 3\).*`keep_na`"):
        labels()
    assert labels(drop_missing=True) == ([0, 1, 2, 0, 1, 2] * 4, {"whose label -1 means unlabelled": 8})
    assert labels(keep_na=True) == labels(keep_na=True, drop_missing=True) == (CODES, {})


@pytest.mark.parametrize(
    "codes", [[-1, 1], [-2, -1, 0], [-1, 0, "x"], [-1, 0, 0.5], ["-1", "0", "1e3"], [True, False, -1], [-1, 2, 3]]
)
def test_minus_one_among_other_labels_is_a_class(tmp_path: Path, codes: list[Any]) -> None:
    """The label -1 is kept where not all labels are class numbers from 0: signs, words, other negative numbers."""
    rows = [(f"text {number}", code) for number, code in enumerate(codes * 4)]
    (tmp_path / "a.jsonl").write_text(as_lines(rows), encoding="utf-8")
    assert read_file(tmp_path / "a.jsonl", "text", "label").labels == [str(code) for _, code in rows]


@pytest.mark.parametrize("keep_na", [False, True])
def test_words_are_missing_where_pandas_reads_them_as_missing(tmp_path: Path, keep_na: bool) -> None:
    """The rows that are left out, and their number, are those that pandas reads with a missing value."""
    known = parsers.STR_NA_VALUES - {""}
    words = [*sorted(known), "na", "none", "Na", "-", "?", "missing", "N.A.", "NIL", "0", "nan ", " NA"]
    rows = [*[("a text", word) for word in words], *[(word, "x") for word in words], *ROWS]
    path = tmp_path / "a.csv"
    path.write_text(as_csv(rows), encoding="utf-8")
    oracle = pd.read_csv(path, dtype=str, keep_default_na=not keep_na)
    whole = oracle.dropna()
    corpus = read_file(path, "text", "label", keep_na=keep_na, drop_missing=True)
    assert [corpus.texts, corpus.labels] == [whole["text"].tolist(), whole["label"].tolist()]
    assert sum(corpus.dropped.values()) == len(oracle) - len(whole)
    assert (len(oracle) > len(whole)) != keep_na


@pytest.mark.parametrize(
    ("content", "options", "pandas"),
    [
        (b"sep=;\n" + as_csv(QUOTED, delimiter=";").encode(), {}, {"sep": ";", "skiprows": 1}),
        (as_csv([(*row, "") for row in ROWS]).encode(), {}, {"index_col": False}),
        (OPENING.encode(), {"quotes": "ordinary"}, {"sep": "\t", "quoting": csv.QUOTE_NONE}),
        (SWALLOWING, {"quotes": "ordinary"}, {"quoting": csv.QUOTE_NONE}),
        (JOINED_LAST, {"quotes": "enclose"}, {}),
    ],
    ids=["sep line", "last separator", "ordinary in tsv", "ordinary in csv", "enclosing"],
)
def test_options_read_as_those_of_pandas(
    tmp_path: Path, content: bytes, options: dict[str, Any], pandas: dict[str, Any]
) -> None:
    """A file that needs an option is read as pandas reads it with the same option."""
    path = tmp_path / ("a.tsv" if pandas.get("sep") == "\t" else "a.csv")
    path.write_bytes(content)
    oracle = pd.read_csv(path, dtype=str, **pandas)
    corpus = read_file(path, "text", "label", **options)
    assert [corpus.texts, corpus.labels] == [oracle["text"].tolist(), oracle["label"].tolist()]


csv_of_rows = as_csv(ROWS).encode()
JOINED = (
    as_csv([*SCRIPTS, ("one, two, three", "x"), *ROWS]).replace("text 0", '"text 0').replace("3 is here", '3"').encode()
)
AMBIGUOUS = b'text,label\n"text 0,x\ntext 1,x\ntext 2",y\n' + b"text 3,x\n" * 8
DAMAGED = as_csv(ACCENTS).encode()[:-20].replace("ö".encode(), b"\xc3", 1) + b"\n"

REFUSED = [
    ("an empty file", "a.csv", b"", {}, "data must be a readable csv file; a.csv is not: it has no rows"),
    ("a header only", "a.csv", b"text,label\n\n", {}, "it has no rows"),
    ("an empty array", "a.json", b"[]", {}, "it has no rows"),
    ("Excel", "a.xlsx", b"PK", {}, "data must be a file that ends in .csv, .tsv, .json, .jsonl, .parquet, or one such"),
    ("a zip file of Excel", "a.zip", zipped(mine_xlsx="PK"), {}, "got mine.xlsx in a.zip: save it as one of them"),
    ("two files in a zip file", "a.zip", zipped(a_csv="x", b_csv="y"), {}, "it must have one file, but has 2"),
    ("a cut gz file", "a.csv.gz", gzip.compress(csv_of_rows)[:-9], {}, "data must be a readable csv.gz file; a.csv.gz"),
    ("no gz file", "a.csv.gz", csv_of_rows, {}, "Not a gzipped file"),
    ("no zip file", "a.zip", csv_of_rows, {}, "File is not a zip file"),
    ("broken parquet", "a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", {}, "data must be a readable parquet file; a.parq"),
    (
        "a swallowing quote",
        "a.csv",
        SWALLOWING,
        {},
        "quotes must be 'ordinary' if the quotes of a.csv are ordinary characters; they cannot enclose its fields, "
        "because of a quote in line 8 or before: ',' expected after '\"': set it to 'ordinary', or correct the quote",
    ),
    (
        "an opening quote in a short row",
        "a.tsv",
        OPENING.encode(),
        {},
        "quotes must be 'ordinary' if the quotes of a.tsv are ordinary characters; they cannot",
    ),
    (
        "quotes of two meanings",
        "a.csv",
        AMBIGUOUS,
        {},
        "quotes must be given for a.csv, which has 9 rows if they enclose fields of several lines ('enclose'), and 11",
    ),
    ("unknown quotes", "a.csv", csv_of_rows, {"quotes": "no"}, "quotes must be 'enclose' or 'ordinary', got 'no'"),
    (
        "an open quote",
        "a.csv",
        csv_of_rows + b'"open,x,y\n',
        {},
        "a quote in line 10 or before: unexpected end of data",
    ),
    (
        "a long row",
        "a.csv",
        csv_of_rows + b"a,x,y\n",
        {},
        "line 10 has 3 fields where 2 are expected: put quotes around the field that contains commas, save the file as "
        "jsonl, or set `separator` if commas do not separate fields",
    ),
    (
        "long rows after several lines",
        "a.csv",
        b'text,label\n"one\ntwo",x\na;b,x,y\na,b,c,d\n',
        {},
        "line 4 has 3 fields where 2 are expected (2 of 3 rows have too many): put quotes",
    ),
    (
        "a word for a missing label",
        "a.csv",
        csv_of_rows + b"a,NA\n",
        {},
        "(1 whose label is the word NA; the first is row 9): set it, or complete the rows, or set `keep_na` if",
    ),
    (
        "-1 among classes",
        "a.jsonl",
        as_lines([(text, number - 1) for number, (text, _) in enumerate(ROWS)]).encode(),
        {},
        "(1 whose label -1 means unlabelled; the first is row 1): set it, or complete the rows, or set `keep_na` if",
    ),
    (
        "a missing label",
        "a.csv",
        csv_of_rows + b"a\n",
        {},
        "drop_missing must be set to leave out 1 of 9 rows of a.csv",
    ),
    ("no class", "a.parquet", unlabelled(), {}, "(4 unlabelled; the first is row 3): set it, or complete the rows"),
    ("no header", "a.csv", as_csv(ROWS, None).encode(), {}, "; the file may have no header, or another separator"),
    ("numbered columns", "a.csv", as_csv(ROWS, None).encode(), {"header": False}, "must be one of the columns 1, 2 of"),
    ("two texts", "a.csv", as_csv(ROWS, ("text", "text")).encode(), {"label_column": "text"}, "2 are called 'text'"),
    ("a repeated field", "a.json", b'[{"text": "a", "text": "b"}]', {}, "a record has two fields 'text'"),
    ("a repeated nested field", "a.json", b'[{"a": {"b": 1}, "a.b": 2}]', {}, "a record has two fields 'a.b'"),
    ("two arrays", "a.json", b'{"a": [{}], "b": [{}]}', {}, "it must have one array of records, but has a, b"),
    ("no records", "a.json", b"[1, 2]", {}, "row 1 is not a record with named fields, but '1'"),
    ("no object", "a.json", b"5", {}, "it holds 5 instead of records"),
    ("a broken line", "a.jsonl", as_lines(ROWS).encode()[:-5], {}, "row 8: "),
    ("deep nesting", "a.json", b"[" * 100_000, {}, "it is nested too deeply"),
    (
        "NUL characters",
        "a.csv",
        csv_of_rows.replace(b"here", b"h\0re"),
        {},
        "encoding must be the encoding of a.csv, wh",
    ),
    ("damaged UTF-8", "a.csv", DAMAGED, {}, "which is UTF-8 but for 1 characters, the first in line 2: set the right"),
    (
        "another encoding",
        "a.csv",
        as_csv(FRENCH).encode("cp1252"),
        {"encoding": "utf-8"},
        "encoding must be the encoding of a.csv, which",
    ),
    (
        "joined rows",
        "a.csv",
        JOINED,
        {},
        "lines 11 and 12 could be rows, but a quote that opens in line 11 joins them: set it to 'enclose'",
    ),
    (
        "joined rows, label first",
        "a.csv",
        JOINED_LAST,
        {},
        "lines 2 and 3 could be rows, but a quote that opens in line 2 joins them",
    ),
    (
        "no encoding",
        "a.csv",
        csv_of_rows,
        {"encoding": "hex"},
        "encoding must be an encoding that Python knows, such as",
    ),
    (
        "a long separator",
        "a.csv",
        csv_of_rows,
        {"separator": "ab"},
        "separator must be one character, such as ';', got",
    ),
    (
        "another separator",
        "a.csv",
        csv_of_rows,
        {"separator": ";"},
        "separator must be what separates the fields of a.csv, got ';', but commas fit: leave it out",
    ),
    (
        "another separator without a header",
        "a.csv",
        as_csv(ROWS, None).encode(),
        {"separator": ";", "header": False, "text_column": "1", "label_column": "2"},
        "separator must be what separates the fields of a.csv, got ';', but commas fit: leave it out",
    ),
    ("two separators", "a.csv", b"a;b,c\n" * 8, {"header": False}, "separator must be given for a.csv, whose rows fit"),
    (
        "records, separated",
        "a.json",
        b"[]",
        {"separator": ";"},
        "separator applies only to csv and tsv files, got a.js",
    ),
    (
        "records without a header",
        "a.jsonl",
        b"",
        {"header": False},
        "header applies only to csv and tsv files, got a.j",
    ),
    (
        "encoded parquet",
        "a.parquet",
        unlabelled(),
        {"encoding": "utf-8"},
        "encoding applies only to csv, tsv, json and",
    ),
]


@pytest.mark.parametrize(
    ("file", "content", "options", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_cannot_be_read_right_is_refused(
    tmp_path: Path, file: str, content: bytes, options: dict[str, Any], message: str
) -> None:
    """A file that would lose rows or values is refused in one line, with the argument that settles it."""
    (tmp_path / file).write_bytes(content)
    with pytest.raises(MaskpoolError, match=re.escape(message)) as refused:
        CorpusSource(data=file, **options).load(tmp_path, 0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "option",
    [
        {"encoding": "utf-8"},
        {"separator": ";"},
        {"header": False},
        {"quotes": "enclose"},
        {"keep_na": True},
        {"drop_missing": True},
    ],
    ids=lambda o: next(iter(o)),
)
def test_options_of_files_are_refused_without_a_file(option: dict[str, Any]) -> None:
    """An option that says how a file is read is refused for a corpus that is not a file."""
    (name,) = option
    with pytest.raises(MaskpoolError, match=f"{name} has no effect with docstrings, only with data"):
        CorpusSource(docstrings=True, **option)


def test_a_separator_may_be_typed(tmp_path: Path) -> None:
    """A tab is accepted as a shell passes it."""
    kind = Kind("", "a.csv", as_csv(ROWS, delimiter="\t").encode(), options={"separator": "\\t"})
    assert read(tmp_path, kind).texts == [text for text, _ in ROWS]
