"""Poolings of several layers' token embeddings: a weighted mix, and the average of the first and the last layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from maskpool.batch.checks import check_on_empty, check_sizes
from maskpool.batch.token_batch import TokenBatch, TokenEmbeddings
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.poolings.averages import MeanPooling, mean
from maskpool.poolings.base import PoolingLayer, explain_arguments
from maskpool.types import AttentionMask, Offsets, OnEmpty, SentenceEmbeddings, TokenWeights

__all__ = ["FirstLastAveragePooling", "LayerMix", "first_last_average_pool", "mix_layers"]


def mix_layers(
    hidden_states: Sequence[TokenEmbeddings],
    attention_mask: AttentionMask | None = None,
    *,
    layer_weights: Tensor,
    cu_seqlens: Offsets | None = None,
) -> TokenBatch:
    """Compute a weighted sum of several layers' real tokens, Σₗ wₗ xₗ, as a batch to pool.

    Computed in float32 (float64 for float64) and returned in it, so the pooling rounds once. The other arguments are
    described in `maskpool.functional`.

    References:
        Peters et al. 2018, ELMo (scalar mix), without its factor γ.

    Args:
        hidden_states: One batch per layer, such as a transformer's ``hidden_states``; each as a pooling takes it.
        layer_weights: (layers,), floating.

    Returns:
        A `TokenBatch` of the mixed tokens.

    Raises:
        InvalidTypeError: ``hidden_states`` is one tensor of token embeddings, or does not hold batches.
        InvalidValueError: ``hidden_states`` is empty, the layers' shapes differ, or there is not one weight per layer.

    See Also:
        `maskpool.nn.LayerMix`: The layer.

    Example:
        >>> from maskpool.functional import mean_pool
        >>> layers = (torch.zeros(1, 2, 1), torch.ones(1, 2, 1))
        >>> mixed = mix_layers(layers, torch.tensor([[1, 0]]), layer_weights=torch.tensor([0.25, 0.75]))
        >>> mean_pool(mixed)
        tensor([[0.7500]])
    """
    batches = _batches(hidden_states, attention_mask, cu_seqlens)
    if not isinstance(layer_weights, Tensor) or not layer_weights.is_floating_point():
        got = layer_weights.dtype if isinstance(layer_weights, Tensor) else type(layer_weights).__name__
        raise InvalidTypeError("layer_weights", f"must be a floating torch.Tensor, got {got}")
    if layer_weights.shape != (len(batches),):
        raise InvalidValueError(
            "hidden_states",
            f"must hold as many layers as layer_weights, {tuple(layer_weights.shape)}, got {len(batches)}",
        )
    first = batches[0]
    exact = torch.promote_types(first.accumulation_dtype, torch.float32)
    mixed: Tensor | float = 0.0
    for batch, weight in zip(batches, layer_weights.to(exact).unbind(), strict=True):
        mixed = mixed + weight * batch.rows().to(exact)
    assert isinstance(mixed, Tensor)
    return first.with_rows(mixed)


def first_last_average_pool(
    hidden_states: Sequence[TokenEmbeddings],
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    token_weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the mean of the real tokens of the first and the last layer, (1/2n) Σₜ (x⁰ₜ + xᴸₜ).

    A transformer's ``hidden_states`` begin with the embedding layer, which Gao et al. average. For the
    first transformer layer instead, pass ``hidden_states[1:]``. The other arguments are described in
    `maskpool.functional`.

    References:
        Su et al. 2021, BERT-whitening; Gao et al. 2021, SimCSE (``avg_first_last``).

    Args:
        hidden_states: One batch per layer, such as a transformer's ``hidden_states``; each as a pooling takes it.

    Returns:
        (batch, dim).

    Raises:
        InvalidTypeError, InvalidValueError: See `mix_layers`.

    See Also:
        `maskpool.nn.FirstLastAveragePooling`: The layer.

    Example:
        >>> layers = (torch.zeros(1, 2, 1), torch.full((1, 2, 1), 9.0), torch.ones(1, 2, 1))
        >>> first_last_average_pool(layers, torch.tensor([[1, 0]]))
        tensor([[0.5000]])
    """
    batches = _batches(hidden_states, attention_mask, cu_seqlens)
    first, last = batches[0], batches[-1]
    weights = None if token_weights is None else first.token_weights(token_weights)
    exact = first.accumulation_dtype
    # Halved before the sum: two float16 numbers near the end of their range would overflow.
    rows = 0.5 * first.rows().to(exact) + 0.5 * last.rows().to(exact)
    return mean(first.with_rows(rows), weights, on_empty).to(first.dtype)


