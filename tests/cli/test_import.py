"""Test which modules importing the command line loads."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import maskpool

FOLDER = Path(maskpool.__file__).parent / "cli"
FILES = sorted(FOLDER.glob("*.py"))
HEAVY = ["torch", "numpy", "transformers", "sentence_transformers", "sklearn", "scipy", "joblib", "matplotlib"]
# Replaces the package's __init__, whose imports do not belong to the command line.
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
    """Return the modules of maskpool that importing a file imports, outside functions and type checking."""
    modules = set()
    statements = list(ast.parse(source).body)
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.ImportFrom):
            modules.add(
                f"{statement.module}.{statement.names[0].name}" if statement.module == "maskpool" else statement.module
            )
        elif isinstance(statement, ast.Import):
            modules |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.Try):
            statements += statement.body
    return {name for name in modules if name is not None and name.partition(".")[0] == "maskpool"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_line_does_not_import_the_library(file: Path) -> None:
    """The top-level imports of each file of cli/ are only other files of cli/, the errors and the version."""
    modules = imports_at_the_top(file.read_text("utf-8"))
    allowed = {"maskpool.errors", "maskpool.__version__"}
    assert {name for name in modules - allowed if not name.startswith("maskpool.cli")} == set()


def test_imports_at_the_top_are_found() -> None:
    """Imports inside try are found; those inside functions and for type checkers are not."""
    source = "try:\n import maskpool.audit\nexcept E: pass\nif TYPE_CHECKING:\n import maskpool.a\n"
    source += "def f(): import maskpool.b\nfrom maskpool import Plan"
    assert imports_at_the_top(source) == {"maskpool.audit", "maskpool.Plan"}


def test_importing_the_command_line_is_light() -> None:
    """Importing maskpool.cli does not load any heavy library."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [["maskpool.errors"], []]


# Runs several command lines in one process, and prints which heavy libraries were loaded.
REFUSED = """
import json, sys
from maskpool import cli
codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["maskpool", "bench", *arguments]
    try: cli.main()
    except SystemExit as stop: codes.append(stop.code)
print(json.dumps([codes, [name for name in json.loads(HEAVY) if name in sys.modules]]))
"""


def test_wrong_paths_are_refused_before_the_heavy_imports(tmp_path: Path) -> None:
    """A wrong path is refused at once, also one that only the study file names, before any heavy library is loaded."""
    (tmp_path / "file").touch()
    (tmp_path / "texts.csv").write_text("text,label\na,b\n")
    (tmp_path / "models.toml").write_text('models = ["all-MiniLM-L6-v2", "no/such/model"]\n')
    (tmp_path / "data.toml").write_text('[[corpora]]\ndata = "texts.csv"\n[[corpora]]\ndata = "none.csv"\n')
    none = str(tmp_path / "none")
    refusals = {
        ("--dry-run", "--data", f"{none}.csv"): "--data must name a file",
        ("--dry-run", "--data", str(tmp_path / "file")): "--data must be a file that ends in",
        ("--dry-run", "--model", none): "--model must be a folder",
        ("--dry-run", "--study", f"{none}.toml"): "--study must name a TOML file",
        ("--dry-run", "--study", str(tmp_path / "models.toml")): "models.toml: models must be a folder",
        ("--dry-run", "--study", str(tmp_path / "data.toml")): "data.toml: data of [[corpora]] must name a file",
        ("--dry-run", "--out", str(tmp_path / "file")): "--out must be a writable folder",
        ("report", none): "DIR must be the folder of a study",
        ("compare", none, none): "DIR_A must be the folder of a study",
    }
    script = REFUSED.replace("HEAVY", repr(json.dumps(HEAVY)))
    command = [sys.executable, "-c", script, json.dumps(list(refusals))]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(ran.stdout) == [[2] * len(refusals), []]
    sentences = ran.stderr.splitlines()
    for sentence, start in zip(sentences, refusals.values(), strict=True):
        assert sentence.startswith(f"maskpool: {start}")
