"""The labels that a head learns, checked."""

from __future__ import annotations

import math
import warnings
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from maskpool.errors import InvalidTypeError, InvalidValueError

Labels: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_SEVERAL = (list, tuple, set, frozenset, np.ndarray)
_LISTS = (
    "must have one label a text, or a column of 0 and 1 for each label, got lists of labels: make columns of them by "
    "sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y)"
)


def check_labels(y: Any, texts: int) -> Labels:
    """Return labels as an array, (texts,), or (texts, labels) for several labels a text."""
    if y is None:
        raise InvalidValueError(
            "y", "must hold the labels: this estimator requires y to be passed, but the target y is None"
        )
    try:
        labels: Labels = y.toarray() if sparse.issparse(y) else np.asarray(y)  # type: ignore[attr-defined]  # all have it
    except ValueError as error:  # numpy's, of rows of different lengths
        raise InvalidValueError("y", _LISTS) from error
    if labels.dtype == object and labels.ndim == 1 and any(isinstance(row, _SEVERAL) for row in labels):
        raise InvalidValueError("y", _LISTS)
    if labels.ndim == 0 or len(labels) != texts:
        raise InvalidValueError(
            "y", f"must have one label a text, got {labels.shape[0] if labels.ndim else 1} for {texts} texts"
        )
    if texts == 0:
        raise InvalidValueError("X", "must hold at least one text, got none")
    missing = _missing(labels)
    if missing is not None:
        raise InvalidValueError("y", f"must have a label for each text, got {missing[1]!s} at place {missing[0]}")
    kinds = sorted({type(label).__name__ for label in labels}) if labels.dtype == object and labels.ndim == 1 else []
    if len(kinds) > 1:
        raise InvalidTypeError("y", f"must hold labels of one kind, got {', '.join(kinds)}: make them all strings")
    if labels.ndim == 2 and labels.shape[1] == 1:
        warnings.warn(
            f"A column-vector y was passed when a 1d array was expected: y should have the shape ({texts},), got "
            f"{labels.shape}",
            DataConversionWarning,
            stacklevel=3,
        )
        labels = labels.ravel()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes is greater", UserWarning)  # few texts a class
        kind = type_of_target(labels, input_name="y")
        check_classification_targets(labels)
    if kind not in ("binary", "multiclass", "multilabel-indicator"):
        raise InvalidValueError(
            "y",
            f"must have one label a text, or a column of 0 and 1 for each label, got the shape {labels.shape} of "
            f"type {kind}",
        )
    return labels


def _missing(labels: Labels) -> tuple[int, object] | None:
    """Return the place of the first text without a label, and its value."""
    if labels.dtype.kind not in "fcO":
        return None
    for place, row in enumerate(labels):
        for label in np.ravel(row):
            # pandas' NA is not equal to itself either, and will not say so.
            if (
                label is None
                or type(label).__name__ == "NAType"
                or (isinstance(label, Real) and not math.isfinite(label))
            ):
                return place, label
    return None


def encode_labels(labels: Labels) -> tuple[Labels, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return the classes, and the number of each text's class."""
    names, codes = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise InvalidValueError("y", f"must have at least two classes, got one class: {shown(names[0])}")
    return names, codes.astype(np.int64)


def shown(label: Any) -> str:
    """Format a label for a message, as Python spells it."""
    return repr(label.item() if isinstance(label, np.generic) else label)
