"""Cells: results that are computed once and stored one per line."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from maskpool.errors import FolderError, StorageError
from maskpool.trust import Folder

# A key or a value is JSON: numbers, strings, lists and dictionaries of them.
Key: TypeAlias = Mapping[str, Any]


def content_hash(key: Key) -> str:
    """Hash the key of a cell, independent of the order of its names.

    Example:
        >>> content_hash({"treatment": "noise", "subsample": 3}) == content_hash({"subsample": 3, "treatment": "noise"})
        True
    """
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class MissingCellError(KeyError):
    """A cell is not finished."""


class Cells:
    """A file of finished cells, in JSON lines: ``cell`` (its hash), ``key``, ``value`` and ``seconds``.

    A line counts only if it is complete. If a killed process left an incomplete line at the end, it is cut off when
    the next cell is added.

    Args:
        path: The file; it is created with the first cell.

    Raises:
        StorageError: The file cannot be read.
        FolderError: The file does not hold cells.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._finished: dict[str, tuple[Key, Any]] = {}
        exists = Folder(path.parent).find(path.name) is not None
        try:
            content = path.read_bytes() if exists else b""
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.splitlines():
                cell = json.loads(line)
                key, value = cell["key"], cell["value"]
                if not isinstance(key, dict) or "kind" not in key or cell["cell"] != content_hash(key):
                    raise FolderError(f"its key and hash do not match, {line[:80]!r}")
                self._finished[cell["cell"]] = key, value
            self._unfinished_from = len(whole) if len(whole) < len(content) else None
        except OSError as error:
            raise StorageError(f"{path} must be a readable and writable file: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FolderError(
                f"{path} must hold a finished cell in each line, but a line is not one: {error}"
            ) from error

    def __contains__(self, key: Key) -> bool:
        """Return whether the cell is finished."""
        return content_hash(key) in self._finished

    def __getitem__(self, key: Key) -> Any:  # Any: the type of the value depends on the kind of cell
        """Return the value of a finished cell."""
        cell = self._finished.get(content_hash(key))
        if cell is None:
            raise MissingCellError(f"no cell of {dict(key)}")
        return cell[1]

    def get(self, key: Key) -> Any:
        """Return the value of a cell, or None if it is not finished."""
        return self._finished.get(content_hash(key), (key, None))[1]

    def __len__(self) -> int:
        """Return the number of finished cells."""
        return len(self._finished)

    def add(self, key: Key, value: Any, seconds: float) -> None:
        """Append a finished cell.

        Raises:
            StorageError: The disk is full, or the file cannot be written; earlier cells are kept.
        """
        cell = {"cell": content_hash(key), "key": key, "value": value, "seconds": round(seconds, 4)}
        line = json.dumps(cell, ensure_ascii=False).encode() + b"\n"
        size = self.path.stat().st_size if self.path.exists() else 0
        if self._unfinished_from is not None:
            size = self._unfinished_from
        try:
            with self.path.open("ab", buffering=0) as file:
                file.truncate(size)
                if file.write(line) != len(line):
                    raise StorageError("no space left")
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, size)
            raise StorageError(
                f"{self.path} could not be written ({error.strerror or error}); its {len(self)} cells are complete: "
                "make room and run the study again, which resumes from there"
            ) from error
        self._unfinished_from = None
        self._finished[content_hash(key)] = key, value

    def once(self, key: Key, compute: Callable[[], Any]) -> Any:
        """Return the value of a cell; compute and append it first if it is missing."""
        if key not in self:
            began = time.perf_counter()
            value = compute()
            self.add(key, value, time.perf_counter() - began)
        return self[key]

    def of_kind(self, kind: str) -> list[tuple[Key, Any]]:
        """Return the keys and values of the finished cells of a kind, in the order of the file."""
        return [(key, value) for key, value in self._finished.values() if key["kind"] == kind]
