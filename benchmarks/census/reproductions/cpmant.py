"""CPM-Ant: it takes no mask and looks for the text at the right end; with a mask of where it stands, nothing leaks.

models/cpmant/modeling_cpmant.py of transformers 5.23.0: ``CpmAntModel.forward`` has no ``attention_mask`` and drops one
in ``**kwargs``; ``length = (segment != 0).sum(-1)`` (line 606) counts the ids that are not 0, and
``_prepare_attention_mask`` (lines 565-571, "mask for left padding") opens that many positions at the end. Pads on the
right are attended to, and real tokens at the beginning are not. By design for pads on the left, whose id must be 0;
undocumented elsewhere. The ablation makes the mask of the text itself.
"""

from typing import Any
from unittest import mock

import torch
from transformers import CpmAntConfig, CpmAntModel

LENGTH, PADS, PAD, PROMPT = 9, 6, 0, 4


def text_mask(model: Any, ids: torch.Tensor, span: Any, context: Any, length: Any) -> torch.Tensor:
    """Which token attends to which: those of the prompt and the text to one another, pads to none."""
    real = (torch.arange(ids.shape[1]) < PROMPT + LENGTH)[None]
    return real[:, :, None] & real[:, None, :]


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = CpmAntConfig(
        vocab_size=96,
        hidden_size=32,
        dim_ff=64,
        dim_head=8,
        num_attention_heads=4,
        num_hidden_layers=2,
        prompt_length=PROMPT,
    )
    torch.manual_seed(0)
    model: Any = CpmAntModel(config)
    model.eval()
    made = text_mask if ablated else CpmAntModel._prepare_attention_mask
    with torch.no_grad(), mock.patch.object(CpmAntModel, "_prepare_attention_mask", made):
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)  # norm weights are not one
        ids, pads = torch.randint(10, 96, (1, LENGTH)), torch.tensor([[PAD] * PADS])
        mask = torch.tensor([[1] * LENGTH + [0] * PADS])
        alone = model(ids, attention_mask=mask[:, :LENGTH]).last_hidden_state
        padded = model(torch.cat([ids, pads], dim=1), attention_mask=mask).last_hidden_state[:, :LENGTH]
    return float((padded - alone).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with a mask of the text by {measure(True):.1e}")
