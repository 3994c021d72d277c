"""Check the paths of a study without torch, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from maskpool.bench.design.tables import check_file
from maskpool.bench.store.checks import check_writable
from maskpool.errors import rename_arguments
from maskpool.trust.models import locate_model


def check_paths(models: Iterable[str], files: Iterable[Path], out: Path) -> None:
    """Check the folder, files and models of a study: a wrong name of the last one fails before hours of work.

    Args:
        models: Names of models on the hub, or folders.
        files: Files of texts.
        out: The folder that the study is written to.

    Raises:
        MaskpoolError: The folder can be neither written nor created, or a file or model does not exist.
    """
    check_writable(out)
    for file in files:
        check_file(file)
    for name in models:
        with rename_arguments({"name": "models"}):
            locate_model(name)
