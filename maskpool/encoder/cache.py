"""Compute the token states of a corpus once and keep the real tokens, packed, in memory or in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from maskpool.batch.token_batch import SparseBatch
from maskpool.encoder import states_file
from maskpool.encoder.states_file import Layout, StatesPart, read_file, refuse_others
from maskpool.encoder.transformer import Encoder, check_texts, evaluating, weights_hash
from maskpool.errors import FolderError, InvalidTypeError, InvalidValueError

_DTYPES = {"float16": torch.float16, "float32": torch.float32}
# Files whose values this process has checked, with their inode, size and time: unpickling need not read them again.
_checked: set[tuple[str, int, int, int]] = set()


class TokenStates:
    """Hold the token states of texts, packed: the real tokens of one text after the other, without pads.

    Indexing with a slice, integers or a mask returns a view of the chosen texts, which scikit-learn's splits need.
    Iteration yields a view of each text. `batch` turns some of the texts into a batch that every pooling accepts.

    Attributes:
        values: (tokens, dim), float16 or float32, of all texts; mapped into memory if the states come from a file.
        offsets: (texts + 1,), int64, where each text's tokens begin in ``values``.
        texts: (chosen,), int64, which of the texts are chosen.
        identity: The encoder and the texts that the states were computed from; it is compared before they are used.

    Args:
        values: (tokens, dim), float16 or float32, on the CPU and without a gradient: they are read through NumPy.
        offsets: (texts + 1,).
        identity: The identity of the states; empty by default.
        texts: Which texts are chosen; all by default.

    Raises:
        ValueError: The shapes do not fit, or ``offsets`` does not split the tokens into texts.
        TypeError: ``values`` have another dtype, are on another device or require a gradient.

    Example:
        >>> states = TokenStates(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([0, 1, 3]))
        >>> len(states), states.shape, states.lengths.tolist()
        (2, (2, 1), [1, 2])
        >>> states[[1, 0]].batch([0]).to_padded()[0]
        tensor([[[2.],
                 [5.]]])
    """

    def __init__(
        self,
        values: Annotated[Tensor, "tokens dim"],
        offsets: Annotated[Tensor, "texts_plus_1"],
        identity: dict[str, Any] | None = None,
        texts: Annotated[Tensor, "chosen"] | None = None,
    ) -> None:
        if values.dim() != 2:
            raise InvalidValueError("values", f"must have the shape (tokens, dim), got {tuple(values.shape)}")
        if values.dtype not in _DTYPES.values() or values.device.type != "cpu" or values.requires_grad:
            gradient = " with a gradient" if values.requires_grad else ""
            raise InvalidTypeError(
                "values",
                f"must be float16 or float32 on the CPU without a gradient, got {values.dtype} on {values.device}"
                f"{gradient}: pass values.detach().float().cpu()",
            )
        ends = (int(offsets[0]), int(offsets[-1])) if offsets.dim() == 1 and len(offsets) else None
        if ends != (0, len(values)) or bool((offsets.diff() < 0).any()):
            raise InvalidValueError(
                "offsets",
                "must have the shape (texts + 1,), start at 0, never decrease and end at the number of tokens, "
                f"{len(values)}; got the shape {tuple(offsets.shape)}, and {ends or 'nothing'} at its ends",
            )
        self.values = values
        self.offsets = offsets
        self.identity = {} if identity is None else identity
        self.texts = torch.arange(len(offsets) - 1) if texts is None else texts
        self._file: tuple[str, str] | None = None  # the path of the file, and the hash of its content

    @classmethod
    def open(cls, path: str | os.PathLike[str], encoder: Encoder | None = None) -> TokenStates:
        """Map a file that `cache_states` wrote into memory, and check every byte of it.

        Args:
            path: The file.
            encoder: The encoder that the states must come from; None accepts any encoder.

        Raises:
            NotFoundError: The file does not exist.
            FolderError: The file is not a cache, is cut off or was altered.
            InvalidValueError: The states come from another encoder or tokenizer.
        """
        states = _open(Path(path))
        if encoder is not None:
            refuse_others(Path(path), states.identity, _identity_of(encoder))
        return states

    @property
    def dimension(self) -> int:
        """Return the width of a token state."""
        return int(self.values.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of chosen texts and the width of a token state."""
        return len(self), self.dimension

    @property
    def lengths(self) -> Annotated[Tensor, "chosen"]:
        """Return the number of tokens of each chosen text."""
        return self.offsets[self.texts + 1] - self.offsets[self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, key: Any) -> TokenStates:  # Any: every index that numpy accepts
        """Return a view of some of the texts; an index of rows and columns must take all columns."""
        if isinstance(key, tuple):
            if len(key) != 2 or not (key[1] is Ellipsis or (isinstance(key[1], slice) and key[1] == slice(None))):
                raise IndexError(f"token states are indexed by texts only, got {key!r}")
            key = key[0]
        if not isinstance(key, slice):
            key = np.asarray(key)
            key = key if key.size else key.astype(np.int64)  # numpy makes an empty list an array of floats
        view = TokenStates.__new__(TokenStates)  # everything except the texts is already checked
        view.__dict__ |= self.__dict__ | {"texts": torch.from_numpy(np.atleast_1d(self.texts.numpy()[key]).copy())}
        return view

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse the conversion to an array: texts have different numbers of tokens until they are pooled.

        Raises:
            TypeError: Always.
        """
        raise InvalidTypeError(
            "states", "must be pooled before they are an array, as in mean_pool(states.batch(range(len(states))))"
        )

    def batch(self, texts: Sequence[int] | Annotated[Tensor, "some"]) -> SparseBatch:
        """Return some of the chosen texts as a float32 batch; only the tokens of these texts are read.

        Args:
            texts: Places among the chosen texts, counted from 0; negative places count from the end.

        Raises:
            TypeError: ``texts`` does not hold integers.
            IndexError: A place is out of range.
        """
        places = torch.as_tensor(texts)
        if places.dim() != 1 or (len(places) and (places.is_floating_point() or places.dtype == torch.bool)):
            raise InvalidTypeError(
                "texts",
                f"must be places, a list of integers; got the shape {tuple(places.shape)} of {places.dtype}: "
                "states[mask] chooses by a mask",
            )
        which = self.texts[places.long()]
        starts, ends = self.offsets[which], self.offsets[which + 1]
        # numpy, in one thread: a batch has few rows, and torch would start its threads three times, which costs more
        # than it gains (a hundred times more on a busy machine).
        rows = self.values.numpy()
        parts = [rows[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        values = torch.from_numpy(np.concatenate(parts) if parts else rows[:0].copy()).float()
        offsets = torch.nn.functional.pad((ends - starts).cumsum(0), (1, 0))
        return SparseBatch(values, torch.arange(len(values)), offsets)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a cache as its path; unpickling maps the same file."""
        if self._file is None:
            return TokenStates, (self.values, self.offsets, self.identity, self.texts)
        return _reopen, (*self._file, self.texts)


