"""Whole models of sentence-transformers: composing, exchanging, saving, opening."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Router, StaticEmbedding, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling

import maskpool
from maskpool.encoder import BUNDLED, bundled_folder_of
from maskpool.errors import FolderError, RequirementError
from maskpool.integrations import require
from maskpool.integrations import sentence_transformers as integration
from maskpool.integrations.sentence_transformers import (
    Pooling,
    as_host_pooling,
    load,
    replace_pooling,
    with_pooling,
)
from maskpool.integrations.transformers import SentenceEmbedder
from tests.bench import tiny
from tests.hosts import compares_with_the_host
from tests.matrix import sampled
from tests.poolings import (
    BY_NAME_ONLY,
    HOST_MODES,
    LEARNED,
    NEEDS_OPTION,
    REQUIRED_OPTION,
    SPECS,
    WIDER,
    make,
    required,
)

DIM = 32
TEXTS = [text for text, _ in tiny.make_texts(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_model(tmp_path_factory.mktemp("model")))


def _ready(model: SentenceTransformer) -> SentenceTransformer:
    """Do for our poolings what the host does since 6.0 when a model is built."""
    if not hasattr(HostPooling, "on_model_ready"):
        for module in model:
            if isinstance(module, Pooling):
                module.on_model_ready(model)
    return model


@pytest.fixture
def build(folder: str) -> Callable[..., SentenceTransformer]:
    """Put modules behind a tiny BERT."""

    def behind(*modules: Any, **settings: Any) -> SentenceTransformer:
        every: Any = [Transformer(folder), *modules]
        return _ready(SentenceTransformer(modules=every, device="cpu", **settings))

    return behind


def _module(name: str, **settings: Any) -> Pooling:
    mode, options = SPECS[name]
    module = Pooling(DIM, mode, **settings, **options)
    module.pooling.load_state_dict(make(name, DIM).state_dict())
    return module


def _dictionary(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------------------- composing


def test_composed_as_the_host_composes(build: Callable[..., SentenceTransformer]) -> None:
    """Our modules follow the host's Transformer and precede its other modules, and the model knows its width."""
    model = build(Pooling(DIM, WIDER), Dense(2 * DIM, 10), Normalize())
    vectors = model.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 10)
    assert model.get_embedding_dimension() == 10
    assert build(Pooling(DIM, WIDER)).get_embedding_dimension() == 2 * DIM
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("layer", [maskpool.nn.MeanPooling(), maskpool.nn.AttentionPooling(DIM)])
def test_a_plain_layer_names_what_belongs_there(build: Callable[..., SentenceTransformer], layer: Any) -> None:
    """A plain layer among the modules fails with the sentence that names the modules."""
    with pytest.raises(TypeError, match=r"use maskpool\.integrations\.sentence_transformers\.Pooling"):
        build(layer).encode(TEXTS)


def test_special_tokens_are_the_tokenizers(build: Callable[..., SentenceTransformer]) -> None:
    """In a model include_special_tokens=False leaves out what the tokenizer adds, and nothing else."""
    model = build(Pooling(DIM, include_special_tokens=False))
    states = build(HostPooling(DIM)).encode(TEXTS, output_value="token_embeddings")
    assert isinstance(states, list)
    expected = torch.stack([state[1:-1].mean(dim=0) for state in states])
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=5e-6)
    assert not model.encode([""]).any(), "a text of only special tokens"


def test_prompts(build: Callable[..., SentenceTransformer]) -> None:
    """A model's prompt is left out of the pooling as the host leaves it out, also by set_pooling_include_prompt."""
    prompts = {"query": "red1 red2 w3 "}
    theirs = build(HostPooling(DIM, include_prompt=False), prompts=prompts)
    ours = build(Pooling(DIM), prompts=prompts)
    assert np.abs(ours.encode(TEXTS, prompt_name="query") - theirs.encode(TEXTS, prompt_name="query")).max() > 1e-2
    ours.set_pooling_include_prompt(False)
    np.testing.assert_allclose(
        ours.encode(TEXTS, prompt_name="query"), theirs.encode(TEXTS, prompt_name="query"), atol=2e-6
    )


# -------------------------------------------------------------------------------------------------- exchanging


