"""Type hints are resolved at run time, as beartype, pydantic and documentation tools do."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import maskpool


def _names() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(maskpool.__path__, "maskpool.")]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


def _own(owner: type) -> type:
    """Return the class, or a class with only its hints if a host's base class may have unresolvable hints."""
    if all(base.__module__.partition(".")[0] in ("maskpool", "builtins", "torch") for base in owner.__mro__):
        return owner
    hints = {"__annotations__": inspect.get_annotations(owner), "__module__": owner.__module__}
    return type(owner.__name__, (), hints)


def _functions(owner: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(owner).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        function = getattr(function, "func", function)  # of a cached property
        ours = inspect.isfunction(function) and not function.__module__.startswith("pydantic.")  # with private hints
        if ours and (name.startswith("__") or not name.startswith("_")):
            yield f"{owner.__qualname__}.{name}", function


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(member):
            yield name, _own(member)
            yield from _functions(member)
        elif inspect.isfunction(member):
            yield name, member


@pytest.mark.parametrize("name", _names())
def test_hints_are_resolved(name: str) -> None:
    """Every hint of a public function, class and method names something that exists at run time."""
    unresolved = []
    for where, member in _public(importlib.import_module(name)):
        try:
            typing.get_type_hints(member)
        except NameError as error:
            unresolved.append(f"{where}: {error}")
    assert unresolved == []
