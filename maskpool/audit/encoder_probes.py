"""What padding does to the token states of one encoder, measured on token ids, and the verdict that follows.

The numbers of `probe` and the rules of `judge` are all that the padding census rests on.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

import torch
from torch import Tensor, nn

from maskpool.audit.encoder_causes import encoder_finding
from maskpool.audit.probes import Moved
from maskpool.audit.report import Finding
from maskpool.audit.seen import Seen
from maskpool.audit.states import relative
from maskpool.audit.trace import TokenCall
from maskpool.tolerances import CLEAN, LEAK, TIMES_NOISE

Side: TypeAlias = Literal["right", "left"]

# What padding on one side can do, worst first.
KINDS = ("no numbers", "content", "length", "positions", "ids", "clean")
SIDES: tuple[Side, Side] = ("right", "left")
# How positions are counted where a model is told them: real tokens from 0, or from behind the pad's id as RoBERTa does.
CONVENTIONS = ("from 0", "from pad + 1")


@dataclass(frozen=True)
class Trial:
    """One text of an encoder in every company, at one length and with so many pads.

    Attributes:
        length: Real tokens of the text.
        pads: Pads beside them.
        attention: The attention implementation.
        single: By probe, how far states of real tokens move in float32: max|Δ| over their root mean square. None where
            they become no numbers.
        double: The same in float64, where any probe in float32 lay above noise; empty where the model does not run so.
    """

    length: int
    pads: int
    attention: str
    single: Mapping[str, float | None]
    double: Mapping[str, float | None] = field(default_factory=dict)

    def leaks(self, probe: str) -> bool:
        """Whether a probe moves the states by more than noise. One that was not measured does not."""
        if probe not in self.single:
            return False
        size, exact = self.single[probe], self.double.get(probe)
        if size is not None and size <= CLEAN:
            return False
        if exact is not None:
            return exact > CLEAN
        # Noise between batch sizes is never more than a leak: a larger one is coupling.
        floor = min(self.single["batch size"] or 0.0, LEAK)
        return size is None or size > max(LEAK, TIMES_NOISE * floor)

    def is_noise(self, probe: str) -> bool:
        """Whether a probe was measured, and moves the states by no more than noise for certain."""
        size = self.double.get(probe, self.single.get(probe))
        return size is not None and size <= CLEAN


@dataclass(frozen=True)
class Text:
    """The token ids of a text and of what stands beside it.

    Attributes:
        ids: (1, length).
        others: (3, length + pads): companions, as long as the text where they are cut.
        changed: Another id for the token in the middle.
        under: (1, pads): ids to put under the mask in place of the pad's.
    """

    ids: Annotated[Tensor, "1 length"]
    others: Annotated[Tensor, "3 longer"]
    changed: int
    under: Annotated[Tensor, "1 pads"]

    @classmethod
    def drawn(cls, vocabulary: Sequence[int], length: int, pads: int, generator: torch.Generator) -> Text:
        """One of random ids.

        Args:
            vocabulary: Ids of words: neither the pad's nor one that a model gives a meaning of its own.
            length: Real tokens.
            pads: Pads beside them.
            generator: Of the ids.
        """
        words = torch.tensor(vocabulary)

        def draw(rows: int, columns: int) -> Tensor:
            return words[torch.randint(len(words), (rows, columns), generator=generator)]

        ids = draw(1, length)
        middle = int(ids[0, length // 2])
        changed = next(word for word in draw(1, 64)[0].tolist() if word != middle)
        return cls(ids, draw(3, length + pads), changed, draw(1, pads))


def probe(model: nn.Module, text: Text, pad_id: int, attention: str) -> Trial:
    """Run a text alone and in every company that padding gives it.

    Args:
        model: Gives token states for ``input_ids`` and ``attention_mask``; a copy of it is run.
        text: Its ids are those of words alone.
        pad_id: What stands at pads.
        attention: The implementation that the model is set to; said in the result.
    """
    single = _differences(model, text, pad_id)
    noisy = [name for name, size in single.items() if name not in CONTROLS and not _is_clean(size)]
    double = {}
    if noisy:
        try:
            double = _differences(copy.deepcopy(model).double(), text, pad_id)
        except Exception:  # code that names float32 somewhere; then single precision has to decide
            double = {}
        # The mask's minimum of float64 becomes -inf where scores are kept in float32.
        double = {name: size for name, size in double.items() if name in noisy and size is not None}
    return Trial(text.ids.shape[1], text.under.shape[1], attention, single, double)


def _is_clean(size: float | None) -> bool:
    return size is not None and size <= CLEAN


_SHORTER = 5  # tokens; some encoders read no less

# These say that a probe can see anything at all; no verdict is "clean" by them.
CONTROLS = ("token changed", "mask not passed, right", "mask not passed, left")


def _differences(model: nn.Module, text: Text, pad_id: int) -> dict[str, float | None]:
    runs = _Runs(model, pad_id)
    ids, pads = text.ids, text.under.shape[1]
    length = ids.shape[1]
    found: dict[str, float] = {}
    alone = runs.states(ids)
    runs.states(torch.cat([text.others[:1], text.others[1:2]], dim=1))
    after_longer = runs.states(ids)
    found["after a longer call"] = relative(alone, after_longer)
    if length > _SHORTER:
        runs.states(text.others[:1, :_SHORTER])
        found["after a shorter call"] = relative(after_longer, runs.states(ids))
    # Copy models that keep state between calls, so one finding cannot cause another.
    runs.copied = any(size > CLEAN for size in found.values())
    found["batch size"] = relative(alone, runs.states(ids.repeat(3, 1)))
    companions = [text.others[row : row + 1, :length] for row in (0, 1)]
    first, last = runs.states(torch.cat([ids, companions[0]]))[:1], runs.states(torch.cat([companions[1], ids]))[1:]
    found["equal companion"] = relative(alone, first)
    found["other companion"] = relative(first, last)
    fill = torch.full((1, pads), pad_id)
    padded = {side: runs.padded(ids, fill, side) for side in SIDES}
    for side in SIDES:
        real = _real(side, length, pads)
        found[side] = relative(alone, padded[side][:, real])
        rows = torch.cat([_joined(ids, fill, side), text.others[2:]])
        beside = runs.states(rows, torch.cat([_mask(length, pads, side), torch.ones(1, length + pads).long()]))
        found[f"longer companion, {side}"] = relative(alone, beside[:1, real])
        under = runs.padded(ids, text.under, side)
        found[f"ids under the mask, {side}"] = relative(padded[side][:, real], under[:, real])
        unmasked = runs.states(_joined(ids, fill, side), None)
        found[f"mask not passed, {side}"] = relative(alone, unmasked[:, real])
        counted = (_mask(length, pads, side).cumsum(dim=1) - 1).clamp(min=0)
        for convention, start in zip(CONVENTIONS, (0, pad_id + 1), strict=True):
            if not runs.takes_positions:
                continue
            told = _Runs(runs.came, pad_id)  # large ones must not stay behind
            try:
                states = told.states(_joined(ids, fill, side), _mask(length, pads, side), counted + start)
            except (IndexError, RuntimeError):  # more positions than the model has, or code that fails where told
                continue
            found[f"{side}, positions {convention}"] = relative(alone, states[:, real])
    further = runs.padded(ids, torch.full((1, 2 * pads), pad_id), "right")[:, : length + pads]
    found["outputs at pads"] = relative(padded["right"][:, length:], further[:, length:])
    changed = ids.clone()
    changed[0, length // 2] = text.changed
    others = torch.arange(length) != length // 2
    found["token changed"] = relative(alone[:, others], runs.states(changed)[:, others])
    return {name: size if math.isfinite(size) else None for name, size in found.items()}


def _real(side: Side, length: int, pads: int) -> slice:
    return slice(length) if side == "right" else slice(pads, pads + length)


def _joined(ids: Tensor, fill: Tensor, side: Side) -> Tensor:
    return torch.cat([ids, fill] if side == "right" else [fill, ids], dim=1)


def _mask(length: int, pads: int, side: Side) -> Tensor:
    return _joined(torch.ones(1, length).long(), torch.zeros(1, pads).long(), side)


class NoStatesError(Exception):
    """A model gives no states for its tokens."""


class _Runs:
    """Batches of token ids through a model.

    Attributes:
        came: The model as it came.
        copied: Whether each runs through a copy of that.
    """

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        self.came, self.model = model.eval(), copy.deepcopy(model)
        self.copied = False
        names = inspect.signature(model.forward).parameters
        self.takes_mask, self.takes_positions = "attention_mask" in names, "position_ids" in names

    def call(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None = None) -> TokenCall:
        """A call, not run yet."""
        given = {"attention_mask": mask if self.takes_mask else None, "position_ids": positions}
        arguments = {"input_ids": ids, **{name: t for name, t in given.items() if t is not None}}
        return TokenCall(self.model, arguments, ids)

    def states(
        self, ids: Tensor, mask: Tensor | Literal["ones"] | None = "ones", positions: Tensor | None = None
    ) -> Tensor:
        if self.copied:
            self.model = copy.deepcopy(self.came)
        states = self.call(ids, torch.ones_like(ids) if isinstance(mask, str) else mask, positions).again()
        if states is None:
            raise NoStatesError(f"it gives no states (batch, seq, dim) for {ids.shape[1]} tokens")
        return states

    def padded(self, ids: Tensor, fill: Tensor, side: Side) -> Tensor:
        return self.states(_joined(ids, fill, side), _mask(ids.shape[1], fill.shape[1], side))


def find_cause(model: nn.Module, text: Text, pad_id: int, side: Side) -> Finding | None:
    """Why the states of a padded text are not those of the text alone, as the audit finds it; None where they are.

    Args:
        model: As for `probe`.
        text: The same.
        pad_id: The same.
        side: Where the pads stand.
    """
    runs = _Runs(model, pad_id)
    length, pads = text.ids.shape[1], text.under.shape[1]
    padded = _joined(text.ids, torch.full((1, pads), pad_id), side)
    calls = runs.call(text.ids, torch.ones_like(text.ids)), runs.call(padded, _mask(length, pads, side))
    alone, there = (replace(call, states=call.again()) for call in calls)
    nothing = Moved((), torch.zeros(1), torch.zeros(1))  # no vectors are pooled
    return encoder_finding(Seen(nothing, alone, there, _real(side, length, pads).start or 0))


_WORDS = {
    "no numbers": "no numbers",
    "content": "content leak",
    "length": "length leak",
    "positions": "position shift",
}


@dataclass(frozen=True)
class Judgement:
    """What the trials of an encoder say.

    Attributes:
        right: What padding on the right does: one of `KINDS`. Content: ids under the mask reach real tokens; length:
            the number of pads does, whatever their ids; positions: real tokens are counted from elsewhere; ids: with
            the pad's own id nothing moves, with others under the mask it does.
        left: The same on the left, without position ids.
        cures: By side where positions shift or the number of pads counts: the first of `CONVENTIONS` that keeps the
            states when position ids are passed; a side that none keeps is left out.
        coupled: Whether other texts of the batch reach a text without any padding between them.
        state: Whether a longer or shorter call leaves something behind.
        vacuous: Whether no token's states depend on another token, so that nothing could leak.
        short: The sides on which padding does nothing where text and pads together stay within the limits that the
            configuration sets (windows, chunks), and something beyond.
        only: The one attention implementation in which padding does anything, where another is clean; else empty.
        appends: By attention implementation, whether more pads on the right leave the outputs at real tokens and at
            the pads before them as they were.
    """

    right: str
    left: str
    cures: Mapping[str, str]
    coupled: bool
    state: bool
    vacuous: bool
    short: tuple[str, ...]
    only: str
    appends: Mapping[str, bool]

    @property
    def verdict(self) -> str:
        """In words."""
        if self.vacuous:
            return "vacuous"
        found = []
        for kind, words in _WORDS.items():
            for cure in (None, *CONVENTIONS):
                sides = [side for side in SIDES if getattr(self, side) == kind and self.cures.get(side) == cure]
                if sides:
                    found.append(
                        f"{words}, {' and '.join(sides)}" + (f", cured by position ids {cure}" if cure else "")
                    )
        sides = [side for side in SIDES if getattr(self, side) == "ids"]
        if sides:
            found.append(f"clean with the pad's own id alone, {' and '.join(sides)}")
        if self.only and found:
            found[-1] += f" (in {self.only} attention alone)"
        found += ["batch coupling"] * self.coupled + ["state"] * self.state
        return "; ".join(found) or "clean"


def judge(trials: Sequence[Trial], limit: int = 0) -> Judgement:
    """The worst that any trial shows.

    Args:
        trials: Of one encoder, at several lengths, with several numbers of pads, in each attention implementation.
        limit: The largest number of tokens behind which the encoder treats texts in another way; 0 if there is none.
    """
    within = [trial for trial in trials if trial.length + trial.pads <= limit]
    right, left = (min((kind_of(trial, side) for trial in trials), key=KINDS.index) for side in SIDES)
    sides = zip(SIDES, (right, left), strict=True)
    cures = {side: _cure_of(trials, side) for side, worst in sides if worst in _CURABLE}
    by_attention: dict[str, list[Trial]] = {}
    for trial in trials:
        by_attention.setdefault(trial.attention, []).append(trial)
    moving = [
        name for name, some in by_attention.items() if any(kind_of(one, s) != "clean" for one in some for s in SIDES)
    ]
    return Judgement(
        right,
        left,
        {side: cure for side, cure in cures.items() if cure},
        any(trial.leaks(name) for trial in trials for name in _COMPANIONS) or any(map(_companion_leaks, trials)),
        any(trial.leaks(f"after a {call} call") for trial in trials for call in ("longer", "shorter")),
        not any(trial.leaks("token changed") for trial in trials),
        tuple(
            side
            for side, worst in zip(SIDES, (right, left), strict=True)
            if worst != "clean" and within
            if all(one.is_noise(name) for one in within for name in (side, f"ids under the mask, {side}"))
        ),
        moving[0] if len(moving) == 1 < len(by_attention) else "",
        {
            attention: not any(trial.leaks(name) for trial in some for name in ("outputs at pads", "right"))
            for attention, some in by_attention.items()
        },
    )


def kind_of(trial: Trial, side: Side) -> str:
    """What padding on one side does in one trial: one of `KINDS`."""
    if trial.single[side] is None:
        return "no numbers"
    under = trial.leaks(f"ids under the mask, {side}")
    if not trial.leaks(side):
        return "ids" if under else "clean"
    if under:
        return "content"
    if side == "right" or (trial.leaks("right") and not any(_cures(trial, side, one) for one in CONVENTIONS)):
        return "length"
    return "positions"


_CURABLE = ("length", "positions")
_COMPANIONS = ("batch size", "equal companion", "other companion")  # none of them padded


def _cure_of(trials: Sequence[Trial], side: Side) -> str | None:
    """The first convention that keeps the states wherever padding on this side moves them."""
    moved = [trial for trial in trials if kind_of(trial, side) in _CURABLE]
    return next((one for one in CONVENTIONS if all(_cures(trial, side, one) for trial in moved)), None)


def _cures(trial: Trial, side: Side, convention: str) -> bool:
    return trial.is_noise(f"{side}, positions {convention}")


def _companion_leaks(trial: Trial) -> bool:
    """Whether a longer text beside it does what pads alone do not."""
    return any(trial.leaks(f"longer companion, {side}") and not trial.leaks(side) for side in SIDES)
