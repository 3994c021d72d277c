"""Doge keeps keys by a top-k whose ties fall by the padded width, and repeated tokens tie; the ablation breaks them.

`DogeAttention.prepare_dynamic_mask` (modeling_doge.py): ``torch.topk(attn_mask, keep_window_size, dim=-1, largest=True,
sorted=False)`` chooses among scores made of the values alone, which in the first layer are those of the token's id: the
same token twice has the same score twice. Which of the two `torch.topk` takes is not specified and changes with the
number of columns, masked ones too. A bug of rounding's kind: rare, past ``keep_window_size`` tokens only, and cured by
any rule for ties. Without repeated ids nothing leaks.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DogeConfig, DogeModel

LENGTH, PADS = 35, 10


def earliest(scores: Tensor, k: int, **_: Any) -> Any:
    """The k largest; of equal ones those that come first."""
    values, indices = scores.sort(dim=-1, descending=True, stable=True)
    return torch.return_types.topk((values[..., :k], indices[..., :k]))


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = DogeConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, keep_window_size=8, max_position_embeddings=512,
    )  # fmt: skip
    model = DogeModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 30, (1, LENGTH)), torch.ones(1, LENGTH).long()
    with patch.object(torch, "topk", earliest if ablated else torch.topk):
        alone = model(input_ids=ids, attention_mask=mask)[0]
        ids, mask = (torch.nn.functional.pad(each, (0, PADS)) for each in (ids, mask))
        padded = model(input_ids=ids, attention_mask=mask)[0][:, :LENGTH]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with ties broken by order by {measure(True):.1e}")
