"""Dynamic rope keeps the frequencies of the longest call so far; the ablation makes it forget them before each call.

`dynamic_frequency_update` (modeling_rope_utils.py) computes frequencies ``if seq_len > max_seq_len_cached`` alone and
goes back only ``if seq_len < self.original_max_seq_len``: a text past the original length, or just as long, is read
with those of the longest call before it. A bug: it is caching, and the cached value is not that of this call. (While a
text is generated it keeps keys consistent; between texts there is nothing to keep.)
"""

import torch
from transformers import LlamaConfig, LlamaModel


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of a text move by the reading of a longer one, over their root mean square."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    )  # fmt: skip
    model = LlamaModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    text, longer = torch.randint(10, 96, (1, 24)), torch.randint(10, 96, (1, 48))
    before = model(input_ids=text, attention_mask=torch.ones_like(text))[0]
    model(input_ids=longer, attention_mask=torch.ones_like(longer))
    if ablated:
        model.rotary_emb.max_seq_len_cached = 0
    after = model(input_ids=text, attention_mask=torch.ones_like(text))[0]
    return float((before - after).abs().max() / before.square().mean().sqrt())


if __name__ == "__main__":
    print(f"a longer text moves a later one by {measure(False):.1e}, where it is forgotten by {measure(True):.1e}")
