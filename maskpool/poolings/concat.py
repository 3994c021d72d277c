"""Several poolings of one batch, concatenated."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from maskpool.batch.token_batch import TokenBatch
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.poolings.base import PoolingLayer
from maskpool.types import OnEmpty, PerToken, SentenceEmbeddings

__all__ = ["ConcatPooling"]


class ConcatPooling(PoolingLayer):
    """The results of several poolings, concatenated in order; they share one preparation of the batch.

    Token weights are used by the layers that take them, and refused if one of the layers does not.

    References:
        Rücklé et al. 2018, Concatenated Power Mean Word Embeddings.

    Args:
        poolings: The layers, at least one.
        on_empty: What empty sentences get, in all layers, which are then copies with the same parameters; None keeps
            the setting of each layer.

    Raises:
        InvalidTypeError: One of ``poolings`` is not a maskpool layer.
        InvalidValueError: ``poolings`` is empty, or ``on_empty`` is unknown.

    See Also:
        `maskpool.build_pooling`: Makes this layer from a tuple of modes.
        `maskpool.nn.MeanStdPooling`: Mean and standard deviation, computed together.

    Example:
        >>> from maskpool.nn import MaxPooling, MeanPooling
        >>> both = ConcatPooling([MeanPooling(), MaxPooling()])
        >>> both(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2., 3.]])
    """

    def __init__(self, poolings: Iterable[PoolingLayer], *, on_empty: OnEmpty | None = None) -> None:
        super().__init__(on_empty="zero" if on_empty is None else on_empty)
        if isinstance(poolings, str):
            poolings = [poolings]  # refused below
        elif not isinstance(poolings, Iterable):
            raise InvalidTypeError("poolings", f"must be a list of maskpool layers, got {type(poolings).__name__}")
        layers = list(poolings)
        if not layers:
            raise InvalidValueError("poolings", "must hold at least one layer, got none")
        for place, layer in enumerate(layers):
            if not isinstance(layer, PoolingLayer):
                advice = ": build_pooling(('mean', 'max')) takes modes" if isinstance(layer, str) else ""
                raise InvalidTypeError("poolings", f"must hold maskpool layers, got {type(layer).__name__}{advice}")
            if on_empty is not None:
                layers[place] = copy.copy(layer)  # shares the parameters; the caller's layer keeps its setting
                layers[place].on_empty = on_empty
        self.poolings = nn.ModuleList(layers)
        self.takes_token_weights = all(layer.takes_token_weights for layer in layers)  # type: ignore[misc]  # per instance
        self.learns = any(layer.learns for layer in layers)  # type: ignore[misc]  # per instance

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        pooled = [layer.pool(batch, weights) for layer in self.layers()]
        return torch.cat(pooled, dim=1)

    def _unweighted_name(self) -> str:
        """Return the names of the layers that take no token weights."""
        names = [layer._unweighted_name() for layer in self.layers() if not layer.takes_token_weights]
        return f"{', '.join(names)} in {type(self).__name__}"

    def layers(self) -> list[PoolingLayer]:
        """Return the layers in order."""
        return [layer for layer in self.poolings if isinstance(layer, PoolingLayer)]

    def output_dimension(self, embedding_dimension: int) -> int:  # noqa: D102  # see PoolingLayer
        return sum(layer.output_dimension(embedding_dimension) for layer in self.layers())

    def extra_repr(self) -> str:
        """Return nothing: each layer shows its own settings."""
        return ""
