"""Run the encoder and pool vectors from its token states."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from maskpool.audit.census import find_row
from maskpool.audit.states import relative
from maskpool.bench.design.treatments import OF_TOP, Positions
from maskpool.bench.encode.positions import RIGHT, Source, Windows, partners
from maskpool.bench.vectors import Vectors
from maskpool.encoder import Encoder, layer_states
from maskpool.errors import FolderError, InvalidValueError, StorageError
from maskpool.files import atomic_write
from maskpool.nn import PoolingLayer
from maskpool.plans import Ints
from maskpool.tolerances import CLEAN
from maskpool.trust import Folder

Mapped: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_BLOCK = 32
# Larger than any padded length, so text and length fit into one number.
_STRIDE = 1 << 20


@dataclass(frozen=True)
class Request:
    """The vectors to pool.

    Attributes:
        layers: Layers of the encoder.
        poolings: Pooling layers by mode.
        pairs: For each source, sorted keys of (text, padded length).
        position_sets: For each source, the sets of positions that are pooled.
        prefix: Whether padding a text further only appends states.
        top: The longest padded length.
        kept: Texts whose token states of the last layer are kept, padded to ``top``.
        seed: Seed of the order in which texts are run, because the pads of a text may replace those of another.
    """

    layers: tuple[int, ...]
    poolings: Mapping[str, PoolingLayer]
    pairs: Mapping[Source, Ints]
    position_sets: Mapping[Source, tuple[Positions, ...]]
    prefix: bool
    top: int
    kept: Ints
    seed: int = 0

    @cached_property
    def sha256(self) -> str:
        """Hash of the request, which keeps the vectors of different requests apart."""
        settings = (
            self.layers,
            list(self.poolings),
            self.position_sets,
            self.prefix,
            self.top,
            self.seed,
            sorted(self.pairs),
        )
        digest = hashlib.sha256(repr(settings).encode())
        for numbers in (self.kept, *(self.pairs[source] for source in sorted(self.pairs))):
            digest.update(hashlib.sha256(numbers.tobytes()).digest())
        return digest.hexdigest()

    def blocks(self, lengths: Ints) -> list[tuple[int, int]]:
        """Return the number of texts and the padded length of each block that is run."""
        return [(len(block.texts), block.width) for block in _blocks(self, lengths)]


@dataclass(frozen=True)
class States:
    """Token states, pads included, of some texts, all padded to one length."""

    texts: Ints
    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Pooled:
    """Pooled vectors of every text at every padded length of a request.

    The vectors stay in their files, where another process can read them.

    Attributes:
        lengths: Number of real tokens of each text.
        prefix: Whether padding a text further only appends states.
        folder: The folder of the files.
    """

    lengths: Ints
    prefix: bool
    folder: Path

    def read(self, source: Source, positions: Positions, layer: int, mode: str, texts: Ints, widths: Ints) -> Vectors:
        """Read the vectors of texts padded to the given lengths."""
        array = np.load(self.folder / _file(source, positions, layer, mode), mmap_mode="r", allow_pickle=False)
        if positions != "real" or source != RIGHT or not self.prefix:
            pairs = np.load(self.folder / _pairs_file(source), mmap_mode="r", allow_pickle=False)
            texts = np.searchsorted(pairs, pair_keys(texts, widths))
        return np.array(array[texts])

    def alone(self, layer: int, mode: str, texts: Ints) -> Vectors:
        """Read the vectors of texts alone, unpadded."""
        return self.read(RIGHT, "real", layer, mode, texts, self.lengths[texts])


def _file(source: Source, positions: Positions, layer: int, mode: str) -> str:
    # A head that was trained elsewhere is named by its path, which cannot be a file name.
    pooling = mode if mode.isidentifier() else hashlib.sha256(mode.encode()).hexdigest()
    return f"{source.side} {'masked' if source.masked else 'unmasked'} {positions} {layer} {pooling}.npy"


def _pairs_file(source: Source) -> str:
    return f"{source.side} {'masked' if source.masked else 'unmasked'} pairs.npy"


@dataclass(frozen=True)
class Cost:
    """Seconds spent in the encoder, and in pooling all treatments from its states."""

    encoder: float
    treatments: float


@dataclass(frozen=True)
class Proof:
    """The result of `prove_prefix`.

    Attributes:
        holds: Whether padding further only appends states.
        difference: The largest difference, relative to the root mean square of the states.
        denied_by: The row of the padding census that contradicts the sample; empty if there is none.
    """

    holds: bool
    difference: float
    denied_by: str = ""


def pair_keys(texts: Ints, widths: Ints) -> Ints:
    """Encode each text at a padded length as one number, ordered by text, then by length."""
    return texts * _STRIDE + widths


def prove_prefix(
    encoder: Encoder, ids: Sequence[Sequence[int]], top: int, layers: Sequence[int], rng: np.random.Generator
) -> Proof:
    """Check on a sample of batched texts whether padding further only appends states.

    Compares passes padded to ``top`` tokens with batches padded to their own longest text (real tokens and pads), and
    with texts alone, in each layer. If a difference is too large for rounding noise of the model's precision, it is
    measured again in float64, where noise almost vanishes and a leak stays. If the padding census has seen the
    model's architecture do otherwise, the census overrides a sample that does not show it.

    Raises:
        InvalidValueError: States are NaN, or the states of a text depend on the other texts of its batch.
    """
    order = rng.permutation(len(ids))
    longest = max(range(len(ids)), key=lambda text: len(ids[text]))
    shortest = min(range(len(ids)), key=lambda text: len(ids[text]))
    sample = list(dict.fromkeys([*order[: _BLOCK - 2].tolist(), longest, shortest]))
    groups = [[ids[i] for i in group] for group in (sample, sample[: _BLOCK // 4], [shortest], [longest])]
    companions = _companions_difference(encoder, groups[0], top, layers)
    difference = _largest([_prefix_difference(encoder, texts, top, layers) for texts in groups])
    if math.isnan(difference) or math.isnan(companions):
        raise InvalidValueError(
            "models", f"must give token states that are numbers; some of {encoder.name} are NaN: choose another model"
        )
    row = find_row(encoder.model.config)
    attention = str(getattr(encoder.model.config, "_attn_implementation", ""))
    denied_by = row.name if row is not None and not row.appends.get(attention, True) else ""
    if max(difference, companions) <= CLEAN:
        return Proof(not denied_by, difference, denied_by)
    exact = replace(encoder, model=copy.deepcopy(encoder.model).cpu().double())
    if companions > CLEAN and _companions_difference(exact, groups[0], top, layers) > CLEAN:
        raise InvalidValueError(
            "models",
            f"must give a text the same token states in any batch; those of {encoder.name} depend on the other texts "
            f"of the batch, even if all are padded to the same length (by {companions:.1e} of their root mean square), "
            "so a text has no single vector under any plan: choose another model",
        )
    if difference <= CLEAN:
        return Proof(not denied_by, difference, denied_by)
    leak = _largest([_prefix_difference(exact, texts, top, layers) for texts in groups])
    return Proof(False, leak) if leak > CLEAN else Proof(not denied_by, difference, denied_by)


def _prefix_difference(encoder: Encoder, texts: Sequence[Sequence[int]], top: int, layers: Sequence[int]) -> float:
    shorter = encoder.layers(texts, layers)
    further = encoder.layers(texts, layers, top)
    return _largest([relative(a, b[:, : a.shape[1]]) for a, b in zip(shorter, further, strict=True)])


def _companions_difference(encoder: Encoder, texts: Sequence[Sequence[int]], top: int, layers: Sequence[int]) -> float:
    together = encoder.layers(texts, layers, top)
    alone = encoder.layers(texts[:1], layers, top)
    return _largest([relative(a, b[:1]) for a, b in zip(alone, together, strict=True)])


def _largest(differences: list[float]) -> float:
    """Return the largest difference, or NaN if any is NaN; ``max`` would ignore a NaN."""
    return float(np.max(differences))


@dataclass(frozen=True)
class _Block:
    """Texts that are run together, padded to one length."""

    source: Source
    texts: Ints
    width: int


def pool_corpus(
    encoder: Encoder, ids: Sequence[Sequence[int]], request: Request, folder: Path, on_texts: Callable[[int], None]
) -> tuple[Pooled, States, Cost]:
    """Run the encoder and pool every treatment.

    If the prefix property is proven, each text is run once, padded to ``request.top`` on the right, and the states of
    every shorter padded length are the beginning of that pass. Everything else is run for real: each text at each
    padded length of the request, in blocks of texts with one padded length.

    The pooled vectors are in files in ``folder``, next to a count of the finished blocks, so an interrupted call
    resumes where it stopped.

    Args:
        encoder: The encoder.
        ids: Token ids of each text.
        request: The vectors to pool.
        folder: The folder of the vectors, which are mapped into memory; it must outlive the returned objects.
        on_texts: Called with the number of texts run, including those of an earlier call.

    Raises:
        StorageError: The folder does not have room for the vectors.
        InvalidValueError: A vector is not finite.
    """
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
    blocks = list(_blocks(request, lengths))
    marker = folder / "done.json"
    done, in_encoder, in_treatments = _finished(marker)
    # Measured on the model, because the embedding matrix and the last layer may be narrower than other layers.
    dimensions = [states.shape[2] for states in encoder.layers(ids[:1], request.layers)]
    arrays = _arrays(request, dimensions, len(ids), folder, fresh=not done)
    kept_layer = request.layers.index(_deepest(encoder, ids, request.layers)) if len(request.kept) else 0
    kept_shape = (len(request.kept), request.top if len(request.kept) else 0, dimensions[kept_layer])
    states = torch.from_numpy(_mapped(folder / "states.npy", kept_shape, not done))
    commons = _common_pads(encoder, ids, request)
    on_texts(sum(len(block.texts) for block in blocks[:done]))
    for number, block in enumerate(blocks[done:], done + 1):
        began = time.perf_counter()
        output = encoder.layers(
            [ids[i] for i in block.texts.tolist()], request.layers, block.width, block.source.side, block.source.masked
        )
        forwarded = time.perf_counter()
        for layer, values in zip(request.layers, output, strict=True):
            _pool_block(block, layer, values.float().cpu(), lengths, request, arrays, commons)
        if len(request.kept) and block.source == RIGHT and block.width == request.top:
            rows = np.flatnonzero(np.isin(block.texts, request.kept))
            places = np.searchsorted(request.kept, block.texts[rows])
            states[places] = output[kept_layer][rows].float().cpu()
        in_encoder += forwarded - began
        in_treatments += time.perf_counter() - forwarded
        # Mapped pages outlive the process that wrote them, so the next process only needs a count.
        with atomic_write(marker) as temporary:
            temporary.write_text(json.dumps([number, in_encoder, in_treatments]))
        on_texts(len(block.texts))
    mask = torch.arange(request.top) < torch.from_numpy(lengths[request.kept]).unsqueeze(1)
    return Pooled(lengths, request.prefix, folder), States(request.kept, states, mask), Cost(in_encoder, in_treatments)


def _deepest(encoder: Encoder, ids: Sequence[Sequence[int]], layers: Sequence[int]) -> int:
    """Return the layer nearest to the output; negative layers count from there."""
    if -1 in layers or min(layers) >= 0:
        return -1 if -1 in layers else max(layers)
    with torch.inference_mode():
        number = len(layer_states(encoder.model, *encoder.pad(ids[:1])))
    return max(layers, key=lambda layer: layer % number)


def _blocks(request: Request, lengths: Ints) -> list[_Block]:
    blocks = []
    order = np.random.default_rng(request.seed).permutation(len(lengths))
    if request.prefix:
        blocks += [_Block(RIGHT, np.sort(texts), request.top) for texts in _split(order)]
    for source in sorted(request.pairs):
        if source == RIGHT and request.prefix:
            continue
        text, width = np.divmod(request.pairs[source], _STRIDE)
        for block_width in np.unique(width).tolist():
            chosen = order[np.isin(order, text[width == block_width], kind="table")]
            blocks += [_Block(source, np.sort(texts), block_width) for texts in _split(chosen)]
    return blocks


def _split(texts: Ints) -> list[Ints]:
    """Split texts into blocks of almost equal size; a single text in a block would have no other text's pads."""
    return np.array_split(texts, max(1, -(-len(texts) // _BLOCK)))


@torch.no_grad()
def _pool_block(
    block: _Block,
    layer: int,
    values: Tensor,
    lengths: Ints,
    request: Request,
    arrays: Mapping[tuple[Source, Positions, int, str], Mapped],
    commons: Mapping[tuple[str, int], Tensor],
) -> None:
    source, left = block.source, block.source.side == "left"
    keys = request.pairs[source]
    if source == RIGHT and request.prefix:
        starts, ends = (
            np.searchsorted(keys, pair_keys(block.texts + more, np.zeros_like(block.texts))) for more in (0, 1)
        )
        places = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)]).astype(np.int64)
        rows = np.repeat(np.arange(len(block.texts)), ends - starts)
    else:
        places = np.searchsorted(keys, pair_keys(block.texts, np.full_like(block.texts, block.width)))
        rows = np.arange(len(block.texts))
    real = lengths[block.texts]
    windows = Windows(real, rows, keys[places] % _STRIDE, left)
    for positions in request.position_sets[source]:
        target = places
        if positions == "real" and source == RIGHT and request.prefix:
            every = np.arange(len(block.texts))
            batch, target = Windows(real, every, real).real(values), block.texts
        elif positions == "common":
            batch = windows.with_pads(values, None, commons[source.side, layer])
        elif positions == "another":
            batch = windows.with_pads(values, partners(real, block.width), commons[source.side, layer])
        else:
            batch = getattr(windows, positions)(values)
        for mode, pooling in request.poolings.items():
            vectors = pooling.pool(batch).numpy()
            if not np.isfinite(vectors).all():
                raise InvalidValueError(
                    "models",
                    f"must give finite vectors; some vectors of layer {layer} pooled by {mode} are not finite, but "
                    "the states of a sample of the texts are: choose a dtype with a wider range, or another model",
                )
            arrays[source, positions, layer, mode][target] = vectors


