"""Llama 4 scales queries by their column instead of their position, pads included; the ablation disables the scaling.

`Llama4TextAttention.forward` (modeling_llama4.py), in layers without rope: ``attn_scales =
torch.log1p(torch.floor((positions.float() + 1.0) / self.floor_scale)) * self.attn_scale + 1.0``, where ``positions`` is
`torch.arange` over the columns. A bug: ``position_ids``, which left padding needs and which are passed here, are not
read, though the chunks of the mask begin at the first real token. By default ``floor_scale`` is 8192: shorter padded
texts do not show it.
"""

from transformers import Llama4TextConfig, Llama4TextModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, counted_positions, draw_text, padding_shift

LENGTH, PADS = 35, 10


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under left padding."""
    config = Llama4TextConfig(
        **SIZES, vocab_size=VOCABULARY, intermediate_size_mlp=160, num_key_value_heads=2, head_dim=16,
        num_local_experts=4, attention_chunk_size=8, max_position_embeddings=512, floor_scale=8,
        attn_temperature_tuning=not ablated, no_rope_layers=[1, 0],
    )  # fmt: skip
    positions = {"position_ids": counted_positions(LENGTH, PADS)}
    return padding_shift(build(Llama4TextModel, config), draw_text(LENGTH), left=PADS, padded=positions)


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, without scaling by {measure(True):.1e}")
