"""The planted bugs appear in the probes that they name, and the clean pipelines are clean."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.fresh_plants import CLEAN, CLEAN_ORACLES, HALF_PRECISION, PLANTS, Array, Build, Oracle, Pipeline, Plant
from tests.hosts import needs
from tests.matrix import sampled

SHORT = "the cat sat near the old mill"
MIDDLE = "a good teacher explains the same idea in more than one way every day"
LONG = (
    "when the rain finally stopped we walked along the river to the village and bought some bread from a baker "
    "who knew our names"
)
EQUAL = [SHORT, "small boats cross the wide grey lake", "my brother paints the fence every spring"]
RAGGED = [SHORT, LONG, MIDDLE]
AGAIN = [MIDDLE, "we met at noon", "she never answered the letter from her uncle in the city"]
# Embedded before AGAIN: a batch of the same shape with other lengths, and longer texts.
EARLIER = ([MIDDLE, MIDDLE, MIDDLE], [LONG, LONG, LONG])


def run(pipeline: Pipeline, texts: list[str]) -> Array:
    if isinstance(pipeline, SentenceTransformer):
        vectors: Any = pipeline.encode(texts, batch_size=len(texts))
    elif isinstance(pipeline, tuple):
        model, tokenizer, pool = pipeline
        with torch.no_grad():
            batch = tokenizer(texts, padding=True, return_tensors="pt")
            vectors = pool(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()
    else:
        vectors = pipeline(texts)
    assert len(vectors) == len(texts)
    return np.asarray(vectors)


def distance(pipeline: Pipeline, texts: list[str], oracle: Oracle) -> float:
    """Return the largest difference from the oracle, relative to its root mean square; NaN counts as infinite."""
    expected = np.stack([oracle(text) for text in texts])
    relative = np.abs(run(pipeline, texts) - expected).max() / np.sqrt((expected**2).mean())
    return float(np.nan_to_num(relative, nan=np.inf))


def distances(plant: Plant, build: Build, oracle: Oracle) -> dict[str, float]:
    """Return the distance in each probe; a plant with state is built again for each and embeds a second list."""
    pipeline, keeps_state = build(), "again" in plant.shows

    def measure(*texts: str, after: tuple[list[str], ...] = ()) -> float:
        fresh = build() if keeps_state else pipeline
        for earlier in after:
            run(fresh, earlier)
        return distance(fresh, list(texts), oracle)

    by_probe = {
        "alone": max(measure(SHORT), measure(LONG)),
        "padded": measure(*RAGGED),
        "equal": measure(*EQUAL),
    }
    return by_probe | {"again": measure(*AGAIN, after=EARLIER)} if keeps_state else by_probe


@pytest.mark.parametrize("plant", sampled(PLANTS, every=2), ids=lambda plant: plant.name)
def test_plant(plant: Plant) -> None:
    """A plant differs from the oracle exactly in the probes that it names, and its clean twin in none."""
    oracle = functools.cache(plant.oracle)
    wrong = distances(plant, plant.wrong, oracle)
    assert all(value < 1e-5 or value > 1e-3 for value in wrong.values()), wrong
    assert {probe for probe, value in wrong.items() if value > 1e-3} == plant.shows, wrong
    clean = distances(plant, plant.clean, oracle)
    assert max(clean.values()) < 1e-5, clean


_NEED_NEWER_HOSTS = {
    "st_weighted_left": needs("sentence-transformers", "6.2", "older hosts count weightedmean from pads on the left")
}


@pytest.mark.parametrize(
    ("name", "build"),
    [
        pytest.param(name, build, id=name, marks=_NEED_NEWER_HOSTS.get(name, ()))
        for name, build in sampled(CLEAN, every=2)
    ],
)
def test_clean(name: str, build: Build) -> None:
    """A clean pipeline agrees with its oracle, or with itself on single texts, up to the noise of its dtype."""
    pipeline = build()
    oracle = functools.cache(CLEAN_ORACLES.get(name, lambda text: run(pipeline, [text])[0]))
    bound = 0.1 if name in HALF_PRECISION else 1e-5
    for texts in (RAGGED, EQUAL, [SHORT], RAGGED):
        assert distance(pipeline, texts, oracle) < bound


def test_names() -> None:
    """Names are unique, every plant describes its bug, and the number of plants is as documented."""
    names = [plant.name for plant in PLANTS] + [name for name, _ in CLEAN]
    assert len(set(names)) == len(names)
    assert len(PLANTS) >= 24
    assert len(CLEAN) >= 30
    assert all(plant.what.endswith(".") and plant.answer and plant.shows and plant.verdicts for plant in PLANTS)
