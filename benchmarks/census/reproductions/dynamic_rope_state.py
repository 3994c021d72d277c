"""Dynamic rope keeps the frequencies of the longest call so far; the ablation resets them before each call.

`dynamic_frequency_update` (modeling_rope_utils.py) computes frequencies only ``if seq_len > max_seq_len_cached`` and
resets them only ``if seq_len < self.original_max_seq_len``: a text at or past the original length gets the frequencies
of the longest call before it. A bug: the cached value is not that of this call. (Within one generation it keeps keys
consistent; between texts there is nothing to keep.)
"""

from transformers import LlamaConfig, LlamaModel

from benchmarks.census.reproduction import SIZES, VOCABULARY, build, draw_text, states_of
from maskpool.audit.states import relative


def measure(ablated: bool) -> float:
    """Return the shift of a text after a longer one was read."""
    config = LlamaConfig(
        **SIZES, vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    )  # fmt: skip
    model = build(LlamaModel, config)
    text, longer = draw_text(24), draw_text(48)
    before = states_of(model, text)
    states_of(model, longer)
    if ablated:
        model.rotary_emb.max_seq_len_cached = 0
    return relative(before, states_of(model, text))


if __name__ == "__main__":
    print(f"a longer text moves a later one by {measure(False):.1e}, with the cache reset by {measure(True):.1e}")
