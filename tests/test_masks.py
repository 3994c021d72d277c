"""Mask algebra, padded and packed."""

import re
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import BatchEncoding

from maskpool import masks
from maskpool.errors import InvalidTypeError, InvalidValueError
from tests.batches import MASK_DTYPES, lengths_to_offsets, tokens
from tests.batches import masks as some_masks

OFFSET_DTYPES = [torch.int32, torch.int64]


def _pack(padded: Tensor, widths: list[int]) -> Tensor:
    """Return the first ``widths`` columns of each row, one row after the other."""
    return torch.cat([row[:width] for row, width in zip(padded, widths, strict=True)])


@st.composite
def cut_masks(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """Draw a mask, and the number of columns of each row to pack."""
    mask = draw(some_masks())
    return mask, [draw(st.integers(0, mask.shape[1])) for _ in range(len(mask))]


@given(data=st.data(), side=st.sampled_from(["right", "left"]))
def test_lengths_and_masks(data: st.DataObject, side: Any) -> None:
    """A mask has each length's number of ones on the side without pads, and gives the lengths back."""
    lengths = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=5))
    width = max(lengths) + data.draw(st.integers(0, 3))
    mask = masks.lengths_to_mask(torch.tensor(lengths), width, side)
    ones = [[True] * n + [False] * (width - n) for n in lengths]
    assert mask.tolist() == (ones if side == "right" else [row[::-1] for row in ones])
    assert masks.mask_to_lengths(mask).tolist() == lengths
    assert masks.lengths_to_mask(torch.tensor(lengths)).shape == (len(lengths), max(lengths))
    offsets = masks.lengths_to_cu_seqlens(torch.tensor(lengths))
    assert offsets.dtype == torch.int32
    assert offsets.tolist() == lengths_to_offsets(lengths).tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_offsets_of_small_integers_do_not_wrap(dtype: torch.dtype) -> None:
    """Lengths of a narrow dtype add up to more than it can hold."""
    length = min(torch.iinfo(dtype).max, 40_000)
    offsets = masks.lengths_to_cu_seqlens(torch.tensor([length] * 3, dtype=dtype))
    assert offsets.tolist() == [0, length, 2 * length, 3 * length]
    assert offsets.dtype == torch.int32


def test_offsets_up_to_the_largest_int32() -> None:
    """Lengths that add up to the largest int32 have offsets."""
    assert masks.lengths_to_cu_seqlens(torch.tensor([2**31 - 2, 1])).tolist() == [0, 2**31 - 2, 2**31 - 1]


@given(case=cut_masks(), dtype=st.sampled_from(OFFSET_DTYPES))
def test_mask_to_lengths(case: tuple[Tensor, list[int]], dtype: torch.dtype) -> None:
    """Real tokens are counted sentence by sentence, padded and packed."""
    mask, widths = case
    assert masks.mask_to_lengths(mask).tolist() == [sum(row) for row in mask.int().tolist()]
    packed = masks.mask_to_lengths(_pack(mask, widths), cu_seqlens=lengths_to_offsets(widths, dtype))
    assert packed.tolist() == [sum(row[:width]) for row, width in zip(mask.int().tolist(), widths, strict=True)]


def _side(rows: list[list[int]]) -> str:
    words = [row for row in rows if any(row)]
    left, right = any(not row[0] for row in words), any(not row[-1] for row in words)
    return "both" if left and right else "left" if left else "right" if right else "none"


@given(case=cut_masks())
def test_padding_side(case: tuple[Tensor, list[int]]) -> None:
    """The side is where pads are, before the first or after the last real token; holes and empty rows do not count."""
    mask, widths = case
    rows = mask.int().tolist()
    assert masks.padding_side(mask) == _side(rows)
    packed = masks.padding_side(_pack(mask, widths), cu_seqlens=lengths_to_offsets(widths))
    assert packed == _side([row[:width] for row, width in zip(rows, widths, strict=True)])


def _without_prompt(row: list[int], prompt: int) -> list[int]:
    first = row.index(1) if 1 in row else len(row)
    return [value if place >= first + prompt else 0 for place, value in enumerate(row)]


