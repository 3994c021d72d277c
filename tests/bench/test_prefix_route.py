"""One pass gives the same vectors as real batches, for every pooling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskpool import build_pooling
from maskpool.bench.design import corpora
from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL
from maskpool.bench.design.treatments import EXCLUDED, INCLUDED
from maskpool.bench.encode.forward import pool_corpus, prove_prefix
from maskpool.bench.part import Grid, Part
from maskpool.bench.score.fits import treatment_vectors
from maskpool.encoder import Encoder
from maskpool.nn import POOLINGS, MedianPooling
from maskpool.plans import Plan
from tests.bench import tiny

MODES = tuple(mode for mode, layer in POOLINGS.items() if not layer.learns and not layer.required_options())


def ten_plans(fixed: int) -> tuple[Plan, ...]:
    """Make right-padded plans; the last two pad to a fixed length, which exceeds the longest text."""
    return (
        Plan("random", 32),
        Plan("random", 8),
        Plan("random", 16, multiple_of=8),
        Plan("natural", 32),
        Plan("natural", 7),
        Plan("sorted", 32),
        Plan("sorted", 8),
        Plan("sorted", 16, multiple_of=8),
        Plan("sorted", 32, fixed),
        Plan("random", 8, fixed, multiple_of=16),
    )


def largest_difference(encoder: Encoder, corpus: Corpus, fixed: int, folder: Path) -> dict[str, float]:
    """Return, for each pooling, the largest relative distance of a text's vector from that of its real batch.

    Every batch is padded to its longest text and run, and a layer pools it with its mask or with ones.
    """
    study = Study(poolings=MODES, plans=ten_plans(fixed), treatments=(INCLUDED,))
    part = Part.of(study, corpus, encoder)
    subsample = part.subsamples[FULL]
    assert prove_prefix(encoder, part.ids, part.top, study.layers, np.random.default_rng(0)).holds
    request = part.request(Grid(study, part.plans, prefix=True, with_pads=()))
    blocks = request.blocks(part.lengths)
    assert {width for _, width in blocks} == {part.top}
    assert sum(texts for texts, _ in blocks) == len(part.ids), "each text is run once"
    pooled, _, _ = pool_corpus(encoder, part.ids, request, folder, lambda texts: None)
    largest = dict.fromkeys(MODES, 0.0)
    for plan in part.plans:
        vectors = {
            (mode, treatment): treatment_vectors(pooled, subsample, -1, mode, treatment, plan)
            for mode in MODES
            for treatment in (EXCLUDED, INCLUDED)
        }
        for batch, width in plan.batches(part.lengths, subsample.rng(plan.name), part.characters):
            ids = torch.full((len(batch), width), encoder.pad_token_id)
            mask = torch.zeros_like(ids)
            for row, text in enumerate(batch):
                ids[row, : part.lengths[text]] = torch.tensor(part.ids[text])
                mask[row, : part.lengths[text]] = 1
            with torch.no_grad():
                states = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
                for (mode, treatment), harness in vectors.items():
                    given = mask if treatment == EXCLUDED else torch.ones_like(mask)
                    batched = build_pooling(mode)(states, given).double()
                    error = (torch.from_numpy(harness[batch]).double() - batched).norm(dim=1) / batched.norm(dim=1)
                    largest[mode] = max(largest[mode], float(error.max()))
    return largest


@pytest.mark.full  # every pooling; one runs by default in test_forward
def test_every_pooling_is_that_of_really_run_batches(encoder: Encoder, tmp_path: Path) -> None:
    """Under ten plans, every pooling gives the same vectors from one pass as from each batch at its width."""
    texts, labels = zip(*tiny.make_texts(70), strict=True)
    differences = largest_difference(encoder, Corpus("colours", list(texts), list(labels)), 48, tmp_path)
    assert max(differences.values()) < 1e-5, differences


# Rounding in float32 moves single states of this model by up to 2.6e-5 from their float64 values in any run; averages
# over positions move by less than 5e-6.
@pytest.mark.full  # the test above is its short form
@pytest.mark.parametrize(
    ("dtype", "bound", "bound_of_single_states"), [("float64", 1e-6, 1e-6), ("float32", 1e-5, 3e-5)]
)
def test_every_pooling_of_the_bundled_model_is_that_of_really_run_batches(
    tmp_path: Path, dtype: str, bound: float, bound_of_single_states: float
) -> None:
    """The same holds for all-MiniLM-L6-v2 on a hundred docstrings, apart from float32 noise."""
    corpus = corpora.docstrings()
    short = [place for place, text in enumerate(corpus.texts) if len(text) < 400][::7][:100]
    some = Corpus("docstrings", [corpus.texts[place] for place in short], [corpus.labels[place] for place in short])
    differences = largest_difference(Encoder.load(dtype=dtype), some, 160, tmp_path)
    single = {mode: differences.pop(mode) for mode in ("cls", "lasttoken", MedianPooling.mode)}
    assert max(differences.values()) < bound, differences
    assert max(single.values()) < bound_of_single_states, single
