"""Define ``maskpool config``, which says what a saved model computes, and what servers make of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from maskpool.cli.endings import LEAK, SUCCESS, UNKNOWN, CommandError, not_empty, stoppable
from maskpool.errors import rename_arguments

# The command's name for each argument of the functions that it calls.
OPTIONS = {
    "path": "FOLDER",
    "model": "FOLDER",
    "servers": "--server",
    "pooling": "--pooling",
    "normalize": "--normalize",
    "pooler_config": "--pooler-config",
}

config_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

_FOLDER = typer.Argument(metavar="FOLDER", parser=not_empty, help="The folder of a saved model, or a GGUF file.")
_JSON = typer.Option("--json", help="Print JSON and nothing else.")


@config_app.callback()
def config() -> None:
    """Say what a saved model computes and what servers make of its files, without opening the model."""


@config_app.command()
def show(folder: Annotated[Path, _FOLDER], as_json: Annotated[bool, _JSON] = False) -> None:
    """Print what a saved model computes from a text, and where each fact was read.

    Reads folders of sentence-transformers, maskpool and transformers, with or without ONNX files, and GGUF files
    (with the package gguf).
    """
    with stoppable(), rename_arguments(OPTIONS):
        from maskpool.config.reading import read_config

        statement = read_config(folder)
        print(json.dumps(statement.to_dict()) if as_json else statement)


@config_app.command()
def check(
    folder: Annotated[Path, _FOLDER],
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[==VERSION]", help="A server, such as vllm==0.23. Default: all.", show_default=False),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="The pooling that is passed to servers that take one, such as cls.", show_default=False),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(help="Whether servers that let the caller choose are asked for unit length.", show_default=False),
    ] = None,
    pooler_config: Annotated[
        str | None, typer.Option(metavar="JSON", help="What is passed to vLLM.", show_default=False)
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Say what servers compute from a saved model: the same, or what else, and what repairs it.

    Exit code 0: the same in all servers asked; 1: different or not loaded by one; 2: an error; 3: unknown, or set by
    the caller or the version, which --server, --pooling, --normalize and --pooler-config can name.
    """
    with stoppable(), rename_arguments(OPTIONS):
        from maskpool.config.reading import read_config
        from maskpool.config.servers.checking import check_servers
        from maskpool.config.servers.rows import Verdict

        reports = check_servers(read_config(folder), server or (), pooling, normalize, _read_json(pooler_config))
        print(json.dumps([report.to_dict() for report in reports]) if as_json else "\n".join(map(str, reports)))
    verdicts = {report.verdict for report in reports}
    if verdicts & {Verdict.DIFFERENT, Verdict.FAILS}:
        raise typer.Exit(LEAK)
    raise typer.Exit(SUCCESS if verdicts == {Verdict.SAME} else UNKNOWN)


@config_app.command()
def convert(
    folder: Annotated[Path, _FOLDER],
    out: Annotated[Path, typer.Argument(metavar="OUT", parser=not_empty, help="A new folder.")],
    server: Annotated[str, typer.Option("--for", metavar="NAME", help="The server that reads the files.")],
) -> None:
    """Write a copy of a saved model whose files a server reads right; its vectors are the same, bit for bit.

    The copy has the layout of sentence-transformers 5.3, which all versions read. A model whose pooling the server
    cannot express is refused, with the reason.
    """
    with stoppable(), rename_arguments({"folder": "FOLDER", "out": "OUT", "server": "--for", "model": "FOLDER"}):
        from maskpool.config.converting import convert as convert_model

        conversion = convert_model(folder, out, server)
        print(f"Written to {conversion.out}; changed: {', '.join(conversion.changed) or 'nothing'}")
        print("".join(f"note: {words}\n" for words in conversion.left), end="")


def _read_json(text: str | None) -> dict[str, Any] | None:
    try:
        content = None if text is None else json.loads(text)
    except ValueError as error:
        raise CommandError(f"--pooler-config must be JSON, got {text}: {error}") from None
    if not isinstance(content, dict | None):
        raise CommandError(f"--pooler-config must be a JSON table, got {text}")
    return content
