"""Compare two finished studies row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from maskpool.bench.report.results import Results
from maskpool.bench.report.verdicts import difference
from maskpool.bench.score.intervals import CONFIDENCE
from maskpool.errors import DataError

HEADER = (
    "model",
    "corpus",
    "by",
    "pooling",
    "plan",
    "treatment",
    "Δ in A [95 %]",
    "Δ in B [95 %]",
    "B − A [95 %]",
    "floor",
)


def compare(study_a: Results, study_b: Results) -> dict[str, Any]:
    """Compare the settings of two studies and the rows that both have.

    A row's difference B − A gets an interval of half-width q·√(SE_A² + SE_B²), with q the normal quantile after Šidák
    over the rows. This assumes that the two studies are independent; if they share texts, the interval is too wide.

    Args:
        study_a: Results of the study A.
        study_b: Results of the study B.

    Returns:
        ``settings`` (the settings that differ, with both values), ``rows``, and the numbers of rows in only one study.

    Raises:
        DataError: The studies have no row in common.
    """
    first, second = _rows(study_a), _rows(study_b)
    common = [key for key in first if key in second]
    if not common:
        raise DataError(
            "the two studies have no row in common: they must share a pooling, a plan and a treatment, on a model and "
            "a corpus of the same name"
        )
    quantile = float(stats.norm.ppf((1 + CONFIDENCE ** (1 / len(common))) / 2))
    rows = []
    for key in common:
        a, b = first[key], second[key]
        delta, error = b["delta"] - a["delta"], float(np.hypot(a["standard_error"], b["standard_error"]))
        low, high = delta - quantile * error, delta + quantile * error
        rows.append(
            dict(zip(("model", "corpus", "layer", "by", "pooling", "plan", "treatment"), key, strict=True))
            | {"a": a, "b": b, "delta": delta, "low": low, "high": high, "floor": max(a["floor"], b["floor"])}
        )
    return {
        "settings": [(name, a, b) for name, a, b in _settings(study_a, study_b) if a != b],
        "rows": rows,
        "only_in_a": len(first) - len(common),
        "only_in_b": len(second) - len(common),
    }


def table(comparison: dict[str, Any]) -> list[list[str]]:
    """Format the rows as text."""
    return [
        [
            row["model"],
            row["corpus"],
            row["by"] if row["layer"] == -1 else f"{row['by']}, layer {row['layer']}",
            row["pooling"],
            row["plan"],
            row["treatment"],
            difference(row["a"]),
            difference(row["b"]),
            difference(row),
            f"{row['floor']:.3f}",
        ]
        for row in comparison["rows"]
    ]


def _rows(results: Results) -> dict[tuple[Any, ...], Results]:
    return {
        (
            part["model"]["name"],
            part["corpus"]["name"],
            part_table["layer"],
            part_table["by"],
            row["pooling"],
            row["plan"],
            row["treatment"],
        ): row
        for part in results["parts"]
        for part_table in part["tables"]
        for row in part_table["rows"]
        if "delta" in row
    }


def _settings(study_a: Results, study_b: Results) -> list[tuple[str, Any, Any]]:
    return [
        (name, study_a[group].get(name), study_b[group].get(name))
        for group in ("study", "corpora", "versions")
        for name in sorted({*study_a[group], *study_b[group]})
    ]
