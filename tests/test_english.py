"""Text of the repository is plain English."""

from __future__ import annotations

import ast
import re
from bisect import bisect
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
    r"(?<!instead )(?<!in place )\bof (?:its|their) own\b": "own",
    r"\bat hand\b": "given",
    r"\bsuch an? one\b": "one that …",
    r"\bso that\b": "so, or a sentence of its own",
    r"\b(?:tells?|told)\b": "say or report",
    r"\b(?:is|are|be) had\b": "cannot be loaded",
}
# Parts of lines that are meant as they are.
MEANT = (
    "could not tell",  # the verdict of a difference that the study does not decide
    "takes no additive mask",  # the model has no such mask
    "so that places, or the number of pads, move them",  # evidence in the committed census
)
# Files that people write, by folder of the repository; the committed results quote texts of others.
WRITTEN = {
    ".": ("*.md", "*.toml", "*.txt", "*.py", "Makefile", "*.yml", ".*.yaml"),
    ".ci": ("*",),
    ".github": ("**/*.yml",),
    "maskpool": ("**/*.py", "**/*.pyi", "**/*.jinja"),
    "tests": ("**/*.py",),
    "benchmarks": ("**/*.py", "*.md", "**/*.toml"),
    "docs": ("**/*.md",),
    "examples": ("*.py", "*.md"),
}
# Names that do not say what they hold.
VAGUE = {"found", "one"}
LEFT_OUT = {Path(__file__)}
# What surrounds a line of prose: indentation, marks of comments, quotes of a string that goes on.
_MARGIN = re.compile(r"""^\s*(?:\#+\ |[-*>|]\ )?(?:[rf]{0,2}["'])?|["']?\\?\s*$""", re.VERBOSE)


def phrases_in(text: str) -> list[tuple[int, str]]:
    """Return the line of each phrase to avoid, also of one that is wrapped, and what to write instead."""
    joined, starts = "", []
    for line in text.splitlines():
        starts.append(len(joined))
        joined += (_MARGIN.sub("", line).strip() + " ") if line.strip() else "\n"
    for meant in MEANT:
        joined = joined.replace(meant, "·" * len(meant))
    return sorted(
        (bisect(starts, match.start()), instead)
        for phrase, instead in PHRASES.items()
        for match in re.finditer(phrase, joined, re.IGNORECASE)
    )


@pytest.mark.parametrize(
    "text",
    [
        "It is no tensor.",
        "It is no\ntensor.",
        "    # It stays, so\n    # that it is read.",
        "- Vectors are\n  no tensors.",
        "> It is\n> no tensor.",
        'problem = (\n    f"it is "\n    f"no list"\n)',
        "* A row\n* Such a\n  one is read.",
        "Add text (\n    'such an '\n    'one'\n)",
    ],
)
def test_a_wrapped_phrase_is_seen(text: str) -> None:
    """A phrase is seen in one line and across lines of prose, comments, quotations and strings."""
    assert phrases_in(text)


def test_the_line_of_a_phrase_is_its_first() -> None:
    """A phrase is reported by the line that it begins in; phrases do not cross paragraphs."""
    assert [line for line, _ in phrases_in("Read\nthis, so\nthat it is\n\nno\nmatter. It is no\nlist.")] == [2, 6]


@pytest.mark.parametrize("folder", WRITTEN)
def test_no_text_reads_as_if_translated(folder: str) -> None:
    """No file that people write has a phrase to avoid."""
    paths = {path for pattern in WRITTEN[folder] for path in (ROOT / folder).glob(pattern)} - LEFT_OUT
    texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sorted(paths)}
    rewrite = [f"{path}:{line}: write: {instead}" for path, text in texts.items() for line, instead in phrases_in(text)]
    assert texts
    assert not rewrite, f"{len(rewrite)} phrases:\n" + "\n".join(rewrite)


@pytest.mark.parametrize("folder", ["maskpool", "tests", "benchmarks"])
def test_names_say_what_they_hold(folder: str) -> None:
    """No variable or argument has a name that fits anything."""
    vague = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id in VAGUE) or (isinstance(node, ast.arg) and node.arg in VAGUE)
    }
    assert not vague
