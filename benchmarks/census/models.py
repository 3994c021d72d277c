"""Build the models of the census: tiny configurations of each architecture, with weights that hide no leak."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from maskpool.audit.census import settings_of
from maskpool.encoder import text_encoder

VOCABULARY = 96
_MOST_WEIGHTS = 10_000_000  # more means that a setting of a size was not recognised

# Settings that determine the size of a model, by their value in a tiny one.
_SIZES: dict[int, str] = {
    VOCABULARY: "vocab_size n_vocab text_vocab_size vocab_size_per_layer_input entity_vocab_size "
    "pronunciation_vocab_size shape_vocab_size src_vocab_size tgt_vocab_size vision_vocab_size "
    "encoder_hash_byte_group_vocab num_hash_buckets",
    64: "hidden_size d_model n_embd dim emb_dim embed_dim embedding_size word_embed_proj_dim hidden_dim "
    "decoder_hidden_size encoder_hidden_size d_embed embedding_dim projection_dim projection_size mlp_dim "
    "intra_bottleneck_size true_hidden_size embed_proj_dim text_hidden_size entity_emb_size "
    "pronunciation_embed_dim shape_embed_dim router_hidden_size hidden_size_global moe_hidden_size "
    "hidden_size_per_layer_input ple_embed_dim lru_width out_hidden_size vision_output_dim "
    "projector_output_dim projector_input_dim alignment_intermediate_size input_embedding_size",
    160: "intermediate_size ffn_dim d_ff dff encoder_ffn_dim decoder_ffn_dim moe_intermediate_size n_inner d_inner "
    "shared_expert_intermediate_size ffn_hidden_size shared_intermediate_size dense_intermediate_size "
    "intermediate_size_mlp expert_ffn_hidden_size moe_shared_expert_intermediate_size block_ff_dim dim_ff "
    "feed_forward_size encoder_intermediate_size decoder_intermediate_size shared_experts_intermediate_size "
    "share_expert_dim",
    128: "mamba_d_ssm",  # twice the hidden size
    1: "topk_group first_k_dense_replace num_dense_layers n_layers_per_attn_res_block",
    2: "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_decoder_layers "
    "num_encoder_layers num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok "
    "num_experts_per_token top_k moe_topk moe_top_k n_group num_expert_group num_selects moe_k depth "
    "n_heads_kv multi_query_group_num mamba_n_groups mamba_ngroups n_groups linear_num_key_heads "
    "encoder_sparse_step decoder_sparse_step num_kv_shared_layers num_blocks o_groups",
    4: "num_attention_heads n_head n_heads encoder_attention_heads decoder_attention_heads num_heads "
    "attention_heads linear_num_value_heads linear_num_heads decoder_num_attention_heads "
    "num_query_groups swa_num_attention_heads num_sliding_attention_heads zero_expert_num hc_lowrank",
    8: "relative_attention_num_buckets position_bias_num_buckets num_experts n_routed_experts num_local_experts "
    "moe_num_experts mamba_n_heads mamba_num_heads n_mamba_heads",
    16: "head_dim d_kv v_head_dim qk_nope_head_dim qk_rope_head_dim linear_key_head_dim linear_value_head_dim "
    "d_head linear_head_dim index_head_dim swa_head_dim mamba_d_head mamba_head_dim mamba_headdim rotary_dim "
    "dim_head kv_channels kv_lora_rank q_lora_rank o_lora_rank mamba_d_state ssm_state_size state_size "
    "attention_head_size",
    512: "max_position_embeddings n_positions max_source_positions max_target_positions context_length max_seq_len",
}
# Settings that some models, but not all, derive from others if unset.
_UNSET = {"head_dim": 16, "num_key_value_heads": 4, "vocab_size": VOCABULARY}
# Settings beyond which texts are processed differently: some texts must be longer.
# Those that matter are at least 8, and a text of 5 tokens and 3 pads stays within all of them.
LIMITS: dict[str, int] = {
    "sliding_window": 8,
    "sliding_window_size": 8,
    "attention_window": 8,
    "attention_window_size": 8,
    "attention_chunk_size": 8,
    "local_attention": 8,
    "local_attention_window_len": 8,
    "window_size": 8,
    "keep_window_size": 8,
    "block_size": 8,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
    "index_topk": 8,
    "index_block_size": 4,  # times the number of selected blocks
    "indexer_budget": 8,
    "local_radius": 8,
    "global_block_size": 8,
    "relative_attention_max_distance": 16,
    "relative_max_distance": 16,
    "position_buckets": 8,
    "position_bias_max_distance": 16,
    "rel_extent": 16,
    "lsh_attn_chunk_length": 8,
    "local_attn_chunk_length": 8,
    "local_transformer_stride": 8,
    "original_max_position_embeddings": 16,
    "expert_capacity": 8,
    "floor_scale": 16,  # which begins one token earlier
    "log_scaling_n_floor": 8,
}


@dataclass(frozen=True)
class Variant:
    """A configuration of an architecture.

    Attributes:
        architecture: Its ``model_type``.
        name: The mechanism that is switched on; empty for the default configuration.
        settings: Values of the configuration that switch it on.
    """

    architecture: str
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Architecture and name."""
        return f"{self.architecture} ({self.name})" if self.name else self.architecture


