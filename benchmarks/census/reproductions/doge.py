"""Doge selects keys by a top-k whose ties depend on the padded width; the ablation breaks ties by order.

`DogeAttention.prepare_dynamic_mask` (modeling_doge.py): ``torch.topk(attn_mask, keep_window_size, dim=-1, largest=True,
sorted=False)`` chooses by scores that depend only on the values, which in the first layer depend only on the token's
id: repeated tokens tie. Which of them `torch.topk` takes is not specified and changes with the number of columns,
masked ones included. A bug like rounding: rare, only past ``keep_window_size`` tokens, and cured by any rule for ties.
Without repeated ids nothing leaks.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DogeConfig, DogeModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 35, 10


def stable_topk(scores: Tensor, k: int, **_: Any) -> Any:
    """Return the k largest; of equal ones, the first."""
    values, indices = scores.sort(dim=-1, descending=True, stable=True)
    return torch.return_types.topk((values[..., :k], indices[..., :k]))


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = DogeConfig(
        **SIZES, vocab_size=VOCABULARY, num_key_value_heads=4, keep_window_size=8, max_position_embeddings=512
    )
    model = build(DogeModel, config)
    repeated = draw_text(LENGTH, vocabulary=30)
    with patch.object(torch, "topk", stable_topk if ablated else torch.topk):
        return padding_shift(model, repeated, right=PADS)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with ties broken by order by {measure(True):.1e}")
