"""The settings of a model's configuration, and those that decide which row of the census describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from maskpool.encoder.annotations import PretrainedConfig

# Settings that switch a mechanism on or off: a row describes the models that share them.
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


def switches(config: PretrainedConfig) -> dict[str, str]:
    """Return the settings that switch mechanisms on or off, nested configurations included.

    Sizes count as "set": a row measured with a window of eight tokens describes every window.
    """
    states: dict[str, set[str]] = {}
    for name, value in settings_of(config):
        if name in _SWITCHES:
            states.setdefault(name, set()).update(state for state in _flat(value) if state != "False")
    return {name: ", ".join(sorted(values)) for name, values in sorted(states.items()) if values}


def settings_of(config: PretrainedConfig | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield names and values of all settings, nested configurations included, vision and audio parts excluded."""
    for name, value in (config if isinstance(config, Mapping) else vars(config)).items():
        if isinstance(value, Mapping) or hasattr(value, "model_type"):
            if not any(sense in str(name) for sense in ("vision", "audio")):
                yield from settings_of(value)
        else:
            yield str(name), value


def _flat(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [state for part in value for state in _flat(part)]
    if value is None or value is False or value in (0, "default", "absolute"):  # how old files write "off"
        return ["False"]
    return ["set"] if isinstance(value, int) and value is not True else [str(value)]
