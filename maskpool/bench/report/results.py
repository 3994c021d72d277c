"""From finished cells to results: the tables, their intervals, and what they say in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
from jinja2 import UndefinedError

from maskpool.bench.design.study import Study, parse_study
from maskpool.bench.design.subsamples import FULL
from maskpool.bench.design.treatments import EXCLUDED, INCLUDED
from maskpool.bench.part import grid_of
from maskpool.bench.score import heads
from maskpool.bench.score.fits import PRIMARY, Comparison, Fit
from maskpool.bench.score.intervals import ENOUGH_REPLICATES, floor, half_sample_intervals
from maskpool.bench.score.mixed import METRIC
from maskpool.bench.store.cells import Cells, MissingCellError
from maskpool.bench.store.folder import CELLS, StudyFolder
from maskpool.errors import FolderError, MaskpoolError, UnfinishedError
from maskpool.leaks import PADDING_BUGS
from maskpool.plans import Plan
from maskpool.trust import reason_of
from maskpool.trust.files import shortened

# Results are JSON: numbers, strings, lists and dictionaries of them.
Results: TypeAlias = dict[str, Any]
_USUAL_CLUSTERER = "kmeans"


def results_of(folder: StudyFolder) -> Results:
    """Everything that the report says, from the cells of a finished study.

    Raises:
        NotFoundError: The folder does not describe a study.
        FolderError: A file in it is malformed.
        UnfinishedError: The study is not finished.
    """
    about = folder.read()
    study = parse_study(about["study"])
    cells = folder.cells
    parts = cells.of_kind("facts")
    expected = len(study.models) * len(about["corpora"])
    if len(parts) < expected:
        raise UnfinishedError(
            f"the study in {folder.path} is not finished: {len(parts)} of {expected} parts (a model on a corpus) are "
            "begun; run the study again, which resumes from there"
        )
    with naming_cells(folder):
        try:
            return {
                **about,
                "study": study.as_json(),
                "notes": _notes(study),
                "parts": [_part(study, key["part"], facts, cells) for key, facts in parts],
            }
        except MissingCellError as error:
            raise UnfinishedError(
                f"the study in {folder.path} is not finished: {len(cells)} cells are there, and some are missing; run "
                "the study again, which resumes from there"
            ) from error


@contextmanager
def naming_cells(folder: StudyFolder) -> Iterator[None]:
    """Say which file is malformed, where the value of a cell is not what its kind of cell has.

    Args:
        folder: The folder of the study.

    Raises:
        FolderError: A value is missing or malformed.
    """
    path = folder.path / CELLS
    what = f"{path} must hold the cells of a study, and the value of one"
    way_out = "delete the folder and run the study again"
    # Such a value shows up where it is computed with.
    try:
        yield
    except KeyError as error:
        raise FolderError(f"{what} has no {shortened(error.args[0])}: {way_out}") from error
    except UndefinedError as error:
        raise FolderError(f"{what} lacks a field: {error.message}: {way_out}") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, MaskpoolError):
            raise
        raise FolderError(f"{what} is malformed: {reason_of(error)}; {way_out}") from error


def _notes(study: Study) -> list[str]:
    """Sentences on what keeps a study from being a finding."""
    if study.replicates >= ENOUGH_REPLICATES:
        return []
    return [
        f"A trial, not a finding: the intervals rest on {study.replicates} half-samples, and with fewer than "
        f"{ENOUGH_REPLICATES} their width is rough."
    ]


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
    found = facts | {
        "plans": plans,
        "proof": proof,
        "forward": one("forward"),
        "baselines": one("baselines"),
        "tables": tables,
        "batch_effect": [
            {"layer": layer, "pooling": pooling, "plan": plan.name}
            | one("batch_effect", layer=layer, pooling=pooling, plan=plan.name)
            for layer, pooling, plan in grid.batch_effects()
        ],
        "learned": heads.hold_at_once({mode: one(**heads.key_of(mode)) for mode in study.learned})
        if facts["heads"]
        else None,
    }
    return found | {"verdict": _verdict(study, found)}


def _rows(study: Study, comparisons: Sequence[Comparison], part: str, cells: Cells) -> list[Results]:
    """The rows of a table: for each pooling the reference, then its treatments plan by plan."""

    def value(fit: Fit) -> Results:
        found: Results = cells[fit.key(part)]
        return found

    # Pads against noise that moves each text as far: of the same texts, so that the reference falls out.
    noise = {(one.pooling, one.plan): place for place, one in enumerate(comparisons) if one.treatment == "noise"}
    against_noise = {
        place: noise[one.pooling, one.plan]
        for place, one in enumerate(comparisons)
        if one.treatment == INCLUDED and (one.pooling, one.plan) in noise
    }

    def deltas(subsample: int) -> np.ndarray[Any, Any]:
        found = [
            np.subtract(
                value(one.fit(subsample))["scores"][_primary(one)],
                value(one.reference(subsample))["scores"][_primary(one)],
            )
            for one in comparisons
        ]
        return np.array([*found, *(found[pads] - found[other] for pads, other in against_noise.items())])

    def interval(place: int) -> Results:
        return {name: float(getattr(intervals, name)[place]) for name in ("delta", "low", "high")}

    replicates = np.stack([deltas(subsample) for subsample in range(1, study.replicates + 1)])
    intervals = half_sample_intervals(deltas(FULL), replicates, study.seed)
    contrasts = dict(zip(against_noise, range(len(comparisons), len(intervals.delta)), strict=True))
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
        shift = {"layer": one.layer, "pooling": one.pooling, "plan": one.plan.name, "treatment": one.treatment}
        moved = {} if one.by in METRIC else cells[{"kind": "shift", "part": part, **shift}]
        reference_scores = value(reference)["scores"][_primary(one)]
        rows.append(
            _row(one.pooling, one.plan.name, one.by if one.by in METRIC else one.treatment, one, value(one.fit(FULL)))
            | moved
            | {
                "reference": float(np.mean(reference_scores)),
                **interval(place),
                "standard_error": float(intervals.standard_error[place]),
                "floor": seeds,
            }
            | ({"against_noise": interval(contrasts[place])} if place in contrasts else {})
        )
    return rows


def _primary(comparison: Comparison) -> str:
    return PRIMARY.get(comparison.by, "ami")


def _row(pooling: str, plan: str, treatment: str, comparison: Comparison, fit: Results) -> Results:
    found: Results = {
        "pooling": pooling,
        "plan": plan,
        "treatment": treatment,
        "texts": fit["texts"],
        "metric": METRIC.get(comparison.by, "AMI"),
        **{name: float(np.mean(values)) for name, values in fit["scores"].items()},
    }
    if "length_ami" in fit:
        found["length_ami"] = fit["length_ami"]
    if comparison.leak is not None and treatment != EXCLUDED:
        found |= {"leak": comparison.leak, "recreates": PADDING_BUGS[comparison.leak].account}
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


def lead_plan(plans: Sequence[Results]) -> str:
    """The plan that sentences are about: random batches, which is what careless code does; else the first.

    Args:
        plans: Those of a part; under those for leaks alone no other treatment is measured.
    """
    measured = [plan for plan in plans if not plan["for_leaks_alone"]]
    careless = [plan for plan in measured if (plan["plan"]["order"], plan["plan"]["pad_to"]) == ("random", "longest")]
    return str(min(careless, key=lambda plan: plan["plan"]["side"] != "right", default=measured[0])["name"])


def main_table_of(part: Results) -> Results:
    """The table that sentences and figures are of: the deepest layer's, clustered by the study's first clusterer.

    Layers that are counted from the end come before others. Where nothing is clustered, the table has no rows.

    Example:
        >>> tables = [{"layer": layer, "by": by, "rows": []} for layer in (0, -1) for by in ("hdbscan", "kmeans")]
        >>> main_table_of({"tables": tables})
        {'layer': -1, 'by': 'hdbscan', 'rows': []}
    """
    clustered = [table for table in part["tables"] if table["by"] != "mixed"]
    nothing: Results = {"layer": -1, "by": _USUAL_CLUSTERER, "rows": []}
    return max(clustered, key=lambda table: (table["layer"] < 0, table["layer"]), default=nothing)


def of_layer(row: Results) -> str:
    """What is added to a name where it is not about the last layer.

    Example:
        >>> of_layer({"layer": -1}), of_layer({"layer": 0})
        ('', ', layer 0')
    """
    return "" if row["layer"] == -1 else f", layer {row['layer']}"


def of_table(table: Results) -> str:
    """What is added to a name where it is not about k-means on the last layer.

    Example:
        >>> of_table({"layer": -1, "by": "kmeans"}), of_table({"layer": 0, "by": "hdbscan"})
        ('', ', layer 0, hdbscan')
    """
    return of_layer(table) + ("" if table["by"] == _USUAL_CLUSTERER else f", {table['by']}")


def _verdict(study: Study, part: Results) -> str:
    """One sentence: what reading pads did to this model's clusters of this corpus."""
    table, lead = main_table_of(part), lead_plan(part["plans"])
    about = f"{part['model']['name']} on {part['corpus']['name']}{of_table(table)}"
    rows = [
        row
        for row in table["rows"]
        if row["treatment"] == INCLUDED and row["plan"] == lead and row["pooling"] in study.poolings
    ]
    if not rows:
        return f"{about}: nothing was compared with pads included."
    words = {"lower": "lowered", "higher": "raised", "none": "did not measurably move"}
    said = [
        f"{words[effect(row)]} the AMI of {row['pooling']} pooling ({difference(row)}, floor {row['floor']:.3f})"
        for row in rows
    ]
    return f"{about}: pooling over the pads of {lead} {'; '.join(said)}."
