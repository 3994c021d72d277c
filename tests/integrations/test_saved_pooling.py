"""A model is pooled as its folder says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as host
from transformers import AutoModel, AutoTokenizer
from transformers import pipeline as hosts_pipeline

from maskpool.encoder.saved_pooling import read_saved_pooling, saved_pooling_of
from maskpool.errors import FolderError
from maskpool.integrations.sentence_transformers import Pooling, load
from maskpool.integrations.transformers import SentenceEmbedder, register_pipeline
from maskpool.nn import LayerMix, MaxPooling, MeanPooling
from tests.bench import tiny
from tests.matrix import spread
from tests.poolings import NEEDS_OPTION, WIDER, required

pipeline: Any = hosts_pipeline  # Any: its overloads name the tasks of transformers only

TEXTS = ["w1 w2 w3 red1 w4 w9 blue2", "w4", "blue2 blue3 w1", "w7 w8 green1 w5 w6 w2 w3 w1 w0 w11"]
BOOLEANS = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "max": "max_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("plain"))


def save(plain: Path, folder: Path, *modules: Any) -> Path:
    SentenceTransformer(modules=[host.Transformer(str(plain)), *modules], device="cpu").save(str(folder))
    return folder


def embedder(folder: Path, *arguments: Any, **options: Any) -> SentenceEmbedder:
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return SentenceEmbedder(model, tokenizer, *arguments, **options)


def edit(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | fields), "utf-8")


def learned() -> Pooling:
    module = Pooling(32, "attention", num_heads=2)
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


OURS: dict[str, Callable[[], Pooling]] = {
    "option": lambda: Pooling(32, NEEDS_OPTION, **required(NEEDS_OPTION)),
    "several modes": lambda: Pooling(32, ("max", WIDER)),
    "special tokens": lambda: Pooling(32, "weightedmean", include_special_tokens=False),
    "empty texts": lambda: Pooling(32, "mean", include_special_tokens=False, on_empty="nan"),
    "learned": learned,
}


@spread(3, mode=[*BOOLEANS, ("max", "cls")], booleans=[False, True])
def test_modes_of_the_host(plain: Path, tmp_path: Path, mode: Any, booleans: bool) -> None:
    """Both schemas of sentence-transformers give the vectors of the saved model, in the embedder and the pipeline."""
    folder = save(plain, tmp_path, host.Pooling(32, mode))
    if booleans:
        modes = [mode] if isinstance(mode, str) else mode
        flags = {f"pooling_mode_{flag}": name in modes for name, flag in BOOLEANS.items()}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32} | flags))
    expected = load(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embedder(folder).embed(TEXTS, 2), expected, atol=2e-6)
    register_pipeline()
    pipe = pipeline("sentence-embedding", model=str(folder))
    np.testing.assert_allclose(np.stack(pipe(TEXTS, batch_size=2)), expected, atol=2e-6)


@pytest.mark.parametrize("name", OURS)
def test_poolings_of_maskpool(plain: Path, tmp_path: Path, name: str) -> None:
    """Options, several modes, excluded special tokens, empty texts and learned weights are those that were saved."""
    folder = save(plain, tmp_path, OURS[name]())
    texts = [*TEXTS, ""]
    expected = load(folder).encode(texts)
    np.testing.assert_allclose(embedder(folder).embed(texts, 2), expected, atol=2e-6)
    register_pipeline()
    pipe = pipeline("sentence-embedding", model=str(folder))
    np.testing.assert_allclose(np.stack(pipe(texts, batch_size=2)), expected, atol=2e-6)


def test_learned_weights_in_a_pickle(plain: Path, tmp_path: Path) -> None:
    """Weights saved by torch are read too."""
    module = learned()
    folder = save(plain, tmp_path, module)
    expected = embedder(folder).embed(TEXTS)
    (folder / "1_Pooling" / "model.safetensors").unlink()
    torch.save(module.state_dict(), folder / "1_Pooling" / "pytorch_model.bin")
    np.testing.assert_array_equal(embedder(folder).embed(TEXTS), expected)


def test_normalize_is_as_saved(plain: Path, tmp_path: Path) -> None:
    """A saved Normalize gives vectors of length 1, unless normalize says otherwise."""
    folder = save(plain, tmp_path, host.Pooling(32, "max"), host.Normalize())
    expected, sentence_embedder = load(folder).encode(TEXTS), embedder(folder)
    np.testing.assert_allclose(sentence_embedder.embed(TEXTS), expected, atol=1e-6)
    assert np.linalg.norm(sentence_embedder.embed(TEXTS, normalize=False), axis=1).min() > 1.5
    register_pipeline()
    pipe = pipeline("sentence-embedding", model=str(folder))
    np.testing.assert_allclose(np.stack(pipe(TEXTS)), expected, atol=1e-6)
    np.testing.assert_allclose(
        pipe(TEXTS[0], normalize=False), sentence_embedder.embed(TEXTS[:1], normalize=False)[0], atol=1e-5
    )


def test_a_model_without_a_saved_pooling_is_pooled_by_the_mean(plain: Path, tmp_path: Path) -> None:
    """A plain folder, a model without a folder, and modules without a pooling give the mean."""
    assert read_saved_pooling(plain) is None
    assert isinstance(embedder(plain).pooling, MeanPooling)
    model, tokenizer = AutoModel.from_pretrained(plain), AutoTokenizer.from_pretrained(plain)
    for name in ("", str(tmp_path / "gone"), "gone/from/here"):
        model.name_or_path = name
        model.config._name_or_path = name
        assert isinstance(SentenceEmbedder(model, tokenizer).pooling, MeanPooling)


@pytest.mark.parametrize("given", ["mean", ("cls", "max"), MeanPooling(), LayerMix(3)], ids=repr)
def test_another_pooling_is_noted(plain: Path, tmp_path: Path, given: Any) -> None:
    """A pooling other than the saved one is used, with a warning that names both at the caller's line."""
    folder = save(plain, tmp_path, host.Pooling(32, "cls"))
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    shown = re.escape(repr(given) if isinstance(given, str | tuple) else type(given).__name__)
    says = f"{re.escape(str(folder))} is saved with cls pooling, and pooling={shown} is used"
    with pytest.warns(UserWarning, match=says) as warned:
        sentence_embedder = SentenceEmbedder(model, tokenizer, given)
    assert warned[0].filename == __file__
    register_pipeline()
    pipe = pipeline("sentence-embedding", model=model, tokenizer=tokenizer, pooling=given)
    with pytest.warns(UserWarning, match=says) as warned:
        vectors = np.stack(pipe(TEXTS))
    assert len(warned) == 1
    np.testing.assert_allclose(vectors, sentence_embedder.embed(TEXTS), atol=5e-6)


