"""xLSTM takes no attention mask and lets pads on the left into its memory; the ablation shuts the gates at pads.

`xLSTMModel.forward` (modeling_xlstm.py) has no ``attention_mask`` (``**kwargs`` swallows one), so that
`xLSTMLayer.forward` gates every column into the matrix memory: ``self.mlstm_backend(..., igate=i_preact,
fgate=f_preact, ...)``. A bug of what is missing: an input gate at minus infinity (and a forget gate at one) where the
mask is 0 is all it takes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import xLSTMConfig, xLSTMModel

LENGTH, PADS = 35, 10


def shut(forward: Callable[..., Any], igate: Tensor, fgate: Tensor, **others: Any) -> Any:
    """Let nothing in at pads, and nothing out."""
    pads = torch.arange(igate.shape[-1]) < PADS
    return forward(igate=igate.masked_fill(pads, -1e4), fgate=fgate.masked_fill(pads, 1e4), **others)


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = xLSTMConfig(
        vocab_size=96, hidden_size=64, embedding_dim=64, num_hidden_layers=2, num_blocks=2, num_heads=4,
        qk_dim_factor=1.0, chunk_size=8, autocast_kernel_dtype="float32",
    )  # fmt: skip
    model = xLSTMModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    for block in model.blocks:
        if ablated:
            block.mlstm_layer.mlstm_backend.forward = partial(shut, block.mlstm_layer.mlstm_backend.forward)
    ids, mask = (torch.nn.functional.pad(each, (PADS, 0)) for each in (ids, mask))
    padded = model(input_ids=ids, attention_mask=mask)[0][:, PADS:]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with gates shut at pads by {measure(True):.1e}")
