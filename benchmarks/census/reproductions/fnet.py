"""FNet: the Fourier transform over tokens mixes pads into all of them; without it, nothing leaks.

models/fnet/modeling_fnet.py of transformers 5.23.0, line 145: ``partial(torch.fft.fftn, dim=(1, 2))`` transforms over
tokens and over the hidden size; ``FNetModel.forward`` has no ``attention_mask`` and drops one in ``**kwargs``. By
design, and documented: the model was trained without a mask, on texts padded to 512 tokens, and one should keep to
that length. The ablation transforms over the hidden size alone.
"""

from functools import partial
from typing import Any

import torch
from transformers import FNetConfig, FNetModel
from transformers.models.fnet.modeling_fnet import FNetBasicFourierTransform

LENGTH, PADS, PAD = 9, 6, 3


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = FNetConfig(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    torch.manual_seed(0)
    model: Any = FNetModel(config)
    model.eval()
    for module in model.modules() if ablated else ():
        if isinstance(module, FNetBasicFourierTransform):
            module.fourier_transform = partial(torch.fft.fftn, dim=(2,))
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
        f"right padding moves real tokens by {measure(False):.1e}, with no transform over them by {measure(True):.1e}"
    )
