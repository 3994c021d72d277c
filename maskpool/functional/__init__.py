"""The pooling maths: one pure function a strategy, from token embeddings to one vector a sentence.

Every function takes a padded batch, ``(token_embeddings, attention_mask)``, a packed one, ``(token_embeddings,
cu_seqlens=…)``, a jagged nested tensor, or a `TokenBatch`, and reads real tokens only: what a pad holds, NaN included,
changes nothing and gets no gradient. Sums are made in float32 (float64 for float64); the result has the dtype and
device of the tokens. Everything raises `TypeError` and `ValueError` as `TokenBatch.of` says, and `ValueError` for an
unknown ``on_empty`` and for token weights that are negative, not finite or of another shape.

``on_empty`` says what a sentence without a real token gets: ``"zero"``, ``"nan"``, or ``"raise"``,
a ValueError (eager mode on CPU alone, because finding out would make other devices wait).
"""

from maskpool.functional.attention import (
    attention_penalty,
    attention_pool,
    attention_scores,
    gated_attention_scores,
    latent_attention_pool,
    multihead_attention_pool,
    structured_attention_pool,
)
from maskpool.functional.common import OnEmpty, apply_on_empty, check_on_empty
from maskpool.functional.layers import first_last_average_pool, mix_layers
from maskpool.functional.powers import (
    generalized_mean_pool,
    generalized_mean_weights,
    logsumexp_pool,
    mean_std_pool,
    softmax_pool,
    std_pool,
)
from maskpool.functional.selection import cls_pool, last_token_pool, max_pool, median_pool, min_pool, topk_mean_pool
from maskpool.functional.weighted import (
    mean_pool,
    mean_sqrt_len_pool,
    position_weighted_mean_pool,
    sum_pool,
)

__all__ = [
    "OnEmpty",
    "apply_on_empty",
    "attention_penalty",
    "attention_pool",
    "attention_scores",
    "check_on_empty",
    "cls_pool",
    "first_last_average_pool",
    "gated_attention_scores",
    "generalized_mean_pool",
    "generalized_mean_weights",
    "last_token_pool",
    "latent_attention_pool",
    "logsumexp_pool",
    "max_pool",
    "mean_pool",
    "mean_sqrt_len_pool",
    "mean_std_pool",
    "median_pool",
    "min_pool",
    "mix_layers",
    "multihead_attention_pool",
    "position_weighted_mean_pool",
    "softmax_pool",
    "std_pool",
    "structured_attention_pool",
    "sum_pool",
    "topk_mean_pool",
]