@given(case=cut_masks(), data=st.data())
def test_exclude_prompt(case: tuple[Tensor, list[int]], data: st.DataObject) -> None:
    """A prompt's positions are counted from the first real token, row by row, and its mask keeps its dtype."""
    mask, widths = case
    prompts = [data.draw(st.integers(0, 9)) for _ in widths]
    expected = [_without_prompt(row, prompt) for row, prompt in zip(mask.int().tolist(), prompts, strict=True)]
    before = mask.clone()
    excluded = masks.exclude_prompt(mask, torch.tensor(prompts))
    assert excluded.int().tolist() == expected
    assert excluded.dtype == mask.dtype
    assert torch.equal(mask, before)
    same = masks.exclude_prompt(mask, prompts[0])
    assert torch.equal(same, masks.exclude_prompt(mask, torch.tensor(prompts[:1])))
    packed = masks.exclude_prompt(
        _pack(mask, widths), torch.tensor(prompts, dtype=torch.int32), cu_seqlens=lengths_to_offsets(widths)
    )
    cut = [row[:width] for row, width in zip(mask.int().tolist(), widths, strict=True)]
    assert packed.int().tolist() == list(chain.from_iterable(map(_without_prompt, cut, prompts)))


@pytest.mark.parametrize("prompt", [5, sys.maxsize])
def test_a_prompt_longer_than_its_text_empties_it(prompt: int) -> None:
    """A prompt that is at least as long as its text leaves no tokens, up to the largest int."""
    mask = torch.tensor([[0, 1, 1]])
    for lengths in (prompt, torch.tensor([prompt])):
        assert masks.exclude_prompt(mask, lengths).tolist() == [[0, 0, 0]]
        assert masks.exclude_prompt(mask[0], lengths, cu_seqlens=torch.tensor([0, 3])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", OFFSET_DTYPES, ids=str)
def test_holes_count_within_a_prompt(dtype: torch.dtype) -> None:
    """A packed prompt begins at its sentence's first real token, and holes in it count."""
    mask = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1, 1])
    excluded = masks.exclude_prompt(mask, 3, cu_seqlens=torch.tensor([0, 5, 5, 9], dtype=dtype))
    assert excluded.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 1]


@given(case=cut_masks(), dtype=st.sampled_from(OFFSET_DTYPES))
def test_inputs_are_not_written(case: tuple[Tensor, list[int]], dtype: torch.dtype) -> None:
    """No function writes to its mask, ids, lengths or offsets."""
    mask, widths = case
    flat, offsets, counts = _pack(mask, widths), lengths_to_offsets(widths, dtype), torch.tensor(widths)
    given_ones = [mask, flat, offsets, counts]
    before = [tensor.clone() for tensor in given_ones]
    for layout, cu_seqlens in ((mask, None), (flat, offsets)):
        masks.mask_to_lengths(layout, cu_seqlens=cu_seqlens)
        masks.padding_side(layout, cu_seqlens=cu_seqlens)
        masks.exclude_prompt(layout, counts, cu_seqlens=cu_seqlens)
        masks.exclude_special_tokens(layout, layout, cu_seqlens=cu_seqlens)
        masks.mask_from_input_ids(layout.long(), 0, 0, cu_seqlens=cu_seqlens)
    masks.lengths_to_mask(counts)
    masks.lengths_to_cu_seqlens(counts)
    masks.span_index(counts * 0, counts, mask.shape[1])
    for tensor, copy in zip(given_ones, before, strict=True):
        assert torch.equal(tensor, copy)


def test_narrow_integers_do_not_wrap() -> None:
    """Lengths and pad ids that a narrow integer dtype cannot hold do not wrap around."""
    starts, ends = torch.tensor([250, 0], dtype=torch.uint8), torch.tensor([255, 2], dtype=torch.uint8)
    assert masks.span_mask(starts, ends, 300).sum(dim=1).tolist() == [5, 2]
    assert masks.span_index(starts, ends, 300)[0].tolist() == [250, 251, 252, 253, 254, 0, 1]
    ids = torch.tensor([[5, 2]], dtype=torch.uint8)
    assert masks.mask_from_input_ids(ids, 2 + 256).tolist() == [[True, True]]


