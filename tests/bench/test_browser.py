"""The report in a browser, from a file and without a network, and as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from maskpool.bench.report import pages as report
from tests.bench import tiny
from tests.browser import TEXTS, ask, contrast, log, luminance, open_browser, requested, show
from tests.command import make_small, run
from tests.once import once

STUDY = """
models = ["{model}"]
poolings = ["mean", "attention"]
treatments = ["included", "pads only", "noise", "index padded, query alone"]
leaks = ["divided by the batch width"]
replicates = 2
seeds = 2

[[corpora]]
data = "colours.csv"

[[corpora]]
data = "hues.csv"

[[plans]]
order = "random"
batch_size = 8

[[plans]]
pad_to = 24
side = ["right", "left"]
"""
SCROLL_REGIONS = """
return [...document.body.querySelectorAll("*")].filter((one) => /auto|scroll/.test(getComputedStyle(one).overflowX))
"""


def measure(folder: Path, model: Path) -> None:
    tiny.write_csv(folder / "colours.csv", tiny.make_texts(60))
    tiny.write_csv(folder / "hues.csv", tiny.make_texts(60, labels=4, seed=1))
    (folder / "study.toml").write_text(STUDY.format(model=model), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch, figures=True)
        ran = run("bench", "--study", folder / "study.toml", "--out", folder / "out", "--quiet")
    assert ran.code == 0, ran.err


@pytest.fixture(scope="session")
def page(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the report of a study of two corpora that fills every section."""
    return once(tmp_path_factory, "page", lambda folder: measure(folder, model_folder)) / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


def test_the_page_is_one_file(browser: webdriver.Chrome, page: Path) -> None:
    """The browser requests only the page, and its console stays empty."""
    requested(browser)
    log(browser, "browser")
    show(browser, page)
    own = ("data:", "chrome:", "chrome-untrusted:")  # what the page holds, and what the browser's first tab still loads
    assert {url for url in requested(browser) if not url.startswith(own)} == {page.as_uri()}
    assert log(browser, "browser") == []


@pytest.mark.parametrize("width", [400, 1400])
def test_the_verdict_is_in_the_first_screen(browser: webdriver.Chrome, page: Path, width: int) -> None:
    """What to do and the first verdict in words are visible without scrolling, also on a narrow screen."""
    show(browser, page, width, height=800)
    boxes = ask(
        browser,
        """return [...document.querySelectorAll(".verdict")].map((verdict) => [".advice", "li"].map((name) => {
          const box = verdict.querySelector(name).getBoundingClientRect();
          return [box.left, box.right, box.top, box.bottom];
        }))""",
    )
    assert len(boxes) == 2
    assert all(0 <= left < right <= width for verdict in boxes for left, right, _, _ in verdict)
    assert all(0 <= top < bottom <= 800 for _, _, top, bottom in boxes[0])


def test_verdicts_of_tables_are_visible_on_a_narrow_screen(browser: webdriver.Chrome, page: Path) -> None:
    """At 400 pixels the verdict of each row is visible before its table is scrolled, and not covered."""
    show(browser, page, 400)
    cells = ask(
        browser,
        """return [...document.querySelectorAll("td.verdict-cell")].map((cell) => {
          const box = cell.getBoundingClientRect(), name = cell.parentElement.cells[0].getBoundingClientRect();
          return [cell.textContent, name.right, box.left, box.right];
        })""",
    )
    assert len(cells) > 20
    for text, name_ends, left, right in cells:
        assert name_ends <= left + 1, text
        assert right <= 400 - 16, text


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_does_not_scroll_sideways(browser: webdriver.Chrome, page: Path, width: int) -> None:
    """On narrow and wide screens only tables and figures scroll sideways, each separately."""
    show(browser, page, width)
    has, needs = ask(browser, "const all = document.documentElement; return [all.clientWidth, all.scrollWidth]")
    assert needs <= has <= width


def test_tables_have_captions_and_headers(browser: webdriver.Chrome, page: Path) -> None:
    """Every table has a caption and a header for each column, row and group of rows."""
    show(browser, page)
    tables = ask(
        browser,
        """return [...document.querySelectorAll("table")].map((table) => ({
          caption: table.caption ? table.caption.textContent.trim() : "",
          columns: [...table.tHead.rows[0].cells].map((cell) => cell.localName + " " + cell.scope),
          widths: [...table.tBodies].flatMap((body) => [...body.rows].map(
            (row) => [...row.cells].reduce((sum, cell) => sum + cell.colSpan, 0))),
          firsts: [...table.tBodies].flatMap((body) => [...body.rows].map(
            (row) => row.cells[0].localName + " " + row.cells[0].scope)),
        }))""",
    )
    assert len(tables) == 2 * len(["plans", "clusters", "mixed", "leaks", "batch effects", "cost", "attention"])
    for table in tables:
        assert table["caption"]
        assert set(table["columns"]) == {"th col"}, table["caption"]
        assert set(table["firsts"]) <= {"th row", "th rowgroup"}, table["caption"]
        assert set(table["widths"]) == {len(table["columns"])}, table["caption"]


