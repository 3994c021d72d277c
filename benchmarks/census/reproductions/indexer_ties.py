"""DeepSeek-V3.2's indexer, with few heads, scores keys exactly 0 and top-k picks by column; the ablation breaks ties.

`DeepseekV32Indexer.forward` (modeling_deepseek_v32.py): ``scores = F.relu(scores)`` and then
``index_scores.topk(topk)``: a key that no head prefers scores 0, and which of several zeros `torch.topk` takes is not
specified and changes with the number and place of the columns. With 4 heads, as here, this happens to one key in
sixteen; with the 64 of the released model it does not happen by chance, and nothing leaks. The same in GLM-MoE-DSA,
dots3 and Mistral Large 4. Positions count from the first real token here, to exclude other causes.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DeepseekV32Config, DeepseekV32Model

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, counted_positions, draw_text, padding_shift

LENGTH, PADS, HEADS = 35, 18, 4


def stable_topk(scores: Tensor, k: int, dim: int = -1, **_: Any) -> Any:
    """Return the k largest; of equal ones, the first."""
    values, indices = scores.sort(dim=dim, descending=True, stable=True)
    return torch.return_types.topk((values.narrow(dim, 0, k), indices.narrow(dim, 0, k)))


def shift(heads: int, stable: bool) -> float:
    """Return the shift of real tokens under left padding, by heads of the indexer and rule for ties."""
    config = DeepseekV32Config(
        **SIZES, vocab_size=VOCABULARY, moe_intermediate_size=160, num_key_value_heads=4, n_routed_experts=8,
        num_experts_per_tok=2, n_group=1, topk_group=1, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=16,
        qk_nope_head_dim=16, v_head_dim=16, index_topk=8, index_head_dim=16, index_n_heads=heads,
        first_k_dense_replace=1, max_position_embeddings=512,
    )  # fmt: skip
    model = build(DeepseekV32Model, config)
    positions = {"position_ids": counted_positions(LENGTH, PADS)}
    with patch.object(Tensor, "topk", stable_topk if stable else Tensor.topk):
        return padding_shift(model, draw_text(LENGTH), left=PADS, padded=positions)


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under left padding."""
    return shift(HEADS, stable=ablated)


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with ties broken by order by {measure(True):.1e}")
    print(f"with 64 heads and without a rule for ties by {shift(64, stable=False):.1e}")
