"""Define ``maskpool config``, which says what a saved model computes, and what servers make of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from maskpool.cli.endings import not_empty, stoppable

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
    with stoppable():
        from maskpool.config.reading import read_config

        statement = read_config(folder)
        print(json.dumps(statement.to_dict()) if as_json else statement)
