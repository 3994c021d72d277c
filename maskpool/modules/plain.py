"""The layers without parameters, one a function of `maskpool.functional`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpool import functional
from maskpool.modules.base import Pooling

if TYPE_CHECKING:
    from maskpool.functional import Sentences
    from maskpool.tokens import TokenBatch


class MeanPooling(Pooling):
    """The mean of the real tokens, (1/n) Σₜ xₜ: `maskpool.functional.mean_pool` as a layer.

    Example:
        >>> MeanPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.mean_pool(batch, on_empty=self.on_empty)


class MeanSqrtLenPooling(Pooling):
    """The sum over the root of the length, (1/√n) Σₜ xₜ: `mean_sqrt_len_pool` as a layer.

    Example:
        >>> MeanSqrtLenPooling()(torch.ones(1, 5, 1), torch.tensor([[1, 1, 1, 1, 0]]))
        tensor([[2.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.mean_sqrt_len_pool(batch, on_empty=self.on_empty)


class PositionWeightedMeanPooling(Pooling):
    """A mean whose weights grow with position, Σₜ pₜ xₜ / Σₜ pₜ: `position_weighted_mean_pool` as a layer.

    Example:
        >>> layer = PositionWeightedMeanPooling()
        >>> layer(torch.tensor([[[99.0], [1.0], [4.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[3.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.position_weighted_mean_pool(batch, on_empty=self.on_empty)


class MaxPooling(Pooling):
    """The largest value of each feature, maxₜ xₜ: `maskpool.functional.max_pool` as a layer.

    Example:
        >>> MaxPooling()(torch.tensor([[[-1.0], [-3.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[-1.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.max_pool(batch, on_empty=self.on_empty)


class CLSPooling(Pooling):
    """The first real token: `maskpool.functional.cls_pool` as a layer.

    Example:
        >>> CLSPooling()(torch.tensor([[[9.0], [1.0], [2.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[1.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.cls_pool(batch, on_empty=self.on_empty)


class LastTokenPooling(Pooling):
    """The last real token: `maskpool.functional.last_token_pool` as a layer.

    Example:
        >>> LastTokenPooling()(torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.last_token_pool(batch, on_empty=self.on_empty)
