"""Libraries that open a saved model by its path compute what the table of clients says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import clients
from benchmarks.clients import CLIENTS, Client, Opening, Outcome, outcome, outcomes
from benchmarks.server_readers import MODES
from tests.once import once

ENVIRONMENTS = os.environ.get("MASKPOOL_CLIENTS", "")
HOST = Client(
    "sentence-transformers",
    "sentence-transformers",
    "",
    "from sentence_transformers import SentenceTransformer",
    "client.encode(texts)",
    (
        Opening("SentenceTransformer(FOLDER, device='cpu')", Outcome.SAME, Outcome.REFUSED),
        Opening("SentenceTransformer(FOLDER, device='cpu', trust_remote_code=True)", Outcome.SAME, Outcome.SAME),
    ),
    "",
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[tuple[str, str], Path]:
    """Return the saved models, which no test changes."""
    made = once(tmp_path_factory, "clients", lambda folder: clients.save(folder, model_folder))
    return {key: clients.place(made, *key) for key in clients.KEYS}


def _wrong(client: Client, program: str, folders: dict[tuple[str, str], Path]) -> Iterator[str]:
    for opening, kind, mode, result, vectors in outcomes(client, program, folders):
        if result is not opening.expected(kind, mode):
            yield f"{opening.call}, {kind} {mode}: {result.value}; {str(vectors)[:200]}"
        if result is Outcome.REFUSED and "trust_remote_code" not in vectors:
            yield f"{opening.call}, {kind} {mode} fails for another reason: {vectors}"


@pytest.mark.full  # test_outcomes is the short form: each client loads 14 models for each way to open them
@pytest.mark.parametrize("name", CLIENTS)
def test_clients_compute_what_the_table_says(name: str, folders: dict[tuple[str, str], Path]) -> None:
    """Each way to open a folder gives the outcome of the table for every mode, in the real client."""
    program = clients.interpreter(ENVIRONMENTS, name)
    if not ENVIRONMENTS or program is None:
        environment = f"{ENVIRONMENTS or '$MASKPOOL_CLIENTS'}/{name}"
        pytest.skip(f"needs an environment {environment} with pip install {CLIENTS[name].packages}")
    assert list(_wrong(CLIENTS[name], str(program), folders)) == []


@pytest.mark.full  # test_outcomes is the short form
def test_a_client_that_pools_otherwise_is_found(folders: dict[tuple[str, str], Path]) -> None:
    """The comparison agrees with sentence-transformers itself, and finds one whose pooling is always the mean."""
    assert list(_wrong(HOST, sys.executable, folders)) == []
    by_mean = replace(
        HOST,
        vectors="(setattr(client[1], 'pooling_mode', 'mean'), client.encode(texts))[1]",
        openings=HOST.openings[:1],
    )
    wrong = list(_wrong(by_mean, sys.executable, folders))
    assert {line.partition("host ")[2].partition(":")[0] for line in wrong} == {*MODES} - {"mean"}


def test_six_clients_open_every_mode_by_path() -> None:
    """At least six clients open all modes of sentence-transformers by a path only, with the vectors of encode."""
    by_path = {
        name
        for name, client in CLIENTS.items()
        for opening in client.openings
        if "load(" not in opening.call and all(opening.expected("host", mode) is Outcome.SAME for mode in MODES)
    }
    assert len(by_path) >= 6


@pytest.mark.parametrize(
    ("vectors", "result"),
    [
        ([[3.0, 4.0]], Outcome.SAME),
        ([[3.0, 4.00002]], Outcome.OTHER),
        ([[0.6, 0.8]], Outcome.UNIT),
        ([[0.8, 0.6]], Outcome.OTHER),
        ([[float("nan"), 4.0]], Outcome.OTHER),
        ([[3.0, 4.0, 0.0]], Outcome.OTHER),
        ("ValueError: no such model", Outcome.REFUSED),
    ],
)
def test_outcomes(vectors: Any, result: Outcome) -> None:
    """Vectors are equal to 1e-5, equal once they have unit length, others, or a message in their place."""
    assert outcome(vectors, np.array([[3.0, 4.0]])) is result
