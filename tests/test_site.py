"""The site of the documentation is built without warnings, documents every public name, and works in a browser."""

from __future__ import annotations

import importlib.util
import re
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from benchmarks import site
from benchmarks.site import MODULES
from benchmarks.tables import public_names
from tests.browser import TEXTS, ask, contrast, log, luminance, open_browser, requested, show

PAGES = [
    "index.html", "get-started.html", "guides/poolings.html", "guides/learned.html", "audit/index.html",
    "audit/bugs.html", "bugs/mean-over-pads.html", "census.html", "pads.html", "benchmark/study-files.html",
    "benchmark/statistics.html", "findings.html", "speed.html", "reference/functional.html", "reference/commands.html",
    "contributing.html", "changelog.html",
]  # fmt: skip
# What people search for, and the page that answers it.
SEARCHES = {
    "embedding changes with batch size": "bugs/mean-over-pads.html",
    "padding_side": "reference/masks.html",
    "mean pooling wrong": "bugs/mean-over-pads.html",
    "pad token embedding not zero": "pads.html",
}

# The dialog of the search is in a shadow tree.
SHADOW = "const shadow = [...document.querySelectorAll('*')].map((one) => one.shadowRoot).find(Boolean);"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("zensical") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the extra docs is not installed")
    return site.build()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(built: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(built)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.mark.full  # builds the site
def test_every_public_name_has_an_entry(built: Path) -> None:
    """Every public name of the documented modules is in the Reference."""
    inventory = zlib.decompress((built / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    documented = {line.split(" ", 1)[0] for line in inventory.splitlines()}
    names = {f"{module}.{name}" for module in MODULES for name in public_names(module)}
    assert len(names) > 100
    assert names - documented == set()


@pytest.mark.full  # builds the site
def test_relatives_are_linked(built: Path) -> None:
    """The names in the sections "See Also" are links."""
    page = (built / "reference" / "functional.html").read_text(encoding="utf-8")
    sections = re.findall(r"See Also</summary>(.*?)</details>", page, re.DOTALL)
    assert len(sections) > 10
    assert all("<a " in section for section in sections)


@pytest.mark.full  # opens a browser
@pytest.mark.parametrize("page", PAGES)
def test_pages_in_a_browser(browser: webdriver.Chrome, address: str, page: str) -> None:
    """A page loads only files of the site, logs nothing, does not scroll sideways, and has enough contrast."""
    for width in (400, 1280):
        for scheme in ("light", "dark"):
            requested(browser)
            log(browser, "browser")
            show(browser, address + page, width, scheme)
            ask(browser, "localStorage.clear()")  # the theme keeps the scheme of the previous visit
            browser.refresh()
            own = (address, "data:", "blob:", "chrome:", "chrome-untrusted:")
            assert {url for url in requested(browser) if not url.startswith(own)} == set()
            assert log(browser, "browser") == []
            has, needs = ask(browser, "const all = document.documentElement; return [all.clientWidth, all.scrollWidth]")
            assert needs <= has <= width
            texts = ask(browser, TEXTS)
            assert len(texts) > 20
            assert {luminance(ground) < 0.2 for *_, ground, _ in texts} >= {scheme == "dark"}
            low = {
                (text, round(contrast(ink, ground), 2))
                for text, ink, ground, large in texts
                if contrast(ink, ground) < (3 if large else 4.5)
            }
            assert low == set(), scheme


@pytest.mark.full  # opens a browser
@pytest.mark.parametrize("words", SEARCHES)
def test_search(browser: webdriver.Chrome, address: str, words: str) -> None:
    """The search finds the page that answers a question, among its first results."""
    show(browser, address)
    browser.find_element("css selector", ".md-search__button").click()
    wait = WebDriverWait(browser, 10)
    field = wait.until(lambda _: ask(browser, f"{SHADOW} return shadow?.querySelector('input')"))
    field.send_keys(words)
    first = wait.until(
        lambda _: ask(
            browser, f"{SHADOW} return [...shadow.querySelectorAll('a')].slice(0, 3).map((link) => link.href)"
        )
    )
    assert address + SEARCHES[words] in [link.partition("?")[0] for link in first]


@pytest.mark.full  # opens a browser
def test_the_census_is_filtered(browser: webdriver.Chrome, address: str) -> None:
    """The filter of the census keeps the rows that hold every word, and says how many there are."""
    show(browser, address + "census.html")
    field = browser.find_element("css selector", ".table-filter input")
    field.send_keys("bert shifted")
    rows = ask(browser, "return [...document.querySelectorAll('table')][0].tBodies[0].rows.length")
    shown = ask(
        browser,
        "return [...[...document.querySelectorAll('table')][0].tBodies[0].rows]"
        ".filter((row) => row.checkVisibility()).map((row) => row.textContent)",
    )
    assert 0 < len(shown) < rows
    assert all("bert" in text and "shifted" in text for text in shown)
    assert browser.find_element("css selector", ".table-filter output").text == f"{len(shown)} of {rows} rows"


@pytest.mark.full  # opens a browser
def test_the_keyboard_reaches_what_is_focused(browser: webdriver.Chrome, address: str) -> None:
    """Tab reaches the search, the navigation and the content, and what has the focus is marked."""
    show(browser, address + "get-started.html")
    reached = []
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(
            ask(
                browser,
                """const active = document.activeElement;
                const shown = [active, active.matches("[type=radio]") ? active.nextElementSibling : active];
                const styles = shown.map((one) => getComputedStyle(one));
                return [active.textContent.trim() || active.outerHTML,
                        styles.some((style) => style.outlineStyle !== "none" || style.boxShadow !== "none"),
                        Boolean(active.closest("article"))]""",
            )
        )
    assert "Skip to content" in reached[0][0]
    assert any(inside for *_, inside in reached)
    assert [text for text, marked, _ in reached if not marked] == []
