"""LongRoPE picks short or long factors for the whole batch by its padded width; the ablation stops pads' positions.

`longrope_frequency_update` (modeling_rope_utils.py): ``seq_len = torch.max(position_ids) + 1``, and it is
``torch.where(seq_len > original_max_position_embeddings, long_inv_freq, original_inv_freq)``: pads, or a longer text in
the batch, carry a short text over the threshold. Two sets of frequencies are the method's design; that pads count as
length is a bug. The same in every model that takes ``rope_type="longrope"`` (Phi-3, Phi-MoE, MiniCPM3, Llama ...).
"""

import torch
from transformers import LlamaConfig, LlamaModel

LENGTH, PADS = 13, 20


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
            "short_factor": [1.0 + 0.1 * n for n in range(8)], "long_factor": [2.0 + n for n in range(8)]}  # fmt: skip
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rope_parameters=rope,
    )  # fmt: skip
    model = LlamaModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    ids, mask = (torch.nn.functional.pad(each, (0, PADS)) for each in (ids, mask))
    positions = torch.arange(LENGTH + PADS)[None]  # what the model takes by itself
    if ablated:
        positions = positions.clamp(max=LENGTH - 1)
    padded = model(input_ids=ids, attention_mask=mask, position_ids=positions)[0][:, :LENGTH]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with pads' positions held by {measure(True):.1e}")