def test_the_saved_pooling_by_name_is_not_noted(plain: Path, tmp_path: Path) -> None:
    """The saved mode or its layer, given by the caller, is the same pooling; one with other settings is another."""
    folder = save(plain, tmp_path / "host", host.Pooling(32, "max"))
    expected = embedder(folder).embed(TEXTS)
    for given in ("max", ("max",), MaxPooling()):
        np.testing.assert_array_equal(embedder(folder, given).embed(TEXTS), expected)
    folder = save(plain, tmp_path / "ours", Pooling(32, "max", include_special_tokens=False))
    with pytest.warns(UserWarning, match=r"saved with max \(include_special_tokens=False\) pooling, and pooling='max'"):
        embedder(folder, "max")
    folder = save(plain, tmp_path / "learned", learned())
    with pytest.warns(UserWarning, match=r"saved with attention \(num_heads=2, learned weights\) pooling"):
        embedder(folder, "attention")


@pytest.mark.parametrize("kind", ["SentenceEncoder", "PoolingEncoder"])
def test_other_entrances_note_another_pooling(plain: Path, tmp_path: Path, kind: str) -> None:
    """Opening a folder with another mode warns as SentenceEmbedder does; the saved mode does not."""
    if kind == "PoolingEncoder":
        opened: Any = pytest.importorskip("maskpool.integrations.mteb").PoolingEncoder
    else:
        from maskpool.integrations.sklearn import SentenceEncoder

        def opened(*arguments: Any) -> Any:
            return SentenceEncoder(*arguments).fit(TEXTS)

    folder = str(save(plain, tmp_path / "host", host.Pooling(32, "cls")))
    for mode in ("max", ("cls", "max")):
        says = f"{folder} is saved with cls pooling, and pooling_mode={mode!r} is used: leave pooling_mode out"
        with pytest.warns(UserWarning, match=re.escape(says)) as warned:
            opened(folder, mode)
        assert len(warned) == 1
    if kind == "PoolingEncoder":
        assert warned[0].filename == __file__
    for saved in (None, "cls", ("cls",)):
        opened(folder, saved)
    opened(SentenceTransformer(folder, device="cpu"), "max")
    opened(str(save(plain, tmp_path / "learned", learned())), "attention")
    if kind == "SentenceEncoder":  # a plain model saves no pooling
        opened(str(plain), "max")


