"""Cells: results that are computed once and stored one per line.

Each line has a hash of its key and value, so a changed line is refused instead of giving other numbers. A missing line
is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from maskpool.errors import FolderError, StorageError
from maskpool.files import atomic_write
from maskpool.trust import Folder
from maskpool.trust.files import shortened

# A key or a value is JSON: numbers, strings, lists and dictionaries of them.
Key: TypeAlias = Mapping[str, Any]


def content_hash(key: Key) -> str:
    """Hash JSON values by name, independent of the order of the names.

    Example:
        >>> content_hash({"treatment": "noise", "subsample": 3}) == content_hash({"subsample": 3, "treatment": "noise"})
        True
    """
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hash_of(key: Key, value: Any) -> str:  # Any: JSON
    return content_hash({"key": key, "value": value})


def _described(key: Key) -> str:
    """Name a cell in an error."""
    about = ", ".join(f"{name} {content}" for name, content in key.items() if name not in ("kind", "part"))
    return f"the cell {shortened(str(key['kind']))}" + (f" ({shortened(about)})" if about else "")


def _read(line: bytes) -> tuple[Key, Any]:
    """Read a line.

    Raises:
        FolderError: The line is not a table, or was changed after it was written.
        KeyError: It lacks a field.
    """
    cell = json.loads(line)
    if not isinstance(cell, dict) or not isinstance(cell["key"], dict):
        raise FolderError(f"it is not a cell with a key, {shortened(line.decode(errors='replace'))}")
    key, value = cell["key"], cell["value"]
    if not isinstance(key["kind"], str):
        raise FolderError("its kind is not a string")
    if cell["cell"] != _hash_of(key, value):
        raise FolderError(f"{_described(key)} was changed after it was written")
    return key, value


def _line(key: Key, value: Any, seconds: float) -> bytes:
    cell = {"cell": _hash_of(key, value), "key": key, "value": value, "seconds": round(seconds, 4)}
    return json.dumps(cell, ensure_ascii=False).encode() + b"\n"


class MissingCellError(KeyError):
    """A cell is not finished."""


class Cells:
    """A file of finished cells, in JSON lines: ``cell`` (hash of key and value), ``key``, ``value`` and ``seconds``.

    The hash does not cover ``seconds``, the time that the cell took: no result is computed from it.

    A line counts only if it is complete. If a killed process left an incomplete line at the end, it is cut off when
    the next cell is added.

    Args:
        path: The file; it is created with the first cell.

    Raises:
        StorageError: The file cannot be read.
        FolderError: A line was changed after it was written, is not a cell, or has another value than an earlier line
            of the same cell; the message has its number, and the cell's kind if it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._finished: dict[str, tuple[Key, Any]] = {}
        exists = Folder(path.parent).find(path.name) is not None
        try:
            content = path.read_bytes() if exists else b""
        except OSError as error:
            raise StorageError(f"{path} must be a readable and writable file: {error.strerror}") from error
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                key, value = _read(line)
                name = content_hash(key)
                if self._finished.setdefault(name, (key, value))[1] != value:
                    raise FolderError(f"{_described(key)} has another value in an earlier line")
            except (ValueError, KeyError, TypeError, RecursionError, FolderError) as error:
                reason = f"it has no {error}" if isinstance(error, KeyError) else error
                raise FolderError(
                    f"{path} must hold a finished cell in each line, but line {number} does not: {reason}; delete the "
                    "line and run the study again, which computes the cell again"
                ) from error
        self._unfinished_from = len(whole) if len(whole) < len(content) else None

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
        line = _line(key, value, seconds)
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

    def replace(self, key: Key, value: Any) -> None:
        """Give a finished cell another value, in the last line; a killed process leaves the old file or the new one.

        Raises:
            StorageError: The disk is full, or the file cannot be written; the old value is kept.
        """
        name = content_hash(key)
        try:
            content = self.path.read_bytes()
            lines = content[: content.rfind(b"\n")].split(b"\n")
            with atomic_write(self.path) as temporary:
                kept = [line for line in lines if content_hash(json.loads(line)["key"]) != name]
                temporary.write_bytes(b"".join(line + b"\n" for line in kept) + _line(key, value, 0.0))
        except OSError as error:
            raise StorageError(f"{self.path} could not be written: {error.strerror or error}") from error
        self._unfinished_from = None
        self._finished[name] = key, value

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
