"""FNet: the Fourier transform over tokens mixes pads into all of them; without it, nothing leaks.

models/fnet/modeling_fnet.py of transformers 5.23.0, line 145: ``partial(torch.fft.fftn, dim=(1, 2))`` transforms over
tokens and over the hidden size; ``FNetModel.forward`` has no ``attention_mask`` and drops one in ``**kwargs``. By
design, and documented: the model was trained without a mask, on texts padded to 512 tokens, and should be used at that
length. The ablation transforms only over the hidden size.
"""

from functools import partial

import torch
from transformers import FNetConfig, FNetModel
from transformers.models.fnet.modeling_fnet import FNetBasicFourierTransform

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS, PAD = 9, 6, 3


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = FNetConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    model = build(FNetModel, config)
    for module in model.modules() if ablated else ():
        if isinstance(module, FNetBasicFourierTransform):
            module.fourier_transform = partial(torch.fft.fftn, dim=(2,))
    return padding_shift(model, draw_text(LENGTH), right=PADS, pad_id=PAD)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, without the transform by {measure(True):.1e}")
