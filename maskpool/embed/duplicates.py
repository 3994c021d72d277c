"""Find ids that occur more than once, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

COMPARED = 2**21  # ids; eight bytes each for its hash and for its row


def repeated_ids(paths: Sequence[Path]) -> tuple[list[int], bool]:
    """Return the rows whose id an earlier row has.

    The first 2,097,152 ids are compared with each other; those behind them only with the ids of their part.

    Args:
        paths: The parts, in order.

    Returns:
        The numbers of the rows, and whether all ids were compared with each other.
    """
    import pyarrow.parquet as pq

    repeated: list[int] = []
    hashes: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    compared, complete = 0, True
    for path in paths:
        table = pq.read_table(path, columns=["id", "row"])
        table = table.filter(table.column("id").is_valid())
        # Python's hash of a string has 64 bits: two of two million ids share one with a probability of 1e-7.
        of_part = np.fromiter(map(hash, table.column("id").to_pylist()), np.int64, table.num_rows)
        numbers = table.column("row").to_numpy()
        complete = complete and compared + len(of_part) <= COMPARED
        if complete:
            hashes.append(of_part)
            rows.append(numbers)
            compared += len(of_part)
        else:
            repeated += _later(of_part, numbers)
    if hashes:
        repeated += _later(np.concatenate(hashes), np.concatenate(rows))
    return sorted(repeated), complete


def _later(
    hashes: np.ndarray[tuple[int], np.dtype[np.int64]], rows: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> list[int]:
    """Return the rows of all but the first occurrence of each hash."""
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    return [int(row) for row in rows[order[again]]]
