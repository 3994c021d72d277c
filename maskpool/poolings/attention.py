"""Attention pooling: learned queries score the real tokens, and a softmax over them weighs the mean."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from maskpool.batch.blocks import Block, in_blocks
from maskpool.batch.checks import check_cu_seqlens, check_heads, check_parameters, check_same_device, check_sizes, kind
from maskpool.batch.token_batch import SparseBatch, TokenBatch, TokenEmbeddings
from maskpool.errors import InvalidTypeError, InvalidValueError
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

__all__ = [
    "AttentionPooling",
    "GatedAttentionPooling",
    "StructuredAttentionPooling",
    "attention_penalty",
    "attention_pool",
    "attention_scores",
    "gated_attention_scores",
    "structured_attention_pool",
]


def attention_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    scores: Tensor,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[SentenceEmbeddings, AttentionWeights]:
    """Compute a mean that is weighted by the softmax of given scores over the real tokens, Σₜ softmax(s)ₜ xₜ.

    With token weights wₜ each exp(sₜ) is multiplied by its wₜ: Σₜ wₜ exp(sₜ) xₜ / Σₜ wₜ exp(sₜ). With several heads,
    head ``h`` pools features ``h * dim / heads`` to ``(h + 1) * dim / heads``, and the heads' results are concatenated.
    The other arguments are described in `maskpool.functional`.

    References:
        Yang et al. 2016, Hierarchical Attention Networks, equation 6.

    Args:
        scores: (batch, heads, seq), or (tokens, heads) for packed and nested batches, floating; numbers at pads are not
            read. `attention_scores` computes them.

    Returns:
        The sentence embeddings, (batch, dim), in the tokens' dtype, and the weights in the layout of ``scores``,
        exactly 0 at pads, in float32 (float64 for float64).

    Raises:
        InvalidTypeError: ``scores`` is not a floating tensor.
        InvalidValueError: ``scores`` has another shape or device, or its heads do not divide dim.

    See Also:
        `maskpool.nn.AttentionPooling`: The layer.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> pooled, weights = attention_pool(x, torch.tensor([[1, 1, 0]]), scores=torch.zeros(1, 1, 3))
        >>> pooled, weights
        (tensor([[2.]]), tensor([[[0.5000, 0.5000, 0.0000]]]))
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    heads = _check_scores(batch, scores)
    if not heads or batch.dim % heads:
        raise InvalidValueError(
            "scores", f"must have a number of heads that divides the dimension {batch.dim}, got {heads}"
        )
    pooled, attention = _by_slices(batch, batch.from_layout(scores), weights, on_empty)
    return pooled, batch.to_layout(attention)


def structured_attention_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    scores: Tensor,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[SentenceEmbeddings, AttentionWeights]:
    """Concatenate several attentions over whole tokens: Aₕ = softmax(sₕ), the vectors Σₜ Aₕₜ xₜ of all hops h.

    In `attention_pool` each head pools a slice of the features; here each hop pools all of them. With token weights wₜ
    each exp(sₜ) is multiplied by its wₜ. `attention_penalty` keeps hops apart in training. The other arguments are
    described in `maskpool.functional`.

    References:
        Lin et al. 2017, A Structured Self-Attentive Sentence Embedding, equations 5 and 6.

    Args:
        scores: (batch, hops, seq), or (tokens, hops) for packed and nested batches, floating; numbers at pads are not
            read. `attention_scores` computes them.

    Returns:
        The sentence embeddings, (batch, hops · dim), hop after hop, in the tokens' dtype, and the weights in the layout
        of ``scores``, exactly 0 at pads, in float32 (float64 for float64).

    Raises:
        InvalidTypeError: ``scores`` is not a floating tensor.
        InvalidValueError: ``scores`` has another shape or device, or no hop.

    See Also:
        `maskpool.nn.StructuredAttentionPooling`: The layer.

    Example:
        >>> x, scores = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[[0.0, 0.0, 0.0], [0.0, 50.0, 0.0]]])
        >>> structured_attention_pool(x, torch.tensor([[1, 1, 0]]), scores=scores)[0]
        tensor([[2., 3.]])
    """
    batch, weights = prepare(token_embeddings, attention_mask, cu_seqlens, token_weights)
    if not _check_scores(batch, scores):
        raise InvalidValueError("scores", "must have at least one hop, got 0")
    pooled, attention = _by_hops(batch, batch.from_layout(scores), weights, on_empty)
    return pooled, batch.to_layout(attention)


