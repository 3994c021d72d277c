"""Integrations, one host library per module; importing one loads its host."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from maskpool.errors import RequirementError

# The lowest versions that the tests run on, as in pyproject.toml.
MINIMUM = {
    "mteb": "2.9",
    "scikit-learn": "1.8",
    "sentence-transformers": "5.4",
    "transformers": "4.57",
}


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
        found = version(package)
    except PackageNotFoundError:
        raise requirement(package, minimum, extra) from None
    from packaging.version import Version  # every host installs it, torch does not

    if Version(found) < Version(minimum):
        raise requirement(package, minimum, extra)


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
