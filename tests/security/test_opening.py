"""Test that models of all layouts and ages open, and that errors name malformed files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from maskpool.encoder import Encoder
from maskpool.errors import DeviceError, FolderError, MaskpoolError, NotFoundError, RequirementError
from maskpool.integrations import is_older
from maskpool.integrations.sentence_transformers import Pooling, load, load_plain
from maskpool.integrations.sklearn import SentenceEncoder
from tests.hosts import except_on_older
from tests.security.bases import TEXTS, host_vectors
from tests.security.hostile import merge

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OUTSIDE = Path("/nowhere")


@pytest.fixture
def model(bases: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bases / "model", tmp_path / "model"))


def _cached(source: Path, cache: Path) -> Path:
    """Make the hub's cache of a repository me/model, whose snapshot links to files in blobs."""
    repository = cache / "models--me--model"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"{number:040}"
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(link.relative_to(repository).parts) - 1), "blobs", blob.name))
    return snapshot


_TRANSFORMERS = ("transformers", "5.23", "older versions refuse it with another message, or do not open it")
_HOST = ("sentence-transformers", "6.2", "older hosts cannot tokenize for it, which is refused")


@pytest.mark.parametrize(
    "base", except_on_older(["model", "learned", "router", "words", "wrapped", "static"], {"wrapped": _HOST})
)
def test_both_layouts_give_the_hosts_vectors(base: str, bases: Path, tmp_path: Path) -> None:
    """A folder of files and a snapshot in the hub's cache give the host's vectors, by path and by name."""
    expected = host_vectors(bases / base)
    snapshot = _cached(bases / base, tmp_path)
    by_path = load(bases / base, device="cpu").encode(TEXTS)
    by_snapshot = load(snapshot, device="cpu").encode(TEXTS)
    by_name = load("me/model", device="cpu", cache_folder=str(tmp_path), local_files_only=True).encode(TEXTS)
    for vectors in (by_path, by_snapshot, by_name):
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_hosts_too_old_for_word_embeddings_are_refused(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For word embeddings with a transformers tokenizer, an error names the host's version that is needed."""
    if not is_older("sentence-transformers", "6.2"):
        monkeypatch.setattr("maskpool.integrations.st_host.is_older", lambda *_: True)
    expected = r"sentence-transformers>=6\.2 is needed to tokenize texts for the word embeddings in \S*wrapped"
    with pytest.raises(RequirementError, match=expected):
        load(bases / "wrapped", device="cpu")
    load(bases / "words", device="cpu").encode(TEXTS)


def test_an_encoder_by_its_name_in_the_cache(bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder.load and SentenceEncoder find a name in the hub's cache."""
    _cached(bases / "plain", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    by_name, by_path = Encoder.load("me/model"), Encoder.load(str(bases / "plain"))
    ids, _ = by_path.tokenize(TEXTS)
    assert torch.equal(by_name.states(ids)[0], by_path.states(ids)[0])
    np.testing.assert_allclose(
        SentenceEncoder("me/model", device="cpu").fit_transform(TEXTS),
        SentenceTransformer(str(bases / "plain"), device="cpu").encode(TEXTS),
        atol=1e-6,
    )


@pytest.mark.parametrize("where", ["file", "blobs", "blob"])
def test_a_snapshot_that_leaves_its_repository(where: str, bases: Path, tmp_path: Path) -> None:
    """Links of a snapshot that lead outside the blobs of the same repository are refused."""
    snapshot = _cached(bases / "model", tmp_path / "cache")
    outside = tmp_path / "outside"
    if where == "blobs":
        shutil.move(snapshot.parents[1] / "blobs", outside)
        (snapshot.parents[1] / "blobs").symlink_to(outside)
    else:
        outside.mkdir()
        file = snapshot / "config.json"
        path = file.resolve() if where == "blob" else file
        shutil.copy(file, outside / "config.json")
        path.unlink()
        path.symlink_to(outside / "config.json")
    with pytest.raises(FolderError, match="must stay inside the model's folder"):
        load(snapshot, device="cpu")


def test_a_plain_model_is_opened_as_the_host_opens_it(bases: Path) -> None:
    """A model without modules.json gets mean pooling, and its vectors equal those of the host."""
    opened = load_plain(bases / "plain", device="cpu")
    np.testing.assert_allclose(opened.encode(TEXTS), host_vectors(bases / "plain"), atol=1e-6)


def _legacy(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    for entry in modules:
        entry["type"] = "sentence_transformers.models." + entry["type"].rpartition(".")[2]
    (folder / "modules.json").write_text(json.dumps(modules))
    content = {"max_seq_length": 64, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(content))
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    pooling |= {"pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    shutil.rmtree(folder / "3_Normalize")  # git does not store empty folders, so published models have none


def _pickles(folder: Path) -> None:
    for at in (folder, folder / "2_Dense"):
        torch.save(load_file(at / "model.safetensors"), at / "pytorch_model.bin")
        (at / "model.safetensors").unlink()


JUNK = {
    "name_or_path": "/root/.cache/torch/some-model/",
    "special_tokens_map_file": "/root/.cache/torch/some-model/special_tokens_map.json",
    "tokenizer_file": "/root/.cache/torch/some-model/tokenizer.json",
    "vocab_file": "/root/vocab.txt",
    "do_basic_tokenize": True,
    "never_split": None,
}
OLD: dict[str, Callable[[Path], Any]] = {
    "names, settings and missing folders of old versions": _legacy,
    "pickled weights": _pickles,
    "model_args with a dtype": lambda f: merge("sentence_bert_config.json", {"model_args": {"torch_dtype": "float32"}})(
        f, OUTSIDE
    ),
    "stale paths in tokenizer_config.json": lambda f: merge("tokenizer_config.json", JUNK)(f, OUTSIDE),
    "stale names in config.json": lambda f: merge(
        "config.json", {"_name_or_path": "/root/old", "custom_pipelines": {}, "training_data": "/data/train.tsv"}
    )(f, OUTSIDE),
    "a map to code that transformers has itself": lambda f: merge(
        "config.json", {"auto_map": {"AutoModel": "someone/repo--modeling.Model"}}
    )(f, OUTSIDE),
    "infinite limits and large bases": lambda f: merge(
        "config.json", {"time_step_limit": [0.0, float("inf")], "rope_theta": 10**11}
    )(f, OUTSIDE),
    "weights of a head": lambda f: save_file(
        {**load_file(f / "model.safetensors"), "cls.predictions.bias": torch.zeros(3)},
        f / "model.safetensors",
        {"format": "pt"},
    ),
    "no pooler": lambda f: save_file(
        {name: w for name, w in load_file(f / "model.safetensors").items() if "pooler" not in name},
        f / "model.safetensors",
        {"format": "pt"},
    ),
}


@pytest.mark.parametrize("what", except_on_older(OLD, {"stale paths in tokenizer_config.json": _TRANSFORMERS}))
def test_published_models_keep_opening(what: str, model: Path, bases: Path) -> None:
    """Models with older layouts and the harmless leftovers of published models give the same vectors."""
    OLD[what](model)
    np.testing.assert_allclose(load(model, device="cpu").encode(TEXTS), host_vectors(bases / "model"), atol=1e-6)
    Encoder.load(str(model))


def _without(key: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        weights = {name: w for name, w in load_file(folder / "model.safetensors").items() if key not in name}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return change


def _renamed(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({f"x.{name}": w for name, w in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def _text(file: str, content: str | bytes) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def _set(file: str, **fields: Any) -> Callable[[Path], Any]:
    return lambda folder: merge(file, fields)(folder, OUTSIDE)


def _entry(**changes: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[1] |= changes
        (folder / "modules.json").write_text(json.dumps(modules))

    return change


def _gone(*files: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return change


def _a_folder(file: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return change


def _both(*changes: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        for step in changes:
            step(folder)

    return change


# Each change with the message that both entrances must give, or only `load` for names with a star.
MALFORMED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights of another architecture": (_renamed, "belong to different models"),
    "a missing layer": (_without("layer.1."), r"weights of its model, and \d+ are missing, such as encoder.layer.1"),
    "weights of more layers": (_set("config.json", num_hidden_layers=1), "weights of further layers are left over"),
    "weights of other sizes": (_set("config.json", intermediate_size=20), "its weights have other shapes than its"),
    "too many layers": (_set("config.json", num_hidden_layers=10**9), "config.json must have in num_hidden_layers an"),
    "too many positions": (_set("config.json", max_position_embeddings=10**9), "in max_position_embeddings an integer"),
    "negative layers": (
        _set("config.json", num_hidden_layers=-3),
        "in num_hidden_layers an integer from 0 to 1024, got",
    ),
    "layers of the wrong type": (
        _set("config.json", num_hidden_layers=True),
        "config.json must have in num_hidden_layers a value of type int, got bool: correct",
    ),
    "a pad beyond the vocabulary": (
        _set("config.json", pad_token_id=10**8),
        "config.json must have in pad_token_id the id of a token, less than vocab_size",
    ),
    "more layers than a pickle has weights": (
        _both(_pickles, _set("config.json", num_hidden_layers=1000)),
        "in num_hidden_layers a number of layers that fits the weights, got 1000 for",
    ),
    "a pickle of something else": (
        _both(_pickles, lambda f: torch.save([torch.ones(1)], f / "pytorch_model.bin")),
        "pytorch_model.bin must hold the weights of a model: it holds a list",
    ),
    "a size of the wrong type": (_set("config.json", hidden_size="16"), "hidden_size"),
    "not a number": (_set("config.json", layer_norm_eps=float("nan")), "in layer_norm_eps a number, got nan"),
    "an unknown architecture": (_set("config.json", model_type="nothing"), "nothing"),
    "deep nesting": (_text("config.json", "[" * 100_000), "config.json must be a JSON table: it is nested too deeply"),
    "some nesting": (_text("config.json", '{"a":' * 90 + "1" + "}" * 90), "nested more than 60 levels deep"),
    "no table": (_text("config.json", "[]"), "config.json must be a JSON table: got list"),
    "no UTF-8": (
        _text("tokenizer_config.json", b'{"a": "\xff"}'),
        "tokenizer_config.json must be a JSON table: 'utf-8'",
    ),
    "null": (_text("config.json", "null"), "config.json must be a JSON table: got NoneType"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "must hold a config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "must hold a tokenizer, such as tokenizer.json"),
    "no file of a tokenizer": (
        _gone("tokenizer.json", "tokenizer_config.json"),
        "must hold a tokenizer, such as tokenizer.json",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "must hold weights in model.safetensors"),
    "cut weights": (
        lambda f: _text("model.safetensors", (f / "model.safetensors").read_bytes()[:-9])(f),
        "its header says",
    ),
    "weights that are text": (
        _text("model.safetensors", "weights"),
        "model.safetensors must be a complete safetensors file",
    ),
    "a folder for a file": (
        _a_folder("config.json"),
        "config.json must be a file, got a folder",
    ),
    "a length of the wrong type": (
        _set("tokenizer_config.json", model_max_length="64"),
        "in model_max_length a positive",
    ),
    "an unknown side": (_set("tokenizer_config.json", padding_side="up"), "in padding_side one of 'left', 'right'"),
    "tokens of the wrong type": (
        _set("tokenizer_config.json", added_tokens_decoder=[1]),
        "in added_tokens_decoder a tab",
    ),
    "a length of the host*": (_set("sentence_bert_config.json", max_seq_length=-1), "in max_seq_length an integer"),
    "an unknown field of the host*": (_set("sentence_bert_config.json", surprise=1), "must not set surprise"),
    "no arguments*": (_set("sentence_bert_config.json", model_args=None), "in model_args a table, got None"),
    "a null list of modules*": (_text("modules.json", "null"), "has no modules.json|must be a list of modules"),
    "an empty list of modules*": (_text("modules.json", "[]"), "modules.json must be a list of modules"),
    "an empty name*": (_entry(name=""), "must give each module a name without dots, got ''"),
    "a name twice*": (_entry(name="0"), "two are named '0'"),
    "a path that is a number*": (_entry(path=3), "must give each module a name, a path and a type"),
    "a path to nothing*": (_entry(path="9_Nothing"), "9_Nothing must hold a config.json for its Pooling, got none"),
    "keywords that are not a list*": (_entry(kwargs={"a": 1}), "modules.json must have in kwargs a list of names"),
    "a pooling without a width*": (_text("1_Pooling/config.json", "{}"), "1_Pooling must hold a Pooling"),
    "a pooling with an unknown mode*": (
        _set("1_Pooling/config.json", pooling_mode="none"),
        "1_Pooling must hold a Pooling that can",
    ),
    "a dense layer of other sizes*": (
        _set("2_Dense/config.json", out_features=10**7),
        r"got \(8, 16\) for linear.weight",
    ),
    "a dense layer without sizes*": (_text("2_Dense/config.json", "{}"), "2_Dense/config.json must set in_features"),
    "a huge dense layer*": (_set("2_Dense/config.json", in_features=10**12), "in in_features an integer from 1 to"),
    "prompts of the wrong type*": (
        _set("config_sentence_transformers.json", prompts=[1]),
        "in prompts a table of strings",
    ),
    "a missing prompt*": (
        _set("config_sentence_transformers.json", default_prompt_name="x"),
        "default_prompt_name",
    ),
    "an unknown similarity*": (_set("config_sentence_transformers.json", similarity_fn_name="x"), "similarity_fn_name"),
    "a truncation to nothing*": (_set("config_sentence_transformers.json", truncate_dim=0), "truncate_dim"),
    "modules that do not fit*": (_set("config_sentence_transformers.json", requirements=[1]), "requirements"),
}


@pytest.mark.parametrize(
    "what",
    except_on_older(
        MALFORMED,
        {
            "weights of other sizes": _TRANSFORMERS,
            "layers of the wrong type": _TRANSFORMERS,
            "a size of the wrong type": _TRANSFORMERS,
        },
    ),
)
def test_malformed_models_are_named(what: str, model: Path) -> None:
    """A malformed model is refused, and the error names the file or folder and the field."""
    change, message = MALFORMED[what]
    change(model)
    for entrance in (load, Encoder.load)[: 1 if what.endswith("*") else 2]:
        with pytest.raises(MaskpoolError, match=message) as refused:
            entrance(str(model), device="cpu")
        assert isinstance(refused.value, FolderError | NotFoundError)
        assert str(model) in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta", ""])
def test_unusable_devices_are_refused(device: str, model: Path) -> None:
    """Every entrance refuses a device that torch cannot compute on, and the error names it."""
    for entrance in (load, load_plain, Encoder.load):
        with pytest.raises(
            DeviceError, match=f"device must be one that torch can use here, such as cpu, got '{device}'"
        ):
            entrance(str(model), device=device)
    with pytest.raises(DeviceError, match=f"got '{device}'"):
        SentenceEncoder(str(model), device=device).fit(TEXTS)


def test_requirements_that_are_not_met(model: Path) -> None:
    """A model that needs another version of a package is refused, and the error names the version."""
    merge("config_sentence_transformers.json", {"requirements": {"torch": ">=99"}})(model, OUTSIDE)
    with pytest.raises(RequirementError, match="99"):
        load(model, device="cpu")


def test_missing_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is neither a folder nor on the hub is refused with a FileNotFoundError about the name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "file").write_text("")
    for name in ("no/such-model", str(tmp_path / "nothing"), str(tmp_path / "file"), "a\0b", "", "~/x"):
        for entrance in (load, load_plain, Encoder.load):
            with pytest.raises(NotFoundError, match="name"):
                entrance(name)
        with pytest.raises(MaskpoolError):
            Pooling.load(name)


HEADS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no settings": (lambda f: (f / "config.json").unlink(), "must hold a config.json with the settings of a pooling"),
    "an unknown mode": (_set("config.json", pooling_mode="none"), "config.json must hold the settings of a Pooling"),
    "an unknown option": (_set("config.json", speed=3), "speed"),
    "other sizes": (_set("config.json", num_heads=4), "must hold the weights that its configuration describes"),
    "a huge size": (_set("config.json", hidden_dimension=10**12), "in hidden_dimension a number of at most"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "must hold weights in model.safetensors"),
    "cut weights": (
        lambda f: _text("model.safetensors", (f / "model.safetensors").read_bytes()[:-9])(f),
        "its header says",
    ),
}


@pytest.mark.parametrize("what", HEADS)
def test_malformed_heads_are_named(what: str, bases: Path, tmp_path: Path) -> None:
    """A malformed head is refused, and the error names the file and the field."""
    folder = Path(shutil.copytree(bases / "head", tmp_path / "head"))
    change, message = HEADS[what]
    change(folder)
    with pytest.raises(FolderError, match=message):
        Pooling.load(str(folder))


def test_a_head_must_be_inside_its_model(bases: Path, tmp_path: Path) -> None:
    """A head loads from a subfolder of its model; a subfolder outside the model is refused."""
    opened = Pooling.load(str(bases / "learned"), "1_Pooling")
    assert opened.embedding_dimension == 16
    shutil.copytree(bases / "head", tmp_path / "head")
    (tmp_path / "model").mkdir()
    for subfolder in ("../head", str(tmp_path / "head")):
        with pytest.raises(FolderError, match="subfolder must be a path inside "):
            Pooling.load(str(tmp_path / "model"), subfolder)
