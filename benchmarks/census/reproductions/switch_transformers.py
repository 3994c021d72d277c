"""Switch Transformers lets pads on the left take the experts' places; the ablation gives pads no expert.

`SwitchTransformersTop1Router.forward` (modeling_switch_transformers.py): ``token_priority = torch.cumsum(expert_index,
dim=-2)`` and ``expert_capacity_mask = token_priority <= self.expert_capacity`` count every column of a row, pads too;
real tokens behind them find the expert full and are dropped. A bug: ``self.ignore_padding_tokens`` is stored and never
read, and the router gets no mask. An expert's capacity is 64 a row by default, so that texts of tests do not show it.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import SwitchTransformersConfig, SwitchTransformersEncoderModel

LENGTH, PADS = 35, 10


def without_pads(forward: Callable[..., tuple[Tensor, ...]], states: Tensor) -> list[Tensor]:
    """Route real tokens alone; pads get no expert."""
    return [torch.nn.functional.pad(each, (0, 0, PADS, 0)) for each in forward(states[:, PADS:])]


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = SwitchTransformersConfig(
        vocab_size=96, d_model=64, d_kv=16, d_ff=160, num_layers=2, num_heads=4, num_experts=8, expert_capacity=4,
        num_sparse_encoder_layers=1,
    )  # fmt: skip
    model = SwitchTransformersEncoderModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    for name, module in model.named_modules():
        if ablated and name.endswith("mlp.router"):
            module.forward = partial(without_pads, module.forward)
    ids, mask = (torch.nn.functional.pad(each, (PADS, 0)) for each in (ids, mask))
    padded = model(input_ids=ids, attention_mask=mask)[0][:, PADS:]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with no expert for pads by {measure(True):.1e}")
