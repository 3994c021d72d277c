"""Llama 4 scales queries by their column instead of their position, pads counted; the ablation turns the scaling off.

`Llama4TextAttention.forward` (modeling_llama4.py), in layers without rope: ``attn_scales =
torch.log1p(torch.floor((positions.float() + 1.0) / self.floor_scale)) * self.attn_scale + 1.0`` with ``positions`` made
by `torch.arange` over the columns. A bug: ``position_ids``, which left padding needs and which are passed here, are not
read, though the chunks of the mask do begin at the first real token. By default ``floor_scale`` is 8192: text and pads
shorter than that do not show it.
"""

import torch
from transformers import Llama4TextConfig, Llama4TextModel

LENGTH, PADS = 35, 10


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = Llama4TextConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, intermediate_size_mlp=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=4, attention_chunk_size=8,
        max_position_embeddings=512, floor_scale=8, attn_temperature_tuning=not ablated, no_rope_layers=[1, 0],
    )  # fmt: skip
    model = Llama4TextModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    ids, mask = (torch.nn.functional.pad(each, (PADS, 0)) for each in (ids, mask))
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    padded = model(input_ids=ids, attention_mask=mask, position_ids=positions)[0][:, PADS:]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with no scaling by {measure(True):.1e}")
