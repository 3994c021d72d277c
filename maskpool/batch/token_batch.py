"""A batch of sentences in its two forms, sparse and padded, behind one constructor."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Self, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from maskpool.batch.checks import (
    check_cu_seqlens,
    check_mask,
    check_nested,
    check_packed,
    check_padded,
    check_tokens,
    check_zeros_and_ones,
    from_array,
    is_transformed,
    on_eager_cpu,
    refuse_tracing,
    shortened,
    to_mask,
    to_token_embeddings,
)
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.kernels.base import Kernels
from maskpool.kernels.csr import CSRKernels
from maskpool.kernels.dense import DenseKernels, first_column
from maskpool.kernels.pattern import Pattern, of_mask, without_pads
from maskpool.masks import span_index
from maskpool.types import (
    AttentionMask,
    Index,
    Lengths,
    Mask,
    ModelOutput,
    Offsets,
    Padded,
    PaddedMask,
    PerToken,
    Rows,
    SupportsArray,
    TokenWeights,
)


class TokenBatch(Kernels):
    """A batch of sentences, each of which is a list of real tokens.

    Create it with `of`, or with `from_padded`, `from_packed`, `from_nested` or `from_spans`, and pass it to several
    poolings: they share its preparation. On CPU in eager mode the result is a `SparseBatch`; under `torch.compile`,
    `torch.export`, `torch.func` and forward-mode autograd, and on other devices, it is a `PaddedBatch`.

    Attributes:
        dim: Width of a token embedding.
        dtype: Dtype of the token embeddings.
        device: Device of the token embeddings.
        lengths: Number of real tokens of each sentence, int64, (sentences,).

    Example:
        >>> x = torch.arange(8.0).reshape(2, 2, 2)
        >>> batch = TokenBatch.of(x, torch.tensor([[1, 0], [1, 1]]))
        >>> batch.lengths.tolist()
        [1, 2]
    """

    def __init__(self, tokens: Tensor) -> None:
        self.dim: int = tokens.shape[-1]
        self.dtype = tokens.dtype
        self.device = tokens.device
        self.accumulation_dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
        self.score_dtype = torch.float32 if tokens.device.type == "mps" else torch.float64

    @staticmethod
    def of(
        token_embeddings: TokenEmbeddings,
        attention_mask: AttentionMask | None = None,
        cu_seqlens: Offsets | None = None,
    ) -> TokenBatch:
        """Return the batch that the arguments describe, or the `TokenBatch` that is passed.

        Args:
            token_embeddings: (batch, seq, dim) with a mask; (tokens, dim) or (1, tokens, dim) with ``cu_seqlens``; or a
                jagged nested tensor or a `TokenBatch` with neither. A model's output is read as its
                ``last_hidden_state``, a NumPy array as a tensor.
            attention_mask: (batch, seq), as `from_padded` takes it, or a tokenizer's output.
            cu_seqlens: (batch + 1,), as `from_packed` takes it.

        Raises:
            InvalidTypeError: A mask or ``cu_seqlens`` is passed together with an input that needs none.
            InvalidValueError: Both are passed, or an argument is not a batch (see the constructors).
        """
        if not isinstance(token_embeddings, Tensor):
            if isinstance(token_embeddings, TokenBatch):
                _refuse(attention_mask, cu_seqlens, "TokenBatch")
                token_embeddings._refuse_transforms()
                return token_embeddings
            token_embeddings = to_token_embeddings(token_embeddings)  # type: ignore[assignment]  # checked below
        if cu_seqlens is not None:
            if attention_mask is not None:
                raise InvalidValueError(
                    "attention_mask",
                    "and cu_seqlens must not be passed together: the mask belongs to padded token_embeddings (batch, "
                    "seq, dim), cu_seqlens to packed ones (tokens, dim). To exclude tokens of a packed batch, use "
                    "TokenBatch.from_packed(token_embeddings, cu_seqlens).select(keep)",
                )
            if not (isinstance(token_embeddings, Tensor) and token_embeddings.is_nested):
                return TokenBatch.from_packed(token_embeddings, cu_seqlens)  # type: ignore[arg-type]  # checked there
        if isinstance(token_embeddings, Tensor) and token_embeddings.is_nested:
            _refuse(attention_mask, cu_seqlens, "nested tensor")
            return TokenBatch.from_nested(token_embeddings)
        return TokenBatch.from_padded(token_embeddings, attention_mask)  # type: ignore[arg-type]  # checked there

    @staticmethod
    def from_padded(token_embeddings: Padded, attention_mask: AttentionMask | None) -> TokenBatch:
        """Read a padded batch; pads may be on the right, on the left, on both sides or in between.

        Args:
            token_embeddings: (batch, seq, dim), any floating dtype.
            attention_mask: (batch, seq), bool or integer, 1 or True = real token. A floating mask of exactly 0 and 1 is
                accepted outside of tracing.

        Raises:
            InvalidTypeError: An argument is not a tensor, the embeddings are not floating, or the mask is additive or
                fractional.
            InvalidValueError: The shapes or devices do not fit, the mask is missing, or (on CPU in eager mode) it holds
                values other than 0 and 1.

        Example:
            >>> batch = TokenBatch.from_padded(torch.ones(1, 3, 2), torch.tensor([[0, 1, 1]]))
            >>> batch.lengths.tolist()
            [2]
        """
        if not isinstance(attention_mask, Tensor):
            attention_mask = to_mask(attention_mask)  # type: ignore[assignment]  # checked below
        x, mask = check_padded(token_embeddings, attention_mask)
        if not on_eager_cpu(x):
            return PaddedBatch(x, mask.bool())
        batch, seq = mask.shape
        real: PaddedMask | torch.Size
        if check_zeros_and_ones("attention_mask", mask):
            real, pattern = mask.shape, without_pads(batch, seq)
        else:
            real = mask.bool()
            pattern = of_mask(real)
        if x.is_contiguous():
            return SparseBatch.of_pattern(x.view(-1, x.shape[2]) if x.numel() else _rows(x)[0], pattern, real)
        values, by_sentence, by_token = _rows(x)
        if by_sentence != seq * by_token:  # not one sentence after the other
            places = pattern.index
            index = places.div(seq, rounding_mode="floor") * by_sentence + places.remainder(seq) * by_token
            pattern = Pattern(index, pattern.offsets, places)
        return SparseBatch.of_pattern(values, pattern, real)

    @staticmethod
    def from_packed(token_embeddings: Tensor, cu_seqlens: Offsets) -> TokenBatch:
        """Read a packed batch, as varlen attention kernels use it: no pads, one sentence after the other.

        On other devices than the CPU the tokens are padded first, for which the host waits once.

        Args:
            token_embeddings: (tokens, dim) or (1, tokens, dim), any floating dtype.
            cu_seqlens: (batch + 1,), int32 or int64, cumulative lengths, starting at 0.

        Raises:
            InvalidTypeError: An argument is not a tensor, or has another dtype.
            InvalidValueError: The shapes or devices do not fit; ``cu_seqlens`` does not start at 0, decreases or does
                not end at the number of tokens (checked on CPU); or the call is traced.

        Example:
            >>> batch = TokenBatch.from_packed(torch.ones(5, 2), torch.tensor([0, 2, 5]))
            >>> batch.lengths.tolist()
            [2, 3]
        """
        cu_seqlens = from_array("cu_seqlens", cu_seqlens)  # type: ignore[assignment]  # checked below
        values = check_packed(token_embeddings, cu_seqlens)
        refuse_tracing("cu_seqlens")
        offsets = cu_seqlens.to(torch.int64)
        if not on_eager_cpu(values):
            if torch._C._functorch.is_batchedtensor(offsets):  # torch has no public name for it
                raise InvalidValueError(
                    "cu_seqlens",
                    "must be the same for all batches under torch.vmap, because the lengths are read: pass padded "
                    "token_embeddings with an attention_mask",
                )
            return _PackedOnDevice.of_rows(values, offsets)
        check_cu_seqlens(offsets, len(values))
        return SparseBatch(_rows(values.unsqueeze(0))[0], torch.arange(len(values)), offsets)

    @staticmethod
    def from_nested(token_embeddings: Tensor) -> TokenBatch:
        """Read a jagged nested tensor of shape (batch, tokens of each sentence, dim).

        Its rows are read in place, also if `torch.nested.narrow` left gaps between them.

        Args:
            token_embeddings: ``torch.nested`` tensor of layout ``torch.jagged``, any floating dtype.

        Raises:
            InvalidTypeError: Not a nested tensor, not floating, or of the strided layout.
            InvalidValueError: Another number of dimensions, another ragged one than the second, or the call is traced.

        Example:
            >>> jagged = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged)
            >>> TokenBatch.from_nested(jagged).lengths.tolist()
            [2, 3]
        """
        nested = check_nested(token_embeddings)
        refuse_tracing("nested token_embeddings")
        values = nested.values()
        offsets = nested.offsets().to(torch.int64)  # type: ignore[attr-defined]  # untyped
        lengths = nested.lengths()  # type: ignore[attr-defined]  # untyped; None without gaps
        if lengths is None:
            if on_eager_cpu(values) and int(offsets[-1]) != len(values):
                raise InvalidValueError(
                    "token_embeddings",
                    f"must be a nested tensor whose offsets end at its number of values, {len(values)}; they end at "
                    f"{int(offsets[-1])}",
                )
            index = torch.arange(len(values), device=values.device)
        else:
            starts, lengths = offsets[:-1], lengths.to(torch.int64)
            offsets = pad(lengths.cumsum(0), (1, 0))
            index = torch.arange(int(offsets[-1]), device=values.device)
            index = index + torch.repeat_interleave(starts - offsets[:-1], lengths)
        if not on_eager_cpu(values):
            return _PackedOnDevice.of_rows(values.index_select(0, index), offsets)
        return SparseBatch(_rows(values.unsqueeze(0))[0], index, offsets)

    @staticmethod
    def from_spans(token_embeddings: Tensor, starts: Tensor, ends: Tensor) -> TokenBatch:
        """Read spans of a document's (or of many packed documents') tokens as sentences: late chunking.

        Nothing is copied; spans may overlap or be empty. `maskpool.masks.span_mask` does the same for a padded
        document.

        References:
            Günther et al. 2024, Late Chunking.

        Args:
            token_embeddings: (tokens, dim), any floating dtype.
            starts: (spans,), integers, the first token of each span.
            ends: (spans,), integers, one past the last token.

        Raises:
            InvalidTypeError: An argument is not a tensor, or has another dtype.
            InvalidValueError: The shapes do not fit, a span leaves the tokens, or the call is traced.

        Example:
            >>> document = torch.tensor([[1.0], [3.0], [5.0]])
            >>> batch = TokenBatch.from_spans(document, torch.tensor([0, 1]), torch.tensor([2, 3]))
            >>> batch.lengths.tolist()
            [2, 2]
        """
        values = check_tokens(token_embeddings, 2, "(tokens, dim)")
        refuse_tracing("starts and ends")
        index, cu_seqlens = span_index(starts, ends, len(values))
        offsets = cu_seqlens.to(torch.int64)
        if not on_eager_cpu(values):
            return _PackedOnDevice.of_rows(values.index_select(0, index), offsets)
        return SparseBatch(_rows(values.unsqueeze(0))[0], index, offsets)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(batch, seq) of padded inputs, (tokens,) of others: the shape of the batch's token weights."""

    @property
    @abstractmethod
    def positions(self) -> PerToken:
        """The distance of each token from its sentence's first real position, int64; holes count."""

    @abstractmethod
    def select(self, keep: Mask) -> Self:
        """Return the same sentences without the tokens where ``keep`` is 0, such as prompts.

        Positions still count from where each sentence began before, as sentence-transformers counts them when it
        excludes a prompt.

        Args:
            keep: (batch, seq) for a padded batch, else (tokens,); bool or integer, 1 or True = keep.

        Raises:
            InvalidTypeError, InvalidValueError: ``keep`` is not a mask of this shape.

        Example:
            >>> batch = TokenBatch.from_packed(torch.ones(3, 2), torch.tensor([0, 3]))
            >>> kept = batch.select(torch.tensor([0, 1, 1]))
            >>> kept.lengths.tolist(), kept.positions.tolist()
            ([2], [1, 2])
        """

    @abstractmethod
    def same_sentences(self, other: TokenBatch) -> bool:
        """Return whether another batch has tokens in the same places; True if the values cannot be read."""

    @abstractmethod
    def to_packed(self) -> SparseBatch:
        """Return the same batch with exactly its real tokens in ``values``, split by ``cu_seqlens``.

        Tokens keep their positions, holes included. A packed batch is returned as it is.

        Raises:
            InvalidValueError: The batch is traced or on another device than the CPU.

        Example:
            >>> packed = TokenBatch.of(torch.ones(2, 3, 4), torch.tensor([[1, 1, 0], [0, 1, 0]])).to_packed()
            >>> packed.values.shape, packed.cu_seqlens.tolist()
            (torch.Size([3, 4]), [0, 2, 3])
        """

    @abstractmethod
    def to_padded(self) -> tuple[Padded, PaddedMask]:
        """Return ``token_embeddings`` padded with zeros, and the bool ``attention_mask``.

        A sparse batch is padded on the right. A token is at its position, so holes and excluded prompts stay holes.

        Example:
            >>> x, mask = TokenBatch.from_packed(torch.ones(3, 4), torch.tensor([0, 2, 3])).to_padded()
            >>> x.shape, mask.tolist()
            (torch.Size([2, 2, 4]), [[True, True], [True, False]])
        """

    def token_weights(self, token_weights: TokenWeights) -> PerToken:
        """Validate token weights and convert them to a per-token tensor in the accumulation dtype.

        Args:
            token_weights: (batch, seq), or (tokens,) for packed and nested batches; numbers at pads are not read.

        Raises:
            InvalidTypeError: Not a tensor of numbers.
            InvalidValueError: Another shape or device, or (on CPU in eager mode) negative or not finite numbers.
        """
        name = "token_weights"
        token_weights = from_array(name, token_weights)  # type: ignore[assignment]  # checked below
        if not isinstance(token_weights, Tensor):
            raise InvalidTypeError(name, f"must be a torch.Tensor, got {type(token_weights).__name__}")
        if token_weights.dtype == torch.bool or token_weights.is_complex():
            raise InvalidTypeError(
                name,
                f"must be numbers, floating or integer, got {token_weights.dtype}: exclude tokens with attention_mask",
            )
        if token_weights.is_nested:
            token_weights = self._values_of_nested(token_weights)
        if len(self.shape) == 1 and token_weights.dim() == 2 and len(token_weights) == 1:
            token_weights = token_weights.squeeze(0)
        if tuple(token_weights.shape) != self.shape:
            layout = "(batch, seq)" if len(self.shape) == 2 else "(tokens,)"
            raise InvalidValueError(
                name,
                f"must have the shape {layout} = {self.shape}, one number per token, got {tuple(token_weights.shape)}",
            )
        if token_weights.device != self.device:
            raise InvalidValueError(
                name, f"must be on token_embeddings' device {self.device}, got {token_weights.device}"
            )
        by_token = self.from_positions(token_weights).to(self.accumulation_dtype)
        if isinstance(self, SparseBatch):
            numbers = by_token.detach()
            wrong = ~(numbers.isfinite() & (numbers >= 0))
            if wrong.any():
                raise InvalidValueError(
                    name, f"must be finite and not negative at real tokens; got {shortened(numbers[wrong])}"
                )
        return by_token

    def require_exact_scores(self) -> None:
        """Raise `InexactError` if the batch cannot compute scores in float64, although the device can."""

    def _refuse_transforms(self) -> None:
        """Raise if the batch cannot be pooled inside of a `torch.func` transform or forward-mode autograd."""

    def _values_of_nested(self, token_weights: Tensor) -> Tensor:
        offsets = token_weights.offsets().to(torch.int64)  # type: ignore[attr-defined]  # torch leaves it untyped
        if isinstance(self, SparseBatch) and not torch.equal(offsets, self.offsets):
            raise InvalidValueError(
                "token_weights",
                f"must have sentences as long as those of token_embeddings, {shortened(self.lengths)}; "
                f"got {shortened(offsets.diff())}",
            )
        values: Tensor = token_weights.values()
        return values


