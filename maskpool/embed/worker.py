"""Embed one slice: the same code on every engine."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from maskpool.config.saved import read_prompts
from maskpool.embed.parts import PartSummary, not_written, write_part
from maskpool.embed.settings import Settings
from maskpool.embed.sources import Slice, read_slice
from maskpool.encoder import Encoder, weights_hash
from maskpool.errors import DataError, InvalidValueError, printable, rename_arguments
from maskpool.integrations.transformers import SentenceEmbedder, Vectors
from maskpool.nn import PoolingLayer
from maskpool.poolings.build import build_pooling
from maskpool.poolings.spelling import parse_mode

_TOKENIZED_TOGETHER = 1_000
# Of a batch's positions; a batch is also smaller than the budget where the next text would make more of them pads. Up
# to an eighth of the budget pads are accepted: a batch of a few tokens costs more than its pads.
_LARGEST_PAD_SHARE = 0.02
_SMALLEST_PART_OF_BUDGET = 8
_CONTROL = "a"  # a text that every model embeds
_REASON_LENGTH = 200
_PACKAGES = ("maskpool", "torch", "transformers", "tokenizers", "numpy", "pyarrow")

Tokens: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int32]]
Ints: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


def open_embedder(settings: Settings) -> tuple[SentenceEmbedder, list[str]]:
    """Open the model of a run.

    Args:
        settings: The model, its pooling and its device.

    Returns:
        The embedder, and what opening it warned of: steps of the saved model that are left out, or another pooling.

    Raises:
        MaskpoolError: The model cannot be opened or pooled.
    """
    with rename_arguments({"name": "model"}):
        encoder = Encoder.load(settings.model, settings.device)
    pooling: str | PoolingLayer | None = settings.pooling
    if settings.pooling is not None:
        mode, options = parse_mode(settings.pooling, "pooling")
        # A mode without options is passed as a string: the embedder compares it with the saved one.
        if options:
            pooling = build_pooling(mode, encoder.dimension, **options).to(encoder.model.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        embedder = SentenceEmbedder(encoder.model, encoder.tokenizer, pooling)
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    prompt, pools_prompt = _prompt(embedder, settings)
    if prompt and not pools_prompt:
        raise InvalidValueError(
            "prompt",
            f"must be empty for {settings.model}, whose pooling leaves out the tokens of a prompt: open the model with "
            "maskpool.integrations.sentence_transformers.load",
        )
    return embedder, notes


def _prompt(embedder: SentenceEmbedder, settings: Settings) -> tuple[str, bool]:
    """Return the prompt of a run, and whether its tokens are pooled."""
    saved = embedder.saved
    pools_prompt = saved is None or settings.pooling is not None or saved.include_prompt
    if settings.prompt is not None or saved is None:
        return settings.prompt or "", pools_prompt
    prompts, name = read_prompts(saved.folder)
    return prompts.get(name or "", ""), pools_prompt


def identity(embedder: SentenceEmbedder, settings: Settings) -> dict[str, Any]:
    """Describe what the vectors of a run depend on, apart from the texts, in values that JSON can hold.

    Two processes with the same identity write the same parts, on the same kind of processor.

    Args:
        embedder: The embedder of `open_embedder`.
        settings: The settings of the run.
    """
    encoder = embedder.encoder
    config = {name: value for name, value in encoder.model.config.to_dict().items() if not _is_informative(name)}
    normalize = settings.normalize
    if normalize is None:
        normalize = embedder.saved is not None and embedder.saved.normalize
    device = next(encoder.model.parameters()).device
    return {
        "model": {
            "sha256": weights_hash(encoder.model, json.dumps(config, sort_keys=True, default=str).encode()),
            "type": encoder.model.config.model_type,
            "vector_dimension": embedder.dimension,
            "max_length": encoder.max_length,
        },
        "pooling": {"layer": repr(embedder.pooling), "sha256": weights_hash(embedder.pooling)},
        "tokenizer": {"type": type(encoder.tokenizer).__name__, "sha256": _tokenizer_hash(encoder.tokenizer)},
        "prompt": _prompt(embedder, settings)[0],
        "normalize": normalize,
        "dtype": settings.dtype,
        "batch_tokens": settings.token_budget,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _is_informative(name: str) -> bool:
    """Whether a field of a configuration does not change what the model computes."""
    return name in ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")


def _tokenizer_hash(tokenizer: Any) -> str:  # Any: fast or slow, which share no typed interface
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: dict[str, Any] = {"vocabulary": tokenizer.get_vocab(), "type": type(tokenizer).__name__}
    else:
        content = json.loads(backend.to_str())
        content |= {"truncation": None, "padding": None}  # the last call's
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def embed_slice(
    piece: Slice,
    embedder: SentenceEmbedder,
    settings: Settings,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> PartSummary:
    """Embed the texts of a slice and write them as one part.

    The batches depend on the slice and the settings only, so the same slice gives the same part.

    Args:
        piece: The slice.
        embedder: The embedder of `open_embedder`.
        settings: The settings of the run.
        out: The output folder.
        advance: Is called with the number of rows that are finished since the last call.

    Returns:
        What the part holds.

    Raises:
        DataError: The input is not the one that the slice was cut from.
        StorageError: A file cannot be read or written.
    """
    rows = list(read_slice(piece, settings))
    bad = piece.rows - len(rows)
    missing = len([row for row in rows if row.text is None])
    if settings.drop_missing:
        rows = [row for row in rows if row.text is not None]
    embedded = embed_texts([row.text for row in rows], embedder, settings, advance)
    advance(piece.rows - int(np.count_nonzero(embedded.lengths >= 0)))
    summary = PartSummary(
        number=piece.number,
        first_row=piece.first_row,
        input_rows=piece.rows,
        rows=len(rows),
        bad=bad,
        dropped=missing if settings.drop_missing else 0,
        missing=0 if settings.drop_missing else missing,
        failed=tuple((rows[place].number, reason) for place, reason in sorted(embedded.failed.items())),
        truncated=int(embedded.truncated.sum()),
        tokens=int(embedded.lengths[embedded.lengths > 0].sum()),
        positions=embedded.positions,
    )
    ids = None if settings.id_column is None else [row.id for row in rows]
    numbers = [row.number for row in rows]
    lengths = embedded.lengths.astype(np.int32)
    try:
        return write_part(
            out, summary, ids, numbers, embedded.vectors, embedded.has_vector, lengths, embedded.truncated
        )
    except OSError as error:
        raise not_written(out, error) from error


@dataclass(frozen=True)
class EmbeddedTexts:
    """The vectors of texts, and what became of each text.

    Attributes:
        vectors: (texts, dim), in the dtype of the settings; zeros for a text without a vector.
        has_vector: Whether each text has a vector.
        lengths: The number of tokens of each text; -1 for a missing text and for one that could not be tokenized.
        truncated: Whether each text was cut off at the largest number of tokens.
        failed: Why texts could not be embedded, by their places.
        positions: Tokens and pads of all batches.
    """

    vectors: np.ndarray[tuple[int, int], Any]  # Any: float32 or float16
    has_vector: np.ndarray[tuple[int], np.dtype[np.bool_]]
    lengths: Ints
    truncated: np.ndarray[tuple[int], np.dtype[np.bool_]]
    failed: dict[int, str]
    positions: int


def embed_texts(
    texts: Sequence[str | None],
    embedder: SentenceEmbedder,
    settings: Settings,
    advance: Callable[[int], None] = lambda _: None,
) -> EmbeddedTexts:
    """Embed texts in batches of similar lengths; a text that cannot be embedded does not affect the others.

    Args:
        texts: The texts; None for a missing text.
        embedder: The embedder of `open_embedder`.
        settings: The settings of the run.
        advance: Is called with the number of texts that are finished since the last call.

    Raises:
        DataError: The model does not embed any text.
    """
    window = _tokenized(texts, embedder, _prompt(embedder, settings)[0])
    vectors = np.zeros((len(texts), embedder.dimension), settings.dtype)
    has_vector = np.zeros(len(texts), np.bool_)
    positions = 0
    for places in batches(window.lengths, settings.token_budget):
        positions += len(places) * max(1, int(window.lengths[places[0]]))
        with np.errstate(over="ignore"):  # a float16 that is too large becomes infinite, which is reported below
            for place, vector in _embedded(places, window, embedder, settings):
                vectors[place], has_vector[place] = vector, True
        advance(len(places))
    finite = np.isfinite(vectors).all(axis=1)
    for place in np.flatnonzero(has_vector & ~finite).tolist():
        window.failed[place] = "its vector is not finite"
    has_vector &= finite
    vectors[~has_vector] = 0
    return EmbeddedTexts(vectors, has_vector, window.lengths, window.truncated, window.failed, positions)


@dataclass
class _Window:
    """The tokens of texts: text k has ``tokens[offsets[k]:offsets[k + 1]]``.

    ``lengths`` is -1 for a row without a text and for a text that could not be tokenized.
    """

    tokens: Tokens
    offsets: Ints
    lengths: Ints
    truncated: np.ndarray[tuple[int], np.dtype[np.bool_]]
    failed: dict[int, str] = field(default_factory=dict)

    def ids(self, place: int) -> Tokens:
        return self.tokens[self.offsets[place] : self.offsets[place + 1]]


def _tokenized(texts: Sequence[str | None], embedder: SentenceEmbedder, prompt: str) -> _Window:
    """Tokenize texts, some at a time; lists of Python's integers would take ten times the memory."""
    lengths = np.full(len(texts), -1, np.int64)
    truncated = np.zeros(len(texts), np.bool_)
    failed: dict[int, str] = {}
    chunks = [np.zeros(0, np.int32)]
    for start in range(0, len(texts), _TOKENIZED_TOGETHER):
        places = [p for p in range(start, min(start + _TOKENIZED_TOGETHER, len(texts))) if texts[p] is not None]
        for place, ids, cut in _tokens(places, texts, embedder.encoder, prompt, failed):
            lengths[place], truncated[place] = len(ids), cut
            chunks.append(np.array(ids, np.int32))
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths, 0))])
    return _Window(np.concatenate(chunks), offsets, lengths, truncated, failed)


