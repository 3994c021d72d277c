"""MobileBERT: a token's embedding takes in its neighbours' (trigram_input), pads included; without it, nothing leaks.

models/mobilebert/modeling_mobilebert.py of transformers 5.23.0, lines 113-126: the next and the previous token's word
embeddings stand beside each token's own, and no mask is applied. The last real token thus reads the pad's embedding,
where a text without pads reads zeros; attention, which is masked, carries that on to all tokens. By design: the first
implementation (google-research/mobilebert) does the same. The ablation switches it off; setting the pad's row of the
word embeddings to zero helps as well.
"""

from typing import Any

import torch
from transformers import MobileBertConfig, MobileBertModel

LENGTH, PADS, PAD = 9, 6, 0


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = MobileBertConfig(
        vocab_size=96,
        hidden_size=32,
        embedding_size=16,
        intra_bottleneck_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        trigram_input=not ablated,
    )
    torch.manual_seed(0)
    model: Any = MobileBertModel(config)
    model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)  # norm weights are not one, the pad's row is not zero
        ids, pads = torch.randint(10, 96, (1, LENGTH)), torch.tensor([[PAD] * PADS])
        mask = torch.tensor([[1] * LENGTH + [0] * PADS])
        alone = model(ids, attention_mask=mask[:, :LENGTH]).last_hidden_state
        padded = model(torch.cat([ids, pads], dim=1), attention_mask=mask).last_hidden_state[:, :LENGTH]
    return float((padded - alone).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, without trigram_input by {measure(True):.1e}")
