"""Text of the package and of its tests is plain English."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What to avoid, and what to write instead.
PHRASES = {
    r"(?<!\bthere )\b(?:is|are) no [a-z]": "is not a …",
    r"\bbeside\b": "next to",
    r"\bstands?\b": "is",
    r"\banew\b": "again",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bwhatever\b": "anything that, or no matter which",
    r"\bof (?:its|their) own\b": "own",
    r"\bat hand\b": "given",
    r"\bsuch an? one\b": "one that …",
    r"\bso that\b": "so, or a sentence of its own",
    r"\b(?:tells?|told)\b": "say or report",
    r"\b(?:is|are|be) had\b": "cannot be loaded",
}
# Lines that are meant as they are, by a part of them.
MEANT = (
    "could not tell",  # the verdict of a difference that the study does not decide
    "takes no additive mask",  # the model has no such mask
    "so that places, or the number of pads, move them",  # evidence in the committed census
)
THIS_FILE = Path(__file__).relative_to(ROOT)


def lines_to_rewrite(folder: str) -> list[str]:
    """Return the lines of a folder that hold a phrase to avoid, with their place and what to write instead."""
    rewrite = []
    for suffix in ("*.py", "*.jinja"):
        for path in sorted((ROOT / folder).rglob(suffix)):
            name = path.relative_to(ROOT)
            if name == THIS_FILE:
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                rewrite += [
                    f"{name}:{number}: {line.strip()}\n    write: {instead}"
                    for phrase, instead in PHRASES.items()
                    if re.search(phrase, line, re.IGNORECASE) and not any(meant in line for meant in MEANT)
                ]
    return rewrite


@pytest.mark.parametrize("folder", ["maskpool", "tests", "benchmarks"])
def test_no_line_reads_as_if_translated(folder: str) -> None:
    """No line holds a phrase to avoid."""
    rewrite = lines_to_rewrite(folder)
    assert not rewrite, f"{len(rewrite)} lines:\n" + "\n".join(rewrite)
