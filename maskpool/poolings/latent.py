"""Latent attention: tokens attend to a learned dictionary before they are averaged."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from maskpool.batch.blocks import Block, in_blocks
from maskpool.batch.checks import check_heads, check_parameters, check_sizes
from maskpool.batch.token_batch import SparseBatch, TokenBatch, TokenEmbeddings
from maskpool.poolings.attention import without_autocast
from maskpool.poolings.averages import mean
from maskpool.poolings.base import prepare
from maskpool.poolings.learned import LearnedPooling
from maskpool.poolings.registry import register
from maskpool.types import (
    AttentionMask,
    AttentionWeights,
    Offsets,
    OnEmpty,
    PerToken,
    SentenceEmbeddings,
    TokenWeights,
)

__all__ = ["LatentAttentionPooling", "latent_attention_pool"]


def latent_attention_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    latents: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    num_heads: int = 1,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[SentenceEmbeddings, AttentionWeights]:
    """Compute the mean of tokens that have attended to a learned dictionary, (1/n) Σₜ (xₜ + MLP(oₜ)).

    Each token is a query to the latents L, which are keys and values, oₜ = softmax(xₜ Lᵀ / √d) L by heads, and
    MLP(o) = W₂ gelu(W₁ o + b₁) + b₂. Cost: tokens · dim · (2 · latents + 2 · hidden), on CPU of real tokens only. The
    other arguments are described in `maskpool.functional`.

    References:
        Lee et al. 2024, NV-Embed, equations 1 and 2; the residual as in the authors' code.

    Args:
        latents: L, (latents, dim), floating.
        hidden_weight: W₁, (hidden, dim), floating.
        hidden_bias: b₁, (hidden,), floating.
        output_weight: W₂, (dim, hidden), floating.
        output_bias: b₂, (dim,), floating.
        num_heads: Number of heads; must divide dim.
        token_weights: Weights of the tokens in the mean.

    Returns:
        The sentence embeddings, (batch, dim), in the tokens' dtype, and how much each token attends to each latent, the
        mean over heads, (batch, latents, seq) or (tokens, latents), in float32 (float64 for float64): those of a token
        add up to 1, and are exactly 0 at pads.

    Raises:
        InvalidTypeError: A parameter is not a floating tensor.
        InvalidValueError: A parameter has another shape or device, or ``num_heads`` is not a positive integer that
            divides dim.

    See Also:
        `maskpool.nn.LatentAttentionPooling`: The layer.

    Example:
        >>> x, unit, zero = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.ones(1, 1), torch.zeros(1)
        >>> pooled, _ = latent_attention_pool(
        ...     x,
        ...     torch.tensor([[1, 1, 0]]),
        ...     latents=unit,
        ...     hidden_weight=unit,
        ...     hidden_bias=zero,
        ...     output_weight=0 * unit,
        ...     output_bias=zero,
        ... )
        >>> pooled
        tensor([[2.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    check_heads(num_heads, batch.dim)
    check_parameters(
        batch,
        latents=(latents, "latents dim"),
        hidden_weight=(hidden_weight, "hidden dim"),
        hidden_bias=(hidden_bias, "hidden"),
        output_weight=(output_weight, "dim hidden"),
        output_bias=(output_bias, "dim"),
    )
    pooled, attention = _latent(
        batch, weights, on_empty, num_heads, latents, hidden_weight, hidden_bias, output_weight, output_bias
    )
    return pooled, batch.to_layout(attention)


def _latent(
    batch: TokenBatch, weights: PerToken | None, on_empty: OnEmpty, num_heads: int, *parameters: Tensor
) -> tuple[SentenceEmbeddings, PerToken]:
    with without_autocast(parameters[0].device.type):
        exact = [parameter.to(batch.accumulation_dtype) for parameter in parameters]

        def attend(batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
            rows = batch.rows().to(batch.accumulation_dtype)
            moved, attention = _moved(batch, rows, num_heads, *exact)
            return mean(batch.with_rows(moved), weights, on_empty).to(batch.dtype), attention

        return in_blocks(batch, weights, attend, *exact)


def _moved(batch: TokenBatch, rows: Tensor, num_heads: int, *parameters: Tensor) -> tuple[PerToken, PerToken]:
    latents, hidden_weight, hidden_bias, output_weight, output_bias = parameters
    dictionary = latents.view(len(latents), num_heads, batch.dim // num_heads)
    by_head = rows.reshape(*rows.shape[:-1], *dictionary.shape[1:])
    scores = _scores(by_head, dictionary, rows.dtype)
    # Padded batches are often traced or on a device, where the sizes of scores cannot be read.
    readable = isinstance(batch, (SparseBatch, Block))
    if not readable or bool((scores.detach().abs() > _LARGE_SCORE).any()):
        batch.require_exact_scores()
        scores = _scores(by_head, dictionary, batch.score_dtype)
    attention = scores.softmax(dim=-1).to(rows.dtype)
    read = torch.einsum("...hl,lhw->...hw", attention, dictionary).flatten(-2)
    hidden = gelu(linear(read, hidden_weight, hidden_bias))
    return rows + linear(hidden, output_weight, output_bias), attention.mean(dim=-2)


# float32 is exact enough for scores up to this size; larger ones are computed in float64, as are unknown ones.
_LARGE_SCORE = 8.0


def _scores(by_head: Tensor, dictionary: Tensor, dtype: torch.dtype) -> Tensor:
    products: Tensor = torch.einsum("...hw,lhw->...hl", by_head.to(dtype), dictionary.to(dtype))
    return products / math.sqrt(dictionary.shape[2])


@register(
    "latent_attention",
    formula="(1/n) Σₜ (xₜ + MLP(softmax(xₜ Lᵀ / √d) L))",
    source="NV-Embed (Lee et al. 2024)",
    also_called=("latent", "latentattn", "nvembed"),
)
class LatentAttentionPooling(LearnedPooling):
    """The mean of tokens that have attended to a learned dictionary L, (1/n) Σₜ (xₜ + MLP(softmax(xₜ Lᵀ / √d) L)).

    The attention is by heads, each d = dim / heads wide, and MLP(o) = W₂ gelu(W₁ o + b₁) + b₂. W₂ and b₂ start at zero:
    tokens start as they are, and the layer starts equal to the mean. Cost: tokens · dim · 2 · (latents + hidden).

    The result is (batch, dim), in the tokens' dtype. The weights, (batch, latents, seq) or (tokens, latents), in
    float32 (float64 for float64), are how much each token attends to each latent, the mean over heads.
    ``embedding_dimension``, ``on_empty`` and ``start`` are described in `maskpool.nn.LearnedPooling`.

    References:
        Lee et al. 2024, NV-Embed.

    Args:
        num_latents: Size of the dictionary.
        num_heads: Number of heads; must divide ``embedding_dimension``.
        hidden_dimension: Width of the hidden layer behind the attention; None for ``embedding_dimension``.

    Raises:
        InvalidValueError: See `AttentionPooling`.

    See Also:
        `maskpool.functional.latent_attention_pool`: The function.
        `maskpool.nn.MultiheadAttentionPooling`: Learned queries attend to the tokens, instead of the reverse.

    Example:
        >>> layer = LatentAttentionPooling(2, num_latents=3)
        >>> x, mask = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
        >>> layer(x, mask).detach()
        tensor([[2., 4.]])
    """

    embedding_dimension: int

    def __init__(
        self,
        embedding_dimension: int,
        *,
        num_latents: int = 64,
        num_heads: int = 1,
        hidden_dimension: int | None = None,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        check_sizes(embedding_dimension=embedding_dimension)
        check_heads(num_heads, embedding_dimension, "a token")
        super().__init__(embedding_dimension, start=start, on_empty=on_empty)
        hidden = embedding_dimension if hidden_dimension is None else hidden_dimension
        check_sizes(num_latents=num_latents, hidden_dimension=hidden)
        self.num_latents = num_latents
        self.num_heads = num_heads
        self.latents = nn.Parameter(torch.randn(num_latents, embedding_dimension))
        self.hidden = nn.Linear(embedding_dimension, hidden)
        self.output = nn.Linear(hidden, embedding_dimension)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def learned(self, batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
        """Return the mean of the moved tokens and how much each token attends to each latent."""
        return _latent(
            batch,
            weights,
            self.on_empty,
            self.num_heads,
            self.latents,
            self.hidden.weight,
            self.hidden.bias,
            self.output.weight,
            self.output.bias,
        )
