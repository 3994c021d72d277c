"""From finished cells to results: the tables, their intervals, and what they say in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from maskpool.bench.arms import EXCLUDED, INCLUDED
from maskpool.bench.cells import Cells
from maskpool.bench.draws import FULL
from maskpool.bench.fits import PRIMARY, Comparison, Fit
from maskpool.bench.folder import StudyFolder
from maskpool.bench.leaks import LEAKS
from maskpool.bench.mixed import METRIC
from maskpool.bench.parts import Grid, grid_of
from maskpool.bench.statistics import floor, half_sample_intervals
from maskpool.bench.study import Study, parse_study
from maskpool.errors import UserError
from maskpool.plans import Plan

# Results are JSON: numbers, strings, lists and dictionaries of them.
Results: TypeAlias = dict[str, Any]


def results_of(folder: StudyFolder) -> Results:
    """Everything that the report says, from the cells of a finished study.

    Raises:
        UserError: The folder is no study's, or the study is not finished.
    """
    about = folder.read()
    study = parse_study(about["study"])
    cells = folder.cells
    parts = cells.of_kind("facts")
    expected = len(study.models) * len(about["corpora"])
    if len(parts) < expected:
        raise UserError(
            f"the study in {folder.path} is not finished: {len(parts)} of {expected} parts (a model on a corpus) are "
            "begun; run the same command again, which goes on from there"
        )
    try:
        return {**about, "parts": [_part(study, key["part"], facts, cells) for key, facts in parts]}
    except KeyError as error:
        raise UserError(
            f"the study in {folder.path} is not finished: {len(cells)} cells are there, and some are missing; run the "
            "same command again, which goes on from there"
        ) from error


def _part(study: Study, part: str, facts: Results, cells: Cells) -> Results:
    def one(kind: str, **key: Any) -> Any:  # Any: each kind of cell has a value of its own
        return cells[{"kind": kind, "part": part, **key}]

    proof = one("proof")
    grid = grid_of(study, facts, proof["holds"])
    plans = [
        plan
        | {"run_for_real": grid.moves(Plan(**plan["plan"]))}
        | ({} if plan["for_leaks_alone"] else one("seconds", plan=plan["name"]))
        for plan in facts["plans"]
    ]
    tables = [
        {"layer": layer, "by": by, "rows": _rows(study, comparisons, part, cells)}
        for (layer, by), comparisons in grid.tables().items()
    ]
    return facts | {
        "plans": plans,
        "proof": proof,
        "forward": one("forward"),
        "baselines": one("baselines"),
        "tables": tables,
        "influence": [
            {"layer": layer, "pooling": pooling, "plan": plan.name}
            | one("influence", layer=layer, pooling=pooling, plan=plan.name)
            for layer, pooling, plan in grid.influences()
        ],
        "attention": one("heads") if facts["heads"] else None,
        "verdict": _verdict(facts, grid, tables),
    }


def _rows(study: Study, comparisons: Sequence[Comparison], part: str, cells: Cells) -> list[Results]:
    """The rows of a table: for each pooling the reference, then its arms plan by plan."""

    def value(fit: Fit) -> Results:
        found: Results = cells[fit.key(part)]
        return found

    def deltas(draw: int) -> np.ndarray[Any, Any]:
        return np.array(
            [
                np.subtract(
                    value(one.fit(draw))["scores"][_primary(one)], value(one.reference(draw))["scores"][_primary(one)]
                )
                for one in comparisons
            ]
        )

    replicates = np.stack([deltas(draw) for draw in range(1, study.replicates + 1)])
    intervals = half_sample_intervals(deltas(FULL), replicates, study.seed)
    rows: list[Results] = []
    referenced: set[Fit] = set()
    for place, one in enumerate(comparisons):
        reference = one.reference(FULL)
        about = {
            name: key for name, key in asdict(reference).items() if name in ("layer", "pooling", "by", "scored_under")
        }
        seeds = floor(np.array(cells[{"kind": "floor", "part": part, **about}]), study.seeds)
        if reference not in referenced and one.scored_under is None:
            referenced.add(reference)
            rows.append(_row(one.pooling, "any", EXCLUDED, one, value(reference)) | {"floor": seeds})
        shift = {"layer": one.layer, "pooling": one.pooling, "plan": one.plan.name, "arm": one.arm}
        moved = {} if one.by in METRIC else cells[{"kind": "shift", "part": part, **shift}]
        reference_scores = value(reference)["scores"][_primary(one)]
        rows.append(
            _row(one.pooling, one.plan.name, one.by if one.by in METRIC else one.arm, one, value(one.fit(FULL)))
            | moved
            | {
                "reference": float(np.mean(reference_scores)),
                "delta": float(intervals.delta[place]),
                "low": float(intervals.low[place]),
                "high": float(intervals.high[place]),
                "standard_error": float(intervals.standard_error[place]),
                "floor": seeds,
            }
        )
    return rows


def _primary(comparison: Comparison) -> str:
    return PRIMARY.get(comparison.by, "ami")


def _row(pooling: str, plan: str, arm: str, comparison: Comparison, fit: Results) -> Results:
    found: Results = {
        "pooling": pooling,
        "plan": plan,
        "arm": arm,
        "texts": fit["texts"],
        "metric": METRIC.get(comparison.by, "AMI"),
        **{name: float(np.mean(values)) for name, values in fit["scores"].items()},
    }
    if "length_ami" in fit:
        found["length_ami"] = fit["length_ami"]
    if comparison.leak is not None and arm != EXCLUDED:
        found |= {"leak": comparison.leak, "recreates": LEAKS[comparison.leak].recreates}
    return found


def effect(row: Results) -> str:
    """What a row's difference amounts to: ``lower``, ``higher``, or ``none`` that its interval and floor would show.

    Example:
        >>> effect({"delta": -0.1, "low": -0.12, "high": -0.08, "floor": 0.01})
        'lower'
        >>> effect({"delta": -0.01, "low": -0.012, "high": -0.008, "floor": 0.02})
        'none'
    """
    if abs(row["delta"]) <= row["floor"] or row["low"] <= 0 <= row["high"]:
        return "none"
    return "lower" if row["delta"] < 0 else "higher"


def difference(row: Results) -> str:
    """A difference as it is always written: with its interval."""
    return f"{row['delta']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def lead_plan(grid_plans: Sequence[Results]) -> str:
    """The plan that sentences are about: random batches, which is what careless code does; else the first."""
    return str(next((plan["name"] for plan in grid_plans if plan["plan"]["order"] == "random"), grid_plans[0]["name"]))


def _verdict(facts: Results, grid: Grid, tables: Sequence[Results]) -> str:
    """One sentence: what reading pads did to this model's clusters of this corpus."""
    corpus, model = facts["corpus"]["name"], facts["model"]["name"]
    lead = lead_plan(facts["plans"][: len(grid.plans)])
    rows = [
        row
        for table in tables[:1]
        for row in table["rows"]
        if row["arm"] == INCLUDED and row["plan"] == lead and row["pooling"] in grid.study.poolings
    ]
    if not rows:
        return f"{model} on {corpus}: nothing was compared with pads included."
    words = {"lower": "lowered", "higher": "raised", "none": "did not measurably move"}
    said = [
        f"{words[effect(row)]} the AMI of {row['pooling']} pooling ({difference(row)}, floor {row['floor']:.3f})"
        for row in rows
    ]
    return f"{model} on {corpus}: pooling over the pads of {lead} {'; '.join(said)}."
