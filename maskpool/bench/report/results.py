"""Results of a study: from finished cells to tables, intervals and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeAlias

import numpy as np
from jinja2 import UndefinedError

from maskpool.bench.design.clusterers import UnitKMeans
from maskpool.bench.design.study import Study, parse_study
from maskpool.bench.design.subsamples import FULL
from maskpool.bench.design.treatments import EXCLUDED, INCLUDED, MIXED, NOISE
from maskpool.bench.part import grid_of, key_of
from maskpool.bench.report.verdicts import advice, headline, joined, judge, shift_headline
from maskpool.bench.score import heads
from maskpool.bench.score.fits import Comparison, Fit, join_seeds
from maskpool.bench.score.intervals import ENOUGH_REPLICATES, Vector, floor, half_sample_intervals
from maskpool.bench.score.scorers import SCORERS
from maskpool.bench.store.cells import Cells, MissingCellError
from maskpool.bench.store.checks import CELLS
from maskpool.bench.store.folder import StudyFolder
from maskpool.errors import FolderError, MaskpoolError, UnfinishedError
from maskpool.leaks import PADDING_BUGS
from maskpool.plans import Plan
from maskpool.trust import reason_of
from maskpool.trust.files import shortened

# Results are JSON: numbers, strings, lists and dictionaries of them.
Results: TypeAlias = dict[str, Any]
_NO_SCORE = 1e6


def results_of(folder: StudyFolder, margin: float | None = None) -> Results:
    """Compute the content of the report from the cells of a finished study.

    Args:
        folder: The folder of the study.
        margin: The margin of the verdicts; None means that of the study.

    Raises:
        InvalidValueError: ``margin`` is not between 0 and 1.
        NotFoundError: The folder does not describe a study.
        FolderError: A file in it is malformed.
        UnfinishedError: The study is not finished.
    """
    about = folder.read()
    study = parse_study(about["study"])
    if margin is not None:
        study = replace(study, margin=margin)
    cells = folder.cells
    parts = facts_of(study, cells)
    expected = len(study.models) * len(about["corpora"])
    if len(parts) < expected:
        raise UnfinishedError(
            f"the study in {folder.path} is not finished: {len(parts)} of {expected} parts (a model on a corpus) have "
            "begun; run the study again, which resumes from there"
        )
    with naming_cells(folder):
        try:
            return {
                **about,
                "study": study.as_json(),
                "notes": _notes(study),
                "parts": [_part(study, part, facts, cells) for part, facts in parts],
            }
        except MissingCellError as error:
            raise UnfinishedError(
                f"the study in {folder.path} is not finished: it has {len(cells)} cells, and some are missing; run the "
                "study again, which resumes from there"
            ) from error


def facts_of(study: Study, cells: Cells) -> list[tuple[str, Results]]:
    """Return the key of each part that has begun, with its facts.

    Args:
        study: The study.
        cells: The cells of the study.
    """
    begun = cells.of_kind("facts")
    return [(key["part"], facts) for key, facts in begun if key == key_of(study, key["part"], "facts")]


@contextmanager
def naming_cells(folder: StudyFolder) -> Iterator[None]:
    """Name the malformed file in errors that a malformed value of a cell causes.

    Args:
        folder: The folder of the study.

    Raises:
        FolderError: A value is missing or malformed.
    """
    path = folder.path / CELLS
    what = f"{path} must hold the cells of a study, and the value of one"
    way_out = "delete the folder and run the study again"
    # A malformed value causes an error only when it is used.
    try:
        yield
    except KeyError as error:
        raise FolderError(f"{what} has no {shortened(error.args[0])}: {way_out}") from error
    except UndefinedError as error:
        raise FolderError(f"{what} lacks a field: {error.message}: {way_out}") from error
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        if isinstance(error, MaskpoolError):
            raise
        raise FolderError(f"{what} is malformed: {reason_of(error)}; {way_out}") from error


def _notes(study: Study) -> list[str]:
    """Return sentences on why a study is not a finding."""
    if study.replicates >= ENOUGH_REPLICATES:
        return []
    return [
        f"A trial, not a finding: the intervals are based on {study.replicates} half-samples, and with fewer than "
        f"{ENOUGH_REPLICATES} their width is unreliable."
    ]


def _part(study: Study, part: str, facts: Results, cells: Cells) -> Results:
    def cell(kind: str, **key: Any) -> Any:  # Any: the type of the value depends on the kind of cell
        return cells[key_of(study, part, kind, **key)]

    proof = cell("proof", top=facts["top"])
    grid = grid_of(study, facts, proof["holds"])
    plans = [
        plan
        | {"run_for_real": grid.moves(Plan(**plan["plan"]))}
        | ({} if plan["for_leaks_alone"] else cell("seconds", plan=plan["name"]))
        for plan in facts["plans"]
    ]
    quoting = study.quote or facts["corpus"]["demonstration"]
    tables = [
        {"layer": layer, "by": by, "rows": _rows(study, comparisons, part, cells)}
        for (layer, by), comparisons in grid.tables().items()
    ]
    results = facts | {
        "plans": plans,
        "proof": proof,
        "forward": cell("forward"),
        "baselines": cell("baselines"),
        "tables": tables,
        "batch_effect": [
            names | cell("batch_effect", **names) | ({"quotes": cell("quotes", **names)} if quoting else {})
            for layer, pooling, plan in grid.batch_effects()
            for names in ({"layer": layer, "pooling": pooling, "plan": plan.name},)
        ],
        "learned": heads.two_by_two(
            {
                mode: [cell("head", **heads.recipe(mode), head_seed=study.seed + place) for place in range(study.seeds)]
                for mode in study.learned
            }
        )
        if study.learned and facts["heads"]
        else None,
    }
    for row in results["learned"]["rows"] if results["learned"] else []:
        row["verdict"] = judge(row | {"metric": "AMI"}, study.margin, study.seeds)
    return results | _conclusions(study, results)


def _rows(study: Study, comparisons: Sequence[Comparison], part: str, cells: Cells) -> list[Results]:
    """Make the rows of a table: for each pooling the reference, then its treatments plan by plan."""

    def value(fit: Fit) -> Results:
        return _value(study, fit, part, cells)

    # Pads minus noise that moves each text as far; both use the same texts, so the reference cancels.
    noise = {
        (comparison.pooling, comparison.plan): index
        for index, comparison in enumerate(comparisons)
        if comparison.treatment == NOISE
    }
    against_noise = {
        index: noise[comparison.pooling, comparison.plan]
        for index, comparison in enumerate(comparisons)
        if comparison.treatment == INCLUDED and (comparison.pooling, comparison.plan) in noise
    }

    def deltas(subsample: int) -> np.ndarray[Any, Any]:
        to_reference = [difference_of(study, comparison, subsample, part, cells) for comparison in comparisons]
        to_noise = (to_reference[pads] - to_reference[other] for pads, other in against_noise.items())
        return np.array([*to_reference, *to_noise])

    def interval(index: int) -> Results:
        return {field.name: float(getattr(intervals, field.name)[index]) for field in fields(intervals)}

    replicates = np.stack([deltas(subsample) for subsample in range(1, study.replicates + 1)])
    intervals = half_sample_intervals(deltas(FULL), replicates, study.seed)
    contrasts = dict(zip(against_noise, range(len(comparisons), len(intervals.delta)), strict=True))
    rows: list[Results] = []
    referenced: set[Fit] = set()
    for index, comparison in enumerate(comparisons):
        reference, fit = comparison.reference(FULL), value(comparison.fit(FULL))
        pooling, plan = comparison.pooling, comparison.plan.name
        floor_scores = cells[reference.floor_key(part)]
        _check_scores(floor_scores, cells)
        seeds = floor(np.array(floor_scores), study.seeds)
        if reference not in referenced and comparison.scored_under is None:
            referenced.add(reference)
            rows.append(_row(pooling, "any", EXCLUDED, comparison, value(reference)) | {"floor": seeds})
        mixed = comparison.by in MIXED
        moved = cells[comparison.shift_key(part)]
        reference_scores = value(reference)["scores"][SCORERS[comparison.by].score]
        row = (
            _row(pooling, plan, treatment_name(comparison), comparison, fit)
            | ({} if mixed else moved)
            | {"reference": float(np.mean(reference_scores)), **interval(index), "floor": seeds}
        )
        row["verdict"] = judge(row | {"identical": moved.get("identical", False)}, study.margin, study.seeds)
        if index in contrasts:
            against = {"metric": "AMI", "texts": row["texts"], **interval(contrasts[index])}
            row["against_noise"] = against | {"verdict": judge(against, study.margin, study.seeds)}
        rows.append(row)
    return rows


def difference_of(study: Study, comparison: Comparison, subsample: int, part: str, cells: Cells) -> Vector:
    """Return a treatment's score minus that of the same texts alone, for each seed of a subsample.

    Args:
        study: The study.
        comparison: The treatment.
        subsample: Number of the subsample.
        part: Key of the part.
        cells: The cells of the study.
    """
    treated, alone = (
        _value(study, fit, part, cells)["scores"][SCORERS[comparison.by].score]
        for fit in (comparison.fit(subsample), comparison.reference(subsample))
    )
    return np.array(treated, dtype=np.float64) - np.array(alone, dtype=np.float64)


def treatment_name(comparison: Comparison) -> str:
    """Return what a row calls the treatment: a mixed plan goes by its name."""
    return comparison.by if comparison.by in MIXED else comparison.treatment


def _value(study: Study, fit: Fit, part: str, cells: Cells) -> Results:
    value = join_seeds([cells[of_seed.key(part)] for of_seed in fit.of_seeds(study.seeds)])
    for scores in value["scores"].values():
        _check_scores(scores, cells)
    return value


def _check_scores(scores: list[float], cells: Cells) -> None:
    # Rounding takes an AMI above 1, and nothing bounds it below; no score comes near this limit.
    if not all(abs(score) < _NO_SCORE for score in scores):
        raise FolderError(
            f"{cells.path} must hold scores, got {shortened(scores)}: delete the folder and run the study again"
        )


def _row(pooling: str, plan: str, treatment: str, comparison: Comparison, fit: Results) -> Results:
    row: Results = {
        "pooling": pooling,
        "plan": plan,
        "treatment": treatment,
        "texts": fit["texts"],
        "metric": SCORERS[comparison.by].metric,
        **{name: float(np.mean(values)) for name, values in fit["scores"].items()},
    }
    if "length_ami" in fit:
        row["length_ami"] = fit["length_ami"]
    if comparison.leak is not None and treatment != EXCLUDED:
        row |= {"leak": comparison.leak, "recreates": PADDING_BUGS[comparison.leak].account}
    return row


def about_corpus(corpus: Results) -> list[str]:
    """Return sentences on which rows of a corpus are measured, how they were read, and its rare labels.

    Example:
        >>> facts = {"name": "mine", "rows": 9, "texts": 8, "labels": 3, "notes": [], "dropped": {"without a text": 1}}
        >>> about_corpus(facts | {"rare_labels": {"labels": 0, "texts": 0}})
        ['mine: 8 of 9 rows are measured; left out: 1 without a text.']
    """
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in corpus["dropped"].items())
    left_out = f"; left out: {dropped}" if dropped else ""
    sentences = [f"{corpus['name']}: {corpus['texts']:,} of {corpus['rows']:,} rows are measured{left_out}."]
    sentences += corpus["notes"]
    rare = corpus["rare_labels"]
    if rare["labels"]:
        single = rare["labels"] == 1
        texts = "1 text" if rare["texts"] == 1 else f"{rare['texts']:,} texts"
        sentences.append(
            f"{rare['labels']:,} of {corpus['labels']:,} labels {'has' if single else 'have'} fewer than four texts "
            f"({texts}{'' if single else ' in all'}). {'It is' if single else 'They are'} kept: each half-sample is "
            "clustered into as many clusters as it has labels. Learned poolings are trained and scored without "
            f"{'it' if single else 'them'}."
        )
    return sentences


def about_unmeasured(part: Results) -> list[str]:
    """Say which poolings of a study were not measured on a part, and why.

    Example:
        >>> corpus = {"name": "mine", "labels": 3, "rare_labels": {"labels": 0, "texts": 0}}
        >>> about_unmeasured({"unmeasured": ["attention"], "corpus": corpus})
        ['attention was not measured: it needs four labels with at least four texts each, mine has 3.']
    """
    modes, corpus = part["unmeasured"], part["corpus"]
    if not modes:
        return []
    who = f"{joined(modes)} {'were not measured: they need' if len(modes) > 1 else 'was not measured: it needs'}"
    frequent = corpus["labels"] - corpus["rare_labels"]["labels"]
    # Heads see a sample of a large corpus, which may have fewer labels than the corpus.
    has = f"{corpus['name']} has {frequent}" if frequent < heads.FEWEST_LABELS else "its sample of texts has fewer"
    return [f"{who} four labels with at least four texts each, {has}."]


def lead_plan(plans: Sequence[Results]) -> str:
    """Choose the plan that sentences are about: random batches, as in careless code, or else the first plan.

    Args:
        plans: The plans of a part; plans that are only for leaks are never chosen.
    """
    measured = [plan for plan in plans if not plan["for_leaks_alone"]]
    careless = [plan for plan in measured if (plan["plan"]["order"], plan["plan"]["pad_to"]) == ("random", "longest")]
    return str(min(careless, key=lambda plan: plan["plan"]["side"] != "right", default=measured[0])["name"])


def main_table_of(part: Results) -> Results:
    """Return the table for sentences and figures: the deepest layer under the study's first clusterer.

    Layers counted from the end come before others. If nothing is clustered, the table has no rows.

    Example:
        >>> tables = [{"layer": layer, "by": by, "rows": []} for layer in (0, -1) for by in ("hdbscan", "kmeans")]
        >>> main_table_of({"tables": tables})
        {'layer': -1, 'by': 'hdbscan', 'rows': []}
    """
    clustered = [table for table in part["tables"] if table["by"] != "mixed"]
    nothing: Results = {"layer": -1, "by": UnitKMeans.name, "rows": []}
    return max(clustered, key=lambda table: (table["layer"] < 0, table["layer"]), default=nothing)


def of_layer(row: Results) -> str:
    """Return the suffix of a name that is not about the last layer.

    Example:
        >>> of_layer({"layer": -1}), of_layer({"layer": 0})
        ('', ', layer 0')
    """
    return "" if row["layer"] == -1 else f", layer {row['layer']}"


def of_table(table: Results) -> str:
    """Return the suffix of a name that is not about k-means on the last layer.

    Example:
        >>> of_table({"layer": -1, "by": "kmeans"}), of_table({"layer": 0, "by": "hdbscan"})
        ('', ', layer 0, hdbscan')
    """
    return of_layer(table) + ("" if table["by"] == UnitKMeans.name else f", {table['by']}")


def included_rows(study: Study, part: Results) -> list[Results]:
    """Return the rows of the main table that count as harms: the study's poolings with pads included."""
    return [
        row
        for row in main_table_of(part)["rows"]
        if row["treatment"] == INCLUDED and row["pooling"] in study.poolings and "verdict" in row
    ]


