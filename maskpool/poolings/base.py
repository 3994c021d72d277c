"""The base class of all layers, and helpers that all poolings share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from maskpool.batch.blocks import Block
from maskpool.batch.checks import check_on_empty
from maskpool.batch.token_batch import SparseBatch, TokenBatch, TokenEmbeddings
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.kernels.base import Kernels
from maskpool.types import AttentionMask, Offsets, OnEmpty, PerSentence, PerToken, SentenceEmbeddings, TokenWeights

_Init = TypeVar("_Init", bound=Callable[..., None])


def explain_arguments(init: _Init) -> _Init:
    """Make a constructor explain arguments that it does not take, as in ``MeanPooling(384)``."""
    parameters = list(inspect.signature(init).parameters.values())[1:]
    positional = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    named = ", ".join(f"{name}=…" for name in names)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)

    @wraps(init)
    def checked(self: nn.Module, *args: Any, **options: Any) -> None:  # Any: those of the constructor
        if len(args) > len(positional):
            kind, surplus = type(self), args[len(positional) :]
            takes = f"only {', '.join(positional)}" if positional else "no embedding dimension, nor other values"
            if all(isinstance(value, Tensor) for value in surplus):
                inputs = ", ".join(list(inspect.signature(kind.forward).parameters)[1:3])
                problem = f"got {len(surplus)} tensors: make the layer first, {kind.__name__}(…)({inputs})"
            else:
                problem = f"got {', '.join(map(repr, surplus))}: pass options by name ({named})"
            raise InvalidTypeError(kind.__name__, f"takes {takes} by position, {problem}")
        unknown = [name for name in options if not open_ended and name not in (*positional, *names)]
        if unknown:
            raise InvalidTypeError(unknown[0], f"is not an argument of {type(self).__name__}; its options are {named}")
        init(self, *args, **options)

    return cast("_Init", checked)


class PoolingLayer(nn.Module, ABC):
    """A layer that pools token embeddings to one vector per sentence and reads real tokens only.

    A subclass implements `pool`. Its batch and token weights are validated already.

    Args:
        on_empty: What a sentence without real tokens (or with zero total weight) gets: ``"zero"``, ``"nan"`` or
            ``"raise"``.

    Attributes:
        mode: The mode string it is registered under.
        formula: What it computes, in one line.
        source: The paper or library it comes from.
        takes_token_weights: Whether ``token_weights`` can be passed.
        learns: Whether it has parameters.
        power_of_weights: For a plain weighted sum Σₜ wₜ xₜ · (Σₜ wₜ)ᵖ the power p, else None. sentence-transformers'
            ``WordWeights`` passes only Σₜ wₜ xₜ and Σₜ wₜ.
        takes_first_token: Whether the result is the first token, for which some encoders have a separate vector.

    Raises:
        InvalidValueError: ``on_empty`` is unknown.
    """

    mode: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    takes_token_weights: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    power_of_weights: ClassVar[float | None] = None
    takes_first_token: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Let the constructor explain arguments that it does not take."""
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = explain_arguments(cls.__init__)  # type: ignore[method-assign]  # same signature

    @explain_arguments
    def __init__(self, *, on_empty: OnEmpty = "zero") -> None:
        super().__init__()
        check_on_empty(on_empty)
        self.on_empty: OnEmpty = on_empty

    def forward(
        self,
        token_embeddings: TokenEmbeddings,
        attention_mask: AttentionMask | None = None,
        *,
        cu_seqlens: Offsets | None = None,
        token_weights: TokenWeights | None = None,
    ) -> SentenceEmbeddings:
        """Pool a batch; the arguments are described in `maskpool.functional`.

        Returns:
            (batch, out_dim), in the dtype and on the device of the tokens.

        Raises:
            InvalidTypeError, InvalidValueError: The input is not a batch (see `TokenBatch.of`), or the layer takes no
                token weights, or they are negative, not finite or of another shape.
        """
        batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
        if token_weights is None:
            return self.pool(batch)
        if not self.takes_token_weights:
            raise InvalidValueError(
                "token_weights", f"cannot be used by {self._unweighted_name()}, which does not sum over the tokens"
            )
        return self.pool(batch, batch.token_weights(token_weights))

    @abstractmethod
    def pool(self, batch: TokenBatch, weights: PerToken | None = None) -> SentenceEmbeddings:
        """Pool a validated batch.

        Args:
            batch: The batch.
            weights: Token weights in the batch's form, from `TokenBatch.token_weights`.
        """

    def _unweighted_name(self) -> str:
        """Return the name of the layer that takes no token weights, for the error message."""
        return type(self).__name__

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """Return the keyword options of the constructor."""
        parameters = inspect.signature(cls).parameters
        return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}

    @classmethod
    def required_options(cls) -> list[str]:
        """Return the names of the options that have no default."""
        return [name for name, parameter in cls.options().items() if parameter.default is parameter.empty]

    @classmethod
    def takes_dimension(cls) -> bool:
        """Return whether the constructor takes ``embedding_dimension``."""
        return "embedding_dimension" in inspect.signature(cls).parameters

    def output_dimension(self, embedding_dimension: int) -> int:
        """Return the width of a sentence embedding, given the width of a token embedding."""
        return embedding_dimension

    def extra_repr(self) -> str:
        """Show ``on_empty`` if it is not the default."""
        return "" if self.on_empty == "zero" else f"on_empty={self.on_empty!r}"


