"""Define ``maskpool config``, which says what a saved model computes, and what servers make of its files.

It parses its command line with the standard library: importing typer takes longer than a check.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from maskpool.cli.endings import FAILURE, LEAK, SUCCESS, UNKNOWN, CommandError, needs_extra
from maskpool.errors import rename_arguments

ABOUT = "Say what a saved model computes and what servers make of its files, without opening the model."
# The command's name for each argument of the functions that it calls.
OPTIONS = {
    "path": "FOLDER",
    "model": "FOLDER",
    "servers": "--server",
    "pooling": "--pooling",
    "normalize": "--normalize",
    "pooler_config": "--pooler-config",
}


class _Parser(argparse.ArgumentParser):
    """Raise an error for a wrong command line instead of printing several lines."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; {self.prog} --help lists what is accepted")


def run_config(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        CommandError: The command line is wrong.
        MaskpoolError: The model cannot be read, or an argument is not accepted.
    """
    parser = config_parser()
    if not arguments:
        parser.print_help()
        return FAILURE
    try:
        given = vars(parser.parse_args(arguments))
    except SystemExit:  # the help was printed
        return SUCCESS
    run = given.pop("run")
    with needs_extra():
        code: int = run(**given)
    return code


def config_parser() -> argparse.ArgumentParser:
    """Make the parser of the command and of its subcommands."""
    parser = _Parser(prog="maskpool config", description=ABOUT, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Any) -> argparse.ArgumentParser:  # Any: functions of different arguments
        text = run.__doc__ or ""
        command = commands.add_parser(
            run.__name__, help=text.partition(".\n")[0], description=" ".join(text.split()), allow_abbrev=False
        )
        command.set_defaults(run=run)
        command.add_argument(
            "folder", metavar="FOLDER", type=_path, help="The folder of a saved model, or a GGUF file."
        )
        return command

    def add_json(command: argparse.ArgumentParser) -> None:
        command.add_argument("--json", dest="as_json", action="store_true", help="Print JSON and nothing else.")

    add_json(add(show))
    checking = add(check)
    checking.add_argument(
        "--server",
        dest="servers",
        metavar="NAME[==VERSION]",
        action="append",
        default=[],
        help="A server, such as vllm==0.23. Default: all.",
    )
    checking.add_argument(
        "--pooling", metavar="MODE", help="The pooling that is passed to servers that take one, such as cls."
    )
    checking.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="Whether servers that let the caller choose are asked for unit length.",
    )
    checking.add_argument("--pooler-config", metavar="JSON", help="What is passed to vLLM.")
    add_json(checking)
    converting = add(convert)
    converting.add_argument("out", metavar="OUT", type=_path, help="A new folder.")
    converting.add_argument(
        "--for", dest="server", metavar="NAME", required=True, help="The server that reads the files."
    )
    return parser


def show(folder: Path, as_json: bool) -> int:
    """Print what a saved model computes from a text, and where each fact was read.

    Reads folders of sentence-transformers, maskpool and transformers, with or without ONNX files, and GGUF files
    (with the package gguf).
    """
    with rename_arguments(OPTIONS):
        from maskpool.config.reading import read_config

        statement = read_config(folder)
    print(json.dumps(statement.to_dict()) if as_json else statement)
    return SUCCESS


def check(
    folder: Path,
    servers: Sequence[str],
    pooling: str | None,
    normalize: bool | None,
    pooler_config: str | None,
    as_json: bool,
) -> int:
    """Say what servers compute from a saved model: the same, or what else, and what repairs it.

    Exit code 0: the same in all servers asked; 1: different or not loaded by one; 2: an error; 3: unknown, or set by
    the caller or the version, which --server, --pooling, --normalize and --pooler-config can name.
    """
    with rename_arguments(OPTIONS):
        from maskpool.config.reading import read_config
        from maskpool.config.servers.checking import check_servers
        from maskpool.config.servers.rows import Verdict

        reports = check_servers(read_config(folder), servers, pooling, normalize, _read_json(pooler_config))
    print(json.dumps([report.to_dict() for report in reports]) if as_json else "\n".join(map(str, reports)))
    verdicts = {report.verdict for report in reports}
    if verdicts & {Verdict.DIFFERENT, Verdict.FAILS}:
        return LEAK
    return SUCCESS if verdicts == {Verdict.SAME} else UNKNOWN


def convert(folder: Path, out: Path, server: str) -> int:
    """Write a copy of a saved model whose files a server reads right; its vectors are the same, bit for bit.

    The copy has the layout of sentence-transformers 5.3, which all versions read. A model whose pooling the server
    cannot express is refused, with the reason.
    """
    with rename_arguments({"folder": "FOLDER", "path": "FOLDER", "out": "OUT", "server": "--for", "model": "FOLDER"}):
        from maskpool.config.converting import convert as convert_model

        conversion = convert_model(folder, out, server)
    print(f"Written to {conversion.out}; changed: {', '.join(conversion.changed) or 'nothing'}")
    print("".join(f"note: {words}\n" for words in conversion.left), end="")
    return SUCCESS


def _path(text: str) -> Path:
    if not text:  # as of an unset variable; it would be the working folder
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def _read_json(text: str | None) -> dict[str, Any] | None:
    try:
        content = None if text is None else json.loads(text)
    except ValueError as error:
        raise CommandError(f"--pooler-config must be JSON, got {text}: {error}") from None
    if not isinstance(content, dict | None):
        raise CommandError(f"--pooler-config must be a JSON table, got {text}")
    return content