def test_scroll_regions_are_reached_by_tab(browser: webdriver.Chrome, page: Path) -> None:
    """Every region that scrolls has a unique name and can be reached from the keyboard."""
    show(browser, page, 390)
    regions = ask(browser, SCROLL_REGIONS)
    names = [region.get_attribute("aria-label") for region in regions]
    assert len(regions) == 2 * (7 + 2), "seven tables and two figures for each corpus"
    assert all(names)
    assert len(set(names)) == len(names)
    stops = ask(browser, "return document.querySelectorAll('a, [tabindex]').length")
    reached = set()
    for _ in range(stops):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.add(browser.switch_to.active_element.get_attribute("aria-label"))
    assert set(names) <= reached


def test_headings_are_an_outline(browser: webdriver.Chrome, page: Path) -> None:
    """There is one first-level heading, and each heading is at most one level below the previous heading."""
    show(browser, page)
    levels = ask(browser, "return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((one) => +one.localName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert {1, 2, 3} <= set(levels) <= {1, 2, 3, 4}
    assert all(below - above <= 1 for above, below in pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: webdriver.Chrome, page: Path, scheme: str) -> None:
    """In both colour schemes all text, also in figures, has at least the contrast of 4.5 that WCAG 2 requires."""
    show(browser, page, scheme=scheme)
    texts = ask(browser, TEXTS)
    assert len(texts) > 500
    assert {luminance(ground) < 0.2 for _, _, ground, _ in texts} == {scheme == "dark"}
    for text, ink, ground, _ in texts:
        assert contrast(ink, ground) >= 4.5, (text, ink, ground)


def test_links_lead_somewhere(browser: webdriver.Chrome, page: Path) -> None:
    """The ids of the page are unique, and every target of a link or a figure exists."""
    show(browser, page)
    ids = ask(browser, "return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(set(ids)) == len(ids)
    targets = re.findall(r"""(?:href="|url\()#([^")]+)""", page.read_text(encoding="utf-8"))
    assert {"content", "part-1", "part-2", "words"} <= set(targets)
    assert set(targets) <= set(ids)


def test_markdown_is_laid_out(page: Path) -> None:
    """In the Markdown report single blank lines separate headings and tables from the text around them."""
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "\n\n\n" not in text
    lines = ["", *text.splitlines(), ""]
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("#"):
            assert before == after == "", line
        if line.startswith("|"):
            assert {before[:1], after[:1]} <= {"", "|"}, line


def test_seeds_that_move_more_than_batches_are_named(page: Path) -> None:
    """If seeds move more texts than batches, the report says so and shows no example of a batch."""
    results = json.loads((page.parent / "results.json").read_text(encoding="utf-8"))
    example = {"text": 0, "widths": [5, 6], "neighbours": [[1, 2], [1, 3]]}
    for by_batch, by_seed, shown in ((0.1, 0.2, False), (0.2, 0.2, True), (0.3, 0.2, True)):
        for part in results["parts"]:
            for effect in part["batch_effect"]:
                effect |= {"by_batch": by_batch, "by_seed": by_seed, "examples": [example]}
        for written in (report.markdown(results), report.page(results, page.parent)):
            assert ("mean, random batches of 8: another seed moves more texts" in written) != shown
            assert ("nearest to" in written) == shown


def test_a_quoted_text_is_escaped(page: Path) -> None:
    """A quoted text is put on one line, cut if it is long, and its markup is escaped."""
    results = json.loads((page.parent / "results.json").read_text(encoding="utf-8"))
    text = "<b>two</b>\n\n# lines of `code` | and *more*" + " words" * 100
    quotes = {str(number): [text, "a_b"] for number in range(4)}
    example = {"text": 0, "widths": [5, 6], "neighbours": [[1, 2], [1, 3]]}
    results["parts"][0]["batch_effect"][0] |= {
        "examples": [example],
        "quotes": quotes,
        "by_batch": 0.5,
        "by_seed": 0.1,
    }
    written = report.markdown(results)
    start = r"- Row 0: “\<b\>two\</b\> \# lines of \`code\` \| and \*more\* words"
    (line,) = [line for line in written.splitlines() if line.startswith(start)]
    assert line.endswith(" …” (a_b)")
    assert len(line) < 300
    assert "&lt;b&gt;two&lt;/b&gt; # lines of `code` | and *more* words" in report.page(results, page.parent)
