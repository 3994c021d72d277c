"""Define the command ``maskpool``, one file per subcommand. The other packages do not use commands or options."""

import sys

try:
    from maskpool.cli.app import app, main
except ModuleNotFoundError as missing:
    print(
        f'maskpool: {missing.name} is not installed; the command needs: pip install "maskpool[bench]"',
        file=sys.stderr,
    )
    sys.exit(2)  # FAILURE, whose module cannot be imported either

__all__ = ["app", "main"]
