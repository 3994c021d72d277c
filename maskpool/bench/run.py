"""Run a study: from its settings to its finished cells."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL, OTHER_BATCHES
from maskpool.bench.design.treatments import OF_TOP, TREATMENTS
from maskpool.bench.encode.forward import Pooled, Proof, Request, States, pool_corpus, prove_prefix
from maskpool.bench.part import Grid, Part, key_of, versions
from maskpool.bench.paths import check_paths
from maskpool.bench.score import heads
from maskpool.bench.score.batch_effects import batch_effect
from maskpool.bench.score.fits import Comparison, Fit, compute_fits, floor_values
from maskpool.bench.score.measures import baselines, compute_shifts, seconds
from maskpool.bench.store.cells import Cells, Key, content_hash
from maskpool.bench.store.folder import StudyFolder
from maskpool.encoder import Encoder, find_model
from maskpool.errors import InvalidValueError, MaskpoolError, StorageError, rename_arguments
from maskpool.types import Progress

FLOOR_FITS = 10


def check_models(study: Study) -> None:
    """Vet the files of all models of a study: a wrong name of the last one fails before hours of work.

    Args:
        study: What is measured.

    Raises:
        MaskpoolError: A model does not exist, or its files do not fit.
    """
    for name in study.models:
        with rename_arguments({"name": "models"}):
            find_model(name)


def load_corpora(study: Study, base: Path) -> list[Corpus]:
    """Load the texts of a study.

    Args:
        study: What is measured.
        base: The folder that the study's paths are relative to.

    Raises:
        MaskpoolError: A corpus cannot be loaded, or two corpora share a name.
    """
    corpora = [source.load(base, study.seed) for source in study.corpora]
    names = [corpus.name for corpus in corpora]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidValueError("corpora", f"must have different names, but two are called {twice!r}: give one a name")
    return corpora


def load_parts(study: Study, corpora: Sequence[Corpus], device: str) -> Iterator[Part]:
    """Load each model on each corpus, one after the other.

    Args:
        study: What is measured.
        corpora: Its texts.
        device: The device that models run on.

    Raises:
        MaskpoolError: A model cannot be loaded, or does not fit the study.
    """
    for name in study.models:
        with rename_arguments({"name": "models"}):
            encoder = Encoder.load(name, device, study.dtype)
        for corpus in corpora:
            yield Part.of(study, corpus, encoder)


def run_study(study: Study, base: Path, out: StudyFolder, device: str, progress: Progress) -> None:
    """Compute the cells that are missing.

    Args:
        study: What is measured.
        base: The folder that the study's paths are relative to.
        out: The folder of the cells.
        device: The device that models run on.
        progress: Shows the progress.

    Raises:
        MaskpoolError: The corpora, models or settings do not allow it; the message says which.
    """
    check_paths(study.models, [base / source.data for source in study.corpora if source.data], out.path)
    check_models(study)
    corpora = load_corpora(study, base)
    out.refuse_others(study, corpora, versions())
    parts = load_parts(study, corpora, device)
    first = next(parts)  # the folder is not touched until something can be measured
    with out.claim(study, corpora, versions()):
        for part in chain([first], parts):
            _run_part(part, out, progress)


@dataclass(frozen=True)
class Job:
    """Cells that a separate process computes together, because they need the same vectors.

    Attributes:
        keys: Keys of the cells.
        compute: Returns the values of the cells.
        arguments: Its arguments.
    """

    keys: Sequence[Key]
    compute: Callable[..., list[Any]]
    arguments: tuple[Any, ...]


def jobs_of(part: Part, grid: Grid, pooled: Pooled, cells: Cells | None = None) -> list[Job]:
    """List the unfinished cells of a part that are computed from its vectors: shifts, fits, floors and batch effects.

    Args:
        part: One model on one corpus.
        grid: Its comparisons.
        pooled: The vectors, whose files may not exist yet.
        cells: The finished cells; None if there are none.
    """
    plans = {plan.name: plan for plan in part.all_plans}
    full, other = part.subsamples[FULL], part.subsamples[OTHER_BATCHES]
    jobs = []

    def missing(key: Key) -> bool:
        return cells is None or key not in cells

    # The shifts first, because some of these jobs are long.
    shifts: dict[Fit, list[Comparison]] = {}
    for comparison in grid.moved():
        if missing(comparison.shift_key(part.key)):
            shifts.setdefault(replace(comparison.reference(FULL), by=""), []).append(comparison)
    for comparisons in shifts.values():
        subsample = full.only(*(comparison.plan.name for comparison in comparisons))
        keys = [comparison.shift_key(part.key) for comparison in comparisons]
        jobs.append(Job(keys, compute_shifts, (pooled, subsample, comparisons)))
    of_all_seeds: dict[Fit, list[Fit]] = {}
    for fit in grid.fits():
        if missing(fit.key(part.key)):
            of_all_seeds.setdefault(replace(fit, seed=None), []).append(fit)
    for same, fits in of_all_seeds.items():
        subsample, plan = part.subsamples[same.subsample].only(same.plan, same.scored_under), plans.get(same.plan or "")
        keys = [fit.key(part.key) for fit in fits]
        jobs.append(Job(keys, compute_fits, (pooled, part.codes, subsample, fits, plan)))
    for fit in grid.references():
        if missing(key := fit.floor_key(part.key)):
            subsample = full.only(fit.scored_under)
            jobs.append(Job([key], _single, (floor_values, pooled, part.codes, subsample, fit, FLOOR_FITS)))
    for layer, pooling, plan in grid.batch_effects():
        key = key_of(part.study, part.key, "batch_effect", layer=layer, pooling=pooling, plan=plan.name)
        if missing(key):
            subsamples = full.only(plan.name), other.only(plan.name)
            jobs.append(Job([key], _single, (batch_effect, pooled, part.codes, *subsamples, layer, pooling, plan)))
    return jobs


def _single(compute: Callable[..., Any], *arguments: Any) -> list[Any]:  # Any: JSON
    return [compute(*arguments)]


def own_cells(part: Part) -> list[Key]:
    """Return the keys of a part's cells that are not jobs, except its facts and the prefix proof."""
    study = part.study
    keys = [key_of(study, part.key, kind) for kind in ("baselines", "forward")]
    keys += [key_of(study, part.key, "seconds", plan=plan.name) for plan in part.plans]
    return keys + [key for _, _, key in head_cells(part)]


