"""PaliGemma without token types is bidirectional unpadded and causal padded under sdpa; the ablation says causal.

`PaliGemmaModel.forward` (modeling_paligemma.py) builds ``create_causal_mask(**mask_kwargs)``, which under sdpa is None
where nothing is padded (`_ignore_causal_mask_sdpa`, masking_utils.py) and leaves causality to ``module.is_causal``
(`sdpa_attention_forward`). That is False: PaliGemmaConfig sets ``text_config.use_bidirectional_attention = True``, and
`GemmaAttention` reads it. A bug: pads decide whether a text is read in one direction or in both. Eager attention, which
always gets the mask, is causal either way; with ``token_type_ids`` the mask is never left out.
"""

import torch
from transformers import PaliGemmaConfig, PaliGemmaModel

LENGTH, PADS = 35, 10


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"model_type": "gemma", "vocab_size": 96, "num_key_value_heads": 1, "head_dim": 16, **sizes}
    vision = {"model_type": "siglip_vision_model", "projection_dim": 64, **sizes}
    config = PaliGemmaConfig(text_config=text, vision_config=vision, image_token_index=5, projection_dim=64)
    config._attn_implementation = "sdpa"
    model = PaliGemmaModel(config).train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    if ablated:
        for layer in model.language_model.layers:
            layer.self_attn.is_causal = True
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    ids, mask = (torch.nn.functional.pad(each, (0, PADS)) for each in (ids, mask))
    padded = model(input_ids=ids, attention_mask=mask)[0][:, :LENGTH]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with is_causal set by {measure(True):.1e}")
