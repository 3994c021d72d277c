"""Dynamic rope scales every text's frequencies by the padded width; the ablation tells pads positions of real tokens.

`dynamic_frequency_update` (modeling_rope_utils.py): ``seq_len = torch.max(position_ids) + 1``, over all columns of the
batch, pads too. Past ``max_position_embeddings`` the base grows with it, for every row. A bug where texts are padded:
the mask is at hand in the model, and the longest text of the batch should count, if not each text for itself. The same
in every model whose rotary embedding carries the decorator `dynamic_rope_update` (Llama, Mistral, Qwen2, NomicBERT).
"""

import torch
from transformers import LlamaConfig, LlamaModel

LENGTH, PADS = 13, 20


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
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
