"""The base of all layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import nn

from maskpool.functional.common import OnEmpty, check_on_empty
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from maskpool.functional.common import Sentences, Tokens, TokenWeights
    from maskpool.tokens import Mask, Offsets


class Pooling(nn.Module, ABC):
    """A layer that turns token embeddings into one vector a sentence, reading real tokens only.

    Subclasses say how in `pool`; the batch that they are given has been checked.

    Args:
        on_empty: What a sentence without a real token gets: ``"zero"``, ``"nan"`` or ``"raise"``.

    Raises:
        ValueError: Another ``on_empty``.
    """

    def __init__(self, on_empty: OnEmpty = "zero") -> None:
        super().__init__()
        check_on_empty(on_empty)
        self.on_empty: OnEmpty = on_empty

    def forward(
        self, token_embeddings: Tokens, attention_mask: Mask | None = None, *, cu_seqlens: Offsets | None = None
    ) -> Sentences:
        """Pool a batch.

        Args:
            token_embeddings: (batch, seq, dim), any floating dtype; (tokens, dim) or (1, tokens, dim)
                with ``cu_seqlens``; a jagged nested tensor, or a `TokenBatch`.
            attention_mask: (batch, seq), bool or integer, 1 or True at real tokens; with padded
                embeddings only.
            cu_seqlens: (batch + 1,), cumulative lengths, int32 or int64; with packed embeddings only.

        Returns:
            (batch, out_dim), in the dtype and on the device of the tokens.

        Raises:
            TypeError, ValueError: The input is no batch, as `TokenBatch.of` says.
        """
        return self.pool(TokenBatch.of(token_embeddings, attention_mask, cu_seqlens))

    @abstractmethod
    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""

    def extra_repr(self) -> str:
        """Show ``on_empty`` where it is not the default."""
        return "" if self.on_empty == "zero" else f"on_empty={self.on_empty!r}"


class WeightedPooling(Pooling):
    """A layer whose sums take token weights, such as those of `maskpool.weights.IDFWeights`."""

    def forward(
        self,
        token_embeddings: Tokens,
        attention_mask: Mask | None = None,
        *,
        cu_seqlens: Offsets | None = None,
        weights: TokenWeights | None = None,
    ) -> Sentences:
        """Pool a batch.

        Args:
            token_embeddings: (batch, seq, dim), any floating dtype; (tokens, dim) or (1, tokens, dim)
                with ``cu_seqlens``; a jagged nested tensor, or a `TokenBatch`.
            attention_mask: (batch, seq), bool or integer, 1 or True at real tokens; with padded
                embeddings only.
            cu_seqlens: (batch + 1,), cumulative lengths, int32 or int64; with packed embeddings only.
            weights: One finite number ≥ 0 a token, (batch, seq) or (tokens,); what stands at pads is
                not read. A sentence whose weights are all 0 counts as empty.

        Returns:
            (batch, out_dim), in the dtype and on the device of the tokens.

        Raises:
            TypeError, ValueError: The input is no batch, as `TokenBatch.of` says, or the weights are
                negative, not finite or of another shape.
        """
        return self.pool(TokenBatch.of(token_embeddings, attention_mask, cu_seqlens), weights)

    @abstractmethod
    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
