"""Measure what padding does to the token states of one encoder, and judge it.

The padding census depends only on the numbers of `probe` and the rules of `judge`.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from maskpool.audit.encoder_causes import encoder_finding
from maskpool.audit.probes import Moved
from maskpool.audit.report import Finding
from maskpool.audit.seen import Seen
from maskpool.audit.states import relative
from maskpool.audit.trace import TokenCall
from maskpool.tolerances import CLEAN, LEAK, TIMES_NOISE
from maskpool.types import SIDES, Side

# The effects of padding on one side, worst first.
KINDS = ("no numbers", "content", "length", "positions", "ids", "clean")
# Position ids that a model may expect: real tokens from 0, or from the pad's id + 1, as in RoBERTa.
CONVENTIONS = ("from 0", "from pad + 1")


@dataclass(frozen=True)
class Trial:
    """The probes of an encoder with one text and one number of pads.

    Attributes:
        length: The number of real tokens.
        pads: The number of pads.
        attention: The attention implementation.
        single: By probe, how far states of real tokens move in float32: max|Δ| over their root mean square. None if
            they become NaN or infinite.
        double: The same in float64, for probes above noise in float32; empty if the model does not run in float64.
    """

    length: int
    pads: int
    attention: str
    single: Mapping[str, float | None]
    double: Mapping[str, float | None] = field(default_factory=dict)

    def leaks(self, probe: str) -> bool:
        """Return whether a probe moves the states by more than noise; False if it was not measured."""
        if probe not in self.single:
            return False
        size, exact = self.single[probe], self.double.get(probe)
        if size is not None and size <= CLEAN:
            return False
        if exact is not None:
            return exact > CLEAN
        # Noise between batch sizes is at most a leak: more is coupling.
        floor = min(self.single["batch size"] or 0.0, LEAK)
        return size is None or size > max(LEAK, TIMES_NOISE * floor)

    def is_noise(self, probe: str) -> bool:
        """Return whether a probe was measured and moves the states by at most noise."""
        size = self.double.get(probe, self.single.get(probe))
        return size is not None and size <= CLEAN


@dataclass(frozen=True)
class Text:
    """The token ids of a text and its companions.

    Attributes:
        ids: The text, (1, length).
        others: Companions, (3, length + pads); cut to the length of the text where needed.
        changed: Another id for the token in the middle.
        under: Ids to put under the mask instead of the pad's, (1, pads).
    """

    ids: Annotated[Tensor, "1 length"]
    others: Annotated[Tensor, "3 longer"]
    changed: int
    under: Annotated[Tensor, "1 pads"]

    @classmethod
    def drawn(cls, vocabulary: Sequence[int], length: int, pads: int, generator: torch.Generator) -> Text:
        """Draw random ids.

        Args:
            vocabulary: Ids of words, without special tokens.
            length: The number of real tokens.
            pads: The number of pads.
            generator: The generator of random numbers.
        """
        words = torch.tensor(vocabulary)

        def draw(rows: int, columns: int) -> Tensor:
            return words[torch.randint(len(words), (rows, columns), generator=generator)]

        ids = draw(1, length)
        middle = int(ids[0, length // 2])
        changed = next(word for word in draw(1, 64)[0].tolist() if word != middle)
        return cls(ids, draw(3, length + pads), changed, draw(1, pads))


def probe(model: nn.Module, text: Text, pad_id: int, attention: str) -> Trial:
    """Run a text alone, padded and next to companions.

    Args:
        model: A module from ``input_ids`` and ``attention_mask`` to token states; a copy of it runs.
        text: The text, without special tokens.
        pad_id: The id at pads.
        attention: The name of the model's attention implementation, for the result.
    """
    single = _differences(model, text, pad_id)
    noisy = [name for name, size in single.items() if name not in CONTROLS and not _is_clean(size)]
    double = {}
    if noisy:
        try:
            double = _differences(copy.deepcopy(model).double(), text, pad_id)
        except Exception:  # code that requires float32; single precision decides
            double = {}
        # The mask's minimum of float64 becomes -inf if scores are kept in float32.
        double = {name: size for name, size in double.items() if name in noisy and size is not None}
    return Trial(text.ids.shape[1], text.under.shape[1], attention, single, double)


def _is_clean(size: float | None) -> bool:
    return size is not None and size <= CLEAN


_SHORTER = 5  # tokens; some encoders require so many

# Controls show that a probe can see anything; they do not make a verdict "clean".
CONTROLS = ("token changed", "mask not passed, right", "mask not passed, left")


def _differences(model: nn.Module, text: Text, pad_id: int) -> dict[str, float | None]:
    runs = _Runs(model, pad_id)
    ids, pads = text.ids, text.under.shape[1]
    length = ids.shape[1]
    sizes: dict[str, float] = {}
    alone = runs.states(ids)
    runs.states(torch.cat([text.others[:1], text.others[1:2]], dim=1))
    after_longer = runs.states(ids)
    sizes["after a longer call"] = relative(alone, after_longer)
    if length > _SHORTER:
        runs.states(text.others[:1, :_SHORTER])
        sizes["after a shorter call"] = relative(after_longer, runs.states(ids))
    # Copy models that keep state between calls, so one finding cannot cause another.
    runs.copied = any(size > CLEAN for size in sizes.values())
    sizes["batch size"] = relative(alone, runs.states(ids.repeat(3, 1)))
    companions = [text.others[row : row + 1, :length] for row in (0, 1)]
    first, last = runs.states(torch.cat([ids, companions[0]]))[:1], runs.states(torch.cat([companions[1], ids]))[1:]
    sizes["equal companion"] = relative(alone, first)
    sizes["other companion"] = relative(first, last)
    fill = torch.full((1, pads), pad_id)
    padded = {side: runs.padded(ids, fill, side) for side in SIDES}
    for side in SIDES:
        real = _real(side, length, pads)
        sizes[side] = relative(alone, padded[side][:, real])
        rows = torch.cat([_joined(ids, fill, side), text.others[2:]])
        batched = runs.states(rows, torch.cat([_mask(length, pads, side), torch.ones(1, length + pads).long()]))
        sizes[f"longer companion, {side}"] = relative(alone, batched[:1, real])
        under = runs.padded(ids, text.under, side)
        sizes[f"ids under the mask, {side}"] = relative(padded[side][:, real], under[:, real])
        unmasked = runs.states(_joined(ids, fill, side), None)
        sizes[f"mask not passed, {side}"] = relative(alone, unmasked[:, real])
        counted = (_mask(length, pads, side).cumsum(dim=1) - 1).clamp(min=0)
        for convention, start in zip(CONVENTIONS, (0, pad_id + 1), strict=True):
            if not runs.takes_positions:
                continue
            fresh = _Runs(runs.original, pad_id)  # large position ids must leave no state
            try:
                states = fresh.states(_joined(ids, fill, side), _mask(length, pads, side), counted + start)
            except (
                IndexError,
                RuntimeError,
            ):  # more positions than the model has, or code that fails with position ids
                continue
            sizes[f"{side}, positions {convention}"] = relative(alone, states[:, real])
    further = runs.padded(ids, torch.full((1, 2 * pads), pad_id), "right")[:, : length + pads]
    sizes["outputs at pads"] = relative(padded["right"][:, length:], further[:, length:])
    changed = ids.clone()
    changed[0, length // 2] = text.changed
    others = torch.arange(length) != length // 2
    sizes["token changed"] = relative(alone[:, others], runs.states(changed)[:, others])
    return {name: size if math.isfinite(size) else None for name, size in sizes.items()}


def _real(side: Side, length: int, pads: int) -> slice:
    return slice(length) if side == "right" else slice(pads, pads + length)


def _joined(ids: Tensor, fill: Tensor, side: Side) -> Tensor:
    return torch.cat([ids, fill] if side == "right" else [fill, ids], dim=1)


def _mask(length: int, pads: int, side: Side) -> Tensor:
    return _joined(torch.ones(1, length).long(), torch.zeros(1, pads).long(), side)


class NoStatesError(Exception):
    """A model returns no token states."""


class _Runs:
    """Runs of a model on batches of token ids.

    Attributes:
        original: The model that was passed.
        copied: Whether each batch runs through a new copy of it.
    """

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        self.original, self.model = model.eval(), copy.deepcopy(model)
        self.copied = False
        names = inspect.signature(model.forward).parameters
        self.takes_mask, self.takes_positions = "attention_mask" in names, "position_ids" in names

    def call(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None = None) -> TokenCall:
        """Return a call that has not run."""
        optional = {"attention_mask": mask if self.takes_mask else None, "position_ids": positions}
        arguments = {"input_ids": ids, **{name: t for name, t in optional.items() if t is not None}}
        return TokenCall(self.model, arguments, ids)

    def states(
        self, ids: Tensor, mask: Tensor | Literal["ones"] | None = "ones", positions: Tensor | None = None
    ) -> Tensor:
        if self.copied:
            self.model = copy.deepcopy(self.original)
        states = self.call(ids, torch.ones_like(ids) if isinstance(mask, str) else mask, positions).again()
        if states is None:
            raise NoStatesError(f"it returns no states (batch, seq, dim) for {ids.shape[1]} tokens")
        return states

    def padded(self, ids: Tensor, fill: Tensor, side: Side) -> Tensor:
        return self.states(_joined(ids, fill, side), _mask(ids.shape[1], fill.shape[1], side))


def find_cause(model: nn.Module, text: Text, pad_id: int, side: Side) -> Finding | None:
    """Find out why the states of a padded text differ from those of the text alone; None if they do not.

    Args:
        model: As in `probe`.
        text: As in `probe`.
        pad_id: As in `probe`.
        side: The side of the pads.
    """
    runs = _Runs(model, pad_id)
    length, pads = text.ids.shape[1], text.under.shape[1]
    padded = _joined(text.ids, torch.full((1, pads), pad_id), side)
    calls = runs.call(text.ids, torch.ones_like(text.ids)), runs.call(padded, _mask(length, pads, side))
    alone, in_row = (replace(call, states=call.again()) for call in calls)
    no_vectors = Moved((), torch.zeros(1), torch.zeros(1))
    return encoder_finding(Seen(no_vectors, alone, in_row, _real(side, length, pads).start or 0))


_WORDS = {
    "no numbers": "no numbers",
    "content": "content leak",
    "length": "length leak",
    "positions": "position shift",
}


@dataclass(frozen=True)
class Judgement:
    """The judgement of an encoder from its trials.

    Attributes:
        right: The effect of padding on the right, one of `KINDS`. Content: ids under the mask reach real tokens;
            length: the number of pads does, for any ids; positions: real tokens get other positions; ids: the pad's
            own id has no effect, other ids under the mask have one.
        left: The same on the left, without position ids.
        cures: By side where positions shift or the number of pads counts: the first of `CONVENTIONS` whose position
            ids keep the states; without an entry if none does.
        coupled: Whether other texts of the batch change a text without padding.
        state: Whether a longer or shorter call changes later ones.
        vacuous: Whether no token's states depend on another token: nothing could leak.
        short: The sides on which padding has an effect only beyond the limits of the configuration (windows, chunks).
        only: The one attention implementation in which padding has an effect, if another is clean; else empty.
        appends: By attention implementation, whether more pads on the right keep the outputs at real tokens and at
            the pads before them.
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
        """The judgement in words."""
        if self.vacuous:
            return "vacuous"
        parts = []
        for kind, words in _WORDS.items():
            for cure in (None, *CONVENTIONS):
                sides = [side for side in SIDES if getattr(self, side) == kind and self.cures.get(side) == cure]
                if sides:
                    parts.append(
                        f"{words}, {' and '.join(sides)}" + (f", cured by position ids {cure}" if cure else "")
                    )
        sides = [side for side in SIDES if getattr(self, side) == "ids"]
        if sides:
            parts.append(f"clean with the pad's own id alone, {' and '.join(sides)}")
        if self.only and parts:
            parts[-1] += f" (in {self.only} attention alone)"
        parts += ["batch coupling"] * self.coupled + ["state"] * self.state
        return "; ".join(parts) or "clean"


