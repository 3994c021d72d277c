"""Define ``maskpool audit``: whether padding changes a model's vectors, and what is wrong with those of a server."""

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
    CommandError,
    expected_errors,
    needs_extra,
    not_empty,
    stoppable,
)
from maskpool.cli.endpoint import audit_server
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
    model: Annotated[
        str | None,
        typer.Argument(metavar="NAME_OR_PATH", help="A model's folder, or its name on the hub.", show_default=False),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Audit a running server instead: the address that embeds texts, such as "
            "http://localhost:8080/v1/embeddings. A key is read from the environment variable MASKPOOL_API_KEY.",
            show_default=False,
        ),
    ] = None,
    served_model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="The model that the server is asked for.", show_default=False),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            parser=lambda text: str(not_empty(text)),
            metavar="FOLDER",
            help="The model that the server should run, with which its vectors are compared.",
            show_default=False,
        ),
    ] = None,
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
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="The time that a request to the server may take.")
    ] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every text that would be sent to the server, and send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Report whether padding changes a model's sentence vectors, and why; or what is wrong with a server's.

    Exit code 0: clean; 1: a leak or a fault, with its cause and the fix; 2: an error; 3: unknown, with the reason.
    """
    if endpoint is not None:
        for name, given in (
            ("NAME_OR_PATH", model), ("--pooling", pooling), ("--explain", explain), ("--device", device != "cpu")
        ):  # fmt: skip
            if given:
                raise CommandError(f"{name} cannot be used with --endpoint: the server chooses its model")
        with stoppable(), rename_arguments(OPTIONS):
            lines = None if texts is None else _read_texts(texts)
            code = audit_server(endpoint, served_model, reference, lines, timeout, dry_run, as_json)
        raise typer.Exit(code)
    if served_model is not None or reference is not None or dry_run:
        raise CommandError("--model, --reference and --dry-run need --endpoint")
    if model is None:
        raise CommandError("NAME_OR_PATH or --endpoint is missing: name a model or a server")
    with stoppable(), rename_arguments(OPTIONS):
        with needs_extra():
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
