"""What has been computed, one line a cell, and never twice."""

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
    """Hash of what a cell is, whatever the order of its names.

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

    A line is written whole or not at all: what a killed process left unfinished at the end is no cell, and is cut
    off when the next one is added.

    Args:
        path: The file; made with the first cell.

    Raises:
        StorageError: The file cannot be read.
        FolderError: The file does not hold cells.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, tuple[Key, Any]] = {}
        there = Folder(path.parent).find(path.name) is not None
        try:
            content = path.read_bytes() if there else b""
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.splitlines():
                cell = json.loads(line)
                key, value = cell["key"], cell["value"]
                if not isinstance(key, dict) or "kind" not in key or cell["cell"] != content_hash(key):
                    raise FolderError(f"its key and hash do not belong together, {line[:80]!r}")
                self._found[cell["cell"]] = key, value
            self._unfinished_from = len(whole) if len(whole) < len(content) else None
        except OSError as error:
            raise StorageError(f"{path} must be a file that can be read and written: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FolderError(f"{path} must hold a finished cell in each line, and one is not: {error}") from error

    def __contains__(self, key: Key) -> bool:
        """Whether the cell is finished."""
        return content_hash(key) in self._found

    def __getitem__(self, key: Key) -> Any:  # Any: each kind of cell has a value of its own
        """The value of a finished cell."""
        found = self._found.get(content_hash(key))
        if found is None:
            raise MissingCellError(f"no cell of {dict(key)}")
        return found[1]

    def get(self, key: Key) -> Any:
        """The value of a cell, or None if it is not finished."""
        return self._found.get(content_hash(key), (key, None))[1]

    def __len__(self) -> int:
        """How many are finished."""
        return len(self._found)

    def add(self, key: Key, value: Any, seconds: float) -> None:
        """Append a finished cell.

        Raises:
            StorageError: The disk is full, or the file cannot be written; the cells before this one stay.
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
                f"{self.path} could not be written ({error.strerror or error}); the {len(self)} cells in it are whole: "
                "make room and run the study again, which resumes from there"
            ) from error
        self._unfinished_from = None
        self._found[content_hash(key)] = key, value

    def once(self, key: Key, compute: Callable[[], Any]) -> Any:
        """The value of a cell; computed and appended if it is not there."""
        if key not in self:
            began = time.perf_counter()
            value = compute()
            self.add(key, value, time.perf_counter() - began)
        return self[key]

    def of_kind(self, kind: str) -> list[tuple[Key, Any]]:
        """Keys and values of the finished cells of a kind, in the order of the file."""
        return [(key, value) for key, value in self._found.values() if key["kind"] == kind]
