"""Define ``maskpool info``, which reports the versions and devices that a bug report needs."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskpool import __version__
from maskpool.cli.endings import stoppable

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# The extras for users, in the order of the report; the other extras are for the development of maskpool.
EXTRAS = ("st", "embed", "bench", "gguf", "mteb", "onnx", "ray")


def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False) -> None:
    """Report versions and devices, for a bug report.

    The output names no path, user, host or environment variable.
    """
    with stoppable():
        collected = collect()
        print(json.dumps(collected) if as_json else "\n".join(_lines(collected)))


def collect() -> dict[str, Any]:
    """Return the versions of maskpool, Python and the packages that the extras install, and the devices of torch.

    Versions come from the metadata of installed packages; torch is the only package that is imported.
    """
    packages = _packages()
    return {
        "maskpool": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": _platform(),
        "devices": _devices(),
        "packages": packages,
        "incomplete_extras": [
            {"extra": extra, "packages": names, "command": f'pip install "maskpool[{extra}]"'}
            for extra in EXTRAS
            if (names := [row["name"] for row in packages if extra in row["extras"] and not row["supported"]])
        ],
    }


def _platform() -> str:
    """Name the operating system, its version or C library, and the processor; platform.platform() may name a host."""
    parts = (
        platform.system(),
        platform.mac_ver()[0],
        platform.win32_ver()[0],
        *platform.libc_ver(),
        platform.machine(),
    )
    return " ".join(filter(None, parts))


def _packages() -> list[dict[str, Any]]:
    """Describe torch and every package of the extras, by the requirements in the metadata of maskpool."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("maskpool") or []
    except metadata.PackageNotFoundError:  # the files are used without being installed
        lines = []
    packages: dict[str, dict[str, Any]] = {}
    for requirement in map(Requirement, lines):
        always = _is_needed(requirement, "")
        extras = [extra for extra in EXTRAS if not always and _is_needed(requirement, extra)]
        if always or extras:
            packages.setdefault(requirement.name, _describe(requirement))["extras"] += extras
    return list(packages.values())


def _is_needed(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _describe(requirement: Requirement) -> dict[str, Any]:
    from packaging.version import InvalidVersion

    try:
        version = metadata.version(requirement.name)
        supported = requirement.specifier.contains(version, prereleases=True)
    except metadata.PackageNotFoundError:
        version, supported = None, False
    except InvalidVersion:
        supported = False
    return {
        "name": requirement.name,
        "version": version,
        "requires": str(requirement.specifier),
        "supported": supported,
        "extras": [],  # none: always needed
    }


def _devices() -> list[dict[str, str]]:
    """Describe the devices that torch can use; an error is named by its type, because its message may hold a path."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [{"device": "none", "details": f"torch cannot be imported ({type(error).__name__})"}]
    threads = torch.get_num_threads()
    devices = [{"device": "cpu", "details": f"{threads} thread{'' if threads == 1 else 's'}"}]
    built_for = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    try:
        for index in range(torch.cuda.device_count()):
            details = f"{torch.cuda.get_device_name(index)}, torch built for {built_for}"
            devices.append({"device": f"cuda:{index}", "details": details})
    except RuntimeError as error:
        devices.append({"device": "cuda", "details": f"cannot be used ({type(error).__name__})"})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "details": "available"})
    return devices


def _lines(report: dict[str, Any]) -> list[str]:
    """Lay out the report as text."""
    facts = [[name, report[name]] for name in ("maskpool", "python", "platform")]
    facts += [["device", f"{device['device']}: {device['details']}"] for device in report["devices"]]
    if not report["packages"]:
        return _columns([*facts, ["packages", "unknown: maskpool is not installed, its files are used directly"]])
    rows = [["package", "version", "requires", "extras", ""]]
    for package in report["packages"]:
        state = "" if package["supported"] else "not installed" if package["version"] is None else "not supported"
        extras = ", ".join(package["extras"]) or "always"
        rows.append([package["name"], package["version"] or "-", package["requires"], extras, state])
    incomplete = [
        f"the extra {extra['extra']} is incomplete ({', '.join(extra['packages'])}): {extra['command']}"
        for extra in report["incomplete_extras"]
    ]
    return [*_columns(facts), "", *_columns(rows), *([""] if incomplete else []), *incomplete]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
