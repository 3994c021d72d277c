"""The documentation's links, code, commands and numbers are correct."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tables import BLOCK, SETTINGS, made_blocks, pages, rewritten, with_bugs
from tests.bench import tiny
from tests.blocks import fenced_blocks, run_python_blocks, shows
from tests.matrix import FULL, sampled

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "examples").glob("*.md"),
    ],
)
# Pages whose code is tested elsewhere: tests/test_readme.py, tests/test_bug_pages.py, tests/test_pytest_plugin.py.
GUIDES = [page for page in PAGES if page.is_relative_to(ROOT / "docs") and page.parent.name != "bugs"]
WITH_CODE = [page for page in GUIDES if "```python" in page.read_text(encoding="utf-8") and page.name != "ci.md"]
SLOW = ("endpoint.md", "onnx.md")  # they run a real model behind a server, and export it: the full suite only
WITH_COMMANDS = [page for page in GUIDES if "```console" in page.read_text(encoding="utf-8")]
PEERS = {"embed.md": ("faiss", "lancedb")}  # of pages that search vectors with other libraries
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


@pytest.mark.parametrize(
    "page",
    sampled([page for page in WITH_CODE if FULL or page.name not in SLOW], every=4),
    ids=lambda page: page.relative_to(ROOT / "docs").as_posix(),
)
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every python block runs when it is copied without the others, and prints the text block that follows."""
    for package in PEERS.get(page.name, ()):
        pytest.importorskip(package, reason="needs the extra peers")
    monkeypatch.chdir(tmp_path)
    assert run_python_blocks(page.read_text(encoding="utf-8"), page.name) > 0


def test_wrong_output_is_detected() -> None:
    """A block that needs another one, fails or prints another text than promised fails the check."""
    page = "# T\n\n```python\nprint(0.51)\n```\n\nprints\n\n```text\n0.51\n```\n"
    assert run_python_blocks(page) == 1
    with pytest.raises(AssertionError):
        run_python_blocks(page.replace("print(0.51)", "print(0.53)"))
    with pytest.raises(NameError):
        run_python_blocks("```python\nx = 1\n```\n\n```python\nprint(x)\n```\n")


@pytest.mark.parametrize(
    ("promised", "printed", "same"),
    [
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("a\n...", "a\nb", True),
        ("a", "a\nb", False),
        ("noise 5.2e-07 (51 calls)", "noise 4.1e-07 (51 calls)", True),
        ("noise 5.2e-07 (51 calls)", "noise 4.1e-07 (52 calls)", False),
        ("noise 5.2e-07", "noise 5.2e-04", False),
        ("moved by 1.10", "moved by 1.11", True),
    ],
)
def test_excerpts(promised: str, printed: str, same: bool) -> None:
    """Three dots mean lines that are left out, and the last digits of a number may differ."""
    assert shows(promised, printed) == same


@pytest.mark.full  # runs the commands, as .ci/docs does
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_console_blocks(page: Path, tmp_path: Path) -> None:
    """The commands of a page print what the page shows below them."""
    for block in fenced_blocks(page.read_text(encoding="utf-8")):
        if block.language != "console":
            continue
        for command, shown in re.findall(r"^\$ maskpool (.+)\n((?:[^$].*\n)*)", block.text, re.MULTILINE):
            ran = subprocess.run(
                [sys.executable, "-m", "maskpool", *command.split()],
                cwd=tmp_path, check=False, capture_output=True, text=True, encoding="utf-8",
                env=os.environ | {"COLUMNS": "1000"},
            )  # fmt: skip
            assert ran.returncode in (0, 1), ran.stderr
            assert not shown or shows(shown, ran.stdout), ran.stdout


def test_generated_blocks_are_current() -> None:
    """Every block that a program writes is on one page, and equals the committed results and the code."""
    blocks, names = made_blocks(), []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        assert rewritten(text, blocks) == text, f"{page}: run python -m benchmarks.tables"
        assert text.count("<!-- end of") == len(BLOCK.findall(text)), f"{page} has a block without its beginning"
        names += [match[2] for match in BLOCK.finditer(text)]
    assert sorted(names) == sorted(blocks)
    settings = SETTINGS.read_text(encoding="utf-8")
    assert with_bugs(settings) == settings


@pytest.mark.full
def test_commands_of_the_benchmark(tmp_path: Path) -> None:
    """The bash blocks of the benchmark's page run, in order, on a file of the user's texts and the bundled model.

    The default run is left out, because .ci/run runs it. Placeholders are filled in, and the study of the page is
    shortened to one plan and one layer, without the bugs, to save time.
    """
    folder = ROOT / "docs" / "benchmark"
    commands = [
        line.partition(" #")[0].strip()
        for block in fenced_blocks((folder / "index.md").read_text(encoding="utf-8"))
        if block.language == "bash"
        for line in block.text.splitlines()
    ]
    assert commands.pop(0) == "maskpool bench"
    assert len(commands) == 4
    tiny.write_csv(tmp_path / "texts.csv", tiny.make_texts(60))
    blocks = fenced_blocks((folder / "study-files.md").read_text(encoding="utf-8"))
    (study,) = (block.text for block in blocks if block.language == "toml")
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
