"""YOSO: its attention turns the mask into ones everywhere; given the mask that it expects, nothing leaks.

models/yoso/modeling_yoso.py of transformers 5.23.0, line 356: ``attention_mask = 1.0 + attention_mask / 10000.0``, then
``.int()``, undoes an additive mask of 0 and -10000. But ``YosoModel.forward`` (line 684) hands on the mask of ones and
zeros that it was given, which becomes 1.0001 and 1.0, both 1: pads are attended to like any token. A bug. The ablation
gives each attention the additive mask.
"""

from typing import Any

import torch
from transformers import YosoConfig, YosoModel

LENGTH, PADS, PAD = 9, 6, 1


def additive(module: Any, inputs: tuple[torch.Tensor, torch.Tensor, bool]) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """The arguments of an attention, with the mask as that expects it."""
    hidden_states, mask, output_attentions = inputs
    return hidden_states, (mask - 1.0) * 10000.0, output_attentions


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = YosoConfig(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    torch.manual_seed(0)
    model: Any = YosoModel(config)
    model.eval()
    for layer in model.encoder.layer if ablated else ():
        layer.attention.self.register_forward_pre_hook(additive)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)  # norm weights are not one, the pad's row is not zero
        ids, pads = torch.randint(10, 96, (1, LENGTH)), torch.tensor([[PAD] * PADS])
        mask = torch.tensor([[1] * LENGTH + [0] * PADS])
        alone = model(ids, attention_mask=mask[:, :LENGTH]).last_hidden_state
        padded = model(torch.cat([ids, pads], dim=1), attention_mask=mask).last_hidden_state[:, :LENGTH]
    return float((padded - alone).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with an additive mask by {measure(True):.1e}")
