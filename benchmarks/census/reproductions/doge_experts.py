"""Doge's experts mix the router logits of all tokens of a batch, pads included; the ablation gives each token its own.

`DogeCDMoE.forward` (modeling_doge.py): ``self.router_gate(hidden_states).view(2, bsz * seq_len, -1)`` cuts the logits
of all tokens, laid end to end, in two halves: token n is routed by those of tokens n / 2 and (N + n) / 2 instead of its
own. A bug that transformers knows and keeps (its comment: "this split mixes router logits across tokens", "kept
as-is so existing checkpoints give the same outputs"). Pads, the width and other texts all reach real tokens.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import DogeConfig, DogeModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 35, 10


def own_logits(forward: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """Arrange the logits for the cut to give each token its own."""
    return torch.stack(forward(states).chunk(2, dim=-1))


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = DogeConfig(
        **SIZES, vocab_size=VOCABULARY, num_key_value_heads=4, is_moe=True, num_experts=16, num_experts_per_tok=2,
        max_position_embeddings=512,
    )  # fmt: skip
    model = build(DogeModel, config)
    for layer in model.layers if ablated else ():
        layer.mlp.router_gate.forward = partial(own_logits, layer.mlp.router_gate.forward)
    return padding_shift(model, draw_text(LENGTH), right=PADS)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, each with its own logits by {measure(True):.1e}")
