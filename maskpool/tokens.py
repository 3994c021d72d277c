"""The one form of a batch: sentences as the rows of a compressed-sparse-row matrix.

Every check of a mask or of token embeddings happens here, and so does the choice between the two
routes; what stands above trusts its input.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Mask: TypeAlias = Int[Tensor, "batch seq"] | Bool[Tensor, "batch seq"]

_TOKEN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MASK_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _has_eager_kernels(tensor: Tensor) -> bool:
    """Whether the sparse route may run: CPU tensors, outside of any tracing.

    Tracers cannot follow shapes that depend on the mask's values, and on other devices counting
    the real tokens would make the host wait for the device.
    """
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch.jit is untyped


class TokenBatch:
    """A batch of sentences, each a list of real tokens; pads are in no list.

    On the eager route (CPU tensors) the batch is a compressed-sparse-row matrix: sentence ``s`` owns
    the rows ``values[index[offsets[s]:offsets[s + 1]]]``. On the dense route (``torch.compile``,
    ``torch.export``, other devices) nothing may depend on the mask's values, so the batch keeps the
    padded tensor and its mask, and ``values``, ``index`` and ``offsets`` do not exist.

    Build it once with `from_padded` and hand it to several poolings: they share its preparation.

    Attributes:
        dense: Which route the batch takes.
        values: (rows, dim), a view of the caller's tensor wherever its strides allow one.
        index: int64, (tokens,), the rows that are real tokens, sentence after sentence.
        offsets: int64, (sentences + 1,), where each sentence begins in ``index``.
        padded: (batch, seq, dim), the caller's tensor (dense route only).

    Example:
        >>> x = torch.arange(8.0).reshape(2, 2, 2)
        >>> batch = TokenBatch.from_padded(x, torch.tensor([[1, 0], [1, 1]]))
        >>> batch.index.tolist(), batch.offsets.tolist()
        ([0, 2, 3], [0, 1, 3])
    """

    values: Tensor
    index: Tensor
    offsets: Tensor
    padded: Tensor

    def __init__(
        self,
        values: Float[Tensor, "rows dim"],
        index: Int[Tensor, " tokens"],
        offsets: Int[Tensor, " sentences_plus_1"],
    ) -> None:
        """Take a batch that is already in its sparse form; nothing is checked."""
        self.dense = False
        self._attention_mask: Tensor | None = None
        self.values = values
        self.index = index
        self.offsets = offsets
        self._places: Tensor | None = None

    @classmethod
    def of(
        cls,
        token_embeddings: Float[Tensor, "batch seq dim"] | TokenBatch,
        attention_mask: Mask | None = None,
    ) -> TokenBatch:
        """Return the batch that raw arguments mean, or the `TokenBatch` that was handed in.

        Raises:
            TypeError: A `TokenBatch` came together with a mask, or as `from_padded` says.
            ValueError: As `from_padded` says.
        """
        if isinstance(token_embeddings, TokenBatch):
            if attention_mask is not None:
                raise TypeError(
                    "attention_mask must be left out when the first argument is a TokenBatch, "
                    "which already knows its real tokens"
                )
            return token_embeddings
        return cls.from_padded(token_embeddings, attention_mask)

    @classmethod
    def from_padded(
        cls,
        token_embeddings: Float[Tensor, "batch seq dim"],
        attention_mask: Mask | None,
    ) -> TokenBatch:
        """Read a padded batch; pads may stand right, left, on both sides or in between.

        Args:
            token_embeddings: (batch, seq, dim), any floating dtype.
            attention_mask: (batch, seq), bool or integer, 1 or True = real token.

        Raises:
            TypeError: An argument is no tensor, the embeddings are not floating, or the mask is.
            ValueError: The shapes or devices do not fit, the mask is missing, or (on CPU in eager
                mode) it holds values other than 0 and 1.

        Example:
            >>> batch = TokenBatch.from_padded(torch.ones(1, 3, 2), torch.tensor([[0, 1, 1]]))
            >>> batch.lengths.tolist()
            [2]
        """
        _check_padded(token_embeddings, attention_mask)
        assert attention_mask is not None  # _check_padded has refused None
        if not _has_eager_kernels(token_embeddings):
            batch = cls.__new__(cls)
            batch.dense = True
            batch.padded = token_embeddings
            batch._attention_mask = attention_mask
            return batch
        if attention_mask.dtype != torch.bool and attention_mask.numel():
            lowest, highest = map(int, attention_mask.aminmax())
            if lowest < 0 or highest > 1:
                raise ValueError(
                    f"attention_mask must hold only 0 (pad) and 1 (real token); it holds {lowest} to {highest}"
                )
        seq = attention_mask.shape[1]
        places = attention_mask.reshape(-1).nonzero().view(-1)
        if seq:
            offsets = torch.searchsorted(places, torch.arange(0, attention_mask.numel() + 1, seq))
        else:
            offsets = torch.zeros(attention_mask.shape[0] + 1, dtype=torch.int64)
        values, by_sentence, by_token = _rows(token_embeddings)
        index = places
        if by_sentence != seq * by_token or by_token != 1:  # not one sentence after the other
            index = places.div(seq, rounding_mode="floor") * by_sentence + places.remainder(seq) * by_token
        batch = cls(values, index, offsets)
        batch._attention_mask = attention_mask
        batch._places = places
        return batch

    @property
    def mask(self) -> Bool[Tensor, "batch seq"] | None:
        """True at real tokens; None when the batch was not padded."""
        return None if self._attention_mask is None else self._attention_mask.bool()

    @property
    def dim(self) -> int:
        """Width of a token embedding."""
        return (self.padded if self.dense else self.values).shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the token embeddings, and so of what is pooled from them."""
        return (self.padded if self.dense else self.values).dtype

    @property
    def accumulation_dtype(self) -> torch.dtype:
        """Dtype in which weights are held and sums are made: float64 for float64, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def lengths(self) -> Int[Tensor, " sentences"]:
        """Number of real tokens in each sentence."""
        if self.dense:
            assert self.mask is not None
            return self.mask.sum(dim=1)
        return self.offsets.diff()

    @cached_property
    def sentence_of_token(self) -> Int[Tensor, " tokens"]:
        """The sentence that each real token belongs to (eager route)."""
        sentences = torch.arange(self.lengths.numel(), device=self.index.device)
        return torch.repeat_interleave(sentences, self.lengths, output_size=self.index.numel())

    @property
    def positions(self) -> Int[Tensor, " tokens"] | Int[Tensor, "batch seq"]:
        """Each token's distance from its sentence's first real position; holes are counted."""
        if self.dense:
            assert self.mask is not None
            columns = torch.arange(self.mask.shape[1], device=self.mask.device)
            return columns - _first_column(self.mask).unsqueeze(1)
        places = torch.arange(self.index.numel()) if self._places is None else self._places
        if not places.numel():
            return places
        first = places[self.offsets[:-1].clamp(max=places.numel() - 1)]
        return places - first.index_select(0, self.sentence_of_token)


def _first_column(mask: Bool[Tensor, "batch seq"]) -> Int[Tensor, " batch"]:
    """Column of each row's first True, 0 where there is none."""
    if mask.shape[1] == 0:
        return mask.new_zeros(mask.shape[0], dtype=torch.int64)
    return mask.to(torch.int32).argmax(dim=1)  # int32: onnxruntime has no argmax over bool or int64


