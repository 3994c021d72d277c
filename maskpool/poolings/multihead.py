"""Multi-head attention of learned queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from maskpool.batch.blocks import in_blocks
from maskpool.batch.checks import check_heads, check_parameters, check_sizes
from maskpool.batch.token_batch import TokenBatch, TokenEmbeddings
from maskpool.poolings.attention import without_autocast
from maskpool.poolings.base import apply_on_empty, prepare
from maskpool.poolings.learned import LearnedPooling
from maskpool.poolings.registry import register
from maskpool.types import (
    AttentionMask,
    AttentionWeights,
    Offsets,
    OnEmpty,
    PerSentence,
    PerToken,
    SentenceEmbeddings,
    TokenWeights,
)

__all__ = ["MultiheadAttentionPooling", "multihead_attention_pool"]


def multihead_attention_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    queries: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    output_weight: Tensor,
    num_heads: int = 1,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[SentenceEmbeddings, AttentionWeights]:
    """Compute multi-head attention of learned queries over the real tokens, W_O [softmax(qₕ·Kₕ xₜ / √dₕ)ₜ Vₕ xₜ]ₕ.

    Equal to projecting every token to keys and values and attending, at a fraction of the cost: the queries are the
    same for all sentences, so keys fold into them, qₕ·Kₕ xₜ = (Kₕᵀ qₕ)·xₜ, and values, which are linear, are computed
    from the pooled tokens. Cost: tokens · dim · heads · queries, and one projection per sentence. The other arguments
    are described in `maskpool.functional`.

    References:
        Lee et al. 2019, Set Transformer, equation 11 (PMA), without the layer norm, the residual query and the
        feed-forward layer around it, with which it could not start as a mean; Vaswani et al. 2017 for the attention.

    Args:
        queries: (queries, dim), floating, already projected.
        key_weight: K, (dim, dim), floating; head h has the rows ``h * dim / heads`` to ``(h + 1) * dim / heads``.
        value_weight: V, (dim, dim), floating, by head in the same way.
        output_weight: W_O, (dim, dim), floating.
        num_heads: Number of heads; must divide dim.
        token_weights: Weights of the tokens, by which their shares of the attention are multiplied.

    Returns:
        The sentence embeddings, (batch, queries · dim), query after query, in the tokens' dtype, and the weights,
        (batch, queries · heads, seq) or (tokens, queries · heads), the heads of the first query first, exactly 0 at
        pads, in float32 (float64 for float64).

    Raises:
        InvalidTypeError: A parameter is not a floating tensor.
        InvalidValueError: A parameter has another shape or device, or ``num_heads`` is not a positive integer that
            divides dim.

    See Also:
        `maskpool.nn.MultiheadAttentionPooling`: The layer.

    Example:
        >>> x, mask, unit = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]), torch.ones(1, 1)
        >>> pooled, _ = multihead_attention_pool(
        ...     x, mask, queries=0 * unit, key_weight=unit, value_weight=2 * unit, output_weight=unit
        ... )
        >>> pooled
        tensor([[4.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    check_heads(num_heads, batch.dim)
    check_parameters(
        batch,
        queries=(queries, "queries dim"),
        key_weight=(key_weight, "dim dim"),
        value_weight=(value_weight, "dim dim"),
        output_weight=(output_weight, "dim dim"),
    )
    pooled, attention = _multihead(
        batch, weights, on_empty, num_heads, queries, key_weight, value_weight, output_weight
    )
    return pooled, batch.to_layout(attention)


def _multihead(
    batch: TokenBatch, weights: PerToken | None, on_empty: OnEmpty, num_heads: int, *parameters: Tensor
) -> tuple[SentenceEmbeddings, PerToken]:
    queries, key_weight, value_weight, output_weight = parameters
    exact, number, width = batch.accumulation_dtype, len(queries), batch.dim // num_heads
    with without_autocast(queries.device.type):
        by_head = queries.to(batch.score_dtype).view(number, num_heads, width)
        keys = key_weight.to(batch.score_dtype).view(num_heads, width, batch.dim)
        folded = torch.einsum("qhw,hwd->qhd", by_head, keys).flatten(0, 1) / width**0.5

        def attend(batch: TokenBatch, weights: PerToken | None) -> tuple[PerSentence, PerToken]:
            sums, attention = batch.attend(folded, sliced=False, weights=weights, dtype=exact)
            return sums.flatten(1), attention

        sums, attention = in_blocks(batch, weights, attend, folded)
        sums = sums.view(-1, number, num_heads, batch.dim)
        values = value_weight.to(exact).view(num_heads, width, batch.dim)
        heads = torch.einsum("bqhd,hwd->bqhw", sums, values).flatten(2)
        pooled = linear(heads, output_weight.to(exact)).flatten(1).to(batch.dtype)
    return apply_on_empty(pooled, batch, on_empty, None if weights is None else batch.total(weights)), attention


@register(
    "multihead_attention",
    formula="W_O [Σₜ softmax(qₕ·Kₕ xₜ / √dₕ)ₜ Vₕ xₜ]ₕ",
    source="Set Transformer (Lee et al. 2019)",
    also_called=("mha", "pma", "multihead", "multiheadattn"),
)
class MultiheadAttentionPooling(LearnedPooling):
    """Multi-head attention of learned queries q over the real tokens, W_O [Σₜ softmax(qₕ·Kₕ xₜ / √dₕ)ₜ Vₕ xₜ]ₕ.

    The heads h in brackets are concatenated; each is dₕ = dim / heads wide. Equal to ``torch.nn.MultiheadAttention``
    with learned queries and without biases. Queries start at zero and the projections V and W_O at the identity, so the
    layer starts equal to the mean. Cost: tokens · dim · heads · queries, because keys fold into the queries and values
    are projected after pooling.

    The result is (batch, queries · dim), in the tokens' dtype; the weights are (batch, queries · heads, seq) or
    (tokens, queries · heads), in float32 (float64 for float64). ``embedding_dimension`` and ``on_empty`` are described
    in `maskpool.nn.LearnedPooling`.

    References:
        Lee et al. 2019, Set Transformer (PMA); Vaswani et al. 2017.

    Args:
        num_heads: Number of heads; must divide ``embedding_dimension``.
        num_queries: How many vectors are concatenated.
        start: The mode of the pooling that each query's vector equals before it learns.

    Raises:
        InvalidValueError: See `AttentionPooling`.

    See Also:
        `maskpool.functional.multihead_attention_pool`: The function.
        `maskpool.nn.AttentionPooling`: Without projections.
        `maskpool.nn.LatentAttentionPooling`: Tokens attend to learned vectors, instead of the reverse.

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
        *,
        num_heads: int = 1,
        num_queries: int = 1,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        check_sizes(embedding_dimension=embedding_dimension)
        check_heads(num_heads, embedding_dimension, "a token")
        super().__init__(embedding_dimension, start=start, on_empty=on_empty)
        check_sizes(num_queries=num_queries)
        self.num_heads = num_heads
        self.num_queries = num_queries
        self.queries = nn.Parameter(torch.zeros(num_queries, embedding_dimension))
        self.key_weight = nn.Parameter(torch.empty(embedding_dimension, embedding_dimension))
        nn.init.xavier_uniform_(self.key_weight)
        self.value_weight = nn.Parameter(torch.eye(embedding_dimension))
        self.output_weight = nn.Parameter(torch.eye(embedding_dimension))

    def learned(self, batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
        """Return the queries' vectors and their weights."""
        parameters = (self.queries, self.key_weight, self.value_weight, self.output_weight)
        return _multihead(batch, weights, self.on_empty, self.num_heads, *parameters)

    def output_dimension(self, embedding_dimension: int) -> int:  # noqa: D102  # see PoolingLayer
        return self.num_queries * embedding_dimension
