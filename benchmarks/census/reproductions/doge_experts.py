"""Doge's experts mix the router's numbers of all tokens of a batch, pads too; the ablation gives each token its own.

`DogeCDMoE.forward` (modeling_doge.py): ``self.router_gate(hidden_states).view(2, bsz * seq_len, -1)`` cuts the numbers
of all tokens, laid end to end, in two halves, where each token's own should be: token n is routed by those of tokens n
/ 2 and (N + n) / 2. A bug, and one that transformers knows and keeps (its comment: "this split mixes router logits
across tokens", "kept as-is so existing checkpoints give the same outputs"). Pads, the width and other texts all reach
real tokens.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import DogeConfig, DogeModel

LENGTH, PADS = 35, 10


def own(forward: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """Lay the numbers out so that the cut gives each token its own."""
    return torch.stack(forward(states).chunk(2, dim=-1))


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = DogeConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, is_moe=True, num_experts=16, num_experts_per_tok=2, max_position_embeddings=512,
    )  # fmt: skip
    model = DogeModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    for layer in model.layers:
        if ablated:
            layer.mlp.router_gate.forward = partial(own, layer.mlp.router_gate.forward)
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    ids, mask = (torch.nn.functional.pad(each, (0, PADS)) for each in (ids, mask))
    padded = model(input_ids=ids, attention_mask=mask)[0][:, :LENGTH]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, each routed by its own by {measure(True):.1e}")
