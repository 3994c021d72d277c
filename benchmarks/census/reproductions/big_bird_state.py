"""BigBird switches to full attention for good once it has read a short text; the ablation switches it back.

`BigBirdModel.forward` (modeling_big_bird.py): ``if self.attention_type == "block_sparse" and seq_length <=
max_tokens_to_attend: self.set_attention_type("original_full")`` replaces the attention modules of every layer, and
nothing restores them. BigBirdPegasusEncoder does the same. A bug: the states of a long text depend on whether a short
one was read before it, in evaluation mode as well.
"""

from transformers import BigBirdConfig, BigBirdModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, states_of
from maskpool.audit.states import relative


def measure(ablated: bool) -> float:
    """Return the shift of a long text after a short one was read."""
    config = BigBirdConfig(
        **SIZES, vocab_size=VOCABULARY, max_position_embeddings=512, block_size=8, num_random_blocks=1,
        attention_type="block_sparse",
    )  # fmt: skip
    model = build(BigBirdModel, config)
    long, short = draw_text(115), draw_text(20)
    before = states_of(model, long)
    states_of(model, short)
    if ablated:
        model.set_attention_type("block_sparse")
    return relative(before, states_of(model, long))


if __name__ == "__main__":
    print(f"a short text moves a later long one by {measure(False):.1e}, with the type restored by {measure(True):.1e}")
