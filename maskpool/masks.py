"""Mask algebra: lengths, padding side, prompts, special tokens, spans, masks from token ids.

A padded mask is (batch, seq), bool or integer, 1 or True at real tokens. Its packed counterpart is flat, (tokens,), and
comes with ``cu_seqlens``, (batch + 1,): cumulative lengths that start at 0, never decrease and end at the number of
tokens. Functions that take a mask or token ids take both forms, the packed one with ``cu_seqlens=``. A padded mask may
also be a tokenizer's output, a NumPy array, or a floating mask of exactly 0 and 1. No function writes to its arguments.
A returned mask has the dtype of the mask that was passed; a new one is bool. `maskpool.TokenBatch.select` takes both
forms.

Values are checked on CPU in eager mode; elsewhere only shapes and dtypes are. Padded forms can be traced.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from maskpool.batch.checks import (
    check_cu_seqlens,
    check_integers,
    check_same_device,
    check_zeros_and_ones,
    kind,
    on_eager_cpu,
    to_bool_or_integer,
    to_mask,
)
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.types import SIDES, AttentionMask, Lengths, Mask, Offsets, PaddedMask, Side

__all__ = [
    "exclude_prompt",
    "exclude_special_tokens",
    "lengths_to_cu_seqlens",
    "lengths_to_mask",
    "mask_from_input_ids",
    "mask_to_lengths",
    "padding_side",
    "span_index",
    "span_mask",
]


def lengths_to_mask(lengths: Lengths, max_length: int | None = None, side: Side = "right") -> PaddedMask:
    """Return the mask of sentences of given lengths, padded on one side.

    Args:
        lengths: (batch,), integers ≥ 0.
        max_length: Width of the mask; None takes the longest length (eager mode only).
        side: The side of the pads.

    Returns:
        bool, (batch, max_length).

    Raises:
        InvalidTypeError: ``lengths`` is not an integer tensor.
        InvalidValueError: It has another shape, a length is negative or above ``max_length``, or ``side`` is unknown.

    See Also:
        `lengths_to_cu_seqlens`: The packed counterpart.

    Example:
        >>> lengths_to_mask(torch.tensor([1, 3])).int()
        tensor([[1, 0, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    check_integers("lengths", lengths, 1)
    if side not in SIDES:
        raise InvalidValueError("side", f"must be 'right' or 'left', got {side!r}")
    if on_eager_cpu(lengths) and lengths.numel():
        lowest, highest = map(int, lengths.aminmax())
        if lowest < 0 or (max_length is not None and highest > max_length):
            most = "" if max_length is None else f" and at most max_length={max_length}"
            raise InvalidValueError("lengths", f"must be at least 0{most}, got {lowest} to {highest}")
    if max_length is None:
        max_length = int(lengths.max()) if lengths.numel() else 0
    columns = torch.arange(max_length, device=lengths.device)
    if side == "left":
        columns = max_length - 1 - columns
    return columns < lengths.unsqueeze(1)


def lengths_to_cu_seqlens(lengths: Lengths) -> Offsets:
    """Return cumulative lengths, as varlen attention kernels take them.

    Args:
        lengths: (batch,), integers ≥ 0.

    Returns:
        int32, (batch + 1,), starting at 0.

    Raises:
        InvalidTypeError: ``lengths`` is not an integer tensor.
        InvalidValueError: It has another shape, a length is negative, or their sum exceeds int32.

    See Also:
        `lengths_to_mask`: The padded counterpart.

    Example:
        >>> lengths_to_cu_seqlens(torch.tensor([1, 3]))
        tensor([0, 1, 4], dtype=torch.int32)
    """
    check_integers("lengths", lengths, 1)
    if on_eager_cpu(lengths) and lengths.numel() and int(lengths.min()) < 0:
        raise InvalidValueError("lengths", f"must be at least 0, got {int(lengths.min())}")
    running = pad(lengths.cumsum(0), (1, 0))
    if on_eager_cpu(lengths) and int(running[-1]) > torch.iinfo(torch.int32).max:
        raise InvalidValueError("lengths", f"must add up to less than 2**31, for int32 offsets, got {int(running[-1])}")
    return running.to(torch.int32)


def mask_to_lengths(attention_mask: AttentionMask, *, cu_seqlens: Offsets | None = None) -> Lengths:
    """Return the number of real tokens of each sentence, without holes.

    Args:
        attention_mask: (batch, seq), or (tokens,) with ``cu_seqlens``.
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        int64, (batch,).

    Raises:
        InvalidTypeError, InvalidValueError: The argument is not a mask.

    Example:
        >>> mask_to_lengths(torch.tensor([[1, 0, 1], [0, 0, 0]]))
        tensor([2, 0])
    """
    mask = _check_mask("attention_mask", attention_mask, cu_seqlens)
    return _segments(mask, cu_seqlens).total(mask.bool())


def padding_side(
    attention_mask: AttentionMask, *, cu_seqlens: Offsets | None = None
) -> Literal["none", "right", "left", "both"]:
    """Return on which side of their sentences a batch's pads are; the host waits for the answer.

    Zeros between two real tokens, and sentences without real tokens, say nothing about the side.

    Args:
        attention_mask: (batch, seq), or (tokens,) with ``cu_seqlens``.
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        ``"both"`` if there are pads left of some sentence's first real token and right of some sentence's last one, of
        the same or another sentence; ``"none"`` if there are neither.

    Raises:
        InvalidTypeError, InvalidValueError: The argument is not a mask.

    Example:
        >>> padding_side(torch.tensor([[0, 1, 1], [1, 1, 1]]))
        'left'
    """
    mask = _check_mask("attention_mask", attention_mask, cu_seqlens)
    before, after = _segments(mask, cu_seqlens).counts(mask.bool())
    left = bool(((before == 0) & (after > 0)).any())
    right = bool(((after == 0) & (before > 0)).any())
    return "both" if left and right else "left" if left else "right" if right else "none"


def exclude_prompt(
    attention_mask: AttentionMask, prompt_lengths: int | Lengths, *, cu_seqlens: Offsets | None = None
) -> Mask:
    """Return the mask without each sentence's prompt: its first positions, counted from the first real token.

    Positions are counted as sentence-transformers counts them, holes included. A prompt that is at least as long as its
    text leaves an empty sentence, which a pooling handles by ``on_empty``.

    Args:
        attention_mask: (batch, seq), or (tokens,) with ``cu_seqlens``.
        prompt_lengths: One length for all sentences, or integers (1,) or (batch,).
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        A mask of the same shape and dtype.

    Raises:
        InvalidTypeError: An argument is not a mask, or ``prompt_lengths`` are not integers.
        InvalidValueError: The shapes do not fit, or a prompt length is negative.

    Example:
        >>> exclude_prompt(torch.tensor([[1, 1, 1], [0, 1, 1]]), torch.tensor([1, 2]))
        tensor([[0, 1, 1],
                [0, 0, 0]])
    """
    mask = _check_mask("attention_mask", attention_mask, cu_seqlens)
    # Not len(), which would write the traced batch's size into an exported graph.
    sentences = mask.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    prompts = _prompt_lengths(prompt_lengths, sentences, mask)
    segments = _segments(mask, cu_seqlens)
    before, _ = segments.counts(mask.bool())
    first = segments.total(before == 0)
    # Differences, not first + prompts: a sum would wrap around for the largest prompts and keep what they exclude.
    return mask * (segments.places - segments.spread(first) >= segments.spread(prompts))


def _prompt_lengths(prompt_lengths: int | Tensor, sentences: int, mask: Tensor) -> Lengths:
    name = "prompt_lengths"
    if isinstance(prompt_lengths, bool) or not isinstance(prompt_lengths, (int, Tensor)):
        raise InvalidTypeError(name, f"must be an int or an integer tensor, got {type(prompt_lengths).__name__}")
    if isinstance(prompt_lengths, int):
        if prompt_lengths < 0:
            raise InvalidValueError(name, f"must be at least 0, got {prompt_lengths}")
        return torch.full((sentences,), prompt_lengths, device=mask.device)
    check_integers(name, prompt_lengths, 1)
    check_same_device(name, prompt_lengths, "attention_mask", mask)
    if prompt_lengths.numel() not in (1, sentences):
        raise InvalidValueError(
            name, f"must have the shape (1,) or (batch,) = ({sentences},), got {tuple(prompt_lengths.shape)}"
        )
    if on_eager_cpu(prompt_lengths) and prompt_lengths.numel() and int(prompt_lengths.min()) < 0:
        raise InvalidValueError(name, f"must be at least 0, got {int(prompt_lengths.min())}")
    return prompt_lengths.to(torch.int64).expand(sentences)


def exclude_special_tokens(
    attention_mask: AttentionMask, special_tokens_mask: AttentionMask, *, cu_seqlens: Offsets | None = None
) -> Mask:
    """Return the mask without special tokens, such as [CLS] and [SEP].

    Args:
        attention_mask: (batch, seq), or (tokens,) with ``cu_seqlens``.
        special_tokens_mask: The same shape, 1 or True at special tokens, as tokenizers return it with
            ``return_special_tokens_mask=True``.
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        A mask of the same shape and dtype as ``attention_mask``.

    Raises:
        InvalidTypeError, InvalidValueError: The arguments are not masks of one shape.

    Example:
        >>> exclude_special_tokens(torch.tensor([[1, 1, 1, 0]]), torch.tensor([[1, 0, 1, 1]]))
        tensor([[0, 1, 0, 0]])
    """
    mask = _check_mask("attention_mask", attention_mask, cu_seqlens)
    special = _check_mask("special_tokens_mask", special_tokens_mask, cu_seqlens)
    if special.shape != mask.shape:
        raise InvalidValueError(
            "special_tokens_mask",
            f"must have the shape {tuple(mask.shape)} of attention_mask, got {tuple(special.shape)}",
        )
    return mask * ~special.bool()


def span_mask(starts: Tensor, ends: Tensor, length: int) -> PaddedMask:
    """Return one mask row for each span [start, end) of one document: late chunking in one call.

    ``mean_pool(document.expand(spans, -1, -1), span_mask(starts, ends, length))`` gives one vector per span and copies
    no token. Spans may overlap or be empty.

    References:
        Günther et al. 2024, Late Chunking.

    Args:
        starts: (spans,), integers, the first position of each span.
        ends: (spans,), integers, one past the last position.
        length: Number of positions of the document.

    Returns:
        bool, (spans, length).

    Raises:
        InvalidTypeError: ``starts`` or ``ends`` is not an integer tensor.
        InvalidValueError: Their shapes differ, or a span leaves the document or ends before it starts.

    See Also:
        `span_index`, `maskpool.TokenBatch.from_spans`: The packed counterparts.

    Example:
        >>> span_mask(torch.tensor([0, 1]), torch.tensor([2, 3]), 3).int()
        tensor([[1, 1, 0],
                [0, 1, 1]], dtype=torch.int32)
    """
    _check_spans(starts, ends, length)
    columns = torch.arange(length, device=starts.device)
    return (columns >= starts.unsqueeze(1)) & (columns < ends.unsqueeze(1))


def span_index(starts: Tensor, ends: Tensor, length: int) -> tuple[Tensor, Offsets]:
    """Return the tokens of all spans, one span after the other (eager mode only).

    Args:
        starts: (spans,), integers, the first token of each span.
        ends: (spans,), integers, one past the last token.
        length: Number of tokens.

    Returns:
        int64 (tokens,), places in the packed tokens, and int32 (spans + 1,), cumulative lengths.

    Raises:
        InvalidTypeError: ``starts`` or ``ends`` is not an integer tensor.
        InvalidValueError: Their shapes differ, or a span leaves the tokens or ends before it starts.

    See Also:
        `span_mask`: The padded counterpart.

    Example:
        >>> span_index(torch.tensor([0, 1]), torch.tensor([2, 3]), 3)
        (tensor([0, 1, 1, 2]), tensor([0, 2, 4], dtype=torch.int32))
    """
    _check_spans(starts, ends, length)
    lengths = (ends - starts).to(torch.int64)
    cu_seqlens = pad(lengths.cumsum(0), (1, 0))
    places = torch.arange(int(cu_seqlens[-1]), device=starts.device)
    return places + torch.repeat_interleave(starts - cu_seqlens[:-1], lengths), cu_seqlens.to(torch.int32)


def mask_from_input_ids(
    input_ids: Tensor,
    pad_token_id: int,
    eos_token_id: int | None = None,
    *,
    cu_seqlens: Offsets | None = None,
) -> Mask:
    """Compute the mask from token ids, for use when the tokenizer's mask is not available.

    The leading and the trailing run of the pad id are padding; a pad id between other tokens is real. If the pad id
    also ends each text (pass it as ``eos_token_id`` too), the first of the trailing run is real. A row of pad ids only
    is empty, or keeps its first if the pad id ends texts.

    Ids alone are ambiguous, so use the tokenizer's own mask if you have it:

    - The id that ends each text may be the pad id although ``tokenizer.eos_token_id`` is another (Qwen3-Embedding).
      The mask would then lose the last token of each text. In a batch padded to its longest text, one text has no
      pads; if every text ends with the pad id, and none has ``eos_token_id`` in front of its trailing run, the function
      warns. It raises if some text also starts with the pad id and each ends with exactly one, because that is a
      left-padded batch.
    - A pad id that begins each text is taken for left padding.
    - If ``eos_token_id`` is the pad id but the tokenizer does not append it, the first pad of each text is taken for a
      token.

    Values are checked on CPU in eager mode only.

    Args:
        input_ids: Integers, (batch, seq), or (tokens,) with ``cu_seqlens``.
        pad_token_id: The id of the pad token.
        eos_token_id: The id that the tokenizer appends to each text. Take it from a tokenized text: it is not always
            ``tokenizer.eos_token_id``. None if the tokenizer appends nothing.
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        bool, the shape of ``input_ids``.

    Raises:
        InvalidTypeError: ``input_ids`` is not an integer tensor, or an id is not an integer.
        InvalidValueError: The shapes do not fit, or a left-padded batch shows that each text ends with the pad id.

    Warns:
        UserWarning: Every text ends with the pad id.

    Example:
        >>> mask_from_input_ids(torch.tensor([[5, 0, 7, 0, 0]]), pad_token_id=0, eos_token_id=0).int()
        tensor([[1, 1, 1, 1, 0]], dtype=torch.int32)
    """
    check_integers("input_ids", input_ids, 2 if cu_seqlens is None else 1)
    for name, token_id in (("pad_token_id", pad_token_id), ("eos_token_id", eos_token_id)):
        if isinstance(token_id, bool) or not isinstance(token_id, int | None) or (name[0] == "p" and token_id is None):
            raise InvalidTypeError(name, f"must be an int, got {type(token_id).__name__}: read it from the tokenizer")
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, len(input_ids))
        check_same_device("cu_seqlens", cu_seqlens, "input_ids", input_ids)
    # In int64: against a narrower dtype torch would wrap around a pad id that does not fit it.
    word = input_ids.to(torch.int64) != pad_token_id
    segments = _segments(word, cu_seqlens)
    before, after = segments.counts(word)
    if eos_token_id != pad_token_id:
        if on_eager_cpu(input_ids):
            _check_ends_of_texts(input_ids, word, pad_token_id, eos_token_id, cu_seqlens)
        return (before > 0) & (after > 0)
    # The first of the trailing run is behind all positions that have a word on or after them.
    first_of_run = segments.places == segments.spread(segments.total(after > 0))
    return ((before > 0) & (after > 0)) | first_of_run


def _check_ends_of_texts(
    input_ids: Tensor, word: Tensor, pad_token_id: int, eos_token_id: int | None, cu_seqlens: Tensor | None
) -> None:
    """Warn or raise if every text of a batch ends with the pad id, which padding does not add to the longest text."""
    width = input_ids.shape[-1]
    bounds = torch.arange(len(input_ids) + 1) * width if cu_seqlens is None else cu_seqlens.to(torch.int64)
    words = word.reshape(-1).nonzero().view(-1)
    first, stop = torch.searchsorted(words, bounds[:-1]), torch.searchsorted(words, bounds[1:])
    texts = stop > first  # rows of pad ids only say nothing
    if not texts.any():
        return
    last = words[stop[texts] - 1]
    leading, trailing = words[first[texts]] - bounds[:-1][texts], bounds[1:][texts] - 1 - last
    ended = eos_token_id is not None and bool((input_ids.reshape(-1)[last] == eos_token_id).any())
    if ended or not bool((trailing > 0).all()):
        return
    problem = (
        f"is ambiguous: every text ends with pad_token_id={pad_token_id}, so it may be the last token of each text, "
        "which the mask leaves out"
    )
    advice = f"use the tokenizer's attention_mask, or pass eos_token_id={pad_token_id} if that id ends each text"
    if bool((trailing == 1).all()) and bool((leading > 0).any()):
        raise InvalidValueError(
            "input_ids", f"{problem} (some texts start with it too, as in a left-padded batch): {advice}"
        )
    warnings.warn(
        f"input_ids {problem}: {advice}; if every row is padded to a fixed width, pass the id that ends each text",
        UserWarning,
        stacklevel=3,
    )


# ----------------------------------------------------------------------------------- both layouts, and their checks


class _Padded(NamedTuple):
    """The rows of a padded batch as segments; nothing depends on values, so it can be traced."""

    places: Tensor

    def counts(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many marked positions of its segment are up to each position, and from it on, itself included."""
        marked = marked.to(torch.int64)
        before = marked.cumsum(dim=1)
        return before, marked.sum(dim=1, keepdim=True) - before + marked

    def total(self, marked: Tensor) -> Lengths:
        return marked.sum(dim=1)

    def spread(self, per_segment: Tensor) -> Tensor:
        return per_segment.unsqueeze(1)


class _Packed(NamedTuple):
    """The sentences of a packed batch as segments."""

    places: Tensor
    owner: Tensor
    bounds: Tensor

    def counts(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same as `_Padded.counts`."""
        running = pad(marked.to(torch.int64).cumsum(0), (1, 0))
        before = running[1:] - running[self.bounds[:-1]][self.owner]
        return before, running[self.bounds[1:]][self.owner] - running[:-1]

    def total(self, marked: Tensor) -> Lengths:
        return pad(marked.to(torch.int64).cumsum(0), (1, 0))[self.bounds].diff()

    def spread(self, per_segment: Tensor) -> Tensor:
        return per_segment[self.owner]


def _segments(per_position: Tensor, cu_seqlens: Offsets | None) -> _Padded | _Packed:
    """Return the segments of a layout: ``places`` are positions within a segment, counted from 0."""
    device = per_position.device
    if cu_seqlens is None:
        return _Padded(torch.arange(per_position.shape[1], device=device))
    bounds = cu_seqlens.to(torch.int64)
    sentences = torch.arange(bounds.numel() - 1, device=device)
    owner = torch.repeat_interleave(sentences, bounds.diff(), output_size=len(per_position))
    return _Packed(torch.arange(len(per_position), device=device) - bounds[:-1][owner], owner, bounds)


def _check_mask(name: str, mask: object, cu_seqlens: Offsets | None) -> Mask:
    mask = to_mask(mask)
    if not isinstance(mask, Tensor):
        raise InvalidTypeError(name, f"must be a torch.Tensor, got {type(mask).__name__}")
    mask = to_bool_or_integer(name, mask)
    if mask.is_complex():
        raise InvalidTypeError(name, f"must be bool or integer with 1 at real tokens, got {kind(mask)}")
    expected = "(batch, seq); a flat one needs cu_seqlens" if cu_seqlens is None else "(tokens,)"
    if mask.dim() != (2 if cu_seqlens is None else 1):
        raise InvalidValueError(name, f"must have the shape {expected}, got {tuple(mask.shape)}")
    if on_eager_cpu(mask):
        check_zeros_and_ones(name, mask)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, len(mask))
        check_same_device("cu_seqlens", cu_seqlens, name, mask)
    return mask


def _check_spans(starts: Tensor, ends: Tensor, length: int) -> None:
    check_integers("starts", starts, 1)
    check_integers("ends", ends, 1)
    if starts.shape != ends.shape:
        raise InvalidValueError(
            "ends", f"must have the shape of starts, {tuple(starts.shape)}, got {tuple(ends.shape)}"
        )
    check_same_device("ends", ends, "starts", starts)
    if on_eager_cpu(starts):
        # In int64: against a narrower dtype torch would wrap around a length that does not fit it.
        wrong = ((starts < 0) | (ends < starts) | (ends.to(torch.int64) > length)).nonzero().view(-1)
        if wrong.numel():
            span = int(wrong[0])
            raise InvalidValueError(
                "ends",
                f"and starts must satisfy 0 <= start <= end <= {length}, the length; span {span} is "
                f"[{int(starts[span])}, {int(ends[span])})",
            )
