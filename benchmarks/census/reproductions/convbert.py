"""ConvBERT: the convolutions in its attention read states at pads; with those set to zero, nothing leaks.

models/convbert/modeling_convbert.py of transformers 5.23.0: ``key_conv_attn_layer`` (line 191) convolves the hidden
states and ``nn.functional.unfold`` (line 209) takes windows of ``conv_out_layer``; the mask is applied to the attention
scores only (line 226). In each layer, real tokens within half a kernel of the pads read them, where a text without pads
reads zeros. Inherited from the first implementation, which masks neither. The ablation removes both.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import ConvBertConfig, ConvBertModel

from benchmarks.census.reproduction import SMALL, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS, PAD = 9, 6, 1


def zero_before_convolution(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Set pads to zero in the hidden states, (batch, size, tokens)."""
    return (inputs[0] * (torch.arange(inputs[0].shape[2]) < LENGTH),)


def zero_before_windows(module: Any, inputs: Any, output: Tensor) -> Tensor:
    """Set pads to zero where windows are taken from, (batch, tokens, size)."""
    return output * (torch.arange(output.shape[1]) < LENGTH)[:, None]


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    model = build(ConvBertModel, ConvBertConfig(**SMALL, vocab_size=VOCABULARY, embedding_size=32))
    for layer in model.encoder.layer if ablated else ():
        layer.attention.self.key_conv_attn_layer.register_forward_pre_hook(zero_before_convolution)
        layer.attention.self.conv_out_layer.register_forward_hook(zero_before_windows)
    return padding_shift(model, draw_text(LENGTH), right=PADS, pad_id=PAD)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with pads zeroed by {measure(True):.1e}")
