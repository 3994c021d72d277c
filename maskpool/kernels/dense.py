"""The kernels of a padded batch: `torch.where` on the mask, then a reduction.

No shape depends on the mask's values and the host never waits, so the kernels run under `torch.compile`,
`torch.export`, `torch.func` and on every device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from maskpool.kernels.base import HIGHEST_EXPONENT, Formula, Kernels, Parameter
from maskpool.types import Index, Padded, PaddedMask, PerSentence, PerToken


class DenseKernels(Kernels):
    """Kernels over ``padded`` where ``mask`` is True."""

    padded: Padded
    mask: PaddedMask

    # ------------------------------------------------------------------------------------------------------------ sums

    def weighted_sum(self, weights: PerToken | None, uniform: bool = False) -> PerSentence:  # noqa: D102  # see Kernels
        x = self.rows().to(self.accumulation_dtype)
        if weights is None:
            return x.sum(dim=1).to(self.dtype)
        w = self._where_real(weights)
        if w.dim() == 2:
            return (x * w.unsqueeze(2)).sum(dim=1).to(self.dtype)
        by_head = x.reshape(*w.shape, self.dim // w.shape[2])
        return (by_head * w.unsqueeze(3)).sum(dim=1).flatten(1).to(self.dtype)

    def fixed_weights(self, name: str, compute: Callable[[], PerToken]) -> PerToken:  # noqa: D102  # see Kernels
        return compute()

    def weighted_sums(self, weights: PerToken, dtype: torch.dtype | None = None) -> PerSentence:  # noqa: D102  # see Kernels
        x = self.rows().to(self.accumulation_dtype)
        by_head = self._where_real(weights).unbind(2)  # one at a time: all at once would take heads times the memory
        sums = torch.stack([(x * w.unsqueeze(2)).sum(dim=1) for w in by_head], dim=1)
        return sums.to(self.dtype if dtype is None else dtype)

    def total(self, per_token: PerToken) -> PerSentence:  # noqa: D102  # see Kernels
        return self._where_real(per_token).sum(dim=1)

    def by_sentence(
        self, formula: Formula, weights: PerToken | None = None, parameter: Parameter = None
    ) -> PerSentence:
        """Apply the formula to the whole batch."""
        return formula.of_batch(self, weights, parameter).to(self.dtype)

    # --------------------------------------------------------------------------------------------------------- choices

    def maximum(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._extreme(largest=True)

    def minimum(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._extreme(largest=False)

    def _extreme(self, largest: bool) -> PerSentence:
        if self.padded.shape[1] == 0:
            return self.padded.sum(dim=1)
        x = torch.where(self.mask.unsqueeze(2), self.padded, float("-inf" if largest else "inf"))
        return self._zero_if_empty(x.amax(dim=1) if largest else x.amin(dim=1))

    def lower_median(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._at(self._threshold((self.lengths - 1) // 2))

    def mean_of_largest(self, k: int) -> PerSentence:  # noqa: D102  # see Kernels
        kept = self.lengths.clamp(max=k)
        threshold = self._threshold(self.lengths - kept)
        above = self.mask.unsqueeze(2) & (self.padded.detach() > threshold.unsqueeze(1))
        larger = torch.where(above, self.padded, 0.0).to(self.accumulation_dtype).sum(dim=1)
        rest = (kept.unsqueeze(1) - above.sum(dim=1)) * self._at(threshold).to(self.accumulation_dtype)
        mean = (larger + rest) / kept.clamp(min=1).unsqueeze(1)
        return self._zero_if_empty(mean).to(self.dtype)

    def _threshold(self, place: Index) -> PerSentence:
        """Return each feature's number at ``place`` in the order of its real ones; NaN if one of them is NaN."""
        if self.padded.shape[1] == 0:
            return self.padded.detach().sum(dim=1)
        x = torch.where(self.mask.unsqueeze(2), self.padded.detach(), float("inf"))
        where = place.clamp(min=0).view(-1, 1, 1).expand(-1, 1, self.dim)
        at = x.sort(dim=1).values.gather(1, where).squeeze(1)
        return torch.where(x.isnan().any(dim=1), torch.nan, at)

    def _at(self, threshold: PerSentence) -> PerSentence:
        """Return the threshold with the gradient of the tokens that hold it, which share it as in `torch.amax`."""
        if self.padded.shape[1] == 0:
            return self.padded.sum(dim=1)
        held = self.mask.unsqueeze(2) & (self.padded.detach() == threshold.unsqueeze(1))
        at = torch.where(held, self.padded, float("-inf")).amax(dim=1)
        return self._zero_if_empty(torch.where(threshold.isnan(), torch.nan, at))

    def first(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._take(first_column(self.mask))

    def last(self) -> PerSentence:  # noqa: D102  # see Kernels
        return self._take(self.mask.shape[1] - 1 - first_column(self.mask.flip(1)))

    def _take(self, column: Index) -> PerSentence:
        if self.padded.shape[1] == 0:
            return self.padded.sum(dim=1)
        where = column.to(torch.int64).view(-1, 1, 1).expand(-1, 1, self.dim)
        return self._zero_if_empty(self.padded.gather(1, where).squeeze(1))

    def _zero_if_empty(self, pooled: PerSentence) -> PerSentence:
        return torch.where(self.mask.any(dim=1, keepdim=True), pooled, 0.0)

    # ------------------------------------------------------------------------------------------------------- attention

    def dot_products(self, queries: Tensor) -> PerToken:  # noqa: D102  # see Kernels
        return linear(self.rows().to(queries.dtype), queries)

    def softmax(self, scores: PerToken, weights: PerToken | None = None) -> PerToken:  # noqa: D102  # see Kernels
        real = self.mask.unsqueeze(2)
        # Tokens without weight do not set the scale: their scores may exceed the others', and exp may overflow.
        weighed = scores if weights is None else torch.where(weights.unsqueeze(-1) == 0, float("-inf"), scores)
        kept = torch.where(real, weighed, float("-inf")).detach()
        top = kept.amax(dim=1, keepdim=True) if kept.shape[1] else kept.sum(dim=1, keepdim=True)
        top = torch.where(top.isneginf(), 0.0, top)
        raised = torch.where(real, scores - top, 0.0).clamp(max=HIGHEST_EXPONENT).exp()
        raised = torch.where(real, raised, 0.0)
        raised = raised if weights is None else raised * self._where_real(weights).unsqueeze(2)
        sums = raised.sum(dim=1, keepdim=True)
        return (raised / torch.where(sums > 0, sums, 1.0)).to(self.accumulation_dtype)

    # ------------------------------------------------------------------------------- between tokens, sentences, layouts

    def spread(self, per_sentence: PerSentence) -> PerToken:  # noqa: D102  # see Kernels
        return per_sentence.unsqueeze(1).expand(-1, self.mask.shape[1], *per_sentence.shape[1:])

    def rows(self) -> PerToken:  # noqa: D102  # see Kernels
        return self._where_real(self.padded)

    def ones(self) -> PerToken:  # noqa: D102  # see Kernels
        return torch.ones_like(self.mask, dtype=self.accumulation_dtype)

    def from_positions(self, per_position: Tensor) -> PerToken:  # noqa: D102  # see Kernels
        return self._where_real(per_position)

    def to_layout(self, per_token: PerToken) -> Tensor:  # noqa: D102  # see Kernels
        return self._where_real(per_token).transpose(1, 2)

    def from_layout(self, per_position: Tensor) -> PerToken:  # noqa: D102  # see Kernels
        return per_position.transpose(1, 2)

    def _where_real(self, per_token: PerToken) -> PerToken:
        """Put zeros at pads, so no arithmetic uses the numbers there."""
        mask = self.mask if per_token.dim() == 2 else self.mask.unsqueeze(2)
        return torch.where(mask, per_token, torch.zeros((), dtype=per_token.dtype, device=per_token.device))


def first_column(mask: PaddedMask) -> Index:
    """Return the column of each row's first True, 0 if there is none."""
    if mask.shape[1] == 0:
        return mask.new_zeros(mask.shape[0], dtype=torch.int64)
    return mask.to(torch.int32).argmax(dim=1)  # int32: onnxruntime has no argmax over bool or int64
