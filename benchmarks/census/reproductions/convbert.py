"""ConvBERT: the convolutions within its attention read pads' states; with those set to zero, nothing leaks.

models/convbert/modeling_convbert.py of transformers 5.23.0: ``key_conv_attn_layer`` (line 191) convolves the hidden
states and ``nn.functional.unfold`` (line 209) takes windows of ``conv_out_layer``; the mask is applied to the attention
scores alone (line 226). Each real token within half a kernel of the pads thus reads them, in each layer, where a text
without pads reads zeros. Taken over from the first implementation, which masks neither. Both have to be ablated.
"""

from typing import Any

import torch
from transformers import ConvBertConfig, ConvBertModel

LENGTH, PADS, PAD = 9, 6, 1


def zero_before_convolution(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Hidden states, batch x size x tokens, with those of pads set to zero."""
    return (inputs[0] * (torch.arange(inputs[0].shape[2]) < LENGTH),)


def zero_before_windows(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    """What windows are taken of, batch x tokens x size, with that of pads set to zero."""
    return output * (torch.arange(output.shape[1]) < LENGTH)[:, None]


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = ConvBertConfig(
        vocab_size=96,
        hidden_size=32,
        embedding_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    model: Any = ConvBertModel(config)
    model.eval()
    for layer in model.encoder.layer if ablated else ():
        layer.attention.self.key_conv_attn_layer.register_forward_pre_hook(zero_before_convolution)
        layer.attention.self.conv_out_layer.register_forward_hook(zero_before_windows)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)  # norm weights are not one, the pad's row is not zero
        ids, pads = torch.randint(10, 96, (1, LENGTH)), torch.tensor([[PAD] * PADS])
        mask = torch.tensor([[1] * LENGTH + [0] * PADS])
        alone = model(ids, attention_mask=mask[:, :LENGTH]).last_hidden_state
        padded = model(torch.cat([ids, pads], dim=1), attention_mask=mask).last_hidden_state[:, :LENGTH]
    return float((padded - alone).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(
        f"right padding moves real tokens by {measure(False):.1e}, with no pads in convolutions by {measure(True):.1e}"
    )
