"""MobileBERT's trigram input adds the neighbours' embeddings to each token, pads included; without it, nothing leaks.

models/mobilebert/modeling_mobilebert.py of transformers 5.23.0, lines 113-126: the word embeddings of the next and the
previous token are concatenated to each token's own, without a mask. The last real token reads the pad's embedding,
where a text without pads reads zeros; attention, which is masked, carries that on to all tokens. By design: the first
implementation (google-research/mobilebert) does the same. The ablation disables ``trigram_input``; a pad row of zeros
in the word embeddings helps as well.
"""

from transformers import MobileBertConfig, MobileBertModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS = 9, 6


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = MobileBertConfig(
        vocab_size=VOCABULARY, hidden_size=32, embedding_size=16, intra_bottleneck_size=16, intermediate_size=64,
        num_hidden_layers=2, trigram_input=not ablated,
    )  # fmt: skip
    return padding_shift(build(MobileBertModel, config), draw_text(LENGTH), right=PADS)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, without trigram_input by {measure(True):.1e}")
