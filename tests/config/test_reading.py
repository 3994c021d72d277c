"""What the files of a model say that it computes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as host

from maskpool.config.reading import read_config
from maskpool.config.statement import EmbeddingConfig
from maskpool.integrations.sentence_transformers import Pooling
from tests.bench import tiny
from tests.command import assert_refused, run
from tests.config.folders import LENGTH, MODES, POSITIONS, write, write_model


def edit(path: Path, **fields: Any) -> None:
    write(path, json.loads(path.read_text("utf-8")) | fields)


@pytest.mark.parametrize("layout", ["old", "new", "ours"])
@pytest.mark.parametrize("mode", MODES)
def test_pooling_is_read_from_every_layout(tmp_path: Path, layout: str, mode: str) -> None:
    """Files of every version state the same pooling, normalization and length."""
    config = read_config(write_model(tmp_path, layout, mode, normalize=True))
    assert config.pooling.value == (mode,)
    assert config.pooling.source.startswith("1_Pooling/config.json: pooling_mode")
    assert config.normalize.value is True
    assert config.max_length.value == LENGTH
    assert config.layer.value == "last_hidden_state"
    words = {"old": "sentence-transformers <= 5.3", "new": "sentence-transformers >= 5.4", "ours": "maskpool"}
    assert config.layout == words[layout]


def facts_of(model: SentenceTransformer) -> dict[str, Any]:
    """Return what the opened model computes, by the attributes of its modules."""
    pooling = next(module for module in model if isinstance(module, host.Pooling))
    return {
        "pooling": (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else tuple(pooling.pooling_mode),
        "include_prompt": pooling.include_prompt,
        "include_special_tokens": getattr(pooling, "include_special_tokens", True),
        "normalize": isinstance(list(model)[-1], host.Normalize),
        "prompts": {name: text for name, text in model.prompts.items() if text},
        "default_prompt": model.prompts.get(model.default_prompt_name or "", ""),
        "truncate_dim": model.truncate_dim,
        "max_length": model.max_seq_length,
        "padding_side": model.tokenizer.padding_side,
    }


def stated(config: EmbeddingConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {name: getattr(config, name).value for name in _NAMES}
    return facts | {"prompts": {name: text for name, text in facts["prompts"].items() if text}}


_NAMES = (
    *("pooling", "include_prompt", "include_special_tokens", "normalize", "prompts", "default_prompt"),
    *("truncate_dim", "max_length", "padding_side"),
)
_MODULES: list[list[Any]] = [
    [host.Pooling(32, "cls"), host.Normalize()],
    [host.Pooling(32, ("mean", "max"), include_prompt=False)],
    [Pooling(32, "lasttoken", include_special_tokens=False), host.Dense(32, 4), host.Normalize()],
]


@pytest.mark.parametrize("modules", _MODULES, ids=["cls", "two modes", "ours"])
def test_statement_equals_the_opened_model(tmp_path: Path, modules: list[Any]) -> None:
    """The facts that are read from a saved model are those of the model that the installed host opens."""
    transformer = host.Transformer(str(tiny.save_model(tmp_path / "plain")))
    saved = SentenceTransformer(
        modules=[transformer, *modules],
        device="cpu",
        prompts={"query": "find: ", "document": ""},
        default_prompt_name="query",
        truncate_dim=3,
    )
    saved.max_seq_length = 17
    saved.tokenizer.padding_side = "left"
    saved.save(str(tmp_path / "saved"))
    opened = SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert stated(read_config(tmp_path / "saved")) == facts_of(opened)


def test_length_is_the_shorter_of_tokenizer_and_positions(tmp_path: Path) -> None:
    """Without max_seq_length, texts are cut to the tokenizer's length or the model's positions, whichever is less."""
    write_model(tmp_path)
    edit(tmp_path / "tokenizer_config.json", model_max_length=1000000000000000019884624838656)
    config = read_config(tmp_path)
    assert (config.max_length.value, config.max_length.source) == (
        POSITIONS,
        "config.json: max_position_embeddings",
    )


def test_layers_behind_the_pooling_are_listed(tmp_path: Path) -> None:
    """A Dense layer behind the pooling is listed with its widths; vectors have unit length if Normalize comes last."""
    config = read_config(write_model(tmp_path, dense=True, normalize=True))
    assert config.dense.value == ("Dense 8 -> 4 Tanh (2_Dense)",)
    assert config.normalize.value is True
    assert read_config(write_model(tmp_path / "dense", dense=True)).normalize.value is False


def test_a_prompt_is_quoted_and_normalization_is_not_a_length(tmp_path: Path) -> None:
    """A default prompt is shown with its blanks; cut vectors of a normalized model are not said to have length 1."""
    prompt = {"prompts": {"query": "find: "}, "default_prompt_name": "query", "truncate_dim": 4}
    shown = str(read_config(write_model(tmp_path, normalize=True, config_sentence_transformers=prompt)))
    assert re.search(r"^default prompt +'find: ' ", shown, re.MULTILINE)
    assert re.search(r"^normalized +yes ", shown, re.MULTILINE)
    assert "length 1" not in shown


def test_plain_folder_states_no_pooling(tmp_path: Path) -> None:
    """A folder of transformers with ONNX files names no pooling, and its ONNX files are found."""
    write(tmp_path / "config.json", {"model_type": "bert", "max_position_embeddings": POSITIONS})
    write(tmp_path / "onnx" / "model.onnx", "")
    config = read_config(tmp_path)
    assert config.pooling.value is None
    assert config.max_length.value == POSITIONS
    assert config.files.onnx == ("onnx/model.onnx",)


def test_every_fact_is_shown(tmp_path: Path) -> None:
    """`config show` prints each fact with its source, and the same as JSON."""
    write_model(tmp_path, "old", "cls", config_sentence_transformers={"prompts": {"query": "find: "}})
    shown = run("config", "show", tmp_path)
    facts = json.loads(run("config", "show", tmp_path, "--json").out)
    assert shown.code == 0
    assert facts["pooling"] == {"value": ["cls"], "from": "1_Pooling/config.json: pooling_mode_*"}
    assert facts["prompts"]["value"] == {"query": "find: "}
    lines = shown.out.splitlines()
    assert len(lines) == len(facts)
    for name, fact in facts.items():
        assert name == "layout" or any(line.endswith(fact["from"]) for line in lines), name


def test_light(tmp_path: Path) -> None:
    """`config show` loads neither torch nor numpy nor transformers."""
    write_model(tmp_path)
    script = f"""
