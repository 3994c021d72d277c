"""RecurrentGemma runs convolution and recurrence through pads on the left; the ablation starts both at the real tokens.

`RecurrentGemmaRecurrentBlock.forward` (modeling_recurrent_gemma.py) takes an ``attention_mask`` and never reads it:
``self.conv_1d(x_branch)`` reaches the last three pads from the first real tokens, and `RecurrentGemmaRglru` carries its
state over from pads; it restarts where ``position_ids == 0``, which by default is the first column. A bug: the mask
arrives and is dropped (Mamba's blocks zero pads with `apply_mask_to_padding_states`). Position ids that count real
tokens fix only the recurrence.
"""

from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import RecurrentGemmaConfig, RecurrentGemmaModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, counted_positions, draw_text, padding_shift

LENGTH, PADS = 35, 10


def zero_pads(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Set pads to zero, which a convolution padded with zeros sees before its first token."""
    return pad(output[:, PADS:], (0, 0, PADS, 0))


def shift(convolution: bool, recurrence: bool) -> float:
    """Return the shift of real tokens where one, both or neither start at the first real token."""
    config = RecurrentGemmaConfig(
        **{**SIZES, "num_hidden_layers": 3}, vocab_size=VOCABULARY, num_key_value_heads=4, lru_width=64,
        attention_window_size=8,
    )  # fmt: skip
    model = build(RecurrentGemmaModel, config)

    def ablate() -> None:
        for name, module in model.named_modules():
            if convolution and name.endswith("linear_x"):
                module.register_forward_hook(zero_pads)

    positions = {"position_ids": counted_positions(LENGTH, PADS)} if recurrence else {}
    return padding_shift(
        model, draw_text(LENGTH), left=PADS, ablate=ablate, alone={"use_cache": False},
        padded={"use_cache": False, **positions},
    )  # fmt: skip


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under left padding."""
    return shift(convolution=ablated, recurrence=ablated)


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with both begun at the text by {measure(True):.1e}")
    print(f"with the convolution begun there {shift(True, False):.1e}, the recurrence {shift(False, True):.1e}")
