"""Build the site of the documentation: ``python -m benchmarks.site`` writes ``build/site``.

The pages are ``docs/``, README.md, the other Markdown files of `PAGES`, and what they link to. Links that work in the
repository work in the site: a link to a page leads to that page, and any other file of the repository that a page links
to is copied into ``files/``. The build fails on a warning, or on a link to a missing page, heading or file.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
PAGES_FOLDER, SITE_FOLDER = ROOT / "build" / "pages", ROOT / "build" / "site"
# The pages outside of docs/, and where they are in the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "benchmarks/census.md": "census.md",
    "examples/README.md": "examples.md",
}
# The modules of the Reference, with the name of their page; all other modules are internal.
MODULES = {
    "maskpool": "maskpool",
    "maskpool.nn": "nn",
    "maskpool.functional": "functional",
    "maskpool.masks": "masks",
    "maskpool.weights": "weights",
    "maskpool.encoder": "encoder",
    "maskpool.embed": "embed",
    "maskpool.training": "training",
    "maskpool.plans": "plans",
    "maskpool.audit": "audit",
    "maskpool.audit.endpoint": "audit-endpoint",
    "maskpool.pytest_plugin": "pytest",
    "maskpool.leaks": "leaks",
    "maskpool.pads": "pads",
    "maskpool.errors": "errors",
    "maskpool.integrations.sentence_transformers": "sentence-transformers",
    "maskpool.integrations.transformers": "transformers",
    "maskpool.integrations.sklearn": "sklearn",
    "maskpool.integrations.mteb": "mteb",
    "maskpool.integrations.onnx": "onnx",
    "maskpool.integrations.ray": "ray",
}
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


class SiteError(Exception):
    """The site cannot be built as it is."""


def place_of(file: PurePosixPath) -> PurePosixPath:
    """Return where a file of the repository is in the site."""
    if str(file) in PAGES:
        return PurePosixPath(PAGES[str(file)])
    if file.parts[0] == "docs":
        return PurePosixPath(*file.parts[1:])
    return PurePosixPath("files") / file


def lay_out(target: Path = PAGES_FOLDER) -> None:
    """Write all pages, with their links rewritten, and the files that they link to into an empty folder.

    Raises:
        SiteError: A page links to a file that does not exist.
    """
    shutil.rmtree(target, ignore_errors=True)
    for source in sorted((ROOT / "docs").rglob("*")):
        if source.is_file():
            _write(source, target)
    for name in PAGES:
        if (ROOT / name).exists():
            _write(ROOT / name, target)


def _write(source: Path, target: Path) -> None:
    file = PurePosixPath(source.relative_to(ROOT).as_posix())
    place = target / place_of(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".md":
        shutil.copyfile(source, place)
        return
    text, start, parts = source.read_text(encoding="utf-8"), 0, []
    for fence in _FENCE.finditer(text):
        parts += [_relink(text[start : fence.start()], file, target), fence[0]]
        start = fence.end()
    parts.append(_relink(text[start:], file, target))
    place.write_text("".join(parts), encoding="utf-8")


def _relink(text: str, file: PurePosixPath, target: Path) -> str:
    """Return a part of a page with its links as they must be in the site; copy the files that it links to."""

    def relinked(match: re.Match[str]) -> str:
        path, hash_sign, anchor = match[2].partition("#")
        if not path or urlsplit(path).scheme:
            return match[0]
        linked = PurePosixPath(os.path.normpath(file.parent / path))
        if not (ROOT / linked).is_file() or linked.parts[0] == "..":
            raise SiteError(f"{file} links to {path}, which is not a file of the repository")
        place = place_of(linked)
        if place.parts[0] == "files":
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / linked, target / place)
        return f"{match[1]}{os.path.relpath(place, place_of(file).parent)}{hash_sign}{anchor}{match[3]}"

    return _LINK.sub(relinked, text)


def link_names(site: Path) -> None:
    """Link every name of the package that a page mentions in code to its place in the Reference."""
    lines = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    place_of_name = {}
    for line in lines:
        name, _, _, place, _ = line.split(" ", 4)
        place_of_name[name] = place.replace("$", name)
    place_of_name |= {module: f"reference/{page}.html" for module, page in MODULES.items()}
    mention = re.compile(r"(?<!</a>)<code>(maskpool(?:\.\w+)+)((?:\([^<]*\))?)</code>(?!</a>)")
    for page in site.rglob("*.html"):
        up = os.path.relpath(site, page.parent)

        def linked(match: re.Match[str], up: str = up) -> str:
            if match[1] not in place_of_name:
                return match[0]
            return f'<a href="{up}/{place_of_name[match[1]]}">{match[0]}</a>'

        page.write_text(mention.sub(linked, page.read_text(encoding="utf-8")), encoding="utf-8")


class _Page(HTMLParser):
    """Collect the ids and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Read one tag."""
        values = dict(attributes)
        self.ids |= {value for name in ("id", "name") if (value := values.get(name))}
        link = values.get("href") or values.get("src")
        if link:
            (self.links if tag in ("a", "area") else self.loaded).append(html.unescape(link))


def broken_links(site: Path) -> list[str]:
    """Return links to missing files or headings, malformed addresses, and what pages load from elsewhere."""
    parsed = {}
    for file in site.rglob("*.html"):
        parsed[file.resolve()] = page = _Page()
        page.feed(file.read_text(encoding="utf-8"))
    broken = []
    for file, page in parsed.items():
        name = file.relative_to(site.resolve())
        for link in [*page.links, *page.loaded]:
            address = urlsplit(link)
            if address.scheme in ("mailto", "data"):
                continue
            if address.scheme or address.netloc:
                well_formed = address.scheme == "https" and "." in address.netloc and " " not in link
                if not well_formed or link in page.loaded:
                    broken.append(f"{name}: {link}")
                continue
            if name.name == "404.html":  # its links begin at the root of the host
                continue
            linked = (file.parent / unquote(address.path)).resolve() if address.path else file
            linked = linked / "index.html" if linked.is_dir() else linked
            anchor = unquote(address.fragment)
            known = parsed[linked].ids if linked in parsed else set()
            if not linked.is_file() or (anchor and not anchor.startswith("__") and anchor not in known):
                broken.append(f"{name}: {link}")
    return broken


def build() -> Path:
    """Build the site, and return its folder.

    Raises:
        SiteError: A page has a warning or a broken link.
    """
    lay_out()
    shutil.rmtree(SITE_FOLDER, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    if finished.returncode:
        raise SiteError(f"{' '.join(command[1:])} failed:\n{finished.stdout}{finished.stderr}")
    link_names(SITE_FOLDER)
    if broken := broken_links(SITE_FOLDER):
        raise SiteError("broken links:\n" + "\n".join(broken))
    return SITE_FOLDER


if __name__ == "__main__":
    try:
        print(f"built {build().relative_to(ROOT)}")
    except SiteError as error:
        raise SystemExit(str(error)) from None
