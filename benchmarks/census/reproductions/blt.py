"""BLT's global transformer attends to patches that are made of pads alone; the ablation hides these patches.

`BltModel.forward` (modeling_blt.py) calls ``create_causal_mask(..., attention_mask=None)`` for the patches: the mask
that is applied to bytes is never carried over to what is made of them. A bug. Patches are given here, one boundary at
the first real token, so that nothing else is left to differ; by default `BltPatcher`, which is given no mask either,
draws them by the entropy of the bytes, pads included, and the hashes of byte groups reach back into the pads
(`byte_group_hash_function`; with the pad's id 0, as here, they are those of a text's beginning).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import BltConfig, BltModel

LENGTH, PADS = 33, 9
OF_PADS, OF_TEXT = [1, 4, 4], [1, 4, 4, 4, 4, 4, 4, 4, 4]


def hide_pads(forward: Callable[..., Any], **given: Any) -> Any:
    """Mask the patches of pads, but for their own queries, which have nothing else."""
    width = given["inputs_embeds"].shape[1]
    seen = torch.ones(width, width).tril().bool()
    seen[len(OF_PADS) :, : len(OF_PADS)] = False
    mask = torch.zeros(1, 1, width, width).masked_fill(~seen, torch.finfo(torch.float32).min)
    return forward(**given | {"attention_mask": mask})


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
             "intermediate_size": 160, "max_position_embeddings": 512}  # fmt: skip
    local = {**sizes, "cross_attn_k": 2, "hidden_size_global": 64, "sliding_window": 8}
    config = BltConfig(
        vocab_size=96, max_position_embeddings=512, cross_attn_k=2, local_attention_window_len=8, patching_mode="space",
        encoder_hash_byte_group_vocab=96, patcher_config=sizes, encoder_config=local, decoder_config=local,
        global_config={**sizes, "encoder_cross_output_size": 128},
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = BltModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    patches = torch.tensor([OF_TEXT])
    alone = model(input_ids=ids, attention_mask=mask, patch_lengths=patches, use_cache=False)[0]
    if ablated:
        model.global_transformer.forward = partial(hide_pads, model.global_transformer.forward)
    ids, mask = (torch.nn.functional.pad(each, (PADS, 0)) for each in (ids, mask))
    patches = torch.tensor([OF_PADS + OF_TEXT])
    padded = model(input_ids=ids, attention_mask=mask, patch_lengths=patches, use_cache=False)[0][:, PADS:]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with patches of pads hidden by {measure(True):.1e}")
