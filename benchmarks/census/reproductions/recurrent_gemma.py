"""RecurrentGemma runs convolution and recurrence through pads on the left; the ablation starts both at the real tokens.

`RecurrentGemmaRecurrentBlock.forward` (modeling_recurrent_gemma.py) takes an ``attention_mask`` and never reads it:
``self.conv_1d(x_branch)`` reaches the last three pads from the first real tokens, and `RecurrentGemmaRglru` carries its
state over from pads; it starts anew where ``position_ids == 0``, which by default is the first column. A bug: the mask
arrives and is dropped (Mamba's blocks zero pads with `apply_mask_to_padding_states`). Position ids that count real
tokens mend the recurrence alone.
"""

import torch
from torch import Tensor, nn
from transformers import RecurrentGemmaConfig, RecurrentGemmaModel

LENGTH, PADS = 35, 10


def zero_pads(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """What a convolution that is padded with zeros sees before its first token."""
    return torch.nn.functional.pad(output[:, PADS:], (0, 0, PADS, 0))


@torch.no_grad()
def moved(convolution: bool, recurrence: bool) -> float:
    """How far the states of real tokens move where one, both or neither start at the first real token."""
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, lru_width=64, attention_window_size=8,
    )  # fmt: skip
    model = RecurrentGemmaModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    ids, mask = (torch.nn.functional.pad(each, (PADS, 0)) for each in (ids, mask))
    for name, module in model.named_modules():
        if convolution and name.endswith("linear_x"):
            module.register_forward_hook(zero_pads)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0) if recurrence else None
    padded = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)[0][:, PADS:]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    return moved(convolution=ablated, recurrence=ablated)


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with both begun at the text by {measure(True):.1e}")
    print(f"with the convolution begun there {moved(True, False):.1e}, the recurrence {moved(False, True):.1e}")
