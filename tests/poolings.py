"""Every pooling under test, by name, with learned weights that are not zero."""

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from maskpool import build_pooling
from maskpool.nn import PoolingLayer

DIM = 6

SPECS: dict[str, tuple[str | tuple[str, ...], dict[str, Any]]] = {
    "cls": ("cls", {}),
    "max": ("max", {}),
    "mean": ("mean", {}),
    "mean_sqrt_len_tokens": ("mean_sqrt_len_tokens", {}),
    "weightedmean": ("weightedmean", {}),
    "lasttoken": ("lasttoken", {}),
    "min": ("min", {}),
    "sum": ("sum", {}),
    "std": ("std", {}),
    "mean_std": ("mean_std", {}),
    "median": ("median", {}),
    "topk_mean": ("topk_mean", {"k": 3}),
    "logsumexp": ("logsumexp", {}),
    "softmax": ("softmax", {"temperature": 0.5}),
    "concat": (("max", "weightedmean", "mean"), {}),
    "attention": ("attention", {}),
    "attention-additive": ("attention", {"hidden_dimension": 5}),
    "attention-heads": ("attention", {"num_heads": 2}),
    "generalized_mean": ("generalized_mean", {}),
    "gated_attention": ("gated_attention", {"hidden_dimension": 5}),
    "structured_attention": ("structured_attention", {"num_hops": 2, "hidden_dimension": 5}),
    "multihead_attention": ("multihead_attention", {"num_heads": 2, "num_queries": 2}),
    "latent_attention": ("latent_attention", {"num_latents": 3, "num_heads": 2, "hidden_dimension": 5}),
    "attention-from-max": ("attention", {"start": "max"}),
}
ATTENTION = ["attention", "attention-additive", "attention-heads"]
LEARNED = [
    *ATTENTION,
    *("generalized_mean", "gated_attention", "structured_attention", "multihead_attention", "latent_attention"),
    "attention-from-max",
]
# Those that do more than weigh tokens: one alone is not what they give.
PROJECT = ["multihead_attention", "latent_attention"]
# Those that count positions, for which a hole is not nothing.
COUNT_POSITIONS = ["weightedmean", "concat"]
# Those that take token weights.
WEIGHTED = [
    *("mean", "mean_sqrt_len_tokens", "weightedmean", "sum", "std", "mean_std", "softmax"),
    *(name for name in LEARNED if name != "attention-from-max"),
]
# Widths of the results, in widths of a token.
WIDTHS = {"concat": 3, "mean_std": 2, "structured_attention": 2, "multihead_attention": 2}
PLAIN = [name for name in SPECS if name not in LEARNED]
# For tests of one graph: every pooling but those that are whole layers of "concat".
TOGETHER = [name for name in SPECS if name not in SPECS["concat"][0]]
HOST_MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

every_pooling = pytest.mark.parametrize("name", [*PLAIN, *LEARNED])
every_weighted_pooling = pytest.mark.parametrize("name", WEIGHTED)
every_plain_pooling = pytest.mark.parametrize("name", PLAIN)
every_attention_pooling = pytest.mark.parametrize("name", ATTENTION)
any_dtype = st.sampled_from(DTYPES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def fresh(name: str, dim: int = DIM, **options: Any) -> PoolingLayer:
    """Build a pooling that has learned nothing yet."""
    mode, own = SPECS[name]
    return build_pooling(mode, dim, **own, **options)


def make(name: str, dim: int = DIM, **options: Any) -> PoolingLayer:
    """Build a pooling whose learned scores are of order one on standard normal tokens."""
    layer = fresh(name, dim, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in layer.parameters():
            fan_in = parameter.shape[-1] if parameter.dim() else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return layer


def assert_same(name: str, actual: Tensor, expected: Tensor) -> None:
    """Assert that a pooling's results agree as laws 2 and 3 ask: bit for bit, or nearly where it has learned."""
    if name in PLAIN:
        assert torch.equal(actual, expected)
        return
    # Learned scores come out of matrix products, which group their sums by shape.
    tolerance = 1e-6 if actual.dtype in (torch.float32, torch.float64) else torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
