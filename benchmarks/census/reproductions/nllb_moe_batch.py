"""NLLB-MoE lets the texts of a batch compete for places at an expert; the ablation routes each text separately.

`NllbMoeSparseMLP.forward` (modeling_nllb_moe.py): ``hidden_states.view(-1, hidden_dim)`` goes to the router, where
``torch.cumsum(top_1_mask, dim=0)`` and ``torch.sum(top_1_mask, dim=0)`` count over the whole batch: once an expert is
full, tokens of later texts (and the second choices of all) are dropped. By design, as in fairseq, but it couples texts;
by default ``moe_eval_capacity_token_fraction`` is 1 and nothing is dropped. Here it is off and ``expert_capacity``
decides; no text is padded.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import NllbMoeConfig, NllbMoeModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, states_of
from maskpool.audit.states import relative


def route_separately(forward: Callable[[Tensor], Tensor], states: Tensor, mask: Tensor | None) -> Tensor:
    """Run the experts on one text after the other."""
    return torch.cat([forward(row) for row in states[:, None]])


def measure(ablated: bool) -> float:
    """Return the shift of a text next to another of the same length."""
    config = NllbMoeConfig(
        vocab_size=VOCABULARY, d_model=64, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=160, decoder_ffn_dim=160,
        encoder_attention_heads=4, decoder_attention_heads=4, num_experts=8, encoder_sparse_step=2,
        max_position_embeddings=512, moe_eval_capacity_token_fraction=-1.0, expert_capacity=4,
    )  # fmt: skip
    model = build(NllbMoeModel, config, "encoder")
    text, companion = draw_text(2 * 35).reshape(2, 1, 35)
    alone = states_of(model, text)
    if ablated:
        model.layers[1].ffn.forward = partial(route_separately, model.layers[1].ffn.forward)
    return relative(alone, states_of(model, torch.cat([companion, text]))[1:])


if __name__ == "__main__":
    print(f"another text moves this one by {measure(False):.1e}, with each routed separately by {measure(True):.1e}")
