"""RWKV ignores the attention mask and carries pads on the left along; the ablation keeps them out of its two memories.

`RwkvModel.forward` (modeling_rwkv.py): ``"`attention_mask` was passed, but it is unused in this model."`` What reaches
real tokens are ``self.time_shift(hidden)`` (the column before, in both halves of a block) and the weighted sums of
`rwkv_linear_attention`. By design, and said so, once, in a warning: pad RWKV on the right.
"""

import torch
from torch import Tensor, nn
from transformers import RwkvConfig, RwkvModel

LENGTH, PADS = 35, 10


def nothing(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Zeros at pads, which is what a shift finds before the first token."""
    return torch.nn.functional.pad(output[:, PADS:], (0, 0, PADS, 0))


def no_weight(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Keys whose exponential is 0 at pads."""
    return torch.nn.functional.pad(output[:, PADS:], (0, 0, PADS, 0), value=-1e30)


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=96, context_length=512, hidden_size=64, intermediate_size=160, num_hidden_layers=2)
    model = RwkvModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    for block in model.blocks:
        if ablated:
            block.ln1.register_forward_hook(nothing)
            block.ln2.register_forward_hook(nothing)
            block.attention.key.register_forward_hook(no_weight)
    ids, mask = (torch.nn.functional.pad(each, (PADS, 0)) for each in (ids, mask))
    padded = model(input_ids=ids, attention_mask=mask)[0][:, PADS:]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with pads kept out by {measure(True):.1e}")