@given(mask=some_masks(), seed=st.integers(0, 99))
def test_exclude_special_tokens(mask: Tensor, seed: int) -> None:
    """A token is real if it was real and is not special, padded and packed."""
    special = (tokens(*mask.shape, seed=seed) > 0).long()
    excluded = masks.exclude_special_tokens(mask, special)
    assert torch.equal(excluded.bool(), mask.bool() & (special == 0))
    assert excluded.dtype == mask.dtype
    offsets = lengths_to_offsets([mask.shape[1]] * len(mask))
    packed = masks.exclude_special_tokens(mask.reshape(-1), special.view(-1), cu_seqlens=offsets)
    assert torch.equal(packed, excluded.view(-1))


@given(data=st.data(), length=st.integers(0, 9))
def test_spans(data: st.DataObject, length: int) -> None:
    """A span's mask is True from its start to before its end; its index names the same tokens."""
    bound = st.integers(0, length)
    spans = [sorted(data.draw(st.tuples(bound, bound))) for _ in range(data.draw(st.integers(1, 4)))]
    starts, ends = torch.tensor(spans).unbind(1)
    mask = masks.span_mask(starts, ends, length)
    assert mask.tolist() == [[a <= place < b for place in range(length)] for a, b in spans]
    index, offsets = masks.span_index(starts, ends, length)
    assert index.tolist() == [place for a, b in spans for place in range(a, b)]
    assert offsets.tolist() == lengths_to_offsets([b - a for a, b in spans]).tolist()


def _mask_of_ids(row: list[int], pad: int, ends_text: bool) -> list[bool]:
    real = [True] * len(row)
    last = len(row)
    while last and row[last - 1] == pad:
        last -= 1
    for place in range(last, len(row)):
        real[place] = ends_text and place == last
    for place in range(last):
        if row[place] != pad:
            break
        real[place] = False
    return real


def _is_refused(rows: list[list[int]], pad: int = 2) -> bool:
    """Return whether every text ends with exactly one pad id, and one of them starts with it."""
    texts = [row for row in rows if set(row) - {pad}]
    one_pad = all(row[-1] == pad and row[-2] != pad for row in texts)
    return one_pad and any(row[0] == pad for row in texts)


@pytest.mark.filterwarnings("ignore:input_ids is ambiguous")
@given(data=st.data(), ends_text=st.booleans())
def test_mask_from_input_ids(data: st.DataObject, ends_text: bool) -> None:
    """Only the leading and trailing runs of the pad id are pads; if it ends texts, the first of a run is real."""
    width = data.draw(st.integers(1, 8))
    row = st.lists(st.sampled_from([2, 2, 5]), min_size=width, max_size=width)
    ids = data.draw(st.lists(row, min_size=1, max_size=4))
    assume(ends_text or not _is_refused(ids))
    computed = masks.mask_from_input_ids(torch.tensor(ids), 2, 2 if ends_text else None)
    assert computed.tolist() == [_mask_of_ids(row, 2, ends_text) for row in ids]
    widths = [data.draw(st.integers(0, width)) for _ in ids]
    cut = [row[:width] for row, width in zip(ids, widths, strict=True)]
    assume(ends_text or not _is_refused(cut))
    packed = masks.mask_from_input_ids(
        _pack(torch.tensor(ids), widths), 2, 2 if ends_text else 7, cu_seqlens=lengths_to_offsets(widths)
    )
    assert packed.tolist() == [real for row in cut for real in _mask_of_ids(row, 2, ends_text)]


def test_mask_depends_on_eos_token_id() -> None:
    """The same ids have a different mask if the pad id ends texts."""
    ids = torch.tensor([[5, 7, 2, 2], [2, 2, 5, 2], [2, 2, 2, 2]])
    with pytest.warns(UserWarning, match="input_ids is ambiguous: every text ends with pad_token_id=2"):
        assert masks.mask_from_input_ids(ids, 2).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert masks.mask_from_input_ids(ids, 2, 2).int().tolist() == [[1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]]


