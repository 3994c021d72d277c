"""One forward pass that pays for every arm of every plan."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from maskpool.bench.arms import spans, unit
from maskpool.encoder import Encoder
from maskpool.errors import UserError
from maskpool.modules import Pooling

if TYPE_CHECKING:
    from maskpool.bench.arms import Vectors
    from maskpool.plans import Ints

# Relative to the root mean square of the states. Clean float32 encoders stay below 9e-6, leaks of
# positions begin near 2e-3, leaks of content near 6e-2.
_PREFIX_TOLERANCE = 2e-5
_FORWARD_BATCH = 32


@dataclass(frozen=True)
class Pooled:
    """Pooled unit vectors of every text at every padded length that was asked for.

    Attributes:
        lengths: Real tokens of each text.
        excluded: For each pooling, (texts, dim).
        included: For each pooling, (pairs, dim); a pair is a text at a padded length.
        pads: The same, over pads alone; zeros where the pair has none.
        keys: One sorted number a pair.
    """

    lengths: Ints
    excluded: Mapping[str, Vectors]
    included: Mapping[str, Vectors]
    pads: Mapping[str, Vectors]
    keys: Ints

    def pairs(self, texts: Ints, widths: Ints) -> Ints:
        """The rows of ``included`` and ``pads`` that hold these texts at these padded lengths."""
        return np.searchsorted(self.keys, _key(texts, widths)).astype(np.int64)


@dataclass(frozen=True)
class States:
    """Token states, pads included, of some texts, all padded to one length."""

    texts: Ints
    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Cost:
    """Seconds spent in the encoder, and in pooling all arms from what it gave."""

    encoder: float
    arms: float


# More than any padded length, so that text and length make one number.
_STRIDE = 1 << 20


def _key(texts: Ints, widths: Ints) -> Ints:
    return texts * _STRIDE + widths


def prove_prefix(encoder: Encoder, ids: Sequence[Sequence[int]], top: int, rng: np.random.Generator) -> float:
    """Show on a sample of really batched texts that padding further only appends.

    Passes padded to ``top`` tokens are compared with batches padded to their own longest text (real
    tokens and pads), and with texts alone. A difference too large for float32 noise is measured again
    in float64, where noise all but vanishes and a leak stays.

    Returns:
        The largest difference, relative to the root mean square of the states.

    Raises:
        UserError: The difference says that states depend on how far a text is padded.
    """
    sample = rng.permutation(len(ids))[:_FORWARD_BATCH].tolist()
    groups = [[ids[i] for i in group] for group in (sample, sample[: _FORWARD_BATCH // 4], sample[:1], sample[-1:])]
    found = float(np.max([_prefix_difference(encoder, texts, top) for texts in groups]))
    if math.isnan(found):
        raise UserError(f"--model {encoder.name}: some of its token states are no numbers (NaN); choose another")
    if found <= _PREFIX_TOLERANCE:
        return found
    exact = replace(encoder, model=copy.deepcopy(encoder.model).cpu().double())
    leak = float(np.max([_prefix_difference(exact, texts, top) for texts in groups]))
    if not leak <= _PREFIX_TOLERANCE:
        raise UserError(
            f"--model {encoder.name}: its token states depend on how far a text is padded (by {leak:.1e} of their "
            f"root mean square in float64, {_PREFIX_TOLERANCE:.0e} allowed), so one forward pass cannot stand for "
            "every padding plan: its encoder leaks, or its outputs at pads count the pads; choose another"
        )
    return found


def _prefix_difference(encoder: Encoder, texts: Sequence[Sequence[int]], top: int) -> float:
    shorter, _ = encoder.states(texts)
    prefix = encoder.states(texts, top)[0][:, : shorter.shape[1]]
    return float((shorter - prefix).abs().max() / shorter.square().mean().sqrt())


def pool_corpus(
    encoder: Encoder,
    ids: Sequence[Sequence[int]],
    poolings: Mapping[str, Pooling],
    asked: Sequence[tuple[Ints, Ints]],
    kept: Ints,
    folder: Path,
    on_texts: Callable[[int], None],
) -> tuple[Pooled, States, Cost]:
    """Run the encoder once at the longest padded length and pool every arm from its prefixes.

    Args:
        encoder: The encoder, for which `prove_prefix` holds.
        ids: Token ids of each text.
        poolings: The layers, by mode.
        asked: Pairs of arrays, texts and the padded length of each.
        kept: Texts whose token states are to be kept.
        folder: Where the vectors lie, mapped into memory; it must outlive what is returned.
        on_texts: Called with the number of texts done.

    Raises:
        UserError: The folder has no room for them.
    """
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
    keys = np.unique(np.concatenate([_key(texts, widths) for texts, widths in asked]))
    pair_text, pair_width = np.divmod(keys, _STRIDE)
    top = int(pair_width.max())
    dim = encoder.dimension
    excluded = {mode: _mapped(folder / f"{mode} excluded.npy", len(ids), dim) for mode in poolings}
    included = {mode: _mapped(folder / f"{mode} included.npy", len(keys), dim) for mode in poolings}
    pads = {mode: _mapped(folder / f"{mode} pads.npy", len(keys), dim) for mode in poolings}
    states = torch.from_numpy(_mapped(folder / "states.npy", len(kept), top, dim))
    in_encoder = in_arms = 0.0
    for start in range(0, len(ids), _FORWARD_BATCH):
        texts = np.arange(start, min(start + _FORWARD_BATCH, len(ids)))
        began = time.perf_counter()
        output = encoder.states([ids[i] for i in texts.tolist()], top)[0].float().cpu()
        forwarded = time.perf_counter()
        here = slice(*np.searchsorted(pair_text, [texts[0], texts[-1] + 1]))
        rows, widths = pair_text[here] - start, pair_width[here]
        real = lengths[texts]
        plain = spans(output, texts - start, np.zeros_like(real), real)
        whole = spans(output, rows, np.zeros_like(rows), widths)
        padding = spans(output, rows, real[rows], widths)
        for mode, layer in poolings.items():
            excluded[mode][texts] = unit(layer.pool(plain).numpy())
            included[mode][here] = unit(layer.pool(whole).numpy())
            pads[mode][here] = unit(layer.pool(padding).numpy())
        in_encoder += forwarded - began
        in_arms += time.perf_counter() - forwarded
        held = np.flatnonzero((kept >= texts[0]) & (kept <= texts[-1]))
        states[held] = output[kept[held] - start]
        on_texts(len(texts))
    mask = torch.arange(top) < torch.from_numpy(lengths[kept]).unsqueeze(1)
    pooled = Pooled(lengths, excluded, included, pads, keys)
    return pooled, States(kept, states, mask), Cost(in_encoder, in_arms)


def _mapped(path: Path, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Zeros in a file, mapped into memory: what is not looked at takes none."""
    if not math.prod(shape):
        return np.zeros(shape, np.float32)  # nothing cannot be mapped
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk would otherwise end the process at the first write
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        size = 4 * math.prod(shape) / 1e9
        raise UserError(f"--out must have room for the vectors, {size:.1f} GB more: {error.strerror}") from error
    return array
