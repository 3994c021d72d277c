"""Integrations, one host library per module; importing one, or using it for the first time, loads its host."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from maskpool.errors import RequirementError, require_numpy

require_numpy()

if TYPE_CHECKING:  # at run time __getattr__ loads them
    from maskpool.integrations import mteb as mteb
    from maskpool.integrations import onnx as onnx
    from maskpool.integrations import ray as ray
    from maskpool.integrations import sentence_transformers as sentence_transformers
    from maskpool.integrations import sklearn as sklearn
    from maskpool.integrations import transformers as transformers

_HOSTS = ("mteb", "onnx", "ray", "sentence_transformers", "sklearn", "transformers")

# The lowest versions that the tests run on, as in pyproject.toml.
MINIMUM = {
    "mteb": "2.10",
    "ray": "2.60",
    "scikit-learn": "1.8",
    "sentence-transformers": "5.4",
    "transformers": "4.57",
}


def __getattr__(name: str) -> object:
    """Load an integration on first use."""
    if name in _HOSTS:
        return import_module(f"{__name__}.{name}")
    known = "" if name.startswith("_") else f": its integrations are {', '.join(_HOSTS)}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{known}")


def __dir__() -> list[str]:
    return [*globals(), *(host for host in _HOSTS if host not in globals())]


def require(package: str, extra: str) -> None:
    """Raise an error unless a host library is installed and new enough.

    Args:
        package: The host's name on the package index, a key of ``MINIMUM``.
        extra: The extra of maskpool that installs it.

    Raises:
        RequirementError: It is not; the message gives the pip command.

    Example:
        >>> require("transformers", "st")
    """
    minimum = MINIMUM[package]
    try:
        too_old = is_older(package, minimum)
    except PackageNotFoundError:
        raise requirement(package, minimum, extra) from None
    if too_old:
        raise requirement(package, minimum, extra)


def is_older(package: str, minimum: str) -> bool:
    """Whether a host library is older than a version.

    Args:
        package: The host's name on the package index.
        minimum: The version.

    Raises:
        PackageNotFoundError: It is not installed.

    Example:
        >>> is_older("transformers", "1.0")
        False
    """
    installed = version(package)
    from packaging.version import Version  # every host installs it, torch does not

    return Version(installed) < Version(minimum)


def requirement(package: str, minimum: str, extra: str, purpose: str = "here") -> RequirementError:
    """The error that a package is missing or too old.

    Args:
        package: The package's name on the package index.
        minimum: The lowest version that works.
        extra: The extra of maskpool that installs it.
        purpose: What needs the version, at the end of "… is needed".

    Returns:
        The error to raise; its message gives the pip command.

    Example:
        >>> print(requirement("no-such-host", "2.0", "st", "to read its models"))
        no-such-host is not installed, no-such-host>=2.0 is needed to read its models:
        pip install -U "maskpool[st]" "no-such-host>=2.0"
    """
    try:
        problem = f"{version(package)} is too old"
    except PackageNotFoundError:
        problem = "is not installed"
    return RequirementError(
        f"{package} {problem}, {package}>={minimum} is needed {purpose}: "
        f'pip install -U "maskpool[{extra}]" "{package}>={minimum}"'
    )
