"""Corpora: labelled texts from files, MTEB's tasks, the hub, 20 newsgroups and public docstrings."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import math
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from maskpool.bench.design.tables import UNLABELLED, Quotes, Table, read_table, stem, with_class_names
from maskpool.errors import (
    DataError,
    InvalidValueError,
    MaskpoolError,
    RequirementError,
    StorageError,
    rename_arguments,
)

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
# A half-sample takes half of the texts; a label with fewer texts is rare, because it is missing from some half-samples.
FEWEST_TEXTS_A_LABEL = 4
_NOT_SAMPLED = "not in the sample"
_UNLABELLED_CODE = "whose label -1 means unlabelled"
_INTEGER = re.compile(r"-?[0-9]{1,9}(\.0*)?")


@dataclass(frozen=True)
class Corpus:
    """Texts with one label each.

    Attributes:
        name: Its name in results.
        texts: The texts.
        labels: Their labels, as strings.
        demonstration: Whether it only demonstrates that the benchmark runs.
        versions: Versions of the packages that its texts come from.
        dropped: How many rows of its source are left out, by the reason.
        notes: Sentences on how its source was read, where that was not certain.
    """

    name: str
    texts: list[str]
    labels: list[str]
    demonstration: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows of its source."""
        return len(self.texts) + sum(self.dropped.values())

    @property
    def rare_labels(self) -> dict[str, int]:
        """The number of labels with fewer than four texts, and the number of their texts."""
        rare = [count for count in Counter(self.labels).values() if count < FEWEST_TEXTS_A_LABEL]
        return {"labels": len(rare), "texts": sum(rare)}

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
            DataError: It has fewer than two labels, or most of its texts have rare labels.
        """
        labels = len(set(self.labels))
        if labels < 2:
            raise DataError(f"{self.name} must have at least two labels to score clusters by, got {labels}")
        rare = self.rare_labels["texts"]
        if 2 * rare > len(self.texts):
            raise DataError(
                f"{self.name} must have most of its texts in labels of {FEWEST_TEXTS_A_LABEL} texts or more (halves "
                f"of it are clustered too), but {rare:,} of {len(self.texts):,} texts have rarer labels: check that "
                "the column holds labels, or bring more texts"
            )
        return self

    def sample(self, limit: int, seed: int) -> Corpus:
        """Draw a random sample of about ``limit`` texts that keeps each label's share, in the order of the corpus.

        Raises:
            InvalidValueError: ``limit`` leaves fewer than four texts for a label that has four.
        """
        if limit >= len(self.texts):
            return self
        codes = self.codes
        counts = np.bincount(codes)
        # Each label gets four texts, or all that it has; the rest are shared out in proportion (largest remainders).
        fewest = np.minimum(counts, FEWEST_TEXTS_A_LABEL)
        if limit < fewest.sum():
            raise InvalidValueError(
                "limit",
                f"must be at least {fewest.sum()} to keep {FEWEST_TEXTS_A_LABEL} texts of each of the {len(counts)} "
                f"labels of {self.name}, got {limit}",
            )
        rng = np.random.default_rng(seed)
        spare = counts - fewest
        share = spare / max(spare.sum(), 1) * (limit - fewest.sum())
        quota = fewest + np.floor(share).astype(int)
        for label in np.argsort(np.floor(share) - share, kind="stable")[: limit - int(quota.sum())]:
            quota[label] += 1
        kept = np.concatenate(
            [rng.choice(np.flatnonzero(codes == label), number, replace=False) for label, number in enumerate(quota)]
        )
        left_out = {_NOT_SAMPLED: len(self.texts) - len(kept)}
        return replace(self.take(np.sort(kept).tolist()), dropped=self.dropped | left_out)

    def take(self, rows: list[int]) -> Corpus:
        """Return the corpus of the given rows."""
        return replace(self, texts=[self.texts[i] for i in rows], labels=[self.labels[i] for i in rows])


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
    single = {text: label for text, label in label_of.items() if text not in repeated}
    counts = Counter(single.values())
    kept = {t: label for t, label in single.items() if counts[label] >= _FEWEST_TEXTS_A_LABEL_IN_DOCSTRINGS}
    versions = {package: importlib.metadata.version(package) for package in ("scipy", "scikit-learn")}
    dropped = {"in two subpackages": len(repeated), "of small subpackages": len(single) - len(kept)}
    texts, labels = list(kept), list(kept.values())
    return Corpus(
        DEMONSTRATION, texts, labels, demonstration=True, versions=versions, dropped=_counted(dropped)
    ).check()


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


def read_file(
    data: Path,
    text_column: str,
    label_column: str,
    *,
    encoding: str | None = None,
    separator: str | None = None,
    header: bool = True,
    quotes: Quotes | None = None,
    keep_na: bool = False,
    drop_missing: bool = False,
) -> Corpus:
    """Read a csv, tsv, json, jsonl or parquet file with a column of texts and one of labels.

    Args:
        data: The file, or a gz or zip file with one such file.
        text_column: Name of the column of texts.
        label_column: Name of the column of labels.
        encoding: The encoding of the file; None recognises it.
        separator: What separates the fields of a csv or tsv file; None recognises it.
        header: Whether the first row has the names of the columns; otherwise these are numbers from 1.
        quotes: Whether the quotes of a csv or tsv file ``"enclose"`` fields or are ``"ordinary"`` characters; None
            recognises it.
        keep_na: Whether words such as NA in a csv or tsv file, and the label -1 next to 0, 1, …, are values; otherwise
            they are missing values, as pandas and scikit-learn read them.
        drop_missing: Whether rows without a text or label are left out; otherwise they are refused.

    Raises:
        InvalidValueError: The file cannot be read, an argument does not fit it, or a column is missing.
        DataError: A value is not a text or label, or the texts cannot be clustered.
    """
    table = read_table(data, (text_column, label_column), encoding, separator, header, quotes, keep_na)
    return replace(_labelled(table, text_column, label_column, drop_missing, keep_na), name=stem(data)).check()


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
    return _without_blanks("20 newsgroups", posts.data, [posts.target_names[label] for label in posts.target]).check()


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
        with rename_arguments({"name": "task"}):
            texts, labels = clustering_task(task)
    except MaskpoolError:
        raise
    except (ValueError, OSError) as error:
        raise InvalidValueError("task", f"must be one of MTEB's clustering tasks, got {task!r}: {error}") from error
    return _without_blanks(task, texts, labels).check()


def hub_dataset(
    hub: str,
    split: str,
    text_column: str,
    label_column: str,
    *,
    keep_na: bool = False,
    drop_missing: bool = False,
) -> Corpus:
    """Load a dataset from the Hugging Face hub; labels are the names of its classes.

    Args:
        hub: Name of the dataset.
        split: Its split.
        text_column: Name of the column of texts.
        label_column: Name of the column of labels.
        keep_na: Whether the label -1 next to 0, 1, … is a value; otherwise it is a missing value. That of a column of
            classes is always missing.
        drop_missing: Whether rows without a text or label are left out; otherwise they are refused.

    Raises:
        InvalidValueError: The dataset, split or column does not exist, or a text or label is missing.
        DataError: A value is not a text or label, or the texts cannot be clustered.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(hub, split=split)
    # datasets passes on many kinds of errors from its builders and the network; each means that loading failed.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InvalidValueError("hub", f"must name a dataset with a split {split!r}, got {hub!r}: {reason}") from error
    columns = [
        with_class_names(list(table[column]), feature) if column in (text_column, label_column) else []
        for column, feature in table.features.items()
    ]
    named = Table(f"{hub} ({split})", table.column_names, columns)
    return _labelled(named, text_column, label_column, drop_missing, keep_na).check()


