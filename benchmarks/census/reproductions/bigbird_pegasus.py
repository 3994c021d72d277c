"""BigBird-Pegasus' block-sparse attention lays blocks over the padded width; the ablation cuts off blocks of pads.

`BigBirdPegasusBlockSparseAttention.bigbird_block_sparse_attention` (modeling_bigbird_pegasus.py), a copy of BigBird's:
the first and last two blocks of the width attend by special patterns, and every token sees block ``[-1]``
(``blocked_key_matrix[:, :, -1]``). With pads behind the text, its last block is not global. Pads are masked: only the
number of blocks that they fill matters. The pattern of columns is by design, but a text has other states in a longer
batch.
"""

from functools import partial

from transformers import BigBirdPegasusConfig, BigBirdPegasusModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift
from benchmarks.census.reproductions.big_bird import BLOCK, LENGTH, PADS, attend_within_text


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = BigBirdPegasusConfig(
        vocab_size=VOCABULARY, d_model=64, encoder_ffn_dim=160, encoder_layers=2, encoder_attention_heads=4,
        decoder_layers=1, decoder_attention_heads=4, max_position_embeddings=512, block_size=BLOCK, num_random_blocks=1,
        attention_type="block_sparse",
    )  # fmt: skip
    model = build(BigBirdPegasusModel, config, "encoder")

    def ablate() -> None:
        for layer in model.layers:
            layer.self_attn.self.forward = partial(attend_within_text, layer.self_attn.self.forward)

    return padding_shift(model, draw_text(LENGTH), right=PADS, ablate=ablate if ablated else None)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, in the text's own blocks by {measure(True):.1e}")