def dense(folder: Path, plain: Path) -> None:
    save(plain, folder, host.Pooling(32, "mean"), host.Dense(32, 8))


def lower_case(folder: Path, plain: Path) -> None:
    save(plain, folder, host.Pooling(32, "mean"))
    edit(folder / "sentence_bert_config.json", do_lower_case=True)


def prompts(folder: Path, plain: Path) -> None:
    save(plain, folder, host.Pooling(32, "mean", include_prompt=False))
    edit(folder / "config_sentence_transformers.json", default_prompt_name="query", prompts={"query": "w1 "})


LEFT_OUT: list[tuple[Callable[[Path, Path], None], str]] = [
    (dense, r"saved with Dense \(2_Dense\), which pooling the token states leaves out"),
    (lower_case, r"saved with lower-casing \(do_lower_case=True\), which"),
    (prompts, "saved with the default prompt 'w1 ', a pooling without the tokens of a prompt"),
]


@pytest.mark.parametrize(("make", "says"), LEFT_OUT)
def test_what_else_the_saved_model_does_is_noted(
    plain: Path, tmp_path: Path, make: Callable[[Path, Path], None], says: str
) -> None:
    """Modules and settings that token states cannot honour are named in a warning, with the way out."""
    make(tmp_path, plain)
    with pytest.warns(UserWarning, match=f"{says}.*maskpool.integrations.sentence_transformers.load"):
        embedder(tmp_path)


def two_poolings(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*modules, modules[1] | {"idx": 2, "name": "2"}]


