"""A study, from its settings to its cells."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL, OTHER_BATCHES
from maskpool.bench.encode.forward import Pooled, Proof, Request, States, pool_corpus, prove_prefix
from maskpool.bench.part import Grid, Part, versions
from maskpool.bench.score import heads
from maskpool.bench.score.batch_effects import batch_effect
from maskpool.bench.score.fits import compute_fit, floor_values
from maskpool.bench.score.measures import baselines, compute_shift, seconds
from maskpool.bench.store.cells import Cells, Key, content_hash
from maskpool.bench.store.folder import StudyFolder
from maskpool.encoder import Encoder
from maskpool.errors import InvalidValueError, MaskpoolError, StorageError, rename_arguments

FLOOR_FITS = 10


class Progress(Protocol):
    """Shows how far long work has come."""

    def task(self, description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begin a piece of work of ``total`` steps; the function that it gives counts them."""


def load_corpora(study: Study, base: Path) -> list[Corpus]:
    """The texts of a study.

    Args:
        study: What is measured.
        base: What the study's files are relative to.

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
    """Each model on each corpus, loaded one after the other.

    Args:
        study: What is measured.
        corpora: Its texts.
        device: Where models run.

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
        base: What the study's files are relative to.
        out: Where cells lie.
        device: Where models run.
        progress: Shows how far it has come.

    Raises:
        MaskpoolError: The corpora, models or settings do not allow it; the message says which.
    """
    corpora = load_corpora(study, base)
    out.refuse_others(study, corpora, versions())
    parts = load_parts(study, corpora, device)
    first = next(parts)  # the folder is left alone until something can be measured
    with out.claim(study, corpora, versions()):
        for part in chain([first], parts):
            _run_part(part, out, progress)


@dataclass(frozen=True)
class Job:
    """A cell that a process of its own can compute from pooled vectors."""

    key: Key
    compute: Callable[..., Any]
    arguments: tuple[Any, ...]


def jobs_of(part: Part, grid: Grid, pooled: Pooled) -> list[Job]:
    """The cells of a part that are made from its vectors: fits, the full data first; floors, shifts, batch-mates.

    Args:
        part: One model on one corpus.
        grid: Its comparisons.
        pooled: Where the vectors lie, or will lie.
    """
    plans = {plan.name: plan for plan in part.all_plans}
    full, other = part.subsamples[FULL], part.subsamples[OTHER_BATCHES]
    found = []
    for fit in grid.fits():
        subsample = part.subsamples[fit.subsample].only(fit.plan, fit.scored_under)
        found.append(
            Job(fit.key(part.key), compute_fit, (pooled, part.codes, subsample, fit, plans.get(fit.plan or "")))
        )
    for fit in grid.references():
        key = {name: value for name, value in asdict(fit).items() if name not in ("subsample", "treatment", "plan")}
        arguments = (pooled, part.codes, full.only(fit.scored_under), fit, FLOOR_FITS)
        found.append(Job({"kind": "floor", "part": part.key, **key}, floor_values, arguments))
    for one in grid.moved():
        key = {"layer": one.layer, "pooling": one.pooling, "plan": one.plan.name, "treatment": one.treatment}
        found.append(
            Job({"kind": "shift", "part": part.key, **key}, compute_shift, (pooled, full.only(one.plan.name), one))
        )
    for layer, pooling, plan in grid.batch_effects():
        key = {"layer": layer, "pooling": pooling, "plan": plan.name}
        subsamples = full.only(plan.name), other.only(plan.name)
        found.append(
            Job(
                {"kind": "batch_effect", "part": part.key, **key},
                batch_effect,
                (pooled, part.codes, *subsamples, layer, pooling, plan),
            )
        )
    return found


def own_cells(part: Part) -> list[Key]:
    """The keys of a part's cells that are no jobs, but for its facts and the proof."""
    kinds: list[dict[str, Any]] = [{"kind": "baselines"}, {"kind": "forward"}]
    kinds += [{"kind": "seconds", "plan": plan.name} for plan in part.plans]
    kinds += [heads.key_of(mode) for mode in part.study.learned] if part.kept.size else []
    return [{**kind, "part": part.key} for kind in kinds]


