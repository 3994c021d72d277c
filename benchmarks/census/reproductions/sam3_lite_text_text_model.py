"""SAM3-LiteText: convolutions read pads, and positions stretch over the padded width; without both, nothing leaks.

models/sam3_lite_text/modeling_sam3_lite_text.py of transformers 5.23.0. The first and the last layer are convolutions
(lines 110 and 148) that are given the mask and do not use it (line 187), and ``F.interpolate`` (line 83) resizes the
whole table of positions to the width of the input, pads included. By design, as in MobileCLIP: the processor pads every
text to 32 tokens. Both have to be ablated: pads are zero before the convolutions, positions are the table's first rows.
"""

from typing import Any

import torch
from transformers import Sam3LiteTextTextConfig, Sam3LiteTextTextModel

LENGTH, PADS, PAD = 9, 6, 0


def zero_pads(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """What a convolution reads, batch x size x 1 x tokens, with that of pads set to zero."""
    return (inputs[0] * (torch.arange(inputs[0].shape[3]) < LENGTH),)


def first_positions(module: Any, inputs: tuple[int], output: torch.Tensor) -> torch.Tensor:
    """The table's first rows, in place of the whole table resized."""
    rows: torch.Tensor = module.position_embedding[0, :, : inputs[0]]
    return rows


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = Sam3LiteTextTextConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    model: Any = Sam3LiteTextTextModel(config)
    model.eval()
    if ablated:
        model.embeddings.position_embedding.register_forward_hook(first_positions)
        for block in (model.layers[0], model.layers[-1]):
            block.token_mixer.mixer.conv.register_forward_pre_hook(zero_pads)
            block.conv_feed_forward.depthwise_conv.register_forward_pre_hook(zero_pads)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)  # norm weights are not one, the pad's row is not zero
        ids, pads = torch.randint(10, 96, (1, LENGTH)), torch.tensor([[PAD] * PADS])
        mask = torch.tensor([[1] * LENGTH + [0] * PADS])
        alone = model(ids, attention_mask=mask[:, :LENGTH]).last_hidden_state
        padded = model(torch.cat([ids, pads], dim=1), attention_mask=mask).last_hidden_state[:, :LENGTH]
    return float((padded - alone).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, without both by {measure(True):.1e}")
