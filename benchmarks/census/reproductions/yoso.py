"""YOSO: its attention turns the mask into ones everywhere; with the additive mask that it expects, nothing leaks.

models/yoso/modeling_yoso.py of transformers 5.23.0, line 356: ``attention_mask = 1.0 + attention_mask / 10000.0``, then
``.int()``, undoes an additive mask of 0 and -10000. But ``YosoModel.forward`` (line 684) passes on the mask of ones and
zeros that it got, which becomes 1.0001 and 1.0, both 1: pads are attended to like any token. A bug. The ablation passes
the additive mask to each attention.
"""

from typing import Any

from torch import Tensor
from transformers import YosoConfig, YosoModel

from benchmarks.census.reproduction import SMALL, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS, PAD = 9, 6, 1


def pass_additive_mask(module: Any, inputs: tuple[Tensor, Tensor, bool]) -> tuple[Tensor, Tensor, bool]:
    """Replace the mask in the arguments of an attention by an additive one."""
    hidden_states, mask, output_attentions = inputs
    return hidden_states, (mask - 1.0) * 10000.0, output_attentions


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    model = build(YosoModel, YosoConfig(**SMALL, vocab_size=VOCABULARY))
    for layer in model.encoder.layer if ablated else ():
        layer.attention.self.register_forward_pre_hook(pass_additive_mask)
    return padding_shift(model, draw_text(LENGTH), right=PADS, pad_id=PAD)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with an additive mask by {measure(True):.1e}")
