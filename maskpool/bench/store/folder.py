"""The folder of a study: its settings, cells and results; each file is complete or missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study, parse_study, source_of
from maskpool.bench.store.cells import Cells, content_hash
from maskpool.bench.store.checks import (
    CELLS,
    STUDY,
    check_writable,
    malformed,
    read_description,
    refuse_folders,
    unwritable,
)
from maskpool.errors import FolderError, InvalidValueError, MaskpoolError, StorageError
from maskpool.files import exclusive, replace_file

LOCK = ".lock"
# Settings of a study that may gain items, grow, or change while its finished cells stay valid.
_GROWING = ("models", "corpora", "poolings", "treatments", "leaks", "layers", "clusterers")
_COUNTS = ("seeds", "replicates")
_FREE = ("margin", "quote", "plans", "batch_size", "pad_to")


class StudyFolder:
    """The folder of a study's cells, vectors and results.

    Args:
        out: The folder; it is created when a study claims it.

    Attributes:
        path: The folder.
    """

    def __init__(self, out: Path) -> None:
        self.path = out

    @property
    def vectors(self) -> Path:
        """The folder of the vectors while a study runs.

        Raises:
            FolderError: The folder is a link to somewhere else.
        """
        if os.path.realpath(self.path / ".vectors") != os.path.join(os.path.realpath(self.path), ".vectors"):
            raise FolderError(f"{self.path / '.vectors'} must be a folder, got a link to somewhere else: remove it")
        return self.path / ".vectors"

    @cached_property
    def cells(self) -> Cells:
        """The finished cells."""
        return Cells(self.path / CELLS)

    def refuse_others(self, study: Study, corpora: Sequence[Corpus], versions: dict[str, str]) -> dict[str, Any]:
        """Check that the folder does not hold cells of another study; a study may have more of what it measures.

        Padding plans are compared for each model and corpus, whose texts decide the length of the default plans.

        Args:
            study: What is measured.
            corpora: Its texts.
            versions: Versions of the packages that the numbers depend on.

        Returns:
            The description of the study for the folder.

        Raises:
            InvalidValueError: The folder holds cells of another study, other texts or other versions.
        """
        content: dict[str, Any] = {
            "study": study.as_json(),
            "corpora": {corpus.name: corpus.sha256 for corpus in corpora},
            "versions": versions,
        }
        if not (self.path / CELLS).exists() and not (self.path / STUDY).exists():
            return content
        stored = self.read()  # raises if the file does not describe a study, because it may be the user's file
        if not len(Cells(self.path / CELLS)):  # read again, because another process may have added cells
            return content
        differs, lost = _differences(stored, content)
        if differs:
            raise InvalidValueError(
                "out",
                f"must be a folder without another study's cells; those in {self.path} were measured with "
                f"{', '.join(differs)}: choose another folder, or delete this one",
            )
        if lost:
            raise InvalidValueError(
                "out",
                f"must be a folder whose cells the study keeps; {self.path} also has {', '.join(lost)}, which its "
                "report would lose: add them to the study, or choose another folder",
            )
        return content

    @contextmanager
    def claim(self, study: Study, corpora: Sequence[Corpus], versions: dict[str, str]) -> Iterator[None]:
        """Create the folder of a study and lock it against studies of other processes.

        Args:
            study: What is measured.
            corpora: Its texts.
            versions: Versions of the packages that the numbers depend on.

        Raises:
            StorageError: The folder cannot be written, or another process computes in it.
            InvalidValueError: The folder belongs to another study.
        """
        check_writable(self.path)
        with self._lock():
            content = self.refuse_others(study, corpora, versions)
            text = json.dumps(content | {"sha256": content_hash(content)}, indent=1) + "\n"
            self.write({STUDY: lambda path: path.write_text(text, encoding="utf-8")})
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Create the folder and lock it; the lock ends with this process, even if the process is killed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
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
        """Read the description of the folder's study.

        Raises:
            NotFoundError: The folder does not describe a study.
            FolderError: The description is malformed.
        """
        description = read_description(self.path)
        try:
            parse_study(description["study"])
            if not isinstance(description["corpora"], dict) or not isinstance(description["versions"], dict):
                raise FolderError("its corpora and versions are not tables")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MaskpoolError) as error:
            raise malformed(self.path, error) from error
        return description

    def write(self, makers: dict[str, Callable[[Path], object]]) -> None:
        """Write all files to a temporary folder, and move them into place once all are complete.

        Args:
            makers: By the file's name, the function that writes it to a path.

        Raises:
            StorageError: The folder cannot be written; existing files are kept.
        """
        try:
            refuse_folders(self.path, makers)
            unfinished = self.path / ".unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)  # a killed process may have left it
            unfinished.mkdir()
            try:
                for file, make in makers.items():
                    make(unfinished / file)
                for file in makers:
                    replace_file(unfinished / file, self.path / file)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        except OSError as error:
            raise unwritable(self.path, error) from error


def _changed_settings(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[str]:  # Any: JSON
    """Return the settings that differ between two readings of the same corpus; those not set are null."""
    of_source = {source_of(corpus): corpus for corpus in now}
    return [
        f"`{name}` {json.dumps(old.get(name))}, now {json.dumps(new.get(name))}"
        for old in before
        if (new := of_source.get(source_of(old))) is not None
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _differences(stored: dict[str, Any], content: dict[str, Any]) -> tuple[list[str], list[str]]:  # Any: JSON
    """Compare the description of a folder with that of a study.

    Returns:
        What differs, with both values, and what the folder has and the study lacks.
    """
    before, now = stored["study"], content["study"]
    differs = [
        f"{name} {json.dumps(before.get(name))} (now {json.dumps(now.get(name))})"
        for name in sorted({*before, *now} - {*_GROWING, *_COUNTS, *_FREE})
        if before.get(name) != now.get(name)
    ]
    other = [name for name, sha256 in stored["corpora"].items() if content["corpora"].get(name) != sha256]
    if other:
        changed = "; ".join(_changed_settings(before["corpora"], now["corpora"]))
        differs.append(
            f"other texts or labels of {', '.join(other)}{f' ({changed}: set them as before)' * bool(changed)}"
        )
    for name in {**stored["versions"], **content["versions"]}:
        old, new = stored["versions"].get(name), content["versions"].get(name)
        differs += [f"{name} {json.dumps(old)} (now {json.dumps(new)})"] if old != new else []
    lost = [
        f"{name} {json.dumps(item)}"
        for name in _GROWING
        for item in before.get(name, [])
        if item not in now.get(name, [])
    ]
    lost += [f"{before[name]} {name} (now {now[name]})" for name in _COUNTS if before[name] > now[name]]
    return differs, lost
