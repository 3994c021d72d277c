"""Follow a text through the modules of a pipeline: alone and unpadded, and in a padded row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from maskpool.audit.edits import run_unpadded
from maskpool.audit.probes import Measured, Moved
from maskpool.audit.trace import Call, OnModule, TokenCall, watch

Rerun: TypeAlias = "Callable[[OnModule], None]"


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
