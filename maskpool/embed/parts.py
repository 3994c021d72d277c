"""Write the parts of an output folder, and list those that are finished.

A part is one Parquet file for one slice, written next to its place and renamed: a file with the name of a part is
complete. ``parts.jsonl`` repeats the summary of each part with the hash of its file; it can be rebuilt from the parts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maskpool.embed.settings import Dtype
from maskpool.errors import StorageError
from maskpool.files import atomic_write

JOURNAL = "parts.jsonl"
_SUMMARY = b"maskpool"  # the key of the summary in a part's metadata


@dataclass(frozen=True)
class PartSummary:
    """What a part holds, and what became of the rows of its slice.

    Attributes:
        number: The number of the part and of its slice.
        first_row: The number of the first row of the slice.
        input_rows: The rows of the slice, broken lines included.
        rows: The rows of the part.
        bad: Broken lines, which are left out.
        dropped: Rows without a text that are left out.
        missing: Rows without a text that are kept, without a vector.
        failed: The rows whose texts could not be embedded, with the reason; they have no vector.
        truncated: Texts that were cut off at the largest number of tokens.
        tokens: Tokens of all texts.
        positions: Tokens and pads of all batches.
        sha256: Hash of the file.
    """

    number: int
    first_row: int
    input_rows: int
    rows: int
    bad: int
    dropped: int
    missing: int
    failed: tuple[tuple[int, str], ...]
    truncated: int
    tokens: int
    positions: int
    sha256: str = ""


def not_written(out: Path, error: OSError) -> StorageError:
    """Return the error for an output folder that cannot be written, such as on a full disk."""
    return StorageError(
        f"{out} cannot be written ({error.strerror or error}): finished parts are kept, and the same call resumes",
        argument="out",
    )


def part_name(number: int) -> str:
    """Return the file name of a part.

    Example:
        >>> part_name(12)
        'part-000012.parquet'
    """
    return f"part-{number:06d}.parquet"


def schema(dimension: int, dtype: Dtype, ids: bool) -> Any:  # Any: pyarrow ships no types
    """Return the Arrow schema of every part of a run.

    Args:
        dimension: The width of a vector.
        dtype: The dtype of a vector.
        ids: Whether rows have ids.
    """
    import pyarrow as pa

    element = pa.field("element", pa.float32() if dtype == "float32" else pa.float16(), nullable=False)
    fields = [pa.field("id", pa.string())] if ids else []
    return pa.schema(
        [
            *fields,
            pa.field("row", pa.int64(), nullable=False),
            pa.field("vector", pa.list_(element, dimension)),
            pa.field("tokens", pa.int32()),
            pa.field("truncated", pa.bool_(), nullable=False),
        ]
    )


def write_part(
    out: Path,
    summary: PartSummary,
    ids: Sequence[str | None] | None,
    rows: Sequence[int],
    vectors: np.ndarray[tuple[int, int], Any],  # Any: float32 or float16
    has_vector: np.ndarray[tuple[int], np.dtype[np.bool_]],
    tokens: np.ndarray[tuple[int], np.dtype[np.int32]],
    truncated: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> PartSummary:
    """Write one part, in one row group.

    Args:
        out: The output folder.
        summary: What the part holds.
        ids: The id of each row; None if the run has no ids.
        rows: The number of each row.
        vectors: (rows, dim), in the dtype of the run.
        has_vector: Whether each row has a vector.
        tokens: The number of tokens of each text; negative for a row without a text.
        truncated: Whether each text was cut off.

    Returns:
        The summary with the hash of the file.

    Raises:
        OSError: The file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    dtype: Dtype = "float32" if vectors.dtype == np.float32 else "float16"
    layout = schema(vectors.shape[1], dtype, ids is not None)
    field = layout.field("vector").type
    values = pa.array(vectors.reshape(-1), type=field.value_type)
    columns = [
        *([] if ids is None else [pa.array(ids, type=pa.string())]),
        pa.array(rows, type=pa.int64()),
        pa.FixedSizeListArray.from_arrays(values, type=field, mask=pa.array(~has_vector)),
        pa.array(tokens, mask=tokens < 0),
        pa.array(truncated),
    ]
    written = asdict(replace(summary, sha256=""))
    table = pa.Table.from_arrays(columns, schema=layout.with_metadata({_SUMMARY: json.dumps(written)}))
    with atomic_write(out / part_name(summary.number)) as temporary:
        # Vectors do not compress, and nobody asks for their smallest value.
        plain = ["id", "row", "tokens", "truncated"]
        names = [name for name in layout.names if name in plain]
        pq.write_table(
            table,
            temporary,
            row_group_size=max(1, len(rows)),
            compression="none",
            use_dictionary=False,
            write_statistics=names,
        )
        digest = sha256_of(temporary)
    return replace(summary, sha256=digest)


def read_summary(path: Path) -> PartSummary:
    """Read the summary of a part from its file.

    Raises:
        ValueError: The file is not a part.
    """
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    if _SUMMARY not in metadata:
        raise ValueError(f"{path.name} is not a part")
    return replace(_summary_of(json.loads(metadata[_SUMMARY])), sha256=sha256_of(path))


def finished_parts(out: Path) -> dict[int, PartSummary]:
    """Return the summaries of the finished parts of a folder by their numbers, and note those not yet noted.

    A file that is not a readable part is left out: its slice is embedded again.
    """
    known = read_journal(out)
    names = {path.name for path in out.glob("part-*.parquet")}
    finished = {number: summary for number, summary in known.items() if part_name(number) in names}
    for name in sorted(names - {part_name(number) for number in finished}):
        with suppress(ValueError, TypeError, KeyError, OSError):  # pyarrow's errors derive from these
            summary = read_summary(out / name)
            if name == part_name(summary.number):
                finished[summary.number] = summary
                note_part(out, summary)
    return finished


def read_journal(out: Path) -> dict[int, PartSummary]:
    """Return the summaries that ``parts.jsonl`` lists, by number; a line that was not fully written is left out."""
    known = {}
    with suppress(FileNotFoundError):
        for line in (out / JOURNAL).read_text("utf-8").splitlines():
            with suppress(ValueError, TypeError):
                summary = _summary_of(json.loads(line))
                known[summary.number] = summary
    return known


def note_part(out: Path, summary: PartSummary) -> None:
    """Add a part to ``parts.jsonl``."""
    with (out / JOURNAL).open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed run wrote a part of a line
                file.write(b"\n")
        file.write(_line(summary))


def write_journal(out: Path, summaries: Iterable[PartSummary]) -> None:
    """Write ``parts.jsonl`` again, in the order of the parts."""
    with atomic_write(out / JOURNAL) as temporary:
        temporary.write_bytes(b"".join(map(_line, sorted(summaries, key=lambda summary: summary.number))))


def _line(summary: PartSummary) -> bytes:
    return json.dumps(asdict(summary)).encode() + b"\n"


def _summary_of(fields: dict[str, Any]) -> PartSummary:
    failed = tuple((int(row), str(reason)) for row, reason in fields["failed"])
    return PartSummary(**(fields | {"failed": failed}))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
