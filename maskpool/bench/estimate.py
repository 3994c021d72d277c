"""Estimates of what a study would compute and how long it would take."""

from __future__ import annotations

import time
import timeit
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from maskpool.bench.design.clusterers import UnitKMeans
from maskpool.bench.design.kmeans import fit_kmeans
from maskpool.bench.design.subsamples import FULL, OTHER_SEEDS, REPLICATE_SEEDS
from maskpool.bench.encode.forward import Pooled, States, prove_prefix
from maskpool.bench.part import Grid, Part
from maskpool.bench.run import FLOOR_FITS, jobs_of, own_cells
from maskpool.bench.score import heads
from maskpool.bench.score.fits import Fit
from maskpool.bench.score.measures import TIMED_TEXTS, tfidf_of
from maskpool.bench.score.scorers import SCORERS
from maskpool.bench.score.shift import Neighbourhoods, neighbours_kept
from maskpool.bench.store.cells import Cells
from maskpool.bench.vectors import Vectors
from maskpool.plans import Ints

_SAMPLE = 128  # texts that are timed where the time grows with their number


def estimate(part: Part, cells: Cells | None) -> dict[str, Any]:
    """Count the cells of a part and estimate the seconds that the missing ones take.

    Runs one block of texts through the encoder, times one clustering of random vectors for each way of scoring, and
    times one measurement of each other kind on a sample. Writes nothing.

    Args:
        part: One model on one corpus.
        cells: The finished cells; None if there are none.

    Returns:
        The model, the corpus, the numbers of cells, finished cells and texts for the encoder, and the seconds.
    """
    proof = prove_prefix(part.encoder, part.ids, part.top, part.study.layers, np.random.default_rng(part.study.seed))
    grid = Grid(part.study, part.plans, proof.holds, part.with_pads())
    jobs = jobs_of(part, grid, Pooled(part.lengths, grid.prefix, Path()))
    keys = [*(key for job in jobs for key in job.keys), *own_cells(part)]
    missing = [key for key in keys if cells is None or key not in cells]
    fits = [fit for fit in grid.fits() if cells is None or fit.key(part.key) not in cells]
    blocks = part.request(grid).blocks(part.lengths) if missing else []
    missing_kinds = Counter(key["kind"] for key in missing)
    timed = [min(TIMED_TEXTS, len(part.ids)) * part.subsamples[FULL].widths[plan.name].mean() for plan in part.plans]
    a_token = _seconds_a_token(part, blocks)
    seconds = {
        "encoder": a_token * sum(texts * width for texts, width in blocks),
        "fits": _fits_seconds(part, grid, fits),
        "other": a_token * float(np.mean(timed)) * missing_kinds["seconds"] + _other_seconds(part, missing_kinds),
    }
    return {
        "model": part.encoder.name,
        "corpus": part.corpus.name,
        "one_pass_for_all_right_padded_plans": proof.holds,
        "cells": len(keys),
        "finished": len(keys) - len(missing),
        "texts_for_the_encoder": sum(texts for texts, _ in blocks),
        "about_seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def _seconds_a_token(part: Part, blocks: list[tuple[int, int]]) -> float:
    if not blocks:
        return 0.0
    texts, width = max(blocks, key=lambda block: block[1])
    began = time.perf_counter()
    part.encoder.layers(part.ids[:texts] * (texts // min(texts, len(part.ids))), part.study.layers, width)
    return (time.perf_counter() - began) / (texts * width)


def _fits_seconds(part: Part, grid: Grid, fits: list[Fit]) -> float:
    vectors, codes = _vectors(part)
    total = 0.0
    floors = Counter(fit.by for fit in grid.references()) if fits else Counter[str]()
    for by in {fit.by for fit in fits}:
        with threadpool_limits(1):  # as each process has
            a_half = min(timeit.repeat(lambda by=by: _fit(by, vectors, codes), number=1, repeat=2))  # type: ignore[misc]
        # The timed fits have as many texts and seeds as a half-sample; fits of all texts take twice as long.
        halves = sum(fit.by == by and fit.subsample != FULL for fit in fits)
        whole = [fit for fit in fits if fit.by == by and fit.subsample == FULL]
        wholes = 2 * (len(whole) + FLOOR_FITS * floors[by]) / REPLICATE_SEEDS
        if not SCORERS[by].seeded:
            # A search serves all seeds. Every pair of texts is compared, so twice as many take four times as long.
            wholes = 4 * (len({replace(fit, seed=None) for fit in whole}) + FLOOR_FITS * floors[by])
        total += a_half * (halves + wholes)
    return float(total / joblib.cpu_count())


def _vectors(part: Part) -> tuple[Vectors, Ints]:
    """Make random vectors, as many as a half-sample has, that k-means needs as many steps for as for real ones."""
    rng = np.random.default_rng(0)
    codes = part.codes[part.subsamples[1].texts]
    centres = rng.standard_normal((len(np.unique(part.codes)), part.encoder.dimension))
    vectors = (centres[codes] + 2.5 * rng.standard_normal((len(codes), part.encoder.dimension))).astype(np.float32)
    return vectors, codes


def _other_seconds(part: Part, missing: Counter[str]) -> float:
    """Estimate roughly the seconds of neighbours, batch effects, TF-IDF and heads."""
    vectors, codes = _vectors(part)
    total = 0.0
    if missing["shift"] + missing["batch_effect"]:
        neighbourhoods = Neighbourhoods(vectors)
        list(neighbourhoods.blocks())
        # Every pair of texts is compared, so twice as many texts take four times as long.
        a_search = 4 * _timed(lambda: neighbours_kept(neighbourhoods, vectors))
        total += a_search * (missing["shift"] + 2 * missing["batch_effect"]) / joblib.cpu_count()
    if missing["batch_effect"]:
        a_half = _timed(lambda: _fit(UnitKMeans.name, vectors, codes))
        total += a_half * 2 * (2 * OTHER_SEEDS + 1) / REPLICATE_SEEDS * missing["batch_effect"] / joblib.cpu_count()
    if missing["baselines"]:
        tfidf = tfidf_of(part.corpus.texts)
        some = min(tfidf.shape[0], 8 * _SAMPLE)
        clusters = min(len(np.unique(part.codes)), some)
        total += OTHER_SEEDS * tfidf.shape[0] / some * _timed(lambda: fit_kmeans(tfidf[:some], clusters, 0))
    if missing["head"]:
        some = min(len(part.kept), _SAMPLE)
        labels = np.arange(some) % min(len(np.unique(part.codes)), some // 2)
        mask = torch.arange(part.top) < torch.from_numpy(part.lengths[part.kept[:some]]).unsqueeze(1)
        states = States(part.kept[:some], torch.randn(some, part.top, part.encoder.dimension), mask)
        for mode in part.study.learned:
            a_sample = _timed(partial(heads.measure_head, mode, states, labels, part.study.seed, lambda: None))
            total += a_sample * len(part.kept) / some * missing["head"] / len(part.study.learned)
    return total


def _timed(act: Callable[[], object]) -> float:
    return min(timeit.repeat(act, number=1, repeat=1))


def _fit(by: str, vectors: Vectors, codes: Ints) -> None:
    SCORERS[by].scores(vectors, vectors, codes, range(REPLICATE_SEEDS))