def apply_on_empty(
    pooled: PerSentence, batch: TokenBatch, on_empty: OnEmpty, weight: PerSentence | None = None
) -> PerSentence:
    """Apply ``on_empty`` to sentences without real tokens or with zero total weight.

    Args:
        pooled: (sentences, out_dim), 0 for empty sentences.
        batch: The batch.
        on_empty: ``"zero"``, ``"nan"`` or ``"raise"``.
        weight: (sentences,), the total weights; None if tokens are not weighted.

    Raises:
        InvalidValueError: ``on_empty`` is unknown, or it is ``"raise"`` and a sentence is empty or the mask's values
            cannot be read.
    """
    if on_empty == "zero":
        return pooled  # the kernels return 0 already
    check_on_empty(on_empty)
    if isinstance(batch, Block):
        return pooled  # blocks hold no empty sentence
    if on_empty == "raise" and not isinstance(batch, SparseBatch):
        raise InvalidValueError(
            "on_empty",
            "must be 'zero' or 'nan' under torch.compile, torch.export and torch.func and on other devices than the "
            "CPU, got 'raise', which reads the mask's values",
        )
    empty = batch.lengths == 0 if weight is None else weight == 0
    if on_empty == "nan":
        return torch.where(empty.unsqueeze(1), torch.nan, pooled)
    rows = empty.nonzero().view(-1).tolist()
    if rows:
        named = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        argument = "cu_seqlens" if len(batch.shape) == 1 else "attention_mask"
        argument, token = (argument, "a real token") if weight is None else ("token_weights", "a token with weight")
        raise InvalidValueError(
            argument,
            f"must leave each sentence {token} with on_empty='raise'; {len(rows)} of {empty.numel()} have none "
            f"(rows {named}): drop them, or use on_empty='zero' or 'nan'",
        )
    return pooled


def prepare(
    token_embeddings: TokenEmbeddings,
    attention_mask: AttentionMask | None,
    cu_seqlens: Offsets | None,
    token_weights: TokenWeights | None,
) -> tuple[TokenBatch, PerToken | None]:
    """Validate the inputs of a function; return the batch and the token weights in its form."""
    batch = TokenBatch.of(token_embeddings, attention_mask, cu_seqlens)
    return batch, None if token_weights is None else batch.token_weights(token_weights)


def shares(batch: Kernels, weights: PerToken) -> tuple[PerToken, PerSentence]:
    """Return the weights divided by their sum in each sentence, and the sums; zero total weight gives shares of 0."""
    sums = batch.total(weights)
    share = torch.where(sums > 0, sums, 1.0).reciprocal()
    return (weights * batch.spread(share)).to(batch.accumulation_dtype), sums
