"""Save a small folder of every kind that maskpool opens, for the tests to damage."""

from __future__ import annotations

import functools
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as host
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from maskpool.encoder import Encoder, cache_states
from maskpool.integrations.sentence_transformers import Pooling
from maskpool.weights import IDFWeights, SIFWeights

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, *(f"w{number}" for number in range(28))]
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w1 w27"]
DIM = 16


@functools.cache
def host_vectors(folder: Path) -> Any:
    """Return the vectors of the texts from sentence-transformers, which runs the folder's code."""
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=True).encode(TEXTS)


def _tokenizer() -> PreTrainedTokenizerFast:
    ids = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=False)
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **names)  # type: ignore[no-untyped-call]  # untyped


def small_model() -> tuple[BertModel, PreTrainedTokenizerFast]:
    """Make a transformers model and its tokenizer in memory, the same ones at every call."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model = BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model, _tokenizer()


def plain(folder: Path) -> None:
    """Save a transformers model with its tokenizer."""
    for part in small_model():
        part.save_pretrained(folder)


def _save(folder: Path, *modules: Any) -> None:
    untyped: Any = modules
    SentenceTransformer(modules=untyped, device="cpu").save_pretrained(str(folder), create_model_card=False)


def _transformer(folder: Path) -> host.Transformer:
    plain(folder / "transformer")
    transformer: host.Transformer = host.Transformer(str(folder / "transformer"))
    shutil.rmtree(folder / "transformer")
    return transformer


def model(folder: Path) -> None:
    """Save a transformer, the host's pooling, a dense layer and a normalisation."""
    torch.manual_seed(1)
    _save(folder, _transformer(folder), host.Pooling(DIM), host.Dense(DIM, 8), host.Normalize())


def learned(folder: Path) -> None:
    """Save a transformer and a learned pooling of maskpool."""
    torch.manual_seed(2)
    _save(folder, _transformer(folder), Pooling(DIM, "attention", num_heads=2))


def router(folder: Path) -> None:
    """Save a router inside a router, with a pooling of maskpool."""
    inner = host.Router({"only": [_transformer(folder), Pooling(DIM, "max")]}, default_route="only")
    static = host.StaticEmbedding(_tokenizer().backend_tokenizer, embedding_dim=DIM)
    _save(folder, host.Router({"query": [inner], "document": [static]}, default_route="query"))


def static(folder: Path) -> None:
    """Save a static embedding."""
    torch.manual_seed(3)
    _save(folder, host.StaticEmbedding(_tokenizer().backend_tokenizer, embedding_dim=DIM), host.Normalize())


def words(folder: Path) -> None:
    """Save word embeddings, word weights, a CNN and an LSTM."""
    torch.manual_seed(4)
    vocabulary = [f"w{number}" for number in range(28)]
    tokenizer = WhitespaceTokenizer(vocabulary, stop_words=[])
    embeddings = host.WordEmbeddings(tokenizer, torch.randn(28, DIM))
    weights = host.WordWeights(vocabulary, {"w1": 2.0}, 1.0)
    _save(folder, embeddings, weights, host.CNN(DIM, 4, [1, 3]), host.LSTM(8, 4), host.Pooling(8), host.LayerNorm(8))


def wrapped(folder: Path) -> None:
    """Save word embeddings with a tokenizer of transformers."""
    torch.manual_seed(5)
    _save(folder, host.WordEmbeddings(_tokenizer(), torch.randn(len(WORDS), DIM)), host.Pooling(DIM))


def head(folder: Path) -> None:
    """Save a learned pooling without a model."""
    folder.mkdir(parents=True)
    Pooling(DIM, "attention", num_heads=2).save(str(folder))


def cache(folder: Path) -> None:
    """Save a file of token states."""
    plain(folder / "model")
    cache_states(Encoder.load(str(folder / "model")), TEXTS, folder / "states.safetensors")
    shutil.rmtree(folder / "model")


def idf(folder: Path) -> None:
    """Save a file of inverse document frequencies."""
    folder.mkdir(parents=True)
    IDFWeights.fit([[1, 2, 3], [2, 3]]).save(folder / "idf.json")


def sif(folder: Path) -> None:
    """Save a file of smooth inverse frequencies."""
    folder.mkdir(parents=True)
    SIFWeights.fit([[1, 2, 3], [2, 3]]).save(folder / "sif.json")


def study(folder: Path) -> None:
    """Save the folder of a study with its study file."""
    folder.mkdir(parents=True)
    from maskpool.bench.design.study import Study
    from maskpool.bench.store.cells import content_hash

    description = {"study": Study().as_json(), "corpora": {"c": "0" * 64}, "versions": {}}
    (folder / "study.json").write_text(json.dumps(description | {"sha256": content_hash(description)}))
    key = {"kind": "facts", "part": "p"}
    cell = {"cell": content_hash({"key": key, "value": {}}), "key": key, "value": {}, "seconds": 0.1}
    (folder / "cells.jsonl").write_text(json.dumps(cell) + "\n")
    (folder / "study.toml").write_text('models = ["some-model"]\npoolings = ["mean"]\n')


BASES: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (plain, model, learned, router, static, words, wrapped, head, cache, idf, sif, study)
}


def make_bases(folder: Path) -> Path:
    """Save a folder of every kind."""
    for name, make in BASES.items():
        make(folder / name)
    return folder


class TooSlow(BaseException):
    """A call took longer than its limit."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Stop the block after a time limit by an error that is not mistaken for an error about a file."""

    def stop(*_: object) -> None:
        raise TooSlow(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