@compares_with_the_host
@pytest.mark.parametrize("mode", [*HOST_MODES, ("mean", "max", "cls")])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_exchanged_vectors_stay(build: Callable[..., SentenceTransformer], mode: Any, include_prompt: bool) -> None:
    """A model with its pooling exchanged for ours gives the same vectors, with the same settings, and back again."""
    model = build(HostPooling(DIM, mode, include_prompt=include_prompt), Normalize(), prompts={"query": "w1 w2 "})
    before = model.encode(TEXTS), model.encode(TEXTS, prompt_name="query")
    assert replace_pooling(model) is model
    assert type(model[1]) is Pooling
    for vectors, expected in zip((model.encode(TEXTS), model.encode(TEXTS, prompt_name="query")), before, strict=True):
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert as_host_pooling(model) is model
    assert type(model[1]) is HostPooling
    assert (model[1].pooling_mode, model[1].include_prompt) == (mode, include_prompt)
    np.testing.assert_array_equal(model.encode(TEXTS), before[0])


def test_exchanged_on_the_bundled_model() -> None:
    """The bundled model opens by its name, and with our pooling its vectors stay equal to 1e-6."""
    texts = ["A pad is not a token.", "A mask separates them from words, in any batch and on any side.", "No", ""]
    expected = SentenceTransformer(bundled_folder_of(BUNDLED), device="cpu").encode(texts)
    model = load(BUNDLED, device="cpu")
    np.testing.assert_array_equal(model.encode(texts), expected)
    np.testing.assert_allclose(replace_pooling(model).encode(texts), expected, atol=1e-6)


def test_exchanged_for_another_mode(build: Callable[..., SentenceTransformer]) -> None:
    """Another mode, with its options and settings, is the module of that mode; a learned one learns."""
    options = {**required(NEEDS_OPTION), "include_special_tokens": False}
    model = replace_pooling(build(HostPooling(DIM)), NEEDS_OPTION, on_empty="nan", **options)
    expected = build(Pooling(DIM, NEEDS_OPTION, **options)).encode(TEXTS)
    np.testing.assert_array_equal(model.encode(TEXTS), expected)
    before: Any = model[1]
    after: Any = replace_pooling(model)[1]
    assert after.get_config_dict() == before.get_config_dict()
    replace_pooling(model, "attention", num_heads=4)
    assert type(model[1]) is Pooling
    settings = model[1].get_config_dict()
    assert settings["on_empty"] == "nan"
    assert REQUIRED_OPTION not in settings
    starts_as = build(Pooling(DIM, include_special_tokens=False)).encode(TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS), starts_as, atol=1e-6)


@pytest.mark.parametrize("as_type", [str, Path])
def test_models_by_folder(build: Callable[..., SentenceTransformer], tmp_path: Path, as_type: type) -> None:
    """A folder takes the place of a model: it is opened, vetted, and gets the other pooling."""
    build(HostPooling(DIM, "cls"), Normalize()).save_pretrained(str(tmp_path))
    source = as_type(tmp_path)
    for replace in (replace_pooling, with_pooling):
        expected = build(Pooling(DIM, "max"), Normalize()).encode(TEXTS)
        np.testing.assert_array_equal(replace(source, "max").encode(TEXTS), expected)
    replace_pooling(source, "max").save_pretrained(str(tmp_path / "ours"))
    model = as_host_pooling(as_type(tmp_path / "ours"))
    assert type(model[1]) is HostPooling
    assert model[1].pooling_mode == "max"
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "os.system"}]')
    with pytest.raises(FolderError, match=r"names the class 'os\.system'"):
        replace_pooling(source)


def test_a_transformers_model_by_folder(folder: str) -> None:
    """The folder of a transformers model without a pooling is opened with mean pooling."""
    model = replace_pooling(folder, include_special_tokens=False)
    assert type(model[1]) is Pooling
    assert model[1].pooling_mode == "mean"


