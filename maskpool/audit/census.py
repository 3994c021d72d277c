"""The padding census: what padding does to each architecture of transformers, as measured once for a release.

The rows are made by ``python -m benchmarks.census`` with `maskpool.audit.encoder_probes` on tiny random models, and say
what an architecture's code does, whatever its weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from maskpool.audit.encoder_probes import Judgement
from maskpool.encoder.annotations import PretrainedConfig

# Settings that switch a mechanism on or off: a row speaks for the models that have them as it was measured.
_SWITCHES = (
    "alibi",
    "approx_mode",
    "attention_type",
    "attention_types",
    "attn_layers",
    "attn_type",
    "axial_pos_embds",
    "bi_data",
    "causal",
    "conv_kernel_size",
    "enable_moe_block",
    "encoder_attention_type",
    "indexer_types",
    "is_decoder",
    "is_moe",
    "layer_types",
    "layers_block_type",
    "moe_eval_capacity_token_fraction",
    "num_kv_shared_layers",
    "ple_layer_ids",
    "pos_att_type",
    "position_biased_input",
    "position_embedding_type",
    "relative_attention",
    "rope_type",
    "router_ignore_padding_tokens",
    "sinusoidal_embeddings",
    "sinusoidal_pos_embds",
    "sliding_window",
    "token_dropout",
    "use_bidirectional_attention",
    "use_expectation",
    "use_mem_rope",
    "use_sliding_window",
)


@dataclass(frozen=True)
class CensusRow(Judgement):
    """What padding does to one architecture.

    Attributes:
        architecture: The ``model_type`` that AutoModel knows it by.
        variant: What is switched on; empty for the configuration as it comes.
        model_type: That of the configuration that was measured, which is another one where only the encoder of an
            architecture is run.
        switches: The settings that it speaks for, as `switches` reads them.
        limits: Settings behind which texts are treated in another way, such as windows.
        causes: By side, where padding does something: why, in the audit's words.
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
    def advice(self) -> str:
        """What to do with a model of this kind: which side, which position ids, which lengths."""
        if self.vacuous:
            return "nothing: no token reads another"
        fine = [side for side in ("right", "left") if getattr(self, side) in ("clean", "ids")]
        told = [side for side in ("right", "left") if side in self.cures]
        short = [side for side in ("right", "left") if side in self.short]
        positions = f"passing position_ids that count real tokens {self.cures[told[0]]}" if told else ""
        if len(fine) == 2:
            found = "pad on either side"
        elif fine:
            found = f"pad on the {fine[0]}" + (f", or on the {told[0]} {positions}" if told else "")
        elif told:
            found = f"pad on the {told[0]}, {positions}"
        elif short:
            within = f"as long as text and pads together stay within {', '.join(self.limits)}"
            found = f"pad on the {short[0]} {within}; beyond, run texts of one length together"
        else:
            found = "run texts of one length together, without pads"
        ids = [side for side in fine if getattr(self, side) == "ids"]
        if ids:
            where = f"on the {' and the '.join(ids)} " if len(fine) > len(ids) else ""
            found += f", {where}with no other id than the pad's under the mask"
        if self.only:
            found += f"; or use another attention implementation than {self.only}"
        if self.coupled:
            found = "run each text alone: those of a batch reach each other"
        if self.state:
            found += "; and texts of other lengths change what comes later: load it anew for each length"
        return found


def switches(config: PretrainedConfig) -> dict[str, str]:
    """The settings of a model that switch mechanisms on or off, those of configurations inside it as well.

    Sizes count as "set": a row of a window of eight tokens speaks for every window.
    """
    found: dict[str, set[str]] = {}
    for name, value in settings_of(config):
        if name in _SWITCHES:
            values = _flat(value)
            found.setdefault(name, set()).update(one for one in values if one != "False")
    return {name: ", ".join(sorted(values)) for name, values in sorted(found.items()) if values}


def settings_of(config: PretrainedConfig | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those of configurations inside it as well, but not of what sees or hears."""
    for name, value in (config if isinstance(config, Mapping) else vars(config)).items():
        if isinstance(value, Mapping) or hasattr(value, "model_type"):
            if not any(sense in str(name) for sense in ("vision", "audio")):
                yield from settings_of(value)
        else:
            yield str(name), value


def _flat(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [one for part in value for one in _flat(part)]
    if value is None or value is False or value in (0, "default", "absolute"):  # what old files say of what is not on
        return ["False"]
    return ["set"] if isinstance(value, int) and value is not True else [str(value)]


@cache
def rows() -> tuple[str, tuple[CensusRow, ...]]:
    """The release of transformers that was measured, and what was found."""
    found = json.loads((Path(__file__).parent / "census.json").read_text(encoding="utf-8"))
    names = {one.name for one in fields(CensusRow)}
    return found["transformers"], tuple(
        CensusRow(**{name: _frozen(value) for name, value in row.items() if name in names}) for row in found["rows"]
    )


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _frozen(one) for name, one in value.items()}
    return tuple(value) if isinstance(value, list) else value


def find_row(config: PretrainedConfig) -> CensusRow | None:
    """The row that speaks for a model, or None where its architecture was not measured with its settings."""
    given = switches(config)
    of_kind = [row for row in rows()[1] if row.model_type == config.model_type]
    return next((row for row in of_kind if row.switches == given), None)


def tell(config: PretrainedConfig) -> str:
    """A sentence on the row that speaks for a model."""
    release, every = rows()
    row = find_row(config)
    if row is not None:
        return f"{row.name}, tiny and random in transformers {release}: {row.verdict}; {row.advice}"
    others = [one for one in every if one.model_type == config.model_type]
    if not others:
        return f"{config.model_type} is not in it (transformers {release})"
    given = ", ".join(f"{name} {value}" for name, value in switches(config).items()) or "nothing"
    return f"{config.model_type} is in it (transformers {release}), but not with its settings: {given}"