def prefix_proof(part: Part, cells: Cells) -> Proof:
    """Whether one pass stands for every right-padded plan, found out once."""

    def prove() -> dict[str, Any]:
        rng = np.random.default_rng(part.study.seed)
        found = prove_prefix(part.encoder, part.ids, part.top, part.study.layers, rng)
        return asdict(found)

    return Proof(**cells.once({"kind": "proof", "part": part.key}, prove))


def refuse_other_weights(part: Part, out: StudyFolder) -> None:
    """See that the folder holds no cells of another model of this name.

    Raises:
        InvalidValueError: It does.
    """
    for key, there in out.cells.of_kind("facts"):
        same = there["model"]["name"] == part.encoder.name and there["corpus"]["name"] == part.corpus.name
        if same and key["part"] != part.key:
            raise InvalidValueError(
                "out",
                f"must be a folder without another study's cells; those in {out.path} were measured with other "
                f"weights or another tokenizer of {part.encoder.name}: choose another folder",
            )


def _run_part(part: Part, out: StudyFolder, progress: Progress) -> None:
    refuse_other_weights(part, out)
    cells = out.cells
    facts = cells.once({"kind": "facts", "part": part.key}, part.facts)
    with progress.task(f"{part.corpus.name}: proof, TF-IDF, seconds of the plans", 2 + len(part.plans)) as advance:
        proof = prefix_proof(part, cells)
        advance(1)
        cells.once({"kind": "baselines", "part": part.key}, lambda: baselines(part))
        advance(1)
        for plan in part.plans:
            cells.once({"kind": "seconds", "part": part.key, "plan": plan.name}, partial(seconds, part, plan))
            advance(1)
    grid = Grid(part.study, part.plans, proof.holds, facts["with_pads"])
    request = part.request(grid)
    # Vectors that another study left there, of the same texts under other plans, are not this one's.
    scratch = out.vectors / content_hash({"part": part.key, "request": request.sha256})
    jobs = [job for job in jobs_of(part, grid, Pooled(part.lengths, grid.prefix, scratch)) if job.key not in cells]
    if jobs or any(key not in cells for key in own_cells(part)):
        states = _forward(part, request, scratch, cells, progress)
        _run_jobs(part, jobs, cells, progress)
        _train_heads(part, states, cells, progress)
    shutil.rmtree(out.vectors, ignore_errors=True)


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
            f"must be a folder that can be written; vectors could not be, in {scratch}: {error.strerror or error}; "
            "make room and run the study again, which resumes from there",
            argument="out",
        ) from error
    cells.once(
        {"kind": "forward", "part": part.key},
        lambda: {"encoder_seconds": cost.encoder, "treatments_seconds": cost.treatments, "texts": total},
    )
    return states


def _run_jobs(part: Part, jobs: list[Job], cells: Cells, progress: Progress) -> None:
    # Processes, because k-means holds Python's lock for most of its time on data of this size.
    with (
        progress.task(f"{part.corpus.name}: clusters and shifts", len(jobs)) as advance,
        joblib.parallel_config("loky", inner_max_num_threads=1),
    ):
        work = (joblib.delayed(_timed)(job.compute, job.arguments) for job in jobs)
        for job, (value, took) in zip(jobs, joblib.Parallel(n_jobs=-1, return_as="generator")(work), strict=True):
            if job.key["kind"] == "batch_effect" and part.study.quote:
                value |= _quotes(value, part.corpus)
            cells.add(job.key, value, took)
            advance(1)


def _timed(compute: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    began = time.perf_counter()
    return compute(*arguments), time.perf_counter() - began


def _quotes(found: dict[str, Any], corpus: Corpus) -> dict[str, Any]:
    rows = {row for one in found["examples"] for row in (one["text"], *chain.from_iterable(one["neighbours"]))}
    return {"quotes": {str(row): [corpus.texts[row], corpus.labels[row]] for row in sorted(rows)}}


def _train_heads(part: Part, states: States, cells: Cells, progress: Progress) -> None:
    if not part.kept.size:
        return
    total = 2 * heads.HEAD_SEEDS * len(part.study.learned)
    with progress.task(f"{part.corpus.name}: learned poolings", total) as advance:
        for mode in part.study.learned:
            cells.once(
                {**heads.key_of(mode), "part": part.key},
                partial(
                    heads.two_by_two,
                    *(mode, states, part.codes[part.kept], part.study.seeds, part.study.seed),
                    lambda: advance(1),
                ),
            )
