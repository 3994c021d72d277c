"""The types of inputs, results, progress, and tensors inside the kernels, with shapes and dtypes as annotations.

``batch`` counts the sentences of a padded batch and ``sentences`` those of any batch; ``seq`` is the padded length;
``tokens`` counts the real tokens of all sentences; ``dim`` is the width of a token embedding and ``out_dim`` that of a
sentence embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from torch import Tensor

OnEmpty: TypeAlias = Literal["zero", "nan", "raise"]
"""What a sentence without real tokens gets: zeros, NaN, or an error."""

Side: TypeAlias = Literal["right", "left"]
SIDES: tuple[Side, Side] = ("right", "left")


class SupportsArray(Protocol):
    """A NumPy array, or an object that converts to one."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:  # Any: NumPy is optional, so its types are not named
        """Return the array."""


class ModelOutput(Protocol):
    """An output of a transformers model."""

    @property
    def last_hidden_state(self) -> Tensor | None:
        """The token embeddings, (batch, seq, dim)."""


class Progress(Protocol):
    """Shows the progress of long work."""

    def task(self, description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begin a task of ``total`` steps; the context gives a function that counts finished steps."""


# Inputs.
Mask: TypeAlias = Annotated[Tensor, "integer or bool, batch seq or tokens"]
AttentionMask: TypeAlias = Mask | SupportsArray | Mapping[str, Any]
Offsets: TypeAlias = Annotated[Tensor, "int32 or int64, sentences+1"]
Lengths: TypeAlias = Annotated[Tensor, "int64, sentences"]
TokenWeights: TypeAlias = Annotated[Tensor, "float, batch seq or tokens"]

# Results.
SentenceEmbeddings: TypeAlias = Annotated[Tensor, "float, sentences out_dim"]
AttentionWeights: TypeAlias = Annotated[Tensor, "float32, batch heads seq or tokens heads"]

# Inside the kernels. A per-token tensor has one entry per real token, (tokens, …), in a sparse batch and one per
# position, (batch, seq, …), in a padded one.
Rows: TypeAlias = Annotated[Tensor, "float, rows dim"]
Index: TypeAlias = Annotated[Tensor, "int64, tokens"]
Padded: TypeAlias = Annotated[Tensor, "float, batch seq dim"]
PaddedMask: TypeAlias = Annotated[Tensor, "bool, batch seq"]
PerToken: TypeAlias = Annotated[Tensor, "tokens … or batch seq …"]
PerSentence: TypeAlias = Annotated[Tensor, "sentences …"]
