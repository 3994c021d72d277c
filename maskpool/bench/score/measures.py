"""Measurements other than fits: shifts of vectors, seconds in the encoder, and scores of trivial baselines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.kmeans import fit_kmeans
from maskpool.bench.design.subsamples import OTHER_SEEDS, Subsample
from maskpool.bench.design.treatments import INCLUDED
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.score.fits import Comparison, alone_vectors, treatment_vectors
from maskpool.bench.score.metrics import score
from maskpool.bench.score.shift import Floats, Neighbourhoods, cosine_shift, deciles, length_leakage, neighbours_kept
from maskpool.bench.vectors import Vectors
from maskpool.encoder import Encoder
from maskpool.plans import Ints, Plan
from maskpool.tolerances import IDENTICAL

_FRACTION_BINS = 10
TIMED_TEXTS = 96
# Words of two or more characters (scikit-learn's default); without any, words of one; without any, characters.
_TERMS: tuple[dict[str, str], ...] = ({}, {"token_pattern": r"(?u)\b\w+\b"}, {"analyzer": "char"})


def compute_shifts(pooled: Pooled, subsample: Subsample, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Measure how far treatments move the vectors of a subsample's texts, which are searched for neighbours once.

    Args:
        pooled: The vectors.
        subsample: The texts.
        comparisons: Comparisons with the same vectors of texts alone.

    Returns:
        For each comparison the cosine shift (mean, 95th percentile, largest), mean ratio of the vectors' lengths, share
        of neighbours kept, and whether all vectors are identical to those of the texts alone up to rounding;
        for treatments that score all texts also Spearman's correlation of shift and pad fraction, and for the included
        treatment the shift in bins of the pad fraction.
    """
    first = comparisons[0]
    alone = alone_vectors(pooled, subsample, first.layer, first.pooling, first.scored_under)
    neighbourhoods = Neighbourhoods(alone)
    return [_shift(pooled, subsample, comparison, alone, neighbourhoods) for comparison in comparisons]


def _shift(
    pooled: Pooled, subsample: Subsample, comparison: Comparison, alone: Vectors, neighbourhoods: Neighbourhoods
) -> dict[str, Any]:
    plan = comparison.plan
    vectors = treatment_vectors(pooled, subsample, comparison.layer, comparison.pooling, comparison.treatment, plan)
    shift = cosine_shift(alone, vectors)
    sizes = np.linalg.norm(vectors, axis=1) / np.maximum(np.linalg.norm(alone, axis=1), np.finfo(np.float32).tiny)
    measured: dict[str, Any] = {
        "cosine_shift": float(shift.mean()),
        "cosine_shift_p95": float(np.quantile(shift, 0.95)),
        "cosine_shift_max": float(shift.max()),
        "length_ratio": float(sizes.mean()),
        "neighbours_kept": float(neighbours_kept(neighbourhoods, vectors).mean()),
        "identical": bool((np.linalg.norm(vectors - alone, axis=1) <= IDENTICAL * np.linalg.norm(alone, axis=1)).all()),
    }
    if comparison.scored_under is None:
        fraction = 1 - pooled.lengths[subsample.texts] / subsample.widths[plan.name]
        measured["shift_by_padding"] = length_leakage(shift, fraction)
        if comparison.treatment == INCLUDED:
            measured["by_pad_fraction"] = _by_fraction(fraction, shift)
    return measured


def _by_fraction(fraction: Floats, shift: Floats) -> list[dict[str, Any]]:
    """Summarise the cosine shift in equal bins of the pad fraction, leaving out empty bins."""
    bins = np.minimum((fraction * _FRACTION_BINS).astype(int), _FRACTION_BINS - 1)
    return [
        {
            "pad_fraction": float(fraction[bins == number].mean()),
            "texts": int(np.sum(bins == number)),
            "p5": float(np.quantile(shift[bins == number], 0.05)),
            "mean": float(shift[bins == number].mean()),
            "p95": float(np.quantile(shift[bins == number], 0.95)),
        }
        for number in np.unique(bins)
    ]


def seconds(
    encoder: Encoder, ids: Sequence[Sequence[int]], plan: Plan, batches: Sequence[tuple[Ints, int]]
) -> dict[str, Any]:
    """Estimate the encoder's seconds under a plan from batches spread evenly over its padded lengths.

    Args:
        encoder: The model.
        ids: Token ids of each text.
        plan: The plan.
        batches: The texts of each batch of the plan, and the length to which they are padded.
    """
    batches = sorted(batches, key=lambda batch: batch[1])
    number = min(len(batches), max(2, TIMED_TEXTS // plan.batch_size))
    chosen = [batches[place] for place in np.linspace(0, len(batches) - 1, number).round().astype(int)]
    began = time.perf_counter()
    for texts, width in chosen:
        encoder.layers([ids[text] for text in texts], (-1,), width, plan.side)
    took = time.perf_counter() - began
    tokens = sum(len(texts) * width for texts, width in chosen)
    total = sum(len(texts) * width for texts, width in batches)
    return {"seconds": took * total / tokens, "timed_batches": number, "batches": len(batches)}


def tfidf_of(texts: Sequence[str]) -> csr_matrix:
    """Compute the TF-IDF of the words of texts, or of their characters if no text has a word."""
    tfidf: csr_matrix
    for terms in _TERMS:
        with suppress(ValueError):  # an empty vocabulary
            tfidf = TfidfVectorizer(sublinear_tf=True, **terms).fit_transform(texts)
            break
    return tfidf


def baselines(corpus: Corpus, lengths: Ints) -> dict[str, Any]:
    """Score two trivial methods: k-means on TF-IDF, and the deciles of the lengths as clusters.

    Args:
        corpus: The texts and labels.
        lengths: Tokens of each text.
    """
    codes, tfidf = corpus.codes, tfidf_of(corpus.texts)
    scores = [score(codes, fit_kmeans(tfidf, len(np.unique(codes)), seed).labels) for seed in range(OTHER_SEEDS)]
    return {
        "tfidf": {name: float(np.mean([of_seed[name] for of_seed in scores])) for name in scores[0]},
        "length_deciles": score(codes, deciles(lengths)),
    }
