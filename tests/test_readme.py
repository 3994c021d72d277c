"""The code and numbers of the README are correct."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from benchmarks.readme import rewritten

README = Path(__file__).parent.parent / "README.md"


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


def run_python_blocks(markdown: str) -> int:
    """Run the python blocks in order, in one namespace, and compare each output with the text block that follows."""
    blocks = fenced_blocks(markdown)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block, following in zip_longest(blocks, blocks[1:]):
        if block.language != "python":
            continue
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, str(README), "exec")  # errors then name the README's line
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if following is not None and following.language == "text":
            got, promised = printed.getvalue().strip().splitlines(), following.text.strip().splitlines()
            assert [line.rstrip() for line in got] == [line.rstrip() for line in promised]
    return sum(block.language == "python" for block in blocks)


@pytest.mark.full  # runs the README, as .ci/docs does
def test_python_blocks_print_the_documented_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every python block runs unchanged, after those above it, and prints the text block that follows."""
    monkeypatch.chdir(tmp_path)
    assert run_python_blocks(README.read_text(encoding="utf-8")) > 0


def test_numbers_match_the_results() -> None:
    """The README's tables match the committed results."""
    text = README.read_text(encoding="utf-8")
    assert rewritten(text) == text


def test_set_up_commands() -> None:
    """There are exactly two set-up commands, each complete in one line."""
    blocks = [block.text for block in fenced_blocks(README.read_text(encoding="utf-8")) if block.language == "bash"]
    assert [text for text in blocks if "pip install" in text] == [
        'pip install -c constraints.txt ".[bench]" && maskpool bench\n',
        'pip install -c constraints.txt -e ".[dev,mteb,onnx,peers]" && pytest\n',
    ]


def test_first_line_is_one_sentence() -> None:
    """The first line after the title describes the package in one sentence."""
    title, first, after = re.sub(r"\n\n+", "\n\n", README.read_text(encoding="utf-8")).split("\n\n")[:3]
    assert title.startswith("# ")
    assert after
    assert re.fullmatch(r"[A-Z].*\.", first), "one line, ending in a full stop"
    assert not re.search(r"[.!?]\s", first), "one sentence"


def test_wrong_output_is_detected() -> None:
    """A block that fails or prints another text than promised fails the check."""
    kept = "# T\n\n```python\nx = 1\n```\n\n```python\nprint(x)\n```\n\nprints\n\n```text\n1\n```\n"
    assert run_python_blocks(kept) == 2
    with pytest.raises(AssertionError):
        run_python_blocks(kept.replace("x = 1", "x = 2"))
    with pytest.raises(NameError):
        run_python_blocks(kept.replace("x = 1", "y = 1"))
