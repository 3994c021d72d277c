"""The layout of the package: imports go down only, and tolerances are in one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskpool
from maskpool import tolerances

ROOT = Path(maskpool.__file__).parent
# From top to bottom; parts of one line may import each other.
LEVELS = (
    ("cli",),
    ("bench",),
    ("audit",),
    ("pads",),
    ("integrations",),
    ("training",),
    ("encoder",),
    ("leaks",),
    ("weights", "plans"),
    ("nn", "functional"),
    ("poolings",),
    ("batch", "masks"),
    ("kernels",),
    ("trust", "files", "types", "tolerances"),
    ("errors",),
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.stem in LEVEL]


def imported_parts(source: str) -> Iterator[str]:
    """Yield the top-level parts of maskpool that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "maskpool":
            yield from (alias.name for alias in node.names if alias.name in LEVEL)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maskpool."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("maskpool."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_down(path: Path) -> None:
    """A file imports its own part and parts below it."""
    part = path.relative_to(ROOT).with_suffix("").parts[0]
    for imported in imported_parts(path.read_text(encoding="utf-8")):
        assert imported == part or LEVEL[imported] >= LEVEL[part], f"{part} imports {imported}"


def test_every_part_has_a_level() -> None:
    """A new part of the package needs a level."""
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__", "__main__"} <= set(LEVEL)


# Small numbers of these parts that are not tolerances: the settings of an optimizer, by their names.
SETTINGS = {"LEARNING_RATE", "_DECAY"}


def small_numbers(source: str) -> Iterator[str]:
    """Yield number literals between 0 and 0.1 that are not assigned to a setting."""
    tree = ast.parse(source)
    settings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in SETTINGS
    }
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in settings]
    for node in constants:
        if isinstance(node.value, float) and 0 < node.value < 0.1:
            yield f"{node.value} in line {node.lineno}"


@pytest.mark.parametrize("part", ["audit", "pads"])
def test_tolerances_are_in_one_file(part: str) -> None:
    """The audit and the explanation of pads take their tolerances from maskpool.tolerances."""
    for path in (ROOT / part).rglob("*.py"):
        assert not list(small_numbers(path.read_text(encoding="utf-8"))), path


def test_tolerances_leave_room_for_leaks() -> None:
    """What is clean is smaller than a leak, and a leak of vectors is smaller than another pooling's vector."""
    assert 0 < tolerances.CLEAN < tolerances.LEAK
    assert tolerances.VECTOR_CHANGE < tolerances.SAME_VECTOR < tolerances.TOO_NOISY
