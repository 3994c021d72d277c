"""Mistral's eager attention makes a pad whose window holds only pads the mean of all columns; the ablation makes it 0.

`eager_attention_forward` (modeling_mistral.py): ``attn_weights = attn_weights + attention_mask``, and a row masked
throughout holds the dtype's minimum everywhere: its softmax is uniform over the width, whatever stands there. Real
tokens do not read it, so that it is by design as far as they go; but outputs at pads then depend on the number of pads,
and whoever pools them, or runs a batch once to cut shorter ones from it, sees it. It is the outputs at pads that are
compared here, with 20 pads and with 40. Under sdpa such rows are 0. The same in Gemma 3 and other sliding windows.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import MistralConfig, MistralModel
from transformers.models.mistral import modeling_mistral

LENGTH, PADS = 35, 20


def nothing_for_pads(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **more: Any) -> Any:
    """Zeros wherever the mask lets a query see nothing."""
    found, weights = EAGER(module, query, key, value, mask, **more)
    return found * (mask == 0).any(dim=-1).transpose(1, 2)[..., None], weights


EAGER = modeling_mistral.eager_attention_forward


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the outputs at pads move where twice as many follow, over the root mean square of real tokens."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = MistralModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    text, found = torch.randint(10, 96, (1, LENGTH)), []
    with patch.object(modeling_mistral, "eager_attention_forward", nothing_for_pads if ablated else EAGER):
        for pads in (PADS, 2 * PADS):
            ids, mask = (torch.nn.functional.pad(each, (0, pads)) for each in (text, torch.ones_like(text)))
            found.append(model(input_ids=ids, attention_mask=mask)[0][:, : LENGTH + PADS])
    one, two = found
    return float((one - two)[:, LENGTH:].abs().max() / one[:, :LENGTH].square().mean().sqrt())


if __name__ == "__main__":
    print(f"more pads move outputs at pads by {measure(False):.1e}, with zeros for masked rows by {measure(True):.1e}")
