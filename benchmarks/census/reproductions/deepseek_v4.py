"""DeepSeek-V4 compresses pads on the left into the keys of real tokens; the ablation compresses only real tokens.

`DeepseekV4HCACompressor.forward`, `DeepseekV4CSACompressor.forward` and `DeepseekV4Indexer.forward`
(modeling_deepseek_v4.py) get no attention mask: ``chunk_kv = kv[:, :usable]`` cuts windows from the first column, pads
included, and the columns that `DeepseekV4Attention.forward` adds to the mask (``torch.cat([attention_mask,
block_bias])``) hide none of them. A bug: the mask is applied to the keys of tokens and not to the compressed keys.
Positions count from the first real token here, to exclude other causes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers import DeepseekV4Config, DeepseekV4Model

from benchmarks.census.reproduction import VOCABULARY, build, counted_positions, draw_text, padding_shift

LENGTH, PADS = 35, 13


def compress_text(forward: Callable[..., Any], states: Tensor, query: Tensor, positions: Tensor, *rest: Any) -> Any:
    """Compress without the pads, whose queries then see no compressed key."""
    keys, bias = forward(states[:, PADS:], query[:, PADS:], positions[:, PADS:], *rest)
    return keys, pad(bias, (0, 0, PADS, 0), value=float("-inf"))


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under left padding."""
    config = DeepseekV4Config(
        vocab_size=VOCABULARY, hidden_size=64, moe_intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        head_dim=16, q_lora_rank=16, o_lora_rank=16, o_groups=2, index_n_heads=4, index_head_dim=16, index_topk=2,
        n_routed_experts=8, num_experts_per_tok=2, sliding_window=8, max_position_embeddings=512,
        layer_types=["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"],
        mlp_layer_types=["hash_moe", "moe", "moe"],
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    )  # fmt: skip
    model = build(DeepseekV4Model, config)

    def ablate() -> None:
        for layer in model.layers:
            if layer.self_attn.compressor is not None:
                layer.self_attn.compressor.forward = partial(compress_text, layer.self_attn.compressor.forward)

    positions = {"position_ids": counted_positions(LENGTH, PADS)}
    return padding_shift(
        model, draw_text(LENGTH), left=PADS, ablate=ablate if ablated else None, padded=positions,
    )  # fmt: skip


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with pads kept out of windows {measure(True):.1e}")
