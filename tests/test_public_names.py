"""One public class per name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import defaultdict

import maskpool


def test_no_two_public_classes_share_a_name() -> None:
    """A public name means the same class in every module, so a layer is not confused with a module of a host."""
    classes: dict[str, set[type]] = defaultdict(set)
    for module in pkgutil.walk_packages(maskpool.__path__, "maskpool."):
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        for name, member in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(member) and member.__module__.startswith("maskpool") and not name.startswith("_"):
                classes[name].add(member)
    assert "Pooling" in classes
    assert {name: homonyms for name, homonyms in classes.items() if len(homonyms) > 1} == {}
