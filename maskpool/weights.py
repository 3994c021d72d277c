"""Token weights from counts in a corpus: the rarer a token, the larger its weight in ``token_weights=``."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor

from maskpool.errors import FolderError, InvalidTypeError, InvalidValueError
from maskpool.files import atomic_write
from maskpool.trust.files import check_regular, read_json

_MOST_TOKENS = 2**24
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class _TableOfWeights:
    """A weight for each token id that was seen, and one for all others."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1  # of the file's format

    def __init__(self, table: dict[int, float], unseen: float) -> None:
        self.table = dict(sorted(table.items()))
        self.unseen = unseen
        # The last entry is the unseen weight; every id outside the table is looked up there.
        # Dtype and device are named because torch's defaults are the caller's to change.
        self._lookup = torch.full((max(self.table, default=-1) + 2,), unseen, dtype=torch.float32, device="cpu")
        places = torch.tensor(list(self.table), dtype=torch.int64, device="cpu")
        self._lookup[places] = torch.tensor(list(self.table.values()), dtype=torch.float32, device="cpu")

    def __call__(self, input_ids: Annotated[Tensor, "*shape"]) -> Annotated[Tensor, "*shape"]:
        """Return the weight of each token, in float32, on the device of the ids.

        Args:
            input_ids: Integers of any shape, padded or flat. Ids that were not seen have the unseen weight.

        Raises:
            TypeError: ``input_ids`` is not an integer tensor.
        """
        if not isinstance(input_ids, Tensor) or input_ids.dtype not in _INTEGERS:
            got = input_ids.dtype if isinstance(input_ids, Tensor) else type(input_ids).__name__
            raise InvalidTypeError("input_ids", f"must be an integer torch.Tensor, got {got}")
        last = self._lookup.numel() - 1
        ids = input_ids.to(torch.int64)
        known = (ids >= 0) & (ids < last)
        return self._lookup.to(ids.device)[torch.where(known, ids, last)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as JSON; an existing file is replaced in one step."""
        weights = {str(token): weight for token, weight in self.table.items()}
        contents = {"kind": self.kind, "version": self.version, "unseen": self.unseen, "weights": weights}
        with atomic_write(path) as new_file:
            new_file.write_text(json.dumps(contents), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            NotFoundError: The file does not exist.
            FolderError: The file holds something else, or weights of another kind or version.
        """
        expected = f"{path} must hold the JSON that {cls.__name__}.save writes"
        contents = _read(check_regular(path, f"the JSON that {cls.__name__}.save writes"), expected)
        try:
            kind, version, unseen = contents["kind"], contents.get("version", cls.version), float(contents["unseen"])
            table = {int(token): float(weight) for token, weight in contents["weights"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise FolderError(f"{expected}; it cannot be read: {error!r}") from error
        if kind != cls.kind:
            raise FolderError(f"{expected}, of the kind {cls.kind!r}; its kind is {kind!r}")
        if version != cls.version:
            raise FolderError(f"{expected}, of version {cls.version}; its version is {version!r}")
        if any(token >= _MOST_TOKENS for token in table):  # a lookup of so many ids would fill the memory
            raise FolderError(f"{expected}; it has ids of 2**24 and above, which no tokenizer gives")
        if any(token < 0 for token in table) or not all(map(math.isfinite, [unseen, *table.values()])):
            raise FolderError(f"{expected}; it has negative ids or weights that are not finite")
        loaded = cls.__new__(cls)
        _TableOfWeights.__init__(loaded, table, unseen)
        return loaded


class IDFWeights(_TableOfWeights):
    """Inverse document frequency of tokens, log((1 + N) / (1 + df)) + 1, over N texts.

    A token that no text contains has df = 0, the largest weight. Weights belong to token ids, so each wordpiece
    has its own. Weigh with ``mean_pool(…, token_weights=idf(input_ids))``; special tokens count unless the
    mask excludes them.

    Source: Spärck Jones 1972; smoothed as in scikit-learn's ``TfidfTransformer``.

    Example:
        >>> idf = IDFWeights.fit([[101, 7, 8], [101, 7]])
        >>> idf(torch.tensor([[101, 8, 9]]))
        tensor([[1.0000, 1.4055, 2.0986]])
    """

    kind = "idf"

    @classmethod
    def fit(cls, token_ids: Iterable[Sequence[int]]) -> Self:
        """Count how many texts contain each token.

        Args:
            token_ids: One sequence of ids per text, not padded, such as ``tokenizer(texts)["input_ids"]``.

        Raises:
            TypeError: A text is not a sequence of ints, or a padded tensor is passed.
            ValueError: The texts hold no token, or an id is negative.
        """
        frequency: Counter[int] = Counter()
        texts = 0
        for ids in _checked(token_ids):
            texts += 1
            frequency.update(set(ids))
        table = {token: math.log((1 + texts) / (1 + number)) + 1 for token, number in frequency.items()}
        return cls(table, math.log(1 + texts) + 1)


class SIFWeights(_TableOfWeights):
    """Smooth inverse frequency of tokens, a / (a + p), with p the share of all tokens that a token is.

    A token that no text contains has p = 0 and the weight 1. The method of the paper goes on to remove the first
    principal component from the pooled vectors; this class only computes the weights.

    Source: Arora, Liang and Ma 2017, A Simple but Tough-to-Beat Baseline for Sentence Embeddings.

    Example:
        >>> sif = SIFWeights.fit([[7, 8], [7, 7]], a=0.25)
        >>> sif(torch.tensor([7, 8, 9]))
        tensor([0.2500, 0.5000, 1.0000])
    """

    kind = "sif"

    @classmethod
    def fit(cls, token_ids: Iterable[Sequence[int]], a: float = 1e-3) -> Self:
        """Count how often each token occurs.

        Args:
            token_ids: One sequence of ids per text, not padded, such as ``tokenizer(texts)["input_ids"]``.
            a: The smoothing, above 0; the paper takes 1e-3 to 1e-4.

        Raises:
            TypeError: A text is not a sequence of ints, or a padded tensor is passed.
            ValueError: The texts hold no token, an id is negative, or ``a`` is not above 0.
        """
        if isinstance(a, bool) or not isinstance(a, (int, float)) or not 0 < a < math.inf:
            raise InvalidValueError("a", f"must be a finite number above 0, got {a!r}")
        a = float(a)  # numpy's float64 is a float too
        counts: Counter[int] = Counter()
        for ids in _checked(token_ids):
            counts.update(ids)
        tokens = counts.total()
        return cls({token: a / (a + number / tokens) for token, number in counts.items()}, 1.0)


def _read(path: Path, expected: str) -> Any:  # Any: what JSON holds
    try:
        return read_json(path)
    except FolderError as error:
        raise FolderError(f"{expected}; it cannot be read: {error}") from error


def _checked(token_ids: Iterable[Sequence[int]]) -> Iterable[list[int]]:
    if isinstance(token_ids, Tensor):
        raise InvalidTypeError(
            "token_ids",
            "must be one sequence of ids per text, got a tensor, whose pads would be counted: "
            'pass tokenizer(texts)["input_ids"], tokenised without padding',
        )
    if isinstance(token_ids, str | bytes | dict) or not isinstance(token_ids, Iterable):
        raise InvalidTypeError("token_ids", f"must be one sequence of ids per text, got {type(token_ids).__name__}")
    number = 0
    for text, ids in enumerate(token_ids):
        plain = ids.tolist() if isinstance(ids, Tensor) else ids
        if isinstance(plain, str | bytes) or not isinstance(plain, Sequence):
            raise InvalidTypeError(
                "token_ids",
                f"must be one sequence of ids per text; text {text} is of type {type(ids).__name__}: tokenise it first",
            )
        for token in plain:
            if isinstance(token, bool) or not isinstance(token, int):
                raise InvalidTypeError(
                    "token_ids", f"must hold ints; text {text} holds one of type {type(token).__name__}"
                )
            if token < 0:
                raise InvalidValueError("token_ids", f"must hold ids of at least 0; text {text} holds {token}")
        number += len(plain)
        yield list(plain)
    if not number:
        raise InvalidValueError("token_ids", "must hold at least one token, got none")
