"""Attention pooling with a learned query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn

from maskpool import functional
from maskpool.modules.base import WeightedPooling
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from maskpool.functional.common import OnEmpty, Sentences, Tokens, TokenWeights
    from maskpool.tokens import Mask, Offsets


class AttentionPooling(WeightedPooling):
    """A mean of the real tokens, weighted by a softmax of learned scores, Σₜ softmax(s)ₜ xₜ.

    Scores are sₜ = q·xₜ, or, with a hidden layer, sₜ = q·tanh(W xₜ + b). Each head has a query of its
    own and pools its slice of the features; the slices stand side by side, so the width stays the
    same. The queries start at zero, which makes the layer start equal to the mean. Scores and weights
    are float32 inside (float64 for float64), and nothing is kept between calls.

    Source: Yang et al. 2016, Hierarchical Attention Networks, equations 5 to 7.

    Args:
        embedding_dimension: Width of a token embedding.
        hidden_dimension: Width of the hidden layer of additive scores; None for linear scores.
        num_heads: Number of queries; must divide ``embedding_dimension``.
        on_empty: What a sentence without a real token gets.

    Raises:
        ValueError: A dimension or number of heads that is no positive integer, or does not divide.

    Example:
        >>> layer = AttentionPooling(2)
        >>> x, mask = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
        >>> layer(x, mask).detach()
        tensor([[2., 4.]])
        >>> layer(x, mask, return_weights=True)[1].detach()
        tensor([[[0.5000, 0.5000, 0.0000]]])
    """

    def __init__(
        self,
        embedding_dimension: int,
        hidden_dimension: int | None = None,
        num_heads: int = 1,
        on_empty: OnEmpty = "zero",
    ) -> None:
        super().__init__(on_empty)
        sizes = {"embedding_dimension": embedding_dimension, "num_heads": num_heads}
        if hidden_dimension is not None:
            sizes["hidden_dimension"] = hidden_dimension
        for name, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}")
        if embedding_dimension % num_heads:
            raise ValueError(f"num_heads must divide embedding_dimension {embedding_dimension}, got {num_heads}")
        self.embedding_dimension = embedding_dimension
        self.hidden_dimension = hidden_dimension
        self.num_heads = num_heads
        self.hidden = None if hidden_dimension is None else nn.Linear(embedding_dimension, hidden_dimension)
        self.query = nn.Parameter(torch.zeros(num_heads, hidden_dimension or embedding_dimension))

    @overload
    def forward(
        self,
        token_embeddings: Tokens,
        attention_mask: Mask | None = None,
        return_weights: Literal[False] = False,
        *,
        cu_seqlens: Offsets | None = None,
        weights: TokenWeights | None = None,
    ) -> Sentences: ...

    @overload
    def forward(
        self,
        token_embeddings: Tokens,
        attention_mask: Mask | None = None,
        *,
        return_weights: Literal[True],
        cu_seqlens: Offsets | None = None,
        weights: TokenWeights | None = None,
    ) -> tuple[Sentences, Tensor]: ...

    def forward(
        self,
        token_embeddings: Tokens,
        attention_mask: Mask | None = None,
        return_weights: bool = False,
        *,
        cu_seqlens: Offsets | None = None,
        weights: TokenWeights | None = None,
    ) -> Sentences | tuple[Sentences, Tensor]:
        """Pool a batch.

        Args:
            token_embeddings: (batch, seq, dim), any floating dtype; (tokens, dim) or (1, tokens, dim)
                with ``cu_seqlens``; a jagged nested tensor, or a `TokenBatch`.
            attention_mask: (batch, seq), bool or integer, 1 or True at real tokens; with padded
                embeddings only.
            return_weights: Give the attention weights too.
            cu_seqlens: (batch + 1,), cumulative lengths, int32 or int64; with packed embeddings only.
            weights: Token weights, one finite number ≥ 0 a token, by which each token's share of the
                attention is multiplied; (batch, seq) or (tokens,).

        Returns:
            (batch, dim); with ``return_weights`` also the weights, (batch, heads, seq), exactly 0 at
            pads, or (tokens, heads) for a batch that was not padded.

        Raises:
            TypeError, ValueError: The input is no batch, as `TokenBatch.of` says, the weights are none, or the
                token embeddings have another width than ``embedding_dimension``.
        """
        batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
        pooled, attention = self._pool_with_weights(batch, weights)
        return (pooled, attention) if return_weights else pooled

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return self._pool_with_weights(batch, weights)[0]

    def _pool_with_weights(self, batch: TokenBatch, weights: TokenWeights | None) -> tuple[Sentences, Tensor]:
        if batch.dim != self.embedding_dimension:
            raise ValueError(
                f"token_embeddings must have embedding_dimension={self.embedding_dimension} features, got {batch.dim}"
            )
        scores = functional.attention_scores(
            batch,
            query=self.query,
            hidden_weight=None if self.hidden is None else self.hidden.weight,
            hidden_bias=None if self.hidden is None else self.hidden.bias,
        )
        return functional.attention_pool(batch, scores=scores, weights=weights, on_empty=self.on_empty)

    def extra_repr(self) -> str:
        """Show the sizes that make this layer."""
        sizes = f"embedding_dimension={self.embedding_dimension}, num_heads={self.num_heads}"
        return ", ".join(filter(None, [sizes, super().extra_repr()]))
