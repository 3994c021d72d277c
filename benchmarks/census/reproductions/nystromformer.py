"""Nyströmformer: the convolution beside its attention reads pads' values; with those set to zero, nothing leaks.

models/nystromformer/modeling_nystromformer.py of transformers 5.23.0, line 212: ``context_layer +=
self.conv(value_layer)``, 65 tokens wide by default, with no mask. A bug: the first implementation (attention_nystrom.py
of mlpen/Nystromformer) has ``self.conv(V * mask[:, None, :, None])``, and that is the ablation.
Where ``num_landmarks`` is not ``segment_means_seq_len``, nothing can be compared: a mask with a zero in it raises (line
204: it is tokens by tokens, the scores are landmarks by tokens), and only inputs of that one length run.
"""

from typing import Any

import torch
from transformers import NystromformerConfig, NystromformerModel

LENGTH, PADS, PAD = 9, 6, 1


def zero_pads(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Values, batch x heads x tokens x size, with those of pads set to zero."""
    return (inputs[0] * (torch.arange(inputs[0].shape[2]) < LENGTH)[:, None],)


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = NystromformerConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    model: Any = NystromformerModel(config)
    model.eval()
    for layer in model.encoder.layer if ablated else ():
        layer.attention.self.conv.register_forward_pre_hook(zero_pads)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)  # norm weights are not one, the pad's row is not zero
        ids, pads = torch.randint(10, 96, (1, LENGTH)), torch.tensor([[PAD] * PADS])
        mask = torch.tensor([[1] * LENGTH + [0] * PADS])
        alone = model(ids, attention_mask=mask[:, :LENGTH]).last_hidden_state
        padded = model(torch.cat([ids, pads], dim=1), attention_mask=mask).last_hidden_state[:, :LENGTH]
    return float((padded - alone).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, its convolution masked by {measure(True):.1e}")
