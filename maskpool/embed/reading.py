"""Read the vectors of an output folder, as Arrow, numpy, torch or pandas, without Python's lists in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from maskpool.embed.manifest import MANIFEST, read_manifest
from maskpool.embed.parts import part_name
from maskpool.errors import NotFoundError, RequirementError, UnfinishedError, rename_arguments

Floats: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.floating[Any]]]  # Any: of 16 or 32 bits
Ints: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Ids: TypeAlias = np.ndarray[tuple[int], np.dtype[np.object_]]


class EmbeddedRows(NamedTuple):
    """The rows of a part, or of a whole corpus, that have a vector.

    Attributes:
        vectors: (rows, dim), in the dtype of the run.
        rows: int64, (rows,): the number of each row, counted from 0 over the whole input.
        ids: The id of each row as a string; None if the run has no ids.
    """

    vectors: Floats
    rows: Ints
    ids: Ids | None


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a finished run.

    Attributes:
        folder: The folder of the run.
        manifest: The content of its ``run.json``: the model, the settings, the versions and the inputs.
    """

    folder: Path
    manifest: dict[str, Any] = field(repr=False)

    @property
    def dimension(self) -> int:
        """The width of a vector."""
        return int(self.manifest["model"]["vector_dimension"])

    @property
    def paths(self) -> list[Path]:
        """The files of the parts, in the order of the input."""
        return [self.folder / part_name(number) for number in range(self.manifest["parts"])]

    @property
    def dataset(self) -> Any:  # Any: pyarrow ships no types
        """The parts as a ``pyarrow.dataset.Dataset``: id (if the run has ids), row, vector, tokens, truncated.

        Rows without a text or whose text could not be embedded have a null vector.
        """
        import pyarrow.dataset

        return pyarrow.dataset.dataset([str(path) for path in self.paths], format="parquet")

    def by_part(self) -> Iterator[EmbeddedRows]:
        """Read one part after another, in the order of the input; memory holds one part.

        Rows without a vector are left out.

        Yields:
            The rows of a part that have a vector. The arrays are read-only.
        """
        import pyarrow.parquet as pq

        for path in self.paths:
            yield _vectors(pq.read_table(path))

    def numpy(self) -> EmbeddedRows:
        """Read the whole corpus into one array, part by part; rows without a vector are left out."""
        count = self.dataset.count_rows()
        vectors = np.empty((count, self.dimension), self.manifest["dtype"])
        rows = np.empty(count, np.int64)
        ids = None if self.manifest["id_column"] is None else np.empty(count, np.object_)
        stop = 0
        for part in self.by_part():
            start, stop = stop, stop + len(part.rows)
            vectors[start:stop], rows[start:stop] = part.vectors, part.rows
            if ids is not None:
                ids[start:stop] = part.ids
        return EmbeddedRows(vectors[:stop], rows[:stop], None if ids is None else ids[:stop])

    def torch(self) -> Any:  # a torch.Tensor; torch is imported on first use
        """Read the vectors of the whole corpus into one tensor on the CPU, (rows with a vector, dim)."""
        import torch

        return torch.from_numpy(self.numpy().vectors)

    def pandas(self) -> Any:  # Any: pandas is optional
        """Read the whole corpus into a ``pandas.DataFrame`` whose columns are Arrow's; vectors may be missing.

        Raises:
            RequirementError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise RequirementError("pandas is not installed; get it with: pip install pandas") from None
        return self.dataset.to_table().to_pandas(types_mapper=pd.ArrowDtype)


def read_embeddings(out: str | os.PathLike[str]) -> Embeddings:
    """Open the folder of a finished run of `embed_corpus`; vectors are read when they are asked for.

    Args:
        out: The folder.

    Raises:
        NotFoundError: The folder is not one of a run.
        FolderError: Its manifest is malformed.
        UnfinishedError: Parts are missing.

    Example::

        for vectors, rows, ids in read_embeddings("vectors").by_part():
            kmeans.partial_fit(vectors)
    """
    folder = Path(out)
    manifest = open_manifest(folder)
    missing = [number for number in range(manifest["parts"]) if not (folder / part_name(number)).is_file()]
    if missing:
        raise UnfinishedError(
            f"{folder} has {manifest['parts'] - len(missing)} of {manifest['parts']} parts, {part_name(missing[0])} is "
            "missing: the call that began the run finishes it"
        )
    return Embeddings(folder, manifest)


def open_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder that must be one of a run.

    Raises:
        NotFoundError: It is not.
        FolderError: The manifest is malformed.
    """
    with rename_arguments({"out": "folder"}):
        manifest = read_manifest(folder)
    if manifest is None:
        raise NotFoundError(f"{folder} must be a folder that maskpool embed has written, but it has no {MANIFEST}")
    return manifest


def _vectors(table: Any) -> EmbeddedRows:  # Any: pyarrow ships no types
    table = table.filter(table.column("vector").is_valid()).combine_chunks()
    lists = table.column("vector")
    width = lists.type.list_size
    # A filtered table has one chunk, or none if no row is left.
    chunks = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in lists.chunks]
    empty = np.zeros(0, lists.type.value_type.to_pandas_dtype())
    values = chunks[0] if len(chunks) == 1 else np.concatenate([empty, *chunks])
    names = table.column("id").to_numpy() if "id" in table.column_names else None
    return EmbeddedRows(values.reshape(-1, width), table.column("row").to_numpy(), names)
