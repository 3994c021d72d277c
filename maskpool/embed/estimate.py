"""Estimate how long a run takes and how much it writes, from a sample of its texts."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np

from maskpool.embed.run import EmbedEstimate
from maskpool.embed.settings import Settings
from maskpool.embed.sources import SlicePlan, read_slice
from maskpool.embed.worker import batches
from maskpool.integrations.transformers import SentenceEmbedder

_SLICES, _TEXTS_A_SLICE = 8, 32


def estimate(plan: SlicePlan, finished: set[int], embedder: SentenceEmbedder, settings: Settings) -> EmbedEstimate:
    """Embed a sample of the texts of a run, and compute from it what the run takes.

    Args:
        plan: The slices of the run.
        finished: The numbers of the finished parts.
        embedder: The embedder of `maskpool.embed.worker.open_embedder`.
        settings: The settings of the run.
    """
    places = np.unique(np.linspace(0, len(plan.slices) - 1, _SLICES).astype(int))
    texts = [
        row.text
        for place in places
        for row in islice(read_slice(plan.slices[place], settings), _TEXTS_A_SLICE)
        if row.text is not None
    ]
    ids, _ = embedder.encoder.tokenize(texts)
    lengths = np.array([len(tokens) for tokens in ids], np.int64)
    planned = list(batches(lengths, settings.token_budget))
    for batch in planned[:1]:  # the first call of a model is slow
        embedder.embed_tokens([ids[place] for place in batch])
    start = time.perf_counter()
    embedder.encoder.tokenize(texts)
    for batch in planned:
        embedder.embed_tokens([ids[place] for place in batch])
    seconds = (time.perf_counter() - start) / max(1, len(texts))
    rows = sum(piece.rows for piece in plan.slices if piece.number not in finished)
    return EmbedEstimate(
        files=len(plan.files),
        rows=plan.rows,
        parts=len(plan.slices),
        finished=len(finished),
        tokens_per_text=float(lengths.mean()) if len(lengths) else 0.0,
        about_seconds=seconds * rows,
        about_bytes=plan.rows * embedder.dimension * np.dtype(settings.dtype).itemsize,
    )
