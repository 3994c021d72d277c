"""What importing the command line brings in."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import maskpool

FOLDER = Path(maskpool.__file__).parent / "cli"
FILES = sorted(FOLDER.glob("*.py"))
HEAVY = ["torch", "numpy", "transformers", "sentence_transformers", "sklearn", "scipy", "joblib", "matplotlib"]
# The package's own __init__ is replaced: what it imports is not the command line's.
SCRIPT = f"""
import json, sys, types
package = types.ModuleType("maskpool")
package.__path__, package.__version__ = [{str(FOLDER.parent)!r}], "0"
sys.modules["maskpool"] = package
import maskpool.cli
loaded = [name for name in sys.modules if name.startswith("maskpool.") and not name.startswith("maskpool.cli")]
print(json.dumps([loaded, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def imports_at_the_top(source: str) -> set[str]:
    """Modules of maskpool that a file imports when it is imported, outside functions and type checking."""
    found = set()
    statements = list(ast.parse(source).body)
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.ImportFrom):
            found.add(
                f"{statement.module}.{statement.names[0].name}" if statement.module == "maskpool" else statement.module
            )
        elif isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.Try):
            statements += statement.body
    return {name for name in found if name is not None and name.partition(".")[0] == "maskpool"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_line_imports_nothing_of_the_library(file: Path) -> None:
    """Each file of cli/ imports at its top only its neighbours, the errors and the version."""
    found = imports_at_the_top(file.read_text("utf-8"))
    allowed = {"maskpool.errors", "maskpool.__version__"}
    assert {name for name in found - allowed if not name.startswith("maskpool.cli")} == set()


def test_imports_at_the_top_are_found() -> None:
    """Imports within try are found; those within functions and for type checkers are not."""
    source = "try:\n import maskpool.audit\nexcept E: pass\nif TYPE_CHECKING:\n import maskpool.a\n"
    source += "def f(): import maskpool.b\nfrom maskpool import Plan"
    assert imports_at_the_top(source) == {"maskpool.audit", "maskpool.Plan"}


def test_importing_the_command_line_is_light() -> None:
    """Importing maskpool.cli loads no library that computes."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [["maskpool.errors"], []]