def compute_states(
    encoder: Encoder,
    texts: Sequence[str],
    layer: int = -1,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    weights_sha256: str | None = None,
) -> TokenStates:
    """Run an encoder over texts and keep their token states in memory, in float32.

    Args:
        encoder: Any encoder; it runs in evaluation mode.
        texts: Texts.
        layer: As in `token_states`.
        batch_size: Number of texts that run together.
        on_batch: Called after each batch with its number of texts.
        weights_sha256: `weights_hash` of the model, if the caller knows that the weights have not changed since. None
            hashes all weights, which takes longer than encoding a text.

    Raises:
        TypeError: ``texts`` does not hold only strings.
        ValueError: ``batch_size`` is not a positive integer, or the model does not have the layer.
    """
    ids, cut_off = _tokenize(encoder, texts, batch_size)
    block = states_file.BLOCK
    parts = [
        _states(encoder, ids[start : start + block], layer, batch_size, torch.float32, on_batch)
        for start in range(0, len(ids), block)
    ]
    values = torch.cat(parts) if parts else torch.zeros(0, encoder.dimension)
    identity = _identity(encoder, ids, cut_off, layer, "float32", weights_sha256)
    return TokenStates(values, _offsets_of(ids), identity)


def cache_states(
    encoder: Encoder,
    texts: Sequence[str],
    path: str | os.PathLike[str],
    dtype: str = "float16",
    layer: int = -1,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> TokenStates:
    """Run an encoder over texts once and keep their token states in a file, from which training reads what it needs.

    The file is a safetensors file with ``values``, ``offsets`` and checksums; its header records the encoder and the
    texts. The file grows as ``PATH.part``, which is preallocated before anything is computed. An interrupted run
    resumes from it, does not compute a finished block twice, and ends with the same bytes. (Another number of threads
    may change a last bit; the model name and the versions in the header are those of the first run.) If the finished
    file exists already, it is checked and opened, and ``on_batch`` is not called.

    Args:
        encoder: Any encoder; it runs in evaluation mode.
        texts: Texts.
        path: The file.
        dtype: ``"float16"`` or ``"float32"``.
        layer: As in `token_states`.
        batch_size: Number of texts that run together; it changes only float32 rounding and is not part of the identity.
        on_batch: Called after each batch with its number of texts.

    Returns:
        The states, mapped into memory.

    Raises:
        TypeError: ``texts`` does not hold only strings.
        ValueError: ``dtype`` is unknown, ``batch_size`` is not a positive integer, or the model does not have the
            layer.
        InvalidValueError: The file or its unfinished part belongs to other texts or another encoder, or a state is too
            large for float16.
        FolderError: The file was altered.
        StorageError: The file cannot be written, or another process is filling it.

    Example::

        states = cache_states(Encoder.load(), texts, "states.safetensors")
        batch = states.batch([0, 5, 7])  # a TokenBatch, for any pooling
    """
    if dtype not in _DTYPES:
        raise InvalidValueError("dtype", f"must be one of {', '.join(map(repr, _DTYPES))}, got {dtype!r}")
    ids, cut_off = _tokenize(encoder, texts, batch_size)
    identity = _identity(encoder, ids, cut_off, layer, dtype)
    target = Path(path)
    if not target.exists():
        offsets = _offsets_of(ids)
        layout = Layout(len(ids), int(offsets[-1]), encoder.dimension, _DTYPES[dtype], identity, states_file.BLOCK)
        part = StatesPart(target, layout, offsets)
        with part.claim():
            if target.exists():  # another process has just finished the file
                part.discard()
            else:
                finished = part.begin()
                block = part.layout.texts_a_block  # the block size of the first run
                for number in range(finished, part.layout.blocks):
                    block_ids = ids[number * block : (number + 1) * block]
                    try:
                        values = _states(encoder, block_ids, layer, batch_size, layout.dtype, on_batch)
                    except _TooLargeError:
                        part.discard()  # no run with this dtype can finish it
                        raise InvalidValueError(
                            "dtype", "must hold every state, and a token state is too large for float16: pass 'float32'"
                        ) from None
                    part.write_block(number, values)
                part.finish()
    states = _open(target)
    refuse_others(target, states.identity, identity)
    return states


def _open(path: Path, skip_checked: bool = False) -> TokenStates:
    """Open a file; with ``skip_checked``, do not check values again that this process has already checked."""
    place = str(path.absolute())
    stamp = _stamp(path)
    layout, values, offsets, content = read_file(path, check_values=not (skip_checked and (place, *stamp) in _checked))
    _checked.add((place, *stamp))
    try:
        states = TokenStates(values, offsets, layout.identity)
    except ValueError as error:
        raise FolderError(f"{path} must be a file that cache_states has made: {error}") from error
    states._file = (place, content)
    return states


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:  # reading the file reports the error
        return -1, -1, -1
    return status.st_ino, status.st_size, status.st_mtime_ns


def _reopen(path: str, content: str, texts: Tensor) -> TokenStates:
    states = _open(Path(path), skip_checked=True)
    if states._file != (path, content):
        raise FolderError(
            f"{path} does not hold the states that were pickled: compute them again, or open the file again"
        )
    states.texts = texts
    return states


# ---------------------------------------------------------------------------------- computation


class _TooLargeError(Exception):
    """A finite state is too large for float16."""


def _tokenize(encoder: Encoder, texts: Sequence[str], batch_size: int) -> tuple[list[list[int]], int]:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidValueError("batch_size", f"must be a positive integer, got {batch_size!r}")
    return encoder.tokenize(check_texts(texts))


def _offsets_of(ids: Sequence[Sequence[int]]) -> Annotated[Tensor, "texts_plus_1"]:
    return torch.tensor([0, *map(len, ids)], dtype=torch.int64).cumsum(0)


def _states(
    encoder: Encoder,
    ids: Sequence[Sequence[int]],
    layer: int,
    batch_size: int,
    dtype: torch.dtype,
    on_batch: Callable[[int], None] | None,
) -> Annotated[Tensor, "tokens dim"]:
    """Compute token states, one text after the other in the result; texts of similar length run together."""
    offsets = _offsets_of(ids)
    values = torch.empty(int(offsets[-1]), encoder.dimension, dtype=dtype)
    order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
    for start in range(0, len(order), batch_size):
        batch_texts = [text for text in order[start : start + batch_size] if ids[text]]
        if batch_texts:
            with evaluating(encoder.model):
                (states,) = encoder.layers([ids[text] for text in batch_texts], (layer,))
            for row, text in zip(states, batch_texts, strict=True):
                real = row[: len(ids[text])]
                kept = real.to("cpu", dtype)
                if dtype == torch.float16 and bool((kept.isinf() & real.cpu().isfinite()).any()):
                    raise _TooLargeError
                values[offsets[text] : offsets[text + 1]] = kept
        if on_batch is not None:
            on_batch(len(order[start : start + batch_size]))
    return values


# ---------------------------------------------------------------------------------- identity


def _identity_of(encoder: Encoder, weights_sha256: str | None = None) -> dict[str, Any]:
    """Describe everything that an encoder's states depend on."""
    tokenizer: Any = encoder.tokenizer  # Any: only fast tokenizers have a backend
    if hasattr(tokenizer, "backend_tokenizer"):
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two record the tokenizer's last call, not its definition.
        described = {name: part for name, part in parts.items() if name not in ("truncation", "padding")}
    else:
        described = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    # Hash the weights as they are now, in the dtype they run in; the file they were loaded from may differ.
    as_it_runs = replace(encoder, weights_sha256=weights_sha256 or weights_hash(encoder.model))
    return {
        **as_it_runs.identity(),
        "computed_in": str(encoder.model.dtype).removeprefix("torch."),
        "tokenizer_sha256": hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest(),
    }


def _identity(
    encoder: Encoder,
    ids: Sequence[Sequence[int]],
    cut_off: int,
    layer: int,
    dtype: str,
    weights_sha256: str | None = None,
) -> dict[str, Any]:
    import transformers

    tokens = hashlib.sha256()
    for text in ids:
        tokens.update(len(text).to_bytes(8, "little") + np.asarray(text, np.int64).tobytes())
    return {
        **_identity_of(encoder, weights_sha256),
        "layer": layer,
        "dtype": dtype,
        "texts": len(ids),
        "tokens_sha256": tokens.hexdigest(),
        "cut_off": cut_off,
        "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
    }
