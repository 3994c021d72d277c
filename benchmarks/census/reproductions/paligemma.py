"""PaliGemma without token types is bidirectional unpadded and causal padded under sdpa; the ablation makes it causal.

`PaliGemmaModel.forward` (modeling_paligemma.py) builds ``create_causal_mask(**mask_kwargs)``, which under sdpa is None
if nothing is padded (`_ignore_causal_mask_sdpa`, masking_utils.py) and leaves causality to ``module.is_causal``
(`sdpa_attention_forward`). That is False: PaliGemmaConfig sets ``text_config.use_bidirectional_attention = True``, and
`GemmaAttention` reads it. A bug: pads decide whether a text is read in one direction or in both. Eager attention, which
always gets the mask, is causal in both cases; with ``token_type_ids`` the mask is never omitted.
"""

from transformers import PaliGemmaConfig, PaliGemmaModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 35, 10


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    text = {"model_type": "gemma", "vocab_size": VOCABULARY, "num_key_value_heads": 1, "head_dim": 16, **SIZES}
    vision = {"model_type": "siglip_vision_model", "projection_dim": 64, **SIZES}
    config = PaliGemmaConfig(text_config=text, vision_config=vision, image_token_index=5, projection_dim=64)
    config._attn_implementation = "sdpa"
    model = build(PaliGemmaModel, config)
    for layer in model.language_model.layers if ablated else ():
        layer.self_attn.is_causal = True
    return padding_shift(model, draw_text(LENGTH), right=PADS)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with is_causal set by {measure(True):.1e}")