def head_cells(part: Part) -> list[tuple[str, int, Key]]:
    """Return the mode, head seed and key of each cell of learned poolings."""
    seeds = range(part.study.seed, part.study.seed + part.study.seeds)
    return [
        (mode, head_seed, key_of(part.study, part.key, "head", **heads.recipe(mode), head_seed=head_seed))
        for mode in (part.study.learned if part.kept.size else ())
        for head_seed in seeds
    ]


def prefix_proof(part: Part, cells: Cells) -> Proof:
    """Return whether one pass replaces those of all right-padded plans; measured once and kept in a cell."""

    def prove() -> dict[str, Any]:
        rng = np.random.default_rng(part.study.seed)
        return asdict(prove_prefix(part.encoder, part.ids, part.top, part.study.layers, rng))

    return Proof(**cells.once(key_of(part.study, part.key, "proof", top=part.top), prove))


def refuse_other_parts(part: Part, out: StudyFolder) -> None:
    """Check that a folder's cells fit the part: its weights, its plans and, if they depend on it, its longest length.

    Raises:
        InvalidValueError: The folder holds such cells.
    """
    plans = {plan.name for plan in part.all_plans}
    tops = [there["top"] for key, there in out.cells.of_kind("facts") if key["part"] == part.key]
    measured = sorted({key["treatment"] for key, _ in out.cells.of_kind("shift") if key["part"] == part.key})
    at_top = [name for name in measured if name in TREATMENTS and TREATMENTS[name].positions in OF_TOP]
    at_top += [key["pooling"] for key, _ in out.cells.of_kind("head") if key["part"] == part.key]
    if tops and at_top and part.top > max(tops):
        raise InvalidValueError(
            "out",
            f"must be a folder whose longest padded length the study keeps: {', '.join(dict.fromkeys(at_top))} in "
            f"{out.path} were measured with pads up to {max(tops)} tokens, and a plan now pads to {part.top}; choose "
            "another folder",
        )
    for key, there in out.cells.of_kind("facts"):
        same = there["model"]["name"] == part.encoder.name and there["corpus"]["name"] == part.corpus.name
        if same and key["part"] != part.key:
            raise InvalidValueError(
                "out",
                f"must be a folder without another study's cells; those in {out.path} were measured with other "
                f"weights or another tokenizer of {part.encoder.name}: choose another folder",
            )
        changed = [
            head for head, sha256 in there["saved_heads"].items() if part.saved_heads.get(head, sha256) != sha256
        ]
        if changed:
            raise InvalidValueError(
                "out",
                f"must be a folder without another study's cells; those in {out.path} were measured with other weights "
                f"of the head in {changed[0]}: choose another folder",
            )
        lacking = {plan["name"] for plan in there["plans"] if not plan["for_leaks_alone"]} - plans
        if same and lacking:
            raise InvalidValueError(
                "out",
                f"must be a folder whose padding plans the study keeps; {out.path} also has "
                f"{', '.join(sorted(lacking))}, which its report would lose: add these plans to the study, or choose "
                "another folder",
            )


