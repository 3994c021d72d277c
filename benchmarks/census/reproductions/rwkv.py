"""RWKV ignores the attention mask and carries pads on the left along; the ablation keeps them out of its two memories.

`RwkvModel.forward` (modeling_rwkv.py): ``"`attention_mask` was passed, but it is unused in this model."`` Pads reach
real tokens by ``self.time_shift(hidden)`` (the column before, in both halves of a block) and the weighted sums of
`rwkv_linear_attention`. By design, which one warning says: pad RWKV on the right.
"""

from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import RwkvConfig, RwkvModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 35, 10


def zero_pads(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Set pads to zero, which a shift finds before the first token."""
    return pad(output[:, PADS:], (0, 0, PADS, 0))


def no_weight(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Give pads keys whose exponential is 0."""
    return pad(output[:, PADS:], (0, 0, PADS, 0), value=-1e30)


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under left padding."""
    config = RwkvConfig(
        vocab_size=VOCABULARY, context_length=512, hidden_size=64, intermediate_size=160, num_hidden_layers=2
    )
    model = build(RwkvModel, config)

    def ablate() -> None:
        for block in model.blocks:
            block.ln1.register_forward_hook(zero_pads)
            block.ln2.register_forward_hook(zero_pads)
            block.attention.key.register_forward_hook(no_weight)

    return padding_shift(model, draw_text(LENGTH), left=PADS, ablate=ablate if ablated else None)


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with pads kept out by {measure(True):.1e}")