class NotAttemptedError(Exception):
    """An architecture that the census does not cover; the message says why."""


def shrunk(config: PretrainedConfig) -> dict[str, Any]:
    """Return the settings that make a configuration tiny."""
    settings = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    sizes = {name: size for size, names in _SIZES.items() for name in names.split()} | LIMITS
    for some, all_heads in (
        ("num_key_value_heads", "num_attention_heads"),
        ("linear_num_key_heads", "linear_num_value_heads"),
    ):
        if settings.get(some) == settings.get(all_heads):  # it may support only one key per query
            sizes[some] = sizes[all_heads]
    kept = _kept_layers(settings)
    sizes |= dict.fromkeys(_LAYERS, len(kept) or 2)
    small: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, PretrainedConfig):
            small[name] = shrunk(value) | {"model_type": value.model_type}
        elif value is None and name in _UNSET:
            small[name] = _UNSET[name]
        elif isinstance(value, dict):
            small[name] = _shrunk_mapping(value, sizes)
        elif isinstance(value, (list, tuple)) and kept and len(value) == _layers(settings):
            small[name] = [_smaller(name, value[layer], sizes) for layer in kept]
        elif (
            (name.endswith("token_id") or name.endswith("token_index"))
            and isinstance(value, int)
            and value >= VOCABULARY
        ):
            small[name] = 80 + len(small) % 16
        else:
            small[name] = _smaller(name, value, sizes)
    # Leave defaults out: some are derived from the rest.
    defaults = vars(type(config)())
    changed = {name: value for name, value in small.items() if value != defaults.get(name)}
    return _merged(changed, PATCHES.get(config.model_type, {}))


_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")


def _layers(settings: Mapping[str, Any]) -> int:
    return next((value for name in _LAYERS if isinstance(value := settings.get(name), int)), 0)


def _kept_layers(settings: Mapping[str, Any]) -> list[int]:
    """Return the first layer of each kind, by settings that list layers; empty without such settings."""
    lists = [
        value for value in settings.values() if isinstance(value, (list, tuple)) and len(value) == _layers(settings)
    ]
    lists = [value for value in lists if len({str(kind) for kind in value}) <= 4]  # more are names, not kinds
    first: dict[str, int] = {}
    for layer, kind in enumerate(zip(*lists, strict=True)):
        first.setdefault(str(kind), layer)
    return list(first.values()) if len(first) > 1 else list(range(2 if lists else 0))


def _smaller(name: str, value: Any, sizes: Mapping[str, int]) -> Any:
    known = name in sizes and isinstance(value, int) and not isinstance(value, bool) and value > 0
    return min(value, sizes[name]) if known else value


def _shrunk_mapping(settings: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    small = {
        name: _shrunk_mapping(value, sizes) if isinstance(value, dict) else _smaller(name, value, sizes)
        for name, value in settings.items()
    }
    if "mrope_section" in small:
        small["mrope_section"] = _MROPE["mrope_section"]
    return small


def build(variant: Variant, seed: int) -> PreTrainedModel:
    """Build a tiny encoder with random weights.

    Raises:
        NotAttemptedError: It reads no token ids, or does not run on this machine.
    """
    if variant.architecture in _NOT_HERE:
        raise NotAttemptedError(_NOT_HERE[variant.architecture])
    kind = CONFIG_MAPPING[variant.architecture]
    classes: Any = MODEL_MAPPING[kind]
    model_class: type[PreTrainedModel] = classes[0] if isinstance(classes, tuple) else classes
    if "input_ids" not in inspect.signature(model_class.forward).parameters:
        raise NotAttemptedError("its base model reads no token ids")
    defaults = kind()
    switched = {
        name: value for name, value in variant.settings.items() if hasattr(defaults, name) or name not in _WINDOW
    }
    config = kind(**deepcopy(_merged(shrunk(defaults), switched)))  # configurations write into their arguments
    with torch.device("meta"):
        weights = sum(p.numel() for p in model_class(config).parameters())
    if weights > _MOST_WEIGHTS:
        raise RuntimeError(f"{weights:,} weights though shrunk: a size was not recognised")
    torch.manual_seed(seed)
    model = text_encoder(model_class(config))
    model.eval()  # type: ignore[no-untyped-call]  # untyped in transformers
    if not hasattr(model, "config"):
        model.config = config
    if "input_ids" not in inspect.signature(model.forward).parameters:
        raise NotAttemptedError("its encoder reads no token ids")
    draw_weights(model, seed)
    return model


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(settings)
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(name), Mapping)
        both[name] = _merged(both[name], value) if nested else value
    return both


