"""Integrations, one host library per module; importing one loads its host."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from maskpool.errors import RequirementError


def require(package: str, minimum: str, extra: str) -> None:
    """Raise RequirementError unless a host is installed and new enough; the message says how to install it.

    Args:
        package: The host's name on the package index.
        minimum: The oldest version that is tested.
        extra: The extra of maskpool that brings it.

    Example:
        >>> require("torch", "2.13", "st")
    """
    command = f'pip install -U "maskpool[{extra}]"'
    try:
        found = version(package)
    except PackageNotFoundError:
        raise RequirementError(
            f"{package} is not installed, and {package}>={minimum} is needed here: {command}"
        ) from None
    from packaging.version import Version  # every host brings it, torch does not

    if Version(found) < Version(minimum):
        raise RequirementError(f"{package} {found} is too old, {package}>={minimum} is needed here: {command}")
