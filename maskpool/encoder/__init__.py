"""Turn texts into token states: load a transformer, tokenise, run it, store the states."""

from maskpool.errors import require_numpy

require_numpy()

from maskpool.encoder.cache import TokenStates, cache_states, compute_states  # noqa: E402  # after the check
from maskpool.encoder.transformer import (  # noqa: E402  # the same
    DTYPES,
    Encoder,
    check_layer,
    check_texts,
    evaluating,
    layer_states,
    text_encoder,
    token_limit,
    token_states,
    weights_hash,
)
from maskpool.trust.models import BUNDLED, bundled_folder_of, find_model  # noqa: E402  # the same

__all__ = [
    "BUNDLED",
    "DTYPES",
    "Encoder",
    "TokenStates",
    "bundled_folder_of",
    "cache_states",
    "check_layer",
    "check_texts",
    "compute_states",
    "evaluating",
    "find_model",
    "layer_states",
    "text_encoder",
    "token_limit",
    "token_states",
    "weights_hash",
]
