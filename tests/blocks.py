"""Code blocks of Markdown pages: run them, and compare what they print with what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?:e[-+]\d+)?(?![\w.])")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def fenced_blocks(markdown: str) -> list[Block]:
    return [
        Block(match[1], match[2], markdown.count("\n", 0, match.start(2)))
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)
    ]


def agree(shown: str, printed: str) -> bool:
    """Return whether two lines are equal up to the last digits of decimal numbers, which depend on the machine.

    Numbers below 1e-4 are noise and may differ by a factor of ten; below 1e-5 some machines have none.
    """
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(map(float, NUMBER.findall(shown)), map(float, NUMBER.findall(printed)), strict=True)
    return all(
        abs(a - b) <= 0.02 * max(abs(a), abs(b))
        or (0 < max(a, b) < 1e-4 and max(a, b) <= 10 * min(a, b))
        or (min(a, b) == 0 < max(a, b) < 1e-5)
        for a, b in pairs
    )


def shows(promised: str, printed: str) -> bool:
    """Return whether a block shows what was printed; a line of three dots means any number of lines."""
    shown = [line.rstrip() for line in promised.strip().splitlines()]
    lines = [line.rstrip() for line in printed.strip().splitlines()]

    def rest(place: int, line: int) -> bool:
        if place == len(shown):
            return line == len(lines)
        if shown[place].strip() == "...":
            return any(rest(place + 1, later) for later in range(line, len(lines) + 1))
        return line < len(lines) and agree(shown[place], lines[line]) and rest(place + 1, line + 1)

    return rest(0, 0)


def run_python_blocks(markdown: str, name: str = "page") -> int:
    """Run each python block by itself, and compare its output with the text block that follows.

    Args:
        markdown: The page.
        name: The name of the file in tracebacks.
    """
    blocks = fenced_blocks(markdown)
    for block, following in zip_longest(blocks, blocks[1:]):
        if block.language != "python":
            continue
        namespace: dict[str, Any] = {"__name__": "page"}
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, name, "exec")  # errors then name the page's line
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if following is not None and following.language == "text":
            assert shows(following.text, printed.getvalue()), f"{name}:{block.line} prints\n{printed.getvalue()}"
    return sum(block.language == "python" for block in blocks)
