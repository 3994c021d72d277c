"""The interface of the kernels, for both forms of a batch.

A *per-token* tensor has one entry per real token, (tokens, …), in a sparse batch and one per position, (batch, seq, …),
in a padded batch. A *per-sentence* tensor is (sentences, …) in both. Empty sentences give 0. Sums are computed in the
accumulation dtype, float32 (float64 for float64).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

from maskpool.types import Lengths, PerSentence, PerToken

Parameter: TypeAlias = Tensor | float | None

# The exponent of a token without weight is capped: e^40 times 0 is 0 in every dtype that sums are computed in.
HIGHEST_EXPONENT = 40.0


class Formula(NamedTuple):
    """One formula in two forms, for poolings that transform the tokens before they sum them.

    Attributes:
        of_rows: Of one sentence's tokens, (tokens, dim), with at least one token, their weights and a hyperparameter.
        of_batch: Of a whole batch, the same inputs, in differentiable operations.
        gradient: The gradient by one sentence's tokens, given also its vector, (out_dim,), and the gradient by that.
    """

    of_rows: Callable[[Tensor, Tensor | None, Parameter], Tensor]
    of_batch: Callable[[Kernels, Tensor | None, Parameter], Tensor]
    gradient: Callable[[Tensor, Tensor | None, Parameter, Tensor, Tensor], Tensor]


class Kernels(ABC):
    """The reductions of a batch.

    Attributes:
        dim: Width of a token embedding.
        dtype: Dtype of the token embeddings.
        device: Device of the token embeddings.
        accumulation_dtype: Dtype of weights and sums: float64 for float64, else float32.
        score_dtype: Dtype of attention scores: float64 where the device supports it. A score of 100 in float32 is off
            by up to 1e-5, and so is the weight that is its exponential.
    """

    dim: int
    dtype: torch.dtype
    device: torch.device
    accumulation_dtype: torch.dtype
    score_dtype: torch.dtype

    @property
    @abstractmethod
    def lengths(self) -> Lengths:
        """Number of real tokens of each sentence, int64."""

    # ------------------------------------------------------------------------------------------------------------ sums

    def scaled_sum(self, scale: PerSentence) -> PerSentence:
        """Return sₛ Σₜ xₜ, (sentences, dim); every token is scaled before it is added."""
        return self.weighted_sum(self.spread(scale), uniform=True)

    @abstractmethod
    def weighted_sum(self, weights: PerToken | None, uniform: bool = False) -> PerSentence:
        """Return Σₜ wₜ xₜ, (sentences, dim); None weighs every token 1.

        Weights with a last dimension of heads, (…, heads): head ``h`` sums its own slice of ``dim / heads`` features.
        ``uniform`` promises that all weights of a sentence are equal, which is faster for halves.
        """

    @abstractmethod
    def fixed_weights(self, name: str, compute: Callable[[], PerToken]) -> PerToken:
        """Return weights that depend only on which tokens are real, computed once for each pattern of these."""

    @abstractmethod
    def weighted_sums(self, weights: PerToken, dtype: torch.dtype | None = None) -> PerSentence:
        """Return Σₜ wₜₕ xₜ of whole tokens for each head, (sentences, heads, dim), in the tokens' or another dtype."""

    @abstractmethod
    def total(self, per_token: PerToken) -> PerSentence:
        """Return Σₜ of per-token numbers: exact for integers, in float64 in a sparse batch for others."""

    @abstractmethod
    def by_sentence(
        self, formula: Formula, weights: PerToken | None = None, parameter: Parameter = None
    ) -> PerSentence:
        """Apply a formula to each sentence; return (sentences, …) in the batch's dtype."""

    # --------------------------------------------------------------------------------------------------------- choices

    @abstractmethod
    def maximum(self) -> PerSentence:
        """Return each feature's largest value, (sentences, dim). Tied tokens share the gradient equally."""

    @abstractmethod
    def minimum(self) -> PerSentence:
        """Return each feature's smallest value, (sentences, dim). Tied tokens share the gradient equally."""

    @abstractmethod
    def lower_median(self) -> PerSentence:
        """Return each feature's lower median, (sentences, dim)."""

    @abstractmethod
    def mean_of_largest(self, k: int) -> PerSentence:
        """Return the mean of each feature's ``k`` largest values (of all values if there are fewer)."""

    @abstractmethod
    def first(self) -> PerSentence:
        """Return the first real token, (sentences, dim)."""

    @abstractmethod
    def last(self) -> PerSentence:
        """Return the last real token, (sentences, dim)."""

    # ------------------------------------------------------------------------------------------------------- attention

    @abstractmethod
    def dot_products(self, queries: Tensor) -> PerToken:
        """Return qₕ·xₜ for every token and query, (…, heads), in the queries' dtype; 0 at pads."""

    @abstractmethod
    def softmax(self, scores: PerToken, weights: PerToken | None = None) -> PerToken:
        """Return wₜ exp(sₜ) / Σₜ wₜ exp(sₜ) in the accumulation dtype; 0 at pads."""

    def attend(
        self, queries: Tensor, sliced: bool, weights: PerToken | None = None, dtype: torch.dtype | None = None
    ) -> tuple[PerSentence, PerToken]:
        """Return Σₜ softmax(qₕ·xₜ)ₜ xₜ and the weights; sums as `weighted_sums`, or ``sliced`` as `weighted_sum`."""
        attention = self.softmax(self.dot_products(queries.to(self.score_dtype)), weights)
        return (self.weighted_sum(attention) if sliced else self.weighted_sums(attention, dtype)), attention

    # ------------------------------------------------------------------------------- between tokens, sentences, layouts

    @abstractmethod
    def spread(self, per_sentence: PerSentence) -> PerToken:
        """Return for each token its sentence's number or vector."""

    @abstractmethod
    def rows(self) -> PerToken:
        """Return the token embeddings as a per-token tensor; 0 at pads."""

    @abstractmethod
    def ones(self) -> PerToken:
        """Return the number 1 for each token, in the accumulation dtype."""

    @abstractmethod
    def with_rows(self, rows: PerToken) -> Self:
        """Return a batch of the same sentences with other token embeddings, of any width and floating dtype."""

    @abstractmethod
    def from_positions(self, per_position: Tensor) -> PerToken:
        """Convert numbers in the caller's layout, (batch, seq) or (tokens,), to a per-token tensor; 0 at pads."""

    @abstractmethod
    def to_layout(self, per_token: PerToken) -> Tensor:
        """Convert per-token numbers, (…, heads), to (batch, heads, seq), 0 at pads, or (tokens, heads)."""

    @abstractmethod
    def from_layout(self, per_position: Tensor) -> PerToken:
        """Invert `to_layout`; numbers at pads are dropped or, in a padded batch, ignored later."""