def limits_of(config: PretrainedConfig) -> dict[str, int]:
    """Return the settings beyond which texts are processed differently, by name."""
    limits: dict[str, int] = {}
    for name, value in settings_of(config):
        sizes = value if isinstance(value, (list, tuple)) else [value]
        known = [size for size in sizes if isinstance(size, int) and 1 < size <= 64]
        if name in LIMITS and known:
            limits[name] = max(known)
        elif name == "rope_type" and value == "dynamic":
            limits["max_position_embeddings"] = config.get_text_config().max_position_embeddings
    if {"block_size", "num_random_blocks"} <= vars(config).keys():  # BigBird's: shorter texts get full attention
        least = 5 + 2 * config.num_random_blocks
        limits["(5 + 2 · num_random_blocks) · block_size"] = least * limits.pop("block_size")
    if getattr(config, "moe_eval_capacity_token_fraction", 0) > 0:  # NLLB's capacity then depends on the text
        limits.pop("expert_capacity", None)
    if "index_block_size" in limits:  # MiniMax's: every block of a shorter text is selected
        chosen = config.get_text_config().index_topk_blocks
        limits["index_topk_blocks · index_block_size"] = chosen * limits.pop("index_block_size")
    return limits


def lengths_of(limits: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return numbers of tokens and pads of the texts to try: within and past every limit, at multiples of none."""
    most = max(limits.values(), default=8)
    return [(5, 3), (5, most + 2), (2 * most + 3, 3), (2 * most + 3, most + 2)]


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Draw random weights that hide no leak: norms are not one, biases and pad rows not zero.

    Computed tables (sinusoidal positions) keep their values; parameters with a special meaning (decays, time steps) get
    noise added.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if not weight.requires_grad or not weight.is_floating_point() or _is_sinusoidal(weight):
                continue
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight.dtype)
            special = any(word in name.lower() for word in ("a_log", "dt_", "decay", "time_", "lambda"))
            if isinstance(module, nn.Embedding):
                weight.copy_(noise)
            elif weight.ndim >= 2 and not special:
                weight.copy_(noise / math.sqrt(weight[0].numel() if weight.ndim == 2 else weight.shape[-1]))
            else:
                weight.add_(noise * 0.2)


def _is_sinusoidal(weight: Tensor) -> bool:
    """Recognise a table of sines and cosines by its first row, those of 0."""
    return weight.ndim == 2 and set(weight[0].tolist()) == {0.0, 1.0}


def words_of(config: PretrainedConfig) -> list[int]:
    """Return the ids of a tiny vocabulary without special tokens."""
    special = set(_token_ids(config))
    size = min(
        (c.vocab_size for c in (config, config.get_text_config()) if isinstance(getattr(c, "vocab_size", None), int)),
        default=VOCABULARY,
    )
    return [word for word in range(10, size) if word not in special]


def pad_of(config: PretrainedConfig) -> int:
    """Return the id of the pad, else of the end-of-text token, else 0."""
    for name in ("pad_token_id", "eos_token_id"):
        for part in (config, config.get_text_config()):
            if isinstance(token_id := getattr(part, name, None), int) and 0 <= token_id < VOCABULARY:
                return token_id
    return 0


def _token_ids(config: PretrainedConfig) -> Iterator[int]:
    for name, value in settings_of(config):
        if name.endswith(("token_id", "token_index", "token_ids")):
            values = value if isinstance(value, (list, tuple)) else [value]
            yield from (token_id for token_id in values if isinstance(token_id, int))


# Rotary positions of images in three parts: half a head's dimensions.
_MROPE = {"mrope_section": [4, 2, 2]}
_MROPE_NARROW = {"mrope_section": [2, 1, 1]}  # if half of a head is rotated
_MROPE_NARROWER = {"mrope_section": [1, 1, 0]}  # if a quarter is
_MOE = {"n_routed_experts": 8, "num_experts_per_tok": 2}

_NOT_HERE = {"mra": "its attention is a CUDA kernel; without one it gives zeros"}

# Settings that `shrunk` cannot derive, such as those that must fit each other.
PATCHES: dict[str, dict[str, Any]] = {
    "big_bird": {"num_random_blocks": 1},
    "bigbird_pegasus": {"num_random_blocks": 1},
    "deepseek_v2": _MOE,
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"num_hidden_layers": 2},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, **_MROPE},
            "full_attention": None,
        },
    },
    "chameleon_vqgan": {"base_channels": 32},
    "chameleon": {"vocabulary_map": {"<image>": 5}},
    "cosmos3_edge_text": {"rope_parameters": _MROPE},
    "deepseek_v4": {
        "num_hidden_layers": 4,
        "layer_types": [
            "sliding_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
            "sliding_attention",
        ],
        "mlp_layer_types": ["hash_moe", "hash_moe", "moe", "moe"],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "index_topk": 2,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 160, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
    },
    "dots3_note_text": {
        "head_dim": 64,  # of which a quarter is rotated
        "swa_head_dim": 64,
        "swa_qk_nope_head_dim": 48,
        "swa_v_head_dim": 16,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
    },
    "emu3_vqgan": {"base_channels": 32},
    "emu3": {"vocabulary_map": {"<image>": 5}},
    "esm": {"pad_token_id": 1, "mask_token_id": 5},
    "glm5_next_text": {"index_kpool": 4},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hunyuan_vl_text": {"rope_parameters": _MROPE},
    "laguna": {"layer_types": ["full_attention", "sliding_attention"], "num_attention_heads_per_layer": [4, 4]},
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 96},
    "mistral_large4_text": {"kv_source_layers": None},
    "mobilebert": {"num_feedforward_networks": 2},
    "mpnet": {"relative_attention_num_buckets": 32},  # its code supports only this
    "recurrent_gemma": {"num_hidden_layers": 3},
    "xlstm": {"qk_dim_factor": 1.0},
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "rope_parameters": _MROPE,
    },
    "step3p5": {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
    "dots1": {**_MOE, "n_shared_experts": 1},
    "funnel": {"block_sizes": [1, 1, 1]},
    "flint": {"mlp_only_layers": [0]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "llama4_text": {"moe_layers": [1]},
    "mamba2": {"num_heads": 8},
    "minimax_m3_vl_text": {
        "index_topk_blocks": 2,
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse"],
    },
    "mistral4": {"head_dim": 32},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [32, 32],
        "num_buckets": 4,
        "hash_seed": 0,
    },
    "prophetnet": {"num_buckets": 8},
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "xmod": {"default_language": "en_XX"},
    **{
        name: {"rope_parameters": _MROPE}
        for name in (
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "qwen3_vl_text",
            "qwen3_vl_moe_text",
            "glm4v_text",
            "glm_image_text",
            "glm_ocr_text",
            "paddleocr_vl_text",
        )
    },
    "glm4v_moe_text": {"rope_parameters": _MROPE_NARROW},
    "qwen3_5_text": {"rope_parameters": _MROPE_NARROWER},
    "qwen3_5_moe_text": {"rope_parameters": _MROPE_NARROWER},
}


def _rope(kind: str, positions: int = 64, **settings: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings},
        "max_position_embeddings": positions,
    }


_DYNAMIC = _rope("dynamic", 16, factor=2.0)
_LONG = _rope(
    "longrope",
    factor=4.0,
    short_factor=[1.0 + 0.1 * n for n in range(8)],
    long_factor=[2.0 + n for n in range(8)],
    original_max_position_embeddings=16,
)
_YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=16)
_LLAMA3 = _rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
_LINEAR = _rope("linear", factor=4.0)
_MIXED_WINDOW = {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}
_WINDOW = {**_MIXED_WINDOW, "use_sliding_window": True}  # each configuration takes the settings that it has
_DISENTANGLED = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 8,
    "position_biased_input": False,
}


def _each(names: str, name: str, settings: Mapping[str, Any]) -> Iterator[Variant]:
    return (Variant(architecture, name, settings) for architecture in names.split())


VARIANTS: tuple[Variant, ...] = (
    Variant("big_bird", "full attention", {"attention_type": "original_full"}),
    Variant("bigbird_pegasus", "full attention", {"attention_type": "original_full"}),
    *_each("bert roberta xlm-roberta electra", "decoder", {"is_decoder": True}),
    Variant("deberta", "relative", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    Variant("deberta-v2", "relative, as DeBERTa-v3", _DISENTANGLED),
    Variant("deberta-v2", "relative, convolution", {**_DISENTANGLED, "conv_kernel_size": 3, "conv_act": "gelu"}),
    Variant("distilbert", "sinusoidal positions", {"sinusoidal_pos_embds": True}),
    Variant("doge", "experts", {"is_moe": True}),
    Variant("esm", "token dropout, as ESM-1b", {"token_dropout": True, "emb_layer_norm_before": True}),
    Variant("esm", "rotary", {"position_embedding_type": "rotary"}),
    Variant("esm", "rotary, token dropout, as ESM-2", {"position_embedding_type": "rotary", "token_dropout": True}),
    Variant("falcon", "ALiBi", {"alibi": True}),
    *_each("flaubert xlm", "causal", {"causal": True}),
    *_each("flaubert xlm", "sinusoidal positions", {"sinusoidal_embeddings": True}),
    Variant("funnel", "factorized attention", {"attention_type": "factorized"}),
    *_each("gemma gemma2", "bidirectional", {"use_bidirectional_attention": True}),
    Variant(
        "gemma3_text", "bidirectional", {"use_bidirectional_attention": True, "sliding_window": 15}
    ),  # it halves it
    Variant("gemma4_text", "bidirectional", {"use_bidirectional_attention": "all", "sliding_window": 15}),
    Variant(
        "gemma4_text",
        "experts",
        {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64},
    ),
    Variant(
        "gemma4_text",
        "shared keys and values",
        {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2},
    ),
    Variant("glm_moe_dsa", "shared indexer", {"indexer_types": ["full", "shared"]}),
    Variant("granitemoehybrid", "rotary positions", {"position_embedding_type": "rope"}),
    Variant("gpt_neo", "global attention", {"attention_types": [[["global"], 2]]}),
    Variant("longt5", "transient-global", {"encoder_attention_type": "transient-global"}),
    Variant(
        "mistral_large4_text",
        "shared indexer",
        {"indexer_types": ["full", "shared", "shared"], "kv_source_layers": [0, 0, 2]},
    ),
    Variant("minimax", "full attention", {"layer_types": ["full_attention", "full_attention"]}),
    Variant("mistral", "full attention", {"sliding_window": None}),
    Variant("mpt", "learned positions", {"attn_config": {"alibi": False}}),
    Variant(
        "qwen4_exp_text",
        "n-grams",
        {"ple_layer_ids": [1], "ngram_vocab_size_base": 50, "split_ngram_parts": 1, "eos_token_id": 5},
    ),
    Variant("reformer", "local attention", {"attn_layers": ["local", "local"]}),
    Variant("reformer", "LSH attention", {"attn_layers": ["lsh", "lsh"]}),
    Variant("reformer", "learned positions", {"axial_pos_embds": False}),
    Variant("nllb-moe", "capacity a quarter", {"moe_eval_capacity_token_fraction": 0.25}),
    Variant("switch_transformers", "router_ignore_padding_tokens", {"router_ignore_padding_tokens": True}),
    Variant("xlnet", "unidirectional", {"attn_type": "uni"}),
    Variant("zamba2", "rotary positions", {"use_mem_rope": True}),
    Variant(
        "zaya",
        "sliding window",
        {"sliding_window": 8, "layer_types": ["hybrid", "hybrid_sliding"]},
    ),
    *_each(
        "llama mistral qwen2 gemma falcon gpt_neox cohere internlm3 nomic_bert gte eurobert", "dynamic rope", _DYNAMIC
    ),
    *_each("hunyuan_v1_dense hunyuan_v1_moe", "dynamic rope, fixed", _rope("dynamic", 16, factor=1.0, alpha=1000.0)),
    *_each("llama phi3 minicpm3", "long rope", _LONG),
    Variant("phi3", "long rope, sliding window", _LONG | _WINDOW),
    Variant("phimoe", "long rope", _merged(_LONG, {"rope_parameters": {"short_mscale": 1.1, "long_mscale": 1.2}})),
    *_each("llama qwen2 qwen3 deepseek_v2 deepseek_v3 deepseek_v32", "yarn", _YARN),
    *_each("llama exaone4", "llama3 rope", _LLAMA3),
    Variant("llama", "linear rope", _LINEAR),
    *_each(
        "qwen2 qwen2_moe qwen3 qwen3_moe mixtral starcoder2 phi3 phimoe doge ministral3 qwen2_vl_text",
        "sliding window",
        _WINDOW,
    ),
    *_each("dots1 mellum smollm3", "sliding window", _WINDOW),
)


def every_variant() -> tuple[Variant, ...]:
    """All architectures that AutoModel knows, each as it comes, then the variants."""
    return (*(Variant(name) for name in MODEL_MAPPING_NAMES), *VARIANTS)