# The ids of Qwen3-Embedding: its tokenizer ends each text with the pad id, and tokenizer.eos_token_id is another.
PAD, EOS = 151643, 151645
LEFT = torch.tensor([[PAD, 1944, PAD], [1944, 1549, PAD]])
RIGHT = torch.tensor([[1944, PAD, PAD], [1944, 1549, PAD]])


def _call(ids: Tensor, packed: bool, eos_token_id: int | None) -> list[int]:
    offsets = lengths_to_offsets([ids.shape[1]] * len(ids)) if packed else None
    given = ids.view(-1) if packed else ids
    return masks.mask_from_input_ids(given, PAD, eos_token_id, cu_seqlens=offsets).int().view(-1).tolist()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("eos_token_id", [EOS, None])
def test_a_pad_id_that_ends_each_text_is_noticed(packed: bool, eos_token_id: int | None) -> None:
    """If every text ends with the pad id, a left-padded batch is refused and a right-padded one gets a warning."""
    advice = f"use the tokenizer's attention_mask, or pass eos_token_id={PAD} if that id ends each text"
    with pytest.raises(InvalidValueError, match=f"every text ends with pad_token_id={PAD}.*left-padded") as error:
        _call(LEFT, packed, eos_token_id)
    assert error.value.argument == "input_ids"
    assert advice in str(error.value)
    with pytest.warns(UserWarning, match=f"every text ends with pad_token_id={PAD}") as warned:
        assert _call(RIGHT, packed, eos_token_id) == [1, 0, 0, 1, 1, 0]
    assert advice in str(warned[0].message)
    assert warned[0].filename.endswith("test_masks.py")
    same = int(str(PAD))  # an equal but distinct object, as configuration and tokenizer hold separate ones
    assert _call(LEFT, packed, same) == [0, 1, 1, 1, 1, 1]
    assert _call(RIGHT, packed, PAD) == [1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "eos_token_id", "expected"),
    [
        ([[5, 7, PAD], [5, 7, 8]], None, [[1, 1, 0], [1, 1, 1]]),
        ([[PAD, 5, 7], [5, 7, 8]], EOS, [[0, 1, 1], [1, 1, 1]]),
        ([[5, EOS, PAD, PAD], [5, 7, EOS, PAD]], EOS, [[1, 1, 0, 0], [1, 1, 1, 0]]),
        ([[PAD, 5, EOS, PAD], [5, 7, EOS, PAD]], EOS, [[0, 1, 1, 0], [1, 1, 1, 0]]),
        ([[5, 7], [PAD, PAD]], None, [[1, 1], [0, 0]]),
        ([[PAD, PAD]], None, [[0, 0]]),
    ],
)
def test_unambiguous_padding_is_not_reported(
    rows: list[list[int]], eos_token_id: int | None, expected: list[Any]
) -> None:
    """Nothing is reported if one text has no pads, or if the end-of-text id precedes the trailing pads."""
    assert masks.mask_from_input_ids(torch.tensor(rows), PAD, eos_token_id).int().tolist() == expected


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=str)
def test_batches_without_rows_or_columns(shape: tuple[int, int]) -> None:
    """Batches without rows or columns have masks without rows or columns."""
    mask = torch.ones(shape, dtype=torch.int64)
    assert masks.exclude_prompt(mask, 1).shape == shape
    assert masks.mask_from_input_ids(mask, 0, 0).shape == shape
    assert masks.mask_to_lengths(mask).tolist() == [0] * shape[0]
    assert masks.padding_side(mask) == "none"


