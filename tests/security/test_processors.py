"""Test that files of processors are vetted, and that transformers never asks whether to run code."""

from __future__ import annotations

import builtins
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor, MarkupLMConfig, MarkupLMModel, dynamic_module_utils

from maskpool.errors import FolderError
from maskpool.integrations.sentence_transformers import load, opening
from maskpool.integrations.sentence_transformers.classes import CLASSES
from maskpool.trust import Folder, check_modules, no_questions
from tests.hosts import needs
from tests.security import bases as saved
from tests.security.bases import DIM, WORDS
from tests.security.entrances import ENTRANCES

_OPENERS = ("load", "SentenceEncoder", "Encoder.load", "audit")


@pytest.fixture(scope="module")
def markup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model whose architecture has a processor, which transformers chooses by model_type."""
    folder = tmp_path_factory.mktemp("markup") / "model"
    saved.model(folder)
    sizes: dict[str, Any] = {"hidden_size": DIM, "num_hidden_layers": 1, "num_attention_heads": 2}
    more: dict[str, Any] = {"intermediate_size": 16, "xpath_unit_hidden_size": 8, "max_depth": 5}
    config = MarkupLMConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes, **more)
    MarkupLMModel(config).save_pretrained(folder)
    return folder


def _set(path: Path, **fields: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **fields}))


def _code(folder: Path) -> Path:
    """Write code that creates a canary file when it runs, and return the path of the canary."""
    canary = folder.parent / "canary"
    folder.mkdir(exist_ok=True)
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Evil:\n    pass\n")
    return canary


def _auto_map(folder: Path) -> None:
    _set(folder / "config.json", auto_map={"AutoFeatureExtractor": "evil.Evil"})
    _set(folder / "preprocessor_config.json", a=1)


def _extractor_type(folder: Path) -> None:
    _set(folder / "config.json", auto_map={"AutoModelForSpeechSeq2Seq": "evil.Evil"})
    _set(folder / "preprocessor_config.json", feature_extractor_type="AutoModelForSpeechSeq2Seq")


def _image_type(folder: Path) -> None:
    _set(folder / "processor_config.json", image_processor={"image_processor_type": "AutoModel"})


def _video_type(folder: Path) -> None:
    _set(folder / "video_preprocessor_config.json", video_processor_type="pipeline")


def _type_in_config(folder: Path) -> None:
    _set(folder / "config.json", feature_extractor_type="AutoModel")


def _inner_tokenizer(folder: Path) -> None:
    inner = folder / "qformer_tokenizer"
    _set(inner / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    _code(inner)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "auto_map of a feature extractor": (_auto_map, "auto_map.AutoFeatureExtractor"),
    "feature_extractor_type": (_extractor_type, "feature_extractor_type"),
    "image_processor_type": (_image_type, "image_processor.image_processor_type"),
    "video_processor_type": (_video_type, "video_processor_type"),
    "type in config.json": (_type_in_config, "feature_extractor_type"),
    "auto_map in a tokenizer's folder": (_inner_tokenizer, "auto_map"),
    "processor of other models": (
        lambda folder: _set(folder / "processor_config.json", processor_class="MgpstrProcessor"),
        "processor_class",
    ),
    "model type of such a processor": (
        lambda folder: _set(folder / "config.json", model_type="mgp-str"),
        "model_type",
    ),
    "file of a processor": (
        lambda folder: _set(folder / "processor_config.json", image_processor={"class_info_file": "x.json"}),
        "image_processor.class_info_file",
    ),
    "repository of a processor": (
        lambda folder: _set(folder / "preprocessor_config.json", repo_path="some/where"),
        "repo_path",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_processors_run_and_read_nothing(
    name: str, markup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every entrance refuses the hostile fields of a processor's files and does not ask."""
    change, field = HOSTILE[name]
    folder = tmp_path / "model"
    shutil.copytree(markup, folder)
    canary = _code(folder)
    change(folder)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asked on the terminal"))
    for entrance in _OPENERS:
        with pytest.raises(FolderError) as caught:
            ENTRANCES[entrance](str(folder))
        assert field in str(caught.value), entrance
        assert str(folder) in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        lambda folder: _set(folder / "config.json", auto_map={"AutoConfig": "a.B", "AutoModelForMaskedLM": "a.C"}),
        lambda folder: _set(
            folder / "preprocessor_config.json", feature_extractor_type="MarkupLMFeatureExtractor", name_or_path="x"
        ),
    ],
)
def test_clean_processors_open(change: Callable[[Path], None], markup: Path, tmp_path: Path) -> None:
    """The same fields with harmless values are accepted."""
    folder = tmp_path / "model"
    shutil.copytree(markup, folder)
    _set(folder / "preprocessor_config.json", feature_extractor_type="MarkupLMFeatureExtractor")
    change(folder)
    check_modules(Folder(folder), CLASSES)


def test_opening_does_not_ask_even_without_vetting(
    markup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader refuses a hostile file that vetting overlooks, without asking."""
    folder = tmp_path / "model"
    shutil.copytree(markup, folder)
    canary = _code(folder)
    entries = check_modules(Folder(folder), CLASSES)
    _auto_map(folder)
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    monkeypatch.setattr(opening, "check_modules", lambda *_, **__: entries)
    with pytest.raises(FolderError):
        load(str(folder), device="cpu")
    assert not canary.exists()


@needs("transformers", "5.23", "older versions need another package for this kind of model")
def test_transformers_would_ask(markup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the context, transformers asks about this folder, although the caller does not trust code."""
    folder = tmp_path / "model"
    shutil.copytree(markup, folder)
    _code(folder)
    _auto_map(folder)
    questions: list[object] = []

    def answer(*question: object) -> str:
        questions.append(question)
        return "n"

    monkeypatch.setattr(builtins, "input", answer)
    opening: Any = AutoProcessor.from_pretrained  # untyped
    with pytest.raises(ValueError, match="trust_remote_code"):
        opening(str(folder), trust_remote_code=False, local_files_only=True)
    assert questions
    questions.clear()
    with no_questions(), pytest.raises(ValueError, match="execute custom code"):
        opening(str(folder), trust_remote_code=False, local_files_only=True)
    assert not questions


def test_questions_are_allowed_again_after_the_last_opening() -> None:
    """The setting of transformers is restored, even after errors and with overlapping threads."""
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    assert before > 0
    inside, leave = threading.Event(), threading.Event()

    def opening() -> None:
        with no_questions():
            inside.set()
            leave.wait(10)

    def failing() -> None:
        with no_questions():
            thread.start()
            assert inside.wait(10)
            raise KeyError

    thread = threading.Thread(target=opening)
    with pytest.raises(KeyError):
        failing()
    assert dynamic_module_utils.TIME_OUT_REMOTE_CODE == 0, "the thread still opens a folder"
    leave.set()
    thread.join()
    assert before == dynamic_module_utils.TIME_OUT_REMOTE_CODE
