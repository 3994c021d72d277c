"""The file of a study, before its settings are checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskpool.errors import FolderError, NotFoundError
from maskpool.trust import check_regular
from maskpool.trust.models import BUNDLED


def read_toml(file: Path) -> dict[str, Any]:
    """Read the table of a study file.

    Args:
        file: The file.

    Raises:
        NotFoundError: The file does not exist.
        FolderError: The file cannot be read, or is not TOML.
    """
    expected = f"must name a TOML file that can be read, got {file}"
    try:
        check_regular(file, "a TOML file")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except NotFoundError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise NotFoundError(f"{expected}: {reason}", argument="file") from error
    except FolderError as error:
        problem = str(error).replace(f"{file} must be a TOML file, got", "it is")  # the file is named once
        raise FolderError(f"{expected}: {problem}", argument="file") from error
    except OSError as error:
        raise FolderError(f"{expected}: {error.strerror}", argument="file") from error
    except (ValueError, RecursionError) as error:  # from TOML, its numbers, or bytes that are not UTF-8
        raise FolderError(f"must be a TOML file; {file.name} is not: {error}", argument="file") from error


def paths_in(content: Mapping[str, Any], folder: Path) -> tuple[list[str], list[Path]]:
    """Return the models and the files of texts that the table of a study names.

    Values of another type are left out: they are refused with the other settings.

    Args:
        content: The table.
        folder: The folder that the files are relative to.
    """
    models, corpora = content.get("models", [BUNDLED]), content.get("corpora")
    files = [table.get("data") for table in _listed(corpora) if isinstance(table, dict)]
    return [name for name in _listed(models) if isinstance(name, str)], [
        folder / file for file in files if isinstance(file, str)
    ]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