TokenEmbeddings: TypeAlias = Tensor | TokenBatch | ModelOutput | SupportsArray
"""What a pooling accepts as token embeddings."""


class SparseBatch(CSRKernels, TokenBatch):
    """A batch as a compressed-sparse-row matrix: sentence ``s`` has ``values[index[offsets[s]:offsets[s + 1]]]``.

    Args:
        values: (rows, dim); a view of the caller's tensor if its strides allow one. The arguments are not validated.
        index: int64, (tokens,), the rows that are real tokens, sentence after sentence.
        offsets: int64, (sentences + 1,), where each sentence begins in ``index``.
        mask: bool, (batch, seq), of padded inputs; None for others.
        places: int64, (tokens,), where each token is among all positions, from which positions are counted; None if
            the tokens follow each other without gaps.

    Example:
        >>> x = torch.arange(8.0).reshape(2, 2, 2)
        >>> batch = TokenBatch.of(x, torch.tensor([[1, 0], [1, 1]]))
        >>> batch.index.tolist(), batch.offsets.tolist()
        ([0, 2, 3], [0, 1, 3])
    """

    def __init__(
        self, values: Rows, index: Index, offsets: Offsets, mask: PaddedMask | None = None, places: Index | None = None
    ) -> None:
        super().__init__(values)
        self.values = values
        self.pattern = Pattern(index, offsets, places)
        self._mask: PaddedMask | torch.Size | None = mask

    @classmethod
    def of_pattern(cls, values: Rows, pattern: Pattern, mask: PaddedMask | torch.Size | None) -> Self:
        """Return the batch of a pattern; a size is the mask of this size without pads."""
        batch = cls.__new__(cls)
        TokenBatch.__init__(batch, values)
        batch.values, batch.pattern, batch._mask = values, pattern, mask
        return batch

    @property
    def index(self) -> Index:
        """The rows that are real tokens, int64, (tokens,)."""
        return self.pattern.index

    @property
    def offsets(self) -> Offsets:
        """Where each sentence begins in ``index``, int64, (sentences + 1,)."""
        return self.pattern.offsets

    @property
    def lengths(self) -> Lengths:  # noqa: D102  # see Kernels
        return self.pattern.lengths

    @property
    def positions(self) -> Index:  # noqa: D102  # see TokenBatch
        return self.pattern.positions

    @property
    def mask(self) -> PaddedMask | None:
        """The mask of padded inputs, bool, (batch, seq); None for others."""
        if isinstance(self._mask, torch.Size):  # few callers need it
            self._mask = torch.ones(self._mask, dtype=torch.bool, device="cpu")
        return self._mask

    @property
    def shape(self) -> tuple[int, ...]:  # noqa: D102  # see TokenBatch
        if self._mask is None:
            return (self.pattern.tokens,)
        return tuple(self._mask.shape if isinstance(self._mask, Tensor) else self._mask)

    def _refuse_transforms(self) -> None:
        if is_transformed():
            raise InvalidValueError(
                "token_embeddings",
                "must be tensors under torch.func and forward-mode autograd, got a TokenBatch that was created "
                "outside: create the batch inside of the transform",
            )

    @property
    def cu_seqlens(self) -> Offsets:
        """``offsets`` as varlen attention kernels use them, int32."""
        return self.offsets.to(torch.int32)

    def select(self, keep: Mask) -> Self:  # noqa: D102  # see TokenBatch
        keep = check_mask("keep", keep, self.shape, self.device)
        check_zeros_and_ones("keep", keep)
        kept = self.from_positions(keep.bool())
        running = pad(kept.cumsum(0), (1, 0))
        pattern = Pattern(self.index[kept], running[self.offsets], positions=self.positions[kept])
        return self.of_pattern(self.values, pattern, None if self.mask is None else self.mask & keep.bool())

    def with_rows(self, rows: PerToken) -> Self:  # noqa: D102  # see Kernels
        return self.of_pattern(rows, self.pattern.packed(), self._mask)

    def same_sentences(self, other: TokenBatch) -> bool:  # noqa: D102  # see TokenBatch
        if not isinstance(other, SparseBatch) or not torch.equal(self.offsets, other.offsets):
            return False
        if self.mask is None or other.mask is None:
            return torch.equal(self.positions, other.positions)
        return torch.equal(self.mask, other.mask)

    def to_packed(self) -> SparseBatch:  # noqa: D102  # see TokenBatch
        if self.mask is None and self.is_packed():
            return self
        pattern = Pattern(torch.arange(self.pattern.tokens), self.offsets, positions=self.positions)
        return SparseBatch.of_pattern(self.values.index_select(0, self.index), pattern, None)

    def to_padded(self) -> tuple[Padded, PaddedMask]:  # noqa: D102  # see TokenBatch
        width = int(self.positions.max()) + 1 if self.positions.numel() else 0
        where = (self.pattern.owner, self.positions)
        sentences = self.lengths.numel()
        mask = torch.zeros(sentences, width, dtype=torch.bool).index_put(where, torch.tensor(True))
        rows = self.rows()
        return rows.new_zeros(sentences, width, self.dim).index_put(where, rows), mask


