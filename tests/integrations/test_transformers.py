"""Sentence vectors from transformers models, by object and by pipeline."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)
from transformers import pipeline as hosts_pipeline

from maskpool import build_pooling
from maskpool.encoder import BUNDLED, bundled_folder_of
from maskpool.errors import InvalidTypeError
from maskpool.integrations.transformers import SentenceEmbedder, register_pipeline
from maskpool.nn import POOLINGS, FirstLastAveragePooling, LayerMix, MaxPooling
from tests.bench import tiny
from tests.poolings import WIDER, required

TEXTS = ["w1 w2 w3 red1 w4 w9 blue2", "w4", "", "blue2 blue3 w1", "w7 w8 green1 w5 w6 w2 w3 w1 w0 w11", "w7 w8"]
# Any: the configurations' arguments are of all types.
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SIZE = len(tiny.VOCABULARY)
DECODER: dict[str, Any] = {"vocab_size": SIZE, "bos_token_id": 2, "eos_token_id": 3}
GPT2_SIZES: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5_SIZES: dict[str, Any] = {"vocab_size": SIZE, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **DECODER)),
    "gpt2 with its head": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **DECODER)
    ),
    "llama": lambda: LlamaModel(LlamaConfig(max_position_embeddings=64, **SIZES, **DECODER)),
    "roberta": lambda: RobertaModel(
        RobertaConfig(vocab_size=SIZE, pad_token_id=0, max_position_embeddings=40, **SIZES)
    ),
    "t5": lambda: T5Model(T5Config(**T5_SIZES)),
    "t5 with its head": lambda: T5ForConditionalGeneration(T5Config(**T5_SIZES)),
}


def _load(name: str, tmp_path: Path) -> PreTrainedModel:
    if name.startswith("bert"):
        kind = BertForMaskedLM if "head" in name else BertModel
        folder = tiny.save_model(tmp_path / "bert")
        with warnings.catch_warnings():
            model: PreTrainedModel = kind.from_pretrained(folder)
        return model
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


pipeline: Any = hosts_pipeline  # Any: the host's types know only its own tasks
every_model = pytest.mark.parametrize("name", ["bert", "bert with its head", *MODELS])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:  # Any: its methods are untyped
    model: BertModel = BertModel.from_pretrained(tiny.save_model(tmp_path_factory.mktemp("bert")))
    return model


def _alone(model: PreTrainedModel, text: str, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """The last states of one text, unpadded, from the plain part of the model."""
    base: Any = model.base_model
    base = base.encoder if base.config.is_encoder_decoder else base
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        states: torch.Tensor = base.eval()(input_ids=ids).last_hidden_state
    return states[0]


@every_model
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_vectors_are_those_of_texts_alone(name: str, batch_size: int, tmp_path: Path) -> None:
    """In any batch a text has the vector of its unpadded states, in its place, for every kind of model."""
    model, tokenizer = _load(name, tmp_path), tiny.tokenizer()
    vectors = SentenceEmbedder(model, tokenizer).embed(TEXTS, batch_size)
    expected = np.stack([_alone(model, text, tokenizer).mean(dim=0).numpy() for text in TEXTS])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=5e-6)


@pytest.mark.parametrize("mode", [*POOLINGS, ("cls", WIDER)], ids=str)
def test_every_pooling(bert: Any, mode: str | tuple[str, ...]) -> None:
    """A mode string is the pooling of that name over each text's real tokens, and reports its width."""
    options = required(mode) if isinstance(mode, str) else {}
    layer = build_pooling(mode, 32, **options)
    tokenizer = tiny.tokenizer()
    embedder = SentenceEmbedder(bert, tokenizer, layer if options else mode)
    vectors = embedder.embed(TEXTS, 4)
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = _alone(bert, text, tokenizer).unsqueeze(0)
        expected = layer(states, torch.ones(states.shape[:2], dtype=torch.bool))[0].detach().numpy()
        np.testing.assert_allclose(vector, expected, atol=2e-5, rtol=1e-5)
    assert embedder.dimension == vectors.shape[1]


@pytest.mark.parametrize("layer", [1, 2, -1, -2])
def test_layers_are_the_hosts(bert: Any, layer: int) -> None:
    """A layer's number is its place among transformers' hidden states."""
    tokenizer = tiny.tokenizer()
    vectors = SentenceEmbedder(bert, tokenizer, layer=layer).embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = bert.eval()(input_ids=ids, output_hidden_states=True).hidden_states[layer]
        np.testing.assert_allclose(vector, states[0].mean(dim=0).numpy(), atol=5e-6)


