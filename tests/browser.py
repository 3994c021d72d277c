"""A browser without a network, and what tests ask of its pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

FLAGS = """
--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update
"""
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
# Each visible piece of text, its colour as it is seen, the background below it, and whether it is large in the sense
# of WCAG 2.
TEXTS = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const over = (colour, below, share) => colour.map((part, place) => part * share + below[place] * (1 - share));
const ground = (element) => {
  if (!element) return [255, 255, 255];
  const [red, green, blue, alpha = 1] = numbers(getComputedStyle(element).backgroundColor);
  return alpha === 1 ? [red, green, blue] : over([red, green, blue], ground(element.parentElement), alpha);
};
const opacity = (element) => element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1;
const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const text = texts.currentNode.textContent.trim(), element = texts.currentNode.parentElement;
  if (!text || element.closest("style, script, metadata")) continue;
  if (!element.checkVisibility({visibilityProperty: true})) continue;
  const style = getComputedStyle(element), below = ground(element);
  const [red, green, blue, alpha = 1] = numbers(element.closest("svg") ? style.fill : style.color);
  const share = alpha * opacity(element), size = parseFloat(style.fontSize);
  if (share === 0) continue;
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  found.push([text, over([red, green, blue], below, share), below, large]);
}
return found;
"""


@contextmanager
def open_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Start Chromium without a network; skip the test if it is not installed.

    Args:
        profile: An empty folder.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not both installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in [*FLAGS.split(), NO_NETWORK, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def show(
    browser: webdriver.Chrome, page: Path | str, width: int = 1400, scheme: str = "light", height: int = 900
) -> None:
    """Open a file or an address on a screen of the given width with the light or dark colour scheme."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)
    browser.get(page if isinstance(page, str) else page.as_uri())


def ask(browser: webdriver.Chrome, script: str) -> Any:  # Any: the result of the script
    return browser.execute_script(script)


def log(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """Return the browser's log entries since the last call."""
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]  # selenium leaves it untyped
    return entries


def requested(browser: webdriver.Chrome) -> set[str]:
    """Return the URLs requested since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    return {
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    }


def luminance(colour: list[float]) -> float:
    """Compute the relative luminance that WCAG 2 defines."""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(ink: list[float], ground: list[float]) -> float:
    """Compute the contrast ratio that WCAG 2 defines."""
    dark, light = sorted([luminance(ink), luminance(ground)])
    return (light + 0.05) / (dark + 0.05)
