"""Define the command ``maskpool``, one file per subcommand. The other packages do not use commands or options."""

from maskpool.cli.entry import main

__all__ = ["main"]