class PaddedBatch(DenseKernels, TokenBatch):
    """A batch as a padded tensor and its mask, for tracing and for devices without sparse kernels.

    Args:
        padded: (batch, seq, dim). The arguments are not validated.
        mask: bool, (batch, seq), True at real tokens.
        counted: bool, (batch, seq), the mask from which positions are counted; None for ``mask``.
    """

    def __init__(self, padded: Padded, mask: PaddedMask, counted: PaddedMask | None = None) -> None:
        super().__init__(padded)
        self.padded = padded
        self.mask: PaddedMask = mask
        self._counted = mask if counted is None else counted

    @property
    def lengths(self) -> Lengths:  # noqa: D102  # see Kernels
        return self.mask.sum(dim=1)

    @property
    def shape(self) -> tuple[int, ...]:  # noqa: D102  # see TokenBatch
        return tuple(self.mask.shape)

    @property
    def positions(self) -> PerToken:  # noqa: D102  # see TokenBatch
        columns = torch.arange(self.mask.shape[1], device=self.mask.device)
        return columns - first_column(self._counted).unsqueeze(1)

    def select(self, keep: Mask) -> Self:  # noqa: D102  # see TokenBatch
        keep = check_mask("keep", keep, self.shape, self.device)
        kept = self.from_positions(keep.int()).bool()  # integers, because onnxruntime cannot choose between truths
        return type(self)(self.padded, self.mask & kept, self._counted)

    def with_rows(self, rows: PerToken) -> Self:  # noqa: D102  # see Kernels
        return type(self)(rows, self.mask, self._counted)

    def same_sentences(self, other: TokenBatch) -> bool:
        """Compare shapes only: reading the masks would make the host wait, and a trace has no values."""
        return isinstance(other, PaddedBatch) and self.shape == other.shape

    def to_packed(self) -> SparseBatch:
        """Raise: the number of real tokens is not known without reading the mask."""
        raise InvalidValueError(
            "token_embeddings",
            "must be on the CPU in eager mode to be packed, because the mask's real tokens are counted: call to_packed "
            "outside of torch.compile and torch.export, on a CPU batch",
        )

    def to_padded(self) -> tuple[Padded, PaddedMask]:
        """Return the padded embeddings, 0 at pads, and their mask."""
        return self.rows(), self.mask


