"""The base of the layers that learn, and the generalised mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn

from maskpool import functional, segments
from maskpool.functional.powers import check_positive, check_sizes
from maskpool.modules.base import Pooling, WeightedPooling
from maskpool.modules.plain import (
    CLSPooling,
    LastTokenPooling,
    LogSumExpPooling,
    MaxPooling,
    MedianPooling,
    MinPooling,
)
from maskpool.modules.weighted import (
    MeanPooling,
    MeanSqrtLenPooling,
    PositionWeightedMeanPooling,
    SoftmaxPooling,
    StdPooling,
    SumPooling,
)
from maskpool.tokens import TokenBatch

if TYPE_CHECKING:
    from maskpool.functional.common import OnEmpty, Sentences, Tokens, TokenWeights
    from maskpool.tokens import Mask, Offsets

# Those without parameters whose result is as wide as a token.
STARTS: dict[str, type[Pooling]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "cls": CLSPooling,
    "lasttoken": LastTokenPooling,
    "weightedmean": PositionWeightedMeanPooling,
    "mean_sqrt_len_tokens": MeanSqrtLenPooling,
    "min": MinPooling,
    "sum": SumPooling,
    "std": StdPooling,
    "median": MedianPooling,
    "logsumexp": LogSumExpPooling,
    "softmax": SoftmaxPooling,
}


class LearnedPooling(WeightedPooling):
    """A layer with parameters, which starts equal to a pooling without any.

    What subclasses learn starts equal to the mean. With another ``start``, the layer gives
    learned(x) + (start(x) − mean(x)): the start, and on top of it how far the learned pooling has left
    the mean. Results that are several tokens wide have the start in each part.

    Args:
        embedding_dimension: Width of a token embedding; None takes any.
        start: A mode string of ``STARTS``.
        on_empty: What a sentence without a real token gets.

    Raises:
        ValueError: A dimension that is no positive integer, or another ``start``.
    """

    def __init__(self, embedding_dimension: int | None, start: str = "mean", on_empty: OnEmpty = "zero") -> None:
        super().__init__(on_empty)
        if embedding_dimension is not None:
            check_sizes(embedding_dimension=embedding_dimension)
        if start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(map(repr, STARTS))}, got {start!r}")
        self.embedding_dimension = embedding_dimension
        self.start = start
        if start != "mean":
            self.starting = STARTS[start]()

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
            return_weights: Give what the learned part weighs each token, too.
            cu_seqlens: (batch + 1,), cumulative lengths, int32 or int64; with packed embeddings only.
            weights: Token weights, one finite number ≥ 0 a token, by which each token's share is
                multiplied; (batch, seq) or (tokens,).

        Returns:
            (batch, out_dim); with ``return_weights`` also the weights, (batch, heads, seq), exactly 0 at
            pads, or (tokens, heads) for a batch that was not padded, in float32 (float64 for float64).

        Raises:
            TypeError, ValueError: The input is no batch, as `TokenBatch.of` says, the weights are none, or the
                token embeddings have another width than ``embedding_dimension``.
        """
        batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
        pooled, shares = self._pool_with_weights(batch, weights)
        if not return_weights:
            return pooled
        return pooled, shares if isinstance(shares, Tensor) else shares()

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return self._pool_with_weights(batch, weights)[0]

    @abstractmethod
    def learned(
        self, batch: TokenBatch, weights: TokenWeights | None
    ) -> tuple[Sentences, Tensor | Callable[[], Tensor]]:
        """What starts as the mean, and what it weighs each token, or how to find that out where pooling need not."""

    def _pool_with_weights(
        self, batch: TokenBatch, weights: TokenWeights | None
    ) -> tuple[Sentences, Tensor | Callable[[], Tensor]]:
        if self.embedding_dimension is not None and batch.dim != self.embedding_dimension:
            raise ValueError(
                f"token_embeddings must have embedding_dimension={self.embedding_dimension} features, got {batch.dim}"
            )
        if self.start == "mean":
            return self.learned(batch, weights)
        exact = batch.with_rows(segments.real_rows(batch).to(batch.accumulation_dtype))
        pooled, shares = self.learned(exact, weights)
        if weights is None:
            start = self.starting.pool(exact)
        elif isinstance(self.starting, WeightedPooling):
            start = self.starting.pool(exact, weights)
        else:
            raise ValueError(f"weights need a start whose sums take them, such as 'mean', got start={self.start!r}")
        ahead = start - functional.mean_pool(exact, weights=weights)
        return (pooled + ahead.repeat(1, pooled.shape[1] // batch.dim)).to(batch.dtype), shares

    def extra_repr(self) -> str:
        """Show the width; a start that is not the default shows as a layer inside."""
        width = "" if self.embedding_dimension is None else f"embedding_dimension={self.embedding_dimension}"
        return ", ".join(filter(None, [width, super().extra_repr()]))


class GeneralizedMeanPooling(LearnedPooling):
    """The signed power mean of each feature, sign(s) |s|^(1/p) with s = (1/n) Σₜ sign(xₜ) |xₜ|ᵖ and a learned p.

    One exponent serves all features. It is held as its logarithm, so that no step of training can make
    it negative; at ``p=1`` the layer starts equal to the mean (or to ``start``). Powers are float32 inside (float64
    for float64). Cost: tokens · dim powers.

    The result is (batch, dim), in the tokens' dtype. The weights beside it, (batch, dim, seq) or (tokens, dim), are
    those of `generalized_mean_weights`, |xₜ|ᵖ⁻¹ / Σₜ |xₜ|ᵖ⁻¹ of each feature, in float32 (float64 for float64) and
    without a gradient.

    Source: Radenović et al. 2018, Fine-tuning CNN Image Retrieval (GeM); Rücklé et al. 2018 for the signs.

    Args:
        p: Where the exponent starts, above 0.
        on_empty: What a sentence without a real token gets.
        start: The pooling that the layer equals at ``p=1``.

    Example:
        >>> GeneralizedMeanPooling(p=3.0)(torch.tensor([[[1.0], [7.0], [99.0]]]), torch.tensor([[1, 1, 0]])).detach()
        tensor([[5.5613]])
    """

    def __init__(self, p: float = 1.0, on_empty: OnEmpty = "zero", start: str = "mean") -> None:
        super().__init__(None, start, on_empty)
        check_positive("p", p)
        self.log_p = nn.Parameter(torch.tensor(float(p)).log())

    @property
    def p(self) -> Tensor:
        """The exponent as it is now."""
        return self.log_p.float().exp() if self.log_p.dtype != torch.float64 else self.log_p.exp()

    def learned(self, batch: TokenBatch, weights: TokenWeights | None) -> tuple[Sentences, Callable[[], Tensor]]:
        """The power mean, and how to find what it weighs each number, which costs as much again."""
        p = self.p.to(batch.accumulation_dtype)
        pooled = functional.generalized_mean_pool(batch, p=p, weights=weights, on_empty=self.on_empty)
        return pooled, partial(functional.generalized_mean_weights, batch, p=p, weights=weights)


def check_heads(embedding_dimension: int, num_heads: int) -> None:
    """Raise ValueError unless the heads divide the width."""
    check_sizes(embedding_dimension=embedding_dimension, num_heads=num_heads)
    if embedding_dimension % num_heads:
        raise ValueError(f"num_heads must divide embedding_dimension {embedding_dimension}, got {num_heads}")
