"""BLT's global transformer attends to patches that consist of pads; the ablation hides these patches.

`BltModel.forward` (modeling_blt.py) calls ``create_causal_mask(..., attention_mask=None)`` for the patches: the mask of
the bytes is never carried over to them. A bug. The patches are given here, with a boundary at the first real token, to
exclude other causes: by default `BltPatcher`, which gets no mask either, draws them by the entropy of the bytes, pads
included, and the hashes of byte groups reach back into the pads (`byte_group_hash_function`; with pad id 0, as here,
they equal those at the beginning of a text).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import BltConfig, BltModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 33, 9
OF_PADS, OF_TEXT = [1, 4, 4], [1, 4, 4, 4, 4, 4, 4, 4, 4]


def hide_pads(forward: Callable[..., Any], **given: Any) -> Any:
    """Mask the patches of pads, except for their own queries, which have no other key."""
    width = given["inputs_embeds"].shape[1]
    seen = torch.ones(width, width).tril().bool()
    seen[len(OF_PADS) :, : len(OF_PADS)] = False
    mask = torch.zeros(1, 1, width, width).masked_fill(~seen, torch.finfo(torch.float32).min)
    return forward(**given | {"attention_mask": mask})


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under left padding."""
    sizes: dict[str, Any] = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 512}
    local = {**sizes, "cross_attn_k": 2, "hidden_size_global": 64, "sliding_window": 8}
    config = BltConfig(
        vocab_size=VOCABULARY, max_position_embeddings=512, cross_attn_k=2, local_attention_window_len=8,
        patching_mode="space", encoder_hash_byte_group_vocab=96, patcher_config=sizes, encoder_config=local,
        decoder_config=local, global_config={**sizes, "encoder_cross_output_size": 128},
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = build(BltModel, config)

    def ablate() -> None:
        model.global_transformer.forward = partial(hide_pads, model.global_transformer.forward)

    return padding_shift(
        model, draw_text(LENGTH), left=PADS, ablate=ablate if ablated else None,
        alone={"patch_lengths": torch.tensor([OF_TEXT]), "use_cache": False},
        padded={"patch_lengths": torch.tensor([OF_PADS + OF_TEXT]), "use_cache": False},
    )  # fmt: skip


if __name__ == "__main__":
    print(f"left padding moves real tokens by {measure(False):.1e}, with patches of pads hidden by {measure(True):.1e}")
