"""Labelled texts to measure on."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from maskpool.bench.design.corpora import Corpus, docstrings, hub_dataset, mteb_task, newsgroups, read_file
from maskpool.errors import MaskpoolError
from tests.bench import tiny

ROWS = [
    (text, label)
    for label in ("a", "b")
    for text in (f"null {label}", 'with "quotes", commas\tand tabs', "two\nlines", "é, 漢字 and 🙂")
]


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    frame = pd.DataFrame(rows, columns=["text", "label"])
    writers: dict[str, Callable[[], object]] = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(path),
    }
    writers[path.suffix.lower()]()
    return path


every_suffix = pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])


@every_suffix
def test_formats_read_alike(tmp_path: Path, suffix: str) -> None:
    """Every format gives the same texts and labels in the same order, and a corpus named after its file."""
    corpus = read_file(write(tmp_path / f"mine{suffix}", ROWS), "text", "label")
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == ROWS
    assert corpus.name == "mine"
    assert not corpus.demonstration


@every_suffix
def test_words_for_missing_values_are_words(tmp_path: Path, suffix: str) -> None:
    """The strings "null", "NA", "nan" and "None" are texts and labels; in csv and tsv files if keep_na says so."""
    rows = [*ROWS, ("null", "null"), ("NA", "null"), ("nan", "null"), ("None", "null")]
    path = write(tmp_path / f"mine{suffix}", rows)
    corpus = read_file(path, "text", "label", keep_na=suffix.lower() in (".csv", ".tsv"))
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == rows


@every_suffix
def test_labels_may_be_numbers(tmp_path: Path, suffix: str) -> None:
    """Labels that are numbers become their strings."""
    path = tmp_path / f"mine{suffix}"
    numbered = [(text, "07" if label == "a" else "12") for text, label in ROWS]
    corpus = read_file(write(path, numbered), "text", "label")
    assert len(set(corpus.labels)) == 2
    assert all(isinstance(label, str) for label in corpus.labels)


@every_suffix
def test_labels_that_differ_stay_apart(tmp_path: Path, suffix: str) -> None:
    """The labels "1", "01" and "1.0" are three different labels in every format."""
    rows = [(f"text {number} of {label}", label) for label in ("1", "01", "1.0") for number in range(4)]
    corpus = read_file(write(tmp_path / f"mine{suffix}", rows), "text", "label")
    assert corpus.labels == [label for _, label in rows]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_labels_may_turn_from_numbers_to_words(tmp_path: Path, suffix: str) -> None:
    """A long file whose labels are first numbers and later words is read, although the reader works in chunks."""
    rows = [(f"text {number}", "1" if number < 12_000 else "other") for number in range(24_000)]
    assert Counter(read_file(write(tmp_path / f"mine{suffix}", rows), "text", "label").labels) == {
        "1": 12_000,
        "other": 12_000,
    }


def test_other_columns_may_be_named(tmp_path: Path) -> None:
    """The columns of texts and labels are found by name, in any position."""
    path = tmp_path / "mine.csv"
    pd.DataFrame({"x": 1, "category": [label for _, label in ROWS], "body": [text for text, _ in ROWS]}).to_csv(path)
    corpus = read_file(path, "body", "category")
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == ROWS


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    """A file with another suffix is refused with the list of readable suffixes."""
    message = re.escape(
        "data must be a file that ends in .csv, .tsv, .json, .jsonl, .parquet, or one such file in .gz or .zip, got "
        "mine.xlsx: save it as one of them"
    )
    with pytest.raises(MaskpoolError, match=message):
        read_file(tmp_path / "mine.xlsx", "text", "label")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A missing file, or a folder, is refused with its path."""
    (tmp_path / "folder.csv").mkdir()
    for name, problem in (("none.csv", "but there is none at "), ("folder.csv", "got the folder ")):
        with pytest.raises(MaskpoolError, match=re.escape(f"data must name a file, {problem}{tmp_path}/{name}")):
            read_file(tmp_path / name, "text", "label")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("body", "label"), "text_column must be one of the columns text, label of mine.csv, got 'body'"),
        (("text", "topic"), "label_column must be one of the columns text, label of mine.csv, got 'topic'"),
    ],
)
def test_a_missing_column_is_refused(tmp_path: Path, columns: tuple[str, str], message: str) -> None:
    """A missing column is refused with its option and the columns of the file."""
    path = write(tmp_path / "mine.csv", ROWS)
    with pytest.raises(MaskpoolError, match=re.escape(message)):
        read_file(path, *columns)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.parquet", b"text,label\n"),
        ("mine.jsonl", b'{"text": "a", '),
        ("mine.csv", b""),
        ("mine.csv", b"text,label\n"),
        ("mine.jsonl", b""),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """A file whose content does not match its suffix, or an empty file, is refused with the reason on one line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MaskpoolError, match=rf"\Adata must be a readable \w+ file; {re.escape(name)} is not: [^\n]+\Z"):
        read_file(tmp_path / name, "text", "label")


@every_suffix
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_text_is_refused(tmp_path: Path, suffix: str, empty: str) -> None:
    """A blank text is refused with its row."""
    path = write(tmp_path / f"mine{suffix}", [*ROWS, (empty, "a")])
    reason = "with a blank text" if empty else "without a text"
    message = (
        f"drop_missing must be set to leave out 1 of 9 rows of mine{suffix}, which have no text or no label (1 "
        f"{reason}; the first is row 9): set it, or complete the rows"
    )
    with pytest.raises(MaskpoolError, match=re.escape(message)):
        read_file(path, "text", "label")


@every_suffix
def test_a_missing_label_is_refused(tmp_path: Path, suffix: str) -> None:
    """A text without a label is refused with its row."""
    path = write(tmp_path / f"mine{suffix}", [*ROWS, ("a text", "")])
    message = "which have no text or no label (1 without a label; the first is row 9)"
    with pytest.raises(MaskpoolError, match=re.escape(message)):
        read_file(path, "text", "label")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("label", "last", "says"),
    [
        (1.0, float("nan"), "(1 without a label; the first is row 2)"),
        ("a", "  ", "(1 with a blank label; the first is row 2)"),
        (["a"], ["a", "b"], "must hold one label per text; row 1 has ['a']"),
        ({"a": 1}, {"a": 2}, "must be one of the columns text, label.a of mine"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "must be one of the columns text, label.a of mine"),
    ],
)
def test_values_that_are_not_labels_are_refused(
    tmp_path: Path, suffix: str, label: object, last: object, says: str
) -> None:
    """NaN, blanks, lists and tables are not labels."""
    path = tmp_path / f"mine{suffix}"
    rows = [{"text": "x", "label": label}, {"text": "y", "label": last}]
    if suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(MaskpoolError, match=re.escape(says)):
        read_file(path, "text", "label")


def test_null_is_a_missing_text_or_label(tmp_path: Path) -> None:
    """A null in jsonl is refused like an empty field."""
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": null, "label": "a"}\n{"text": "x", "label": "a"}\n')
    with pytest.raises(MaskpoolError, match=r"drop_missing must be set .* \(1 without a text; the first is row 1\)"):
        read_file(path, "text", "label")
    path.write_text('{"text": "x", "label": "a"}\n{"text": "x", "label": null}\n')
    with pytest.raises(MaskpoolError, match=r"drop_missing must be set .* \(1 without a label; the first is row 2\)"):
        read_file(path, "text", "label")


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_more_fields_than_columns_are_refused(tmp_path: Path, suffix: str, separator: str) -> None:
    """A file with one field too many in every row is refused instead of shifting its columns."""
    path = tmp_path / f"mine{suffix}"
    rows = [["text", "label"], *([["a text", "a", "1"]] * 4), *([["a text", "b", "2"]] * 4)]
    path.write_text("".join(separator.join(row) + "\n" for row in rows))
    with pytest.raises(MaskpoolError, match=f"mine{suffix}"):
        read_file(path, "text", "label")


@pytest.mark.parametrize("stray", ['"open', '"closed" early', '"', '"a ""b', 'not at "the beginning"', 'a "'])
def test_a_stray_quote_in_a_tsv_file_hides_no_row(tmp_path: Path, stray: str) -> None:
    """A quote that a field does not close is an ordinary character, and all rows up to the next quote are read."""
    rows = [(f"text {number}", label) for label in ("a", "b") for number in range(4)]
    rows[1], rows[5] = (stray, "a"), ('5"', "b")
    path = tmp_path / "mine.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows) + "\n")
    corpus = read_file(path, "text", "label")
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == rows


def test_a_tsv_file_that_quotes_is_unquoted(tmp_path: Path) -> None:
    """If every field that begins with a quote ends with one, the quotes are removed, even if each line is a row."""
    rows = [(f'say "text {number}"', label) for label in ("a", "b") for number in range(4)]
    corpus = read_file(write(tmp_path / "mine.tsv", rows), "text", "label")
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == rows


def test_numbers_are_texts_where_everything_is_text(tmp_path: Path) -> None:
    """A column of numbers is read as texts from csv, which is untyped, and refused in jsonl, which is typed."""
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "1,a\n" * 4 + "02,b\n" * 4)
    assert read_file(path, "text", "label").texts == ["1"] * 4 + ["02"] * 4
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": 1, "label": "a"}\n' * 4 + '{"text": 2, "label": "b"}\n' * 4)
    with pytest.raises(MaskpoolError, match=r"column 'text' of mine.jsonl must hold texts; row 1 has 1"):
        read_file(path, "text", "label")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 8, "mine must have at least two labels to score clusters by, got 1"),
        (list("abcdefgg"), "mine must have most of its texts in labels of 4 texts or more .* 8 of 8 texts"),
        (["a"] * 4 + list("bbbcd"), "mine must have most of its texts .* 5 of 9 texts have rarer labels"),
    ],
)
def test_too_few_labels_or_texts_are_refused(tmp_path: Path, labels: list[str], message: str) -> None:
    """Fewer than two labels, or a column in which most values are rare, are refused with the number."""
    path = write(tmp_path / "mine.csv", [(f"text {number}", label) for number, label in enumerate(labels)])
    with pytest.raises(MaskpoolError, match=message):
        read_file(path, "text", "label")


def test_an_empty_corpus_is_refused() -> None:
    """A corpus without texts is refused because it has too few labels."""
    with pytest.raises(MaskpoolError, match="mine must have at least two labels to score clusters by, got 0"):
        Corpus("mine", [], []).check()


def corpus_of(**counts: int) -> Corpus:
    labels = [label for label, count in counts.items() for _ in range(count)]
    labels = labels[::2] + labels[1::2]
    return Corpus("mine", [f"text {place}" for place in range(len(labels))], labels)


@pytest.mark.parametrize("size", [12, 13, 37, 100, 203])
def test_a_sample_is_stratified(size: int) -> None:
    """A sample has the requested size and at least four texts per label, and shares out the rest by label."""
    corpus = corpus_of(a=150, b=50, c=4)
    counts = Counter(corpus.sample(size, 0).labels)
    assert counts.total() == size
    rest = size - 12
    for label, spare in (("a", 146), ("b", 46), ("c", 0)):
        assert abs(counts[label] - 4 - rest * spare / 192) < 1


def test_a_sample_keeps_order_and_pairs() -> None:
    """A sample has each text once, with its label, in the order of the corpus."""
    corpus = corpus_of(a=40, b=20)
    label_of = dict(zip(corpus.texts, corpus.labels, strict=True))
    sample = corpus.sample(30, 0)
    places = [corpus.texts.index(text) for text in sample.texts]
    assert places == sorted(set(places))
    assert sample.labels == [label_of[text] for text in sample.texts]
    assert sample.name == corpus.name


def test_a_sample_is_seeded() -> None:
    """Equal seeds give the same sample, another seed gives another, and the largest sample is the corpus itself."""
    corpus = corpus_of(a=40, b=20)
    assert corpus.sample(30, 0) == corpus.sample(30, 0)
    assert corpus.sample(30, 0) != corpus.sample(30, 1)
    assert corpus.sample(60, 0) == corpus.sample(99, 0) == corpus


def test_a_sample_keeps_all_texts_of_rare_labels() -> None:
    """A label with fewer than four texts keeps them all in a sample, and what is left out is counted."""
    sample = corpus_of(a=40, b=20, c=3, d=1).sample(20, 0)
    counts = Counter(sample.labels)
    assert (counts["c"], counts["d"], counts.total()) == (3, 1, 20)
    assert (sample.rows, sample.dropped) == (64, {"not in the sample": 44})
    assert sample.rare_labels == {"labels": 2, "texts": 4}


def test_too_small_a_sample_is_refused() -> None:
    """A limit too small for four texts per label is refused with the smallest valid limit."""
    message = "limit must be at least 8 to keep 4 texts of each of the 2 labels of mine, got 7"
    with pytest.raises(MaskpoolError, match=message):
        corpus_of(a=40, b=20).sample(7, 0)


def test_the_hash_is_of_the_content() -> None:
    """The hash depends on the texts, the labels, their order and their borders, but not on the name."""
    texts, labels = ["one", "two"], ["a", "b"]
    hashes = [
        Corpus("mine", *content).sha256
        for content in (
            (texts, labels),
            (["one", "twO"], labels),
            (texts, ["a", "c"]),
            (texts[::-1], labels[::-1]),
            (texts[::-1], labels),
            (["onea", "two"], ["", "b"]),
            (["one", "a", "two"], ["a", "a", "b"]),
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert Corpus("yours", texts, labels).sha256 == hashes[0]
    assert re.fullmatch("[0-9a-f]{64}", hashes[0])


def test_codes_number_the_labels() -> None:
    """Equal labels have equal codes, starting at 0."""
    corpus = Corpus("mine", list("vwxyz"), ["b", "a", "b", "c", "a"])
    assert corpus.codes.tolist() == [1, 0, 1, 2, 0]


@pytest.fixture(scope="module")
def demonstration() -> Corpus:
    return docstrings()


def test_docstrings_are_enough(demonstration: Corpus) -> None:
    """The demonstration has at least 14 labels, 1,000 distinct texts and 25 per label, and is marked as one."""
    counts = Counter(demonstration.labels)
    assert len(counts) >= 14
    assert counts.total() >= 1_000
    assert min(counts.values()) >= 25
    assert len(set(demonstration.texts)) == len(demonstration.texts)
    assert demonstration.demonstration
    assert set(demonstration.versions) == {"scipy", "scikit-learn"}


def test_docstrings_do_not_name_their_label(demonstration: Corpus) -> None:
    """No text contains the name of its subpackage, or a word of the name, in upper or lower case."""
    for text, label in zip(demonstration.texts, demonstration.labels, strict=True):
        name = label.split(".")[1]
        for word in {name, *name.split("_")}:
            assert word not in text.lower()


def test_the_tiny_corpus_is_valid(tmp_path: Path) -> None:
    """The corpus of other tests passes the checks of this module."""
    corpus = read_file(tiny.write_csv(tmp_path / "tiny.csv", tiny.make_texts(40)), "text", "label")
    assert sorted(set(corpus.labels)) == sorted(tiny.LABELS)


# ----------------------------------------------------------------------------------- corpora that are downloaded


def test_newsgroups_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 newsgroups keep the names of their groups, and blank posts are dropped."""
    posts = SimpleNamespace(data=["a b", " \n", "c d", "e", "f", "g", "h", "i", "j"], target_names=["sci", "rec"])
    posts.target = np.array([0, 0, 1, 0, 1, 0, 1, 0, 1])
    options_passed: dict[str, object] = {}
    monkeypatch.setattr(
        "sklearn.datasets.fetch_20newsgroups", lambda **options: options_passed.update(options) or posts
    )
    corpus = newsgroups()
    assert options_passed == {"subset": "test", "remove": ("headers", "footers", "quotes")}
    assert corpus.texts == ["a b", "c d", "e", "f", "g", "h", "i", "j"]
    assert corpus.labels == ["sci", "rec"] * 4
    assert (corpus.rows, corpus.dropped) == (9, {"with a blank text": 1})


