"""The comparison of two finished studies."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from scipy import stats

from maskpool.bench.report.compare import HEADER, Finished, compare, table
from maskpool.bench.report.results import Results
from maskpool.bench.score.intervals import half_sample_intervals
from maskpool.cli.compare import how_compared
from maskpool.errors import MaskpoolError

FREEDOM, HALVES = 12, 50


def row(treatment: str, delta: float, standard_error: float, floor: float, pooling: str = "mean") -> dict[str, Any]:
    return {
        "pooling": pooling,
        "plan": "random batches of 8",
        "treatment": treatment,
        "delta": delta,
        "low": delta - 2 * standard_error,
        "high": delta + 2 * standard_error,
        "standard_error": standard_error,
        "freedom": FREEDOM,
        "floor": floor,
    }


def study(rows: list[dict[str, Any]], layer: int = -1, model: str = "m", corpus: str = "c", seed: int = 0) -> Finished:
    reference = {"pooling": "mean", "plan": "any", "treatment": "excluded", "ami": 0.5, "floor": 0.01}
    results: Results = {
        "study": {"seeds": 3, "dtype": "float32", "seed": seed, "replicates": HALVES},
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

    rng = np.random.default_rng([len(rows), layer + 1])
    differences = {
        (model, corpus, layer, "kmeans", row["pooling"], row["plan"], row["treatment"]): [
            row["delta"] + rng.normal(0, row["standard_error"]) + rng.normal(0, 0.001, 3) for _ in range(HALVES + 1)
        ]
        for row in rows
    }
    return Finished(results, differences)


STUDY_A = study([row("included", -0.1, 0.03, 0.01), row("noise", -0.2, 0.01, 0.05), row("pads only", 0.3, 0.02, 0.01)])
STUDY_B = study(
    [
        row("noise", 0.1, 0.04, 0.02),
        row("common pad", 0.0, 0.02, 0.01),
        row("included", -0.15, 0.04, 0.03),
        row("pads only", 0.0, 0.02, 0.01, pooling="max"),
    ],
    seed=1,
)


def test_common_rows_are_subtracted() -> None:
    """A common row has B − A, the larger floor and both rows; rows in only one study are counted."""
    compared = compare(STUDY_A, STUDY_B)
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
    """Half-widths of independent studies are Welch's t quantile at 0.95^(1/rows) times the root of summed squares."""
    study_a = study([row(f"treatment {place}", 0.1, 0.03, 0.01) for place in range(number)] + [row("a's own", 0, 1, 0)])
    study_b = study([row(f"treatment {place}", 0.3, 0.04, 0.01) for place in range(number)], seed=1)
    rows = compare(study_a, study_b)["rows"]
    freedom = 0.05**4 / ((0.03**4 + 0.04**4) / FREEDOM)
    quantile = -stats.t.ppf((1 - 0.95 ** (1 / number)) / 2, freedom)
    assert len(rows) == number
    for common in rows:
        assert common["low"] == pytest.approx(0.2 - quantile * 0.05, abs=1e-9)
        assert common["high"] == pytest.approx(0.2 + quantile * 0.05, abs=1e-9)


def test_a_study_does_not_differ_from_itself() -> None:
    """A study compared with itself has no differing setting, no row without a partner, and no difference."""
    compared = compare(STUDY_A, deepcopy(STUDY_A))
    assert compared["settings"] == []
    assert (compared["only_in_a"], compared["only_in_b"]) == (0, 0)
    assert not compared["unpaired"]
    assert [(common["delta"], common["low"], common["high"]) for common in compared["rows"]] == [(0, 0, 0)] * 3


def test_studies_of_the_same_half_samples_are_compared_in_each() -> None:
    """What the half-samples do to both studies cancels, and the interval is that of the differences B − A."""
    study_a, study_b = study([row("included", 0.1, 0.03, 0.01)]), study([row("included", 0.3, 0.03, 0.01)])
    ((key, values),) = study_a.differences.items()
    rng = np.random.default_rng(1)
    added = [0.2 + rng.normal(0, 0.002, 3) for _ in values]
    study_b = Finished(study_b.results, {key: [value + more for value, more in zip(values, added, strict=True)]})
    compared = compare(study_a, study_b)
    (common,) = compared["rows"]
    expected = half_sample_intervals(np.array([added[0]]), np.array(added[1:])[:, None])
    assert not compared["unpaired"]
    assert (common["low"], common["high"]) == pytest.approx((expected.low[0], expected.high[0]))
    assert common["high"] - common["low"] < 0.01


