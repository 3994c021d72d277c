"""Turn the features of sentence-transformers into the tokens to pool, or into vectors that are pooled already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskpool.batch.token_batch import TokenBatch
from maskpool.errors import InvalidValueError
from maskpool.masks import exclude_prompt
from maskpool.poolings.base import PoolingLayer, apply_on_empty
from maskpool.types import OnEmpty


def read_tokens(
    features: Mapping[str, Any],
    embedding_dimension: int,
    include_prompt: bool,
    include_special_tokens: bool,
    special_ids: Tensor | None,
) -> tuple[TokenBatch, bool]:
    """Select the tokens to pool.

    Args:
        features: What the host passes from module to module.
        embedding_dimension: The expected width of a token embedding.
        include_prompt: Whether the first ``prompt_length`` real tokens are pooled.
        include_special_tokens: Whether tokens that the tokenizer adds are pooled.
        special_ids: The ids of tokens that the tokenizer adds, if they are known.

    Returns:
        The tokens, and whether real tokens may have been excluded from them.

    Raises:
        ValueError: A feature is missing or does not fit the others.
    """
    x = features.get("token_embeddings")
    if not isinstance(x, Tensor):
        names = ", ".join(map(str, features)) or "nothing"
        raise InvalidValueError(
            "features",
            f"must hold token_embeddings, got {names}: a pooling follows a module that gives them, such as the "
            "host's Transformer",
        )
    if x.shape[-1] != embedding_dimension:
        raise InvalidValueError(
            "token_embeddings",
            f"must have the embedding_dimension {embedding_dimension} of this module, got {x.shape[-1]}: build it with "
            "the dimension of the module before it",
        )
    cu_seqlens = features.get("cu_seq_lens_q")
    if cu_seqlens is not None:
        batch = TokenBatch.from_packed(x, cu_seqlens)
        mask = torch.ones(x.shape[:-1].numel(), dtype=torch.bool, device=x.device)
    else:
        given = features.get("attention_mask")
        mask = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if given is None else given
        batch = TokenBatch.from_padded(x, mask)
    keep = None
    prompt = features.get("prompt_length")
    if not include_prompt and prompt is not None and not (isinstance(prompt, int) and prompt == 0):
        keep = exclude_prompt(mask, prompt, cu_seqlens=cu_seqlens).bool()
    if not include_special_tokens:
        special = _special_tokens(features, special_ids)
        if special.numel() != mask.numel():
            raise InvalidValueError(
                "special_tokens_mask",
                f"or input_ids must have one number for each token, got {tuple(special.shape)} for a batch of "
                f"{tuple(x.shape[:-1])}",
            )
        words = ~special.reshape(mask.shape)
        keep = words if keep is None else keep & words
    if keep is None:
        return batch, False
    return batch.select(keep), True


def given_cls(batch: TokenBatch, cls_token_embeddings: Tensor, on_empty: OnEmpty) -> Tensor:
    """Return the [CLS] vectors that the module before the pooling gives, (batch, dim), with `on_empty` applied.

    Raises:
        ValueError: They have another shape.
    """
    expected = (batch.lengths.numel(), batch.dim)
    if tuple(cls_token_embeddings.shape) != expected:
        raise InvalidValueError(
            "cls_token_embeddings",
            f"must have the shape (batch, dim) = {expected}, got {tuple(cls_token_embeddings.shape)}",
        )
    vectors = torch.where((batch.lengths == 0).unsqueeze(1), 0.0, cls_token_embeddings)
    return apply_on_empty(vectors, batch, on_empty)


def pool_weighted(batch: TokenBatch, layer: PoolingLayer, sums: Tensor, excluded: bool, on_empty: OnEmpty) -> Tensor:
    """Pool tokens that a module such as ``WordWeights`` has multiplied by weights: Σₜ wₜxₜ times a power of Σₜ wₜ.

    Args:
        batch: The weighted tokens wₜxₜ.
        layer: The layer of the pooling mode.
        sums: ``token_weights_sum``, Σₜ wₜ over all tokens of each sentence, (batch,).
        excluded: Whether tokens were excluded from ``batch``; ``sums`` is then not their sum.
        on_empty: What sentences without tokens or with zero total weight get.

    Raises:
        ValueError: The denominator is not known, or ``sums`` has another shape.
    """
    power = layer.power_of_weights
    if power is None or (excluded and power):
        case = f"of pooling_mode {layer.mode!r}" if power is None else "once tokens are excluded"
        raise InvalidValueError(
            "token_weights_sum",
            "(embeddings that a module such as WordWeights has weighted) does not give the denominator "
            f"{case}: remove that module, and pool with token weights in a maskpool layer",
        )
    if sums.shape != batch.lengths.shape:
        raise InvalidValueError(
            "token_weights_sum",
            f"must have the shape {tuple(batch.lengths.shape)}, (batch,), got {tuple(sums.shape)}",
        )
    sums = sums.to(batch.accumulation_dtype)
    scale = torch.where(sums == 0, 1.0, sums).pow(power)
    weight = torch.where(batch.lengths == 0, 0.0, sums)
    return apply_on_empty(batch.scaled_sum(scale), batch, on_empty, weight)


def _special_tokens(features: Mapping[str, Any], special_ids: Tensor | None) -> Tensor:
    """True at the tokens that the tokenizer added."""
    given = features.get("special_tokens_mask")
    if given is not None:
        return given.bool()  # type: ignore[no-any-return]  # features hold anything
    ids = features.get("input_ids")
    if ids is None or special_ids is None:
        missing = "input_ids" if ids is None else "a model's tokenizer"
        raise InvalidValueError(
            "include_special_tokens",
            f"must be True unless the tokens that the tokenizer adds are known, and special_tokens_mask and {missing} "
            "are missing: tokenize with return_special_tokens_mask=True, or use the module inside a "
            "SentenceTransformer (after putting it in by hand, and with sentence-transformers before 6.0, call "
            "module.on_model_ready(model))",
        )
    special: Tensor = (ids.unsqueeze(-1) == special_ids).any(dim=-1)  # not isin, which ONNX does not have
    return special
