"""A release is built only if its version is the same everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import maskpool

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_everywhere() -> None:
    """CITATION.cff and a section of CHANGELOG.md name the version of the package."""
    assert f"version: {maskpool.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"\n## [{maskpool.__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="the scripts of .ci need bash")
@pytest.mark.parametrize("tag", ["", "v0.0.1", maskpool.__version__])
def test_a_tag_of_another_version_is_refused(tag: str) -> None:
    """The script that builds a release refuses a tag that is not v and the version of the package."""
    ran = subprocess.run(["bash", ".ci/release", tag], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert f"the tag must be v{maskpool.__version__}, as maskpool/__init__.py says, got '{tag}'" in ran.stderr
