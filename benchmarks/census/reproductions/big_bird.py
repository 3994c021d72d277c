"""BigBird's block-sparse attention lays its blocks over the padded width; the ablation cuts off blocks of pads.

`BigBirdBlockSparseAttention.bigbird_block_sparse_attention` (modeling_big_bird.py): the first and last two blocks of
the width attend by special patterns, and every token sees block ``[-1]`` (``blocked_key_matrix[:, :, -1]``). With
pads behind the text, its last block is not global, and queries there see a window instead of everything. Pads are
masked: only the number of blocks that they fill matters. The pattern of columns is by design, but a text has other
states in a longer batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers import BigBirdConfig, BigBirdModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, padding_shift

BLOCK, LENGTH, PADS = 8, 115, 58
WIDTH = -(-LENGTH // BLOCK) * BLOCK  # of the blocks that hold real tokens


def attend_within_text(forward: Callable[..., Any], states: Tensor, band: Tensor, query: Tensor, key: Tensor,
                       *masks: Tensor, **more: Any) -> Any:  # fmt: skip
    """Attend within the blocks of the text; pads get zeros, which no real token reads."""
    masks = tuple(mask[:, : WIDTH // BLOCK] for mask in masks)
    band = band[:, :, : WIDTH // BLOCK - 4]
    context, weights = forward(states[:, :WIDTH], band, query[:, :, :WIDTH], key[..., :WIDTH], *masks, **more)
    return pad(context, (0, 0, 0, states.shape[1] - WIDTH)), weights


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = BigBirdConfig(
        **SIZES, vocab_size=VOCABULARY, max_position_embeddings=512, block_size=BLOCK, num_random_blocks=1,
        attention_type="block_sparse",
    )  # fmt: skip
    model = build(BigBirdModel, config)

    def ablate() -> None:
        for layer in model.encoder.layer:
            layer.attention.self.forward = partial(attend_within_text, layer.attention.self.forward)

    return padding_shift(model, draw_text(LENGTH), right=PADS, ablate=ablate if ablated else None)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, in the text's own blocks by {measure(True):.1e}")
