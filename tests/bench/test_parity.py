"""The numbers of `maskpool bench`, made again with stock libraries from plans that are really run."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, v_measure_score

from maskpool.bench.store.cells import Cells
from maskpool.encoder import BUNDLED, bundled_folder_of
from tests.bench import tiny
from tests.command import draw_nothing, run, use_one_process
from tests.hosts import MeanOverPads

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors

BANKING77 = Path(__file__).parents[3] / "shared" / "data" / "banking77" / "test.csv"
SORTED, RANDOM, FIXED = "sorted batches of 32", "random batches of 32", "padded to {}"
SEEDS = 3


@torch.inference_mode()
def mean_of(model: SentenceTransformer, texts: list[str], **padding: Any) -> Vectors:
    """Run one batch as the documentation of transformers does, and average every position."""
    transformer: Any = model[0]
    batch = model.tokenizer(texts, truncation=True, return_tensors="pt", **padding)
    vectors: Vectors = transformer.auto_model(**batch).last_hidden_state.mean(1).numpy()
    return vectors


def stock_vectors(texts: list[str], width: int) -> dict[str, Vectors]:
    """Embed texts with stock sentence-transformers and transformers: each text alone, and under the default plans."""
    model = SentenceTransformer(bundled_folder_of(BUNDLED), device="cpu")
    stock = SentenceTransformer(modules=[model[0], MeanOverPads()], device="cpu")
    order = np.random.default_rng([0, 1, zlib.crc32(RANDOM.encode())]).permutation(len(texts))
    shuffled = [
        mean_of(model, [texts[text] for text in order[start : start + 32]], padding=True)
        for start in range(0, len(texts), 32)
    ]
    whole = {"padding": "max_length", "max_length": width}
    return {
        "alone": stock.encode(texts, batch_size=1),
        SORTED: stock.encode(texts, batch_size=32),
        RANDOM: np.concatenate(shuffled)[np.argsort(order)],
        FIXED.format(width): np.concatenate(
            [mean_of(model, texts[at : at + 32], **whole) for at in range(0, len(texts), 32)]
        ),
    }


def scores(vectors: Vectors, labels: list[str]) -> list[dict[str, float]]:
    """Cluster vectors of unit length with stock k-means, one start for each seed, and score each seed's clusters."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    clusters = [KMeans(len(set(labels)), n_init=1, random_state=seed).fit(unit).labels_ for seed in range(SEEDS)]
    return [
        {
            "ami": float(adjusted_mutual_info_score(labels, of_seed)),
            "v_measure": float(v_measure_score(labels, of_seed)),
        }
        for of_seed in clusters
    ]


def naive_neighbours(vectors: Vectors) -> tuple[list[set[int]], list[bool]]:
    """Sort all other texts by cosine for each text; return its ten nearest, and whether the tenth is tied."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest, tied = [], []
    for text in range(len(unit)):
        similar = unit @ unit[text]
        similar[text] = -np.inf
        order = np.argsort(-similar)
        nearest.append(set(order[:10].tolist()))
        tied.append(bool(similar[order[9]] - similar[order[10]] < 1e-5))
    return nearest, tied


def assert_parity(data: Path, folder: Path, label: str, width: int) -> None:
    """Compare the cells of a study of the default plans with stock numbers, and print the largest differences."""
    study = folder / "asked.toml"
    study.write_text(
        f'poolings = ["mean"]\ntreatments = ["included"]\nseeds = {SEEDS}\nreplicates = 2\npad_to = {width}\n'
        f'[[corpora]]\ndata = "{data}"\nlabel_column = "{label}"\n'
    )
    ran = run("bench", "--study", study, "--out", folder / "out")
    assert ran.code == 0, ran.err
    cells = Cells(folder / "out" / "cells.jsonl")
    fits = {
        (key["plan"], key["seed"]): value["scores"]
        for key, value in cells.of_kind("fit")
        if key["subsample"] == 0 and key["treatment"] in ("included", "excluded") and key["scored_under"] is None
    }
    moved = {key["plan"]: value for key, value in cells.of_kind("shift") if key["treatment"] == "included"}
    with data.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts, labels = [row["text"] for row in rows], [row[label] for row in rows]
    vectors = stock_vectors(texts, width)
    near, tied = naive_neighbours(vectors["alone"])
    largest = {"ami": 0.0, "v_measure": 0.0, "cosine_shift": 0.0, "neighbours_kept": 0.0}
    for plan in (None, SORTED, RANDOM, FIXED.format(width)):
        for seed, stock in enumerate(scores(vectors[plan or "alone"], labels)):
            for name, value in stock.items():
                largest[name] = max(largest[name], abs(value - fits[plan, seed][name][0]))
    for plan in (SORTED, RANDOM, FIXED.format(width)):
        alone, there = (
            both.astype(np.float64) / np.linalg.norm(both, axis=1, keepdims=True)
            for both in (vectors["alone"], vectors[plan])
        )
        shift = float(np.mean(1 - (alone * there).sum(1)))
        largest["cosine_shift"] = max(largest["cosine_shift"], abs(shift - moved[plan]["cosine_shift"]))
        near_there, tied_there = naive_neighbours(vectors[plan])
        kept = np.mean([len(a & b) / len(a | b) for a, b in zip(near, near_there, strict=True)])
        difference = abs(float(kept) - moved[plan]["neighbours_kept"])
        assert difference <= np.mean(np.array(tied) | tied_there) + 1e-9
        largest["neighbours_kept"] = max(largest["neighbours_kept"], difference)
        assert not moved[plan]["identical"]
    assert max(largest[name] for name in ("ami", "v_measure", "cosine_shift")) < 1e-6, largest
    print(f"largest differences from stock libraries: {largest}")


def test_a_small_study_equals_stock_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AMI, V, shift and neighbours kept are those of stock libraries on batches that are really run."""
    use_one_process(monkeypatch)
    draw_nothing(monkeypatch)
    rows = sorted(tiny.make_texts(40, longest=8), key=lambda row: row[1])
    # Blanks and letters of several bytes count as characters, by which texts are sorted.
    rows = [(text + " é" * (place % 3) + " " * (place % 7), label) for place, (text, label) in enumerate(rows)]
    assert_parity(tiny.write_csv(tmp_path / "texts.csv", rows), tmp_path, "label", 40)


@pytest.mark.full  # the test above is its short form
def test_banking77_equals_stock_libraries(tmp_path: Path) -> None:
    """On BANKING77's test split the numbers are those of stock libraries."""
    if not BANKING77.is_file():
        pytest.skip("needs BANKING77's test.csv in ../shared/data/banking77")
    assert_parity(BANKING77, tmp_path, "category", 128)
