"""The layers whose sums take token weights, one a function of `maskpool.functional`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpool import functional
from maskpool.functional.powers import check_positive
from maskpool.modules.base import WeightedPooling

if TYPE_CHECKING:
    from maskpool.functional.common import OnEmpty, Sentences, TokenWeights
    from maskpool.tokens import TokenBatch


class MeanPooling(WeightedPooling):
    """The mean of the real tokens, (1/n) Σₜ xₜ: `maskpool.functional.mean_pool` as a layer.

    Example:
        >>> MeanPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.mean_pool(batch, weights=weights, on_empty=self.on_empty)


class MeanSqrtLenPooling(WeightedPooling):
    """The sum over the root of the length, (1/√n) Σₜ xₜ: `mean_sqrt_len_pool` as a layer.

    Example:
        >>> MeanSqrtLenPooling()(torch.ones(1, 5, 1), torch.tensor([[1, 1, 1, 1, 0]]))
        tensor([[2.]])
    """

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.mean_sqrt_len_pool(batch, weights=weights, on_empty=self.on_empty)


class PositionWeightedMeanPooling(WeightedPooling):
    """A mean whose weights grow with position, Σₜ pₜ xₜ / Σₜ pₜ: `position_weighted_mean_pool` as a layer.

    Example:
        >>> layer = PositionWeightedMeanPooling()
        >>> layer(torch.tensor([[[99.0], [1.0], [4.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[3.]])
    """

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.position_weighted_mean_pool(batch, weights=weights, on_empty=self.on_empty)


class SumPooling(WeightedPooling):
    """The sum of the real tokens, Σₜ xₜ: `maskpool.functional.sum_pool` as a layer.

    Example:
        >>> SumPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[4.]])
    """

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.sum_pool(batch, weights=weights, on_empty=self.on_empty)


class StdPooling(WeightedPooling):
    """The standard deviation of each feature: `maskpool.functional.std_pool` as a layer.

    Example:
        >>> StdPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[1.]])
    """

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.std_pool(batch, weights=weights, on_empty=self.on_empty)


class MeanStdPooling(WeightedPooling):
    """Mean and standard deviation side by side: `maskpool.functional.mean_std_pool` as a layer.

    Example:
        >>> MeanStdPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2., 1.]])
    """

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.mean_std_pool(batch, weights=weights, on_empty=self.on_empty)


class SoftmaxPooling(WeightedPooling):
    """A mean that weighs large values more, Σₜ softmax(x/τ)ₜ xₜ: `softmax_pool` as a layer.

    Args:
        temperature: τ, above 0; large values give the mean, small ones the maximum.
        on_empty: What a sentence without a real token gets.

    Example:
        >>> SoftmaxPooling(temperature=1e-3)(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[3.]])
    """

    def __init__(self, temperature: float = 1.0, on_empty: OnEmpty = "zero") -> None:
        super().__init__(on_empty)
        check_positive("temperature", temperature)
        self.temperature = temperature

    def pool(self, batch: TokenBatch, weights: TokenWeights | None = None) -> Sentences:
        """Pool a batch that has been checked."""
        return functional.softmax_pool(batch, temperature=self.temperature, weights=weights, on_empty=self.on_empty)

    def extra_repr(self) -> str:
        """Show the hyperparameter."""
        return ", ".join(filter(None, [f"temperature={self.temperature}", super().extra_repr()]))
