"""Execute the scripts of examples/ and write them as notebooks.

``python -m benchmarks.notebooks`` rewrites all of them, ``python -m benchmarks.notebooks late_chunking`` one.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def execute(script: Path) -> str:
    """Run a script cell by cell, in its folder, and return the notebook with what it prints."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(script, fmt="py:percent")
    NotebookClient(
        notebook, kernel_name="python3", timeout=600, resources={"metadata": {"path": script.parent}}
    ).execute()
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"  # not random, which would change the file at every run
        cell.metadata = {}  # no times
        if cell.cell_type == "code":
            # Progress bars and warnings about the machine go to standard error.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return str(jupytext.writes(notebook, fmt="ipynb"))


def main() -> None:
    """Write the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scripts = {script.stem: script for script in sorted(EXAMPLES.glob("*.py"))}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"examples; default: all of {', '.join(scripts)}")
    names = parser.parse_args().names or list(scripts)
    if unknown := set(names) - set(scripts):
        parser.error(f"NAME must be one of {', '.join(scripts)}, got {', '.join(sorted(unknown))}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in names:
        scripts[name].with_suffix(".ipynb").write_text(execute(scripts[name]), encoding="utf-8", newline="\n")
        print(f"examples/{name}.ipynb")


if __name__ == "__main__":
    main()
