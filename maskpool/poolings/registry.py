"""The registry of poolings by their mode strings.

Everything that lists poolings (`build_pooling`, documentation tables, test matrices, the modes of the
sentence-transformers module, error messages) reads `POOLINGS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.poolings.base import PoolingLayer

POOLINGS: dict[str, type[PoolingLayer]] = {}
"""The layers by mode string, in order of registration."""

# Names of the modes in other libraries, for error messages only.
_ALIASES: dict[str, str] = {}

_MOST_MORE_LETTERS = 2  # by which a typing error changes the length of a name

_Layer = TypeVar("_Layer", bound=type[PoolingLayer])


def register(mode: str, *, formula: str, source: str, also_called: tuple[str, ...] = ()) -> Callable[[_Layer], _Layer]:
    """Register a layer under a mode string; a class decorator.

    Args:
        mode: The mode string: sentence-transformers' spelling if it has the mode, else snake_case.
        formula: What the layer computes, in one line.
        source: The paper or library that the pooling comes from.
        also_called: Names of the mode in other libraries. They are not accepted; the error suggests the mode.

    Raises:
        InvalidValueError: The mode is registered already.
    """

    def add(layer: _Layer) -> _Layer:
        if mode in POOLINGS:
            raise InvalidValueError("mode", f"must be new, got {mode!r}, which is registered for {POOLINGS[mode]}")
        layer.mode, layer.formula, layer.source = mode, formula, source
        POOLINGS[mode] = layer
        _ALIASES.update(dict.fromkeys(also_called, mode))
        return layer

    return add


def find(mode: object, argument: str = "pooling_mode") -> type[PoolingLayer]:
    """Return the layer that is registered under a mode string.

    Args:
        mode: The mode string.
        argument: The argument that it was passed as, for the error message.

    Raises:
        InvalidTypeError: The mode is not a string.
        InvalidValueError: The mode is unknown. The message suggests the mode that was probably meant.
    """
    if not isinstance(mode, str):
        layer = mode if isinstance(mode, type) else type(mode)
        registered = [name for name, known in POOLINGS.items() if layer is known]
        advice = f": pass its mode, {registered[0]!r}" if registered else ""
        raise InvalidTypeError(argument, f"must be a string or a tuple of strings, got {layer.__name__}{advice}")
    if mode not in POOLINGS:
        hint = suggestion(mode)
        meant = "" if hint is None else f"; did you mean {hint!r}?"
        raise InvalidValueError(argument, f"must be one of {', '.join(map(repr, POOLINGS))}, got {mode!r}{meant}")
    return POOLINGS[mode]


def suggestion(mode: str) -> str | None:
    """Return the registered mode that an unknown one probably means, or None.

    Example:
        >>> suggestion("avg"), suggestion("Mean"), suggestion("eos"), suggestion("pool")
        ('mean', 'mean', 'lasttoken', None)
    """
    known = {name.replace("_", ""): name for name in POOLINGS} | _ALIASES
    word = re.sub(r"\W|_", "", mode.lower())
    for spelling in (word, word.removesuffix("pooling"), word.removesuffix("pool")):
        if spelling in known:
            return known[spelling]
    # A short word is not close to a much longer name.
    alike = [name for name in known if abs(len(name) - len(word)) <= _MOST_MORE_LETTERS]
    close = get_close_matches(word, alike, n=1, cutoff=0.75)
    return known[close[0]] if close else None
