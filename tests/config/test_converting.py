"""Files that servers read right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as host

from maskpool.config.converting import convert
from maskpool.config.reading import read_config
from maskpool.config.servers.checking import check_servers
from maskpool.config.servers.rows import Verdict
from maskpool.errors import ExistsError, InvalidValueError
from maskpool.integrations.sentence_transformers import Pooling
from maskpool.nn import MedianPooling
from tests.bench import tiny
from tests.command import assert_refused, content, run
from tests.config.folders import MODES, OLD_TYPES, write, write_model

TEXTS = ["w1 w2 w3 red1", "w4", "blue2 blue3 w1 w7 w8", " ".join(f"w{number % 30}" for number in range(40))]
PROMPTS = {"prompts": {"query": "w1 w2 "}, "default_prompt_name": "query"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("plain"))


def save(folder: Path, plain: Path, *modules: Any, **settings: Any) -> Path:
    model = SentenceTransformer(modules=[host.Transformer(str(plain)), *modules], device="cpu", **settings)
    model.max_seq_length = 24
    model.save(str(folder))
    return folder


def vectors(folder: Path, **given: Any) -> Any:
    return SentenceTransformer(str(folder), device="cpu", **given).encode(TEXTS)


@pytest.mark.parametrize("mode", [*MODES, ("cls", "mean")])
def test_vectors_are_the_same_bit_for_bit(tmp_path: Path, plain: Path, mode: Any) -> None:
    """The converted model opens in the installed host and gives the same vectors, of short and of cut texts."""
    modules = [
        host.Pooling(32, mode, include_prompt=False),
        host.Dense(32 * (len(mode) if mode not in MODES else 1), 5),
    ]
    folder = save(tmp_path / "new", plain, *modules, host.Normalize(), **PROMPTS)
    convert(folder, tmp_path / "out", "sentence-transformers")
    assert np.array_equal(vectors(folder), vectors(tmp_path / "out"))


def test_files_are_those_of_version_5_3(tmp_path: Path) -> None:
    """The converted files have the keys and class paths of 5.3, and servers compute the same from them."""
    folder = write_model(tmp_path / "new", "new", "cls", normalize=True)
    write(folder / "tokenizer_config.json", {"model_max_length": 64})
    before = content(folder)
    for name in ("text-embeddings-inference", "vllm", "infinity", "txtai", "sentence-transformers"):
        out = tmp_path / name
        assert convert(folder, out, name).changed == (
            "modules.json",
            "1_Pooling/config.json",
            "sentence_bert_config.json",
        )
        old = write_model(tmp_path / "old", "old", "cls", normalize=True)
        for file in ("modules.json", "sentence_bert_config.json"):
            assert json.loads((out / file).read_text("utf-8")) == json.loads((old / file).read_text("utf-8"))
        pooling = json.loads((out / "1_Pooling" / "config.json").read_text("utf-8"))
        assert pooling.pop("include_prompt") is True
        assert pooling == json.loads((old / "1_Pooling" / "config.json").read_text("utf-8"))
        assert check_servers(read_config(out), [name])[0].verdict is Verdict.SAME
    assert content(folder) == before


def test_all_readers_get_the_same_length(tmp_path: Path) -> None:
    """The length of the model is written where other readers look for it."""
    folder = write_model(tmp_path / "old", "old", normalize=True)
    write(folder / "tokenizer_config.json", {"model_max_length": 512, "padding_side": "right"})
    assert check_servers(read_config(folder), ["txtai"])[0].verdict is Verdict.DIFFERENT
    assert convert(folder, tmp_path / "out", "txtai").changed[-1] == "tokenizer_config.json"
    assert check_servers(read_config(tmp_path / "out"), ["txtai"])[0].verdict is Verdict.SAME


def test_a_pooling_in_another_folder_is_moved(tmp_path: Path) -> None:
    """Readers that open only 1_Pooling find the pooling there."""
    folder = write_model(tmp_path / "new", normalize=True)
    (folder / "1_Pooling").rename(folder / "pool")
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules[1]["path"] = "pool"
    write(folder / "modules.json", modules)
    convert(folder, tmp_path / "out", "text-embeddings-inference")
    assert not (tmp_path / "out" / "pool").exists()
    assert check_servers(read_config(tmp_path / "out"), ["text-embeddings-inference"])[0].verdict is Verdict.SAME


def test_poolings_of_maskpool_become_the_hosts(tmp_path: Path, plain: Path) -> None:
    """A pooling of maskpool that the host has too opens by path without maskpool's class, requirement or notice."""
    folder = save(tmp_path / "ours", plain, Pooling(32, "mean"), host.Normalize())
    convert(folder, tmp_path / "out", "sentence-transformers")
    types = [entry["type"] for entry in json.loads((tmp_path / "out" / "modules.json").read_text("utf-8"))]
    assert types == [OLD_TYPES["Transformer"], OLD_TYPES["Pooling"], OLD_TYPES["Normalize"]]
    np.testing.assert_allclose(vectors(tmp_path / "out"), vectors(folder, trust_remote_code=True), atol=1e-6)
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text("utf-8"))
    assert settings["requirements"] == {}
    assert "maskpool" in (folder / "README.md").read_text("utf-8")
    assert "maskpool" not in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_the_converter_of_gguf_files_is_named(tmp_path: Path) -> None:
    """For llama.cpp, the command of its converter is printed, with the pooling type that it writes."""
    ran = run(
        "config", "convert", write_model(tmp_path / "new", mode="lasttoken"), tmp_path / "out", "--for", "llama.cpp"
    )
    assert ran.code == 0
    out = tmp_path / "out"
    assert ran.out.splitlines()[0].startswith(f"Written to {out}; changed: modules.json, ")
    assert f"note: python convert_hf_to_gguf.py {out} --outfile {out}.gguf writes pooling_type 3" in ran.out


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "max in llama.cpp": ("new", {"mode": "max"}, "llama.cpp", "llama.cpp can express: pooling: the converter stops"),
    "two in vLLM": ("new", {"mode": ("cls", "mean")}, "vllm", "vLLM can express: pooling: one mode of several"),
    "prompt": ("old", {"include_prompt": False}, "infinity", "infinity can express: prompt tokens: pools the tokens"),
    "layer": ("new", {"dense": True}, "txtai", "txtai can express: layers behind the pooling: drops Dense 8 -> 4"),
    "ours": (
        "ours",
        {"mode": MedianPooling.mode},
        "vllm",
        "servers can read, and it has median pooling, which only maskpool",
    ),
    "special": ("ours", {"include_special_tokens": False}, "vllm", "servers can read, and it has include_special_tok"),
    "option": (
        "ours",
        {"on_empty": "nan"},
        "txtai",
        "servers can read, and it has on_empty='nan', which only",
    ),
    "order": ("new", {"mode": ("mean", "cls")}, "infinity", "servers can read, and it has poolings in another order"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused(tmp_path: Path, name: str) -> None:
    """A model that the server or the layout cannot express is refused with the reason, and nothing is left behind."""
    layout, settings, server, reason = REFUSED[name]
    folder = write_model(tmp_path / "model", layout, normalize=True, **settings)
    with pytest.raises(InvalidValueError, match=reason):
        convert(folder, tmp_path / "out", server)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_settings_that_5_3_does_not_have_are_refused(tmp_path: Path) -> None:
    """A setting without a name in 5.3 is refused unless its value changes nothing."""
    folder = write_model(tmp_path / "model")
    settings = json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))
    write(folder / "sentence_bert_config.json", settings | {"unpad_inputs": True})
    with pytest.raises(InvalidValueError, match=r"it has unpad_inputs=True in sentence_bert_config\.json"):
        convert(folder, tmp_path / "out", "vllm")


def test_paths_and_names_are_refused(tmp_path: Path) -> None:
    """OUT must be new and outside of FOLDER, FOLDER must save a pooling, and the server must be known."""
    folder = write_model(tmp_path / "model")
    write(tmp_path / "plain" / "config.json", {"model_type": "bert"})
    with pytest.raises(ExistsError, match="out must be a new folder"):
        convert(folder, folder, "vllm")
    for arguments, sentence in (
        ((folder, folder / "out", "--for", "vllm"), "OUT must be outside of .*"),
        ((folder, tmp_path / "out", "--for", "ollama"), "--for must be one of .*, got 'ollama'"),
        (
            (tmp_path / "plain", tmp_path / "out", "--for", "vllm"),
            "FOLDER must be a model of .*",
        ),
    ):
        assert_refused(run("config", "convert", *arguments), sentence)
    assert not (tmp_path / "out").exists()
