"""Attention pooling: learned queries that weigh the real tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskpool import functional
from maskpool.functional.powers import check_sizes
from maskpool.modules.learned import LearnedPooling, check_heads

if TYPE_CHECKING:
    from maskpool.functional.common import OnEmpty, Sentences, TokenWeights
    from maskpool.tokens import Offsets, TokenBatch


class AttentionPooling(LearnedPooling):
    """A mean of the real tokens, weighted by a softmax of learned scores, Σₜ softmax(s)ₜ xₜ.

    Scores are sₜ = q·xₜ, or, with a hidden layer, sₜ = q·tanh(W xₜ + b). Each head has a query of its
    own and pools its slice of the features; the slices stand side by side, so the width stays the
    same. The queries start at zero, which makes the layer start equal to the mean. Scores are float32
    inside (float64 for float64), and nothing is kept between calls. Cost: tokens · dim · heads, with a
    hidden layer tokens · dim · hidden.

    The result is (batch, dim), in the tokens' dtype, and the weights beside it are (batch, heads, seq) or (tokens,
    heads), in float32 (float64 for float64).

    Source: Yang et al. 2016, Hierarchical Attention Networks, equations 5 to 7.

    Args:
        embedding_dimension: Width of a token embedding.
        hidden_dimension: Width of the hidden layer of additive scores; None for linear scores.
        num_heads: Number of queries; must divide ``embedding_dimension``.
        on_empty: What a sentence without a real token gets.
        start: The pooling that the layer equals before it learns.

    Raises:
        ValueError: A dimension or number of heads that is no positive integer, or does not divide, or another
            ``start``.

    Example:
        >>> layer = AttentionPooling(2)
        >>> x, mask = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
        >>> layer(x, mask).detach()
        tensor([[2., 4.]])
        >>> layer(x, mask, return_weights=True)[1].detach()
        tensor([[[0.5000, 0.5000, 0.0000]]])
    """

    embedding_dimension: int

    def __init__(
        self,
        embedding_dimension: int,
        hidden_dimension: int | None = None,
        num_heads: int = 1,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        check_heads(embedding_dimension, num_heads)
        super().__init__(embedding_dimension, start, on_empty)
        if hidden_dimension is not None:
            check_sizes(hidden_dimension=hidden_dimension)
        self.hidden_dimension = hidden_dimension
        self.num_heads = num_heads
        self.hidden = None if hidden_dimension is None else nn.Linear(embedding_dimension, hidden_dimension)
        self.query = nn.Parameter(torch.zeros(num_heads, hidden_dimension or embedding_dimension))

    def learned(self, batch: TokenBatch, weights: TokenWeights | None) -> tuple[Sentences, Tensor]:
        """The weighted mean, and its weights."""
        scores = functional.attention_scores(
            batch,
            query=self.query,
            hidden_weight=None if self.hidden is None else self.hidden.weight,
            hidden_bias=None if self.hidden is None else self.hidden.bias,
        )
        return functional.attention_pool(batch, scores=scores, weights=weights, on_empty=self.on_empty)

    def extra_repr(self) -> str:
        """Show the sizes that make this layer."""
        width, *rest = super().extra_repr().split(", ")
        return ", ".join([width, f"num_heads={self.num_heads}", *rest])


class GatedAttentionPooling(LearnedPooling):
    """Attention whose scores pass a gate, sₜ = q·(tanh(V xₜ + b) ⊙ σ(U xₜ + c)), pooled as Σₜ softmax(s)ₜ xₜ.

    Heads are those of `AttentionPooling`: a query and a slice of the features each. The queries start at zero, and
    the layer with that equal to the mean. Cost: 2 · tokens · dim · hidden.

    The result is (batch, dim), in the tokens' dtype, and the weights beside it are (batch, heads, seq) or (tokens,
    heads), in float32 (float64 for float64).

    Source: Ilse, Tomczak and Welling 2018, Attention-based Deep Multiple Instance Learning, equation 9.

    Args:
        embedding_dimension: Width of a token embedding.
        hidden_dimension: Width of the hidden layer and of its gate.
        num_heads: Number of queries; must divide ``embedding_dimension``.
        on_empty: What a sentence without a real token gets.
        start: The pooling that the layer equals before it learns.

    Raises:
        ValueError: As `AttentionPooling` does.

    Example:
        >>> layer = GatedAttentionPooling(2)
        >>> x, mask = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
        >>> layer(x, mask).detach()
        tensor([[2., 4.]])
    """

    embedding_dimension: int

    def __init__(
        self,
        embedding_dimension: int,
        hidden_dimension: int = 128,
        num_heads: int = 1,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        check_heads(embedding_dimension, num_heads)
        super().__init__(embedding_dimension, start, on_empty)
        check_sizes(hidden_dimension=hidden_dimension)
        self.hidden_dimension = hidden_dimension
        self.num_heads = num_heads
        self.hidden = nn.Linear(embedding_dimension, hidden_dimension)
        self.gate = nn.Linear(embedding_dimension, hidden_dimension)
        self.query = nn.Parameter(torch.zeros(num_heads, hidden_dimension))

    def learned(self, batch: TokenBatch, weights: TokenWeights | None) -> tuple[Sentences, Tensor]:
        """The weighted mean, and its weights."""
        scores = functional.gated_attention_scores(
            batch,
            query=self.query,
            hidden_weight=self.hidden.weight,
            hidden_bias=self.hidden.bias,
            gate_weight=self.gate.weight,
            gate_bias=self.gate.bias,
        )
        return functional.attention_pool(batch, scores=scores, weights=weights, on_empty=self.on_empty)


class StructuredAttentionPooling(LearnedPooling):
    """Several attentions over whole tokens, side by side: hop h gives Σₜ softmax(sₕ)ₜ xₜ, sₕₜ = qₕ·tanh(W xₜ + b).

    The queries start at zero: every hop starts equal to the mean, and what is behind the layer drives them apart,
    helped by `penalty`. Cost: tokens · dim · (hidden + hops).

    The result is (batch, hops · dim), in the tokens' dtype, and the weights beside it are (batch, hops, seq) or
    (tokens, hops), in float32 (float64 for float64).

    Source: Lin et al. 2017, A Structured Self-Attentive Sentence Embedding.

    Args:
        embedding_dimension: Width of a token embedding.
        num_hops: How many vectors stand side by side.
        hidden_dimension: Width of the hidden layer of the scores.
        on_empty: What a sentence without a real token gets.
        start: The pooling that each hop equals before it learns.

    Raises:
        ValueError: A size that is no positive integer, or another ``start``.

    Example:
        >>> layer = StructuredAttentionPooling(1, num_hops=2)
        >>> x, mask = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])
        >>> pooled, weights = layer(x, mask, return_weights=True)
        >>> pooled.detach(), layer.penalty(weights).item()
        (tensor([[2., 2.]]), 1.0)
    """

    embedding_dimension: int

    def __init__(
        self,
        embedding_dimension: int,
        num_hops: int = 4,
        hidden_dimension: int = 128,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        super().__init__(embedding_dimension, start, on_empty)
        check_sizes(num_hops=num_hops, hidden_dimension=hidden_dimension)
        self.num_hops = num_hops
        self.hidden_dimension = hidden_dimension
        self.hidden = nn.Linear(embedding_dimension, hidden_dimension)
        self.query = nn.Parameter(torch.zeros(num_hops, hidden_dimension))

    def penalty(self, weights: Tensor, cu_seqlens: Offsets | None = None) -> Tensor:
        """How alike the hops are, ‖A Aᵀ − I‖², to be added to a loss: `maskpool.functional.attention_penalty`."""
        return functional.attention_penalty(weights, cu_seqlens)

    def learned(self, batch: TokenBatch, weights: TokenWeights | None) -> tuple[Sentences, Tensor]:
        """The hops' means, and their weights."""
        scores = functional.attention_scores(
            batch, query=self.query, hidden_weight=self.hidden.weight, hidden_bias=self.hidden.bias
        )
        return functional.structured_attention_pool(batch, scores=scores, weights=weights, on_empty=self.on_empty)