def test_newsgroups_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, the error suggests passing the texts as a file."""

    def refuse(**_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups", refuse)
    with pytest.raises(MaskpoolError, match="newsgroups could not be downloaded: no network; pass the texts as a file"):
        newsgroups()


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes of a dataset become their names, and other labels are unchanged."""
    features = datasets.Features({"body": datasets.Value("string"), "kind": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"body": list("abcdefgh"), "kind": [0, 1] * 4}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table if (name, split) == ("me/it", "dev") else 1)
    corpus = hub_dataset("me/it", "dev", "body", "kind")
    assert (corpus.name, corpus.texts, corpus.labels) == ("me/it (dev)", list("abcdefgh"), ["no", "yes"] * 4)
    with pytest.raises(
        MaskpoolError, match=re.escape("text_column must be one of the columns body, kind of me/it (dev)")
    ):
        hub_dataset("me/it", "dev", "text", "kind")


def test_a_text_without_a_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code -1, which marks texts without a class, is a missing label, not the last class; it can be dropped."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": list("abcdefghi"), "label": [0, 1] * 4 + [-1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    message = "drop_missing must be set .* of me/it .test., .*1 unlabelled; the first is row 9"
    with pytest.raises(MaskpoolError, match=message):
        hub_dataset("me/it", "test", "text", "label")
    corpus = hub_dataset("me/it", "test", "text", "label", drop_missing=True)
    assert (corpus.rows, corpus.dropped, set(corpus.labels)) == (9, {"unlabelled": 1}, {"no", "yes"})


def test_a_dataset_that_cannot_be_loaded() -> None:
    """A dataset that the hub does not have, or that cannot be reached, is refused with the reason."""
    with pytest.raises(MaskpoolError, match=r"hub must name a dataset with a split 'test', got 'no/such-dataset': \w+"):
        hub_dataset("no/such-dataset", "test", "text", "label")


@pytest.mark.parametrize("kind", ["texts", "lists", "hierarchy", "subset"])
def test_a_task_of_mteb(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clustering task gives its texts and labels, also in the older format; a hierarchy gives its first level."""
    mteb = pytest.importorskip("mteb", reason='needs pip install "maskpool[mteb]"')
    texts, labels = ["a", "b", "c", " ", "d", "e", "f", "g", "h"], [0, 1, 0, 0, 1, 0, 1, 0, 1]
    rows: dict[str, list[Any]] = {"sentences": texts, "labels": labels}
    if kind == "lists":
        rows = {"sentences": [texts[:4], texts[4:]], "labels": [labels[:4], labels[4:]]}
    elif kind == "hierarchy":
        rows["labels"] = [[label, 7] for label in labels]
    split: Any = {"test": datasets.Dataset.from_dict(rows)}
    task = mteb.get_task("TwentyNewsgroupsClustering.v2")
    task.dataset = {"default": split} if kind == "subset" else split
    task.data_loaded = True
    monkeypatch.setattr(mteb, "get_task", lambda name: task)
    corpus = mteb_task("TwentyNewsgroupsClustering.v2")
    assert corpus.texts == ["a", "b", "c", "d", "e", "f", "g", "h"]
    assert corpus.labels == ["0", "1", "0", "1", "0", "1", "0", "1"]
    assert (corpus.rows, corpus.dropped) == (9, {"with a blank text": 1})


@pytest.mark.filterwarnings("ignore:The task .* is superseded:UserWarning")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("X", r", such as 'TwentyNewsgroupsClustering\.v2', got 'X'"),
        ("TwentyNewsgroups", ", such as .*, got '.*' .did you mean 'TwentyNewsgroupsClustering.v2'.."),
        ("Banking77Classification", " of texts, got '.*', a task of Classification on text"),
        ("MasakhaNEWSClusteringP2P", " with one subset, got '.*', which has several: amh, .*"),
        ("TwentyNewsgroupsClustering.v2", " that can be downloaded, got '.*': .*"),
    ],
)
def test_a_task_that_cannot_be_loaded(name: str, reason: str) -> None:
    """A task that does not exist, is not a clustering task, has several languages or is unreachable is refused."""
    pytest.importorskip("mteb", reason='needs pip install "maskpool[mteb]"')
    with pytest.raises(MaskpoolError) as refused:
        mteb_task(name)
    sentence = str(refused.value)
    assert re.fullmatch(f"task must be one of MTEB's clustering tasks{reason}", sentence)
    assert sentence.count(f"got '{name}'") == 1
    assert "KeyError" not in sentence
