"""Read and write the file of token states: its layout, how it grows block by block, and how it is checked."""

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

from maskpool.encoder.identity import described, differing
from maskpool.errors import FolderError, InvalidValueError, StorageError
from maskpool.files import exclusive, replace_file
from maskpool.trust import check_regular

# Number of texts that are computed, hashed and written together. A killed run loses at most one block.
BLOCK = 1_024
_NAMES = {torch.float16: "F16", torch.float32: "F32"}  # the names that safetensors uses
_HASH = hashlib.sha256  # CPUs have instructions for it: twice as fast here as BLAKE2
_HASH_BYTES = 32
# Errors that reading an invalid or altered header can raise.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, MemoryError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Layout:
    """Compute the byte positions in a safetensors file whose size is known before the first value is written.

    The header is followed by ``offsets``, ``checksums`` (one for the values of each block, then one for the header and
    the offsets) and ``values``.

    Args:
        texts: Number of texts.
        tokens: Number of tokens of all texts.
        dim: Width of a token state.
        dtype: Dtype of the states.
        identity: The identity of the states, which is stored in the header.
        block: Number of texts per block.
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
        text += b" " * (-len(text) % 8)  # aligns every value to its size
        self.header = len(text).to_bytes(8, "little") + text
        self.offsets, self.checksums, self.values = (len(self.header) + place for place in places)
        self.size = len(self.header) + at

    @classmethod
    def read(cls, content: memoryview) -> Layout:
        """Read the layout from a file's header.

        Raises:
            ValueError, KeyError, TypeError: The content does not start with a header of token states, or the header
                was altered.
        """
        length = int.from_bytes(content[:8], "little")
        if not 0 < length <= len(content) - 8:
            raise FolderError("its header is incomplete")
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
        """Return where a block's values begin and end in the file."""
        first, last = number * self.texts_a_block, min((number + 1) * self.texts_a_block, len(offsets) - 1)
        row = self.dim * self.dtype.itemsize
        return self.values + int(offsets[first]) * row, self.values + int(offsets[last]) * row

    def checksum(self, number: int) -> int:
        """Return where a block's checksum begins in the file."""
        return self.checksums + number * _HASH_BYTES


class StatesPart:
    """Write ``PATH.part`` block by block, under a lock, and rename it to ``PATH`` when it is complete.

    Args:
        target: ``PATH``.
        layout: The layout of the file.
        offsets: Where each text's tokens begin in the values.
    """

    def __init__(self, target: Path, layout: Layout, offsets: Annotated[Tensor, "texts_plus_1"]) -> None:
        self.target, self.layout, self.offsets = target, layout, offsets
        self.path = target.with_name(target.name + ".part")
        self._file: FileIO

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Open or create the part and lock it; the lock ends with this process, even if the process is killed.

        Raises:
            StorageError: Another process holds the lock, or the part cannot be opened.
        """
        with self._storage_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as resources:
            try:
                resources.enter_context(exclusive(self.path.with_name(self.path.name + ".lock")))
            except BlockingIOError as error:
                raise StorageError(
                    f"must not be in use, and {self.path} is being filled by another process: wait until it has "
                    "finished, or choose another path",
                    argument="path",
                ) from error
            self._open()
            resources.enter_context(self._file)
            yield

    def _open(self) -> None:
        with self._storage_errors():
            # Do not follow a link out of the folder, and do not block on a pipe.
            flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | flags, 0o666)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.EISDIR):
                    raise StorageError(f"{self.path.name} is not a regular file") from error
                raise
            self._file = os.fdopen(descriptor, "r+b", buffering=0)
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                self._file.close()
                raise StorageError(f"{self.path.name} is not a regular file")

    def begin(self) -> int:
        """Write everything that precedes the values, unless an interrupted run has written it.

        If the interrupted run computed the same states, its header is kept unchanged, including the model name, the
        versions and the number of texts per block.

        Returns:
            The number of consecutive blocks, from the first, that the interrupted run finished.

        Raises:
            FolderError: The part is not an unfinished cache.
            InvalidValueError: The part belongs to other states.
            StorageError: The part cannot be written.
        """
        layout = self.layout
        head = layout.header + _bytes(self.offsets)
        head += bytes(layout.blocks * _HASH_BYTES) + _HASH(head).digest()
        with self._storage_errors():
            size = os.fstat(self._file.fileno()).st_size
            written = self._read(0, min(len(head), size))
            if not head.startswith(written):  # else the part is empty, or a run was killed while it wrote the head
                earlier = self._earlier_layout(size)
                same = size == earlier.size and not differing(earlier.identity, layout.identity)
                if same and self._read(earlier.offsets, earlier.checksums - earlier.offsets) == _bytes(self.offsets):
                    self.layout = earlier
                    return self._finished_blocks()
                if any(self._read(earlier.checksums, earlier.blocks * _HASH_BYTES)):
                    refuse_others(self.path, earlier.identity, layout.identity)
                self._file.truncate(0)
            self._write(0, head)
            self._reserve(len(head))
        return 0

    def write_block(self, number: int, values: Annotated[Tensor, "tokens dim"]) -> None:
        """Write a block's values and then, once they are on the disk, their checksum.

        Raises:
            StorageError: The block cannot be written.
        """
        content = _bytes(values)
        start, end = self.layout.block(number, self.offsets)
        assert end - start == len(content)
        with self._storage_errors():
            self._write(start, content)
            self._write(self.layout.checksum(number), _HASH(content).digest())

    def finish(self) -> None:
        """Rename the complete part to the target.

        Raises:
            StorageError: The part cannot be renamed.
        """
        with self._storage_errors():
            replace_file(self.path, self.target)

    def discard(self) -> None:
        """Remove the part."""
        self.path.unlink(missing_ok=True)

    def _earlier_layout(self, size: int) -> Layout:
        """Read the layout that an interrupted run wrote; never overwrite a file that is not an unfinished cache."""
        try:
            length = int.from_bytes(self._read(0, 8), "little")
            return Layout.read(memoryview(self._read(0, min(size, 8 + length))))
        except _MALFORMED as error:
            raise FolderError(
                f"{self.path} is not an unfinished cache of these texts: delete it, or choose another path"
            ) from error

    def _finished_blocks(self) -> int:
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
        while rest:  # one call writes at most 2 GiB, and less when the disk fills up
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())

    def _reserve(self, written: int) -> None:
        """Preallocate the file, to fail on a full disk before hours of encoding."""
        file, size = self._file, self.layout.size
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                file.truncate(written)  # a failed call may have allocated a part
                if error.errno in _NO_ROOM:
                    raise
        file.truncate(size)  # sets the size also where preallocation is not supported

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Raise an OSError as a StorageError that names the target and the way out."""
        try:
            yield
        except OSError as error:
            advice = "free some space" if error.errno in _NO_ROOM else "fix that"
            raise StorageError(
                f"must be a file that can be written; {self.target} could not be written: {error.strerror or error}; "
                f"{advice} and call again, which resumes where this stopped",
                argument="path",
            ) from error