def _conclusions(study: Study, part: Results) -> Results:
    """Return the sentences of a part that a reader needs first."""
    heads = part["learned"]["rows"] if part["learned"] else []
    served = [
        row | {"plan": f"trained {row['trained']}, served {row['served']}"}
        for row in heads
        if row["served"] == "without mask"
    ]
    rows = included_rows(study, part)
    confounded = [plan["name"] for plan in part["plans"] if plan.get("confounded")]
    return {
        "margin": study.margin,
        "unmeasured": [] if part["learned"] else list(study.learned),
        "headline": headline([*rows, *served], study.margin, confounded),
        "shift_headline": shift_headline(rows),
        "advice": advice([*rows, *served], study.margin, confounded),
        "excluded_batches": _excluded_batches(part),
    }


def _excluded_batches(part: Results) -> list[str]:
    """Say what batches do to a text with its pads excluded, as far as it was measured on this model."""
    sentences = {}
    for plan in part["plans"]:
        if plan["name"] not in {effect["plan"] for effect in part["batch_effect"]}:
            continue
        if not plan["run_for_real"]:
            sentences["proof"] = (
                "With pads excluded no batch moves any text: in a sample of batched texts of this model, the states of "
                f"real tokens were those of the text alone up to {part['proof']['difference']:.0e} of their root mean "
                "square, which is rounding."
            )
            continue
        rows = [
            row
            for row in main_table_of(part)["rows"]
            if (row["plan"], row["treatment"]) == (plan["name"], EXCLUDED) and "cosine_shift_max" in row
        ]
        if rows and all(row["verdict"]["kind"] == "identical" for row in rows):
            sentences[plan["name"]] = (
                f"With pads excluded no batch moves any text: {plan['name']} were run for real, and every vector was "
                "that of the text alone."
            )
        elif rows:
            largest = max(abs(row["cosine_shift_max"]) for row in rows)
            sentences[plan["name"]] = (
                f"Also with pads excluded, {plan['name']}, run for real, moved texts by a cosine shift of up to "
                f"{largest:.1e}."
            )
    return list(sentences.values())