TRACED: dict[str, Callable[[Tensor], Tensor]] = {
    "lengths_to_mask": lambda mask: masks.lengths_to_mask(mask.sum(dim=1), mask.shape[1]),
    "mask_to_lengths": masks.mask_to_lengths,
    "exclude_prompt": lambda mask: masks.exclude_prompt(mask, mask.sum(dim=1) // 2),
    "exclude_prompt, one length": lambda mask: masks.exclude_prompt(mask, 2),
    "exclude_special_tokens": lambda mask: masks.exclude_special_tokens(mask, 1 - mask),
    "span_mask": lambda mask: masks.span_mask(mask.sum(dim=1) * 0, mask.sum(dim=1), mask.shape[1]),
    "mask_from_input_ids": lambda mask: masks.mask_from_input_ids(mask, 0, 0),
}


# By default only the function with the most operations is compiled and exported.
every_traced_function = pytest.mark.parametrize(
    "name", [name if name == "exclude_prompt" else pytest.param(name, marks=pytest.mark.full) for name in TRACED]
)


@every_traced_function
def test_traced(name: str) -> None:
    """Padded forms compile to one full graph for all shapes, with the results of eager mode."""
    compiled = torch.compile(TRACED[name], fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((3, 5), (4, 7)):
        mask = (tokens(*shape) > 0).long()
        assert torch.equal(compiled(mask), TRACED[name](mask))
    torch.compiler.reset()


@every_traced_function
def test_exported(name: str) -> None:
    """Padded forms export with dynamic batch and width, with the results of eager mode."""

    class Model(torch.nn.Module):
        def forward(self, mask: Tensor) -> Tensor:
            return TRACED[name](mask)

    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}
    exported = torch.export.export(Model(), ((tokens(3, 5) > 0).long(),), dynamic_shapes=(sizes,)).module()
    mask = (tokens(4, 7) > 0).long()
    assert torch.equal(exported(mask), TRACED[name](mask))


@pytest.mark.parametrize("dtype", MASK_DTYPES, ids=str)
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    """Excluding tokens from a mask keeps its dtype."""
    mask = torch.ones(2, 3, dtype=dtype)
    assert masks.exclude_prompt(mask, 1).dtype == dtype
    assert masks.exclude_special_tokens(mask, torch.eye(2, 3, dtype=torch.bool)).dtype == dtype


MASK, OFFSETS = torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 2, 6])
REFUSALS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: masks.lengths_to_mask(torch.tensor([-1])), ValueError, "lengths must be at least 0, got -1 to -1"),
    (
        lambda: masks.lengths_to_mask(torch.tensor([4]), 3),
        ValueError,
        "lengths must be at least 0 and at most max_length=3, got 4 to 4",
    ),
    (lambda: masks.lengths_to_mask(torch.ones(2)), TypeError, "lengths must have an integer dtype, got torch.float32"),
    (lambda: masks.lengths_to_mask(MASK), ValueError, "lengths must have one dimension, got (2, 3)"),
    (
        lambda: masks.lengths_to_mask(torch.tensor([1]), side="top"),  # type: ignore[arg-type]  # the point
        ValueError,
        "side must be 'right' or 'left', got 'top'",
    ),
    (lambda: masks.lengths_to_cu_seqlens(torch.tensor([2, -1])), ValueError, "lengths must be at least 0, got -1"),
    (
        lambda: masks.lengths_to_cu_seqlens(torch.tensor([2**31 - 1, 1])),
        ValueError,
        "lengths must add up to less than 2**31, for int32 offsets, got 2147483648",
    ),
    (
        lambda: masks.mask_to_lengths(MASK.view(-1), cu_seqlens=OFFSETS.to("meta")),
        ValueError,
        "cu_seqlens must be on the device of attention_mask, cpu, got meta",
    ),
    (
        lambda: masks.exclude_prompt(MASK.to("meta"), torch.tensor([1])),
        ValueError,
        "prompt_lengths must be on the device of attention_mask, meta, got cpu",
    ),
    (
        lambda: masks.span_mask(torch.tensor([1]), torch.tensor([1], device="meta"), 3),
        ValueError,
        "ends must be on the device of starts, cpu, got meta",
    ),
    (
        lambda: masks.exclude_special_tokens(MASK, MASK * 1j),
        TypeError,
        "special_tokens_mask must be bool or integer with 1 at real tokens, got torch.complex64",
    ),
    (
        lambda: masks.exclude_special_tokens(MASK, 2 * MASK),
        ValueError,
        "special_tokens_mask must hold only 0 (pad) and 1 (real token); it holds 2 to 2",
    ),
    (
        lambda: masks.mask_from_input_ids(MASK.view(-1), 0, cu_seqlens=OFFSETS + 1),
        ValueError,
        "cu_seqlens must start at 0, never decrease and end at the number of tokens, 6; got [1, 3, 7]",
    ),
    (lambda: masks.mask_to_lengths(MASK[0]), ValueError, "(batch, seq); a flat one needs cu_seqlens, got (3,)"),
    (
        lambda: masks.mask_to_lengths(2 * MASK),
        ValueError,
        "must hold only 0 (pad) and 1 (real token); it holds 2 to 2",
    ),
    (
        lambda: masks.mask_to_lengths(MASK, cu_seqlens=OFFSETS),
        ValueError,
        "attention_mask must have the shape (tokens,), got (2, 3)",
    ),
    (
        lambda: masks.padding_side(MASK.view(-1), cu_seqlens=OFFSETS + 1),
        ValueError,
        "cu_seqlens must start at 0, never decrease and end at the number of tokens, 6; got [1, 3, 7]",
    ),
    (
        lambda: masks.padding_side(MASK.view(-1), cu_seqlens=OFFSETS.float()),
        TypeError,
        "cu_seqlens must be int32 or int64, got torch.float32",
    ),
    (lambda: masks.padding_side([[1]]), TypeError, "attention_mask must be a torch.Tensor, got list"),  # type: ignore[arg-type]  # the point
    (lambda: masks.exclude_prompt(MASK, -1), ValueError, "prompt_lengths must be at least 0, got -1"),
    (
        lambda: masks.exclude_prompt(MASK, torch.tensor([1, -1])),
        ValueError,
        "prompt_lengths must be at least 0, got -1",
    ),
    (
        lambda: masks.exclude_prompt(MASK, torch.tensor([1, 1, 1])),
        ValueError,
        "prompt_lengths must have the shape (1,) or (batch,) = (2,), got (3,)",
    ),
    (
        lambda: masks.exclude_prompt(MASK, 1.0),  # type: ignore[arg-type]  # the point
        TypeError,
        "prompt_lengths must be an int or an integer tensor, got float",
    ),
    (
        lambda: masks.exclude_special_tokens(MASK, MASK[:1]),
        ValueError,
        "special_tokens_mask must have the shape (2, 3) of attention_mask, got (1, 3)",
    ),
    (
        lambda: masks.span_mask(torch.tensor([0, 2]), torch.tensor([1, 4]), 3),
        ValueError,
        "ends and starts must satisfy 0 <= start <= end <= 3, the length; span 1 is [2, 4)",
    ),
    (
        lambda: masks.span_index(torch.tensor([2]), torch.tensor([1]), 3),
        ValueError,
        "the length; span 0 is [2, 1)",
    ),
    (
        lambda: masks.span_mask(torch.tensor([-1]), torch.tensor([1]), 3),
        ValueError,
        "the length; span 0 is [-1, 1)",
    ),
    (
        lambda: masks.span_mask(torch.tensor([0]), torch.tensor([1, 2]), 3),
        ValueError,
        "ends must have the shape of starts, (1,), got (2,)",
    ),
    (
        lambda: masks.mask_from_input_ids(MASK, None),  # type: ignore[arg-type]  # the point
        TypeError,
        "pad_token_id must be an int, got NoneType: read it from the tokenizer",
    ),
    (lambda: masks.mask_from_input_ids(MASK[0], 0), ValueError, "input_ids must have the shape (batch, seq), got (3,)"),
    (lambda: masks.mask_from_input_ids(MASK.float(), 0), TypeError, "input_ids must have an integer dtype, got torch."),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSALS)
