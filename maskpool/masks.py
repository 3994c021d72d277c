"""Mask algebra: lengths, padding side, prompts, special tokens, spans, masks from token ids.

A padded mask is (batch, seq), bool or integer, 1 or True at real tokens. Its packed counterpart is flat, (tokens,), and
comes with ``cu_seqlens``, (batch + 1,): cumulative lengths that start at 0, never decrease and end at the number of
tokens. Functions that take a mask or token ids take both forms, the packed one with ``cu_seqlens=``. No function
writes to what it is given; a mask that comes back has the dtype of the one that came in, a new one is bool. A flat mask
is what `maskpool.TokenBatch.select` wants.

Values are checked on CPU in eager mode; elsewhere shapes and dtypes only. Padded forms can be traced.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from maskpool.checks import check_cu_seqlens, check_integers, check_zeros_and_ones, on_eager_cpu

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    Mask: TypeAlias = Int[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | Int[Tensor, " tokens"]
    Offsets: TypeAlias = Int[Tensor, " sentences_plus_1"]


def lengths_to_mask(
    lengths: Int[Tensor, " batch"], max_length: int | None = None, side: Literal["right", "left"] = "right"
) -> Bool[Tensor, "batch seq"]:
    """The mask of sentences of given lengths, padded on one side. Packed counterpart: `lengths_to_cu_seqlens`.

    Args:
        lengths: (batch,), integers ≥ 0.
        max_length: Width of the mask; None takes the longest length (eager mode alone).
        side: Where the pads stand.

    Returns:
        bool, (batch, max_length).

    Raises:
        TypeError: ``lengths`` is no integer tensor.
        ValueError: It has another shape, a length is negative or above ``max_length``, or ``side`` is unknown.

    Example:
        >>> lengths_to_mask(torch.tensor([1, 3])).int()
        tensor([[1, 0, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    check_integers("lengths", lengths, 1)
    if side not in ("right", "left"):
        raise ValueError(f"side must be 'right' or 'left', got {side!r}")
    if on_eager_cpu(lengths) and lengths.numel():
        lowest, highest = map(int, lengths.aminmax())
        if lowest < 0 or (max_length is not None and highest > max_length):
            most = "" if max_length is None else f" and at most max_length={max_length}"
            raise ValueError(f"lengths must be at least 0{most}, got {lowest} to {highest}")
    if max_length is None:
        max_length = int(lengths.max()) if lengths.numel() else 0
    columns = torch.arange(max_length, device=lengths.device)
    if side == "left":
        columns = max_length - 1 - columns
    return columns < lengths.unsqueeze(1)


def lengths_to_cu_seqlens(lengths: Int[Tensor, " batch"]) -> Int[Tensor, " sentences_plus_1"]:
    """Cumulative lengths, as varlen attention kernels want them: the packed counterpart of `lengths_to_mask`.

    Args:
        lengths: (batch,), integers ≥ 0.

    Returns:
        int32, (batch + 1,), starting at 0.

    Raises:
        TypeError: ``lengths`` is no integer tensor.
        ValueError: It has another shape, a length is negative, or their sum is beyond int32.

    Example:
        >>> lengths_to_cu_seqlens(torch.tensor([1, 3]))
        tensor([0, 1, 4], dtype=torch.int32)
    """
    check_integers("lengths", lengths, 1)
    if on_eager_cpu(lengths) and lengths.numel() and int(lengths.min()) < 0:
        raise ValueError(f"lengths must be at least 0, got {int(lengths.min())}")
    running = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    if on_eager_cpu(lengths) and int(running[-1]) > torch.iinfo(torch.int32).max:
        raise ValueError(f"lengths must add up to less than 2**31, for int32 offsets, got {int(running[-1])}")
    return running.to(torch.int32)


def mask_to_lengths(attention_mask: Mask, *, cu_seqlens: Offsets | None = None) -> Int[Tensor, " batch"]:
    """Number of real tokens of each sentence, holes not counted.

    Args:
        attention_mask: (batch, seq), or (tokens,) with ``cu_seqlens``.
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        int64, (batch,).

    Raises:
        TypeError, ValueError: What came is no mask.

    Example:
        >>> mask_to_lengths(torch.tensor([[1, 0, 1], [0, 0, 0]]))
        tensor([2, 0])
    """
    _check_mask(attention_mask, cu_seqlens)
    if cu_seqlens is None:
        return attention_mask.bool().sum(dim=1)
    running = torch.nn.functional.pad(attention_mask.bool().cumsum(0), (1, 0))
    return running[cu_seqlens.to(torch.int64)].diff()


def padding_side(
    attention_mask: Mask, *, cu_seqlens: Offsets | None = None
) -> Literal["none", "right", "left", "both"]:
    """On which side of their sentences a batch's pads stand; the host waits for the answer.

    Zeros between two real tokens, and sentences without a real token, say nothing about the side.

    Args:
        attention_mask: (batch, seq), or (tokens,) with ``cu_seqlens``.
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        ``"both"`` where pads stand left of some sentence's first real token and right of one's last,
        of the same or another sentence; ``"none"`` where neither is.

    Raises:
        TypeError, ValueError: What came is no mask.

    Example:
        >>> padding_side(torch.tensor([[0, 1, 1], [1, 1, 1]]))
        'left'
    """
    _check_mask(attention_mask, cu_seqlens)
    real = attention_mask.bool()
    if cu_seqlens is None:
        before = real.int().cumsum(dim=1)
        after = before[:, -1:] - before + real.int()
        some = real.any(dim=1, keepdim=True)
    else:
        before, after = _counts(real, cu_seqlens)
        some = (before + after - real.int()) > 0
    left = bool(((before == 0) & some).any())
    right = bool(((after == 0) & some).any())
    return "both" if left and right else "left" if left else "right" if right else "none"


def exclude_prompt(
    attention_mask: Mask, prompt_lengths: int | Int[Tensor, " batch"], *, cu_seqlens: Offsets | None = None
) -> Mask:
    """The mask without each sentence's prompt: its first positions, counted from the first real token.

    Positions are counted as sentence-transformers counts them, holes included. A prompt at least as long as its text
    leaves an empty sentence, for which a pooling's ``on_empty`` decides.

    Args:
        attention_mask: (batch, seq), or (tokens,) with ``cu_seqlens``.
        prompt_lengths: One length for all, or integers (1,) or (batch,).
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        A mask of the same shape and dtype.

    Raises:
        TypeError: What came is no mask, or ``prompt_lengths`` are no integers.
        ValueError: Shapes do not fit, or a prompt length is negative.

    Example:
        >>> exclude_prompt(torch.tensor([[1, 1, 1], [0, 1, 1]]), torch.tensor([1, 2]))
        tensor([[0, 1, 1],
                [0, 0, 0]])
    """
    _check_mask(attention_mask, cu_seqlens)
    # Not len(), which would write the traced batch's size into an exported graph.
    sentences = attention_mask.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    if isinstance(prompt_lengths, bool) or not isinstance(prompt_lengths, (int, Tensor)):
        raise TypeError(f"prompt_lengths must be an int or an integer tensor, got {type(prompt_lengths).__name__}")
    if isinstance(prompt_lengths, int):
        if prompt_lengths < 0:
            raise ValueError(f"prompt_lengths must be at least 0, got {prompt_lengths}")
        prompts = torch.full((sentences,), prompt_lengths, device=attention_mask.device)
    else:
        check_integers("prompt_lengths", prompt_lengths, 1)
        _check_device("prompt_lengths", prompt_lengths, "attention_mask", attention_mask)
        if prompt_lengths.numel() not in (1, sentences):
            raise ValueError(
                f"prompt_lengths must have the shape (1,) or (batch,) = ({sentences},), "
                f"got {tuple(prompt_lengths.shape)}"
            )
        if on_eager_cpu(prompt_lengths) and prompt_lengths.numel() and int(prompt_lengths.min()) < 0:
            raise ValueError(f"prompt_lengths must be at least 0, got {int(prompt_lengths.min())}")
        prompts = prompt_lengths.to(torch.int64).expand(sentences)
    real = attention_mask.bool()
    if cu_seqlens is None:
        if not attention_mask.shape[1]:
            return attention_mask.clone()
        columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        first = real.to(torch.int32).argmax(dim=1)  # int32: onnxruntime has no argmax over bool or int64
        # Differences, not first + prompts: a sum would wrap for the largest prompts and keep what they exclude.
        keep = columns - first.unsqueeze(1) >= prompts.unsqueeze(1)
    else:
        owner = _owners(cu_seqlens, len(real))
        # The first real token of a sentence is the one before which none of it is counted.
        before, _ = _counts(real, cu_seqlens)
        places = torch.arange(len(real), device=real.device)
        first = torch.zeros(sentences, dtype=torch.int64, device=real.device)
        is_first = real & (before == 1)
        first = first.index_put((owner[is_first],), places[is_first])
        keep = places - first[owner] >= prompts[owner]
    return attention_mask * keep


def exclude_special_tokens(
    attention_mask: Mask, special_tokens_mask: Mask, *, cu_seqlens: Offsets | None = None
) -> Mask:
    """The mask without special tokens, such as [CLS] and [SEP].

    Args:
        attention_mask: (batch, seq), or (tokens,) with ``cu_seqlens``.
        special_tokens_mask: The same shape, 1 or True at special tokens, as tokenizers give it with
            ``return_special_tokens_mask=True``.
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        A mask of the same shape and dtype as ``attention_mask``.

    Raises:
        TypeError, ValueError: What came are no masks of one shape.

    Example:
        >>> exclude_special_tokens(torch.tensor([[1, 1, 1, 0]]), torch.tensor([[1, 0, 1, 1]]))
        tensor([[0, 1, 0, 0]])
    """
    _check_mask(attention_mask, cu_seqlens)
    _check_mask(special_tokens_mask, cu_seqlens, "special_tokens_mask")
    if special_tokens_mask.shape != attention_mask.shape:
        raise ValueError(
            f"special_tokens_mask must have the shape {tuple(attention_mask.shape)} of attention_mask, "
            f"got {tuple(special_tokens_mask.shape)}"
        )
    return attention_mask * ~special_tokens_mask.bool()


def span_mask(starts: Int[Tensor, " spans"], ends: Int[Tensor, " spans"], length: int) -> Bool[Tensor, "spans length"]:
    """One mask row for each span [start, end) of one document: late chunking in one call.

    ``mean_pool(document.expand(spans, -1, -1), span_mask(starts, ends, length))`` gives one vector a span and copies
    no token. Spans may overlap or be empty. Packed counterpart: `span_index`, and `maskpool.TokenBatch.from_spans`.

    Source: Günther et al. 2024, Late Chunking.

    Args:
        starts: (spans,), first position of each span.
        ends: (spans,), one past the last.
        length: Number of positions of the document.

    Returns:
        bool, (spans, length).

    Raises:
        TypeError: ``starts`` or ``ends`` are no integer tensors.
        ValueError: Their shapes differ, or a span leaves the document or ends before it starts.

    Example:
        >>> span_mask(torch.tensor([0, 1]), torch.tensor([2, 3]), 3).int()
        tensor([[1, 1, 0],
                [0, 1, 1]], dtype=torch.int32)
    """
    _check_spans(starts, ends, length)
    columns = torch.arange(length, device=starts.device)
    return (columns >= starts.unsqueeze(1)) & (columns < ends.unsqueeze(1))


def span_index(
    starts: Int[Tensor, " spans"], ends: Int[Tensor, " spans"], length: int
) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " sentences_plus_1"]]:
    """The tokens of all spans, one span after the other: the packed counterpart of `span_mask` (eager mode alone).

    Args:
        starts: (spans,), first token of each span.
        ends: (spans,), one past the last.
        length: Number of tokens that there are.

    Returns:
        int64 (tokens,), places in the packed tokens, and int32 (spans + 1,), cumulative lengths.

    Raises:
        TypeError: ``starts`` or ``ends`` are no integer tensors.
        ValueError: Their shapes differ, or a span leaves the tokens or ends before it starts.

    Example:
        >>> span_index(torch.tensor([0, 1]), torch.tensor([2, 3]), 3)
        (tensor([0, 1, 1, 2]), tensor([0, 2, 4], dtype=torch.int32))
    """
    _check_spans(starts, ends, length)
    lengths = (ends - starts).to(torch.int64)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    places = torch.arange(int(cu_seqlens[-1]), device=starts.device)
    return places + torch.repeat_interleave(starts - cu_seqlens[:-1], lengths), cu_seqlens.to(torch.int32)


def mask_from_input_ids(
    input_ids: Int[Tensor, "batch seq"] | Int[Tensor, " tokens"],
    pad_token_id: int,
    eos_token_id: int | None = None,
    *,
    cu_seqlens: Offsets | None = None,
) -> Bool[Tensor, "batch seq"] | Bool[Tensor, " tokens"]:
    """Compute the mask from token ids, where the tokenizer's mask is lost.

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
        input_ids: (batch, seq), or (tokens,) with ``cu_seqlens``.
        pad_token_id: The id of the pad token.
        eos_token_id: The id that the tokenizer appends to each text. Take it from a tokenized text: it is not always
            ``tokenizer.eos_token_id``. None if the tokenizer appends nothing.
        cu_seqlens: (batch + 1,), of a packed batch.

    Returns:
        bool, the shape of ``input_ids``.

    Raises:
        TypeError: ``input_ids`` is not an integer tensor, or an id is not an integer.
        ValueError: The shapes do not fit, or a left-padded batch shows that each text ends with the pad id.

    Warns:
        UserWarning: Every text ends with the pad id.

    Example:
        >>> mask_from_input_ids(torch.tensor([[5, 0, 7, 0, 0]]), pad_token_id=0, eos_token_id=0).int()
        tensor([[1, 1, 1, 1, 0]], dtype=torch.int32)
    """
    check_integers("input_ids", input_ids, 2 if cu_seqlens is None else 1)
    for name, token_id in (("pad_token_id", pad_token_id), ("eos_token_id", eos_token_id)):
        if isinstance(token_id, bool) or not isinstance(token_id, int | None) or (name[0] == "p" and token_id is None):
            raise TypeError(f"{name} must be an int, got {type(token_id).__name__}: read it from the tokenizer")
    # In int64: against a narrower dtype torch would wrap a pad id that does not fit it.
    word = input_ids.to(torch.int64) != pad_token_id
    if cu_seqlens is None:
        if not input_ids.shape[1]:
            return word
        before = word.int().cumsum(dim=1)
        after = before[:, -1:] - before + word.int()
        previous = torch.nn.functional.pad(after, (1, 0), value=1)[:, :-1]
    else:
        check_cu_seqlens(cu_seqlens, len(input_ids))
        _check_device("cu_seqlens", cu_seqlens, "input_ids", input_ids)
        before, after = _counts(word, cu_seqlens)
        previous = torch.nn.functional.pad(after, (1, 0), value=1)[:-1]
        starts = cu_seqlens[:-1][cu_seqlens.diff() > 0].to(torch.int64)
        previous = previous.index_fill(0, starts, 1)
    if eos_token_id != pad_token_id and on_eager_cpu(input_ids):
        _check_ends_of_texts(input_ids, word, pad_token_id, eos_token_id, cu_seqlens)
    real = (before > 0) & (after > 0)
    if eos_token_id != pad_token_id:
        return real
    # The first of the trailing run: nothing but pad ids from here on, and a word, or the row's edge, just before.
    first_of_run = (after == 0) & (previous > 0)
    return real | first_of_run


def _check_ends_of_texts(
    input_ids: Tensor, word: Tensor, pad_token_id: int, eos_token_id: int | None, cu_seqlens: Tensor | None
) -> None:
    """Warn or raise if every text of a batch ends with the pad id: padding alone leaves the longest text without."""
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
    found = (
        f"every text of input_ids ends with pad_token_id={pad_token_id}, so it may be the last token of each text, "
        "which the mask leaves out"
    )
    way_out = f"use the tokenizer's attention_mask, or pass eos_token_id={pad_token_id} if that id ends each text"
    if bool((trailing == 1).all()) and bool((leading > 0).any()):
        raise ValueError(f"{found} (some texts start with it too, as in a left-padded batch): {way_out}")
    warnings.warn(
        f"{found}: {way_out}; if every row is padded to a fixed width, pass the id that ends each text",
        UserWarning,
        stacklevel=3,
    )


# ---------------------------------------------------------------------------------------- packed, checks


def _owners(cu_seqlens: Tensor, tokens: int) -> Tensor:
    sentences = torch.arange(cu_seqlens.numel() - 1, device=cu_seqlens.device)
    return torch.repeat_interleave(sentences, cu_seqlens.diff().to(torch.int64), output_size=tokens)


def _counts(marked: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """How many marked tokens of its own sentence stand up to each token, and from it on, itself included."""
    running = torch.nn.functional.pad(marked.int().cumsum(0), (1, 0))
    owner, bounds = _owners(cu_seqlens, len(marked)), cu_seqlens.to(torch.int64)
    before = running[1:] - running[bounds[:-1]][owner]
    after = running[bounds[1:]][owner] - running[:-1]
    return before, after


def _check_mask(mask: object, cu_seqlens: Tensor | None, name: str = "attention_mask") -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(mask).__name__}")
    if mask.is_floating_point() or mask.is_complex():
        raise TypeError(
            f"{name} must be bool or integer with 1 at real tokens, got {mask.dtype}: an additive mask (0 at real "
            "tokens) would be read upside down; convert it with `mask == 0`"
        )
    expected = "(batch, seq); a flat one goes with cu_seqlens" if cu_seqlens is None else "(tokens,)"
    if mask.dim() != (2 if cu_seqlens is None else 1):
        raise ValueError(f"{name} must have the shape {expected}, got {tuple(mask.shape)}")
    if on_eager_cpu(mask):
        check_zeros_and_ones(name, mask)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, len(mask))
        _check_device("cu_seqlens", cu_seqlens, name, mask)


def _check_device(name: str, tensor: Tensor, other: str, beside: Tensor) -> None:
    if tensor.device != beside.device:
        raise ValueError(f"{name} must be on the device of {other}, {beside.device}, got {tensor.device}")


def _check_spans(starts: Tensor, ends: Tensor, length: int) -> None:
    check_integers("starts", starts, 1)
    check_integers("ends", ends, 1)
    if starts.shape != ends.shape:
        raise ValueError(
            f"starts and ends must have one shape (spans,), got {tuple(starts.shape)} and {tuple(ends.shape)}"
        )
    _check_device("ends", ends, "starts", starts)
    if on_eager_cpu(starts):
        # In int64: against a narrower dtype torch would wrap a length that does not fit it.
        wrong = ((starts < 0) | (ends < starts) | (ends.to(torch.int64) > length)).nonzero().view(-1)
        if wrong.numel():
            span = int(wrong[0])
            raise ValueError(
                f"starts and ends must satisfy 0 <= start <= end <= {length}, the length; "
                f"span {span} is [{int(starts[span])}, {int(ends[span])})"
            )
