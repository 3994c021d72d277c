"""The documentation's links and commands work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import tiny
from tests.test_readme import README, fenced_blocks

ROOT = README.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")],
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(markdown: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub spells them."""
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Return the links of a page to missing files or headings; web addresses are not looked up."""
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files(page: Path) -> None:
    """Each link to a file or heading of the repository has a target."""
    assert not broken_links(page)


def test_a_broken_link_is_reported(tmp_path: Path) -> None:
    """A missing file or heading is reported; web addresses are not checked."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n[1](page.md#a-title) [2](gone.md) [3](#other) [4](https://example.org)\n", encoding="utf-8"
    )
    assert broken_links(page) == ["gone.md", "#other"]


@pytest.mark.full
def test_commands_of_the_readme(tmp_path: Path) -> None:
    """The bash blocks of the README run, in order, on a file of texts of the user's and on the bundled model.

    Set-up commands are left out: .ci/run runs them. Placeholders are filled in, and the study of the README is
    shortened to one plan and one layer, without the bugs, to save time.
    """
    blocks = fenced_blocks(README.read_text(encoding="utf-8"))
    commands = [
        line.partition(" #")[0].strip()
        for block in blocks
        if block.language == "bash" and "pip install" not in block.text
        for line in block.text.splitlines()
    ]
    assert commands
    tiny.write_csv(tmp_path / "texts.csv", tiny.make_texts(60))
    (study,) = (block.text for block in blocks if block.language == "toml" and "[[corpora]]" in block.text)
    study = re.sub(r"^(leaks|layers|clusterers) = .*\n", "", study, flags=re.MULTILINE).partition("[[plans]]")[0]
    (tmp_path / "study.toml").write_text(study, encoding="utf-8")
    for command in commands:
        name, *arguments = command.replace("folder-or-hub-name", "all-MiniLM-L6-v2").split()
        assert name == "maskpool", f"{command} is not a command of maskpool"
        if arguments[:1] == ["bench"] and "--study" in arguments:  # a different study than the previous one
            shutil.move(tmp_path / "results", tmp_path / "other-results")
        ran = subprocess.run(
            [sys.executable, "-m", "maskpool", *arguments],
            cwd=tmp_path, check=False, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
