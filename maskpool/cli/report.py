"""Define ``maskpool bench report``, which rebuilds the report of a finished study from its cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskpool.cli.endings import needs_extra, not_empty, stoppable
from maskpool.errors import rename_arguments

# The command's name for each argument of the functions that it calls.
OPTIONS = {"out": "DIR", "margin": "--margin"}


def rebuild_report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=not_empty, help="The folder of a finished study.")],
    margin: Annotated[
        float | None,
        typer.Option(help="Judge the differences by another margin. Default: that of the study.", show_default=False),
    ] = None,
) -> None:
    """Rebuild the report of a finished study from its cells."""
    with stoppable(), rename_arguments(OPTIONS):
        from maskpool.bench.store.checks import read_description

        read_description(folder)  # a wrong path is refused before the imports that take seconds
        with needs_extra():
            from maskpool.bench.report import pages as report
            from maskpool.bench.report.results import results_of
            from maskpool.bench.store.folder import StudyFolder
        study = StudyFolder(folder)
        print(f"Written to {str(folder).rstrip('/')}/: {', '.join(report.write(results_of(study, margin), study))}")