def own_class(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [modules[0], modules[1] | {"type": "custom.pooling.Pooling"}]


def module_between(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    between = {"idx": 1, "name": "mix", "path": "1_Mix", "type": "sentence_transformers.models.WeightedLayerPooling"}
    return [modules[0], between, modules[1]]


def router(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [modules[0] | {"type": "sentence_transformers.models.Router"}]


UNUSABLE = [
    (two_poolings, "names 2 poolings"),
    (own_class, "names custom.pooling.Pooling and no pooling of"),
    (module_between, "names WeightedLayerPooling in front of the pooling"),
    (router, "names Router and no pooling of"),
]


@pytest.mark.parametrize(("change", "says"), UNUSABLE)
def test_what_token_states_cannot_be_pooled_by_is_refused(
    plain: Path, tmp_path: Path, change: Callable[[Any], Any], says: str
) -> None:
    """A saved pooling that cannot be applied to token states is refused with the way out; a given one is used."""
    folder = save(plain, tmp_path, host.Pooling(32, "cls"))
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    (folder / "modules.json").write_text(json.dumps(change(modules)), "utf-8")
    with pytest.raises(FolderError, match=f"modules.json {says}.*: pass pooling= "):
        embedder(folder)
    assert embedder(folder, "max").embed(TEXTS).shape == (4, 32)


MALFORMED: dict[str, tuple[str, str, str]] = {
    "no list": ("modules.json", "{}", "modules.json must be a list of modules, got dict"),
    "no entry": ("modules.json", "[1]", "modules.json must give each module a name, a path and a type, got 1"),
    "cut": ("modules.json", "[", "modules.json must be JSON; it cannot be read"),
    "outside": (
        "modules.json",
        '[{"name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}, '
        '{"name": "1", "path": "../1_Pooling", "type": "sentence_transformers.models.Pooling"}]',
        "modules.json must have paths inside the model, got '../1_Pooling'",
    ),
    "no table": ("1_Pooling/config.json", "[]", "config.json must be a JSON table"),
    "no width": ("1_Pooling/config.json", '{"pooling_mode": "cls"}', "config.json must set embedding_dimension"),
    "mode": (
        "1_Pooling/config.json",
        '{"embedding_dimension": 32, "pooling_mode": "middle"}',
        "config.json must have in pooling_mode one of 'cls'.*got 'middle'",
    ),
    "modes": (
        "1_Pooling/config.json",
        '{"embedding_dimension": 32, "pooling_mode": []}',
        "config.json must have in pooling_mode a mode or a list of modes",
    ),
    "flag": (
        "1_Pooling/config.json",
        '{"embedding_dimension": 32, "include_prompt": "no"}',
        "config.json must have in include_prompt true or false, got 'no'",
    ),
    "our option": (
        "1_Pooling/config.json",
        '{"embedding_dimension": 32, "on_empty": "nan"}',
        "config.json must hold settings of sentence-transformers' Pooling, got on_empty",
    ),
    "lower case": ("sentence_bert_config.json", '{"do_lower_case": "yes"}', "must have in do_lower_case true or false"),
    "prompt name": (
        "config_sentence_transformers.json",
        '{"default_prompt_name": 1}',
        "must have in default_prompt_name a string or null, got 1",
    ),
}


@pytest.mark.parametrize(("file", "content", "says"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_named(plain: Path, tmp_path: Path, file: str, content: str, says: str) -> None:
    """A file that is not JSON, or has a field of the wrong type, is named with its field."""
    folder = save(plain, tmp_path, host.Pooling(32, "cls"))
    (folder / file).write_text(content, "utf-8")
    with pytest.raises(FolderError, match=says):
        read_saved_pooling(folder)


@pytest.mark.parametrize("spoil", ["missing", "cut", "other"])
def test_weights_of_another_pooling_are_refused(plain: Path, tmp_path: Path, spoil: str) -> None:
    """Missing, cut and foreign weights of a learned pooling are one error that names the file."""
    folder = save(plain, tmp_path, learned())
    weights = folder / "1_Pooling" / "model.safetensors"
    if spoil == "missing":
        weights.unlink()
    elif spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    else:
        edit(weights.with_name("config.json"), num_heads=4, hidden_dimension=3)
    with pytest.raises(FolderError, match=r"1_Pooling\S* must (hold|be)"):
        embedder(folder)


@pytest.fixture
def repository(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one repository, owner/model."""
    commit = "0123456789" * 4
    snapshot = tmp_path / "hub" / "models--owner--model" / "snapshots" / commit
    save(plain, snapshot, host.Pooling(32, "cls"), host.Normalize())
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


def from_hub(repository: Path) -> SentenceEmbedder:
    cache = repository.parents[2]
    model = AutoModel.from_pretrained("owner/model", cache_dir=cache)
    return SentenceEmbedder(model, AutoTokenizer.from_pretrained("owner/model", cache_dir=cache))


def test_a_snapshot_of_the_hub(repository: Path) -> None:
    """A model loaded by its name on the hub is pooled as its snapshot says."""
    sentence_embedder = from_hub(repository)
    assert sentence_embedder.saved is not None
    assert (sentence_embedder.saved.mode, sentence_embedder.saved.normalize) == ("cls", True)
    np.testing.assert_allclose(sentence_embedder.embed(TEXTS), load(repository).encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json"])
def test_a_snapshot_without_the_files_is_noted(repository: Path, file: str) -> None:
    """If the files that name the pooling cannot be read, the mean is used with a warning."""
    (repository / file).unlink()
    with pytest.warns(UserWarning, match="the pooling that owner/model is saved with could not be read") as warned:
        sentence_embedder = from_hub(repository)
    assert warned[0].filename == __file__
    assert isinstance(sentence_embedder.pooling, MeanPooling)


def test_a_repository_known_to_have_no_modules(repository: Path) -> None:
    """A repository that is known to have no modules.json is pooled by the mean without a warning."""
    (repository / "modules.json").unlink()
    missing = repository.parents[1] / ".no_exist" / repository.name / "modules.json"
    missing.parent.mkdir(parents=True)
    missing.touch()
    assert isinstance(from_hub(repository).pooling, MeanPooling)
    assert saved_pooling_of(AutoModel.from_pretrained("owner/model", cache_dir=repository.parents[2])) is None
