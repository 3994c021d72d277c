"""Verify an output folder: every row of the input once, and every byte of every part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskpool.embed.parts import JOURNAL, PartSummary, part_name, read_journal, sha256_of
from maskpool.embed.reading import open_manifest


@dataclass(frozen=True)
class VerifyReport:
    """What is wrong with an output folder.

    Attributes:
        out: The folder.
        parts: Its parts.
        rows: The rows of its parts.
        vectors: The rows that have a vector.
        problems: Each problem as a sentence that names the part; empty if every row is there once and every hash is
            right.
    """

    out: str
    parts: int
    rows: int
    vectors: int
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report in values that JSON can hold."""
        return asdict(self)


def verify_embeddings(out: str | os.PathLike[str]) -> VerifyReport:
    """Read every part of a run, count its rows exactly, and compare its hash with the one noted when it was written.

    The texts are not embedded again and the input is not read.

    Args:
        out: The folder of the run.

    Returns:
        The counts, and every problem.

    Raises:
        NotFoundError: The folder is not one of a run.
        FolderError: Its manifest is malformed.
    """
    folder = Path(out)
    manifest = open_manifest(folder)
    journal = read_journal(folder)
    expected = [part_name(number) for number in range(manifest["parts"])]
    problems = [f"{path.name} is not a part of this run" for path in _others(folder, set(expected))]
    parts = rows = vectors = 0
    first_row: int | None = 0  # unknown behind a part that is not noted
    for number, name in enumerate(expected):
        summary = journal.get(number)
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif summary is None:
            problems.append(f"{name} has no line in {JOURNAL}: the call that began the run adds it")
        else:
            if first_row is not None and summary.first_row != first_row:
                problems.append(f"{name} begins with row {summary.first_row}, expected {first_row}")
            counts, wrong = _check_part(folder / name, summary)
            problems += wrong
            parts, rows, vectors = parts + 1, rows + counts[0], vectors + counts[1]
        first_row = summary.first_row + summary.input_rows if summary is not None else None
    if first_row is not None and first_row != manifest["rows"]:
        problems.append(f"the parts cover {first_row} rows of {manifest['rows']}")
    return VerifyReport(str(folder), parts, rows, vectors, tuple(problems))


def _others(folder: Path, expected: set[str]) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("*.parquet")) if path.name not in expected)


def _check_part(path: Path, summary: PartSummary) -> tuple[tuple[int, int], list[str]]:
    """Return the number of rows and vectors of a part, and what is wrong with it."""
    import pyarrow.parquet as pq

    problems = []
    if sha256_of(path) != summary.sha256:
        problems.append(f"{path.name} has other bytes than were written: delete it and run the same call again")
    try:
        table = pq.read_table(path, columns=["row", "vector"])
    except Exception as error:  # pyarrow raises many types for damaged files
        return (0, 0), [*problems, f"{path.name} cannot be read: {next(iter(str(error).splitlines()), '')}"]
    numbers = table.column("row").to_numpy()
    vectors = table.num_rows - table.column("vector").null_count
    name = path.name
    values, times = np.unique(numbers, return_counts=True)
    problems += [f"{name} has row {row} {count} times" for row, count in zip(values, times, strict=True) if count > 1]
    outside = values[(values < summary.first_row) | (values >= summary.first_row + summary.input_rows)]
    problems += [f"{name} has row {row}, which is not of its slice" for row in outside]
    if len(values) < summary.rows:
        problems.append(f"{name} has {len(values)} different rows, expected {summary.rows}")
    without = summary.missing + len(summary.failed)
    if not problems and vectors != summary.rows - without:
        problems.append(f"{name} has {vectors} vectors, expected {summary.rows - without}")
    return (table.num_rows, vectors), problems
