"""DeepSeek-V4 compresses pads on the left into the keys of real tokens; the ablation compresses real tokens alone.

`DeepseekV4HCACompressor.forward`, `DeepseekV4CSACompressor.forward` and `DeepseekV4Indexer.forward`
(modeling_deepseek_v4.py) are given no attention mask: ``chunk_kv = kv[:, :usable]`` cuts windows from the first column
on, pads and all, and the columns that `DeepseekV4Attention.forward` adds to the mask (``torch.cat([attention_mask,
block_bias])``) hide none of them. A bug: the mask is applied to the keys of tokens and not to those made from them.
Positions are counted from the first real token here, so that nothing else is left to differ.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DeepseekV4Config, DeepseekV4Model

PADS = 13


def real_alone(forward: Callable[..., Any], states: Tensor, query: Tensor, positions: Tensor, *rest: Any) -> Any:
    """Compress without the pads; their own queries then see no compressed key."""
    keys, bias = forward(states[:, PADS:], query[:, PADS:], positions[:, PADS:], *rest)
    return keys, torch.nn.functional.pad(bias, (0, 0, PADS, 0), value=float("-inf"))


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = DeepseekV4Config(
        vocab_size=96, hidden_size=64, moe_intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        head_dim=16, q_lora_rank=16, o_lora_rank=16, o_groups=2, index_n_heads=4, index_head_dim=16, index_topk=2,
        n_routed_experts=8, num_experts_per_tok=2, sliding_window=8, max_position_embeddings=512,
        layer_types=["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"],
        mlp_layer_types=["hash_moe", "moe", "moe"],
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    )  # fmt: skip
    model = DeepseekV4Model(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, 35)), torch.ones(1, 35).long()
    alone = model(input_ids=ids, attention_mask=mask, position_ids=torch.arange(35)[None])[0]
    for layer in model.layers:
        if ablated and layer.self_attn.compressor is not None:
            layer.self_attn.compressor.forward = partial(real_alone, layer.self_attn.compressor.forward)
    ids, mask = (torch.nn.functional.pad(each, (PADS, 0)) for each in (ids, mask))
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    padded = model(input_ids=ids, attention_mask=mask, position_ids=positions)[0][:, PADS:]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with pads kept out of windows {measure(True):.1e}")