import sys
from maskpool import cli
sys.argv = ["maskpool", "config", "show", {str(tmp_path)!r}]
try: cli.main()
finally: print([name for name in ("torch", "numpy", "transformers", "sentence_transformers") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr
    assert ran.returncode == 0


def _two(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    write(folder / "modules.json", [*modules, modules[1] | {"name": "2"}])


def _foreign(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    write(folder / "modules.json", [modules[0], modules[1] | {"type": "instructor.Pooling"}])


def _without(folder: Path) -> None:
    write(folder / "modules.json", json.loads((folder / "modules.json").read_text("utf-8"))[:1])


def _broken(folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", '{"pooling_mode": ')


def _empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*.json")):
        path.unlink()


def _outside(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    write(folder / "modules.json", [modules[0], modules[1] | {"path": "../elsewhere"}])


BROKEN = {
    "two poolings": (_two, ".*modules.json must name one pooling module, got 2 in Transformer, Pooling, Pooling: .*"),
    "foreign": (_foreign, ".*modules.json must name modules of sentence-transformers or maskpool, got instructor.*"),
    "no pooling": (_without, ".*modules.json must name one pooling module, got none in Transformer: .*"),
    "broken JSON": (_broken, ".*1_Pooling/config.json must be a JSON table: Expecting value.*"),
    "empty": (_empty, "FOLDER must hold a modules.json or a config.json, got none in .*"),
    "outside": (_outside, ".*modules.json must have paths inside the model, got '../elsewhere'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_folders_that_state_no_pooling_are_refused(tmp_path: Path, name: str) -> None:
    """A folder without one known pooling is refused in one sentence that names the file."""
    damage, sentence = BROKEN[name]
    damage(write_model(tmp_path))
    assert_refused(run("config", "show", tmp_path), sentence)


def test_missing_paths_are_refused(tmp_path: Path) -> None:
    """A path that does not exist is refused."""
    for name in ("no", "no.gguf"):
        sentence = rf"FOLDER must be the folder of a model, or a GGUF file, got .*{name}, which does not exist"
        for arguments in (["show", tmp_path / name], ["convert", tmp_path / name, tmp_path / "out", "--for", "vllm"]):
            assert_refused(run("config", *arguments), sentence)