def _tokens(
    places: Sequence[int], texts: Sequence[str | None], encoder: Encoder, prompt: str, failed: dict[int, str]
) -> Iterator[tuple[int, Sequence[int], bool]]:
    """Yield the place, the tokens, and whether they were cut, of each text that can be tokenized."""
    try:
        ids, cut = encoder.tokenize_marked([f"{prompt}{texts[place]}" for place in places])
    except Exception as error:  # such as of half a surrogate pair, which no tokenizer takes
        if len(places) == 1:
            failed[places[0]] = _reason(error)
            return
        for place in places:
            yield from _tokens([place], texts, encoder, prompt, failed)
        return
    yield from zip(places, ids, cut, strict=True)


def batches(lengths: Ints, budget: int) -> Iterator[Ints]:
    """Yield the places of the texts of each batch, longest first.

    Args:
        lengths: The number of tokens of each text; texts of negative length are in no batch.
        budget: The largest number of positions of a batch. A longer text is a batch on its own.

    Example:
        >>> [batch.tolist() for batch in batches(np.array([3, 9, -1, 3, 8]), budget=16)]
        [[1], [4], [0, 3]]
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[: np.count_nonzero(lengths >= 0)]
    widths = np.maximum(lengths[order], 1)
    totals = np.concatenate([[0], np.cumsum(widths)])
    start = 0
    while start < len(order):
        width = int(widths[start])
        most = max(1, min(budget // width, len(order) - start))
        counts = np.arange(1, most + 1)
        pads = 1 - (totals[start + 1 : start + most + 1] - totals[start]) / (counts * width)
        accepted = (pads <= _LARGEST_PAD_SHARE) | (counts * width * _SMALLEST_PART_OF_BUDGET <= budget)
        stop = start + int(np.flatnonzero(accepted)[-1]) + 1
        yield order[start:stop]
        start = stop


def _embedded(
    places: Ints, window: _Window, embedder: SentenceEmbedder, settings: Settings
) -> Iterator[tuple[int, np.ndarray[tuple[int], np.dtype[np.float32]]]]:
    """Yield the place and vector of each text that can be embedded; a batch that fails is halved until one text fails.

    Raises:
        DataError: The model does not embed any text.
    """
    try:
        vectors: Vectors = embedder.embed_tokens(
            [window.ids(int(place)) for place in places],  # type: ignore[misc]  # an array is a sequence of integers
            normalize=settings.normalize,
        )
    except Exception as error:  # of the model, of any type: out of memory, an index, an assertion
        if len(places) > 1:
            for half in np.array_split(places, 2):
                yield from _embedded(half, window, embedder, settings)
            return
        _refuse_broken_model(embedder, settings)
        window.failed[int(places[0])] = _reason(error)
        return
    yield from zip(places.tolist(), vectors, strict=True)


def _refuse_broken_model(embedder: SentenceEmbedder, settings: Settings) -> None:
    """Raise an error if the model embeds no text at all: then the text is not the cause.

    Raises:
        DataError: The model does not embed a short text.
    """
    try:
        embedder.embed([_CONTROL])
    except Exception as error:
        raise DataError(f"{settings.model} does not embed any text: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    words = printable(next(iter(str(error).strip().splitlines()), "")) or type(error).__name__
    return words[:_REASON_LENGTH]