def attention_scores(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    query: Tensor,
    hidden_weight: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> Tensor:
    """Score real tokens against learned queries: q·x, or additively q·tanh(W x + b).

    Scores are float64 where the device supports it: in float32 a score of 100, and so the weight that is its
    exponential, would be off by 1e-5. The other arguments are described in `maskpool.functional`.

    References:
        Yang et al. 2016, Hierarchical Attention Networks, equation 5; Bahdanau et al. 2015 for the additive form.

    Args:
        query: One query per head, (heads, dim), or (heads, hidden) with a hidden layer, floating.
        hidden_weight: W, (hidden, dim), floating; None scores linearly.
        hidden_bias: b, (hidden,), floating.

    Returns:
        (batch, heads, seq), 0 at pads, or (tokens, heads) for packed and nested batches, float64.

    Raises:
        InvalidTypeError: A parameter is not a floating tensor.
        InvalidValueError: A parameter has another shape or device, or ``hidden_bias`` came without ``hidden_weight``.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [torch.nan, 0.0]]])
        >>> attention_scores(x, torch.tensor([[1, 1, 0]]), query=torch.tensor([[1.0, 0.0]]))
        tensor([[[1., 3., 0.]]], dtype=torch.float64)
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    if hidden_weight is None and hidden_bias is not None:
        raise InvalidValueError("hidden_bias", "must come with its hidden_weight, got hidden_weight=None")
    hidden_layer = {"hidden_weight": (hidden_weight, "hidden dim"), "hidden_bias": (hidden_bias, "hidden")}
    check_parameters(
        batch,
        query=(query, "heads dim" if hidden_weight is None else "heads hidden"),
        **{name: given for name, given in hidden_layer.items() if given[0] is not None},
    )
    return batch.to_layout(_scores(batch, query, hidden_weight, hidden_bias).to(batch.score_dtype))


def _scores(batch: TokenBatch, query: Tensor, weight: Tensor | None, bias: Tensor | None) -> PerToken:
    with without_autocast(query.device.type):
        if weight is None:
            return batch.dot_products(query.to(batch.score_dtype))
        exact = _precision(batch, query)
        hidden = linear(batch.rows().to(exact), weight.to(exact), None if bias is None else bias.to(exact)).tanh()
        return linear(hidden, query.to(exact))


# The error of a score q·h with |h| ≤ 1 in float32 is about 2e-7 |q|: below the promised 1e-6 up to this norm of q.
_SMALL_NORM = 2.0


def _precision(batch: TokenBatch, query: Tensor) -> torch.dtype:
    """Return the dtype for scores q·h with |h| ≤ 1: float64, or float32 where q can be read and is small."""
    if isinstance(batch, (SparseBatch, Block)):
        if float(torch.linalg.vector_norm(query.detach(), dim=1).amax()) <= _SMALL_NORM:
            return batch.accumulation_dtype
        batch.require_exact_scores()
    return batch.score_dtype


def gated_attention_scores(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    query: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
) -> Tensor:
    """Score real tokens through a gate, q·(tanh(V x + b) ⊙ σ(U x + c)).

    The gate adds a nonlinearity where tanh is nearly linear. Scores are float64 where the device supports it. The other
    arguments are described in `maskpool.functional`.

    References:
        Ilse, Tomczak and Welling 2018, Attention-based Deep Multiple Instance Learning, equation 9.

    Args:
        query: q, one per head, (heads, hidden), floating.
        hidden_weight: V, (hidden, dim), floating.
        hidden_bias: b, (hidden,), floating.
        gate_weight: U, (hidden, dim), floating.
        gate_bias: c, (hidden,), floating.

    Returns:
        (batch, heads, seq), 0 at pads, or (tokens, heads) for packed and nested batches, float64.

    Raises:
        InvalidTypeError: A parameter is not a floating tensor.
        InvalidValueError: A parameter has another shape or device.

    Example:
        >>> x, unit, zero = torch.tensor([[[1.0], [torch.nan]]]), torch.ones(1, 1), torch.zeros(1)
        >>> gated_attention_scores(
        ...     x,
        ...     torch.tensor([[1, 0]]),
        ...     query=unit,
        ...     hidden_weight=unit,
        ...     hidden_bias=zero,
        ...     gate_weight=unit,
        ...     gate_bias=zero,
        ... )
        tensor([[[0.5568, 0.0000]]], dtype=torch.float64)
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    check_parameters(
        batch,
        query=(query, "heads hidden"),
        hidden_weight=(hidden_weight, "hidden dim"),
        hidden_bias=(hidden_bias, "hidden"),
        gate_weight=(gate_weight, "hidden dim"),
        gate_bias=(gate_bias, "hidden"),
    )
    scores = _gated_scores(batch, query, hidden_weight, hidden_bias, gate_weight, gate_bias)
    return batch.to_layout(scores.to(batch.score_dtype))


def _gated_scores(batch: TokenBatch, *parameters: Tensor) -> PerToken:
    exact = _precision(batch, parameters[0])
    query, hidden_weight, hidden_bias, gate_weight, gate_bias = (parameter.to(exact) for parameter in parameters)
    with without_autocast(query.device.type):
        rows = batch.rows().to(exact)
        hidden = linear(rows, hidden_weight, hidden_bias).tanh()
        gate = linear(rows, gate_weight, gate_bias).sigmoid()
        return linear(hidden * gate, query)


def attention_penalty(attention_weights: AttentionWeights, cu_seqlens: Offsets | None = None) -> Tensor:
    """Compute how similar the hops of an attention are, the mean over sentences of ‖A Aᵀ − I‖².

    A is (hops, tokens) of one sentence; 0 means that each hop puts all its weight on a different token. Added to a
    loss, the penalty drives hops apart. Pads have weight 0 and add nothing. A sentence whose weights are all 0 is not
    counted, because it has no tokens to drive apart. Computed in float32 (float64 for float64).

    References:
        Lin et al. 2017, A Structured Self-Attentive Sentence Embedding, equation 8 (their coefficient is up to 1).

    Args:
        attention_weights: (batch, hops, seq), or (tokens, hops) with ``cu_seqlens``, as poolings return them.
        cu_seqlens: (batch + 1,), cumulative lengths.

    Returns:
        A number, (); 0 if no sentence counts.

    Raises:
        InvalidTypeError: ``attention_weights`` is not a floating tensor, or ``cu_seqlens`` not an integer tensor.
        InvalidValueError: ``attention_weights`` has another number of dimensions, or ``cu_seqlens`` does not cut it
            into sentences.

    Example:
        >>> attention_penalty(torch.eye(2).unsqueeze(0)), attention_penalty(torch.ones(1, 2, 1))
        (tensor(0.), tensor(2.))
    """
    name, weights = "attention_weights", attention_weights
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise InvalidTypeError(name, f"must be a floating torch.Tensor, got {kind(weights)}")
    if weights.dim() != (3 if cu_seqlens is None else 2):
        raise InvalidValueError(
            name,
            "must have the shape (batch, hops, seq), or (tokens, hops) with cu_seqlens; "
            f"got {tuple(weights.shape)} {'without' if cu_seqlens is None else 'with'} cu_seqlens",
        )
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    if cu_seqlens is None:
        with without_autocast(weights.device.type):
            alike = weights @ weights.transpose(1, 2)
    else:
        lengths = check_cu_seqlens(cu_seqlens, len(weights))
        check_same_device("cu_seqlens", cu_seqlens, name, weights)
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=weights.device), lengths)
        pairs = weights.unsqueeze(2) * weights.unsqueeze(1)
        alike = pairs.new_zeros(len(lengths), *pairs.shape[1:]).index_add(0, owner, pairs)
    counted = alike.diagonal(dim1=1, dim2=2).sum(dim=1) != 0
    apart = torch.eye(alike.shape[1], dtype=alike.dtype, device=alike.device)
    squares = (alike - apart).square().sum(dim=(1, 2))
    return torch.where(counted, squares, 0.0).sum() / counted.sum().clamp(min=1)


