"""The base class of layers with parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, overload

from torch import Tensor

from maskpool.batch.checks import check_sizes
from maskpool.batch.token_batch import TokenBatch, TokenEmbeddings
from maskpool.errors import InvalidValueError
from maskpool.poolings.averages import mean
from maskpool.poolings.base import PoolingLayer
from maskpool.poolings.registry import POOLINGS, find
from maskpool.types import (
    AttentionMask,
    AttentionWeights,
    Offsets,
    OnEmpty,
    PerToken,
    SentenceEmbeddings,
    TokenWeights,
)

_PROBE = 7  # any width: a start must keep it


class LearnedPooling(PoolingLayer):
    """A layer with parameters that starts equal to a pooling without parameters.

    The learned part of a subclass starts equal to the mean. With another ``start`` the layer returns learned(x) +
    (start(x) − mean(x)): the start, plus how far the learned pooling has moved from the mean. Results that are several
    tokens wide have the start in each part. ``on_empty`` is described in `maskpool.nn.PoolingLayer`.

    Args:
        embedding_dimension: Width of a token embedding; None takes any.
        start: The mode string of the pooling that the layer equals before it learns: one without parameters or
            required options whose result is as wide as a token.

    Raises:
        InvalidValueError: The dimension is not a positive integer, or ``start`` is unknown or not such a mode.
    """

    takes_token_weights = True
    learns = True

    def __init__(self, embedding_dimension: int | None, *, on_empty: OnEmpty = "zero", start: str = "mean") -> None:
        super().__init__(on_empty=on_empty)
        if embedding_dimension is not None:
            check_sizes(embedding_dimension=embedding_dimension)
        self.embedding_dimension = embedding_dimension
        self.start = start
        if start != "mean":
            layer = find(start, "start")
            if start not in starts():
                raise InvalidValueError("start", f"must be one of {', '.join(map(repr, starts()))}, got {start!r}")
            self.starting = layer()

    @overload
    def forward(
        self,
        token_embeddings: TokenEmbeddings,
        attention_mask: AttentionMask | None = None,
        *,
        return_weights: Literal[False] = False,
        cu_seqlens: Offsets | None = None,
        token_weights: TokenWeights | None = None,
    ) -> SentenceEmbeddings: ...

    @overload
    def forward(
        self,
        token_embeddings: TokenEmbeddings,
        attention_mask: AttentionMask | None = None,
        *,
        return_weights: Literal[True],
        cu_seqlens: Offsets | None = None,
        token_weights: TokenWeights | None = None,
    ) -> tuple[SentenceEmbeddings, AttentionWeights]: ...

    def forward(
        self,
        token_embeddings: TokenEmbeddings,
        attention_mask: AttentionMask | None = None,
        *,
        return_weights: bool = False,
        cu_seqlens: Offsets | None = None,
        token_weights: TokenWeights | None = None,
    ) -> SentenceEmbeddings | tuple[SentenceEmbeddings, AttentionWeights]:
        """Pool a batch.

        The other arguments are described in `maskpool.functional`. The share of each token is multiplied by its weight
        in ``token_weights``.

        Args:
            return_weights: Also return how much the learned part weighs each token.

        Returns:
            (batch, out_dim); with ``return_weights`` also the weights, (batch, heads, seq), exactly 0 at pads, or
            (tokens, heads) for packed and nested batches, in float32 (float64 for float64).

        Raises:
            InvalidTypeError, InvalidValueError: The input is not a batch (see `TokenBatch.of`), the token weights are
                invalid, or the token embeddings have another width than ``embedding_dimension``.
        """
        batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
        weights = None if token_weights is None else batch.token_weights(token_weights)
        pooled, attention = self._pool_with_weights(batch, weights)
        if not return_weights:
            return pooled
        return pooled, batch.to_layout(attention if isinstance(attention, Tensor) else attention())

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return self._pool_with_weights(batch, weights)[0]

    @abstractmethod
    def learned(
        self, batch: TokenBatch, weights: PerToken | None
    ) -> tuple[SentenceEmbeddings, PerToken | Callable[[], PerToken]]:
        """Return the learned part, which starts as the mean, and its token weights or a function for them."""

    def _pool_with_weights(
        self, batch: TokenBatch, weights: PerToken | None
    ) -> tuple[SentenceEmbeddings, PerToken | Callable[[], PerToken]]:
        if self.embedding_dimension is not None and batch.dim != self.embedding_dimension:
            raise InvalidValueError(
                "token_embeddings",
                f"must have embedding_dimension={self.embedding_dimension} features, got {batch.dim}",
            )
        if self.start == "mean":
            return self.learned(batch, weights)
        if weights is not None and not self.starting.takes_token_weights:
            raise InvalidValueError(
                "token_weights", f"need a start that takes token weights, such as 'mean', got start={self.start!r}"
            )
        exact = batch.with_rows(batch.rows().to(batch.accumulation_dtype))
        pooled, attention = self.learned(exact, weights)
        ahead = self.starting.pool(exact, weights) - mean(exact, weights, "zero")
        return (pooled + ahead.repeat(1, pooled.shape[1] // batch.dim)).to(batch.dtype), attention

    def extra_repr(self) -> str:
        """Show the width; a start other than the mean shows as a submodule."""
        width = "" if self.embedding_dimension is None else f"embedding_dimension={self.embedding_dimension}"
        return ", ".join(filter(None, [width, super().extra_repr()]))


def starts() -> list[str]:
    """Return the modes that a learned layer can start from."""
    modes = []
    for mode, layer in POOLINGS.items():
        if not layer.learns and not layer.required_options() and layer().output_dimension(_PROBE) == _PROBE:
            modes.append(mode)
    return modes
