"""The model that the questions are about: copies of it, and texts as batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

from torch import Tensor, nn

from maskpool.encoder import Encoder
from maskpool.encoder.annotations import PreTrainedModel
from maskpool.errors import InvalidValueError
from maskpool.pads.measures import Batch, DoesNotApplyError
from maskpool.pads.row import input_embedding
from maskpool.pads.training import Trained
from maskpool.types import Side

_PADS = 16  # per text, but at most half of the positions of the model


class Subject:
    """The model that the questions are about.

    Args:
        encoder: Model and tokenizer; both are copied.
        texts: The texts to measure on.

    Raises:
        InvalidValueError: No text has a token.
    """

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        self.encoder, self.texts = encoder, texts
        self.tokenizer = copy.deepcopy(encoder.tokenizer)  # fast tokenizers keep the last padding
        self.model: PreTrainedModel = copy.deepcopy(encoder.model)
        self.model.eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        pads = min(_PADS, encoder.max_length // 2)
        limit = encoder.max_length - pads
        self.ids: list[list[int]] = []
        if texts:  # tokenizers refuse an empty list
            ids = self.tokenizer(list(texts), truncation=True, max_length=limit, verbose=False)["input_ids"]
            self.ids = [tokens for tokens in ids if tokens]
        if not self.ids:
            raise InvalidValueError("texts", f"must hold a text with a token, got {len(texts)} without")
        self.width = max(map(len, self.ids)) + pads
        self.padded = f"{count(len(self.ids), 'text')} padded to {self.width} tokens"

    @cached_property
    def embedding(self) -> nn.Embedding:
        """The embedding that reads token ids."""
        return input_embedding(self.model)

    @property
    def pad(self) -> int:
        """The pad id of the tokenizer, a row of the embedding matrix."""
        pad = self.tokenizer.pad_token_id
        if not isinstance(pad, int):
            raise DoesNotApplyError("the tokenizer has no pad token")
        self._check_row(pad)
        return pad

    def _check_row(self, pad: int) -> None:
        rows = self.embedding.weight.shape[0]
        if pad >= rows:
            raise DoesNotApplyError(f"the pad id {pad} is not a row of the embedding matrix, which has {rows}")

    @property
    def table_name(self) -> str:
        """The name of the embedding matrix among the parameters of the model."""
        names = (name for name, parameter in self.model.named_parameters() if parameter is self.embedding.weight)
        return next(names, "the embedding matrix")

    @property
    def row_name(self) -> str:
        """The name of the pad row, such as ``embeddings.weight[0]``."""
        return f"{self.table_name}[{self.pad}]"

    def batch(self, side: Side) -> Batch:
        """Return the texts padded on one side."""
        self._check_row(self.encoder.pad_token_id)  # an id beyond the matrix kills a CUDA process
        return Batch(*self.encoder.pad(self.ids, self.width, side))

    @cached_property
    def eager(self) -> PreTrainedModel:
        """A copy with eager attention, which returns its weights."""
        model = copy.deepcopy(self.model)
        model.set_attn_implementation("eager")
        return model

    @cached_property
    def trained(self) -> Trained:
        """The language model around the encoder."""
        return Trained.of(self.model, self.tokenizer.mask_token_id)

    @cached_property
    def gradients(self) -> tuple[float, float | None]:
        """Norms of the gradient of the pad row through inputs and output head, without pads in the batch."""
        return self.trained.gradients(self.ids, self.pad)

    @property
    def training(self) -> str:
        """A description of the model that is trained."""
        return f"{type(self.trained.model).__name__}, dropout off, layers that the encoder lacks random"

    def tokenized(self, texts: Sequence[str] | None = None) -> Mapping[str, Annotated[Tensor, "batch seq"]]:
        """Return the output of the tokenizer for the texts, padded together."""
        _ = self.pad  # raises if the tokenizer cannot pad
        encoding: Mapping[str, Any] = self.tokenizer(
            list(self.texts if texts is None else texts),
            padding=True,
            truncation=True,
            max_length=self.encoder.max_length,
            return_tensors="pt",
        )
        return encoding


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
