"""The file of token states: where its parts lie, how it grows block by block, how it is checked. Bytes alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from maskpool.encoder.identity import differing, told
from maskpool.errors import FolderError, InvalidValueError, StorageError
from maskpool.files import exclusive, replace_file
from maskpool.trust import check_regular

# Texts that are computed, hashed and written together: what a killed run loses at most.
BLOCK = 1_024
_NAMES = {torch.float16: "F16", torch.float32: "F32"}  # as safetensors spells them
_HASH = hashlib.sha256  # processors have instructions for it: twice as fast here as BLAKE2
_HASH_BYTES = 32
# What a header that is none, or was altered, shows up as.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, MemoryError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Layout:
    """Where things lie in a safetensors file whose size is known before its first number.

    Behind the header stand ``offsets``, ``checksums`` (one of each block's values, then one of the header and the
    offsets) and ``values``.

    Args:
        texts: How many.
        tokens: Of all texts.
        dim: Width of a token state.
        dtype: Of the states.
        identity: What the header shall say of them.
        block: Texts a block.
    """

    def __init__(
        self, texts: int, tokens: int, dim: int, dtype: torch.dtype, identity: dict[str, Any], block: int
    ) -> None:
        self.dtype, self.dim, self.identity, self.texts_a_block = dtype, dim, identity, block
        self.blocks = -(-texts // block)
        parts = {
            "offsets": ("I64", [texts + 1], (texts + 1) * 8),
            "checksums": ("U8", [self.blocks + 1, _HASH_BYTES], (self.blocks + 1) * _HASH_BYTES),
            "values": (_NAMES[dtype], [tokens, dim], tokens * dim * dtype.itemsize),
        }
        known = {"maskpool": json.dumps(identity, sort_keys=True), "texts_a_block": str(block)}
        table: dict[str, Any] = {"__metadata__": known}
        places, at = [], 0
        for name, (kind, shape, size) in parts.items():
            table[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
            places.append(at)
            at += size
        text = json.dumps(table).encode()
        text += b" " * (-len(text) % 8)  # so that every number lies at a multiple of its size
        self.header = len(text).to_bytes(8, "little") + text
        self.offsets, self.checksums, self.values = (len(self.header) + place for place in places)
        self.size = len(self.header) + at

    @classmethod
    def read(cls, content: memoryview) -> Layout:
        """The layout that a file's header describes.

        Raises:
            ValueError, KeyError, TypeError: It is not a header of such a file, or was altered.
        """
        length = int.from_bytes(content[:8], "little")
        if not 0 < length <= len(content) - 8:
            raise FolderError("it has no whole header")
        table = json.loads(bytes(content[8 : 8 + length]))
        known = table["__metadata__"]
        identity = json.loads(known["maskpool"])
        if not isinstance(identity, dict):
            raise FolderError(f"its identity is not a table but {type(identity).__name__}")
        (tokens, dim), (ends,) = table["values"]["shape"], table["offsets"]["shape"]
        dtypes = {name: dtype for dtype, name in _NAMES.items()}
        block = int(known["texts_a_block"])
        if min(block, ends, dim) < 1 or tokens < 0:
            raise FolderError("its header was altered")
        layout = cls(ends - 1, tokens, dim, dtypes[table["values"]["dtype"]], identity, block)
        if layout.header != bytes(content[: 8 + length]):
            raise FolderError("its header was altered")
        return layout

    def block(self, number: int, offsets: Annotated[Tensor, "texts_plus_1"]) -> tuple[int, int]:
        """Where a block's values begin and end in the file."""
        first, last = number * self.texts_a_block, min((number + 1) * self.texts_a_block, len(offsets) - 1)
        row = self.dim * self.dtype.itemsize
        return self.values + int(offsets[first]) * row, self.values + int(offsets[last]) * row

    def checksum(self, number: int) -> int:
        """Where a block's checksum begins in the file."""
        return self.checksums + number * _HASH_BYTES


