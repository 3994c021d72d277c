"""Write files in one step, and keep other processes out of them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that readers, and whoever runs after a crash, find the old content or the new, never a part.

    Args:
        path: The file to write or replace.

    Yields:
        A path next to the file, with its suffix, to write to. It is renamed to ``path`` if the block ends without an
        error, and removed otherwise.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "report.json"
        >>> with atomic_write(path) as beside:
        ...     _ = beside.write_text("{}")
        >>> path.read_text()
        '{}'
    """
    target = Path(path)
    # Not tempfile, whose files only their owner can read: the file gets the usual permissions.
    beside = target.with_name(f".{uuid.uuid4().hex}.{target.name}")
    try:
        yield beside
        replace_file(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a file to a name that may be taken, once its content is on the disk.

    Args:
        source: The file, in the same file system as ``target``.
        target: Its new name.
    """
    handle = os.open(source, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(source, target)
    with suppress(OSError):  # folders cannot be opened on Windows, nor synchronized in every file system
        folder = os.open(Path(target).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def exclusive(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock that one process can hold at a time; it ends with the process, even if the process is killed.

    In a file system without locks, nothing is locked.

    Args:
        path: The file that is locked. It is made, and removed at the end.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    from filelock import FileLock, Timeout  # not among the requirements of the core

    # Without a fallback to lock files that outlive a killed process.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{path} is locked by another process") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove open files
            Path(path).unlink()  # before the release: nobody else can hold the lock of this file yet
        lock.release()
