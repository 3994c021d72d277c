"""Define the typer application and its entry point."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from maskpool import __version__
from maskpool.cli.audit import audit
from maskpool.cli.bench import bench_app
from maskpool.cli.config import config_app
from maskpool.cli.embed import embed
from maskpool.cli.endings import FAILURE, INTERRUPTED, SUCCESS, discard_output, is_broken_pipe, sentence, wrong_usage
from maskpool.cli.info import info

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.add_typer(bench_app, name="bench")
app.add_typer(config_app, name="config")
app.command()(audit)
app.command()(embed)
app.command()(info)


class _Debug:
    """Hold whether errors show their traceback."""

    wanted = False


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
    _Debug.wanted = debug


def main() -> None:
    """Run the command and exit; turn every error into one sentence on standard error and exit code 2."""
    _Debug.wanted = False
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(prog_name="maskpool", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else SUCCESS
    except KeyboardInterrupt:
        return INTERRUPTED
    # BaseException: a library may call sys.exit, and panics of tokenizers do not derive from Exception.
    except BaseException as error:
        if is_broken_pipe(error):
            discard_output()
        elif hasattr(error, "format_message"):  # a wrong command line
            print(f"maskpool: {wrong_usage(error)}", file=sys.stderr)
        elif _Debug.wanted:
            traceback.print_exc()
        else:
            print(f"maskpool: {sentence(error)}", file=sys.stderr)
        return FAILURE
