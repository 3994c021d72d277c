"""A pooling is declared once: in its family file, in the oracles, and next to its peer in the benchmark."""

import ast
from functools import cache
from pathlib import Path

import pytest

from maskpool.nn import POOLINGS
from tests.poolings import HOST_MODES

ROOT = Path(__file__).parent.parent
# Modes that serve as examples and defaults: sentence-transformers' own, the usual learned one, and the plain sum.
EXAMPLES = {*HOST_MODES, "attention", "sum"}
# Files of many poolings, whose lists are derived.
DERIVED = (
    *("maskpool/", "tests/laws/", "tests/poolings.py", "tests/batches.py"),
    *("tests/test_parity.py", "tests/test_token_weights.py", "tests/test_host"),
)
ORACLES, PEERS = "tests/oracles.py", "benchmarks/contestants.py"


@cache
def _strings() -> dict[str, set[str]]:
    """Return the string literals of each file."""
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


@pytest.mark.parametrize("mode", [mode for mode in POOLINGS if mode not in EXAMPLES])
def test_declared_once(mode: str) -> None:
    """A mode string is written in its family file, in the oracles, next to its peer, and in at most one other file."""
    family = POOLINGS[mode].__module__.replace(".", "/") + ".py"
    files = files_with(mode)
    assert {family, ORACLES} <= set(files)
    more = [path for path in files if path not in (family, ORACLES, PEERS)]
    assert len(more) <= 1, f"derive the mode from tests/poolings.py, or use its class: {', '.join(more)}"
    assert [path for path in more if path.startswith(DERIVED)] == []


if __name__ == "__main__":
    for name in POOLINGS:
        print(f"{len(files_with(name)):3} {name}: {'' if name in EXAMPLES else ', '.join(files_with(name))}")