class StatesPart:
    """``PATH.part``, which grows to the file at ``PATH`` while one process alone holds it.

    Args:
        target: ``PATH``.
        layout: Where things will lie.
        offsets: Where each text's tokens will begin.
    """

    def __init__(self, target: Path, layout: Layout, offsets: Annotated[Tensor, "texts_plus_1"]) -> None:
        self.target, self.layout, self.offsets = target, layout, offsets
        self.path = target.with_name(target.name + ".part")
        self._file: FileIO

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Open or create the part, and lock it; the lock ends with this process, even if the process is killed.

        Raises:
            StorageError: Another process holds it, or it cannot be opened.
        """
        with self._telling():
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(self.path.with_name(self.path.name + ".lock")))
            except BlockingIOError as error:
                raise StorageError(
                    f"must not be in use, and {self.path} is being filled by another process: wait until it has "
                    "finished, or choose another path",
                    argument="path",
                ) from error
            self._open()
            held.enter_context(self._file)
            yield

    def _open(self) -> None:
        with self._telling():
            # Neither through a link to somewhere else, nor into a pipe, which would block.
            flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            try:
                opened = os.open(self.path, os.O_RDWR | os.O_CREAT | flags, 0o666)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.EISDIR):
                    raise StorageError(f"{self.path.name} is not a regular file") from error
                raise
            self._file = os.fdopen(opened, "r+b", buffering=0)
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                self._file.close()
                raise StorageError(f"{self.path.name} is not a regular file")

    def begin(self) -> int:
        """Write what stands before the values, unless a former run has.

        Where that run was of the same states, its layout is kept, and with it whatever else its header says: under
        which name they were asked for, by which release, in blocks of how many texts.

        Returns:
            How many blocks, from the first on, a former run has finished.

        Raises:
            FolderError: The part is not a begun cache.
            InvalidValueError: The part was begun for other states.
            StorageError: The part cannot be written.
        """
        layout = self.layout
        head = layout.header + _bytes(self.offsets)
        head += bytes(layout.blocks * _HASH_BYTES) + _HASH(head).digest()
        with self._telling():
            size = os.fstat(self._file.fileno()).st_size
            there = self._read(0, min(len(head), size))
            if not head.startswith(there):  # else what a run leaves that was killed while it began, or nothing
                found = self._found(size)
                same = size == found.size and not differing(found.identity, layout.identity)
                if same and self._read(found.offsets, found.checksums - found.offsets) == _bytes(self.offsets):
                    self.layout = found
                    return self._whole_blocks()
                if any(self._read(found.checksums, found.blocks * _HASH_BYTES)):
                    refuse_others(self.path, found.identity, layout.identity)
                self._file.truncate(0)
            self._write(0, head)
            self._reserve(len(head))
        return 0

    def write_block(self, number: int, values: Annotated[Tensor, "tokens dim"]) -> None:
        """Write a block's values and, when those are on the disk, the checksum that vouches for them.

        Raises:
            StorageError: They cannot be written.
        """
        content = _bytes(values)
        start, end = self.layout.block(number, self.offsets)
        assert end - start == len(content)
        with self._telling():
            self._write(start, content)
            self._write(self.layout.checksum(number), _HASH(content).digest())

    def finish(self) -> None:
        """Put the whole file in its place.

        Raises:
            StorageError: It cannot be put there.
        """
        with self._telling():
            replace_file(self.path, self.target)

    def discard(self) -> None:
        """Remove what was begun."""
        self.path.unlink(missing_ok=True)

    def _found(self, size: int) -> Layout:
        """The layout of what a former run has begun; a file that is none may be somebody's, and stays."""
        try:
            length = int.from_bytes(self._read(0, 8), "little")
            return Layout.read(memoryview(self._read(0, min(size, 8 + length))))
        except _MALFORMED as error:
            raise FolderError(
                f"{self.path} is no begun cache of these texts: delete it, or choose another path"
            ) from error

    def _whole_blocks(self) -> int:
        for number in range(self.layout.blocks):
            start, end = self.layout.block(number, self.offsets)
            expected = self._read(self.layout.checksum(number), _HASH_BYTES)
            if _HASH(self._read(start, end - start)).digest() != expected:
                return number
        return self.layout.blocks

    def _read(self, place: int, size: int) -> bytearray:
        content = bytearray(size)
        rest = memoryview(content)
        self._file.seek(place)
        while rest:
            rest = rest[self._file.readinto(rest) or len(rest) :]
        return content

    def _write(self, place: int, content: bytes | memoryview) -> None:
        rest = memoryview(content)
        self._file.seek(place)
        while rest:  # one call writes 2 GiB at most, and less where a disk fills up
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())

    def _reserve(self, written: int) -> None:
        """Take the room of the whole file, so that a full disk is told before the encoder has run for hours."""
        file, size = self._file, self.layout.size
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                file.truncate(written)  # gives back what it took
                if error.errno in _NO_ROOM:
                    raise
        file.truncate(size)  # where room cannot be taken, the file still has its size

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            way_out = "free some space" if error.errno in _NO_ROOM else "fix that"
            raise StorageError(
                f"must be a file that can be written; {self.target} could not be written: {error.strerror or error}; "
                f"{way_out} and call again, which resumes where this stopped",
                argument="path",
            ) from error


