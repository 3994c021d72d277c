"""Nyströmformer: the convolution next to its attention reads values at pads; with those set to zero, nothing leaks.

models/nystromformer/modeling_nystromformer.py of transformers 5.23.0, line 212: ``context_layer +=
self.conv(value_layer)``, 65 tokens wide by default, without a mask. A bug: the first implementation
(attention_nystrom.py of mlpen/Nystromformer) has ``self.conv(V * mask[:, None, :, None])``, which is the ablation.
If ``num_landmarks`` differs from ``segment_means_seq_len``, nothing can be compared: a mask with a zero in it raises
(line 204: it is tokens by tokens, the scores are landmarks by tokens), and only inputs of that one length run.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import NystromformerConfig, NystromformerModel

from benchmarks.census.reproduction import SMALL, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS, PAD = 9, 6, 1


def zero_pads(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Set pads to zero in the values, (batch, heads, tokens, size)."""
    return (inputs[0] * (torch.arange(inputs[0].shape[2]) < LENGTH)[:, None],)


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    model = build(NystromformerModel, NystromformerConfig(**SMALL, vocab_size=VOCABULARY))
    for layer in model.encoder.layer if ablated else ():
        layer.attention.self.conv.register_forward_pre_hook(zero_pads)
    return padding_shift(model, draw_text(LENGTH), right=PADS, pad_id=PAD)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, its convolution masked by {measure(True):.1e}")
