"""xLSTM takes no attention mask and lets pads on the left into its memory; the ablation closes the gates at pads.

`xLSTMModel.forward` (modeling_xlstm.py) has no ``attention_mask`` (``**kwargs`` swallows one), and
`xLSTMLayer.forward` gates every column into the matrix memory: ``self.mlstm_backend(..., igate=i_preact,
fgate=f_preact, ...)``. A missing feature: an input gate of minus infinity (and a forget gate of one) where the mask is
0 is enough.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import xLSTMConfig, xLSTMModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 35, 10


def close_gates(forward: Callable[..., Any], igate: Tensor, fgate: Tensor, **others: Any) -> Any:
    """Store nothing and forget nothing at pads."""
    pads = torch.arange(igate.shape[-1]) < PADS
    return forward(igate=igate.masked_fill(pads, -1e4), fgate=fgate.masked_fill(pads, 1e4), **others)


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under left padding."""
    config = xLSTMConfig(
        vocab_size=VOCABULARY, hidden_size=64, embedding_dim=64, num_hidden_layers=2, num_blocks=2, num_heads=4,
        qk_dim_factor=1.0, chunk_size=8, autocast_kernel_dtype="float32",
    )  # fmt: skip
    model = build(xLSTMModel, config)

    def ablate() -> None:
        for block in model.blocks:
            block.mlstm_layer.mlstm_backend.forward = partial(close_gates, block.mlstm_layer.mlstm_backend.forward)

    return padding_shift(model, draw_text(LENGTH), left=PADS, ablate=ablate if ablated else None)


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with gates closed at pads by {measure(True):.1e}")
