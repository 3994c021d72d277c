"""Mistral's eager attention makes a pad with only pads in its window the mean of all columns; the ablation makes it 0.

`eager_attention_forward` (modeling_mistral.py): ``attn_weights = attn_weights + attention_mask``. A fully masked row
holds the minimum of the dtype everywhere, and its softmax is uniform over the width. Real tokens do not read it, which
is by design; but outputs at pads then depend on the number of pads, and whoever pools them, or cuts shorter batches
from one longer run, sees it. This script compares outputs at pads, with 20 pads and with 40. Under sdpa such rows are
0. The same in Gemma 3 and other models with sliding windows.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import MistralConfig, MistralModel
from transformers.models.mistral import modeling_mistral

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, states_of

LENGTH, PADS = 35, 20
EAGER = modeling_mistral.eager_attention_forward


def zero_masked_rows(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **more: Any) -> Any:
    """Set the context of queries that see nothing to zero."""
    context, weights = EAGER(module, query, key, value, mask, **more)
    return context * (mask == 0).any(dim=-1).transpose(1, 2)[..., None], weights


def measure(ablated: bool) -> float:
    """Return the shift of outputs at pads when twice as many follow, over the root mean square of real tokens."""
    config = MistralConfig(**SIZES, vocab_size=VOCABULARY, num_key_value_heads=2, sliding_window=8)
    config._attn_implementation = "eager"
    model = build(MistralModel, config)
    ids = draw_text(LENGTH)
    with patch.object(modeling_mistral, "eager_attention_forward", zero_masked_rows if ablated else EAGER):
        few, many = (
            states_of(model, pad(ids, (0, pads)), pad(torch.ones_like(ids), (0, pads)))[:, : LENGTH + PADS]
            for pads in (PADS, 2 * PADS)
        )
    return float((few - many)[:, LENGTH:].abs().max() / few[:, :LENGTH].square().mean().sqrt())


if __name__ == "__main__":
    print(f"more pads move outputs at pads by {measure(False):.1e}, with zeros for masked rows by {measure(True):.1e}")