def _labelled(table: Table, text_column: str, label_column: str, drop_missing: bool, keep_na: bool) -> Corpus:
    texts, labels = table.column(text_column, "text_column"), table.column(label_column, "label_column")
    words = table.missing_words
    reasons = [_missing(text, label, words) for text, label in zip(texts, labels, strict=True)]
    if not keep_na:
        codes = [None if reason else _as_integer(label) for label, reason in zip(labels, reasons, strict=True)]
        if _has_unlabelled(codes, reasons.count(None)):
            reasons = [_UNLABELLED_CODE if code == -1 else old for code, old in zip(codes, reasons, strict=True)]
    dropped = Counter(reason for reason in reasons if reason is not None)
    if dropped and not drop_missing:
        first = next(row for row, reason in enumerate(reasons, 1) if reason is not None)
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        have_words = any(reason.startswith("whose ") for reason in dropped)
        of_words = ", or set `keep_na` if these are values" * have_words
        raise InvalidValueError(
            "drop_missing",
            f"must be set to leave out {dropped.total()} of {len(texts)} rows of {table.name}, which have no text or "
            f"no label ({counts}; the first is row {first}): set it, or complete the rows{of_words}",
        )
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    # Equal numbers are one label, however they are written; true and false are not numbers.
    name_of: dict[tuple[bool, object], str] = {}
    kept_texts, kept_labels = [], []
    for row in kept:
        text, label = texts[row], labels[row]
        if not isinstance(text, str):
            raise DataError(f"column {text_column!r} of {table.name} must hold texts; row {row + 1} has {text!r}")
        if isinstance(label, list | dict):
            raise DataError(
                f"column {label_column!r} of {table.name} must hold one label per text; row {row + 1} has {label!r}"
            )
        kept_texts.append(text)
        kept_labels.append(name_of.setdefault((isinstance(label, bool), label), str(label)))
    return Corpus(table.name, kept_texts, kept_labels, dropped=dict(dropped), notes=table.notes)