def _rows(x: Float[Tensor, "batch seq dim"]) -> tuple[Float[Tensor, "rows dim"], int, int]:
    """Flatten to rows without copying; return them with the rows between sentences and tokens.

    Slices, transposes and expansions of a tensor whose last dimension is dense are rows of a common
    spacing (the greatest common divisor of the two strides), so a view can name each of them.
    """
    batch, seq, dim = x.shape
    if x.is_contiguous() or not x.numel():
        return x.reshape(batch * seq, dim), seq, 1
    by_sentence, by_token, by_feature = x.stride()
    spacing = math.gcd(by_sentence if batch > 1 else 0, by_token if seq > 1 else 0)
    if by_feature != 1 or spacing < dim:
        # A copy: the kernel rounds strided features in another way, and a vector must not depend on that.
        return x.contiguous().view(batch * seq, dim), seq, 1
    row_stride = by_sentence // spacing if batch > 1 else seq
    step = by_token // spacing if seq > 1 else 1
    rows = (batch - 1) * row_stride * (batch > 1) + (seq - 1) * step + 1
    return x.as_strided((rows, dim), (spacing, 1)), row_stride, step


def _check_padded(token_embeddings: object, attention_mask: object) -> None:
    """Refuse what is no padded batch (law 9); values are looked at by the eager route alone."""
    if isinstance(token_embeddings, dict):
        raise TypeError(
            "token_embeddings must be a tensor of shape (batch, seq, dim), got a dict of features: that is "
            "what sentence-transformers' own module, sentence_transformers.sentence_transformer.modules.Pooling, "
            "reads. Call a maskpool layer as layer(features['token_embeddings'], features['attention_mask'])"
        )
    if not isinstance(token_embeddings, Tensor):
        raise TypeError(
            "token_embeddings must be a torch.Tensor of shape (batch, seq, dim) or a TokenBatch, "
            f"got {type(token_embeddings).__name__}"
        )
    if token_embeddings.dtype not in _TOKEN_DTYPES:
        raise TypeError(
            f"token_embeddings must have a floating dtype, got {token_embeddings.dtype}: "
            "float16, bfloat16, float32 and float64 are pooled"
        )
    if token_embeddings.layout != torch.strided:
        raise TypeError(f"token_embeddings must be a strided tensor, got layout {token_embeddings.layout}")
    if token_embeddings.dim() != 3:
        raise ValueError(
            "token_embeddings must have 3 dimensions (batch, seq, dim), "
            f"got {token_embeddings.dim()}: shape {tuple(token_embeddings.shape)}"
        )
    if attention_mask is None:
        raise ValueError(
            "attention_mask is required with padded token_embeddings: shape (batch, seq), 1 at real tokens; "
            "pass torch.ones(batch, seq, dtype=torch.bool) if every token is real"
        )
    if not isinstance(attention_mask, Tensor):
        raise TypeError(f"attention_mask must be a torch.Tensor, got {type(attention_mask).__name__}")
    if attention_mask.dtype not in _MASK_DTYPES:
        raise TypeError(
            f"attention_mask must be bool or integer with 1 at real tokens, got {attention_mask.dtype}: an additive "
            "mask (0 at real tokens) would be read upside down; convert it with `mask == 0`; fractions are weights"
        )
    if attention_mask.dim() == 4:
        raise ValueError(
            f"attention_mask must have 2 dimensions (batch, seq), got the 4-D shape {tuple(attention_mask.shape)}: "
            "masks extended for attention cannot be pooled with; pass the tokenizer's own"
        )
    if attention_mask.shape != token_embeddings.shape[:2]:
        raise ValueError(
            f"attention_mask must have the shape {tuple(token_embeddings.shape[:2])} of token_embeddings' "
            f"first two dimensions, got {tuple(attention_mask.shape)}"
        )
    if attention_mask.device != token_embeddings.device:
        raise ValueError(
            f"attention_mask must be on token_embeddings' device {token_embeddings.device}, got {attention_mask.device}"
        )