@every_model
def test_layer_0_is_the_embedding_matrix(name: str, tmp_path: Path) -> None:
    """Layer 0 pools rows of the embedding matrix: a text's vector does not depend on the order of its words."""
    model, tokenizer = _load(name, tmp_path), tiny.tokenizer()
    embedder = SentenceEmbedder(model, tokenizer, layer=0)
    table: Any = model.get_input_embeddings()
    expected = table.weight[tokenizer("w1 w2 w3")["input_ids"]].mean(dim=0).detach().numpy()
    np.testing.assert_allclose(embedder.embed(["w1 w2 w3", "w3 w1 w2", "w5"])[:2], [expected, expected], atol=1e-6)


def test_layer_0_does_not_run_the_model(bert: Any) -> None:
    """Layer 0 costs a look-up: the model is not called."""
    model = copy.deepcopy(bert)
    model.forward = None
    assert SentenceEmbedder(model, tiny.tokenizer(), layer=0).embed(TEXTS).any()


@pytest.mark.parametrize(
    "pooling", [FirstLastAveragePooling(), LayerMix(3), LayerMix(3, pooling=MaxPooling())], ids=repr
)
def test_poolings_of_all_layers(bert: Any, pooling: Any) -> None:
    """A pooling that reads several layers gets all of them."""
    tokenizer = tiny.tokenizer()
    embedder = SentenceEmbedder(bert, tokenizer, pooling)
    vectors = embedder.embed(TEXTS, 4)
    assert vectors.shape == (len(TEXTS), embedder.dimension)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = bert.eval()(input_ids=ids, output_hidden_states=True).hidden_states
            expected = pooling(states, torch.ones_like(ids))[0].numpy()
        np.testing.assert_allclose(vector, expected, atol=5e-6)


def _no_pad_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2's: no pad token, and an end-of-text token that a text may hold; it adds none."""
    tokenizer = tiny.tokenizer(pad_token=None, eos_token="w9")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    return tokenizer


NOTICE = "has no pad token: pads are filled with another token and masked by each text's length"


@pytest.mark.parametrize("by_pipeline", [False, True])
def test_end_of_text_tokens_are_words_where_they_are_words(by_pipeline: bool, tmp_path: Path) -> None:
    """Without a pad token real end-of-text tokens are kept, with a notice, and the tokenizer stays as it was."""
    model, tokenizer = _load("gpt2", tmp_path), _no_pad_tokenizer()
    texts = ["w1 w9 w2 w9 w9", "w1 w9 w2", "w9", "w1 w2 w3 w4 w5 w6 w7", ""]
    register_pipeline()
    with pytest.warns(UserWarning, match=NOTICE):
        vectors = (
            np.stack(pipeline("sentence-embedding", model=model, tokenizer=tokenizer)(texts, batch_size=3))
            if by_pipeline
            else SentenceEmbedder(model, tokenizer).embed(texts, 3)
        )
    for text, vector in zip(texts[:-1], vectors, strict=False):
        np.testing.assert_allclose(vector, _alone(model, text, tokenizer).mean(dim=0).numpy(), atol=5e-6)
    assert not vectors[-1].any(), "a text without a token"
    assert tokenizer.pad_token is None


def test_a_text_longer_than_the_model(tmp_path: Path) -> None:
    """A text is cut off where the model ends (RoBERTa's positions begin behind its pad id), or earlier if asked."""
    tokenizer, long = tiny.tokenizer(), " ".join(["w1", "w2"] * 40)
    embedder = SentenceEmbedder(_load("roberta", tmp_path), tokenizer)
    assert embedder.encoder.max_length == 39
    assert embedder.embed([long]).shape == (1, 32)
    short = SentenceEmbedder(_load("bert", tmp_path), tokenizer, max_length=4)
    np.testing.assert_array_equal(*short.embed(["w1 w2 w3 w4", "w1 w2 w5"]))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(bert: Any, training: bool) -> None:
    """The model is run without dropout, and gets the mode of each of its modules back; so does a failed run."""
    model = copy.deepcopy(bert).train(training)
    model.pooler.train(not training)
    modes = [module.training for module in model.modules()]
    embedder = SentenceEmbedder(model, tiny.tokenizer())
    np.testing.assert_array_equal(embedder.embed(TEXTS), embedder.embed(TEXTS))
    with pytest.raises(ValueError, match="layer must be 0"):
        SentenceEmbedder(model, tiny.tokenizer(), layer=7).embed(TEXTS)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_vectors_are_float32_for_any_model(bert: Any, dtype: torch.dtype) -> None:
    """A model of another dtype gives float32 vectors, near those of float32."""
    tokenizer = tiny.tokenizer()
    vectors = SentenceEmbedder(copy.deepcopy(bert).to(dtype), tokenizer).embed(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, SentenceEmbedder(bert, tokenizer).embed(TEXTS), atol=0.1)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda texts: np.array(texts, object), pd.Series, iter])