def test_refusals(call: Callable[[], object], error: type[Exception], text: str) -> None:
    """Invalid masks, lengths, prompts and spans are refused, and the error has the argument's name."""
    with pytest.raises(error, match=re.escape(text)) as refused:
        call()
    assert isinstance(refused.value, InvalidValueError | InvalidTypeError)
    assert refused.value.argument == str(refused.value).split()[0]


# ------------------------------------------------------------------------------------------------ other kinds of masks

# Each function with its result for a mask.
ALGEBRA: dict[str, Callable[[Any], object]] = {
    "mask_to_lengths": masks.mask_to_lengths,
    "padding_side": masks.padding_side,
    "exclude_prompt": lambda mask: masks.exclude_prompt(mask, 1),
    "exclude_special_tokens": lambda mask: masks.exclude_special_tokens(mask, torch.eye(2, 4).long()),
    "special_tokens_mask": lambda special: masks.exclude_special_tokens(torch.ones(2, 4, dtype=torch.bool), special),
}
REAL = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
every_function = pytest.mark.parametrize("name", ALGEBRA)


@every_function
@pytest.mark.parametrize(
    "convert", [Tensor.float, Tensor.half, Tensor.double, lambda mask: mask.numpy(), lambda mask: mask.float().numpy()]
)
def test_other_masks(name: str, convert: Callable[[Tensor], object]) -> None:
    """NumPy masks, and floating masks of exactly 0 and 1, give what the integer mask gives."""
    expected, actual = ALGEBRA[name](REAL), ALGEBRA[name](convert(REAL))
    if isinstance(expected, Tensor) and isinstance(actual, Tensor):
        expected, actual = expected.int().tolist(), actual.int().tolist()
    assert actual == expected


