"""Test that small files cannot demand much memory or time, and that unusable tokenizers are refused on opening."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskpool.errors import FolderError
from maskpool.trust import Folder, check_transformer
from tests.security.bases import at_most
from tests.security.entrances import ENTRANCES

_SECONDS = 20


def _config(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def _tokenizer(alter: Callable[[Any], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        alter(content)
        path.write_text(json.dumps(content))

    return change


def _replace(content: Any) -> None:
    steps = [{"type": "Replace", "pattern": {"String": letter}, "content": "a" * 40} for letter in "ae"]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}


def _prepend(content: Any) -> None:
    content["normalizer"] = {"type": "Prepend", "prepend": "a " * 1000}


def _template(content: Any) -> None:
    content["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [2] * 1000


def _second_sequence(content: Any) -> None:
    content["post_processor"]["single"] = [{"Sequence": {"id": "B", "type_id": 0}}]


def _large_id(content: Any) -> None:
    content["model"]["vocab"]["w1"] = 10**6


def _no_unknown(content: Any) -> None:
    content["model"]["unk_token"] = "nope"


def _no_model(content: Any) -> None:
    content["model"] = None


def _bad_pattern(content: Any) -> None:
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(("},
        "behavior": "Isolated",
        "invert": False,
    }


def _bad_table(content: Any) -> None:
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "////"}


_ALBERT = {"model_type": "albert", "num_hidden_groups": 1}
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "labels": (_config(num_labels=1 << 30, id2label=None, label2id=None), "num_labels"),
    "inner groups": (_config(**_ALBERT, inner_group_num=1 << 31), "inner_group_num"),
    "feed-forward networks": (
        _config(model_type="mobilebert", num_feedforward_networks=1 << 30),
        "num_feedforward_networks",
    ),
    "list of blocks": (_config(model_type="funnel", block_sizes=[1 << 30]), "block_sizes"),
    "list of depths": (_config(model_type="swin", depths=[1 << 30], num_heads=[1]), "depths"),
    "list of layers": (_config(layer_types=["x"] * 10**5), "layer_types"),
    "positions": (_config(max_position_embeddings=1 << 24), "config.json"),
    "giant": (_config(hidden_size=1 << 14, intermediate_size=1 << 16), "config.json"),
    "chunks": (_config(chunk_size_feed_forward=1 << 30), "chunk_size_feed_forward"),
    "replacements": (_tokenizer(_replace), "normalizer"),
    "a long prefix": (_tokenizer(_prepend), "normalizer"),
    "a long template": (_tokenizer(_template), "post_processor"),
    "a template of two texts": (_tokenizer(_second_sequence), "tokenizer.json"),
    "a large id": (_tokenizer(_large_id), "'w1'"),
    "no unknown token": (_tokenizer(_no_unknown), "tokenizer.json"),
    "no vocabulary": (_tokenizer(_no_model), "tokenizer.json"),
    "a table of characters that is not one": (_tokenizer(_bad_table), "tokenizer.json"),
    "a pattern that is not one": (_tokenizer(_bad_pattern), "tokenizer.json"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_models_that_demand_too_much_are_refused(name: str, bases: Path, tmp_path: Path) -> None:
    """A small model that would take much memory or time, or fail later, is refused, and the error names the field."""
    change, words = HOSTILE[name]
    for entrance, base in (("Encoder.load", "plain"), ("load", "model"), ("SentenceEncoder", "plain")):
        folder = tmp_path / entrance
        shutil.copytree(bases / base, folder)
        change(folder)
        with at_most(_SECONDS), pytest.raises(FolderError) as caught:
            ENTRANCES[entrance](str(folder))
        assert words in str(caught.value), entrance
        assert str(folder) in str(caught.value), entrance


def test_static_embeddings_have_a_vector_for_each_token(bases: Path, tmp_path: Path) -> None:
    """A token id beyond the table of a static embedding is refused."""
    folder = tmp_path / "static"
    shutil.copytree(bases / "static", folder)
    path = next(folder.rglob("tokenizer.json"))
    _tokenizer(_large_id)(path.parent)
    with pytest.raises(FolderError, match=r"tokenizer\.json must have ids of tokens below 32"):
        ENTRANCES["load"](str(folder))


def test_usual_steps_of_tokenizers_are_accepted(bases: Path, tmp_path: Path) -> None:
    """Short prefixes and replacements of published tokenizers, and long lists of labels, are accepted."""
    folder = tmp_path / "plain"
    shutil.copytree(bases / "plain", folder)
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"Regex": "''"}, "content": '"'},
    ]
    _tokenizer(lambda content: content.update(normalizer={"type": "Sequence", "normalizers": steps}))(folder)
    _config(id2label={str(number): f"label {number}" for number in range(5000)}, suppress_tokens=[1] * 100)(folder)
    check_transformer(Folder(folder))


def test_added_tokens_without_an_embedding_are_ignored(bases: Path, tmp_path: Path) -> None:
    """An added token without an embedding is accepted if the tokenizer does not put it into texts."""
    folder = tmp_path / "plain"
    shutil.copytree(bases / "plain", folder)
    token = {"id": 32, "content": "<|end|>", "special": True, "normalized": False}
    more = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    _tokenizer(lambda content: content["added_tokens"].append(token | more))(folder)
    ENTRANCES["Encoder.load"](str(folder))
