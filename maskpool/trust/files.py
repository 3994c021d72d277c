"""Read the files of a folder without leaving it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from maskpool.errors import FolderError, NotFoundError

_DEEPEST = 60  # nesting of a JSON file; those of real models have less than ten levels
_LARGEST_JSON = 1 << 28  # bytes
# Suffixes of names that are opened as files. A folder with such a name is an error, not a missing file.
_FILE_SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja")


class Folder:
    """Read files of an untrusted folder, and only regular files inside it.

    The snapshot of a repository in the hub's cache consists of links to files in the ``blobs`` folder of that
    repository. These files count as inside.

    Args:
        path: The folder, which must exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.root = Path(os.path.realpath(path))
        self.inside = [self.root]
        repository = self.root.parent.parent
        if self.root.parent.name == "snapshots" and repository.name.startswith(("models--", "datasets--")):
            self.inside.append(repository / "blobs")

    def __str__(self) -> str:
        """Return the path as the caller gave it."""
        return str(self.path)

    def at(self, *parts: str) -> Path:
        """Return a path below the folder, for messages and for opening."""
        return self.path.joinpath(*parts)

    def check_tree(self) -> None:
        """Refuse links that leave the folder, links to folders, and every entry that is neither a file nor a folder.

        Hidden folders are checked as well, because a path in a configuration file may lead into them. All links to
        folders are refused, because the files in the linked folder would not be checked. The hub's cache links only
        files.

        Raises:
            FolderError: An entry is refused, or the folder cannot be listed.
        """
        waiting = [self.path]
        while waiting:
            folder = waiting.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                raise FolderError(f"{folder} must be a folder that can be read: {error.strerror}") from error
            for entry in entries:
                self._check_entry(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))

    def _check_entry(self, path: Path) -> None:
        place = Path(os.path.realpath(path))
        if not any(place.is_relative_to(root) for root in self.inside):
            target = os.readlink(path) if path.is_symlink() else place  # else a folder above it is the link
            raise FolderError(
                f"{path} must stay inside the model's folder, but is a link to {target}: replace it by the file it "
                "points to"
            )
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return  # a broken link inside the folder counts as a missing file
        except OSError as error:
            raise FolderError(f"{path} must be a file that can be read: {error.strerror}") from error
        if stat.S_ISDIR(mode):
            if path.suffix in _FILE_SUFFIXES:
                raise FolderError(f"{path} must be a file, got a folder")
            if place != Path(os.path.realpath(path.parent)) / path.name:
                raise FolderError(
                    f"{path} must be a folder, got a link to the folder {place}: replace the link by the folder it "
                    "points to"
                )
        elif not stat.S_ISREG(mode):
            raise FolderError(f"{path} must be a regular file, got {_kind(mode)}: remove it")

    def find(self, *parts: str) -> Path | None:
        """Return the path of a file, or None if the file does not exist.

        Raises:
            FolderError: The path is not a regular file inside the folder.
        """
        path = self.at(*parts)
        if not os.path.lexists(path):
            return None
        self._check_entry(path)
        if not path.exists():
            return None
        if path.is_dir():
            raise FolderError(f"{path} must be a file, got a folder")
        return path

    def json(self, *parts: str) -> Any:  # Any: what JSON holds
        """Read a JSON file; return None if the file does not exist.

        Raises:
            FolderError: The file cannot be read.
        """
        path = self.find(*parts)
        return None if path is None else read_json(path)

    def table(self, *parts: str) -> dict[str, Any] | None:
        """Read a JSON file that holds a table; return None if the file does not exist.

        Raises:
            FolderError: The file cannot be read, or does not hold a table.
        """
        path = self.find(*parts)
        return None if path is None else read_table(path)


def check_regular(path: str | os.PathLike[str], what: str) -> Path:
    """Refuse a path that is not a regular file, such as a pipe, which would block the reader.

    Args:
        path: The path, which may be a link.
        what: A description of the expected file, for the message.

    Raises:
        NotFoundError: The file does not exist.
        FolderError: The path is not a regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{path} must be {what}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} must be {what}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise FolderError(f"{path} must be {what}, got {_kind(mode)}")
    return Path(path)


def read_json(path: Path) -> Any:  # Any: what JSON holds
    """Read a JSON file.

    Raises:
        FolderError: The file is not valid JSON in UTF-8, is nested too deeply or too large.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise FolderError(f"it has more than {_LARGEST_JSON:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise FolderError(f"{path} must be JSON; it cannot be read: it is nested too deeply") from None
    except (ValueError, MemoryError) as error:
        raise FolderError(f"{path} must be JSON; it cannot be read: {error}") from error
    except OSError as error:
        raise FolderError(f"{path} must be a file that can be read: {error.strerror}") from error
    level = [content]
    for _ in range(_DEEPEST):
        level = [inner for value in level if isinstance(value, dict | list) for inner in _values(value)]
        if not level:
            return content
    raise FolderError(f"{path} must be JSON; it cannot be read: it is nested more than {_DEEPEST} levels deep")


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table.

    Raises:
        FolderError: The file cannot be read, or does not hold a table.
    """
    try:
        content = read_json(path)
    except FolderError as error:
        raise FolderError(str(error).replace("must be JSON; it cannot be read", "must be a JSON table", 1)) from error
    if not isinstance(content, dict):
        raise FolderError(f"{path} must be a JSON table: got {type(content).__name__}")
    return content


def is_plain_name(name: object) -> bool:
    """Return whether a value is the name of a file in the same folder."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "\0" not in name
        and len(PurePosixPath(name).parts) == 1
        and len(PureWindowsPath(name).parts) == 1
        and not PureWindowsPath(name).anchor
    )


def is_inner_path(path: object) -> bool:
    """Return whether a value is a relative path that stays below its folder on every operating system."""
    if not isinstance(path, str) or "\0" in path:
        return False
    windows = PureWindowsPath(path)  # it splits at both slashes
    return not windows.anchor and ".." not in windows.parts


def names_a_place(value: str) -> bool:
    """Return whether a string is an absolute path, a path that contains ``..``, or a URL."""
    windows = PureWindowsPath(value)
    absolute = len(value) > 1 and bool(windows.anchor) and not value.isspace()
    return absolute or value.startswith("~") or "://" in value or ".." in windows.parts


def shortened(value: object) -> str:
    """Format a value of a file, cut to a length that fits a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"


def _values(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")
