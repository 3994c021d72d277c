"""DeepSeek-V3.2's indexer, given few heads, scores keys exactly 0 and top-k picks by place; the ablation breaks ties.

`DeepseekV32Indexer.forward` (modeling_deepseek_v32.py): ``scores = F.relu(scores)`` and then
``index_scores.topk(topk)``: a key that no head likes scores 0, and which of several zeros `torch.topk` takes is not
specified and changes with the number and the place of the columns. With 4 heads, as here, it is one key in sixteen;
with the 64 that the model has it does not happen by chance, and nothing leaks: a matter of small models. The same in
GLM-MoE-DSA, dots3 and Mistral Large 4. Positions are counted from the first real token here, so that nothing else is
left to differ.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DeepseekV32Config, DeepseekV32Model

LENGTH, PADS, HEADS = 35, 18, 4


def earliest(scores: Tensor, k: int, dim: int = -1, **_: Any) -> Any:
    """The k largest; of equal ones those that come first."""
    values, indices = scores.sort(dim=dim, descending=True, stable=True)
    return torch.return_types.topk((values.narrow(dim, 0, k), indices.narrow(dim, 0, k)))


@torch.no_grad()
def moved(heads: int, stable: bool) -> float:
    """How far the states of real tokens move, with so many heads of the indexer and ties broken by order or not."""
    torch.manual_seed(0)
    config = DeepseekV32Config(
        vocab_size=96, hidden_size=64, intermediate_size=160, moe_intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=2, n_group=1,
        topk_group=1, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16,
        index_topk=8, index_head_dim=16, index_n_heads=heads, first_k_dense_replace=1, max_position_embeddings=512,
    )  # fmt: skip
    model = DeepseekV32Model(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    with patch.object(Tensor, "topk", earliest if stable else Tensor.topk):
        alone = model(input_ids=ids, attention_mask=mask)[0]
        ids, mask = (torch.nn.functional.pad(each, (PADS, 0)) for each in (ids, mask))
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        padded = model(input_ids=ids, attention_mask=mask, position_ids=positions)[0][:, PADS:]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    return moved(HEADS, stable=ablated)


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with ties broken by order by {measure(True):.1e}")
    print(f"with 64 heads and ties as they fall by {moved(64, stable=False):.1e}")