@pytest.mark.parametrize("name", LEARNED)
def test_learned_weights_are_kept(build: Callable[..., SentenceTransformer], name: str) -> None:
    """Another setting of our module keeps its learned weights; another mode starts from initial weights."""
    model = build(_module(name))
    expected = build(_module(name, include_special_tokens=False)).encode(TEXTS)
    np.testing.assert_array_equal(replace_pooling(model, include_special_tokens=False).encode(TEXTS), expected)
    mode, options = SPECS[name]
    assert isinstance(mode, str)
    for spelling in (mode, (mode,), [mode]):
        np.testing.assert_array_equal(replace_pooling(model, spelling, **options).encode(TEXTS), expected)
    replaced: Any = replace_pooling(model, "attention", num_heads=8)[1]
    assert not replaced.pooling.query.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_models_state_is_kept(
    build: Callable[..., SentenceTransformer], dtype: torch.dtype, training: bool
) -> None:
    """The new module has the model's dtype and the old one's mode."""
    model = build(HostPooling(DIM)).to(dtype).train(training)
    replace_pooling(model, "attention")
    assert [parameter.dtype for parameter in model[1].parameters()] == [dtype]
    assert {module.training for module in model[1].modules()} == {training}


def test_a_shared_model_keeps_its_own(build: Callable[..., SentenceTransformer]) -> None:
    """with_pooling leaves the given model as it is, and shares all but the pooling with it."""
    model = build(HostPooling(DIM), Dense(DIM, 9), prompts={"query": "w1 "}, truncate_dim=5)
    before = model.encode(TEXTS, prompt_name="query")
    other = with_pooling(model, "max")
    assert other[0] is model[0]
    assert other[2] is model[2]
    assert type(model[1]) is HostPooling
    np.testing.assert_array_equal(model.encode(TEXTS, prompt_name="query"), before)
    expected = replace_pooling(copy.deepcopy(model), "max").encode(TEXTS, prompt_name="query")
    np.testing.assert_array_equal(other.encode(TEXTS, prompt_name="query"), expected)
    assert other._get_model_config() == model._get_model_config()
    assert with_pooling(model.eval()).training is False


def _routed(folder: str, *poolings: Any) -> SentenceTransformer:
    routes = {f"route{place}": [Transformer(folder), pooling] for place, pooling in enumerate(poolings)}
    if len(routes) == 1:
        routes["static"] = [StaticEmbedding(tiny.tokenizer(), embedding_dim=DIM)]
    modules: Any = [Router(routes, default_route="route0"), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def test_a_pooling_inside_of_a_router(folder: str, tmp_path: Path) -> None:
    """A single pooling is exchanged at any place, and such a model is saved and opened again."""
    model = _routed(folder, HostPooling(DIM))
    before = model.encode(TEXTS)
    other = with_pooling(model)
    assert [type(module) for module in model.modules() if isinstance(module, HostPooling)] == [HostPooling]
    replace_pooling(model)
    assert [type(module) for module in model.modules() if isinstance(module, HostPooling)] == [Pooling]
    for exchanged in (model, other):
        np.testing.assert_allclose(exchanged.encode(TEXTS), before, atol=1e-6)
    replace_pooling(model, include_special_tokens=False)
    assert np.abs(model.encode(TEXTS) - before).max() > 1e-3
    model.save_pretrained(str(tmp_path))
    np.testing.assert_array_equal(load(str(tmp_path), device="cpu").encode(TEXTS), model.encode(TEXTS))


def test_what_cannot_be_exchanged(build: Callable[..., SentenceTransformer], folder: str) -> None:
    """No pooling, several, another object, and a mode whose width does not fit the next module are refused."""
    static: Any = [StaticEmbedding(tiny.tokenizer(), embedding_dim=DIM)]
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (SentenceTransformer(modules=static), None, ValueError, r"one pooling module, got none: 0 \(StaticEmbedding\)"),
        (
            _routed(folder, HostPooling(DIM), HostPooling(DIM)),
            None,
            ValueError,
            r"got 2: 0\.sub_modules\.route0\.1 \(Pooling\), 0\.sub_modules\.route1\.1 \(Pooling\)",
        ),
        (
            Transformer(folder),
            None,
            TypeError,
            "must be a SentenceTransformer, or the name or folder of one, got Transformer",
        ),
        (
            build(HostPooling(DIM), Dense(DIM, 9), Normalize()),
            WIDER,
            ValueError,
            f"'{WIDER}' gives vectors of dimension 64, and Dense behind the pooling was built for 32",
        ),
        (build(HostPooling(DIM)), "middle", ValueError, "pooling_mode must be one of 'mean'"),
    ]
    for model, mode, kind, message in cases:
        for exchange in (replace_pooling, with_pooling):
            with pytest.raises(kind, match=message):
                exchange(model, mode)
    fits = build(HostPooling(DIM), Normalize())
    assert replace_pooling(fits, WIDER).encode(TEXTS).shape == (len(TEXTS), 2 * DIM)


