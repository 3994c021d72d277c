"""NLLB-MoE lets the texts of a batch compete for places at an expert; the ablation routes each text by itself.

`NllbMoeSparseMLP.forward` (modeling_nllb_moe.py): ``hidden_states.view(-1, hidden_dim)`` goes to the router, whose
``torch.cumsum(top_1_mask, dim=0)`` and ``torch.sum(top_1_mask, dim=0)`` then count over the whole batch: once an expert
is full, tokens of later texts (and the second choices of all) are dropped. By design, as in fairseq, and a coupling of
texts all the same; by default ``moe_eval_capacity_token_fraction`` is 1 and nothing is dropped. Here it is off and the
``expert_capacity`` decides; no text is padded.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import NllbMoeConfig, NllbMoeModel


def one_by_one(forward: Callable[[Tensor], Tensor], states: Tensor, mask: Tensor | None) -> Tensor:
    """Each text has the experts to itself."""
    return torch.cat([forward(row) for row in states[:, None]])


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of a text move by another of the same length, over their root mean square."""
    torch.manual_seed(0)
    config = NllbMoeConfig(
        vocab_size=96, d_model=64, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=160, decoder_ffn_dim=160,
        encoder_attention_heads=4, decoder_attention_heads=4, num_experts=8, encoder_sparse_step=2,
        max_position_embeddings=512, moe_eval_capacity_token_fraction=-1.0, expert_capacity=4,
    )  # fmt: skip
    model = NllbMoeModel(config).encoder.train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    text, other = torch.randint(10, 96, (2, 1, 35))
    alone = model(input_ids=text, attention_mask=torch.ones_like(text))[0]
    if ablated:
        model.layers[1].ffn.forward = partial(one_by_one, model.layers[1].ffn.forward)
    both = torch.cat([other, text])
    beside = model(input_ids=both, attention_mask=torch.ones_like(both))[0][1:]
    return float((alone - beside).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"another text moves this one by {measure(False):.1e}, where each is routed by itself by {measure(True):.1e}")