def read_file(path: Path, check_values: bool = True) -> tuple[Layout, Tensor, Annotated[Tensor, "texts_plus_1"], str]:
    """Map a file into memory and check it.

    Args:
        path: The file.
        check_values: Whether the values are compared with their checksums, for which all of them are read.

    Returns:
        Its layout, its values, its offsets, and a hash that no other file's content has.

    Raises:
        NotFoundError: There is no such file.
        FolderError: The file is not one of token states, is cut off or was altered.
    """
    none = f"{path} must be a file that cache_states has made"
    check_regular(path, "a file that cache_states has made")
    try:
        size = path.stat().st_size
        # A private mapping: what is written to these numbers by mistake does not reach the file.
        content: Annotated[Tensor, "bytes"] = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except OSError as error:
        raise FolderError(f"{none}: {error.strerror or error}") from error
    except RuntimeError as error:  # torch's, of a folder or an empty file
        raise FolderError(f"{none}, and cannot be mapped into memory") from error
    raw = content.numpy().data
    try:
        layout = Layout.read(raw)
    except _MALFORMED as error:
        raise FolderError(f"{none}, and is not, or was cut off or altered: {error}") from error
    again = "delete it and call cache_states again"
    if size != layout.size:
        raise FolderError(
            f"{path} is cut off or too long: it has {size:,} bytes, its header says {layout.size:,}; {again}"
        )
    # First the offsets, because they say where blocks lie.
    whole = _HASH(raw[: layout.checksums]).digest() == raw[layout.checksum(layout.blocks) : layout.values]
    offsets = content[layout.offsets : layout.checksums].view(torch.int64).clone()
    for number in range(layout.blocks if whole and check_values else 0):
        start, end = layout.block(number, offsets)
        begin = layout.checksum(number)
        whole = whole and _HASH(raw[start:end]).digest() == raw[begin : begin + _HASH_BYTES]
    if not whole:
        raise FolderError(f"{path} was altered: its content and its checksums differ; {again}")
    values = content[layout.values :].view(layout.dtype).view(-1, layout.dim)
    return layout, values, offsets, _HASH(raw[: layout.values]).hexdigest()


def refuse_others(path: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """See that states are those that are asked for.

    Args:
        path: Where they lie.
        there: Their identity.
        asked: What of it is asked for.

    Raises:
        InvalidValueError: They are not; the message says what differs.
    """
    differs = differing({name: there.get(name) for name in asked}, asked)
    if differs:
        raise InvalidValueError(
            "path",
            f"must be a file of the states asked for; {path} was made by {told(there, differs)}, asked for is "
            f"{told(asked, differs)}; choose another path, or delete this file",
        )


def _bytes(tensor: Tensor) -> memoryview:
    content: memoryview = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    return content
