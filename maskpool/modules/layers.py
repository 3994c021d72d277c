"""Layers that pool several layers of a transformer: a learned mix, and first-last average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn

from maskpool import functional
from maskpool.functional.common import OnEmpty, check_on_empty
from maskpool.modules.base import Pooling
from maskpool.modules.weighted import MeanPooling

if TYPE_CHECKING:
    from maskpool.functional.common import Sentences, Tokens, TokenWeights
    from maskpool.tokens import Mask, Offsets


class LayerMix(nn.Module):
    """A learned weighted mix of several layers' tokens, Σₗ softmax(w)ₗ xₗ, pooled as one batch.

    All weights start equal: the layer starts as ``pooling``, whichever that is, of the layers' mean. The mix is
    computed in float32 (float64 for float64) and reads real tokens only. Cost: layers · tokens · dim.

    Source: Peters et al. 2018, ELMo (scalar mix), without its factor γ.

    Args:
        num_layers: How many layers there are: of a transformer's ``hidden_states``, its depth + 1.
        pooling: The layer that pools the mix; `MeanPooling` if None.

    Raises:
        ValueError: ``num_layers`` is no positive integer.
        TypeError: ``pooling`` is no maskpool layer.

    Example:
        >>> layers = (torch.zeros(1, 2, 1), torch.full((1, 2, 1), 4.0))
        >>> LayerMix(2)(layers, torch.tensor([[1, 0]])).detach()
        tensor([[2.]])
    """

    def __init__(self, num_layers: int, pooling: Pooling | None = None) -> None:
        super().__init__()
        if not isinstance(num_layers, int) or isinstance(num_layers, bool) or num_layers < 1:
            raise ValueError(f"num_layers must be a positive integer, got {num_layers!r}")
        if pooling is not None and not isinstance(pooling, Pooling):
            raise TypeError(f"pooling must be a maskpool layer, got {type(pooling).__name__}")
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))
        self.pooling = MeanPooling() if pooling is None else pooling

    @property
    def layer_weights(self) -> Tensor:
        """(layers,), what each layer weighs now; they add up to 1."""
        return torch.softmax(
            self.layer_logits, dim=0, dtype=torch.promote_types(self.layer_logits.dtype, torch.float32)
        )

    @overload
    def forward(
        self,
        hidden_states: Sequence[Tokens],
        attention_mask: Mask | None = None,
        return_weights: Literal[False] = False,
        *,
        cu_seqlens: Offsets | None = None,
    ) -> Sentences: ...

    @overload
    def forward(
        self,
        hidden_states: Sequence[Tokens],
        attention_mask: Mask | None = None,
        *,
        return_weights: Literal[True],
        cu_seqlens: Offsets | None = None,
    ) -> tuple[Sentences, Tensor]: ...

    def forward(
        self,
        hidden_states: Sequence[Tokens],
        attention_mask: Mask | None = None,
        return_weights: bool = False,
        *,
        cu_seqlens: Offsets | None = None,
    ) -> Sentences | tuple[Sentences, Tensor]:
        """Mix and pool.

        Args:
            hidden_states: One batch a layer, each (batch, seq, dim), (tokens, dim), nested or a `TokenBatch`.
            attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
            return_weights: Give the layers' weights, too.
            cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.

        Returns:
            (batch, out_dim), in the dtype of the hidden states; with ``return_weights`` also the weights, (layers,).

        Raises:
            TypeError, ValueError: As `maskpool.functional.mix_layers` says.
        """
        weights = self.layer_weights
        mixed = functional.mix_layers(hidden_states, attention_mask, layer_weights=weights, cu_seqlens=cu_seqlens)
        pooled = self.pooling.pool(mixed).to(hidden_states[0].dtype)
        return (pooled, weights) if return_weights else pooled


class FirstLastAveragePooling(nn.Module):
    """The mean of the first and the last layer: `maskpool.functional.first_last_average_pool` as a layer.

    Args:
        on_empty: What a sentence without a real token gets: ``"zero"``, ``"nan"`` or ``"raise"``.

    Example:
        >>> layers = (torch.zeros(1, 2, 1), torch.full((1, 2, 1), 9.0), torch.ones(1, 2, 1))
        >>> FirstLastAveragePooling()(layers, torch.tensor([[1, 0]]))
        tensor([[0.5000]])
    """

    def __init__(self, on_empty: OnEmpty = "zero") -> None:
        super().__init__()
        check_on_empty(on_empty)
        self.on_empty: OnEmpty = on_empty

    def forward(
        self,
        hidden_states: Sequence[Tokens],
        attention_mask: Mask | None = None,
        *,
        cu_seqlens: Offsets | None = None,
        weights: TokenWeights | None = None,
    ) -> Sentences:
        """Pool the first and the last of the layers.

        Args:
            hidden_states: One batch a layer, each (batch, seq, dim), (tokens, dim), nested or a `TokenBatch`.
            attention_mask: (batch, seq), 1 or True at real tokens; with padded embeddings only.
            cu_seqlens: (batch + 1,), cumulative lengths; with packed embeddings only.
            weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,).

        Returns:
            (batch, dim).

        Raises:
            TypeError, ValueError: As `maskpool.functional.first_last_average_pool` says.
        """
        return functional.first_last_average_pool(
            hidden_states, attention_mask, cu_seqlens=cu_seqlens, weights=weights, on_empty=self.on_empty
        )
