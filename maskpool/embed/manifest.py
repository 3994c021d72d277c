"""Write and compare ``run.json``, which pins everything that the parts of a folder depend on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskpool.embed.settings import Settings
from maskpool.embed.sources import SlicePlan
from maskpool.encoder.identity import short
from maskpool.errors import ExistsError, FolderError
from maskpool.files import atomic_write

MANIFEST = "run.json"
_FORMAT = 1
_DIFFERENCES_NAMED = 3
# The same model and files may have another name.
_INFORMATIVE = ("model.name", "inputs.path", "inputs.bad", "parts")


def manifest_of(identity: dict[str, Any], settings: Settings, plan: SlicePlan, part_rows: int) -> dict[str, Any]:
    """Describe a run, in values that JSON can hold.

    Args:
        identity: What the vectors depend on, as `maskpool.embed.worker.identity` describes it.
        settings: The settings of the run.
        plan: Its files and slices.
        part_rows: The largest number of rows of a part.
    """
    return {
        "format": _FORMAT,
        **identity,
        "model": {"name": settings.model, **identity["model"]},
        "text_column": settings.text_column,
        "id_column": settings.id_column,
        "drop_missing": settings.drop_missing,
        "skip_bad": settings.skip_bad,
        "part_rows": part_rows,
        "rows": plan.rows,
        "parts": len(plan.slices),
        "inputs": [asdict(file) for file in plan.files],
    }


def keep_manifest(out: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new folder, or compare it with the folder's own.

    Args:
        out: The output folder.
        manifest: The manifest of this run.

    Raises:
        ExistsError: The folder has the manifest of another run; the message names the differences.
        FolderError: The folder's manifest is malformed.
    """
    if not refuse_other_run(out, manifest):
        with atomic_write(out / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def refuse_other_run(out: Path, manifest: dict[str, Any]) -> bool:
    """Compare a manifest with that of a folder, and return whether the folder has one.

    Raises:
        ExistsError: The folder has the manifest of another run; the message names the differences.
        FolderError: The folder's manifest is malformed.
    """
    manifest = json.loads(json.dumps(manifest))  # tuples become lists, as in the file
    kept = read_manifest(out)
    if kept is None:
        return False
    different = list(differences(kept, manifest))
    if different:
        more = len(different) - _DIFFERENCES_NAMED
        named = "; ".join(different[:_DIFFERENCES_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ExistsError(
            "out",
            f"must be a new folder or that of the same run; the vectors in {out} were computed with other settings or "
            f"inputs: {named}",
        )
    return True


def read_manifest(out: Path) -> dict[str, Any] | None:
    """Read the manifest of a folder; None if it has none.

    Raises:
        FolderError: It is malformed, or another release wrote it.
    """
    try:
        manifest = json.loads((out / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FolderError(f"{out / MANIFEST} must be JSON: {error}", argument="out") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise FolderError(f"{out / MANIFEST} must describe a run in format {_FORMAT} of maskpool embed", argument="out")
    return manifest


def differences(kept: Any, new: Any, name: str = "") -> Iterator[str]:  # Any: what JSON holds
    """Name the values in which two manifests differ."""
    if _general(name) in _INFORMATIVE or kept == new:
        return
    if isinstance(kept, dict) and isinstance(new, dict):
        for key in {**kept, **new}:
            yield from differences(kept.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif name == "inputs" and len(kept) == len(new):
        for was, now in zip(kept, new, strict=True):
            yield from differences(was, now, f"inputs[{Path(now['path']).name}]")
    elif name == "inputs":
        yield f"inputs were {len(kept)} files and are {len(new)}"
    else:
        yield f"{name} was {short(kept)} and is {short(new)}"


def _general(name: str) -> str:
    """Return the name of a value of an input without the name of the file."""
    start, bracket, rest = name.partition("[")
    return start + rest.rpartition("]")[2] if bracket else name
