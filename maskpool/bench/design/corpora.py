"""Labelled texts to measure on."""

from __future__ import annotations

import csv
import hashlib
import importlib
import importlib.metadata
import inspect
import math
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from maskpool.errors import DataError, InvalidValueError, RequirementError, StorageError

DEMONSTRATION = "public docstrings of scipy and scikit-learn"
_SUBPACKAGES = {
    "scipy": (
        "cluster constants datasets differentiate fft fftpack integrate interpolate io linalg ndimage odr optimize "
        "signal sparse spatial special stats"
    ),
    "sklearn": (
        "calibration cluster compose covariance cross_decomposition datasets decomposition discriminant_analysis dummy "
        "ensemble feature_extraction feature_selection gaussian_process impute inspection isotonic "
        "kernel_approximation kernel_ridge linear_model manifold metrics mixture model_selection multiclass "
        "multioutput naive_bayes neighbors neural_network pipeline preprocessing random_projection semi_supervised "
        "svm tree utils"
    ),
}
_FEWEST_WORDS = 4
_FEWEST_TEXTS_A_LABEL_IN_DOCSTRINGS = 25
# A half-sample takes half of the texts; a label with fewer than four texts could be missing from it.
_FEWEST_TEXTS_A_LABEL = 4
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Corpus:
    """Texts with one label each.

    Attributes:
        name: Its name in results.
        texts: The texts.
        labels: Their labels, as strings.
        demonstration: Whether it only demonstrates that the benchmark runs.
        versions: Versions of the packages that its texts come from.
    """

    name: str
    texts: list[str]
    labels: list[str]
    demonstration: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def codes(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The labels as integers from 0."""
        return np.unique(self.labels, return_inverse=True)[1].astype(np.int64)

    @property
    def sha256(self) -> str:
        """Hash of the content: texts and labels, in order."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            digest.update(f"{len(text)}:{text}{len(label)}:{label}".encode())
        return digest.hexdigest()

    def check(self) -> Corpus:
        """Return the corpus if its texts can be clustered and the clusters scored.

        Raises:
            DataError: It has fewer than two labels, or a label has fewer than four texts.
        """
        counts = Counter(self.labels)
        if len(counts) < 2:
            raise DataError(f"{self.name} must have at least two labels to score clusters by, got {len(counts)}")
        label, fewest = min(counts.items(), key=lambda item: item[1])
        if fewest < _FEWEST_TEXTS_A_LABEL:
            raise DataError(
                f"{self.name} must have at least {_FEWEST_TEXTS_A_LABEL} texts in each label (halves of it are "
                f"clustered too), got {fewest} in {label!r}: drop such labels or bring more texts"
            )
        return self

    def sample(self, limit: int, seed: int) -> Corpus:
        """Draw a random sample of about ``limit`` texts that keeps each label's share, in the order of the corpus.

        Raises:
            InvalidValueError: ``limit`` leaves fewer than four texts for a label.
        """
        if limit >= len(self.texts):
            return self
        labels = len(set(self.labels))
        if limit < _FEWEST_TEXTS_A_LABEL * labels:
            raise InvalidValueError(
                "limit",
                f"must be at least {_FEWEST_TEXTS_A_LABEL * labels} to keep {_FEWEST_TEXTS_A_LABEL} texts of each of "
                f"the {labels} labels of {self.name}, got {limit}",
            )
        rng = np.random.default_rng(seed)
        codes = self.codes
        counts = np.bincount(codes)
        # Each label gets four texts; the rest are shared out in proportion (largest remainders).
        spare = counts - _FEWEST_TEXTS_A_LABEL
        share = spare / max(spare.sum(), 1) * (limit - _FEWEST_TEXTS_A_LABEL * labels)
        quota = _FEWEST_TEXTS_A_LABEL + np.floor(share).astype(int)
        for label in np.argsort(np.floor(share) - share, kind="stable")[: limit - int(quota.sum())]:
            quota[label] += 1
        kept = np.concatenate(
            [rng.choice(np.flatnonzero(codes == label), number, replace=False) for label, number in enumerate(quota)]
        )
        return self.take(np.sort(kept).tolist())

    def take(self, rows: list[int]) -> Corpus:
        """Return the corpus of the given rows."""
        return Corpus(
            self.name, [self.texts[i] for i in rows], [self.labels[i] for i in rows], self.demonstration, self.versions
        )


def docstrings() -> Corpus:
    """Collect the first paragraphs of the public docstrings of scipy and scikit-learn, labelled by subpackage.

    The corpus is only a demonstration. Every machine has it, but its texts almost name their labels (the name itself
    is masked out), and other versions of the two packages have other texts.
    """
    label_of: dict[str, str] = {}
    repeated: set[str] = set()
    for package, names in _SUBPACKAGES.items():
        for name in names.split():
            for text in _first_paragraphs(f"{package}.{name}", masked=name):
                if label_of.setdefault(text, f"{package}.{name}") != f"{package}.{name}":
                    repeated.add(text)
    kept = {text: label for text, label in label_of.items() if text not in repeated}
    counts = Counter(kept.values())
    kept = {t: label for t, label in kept.items() if counts[label] >= _FEWEST_TEXTS_A_LABEL_IN_DOCSTRINGS}
    versions = {package: importlib.metadata.version(package) for package in ("scipy", "scikit-learn")}
    return Corpus(DEMONSTRATION, list(kept), list(kept.values()), demonstration=True, versions=versions).check()


def _first_paragraphs(module_name: str, masked: str) -> Iterator[str]:
    try:
        module = importlib.import_module(module_name)
    except ImportError:  # a subpackage that this version does not have
        return
    words = re.compile("|".join(re.escape(part) for part in [masked, *masked.split("_")]), re.IGNORECASE)
    for name in getattr(module, "__all__", []):
        try:
            member = getattr(module, name, None)
        except ImportError:  # scikit-learn's experimental names
            continue
        if not callable(member):
            continue
        paragraph = (inspect.getdoc(member) or "").split("\n\n")[0]
        text = " ".join(words.sub("…", paragraph).split())
        if len(text.split()) >= _FEWEST_WORDS:
            yield text


def read_file(data: Path, text_column: str, label_column: str) -> Corpus:
    """Read a csv, tsv, jsonl or parquet file with a column of texts and one of labels.

    Args:
        data: The file.
        text_column: Name of the column of texts.
        label_column: Name of the column of labels.

    Raises:
        InvalidValueError: The file cannot be read, or a column is missing.
        DataError: A text or a label is missing, or the texts cannot be clustered.
    """
    if data.suffix.lower() not in _SUFFIXES:
        raise InvalidValueError("data", f"must be a file that ends in {', '.join(_SUFFIXES)}, got {data.name}")
    if not data.is_file():
        raise InvalidValueError("data", f"must name a file, but there is none at {data}")
    corpus = _labelled(data.name, _columns(data), text_column, label_column)
    return replace(corpus, name=data.stem).check()


def newsgroups() -> Corpus:
    """Load the test part of scikit-learn's 20 newsgroups without headers, footers and quotes.

    scikit-learn downloads the texts once.

    Raises:
        StorageError: The texts are not on this machine and cannot be downloaded.
    """
    from sklearn.datasets import fetch_20newsgroups

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for each retry; the last failure is raised
            posts = fetch_20newsgroups(subset="test", remove=("headers", "footers", "quotes"))
    except OSError as error:
        raise StorageError(
            f"could not be downloaded: {error}; pass the texts as a file", argument="newsgroups"
        ) from error
    rows = [
        (text, posts.target_names[label]) for text, label in zip(posts.data, posts.target, strict=True) if text.strip()
    ]
    return Corpus("20 newsgroups", [text for text, _ in rows], [label for _, label in rows]).check()


def mteb_task(task: str) -> Corpus:
    """Load the texts and labels of one of MTEB's clustering tasks; MTEB downloads them once.

    Raises:
        RequirementError: MTEB is not installed.
        InvalidValueError: MTEB does not have this clustering task, or cannot download it.
    """
    try:
        from maskpool.integrations.mteb import clustering_task
    except ImportError as error:
        raise RequirementError(f"needs MTEB: {error}", argument="task") from error
    try:
        texts, labels = clustering_task(task)
    except (ValueError, OSError) as error:
        raise InvalidValueError("task", f"must be one of MTEB's clustering tasks, got {task!r}: {error}") from error
    kept = [(text, label) for text, label in zip(texts, labels, strict=True) if text.strip()]
    return Corpus(task, [text for text, _ in kept], [label for _, label in kept]).check()


def hub_dataset(hub: str, split: str, text_column: str, label_column: str) -> Corpus:
    """Load a dataset from the Hugging Face hub; labels are the names of its classes.

    Args:
        hub: Name of the dataset.
        split: Its split.
        text_column: Name of the column of texts.
        label_column: Name of the column of labels.

    Raises:
        InvalidValueError: The dataset, split or column does not exist.
        DataError: A text or a label is missing, or the texts cannot be clustered.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(hub, split=split)
    # datasets passes on many kinds of errors from its builders and the network; each means that loading failed.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InvalidValueError("hub", f"must name a dataset with a split {split!r}, got {hub!r}: {reason}") from error
    columns = {column: list(table[column]) for column in table.column_names}
    feature = table.features.get(label_column)
    if isinstance(feature, datasets.ClassLabel):
        # The hub gives texts without a class the code -1.
        columns[label_column] = [feature.names[code] if code != -1 else None for code in table[label_column]]
    return _labelled(f"{hub} ({split})", columns, text_column, label_column).check()


def _labelled(name: str, columns: dict[str, list[object]], text_column: str, label_column: str) -> Corpus:
    for argument, column in (("text_column", text_column), ("label_column", label_column)):
        if column not in columns:
            raise InvalidValueError(
                argument, f"must be one of the columns {', '.join(columns)} of {name}, got {column!r}"
            )
    texts, labels = columns[text_column], columns[label_column]
    for row, (text, label) in enumerate(zip(texts, labels, strict=True), 1):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"column {text_column!r} of {name} must hold texts; row {row} has {text!r}")
        if label is None or not str(label).strip() or (isinstance(label, float) and math.isnan(label)):
            raise DataError(f"column {label_column!r} of {name} must hold labels; row {row} has none")
        if isinstance(label, list | dict):
            raise DataError(f"column {label_column!r} of {name} must hold one label per text; row {row} has {label!r}")
    return Corpus(name, [str(text) for text in texts], [str(label) for label in labels])


def _columns(path: Path) -> dict[str, list[object]]:
    suffix = path.suffix.lower()
    read = _read_separated if suffix in (".csv", ".tsv") else _read_typed
    try:
        columns = read(path)
        if not any(columns.values()):
            raise DataError("it has no rows")
        return columns
    # pandas and datasets pass on many kinds of errors from their parsers; each means that the file is unreadable.
    except Exception as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0] or type(error).__name__
        raise InvalidValueError(
            "data", f"must be a readable {suffix[1:]} file; {path.name} is not: {reason}"
        ) from error


def _read_separated(path: Path) -> dict[str, list[object]]:
    """Read the columns of a csv or tsv file, every field as a string: 1 and 01 are two labels, and "null" is a text."""
    import pandas as pd

    tabs = path.suffix.lower() == ".tsv"
    literal = tabs and _quotes_nothing(path)
    with warnings.catch_warnings():
        # pandas would cut off a row with more fields than the header, or shift it by a column.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = pd.read_csv(
            path,
            sep="\t" if tabs else ",",
            dtype=str,
            keep_default_na=False,
            index_col=False,
            quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL,
        )
    return {str(name): table[name].tolist() for name in table.columns}


def _quotes_nothing(path: Path) -> bool:
    """Return whether quotes in a tsv file are ordinary characters.

    They are if each line is a row and some field opens a quote that it does not close. If such a quote were read as
    one, the parser would silently swallow all rows up to the next quote.
    """
    with path.open(encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file if line.strip()]
    opened = [field for row in rows for field in row if field.startswith('"')]
    return len(set(map(len, rows))) == 1 and not all(re.fullmatch('"([^"]|"")*"', field) for field in opened)


def _read_typed(path: Path) -> dict[str, list[object]]:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    read = datasets.Dataset.from_json if path.suffix.lower() == ".jsonl" else datasets.Dataset.from_parquet
    with tempfile.TemporaryDirectory() as cache:
        table = read(str(path), cache_dir=cache, keep_in_memory=True)
        return {name: list(table[name]) for name in table.column_names}
