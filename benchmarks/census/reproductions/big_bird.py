"""BigBird's block-sparse attention lays its blocks over the padded width; the ablation cuts off blocks of pads alone.

`BigBirdBlockSparseAttention.bigbird_block_sparse_attention` (modeling_big_bird.py) lets the first and last two blocks
of the width see keys of their own kind and every token see block ``[-1]`` (``blocked_key_matrix[:, :, -1]``): with pads
behind, the text's own last block is global no more, and its queries see a window instead of everything. Pads are masked
well: their ids do not matter, only how many blocks they fill. By design in the sense that the pattern is one of
columns, and a leak all the same: the same text has other states in a longer batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import BigBirdConfig, BigBirdModel

BLOCK, LENGTH, PADS = 8, 115, 58
WIDTH = -(-LENGTH // BLOCK) * BLOCK  # of the blocks that hold real tokens


def real_blocks(forward: Callable[..., Any], states: Tensor, band: Tensor, query: Tensor, key: Tensor, *rest: Tensor,
                **more: Any) -> Any:  # fmt: skip
    """Attend within the blocks of the text; pads get zeros, which no real token reads."""
    blocks = [mask[:, : WIDTH // BLOCK] for mask in rest]
    band = band[:, :, : WIDTH // BLOCK - 4]
    found, weights = forward(states[:, :WIDTH], band, query[:, :, :WIDTH], key[..., :WIDTH], *blocks, **more)
    return torch.nn.functional.pad(found, (0, 0, 0, states.shape[1] - WIDTH)), weights


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = BigBirdConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, block_size=BLOCK, num_random_blocks=1, attention_type="block_sparse",
    )  # fmt: skip
    model = BigBirdModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    for layer in model.encoder.layer:
        if ablated:
            layer.attention.self.forward = partial(real_blocks, layer.attention.self.forward)
    ids, mask = (torch.nn.functional.pad(each, (0, PADS)) for each in (ids, mask))
    padded = model(input_ids=ids, attention_mask=mask)[0][:, :LENGTH]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, in the text's own blocks by {measure(True):.1e}")