def _common_pads(encoder: Encoder, ids: Sequence[Sequence[int]], request: Request) -> dict[tuple[str, int], Tensor]:
    """Average the states at the pads of a sample of texts, for each side and layer."""
    sample = np.random.default_rng(request.seed).permutation(len(ids))[:_BLOCK].tolist()
    common_pads: dict[tuple[str, int], Tensor] = {}
    for side in {
        source.side for source, position_sets in request.position_sets.items() if set(OF_TOP) & set(position_sets)
    }:
        for layer, values in zip(
            request.layers, encoder.layers([ids[i] for i in sample], request.layers, request.top, side), strict=True
        ):
            mask = encoder.pad([ids[i] for i in sample], request.top, side)[1]
            pads = values.float().cpu()[mask.cpu() == 0]
            zeros = values.new_zeros(values.shape[2]).float().cpu()
            common_pads[side, layer] = pads.mean(dim=0) if len(pads) else zeros
    return common_pads


def _arrays(
    request: Request, dimensions: Sequence[int], texts: int, folder: Path, fresh: bool
) -> dict[tuple[Source, Positions, int, str], Mapped]:
    arrays = {}
    for source, position_sets in request.position_sets.items():
        for positions in position_sets:
            each_text = positions == "real" and source == RIGHT and request.prefix
            for layer, dimension in zip(request.layers, dimensions, strict=True):
                for mode, pooling in request.poolings.items():
                    rows = texts if each_text else len(request.pairs[source])
                    shape = (rows, pooling.output_dimension(dimension))
                    arrays[source, positions, layer, mode] = _mapped(
                        folder / _file(source, positions, layer, mode), shape, fresh
                    )
        np.save(folder / _pairs_file(source), request.pairs[source])
    return arrays