def test_texts_in_any_sequence(bert: Any, kind: Callable[[list[str]], Any]) -> None:
    """Lists, tuples, arrays, Series and iterators of texts are the same texts."""
    embedder = SentenceEmbedder(bert, tiny.tokenizer())
    np.testing.assert_array_equal(embedder.embed(kind(TEXTS)), embedder.embed(TEXTS))


def test_no_texts(bert: Any) -> None:
    """No texts give no vectors of the right width."""
    assert SentenceEmbedder(bert, tiny.tokenizer(), ("mean", "max")).embed([]).shape == (0, 64)


def test_unit_vectors_and_a_progress_bar(bert: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Normalize gives vectors of length 1 in the same direction, and a progress bar is shown where it is asked for."""
    embedder = SentenceEmbedder(bert, tiny.tokenizer())
    plain = embedder.embed(TEXTS)
    assert capsys.readouterr().err == ""
    unit = embedder.embed(TEXTS, normalize=True, show_progress_bar=True)
    assert "Batches: 100%" in capsys.readouterr().err
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_the_bundled_model_as_sentence_transformers_has_it() -> None:
    """On the real model vectors are those of sentence-transformers to 1e-6."""
    from sentence_transformers import SentenceTransformer

    folder = bundled_folder_of(BUNDLED)
    texts = ["A pad is not a token.", "A mask separates them from words, in any batch and on any side.", "No"]
    embedder = SentenceEmbedder(AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    assert embedder.encoder.max_length == 256
    expected = SentenceTransformer(folder).encode(texts)
    np.testing.assert_allclose(embedder.embed(texts, normalize=True), expected, atol=1e-6)


BAD_TEXTS = [
    ("w1", "texts must be a list of strings, got one str: put it into a list, [text]"),
    (["w1", None], "texts must hold only strings, got NoneType at place 1"),
    (np.array(["w1", None], object), "got NoneType at place 1"),
    (np.array([["w1"], ["w2"]]), "texts must have one dimension, got ndarray of 2: pass one column of it"),
    (pd.DataFrame({"text": ["w1"]}), "texts must have one dimension, got DataFrame of 2"),
    ({"w1", "w2"}, "texts must be a list of strings, got one set"),
    ({"text": "w1"}, "texts must be a list of strings, got one dict"),
    (7, "texts must be a list of strings, got one int"),
]


@pytest.mark.parametrize(("texts", "message"), BAD_TEXTS, ids=[message for _, message in BAD_TEXTS])
def test_what_are_no_texts(bert: Any, texts: Any, message: str) -> None:
    """Anything but a sequence of strings is refused, with the place and the way out."""
    with pytest.raises(TypeError) as error:
        SentenceEmbedder(bert, tiny.tokenizer()).embed(texts)
    assert message in str(error.value)


def test_what_is_no_embedder(bert: Any) -> None:
    """A wrong model, tokenizer, pooling, layer or length is refused by name when the embedder is made."""
    tokenizer: Any = tiny.tokenizer()
    model: Any = bert
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        (
            (3, tokenizer),
            {},
            TypeError,
            "model must be a transformers PreTrainedModel, got int: load .* name or",
        ),
        ((model,), {}, TypeError, "tokenizer must be the tokenizer of the model, got None: pass it, or the model's"),
        (("no/folder",), {}, FileNotFoundError, "model must be a folder with .* 'no/folder' could not be loaded"),
        ((model, "bert"), {}, TypeError, "tokenizer must be a transformers PreTrainedTokenizerBase, got str"),
        ((model, tokenizer, torch.mean), {}, TypeError, "pooling must be a maskpool layer or a mode string"),
        ((model, tokenizer, "middle"), {}, ValueError, "^pooling must be one of 'mean'"),
        ((model, tokenizer, "mean", 1.0), {}, TypeError, "layer must be an integer, got float"),
        ((model, tokenizer, LayerMix(3), 1), {}, ValueError, "layer must be left out together with LayerMix"),
        ((model, tokenizer), {"max_length": 0}, ValueError, "max_length must be a positive integer, got 0"),
    ]
    for arguments, options, kind, message in cases:
        with pytest.raises(kind, match=message):
            SentenceEmbedder(*arguments, **options)
    for layer in (3, -3, 99):
        with pytest.raises(ValueError, match=f"layer must be 0 .embeddings., 1 to 2, or -1 to -2, got {layer}"):
            SentenceEmbedder(model, tokenizer, layer=layer).embed(TEXTS)
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        SentenceEmbedder(model, tokenizer).embed(TEXTS, 0)


def test_embedders_by_name(tmp_path: Path) -> None:
    """A folder, as a string or a path, gives the vectors of its model and tokenizer; encode is another name."""
    tiny.save_model(tmp_path)
    model, tokenizer = AutoModel.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    expected = SentenceEmbedder(model, tokenizer, "max", max_length=5).embed(TEXTS, normalize=True)
    for source in (str(tmp_path), tmp_path):
        for given in (None, tokenizer):
            embedder = SentenceEmbedder(source, given, "max", max_length=5)
            np.testing.assert_array_equal(embedder.encode(TEXTS, normalize=True), expected)
    signatures = [inspect.signature(method) for method in (SentenceEmbedder.embed, SentenceEmbedder.encode)]
    assert signatures[0] == signatures[1]


# ------------------------------------------------------------------------------------------------ the pipeline


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_the_pipeline_gives_the_same_vectors(name: str, batch_size: int | None, side: str, tmp_path: Path) -> None:
    """The pipeline gives one array a text, that of the embedder, in any batch and for either side of the tokenizer."""
    register_pipeline()
    register_pipeline()
    model, tokenizer = _load(name, tmp_path), tiny.tokenizer()
    tokenizer.padding_side = side
    pipe = pipeline("sentence-embedding", model=model, tokenizer=tokenizer)
    arrays = pipe(TEXTS, batch_size=batch_size)
    assert [(vector.shape, vector.dtype) for vector in arrays] == [((32,), np.float32)] * len(TEXTS)
    np.testing.assert_allclose(np.stack(arrays), SentenceEmbedder(model, tokenizer).embed(TEXTS), atol=5e-6)
    np.testing.assert_allclose(pipe(TEXTS[0]), arrays[0], atol=5e-6)
    assert tokenizer.padding_side == side


def test_the_pipelines_parameters(bert: Any) -> None:
    """pooling, layer and normalize are taken when the pipeline is made and when it is called."""
    register_pipeline()
    tokenizer = tiny.tokenizer()
    pipe = pipeline("sentence-embedding", model=bert, tokenizer=tokenizer, pooling="max", normalize=True)
    expected = SentenceEmbedder(bert, tokenizer, "max").embed(TEXTS, normalize=True)
    np.testing.assert_allclose(np.stack(pipe(TEXTS)), expected, atol=1e-6)
    expected = SentenceEmbedder(bert, tokenizer, ("cls", "mean"), 0).embed(TEXTS)
    called = pipe(TEXTS, pooling=("cls", "mean"), layer=0, normalize=False, batch_size=2)
    np.testing.assert_allclose(np.stack(called), expected, atol=1e-6)
    np.testing.assert_allclose(np.stack(pipe(TEXTS, pooling=MaxPooling())), pipe(TEXTS), atol=1e-6)


def test_the_pipeline_from_a_folder(tmp_path: Path) -> None:
    """A folder's name is enough, and a text that is too long for its model is cut off."""
    register_pipeline()
    pipe = pipeline("sentence-embedding", model=str(tiny.save_model(tmp_path)))
    assert pipe(" ".join(["w1"] * 500)).shape == (32,)


def test_what_the_pipeline_refuses(bert: Any) -> None:
    """The pipeline refuses what is not a text, and parameters that it does not have."""
    register_pipeline()
    pipe = pipeline("sentence-embedding", model=bert, tokenizer=tiny.tokenizer())
    with pytest.raises(TypeError, match="inputs must be texts, strings, got NoneType"):
        pipe(["w1", None])
    with pytest.raises(ValueError, match=r"^pooling must be one of 'mean'"):
        pipe("w1", pooling="middle")
    with pytest.raises(TypeError, match="poling"):
        pipe("w1", poling="max")


def test_a_mode_in_the_place_of_the_tokenizer_is_explained() -> None:
    """A mode passed as the second argument is refused with the argument that takes it."""
    with pytest.raises(InvalidTypeError, match=r"^tokenizer must be a tokenizer, got 'max': pass a mode as pooling='m"):
        SentenceEmbedder("any", "max")  # type: ignore[arg-type]  # the point
