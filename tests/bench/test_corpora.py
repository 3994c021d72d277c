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
def test_a_word_that_looks_like_nothing_is_a_word(tmp_path: Path, suffix: str) -> None:
    """A text or a label "null", "NA", "nan" or "None" is one."""
    rows = [*ROWS, ("null", "null"), ("NA", "null"), ("nan", "null"), ("None", "null")]
    corpus = read_file(write(tmp_path / f"mine{suffix}", rows), "text", "label")
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
    """The labels "1", "01" and "1.0" are three, in every format."""
    rows = [(f"text {number} of {label}", label) for label in ("1", "01", "1.0") for number in range(4)]
    corpus = read_file(write(tmp_path / f"mine{suffix}", rows), "text", "label")
    assert corpus.labels == [label for _, label in rows]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_labels_may_turn_from_numbers_to_words(tmp_path: Path, suffix: str) -> None:
    """A long file whose labels are numbers first and words later is read, whatever the reader's chunks."""
    rows = [(f"text {number}", "1" if number < 12_000 else "other") for number in range(24_000)]
    assert Counter(read_file(write(tmp_path / f"mine{suffix}", rows), "text", "label").labels) == {
        "1": 12_000,
        "other": 12_000,
    }


def test_other_columns_may_be_named(tmp_path: Path) -> None:
    """The columns of texts and labels are those that are named, wherever they stand."""
    path = tmp_path / "mine.csv"
    pd.DataFrame({"x": 1, "category": [label for _, label in ROWS], "body": [text for text, _ in ROWS]}).to_csv(path)
    corpus = read_file(path, "body", "category")
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == ROWS


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    """A file of another kind is refused with the kinds that are read."""
    message = re.escape("data must be a file that ends in .csv, .tsv, .jsonl, .parquet, got mine.xlsx")
    with pytest.raises(MaskpoolError, match=message):
        read_file(tmp_path / "mine.xlsx", "text", "label")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there, or a folder, is refused with its path."""
    (tmp_path / "folder.csv").mkdir()
    for name in ("none.csv", "folder.csv"):
        with pytest.raises(
            MaskpoolError, match=re.escape(f"data must name a file, but there is none at {tmp_path}/{name}")
        ):
            read_file(tmp_path / name, "text", "label")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("body", "label"), "text_column must be one of the columns text, label of mine.csv, got 'body'"),
        (("text", "topic"), "label_column must be one of the columns text, label of mine.csv, got 'topic'"),
    ],
)
def test_a_missing_column_is_refused(tmp_path: Path, columns: tuple[str, str], message: str) -> None:
    """A column that is not there is refused with its option and the columns that are."""
    path = write(tmp_path / "mine.csv", ROWS)
    with pytest.raises(MaskpoolError, match=re.escape(message)):
        read_file(path, *columns)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.parquet", b"text,label\n"),
        ("mine.jsonl", b'{"text": "a", '),
        ("mine.csv", b""),
        ("mine.csv", b"text,label\n\xff\xfe\xfa,a\n"),
        ("mine.csv", b'text,label\na,b,c\nd,"e\n'),
        ("mine.csv", b"text,label\n"),
        ("mine.jsonl", b""),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that is not what its name says, or is empty, is refused with the reason on one line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MaskpoolError, match=rf"\Adata must be a readable \w+ file; {re.escape(name)} is not: [^\n]+\Z"):
        read_file(tmp_path / name, "text", "label")


@every_suffix
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_text_is_refused(tmp_path: Path, suffix: str, empty: str) -> None:
    """A text of nothing but blanks is refused with its row."""
    path = write(tmp_path / f"mine{suffix}", [*ROWS, (empty, "a")])
    message = rf"column 'text' of mine{suffix} must hold texts; row 9 has '{empty}'"
    with pytest.raises(MaskpoolError, match=re.escape(message)):
        read_file(path, "text", "label")


@every_suffix
def test_a_missing_label_is_refused(tmp_path: Path, suffix: str) -> None:
    """A text without a label is refused with its row."""
    path = write(tmp_path / f"mine{suffix}", [*ROWS, ("a text", "")])
    message = rf"column 'label' of mine{suffix} must hold labels; row 9 has none"
    with pytest.raises(MaskpoolError, match=re.escape(message)):
        read_file(path, "text", "label")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("label", "last", "says"),
    [
        (1.0, float("nan"), "must hold labels; row 2 has none"),
        ("a", "  ", "must hold labels; row 2 has none"),
        (["a"], ["a", "b"], "must hold one label per text; row 1 has ['a']"),
        ({"a": 1}, {"a": 2}, "must hold one label per text; row 1 has {'a': 1}"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path: Path, suffix: str, label: object, last: object, says: str) -> None:
    """NaN and blanks are missing labels, not a class, and neither a list nor a table is one."""
    path = tmp_path / f"mine{suffix}"
    rows = [{"text": "x", "label": label}, {"text": "y", "label": last}]
    if suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(MaskpoolError, match=re.escape(f"column 'label' of mine{suffix} {says}")):
        read_file(path, "text", "label")


def test_null_is_a_missing_text_or_label(tmp_path: Path) -> None:
    """A null in jsonl is refused as an empty field is."""
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": null, "label": "a"}\n{"text": "x", "label": "a"}\n')
    with pytest.raises(MaskpoolError, match=r"column 'text' of mine.jsonl must hold texts; row 1 has None"):
        read_file(path, "text", "label")
    path.write_text('{"text": "x", "label": "a"}\n{"text": "x", "label": null}\n')
    with pytest.raises(MaskpoolError, match=r"column 'label' of mine.jsonl must hold labels; row 2 has none"):
        read_file(path, "text", "label")


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_more_fields_than_columns_are_refused(tmp_path: Path, suffix: str, separator: str) -> None:
    """A file whose every row has a field too many is refused: no field is taken for its neighbour's."""
    path = tmp_path / f"mine{suffix}"
    rows = [["text", "label"], *([["a text", "a", "1"]] * 4), *([["a text", "b", "2"]] * 4)]
    path.write_text("".join(separator.join(row) + "\n" for row in rows))
    with pytest.raises(MaskpoolError, match=f"mine{suffix}"):
        read_file(path, "text", "label")


