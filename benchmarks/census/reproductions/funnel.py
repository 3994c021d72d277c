"""Funnel: it pools pairs of tokens between blocks, real ones with pads; in one block, without pooling, nothing leaks.

models/funnel/modeling_funnel.py of transformers 5.23.0; three things between blocks, all gone with the pooling. (1)
``pool_tensor`` (line 277) averages pairs of states without the mask, and (2) drops the last token of the input (line
265, ``truncate_seq``), a pad or not: both by design, as in the first implementation. (3) Lines 308 and 322 pool the
mask with ``mode="min"``. There 1 stands for a pad, and a pair with one real token is kept; here 1 stands for a real
token, and the pair is masked, real token and all: a bug, to be "max". The ablation has all four layers in one block.
"""

from typing import Any

import torch
from transformers import FunnelConfig, FunnelModel

LENGTH, PADS, PAD = 10, 6, 0


def measure(ablated: bool) -> float:
    """The largest change of real tokens' states under padding, over the states' root mean square."""
    config = FunnelConfig(
        vocab_size=96,
        d_model=32,
        d_head=8,
        d_inner=64,
        n_head=4,
        block_sizes=[4] if ablated else [2, 2],
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    model: Any = FunnelModel(config)
    model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)  # norm weights are not one, the pad's row is not zero
        ids, pads = torch.randint(10, 96, (1, LENGTH)), torch.tensor([[PAD] * PADS])
        mask = torch.tensor([[1] * LENGTH + [0] * PADS])
        alone = model(ids, attention_mask=mask[:, :LENGTH]).last_hidden_state
        padded = model(torch.cat([ids, pads], dim=1), attention_mask=mask).last_hidden_state[:, :LENGTH]
    return float((padded - alone).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, without pooling by {measure(True):.1e}")
