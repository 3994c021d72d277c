"""Test that files are written atomically, and that only one process can lock them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskpool.files import atomic_write, exclusive

HOLDER = """
import sys, time
from maskpool.files import exclusive

with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("older", [None, "older"])
def test_a_file_is_replaced_at_the_end(tmp_path: Path, older: str | None) -> None:
    """The file keeps its content until the block ends and then has the new content; no other file remains."""
    path = tmp_path / "a.json"
    if older is not None:
        path.write_text(older)
    with atomic_write(path) as temporary:
        assert temporary.suffix == path.suffix
        temporary.write_text("newer")
        assert (path.read_text() if path.exists() else None) == older
    assert path.read_text() == "newer"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_an_error_keeps_the_file(tmp_path: Path, error: BaseException) -> None:
    """After an error the file has its old content, and no other file remains."""
    path = tmp_path / "a.json"
    path.write_text("older")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is on the disk before the file is renamed, so a power failure cannot leave an empty file."""
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        steps.append("sync")
        sync(handle)

    def renamed(source: Path, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("newer")
    assert steps[:2] == ["sync", "rename"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    """The file has the same permissions as other new files of the user."""
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_one_process_holds_a_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """A lock that another process holds is refused; when that process is killed it is free, and leaves no file."""
    path = tmp_path / "lock"
    with pytest.raises(BlockingIOError, match="is locked by another process"), exclusive(path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with exclusive(path):
        assert path.exists()
        with pytest.raises(BlockingIOError), exclusive(path):
            pass
    assert not path.exists()


def test_errors_inside_a_lock_are_raised(tmp_path: Path) -> None:
    """An error while the lock is held is raised, and the lock is free again."""
    for _ in range(2):
        with pytest.raises(OSError, match="inside"), exclusive(tmp_path / "lock"):
            raise OSError("inside")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks nothing is locked, and an error inside the block is raised once."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with exclusive(tmp_path / "lock"):
        pass
    with pytest.raises(OSError, match="inside"), exclusive(tmp_path / "lock"):
        raise OSError("inside")
    assert list(tmp_path.iterdir()) == []
