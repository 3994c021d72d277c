"""The folder of a study: whose it is, its cells, and its results, each file whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study, parse_study
from maskpool.bench.store.cells import Cells
from maskpool.errors import FolderError, InvalidValueError, MaskpoolError, NotFoundError, StorageError
from maskpool.files import exclusive, replace_file
from maskpool.trust import Folder, check_regular

STUDY, CELLS, LOCK = "study.json", "cells.jsonl", ".lock"


class StudyFolder:
    """The folder of a study's cells, vectors and results.

    Args:
        out: The folder; made when a study claims it.

    Attributes:
        path: The folder.
    """

    def __init__(self, out: Path) -> None:
        self.path = out

    @property
    def vectors(self) -> Path:
        """The folder of the vectors while a study runs.

        Raises:
            FolderError: It is a link to somewhere else.
        """
        if os.path.realpath(self.path / ".vectors") != os.path.join(os.path.realpath(self.path), ".vectors"):
            raise FolderError(f"{self.path / '.vectors'} must be a folder, got a link to somewhere else: remove it")
        return self.path / ".vectors"

    @cached_property
    def cells(self) -> Cells:
        """The finished cells."""
        return Cells(self.path / CELLS)

    def check(self) -> None:
        """See that the folder can be written, or made.

        Raises:
            StorageError: It cannot.
        """
        try:
            there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
            with tempfile.TemporaryFile(dir=there):
                pass
            self._refuse_folders((STUDY, CELLS))
        except OSError as error:
            raise self._unwritable(error) from error

    def refuse_others(self, study: Study, corpora: Sequence[Corpus], versions: dict[str, str]) -> dict[str, Any]:
        """See that the folder holds no other study's cells.

        Args:
            study: What is measured.
            corpora: Its texts.
            versions: Of the packages that numbers depend on.

        Returns:
            What the folder is to say of the study.

        Raises:
            InvalidValueError: It holds another study's cells, or those of other texts or versions.
        """
        content = {
            "study": study.as_json(),
            "corpora": {corpus.name: corpus.sha256 for corpus in corpora},
            "versions": versions,
        }
        if not (self.path / CELLS).exists() and not (self.path / STUDY).exists():
            return content
        there = self.read()  # a file of that name that is no study is somebody's, and stays
        if not len(Cells(self.path / CELLS)):  # read anew, for another process may have added some
            return content
        differs = [name for name in content if there.get(name) != content[name]]
        if differs:
            what = ", ".join(_differences(there.get(differs[0]), content[differs[0]]))
            raise InvalidValueError(
                "out",
                f"must be a folder without another study's cells; those in {self.path} were measured with {what}: "
                "choose another folder, or delete this one",
            )
        return content

    @contextmanager
    def claim(self, study: Study, corpora: Sequence[Corpus], versions: dict[str, str]) -> Iterator[None]:
        """Make the folder that of a study, and keep other processes' studies out of it meanwhile.

        Args:
            study: What is measured.
            corpora: Its texts.
            versions: Of the packages that numbers depend on.

        Raises:
            StorageError: It cannot be written, or another process computes in it.
            InvalidValueError: It is another study's.
        """
        self.check()
        with self._lock():
            content = self.refuse_others(study, corpora, versions)
            self.write({STUDY: lambda path: path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")})
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Make the folder and lock it; the lock ends with this process, even if the process is killed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        with ExitStack() as locked:
            try:
                locked.enter_context(exclusive(self.path / LOCK))
            except BlockingIOError as error:
                raise StorageError(
                    f"must be a folder in which no other study runs, got {self.path}: wait until that one has "
                    "finished, or choose another folder",
                    argument="out",
                ) from error
            yield

    def read(self) -> dict[str, Any]:
        """What the folder says of its study.

        Raises:
            NotFoundError: It does not describe a study.
            FolderError: The description is malformed.
        """
        try:
            check_regular(self.path / STUDY, "the description of a study")
            found: dict[str, Any] = Folder(self.path).table(STUDY) or {}
            parse_study(found["study"])
            if not isinstance(found["corpora"], dict) or not isinstance(found["versions"], dict):
                raise FolderError("its corpora and versions are not tables")
        except NotFoundError as error:
            reason = getattr(error.__cause__, "strerror", None) or error
            raise NotFoundError(f"{self.path} must be the folder of a study, with a {STUDY}: {reason}") from error
        except OSError as error:
            raise FolderError(f"{self.path} must be the folder of a study, with a {STUDY}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MaskpoolError) as error:
            raise FolderError(f"{self.path / STUDY} must hold a study, and does not: {error}") from error
        return found

    def write(self, makers: dict[str, Callable[[Path], object]]) -> None:
        """Write all files to a folder next to their places, and move them there once all are complete.

        Args:
            makers: By the file's name, what writes it to a path.

        Raises:
            StorageError: The folder cannot be written; the files that were there stay.
        """
        try:
            self._refuse_folders(makers)
            beside = self.path / ".unfinished"
            shutil.rmtree(beside, ignore_errors=True)  # a killed process may have left it
            beside.mkdir()
            try:
                for file, make in makers.items():
                    make(beside / file)
                for file in makers:
                    replace_file(beside / file, self.path / file)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _refuse_folders(self, files: Iterable[str]) -> None:
        for file in files:
            if (self.path / file).is_dir():
                raise StorageError(f"{file} in it is a folder")

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(
            f"must be a folder that can be written, got {self.path}: {error.strerror or error}", argument="out"
        )


def _differences(there: Any, here: Any) -> list[str]:  # Any: JSON
    """Names of what differs, with both values."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        return [f"{there} (now {here})"]
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    return [f"{name} {json.dumps(there.get(name))} (now {json.dumps(here.get(name))})" for name in names]
