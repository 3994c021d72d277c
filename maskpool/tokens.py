"""The one form of a batch: sentences as the rows of a compressed-sparse-row matrix.

Every batch is checked here, and here the choice between the two routes is made; what stands above trusts
its input.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from maskpool.checks import (
    check_cu_seqlens,
    check_mask,
    check_nested,
    check_packed,
    check_padded,
    check_tokens,
    check_zeros_and_ones,
    is_nested,
    refuse_tracing,
)
from maskpool.checks import on_eager_cpu as _has_eager_kernels
from maskpool.masks import span_index

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Mask: TypeAlias = Int[Tensor, "batch seq"] | Bool[Tensor, "batch seq"]
    Offsets: TypeAlias = Int[Tensor, " sentences_plus_1"]


class TokenBatch:
    """A batch of sentences, each a list of real tokens; pads are in no list.

    Build it with `from_padded`, `from_packed`, `from_nested` or `from_spans` and hand it to several
    poolings: they share its preparation.

    On the eager route (CPU tensors) the batch is a compressed-sparse-row matrix: sentence ``s`` owns
    the rows ``values[index[offsets[s]:offsets[s + 1]]]``. On the dense route (``torch.compile``,
    ``torch.export``, other devices) nothing may depend on the mask's values, so the batch keeps the
    padded tensor and its mask, and ``values``, ``index`` and ``offsets`` do not exist.

    Attributes:
        dense: Which route the batch takes.
        values: (rows, dim), a view of the caller's tensor wherever its strides allow one.
        index: int64, (tokens,), the rows that are real tokens, sentence after sentence.
        offsets: int64, (sentences + 1,), where each sentence begins in ``index``.

    Example:
        >>> x = torch.arange(8.0).reshape(2, 2, 2)
        >>> batch = TokenBatch.from_padded(x, torch.tensor([[1, 0], [1, 1]]))
        >>> batch.index.tolist(), batch.offsets.tolist()
        ([0, 2, 3], [0, 1, 3])
    """

    values: Tensor
    index: Tensor
    offsets: Tensor

    def __init__(
        self,
        values: Float[Tensor, "rows dim"],
        index: Int[Tensor, " tokens"],
        offsets: Offsets,
    ) -> None:
        """Take a batch that is already in its sparse form; nothing is checked."""
        self.dense = False
        self._from_packed = False  # on the dense route, where packed tokens are padded: did they come packed?
        self.values = values
        self.index = index
        self.offsets = offsets
        self._padded: Tensor | None = None
        self._attention_mask: Tensor | None = None
        self._lengths: Tensor | None = None
        # Where positions are counted from: places in a padded batch (eager), or the mask before any selection (dense).
        self._places: Tensor | None = None
        self._positions: Tensor | None = None
        self._unselected: Tensor | None = None

    @classmethod
    def of(
        cls,
        token_embeddings: Tensor | TokenBatch,
        attention_mask: Mask | None = None,
        cu_seqlens: Offsets | None = None,
    ) -> TokenBatch:
        """Return the batch that raw arguments mean, or the `TokenBatch` that was handed in.

        Args:
            token_embeddings: (batch, seq, dim) with a mask; (tokens, dim) or (1, tokens, dim) with
                ``cu_seqlens``; a jagged nested tensor or a `TokenBatch` with neither.
            attention_mask: (batch, seq), as `from_padded` takes it.
            cu_seqlens: (batch + 1,), as `from_packed` takes it.

        Raises:
            TypeError: A mask or ``cu_seqlens`` came with what needs none, or as the layouts' own
                constructors say.
            ValueError: Both came, or as the layouts' own constructors say.
        """
        if isinstance(token_embeddings, TokenBatch) or is_nested(token_embeddings):
            for name, value in (("attention_mask", attention_mask), ("cu_seqlens", cu_seqlens)):
                if value is not None:
                    kind = "nested tensor" if is_nested(token_embeddings) else "TokenBatch"
                    raise TypeError(
                        f"{name} must be left out when the first argument is a {kind}, which already knows its "
                        "real tokens"
                    )
            return token_embeddings if isinstance(token_embeddings, TokenBatch) else cls.from_nested(token_embeddings)
        if cu_seqlens is None:
            return cls.from_padded(token_embeddings, attention_mask)
        if attention_mask is not None:
            raise ValueError(
                "attention_mask and cu_seqlens must not come together: the mask belongs to padded token_embeddings "
                "(batch, seq, dim), cu_seqlens to packed ones (tokens, dim); to leave tokens of a packed batch out, "
                "use TokenBatch.from_packed(token_embeddings, cu_seqlens).select(keep)"
            )
        return cls.from_packed(token_embeddings, cu_seqlens)

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
        check_padded(token_embeddings, attention_mask)
        assert attention_mask is not None  # check_padded has refused None
        if not _has_eager_kernels(token_embeddings):
            return cls._dense(token_embeddings, attention_mask)
        seq = attention_mask.shape[1]
        flat = attention_mask.reshape(-1)
        places = flat.bool().nonzero().view(-1)
        # What is not 0 must be 1: looking at these alone takes half the time of looking at all.
        if flat.dtype != torch.bool and not (flat.index_select(0, places) == 1).all():
            check_zeros_and_ones("attention_mask", attention_mask)
        if seq:
            offsets = torch.searchsorted(places, torch.arange(0, attention_mask.numel() + 1, seq))
        else:
            offsets = torch.zeros(attention_mask.shape[0] + 1, dtype=torch.int64)
        values, by_sentence, by_token = _rows(token_embeddings)
        index = places
        if by_sentence != seq * by_token or by_token != 1:  # not one sentence after the other
            index = places.div(seq, rounding_mode="floor") * by_sentence + places.remainder(seq) * by_token
        batch = cls(values, index, offsets)
        batch._padded = token_embeddings
        batch._attention_mask = attention_mask
        batch._places = places
        return batch

    @classmethod
    def from_packed(
        cls, token_embeddings: Float[Tensor, "tokens dim"] | Float[Tensor, "1 tokens dim"], cu_seqlens: Offsets
    ) -> TokenBatch:
        """Read a packed batch, as varlen attention kernels have it: no pads, sentence after sentence.

        On other devices than the CPU the tokens are padded first, for which the host waits once.

        Args:
            token_embeddings: (tokens, dim) or (1, tokens, dim), any floating dtype.
            cu_seqlens: (batch + 1,), int32 or int64, cumulative lengths; they start at 0.

        Raises:
            TypeError: An argument is no tensor, or has another dtype.
            ValueError: The shapes or devices do not fit; ``cu_seqlens`` does not start at 0, decreases
                or does not end at the number of tokens (looked at on CPU); or the call is being traced.

        Example:
            >>> batch = TokenBatch.from_packed(torch.ones(5, 2), torch.tensor([0, 2, 5]))
            >>> batch.lengths.tolist()
            [2, 3]
        """
        values = check_packed(token_embeddings, cu_seqlens)
        refuse_tracing("cu_seqlens")
        offsets = cu_seqlens.to(torch.int64)
        if not _has_eager_kernels(values):
            return cls._padded_from_packed(values, offsets)
        steps = check_cu_seqlens(offsets, len(values))
        batch = cls(_rows(values.unsqueeze(0))[0], torch.arange(len(values)), offsets)
        batch._lengths = steps
        return batch

    @classmethod
    def from_nested(cls, token_embeddings: Tensor) -> TokenBatch:
        """Read a jagged nested tensor of shape (batch, tokens of each sentence, dim).

        Its rows are read in place, also where `torch.nested.narrow` has left gaps between them.

        Args:
            token_embeddings: ``torch.nested`` tensor of layout ``torch.jagged``, any floating dtype.

        Raises:
            TypeError: No nested tensor, no floating dtype, or the strided layout.
            ValueError: Another number of dimensions, another ragged one than the second, or the call
                is being traced.

        Example:
            >>> jagged = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged)
            >>> TokenBatch.from_nested(jagged).lengths.tolist()
            [2, 3]
        """
        check_nested(token_embeddings)
        refuse_tracing("nested token_embeddings")
        values = token_embeddings.values()
        offsets = token_embeddings.offsets().to(torch.int64)  # type: ignore[attr-defined]  # untyped
        lengths = token_embeddings.lengths()  # type: ignore[attr-defined]  # untyped; None where there are no gaps
        if lengths is None:
            if _has_eager_kernels(values) and int(offsets[-1]) != len(values):
                raise ValueError(
                    f"token_embeddings must be a nested tensor whose offsets end at its number of values, "
                    f"{len(values)}; they end at {int(offsets[-1])}"
                )
            index = torch.arange(len(values), device=values.device)
        else:
            starts, lengths = offsets[:-1], lengths.to(torch.int64)
            offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
            index = torch.arange(int(offsets[-1]), device=values.device)
            index = index + torch.repeat_interleave(starts - offsets[:-1], lengths)
        if not _has_eager_kernels(values):
            return cls._padded_from_packed(values.index_select(0, index), offsets)
        return cls(_rows(values.unsqueeze(0))[0], index, offsets)

    @classmethod
    def from_spans(
        cls, token_embeddings: Float[Tensor, "tokens dim"], starts: Int[Tensor, " spans"], ends: Int[Tensor, " spans"]
    ) -> TokenBatch:
        """Read spans of a document's (or of many packed documents') tokens as sentences: late chunking.

        Nothing is copied; spans may overlap or be empty. `maskpool.masks.span_mask` does the same for
        a padded document.

        Source: Günther et al. 2024, Late Chunking.

        Args:
            token_embeddings: (tokens, dim), any floating dtype.
            starts: (spans,), the first token of each span.
            ends: (spans,), one past the last.

        Raises:
            TypeError: An argument is no tensor, or has another dtype.
            ValueError: The shapes do not fit, a span leaves the tokens, or the call is being traced.

        Example:
            >>> document = torch.tensor([[1.0], [3.0], [5.0]])
            >>> batch = TokenBatch.from_spans(document, torch.tensor([0, 1]), torch.tensor([2, 3]))
            >>> batch.lengths.tolist()
            [2, 2]
        """
        check_tokens(token_embeddings, 2, "(tokens, dim)")
        refuse_tracing("starts and ends")
        index, cu_seqlens = span_index(starts, ends, len(token_embeddings))
        if not _has_eager_kernels(token_embeddings):
            return cls._padded_from_packed(token_embeddings.index_select(0, index), cu_seqlens.to(torch.int64))
        return cls(_rows(token_embeddings.unsqueeze(0))[0], index, cu_seqlens.to(torch.int64))

    @classmethod
    def _dense(cls, padded: Tensor, mask: Tensor) -> TokenBatch:
        batch = cls.__new__(cls)
        batch.dense = True
        batch._padded = padded
        batch._attention_mask = mask
        batch._unselected = None
        batch._from_packed = False
        return batch

    @classmethod
    def _padded_from_packed(cls, values: Tensor, offsets: Tensor) -> TokenBatch:
        lengths = offsets.diff()
        width = int(lengths.max()) if lengths.numel() else 0
        mask = torch.arange(width, device=values.device) < lengths.unsqueeze(1)
        empty = values.new_zeros(*mask.shape, values.shape[1])
        batch = cls._dense(empty.masked_scatter(mask.unsqueeze(2), values), mask)
        batch._from_packed = True
        return batch

    def as_padded(self, by_token: Tensor) -> Tensor:
        """What comes packed with the tokens of a batch that was padded for another device, (tokens,), padded too."""
        if not self.dense or not self._from_packed or by_token.dim() != 1:
            return by_token
        assert self.mask is not None  # a dense batch has one
        return by_token.new_zeros(self.mask.shape).masked_scatter(self.mask, by_token)

    def select(self, keep: Tensor) -> TokenBatch:
        """The same sentences without the tokens where ``keep`` is 0, such as prompts.

        Positions are still counted from where each sentence began before, as sentence-transformers
        counts them when it excludes a prompt.

        Args:
            keep: (batch, seq) for a padded batch, else (tokens,); bool or integer, 1 or True = keep.

        Raises:
            TypeError, ValueError: ``keep`` is no such mask.

        Example:
            >>> batch = TokenBatch.from_packed(torch.ones(3, 2), torch.tensor([0, 3]))
            >>> kept = batch.select(torch.tensor([0, 1, 1]))
            >>> kept.lengths.tolist(), kept.positions.tolist()
            ([2], [1, 2])
        """
        keep = self.as_padded(keep) if isinstance(keep, Tensor) else keep
        check_mask("keep", keep, self.shape, self.device)
        if self.dense:
            assert self.mask is not None
            batch = TokenBatch._dense(self.padded, self.mask & keep.bool())
            batch._from_packed = self._from_packed
            batch._unselected = self._attention_mask if self._unselected is None else self._unselected
            return batch
        check_zeros_and_ones("keep", keep)
        kept = keep.bool() if self._attention_mask is None else keep.bool().reshape(-1)[self._places]
        running = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
        batch = TokenBatch(self.values, self.index[kept], running[self.offsets])
        batch._positions = self.positions[kept]
        if self._attention_mask is not None:
            assert self._places is not None
            batch._padded = self._padded
            batch._attention_mask = self._attention_mask.bool() & keep.bool()
            batch._places = self._places[kept]
        return batch

    def with_rows(self, rows: Float[Tensor, "*token dim"]) -> TokenBatch:
        """The same sentences with other numbers in their tokens, any width and floating dtype.

        Args:
            rows: (tokens, dim), the real tokens one sentence after the other, on the eager route;
                (batch, seq, dim) on the dense one.
        """
        if self.dense:
            batch = TokenBatch._dense(rows, self._attention_mask)  # type: ignore[arg-type]  # dense has a mask
            batch._from_packed = self._from_packed
            batch._unselected = self._unselected
            return batch
        batch = TokenBatch(rows, torch.arange(len(rows)), self.offsets)
        batch._lengths = self._lengths
        batch._attention_mask, batch._places, batch._positions = self._attention_mask, self._places, self._positions
        batch.sentence_of_token = self.sentence_of_token
        return batch

    def to_packed(self) -> TokenBatch:
        """The same batch with its real tokens in one tensor, ``values``, split by ``cu_seqlens``.

        Tokens keep their positions, holes included. A packed batch is returned as it is.

        Raises:
            ValueError: On the dense route, where the number of tokens is not known.

        Example:
            >>> packed = TokenBatch.from_padded(torch.ones(2, 3, 4), torch.tensor([[1, 1, 0], [0, 1, 0]])).to_packed()
            >>> packed.values.shape, packed.cu_seqlens.tolist()
            (torch.Size([3, 4]), [0, 2, 3])
        """
        if self.dense:
            raise ValueError(
                "to_packed must count the mask's real tokens, which only eager mode on CPU can: "
                "call it outside of torch.compile and torch.export, on a CPU batch"
            )
        tokens = self.index.numel()
        if (
            self._attention_mask is None
            and len(self.values) == tokens
            and torch.equal(self.index, torch.arange(tokens))
        ):
            return self
        batch = TokenBatch(self.values.index_select(0, self.index), torch.arange(self.index.numel()), self.offsets)
        batch._positions = self.positions
        return batch

    def to_padded(self) -> TokenBatch:
        """The same batch padded on the right, as ``padded`` (zeros at pads) with ``mask``.

        A token stands at its position, so holes and excluded prompts stay holes. A padded batch is
        returned as it is.

        Example:
            >>> batch = TokenBatch.from_packed(torch.ones(3, 4), torch.tensor([0, 2, 3])).to_padded()
            >>> batch.padded.shape, batch.mask.tolist()
            (torch.Size([2, 2, 4]), [[True, True], [True, False]])
        """
        if self._attention_mask is not None and self._padded is not None:
            return self
        positions, sentences = self.positions, self.lengths.numel()
        width = int(positions.max()) + 1 if positions.numel() else 0
        where = (self.sentence_of_token, positions)
        mask = torch.zeros(sentences, width, dtype=torch.bool).index_put(where, torch.tensor(True))
        rows = self.values.index_select(0, self.index)
        batch = TokenBatch.from_padded(rows.new_zeros(sentences, width, self.dim).index_put(where, rows), mask)
        batch._positions = positions
        return batch

    @property
    def padded(self) -> Float[Tensor, "batch seq dim"]:
        """The tensor of a padded batch; others have one after `to_padded`."""
        if self._padded is None:
            raise AttributeError("padded must be made first where a batch was packed or changed: call to_padded()")
        return self._padded

    @property
    def mask(self) -> Bool[Tensor, "batch seq"] | None:
        """True at real tokens; None when the batch was not padded."""
        return None if self._attention_mask is None else self._attention_mask.bool()

    @property
    def cu_seqlens(self) -> Int[Tensor, " sentences_plus_1"]:
        """``offsets`` as varlen attention kernels want them, int32 (eager route)."""
        return self.offsets.to(torch.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, seq) of a padded batch, (tokens,) of a packed one: what token weights have."""
        return (self.index.numel(),) if self._attention_mask is None else tuple(self._attention_mask.shape)

    @property
    def device(self) -> torch.device:
        """Device of the token embeddings."""
        return (self.padded if self.dense else self.values).device

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
        if self._lengths is None:
            self._lengths = self.offsets.diff()
        return self._lengths

    @cached_property
    def sentence_of_token(self) -> Int[Tensor, " tokens"]:
        """The sentence that each real token belongs to (eager route)."""
        sentences = torch.arange(self.lengths.numel(), device=self.index.device)
        return torch.repeat_interleave(sentences, self.lengths, output_size=self.index.numel())

    @property
    def positions(self) -> Int[Tensor, " tokens"] | Int[Tensor, "batch seq"]:
        """Each token's distance from its sentence's first real position; holes are counted."""
        if self.dense:
            mask = self._attention_mask if self._unselected is None else self._unselected
            assert mask is not None
            columns = torch.arange(mask.shape[1], device=mask.device)
            return columns - _first_column(mask).unsqueeze(1)
        if self._positions is not None:
            return self._positions
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