class LayerMix(nn.Module):
    """A learned weighted mix of several layers' tokens, Σₗ softmax(w)ₗ xₗ, pooled as one batch.

    All weights start equal: the layer starts as ``pooling`` of the layers' mean. The mix is computed in float32
    (float64 for float64) and reads real tokens only. Cost: layers · tokens · dim.

    References:
        Peters et al. 2018, ELMo (scalar mix), without its factor γ.

    Args:
        num_layers: Number of layers: for a transformer's ``hidden_states`` its depth + 1.
        pooling: The layer that pools the mix; `MeanPooling` if None.

    Raises:
        InvalidValueError: ``num_layers`` is not a positive integer.
        InvalidTypeError: ``pooling`` is not a maskpool layer.

    See Also:
        `maskpool.functional.mix_layers`: The mix as a function.
        `maskpool.nn.FirstLastAveragePooling`: The mean of two layers.

    Example:
        >>> layers = (torch.zeros(1, 2, 1), torch.full((1, 2, 1), 4.0))
        >>> LayerMix(2)(layers, torch.tensor([[1, 0]])).detach()
        tensor([[2.]])
    """

    @explain_arguments
    def __init__(self, num_layers: int, *, pooling: PoolingLayer | None = None) -> None:
        super().__init__()
        check_sizes(num_layers=num_layers)
        if pooling is not None and not isinstance(pooling, PoolingLayer):
            raise InvalidTypeError("pooling", f"must be a maskpool layer, got {type(pooling).__name__}")
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))
        self.pooling = MeanPooling() if pooling is None else pooling

    @property
    def layer_weights(self) -> Tensor:
        """(layers,), the current weights of the layers; they add up to 1."""
        return torch.softmax(
            self.layer_logits, dim=0, dtype=torch.promote_types(self.layer_logits.dtype, torch.float32)
        )

    @overload
    def forward(
        self,
        hidden_states: Sequence[TokenEmbeddings],
        attention_mask: AttentionMask | None = None,
        *,
        return_weights: Literal[False] = False,
        cu_seqlens: Offsets | None = None,
    ) -> SentenceEmbeddings: ...

    @overload
    def forward(
        self,
        hidden_states: Sequence[TokenEmbeddings],
        attention_mask: AttentionMask | None = None,
        *,
        return_weights: Literal[True],
        cu_seqlens: Offsets | None = None,
    ) -> tuple[SentenceEmbeddings, Tensor]: ...

    def forward(
        self,
        hidden_states: Sequence[TokenEmbeddings],
        attention_mask: AttentionMask | None = None,
        *,
        return_weights: bool = False,
        cu_seqlens: Offsets | None = None,
    ) -> SentenceEmbeddings | tuple[SentenceEmbeddings, Tensor]:
        """Mix and pool.

        The other arguments are described in `maskpool.functional`.

        Args:
            hidden_states: One batch per layer, each (batch, seq, dim), (tokens, dim), nested or a `TokenBatch`.
            return_weights: Also return the layers' weights.

        Returns:
            (batch, out_dim), in the dtype of the hidden states; with ``return_weights`` also the weights, (layers,).

        Raises:
            InvalidTypeError, InvalidValueError: See `maskpool.functional.mix_layers`.
        """
        weights = self.layer_weights
        mixed = mix_layers(hidden_states, attention_mask, layer_weights=weights, cu_seqlens=cu_seqlens)
        pooled = self.pooling.pool(mixed).to(TokenBatch.of(hidden_states[0], attention_mask, cu_seqlens).dtype)
        return (pooled, weights) if return_weights else pooled

    def output_dimension(self, embedding_dimension: int) -> int:
        """Return the width of a sentence embedding, given the width of a token embedding."""
        return self.pooling.output_dimension(embedding_dimension)


