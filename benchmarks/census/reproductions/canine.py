"""CANINE: its ways to blocks of characters and back read pads; with the text's own blocks alone, nothing leaks.

models/canine/modeling_canine.py of transformers 5.23.0; all as in the first implementation, which pads each text to
2048 characters. (1) ``self.conv(pad(inputs))`` (line 262) mixes each character with the two after it, pads included.
(2) ``_repeat_molecules`` (line 817) gives the text's last characters the block that they are in, which may hold pads;
alone, they get the block before, for line 212 drops the input's last. (3) ``MaxPool1d`` (line 797) counts a block that
the text fills in part; alone, it does not exist. On the left, the block before the text is attended to, too: blocks
stand one place to the right of their mask, behind the first character. All three are ablated.
"""

from typing import Any
from unittest import mock

import torch
from transformers import CanineConfig, CanineModel

LENGTH, PADS, PAD, RATE = 18, 6, 0, 4
repeat, downsample = CanineModel._repeat_molecules, CanineModel._downsample_attention_mask


def zero_pads(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """What the convolution over characters reads, with that of pads set to zero."""
    return (inputs[0] * (torch.arange(inputs[0].shape[1]) < LENGTH)[:, None],)


def repeat_of_text(model: CanineModel, molecules: torch.Tensor, char_seq_length: int) -> torch.Tensor:
    """The text's own blocks, repeated over the text; zeros at pads."""
    own: torch.Tensor = repeat(model, molecules[:, : LENGTH // RATE], LENGTH)
    return torch.nn.functional.pad(own, (0, 0, 0, char_seq_length - LENGTH))


def full_blocks(model: CanineModel, char_attention_mask: torch.Tensor, downsampling_rate: int) -> torch.Tensor:
    """The mask of the blocks that the text fills."""
    filled: torch.Tensor = 1 - downsample(model, 1 - char_attention_mask, downsampling_rate)
    return filled


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = CanineConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_hash_buckets=96,
        downsampling_rate=RATE,
    )
    torch.manual_seed(0)
    model: Any = CanineModel(config)
    model.eval()
    if ablated:
        model.projection.register_forward_pre_hook(zero_pads)
    with (
        torch.no_grad(),
        mock.patch.object(CanineModel, "_repeat_molecules", repeat_of_text if ablated else repeat),
        mock.patch.object(CanineModel, "_downsample_attention_mask", full_blocks if ablated else downsample),
    ):
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)  # norm weights are not one
        ids, pads = torch.randint(10, 96, (1, LENGTH)), torch.tensor([[PAD] * PADS])
        mask = torch.tensor([[1] * LENGTH + [0] * PADS])
        alone = model(ids, attention_mask=mask[:, :LENGTH]).last_hidden_state
        padded = model(torch.cat([ids, pads], dim=1), attention_mask=mask).last_hidden_state[:, :LENGTH]
    return float((padded - alone).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(
        f"right padding moves real tokens by {measure(False):.1e}, with blocks of the text alone by {measure(True):.1e}"
    )