class _PackedOnDevice(PaddedBatch):
    """A packed batch on a device without sparse kernels: padded inside, packed for the caller."""

    @classmethod
    def of_rows(cls, values: Rows, offsets: Offsets) -> _PackedOnDevice:
        """Pad packed rows on the right; the host waits for the longest length."""
        lengths = offsets.diff()
        width = int(lengths.max()) if lengths.numel() else 0
        mask = torch.arange(width, device=values.device) < lengths.unsqueeze(1)
        empty = values.new_zeros(*mask.shape, values.shape[1])
        return cls(empty.masked_scatter(mask.unsqueeze(2), values), mask)

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self.mask.sum()),)

    def from_positions(self, per_position: Tensor) -> PerToken:
        zeros = per_position.new_zeros(self.mask.shape)
        return super().from_positions(zeros.masked_scatter(self.mask, per_position))

    def to_layout(self, per_token: PerToken) -> Tensor:
        return self._where_real(per_token)[self.mask]

    def from_layout(self, per_position: Tensor) -> PerToken:
        zeros = per_position.new_zeros(*self.mask.shape, per_position.shape[1])
        return zeros.masked_scatter(self.mask.unsqueeze(2), per_position)


def _refuse(attention_mask: object, cu_seqlens: object, kind: str) -> None:
    for name, value in (("attention_mask", attention_mask), ("cu_seqlens", cu_seqlens)):
        if value is not None:
            raise InvalidTypeError(
                name, f"must be omitted if token_embeddings is a {kind}, which already knows its real tokens"
            )


def _rows(x: Padded) -> tuple[Rows, int, int]:
    """Flatten to rows without a copy; return them with the number of rows between sentences and between tokens.

    Slices, transposes and expansions of a tensor whose last dimension is dense are rows of a common spacing (the
    greatest common divisor of the two strides), so a view can address each of them.
    """
    batch, seq, dim = x.shape
    if x.is_contiguous() or not x.numel():
        return x.reshape(batch * seq, dim), seq, 1
    by_sentence, by_token, by_feature = x.stride()
    spacing = math.gcd(by_sentence if batch > 1 else 0, by_token if seq > 1 else 0)
    if by_feature != 1 or spacing < dim:
        # A copy: the kernel rounds strided features differently, and a vector must not depend on that.
        return x.contiguous().view(batch * seq, dim), seq, 1
    row_stride = by_sentence // spacing if batch > 1 else seq
    step = by_token // spacing if seq > 1 else 1
    rows = (batch - 1) * row_stride * (batch > 1) + (seq - 1) * step + 1
    return x.as_strided((rows, dim), (spacing, 1)), row_stride, step