def test_what_the_host_does_not_have(build: Callable[..., SentenceTransformer]) -> None:
    """A pooling that the host's class cannot be is refused by setting, and so is one that is the host's already."""
    others = [mode for mode in BY_NAME_ONLY if mode not in HOST_MODES]
    message = (
        "got "
        + ", ".join(f"pooling_mode '{mode}'" for mode in others)
        + ", include_special_tokens=False; the host's modes are 'cls', 'max'"
    )
    with pytest.raises(ValueError, match=message):
        as_host_pooling(build(Pooling(DIM, ("mean", *others), include_special_tokens=False)))
    with pytest.raises(ValueError, match="must have a pooling of maskpool, got Pooling, the host's own already"):
        as_host_pooling(build(HostPooling(DIM)))


# ------------------------------------------------------------------------------------------ saving and opening


@pytest.mark.parametrize(("name", "safe"), sampled(product(SPECS, [True, False]), every=3))
def test_round_trips(build: Callable[..., SentenceTransformer], name: str, safe: bool, tmp_path: Path) -> None:
    """A saved model opens by load, and the host's own way, with vectors that are the same bit for bit."""
    model = build(_module(name, include_special_tokens=False), Normalize())
    expected = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path), safe_serialization=safe)
    opened_by_host = _ready(SentenceTransformer(str(tmp_path), trust_remote_code=True))
    for opened in (load(str(tmp_path), device="cpu"), opened_by_host):
        assert type(opened[1]) is type(model[1])
        np.testing.assert_array_equal(opened.encode(TEXTS), expected)
        pooling: Any = opened[1]
        assert pooling.get_config_dict() == _module(name, include_special_tokens=False).get_config_dict()
    if Version(version("sentence-transformers")) >= Version("6.0"):  # older hosts load classes of any installed package
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            SentenceTransformer(str(tmp_path))


def test_a_round_trip_in_bfloat16(build: Callable[..., SentenceTransformer], tmp_path: Path) -> None:
    """A model in half precision comes back in it, learned weights and all."""
    model = build(_module("attention-additive")).to(torch.bfloat16)
    model.save_pretrained(str(tmp_path))
    opened = load(str(tmp_path), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.bfloat16}
    np.testing.assert_array_equal(opened.encode(TEXTS), model.encode(TEXTS))


def test_written_back_as_the_hosts(build: Callable[..., SentenceTransformer], tmp_path: Path) -> None:
    """As the host's own class a model opens without trust and without us."""
    model = as_host_pooling(build(Pooling(DIM, "max"), Normalize()))
    expected = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path))
    assert "maskpool" not in (tmp_path / "modules.json").read_text()
    np.testing.assert_array_equal(SentenceTransformer(str(tmp_path)).encode(TEXTS), expected)


SETTINGS: dict[str, Any] = {
    "prompts": {"query": "w1 w2 ", "document": ""},
    "default_prompt_name": "query",
    "similarity_fn_name": "dot",
    "truncate_dim": 7,
}


def test_settings_come_back(build: Callable[..., SentenceTransformer], tmp_path: Path) -> None:
    """Prompts, default prompt, similarity and truncation come back, as do the modules' keywords; arguments go first."""
    model = build(Pooling(DIM), **SETTINGS)
    model.module_kwargs = {"0": ["output_attentions"]}
    model.save_pretrained(str(tmp_path))
    opened = load(tmp_path)
    host = SentenceTransformer(str(tmp_path), trust_remote_code=True)
    for name, value in SETTINGS.items():
        assert getattr(opened, name) == value == getattr(host, name)
    assert opened._get_model_config() == model._get_model_config()
    assert opened.module_kwargs == {"0": ["output_attentions"], "1": []}
    np.testing.assert_array_equal(opened.encode(TEXTS), model.encode(TEXTS))
    asked = {"prompts": {"query": "w5 "}, "default_prompt_name": "document", "truncate_dim": 3}
    other = load(str(tmp_path), similarity_fn_name="cosine", **asked)
    assert other.prompts == {"query": "w5 ", "document": ""}
    assert (other.default_prompt_name, other.similarity_fn_name, other.truncate_dim) == ("document", "cosine", 3)


