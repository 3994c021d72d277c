"""A model whose pads are asked about: copies of it, and texts as batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from maskpool.encoder import Encoder
from maskpool.encoder.annotations import PreTrainedModel
from maskpool.errors import InvalidValueError
from maskpool.pads.measures import Batch, DoesNotApplyError
from maskpool.pads.row import input_embedding
from maskpool.pads.training import Trained

_PADS = 16  # each text gets at least so many, or half of what the model takes


class Subject:
    """A model under questions: copies of it, and the texts as batches."""

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        self.encoder, self.texts = encoder, texts
        self.tokenizer = copy.deepcopy(encoder.tokenizer)  # a fast one keeps how it padded last
        self.model: PreTrainedModel = copy.deepcopy(encoder.model)
        self.model.eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        pads = min(_PADS, encoder.max_length // 2)
        limit = encoder.max_length - pads
        self.ids: list[list[int]] = []
        if texts:  # tokenizers refuse an empty list
            ids = self.tokenizer(list(texts), truncation=True, max_length=limit, verbose=False)["input_ids"]
            self.ids = [tokens for tokens in ids if tokens]
        if not self.ids:
            raise InvalidValueError("texts", f"must hold at least one that gives a token, got {len(texts)} without one")
        self.width = max(map(len, self.ids)) + pads
        self.padded = f"{count(len(self.ids), 'text')} padded to {self.width} tokens"

    @cached_property
    def embedding(self) -> nn.Embedding:
        """What reads the token ids."""
        return input_embedding(self.model)

    @property
    def pad(self) -> int:
        """The tokenizer's pad id, a row of the embedding matrix."""
        pad = self.tokenizer.pad_token_id
        if not isinstance(pad, int):
            raise DoesNotApplyError("the tokenizer has no pad token")
        self._check_row(pad)
        return pad

    def _check_row(self, pad: int) -> None:
        rows = self.embedding.weight.shape[0]
        if pad >= rows:
            raise DoesNotApplyError(f"the pad id {pad} is no row of the embedding matrix, which has {rows}")

    @property
    def table_name(self) -> str:
        """The embedding matrix, as a parameter of the model."""
        names = (name for name, parameter in self.model.named_parameters() if parameter is self.embedding.weight)
        return next(names, "the embedding matrix")

    @property
    def row_name(self) -> str:
        """The pad row, as a row of a parameter of the model."""
        return f"{self.table_name}[{self.pad}]"

    def batch(self, side: Literal["right", "left"]) -> Batch:
        """The texts, with pads on one side."""
        self._check_row(self.encoder.pad_token_id)  # an id beyond the matrix would end a CUDA process, not raise
        return Batch(*self.encoder.pad(self.ids, self.width, side))

    @cached_property
    def eager(self) -> PreTrainedModel:
        """The model with attention that shows its weights."""
        model = copy.deepcopy(self.model)
        model.set_attn_implementation("eager")
        return model

    @cached_property
    def trained(self) -> Trained:
        """The model that one would train."""
        return Trained.of(self.model, self.tokenizer.mask_token_id)

    @cached_property
    def gradients(self) -> tuple[float, float | None]:
        """Norms of the pad row's gradient through the inputs and through the output head, with no pad in the batch."""
        return self.trained.gradients(self.ids, self.pad)

    @property
    def lesson(self) -> str:
        """What is trained."""
        return f"{type(self.trained.model).__name__}, dropout off, layers that the encoder lacks drawn at random"

    def tokenized(self, texts: Sequence[str] | None = None) -> Mapping[str, Annotated[Tensor, "batch seq"]]:
        """What the tokenizer itself gives for the texts, padded together."""
        _ = self.pad  # a tokenizer without one cannot pad
        given: Mapping[str, Any] = self.tokenizer(
            list(self.texts if texts is None else texts),
            padding=True,
            truncation=True,
            max_length=self.encoder.max_length,
            return_tensors="pt",
        )
        return given


def count(number: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
