"""The modules that importing the package loads, and its top-level names."""

import ast
import importlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import maskpool
from maskpool.errors import RequirementError

HEAVY = ["torch", "numpy", "transformers", "sentence_transformers", "sklearn", "scipy", "jaxtyping", "typer", "rich"]
OPTIONAL = ["transformers", "sentence_transformers", "sklearn", "scipy", "jaxtyping", "typer", "rich", "datasets"]
OPTIONAL += ["onnx", "keras", "mteb", "ray"]
NAMES: list[str] = vars(maskpool)["__all__"]  # the stub for type checkers has no __all__
# Prints what is loaded after each step, as JSON.
SCRIPT = f"""
import json, sys
heavy = {sorted({*HEAVY, *OPTIONAL})!r}
loaded = lambda: [name for name in heavy if name in sys.modules]
import maskpool
dir(maskpool), maskpool.__version__, maskpool.errors
hasattr(maskpool, "__wrapped__")
from maskpool import files
front_door = loaded()
import maskpool.cli
cli = loaded()
sys.modules["pydantic"] = None  # the poolings and plans do without it
import torch
import maskpool.nn, maskpool.functional, maskpool.plans
for name in maskpool.__all__: getattr(maskpool, name)
everything = loaded()
integrations = dir(maskpool.integrations), maskpool.integrations.onnx.export.__name__, loaded()
print(json.dumps([front_door, cli, everything, integrations]))
"""


@pytest.fixture(scope="module")
def steps() -> Any:
    """Return what the steps of the script print."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_import_is_light(steps: Any) -> None:
    """`import maskpool` and `maskpool.cli` load no torch, and all public names load no optional package."""
    front_door, cli, everything, _ = steps
    assert front_door == []
    assert not {"torch", "numpy", "transformers"} & set(cli)
    assert not set(OPTIONAL) & set(everything) - set(cli)


def test_top_level_names_are_complete() -> None:
    """Every name in __all__ exists, is listed by dir, and is loaded once."""
    for name in NAMES:
        assert getattr(maskpool, name) is getattr(maskpool, name)
    assert set(dir(maskpool)) == {*NAMES, "__version__"}
    assert sorted(NAMES) == NAMES


def test_stub_matches_the_package() -> None:
    """The stub for type checkers names exactly __all__ and the version, from the modules they are loaded from."""
    stub = ast.parse((Path(maskpool.__file__).parent / "__init__.pyi").read_text(encoding="utf-8"))
    names = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            for alias in node.names:
                assert alias.name == alias.asname, "a stub exports only names that are imported as themselves"
                names[alias.name] = node.module
        else:
            assert isinstance(node, ast.AnnAssign)
            assert ast.unparse(node) == "__version__: str"
    assert set(names) == set(NAMES)
    for name, module in names.items():
        home = importlib.import_module(module)
        assert getattr(home, name) is getattr(maskpool, name)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("MeanPooling", ": it is maskpool.nn.MeanPooling"),
        ("POOLINGS", ": it is maskpool.nn.POOLINGS"),
        ("mean_pool", ": it is maskpool.functional.mean_pool"),
        ("MeanPool", ""),
    ],
)
def test_names_in_modules(name: str, advice: str) -> None:
    """The error for a layer or function that is not a top-level name says where it is."""
    with pytest.raises(AttributeError, match=re.escape(f"module 'maskpool' has no attribute '{name}'{advice}") + "$"):
        getattr(maskpool, name)


def test_integrations_are_loaded_on_first_use(steps: Any) -> None:
    """The integrations are attributes of maskpool.integrations, and using one loads no host library of another."""
    names, used, loaded = steps[3]
    assert {"mteb", "onnx", "ray", "sentence_transformers", "sklearn", "transformers"} <= set(names)
    assert (used, loaded) == ("export", steps[2])


def test_unknown_integrations() -> None:
    """An unknown integration is refused, and the error lists the known ones."""
    with pytest.raises(
        AttributeError, match="has no attribute 'keras': its integrations are mteb, onnx, ray, sentence"
    ):
        getattr(maskpool.integrations, "keras")  # noqa: B009  # type checkers know that it is not there


@pytest.mark.parametrize("package", ["encoder", "integrations"])
def test_without_numpy(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only torch is installed, what needs numpy says which extra to install."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(RequirementError, match=re.escape('pip install "maskpool[st]"')):
        runpy.run_path(str(Path(maskpool.__file__).parent / package / "__init__.py"))


def test_a_missing_host_without_packaging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing host is reported where the package that compares versions is missing too."""
    monkeypatch.setitem(sys.modules, "packaging.version", None)
    monkeypatch.setitem(maskpool.integrations.MINIMUM, "no-such-host", "1.0")
    with pytest.raises(RequirementError, match="no-such-host is not installed"):
        maskpool.integrations.require("no-such-host", "st")
