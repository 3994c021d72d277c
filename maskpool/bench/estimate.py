"""What a study would compute, and about how long it would take."""

from __future__ import annotations

import time
import timeit
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from maskpool.bench.draws import FULL
from maskpool.bench.fits import Fit
from maskpool.bench.forward import Pooled, prove_prefix
from maskpool.bench.mixed import FIT, INDEX, nearest_accuracy, predicted_ami
from maskpool.bench.parts import Grid, Part
from maskpool.bench.quality import ami, cluster
from maskpool.bench.run import FLOOR_FITS, jobs_of, own_cells

if TYPE_CHECKING:
    from maskpool.bench.arms import Vectors
    from maskpool.bench.cells import Cells
    from maskpool.plans import Ints


def estimate(part: Part, cells: Cells | None) -> dict[str, Any]:
    """The cells of a part, and an estimate of the seconds that the missing ones take.

    One block of texts goes through the encoder and one clustering of random vectors is timed for each way of
    scoring; nothing is written.

    Args:
        part: One model on one corpus.
        cells: What is finished already; None if nothing is.

    Returns:
        The model and corpus, the number of cells and of finished ones, of texts for the encoder, and seconds.
    """
    proof = prove_prefix(part.encoder, part.ids, part.top, part.study.layers, np.random.default_rng(part.study.seed))
    grid = Grid(part.study, part.plans, proof.holds, part.with_pads())
    keys = [job.key for job in jobs_of(part, grid, Pooled(part.lengths, grid.prefix, Path()))] + own_cells(part)
    missing = [key for key in keys if cells is None or key not in cells]
    fits = [fit for fit in grid.fits() if cells is None or fit.key(part.key) not in cells]
    blocks = part.asked(grid).blocks(part.lengths) if missing else []
    seconds = {"encoder": _encoder_seconds(part, blocks), "fits": _fits_seconds(part, grid, fits)}
    return {
        "model": part.encoder.name,
        "corpus": part.corpus.name,
        "one_pass_for_all_right_padded_plans": proof.holds,
        "cells": len(keys),
        "finished": len(keys) - len(missing),
        "texts_for_the_encoder": sum(texts for texts, _ in blocks),
        "about_seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def _encoder_seconds(part: Part, blocks: list[tuple[int, int]]) -> float:
    if not blocks:
        return 0.0
    texts, width = max(blocks, key=lambda block: block[1])
    began = time.perf_counter()
    part.encoder.layers(part.ids[:texts] * (texts // min(texts, len(part.ids))), part.study.layers, width)
    a_token = (time.perf_counter() - began) / (texts * width)
    return a_token * sum(number * length for number, length in blocks)


def _fits_seconds(part: Part, grid: Grid, fits: list[Fit]) -> float:
    rng = np.random.default_rng(0)
    codes = part.codes[part.draws[1].texts]
    centres = rng.standard_normal((len(np.unique(part.codes)), part.encoder.dimension))
    vectors = (centres[codes] + 1.2 * rng.standard_normal((len(codes), part.encoder.dimension))).astype(np.float32)
    total = 0.0
    floors = Counter(fit.by for fit in grid.references()) if fits else Counter[str]()
    for by, number in Counter(fit.by for fit in fits).items():
        with threadpool_limits(1):  # as each process has
            one = min(timeit.repeat(lambda by=by: _one(by, vectors, codes), number=1, repeat=2))  # type: ignore[misc]
        # A half-sample's seeds; all texts are twice as many, and have their own seeds.
        halves = sum(len(part.draws[fit.draw].seeds) for fit in fits if fit.by == by and fit.draw != FULL)
        wholes = 2 * part.study.seeds * sum(fit.draw == FULL for fit in fits if fit.by == by)
        if by == INDEX:
            halves, wholes = number, 0
        total += one * ((halves + wholes) / joblib.cpu_count() + 2 * FLOOR_FITS * floors[by])
    return total


def _one(by: str, vectors: Vectors, codes: Ints) -> None:
    if by == INDEX:
        nearest_accuracy(vectors, vectors, codes)
    elif by == FIT:
        predicted_ami(vectors, vectors, codes, 0)
    else:
        ami(codes, cluster(vectors, len(np.unique(codes)), 0, by))