@pytest.mark.full  # a process; models are opened in process by default
def test_opened_in_a_fresh_process(build: Callable[..., SentenceTransformer], tmp_path: Path) -> None:
    """A saved model opens in a process that has seen nothing of it, with the same vectors; so does its pickle."""
    model = build(_module("attention-heads"), Normalize())
    model.save_pretrained(str(tmp_path / "model"))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    script = (
        "import pickle, sys, numpy as np\n"
        "again = pickle.load(open(sys.argv[1] + '.pkl', 'rb'))\n"
        "np.save(sys.argv[2].replace('vectors', 'again'), again.encode(sys.argv[3:]))\n"
        "from maskpool.integrations.sentence_transformers import load\n"
        "np.save(sys.argv[2], load(sys.argv[1], device='cpu').encode(sys.argv[3:]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "model"), str(tmp_path / "vectors.npy"), *TEXTS]
    subprocess.run(command, check=True, capture_output=True)
    for vectors in ("vectors.npy", "again.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / vectors), model.encode(TEXTS))


def test_opened_by_the_names_of_old_versions(build: Callable[..., SentenceTransformer], tmp_path: Path) -> None:
    """A model whose modules are called as older versions of the host called them opens."""
    model = build(HostPooling(DIM), Normalize())
    model.save_pretrained(str(tmp_path))
    modules = _dictionary(tmp_path, "modules.json")
    for entry in modules:
        entry["type"] = "sentence_transformers.models." + entry["type"].rpartition(".")[2]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(load(str(tmp_path), device="cpu").encode(TEXTS), model.encode(TEXTS))


def _change(entry: int, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        modules = _dictionary(folder, "modules.json")
        modules[entry] |= changes
        (folder / "modules.json").write_text(json.dumps(modules))

    return change


OURS = "maskpool.integrations.sentence_transformers"
BROKEN: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "foreign class": (
        _change(1, type="foreign.Pooling"),
        ValueError,
        r"names the class 'foreign\.Pooling', which is part of neither maskpool",
    ),
    "foreign class of an allowed prefix": (
        _change(1, type=f"{OURS}.Pooling.Other"),
        ValueError,
        r"names the class 'maskpool\.integrations\.sentence_transformers\.Pooling\.Other', which is part of neither",
    ),
    "function of an allowed module": (
        _change(1, type=f"{OURS}.load"),
        ValueError,
        "which is part of neither maskpool nor sentence-transformers",
    ),
    "host's class that is not a module": (
        _change(1, type="sentence_transformers.SentenceTransformer"),
        ValueError,
        "names the class 'sentence_transformers.SentenceTransformer'",
    ),
    "path above": (_change(1, path="../other"), ValueError, r"must have paths inside the model, got '\.\./other'"),
    "absolute path": (_change(1, path="/etc"), ValueError, "must have paths inside the model, got '/etc'"),
    "path of Windows": (_change(1, path="C:\\models"), ValueError, "must have paths inside the model"),
    "hidden path above": (_change(1, path="a\\..\\..\\b"), ValueError, "must have paths inside the model"),
    "no type": (_change(1, type=None), ValueError, "must give each module a name, a path and a type, got {"),
    "no JSON": (
        lambda f: (f / "modules.json").write_text("[{"),
        ValueError,
        r"modules\.json must be JSON; it",
    ),
    "no list": (lambda f: (f / "modules.json").write_text("{}"), ValueError, "must be a list of modules, got dict"),
    "no modules.json": (lambda f: (f / "modules.json").unlink(), FileNotFoundError, "it has no modules.json"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_opened(
    build: Callable[..., SentenceTransformer], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of foreign classes, outside paths or broken lists is refused by name, and no code of it is run."""
    change, kind, message = BROKEN[what]
    (tmp_path / "foreign.py").write_text("raise SystemExit('foreign code was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    build(Pooling(DIM)).save_pretrained(str(tmp_path))
    change(tmp_path)
    with pytest.raises(kind, match=message):
        load(str(tmp_path))
    assert "foreign" not in sys.modules


def test_models_saved_under_the_old_name_of_learned_poolings(
    build: Callable[..., SentenceTransformer], tmp_path: Path
) -> None:
    """A model whose learned pooling was saved as AttentionPoolingModule opens as Pooling, by us and by the host."""
    pooling = _module("attention-additive")
    model = build(pooling)
    model.save_pretrained(str(tmp_path))
    old = tmp_path / "1_AttentionPoolingModule"
    (tmp_path / "1_Pooling").rename(old)
    modules = _dictionary(tmp_path, "modules.json")
    assert modules[1]["type"] == "maskpool.integrations.sentence_transformers.Pooling"
    modules[1] |= {
        "path": "1_AttentionPoolingModule",
        "type": "maskpool.integrations.sentence_transformers.AttentionPoolingModule",
    }
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    expected = model.encode(TEXTS)
    theirs = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    for opened in (load(str(tmp_path), device="cpu"), theirs):
        assert type(opened[1]) is Pooling
        np.testing.assert_array_equal(opened.encode(TEXTS), expected)
    embedder = SentenceEmbedder(str(tmp_path))
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, atol=1e-6)
    replaced = replace_pooling(theirs)
    replaced.save_pretrained(str(tmp_path / "again"))
    saved = _dictionary(tmp_path / "again", "modules.json")[1]
    assert saved["type"] == "maskpool.integrations.sentence_transformers.Pooling"


def test_the_old_name_is_private() -> None:
    """Only files have the old name: it is not in the public names, and other unknown names are errors."""
    assert "AttentionPoolingModule" not in {*dir(integration), *integration.__all__}
    with pytest.raises(AttributeError, match="no attribute 'AveragePoolingModule'"):
        getattr(integration, "AveragePoolingModule")  # noqa: B009  # an attribute that mypy does not know


def test_what_load_does_not_take(tmp_path: Path) -> None:
    """A folder that is not there and keywords that load does not take are refused."""
    with pytest.raises(FileNotFoundError, match="must be a saved SentenceTransformer, a folder or a name on"):
        load(str(tmp_path / "nothing"))
    for keyword in ("trust_remote_code", "modules"):
        with pytest.raises(TypeError, match=f"{keyword} cannot be passed to load, which reads the modules from"):
            load(BUNDLED, **{keyword: True})
    with pytest.raises(TypeError, match="name_or_path must be a folder or a name on the hub, got int"):
        load(3)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match="speed"):
        load(BUNDLED, speed=3)


def test_requirements_of_a_model(build: Callable[..., SentenceTransformer], tmp_path: Path) -> None:
    """A model that asks for other versions of packages is refused before anything of it is loaded."""
    build(Pooling(DIM)).save_pretrained(str(tmp_path))
    settings = _dictionary(tmp_path, "config_sentence_transformers.json")
    settings["requirements"] = {"sentence_transformers": ">=99"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises((ImportError, ValueError), match="99"):
        load(str(tmp_path))


def test_a_host_that_is_too_old_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is missing or too old is named, with the version that is needed and the command that installs it."""
    command = r'pip install -U "maskpool\[st\]" "sentence-transformers>=5\.4"'
    monkeypatch.setattr("maskpool.integrations.version", lambda package: "5.3.9")
    with pytest.raises(RequirementError, match=rf"sentence-transformers 5\.3\.9 is too old, .*>=5\.4 .*{command}"):
        require("sentence-transformers", "st")
    monkeypatch.setattr("maskpool.integrations.version", lambda package: "5.10.1")
    require("sentence-transformers", "st")

    def nowhere(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("maskpool.integrations.version", nowhere)
    with pytest.raises(RequirementError, match=rf"sentence-transformers is not installed, .*{command}"):
        require("sentence-transformers", "st")