@pytest.mark.parametrize("kind", [dict, BatchEncoding])
def test_outputs_of_tokenizers(kind: type[Any]) -> None:
    """A tokenizer's output is read as its attention_mask, and one without a mask is refused."""
    given = kind({"input_ids": REAL, "attention_mask": REAL})
    assert masks.mask_to_lengths(given).tolist() == [3, 2]
    assert masks.padding_side(given) == "left"
    assert torch.equal(masks.exclude_prompt(given, 1), masks.exclude_prompt(REAL, 1))
    with pytest.raises(InvalidValueError, match=r"got a mapping with input_ids.*return_attention_mask=True") as refused:
        masks.mask_to_lengths(kind({"input_ids": REAL}))
    assert refused.value.argument == "attention_mask"
    with pytest.raises(InvalidValueError, match=r"last_hidden_state: this is a model's output.*first argument"):
        masks.mask_to_lengths(kind({"last_hidden_state": REAL}))


@every_function
@pytest.mark.parametrize("lowest", [-torch.inf, torch.finfo(torch.float32).min, -10000.0])
def test_additive_masks_are_refused(name: str, lowest: float) -> None:
    """An additive mask, 0 at real tokens, is refused, and the error says how to convert it."""
    additive = torch.where(REAL.bool(), 0.0, lowest)
    with pytest.raises(InvalidTypeError, match="negative values, an additive mask: convert it with `mask == 0`") as no:
        ALGEBRA[name](additive)
    assert no.value.argument == ("special_tokens_mask" if name == "special_tokens_mask" else "attention_mask")
    ALGEBRA[name](additive == 0)  # the suggested conversion works


@every_function
@pytest.mark.parametrize("value", [0.5, 2.0, torch.nan, torch.inf])
def test_fractional_masks_are_refused(name: str, value: float) -> None:
    """A floating mask with other numbers than 0 and 1 is refused, with a hint to token_weights."""
    with pytest.raises(InvalidTypeError, match=r"values other than 0 and 1: .*pass them as token_weights"):
        ALGEBRA[name](torch.where(REAL.bool(), value, 0.0))


def test_floating_masks_are_refused_under_tracing() -> None:
    """In a trace no values can be read, so a floating mask is refused by its dtype."""
    with pytest.raises(InvalidTypeError, match=r"must be bool or integer under tracing, got torch\.float32"):
        torch.jit.trace(masks.mask_to_lengths, REAL.float())  # type: ignore[no-untyped-call]  # torch leaves it untyped