class MultiheadAttentionPooling(LearnedPooling):
    """Multi-head attention of learned queries q over the real tokens, W_O [Σₜ softmax(qₕ·Kₕ xₜ / √dₕ)ₜ Vₕ xₜ]ₕ.

    Brackets set the heads h side by side, each dₕ = dim / heads wide. Equal to ``torch.nn.MultiheadAttention`` with
    learned queries and without biases. Queries start at zero and the projections V and W_O at the identity, which
    makes the layer start equal to the mean. Cost: tokens · dim · heads · queries, because keys fold into the
    queries and values are projected after pooling.

    The result is (batch, queries · dim), in the tokens' dtype, and the weights beside it are (batch, queries · heads,
    seq) or (tokens, queries · heads), in float32 (float64 for float64).

    Source: Lee et al. 2019, Set Transformer (PMA); Vaswani et al. 2017.

    Args:
        embedding_dimension: Width of a token embedding.
        num_heads: Number of heads; must divide ``embedding_dimension``.
        num_queries: How many vectors stand side by side.
        on_empty: What a sentence without a real token gets.
        start: The pooling that each query's vector equals before it learns.

    Raises:
        ValueError: As `AttentionPooling` does.

    Example:
        >>> layer = MultiheadAttentionPooling(2, num_heads=2)
        >>> x, mask = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
        >>> layer(x, mask).detach()
        tensor([[2., 4.]])
    """

    embedding_dimension: int

    def __init__(
        self,
        embedding_dimension: int,
        num_heads: int = 1,
        num_queries: int = 1,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        check_heads(embedding_dimension, num_heads)
        super().__init__(embedding_dimension, start, on_empty)
        check_sizes(num_queries=num_queries)
        self.num_heads = num_heads
        self.num_queries = num_queries
        self.queries = nn.Parameter(torch.zeros(num_queries, embedding_dimension))
        self.key_weight = nn.Parameter(torch.empty(embedding_dimension, embedding_dimension))
        nn.init.xavier_uniform_(self.key_weight)
        self.value_weight = nn.Parameter(torch.eye(embedding_dimension))
        self.output_weight = nn.Parameter(torch.eye(embedding_dimension))

    def learned(self, batch: TokenBatch, weights: TokenWeights | None) -> tuple[Sentences, Tensor]:
        """The queries' vectors, and their weights."""
        return functional.multihead_attention_pool(
            batch,
            queries=self.queries,
            key_weight=self.key_weight,
            value_weight=self.value_weight,
            output_weight=self.output_weight,
            num_heads=self.num_heads,
            weights=weights,
            on_empty=self.on_empty,
        )


class LatentAttentionPooling(LearnedPooling):
    """The mean of tokens that have attended to a learned dictionary L, (1/n) Σₜ (xₜ + MLP(softmax(xₜ Lᵀ / √d) L)).

    The attention is by heads, each d = dim / heads wide, and MLP(o) = W₂ gelu(W₁ o + b₁) + b₂. W₂ and b₂ start at
    zero: tokens start as they are, and the layer starts equal to the mean. Cost: tokens · dim · 2 · (latents + hidden).

    The result is (batch, dim), in the tokens' dtype. The weights beside it, (batch, latents, seq) or (tokens,
    latents), in float32 (float64 for float64), say what each token reads of the dictionary, the mean over heads.

    Source: Lee et al. 2024, NV-Embed.

    Args:
        embedding_dimension: Width of a token embedding.
        num_latents: Size of the dictionary.
        num_heads: Number of heads; must divide ``embedding_dimension``.
        hidden_dimension: Width of the hidden layer behind the attention; None for ``embedding_dimension``.
        on_empty: What a sentence without a real token gets.
        start: The pooling that the layer equals before it learns.

    Raises:
        ValueError: As `AttentionPooling` does.

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
        num_latents: int = 64,
        num_heads: int = 1,
        hidden_dimension: int | None = None,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        check_heads(embedding_dimension, num_heads)
        super().__init__(embedding_dimension, start, on_empty)
        hidden = embedding_dimension if hidden_dimension is None else hidden_dimension
        check_sizes(num_latents=num_latents, hidden_dimension=hidden)
        self.num_latents = num_latents
        self.num_heads = num_heads
        self.latents = nn.Parameter(torch.randn(num_latents, embedding_dimension))
        self.hidden = nn.Linear(embedding_dimension, hidden)
        self.output = nn.Linear(hidden, embedding_dimension)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def learned(self, batch: TokenBatch, weights: TokenWeights | None) -> tuple[Sentences, Tensor]:
        """The mean of the moved tokens, and what each of them reads."""
        return functional.latent_attention_pool(
            batch,
            latents=self.latents,
            hidden_weight=self.hidden.weight,
            hidden_bias=self.hidden.bias,
            output_weight=self.output.weight,
            output_bias=self.output.bias,
            num_heads=self.num_heads,
            weights=weights,
            on_empty=self.on_empty,
        )
