"""Test that errors about hostile folders are printable, on one line, and never those of another library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from maskpool.encoder import Encoder, TokenStates
from maskpool.encoder.states_file import Layout
from maskpool.errors import FolderError, MaskpoolError, WeightsError
from maskpool.integrations.sentence_transformers import Pooling, load
from maskpool.integrations.sklearn import SentenceEncoder
from tests.command import run
from tests.security.bases import BASES, TEXTS


def _copy(bases: Path, name: str, folder: Path) -> Path:
    assert name in BASES
    shutil.copytree(bases / name, folder)
    return folder


def _set(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_control_characters_of_a_folder_are_escaped(bases: Path, tmp_path: Path) -> None:
    """Terminal codes and line breaks in keys are escaped in errors, also by the command."""
    folder = _copy(bases, "model", tmp_path / "model")
    _set(folder / "sentence_bert_config.json", **{"a\x1b]0;title\x07\nnext line": 1})
    with pytest.raises(FolderError) as caught:
        load(str(folder), device="cpu")
    assert str(caught.value).isprintable()
    _set(folder / "config.json", **{"b\x1b[31m\n": float("nan")})
    ran = run("audit", folder)
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert line.isprintable()


def test_messages_are_short_and_printable() -> None:
    """Long words are cut in the middle and lone surrogates are escaped, also in subclasses."""
    assert str(FolderError("a/" + "b" * 5000 + "/c must be")) == "a/" + "b" * 198 + "…" + "b" * 98 + "/c must be"
    assert str(WeightsError("\ud800 and \x00")) == r"\ud800 and \x00"


def test_a_long_path_of_a_module_is_shortened(bases: Path, tmp_path: Path) -> None:
    """A path of thousands of letters gives a short message."""
    folder = _copy(bases, "model", tmp_path / "model")
    path = folder / "modules.json"
    path.write_text(path.read_text().replace('"1_Pooling"', json.dumps("p" * 5000)))
    with pytest.raises(MaskpoolError) as caught:
        load(str(folder), device="cpu")
    assert len(str(caught.value)) < 1000


def test_flags_of_a_pooling_must_be_booleans(bases: Path, tmp_path: Path) -> None:
    """The string "no" is refused instead of being read as true."""
    folder = _copy(bases, "head", tmp_path / "head")
    _set(folder / "config.json", include_special_tokens="no")
    with pytest.raises(FolderError, match="include_special_tokens true or false"):
        Pooling.load(str(folder), local_files_only=True)


def test_states_without_a_width_are_refused(tmp_path: Path) -> None:
    """A file of token states with width 0 is refused."""
    layout = Layout(1, 0, 0, torch.float32, {}, 1)
    (tmp_path / "states.safetensors").write_bytes(layout.header.ljust(layout.size, b"\0"))
    with pytest.raises(FolderError, match=r"states\.safetensors"):
        TokenStates.open(tmp_path / "states.safetensors")


def test_a_panic_of_a_tokenizer_is_a_folder_error(bases: Path, tmp_path: Path) -> None:
    """A pattern that fails only on a later text raises a FolderError and does not end the process."""
    folder = _copy(bases, "plain", tmp_path / "plain")
    step = {"type": "Replace", "pattern": {"Regex": r"(\w|\s|.)+(\w|\s|.)+(\w|\s|.)+\z[^\S\s]"}, "content": ""}
    _set(folder / "tokenizer.json", normalizer=step)
    encoder = Encoder.load(str(folder))
    texts = ["a text of many words that never ends in a match " * 20]
    with pytest.raises(FolderError, match="must be able to read all texts"):
        encoder.tokenize(texts)
    with pytest.raises(FolderError, match="can read all texts"):
        SentenceEncoder(str(folder), device="cpu").fit_transform(texts)


@pytest.mark.parametrize("name", ["static"])
def test_models_without_a_pooling_are_named(name: str, bases: Path) -> None:
    """An encoder that replaces poolings names a folder without a pooling."""
    with pytest.raises(FolderError, match="one pooling module, got none in") as caught:
        SentenceEncoder(str(bases / name), device="cpu").fit(TEXTS)
    assert isinstance(caught.value, ValueError)
    assert str(bases / name) in str(caught.value)
