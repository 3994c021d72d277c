"""Switch Transformers lets pads on the left take places at the experts; the ablation gives pads no expert.

`SwitchTransformersTop1Router.forward` (modeling_switch_transformers.py): ``token_priority = torch.cumsum(expert_index,
dim=-2)`` and ``expert_capacity_mask = token_priority <= self.expert_capacity`` count every column of a row, pads
included; real tokens behind them find the expert full and are dropped. A bug: ``self.ignore_padding_tokens`` is stored
and never read, and the router gets no mask. The default capacity of an expert is 64 per row, which short texts do not
fill.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn.functional import pad
from transformers import SwitchTransformersConfig, SwitchTransformersEncoderModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 35, 10


def route_text(forward: Callable[..., tuple[Tensor, ...]], states: Tensor) -> list[Tensor]:
    """Route only real tokens; pads get no expert."""
    return [pad(routed, (0, 0, PADS, 0)) for routed in forward(states[:, PADS:])]


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under left padding."""
    config = SwitchTransformersConfig(
        vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=160, num_layers=2, num_heads=4, num_experts=8,
        expert_capacity=4, num_sparse_encoder_layers=1,
    )  # fmt: skip
    model = build(SwitchTransformersEncoderModel, config)

    def ablate() -> None:
        for name, module in model.named_modules():
            if name.endswith("mlp.router"):
                module.forward = partial(route_text, module.forward)

    return padding_shift(model, draw_text(LENGTH), left=PADS, ablate=ablate if ablated else None)


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with no expert for pads by {measure(True):.1e}")