# -------------------------------------------------------------------------------------------------------------- layers


@register(
    "attention",
    formula="Σₜ softmax(s)ₜ xₜ, sₜ = q·xₜ or q·tanh(W xₜ + b)",
    source="Yang et al. 2016",
    also_called=("attn", "att", "selfattention", "selfattn", "additiveattention"),
)
class AttentionPooling(LearnedPooling):
    """A mean of the real tokens, weighted by a softmax of learned scores, Σₜ softmax(s)ₜ xₜ.

    Scores are sₜ = q·xₜ, or, with a hidden layer, sₜ = q·tanh(W xₜ + b). Each head has its own query and pools its own
    slice of the features; the slices are concatenated, so the width stays the same. The queries start at zero, so the
    layer starts equal to the mean. Cost: tokens · dim · heads, with a hidden layer tokens · dim · hidden.

    The result is (batch, dim), in the tokens' dtype; the weights are (batch, heads, seq) or (tokens, heads), in float32
    (float64 for float64). ``embedding_dimension``, ``on_empty`` and ``start`` are described in
    `maskpool.nn.LearnedPooling`.

    References:
        Yang et al. 2016, Hierarchical Attention Networks, equations 5 to 7.

    Args:
        hidden_dimension: Width of the hidden layer of additive scores; None for linear scores.
        num_heads: Number of queries; must divide ``embedding_dimension``.

    Raises:
        InvalidValueError: A dimension or number of heads is not a positive integer, or does not divide, or ``start`` is
            not accepted.

    See Also:
        `maskpool.functional.attention_scores`, `maskpool.functional.attention_pool`: The scores, and the pooling by
            given scores.
        `maskpool.nn.GatedAttentionPooling`: Passes the scores through a gate.
        `maskpool.nn.StructuredAttentionPooling`: Pools whole tokens by each query.
        `maskpool.nn.MultiheadAttentionPooling`: Projects the features before and after.

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
        *,
        hidden_dimension: int | None = None,
        num_heads: int = 1,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        check_sizes(embedding_dimension=embedding_dimension)
        check_heads(num_heads, embedding_dimension, "a token")
        super().__init__(embedding_dimension, start=start, on_empty=on_empty)
        if hidden_dimension is not None:
            check_sizes(hidden_dimension=hidden_dimension)
        self.hidden_dimension = hidden_dimension
        self.num_heads = num_heads
        self.hidden = None if hidden_dimension is None else nn.Linear(embedding_dimension, hidden_dimension)
        self.query = nn.Parameter(torch.zeros(num_heads, hidden_dimension or embedding_dimension))

    def learned(self, batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
        """Return the weighted mean and its weights."""
        parameters = (self.query,) if self.hidden is None else (self.query, self.hidden.weight, self.hidden.bias)

        def attend(batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
            query, *hidden = parameters
            if hidden:
                return _by_slices(batch, _scores(batch, query, *hidden), weights, self.on_empty)
            with without_autocast(query.device.type):
                pooled, attention = batch.attend(query, sliced=True, weights=weights)
            return _on_empty(pooled, batch, weights, self.on_empty), attention

        return in_blocks(batch, weights, attend, *parameters)

    def extra_repr(self) -> str:  # noqa: D102  # see torch.nn.Module
        width, *rest = super().extra_repr().split(", ")
        return ", ".join([width, f"num_heads={self.num_heads}", *rest])


@register(
    "gated_attention",
    formula="Σₜ softmax(s)ₜ xₜ, sₜ = q·(tanh(V xₜ + b) ⊙ σ(U xₜ + c))",
    source="Ilse, Tomczak and Welling 2018",
    also_called=("gated", "gatedattn"),
)
class GatedAttentionPooling(LearnedPooling):
    """Attention with gated scores, sₜ = q·(tanh(V xₜ + b) ⊙ σ(U xₜ + c)), pooled as Σₜ softmax(s)ₜ xₜ.

    Heads are those of `AttentionPooling`: a query and a slice of the features each. The queries start at zero, so the
    layer starts equal to the mean. Cost: 2 · tokens · dim · hidden.

    The result is (batch, dim), in the tokens' dtype; the weights are (batch, heads, seq) or (tokens, heads), in float32
    (float64 for float64). ``embedding_dimension``, ``on_empty`` and ``start`` are described in
    `maskpool.nn.LearnedPooling`.

    References:
        Ilse, Tomczak and Welling 2018, Attention-based Deep Multiple Instance Learning, equation 9.

    Args:
        hidden_dimension: Width of the hidden layer and of its gate.
        num_heads: Number of queries; must divide ``embedding_dimension``.

    Raises:
        InvalidValueError: See `AttentionPooling`.

    See Also:
        `maskpool.functional.gated_attention_scores`: The scores as a function.
        `maskpool.nn.AttentionPooling`: The same without the gate.

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
        *,
        hidden_dimension: int = 128,
        num_heads: int = 1,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        check_sizes(embedding_dimension=embedding_dimension)
        check_heads(num_heads, embedding_dimension, "a token")
        super().__init__(embedding_dimension, start=start, on_empty=on_empty)
        check_sizes(hidden_dimension=hidden_dimension)
        self.hidden_dimension = hidden_dimension
        self.num_heads = num_heads
        self.hidden = nn.Linear(embedding_dimension, hidden_dimension)
        self.gate = nn.Linear(embedding_dimension, hidden_dimension)
        self.query = nn.Parameter(torch.zeros(num_heads, hidden_dimension))

    def learned(self, batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
        """Return the weighted mean and its weights."""
        parameters = (self.query, self.hidden.weight, self.hidden.bias, self.gate.weight, self.gate.bias)

        def attend(batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
            return _by_slices(batch, _gated_scores(batch, *parameters), weights, self.on_empty)

        return in_blocks(batch, weights, attend, *parameters)


@register(
    "structured_attention",
    formula="[Σₜ softmax(sₕ)ₜ xₜ]ₕ, sₕₜ = qₕ·tanh(W xₜ + b)",
    source="Lin et al. 2017",
    also_called=("structured", "selfattentive"),
)
class StructuredAttentionPooling(LearnedPooling):
    """Several attentions over whole tokens, concatenated: hop h is Σₜ softmax(sₕ)ₜ xₜ, sₕₜ = qₕ·tanh(W xₜ + b).

    The queries start at zero: every hop starts equal to the mean, and the loss drives them apart, helped by `penalty`.
    Cost: tokens · dim · (hidden + hops).

    The result is (batch, hops · dim), in the tokens' dtype; the weights are (batch, hops, seq) or (tokens, hops), in
    float32 (float64 for float64). ``embedding_dimension`` and ``on_empty`` are described in
    `maskpool.nn.LearnedPooling`.

    References:
        Lin et al. 2017, A Structured Self-Attentive Sentence Embedding.

    Args:
        num_hops: How many vectors are concatenated.
        hidden_dimension: Width of the hidden layer of the scores.
        start: The mode of the pooling that each hop equals before it learns.

    Raises:
        InvalidValueError: A size is not a positive integer, or ``start`` is not accepted.

    See Also:
        `maskpool.functional.structured_attention_pool`, `maskpool.functional.attention_penalty`: The pooling and the
            penalty as functions.
        `maskpool.nn.AttentionPooling`: Pools a slice of the features by each query, so the width stays the same.

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
        *,
        num_hops: int = 4,
        hidden_dimension: int = 128,
        on_empty: OnEmpty = "zero",
        start: str = "mean",
    ) -> None:
        super().__init__(embedding_dimension, start=start, on_empty=on_empty)
        check_sizes(num_hops=num_hops, hidden_dimension=hidden_dimension)
        self.num_hops = num_hops
        self.hidden_dimension = hidden_dimension
        self.hidden = nn.Linear(embedding_dimension, hidden_dimension)
        self.query = nn.Parameter(torch.zeros(num_hops, hidden_dimension))

    def penalty(self, attention_weights: AttentionWeights, cu_seqlens: Offsets | None = None) -> Tensor:
        """Compute how similar the hops are, ‖A Aᵀ − I‖², for a loss: `maskpool.functional.attention_penalty`."""
        return attention_penalty(attention_weights, cu_seqlens)

    def learned(self, batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
        """Return the hops' means and their weights."""
        parameters = (self.query, self.hidden.weight, self.hidden.bias)

        def attend(batch: TokenBatch, weights: PerToken | None) -> tuple[SentenceEmbeddings, PerToken]:
            return _by_hops(batch, _scores(batch, *parameters), weights, self.on_empty)

        return in_blocks(batch, weights, attend, *parameters)

    def output_dimension(self, embedding_dimension: int) -> int:  # noqa: D102  # see PoolingLayer
        return self.num_hops * embedding_dimension


# -------------------------------------------------------------------------------------------------------------- shared


def attend(batch: TokenBatch, scores: PerToken, weights: PerToken | None) -> tuple[PerToken, PerSentence | None]:
    """Return the softmax of scores over each sentence, and the total token weights if there are weights."""
    if weights is None:
        return batch.softmax(scores), None
    return batch.softmax(scores, weights), batch.total(weights)


def _by_slices(
    batch: TokenBatch, scores: PerToken, weights: PerToken | None, on_empty: OnEmpty
) -> tuple[SentenceEmbeddings, PerToken]:
    attention = batch.softmax(scores, weights)
    return _on_empty(batch.weighted_sum(attention), batch, weights, on_empty), attention


def _on_empty(pooled: PerSentence, batch: TokenBatch, weights: PerToken | None, on_empty: OnEmpty) -> PerSentence:
    if on_empty == "zero":
        return pooled
    return apply_on_empty(pooled, batch, on_empty, None if weights is None else batch.total(weights))


def _by_hops(
    batch: TokenBatch, scores: PerToken, weights: PerToken | None, on_empty: OnEmpty
) -> tuple[SentenceEmbeddings, PerToken]:
    attention, weight = attend(batch, scores, weights)
    return apply_on_empty(batch.weighted_sums(attention).flatten(1), batch, on_empty, weight), attention


def without_autocast(device: str) -> AbstractContextManager[None]:
    """Disable autocast, which would compute products in half precision; some devices do not support it."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _check_scores(batch: TokenBatch, scores: object) -> int:
    """Raise unless the scores fit the batch; return the number of scores per token."""
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise InvalidTypeError("scores", f"must be a floating torch.Tensor, got {kind(scores)}")
    if scores.device != batch.device:
        raise InvalidValueError("scores", f"must be on token_embeddings' device {batch.device}, got {scores.device}")
    shape = tuple(scores.shape)
    if len(batch.shape) == 1:
        (tokens,) = batch.shape
        if scores.dim() != 2 or shape[0] != tokens:
            raise InvalidValueError("scores", f"must have the shape (tokens, heads) = ({tokens}, heads), got {shape}")
    else:
        rows, columns = batch.shape
        if scores.dim() != 3 or shape[0] != rows or shape[2] != columns:
            raise InvalidValueError(
                "scores", f"must have the shape (batch, heads, seq) = ({rows}, heads, {columns}), got {shape}"
            )
    return shape[1]
