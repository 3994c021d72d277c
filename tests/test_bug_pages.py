"""The documentation has one page per padding bug, and its code and facts are correct."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskpool.leaks import PADDING_BUGS, PAGES, PaddingBug
from tests.blocks import run_python_blocks
from tests.matrix import sampled

ROOT = Path(__file__).parents[1]
MOST_LINES = 140

every_bug = pytest.mark.parametrize("bug", PADDING_BUGS.values(), ids=lambda bug: bug.id)


def page_of(bug: PaddingBug) -> str:
    return (ROOT / bug.url).read_text(encoding="utf-8")


def words_of(markdown: str) -> str:
    """Return a text without marks of code, line breaks and capitals."""
    return " ".join(markdown.replace("`", "").split()).lower()


def formulas_of(bug: PaddingBug) -> set[str]:
    """Return the descriptions of what the wrong formula gives, for pads on either side."""
    states = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    if bug.formula is None:
        return set()
    return {name for real in (torch.arange(7) < 4, torch.arange(7) >= 3) for name in bug.formula(states, real)}


def test_every_page_is_of_a_bug_and_every_bug_has_its_page() -> None:
    """The files of the folder are the pages of the catalogue."""
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / PAGES).iterdir()} == {
        bug.url for bug in PADDING_BUGS.values()
    }


@every_bug
def test_a_page_says_what_the_catalogue_says(bug: PaddingBug) -> None:
    """Title, cause, wrong formula, fix and threads of a page are those of the catalogue."""
    page = page_of(bug)
    assert page.partition("\n")[0] == f"# {bug.title[0].upper()}{bug.title[1:]}"
    _, causes = words_of(page).split("## what goes wrong")
    causes, fix = causes.split("## fix")
    assert bug.happens.lower() in causes
    formulas = formulas_of(bug)
    assert not formulas or any(name in causes for name in formulas)
    assert f"{words_of(bug.fix)}." in fix
    _, threads = page.split("\n## Threads\n\n")
    assert threads == ("".join(f"- <{thread}>\n" for thread in bug.threads) or "No public thread is known.\n")
    assert page.count("\n") <= MOST_LINES


@pytest.mark.filterwarnings("ignore:.*quantiz")  # torch plans to remove the quantisation that a page shows
@pytest.mark.parametrize("bug", sampled(PADDING_BUGS.values(), every=8), ids=lambda bug: bug.id)
def test_the_code_of_a_page_shows_the_bug_and_its_fix(bug: PaddingBug) -> None:
    """The code prints what the page shows: the audit names this bug, and the fixed code is clean if it can be seen."""
    page = page_of(bug)
    assert f"['{bug.title}']\n```" in page
    assert page.count("\nclean\n") == (bug.title not in ("NaN where texts are padded", "padding of unknown cause"))
    assert run_python_blocks(page, bug.id) == 2
