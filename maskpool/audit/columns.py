"""Find the columns of the real tokens of a text, and run it without its pads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from maskpool.audit.edits import run_unpadded
from maskpool.audit.pipelines import Pipeline
from maskpool.audit.trace import Call, TokenCall


@dataclass(frozen=True)
class Unpadded:
    """A text that is padded even alone, run again without its pads.

    Attributes:
        vector: Its vector; None if the pipeline fails without these columns, or keeps some.
        columns: For each padded length, the columns of its real tokens.
    """

    vector: Tensor | None
    columns: Mapping[int, slice]


def real_columns(calls: Mapping[str, Call], batches: Mapping[tuple[str, ...], Call]) -> dict[str, list[slice]]:
    """Return the columns of real tokens of texts that were embedded alone, for each encoder.

    If the mask hides columns at an end of the row, they are pads. Without such a mask the ids decide: texts of
    different lengths begin or end with different numbers of the id that pads them in a batch, or of one repeated id if
    all rows have one width.

    Args:
        calls: What was seen of each text alone.
        batches: What was seen of texts in a batch.
    """
    return {text: [real for real, _ in columns] for text, columns in _columns(calls, batches).items()}


def has_doubtful_ends(calls: Mapping[str, Call], batches: Mapping[tuple[str, ...], Call]) -> bool:
    """Return whether a column may be the end of a text or a pad: rows of one width, and one id for both."""
    return any(doubtful for columns in _columns(calls, batches).values() for _, doubtful in columns)


def _columns(calls: Mapping[str, Call], batches: Mapping[tuple[str, ...], Call]) -> dict[str, list[tuple[slice, bool]]]:
    count = max((len(call.tokens) for call in calls.values()), default=0)
    columns: dict[str, list[tuple[slice, bool]]] = {text: [] for text in calls}
    for number in range(count):
        rows = {text: call.tokens[number].row(0) for text, call in calls.items() if number < len(call.tokens)}
        ids = {text: row.ids[0].tolist() for text, row in rows.items()}
        by_mask = {text: _shown_by_mask(row) for text, row in rows.items()}
        one_width = len({len(row) for row in ids.values()}) == 1
        by_ids = _shown_by_ids(ids, _fill(rows, batches)) if one_width or not any(by_mask.values()) else {}
        own_end = one_width and _may_end_with_pad(rows, by_ids)
        for text, row in rows.items():
            masked, shown = by_mask[text], by_ids.get(text)
            whole = slice(0, row.ids.shape[1])
            if masked is not None:
                longer = shown is not None and (masked.start, masked.stop) == (shown.start, shown.stop + 1)
                columns[text].append((shown, False) if longer and not own_end and shown else (masked, longer))
            elif shown is not None and own_end and shown != whole:
                columns[text].append((slice(shown.start, min(shown.stop + 1, whole.stop)), True))
            else:
                columns[text].append((shown or whole, False))
    return columns


def _may_end_with_pad(rows: Mapping[str, TokenCall], columns: Mapping[str, slice]) -> bool:
    """Return whether texts may end with the pad id: they share no other end, and no configuration says otherwise."""
    last = {int(rows[text].ids[0, real.stop - 1]) for text, real in columns.items()}
    pads = {int(rows[text].ids[0, -1]) for text, real in columns.items() if real.stop < rows[text].ids.shape[1]}
    config = next((getattr(row.module, "config", None) for row in rows.values()), None)
    distinct = getattr(config, "pad_token_id", None) in pads and getattr(config, "eos_token_id", None) not in pads
    return len(last) > 1 and bool(pads) and not distinct


def _shown_by_mask(row: TokenCall) -> slice | None:
    mask = row.mask
    if mask is None or mask.shape != row.ids.shape or not bool((mask[0] == 0).any()):
        return None
    real = mask[0].nonzero().flatten().tolist()
    if not real or bool((mask[0] < 0).any()) or (len(real) == 1 and row.ids.shape[1] > 2):  # not a mask of tokens
        return None
    return slice(real[0], real[-1] + 1)


def _fill(rows: Mapping[str, TokenCall], batches: Mapping[tuple[str, ...], Call]) -> int | None:
    """Return the id that pads a text in a batch."""
    for texts, call in batches.items():
        alone = rows.get(texts[0])
        place = None if alone is None else call.find(alone.ids[0].tolist(), alone.module)
        if alone is not None and place is not None and place[0].ids.shape[1] > alone.ids.shape[1]:
            batch, row, start = place
            return int(batch.ids[row, 0 if start else -1])
    return None


def _shown_by_ids(rows: Mapping[str, list[int]], fill: int | None) -> dict[str, slice]:
    for reverse in (True, False):
        ends = {text: _run(ids[::-1] if reverse else ids) for text, ids in rows.items() if ids}
        repeated = Counter(token for token, length in ends.values() if length > 1)
        often = [token for token, times in repeated.items() if times >= max(2, len(rows) - 1)]
        pad = next(iter(often), None) if fill is None else fill
        lengths = {text: length if token == pad else 0 for text, (token, length) in ends.items()}
        if (
            math.gcd(*(len(ids) for ids in rows.values())) == 1
        ):  # no padding to a multiple: the shared end belongs to the texts
            lengths = {text: length - min(lengths.values()) for text, length in lengths.items()}
        if pad is None or len(set(lengths.values())) < 2 or any(lengths[text] == len(rows[text]) for text in lengths):
            continue
        return {
            text: slice(0, len(rows[text]) - length) if reverse else slice(length, len(rows[text]))
            for text, length in lengths.items()
        }
    return {}


def _run(ids: Sequence[int]) -> tuple[int, int]:
    """Return the first id and the length of its run."""
    return ids[0], next((place for place, other in enumerate(ids) if other != ids[0]), len(ids))


def without_pads(
    pipeline: Pipeline, calls: Mapping[str, Call], batches: Mapping[tuple[str, ...], Call]
) -> tuple[dict[str, Call], dict[str, Unpadded]]:
    """Run the texts that are padded even alone again without these pads.

    Args:
        pipeline: The audited pipeline.
        calls: What was seen of each text alone.
        batches: What was seen of texts in a batch.

    Returns:
        What modules saw of each text without pads, and the runs of texts that are padded even alone.
    """
    seen, further = dict(calls), {}
    for text, columns in real_columns(calls, batches).items():
        call = calls[text]
        padded = [
            (tokens, real)
            for real, tokens in zip(columns, call.tokens, strict=False)
            if real.stop - real.start < tokens.ids.shape[1]
        ]
        if not padded:
            continue
        by_width = {tokens.ids.shape[1]: real for tokens, real in padded}
        seen[text], vector = run_unpadded(pipeline, text, call.roots, by_width)
        shorter = all(
            any(
                again.module is tokens.module and again.ids.shape[1] == real.stop - real.start
                for again in seen[text].tokens
            )
            for tokens, real in padded
        )
        further[text] = Unpadded(vector if shorter else None, by_width)
    return seen, further
