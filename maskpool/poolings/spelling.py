"""The spelling of a mode with its options in one string, such as ``topk_mean(k=3)``."""

from __future__ import annotations

import re
from typing import Any

from maskpool.errors import InvalidValueError, MaskpoolError
from maskpool.poolings.registry import POOLINGS, find

_OPTION = re.compile(r"([^\W\d]\w*)=([\w.+-]+)")


# Any: the options are those of the layers.
def parse_mode(spelling: str, argument: str = "pooling_mode") -> tuple[str, dict[str, Any]]:
    """Return the mode and the options of a spelling; values are integers, else numbers, else words.

    ``on_empty`` cannot be spelled.

    Args:
        spelling: A mode, or a mode with options.
        argument: The argument that it was passed as, for the error.

    Raises:
        InvalidValueError: The mode is unknown, or an option is unknown, missing, malformed or has an invalid value.

    Example:
        >>> parse_mode("topk_mean(k=3)"), parse_mode("mean")
        (('topk_mean', {'k': 3}), ('mean', {}))
    """
    mode, bracket, rest = spelling.replace(" ", "").partition("(")
    layer = find(mode if bracket else spelling, argument)
    known = [name for name in layer.options() if name != "on_empty"]
    options: dict[str, Any] = {}
    for option in rest.removesuffix(")").split(",") if bracket else ():
        match = _OPTION.fullmatch(option) if rest.endswith(")") else None
        if match is None or match[1] not in known or match[1] in options:
            takes = f"takes {', '.join(known)}, each at most once" if known else "takes no options"
            raise InvalidValueError(argument, f"must be spelled like {example(mode)}, got {spelling!r}: {mode} {takes}")
        options[match[1]] = _number(match[2])
    missing = [name for name in layer.required_options() if name not in options]
    if missing:
        raise InvalidValueError(argument, f"must give {missing[0]}, as in {example(mode)!r}, got {spelling!r}")
    if not layer.takes_dimension():
        try:
            layer(**options)
        except MaskpoolError as error:
            raise InvalidValueError(argument, f"must have valid options, got {spelling!r}: {error}") from error
    return mode, options


def spell_mode(mode: str, options: dict[str, Any]) -> str:
    """Return the one spelling of a mode with options: in the order of the layer, without defaults and spaces.

    Example:
        >>> spell_mode("topk_mean", {"k": 3}), spell_mode("softmax", {"temperature": 1.0})
        ('topk_mean(k=3)', 'softmax')
    """
    changed = [
        f"{name}={options[name]}"
        for name, parameter in POOLINGS[mode].options().items()
        if name in options and options[name] != parameter.default
    ]
    return f"{mode}({','.join(changed)})" if changed else mode


def example(mode: str) -> str:
    """Return a spelling of a mode that is accepted, with the options that it requires."""
    required = ",".join(f"{name}=3" for name in POOLINGS[mode].required_options())
    return f"{mode}({required})" if required else mode


def _number(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word