def judge(trials: Sequence[Trial], limit: int = 0) -> Judgement:
    """Judge an encoder by the worst of its trials.

    Args:
        trials: The trials of one encoder: several lengths, numbers of pads and attention implementations.
        limit: The largest number of tokens beyond which the encoder processes texts differently; 0 without limits.
    """
    within = [trial for trial in trials if trial.length + trial.pads <= limit]
    right, left = (min((kind_of(trial, side) for trial in trials), key=KINDS.index) for side in SIDES)
    sides = zip(SIDES, (right, left), strict=True)
    cures = {side: _cure_of(trials, side) for side, worst in sides if worst in _CURABLE}
    by_attention: dict[str, list[Trial]] = {}
    for trial in trials:
        by_attention.setdefault(trial.attention, []).append(trial)
    moving = [
        name
        for name, some in by_attention.items()
        if any(kind_of(trial, s) != "clean" for trial in some for s in SIDES)
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
            if all(trial.is_noise(name) for trial in within for name in (side, f"ids under the mask, {side}"))
        ),
        moving[0] if len(moving) == 1 < len(by_attention) else "",
        {
            attention: not any(trial.leaks(name) for trial in some for name in ("outputs at pads", "right"))
            for attention, some in by_attention.items()
        },
    )


def kind_of(trial: Trial, side: Side) -> str:
    """Return the effect of padding on one side in one trial, one of `KINDS`."""
    if trial.single[side] is None:
        return "no numbers"
    under = trial.leaks(f"ids under the mask, {side}")
    if not trial.leaks(side):
        return "ids" if under else "clean"
    if under:
        return "content"
    if side == "right" or (
        trial.leaks("right") and not any(_cures(trial, side, convention) for convention in CONVENTIONS)
    ):
        return "length"
    return "positions"


_CURABLE = ("length", "positions")
_COMPANIONS = ("batch size", "equal companion", "other companion")  # without padding


def _cure_of(trials: Sequence[Trial], side: Side) -> str | None:
    """Return the first convention that keeps the states in all trials that padding on this side moves."""
    moved = [trial for trial in trials if kind_of(trial, side) in _CURABLE]
    cures = (name for name in CONVENTIONS if all(_cures(trial, side, name) for trial in moved))
    return next(cures, None)


def _cures(trial: Trial, side: Side, convention: str) -> bool:
    return trial.is_noise(f"{side}, positions {convention}")


def _companion_leaks(trial: Trial) -> bool:
    """Return whether a longer companion has an effect that pads do not have."""
    return any(trial.leaks(f"longer companion, {side}") and not trial.leaks(side) for side in SIDES)
