"""Poolings whose weights are learned: attention of every kind, and the terms that train it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from maskpool import segments
from maskpool.checks import check_cu_seqlens
from maskpool.functional.common import OnEmpty, apply_on_empty, token_weights
from maskpool.functional.powers import check_sizes
from maskpool.functional.weighted import mean_pool
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from jaxtyping import Float

    from maskpool.functional.common import Sentences, Tokens, TokenWeights
    from maskpool.tokens import Mask, Offsets


def attention_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    scores: Tensor,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[Sentences, Tensor]:
    """A mean weighted by the softmax of given scores over the real tokens, Σₜ softmax(s)ₜ xₜ.

    With token weights wₜ, each exp(sₜ) is multiplied by its wₜ: Σₜ wₜ exp(sₜ) xₜ / Σₜ wₜ exp(sₜ).

    With several heads, head ``h`` pools features ``h * dim / heads`` to ``(h + 1) * dim / heads``, and
    the heads' results stand side by side. `attention_scores` computes scores with a learned query.

    Source: Yang et al. 2016, Hierarchical Attention Networks, equation 6.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        scores: (batch, heads, seq), or (tokens, heads) for a batch that was not padded; what
            stands at pads is not read.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        The pooled vectors, (batch, dim), in the tokens' dtype, and the weights in the layout of ``scores``, exactly 0
        at pads, in float32 (float64 for float64).

    Raises:
        TypeError: ``scores`` is no floating tensor.
        ValueError: ``scores`` has another shape or device, or dim is no multiple of its heads.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> pooled, weights = attention_pool(x, torch.tensor([[1, 1, 0]]), scores=torch.zeros(1, 1, 3))
        >>> pooled, weights
        (tensor([[2.]]), tensor([[[0.5000, 0.5000, 0.0000]]]))
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    heads = _check_scores(batch, scores)
    if not heads or batch.dim % heads:
        raise ValueError(f"scores must have a number of heads that divides the dimension {batch.dim}, got {heads}")
    attention, weight = _attention(batch, segments.from_layout(batch, scores.to(batch.accumulation_dtype)), weights)
    pooled = apply_on_empty(segments.weighted_sum(batch, attention), batch, on_empty, weight)
    return pooled, segments.to_layout(batch, attention)


