"""BigBird turns to full attention for ever once it has read a short text; the ablation turns it back.

`BigBirdModel.forward` (modeling_big_bird.py): ``if self.attention_type == "block_sparse" and seq_length <=
max_tokens_to_attend: self.set_attention_type("original_full")``, which replaces the attention modules of every layer;
nothing sets them back. BigBirdPegasusEncoder does the same. A bug: what a long text becomes depends on whether a short
one was read before it, in evaluation as well.
"""

import torch
from transformers import BigBirdConfig, BigBirdModel


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of a long text move by the reading of a short one, over their root mean square."""
    torch.manual_seed(0)
    config = BigBirdConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, block_size=8, num_random_blocks=1, attention_type="block_sparse",
    )  # fmt: skip
    model = BigBirdModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    long, short = torch.randint(10, 96, (1, 115)), torch.randint(10, 96, (1, 20))
    before = model(input_ids=long, attention_mask=torch.ones_like(long))[0]
    model(input_ids=short, attention_mask=torch.ones_like(short))
    if ablated:
        model.set_attention_type("block_sparse")
    after = model(input_ids=long, attention_mask=torch.ones_like(long))[0]
    return float((before - after).abs().max() / before.square().mean().sqrt())


if __name__ == "__main__":
    print(f"a short text moves a later long one by {measure(False):.1e}, with the type set back by {measure(True):.1e}")
