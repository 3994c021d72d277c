"""What every pooling function shares: its input, token weights, and what an empty sentence gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from maskpool import segments
from maskpool.checks import on_eager_cpu, shortened
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from jaxtyping import Float

    Tokens: TypeAlias = Float[Tensor, "batch seq dim"] | Float[Tensor, "tokens dim"] | TokenBatch
    Sentences: TypeAlias = Float[Tensor, "batch out_dim"]
    TokenWeights: TypeAlias = Float[Tensor, "batch seq"] | Float[Tensor, " tokens"]

OnEmpty = Literal["zero", "nan", "raise"]


def check_on_empty(on_empty: str) -> None:
    """Raise ValueError unless ``on_empty`` is one of the three known words."""
    if on_empty not in get_args(OnEmpty):
        raise ValueError(f"on_empty must be one of {', '.join(map(repr, get_args(OnEmpty)))}, got {on_empty!r}")


def apply_on_empty(
    pooled: Sentences, batch: TokenBatch, on_empty: OnEmpty, weight: Float[Tensor, " batch"] | None = None
) -> Sentences:
    """Give the sentences that have no real token, or only such of ``weight`` 0, what ``on_empty`` says."""
    check_on_empty(on_empty)
    if on_empty == "zero":
        return pooled  # the kernels already give 0
    if on_empty == "raise" and batch.dense:
        raise ValueError(
            "on_empty='raise' must look at the mask's values, which only eager mode on CPU can: "
            "use on_empty='zero' or 'nan' under torch.compile, torch.export and on other devices"
        )
    empty = segments.empty_sentences(batch) if weight is None else weight == 0
    if on_empty == "nan":
        return torch.where(empty.unsqueeze(1), torch.nan, pooled)
    rows = empty.nonzero().view(-1).tolist()
    if rows:
        named = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        source = "cu_seqlens leaves" if batch.mask is None else "attention_mask leaves"
        source, token = (source, "real token") if weight is None else ("weights leave", "token of any weight")
        raise ValueError(
            f"{source} {len(rows)} of {empty.numel()} sentences without a {token} "
            f"(rows {named}): drop them, or use on_empty='zero' or 'nan'"
        )
    return pooled


def token_weights(batch: TokenBatch, weights: Tensor) -> Float[Tensor, "*token"]:
    """Check token weights and bring them to the batch's own form, in its accumulation dtype."""
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a torch.Tensor, got {type(weights).__name__}")
    if weights.dtype == torch.bool or weights.is_complex():
        raise TypeError(
            f"weights must be numbers, floating or integer, got {weights.dtype}: what is left out altogether "
            "belongs in attention_mask"
        )
    if weights.is_nested:
        offsets = weights.offsets().to(torch.int64)  # type: ignore[attr-defined]  # torch leaves it untyped
        if not batch.dense and not torch.equal(offsets, batch.offsets):
            raise ValueError(
                "weights must have sentences as long as those of token_embeddings, "
                f"{shortened(batch.lengths)}; got {shortened(offsets.diff())}"
            )
        weights = weights.values()
    layout = "(batch, seq)"
    if batch.mask is None:
        layout = "(tokens,)"
        weights = weights.squeeze(0) if weights.dim() == 2 and len(weights) == 1 else weights
    weights = batch.as_padded(weights)
    if tuple(weights.shape) != batch.shape:
        raise ValueError(
            f"weights must have the shape {layout} = {batch.shape}, one a token, got {tuple(weights.shape)}"
        )
    if weights.device != batch.device:
        raise ValueError(f"weights must be on token_embeddings' device {batch.device}, got {weights.device}")
    by_token = segments.at_tokens(batch, weights).to(batch.accumulation_dtype)
    if on_eager_cpu(by_token) and not batch.dense:
        wrong = ~(by_token.detach().isfinite() & (by_token.detach() >= 0))
        if wrong.any():
            raise ValueError(
                f"weights must be finite and not negative at real tokens; got {shortened(by_token.detach()[wrong])}"
            )
    return by_token


def shares(batch: TokenBatch, raw: Float[Tensor, "*token"]) -> tuple[Float[Tensor, "*token"], Float[Tensor, " batch"]]:
    """Raw weights over their sum in each sentence, and the sums; a sentence of weight 0 gives shares of 0."""
    sums = segments.total(batch, raw)
    share = torch.where(sums > 0, sums, 1.0).reciprocal()
    return (raw * segments.spread(batch, share)).to(batch.accumulation_dtype), sums
