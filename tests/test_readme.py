"""The code and numbers of the README are correct."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from maskpool.encoder import Encoder
from tests.blocks import fenced_blocks, run_python_blocks
from tests.command import run

README = Path(__file__).parent.parent / "README.md"
MOST_LINES = 150


@pytest.mark.full  # runs the README, as .ci/docs does
def test_python_blocks_print_the_documented_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every python block runs when it is copied without the others, and prints the text block that follows."""
    monkeypatch.chdir(tmp_path)
    assert run_python_blocks(README.read_text(encoding="utf-8"), "README.md") > 0


def mean_pooling(model_output: Any, attention_mask: torch.Tensor) -> torch.Tensor:
    """Pool as model cards do."""
    weights = attention_mask.unsqueeze(-1).float()
    states: torch.Tensor = model_output[0]
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def test_it_is_short() -> None:
    """The README is read in a few minutes."""
    assert README.read_text(encoding="utf-8").count("\n") <= MOST_LINES


@pytest.mark.full  # runs the README, as .ci/docs does
def test_the_function_of_model_cards_is_replaced(tmp_path: Path) -> None:
    """The added lines of the diff give the vectors of the function that model cards define."""
    encoder = Encoder.load()
    encoded_input = encoder.tokenizer(["a text", "another text, which is longer"], padding=True, return_tensors="pt")
    with torch.no_grad():
        model_output = encoder.model(**encoded_input)
    (diff,) = (block.text for block in fenced_blocks(README.read_text(encoding="utf-8")) if block.language == "diff")
    names = {"encoded_input": encoded_input, "model_output": model_output, "mean_pooling": mean_pooling}
    vectors = []
    for sign in "-+":
        exec("\n".join(line[1:] for line in diff.splitlines() if line.startswith(sign)), names)
        vectors.append(names["sentence_embeddings"])
    torch.testing.assert_close(*vectors, atol=1e-6, rtol=0)


def test_set_up_commands() -> None:
    """There are exactly two set-up commands, each complete in one line."""
    blocks = [block.text for block in fenced_blocks(README.read_text(encoding="utf-8")) if block.language == "bash"]
    assert [text for text in blocks if "pip install" in text] == [
        'pip install -c constraints.txt ".[bench]" && maskpool bench\n',
        'pip install -c constraints.txt -e ".[dev,mteb,onnx,peers,ray]" && pytest\n',
    ]


def test_first_line_is_one_sentence() -> None:
    """The first line after the title describes the package in one sentence."""
    title, first, after = re.sub(r"\n\n+", "\n\n", README.read_text(encoding="utf-8")).split("\n\n")[:3]
    assert title.startswith("# ")
    assert after
    assert re.fullmatch(r"[A-Z].*\.", first), "one line, ending in a full stop"
    assert not re.search(r"[.!?]\s", first), "one sentence"


def commands() -> list[list[str]]:
    """Return the arguments of each ``maskpool embed`` of the README."""
    blocks = [block.text for block in fenced_blocks(README.read_text(encoding="utf-8")) if block.language == "bash"]
    lines = [line for text in blocks for line in text.splitlines() if line.startswith("maskpool embed")]
    return [line.partition(" #")[0].split()[1:] for line in lines]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_embedding_commands(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command that embeds runs on a folder of texts when it is copied, if what it needs is installed."""
    if "ray" in arguments:
        pytest.importorskip("ray", reason='needs pip install "maskpool[ray]"')
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"text": "A cat sits."}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ran = run(*arguments)
    assert ran.code == 0, ran.err
    assert len(list((tmp_path / "vectors").glob("part-*.parquet"))) == 1
