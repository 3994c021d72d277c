"""Dynamic rope scales the frequencies of every text by the padded width; the ablation stops the positions of pads.

`dynamic_frequency_update` (modeling_rope_utils.py): ``seq_len = torch.max(position_ids) + 1`` over all columns of the
batch, pads included. Past ``max_position_embeddings`` the base grows with it, for every row. A bug in padded batches:
the model has the mask, and should count the longest text of the batch, if not each text for itself. The same in every
model whose rotary embedding has the decorator `dynamic_rope_update` (Llama, Mistral, Qwen2, NomicBERT).
"""

import torch
from transformers import LlamaConfig, LlamaModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 13, 20


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = LlamaConfig(
        **SIZES, vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    )  # fmt: skip
    positions = torch.arange(LENGTH + PADS)[None]  # the model's default
    if ablated:
        positions = positions.clamp(max=LENGTH - 1)
    model = build(LlamaModel, config)
    return padding_shift(model, draw_text(LENGTH), right=PADS, padded={"position_ids": positions})


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with pads' positions held by {measure(True):.1e}")
