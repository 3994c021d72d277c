"""Follow a text through the modules of a pipeline: alone and unpadded, and in a padded row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from maskpool.audit.edits import run_unpadded
from maskpool.audit.trace import Call, TokenCall, watch

if TYPE_CHECKING:
    from torch import Tensor

    from maskpool.audit.pipelines import Pipeline
    from maskpool.audit.probes import Measured, Moved
    from maskpool.audit.trace import OnModule

Rerun: TypeAlias = "Callable[[OnModule], None]"


@dataclass(frozen=True)
class Unpadded:
    """A text that is padded when it is embedded alone, run again without its pads.

    Attributes:
        vector: Its vector; None where the pipeline fails without these columns, or keeps some.
        columns: For each padded length, the columns of its real tokens.
    """

    vector: Tensor | None
    columns: Mapping[int, slice]


@dataclass(frozen=True)
class Seen:
    """One text unpadded and in a padded row, as one encoder saw it.

    Attributes:
        moved: The text and its vectors.
        alone: The call for its real tokens, without pads.
        there: Its row of the padded batch.
        start: The column at which its tokens begin there.
        row: The row of the batch.
        batch: The call for the whole batch; None means ``there``.
        pooled: What modules behind the encoder gave for this text in the padded batch.
        reruns: Run the pipeline again, unpadded and padded, and report each module; None if there is no pipeline.
        compared: Whether ``alone`` was really run without pads. Where the encoder takes one width only, its states are
            those of the padded row.
        unpadded: Whether ``there`` is the text without its pads.
    """

    moved: Moved
    alone: TokenCall
    there: TokenCall
    start: int
    row: int = 0
    batch: TokenCall | None = None
    pooled: tuple[Tensor, ...] = ()
    reruns: tuple[Rerun, Rerun] | None = None
    compared: bool = True
    unpadded: bool = False

    @property
    def length(self) -> int:
        """Number of real tokens."""
        return self.alone.ids.shape[1]

    @property
    def width(self) -> int:
        """Padded length."""
        return self.there.ids.shape[1]

    @property
    def pads(self) -> int:
        """Number of pads."""
        return self.width - self.length

    @property
    def shape(self) -> str:
        """Both in words."""
        return f"{self.length} real tokens in {self.width} columns"

    @property
    def real(self) -> Tensor:
        """(1, width), True at real tokens."""
        columns = torch.arange(self.width, device=self.there.ids.device)
        return ((columns >= self.start) & (columns < self.start + self.length)).unsqueeze(0)

    def at_real(self, states: Tensor) -> Tensor:
        """The states of real tokens."""
        return states[:, self.start : self.start + self.length]


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


def look_inside(measured: Measured) -> list[Seen]:
    """Texts that could be followed into a padded row; one entry for each encoder.

    First come those that moved, with several pads before those with one, which shows less of the cause.
    """
    found = []
    for moved in (*measured.padded, *_moved_alone(measured)):
        text = moved.texts[0]
        alone = measured.unpadded.get(text)
        there = measured.alone.get(text) if len(moved.texts) == 1 else measured.beside.get(moved.batch)
        if alone is None or there is None:
            continue
        own = measured.own_unpadded.get(text)
        if own is not None and own.vector is not None:
            moved = replace(moved, alone=own.vector)
        for padded in measured.alone[text].tokens:
            one = next((tokens.row(0) for tokens in alone.tokens if tokens.module is padded.module), None)
            compared = one is not None
            if one is None:  # it failed without pads
                real = None if own is None else own.columns.get(padded.ids.shape[1])
                if real is None:
                    continue
                one = _cut(padded.row(0), real)
            place = there.find(one.ids[0].tolist(), one.module)
            if place is None or place[0].ids.shape[1] == one.ids.shape[1]:
                continue
            batch, row, start = place
            pooled = tuple(vectors[row] for vectors in there.pooled if row < len(vectors))
            reruns = _rerun(measured, text), _rerun(measured, moved.batch)
            found.append(Seen(moved, one, batch.row(row), start, row, batch, pooled, reruns, compared))
    return sorted(found, key=lambda seen: (seen.moved.size <= measured.threshold, seen.pads < 2, -seen.moved.size))


def _moved_alone(measured: Measured) -> Iterator[Moved]:
    """Texts that are padded alone, against their own unpadded runs."""
    alone = {moved.texts[0]: moved.alone for moved in measured.padded}
    for text in measured.own_unpadded:
        if text in alone:
            yield replace(measured.padded[0], texts=(text,), alone=alone[text], there=alone[text], place=0)


def _cut(row: TokenCall, real: slice) -> TokenCall:
    return replace(row, ids=row.ids[:, real], states=None if row.states is None else row.states[:, real])


def _rerun(measured: Measured, texts: str | tuple[str, ...]) -> Rerun:
    def run(on_module: OnModule) -> None:
        pipeline = measured.pipeline
        if pipeline is None:
            return
        with watch(on_module):
            if isinstance(texts, tuple):
                pipeline(texts)
            elif (own := measured.own_unpadded.get(texts)) is not None:
                run_unpadded(pipeline, texts, measured.alone[texts].roots, own.columns)
            else:
                pipeline([texts])

    return run


def never_padded(measured: Measured) -> bool:
    """Whether texts of different lengths ran together without any pads: one by one, or packed into one row."""
    lengths = {text: call.tokens[0].ids.shape[1] for text, call in measured.alone.items() if call.tokens}
    if measured.own_unpadded or len(set(lengths.values())) < 2:
        return False
    for texts, call in measured.beside.items():
        if not set(texts) <= set(lengths) or len({lengths[text] for text in texts}) < 2:
            continue
        rows = [row for tokens in call.tokens for row in tokens.ids.tolist()]
        for text in texts:
            ids = measured.alone[text].tokens[0].ids[0].tolist()
            packed = sum(lengths[other] for other in texts)
            if not any(row == ids or (len(row) == packed and _holds(row, ids)) for row in rows):
                return False
    return True


def _holds(row: list[int], ids: list[int]) -> bool:
    return any(row[start : start + len(ids)] == ids for start in range(len(row) - len(ids) + 1))


def only_unknown_tokens(calls: Mapping[str, Call]) -> bool:
    """Whether the tokenizer gives many different words the same few ids."""
    ids = {token for call in calls.values() for tokens in call.tokens for token in tokens.ids.flatten().tolist()}
    words = {word for text in calls for word in text.split()}
    return bool(ids) and len(ids) <= 4 and len(words) > 2 * len(ids)  # begin, end, pad, and one for all words