def _finished(marker: Path) -> tuple[int, float, float]:
    """Read how many blocks an earlier call finished, and its seconds in the encoder and in pooling."""
    content = Folder(marker.parent).json(marker.name)
    if content is None:
        return 0, 0.0, 0.0
    if not isinstance(content, list) or [type(number) for number in content] != [int, float, float] or content[0] < 0:
        raise FolderError(f"{marker} must hold a number of blocks and two times: delete its folder and run again")
    return content[0], content[1], content[2]


def _mapped(path: Path, shape: tuple[int, ...], fresh: bool) -> Mapped:
    """Map an array in a file into memory; a fresh array holds zeros."""
    Folder(path.parent).find(path.name)  # refuses a link to somewhere else, which would be written to
    if not math.prod(shape):  # an empty array cannot be mapped
        np.save(path, np.zeros(shape, np.float32))
        return np.zeros(shape, np.float32)
    if not fresh:
        try:
            stored: Mapped = np.lib.format.open_memmap(path, mode="r+")  # it refuses pickled objects
        except (ValueError, OSError, EOFError) as error:
            raise FolderError(f"{path} must hold vectors: {error}; delete its folder and run again") from error
        if stored.shape != shape or stored.dtype != np.float32:
            raise FolderError(f"{path} must hold vectors of the shape {shape}: delete its folder and run again")
        return stored
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk would otherwise end the process at the first write
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        size = 4 * math.prod(shape) / 1e9
        raise StorageError(
            f"must have room for the vectors, {size:.1f} GB more: {error.strerror}", argument="out"
        ) from error
    return array
