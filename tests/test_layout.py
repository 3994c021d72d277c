"""The layout of the package: imports go down only, and tolerances are in one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import maskpool
from maskpool import tolerances

ROOT = Path(maskpool.__file__).parent
# From top to bottom; parts of one line may import each other.
LEVELS = (
    ("cli", "pytest_plugin"),
    ("integrations.ray",),
    ("embed",),
    ("bench.report",),
    ("bench.estimate",),
    ("bench.run",),
    ("bench.part",),
    ("bench.paths",),
    ("bench.store",),
    ("bench.score",),
    ("bench.encode",),
    ("bench.design",),
    ("bench.vectors",),
    ("audit",),
    ("pads",),
    ("integrations",),
    ("training",),
    ("encoder",),
    ("config",),
    ("leaks",),
    ("weights", "plans"),
    ("nn", "functional"),
    ("poolings",),
    ("batch", "masks"),
    ("kernels",),
    ("trust", "files", "types", "tolerances"),
    ("errors",),
)
HOME: dict[str, str] = vars(maskpool)["_HOME"]  # the modules of the names at the front door
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def module_of(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def part_of(module: str) -> str:
    """Return the part that a module belongs to: the package's first level, and what LEVELS names below it."""
    _, *names = module.split(".")
    first, second = names[:1], names[:2]
    return ".".join(second if first == ["bench"] or ".".join(second) in LEVEL else first)


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py")) if part_of(module_of(path)) in LEVEL}


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Yield the modules of maskpool that a file imports, also inside functions and by `import_module`.

    Args:
        source: The code.
        package: The package of the file, which relative imports start from.
    """
    for node in ast.walk(ast.parse(source)):
        modules: list[str] = []
        match node:
            case ast.Import():
                modules = [alias.name for alias in node.names]
            case ast.ImportFrom():
                base = resolve_name("." * node.level + (node.module or ""), package)
                modules = [f"{base}.{alias.name}" for alias in node.names]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[argument, *_]) if name in (
                "import_module",
                "__import__",
            ):
                first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
                if isinstance(first, ast.Constant):
                    modules = [resolve_name(str(first.value), package)]
        for module in modules:
            top, _, name = module.partition(".")
            if top == "maskpool":
                yield HOME.get(name, module)


def climbs(source: str, module: str, package: str) -> list[str]:
    """Return the imports of a file that do not go down: of a higher part, or of the front door."""
    level = LEVEL[part_of(module)]
    return [
        imported
        for imported in imported_modules(source, package)
        # The face of a package names its own modules, which it imports on first use.
        if imported not in ("maskpool.__version__", *(name for name in FILES if name.startswith(f"{module}.")))
        and LEVEL.get(part_of(imported), -1) < level
    ]


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    """A file imports its own part and parts below it."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert not climbs(path.read_text(encoding="utf-8"), module, package)


@pytest.mark.parametrize(
    "source",
    [
        "import maskpool",
        "import maskpool.audit.run",
        "from maskpool import audit_padding",
        "from maskpool import audit",
        "from maskpool.audit import run",
        "from maskpool.bench import run",
        "from ..audit import run",
        "from .. import audit",
        "def later():\n    from maskpool.cli.app import main",
        "import_module('maskpool.audit')",
        "importlib.import_module('..audit', __package__)",
        "importlib.import_module(f'maskpool.audit.{name}')",
        "__import__('maskpool.pads')",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    """Every way to import a higher part is seen."""
    assert climbs(source, "maskpool.encoder.cache", "maskpool.encoder")


@pytest.mark.parametrize(
    "source",
    [
        "import torch.nn, maskpool.errors",
        "from maskpool import TokenBatch, errors, __version__",
        "from maskpool.encoder.identity import model_hash",
        "from . import identity",
        "from ..trust import Folder",
        "import_module('maskpool.trust.hub')",
        "import_module(name)",
    ],
)
def test_imports_down_are_accepted(source: str) -> None:
    """The same ways to import the own part or a lower one are accepted."""
    assert not climbs(source, "maskpool.encoder.cache", "maskpool.encoder")


def test_every_part_has_a_level() -> None:
    """A new part of the package or of bench needs a level."""
    parts = {part_of(module_of(path)) for path in ROOT.rglob("*.py")}
    assert parts - {"", "__main__", "bench"} == set(LEVEL)


# Small numbers of these parts that are not tolerances: the settings of an optimizer, by their names.
SETTINGS = {"LEARNING_RATE", "_DECAY"}


def value_of(node: ast.AST) -> object:
    """Return the value of an expression without names, such as ``10**-6`` or ``float("1e-6")``; None for others."""
    if not isinstance(node, ast.Constant | ast.UnaryOp | ast.BinOp | ast.Call):
        return None
    try:
        return eval(ast.unparse(node), {"__builtins__": {"float": float}})
    except Exception:  # an unknown name, mostly
        return None


def small_numbers(source: str) -> list[str]:
    """Return the numbers between −0.1 and 0.1, except 0, that are not assigned to a setting."""
    tree = ast.parse(source)
    settings = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and {ast.unparse(target) for target in getattr(node, "targets", [getattr(node, "target", None)])} <= SETTINGS
    }
    values = [(node, value_of(node)) for node in ast.walk(tree) if node not in settings]
    return [
        f"{value} in line {getattr(node, 'lineno', 0)}"
        for node, value in values
        if isinstance(value, float) and 0 < abs(value) < 0.1
    ]


@pytest.mark.parametrize(
    "number", ["1e-6", "-1e-6", "10**-6", "2 ** -20", "1 / 1000", "1 - 0.9999", "float('1e-6')", "max(x, 1e-6)"]
)
def test_every_form_of_a_small_number_is_seen(number: str) -> None:
    """A small number is seen in every form, and only settings may have one."""
    assert small_numbers(f"SMALL = {number}")
    assert small_numbers(f"SMALL: float = {number}")
    assert small_numbers(f"LEARNING_RATE, SMALL = {number}, 1")


def test_settings_and_large_numbers_are_accepted() -> None:
    """Settings, and numbers that are not small, may be anywhere."""
    assert not small_numbers("LEARNING_RATE = 1e-3\n_DECAY: float = 1e-2\nx = [0, 0.0, 0.5, 10**3, 1 / 2]")


@pytest.mark.parametrize("part", ["audit", "pads", "encoder", "batch", "poolings", "bench/encode"])
def test_tolerances_are_in_one_file(part: str) -> None:
    """These parts take their tolerances from maskpool.tolerances."""
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        assert not small_numbers(path.read_text(encoding="utf-8")), path


def test_tolerances_leave_room_for_leaks() -> None:
    """What is clean is smaller than a leak, and a leak of vectors is smaller than another pooling's vector."""
    assert 0 < tolerances.CLEAN < tolerances.LEAK
    assert tolerances.VECTOR_CHANGE < tolerances.SAME_VECTOR < tolerances.TOO_NOISY
