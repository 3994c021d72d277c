"""Check the folder of a study without loading torch: that it can be written, or that it describes a study."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskpool.bench.store.cells import content_hash
from maskpool.errors import FolderError, NotFoundError, StorageError
from maskpool.trust import Folder, check_regular

STUDY, CELLS = "study.json", "cells.jsonl"


def check_writable(folder: Path) -> None:
    """Check that the folder of a study can be written or created.

    Args:
        folder: The folder.

    Raises:
        StorageError: It can be neither written nor created.
    """
    try:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
        refuse_folders(folder, (STUDY, CELLS))
    except OSError as error:
        raise unwritable(folder, error) from error


def refuse_folders(folder: Path, files: Iterable[str]) -> None:
    """Refuse folders with the names of files that a study writes.

    Raises:
        StorageError: There is such a folder.
    """
    for file in files:
        if (folder / file).is_dir():
            raise StorageError(f"{file} in it is a folder")


def unwritable(folder: Path, error: OSError) -> StorageError:
    """Return the error for a folder that cannot be written."""
    return StorageError(f"must be a writable folder, got {folder}: {error.strerror or error}", argument="out")


def read_description(folder: Path) -> dict[str, Any]:
    """Read the description of the study in a folder; the study in it is not checked.

    Args:
        folder: The folder.

    Raises:
        NotFoundError: The folder does not describe a study.
        FolderError: The description cannot be read, is not a table, or was changed after it was written.
    """
    expected = f"must be the folder of a study, with a {STUDY}, got {folder}"
    way_out = "name a folder that a study was written to"
    try:
        check_regular(folder / STUDY, "the description of a study")
        description: dict[str, Any] = Folder(folder).table(STUDY) or {}
        if description.pop("sha256", None) != content_hash(description):
            raise FolderError("it was changed after it was written, or is older than its hash")
    except NotFoundError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise NotFoundError(f"{expected}: {reason}; {way_out}", argument="out") from error
    except OSError as error:
        raise FolderError(f"{expected}: {error.strerror}; {way_out}", argument="out") from error
    except ValueError as error:  # a FolderError, or text that cannot be hashed
        raise malformed(folder, error) from error
    return description


def malformed(folder: Path, reason: object) -> FolderError:
    """Return the error for a folder whose description is not that of a study."""
    return FolderError(f"{folder / STUDY} must hold a study, but does not: {reason}")
