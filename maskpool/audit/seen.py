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
    """One text unpadded and in a padded row, as one encoder received it.

    Attributes:
        moved: The text and its vectors.
        alone: The call for its real tokens, without pads.
        padded: Its row of the padded batch.
        start: The column of the padded row where its tokens begin.
        row: The row of the batch.
        batch: The call for the whole batch; None means ``padded``.
        pooled: The outputs of modules after the encoder for this text in the padded batch.
        reruns: Functions that run the pipeline again, unpadded and padded, and report each module; None without a
            pipeline.
        compared: Whether ``alone`` really ran without pads. If the encoder takes only one width, its states are those
            of the padded row.
        unpadded: Whether ``padded`` is the text without its pads.
    """

    moved: Moved
    alone: TokenCall
    padded: TokenCall
    start: int
    row: int = 0
    batch: TokenCall | None = None
    pooled: tuple[Tensor, ...] = ()
    reruns: tuple[Rerun, Rerun] | None = None
    compared: bool = True
    unpadded: bool = False

    @property
    def length(self) -> int:
        """The number of real tokens."""
        return self.alone.ids.shape[1]

    @property
    def width(self) -> int:
        """The padded length."""
        return self.padded.ids.shape[1]

    @property
    def pads(self) -> int:
        """The number of pads."""
        return self.width - self.length

    @property
    def shape(self) -> str:
        """Number of real tokens and padded length, in words."""
        return f"{self.length} real tokens in {self.width} columns"

    @property
    def real(self) -> Tensor:
        """True at real tokens, (1, width)."""
        columns = torch.arange(self.width, device=self.padded.ids.device)
        return ((columns >= self.start) & (columns < self.start + self.length)).unsqueeze(0)

    def at_real(self, states: Tensor) -> Tensor:
        """Return the states of real tokens."""
        return states[:, self.start : self.start + self.length]


def look_inside(measured: Measured) -> list[Seen]:
    """Return the texts that could be followed into a padded row, one entry per encoder.

    Texts whose vectors moved come first, and among them those with several pads, which show more of the cause.
    """
    followed = []
    for moved in (*measured.padded, *_moved_alone(measured)):
        text = moved.texts[0]
        alone = measured.unpadded.get(text)
        batched = measured.alone.get(text) if len(moved.texts) == 1 else measured.batches.get(moved.batch)
        if alone is None or batched is None:
            continue
        own = measured.own_unpadded.get(text)
        if own is not None and own.vector is not None:
            moved = replace(moved, alone=own.vector)
        for padded in measured.alone[text].tokens:
            unpadded = next((tokens.row(0) for tokens in alone.tokens if tokens.module is padded.module), None)
            compared = unpadded is not None
            if unpadded is None:  # the run without pads failed
                real = None if own is None else own.columns.get(padded.ids.shape[1])
                if real is None:
                    continue
                unpadded = _cut(padded.row(0), real)
            place = batched.find(unpadded.ids[0].tolist(), unpadded.module)
            if place is None or place[0].ids.shape[1] == unpadded.ids.shape[1]:
                continue
            batch, row, start = place
            pooled = tuple(vectors[row] for vectors in batched.pooled if row < len(vectors))
            reruns = _rerun(measured, text), _rerun(measured, moved.batch)
            followed.append(Seen(moved, unpadded, batch.row(row), start, row, batch, pooled, reruns, compared))
    return sorted(followed, key=lambda seen: (seen.moved.size <= measured.threshold, seen.pads < 2, -seen.moved.size))


def _moved_alone(measured: Measured) -> Iterator[Moved]:
    """Yield the texts that are padded even alone, to compare with their unpadded runs."""
    alone = {moved.texts[0]: moved.alone for moved in measured.padded}
    for text in measured.own_unpadded:
        if text in alone:
            yield replace(measured.padded[0], texts=(text,), alone=alone[text], batched=alone[text], place=0)


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
    """Return whether texts of different lengths ran without pads: one by one, or packed into one row."""
    lengths = {text: call.tokens[0].ids.shape[1] for text, call in measured.alone.items() if call.tokens}
    if measured.own_unpadded or len(set(lengths.values())) < 2:
        return False
    for texts, call in measured.batches.items():
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
    """Return whether the tokenizer maps many different words to the same few ids."""
    ids = {token for call in calls.values() for tokens in call.tokens for token in tokens.ids.flatten().tolist()}
    words = {word for text in calls for word in text.split()}
    return bool(ids) and len(ids) <= 4 and len(words) > 2 * len(ids)  # begin, end, pad, and one id for all words
