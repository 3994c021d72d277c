"""Several poolings of one batch, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from maskpool.modules.base import Pooling

if TYPE_CHECKING:
    from maskpool.functional.common import OnEmpty, Sentences
    from maskpool.tokens import TokenBatch


class ConcatPooling(Pooling):
    """The results of several poolings, concatenated in order; they share one preparation of the batch.

    Args:
        poolings: The layers, at least one.
        on_empty: What a sentence without a real token gets, in all of them; None leaves each layer
            what it was made with.

    Raises:
        TypeError: One of ``poolings`` is no maskpool layer.
        ValueError: There is none, or another ``on_empty``.

    Example:
        >>> from maskpool import MaxPooling, MeanPooling
        >>> both = ConcatPooling([MeanPooling(), MaxPooling()])
        >>> both(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2., 3.]])
    """

    def __init__(self, poolings: Iterable[Pooling], on_empty: OnEmpty | None = None) -> None:
        super().__init__("zero" if on_empty is None else on_empty)
        layers = list(poolings)
        if not layers:
            raise ValueError("poolings must hold at least one layer, got none")
        for layer in layers:
            if not isinstance(layer, Pooling):
                raise TypeError(f"poolings must hold maskpool layers, got {type(layer).__name__}")
            if on_empty is not None:
                layer.on_empty = on_empty
        self.poolings = nn.ModuleList(layers)

    def pool(self, batch: TokenBatch) -> Sentences:
        """Pool a batch that has been checked."""
        pooled: list[Sentences] = [layer.pool(batch) for layer in self.poolings if isinstance(layer, Pooling)]
        return torch.cat(pooled, dim=1)

    def extra_repr(self) -> str:
        """Nothing: each layer shows its own."""
        return ""
