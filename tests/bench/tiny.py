"""A model and a corpus small enough that a whole study takes seconds."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from maskpool import build_pooling
from maskpool.bench.design.subsamples import Subsample
from maskpool.bench.design.treatments import Positions
from maskpool.bench.encode.forward import Pooled, Request, pair_keys
from maskpool.bench.encode.positions import RIGHT, Source
from maskpool.encoder import Encoder
from maskpool.plans import Plan

if TYPE_CHECKING:
    from maskpool.bench.vectors import Vectors
    from maskpool.plans import Ints

LABELS = ["red", "green", "blue", "black", "white"]
WORDS_A_LABEL = 8
COMMON = [f"w{number}" for number in range(30)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCABULARY = [*SPECIAL, *COMMON, *(f"{label}{number}" for label in LABELS for number in range(WORDS_A_LABEL))]
LIMIT = 160  # tokens, more than the default padded length
NO_TOKEN = "\u200b"  # a text that is not blank but gives no tokens


def tokenizer(pad_token: str | None = "[PAD]", eos_token: str | None = None) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per word, between [CLS] and [SEP]."""
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=False)
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=words, pad_token=pad_token, eos_token=eos_token, model_max_length=10**30, **names
    )


def draw_bert(words: int, limit: int, layers: int = 2, spread: float = 0.2, seed: int = 0) -> BertModel:
    """Make a BERT of random weights; its layer norms are not the identity, its pad row not zero.

    Args:
        words: The size of its vocabulary.
        limit: The number of its positions.
        layers: The number of its layers.
        spread: The standard deviation of the weights that are not embeddings.
        seed: The seed of the weights.
    """
    torch.manual_seed(seed)
    model = BertModel(
        BertConfig(
            vocab_size=words,
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=limit,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if "embeddings.weight" in name else spread))
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1.0)
    return model


def save_model(
    folder: Path, limit: int = LIMIT, pad_token: str | None = "[PAD]", eos_token: str | None = None, seed: int = 0
) -> Path:
    """Save a BERT of random weights and its tokenizer."""
    draw_bert(len(VOCABULARY), limit, seed=seed).save_pretrained(folder)
    tokenizer(pad_token, eos_token).save_pretrained(folder)
    return folder


def make_texts(number: int, labels: int = len(LABELS), seed: int = 0, longest: int = 20) -> list[tuple[str, str]]:
    """Make pairs (text, label); texts have 2 to ``longest`` words, half of them words of the label."""
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(number):
        label = LABELS[place % labels]
        own = [f"{label}{word}" for word in range(WORDS_A_LABEL)]
        words = [rng.choice(own if rng.random() < 0.5 else COMMON) for _ in range(rng.integers(2, longest + 1))]
        rows.append((" ".join(words), label))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write texts and labels under the default names of their columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


class Planted(nn.Module):
    """A model around which a bug is planted."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config = inner.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def get_input_embeddings(self) -> nn.Module:
        table: nn.Module = self.inner.get_input_embeddings()  # type: ignore[operator]  # the inner one is a transformer
        return table


class CountsItsPads(Planted):
    """A model whose outputs at pads depend on the number of pads; real tokens are right."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pads = (attention_mask == 0).unsqueeze(2)
        return SimpleNamespace(last_hidden_state=states + 0.01 * pads * pads.sum(dim=1, keepdim=True))


class ForgetsItsMask(Planted):
    """A model whose real tokens attend to pads."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        states = self.inner(input_ids=input_ids, attention_mask=torch.ones_like(attention_mask)).last_hidden_state
        return SimpleNamespace(last_hidden_state=states)


class ReadsItsBatch(Planted):
    """A model whose states depend on the other texts of the batch, independent of the padded length."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        first = states[:, :1]
        return SimpleNamespace(last_hidden_state=states + 0.1 * (first - first.mean(dim=0, keepdim=True)))


class GivesNoNumbersAtPads(Planted):
    """A model that gives NaN at pads, like a softmax over nothing."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return SimpleNamespace(last_hidden_state=states.masked_fill((attention_mask == 0).unsqueeze(2), torch.nan))


def plant(encoder: Encoder, bug: type[Planted]) -> Encoder:
    """Return the encoder with a bug in its model."""
    # Any: a wrapper is not a PreTrainedModel, and does not have to be one.
    planted: Any = bug(encoder.model)
    return replace(encoder, model=cast("PreTrainedModel", planted))


def ask(
    lengths: Ints,
    subsamples: Iterable[Subsample],
    plans: Sequence[Plan],
    *,
    prefix: bool = True,
    layers: tuple[int, ...] = (-1,),
    modes: Sequence[str] = ("mean",),
    kept: Sequence[int] = (),
    top: int = 40,
    unmasked: bool = False,
) -> Request:
    """Request all positions of every text of some subsamples and plans, with the mask and optionally without it."""
    chosen = np.array(kept, dtype=np.int64)
    keys: dict[Source, list[Ints]] = {RIGHT: [np.zeros(0, np.int64)]}
    for subsample in subsamples:
        for plan in plans:
            for masked in (True, False) if unmasked else (True,):
                keys.setdefault(Source(plan.side, masked), []).append(
                    pair_keys(subsample.texts, subsample.widths[plan.name])
                )
    if not prefix:
        keys[RIGHT] += [pair_keys(np.arange(len(lengths)), lengths), pair_keys(chosen, np.full_like(chosen, top))]
    return Request(
        layers,
        {mode: build_pooling(mode) for mode in modes},
        {source: np.unique(np.concatenate(of_source)) for source, of_source in keys.items()},
        dict.fromkeys(keys, get_args(Positions)),
        prefix,
        top,
        chosen,
    )


def write_vectors(
    folder: Path, lengths: Ints, vectors: Mapping[tuple[Source, Positions, str], Mapping[tuple[int, int], Vectors]]
) -> Pooled:
    """Write vectors of the last layer at padded lengths as `pool_corpus` does if every pass is run for real.

    All mappings of a source must have the same texts and lengths.
    """
    for (source, positions, mode), vector_of in vectors.items():
        pairs = sorted(vector_of)
        texts, widths = np.array(pairs, dtype=np.int64).T
        name = f"{source.side} {'masked' if source.masked else 'unmasked'}"
        np.save(folder / f"{name} pairs.npy", pair_keys(texts, widths))
        np.save(folder / f"{name} {positions} -1 {mode}.npy", np.array([vector_of[pair] for pair in pairs], np.float32))
    return Pooled(lengths, False, folder)