def _run_part(part: Part, out: StudyFolder, progress: Progress) -> None:
    refuse_other_parts(part, out)
    cells, study = out.cells, part.study
    facts = _facts(part, cells)
    with progress.task(f"{part.corpus.name}: proof, TF-IDF, seconds of the plans", 2 + len(part.plans)) as advance:
        proof = prefix_proof(part, cells)
        advance(1)
        cells.once(key_of(study, part.key, "baselines"), lambda: baselines(part.corpus, part.lengths))
        advance(1)
        for plan in part.plans:
            cells.once(
                key_of(study, part.key, "seconds", plan=plan.name),
                partial(seconds, part.encoder, part.ids, plan, part.batches(plan)),
            )
            advance(1)
    grid = Grid(study, part.plans, proof.holds, facts["with_pads"])
    request = part.request(grid)
    # The hash keeps this study from reading vectors that another study pooled from the same texts under other plans.
    scratch = out.vectors / content_hash({"part": part.key, "request": request.sha256})
    jobs = jobs_of(part, grid, Pooled(part.lengths, grid.prefix, scratch), cells)
    if jobs or any(key not in cells for key in own_cells(part)):
        states = _forward(part, request, scratch, cells, progress)
        _run_jobs(part, jobs, cells, progress)
        _train_heads(part, states, cells, progress)
    _quote(part, grid, cells)
    shutil.rmtree(out.vectors, ignore_errors=True)


def _facts(part: Part, cells: Cells) -> dict[str, Any]:
    key, about = key_of(part.study, part.key, "facts"), part.about_corpus()
    facts: dict[str, Any] = cells.once(key, part.facts)
    # The texts may be those of a finished study although their source has other rows that are left out.
    if facts["corpus"] != about:
        facts = facts | {"corpus": about}
        cells.replace(key, facts)
    return facts


def _forward(part: Part, request: Request, scratch: Path, cells: Cells, progress: Progress) -> States:
    total = sum(texts for texts, _ in request.blocks(part.lengths))
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with progress.task(f"{part.corpus.name}: encoder and treatments, up to {request.top} tokens", total) as advance:
            _, states, cost = pool_corpus(part.encoder, part.ids, request, scratch, advance)
    except MaskpoolError:
        raise
    except OSError as error:
        raise StorageError(
            f"must be a writable folder; the vectors could not be written to {scratch}: {error.strerror or error}; "
            "make room and run the study again, which resumes from there",
            argument="out",
        ) from error
    cells.once(
        key_of(part.study, part.key, "forward"),
        lambda: {"encoder_seconds": cost.encoder, "treatments_seconds": cost.treatments, "texts": total},
    )
    return states


def _run_jobs(part: Part, jobs: list[Job], cells: Cells, progress: Progress) -> None:
    # Processes, because k-means holds Python's lock for most of its time on data of this size.
    with (
        progress.task(f"{part.corpus.name}: clusters and shifts", sum(len(job.keys) for job in jobs)) as advance,
        joblib.parallel_config("loky", inner_max_num_threads=1),
    ):
        work = (joblib.delayed(_timed)(job.compute, job.arguments) for job in jobs)
        for job, (values, took) in zip(jobs, joblib.Parallel(n_jobs=-1, return_as="generator")(work), strict=True):
            for key, value in zip(job.keys, values, strict=True):
                cells.add(key, value, took / len(values))
                advance(1)


def _timed(compute: Callable[..., list[Any]], arguments: tuple[Any, ...]) -> tuple[list[Any], float]:
    began = time.perf_counter()
    return compute(*arguments), time.perf_counter() - began


def _quote(part: Part, grid: Grid, cells: Cells) -> None:
    """Keep the texts that the report quotes, if it may."""
    if not (part.study.quote or part.corpus.demonstration):
        return
    for layer, pooling, plan in grid.batch_effects():
        names = {"layer": layer, "pooling": pooling, "plan": plan.name}
        effect = cells[key_of(part.study, part.key, "batch_effect", **names)]
        cells.once(key_of(part.study, part.key, "quotes", **names), partial(_quotes, effect, part.corpus))


def _quotes(effect: dict[str, Any], corpus: Corpus) -> dict[str, list[str]]:
    rows = {
        row for example in effect["examples"] for row in (example["text"], *chain.from_iterable(example["neighbours"]))
    }
    return {str(row): [corpus.texts[row], corpus.labels[row]] for row in sorted(rows)}


def _train_heads(part: Part, states: States, cells: Cells, progress: Progress) -> None:
    missing = [(mode, head_seed, key) for mode, head_seed, key in head_cells(part) if key not in cells]
    if not missing:
        return
    with progress.task(f"{part.corpus.name}: learned poolings", 2 * len(missing)) as advance:
        for mode, head_seed, key in missing:
            codes = part.codes[part.kept]
            cells.once(key, partial(heads.measure_head, mode, states, codes, head_seed, lambda: advance(1)))
