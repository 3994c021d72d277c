"""Define ``maskpool bench compare``, which compares two finished studies row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from maskpool.cli.endings import needs_extra, not_empty, stoppable
from maskpool.errors import rename_arguments


def compare_studies(
    first: Annotated[Path, typer.Argument(metavar="DIR_A", parser=not_empty, help="The folder of a finished study.")],
    second: Annotated[
        Path, typer.Argument(metavar="DIR_B", parser=not_empty, help="The folder of another finished study.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare two finished studies, row by row."""
    with stoppable():
        from maskpool.bench.store.checks import read_description

        for name, folder in {"DIR_A": first, "DIR_B": second}.items():
            with rename_arguments({"out": name}):
                read_description(folder)  # a wrong path is refused before the imports that take seconds
        with needs_extra():
            from maskpool.bench.report import compare
            from maskpool.bench.report.pages import markdown_table
            from maskpool.bench.store.folder import StudyFolder
        compared = compare.compare(compare.Finished.of(StudyFolder(first)), compare.Finished.of(StudyFolder(second)))
        if as_json:
            print(json.dumps(compared))
            return
        print("\n".join(markdown_table(compare.HEADER, compare.table(compared))))
        print(how_compared(compared))
        for name, value_a, value_b in compared["settings"]:
            print(f"{name}: {json.dumps(value_a)} in A, {json.dumps(value_b)} in B")
        if compared["only_in_a"] or compared["only_in_b"]:
            print(f"{compared['only_in_a']} rows are only in A, {compared['only_in_b']} only in B.")


def how_compared(compared: dict[str, Any]) -> str:
    """Say whether the studies were compared half-sample by half-sample, or why not.

    Args:
        compared: The result of `maskpool.bench.report.compare.compare`.
    """
    if compared["unpaired"]:
        return (
            f"B − A could not be taken half-sample by half-sample, because {' and '.join(compared['unpaired'])}: its "
            "intervals take the studies as independent, and are too wide if they share texts."
        )
    shared = f"The studies share their texts, {compared['half_samples']} half-samples and {compared['seeds']} seeds"
    other_seeds = any(name == "seeds" for name, _, _ in compared["settings"])
    more = " Δ in A and Δ in B are over all seeds of each."
    return f"{shared}: B − A is taken in each half-sample.{more * other_seeds}"
