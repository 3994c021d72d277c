"""Funnel pools pairs of tokens between blocks, real ones with pads; in one block, without pooling, nothing leaks.

models/funnel/modeling_funnel.py of transformers 5.23.0; three mechanisms between blocks. (1) ``pool_tensor`` (line 277)
averages pairs of states without the mask, and (2) drops the last token of the input (line 265, ``truncate_seq``), a pad
or not: both by design, as in the first implementation. (3) Lines 308 and 322 pool the mask with ``mode="min"``. In the
first implementation 1 marks a pad, and a pair with one real token is kept; here 1 marks a real token, and the pair is
masked: a bug, "max" is correct. The ablation puts all four layers in one block.
"""

from transformers import FunnelConfig, FunnelModel

from benchmarks.census.reproduction import VOCABULARY, build, draw_text, padding_shift

LENGTH, PADS, PAD = 10, 6, 0


def measure(ablated: bool) -> float:
    """Return the shift of real tokens under right padding."""
    config = FunnelConfig(
        vocab_size=VOCABULARY, d_model=32, d_head=8, d_inner=64, n_head=4, block_sizes=[4] if ablated else [2, 2],
        pad_token_id=PAD,
    )  # fmt: skip
    return padding_shift(build(FunnelModel, config), draw_text(LENGTH), right=PADS, pad_id=PAD)


if __name__ == "__main__":
    print(f"right padding moves real tokens by {measure(False):.1e}, without pooling by {measure(True):.1e}")