class FirstLastAveragePooling(nn.Module):
    """The mean of the first and the last layer: `maskpool.functional.first_last_average_pool` as a layer.

    ``on_empty`` is described in `maskpool.nn.PoolingLayer`.

    References:
        Su et al. 2021, BERT-whitening; Gao et al. 2021, SimCSE (``avg_first_last``).

    Raises:
        InvalidValueError: ``on_empty`` is unknown.

    See Also:
        `maskpool.nn.LayerMix`: Any number of layers, with learned weights.

    Example:
        >>> layers = (torch.zeros(1, 2, 1), torch.full((1, 2, 1), 9.0), torch.ones(1, 2, 1))
        >>> FirstLastAveragePooling()(layers, torch.tensor([[1, 0]]))
        tensor([[0.5000]])
    """

    @explain_arguments
    def __init__(self, *, on_empty: OnEmpty = "zero") -> None:
        super().__init__()
        check_on_empty(on_empty)
        self.on_empty: OnEmpty = on_empty

    def forward(
        self,
        hidden_states: Sequence[TokenEmbeddings],
        attention_mask: AttentionMask | None = None,
        *,
        cu_seqlens: Offsets | None = None,
        token_weights: TokenWeights | None = None,
    ) -> SentenceEmbeddings:
        """Pool the first and the last of the layers.

        The other arguments are described in `maskpool.functional`.

        Args:
            hidden_states: One batch per layer, each (batch, seq, dim), (tokens, dim), nested or a `TokenBatch`.

        Returns:
            (batch, dim).

        Raises:
            InvalidTypeError, InvalidValueError: See `maskpool.functional.first_last_average_pool`.
        """
        return first_last_average_pool(
            hidden_states,
            attention_mask,
            cu_seqlens=cu_seqlens,
            token_weights=token_weights,
            on_empty=self.on_empty,
        )

    def output_dimension(self, embedding_dimension: int) -> int:
        """Return the width of a sentence embedding, given the width of a token embedding."""
        return embedding_dimension


def _batches(
    hidden_states: Sequence[TokenEmbeddings], attention_mask: AttentionMask | None, cu_seqlens: Offsets | None
) -> list[TokenBatch]:
    one_tensor = isinstance(hidden_states, Tensor) and hidden_states.dim() != 4
    if one_tensor or isinstance(hidden_states, (TokenBatch, Mapping)) or not isinstance(hidden_states, Iterable):
        advice = "run the model with output_hidden_states=True"
        if isinstance(hidden_states, Mapping):  # a model's output
            advice = "pass output.hidden_states of the model, run with output_hidden_states=True"
        raise InvalidTypeError(
            "hidden_states",
            "must be a sequence with one batch of token embeddings per layer, "
            f"got one {type(hidden_states).__name__}: {advice}",
        )
    batches = [TokenBatch.of(layer, attention_mask, cu_seqlens) for layer in hidden_states]
    if not batches:
        raise InvalidValueError("hidden_states", "must hold at least one layer, got none")
    first = batches[0]
    for number, batch in enumerate(batches):
        if batch.dim != first.dim or batch.shape != first.shape:
            raise InvalidValueError(
                "hidden_states",
                f"must have one shape in all layers, {(*first.shape, first.dim)}; layer {number} has "
                f"{(*batch.shape, batch.dim)}",
            )
        if not batch.same_sentences(first):
            raise InvalidValueError(
                "hidden_states",
                f"must have the same sentences in all layers; the sentences of layer {number} have other lengths or "
                "places than those of layer 0",
            )
    return batches
