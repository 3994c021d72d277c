"""NLLB-MoE counts pads into the experts' capacity where a fraction below 1 sets it; the ablation keeps the text's own.

`NllbMoeTop2Router.route_tokens` (modeling_nllb_moe.py): ``self.expert_capacity =
math.ceil(self.moe_eval_capacity_token_fraction * nb_tokens)`` with ``nb_tokens = router_logits.shape[0]``, the width
times the batch: more pads, more room, fewer tokens dropped. Pads themselves take no place (``top_1_mask *
non_padding``). A bug where the fraction is below 1; by default it is 1 and nothing is ever dropped, whatever
``expert_capacity`` says.
"""

import torch
from transformers import NllbMoeConfig, NllbMoeModel

LENGTH, PADS, FRACTION = 35, 20, 0.2


@torch.no_grad()
def measure(ablated: bool) -> float:
    """How far the states of real tokens move, over their root mean square."""
    torch.manual_seed(0)
    config = NllbMoeConfig(
        vocab_size=96, d_model=64, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=160, decoder_ffn_dim=160,
        encoder_attention_heads=4, decoder_attention_heads=4, num_experts=8, encoder_sparse_step=2,
        max_position_embeddings=512, moe_eval_capacity_token_fraction=FRACTION,
    )  # fmt: skip
    model = NllbMoeModel(config).encoder.train(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    ids, mask = torch.randint(10, 96, (1, LENGTH)), torch.ones(1, LENGTH).long()
    alone = model(input_ids=ids, attention_mask=mask)[0]
    if ablated:
        model.layers[1].ffn.router.moe_eval_capacity_token_fraction = FRACTION * LENGTH / (LENGTH + PADS)
    ids = torch.nn.functional.pad(ids, (0, PADS), value=1)  # the pad's id, for positions are counted by it
    padded = model(input_ids=ids, attention_mask=torch.nn.functional.pad(mask, (0, PADS)))[0][:, :LENGTH]
    return float((alone - padded).abs().max() / alone.square().mean().sqrt())


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, with the text's capacity by {measure(True):.1e}")
