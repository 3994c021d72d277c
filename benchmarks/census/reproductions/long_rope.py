"""LongRoPE selects short or long factors for the whole batch by its padded width; the ablation stops pads' positions.

`longrope_frequency_update` (modeling_rope_utils.py): ``seq_len = torch.max(position_ids) + 1``, and then
``torch.where(seq_len > original_max_position_embeddings, long_inv_freq, original_inv_freq)``: pads, or a longer text in
the batch, carry a short text over the threshold. Two sets of frequencies are the method's design; that pads count as
length is a bug. The same in every model with ``rope_type="longrope"`` (Phi-3, Phi-MoE, MiniCPM3, Llama ...).
"""

import torch
from transformers import LlamaConfig, LlamaModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 13, 20


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
            "short_factor": [1.0 + 0.1 * n for n in range(8)], "long_factor": [2.0 + n for n in range(8)]}  # fmt: skip
    config = LlamaConfig(
        **SIZES, vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=64, rope_parameters=rope
    )
    positions = torch.arange(LENGTH + PADS)[None]  # the model's default
    if ablated:
        positions = positions.clamp(max=LENGTH - 1)
    model = build(LlamaModel, config)
    return padding_shift(model, draw_text(LENGTH), right=PADS, padded={"position_ids": positions})


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with pads' positions held by {measure(True):.1e}")