def read_file(path: Path, check_values: bool = True) -> tuple[Layout, Tensor, Annotated[Tensor, "texts_plus_1"], str]:
    """Map a file of token states into memory and check it.

    Args:
        path: The file.
        check_values: Whether to compare the values with their checksums, which reads all of them.

    Returns:
        The layout, the values, the offsets, and a hash that identifies the content.

    Raises:
        NotFoundError: The file does not exist.
        FolderError: The file does not hold token states, is cut off or was altered.
    """
    expected = f"{path} must be a file that cache_states has made"
    check_regular(path, "a file that cache_states has made")
    try:
        size = path.stat().st_size
        # A private mapping: accidental writes to the values do not reach the file.
        content: Annotated[Tensor, "bytes"] = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except OSError as error:
        raise FolderError(f"{expected}: {error.strerror or error}") from error
    except RuntimeError as error:  # torch raises it for a folder or an empty file
        raise FolderError(f"{expected}, and cannot be mapped into memory") from error
    raw = content.numpy().data
    try:
        layout = Layout.read(raw)
    except _MALFORMED as error:
        raise FolderError(f"{expected}, but it is another file, or was cut off or altered: {error}") from error
    advice = "delete it and call cache_states again"
    if size != layout.size:
        raise FolderError(
            f"{path} is cut off or too long: it has {size:,} bytes, its header says {layout.size:,}; {advice}"
        )
    # The offsets come first, because they locate the blocks.
    intact = _HASH(raw[: layout.checksums]).digest() == raw[layout.checksum(layout.blocks) : layout.values]
    offsets = content[layout.offsets : layout.checksums].view(torch.int64).clone()
    for number in range(layout.blocks if intact and check_values else 0):
        start, end = layout.block(number, offsets)
        begin = layout.checksum(number)
        intact = intact and _HASH(raw[start:end]).digest() == raw[begin : begin + _HASH_BYTES]
    if not intact:
        raise FolderError(f"{path} was altered: its content and its checksums differ; {advice}")
    values = content[layout.values :].view(layout.dtype).view(-1, layout.dim)
    return layout, values, offsets, _HASH(raw[: layout.values]).hexdigest()


def refuse_others(path: Path, stored: dict[str, Any], requested: dict[str, Any]) -> None:
    """Refuse a file whose states are not the requested ones.

    Args:
        path: The file.
        stored: The identity of the states in the file.
        requested: The fields of the identity that must match, with their values.

    Raises:
        InvalidValueError: A field differs; the message names it.
    """
    names = differing({name: stored.get(name) for name in requested}, requested)
    if names:
        raise InvalidValueError(
            "path",
            f"must be a file of the requested states; {path} was made by {described(stored, names)}, but "
            f"{described(requested, names)} was requested; choose another path, or delete this file",
        )


def _bytes(tensor: Tensor) -> memoryview:
    content: memoryview = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    return content
