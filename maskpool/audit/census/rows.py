"""The rows of the padding census, and the row that describes a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from maskpool.audit.census.settings import switches
from maskpool.audit.encoder_probes import Judgement
from maskpool.encoder.annotations import PretrainedConfig
from maskpool.types import SIDES

# What pads on a side do, by the kind of the judgement.
_EFFECTS = {
    "clean": "change nothing",
    "ids": "change nothing if masked positions hold the pad's id",
    "positions": "shift the positions of real tokens",
    "length": "change real tokens by their number",
    "content": "change real tokens by the ids under the mask",
    "no numbers": "make real tokens NaN or infinite",
}


@dataclass(frozen=True)
class CensusRow(Judgement):
    """What padding does to one architecture.

    Attributes:
        architecture: The ``model_type`` under which AutoModel knows it.
        variant: The mechanism that is switched on; empty for the default configuration.
        model_type: The ``model_type`` of the measured configuration, which differs if only the encoder of an
            architecture was run.
        switches: The settings of the models that the row describes; see `maskpool.audit.census.switches`.
        limits: Settings, such as windows, beyond which texts are processed differently.
        causes: By side where padding changes states: the cause, as the audit names it.
    """

    architecture: str
    variant: str
    model_type: str
    switches: Mapping[str, str]
    limits: Sequence[str]
    causes: Mapping[str, str]

    @property
    def name(self) -> str:
        """Architecture and variant."""
        return f"{self.architecture} ({self.variant})" if self.variant else self.architecture

    @property
    def effect(self) -> str:
        """What pads on each side do, in words."""
        effects = [
            _EFFECTS[getattr(self, side)]
            + (f" once text and pads exceed {', '.join(self.limits)}" if side in self.short else "")
            for side in SIDES
        ]
        if effects[0] == effects[1]:
            return f"pads on either side {effects[0]}"
        return ", ".join(f"pads on the {side} {effect}" for side, effect in zip(SIDES, effects, strict=True))

    @property
    def advice(self) -> str:
        """How to run such a model: on which side to pad, with which position ids, up to which length."""
        if self.vacuous:
            return "nothing: no token reads another"
        clean = [side for side in SIDES if getattr(self, side) in ("clean", "ids")]
        cured = [side for side in SIDES if side in self.cures]
        short = [side for side in SIDES if side in self.short]
        positions = f"passing position_ids that count real tokens {self.cures[cured[0]]}" if cured else ""
        if len(clean) == 2:
            advice = "pad on either side"
        elif clean:
            advice = f"pad on the {clean[0]}" + (f", or on the {cured[0]} {positions}" if cured else "")
        elif cured:
            advice = f"pad on the {cured[0]}, {positions}"
        elif short:
            within = f"as long as text and pads together stay within {', '.join(self.limits)}"
            advice = f"pad on the {short[0]} {within}; beyond, run texts of one length together"
        else:
            advice = "run texts of one length together, without pads"
        ids = [side for side in clean if getattr(self, side) == "ids"]
        if ids:
            where = f"on the {' and the '.join(ids)} " if len(clean) > len(ids) else ""
            advice += f", {where}with no other id than the pad's under the mask"
        if self.only:
            advice += f"; or use another attention implementation than {self.only}"
        if self.coupled:
            advice = "run each text separately: texts of a batch affect each other"
        if self.state:
            advice += "; texts of other lengths change later results: load the model again for each length"
        return advice


@dataclass(frozen=True)
class Census:
    """The census as it ships.

    Attributes:
        release: The version of transformers that was measured.
        rows: One row per measured architecture and variant.
    """

    release: str
    rows: tuple[CensusRow, ...]


@cache
def load() -> Census:
    """Read the census that ships with the package."""
    content = json.loads((Path(__file__).parent / "census.json").read_text(encoding="utf-8"))
    names = {field.name for field in fields(CensusRow)}
    rows = (CensusRow(**{name: _frozen(row[name]) for name in row if name in names}) for row in content["rows"])
    return Census(content["transformers"], tuple(rows))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def find_row(config: PretrainedConfig) -> CensusRow | None:
    """Return the row that describes a model, or None if its architecture was not measured with its settings."""
    states = switches(config)
    rows = (row for row in load().rows if row.model_type == config.model_type)
    return next((row for row in rows if row.switches == states), None)


def describe(config: PretrainedConfig) -> str:
    """Say in one sentence what the census knows about a model."""
    census, row = load(), find_row(config)
    if row is not None:
        measured = f"{row.name}, measured with random weights in transformers {census.release}"
        return f"{measured}: {row.effect}; {row.advice}"
    if all(row.model_type != config.model_type for row in census.rows):
        return f"{config.model_type} was not measured (transformers {census.release})"
    states = ", ".join(f"{name} {value}" for name, value in switches(config).items()) or "none switched on"
    return f"{config.model_type} was measured (transformers {census.release}), but not with its settings: {states}"
