"""Poolings of several layers' token embeddings: a weighted mix, and the average of the first and the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskpool import segments
from maskpool.functional.common import OnEmpty
from maskpool.functional.weighted import mean_pool
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from jaxtyping import Float

    from maskpool.functional.common import Sentences, Tokens, TokenWeights
    from maskpool.tokens import Mask, Offsets


def mix_layers(
    hidden_states: Sequence[Tokens],
    attention_mask: Mask | None = None,
    *,
    layer_weights: Float[Tensor, " layers"],
    cu_seqlens: Offsets | None = None,
) -> TokenBatch:
    """A weighted sum of several layers' real tokens, Σₗ wₗ xₗ, as a batch to be pooled.

    Computed in float32 (float64 for float64), and kept in it: the pooling rounds once.

    Source: Peters et al. 2018, ELMo (scalar mix), without its factor γ.

    Args:
        hidden_states: One batch a layer, such as a transformer's ``hidden_states``; each as a pooling
            takes it.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        layer_weights: (layers,), floating.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.

    Returns:
        A `TokenBatch` of the mixed tokens.

    Raises:
        TypeError: ``hidden_states`` is one tensor of token embeddings, or holds no batches.
        ValueError: There are no layers, their shapes differ, or their number is not that of the weights.

    Example:
        >>> layers = (torch.zeros(1, 2, 1), torch.ones(1, 2, 1))
        >>> mixed = mix_layers(layers, torch.tensor([[1, 0]]), layer_weights=torch.tensor([0.25, 0.75]))
        >>> mean_pool(mixed)
        tensor([[0.7500]])
    """
    batches = _batches(hidden_states, attention_mask, cu_seqlens)
    if not isinstance(layer_weights, Tensor) or not layer_weights.is_floating_point():
        got = layer_weights.dtype if isinstance(layer_weights, Tensor) else type(layer_weights).__name__
        raise TypeError(f"layer_weights must be a floating torch.Tensor, got {got}")
    if layer_weights.shape != (len(batches),):
        raise ValueError(
            f"hidden_states must hold as many layers as layer_weights, {tuple(layer_weights.shape)}, got {len(batches)}"
        )
    first = batches[0]
    exact = torch.promote_types(first.accumulation_dtype, torch.float32)
    mixed: Tensor | float = 0.0
    for batch, weight in zip(batches, layer_weights.to(exact).unbind(), strict=True):
        mixed = mixed + weight * segments.real_rows(batch).to(exact)
    assert isinstance(mixed, Tensor)
    return first.with_rows(mixed)


def first_last_average_pool(
    hidden_states: Sequence[Tokens],
    attention_mask: Mask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    weights: TokenWeights | None = None,
    on_empty: OnEmpty = "zero",
) -> Sentences:
    """The mean of the real tokens of the first and the last layer, (1/2n) Σₜ (x⁰ₜ + xᴸₜ).

    A transformer's ``hidden_states`` begin with the embedding layer, which is what Gao et al. average; for the first
    transformer layer instead, pass ``hidden_states[1:]``.

    Source: Su et al. 2021 (BERT-whitening); Gao et al. 2021, SimCSE (``avg_first_last``).

    Args:
        hidden_states: One batch a layer, such as a transformer's ``hidden_states``; each as a pooling
            takes it.
        attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
        cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
        weights: Token weights, as `mean_pool` takes them.
        on_empty: What a sentence without a real token gets.

    Returns:
        (batch, dim).

    Example:
        >>> layers = (torch.zeros(1, 2, 1), torch.full((1, 2, 1), 9.0), torch.ones(1, 2, 1))
        >>> first_last_average_pool(layers, torch.tensor([[1, 0]]))
        tensor([[0.5000]])
    """
    batches = _batches(hidden_states, attention_mask, cu_seqlens)
    first, last = batches[0], batches[-1]
    exact = first.accumulation_dtype
    # The halves before the sum: two float16 numbers near the end of their range must not meet.
    rows = 0.5 * segments.real_rows(first).to(exact) + 0.5 * segments.real_rows(last).to(exact)
    return mean_pool(first.with_rows(rows), weights=weights, on_empty=on_empty).to(first.dtype)


def _batches(
    hidden_states: Sequence[Tokens], attention_mask: Mask | None, cu_seqlens: Offsets | None
) -> list[TokenBatch]:
    if isinstance(hidden_states, TokenBatch) or (isinstance(hidden_states, Tensor) and hidden_states.dim() != 4):
        raise TypeError(
            "hidden_states must be a sequence with one batch of token embeddings a layer, "
            f"got one {type(hidden_states).__name__}: run the model with output_hidden_states=True"
        )
    batches = [TokenBatch.of(layer, attention_mask, cu_seqlens) for layer in hidden_states]
    if not batches:
        raise ValueError("hidden_states must hold at least one layer, got none")
    first = batches[0]
    for number, batch in enumerate(batches):
        if batch.dim != first.dim or batch.shape != first.shape:
            raise ValueError(
                f"hidden_states must have one shape in all layers, {(*first.shape, first.dim)}; "
                f"layer {number} has {(*batch.shape, batch.dim)}"
            )
        if not batch.dense and not (torch.equal(batch.offsets, first.offsets) and torch.equal(*_places(batch, first))):
            raise ValueError(
                "hidden_states must have one and the same sentences in all layers; the sentences of layer "
                f"{number} have other lengths or places than those of layer 0"
            )
    return batches


def _places(batch: TokenBatch, first: TokenBatch) -> tuple[Tensor, Tensor]:
    masks = (batch.mask, first.mask)
    return (batch.positions, first.positions) if masks[0] is None or masks[1] is None else (masks[0], masks[1])