@pytest.mark.parametrize("stray", ['"open', '"closed" early', '"', '"a ""b', 'not at "the beginning"', 'a "'])
def test_a_stray_quote_in_a_tsv_file_hides_no_row(tmp_path: Path, stray: str) -> None:
    """A quote that a field leaves open is a letter: the rows up to the next one are all read, as they stand."""
    rows = [(f"text {number}", label) for label in ("a", "b") for number in range(4)]
    rows[1], rows[5] = (stray, "a"), ('5"', "b")
    path = tmp_path / "mine.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows) + "\n")
    corpus = read_file(path, "text", "label")
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == rows


def test_a_tsv_file_that_quotes_is_unquoted(tmp_path: Path) -> None:
    """Where every quote that begins a field is closed at its end, quotes are no letters, even if each line is a row."""
    rows = [(f'say "text {number}"', label) for label in ("a", "b") for number in range(4)]
    corpus = read_file(write(tmp_path / "mine.tsv", rows), "text", "label")
    assert list(zip(corpus.texts, corpus.labels, strict=True)) == rows


def test_numbers_are_texts_where_everything_is_text(tmp_path: Path) -> None:
    """A column of numbers is texts in csv, which knows nothing else, and refused in jsonl, which does."""
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
        (["a"] * 8 + ["b"] * 3, "mine must have at least 4 texts in each label .*, got 3 in 'b'"),
    ],
)
def test_too_few_labels_or_texts_are_refused(tmp_path: Path, labels: list[str], message: str) -> None:
    """Fewer than two labels, or fewer than four texts in one, are refused with the number found."""
    path = write(tmp_path / "mine.csv", [(f"text {place}", label) for place, label in enumerate(labels)])
    with pytest.raises(MaskpoolError, match=message):
        read_file(path, "text", "label")


def test_nothing_is_refused() -> None:
    """No text at all is refused as too few labels."""
    with pytest.raises(MaskpoolError, match="mine must have at least two labels to score clusters by, got 0"):
        Corpus("mine", [], []).check()


def corpus_of(**counts: int) -> Corpus:
    labels = [label for label, count in counts.items() for _ in range(count)]
    labels = labels[::2] + labels[1::2]
    return Corpus("mine", [f"text {place}" for place in range(len(labels))], labels)


@pytest.mark.parametrize("size", [12, 13, 37, 100, 203])
def test_a_sample_is_stratified(size: int) -> None:
    """A sample has the size asked for, at least four texts of each label, and the labels' shares of the rest."""
    corpus = corpus_of(a=150, b=50, c=4)
    counts = Counter(corpus.sample(size, 0).labels)
    assert counts.total() == size
    rest = size - 12
    for label, spare in (("a", 146), ("b", 46), ("c", 0)):
        assert abs(counts[label] - 4 - rest * spare / 192) < 1


def test_a_sample_keeps_order_and_pairs() -> None:
    """A sample has each text once, with its label, in the corpus' order."""
    corpus = corpus_of(a=40, b=20)
    label_of = dict(zip(corpus.texts, corpus.labels, strict=True))
    sample = corpus.sample(30, 0)
    places = [corpus.texts.index(text) for text in sample.texts]
    assert places == sorted(set(places))
    assert sample.labels == [label_of[text] for text in sample.texts]
    assert sample.name == corpus.name


def test_a_sample_is_seeded() -> None:
    """Equal seeds give the same sample, other seeds another, and the corpus itself is its own largest sample."""
    corpus = corpus_of(a=40, b=20)
    assert corpus.sample(30, 0) == corpus.sample(30, 0)
    assert corpus.sample(30, 0) != corpus.sample(30, 1)
    assert corpus.sample(60, 0) == corpus.sample(99, 0) == corpus


