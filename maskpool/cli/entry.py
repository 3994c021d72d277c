"""Run the command, and turn its end into an exit code and at most one sentence."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from maskpool.cli.config import run_config
from maskpool.cli.endings import (
    FAILURE,
    INTERRUPTED,
    SUCCESS,
    Debug,
    discard_output,
    is_broken_pipe,
    sentence,
    wrong_usage,
)
from maskpool.errors import RequirementError


def main() -> None:
    """Run the command and exit; turn every error into one sentence on standard error and exit code 2."""
    Debug.wanted = False
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: Sequence[str]) -> int:
    try:
        # Without typer, which takes longer to import than config takes to run.
        code = run_config(arguments[1:]) if arguments[:1] == ["config"] else _run_app()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else SUCCESS
    except KeyboardInterrupt:
        print("maskpool: stopped", file=sys.stderr)
        return INTERRUPTED
    # BaseException: a library may call sys.exit, and panics of tokenizers do not derive from Exception.
    except BaseException as error:
        if is_broken_pipe(error):
            discard_output()
        elif hasattr(error, "format_message"):  # a wrong command line
            print(wrong_usage(error), file=sys.stderr, end="")
        elif Debug.wanted:
            traceback.print_exc()
        else:
            print(f"maskpool: {sentence(error)}", file=sys.stderr)
        return FAILURE


def _run_app() -> object:
    try:
        from maskpool.cli.app import app
    except ModuleNotFoundError as missing:
        words = f'{missing.name} is not installed; the command needs: pip install "maskpool[bench]"'
        raise RequirementError(words) from None
    return app(prog_name="maskpool", standalone_mode=False)
