"""SAM3-LiteText: convolutions read pads, and positions stretch over the padded width; without both, nothing leaks.

models/sam3_lite_text/modeling_sam3_lite_text.py of transformers 5.23.0. The first and the last layer are convolutions
(lines 110 and 148) that get the mask and do not use it (line 187), and ``F.interpolate`` (line 83) resizes the whole
table of positions to the width of the input, pads included. By design, as in MobileCLIP: the processor pads every text
to 32 tokens. The ablation removes both: pads are zero before the convolutions, positions are the table's first rows.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Sam3LiteTextTextConfig, Sam3LiteTextTextModel

from benchmarks.census.reproduction import SMALL, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 9, 6


def zero_pads(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Set pads to zero in the input of a convolution, (batch, size, 1, tokens)."""
    return (inputs[0] * (torch.arange(inputs[0].shape[3]) < LENGTH),)


def first_positions(module: Any, inputs: tuple[int], output: Tensor) -> Tensor:
    """Return the first rows of the table instead of the resized table."""
    rows: Tensor = module.position_embedding[0, :, : inputs[0]]
    return rows


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = Sam3LiteTextTextConfig(**{**SMALL, "num_hidden_layers": 3}, vocab_size=VOCABULARY, projection_dim=32)
    model = build(Sam3LiteTextTextModel, config)
    if ablated:
        model.embeddings.position_embedding.register_forward_hook(first_positions)
        for block in (model.layers[0], model.layers[-1]):
            block.token_mixer.mixer.conv.register_forward_pre_hook(zero_pads)
            block.conv_feed_forward.depthwise_conv.register_forward_pre_hook(zero_pads)
    return padding_shift(model, draw_text(LENGTH), right=PADS)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, without both by {measure(True):.1e}")