def test_too_small_a_sample_is_refused() -> None:
    """A limit that leaves no four texts of each label is refused with the least that does."""
    message = "limit must be at least 8 to keep 4 texts of each of the 2 labels of mine, got 7"
    with pytest.raises(MaskpoolError, match=message):
        corpus_of(a=40, b=20).sample(7, 0)


def test_the_hash_is_of_the_content() -> None:
    """Another text, label, order or border between them gives another hash; another name does not."""
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
    """Equal labels have equal codes, from 0 up."""
    corpus = Corpus("mine", list("vwxyz"), ["b", "a", "b", "c", "a"])
    assert corpus.codes.tolist() == [1, 0, 1, 2, 0]


@pytest.fixture(scope="module")
def demonstration() -> Corpus:
    return docstrings()


def test_docstrings_are_enough(demonstration: Corpus) -> None:
    """The demonstration has at least 14 labels, 1,000 texts and 25 of each label, none twice, and says what it is."""
    counts = Counter(demonstration.labels)
    assert len(counts) >= 14
    assert counts.total() >= 1_000
    assert min(counts.values()) >= 25
    assert len(set(demonstration.texts)) == len(demonstration.texts)
    assert demonstration.demonstration
    assert set(demonstration.versions) == {"scipy", "scikit-learn"}


def test_docstrings_do_not_name_their_label(demonstration: Corpus) -> None:
    """No text holds its subpackage's name, or a word of it, in any case."""
    for text, label in zip(demonstration.texts, demonstration.labels, strict=True):
        name = label.split(".")[1]
        for word in {name, *name.split("_")}:
            assert word not in text.lower()


def test_the_tiny_corpus_is_one(tmp_path: Path) -> None:
    """What other tests measure on has passed the checks of this module."""
    corpus = read_file(tiny.write_csv(tmp_path / "tiny.csv", tiny.make_texts(40)), "text", "label")
    assert sorted(set(corpus.labels)) == sorted(tiny.LABELS)


# ----------------------------------------------------------------------------------- corpora that are downloaded


def test_newsgroups_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 newsgroups keep their groups' names, and posts of which nothing is left are dropped."""
    found = SimpleNamespace(data=["a b", " \n", "c d", "e", "f", "g", "h", "i", "j"], target_names=["sci", "rec"])
    found.target = np.array([0, 0, 1, 0, 1, 0, 1, 0, 1])
    request: dict[str, object] = {}
    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups", lambda **options: request.update(options) or found)
    corpus = newsgroups()
    assert request == {"subset": "test", "remove": ("headers", "footers", "quotes")}
    assert corpus.texts == ["a b", "c d", "e", "f", "g", "h", "i", "j"]
    assert corpus.labels == ["sci", "rec"] * 4


def test_newsgroups_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the network the way out is named."""

    def refuse(**_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups", refuse)
    with pytest.raises(MaskpoolError, match="newsgroups could not be downloaded: no network; pass the texts as a file"):
        newsgroups()


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset's classes have their names, and other labels stay what they are."""
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
    """-1, which a dataset gives texts without a class, is a missing label, not the last class."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": list("abcdefghi"), "label": [0, 1] * 4 + [-1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    with pytest.raises(
        MaskpoolError, match=re.escape("column 'label' of me/it (test) must hold labels; row 9 has none")
    ):
        hub_dataset("me/it", "test", "text", "label")


def test_a_dataset_that_cannot_be_had() -> None:
    """A name that the hub does not know, or that cannot be reached, is refused with the reason."""
    with pytest.raises(MaskpoolError, match=r"hub must name a dataset with a split 'test', got 'no/such-dataset': \w+"):
        hub_dataset("no/such-dataset", "test", "text", "label")


@pytest.mark.parametrize("kind", ["texts", "lists", "hierarchy", "subset"])
def test_a_task_of_mteb(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clustering task gives its texts and labels, in the older form too, of a hierarchy the first level."""
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


@pytest.mark.filterwarnings("ignore:The task .* is superseded:UserWarning")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NoSuchTask", "NoSuchTask"),
        ("Banking77Classification", "a task of Classification on text"),
        ("MasakhaNEWSClusteringP2P", "must be a task of one subset"),
        ("TwentyNewsgroupsClustering.v2", "must be a task that can be downloaded"),
    ],
)
def test_a_task_that_cannot_be_had(name: str, reason: str) -> None:
    """A task that is not there, is none of clustering, has several languages or is out of reach is refused."""
    pytest.importorskip("mteb", reason='needs pip install "maskpool[mteb]"')
    with pytest.raises(MaskpoolError, match=f"task must be one of MTEB's clustering tasks, got '{name}': .*{reason}"):
        mteb_task(name)
