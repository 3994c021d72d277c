"""Pooling functions: one pure function per pooling, from token embeddings to one vector per sentence.

The functions, and the layers when they are called, share these arguments:

- ``token_embeddings``: (batch, seq, dim) with ``attention_mask``; (tokens, dim) or (1, tokens, dim) with
  ``cu_seqlens``; a jagged nested tensor; or a `maskpool.TokenBatch`. Any floating dtype. A model's output is read as
  its ``last_hidden_state``, and a NumPy array as a tensor.
- ``attention_mask``: (batch, seq), bool or integer (or floating zeros and ones), 1 or True at real tokens; for padded
  embeddings only. A tokenizer's output is read as its ``attention_mask``.
- ``cu_seqlens``: (batch + 1,), int32 or int64, cumulative lengths, starting at 0; for packed embeddings only.
- ``token_weights``: one finite number ≥ 0 per token, (batch, seq) or (tokens,). Numbers at pads are not read. A
  sentence whose weights are all 0 counts as empty.
- ``on_empty``: what a sentence without real tokens gets: ``"zero"`` (default), ``"nan"``, or ``"raise"`` (eager mode on
  CPU only, because other devices would have to wait for the answer).

They read real tokens only: the content of a pad, NaN included, changes nothing and gets no gradient. Sums are computed
in float32 (float64 for float64); the result has the dtype and device of the tokens.

All functions raise `maskpool.errors.InvalidTypeError` and `maskpool.errors.InvalidValueError`, which name the argument,
if the inputs are not a batch (see `maskpool.TokenBatch.of`), if ``on_empty`` is unknown, and if token weights are
negative, not finite or of another shape.
"""

from maskpool.poolings import FAMILIES
from maskpool.poolings.attention import *  # noqa: F403  # each family lists its names
from maskpool.poolings.averages import *  # noqa: F403  # the same
from maskpool.poolings.choices import *  # noqa: F403  # the same
from maskpool.poolings.latent import *  # noqa: F403  # the same
from maskpool.poolings.layers import *  # noqa: F403  # the same
from maskpool.poolings.moments import *  # noqa: F403  # the same
from maskpool.poolings.multihead import *  # noqa: F403  # the same
from maskpool.poolings.power_mean import *  # noqa: F403  # the same
from maskpool.poolings.smooth_maximum import *  # noqa: F403  # the same

__all__ = [name for family in FAMILIES for name in family.__all__ if name.islower()]


def __dir__() -> list[str]:
    return __all__
