"""Every argument of a pooling is documented: in its docstring, or once in the place that the docstring links."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import maskpool.functional
from maskpool import nn

LAYERS = [name for name in nn.__all__ if inspect.isclass(getattr(nn, name))]
# The callables of the public interface with the docstrings that describe their arguments.
DOCUMENTED: dict[str, tuple[Callable[..., Any], Any]] = {
    **{name: (getattr(maskpool.functional, name),) * 2 for name in maskpool.functional.__all__},
    **{name: (getattr(nn, name).__init__, getattr(nn, name)) for name in LAYERS},
    **{f"{name}.forward": (getattr(nn, name).forward,) * 2 for name in LAYERS},
}
SHARED = set(re.findall(r"^- ``(\w+)``", maskpool.functional.__doc__ or "", re.MULTILINE))


def described(documented: Any) -> set[str]:
    """Return the arguments that a docstring describes, and those that it links."""
    text = inspect.getdoc(documented) or ""
    section = re.search(r"^Args:\n((?:    .*\n?)+)", text, re.MULTILINE)
    names = set(re.findall(r"^    (\w+): ", section[1], re.MULTILINE)) if section else set()
    for link in re.findall(r"described in\s+`maskpool\.(\S+)`", text):
        names |= SHARED if link == "functional" else described(getattr(nn, link.removeprefix("nn.")))
    return names


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_argument_is_described(name: str) -> None:
    """The docstring of a function, a layer or its forward describes or links each argument."""
    function, documented = DOCUMENTED[name]
    arguments = set(inspect.signature(function).parameters) - {"self"}
    # A layer inherits the descriptions of its base classes.
    bases = documented.__mro__ if inspect.isclass(documented) else (documented,)
    assert arguments <= set().union(*(described(base) for base in bases if base is not object))


def test_the_shared_arguments_are_known() -> None:
    """The list of shared arguments is found in the docstring of `maskpool.functional`."""
    assert {"token_embeddings", "attention_mask", "cu_seqlens", "token_weights", "on_empty"} == SHARED


def section(documented: Any, name: str) -> str:
    """Return a section of a docstring in one line; empty if there is none."""
    lines = re.search(rf"^{name}:\n((?:    .*\n?)+)", inspect.getdoc(documented) or "", re.MULTILINE)
    return " ".join(lines[1].split()) if lines else ""


@pytest.mark.parametrize("mode", nn.POOLINGS)
def test_every_layer_cites_its_source_and_names_relatives(mode: str) -> None:
    """The references of a layer have the years of its source in the registry, and it names other poolings."""
    layer = nn.POOLINGS[mode]
    years = re.compile(r"\b(?:19|20)\d\d\b")
    assert section(layer, "References")
    assert set(years.findall(layer.source)) <= set(years.findall(section(layer, "References")))
    assert f"`maskpool.nn.{layer.__name__}`" not in section(layer, "See Also")
    assert "`maskpool.nn." in section(layer, "See Also")


@pytest.mark.parametrize("name", [*maskpool.functional.__all__, *LAYERS])
def test_what_to_see_exists(name: str) -> None:
    """Each name under See Also can be imported."""
    documented = getattr(nn if name in LAYERS else maskpool.functional, name)
    for path in re.findall(r"`(maskpool\.\S+)`", section(documented, "See Also")):
        module, _, attribute = path.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), path
