"""Compare two finished studies row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from maskpool.bench.design.study import parse_study
from maskpool.bench.design.subsamples import FULL
from maskpool.bench.part import grid_of
from maskpool.bench.report.results import Results, difference_of, facts_of, naming_cells, results_of, treatment_name
from maskpool.bench.report.verdicts import difference
from maskpool.bench.score.intervals import CONFIDENCE, Cube, Vector, half_sample_intervals
from maskpool.bench.store.folder import StudyFolder
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


Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Attributes:
        results: Its results.
        differences: For each row its differences by seed, on all texts and then on each half-sample.
    """

    results: Results
    differences: Mapping[Key, Sequence[Vector]]

    @classmethod
    def of(cls, folder: StudyFolder) -> Finished:
        """Read a finished study.

        Args:
            folder: The folder of the study.

        Raises:
            NotFoundError: The folder does not describe a study.
            FolderError: A file in it is malformed.
            UnfinishedError: The study is not finished.
        """
        results, cells = results_of(folder), folder.cells
        study = parse_study(results["study"])
        subsamples = (FULL, *range(1, study.replicates + 1))
        with naming_cells(folder):
            differences = {
                (
                    *(facts["model"]["name"], facts["corpus"]["name"], layer, by),
                    *(comparison.pooling, comparison.plan.name, treatment_name(comparison)),
                ): [difference_of(study, comparison, subsample, key, cells) for subsample in subsamples]
                for (key, facts), part in zip(facts_of(study, cells), results["parts"], strict=True)
                for (layer, by), comparisons in grid_of(study, facts, part["proof"]["holds"]).tables().items()
                for comparison in comparisons
            }
        return cls(results, differences)


def compare(study_a: Finished, study_b: Finished) -> dict[str, Any]:
    """Compare the settings of two studies and the rows that both have.

    The texts and the seed of a study decide its half-samples, and more half-samples or seeds come after fewer. Studies
    that agree in both are compared on the half-samples and seeds that both have: the difference B − A is taken in each,
    and what both share cancels. Its intervals are made as those of a study's own differences. Other studies count as
    independent: a row's half-width is q·√(SE_A² + SE_B²), with q Student's quantile after Šidák over the rows and
    Welch's degrees of freedom.

    Args:
        study_a: The study A.
        study_b: The study B.

    Returns:
        ``settings`` (the settings that differ, with both values), ``unpaired`` (why half-samples were not compared,
        empty if they were), ``half_samples`` and ``seeds`` (the numbers that both have), ``rows``, and the numbers of
        rows in only one study.

    Raises:
        DataError: The studies have no row in common.
    """
    first, second = _rows(study_a.results), _rows(study_b.results)
    common = [key for key in first if key in second]
    if not common:
        raise DataError(
            "the two studies have no row in common: they must share a pooling, a plan and a treatment, on a model and "
            "a corpus of the same name"
        )
    unpaired = _unpaired(study_a.results, study_b.results, [key[1] for key in common])
    halves, seeds = (
        min(study.results["study"][name] for study in (study_a, study_b)) for name in ("replicates", "seeds")
    )
    if not unpaired:
        full = _minus(study_a, study_b, common, slice(0, 1))[0]
        in_halves = _minus(study_a, study_b, common, slice(1, halves + 1))
        between = half_sample_intervals(full, in_halves, study_a.results["study"]["seed"])
        deltas, half_widths = between.delta, between.high - between.delta
    else:
        errors = np.array([[rows[key]["standard_error"] for key in common] for rows in (first, second)])
        freedoms = np.array([[rows[key]["freedom"] for key in common] for rows in (first, second)])
        square = (errors**2).sum(axis=0)
        # Welch: two independent squared standard errors, each with its own degrees of freedom.
        freedom = square**2 / np.maximum((errors**4 / freedoms).sum(axis=0), np.finfo(float).tiny)
        quantile = stats.t.ppf((1 + CONFIDENCE ** (1 / len(common))) / 2, np.maximum(freedom, 1))
        deltas = np.array([second[key]["delta"] - first[key]["delta"] for key in common])
        half_widths = quantile * np.sqrt(square)
    rows = [
        dict(zip(("model", "corpus", "layer", "by", "pooling", "plan", "treatment"), key, strict=True))
        | {"a": first[key], "b": second[key], "floor": max(first[key]["floor"], second[key]["floor"])}
        | {"delta": float(delta), "low": float(delta - half_width), "high": float(delta + half_width)}
        for key, delta, half_width in zip(common, deltas, half_widths, strict=True)
    ]
    return {
        "settings": [(name, a, b) for name, a, b in _settings(study_a.results, study_b.results) if a != b],
        "unpaired": unpaired,
        "half_samples": halves,
        "seeds": seeds,
        "rows": rows,
        "only_in_a": len(first) - len(common),
        "only_in_b": len(second) - len(common),
    }


def _unpaired(study_a: Results, study_b: Results, corpora: Sequence[str]) -> list[str]:
    """Return why two studies have no half-sample in common; empty if they have."""
    other = [name for name in dict.fromkeys(corpora) if study_a["corpora"][name] != study_b["corpora"][name]]
    reasons = [f"the texts or labels of {', '.join(other)} differ"] if other else []
    seeds = [study["study"]["seed"] for study in (study_a, study_b)]
    if seeds[0] != seeds[1]:
        reasons.append(f"the seeds {seeds[0]} and {seeds[1]} choose other half-samples")
    return reasons


def _minus(study_a: Finished, study_b: Finished, keys: Sequence[Key], subsamples: slice) -> Cube:
    """Return B − A, (subsamples, rows, seeds); a study with more seeds has them after those of the other."""
    a, b = (np.array([study.differences[key][subsamples] for key in keys]) for study in (study_a, study_b))
    common = min(a.shape[2], b.shape[2])
    return np.swapaxes(b[:, :, :common] - a[:, :, :common], 0, 1)


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


def _rows(results: Results) -> dict[Key, Results]:
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
