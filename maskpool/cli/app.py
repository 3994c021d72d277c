"""Define the typer application; each command is in its file."""

from __future__ import annotations

from typing import Annotated

import typer

from maskpool import __version__
from maskpool.cli.audit import audit
from maskpool.cli.bench import bench_app
from maskpool.cli.config import ABOUT, run_config
from maskpool.cli.embed import embed
from maskpool.cli.endings import Debug, stoppable
from maskpool.cli.info import info

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.add_typer(bench_app, name="bench")
app.command()(audit)
app.command()(embed)
app.command()(info)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"maskpool {__version__}")
        raise typer.Exit


@app.callback()
def maskpool(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Pool real tokens only, and measure what pooling over pads does."""
    Debug.wanted = debug


@app.command(
    help=ABOUT,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def config(context: typer.Context) -> None:
    """Pass the arguments on to config, which has a parser without typer."""
    with stoppable():
        raise typer.Exit(run_config(context.args))
