"""Poolings that choose numbers: by place (first, last) or by size (maximum, minimum, median, mean of the largest)."""

from __future__ import annotations

import torch  # noqa: F401  # the examples use it

from maskpool.batch.checks import check_sizes
from maskpool.batch.token_batch import TokenBatch, TokenEmbeddings
from maskpool.poolings.base import PoolingLayer, apply_on_empty
from maskpool.poolings.registry import register
from maskpool.types import AttentionMask, Offsets, OnEmpty, PerToken, SentenceEmbeddings

__all__ = [
    "CLSPooling",
    "LastTokenPooling",
    "MaxPooling",
    "MedianPooling",
    "MinPooling",
    "TopKMeanPooling",
    "cls_pool",
    "last_token_pool",
    "max_pool",
    "median_pool",
    "min_pool",
    "topk_mean_pool",
]


def max_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the largest value of each feature over the real tokens, maxₜ xₜ.

    Tied tokens share the gradient equally, as in `torch.amax`. The arguments are described in `maskpool.functional`.

    References:
        sentence-transformers, ``pooling_mode="max"``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.MaxPooling`: The layer.

    Example:
        >>> max_pool(torch.tensor([[[-1.0], [-3.0], [0.0]]]), torch.tensor([[1, 1, 0]]))  # a pad of 0 would be larger
        tensor([[-1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(batch.maximum(), batch, on_empty)


@register("max", formula="maxₜ xₜ", source="sentence-transformers", also_called=("maxtokens", "maximum"))
class MaxPooling(PoolingLayer):
    """The largest value of each feature, maxₜ xₜ: `maskpool.functional.max_pool` as a layer.

    References:
        sentence-transformers, ``pooling_mode="max"``.

    See Also:
        `maskpool.nn.TopKMeanPooling`: The mean of several large values.
        `maskpool.nn.LogSumExpPooling`, `maskpool.nn.SoftmaxPooling`: Smooth maxima, with a gradient for every token.

    Example:
        >>> MaxPooling()(torch.tensor([[[-1.0], [-3.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[-1.]])
    """

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return apply_on_empty(batch.maximum(), batch, self.on_empty)


def cls_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Return the first real token, on whichever side the pads are.

    The arguments are described in `maskpool.functional`.

    References:
        Devlin et al. 2019, BERT; sentence-transformers, ``pooling_mode="cls"``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.CLSPooling`: The layer.

    Example:
        >>> cls_pool(torch.tensor([[[9.0], [1.0], [2.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(batch.first(), batch, on_empty)


@register(
    "cls",
    formula="x₁, the first real token",
    source="BERT (Devlin et al. 2019); sentence-transformers",
    also_called=("first", "firsttoken", "bos", "clstoken"),
)
class CLSPooling(PoolingLayer):
    """The first real token: `maskpool.functional.cls_pool` as a layer.

    References:
        Devlin et al. 2019, BERT.

    See Also:
        `maskpool.nn.LastTokenPooling`: For causal models, whose first token attends to no other.

    Example:
        >>> CLSPooling()(torch.tensor([[[9.0], [1.0], [2.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[1.]])
    """

    takes_first_token = True

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return apply_on_empty(batch.first(), batch, self.on_empty)


def last_token_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Return the last real token, on whichever side the pads are.

    The arguments are described in `maskpool.functional`.

    References:
        sentence-transformers, ``pooling_mode="lasttoken"``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.LastTokenPooling`: The layer.

    Example:
        >>> last_token_pool(torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(batch.last(), batch, on_empty)


@register(
    "lasttoken",
    formula="xₙ, the last real token",
    source="sentence-transformers",
    also_called=("last", "eos", "eostoken", "token", "tokens"),
)
class LastTokenPooling(PoolingLayer):
    """The last real token: `maskpool.functional.last_token_pool` as a layer.

    References:
        sentence-transformers, ``pooling_mode="lasttoken"``.

    See Also:
        `maskpool.nn.CLSPooling`: For models whose first token attends to all others.
        `maskpool.nn.PositionWeightedMeanPooling`: All tokens of a causal model, late ones more.

    Example:
        >>> LastTokenPooling()(torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return apply_on_empty(batch.last(), batch, self.on_empty)


def min_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the smallest value of each feature over the real tokens, minₜ xₜ.

    Tied tokens share the gradient equally, as in `torch.amin`. The arguments are described in `maskpool.functional`.

    References:
        Rücklé et al. 2018, Concatenated Power Mean Word Embeddings.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.MinPooling`: The layer.

    Example:
        >>> min_pool(torch.tensor([[[1.0], [3.0], [0.0]]]), torch.tensor([[1, 1, 0]]))  # a pad of 0 would be smaller
        tensor([[1.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(batch.minimum(), batch, on_empty)


@register("min", formula="minₜ xₜ", source="Rücklé et al. 2018", also_called=("minimum",))
class MinPooling(PoolingLayer):
    """The smallest value of each feature, minₜ xₜ: `maskpool.functional.min_pool` as a layer.

    References:
        Rücklé et al. 2018, Concatenated Power Mean Word Embeddings.

    See Also:
        `maskpool.nn.MaxPooling`: The largest values.
        `maskpool.nn.ConcatPooling`: Minimum, mean and maximum in one vector, as in the paper.

    Example:
        >>> MinPooling()(torch.tensor([[[1.0], [3.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[1.]])
    """

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return apply_on_empty(batch.minimum(), batch, self.on_empty)


def median_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the lower median of each feature over the real tokens, as in `torch.median`.

    Tokens that hold the median share its gradient equally. A NaN in a real token makes it NaN. The arguments are
    described in `maskpool.functional`.

    References:
        `torch.median`; PyTorch Geometric, ``MedianAggregation``.

    Returns:
        (batch, dim).

    See Also:
        `maskpool.nn.MedianPooling`: The layer.

    Example:
        >>> median_pool(torch.tensor([[[4.0], [1.0], [2.0], [-9.0]]]), torch.tensor([[1, 1, 1, 0]]))
        tensor([[2.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return apply_on_empty(batch.lower_median(), batch, on_empty)


@register("median", formula="the lower median over t of xₜ", source="torch; PyTorch Geometric", also_called=("med",))
class MedianPooling(PoolingLayer):
    """The lower median of each feature: `maskpool.functional.median_pool` as a layer.

    References:
        PyTorch Geometric, ``MedianAggregation``.

    See Also:
        `maskpool.nn.MeanPooling`: Moves with every token, outliers included.

    Example:
        >>> MedianPooling()(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[1.]])
    """

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return apply_on_empty(batch.lower_median(), batch, self.on_empty)


def topk_mean_pool(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None = None,
    *,
    k: int,
    cu_seqlens: Offsets | None = None,
    on_empty: OnEmpty = "zero",
) -> SentenceEmbeddings:
    """Compute the mean of the ``k`` largest values of each feature over the real tokens.

    If a sentence has fewer tokens, the mean of all. ``k=1`` is max pooling. Tokens that tie for the last place share
    its gradient equally. The other arguments are described in `maskpool.functional`.

    References:
        Kalchbrenner et al. 2014 (k-max pooling); Durand et al. 2017, WILDCAT, who take the mean of the k.

    Args:
        k: How many values, at least 1.

    Returns:
        (batch, dim).

    Raises:
        InvalidValueError: ``k`` is not a positive integer.

    See Also:
        `maskpool.nn.TopKMeanPooling`: The layer.

    Example:
        >>> topk_mean_pool(torch.tensor([[[4.0], [1.0], [2.0], [9.0]]]), torch.tensor([[1, 1, 1, 0]]), k=2)
        tensor([[3.]])
    """
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    check_sizes(k=k)
    return apply_on_empty(batch.mean_of_largest(k), batch, on_empty)


@register(
    "topk_mean",
    formula="(1/k) Σ of the k largest xₜ",
    source="WILDCAT (Durand et al. 2017)",
    also_called=("kmax", "topk", "topkaverage", "topkavg"),
)
class TopKMeanPooling(PoolingLayer):
    """The mean of the ``k`` largest values of each feature: `maskpool.functional.topk_mean_pool` as a layer.

    ``on_empty`` is described in `maskpool.nn.PoolingLayer`.

    References:
        Durand et al. 2017, WILDCAT.

    Args:
        k: How many values, at least 1.

    Raises:
        InvalidValueError: ``k`` is not a positive integer.

    See Also:
        `maskpool.nn.MaxPooling`: The same with ``k=1``.

    Example:
        >>> TopKMeanPooling(k=2)(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """

    def __init__(self, *, k: int, on_empty: OnEmpty = "zero") -> None:
        super().__init__(on_empty=on_empty)
        check_sizes(k=k)
        self.k = k

    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:  # noqa: D102  # see base
        return apply_on_empty(batch.mean_of_largest(self.k), batch, self.on_empty)

    def extra_repr(self) -> str:  # noqa: D102  # see torch.nn.Module
        return ", ".join(filter(None, [f"k={self.k}", super().extra_repr()]))
