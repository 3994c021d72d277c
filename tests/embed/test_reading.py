"""Reading vectors back, and verifying a folder."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from maskpool import embed_corpus, read_embeddings, verify_embeddings
from maskpool.embed.parts import read_journal, sha256_of, write_journal
from maskpool.errors import NotFoundError, UnfinishedError
from maskpool.integrations.transformers import SentenceEmbedder
from tests.command import assert_refused, content, run
from tests.embed.conftest import ROWS, texts
from tests.once import once

PART_ROWS = 7
MISSING = (3, 7, 8, 9, 10, 11, 12, 13, 30)  # a whole part among them


@pytest.fixture(scope="session")
def gaps(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Return a folder of parts whose input has rows without a text, and whose ids repeat."""

    def make(folder: Path) -> None:
        rows = [
            {"id": f"d{number % 50}", "text": None if number in MISSING else text}
            for number, text in enumerate(texts())
        ]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        embed_corpus(folder / "data.jsonl", folder / "out", model, id_column="id", part_rows=PART_ROWS)

    return once(tmp_path_factory, "embed-gaps", make) / "out"


@pytest.fixture
def copy(gaps: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder that a test may damage."""
    out = tmp_path / "out"
    out.mkdir()
    for name, value in content(gaps).items():
        (out / name).write_bytes(value)
    return out


def expected(model: Path) -> tuple[list[int], Any]:
    rows = [row for row in range(ROWS) if row not in MISSING]
    return rows, SentenceEmbedder(model).embed([texts()[row] for row in rows])


def test_every_view_has_the_same_vectors(gaps: Path, model: Path) -> None:
    """Arrow, numpy by parts and whole, torch and pandas give the same vectors for the same rows."""
    rows, vectors = expected(model)
    embeddings = read_embeddings(gaps)
    whole = embeddings.numpy()
    np.testing.assert_allclose(whole.vectors, vectors, rtol=0, atol=1e-5)
    assert whole.vectors.dtype == np.float32
    assert whole.rows.tolist() == rows
    assert whole.ids is not None
    assert whole.ids.tolist() == [f"d{row % 50}" for row in rows]
    parts = list(embeddings.by_part())
    assert [len(part.rows) for part in parts][:2] == [6, 0]
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in parts]), whole.vectors)
    assert np.concatenate([part.rows for part in parts]).tolist() == rows
    tensor = embeddings.torch()
    assert (tensor.dtype, tensor.shape) == (torch.float32, (len(rows), embeddings.dimension))
    np.testing.assert_array_equal(tensor.numpy(), whole.vectors)
    frame = embeddings.pandas()
    assert list(frame.columns) == ["id", "row", "vector", "tokens", "truncated"]
    assert frame["vector"].isna().sum() == len(MISSING)
    assert frame["tokens"].isna().sum() == len(MISSING)
    table = embeddings.dataset.to_table()
    assert table.num_rows == ROWS
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float not null>[32]"


def test_vectors_are_read_without_a_copy(gaps: Path) -> None:
    """The vectors of a part are the buffer that Arrow has read, not a list of Python's floats."""
    assert all(not part.vectors.flags.owndata for part in read_embeddings(gaps).by_part())


def test_repeated_ids_are_reported(gaps: Path, copy: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose id an earlier row has are counted and named; beyond the limit only those of one part."""
    source = gaps.parent / "data.jsonl"
    report = embed_corpus(source, copy, model, id_column="id", part_rows=PART_ROWS)
    assert (report.repeated_ids, report.repeated_in) == (10, tuple(range(50, 60)))
    assert (report.missing, report.vectors, report.new_parts) == (len(MISSING), ROWS - len(MISSING), 0)
    monkeypatch.setattr("maskpool.embed.duplicates.COMPARED", 20)
    report = embed_corpus(source, copy, model, id_column="id", part_rows=PART_ROWS)
    assert report.repeated_ids == 0
    assert any("were compared only with those of their part" in note for note in report.notes)


def test_rows_without_a_text_can_be_left_out(gaps: Path, model: Path, tmp_path: Path) -> None:
    """drop_missing leaves out rows without a text, counts them, and keeps the numbers of the others."""
    source = gaps.parent / "data.jsonl"
    report = embed_corpus(source, tmp_path / "out", model, drop_missing=True, part_rows=PART_ROWS)
    assert (report.missing, report.dropped, report.vectors) == (0, len(MISSING), ROWS - len(MISSING))
    rows = read_embeddings(tmp_path / "out").dataset.to_table().column("row").to_pylist()
    assert rows == expected(model)[0]
    assert verify_embeddings(tmp_path / "out").problems == ()


def test_an_unfinished_folder_is_refused(copy: Path) -> None:
    """A folder without all of its parts, or without a manifest, is refused."""
    (copy / "part-000002.parquet").unlink()
    with pytest.raises(UnfinishedError, match=r"has 8 of 9 parts, part-000002\.parquet is missing"):
        read_embeddings(copy)
    with pytest.raises(NotFoundError, match=r"has no run\.json"):
        read_embeddings(copy.parent)


def test_a_right_folder_is_verified(gaps: Path) -> None:
    """A finished folder has no problems; the command says so and ends with exit code 0."""
    report = verify_embeddings(gaps)
    assert (report.problems, report.rows, report.vectors, report.parts) == ((), ROWS, ROWS - len(MISSING), 9)
    ran = run("embed", "--verify", gaps)
    assert ran.code == 0
    assert ran.out.startswith("9 parts, 60 rows, 51 vectors: every row is there once")


def test_any_changed_byte_is_found(copy: Path) -> None:
    """A changed byte anywhere in a part is found, and the part is named."""
    chance = random.Random(0)
    part = copy / "part-000004.parquet"
    right = part.read_bytes()
    for place in chance.sample(range(len(right)), 30):
        part.write_bytes(right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :])
        problems = verify_embeddings(copy).problems
        assert problems[0].startswith("part-000004.parquet has other bytes than were written"), place
    assert_refused(run("embed", "--verify", copy), f"{copy}: part-000004.parquet has other bytes than were written.*")


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Return what rewrites a part with other rows, and notes its new hash as the right one."""

    def rewrite(out: Path) -> None:
        table = pq.read_table(out / name)
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), out / name)
        journal = read_journal(out)
        number = int(name[5:11])
        journal[number] = replace(journal[number], sha256=sha256_of(out / name))
        write_journal(out, journal.values())

    return rewrite


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing row": (
        changed("part-000003.parquet", lambda table: table.slice(1)),
        "part-000003.parquet has 6 different rows, expected 7",
    ),
    "a doubled row": (
        changed("part-000003.parquet", lambda table: pa.concat_tables([table, table.slice(2, 1)])),
        "part-000003.parquet has row 23 2 times",
    ),
    "a row of another part": (
        changed(
            "part-000003.parquet",
            lambda table: table.set_column(1, table.schema.field("row"), pa.array([5, *range(22, 28)])),
        ),
        "part-000003.parquet has row 5, which is not of its slice",
    ),
    "a lost vector": (
        changed(
            "part-000003.parquet",
            lambda table: table.set_column(2, table.schema.field("vector"), pa.nulls(7, table.schema.field(2).type)),
        ),
        "part-000003.parquet has 0 vectors, expected 7",
    ),
    "a missing part": (lambda out: (out / "part-000003.parquet").unlink(), "part-000003.parquet is missing"),
    "a part too many": (
        lambda out: (out / "part-000009.parquet").write_bytes((out / "part-000003.parquet").read_bytes()),
        "part-000009.parquet is not a part of this run",
    ),
    "a part of another slice": (
        lambda out: write_journal(out, [part for part in read_journal(out).values() if part.number != 3]),
        "part-000003.parquet has no line in parts.jsonl: the call that began the run adds it",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(name: str, copy: Path) -> None:
    """Damage to the rows of a part is found even if its hash is right, and the command ends with exit code 2."""
    damage, problem = DAMAGE[name]
    damage(copy)
    assert verify_embeddings(copy).problems == (problem,)
    assert_refused(run("embed", "--verify", copy), f"{copy}: {problem}")
    as_json = run("embed", "--verify", copy, "--json")
    assert (as_json.code, json.loads(as_json.out)["problems"]) == (2, [problem])


def test_a_part_that_is_not_noted_is_read_back(copy: Path, gaps: Path, model: Path) -> None:
    """A finished part without a line in parts.jsonl is not embedded again; the line is restored."""
    (copy / "parts.jsonl").write_bytes((copy / "parts.jsonl").read_bytes()[:-500])
    report = embed_corpus(gaps.parent / "data.jsonl", copy, model, id_column="id", part_rows=PART_ROWS)
    assert report.new_parts == 0
    assert content(copy) == content(gaps)
