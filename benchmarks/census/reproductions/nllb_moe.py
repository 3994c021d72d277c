"""NLLB-MoE counts pads into the experts' capacity where a fraction below 1 sets it; the ablation counts only the text.

`NllbMoeTop2Router.route_tokens` (modeling_nllb_moe.py): ``self.expert_capacity =
math.ceil(self.moe_eval_capacity_token_fraction * nb_tokens)`` with ``nb_tokens = router_logits.shape[0]``, the width
times the batch: with more pads, fewer tokens are dropped. Pads themselves take no place (``top_1_mask * non_padding``).
A bug where the fraction is below 1; by default it is 1 and nothing is dropped, for any ``expert_capacity``.
"""

from transformers import NllbMoeConfig, NllbMoeModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS, FRACTION = 35, 20, 0.2
PAD = 1  # positions are counted by the pad's id


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = NllbMoeConfig(
        vocab_size=VOCABULARY, d_model=64, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=160, decoder_ffn_dim=160,
        encoder_attention_heads=4, decoder_attention_heads=4, num_experts=8, encoder_sparse_step=2,
        max_position_embeddings=512, moe_eval_capacity_token_fraction=FRACTION,
    )  # fmt: skip
    model = build(NllbMoeModel, config, "encoder")

    def ablate() -> None:
        model.layers[1].ffn.router.moe_eval_capacity_token_fraction = FRACTION * LENGTH / (LENGTH + PADS)

    return padding_shift(model, draw_text(LENGTH), right=PADS, pad_id=PAD, ablate=ablate if ablated else None)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with the text's capacity by {measure(True):.1e}")
