"""``python -m maskpool`` is the command ``maskpool``."""

from maskpool.cli import main

main()
