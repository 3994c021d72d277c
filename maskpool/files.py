"""Write files atomically and lock them against other processes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file atomically: readers see the old content or the new, never a part, even after a crash.

    Args:
        path: The file to write or replace.

    Yields:
        A path next to the file, with its suffix, to write to. It is renamed to ``path`` if the block ends without an
        error, and removed otherwise.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "report.json"
        >>> with atomic_write(path) as temporary:
        ...     _ = temporary.write_text("{}")
        >>> path.read_text()
        '{}'
    """
    target = Path(path)
    # Not tempfile, whose files only their owner can read: the file gets the usual permissions.
    temporary = target.with_name(f".{uuid.uuid4().hex}.{target.name}")
    try:
        yield temporary
        replace_file(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Write a file's content to the disk, then rename the file, replacing an existing target.

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
    with suppress(OSError):  # Windows cannot open folders, and some file systems cannot synchronise them
        folder = os.open(Path(target).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def exclusive(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock that only one process can hold; it ends with the process, even if the process is killed.

    On a file system without locks, nothing is locked.

    Args:
        path: The file that is locked. It is created, and removed at the end.

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
            Path(path).unlink()  # before the release, while no other process can hold this lock
        lock.release()