def attention_scores(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    query: Float[Tensor, "heads hidden"],
    hidden_weight: Float[Tensor, "hidden dim"] | None = None,
    hidden_bias: Float[Tensor, " hidden"] | None = None,
) -> Tensor:
    """Score real tokens against learned queries: q·x, or additively q·tanh(W x + b).

    Computed in float32 (float64 for float64) whatever the dtype of tokens and parameters.

    Source: Yang et al. 2016, equation 5; Bahdanau et al. 2015 for the additive form.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        query: One query a head, (heads, dim), or (heads, hidden) with a hidden layer.
        hidden_weight: W, (hidden, dim); None scores linearly.
        hidden_bias: b, (hidden,).

    Returns:
        (batch, heads, seq), 0 at pads, or (tokens, heads) for a batch that was not padded, in float32 (float64 for
        float64).

    Raises:
        TypeError: A parameter is no floating tensor.
        ValueError: A parameter has another shape or device, or ``hidden_bias`` came without ``hidden_weight``.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [torch.nan, 0.0]]])
        >>> attention_scores(x, torch.tensor([[1, 1, 0]]), query=torch.tensor([[1.0, 0.0]]))
        tensor([[[1., 3., 0.]]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    exact = batch.accumulation_dtype
    if hidden_weight is None and hidden_bias is not None:
        raise ValueError("hidden_bias must come with the hidden_weight that it belongs to, got hidden_weight=None")
    hidden_layer = {"hidden_weight": (hidden_weight, "hidden dim"), "hidden_bias": (hidden_bias, "hidden")}
    _check_parameters(
        batch,
        query=(query, "heads dim" if hidden_weight is None else "heads hidden"),
        **{name: given for name, given in hidden_layer.items() if given[0] is not None},
    )
    with _without_autocast(query.device.type):
        if hidden_weight is None:
            return segments.to_layout(batch, segments.dot_products(batch, query.to(exact)))
        bias = None if hidden_bias is None else hidden_bias.to(exact)
        hidden = linear(segments.real_rows(batch).to(exact), hidden_weight.to(exact), bias).tanh()
        return segments.to_layout(batch, linear(hidden, query.to(exact)))


def gated_attention_scores(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    query: Float[Tensor, "heads hidden"],
    hidden_weight: Float[Tensor, "hidden dim"],
    hidden_bias: Float[Tensor, " hidden"],
    gate_weight: Float[Tensor, "hidden dim"],
    gate_bias: Float[Tensor, " hidden"],
) -> Tensor:
    """Score real tokens through a gate, q·(tanh(V x + b) ⊙ σ(U x + c)).

    The gate lifts what is nearly linear in tanh's middle. Computed in float32 (float64 for float64).

    Source: Ilse, Tomczak and Welling 2018, Attention-based Deep Multiple Instance Learning, equation 9.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        query: q, one a head, (heads, hidden).
        hidden_weight: V, (hidden, dim).
        hidden_bias: b, (hidden,).
        gate_weight: U, (hidden, dim).
        gate_bias: c, (hidden,).

    Returns:
        (batch, heads, seq), 0 at pads, or (tokens, heads) for a batch that was not padded, in float32 (float64 for
        float64).

    Raises:
        TypeError: A parameter is no floating tensor.
        ValueError: A parameter has another shape or device.

    Example:
        >>> x, one, none = torch.tensor([[[1.0], [torch.nan]]]), torch.ones(1, 1), torch.zeros(1)
        >>> gated_attention_scores(
        ...     x,
        ...     torch.tensor([[1, 0]]),
        ...     query=one,
        ...     hidden_weight=one,
        ...     hidden_bias=none,
        ...     gate_weight=one,
        ...     gate_bias=none,
        ... )
        tensor([[[0.5568, 0.0000]]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    exact = batch.accumulation_dtype
    _check_parameters(
        batch,
        query=(query, "heads hidden"),
        hidden_weight=(hidden_weight, "hidden dim"),
        hidden_bias=(hidden_bias, "hidden"),
        gate_weight=(gate_weight, "hidden dim"),
        gate_bias=(gate_bias, "hidden"),
    )
    with _without_autocast(query.device.type):
        rows = segments.real_rows(batch).to(exact)
        hidden = linear(rows, hidden_weight.to(exact), hidden_bias.to(exact)).tanh()
        gate = linear(rows, gate_weight.to(exact), gate_bias.to(exact)).sigmoid()
        return segments.to_layout(batch, linear(hidden * gate, query.to(exact)))


def structured_attention_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    scores: Tensor,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[Sentences, Tensor]:
    """Several attentions over whole tokens, side by side: Aₕ = softmax(sₕ), the vectors Σₜ Aₕₜ xₜ of all hops h.

    Where `attention_pool` gives each head a slice of the features, each hop here pools all of them. With token
    weights wₜ, each exp(sₜ) is multiplied by its wₜ. `attention_penalty` keeps hops apart in training.

    Source: Lin et al. 2017, A Structured Self-Attentive Sentence Embedding, equations 5 and 6.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        scores: (batch, hops, seq), or (tokens, hops) for a batch that was not padded; what stands at
            pads is not read. `attention_scores` computes them.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is not read.
            A sentence whose weights are all 0 counts as empty.
        on_empty: What a sentence without a real token gets.

    Returns:
        The pooled vectors, (batch, hops · dim), hop after hop, in the tokens' dtype, and the weights in the layout of
        ``scores``, exactly 0 at pads, in float32 (float64 for float64).

    Raises:
        TypeError: ``scores`` is no floating tensor.
        ValueError: ``scores`` has another shape or device, or no hop.

    Example:
        >>> x, scores = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[[0.0, 0.0, 0.0], [0.0, 50.0, 0.0]]])
        >>> structured_attention_pool(x, torch.tensor([[1, 1, 0]]), scores=scores)[0]
        tensor([[2., 3.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    if not _check_scores(batch, scores):
        raise ValueError("scores must have at least one hop, got 0")
    attention, weight = _attention(batch, segments.from_layout(batch, scores.to(batch.accumulation_dtype)), weights)
    pooled = segments.weighted_sums(batch, attention).flatten(1)
    return apply_on_empty(pooled, batch, on_empty, weight), segments.to_layout(batch, attention)


def attention_penalty(weights: Tensor, cu_seqlens: Offsets | None = None) -> Tensor:
    """How alike the hops of an attention are, the mean over sentences of ‖A Aᵀ − I‖².

    A is (hops, tokens) of one sentence; 0 means that each hop has a token of its own. Added to a loss, it drives hops
    apart. Pads, of weight 0, add nothing, and a sentence with no other weights is not counted: where there is no
    token, there is nothing to drive apart. Computed in float32 (float64 for float64).

    Source: Lin et al. 2017, A Structured Self-Attentive Sentence Embedding, equation 8 (their coefficient is up to 1).

    Args:
        weights: (batch, hops, seq), or (tokens, hops) with ``cu_seqlens``, as poolings return them.
        cu_seqlens: (batch + 1,), cumulative lengths.

    Returns:
        A number, (); 0 where no sentence counts.

    Raises:
        TypeError: ``weights`` is no floating tensor, or ``cu_seqlens`` no tensor of integers.
        ValueError: ``weights`` has another number of dimensions, or ``cu_seqlens`` does not cut them into sentences.

    Example:
        >>> attention_penalty(torch.eye(2).unsqueeze(0)), attention_penalty(torch.ones(1, 2, 1))
        (tensor(0.), tensor(2.))
    """
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise TypeError(f"weights must be a floating torch.Tensor, got {_kind(weights)}")
    if weights.dim() != (3 if cu_seqlens is None else 2):
        raise ValueError(
            "weights must have the shape (batch, hops, seq), or (tokens, hops) with cu_seqlens; "
            f"got {tuple(weights.shape)} {'without' if cu_seqlens is None else 'with'} cu_seqlens"
        )
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    if cu_seqlens is None:
        with _without_autocast(weights.device.type):
            alike = weights @ weights.transpose(1, 2)
    else:
        lengths = check_cu_seqlens(cu_seqlens, len(weights))
        if cu_seqlens.device != weights.device:
            raise ValueError(f"cu_seqlens must be on weights' device {weights.device}, got {cu_seqlens.device}")
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=weights.device), lengths)
        pairs = weights.unsqueeze(2) * weights.unsqueeze(1)
        alike = pairs.new_zeros(len(lengths), *pairs.shape[1:]).index_add(0, owner, pairs)
    counted = alike.diagonal(dim1=1, dim2=2).sum(dim=1) != 0
    apart = torch.eye(alike.shape[1], dtype=alike.dtype, device=alike.device)
    squares = (alike - apart).square().sum(dim=(1, 2))
    return torch.where(counted, squares, 0.0).sum() / counted.sum().clamp(min=1)


def multihead_attention_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    queries: Float[Tensor, "queries dim"],
    key_weight: Float[Tensor, "dim dim"],
    value_weight: Float[Tensor, "dim dim"],
    output_weight: Float[Tensor, "dim dim"],
    num_heads: int = 1,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[Sentences, Tensor]:
    """Multi-head attention of learned queries over the real tokens, W_O [softmax(qₕ·Kₕ xₜ / √dₕ)ₜ Vₕ xₜ]ₕ.

    The same as projecting every token to keys and values and attending, at a fraction of the cost: the queries are
    one and the same for all sentences, so that keys fold into them, qₕ·Kₕ xₜ = (Kₕᵀ qₕ)·xₜ, and values, being
    linear, are taken of the pooled tokens. Cost: tokens · dim · heads · queries, and one projection a sentence.

    Source: Lee et al. 2019, Set Transformer, equation 11 (PMA), without the layer norm, the residual query and the
    feed-forward layer around it, which would not let it start as a mean; Vaswani et al. 2017 (the attention).

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        queries: (queries, dim), projected already.
        key_weight: K, (dim, dim); head h has the rows ``h * dim / heads`` to ``(h + 1) * dim / heads``.
        value_weight: V, (dim, dim), by head alike.
        output_weight: W_O, (dim, dim).
        num_heads: Number of heads; must divide dim.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, by which its share of the attention is multiplied.
        on_empty: What a sentence without a real token gets.

    Returns:
        The pooled vectors, (batch, queries · dim), query after query, in the tokens' dtype, and the weights, (batch,
        queries · heads, seq) or (tokens, queries · heads), heads of the first query first, exactly 0 at pads, in
        float32 (float64 for float64).

    Raises:
        TypeError: A parameter is no floating tensor.
        ValueError: A parameter has another shape or device, or ``num_heads`` is no positive integer that divides dim.

    Example:
        >>> x, one = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.ones(1, 1)
        >>> pooled, _ = multihead_attention_pool(
        ...     x, torch.tensor([[1, 1, 0]]), queries=0 * one, key_weight=one, value_weight=2 * one, output_weight=one
        ... )
        >>> pooled
        tensor([[4.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    exact = batch.accumulation_dtype
    _check_heads(batch, num_heads)
    _check_parameters(
        batch,
        queries=(queries, "queries dim"),
        key_weight=(key_weight, "dim dim"),
        value_weight=(value_weight, "dim dim"),
        output_weight=(output_weight, "dim dim"),
    )
    number, width = len(queries), batch.dim // num_heads
    with _without_autocast(queries.device.type):
        by_head = queries.to(exact).view(number, num_heads, width)
        keys = key_weight.to(exact).view(num_heads, width, batch.dim)
        folded = torch.einsum("qhw,hwd->qhd", by_head, keys).flatten(0, 1) / width**0.5
        attention, weight = _attention(batch, segments.dot_products(batch, folded), weights)
        sums = segments.weighted_sums(batch, attention, exact).reshape(-1, number, num_heads, batch.dim)
        values = value_weight.to(exact).view(num_heads, width, batch.dim)
        heads = torch.einsum("bqhd,hwd->bqhw", sums, values).flatten(2)
        pooled = linear(heads, output_weight.to(exact)).flatten(1).to(batch.dtype)
    return apply_on_empty(pooled, batch, on_empty, weight), segments.to_layout(batch, attention)


def latent_attention_pool(
    token_embeddings: Tokens,
    attention_mask: Mask | None = None,
    *,
    latents: Float[Tensor, "latents dim"],
    hidden_weight: Float[Tensor, "hidden dim"],
    hidden_bias: Float[Tensor, " hidden"],
    output_weight: Float[Tensor, "dim hidden"],
    output_bias: Float[Tensor, " dim"],
    num_heads: int = 1,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> tuple[Sentences, Tensor]:
    """The mean of tokens that have attended to a learned dictionary, (1/n) Σₜ (xₜ + MLP(oₜ)).

    Each token is a query to the latents L, which are keys and values, oₜ = softmax(xₜ Lᵀ / √d) L by heads, and
    MLP(o) = W₂ gelu(W₁ o + b₁) + b₂. Cost: tokens · dim · (2 · latents + 2 · hidden), of real tokens alone on CPU.

    Source: Lee et al. 2024, NV-Embed, equations 1 and 2; the residual as in the authors' code.

    Args:
        token_embeddings: (batch, seq, dim); (tokens, dim) with ``cu_seqlens``; a jagged nested tensor,
            or a `TokenBatch`.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        latents: L, (latents, dim).
        hidden_weight: W₁, (hidden, dim).
        hidden_bias: b₁, (hidden,).
        output_weight: W₂, (dim, hidden).
        output_bias: b₂, (dim,).
        num_heads: Number of heads; must divide dim.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: One finite number ≥ 0 a token, its weight in the mean.
        on_empty: What a sentence without a real token gets.

    Returns:
        The pooled vectors, (batch, dim), in the tokens' dtype, and how much each token attends to each latent, the mean
        over heads, (batch, latents, seq) or (tokens, latents), in float32 (float64 for float64): a token's add up to 1,
        and are exactly 0 at pads.

    Raises:
        TypeError: A parameter is no floating tensor.
        ValueError: A parameter has another shape or device, or ``num_heads`` is no positive integer that divides dim.

    Example:
        >>> x, one, none = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.ones(1, 1), torch.zeros(1)
        >>> pooled, _ = latent_attention_pool(
        ...     x, torch.tensor([[1, 1, 0]]), latents=one, hidden_weight=one, hidden_bias=none, output_weight=0 * one,
        ...     output_bias=none,
        ... )
        >>> pooled
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    exact = batch.accumulation_dtype
    _check_heads(batch, num_heads)
    _check_parameters(
        batch,
        latents=(latents, "latents dim"),
        hidden_weight=(hidden_weight, "hidden dim"),
        hidden_bias=(hidden_bias, "hidden"),
        output_weight=(output_weight, "dim hidden"),
        output_bias=(output_bias, "dim"),
    )
    with _without_autocast(latents.device.type):
        rows = segments.real_rows(batch).to(exact)
        dictionary = latents.to(exact).view(len(latents), num_heads, batch.dim // num_heads)
        by_head = rows.reshape(*rows.shape[:-1], *dictionary.shape[1:])
        scores = torch.einsum("...hw,lhw->...hl", by_head, dictionary)
        attention = (scores / dictionary.shape[2] ** 0.5).softmax(dim=-1)
        read = torch.einsum("...hl,lhw->...hw", attention, dictionary).flatten(-2)
        hidden = gelu(linear(read, hidden_weight.to(exact), hidden_bias.to(exact)))
        moved = rows + linear(hidden, output_weight.to(exact), output_bias.to(exact))
        pooled = mean_pool(batch.with_rows(moved), weights=weights, on_empty=on_empty).to(batch.dtype)
    return pooled, segments.to_layout(batch, attention.mean(dim=-2))


def _attention(
    batch: TokenBatch, scores: Float[Tensor, "*token heads"], weights: TokenWeights | None
) -> tuple[Float[Tensor, "*token heads"], Float[Tensor, " batch"] | None]:
    """The softmax of scores by sentence, and, of given token weights, each sentence's sum."""
    if weights is None:
        return segments.softmax(batch, scores), None
    raw = token_weights(batch, weights)
    return segments.softmax(batch, scores, raw), segments.total(batch, raw)


def _without_autocast(device: str) -> AbstractContextManager[None]:
    """Autocast would bring products back to half precision; some devices do not know it."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _check_heads(batch: TokenBatch, num_heads: int) -> None:
    """Raise ValueError unless the heads divide the tokens' width."""
    check_sizes(num_heads=num_heads)
    if batch.dim % num_heads:
        raise ValueError(f"num_heads must divide the dimension {batch.dim} of token_embeddings, got {num_heads}")


def _check_parameters(batch: TokenBatch, **parameters: tuple[object, str]) -> None:
    """Refuse what is no floating tensor of the shape in words beside it.

    A word stands for one and the same size everywhere: ``dim`` for the tokens' width, any other for what the first
    parameter with it has.
    """
    known = {"dim": (batch.dim, "token_embeddings")}
    for name, (parameter, words) in parameters.items():
        sizes = words.split()
        shape = f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
        if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
            raise TypeError(f"{name} must be a floating torch.Tensor of shape {shape}, got {_kind(parameter)}")
        came = tuple(parameter.shape)
        if len(came) != len(sizes) or any(
            size in known and known[size][0] != number for size, number in zip(sizes, came, strict=True)
        ):
            of = "".join(
                f", {size} = {known[size][0]} as of {known[size][1]}" for size in dict.fromkeys(sizes) if size in known
            )
            raise ValueError(f"{name} must have the shape {shape}{of}; got {came}")
        if parameter.device != batch.device:
            raise ValueError(f"{name} must be on token_embeddings' device {batch.device}, got {parameter.device}")
        for size, number in zip(sizes, came, strict=True):
            if size not in known and not number:
                raise ValueError(f"{name} must have at least 1 of the {size} in its shape {shape}, got {came}")
            known.setdefault(size, (number, name))


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _check_scores(batch: TokenBatch, scores: object) -> int:
    """Refuse scores of another form; how many a token has."""
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise TypeError(f"scores must be a floating torch.Tensor, got {_kind(scores)}")
    if scores.device != batch.device:
        raise ValueError(f"scores must be on token_embeddings' device {batch.device}, got {scores.device}")
    shape = tuple(scores.shape)
    if batch.mask is None:
        if scores.dim() != 2 or shape[0] != batch.index.numel():
            raise ValueError(
                f"scores must have the shape (tokens, heads) = ({batch.index.numel()}, heads), got {shape}"
            )
    else:
        rows, columns = batch.mask.shape
        if scores.dim() != 3 or shape[0] != rows or shape[2] != columns:
            raise ValueError(
                f"scores must have the shape (batch, heads, seq) = ({rows}, heads, {columns}), got {shape}"
            )
    return shape[1]
