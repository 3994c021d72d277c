"""CPM-Ant takes no mask and looks for the text at the right end; with a mask of where the text is, nothing leaks.

models/cpmant/modeling_cpmant.py of transformers 5.23.0: ``CpmAntModel.forward`` has no ``attention_mask`` and drops one
in ``**kwargs``; ``length = (segment != 0).sum(-1)`` (line 606) counts the ids that are not 0, and
``_prepare_attention_mask`` (lines 565-571, "mask for left padding") opens that many positions at the end. Pads on the
right are attended to, and real tokens at the beginning are not. By design for pads on the left, whose id must be 0;
undocumented elsewhere. The ablation builds the mask of the text.
"""

from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import CpmAntConfig, CpmAntModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS, PROMPT = 9, 6, 4


def text_mask(model: Any, ids: Tensor, span: Any, context: Any, length: Any) -> Tensor:
    """Let tokens of prompt and text attend to each other; pads attend to nothing."""
    real = (torch.arange(ids.shape[1]) < PROMPT + LENGTH)[None]
    return real[:, :, None] & real[:, None, :]


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = CpmAntConfig(
        vocab_size=VOCABULARY, hidden_size=32, dim_ff=64, dim_head=8, num_attention_heads=4, num_hidden_layers=2,
        prompt_length=PROMPT,
    )  # fmt: skip
    model = build(CpmAntModel, config)
    prepare = text_mask if ablated else CpmAntModel._prepare_attention_mask
    with mock.patch.object(CpmAntModel, "_prepare_attention_mask", prepare):
        return padding_shift(model, draw_text(LENGTH), right=PADS)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with a mask of the text by {measure(True):.1e}")