@pytest.mark.parametrize(("name", "number"), [("seeds", 2), ("replicates", 30)])
def test_studies_are_compared_on_what_both_have(name: str, number: int) -> None:
    """Of a study with more seeds or half-samples, the first are compared, so its own beginning does not differ."""
    short = deepcopy(STUDY_A.results)
    short["study"][name] = number
    seeds, halves = short["study"]["seeds"], short["study"]["replicates"]
    first = {key: [values[0][:seeds], *values[1 : halves + 1]] for key, values in STUDY_A.differences.items()}
    for studies in ((STUDY_A, Finished(short, first)), (Finished(short, first), STUDY_A)):
        compared = compare(*studies)
        assert (compared["unpaired"], compared["seeds"], compared["half_samples"]) == ([], seeds, halves)
        assert {common[end] for common in compared["rows"] for end in ("delta", "low", "high")} == {0.0}


@pytest.mark.parametrize(
    ("group", "name", "value", "reason"),
    [
        ("study", "seed", 7, "the seeds 0 and 7 choose other half-samples"),
        ("corpora", "c", "another", "the texts or labels of c differ"),
    ],
)
def test_studies_of_other_half_samples_are_independent(group: str, name: str, value: object, reason: str) -> None:
    """Another seed and other texts leave no half-sample to pair, and the reason is given."""
    study_b = deepcopy(STUDY_A)
    study_b.results[group][name] = value
    compared = compare(STUDY_A, study_b)
    assert compared["unpaired"] == [reason]
    assert all(common["low"] < 0 < common["high"] for common in compared["rows"])


def test_the_way_of_comparing_is_said() -> None:
    """The output says that half-samples were compared and over which seeds, or why they could not be."""
    about = {"unpaired": [], "half_samples": 50, "seeds": 5, "settings": [("seeds", 5, 7)]}
    assert how_compared(about) == (
        "The studies share their texts, 50 half-samples and 5 seeds: B − A is taken in each half-sample. "
        "Δ in A and Δ in B are over all seeds of each."
    )
    words = "B − A could not be taken half-sample by half-sample, because x and y: "
    assert how_compared(about | {"unpaired": ["x", "y"]}).startswith(words)


def test_settings_that_differ_are_named_with_both_values() -> None:
    """All differing settings, corpora and versions are listed, including those that only one study has."""
    study_b = deepcopy(STUDY_B)
    study_b.results["study"] = {"seeds": 5, "dtype": "float32", "pad_to": 64, "seed": 0, "replicates": HALVES}
    study_b.results["corpora"] = {"c": "another hash", "d": "hash"}
    study_b.results["versions"] = {"torch": "2.14"}
    assert compare(STUDY_A, study_b)["settings"] == [
        ("pad_to", None, 64),
        ("seeds", 3, 5),
        ("c", "hash", "another hash"),
        ("d", None, "hash"),
        ("torch", "2.13", "2.14"),
    ]


@pytest.mark.parametrize(
    "study_b",
    [
        study([row("common pad", 0.1, 0.1, 0.1)]),
        study([row("included", 0.1, 0.1, 0.1)], model="another"),
        study([row("included", 0.1, 0.1, 0.1)], corpus="another"),
        study([row("included", 0.1, 0.1, 0.1)], layer=0),
        study([row("included", 0.1, 0.1, 0.1, pooling="max")]),
        study([]),
    ],
)
def test_nothing_in_common_is_refused(study_b: Finished) -> None:
    """Studies without a row with the same model, corpus, layer, pooling, plan and treatment are refused."""
    with pytest.raises(
        MaskpoolError, match=r"the two studies have no row in common: they must share a pooling, a plan"
    ):
        compare(STUDY_A, study_b)


@pytest.mark.parametrize(("layer", "by"), [(-1, "kmeans"), (0, "kmeans, layer 0")])
def test_a_table_has_a_cell_for_each_column(layer: int, by: str) -> None:
    """Each row as text has every difference with its interval, and names a layer that is not the last."""
    study_a = study([row("included", -0.1, 0.03, 0.01)], layer)
    study_b = study([row("included", -0.15, 0.04, 0.03)], layer, seed=1)
    (shown,) = table(compare(study_a, study_b))
    assert dict(zip(HEADER, shown, strict=True)) == {
        "model": "m",
        "corpus": "c",
        "by": by,
        "pooling": "mean",
        "plan": "random batches of 8",
        "treatment": "included",
        "Δ in A [95 %]": "−0.100 [−0.160, −0.040]",
        "Δ in B [95 %]": "−0.150 [−0.230, −0.070]",
        "B − A [95 %]": "−0.050 [−0.154, +0.054]",
        "floor": "0.030",
    }