def _has_unlabelled(codes: Sequence[int | None], labelled: int) -> bool:
    """Return whether -1 marks the rows without a class: all labels are integers from -1, and 0 is one of them.

    scikit-learn, datasets and HDBSCAN write it so. Signs, -1 and 1 without 0, are two classes.
    """
    classes = [code for code in codes if code is not None]
    return len(classes) == labelled and {-1, 0} <= set(classes) and min(classes) == -1


def _as_integer(label: object) -> int | None:
    """Return the integer that a label is, also if it is written as a float, as by pandas next to missing values."""
    if isinstance(label, str):
        return int(label.partition(".")[0]) if _INTEGER.fullmatch(label) else None
    if isinstance(label, float):
        return int(label) if label.is_integer() else None
    return label if isinstance(label, int) and not isinstance(label, bool) else None


def _missing(text: object, label: object, words: Collection[str]) -> str | None:
    """Return why a row cannot be used, or None; some words mean that a value is missing."""
    if label is UNLABELLED:
        return "unlabelled"
    for what, value in (("text", text), ("label", label)):
        if value in (None, "") or (isinstance(value, float) and math.isnan(value)):
            return f"without a {what}"
        if isinstance(value, str) and not value.strip():
            return f"with a blank {what}"
        if isinstance(value, str) and value in words:
            return f"whose {what} is the word {value}"
    return None


def _without_blanks(name: str, texts: Iterable[str], labels: Iterable[str]) -> Corpus:
    pairs = list(zip(texts, labels, strict=True))
    kept = [(text, label) for text, label in pairs if text.strip()]
    dropped = _counted({"with a blank text": len(pairs) - len(kept)})
    return Corpus(name, [text for text, _ in kept], [label for _, label in kept], dropped=dropped)


def _counted(dropped: dict[str, int]) -> dict[str, int]:
    """Leave out reasons that never occurred."""
    return {reason: count for reason, count in dropped.items() if count}
