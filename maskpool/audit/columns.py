"""Find the columns of a text's real tokens, and run a text without its pads."""

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
    """A text that is padded when it is embedded alone, run again without its pads.

    Attributes:
        vector: Its vector; None where the pipeline fails without these columns, or keeps some.
        columns: For each padded length, the columns of its real tokens.
    """

    vector: Tensor | None
    columns: Mapping[int, slice]


def real_columns(calls: Mapping[str, Call], beside: Mapping[tuple[str, ...], Call]) -> dict[str, list[slice]]:
    """The columns of real tokens of texts that were embedded alone, for each encoder.

    The mask says which columns are pads where it hides any at an end of the row. Without such a mask the ids do: texts
    of different lengths that begin or end with different numbers of the id that fills them up in a batch, or of one
    repeated id where all rows are of one width.

    Args:
        calls: What was seen of each text alone.
        beside: What was seen of texts in a batch.
    """
    return {text: [real for real, _ in columns] for text, columns in _columns(calls, beside).items()}


def has_doubtful_ends(calls: Mapping[str, Call], beside: Mapping[tuple[str, ...], Call]) -> bool:
    """Whether a column of each text may be its own end or a pad: rows of one width, and one id for both."""
    return any(doubtful for columns in _columns(calls, beside).values() for _, doubtful in columns)


def _columns(calls: Mapping[str, Call], beside: Mapping[tuple[str, ...], Call]) -> dict[str, list[tuple[slice, bool]]]:
    count = max((len(call.tokens) for call in calls.values()), default=0)
    found: dict[str, list[tuple[slice, bool]]] = {text: [] for text in calls}
    for number in range(count):
        rows = {text: call.tokens[number].row(0) for text, call in calls.items() if number < len(call.tokens)}
        ids = {text: row.ids[0].tolist() for text, row in rows.items()}
        by_mask = {text: _shown_by_mask(row) for text, row in rows.items()}
        one_width = len({len(row) for row in ids.values()}) == 1
        by_ids = _shown_by_ids(ids, _fill(rows, beside)) if one_width or not any(by_mask.values()) else {}
        own_end = one_width and _may_end_with_pad(rows, by_ids)
        for text, row in rows.items():
            masked, shown = by_mask[text], by_ids.get(text)
            whole = slice(0, row.ids.shape[1])
            if masked is not None:
                longer = shown is not None and (masked.start, masked.stop) == (shown.start, shown.stop + 1)
                found[text].append((shown, False) if longer and not own_end and shown else (masked, longer))
            elif shown is not None and own_end and shown != whole:
                found[text].append((slice(shown.start, min(shown.stop + 1, whole.stop)), True))
            else:
                found[text].append((shown or whole, False))
    return found


def _may_end_with_pad(rows: Mapping[str, TokenCall], columns: Mapping[str, slice]) -> bool:
    """Whether texts may end with the pads' id: nothing else ends them all, and no configuration says otherwise."""
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
    if not real or bool((mask[0] < 0).any()) or (len(real) == 1 and row.ids.shape[1] > 2):  # no mask of tokens
        return None
    return slice(real[0], real[-1] + 1)


def _fill(rows: Mapping[str, TokenCall], beside: Mapping[tuple[str, ...], Call]) -> int | None:
    """The id that fills a text up in a batch."""
    for texts, call in beside.items():
        one = rows.get(texts[0])
        place = None if one is None else call.find(one.ids[0].tolist(), one.module)
        if one is not None and place is not None and place[0].ids.shape[1] > one.ids.shape[1]:
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
        if math.gcd(*(len(ids) for ids in rows.values())) == 1:  # no padding to a width: such an end is the text's own
            lengths = {text: length - min(lengths.values()) for text, length in lengths.items()}
        if pad is None or len(set(lengths.values())) < 2 or any(lengths[text] == len(rows[text]) for text in lengths):
            continue
        return {
            text: slice(0, len(rows[text]) - length) if reverse else slice(length, len(rows[text]))
            for text, length in lengths.items()
        }
    return {}


def _run(ids: Sequence[int]) -> tuple[int, int]:
    """The first id, and the length of its run."""
    return ids[0], next((place for place, other in enumerate(ids) if other != ids[0]), len(ids))


def without_pads(
    pipeline: Pipeline, calls: Mapping[str, Call], beside: Mapping[tuple[str, ...], Call]
) -> tuple[dict[str, Call], dict[str, Unpadded]]:
    """What modules see of each text alone without its pads; texts that are padded alone run again without them.

    Args:
        pipeline: What is audited.
        calls: What was seen of each text alone.
        beside: What was seen of texts in a batch.

    Returns:
        The calls, and the further runs of texts that are padded alone.
    """
    seen, further = dict(calls), {}
    for text, columns in real_columns(calls, beside).items():
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
