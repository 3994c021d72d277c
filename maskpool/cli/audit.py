"""Define ``maskpool audit``, which reports whether padding changes a model's vectors, and why."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated

import typer

from maskpool.cli.endings import (
    LEAK,
    SUCCESS,
    UNKNOWN,
    expected_errors,
    needs_bench,
    not_empty,
    stoppable,
)
from maskpool.cli.screen import Screen, notes_on_pooling
from maskpool.errors import InvalidValueError, rename_arguments

# The command's name for each argument of the functions that it calls.
OPTIONS = {
    "name": "NAME_OR_PATH",
    "model": "NAME_OR_PATH",
    "pooling": "--pooling",
    "texts": "--texts",
    "device": "--device",
}
# Number of texts that --explain measures on.
_EXPLAINED_TEXTS = 32


def audit(
    model: Annotated[str, typer.Argument(metavar="NAME_OR_PATH", help="A model's folder, or its name on the hub.")],
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Pool the transformer's token states by this mode, such as max or 'topk_mean(k=3)'. Default: as the "
            "model is saved, else the mean.",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            parser=not_empty,
            metavar="PATH",
            help="A file of texts, one per line: at least three; of more than 32, a sample is used. Default: built-in "
            "short texts.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also report what the pads of this model do, with its own numbers.")
    ] = False,
    device: Annotated[str, typer.Option(help="The device that the model runs on.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Report whether padding changes a model's sentence vectors, and why.

    Exit code 0: clean; 1: a leak, with its cause and the fix; 2: an error; 3: unknown, with the reason.
    """
    with stoppable(), rename_arguments(OPTIONS):
        with needs_bench():
            from maskpool.audit import audit_padding
            from maskpool.audit.opening import open_pipeline
            from maskpool.encoder import Encoder
            from maskpool.pads.explanation import explain as explain_pads
        lines = None if texts is None else _read_texts(texts)
        screen = Screen(silent=as_json)
        with expected_errors(), screen.status(f"loading {model}") as show:
            pipeline = open_pipeline(model, pooling, device)
            notes = [] if pooling is None else notes_on_pooling(model, [pooling])
            report = audit_padding(
                pipeline, lines, on_call=lambda calls: show(f"auditing {model}: {calls} calls of the pipeline")
            )
        sample, note = _sample(lines) if explain else (None, [])
        results = {"model": model, **report.to_dict()}
        results["notes"] += notes + note
        # The verdict comes first: it must not be lost if the explanation fails.
        if not as_json:
            print("\n".join([str(report), *(f"note: {note}" for note in notes + note)]))
        try:
            if explain:
                with expected_errors(), screen.status(f"explaining the pads of {model}"):
                    answers = explain_pads(Encoder.load(model, device), sample)
                results["explanation"] = answers.to_dict()
        finally:
            if as_json:
                print(json.dumps(results))
        if explain and not as_json:
            print(f"\n{answers}")
    raise typer.Exit({"clean": SUCCESS, "leaks": LEAK, "unknown": UNKNOWN}[report.verdict])


def _read_texts(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            "texts", f"must be a file of texts in UTF-8, one per line, got {path}: {error}"
        ) from error


def _sample(texts: list[str] | None) -> tuple[list[str] | None, list[str]]:
    """Take a seeded sample of many texts, with a note that reports it."""
    if texts is None or len(texts) <= _EXPLAINED_TEXTS:
        return texts, []
    note = f"the explanation measures a sample of {_EXPLAINED_TEXTS} of the {len(texts)} texts (seed 0)"
    return random.Random(0).sample(texts, _EXPLAINED_TEXTS), [note]
