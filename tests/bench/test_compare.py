"""The comparison of two finished studies."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
from scipy import stats

from maskpool.bench.report.compare import HEADER, compare, table
from maskpool.bench.report.results import Results
from maskpool.errors import MaskpoolError


def row(treatment: str, delta: float, standard_error: float, floor: float, pooling: str = "mean") -> dict[str, Any]:
    return {
        "pooling": pooling,
        "plan": "random batches of 8",
        "treatment": treatment,
        "delta": delta,
        "low": delta - 2 * standard_error,
        "high": delta + 2 * standard_error,
        "standard_error": standard_error,
        "floor": floor,
    }


def study(rows: list[dict[str, Any]], layer: int = -1, model: str = "m", corpus: str = "c") -> Results:
    reference = {"pooling": "mean", "plan": "any", "treatment": "excluded", "ami": 0.5, "floor": 0.01}
    return {
        "study": {"seeds": 3, "dtype": "float32"},
        "corpora": {corpus: "hash"},
        "versions": {"torch": "2.13"},
        "parts": [
            {
                "model": {"name": model},
                "corpus": {"name": corpus},
                "tables": [{"layer": layer, "by": "kmeans", "rows": [reference, *rows]}],
            }
        ],
    }


ONE = study([row("included", -0.1, 0.03, 0.01), row("noise", -0.2, 0.01, 0.05), row("pads only", 0.3, 0.02, 0.01)])
OTHER = study(
    [
        row("noise", 0.1, 0.04, 0.02),
        row("common pad", 0.0, 0.02, 0.01),
        row("included", -0.15, 0.04, 0.03),
        row("pads only", 0.0, 0.02, 0.01, pooling="max"),
    ]
)


def test_common_rows_are_subtracted() -> None:
    """A common row has B − A, the larger floor and both rows; rows in only one study are counted."""
    compared = compare(ONE, OTHER)
    assert [common["treatment"] for common in compared["rows"]] == ["included", "noise"]
    included, noise = compared["rows"]
    assert included["delta"] == pytest.approx(-0.05, abs=1e-12)
    assert noise["delta"] == pytest.approx(0.3, abs=1e-12)
    assert (included["floor"], noise["floor"]) == (0.03, 0.05)
    assert (included["a"]["delta"], included["b"]["delta"]) == (-0.1, -0.15)
    names = {"model": "m", "corpus": "c", "layer": -1, "by": "kmeans", "pooling": "mean", "plan": "random batches of 8"}
    assert included.items() >= names.items()
    assert (compared["only_in_a"], compared["only_in_b"]) == (1, 2)


@pytest.mark.parametrize("number", [1, 2, 40])
def test_intervals_are_sidaks_over_the_common_rows(number: int) -> None:
    """Half-widths are the two-sided normal quantile at 0.95^(1/rows) times the root of the summed squares."""
    one = study([row(f"treatment {place}", 0.1, 0.03, 0.01) for place in range(number)] + [row("a's own", 0, 1, 0)])
    other = study([row(f"treatment {place}", 0.3, 0.04, 0.01) for place in range(number)])
    rows = compare(one, other)["rows"]
    quantile = math.sqrt(stats.chi2.ppf(0.95 ** (1 / number), 1))  # of the square of a normal number
    assert len(rows) == number
    for common in rows:
        assert common["low"] == pytest.approx(0.2 - quantile * 0.05, abs=1e-9)
        assert common["high"] == pytest.approx(0.2 + quantile * 0.05, abs=1e-9)


def test_a_study_does_not_differ_from_itself() -> None:
    """A study compared with itself has no differing setting, no row without a partner, and no difference."""
    compared = compare(ONE, deepcopy(ONE))
    assert compared["settings"] == []
    assert (compared["only_in_a"], compared["only_in_b"]) == (0, 0)
    assert [common["delta"] for common in compared["rows"]] == [0, 0, 0]


def test_settings_that_differ_are_named_with_both_values() -> None:
    """All differing settings, corpora and versions are listed, including those that only one study has."""
    other = deepcopy(OTHER)
    other["study"] = {"seeds": 5, "dtype": "float32", "pad_to": 64}
    other["corpora"] = {"c": "another hash", "d": "hash"}
    other["versions"] = {"torch": "2.14"}
    assert compare(ONE, other)["settings"] == [
        ("pad_to", None, 64),
        ("seeds", 3, 5),
        ("c", "hash", "another hash"),
        ("d", None, "hash"),
        ("torch", "2.13", "2.14"),
    ]


@pytest.mark.parametrize(
    "other",
    [
        study([row("common pad", 0.1, 0.1, 0.1)]),
        study([row("included", 0.1, 0.1, 0.1)], model="another"),
        study([row("included", 0.1, 0.1, 0.1)], corpus="another"),
        study([row("included", 0.1, 0.1, 0.1)], layer=0),
        study([row("included", 0.1, 0.1, 0.1, pooling="max")]),
        study([]),
    ],
)
def test_nothing_in_common_is_refused(other: Results) -> None:
    """Studies without a row with the same model, corpus, layer, pooling, plan and treatment are refused."""
    with pytest.raises(
        MaskpoolError, match=r"the two studies have no row in common: they must share a pooling, a plan"
    ):
        compare(ONE, other)


@pytest.mark.parametrize(("layer", "by"), [(-1, "kmeans"), (0, "kmeans, layer 0")])
def test_a_table_has_a_cell_for_each_column(layer: int, by: str) -> None:
    """Each row as text has every difference with its interval, and names a layer that is not the last."""
    one = study([row("included", -0.1, 0.03, 0.01)], layer)
    other = study([row("included", -0.15, 0.04, 0.03)], layer)
    (shown,) = table(compare(one, other))
    assert dict(zip(HEADER, shown, strict=True)) == {
        "model": "m",
        "corpus": "c",
        "by": by,
        "pooling": "mean",
        "plan": "random batches of 8",
        "treatment": "included",
        "Δ in A [95 %]": "−0.100 [−0.160, −0.040]",
        "Δ in B [95 %]": "−0.150 [−0.230, −0.070]",
        "B − A [95 %]": "−0.050 [−0.148, +0.048]",
        "floor": "0.030",
    }
