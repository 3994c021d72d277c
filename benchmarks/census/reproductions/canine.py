"""CANINE reads pads where it compresses characters to blocks and back; with only the text's blocks, nothing leaks.

models/canine/modeling_canine.py of transformers 5.23.0; all as in the first implementation, which pads each text to
2048 characters. (1) ``self.conv(pad(inputs))`` (line 262) mixes each character with the two after it, pads included.
(2) ``_repeat_molecules`` (line 817) gives the last characters of the text their own block, which may hold pads; alone,
they get the block before it, because line 212 drops the last of the input. (3) ``MaxPool1d`` (line 797) counts a block
that the text fills in part; alone, it does not exist. On the left, the block before the text is attended to as well:
blocks are one column to the right of their mask, behind the first character. The ablation removes all three.
"""

from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import CanineConfig, CanineModel

from benchmarks.census.reproduction import SMALL, build, draw_text, padding_shift

LENGTH, PADS, RATE = 18, 6, 4
repeat, downsample = CanineModel._repeat_molecules, CanineModel._downsample_attention_mask


def zero_pads(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Set pads to zero in the input of the convolution over characters."""
    return (inputs[0] * (torch.arange(inputs[0].shape[1]) < LENGTH)[:, None],)


def repeat_text(model: CanineModel, molecules: Tensor, char_seq_length: int) -> Tensor:
    """Repeat the text's own blocks over the text; zeros at pads."""
    own: Tensor = repeat(model, molecules[:, : LENGTH // RATE], LENGTH)
    return pad(own, (0, 0, 0, char_seq_length - LENGTH))


def full_blocks(model: CanineModel, char_attention_mask: Tensor, downsampling_rate: int) -> Tensor:
    """Mask the blocks that the text does not fill."""
    filled: Tensor = 1 - downsample(model, 1 - char_attention_mask, downsampling_rate)
    return filled


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    model = build(CanineModel, CanineConfig(**SMALL, num_hash_buckets=96, downsampling_rate=RATE))
    if ablated:
        model.projection.register_forward_pre_hook(zero_pads)
    with (
        mock.patch.object(CanineModel, "_repeat_molecules", repeat_text if ablated else repeat),
        mock.patch.object(CanineModel, "_downsample_attention_mask", full_blocks if ablated else downsample),
    ):
        return padding_shift(model, draw_text(LENGTH), right=PADS)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with the text's blocks by {measure(True):.1e}")
