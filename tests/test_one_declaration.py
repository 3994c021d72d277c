"""A pooling is declared once: in its family file, in the oracles, and next to its peer in the benchmark."""

import ast
from functools import cache
from pathlib import Path

import pytest

from maskpool.nn import POOLINGS
from tests.poolings import HOST_MODES

ROOT = Path(__file__).parent.parent
# Modes that serve as defaults and examples everywhere.
COMMON = {*HOST_MODES, "attention", "sum", "min"}
RARE = [mode for mode in POOLINGS if mode not in COMMON]
# Names of torch's reductions and of kernels' choices, which some modes share.
KERNELS = {"maskpool/kernels/csr.py", "maskpool/kernels/autograd.py"}


@cache
def _strings() -> dict[str, set[str]]:
    """The string literals of each file."""
    files = [path for top in ("maskpool", "tests", "benchmarks") for path in (ROOT / top).rglob("*.py")]
    return {
        path.relative_to(ROOT).as_posix(): {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for path in files
    }


def files_with(mode: str) -> list[str]:
    """Return the files that contain a mode string as a literal."""
    return sorted(path for path, strings in _strings().items() if mode in strings)


@pytest.mark.parametrize("mode", RARE)
def test_declared_once(mode: str) -> None:
    """In the package a mode string is written in its family file only, in tests of all poolings in the oracles only."""
    files = files_with(mode)
    family = POOLINGS[mode].__module__.replace(".", "/") + ".py"
    assert {path for path in files if path.startswith("maskpool/")} - KERNELS == {family}
    matrices = ("tests/laws/", "tests/poolings.py", "tests/oracles.py", "tests/batches.py", "tests/test_parity.py")
    found = [path for path in files if path.startswith((*matrices, "tests/test_token_weights.py", "tests/test_host"))]
    assert found == ["tests/oracles.py"]


if __name__ == "__main__":
    for name in POOLINGS:
        print(f"{len(files_with(name)):3} {name}: {', '.join(files_with(name)) if name in RARE else ''}")
