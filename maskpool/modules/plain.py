"""The layers that choose numbers, one a function of `maskpool.functional`; no weights, no parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpool import functional
from maskpool.functional.selection import check_k
from maskpool.modules.base import Pooling

if TYPE_CHECKING:
    from maskpool.functional.common import OnEmpty, Sentences
    from maskpool.tokens import TokenBatch


class MaxPooling(Pooling):
    """The largest value of each feature, maxₜ xₜ: `maskpool.functional.max_pool` as a layer.

    Example:
        >>> MaxPooling()(torch.tensor([[[-1.0], [-3.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[-1.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.max_pool(batch, on_empty=self.on_empty)


class MinPooling(Pooling):
    """The smallest value of each feature, minₜ xₜ: `maskpool.functional.min_pool` as a layer.

    Example:
        >>> MinPooling()(torch.tensor([[[1.0], [3.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[1.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.min_pool(batch, on_empty=self.on_empty)


class MedianPooling(Pooling):
    """The lower median of each feature: `maskpool.functional.median_pool` as a layer.

    Example:
        >>> MedianPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[1.]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.median_pool(batch, on_empty=self.on_empty)


class TopKMeanPooling(Pooling):
    """The mean of the ``k`` largest values of each feature: `maskpool.functional.topk_mean_pool` as a layer.

    Args:
        k: How many values, at least 1.
        on_empty: What a sentence without a real token gets.

    Example:
        >>> TopKMeanPooling(k=2)(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """

    def __init__(self, k: int, on_empty: OnEmpty = "zero") -> None:
        super().__init__(on_empty)
        check_k(k)
        self.k = k

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.topk_mean_pool(batch, k=self.k, on_empty=self.on_empty)

    def extra_repr(self) -> str:
        """Show the hyperparameter."""
        return ", ".join(filter(None, [f"k={self.k}", super().extra_repr()]))


class LogSumExpPooling(Pooling):
    """A smooth maximum of each feature, log Σₜ exp(xₜ): `maskpool.functional.logsumexp_pool` as a layer.

    Example:
        >>> LogSumExpPooling()(torch.zeros(1, 3, 1), torch.tensor([[1, 1, 0]]))
        tensor([[0.6931]])
    """

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.logsumexp_pool(batch, on_empty=self.on_empty)


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
