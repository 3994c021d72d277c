"""Embedding pipelines with one planted bug each, their correct twins, and further correct pipelines.

``PLANTS`` holds the bugs and ``CLEAN`` the correct pipelines. Models are tiny and random. Their weights are large, so
leaks are visible. Tokenizers accept any text.
"""

import functools
import inspect
import string
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    Dense,
    Module,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WordTokenizer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, T5EncoderModel, pipeline

Array: TypeAlias = npt.NDArray[Any]
Embed: TypeAlias = Callable[[list[str]], Array]
Oracle: TypeAlias = Callable[[str], Array]
Pool: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Pipeline: TypeAlias = "Embed | SentenceTransformer | tuple[nn.Module, PreTrainedTokenizerFast, Pool]"
Build: TypeAlias = Callable[[], Pipeline]
Side: TypeAlias = Literal["right", "left"]
Probe: TypeAlias = Literal["alone", "padded", "equal", "again"]
Verdict: TypeAlias = Literal["clean", "leaks", "unknown"]

DIM, BUCKETS, WIDTH = 32, 400, 64


@dataclass(frozen=True)
class Plant:
    """One planted bug.

    Attributes:
        name: Name of the plant.
        wrong: Build the pipeline with the bug.
        clean: Build the same pipeline without the bug.
        oracle: Embed one text, unpadded and correctly.
        what: One sentence that says what is wrong.
        shows: The probes in which the wrong pipeline differs from the oracle. ``"alone"`` embeds one text, ``"padded"``
            texts of several lengths, ``"equal"`` texts of one length, and ``"again"`` embeds a second list with the
            same pipeline.
        answer: The cause that an auditor should name, in plain words.
        verdicts: The verdicts that an auditor may return for the wrong pipeline.
    """

    name: str
    wrong: Build
    clean: Build
    oracle: Oracle
    what: str
    shows: frozenset[Probe]
    answer: str
    verdicts: frozenset[Verdict]


_PLANTS: list[Plant] = []
_CLEAN: list[tuple[str, Build]] = []
_ORACLES: dict[str, Oracle] = {}


def _plant(
    oracle: Oracle, shows: str, answer: str, verdicts: str = "leaks"
) -> Callable[[Callable[[bool], Pipeline]], Callable[[bool], Pipeline]]:
    """Register a function of ``right`` that builds the wrong pipeline or its twin; the docstring says what is wrong."""

    def register(build: Callable[[bool], Pipeline]) -> Callable[[bool], Pipeline]:
        _PLANTS.append(
            Plant(
                name=build.__name__.strip("_"),
                wrong=functools.partial(build, False),
                clean=functools.partial(build, True),
                oracle=oracle,
                what=inspect.getdoc(build) or "",
                shows=cast("frozenset[Probe]", frozenset(shows.split())),
                answer=answer,
                verdicts=cast("frozenset[Verdict]", frozenset(verdicts.split())),
            )
        )
        return build

    return register


def _clean(oracle: Oracle | None = None) -> Callable[[Build], Build]:
    """Register a correct pipeline, with an oracle where there is one."""

    def register(build: Build) -> Build:
        name = build.__name__.strip("_")
        _CLEAN.append((name, build))
        if oracle is not None:
            _ORACLES[name] = oracle
        return build

    return register


# Tokenizers and models


def _vocabulary(letters: str) -> dict[str, int]:
    chunks = [*letters, *(a + b for a in letters for b in letters)]
    return {piece: i for i, piece in enumerate(["<pad>", "<unk>", "<s>", "</s>", *chunks])}


def tokenizer(
    side: Side = "right",
    bos: bool = True,
    eos: bool = True,
    pad: str = "<pad>",
    letters: str = string.ascii_lowercase + string.digits,
) -> PreTrainedTokenizerFast:
    """Build a fast tokenizer with one token for each word, chosen by the word's first two letters.

    Args:
        side: Padding side.
        bos: Add ``<s>`` in front of each text.
        eos: Add ``</s>`` behind each text.
        pad: Padding token.
        letters: Alphabet; a word with other letters is unknown.
    """
    vocabulary = _vocabulary(letters)
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(Regex(r"(?<=\S\S)\S+"), "")
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = [token for token, wanted in (("<s>", bos), ("</s>", eos)) if wanted]
    if around:
        raw.post_processor = processors.TemplateProcessing(
            single=" ".join((["<s>"] if bos else []) + ["$A"] + (["</s>"] if eos else [])),
            special_tokens=[(token, vocabulary[token]) for token in around],
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types here
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token=pad,
        padding_side=side,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=512,
    )


def redraw(module: nn.Module, seed: int = 0) -> Any:
    """Draw all weights of a module again, larger than the usual initialisation, and switch to evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            values = torch.randn(weight.shape, generator=generator) * 0.25
            is_norm = weight.dim() == 1 and name.endswith("weight")
            weight.copy_(values + 1 if is_norm else values)
    return module.eval()


def encoder(kind: str = "bert", seed: int = 0, **config: Any) -> Any:
    """Build a tiny transformer of a transformers ``model_type``, in evaluation mode."""
    base: dict[str, Any] = {
        "vocab_size": len(_vocabulary(string.ascii_lowercase + string.digits)),
        "hidden_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    if kind in ("qwen3", "mistral", "llama"):
        base |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}
    if kind == "gpt2":
        base |= {"n_positions": 512}
    if kind == "distilbert":
        base |= {"hidden_dim": 48}
    if kind == "albert":
        base |= {"embedding_size": 16}
    if kind == "electra":
        base |= {"embedding_size": 16}
    if kind == "modernbert":
        base |= {"cls_token_id": 2, "sep_token_id": 3}
    if kind == "t5":
        base |= {"d_kv": 16, "d_ff": 48, "num_layers": 2}
    settings: Any = AutoConfig.for_model(kind, **(base | config))
    from_config: Any = T5EncoderModel if kind == "t5" else AutoModel.from_config
    return redraw(from_config(settings), seed)


@functools.cache
def _frozen(kind: str, seed: int) -> Any:
    """One shared model for the oracles, which do not change it."""
    return encoder(kind, seed)


@functools.cache
def _frozen_tokenizer(bos: bool, eos: bool) -> PreTrainedTokenizerFast:
    return tokenizer(bos=bos, eos=eos)


@functools.lru_cache(maxsize=4096)
@torch.no_grad()
def _states(
    text: str, kind: str = "bert", seed: int = 0, bos: bool = True, eos: bool = True, layer: int | None = None
) -> Tensor:
    """Run one text without padding and without a mask; return the hidden states (tokens, dim)."""
    ids = torch.tensor([_frozen_tokenizer(bos, eos)(text)["input_ids"]])
    output = _frozen(kind, seed)(input_ids=ids, output_hidden_states=layer is not None)
    return cast(Tensor, (output.last_hidden_state if layer is None else output.hidden_states[layer])[0])


def _solo(pool: Callable[[Tensor], Tensor], **how: Any) -> Oracle:
    """Make an oracle that pools the hidden states of one text with a function (tokens, dim) -> (dim,)."""

    def oracle(text: str) -> Array:
        return pool(_states(text, **how)).detach().clone().numpy()

    return oracle


def _mean_states(x: Tensor) -> Tensor:
    return x.mean(0)


def _first_state(x: Tensor) -> Tensor:
    return x[0]


def _last_state(x: Tensor) -> Tensor:
    return x[-1]


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the real tokens, with NaN at pads removed."""
    kept = hidden.masked_fill(mask.unsqueeze(-1) == 0, 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True).to(hidden.dtype)


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the last real token on either padding side."""
    columns = torch.arange(mask.shape[1]) * mask
    return hidden[torch.arange(len(hidden)), columns.argmax(1)]


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


# Pieces of the pipelines that do not use transformers


def word_ids(text: str) -> list[int]:
    """Hash each word to an id from 4 on."""
    return [4 + zlib.crc32(word.encode()) % (BUCKETS - 4) for word in text.split()]


def collate(
    texts: list[str], width: int | None = None, side: Side = "right", ids: Callable[[str], list[int]] = word_ids
) -> tuple[Tensor, Tensor]:
    """Pad the word ids of texts with 0 and return ids and mask, both (texts, width)."""
    rows = [ids(text)[:width] for text in texts]
    columns = max(map(len, rows)) if width is None else width
    pads = [[0] * (columns - len(row)) for row in rows]
    padded = [row + pad if side == "right" else pad + row for row, pad in zip(rows, pads, strict=True)]
    real = [
        [1] * len(row) + pad if side == "right" else pad + [1] * len(row) for row, pad in zip(rows, pads, strict=True)
    ]
    return torch.tensor(padded), torch.tensor(real)


def _matrix(seed: int, rows: int = DIM, columns: int = DIM) -> Array:
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    return cast(Array, (values / np.sqrt(rows)).astype(np.float32))


def _table() -> Array:
    """Word vectors, not centred: row 0, the padding row, is not zero."""
    return (np.random.default_rng(99).normal(size=(BUCKETS, DIM)) + 0.3).astype(np.float32)


def _word_mean(text: str) -> Array:
    return cast(Array, _table()[word_ids(text)].mean(0))


class Encoder(nn.Module):
    """A small pre-norm transformer that takes an additive attention bias.

    Args:
        seed: Seed of the weights.
        layers: Number of layers.
        decoder: Use a causal bias if none is given.
    """

    def __init__(self, seed: int = 0, layers: int = 2, decoder: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(BUCKETS, DIM)
        self.places = nn.Embedding(512, DIM)
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2 * layers))
        self.qkv = nn.ModuleList(nn.Linear(DIM, 3 * DIM) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(layers))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(DIM, 48), nn.GELU(), nn.Linear(48, DIM)) for _ in range(layers)
        )
        self.decoder = decoder
        redraw(self, seed)

    def attend(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        """Turn scores into attention weights."""
        return scores.softmax(-1)

    def forward(
        self, ids: Tensor, bias: Tensor | None = None, positions: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Encode ids (B, T) under a bias that is broadcast to (B, T, T)."""
        places = torch.arange(ids.shape[1]) if positions is None else positions
        x: Tensor = self.words(ids) + self.places(places)
        if bias is None and self.decoder:
            bias = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
        for i, (qkv, out, mlp) in enumerate(zip(self.qkv, self.out, self.mlp, strict=True)):
            q, k, v = qkv(self.norms[2 * i](x)).chunk(3, -1)
            scores = q @ k.transpose(1, 2) / DIM**0.5
            x = x + out(self.attend(scores if bias is None else scores + bias, keep) @ v)
            x = x + mlp(self.norms[2 * i + 1](x))
        return x


@functools.cache
def _frozen_encoder(layers: int) -> Encoder:
    return Encoder(layers=layers)


@torch.no_grad()
def _encoder_mean(text: str, layers: int = 2) -> Array:
    return cast(Array, _frozen_encoder(layers)(torch.tensor([word_ids(text)])).mean(1)[0].numpy())


def _key_bias(mask: Tensor) -> Tensor:
    return (1.0 - mask[:, None, :].float()) * -1e9


def _each(texts: list[str], embed_text: Callable[[str], Array]) -> Array:
    return np.stack([embed_text(text) for text in texts])


# Plants: everything padded to one width


def _fixed_width(right: bool, give: str, pool: str) -> Embed:
    """Pad to 64 columns; ``give`` and ``pool`` say which mask the model and the pooling get when ``right`` is false."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding="max_length", max_length=WIDTH, truncation=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        choices = {"none": None, "ones": torch.ones_like(ids), "real": mask}
        hidden = model(input_ids=ids, attention_mask=mask if right else choices[give]).last_hidden_state
        if right or pool == "real":
            return _mean(hidden, mask).numpy()
        return cast(Array, hidden.mean(dim=1).numpy())

    return embed


@_plant(_solo(_mean_states), "alone padded equal", "pads reach the encoder and the mean; no mask is given")
def _max_length_no_mask(right: bool) -> Pipeline:
    """All texts are padded to 64 tokens and no mask is used anywhere."""
    return _fixed_width(right, "none", "all")


@_plant(_solo(_mean_states), "alone padded equal", "the mask is all ones; pads reach the encoder and the mean")
def _max_length_ones_mask(right: bool) -> Pipeline:
    """All texts are padded to 64 tokens under a mask of ones."""
    return _fixed_width(right, "ones", "all")


@_plant(_solo(_mean_states), "alone padded equal", "the encoder attends to pads; the pooling is right")
def _max_length_mask_in_pooling_only(right: bool) -> Pipeline:
    """All texts are padded to 64 tokens and only the pooling gets the mask."""
    return _fixed_width(right, "none", "real")


@_plant(_solo(_mean_states), "alone padded equal", "the mean runs over pads; the encoder is right")
def _max_length_mean_over_all(right: bool) -> Pipeline:
    """All texts are padded to 64 tokens and the mean runs over all 64 columns."""
    return _fixed_width(right, "real", "all")


def _layers_mean(text: str, layers: tuple[int, ...]) -> Array:
    states = torch.stack([_states(text, layer=layer) for layer in layers])
    return states.mean(0).mean(0).numpy()


def _mean_of_layers(right: bool, layers: tuple[int, ...], padding: bool | str) -> Embed:
    """Average some layers and then the tokens, over pads too when ``right`` is false."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=padding, max_length=WIDTH, truncation=True, return_tensors="pt")
        states = model(**batch, output_hidden_states=True).hidden_states
        hidden = torch.stack([states[layer] for layer in layers]).mean(0)
        return (_mean(hidden, batch["attention_mask"]) if right else hidden.mean(1)).numpy()

    return embed


@_plant(
    functools.partial(_layers_mean, layers=(1, -1)),
    "alone padded equal",
    "the mean of the averaged layers runs over pads",
)
def _max_length_first_last_average(right: bool) -> Pipeline:
    """All texts are padded to 64 tokens and the average of the first and last layer is averaged over all columns."""
    return _mean_of_layers(right, (1, -1), "max_length")


@_plant(functools.partial(_layers_mean, layers=(1, -1)), "padded", "the mean of the averaged layers runs over pads")
def _first_last_average_over_pads(right: bool) -> Pipeline:
    """The average of the first and last layer is averaged over pads too."""
    return _mean_of_layers(right, (1, -1), True)


@_plant(functools.partial(_layers_mean, layers=(-2,)), "padded", "the mean of the second last layer runs over pads")
def _second_last_layer_over_pads(right: bool) -> Pipeline:
    """The second last layer is averaged over pads too."""
    return _mean_of_layers(right, (-2,), True)


@_plant(
    _solo(_last_state, kind="qwen3", bos=False, eos=True),
    "alone padded equal",
    "the last column of a right-padded batch of fixed width is a pad",
)
def _max_length_last_column(right: bool) -> Pipeline:
    """All texts are padded on the right to 64 tokens and the vector is the state of the last column."""
    model, tok = encoder("qwen3"), tokenizer("left" if right else "right", bos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding="max_length", max_length=WIDTH, truncation=True, return_tensors="pt")
        return cast(Array, model(**batch).last_hidden_state[:, -1].numpy())

    return embed


# Plants: a fixed width outside of torch


@_plant(_word_mean, "alone padded equal", "one fixed width; cannot be judged from the vectors alone", "unknown leaks")
def _numpy_fixed_width_mean(right: bool) -> Pipeline:
    """NumPy word vectors are averaged over 64 columns, pads included."""
    table = _table()

    def embed(texts: list[str]) -> Array:
        ids, mask = (x.numpy() for x in collate(texts, WIDTH))
        if right:
            return cast(Array, (table[ids] * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))
        return cast(Array, table[ids].mean(axis=1))

    return embed


def _numpy_attention(ids: Array, allowed: Array) -> Array:
    """One attention layer in NumPy with residual; ``allowed`` is broadcast to (B, T, T)."""
    x = _table()[ids]
    q, k, v = x @ _matrix(1), x @ _matrix(2), x @ _matrix(3)
    scores = np.where(allowed, q @ k.transpose(0, 2, 1) / DIM**0.5, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return cast(Array, x + 2 * (weights / weights.sum(-1, keepdims=True)) @ v)


def _numpy_attention_solo(text: str) -> Array:
    return cast(Array, _numpy_attention(np.array([word_ids(text)]), np.array(True))[0].mean(0))


@_plant(
    _numpy_attention_solo,
    "alone padded equal",
    "one fixed width; cannot be judged from the vectors alone",
    "unknown leaks",
)
def _numpy_fixed_width_attention(right: bool) -> Pipeline:
    """A NumPy attention layer attends to all 64 columns; only the mean uses the mask."""

    def embed(texts: list[str]) -> Array:
        ids, mask = (x.numpy() for x in collate(texts, WIDTH))
        hidden = _numpy_attention(ids, mask[:, None, :] == 1 if right else np.array(True))
        return cast(Array, (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))

    return embed


@_plant(
    _word_mean,
    "alone padded equal",
    "sums are divided by the fixed width; cannot be judged from the vectors alone",
    "unknown leaks",
)
def _numpy_fixed_width_sum_over_width(right: bool) -> Pipeline:
    """NumPy sums of the real word vectors are divided by the fixed width of 64."""
    table = _table()

    def embed(texts: list[str]) -> Array:
        ids, mask = (x.numpy() for x in collate(texts, WIDTH))
        total = (table[ids] * mask[..., None]).sum(1)
        return cast(Array, total / (mask.sum(1, keepdims=True) if right else ids.shape[1]))

    return embed


@_plant(_word_mean, "alone padded equal", "the mean runs over pads up to the next power of two")
def _numpy_bucketed_widths(right: bool) -> Pipeline:
    """Batches are padded to the next power of two plus one spare column and averaged over all columns."""
    table = _table()

    def embed(texts: list[str]) -> Array:
        width = 1 + 2 ** int(np.ceil(np.log2(max(len(text.split()) for text in texts))))
        ids, mask = (x.numpy() for x in collate(texts, width))
        weights = mask if right else np.ones_like(mask)
        return cast(Array, np.einsum("btd,bt->bd", table[ids], weights) / weights.sum(1, keepdims=True))

    return embed


# Plants: dynamic padding with transformers models


@_plant(_solo(_mean_states), "alone padded equal", "the mean runs over pads, which a single text has too")
def _pad_to_multiple_of_16(right: bool) -> Pipeline:
    """Widths are rounded up to a multiple of 16 and the mean runs over all columns."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, pad_to_multiple_of=16, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        if right:
            return _mean(hidden, batch["attention_mask"]).numpy()
        return cast(Array, hidden.mean(dim=1).numpy())

    return embed


@_plant(_solo(_mean_states, kind="t5", bos=False), "padded", "the encoder gets no mask and attends to pads")
def _t5_without_mask(right: bool) -> Pipeline:
    """The encoder is called with ids only and the pooling gets the right mask."""
    model, tok = encoder("t5"), tokenizer(bos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        output = model(**batch) if right else model(batch["input_ids"])
        return _mean(output.last_hidden_state, batch["attention_mask"]).numpy()

    return embed


@_plant(_solo(_mean_states, kind="distilbert"), "padded", "the mask is all ones; pads reach the encoder and the mean")
def _own_collate_ones_mask(right: bool) -> Pipeline:
    """A collate function pads the ids and makes a mask of ones of the padded shape."""
    model, tok = encoder("distilbert"), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        rows = [torch.tensor(ids) for ids in tok(texts)["input_ids"]]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.ones_like(ids)
        if right:
            mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return _mean(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask).numpy()

    return embed


@_plant(
    _solo(_mean_states, kind="qwen3", bos=False),
    "padded",
    "the mean runs over pads, which have the id of the end-of-text token",
)
def _pad_is_end_of_text(right: bool) -> Pipeline:
    """The end-of-text token is used for padding and the mean runs over all columns."""
    model, tok = encoder("qwen3"), tokenizer(bos=False, pad="</s>")

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        return (_mean(hidden, batch["attention_mask"]) if right else hidden.mean(1)).numpy()

    return embed


@_plant(
    _solo(_last_state, kind="qwen3", bos=False),
    "padded",
    "the last end-of-text token of a row is a pad, because pads have its id",
)
def _last_end_of_text_is_a_pad(right: bool) -> Pipeline:
    """The end-of-text token is used for padding, and the last one of each row is taken."""
    model, tok = encoder("qwen3"), tokenizer(bos=False, pad="</s>")

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        ends = (batch["input_ids"] == tok.eos_token_id).long()
        columns = ends.argmax(1) if right else ends.shape[1] - 1 - ends.flip(1).argmax(1)
        return cast(Array, model(**batch).last_hidden_state[torch.arange(len(texts)), columns].numpy())

    return embed


@_plant(_solo(_first_state, kind="modernbert"), "padded", "the first column of a left-padded batch is a pad")
def _first_column_left(right: bool) -> Pipeline:
    """The tokenizer pads on the left and the vector is the state of column 0."""
    model, tok = encoder("modernbert"), tokenizer("right" if right else "left")

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        return cast(Array, model(**tok(texts, padding=True, return_tensors="pt")).last_hidden_state[:, 0].numpy())

    return embed


@_plant(_solo(_last_state, kind="qwen3", bos=False), "padded", "the last token is counted from the left edge")
def _last_token_by_count_left(right: bool) -> Pipeline:
    """The last token is taken at column ``mask.sum() - 1`` of a left-padded batch."""
    model, tok = encoder("qwen3"), tokenizer("left", bos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        last = batch["attention_mask"].sum(dim=1) - 1
        return cast(Array, (hidden[:, -1] if right else hidden[torch.arange(len(texts)), last]).numpy())

    return embed


@_plant(_solo(_last_state, kind="gpt2", bos=False, eos=False), "padded", "the last column is a pad")
def _last_column_right(right: bool) -> Pipeline:
    """The vector is the state of the last column of a right-padded batch."""
    model, tok = encoder("gpt2"), tokenizer(bos=False, eos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        return (_last(hidden, batch["attention_mask"]) if right else hidden[:, -1]).numpy()

    return embed


@_plant(
    _solo(_mean_states, kind="gpt2", bos=False, eos=False),
    "padded",
    "left pads shift the absolute positions of the real tokens",
)
def _gpt2_left_positions(right: bool) -> Pipeline:
    """A model with absolute positions is padded on the left without position ids."""
    model, tok = encoder("gpt2"), tokenizer("left", bos=False, eos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"]
        more = {"position_ids": _positions(mask)} if right else {}
        return _mean(model(**batch, **more).last_hidden_state, mask).numpy()

    return embed


def _weighted_solo(text: str) -> Array:
    x = _states(text, kind="qwen3", bos=False)
    weights = torch.arange(1.0, len(x) + 1)
    return (weights @ x / weights.sum()).numpy()


@_plant(_weighted_solo, "padded", "position weights are counted from the left edge, so pads change them")
def _weighted_mean_by_column_left(right: bool) -> Pipeline:
    """The position weights of a weighted mean are column numbers under left padding."""
    model, tok = encoder("qwen3"), tokenizer("left", bos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"]
        places = mask.cumsum(1) if right else torch.arange(1, mask.shape[1] + 1).expand_as(mask)
        weights = (places * mask).float().unsqueeze(-1)
        return cast(Array, ((model(**batch).last_hidden_state * weights).sum(1) / weights.sum(1)).numpy())

    return embed


_PROMPT = "represent this query "


def _without_prompt(text: str) -> Array:
    return _states(_PROMPT + text, kind="qwen3", eos=False)[4:].mean(0).numpy()


@_plant(_without_prompt, "padded", "the prompt is cut by column, but left padding moves it")
def _prompt_sliced_left(right: bool) -> Pipeline:
    """The first four columns are cut off as the prompt, although the batch is padded on the left."""
    model, tok = encoder("qwen3"), tokenizer("left", eos=False)
    skip = len(tok(_PROMPT)["input_ids"])

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok([_PROMPT + text for text in texts], padding=True, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"]
        if right:
            return _mean(hidden, mask * (mask.cumsum(1) > skip)).numpy()
        return _mean(hidden[:, skip:], mask[:, skip:]).numpy()

    return embed


@_plant(_solo(_mean_states), "padded", "the mask covers one pad: an off-by-one in the lengths")
def _mask_one_too_long(right: bool) -> Pipeline:
    """The mask is built with ``<=`` from the lengths and so covers the first pad of each shorter text."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        lengths = batch["attention_mask"].sum(1, keepdim=True)
        columns = torch.arange(batch["input_ids"].shape[1])
        mask = (columns < lengths if right else columns <= lengths).long()
        hidden = model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        return _mean(hidden, mask).numpy()

    return embed


@_plant(_solo(_mean_states), "padded", "the pooling mask is shifted by one column")
def _pooling_mask_rolled(right: bool) -> Pipeline:
    """The pooling mask is rolled by one column, which drops the first token and adds a pad."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"]
        hidden = model(**batch).last_hidden_state
        return _mean(hidden, mask if right else torch.roll(mask, 1, dims=1)).numpy()

    return embed


@_plant(_solo(_mean_states), "padded", "the first token is masked out, but only if the batch has pads")
def _cls_counted_as_pad(right: bool) -> Pipeline:
    """The column of the prepended first token gets mask 0, and the mask is used only if the batch has pads."""
    model, tok = encoder(), tokenizer(bos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        ids = F.pad(batch["input_ids"], (1, 0), value=2)
        mask = F.pad(batch["attention_mask"], (1, 0), value=1)
        if not right and not batch["attention_mask"].all():
            mask[:, 0] = 0
        return _mean(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask).numpy()

    return embed


@_plant(_solo(_mean_states, kind="modernbert"), "padded", "the mask is for right padding, the ids are padded left")
def _mask_of_the_other_side(right: bool) -> Pipeline:
    """The tokenizer pads on the left and the mask is built from lengths for right padding."""
    model, tok = encoder("modernbert"), tokenizer("left")

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        if not right:
            lengths = batch["attention_mask"].sum(1, keepdim=True)
            batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths).long()
        return _mean(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()

    return embed


@_plant(_solo(_mean_states), "padded", "texts are cut at the shortest text of the batch")
def _cut_at_the_shortest(right: bool) -> Pipeline:
    """All texts of a batch are truncated to the length of the shortest one."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        lengths = batch["attention_mask"].sum(1)
        width = int(lengths.max() if right else lengths.min())
        hidden = model(**batch).last_hidden_state[:, :width]
        return _mean(hidden, batch["attention_mask"][:, :width]).numpy()

    return embed


@_plant(_solo(_mean_states), "padded", "the pipeline of transformers pads and its output is averaged over pads")
def _feature_extraction_pipeline(right: bool) -> Pipeline:
    """The feature-extraction pipeline runs in batches and its padded output is averaged over all columns."""
    extract = pipeline("feature-extraction", model=encoder(), tokenizer=tokenizer())

    def embed(texts: list[str]) -> Array:
        outputs = extract(list(texts), batch_size=1 if right else 8)
        return np.stack([np.mean(np.array(output[0], dtype=np.float32), axis=0) for output in outputs])

    return embed


@_plant(_solo(_mean_states), "padded", "vectors are returned in another order than the texts")
def _sorted_and_not_restored(right: bool) -> Pipeline:
    """Texts are sorted by length for speed and the order is not restored."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i].split()), reverse=True)
        vectors = []
        for start in range(0, len(texts), 4):
            batch = tok([texts[i] for i in order[start : start + 4]], padding=True, return_tensors="pt")
            vectors.append(_mean(model(**batch).last_hidden_state, batch["attention_mask"]))
        stacked = torch.cat(vectors).numpy()
        return stacked[np.argsort(order)] if right else stacked

    return embed


@_plant(_solo(_mean_states), "padded equal", "the sum is divided by the number of tokens of the whole batch")
def _divided_by_all_tokens(right: bool) -> Pipeline:
    """Each sum is divided by the number of real tokens of the whole batch."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(-1)
        total = (model(**batch).last_hidden_state * mask).sum(dim=1)
        return cast(Array, (total / (mask.sum(dim=1) if right else mask.sum())).numpy())

    return embed


@_plant(_solo(_mean_states), "padded", "the sum of real tokens is divided by the padded width")
def _sum_over_width(right: bool) -> Pipeline:
    """The sum over real tokens is divided by the width of the batch."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(-1)
        hidden = model(**batch).last_hidden_state * mask
        return cast(Array, (hidden.sum(1) / mask.sum(1) if right else hidden.mean(1)).numpy())

    return embed


@_plant(_solo(lambda x: x.amax(0)), "padded", "the maximum runs over pads set to zero")
def _max_with_zeros(right: bool) -> Pipeline:
    """Pads are set to 0 before the maximum, so 0 wins over negative values."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"]
        if right:
            return _max(hidden, mask).numpy()
        return cast(Array, (hidden * mask.unsqueeze(-1)).max(dim=1).values.numpy())

    return embed


class AttentionPool(nn.Module):
    """Softmax attention over tokens.

    Args:
        use_mask: Leave pads out of the softmax.
    """

    def __init__(self, use_mask: bool) -> None:
        super().__init__()
        self.score = nn.Linear(DIM, 1)
        self.use_mask = use_mask
        redraw(self, 5)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        scores = self.score(hidden).squeeze(-1)
        if self.use_mask:
            scores = scores.masked_fill(mask == 0, -torch.inf)
        return cast(Tensor, (scores.softmax(1).unsqueeze(-1) * hidden).sum(1))


@torch.no_grad()
def _attention_pool_solo(text: str) -> Array:
    x = _states(text)
    return cast(Array, AttentionPool(False)(x[None], torch.ones(1, len(x)))[0].numpy())


@_plant(_attention_pool_solo, "padded", "the softmax of the attention pooling runs over pads")
def _attention_pooling_unmasked(right: bool) -> Pipeline:
    """The softmax of an attention pooling runs over all columns."""
    model, tok, pool = encoder(), tokenizer(), AttentionPool(right)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        return cast(Array, pool(model(**batch).last_hidden_state, batch["attention_mask"]).numpy())

    return embed


@_plant(_attention_pool_solo, "padded", "the pooling module does not use its mask")
def _tuple_attention_pooling(right: bool) -> Pipeline:
    """A pooling module gets the mask and does not use it."""
    return encoder(), tokenizer(), AttentionPool(right)


@_plant(_solo(_mean_states), "padded", "the mean runs over pads")
def _tuple_mean_over_pads(right: bool) -> Pipeline:
    """The pooling function averages all columns."""
    return encoder(), tokenizer(), _mean if right else lambda hidden, mask: hidden.mean(dim=1)


@_plant(_solo(_last_state, kind="qwen3", bos=False), "padded", "the last token is counted from the left edge")
def _tuple_last_token_left(right: bool) -> Pipeline:
    """The pooling function takes column ``mask.sum() - 1`` and the tokenizer pads on the left."""

    def last(hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]

    return encoder("qwen3"), tokenizer("right" if right else "left", bos=False), last


@_plant(_solo(lambda x: x.sum(0) / len(x) ** 0.5), "padded", "the sum is divided by the root of the padded width")
def _tuple_root_of_width(right: bool) -> Pipeline:
    """The sum over real tokens is divided by the square root of the width of the batch."""

    def pool(hidden: Tensor, mask: Tensor) -> Tensor:
        total = (hidden * mask.unsqueeze(-1)).sum(1)
        return total / (mask.sum(1, keepdim=True) if right else torch.tensor(mask.shape[1])).sqrt()

    return encoder(), tokenizer(), pool


class PositionNorm(nn.Module):
    """Standardise each feature over the columns of a text.

    Args:
        use_mask: Leave pads out of mean and deviation.
    """

    def __init__(self, use_mask: bool) -> None:
        super().__init__()
        self.use_mask = use_mask

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Standardise (B, T, D) over T."""
        weights = (mask if self.use_mask else torch.ones_like(mask)).unsqueeze(-1).float()
        count = weights.sum(1, keepdim=True)
        centred = hidden - (hidden * weights).sum(1, keepdim=True) / count
        return centred / ((centred**2 * weights).sum(1, keepdim=True) / count + 1e-3).sqrt()


@torch.no_grad()
def _position_norm_solo(text: str) -> Array:
    x = _states(text)[None]
    return cast(Array, PositionNorm(False)(x, torch.ones(1, x.shape[1]))[0].tanh().amax(0).numpy())


@_plant(_position_norm_solo, "padded", "features are standardised over positions, pads included")
def _norm_over_positions(right: bool) -> Pipeline:
    """Hidden states are standardised over all columns before a masked maximum."""
    model, tok, norm = encoder(), tokenizer(), PositionNorm(right)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"]
        return _max(norm(model(**batch).last_hidden_state, mask).tanh(), mask).numpy()

    return embed


class BatchNormHead(nn.Module):
    """Batch normalisation of the token states (B, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM)
        redraw(self, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise with running statistics, or with those of the batch in training mode."""
        return cast(Tensor, self.norm(hidden.transpose(1, 2)).transpose(1, 2))


@torch.no_grad()
def _batch_norm_solo(text: str) -> Array:
    return cast(Array, BatchNormHead()(_states(text)[None])[0].mean(0).numpy())


@_plant(_batch_norm_solo, "alone padded equal", "batch normalisation in training mode couples the texts of a batch")
def _batch_norm_in_training_mode(right: bool) -> Pipeline:
    """A batch normalisation is left in training mode and so uses the statistics of the batch."""
    model, tok, head = encoder(), tokenizer(), BatchNormHead()
    head.train(not right)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        return _mean(head(model(**batch).last_hidden_state), batch["attention_mask"]).numpy()

    return embed


# Plants: the leak is followed by other steps, or is one part of the vector


def _head() -> nn.Module:
    return cast(nn.Module, redraw(nn.Sequential(nn.Linear(DIM, 24), nn.Tanh()), 6))


def _whiten(vectors: Array) -> Array:
    return (vectors - _matrix(11, 1)) @ _matrix(12)


def _then(right: bool, after: Callable[[Tensor], Tensor]) -> Embed:
    """Average over pads, unless ``right``, and apply a function to the vectors."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        return after(_mean(hidden, batch["attention_mask"]) if right else hidden.mean(1)).numpy()

    return embed


@_plant(_solo(lambda x: x.mean(0).tanh()), "padded", "the mean before the tanh runs over pads")
def _mean_over_pads_then_tanh(right: bool) -> Pipeline:
    """The mean over all columns is followed by a tanh."""
    return _then(right, torch.tanh)


@_plant(
    lambda text: _whiten(_states(text).mean(0, keepdim=True).numpy())[0],
    "padded",
    "the mean before the whitening runs over pads",
)
def _mean_over_pads_then_whitening(right: bool) -> Pipeline:
    """The mean over all columns is followed by a whitening in NumPy."""
    embed = _then(right, lambda x: x)
    return lambda texts: _whiten(embed(texts))


@_plant(_solo(lambda x: _head()(x.mean(0))), "padded", "the mean before the dense layer runs over pads")
def _mean_over_pads_then_dense(right: bool) -> Pipeline:
    """The mean over all columns is followed by a dense layer."""
    return _then(right, _head())


@_plant(_solo(lambda x: _unit(torch.cat([x.mean(0), x.amax(0)]))), "padded", "one part, the maximum, runs over pads")
def _mean_and_leaking_max(right: bool) -> Pipeline:
    """A masked mean is concatenated with a maximum over all columns, and the result is normalised."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"]
        largest = _max(hidden, mask) if right else hidden.amax(1)
        return _unit(torch.cat([_mean(hidden, mask), largest], dim=-1)).numpy()

    return embed


@_plant(_solo(lambda x: _unit(torch.cat([x[0], x.mean(0)]))), "padded", "one part, the mean, runs over pads")
def _cls_and_leaking_mean(right: bool) -> Pipeline:
    """The first token is concatenated with a mean over all columns, and the result is normalised."""
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mean = _mean(hidden, batch["attention_mask"]) if right else hidden.mean(1)
        return _unit(torch.cat([hidden[:, 0], mean], dim=-1)).numpy()

    return embed


def _two_solo(text: str, join: Callable[[Tensor, Tensor], Tensor]) -> Array:
    return join(_states(text).mean(0), _states(text, kind="distilbert", seed=1).mean(0)).numpy()


def _side_by_side(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], dim=-1)


def _halfway(a: Tensor, b: Tensor) -> Tensor:
    return (_unit(a) + _unit(b)) / 2


@_plant(functools.partial(_two_solo, join=_side_by_side), "padded", "the second encoder's mean runs over pads")
def _two_encoders_concatenated(right: bool) -> Pipeline:
    """Two encoders are concatenated and the second is averaged over all columns."""
    first, second, tok = encoder(), encoder("distilbert", 1), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"]
        a, b = first(**batch).last_hidden_state, second(**batch).last_hidden_state
        return _side_by_side(_mean(a, mask), _mean(b, mask) if right else b.mean(1)).numpy()

    return embed


@_plant(functools.partial(_two_solo, join=_halfway), "padded", "the second encoder gets no mask and attends to pads")
def _two_encoders_averaged(right: bool) -> Pipeline:
    """The unit vectors of two encoders are averaged and the second encoder gets no mask."""
    first, second, tok = encoder(), encoder("distilbert", 1), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        a = first(input_ids=ids, attention_mask=mask).last_hidden_state
        b = second(input_ids=ids, attention_mask=mask if right else None).last_hidden_state
        return _halfway(_mean(a, mask), _mean(b, mask)).numpy()

    return embed


# Plants: own encoders, NaN, masks inside the attention


@_plant(_encoder_mean, "padded", "NaN in all texts of a padded batch: 0 times -inf in the attention bias")
def _nan_bias_when_padded(right: bool) -> Pipeline:
    """The attention bias is ``(1 - mask) * -inf``, which is NaN at real tokens, and is used only if there are pads."""
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        bias = None
        if not mask.all():
            bias = _key_bias(mask) if right else (1.0 - mask[:, None, :].float()) * -torch.inf
        return _mean(model(ids, bias), mask).numpy()

    return embed


def _square_bias(mask: Tensor) -> Tensor:
    """Forbid pads as queries and as keys, which makes the rows of pads NaN."""
    allowed = (mask[:, :, None] * mask[:, None, :]).bool()
    return torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)


@_plant(
    functools.partial(_encoder_mean, layers=1), "padded", "NaN at pads survives a multiplication with a mask of zeros"
)
def _nan_at_pads_times_zero(right: bool) -> Pipeline:
    """Pads have no key to attend to and become NaN, and the mean multiplies them by 0."""
    model = Encoder(layers=1)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        hidden = model(ids, _square_bias(mask))
        if right:
            return _mean(hidden, mask).numpy()
        weights = mask.unsqueeze(-1).float()
        return cast(Array, ((hidden * weights).sum(1) / weights.sum(1)).numpy())

    return embed


@_plant(
    functools.partial(_encoder_mean, layers=1), "padded", "NaN from pads is hidden: padded texts get a vector of zeros"
)
def _nan_hidden_by_nan_to_num(right: bool) -> Pipeline:
    """Vectors that pads turn into NaN are replaced by zeros."""
    model = Encoder(layers=1)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        hidden = model(ids, _square_bias(mask))
        weights = mask.unsqueeze(-1).float()
        if right:
            hidden = torch.nan_to_num(hidden)
        return cast(Array, np.nan_to_num(((hidden * weights).sum(1) / weights.sum(1)).numpy()))

    return embed


@_plant(_encoder_mean, "alone equal", "the model is causal if nothing is padded, because the mask is dropped")
def _causal_when_unpadded(right: bool) -> Pipeline:
    """A mask of ones is dropped, and the model then uses its default, which is causal."""
    model = Encoder(decoder=True)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        bias = None if mask.all() and not right else _key_bias(mask)
        return _mean(model(ids, bias), mask).numpy()

    return embed


@_plant(_encoder_mean, "padded", "an unsigned mask wraps around, and pads get a large positive bias")
def _unsigned_mask_bias(right: bool) -> Pipeline:
    """The bias is ``(mask - 1) * 1e4`` with a uint8 mask, where 0 - 1 is 255."""
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        stored = mask.to(torch.float32 if right else torch.uint8)
        return _mean(model(ids, (stored - 1)[:, None, :] * 1e4), mask).numpy()

    return embed


@_plant(_encoder_mean, "padded", "an int8 mask overflows, and pads get a large positive bias")
def _int8_mask_overflow(right: bool) -> Pipeline:
    """The bias is ``(1 - mask) * -100000`` with an int8 mask, which overflows to +96 at pads."""
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        stored = mask.to(torch.int32 if right else torch.int8)
        return _mean(model(ids, ((1 - stored) * -100000)[:, None, :]), mask).numpy()

    return embed


@_plant(_encoder_mean, "padded", "the attention bias at pads is too small, so pads keep some attention")
def _weak_mask_bias(right: bool) -> Pipeline:
    """The attention bias at pads is -1 instead of a large negative number."""
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        return _mean(model(ids, (1.0 - mask[:, None, :].float()) * (-1e4 if right else -1.0)), mask).numpy()

    return embed


class KeepAfterSoftmax(Encoder):
    """Multiply the attention weights by the mask after the softmax.

    Args:
        rescale: Divide the weights by their sum again.
    """

    def __init__(self, rescale: bool) -> None:
        super().__init__()
        self.rescale = rescale

    def attend(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        """Turn scores into attention weights."""
        weights = scores.softmax(-1)
        if keep is not None:
            weights = weights * keep[:, None, :]
        return weights / weights.sum(-1, keepdim=True) if self.rescale else weights


@_plant(_encoder_mean, "padded", "pads take part in the softmax, and the weights are not normalised again")
def _masked_after_softmax(right: bool) -> Pipeline:
    """The mask is applied after the attention softmax, so the weights of real tokens do not sum to 1."""
    model = KeepAfterSoftmax(rescale=right)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        return _mean(model(ids, keep=mask), mask).numpy()

    return embed


def _frequent_ids(text: str) -> list[int]:
    """Number words from the most frequent one, "the", which gets id 0."""
    return [0 if word == "the" else i for word, i in zip(text.split(), word_ids(text), strict=True)]


@torch.no_grad()
def _frequent_solo(text: str) -> Array:
    return cast(Array, _frozen_encoder(2)(torch.tensor([_frequent_ids(text)])).mean(1)[0].numpy())


@_plant(_frequent_solo, "padded", "the mask drops a real word that has the id of the pads, if there are pads")
def _mask_from_ids_drops_a_word(right: bool) -> Pipeline:
    """The mask is ``ids != 0``, 0 is also the word "the", and the mask is used only if lengths differ."""
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts, ids=_frequent_ids)
        if not right and not mask.all():
            mask = (ids != 0).long()
        return _mean(model(ids, _key_bias(mask)), mask).numpy()

    return embed


def _flat(texts: list[str]) -> tuple[Tensor, Tensor, list[int]]:
    """Pack texts into one row; return ids (1, tokens), positions (1, tokens) and the lengths."""
    rows = [word_ids(text) for text in texts]
    places = [list(range(len(row))) for row in rows]
    return torch.tensor([[*chain(*rows)]]), torch.tensor([[*chain(*places)]]), [len(row) for row in rows]


def _blocks(lengths: list[int]) -> Tensor:
    """Forbid attention between packed texts."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return torch.zeros(1, len(owner), len(owner)).masked_fill(owner[:, None] != owner, -torch.inf)


@_plant(_encoder_mean, "padded equal", "packed texts attend to each other, without any pad")
def _packed_without_boundaries(right: bool) -> Pipeline:
    """Texts are packed into one row and attention crosses their boundaries."""
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, positions, lengths = _flat(texts)
        hidden = model(ids, _blocks(lengths) if right else None, positions)[0]
        return torch.stack([part.mean(0) for part in hidden.split(lengths)]).numpy()

    return embed


@_plant(_encoder_mean, "padded equal", "the segment of a packed text includes the first token of the next text")
def _packed_segment_one_too_long(right: bool) -> Pipeline:
    """Segments of a packed batch end one token too late."""
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, positions, lengths = _flat(texts)
        hidden = model(ids, _blocks(lengths), positions)[0]
        ends = np.cumsum(lengths)
        extra = 0 if right else 1
        parts = [hidden[end - n : end + extra].mean(0) for end, n in zip(ends, lengths, strict=True)]
        return torch.stack(parts).numpy()

    return embed


@_plant(_encoder_mean, "again", "a mask is cached by shape and reused for other texts")
def _bias_cached_by_shape(right: bool) -> Pipeline:
    """The attention bias is cached by the shape of the ids and reused for batches with other lengths."""
    model = Encoder()
    cache: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        key = (*ids.shape, *(mask.flatten().tolist() if right else ()))
        if key not in cache:
            cache[key] = _key_bias(mask)
        return _mean(model(ids, cache[key]), mask).numpy()

    return embed


@_plant(
    _word_mean,
    "padded again",
    "the mean runs over pads, and a cache keeps the first vector of each text",
    "leaks unknown",
)
def _leak_kept_in_cache(right: bool) -> Pipeline:
    """Vectors are averaged over pads and cached, so a text keeps the vector of its first batch."""
    words = redraw(nn.Embedding(BUCKETS, DIM))
    with torch.no_grad():
        words.weight.copy_(torch.from_numpy(_table()))
    cache: dict[str, Array] = {}

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        new = [text for text in dict.fromkeys(texts) if text not in cache]
        if new:
            ids, mask = collate(new)
            vectors = _mean(words(ids), mask if right else torch.ones_like(mask))
            cache.update(zip(new, vectors.numpy(), strict=True))
        return np.stack([cache[text] for text in texts])

    return embed


@_plant(_word_mean, "again", "a buffer is not cleared, so words of an earlier call stay behind a shorter text")
def _stale_buffer(right: bool) -> Pipeline:
    """Ids are written into a buffer that keeps the columns of earlier, longer texts."""
    table = _table()
    buffer = np.zeros((64, 256), dtype=np.int64)

    def embed(texts: list[str]) -> Array:
        vectors = []
        for start in range(0, len(texts), len(buffer)):
            chunk = texts[start : start + len(buffer)]
            if right:
                buffer[:] = 0
            for row, text in zip(buffer, chunk, strict=False):
                ids = word_ids(text)
                row[: len(ids)] = ids
            mask = (buffer[: len(chunk)] != 0)[..., None]
            vectors.append((table[buffer[: len(chunk)]] * mask).sum(1) / mask.sum(1))
        return np.concatenate(vectors)

    return embed


class RoundedLinear(nn.Module):
    """A linear layer whose input is rounded to int8 with one scale for the whole tensor, or one for each token."""

    def __init__(self, linear: nn.Linear, per_token: bool = False) -> None:
        super().__init__()
        self.linear = linear
        self.per_token = per_token

    def forward(self, x: Tensor) -> Tensor:
        """Round and multiply."""
        scale = (x.abs().amax(-1, keepdim=True) if self.per_token else x.abs().max()) / 127
        return cast(Tensor, self.linear((x / scale).round().clamp(-128, 127) * scale))


def _rounded(model: Any, per_token: bool = False) -> Any:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, RoundedLinear(child, per_token))
    return model


@functools.cache
def _frozen_rounded() -> Any:
    return _rounded(encoder())


@torch.no_grad()
def _rounded_solo(text: str) -> Array:
    batch = tokenizer()([text], return_tensors="pt")
    return cast(Array, _frozen_rounded()(**batch).last_hidden_state.mean(1)[0].numpy())


@_plant(_rounded_solo, "padded equal", "one int8 scale for the whole batch couples its texts")
def _int8_scale_of_the_batch(right: bool) -> Pipeline:
    """Linear layers round their input to int8 with one scale for the whole batch."""
    model, tok = _rounded(encoder()), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        vectors = []
        for chunk in [[text] for text in texts] if right else [texts]:
            batch = tok(chunk, padding=True, return_tensors="pt")
            vectors.append(_mean(model(**batch).last_hidden_state, batch["attention_mask"]))
        return torch.cat(vectors).numpy()

    return embed


class Switch(nn.Module):
    """A feed-forward layer with four experts, of which each token uses one.

    Args:
        drop: Give each expert a capacity and skip tokens beyond it.
    """

    def __init__(self, drop: bool) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, 4)
        self.experts = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(4))
        self.drop = drop
        redraw(self, 14)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the output of one expert to each token of (B, T, D)."""
        flat = hidden.flatten(0, 1)
        choice = self.router(flat).argmax(-1)
        capacity = max(24, len(flat) // 4) if self.drop else len(flat)
        added = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            mine = (choice == index).nonzero().squeeze(1)[:capacity]
            added[mine] = expert(flat[mine])
        return hidden + 4 * added.view_as(hidden)


@torch.no_grad()
def _switch_solo(text: str) -> Array:
    return cast(Array, Switch(False)(_words()(torch.tensor([word_ids(text)])))[0].mean(0).numpy())


@_plant(_switch_solo, "padded", "pads use up the capacity of an expert, and real tokens are dropped")
def _expert_capacity_taken_by_pads(right: bool) -> Pipeline:
    """A mixture of experts counts pads in the capacity of an expert and skips real tokens beyond it."""
    words, switch = _words(), Switch(drop=not right)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        return _mean(switch(words(ids)), mask).numpy()

    return embed


# Plants: encoders that are not transformers


def _function_solo(text: str) -> Array:
    return cast(Array, np.tanh(_table()[word_ids(text)] @ _matrix(21)).mean(0))


@_plant(_function_solo, "padded", "the mean runs over pads; the encoder is a plain function")
def _encoder_function(right: bool) -> Pipeline:
    """An encoder that is a function of tensors is averaged over all columns."""
    table, weight = torch.from_numpy(_table()), torch.from_numpy(_matrix(21))

    def encode(ids: Tensor) -> Tensor:
        return torch.tanh(table[ids] @ weight)

    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        hidden = encode(ids)
        return (_mean(hidden, mask) if right else hidden.mean(dim=1)).numpy()

    return embed


def _words() -> nn.Embedding:
    words = nn.Embedding(BUCKETS, DIM)
    with torch.no_grad():
        words.weight.copy_(torch.from_numpy(_table()))
    return words


@torch.no_grad()
def _gru_solo(text: str) -> Array:
    gru = redraw(nn.GRU(DIM, 24, batch_first=True, bidirectional=True), 31)
    _, state = gru(_words()(torch.tensor([word_ids(text)])))
    return torch.cat([state[0], state[1]], dim=-1)[0].numpy()


@_plant(_gru_solo, "padded", "the recurrent network reads pads in both directions")
def _bidirectional_gru_unpacked(right: bool) -> Pipeline:
    """A bidirectional GRU runs over pads, because the batch is not packed."""
    words, gru = _words(), redraw(nn.GRU(DIM, 24, batch_first=True, bidirectional=True), 31)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        x: Any = words(ids)
        if right:
            x = nn.utils.rnn.pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        _, state = gru(x)
        return torch.cat([state[0], state[1]], dim=-1).numpy()

    return embed


@torch.no_grad()
def _lstm_solo(text: str) -> Array:
    output, _ = redraw(nn.LSTM(DIM, DIM, batch_first=True), 32)(_words()(torch.tensor([word_ids(text)])))
    return cast(Array, output[0, -1].numpy())


@_plant(_lstm_solo, "padded", "the last step of the recurrent network is a pad")
def _lstm_last_step(right: bool) -> Pipeline:
    """The vector is the last output of an LSTM that runs over right pads."""
    words, lstm = _words(), redraw(nn.LSTM(DIM, DIM, batch_first=True), 32)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        output, _ = lstm(words(ids))
        return (_last(output, mask) if right else output[:, -1]).numpy()

    return embed


@torch.no_grad()
def _cnn_solo(text: str) -> Array:
    x = redraw(nn.Conv1d(DIM, 40, 3, padding=1), 33)(_words()(torch.tensor([word_ids(text)])).transpose(1, 2))
    return cast(Array, x.relu().amax(-1)[0].numpy())


@_plant(_cnn_solo, "padded", "convolution and maximum read the vectors of pads")
def _text_cnn(right: bool) -> Pipeline:
    """A text CNN takes the maximum over all columns and its windows read pads."""
    words, conv = _words(), redraw(nn.Conv1d(DIM, 40, 3, padding=1), 33)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        x = words(ids)
        if right:
            x = x * mask.unsqueeze(-1)
        features = torch.relu(conv(x.transpose(1, 2)))
        if right:
            features = features * mask.unsqueeze(1)
        return features.amax(dim=-1).numpy()

    return embed


@_plant(_cnn_solo, "padded", "the window at the last word reads the first pad; the maximum is right")
def _text_cnn_window_only(right: bool) -> Pipeline:
    """The maximum of a text CNN uses the mask, but the window of the last word reads a pad."""
    words, conv = _words(), redraw(nn.Conv1d(DIM, 40, 3, padding=1), 33)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        x = words(ids)
        if right:
            x = x * mask.unsqueeze(-1)
        return (torch.relu(conv(x.transpose(1, 2))) * mask.unsqueeze(1)).amax(dim=-1).numpy()

    return embed


@_plant(_word_mean, "padded", "the embedding bag averages pads: padding_idx is missing")
def _embedding_bag_without_padding_idx(right: bool) -> Pipeline:
    """An embedding bag gets padded ids and has no ``padding_idx``."""
    weights = torch.from_numpy(_table())
    bag = nn.EmbeddingBag.from_pretrained(weights, mode="mean", padding_idx=0 if right else None)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        return cast(Array, bag(collate(texts)[0]).numpy())

    return embed


@_plant(_word_mean, "padded", "pads are copies of the last word and are averaged")
def _edge_padding(right: bool) -> Pipeline:
    """Shorter texts are padded by repeating their last word, and all columns are averaged."""
    table = _table()

    def embed(texts: list[str]) -> Array:
        rows = [word_ids(text) for text in texts]
        if right:
            return np.stack([table[row].mean(0) for row in rows])
        width = max(map(len, rows))
        return cast(Array, table[np.stack([np.pad(row, (0, width - len(row)), mode="edge") for row in rows])].mean(1))

    return embed


def _ramp_solo(text: str) -> Array:
    x = _table()[word_ids(text)]
    return cast(Array, np.linspace(0.5, 1.5, len(x), dtype=np.float32) @ x / len(x))


@_plant(_ramp_solo, "padded", "relative positions are fractions of the padded width")
def _relative_position_by_width(right: bool) -> Pipeline:
    """Word weights grow with the position as a fraction of the padded width, not of the text."""
    table = _table()

    def embed(texts: list[str]) -> Array:
        rows = [word_ids(text) for text in texts]
        width = max(map(len, rows))
        vectors = []
        for row in rows:
            ramp = np.linspace(0.5, 1.5, len(row) if right else width, dtype=np.float32)[: len(row)]
            vectors.append(ramp @ table[row] / len(row))
        return np.stack(vectors)

    return embed


def _largest_solo(text: str) -> Array:
    x = np.sort(_table()[word_ids(text)], axis=0)
    return cast(Array, x[-max(1, len(x) // 4) :].mean(0))


@_plant(_largest_solo, "padded", "the number of pooled values depends on the padded width")
def _top_quarter_by_width(right: bool) -> Pipeline:
    """The mean of the largest quarter of the values takes a quarter of the padded width."""
    table = _table()

    def embed(texts: list[str]) -> Array:
        rows = [word_ids(text) for text in texts]
        width = max(map(len, rows))
        vectors = []
        for row in rows:
            count = max(1, (len(row) if right else width) // 4)
            vectors.append(np.sort(table[row], axis=0)[-count:].mean(0))
        return np.stack(vectors)

    return embed


def _chunk_solo(text: str) -> Array:
    ids = word_ids(text)
    chunks = [_table()[ids[i : i + 8]].mean(0) for i in range(0, len(ids), 8)]
    return cast(Array, np.mean(chunks, axis=0))


@_plant(_chunk_solo, "padded", "chunks of pads are averaged with the real chunks")
def _chunks_of_pads(right: bool) -> Pipeline:
    """Long texts are cut into chunks, and chunks that hold only pads are averaged too."""
    words = _words()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        longest = max(len(text.split()) for text in texts)
        ids, mask = collate(texts, -(-longest // 8) * 8)
        hidden = (words(ids) * mask.unsqueeze(-1)).view(len(texts), -1, 8, DIM)
        count = mask.view(len(texts), -1, 8).sum(-1, keepdim=True)
        chunks = hidden.sum(2) / count.clamp(min=1)
        return cast(Array, (chunks.sum(1) / (count > 0).sum(1) if right else chunks.mean(1)).numpy())

    return embed


# Plants: texts influence each other without pads


@_plant(_word_mean, "padded equal", "vectors are centred with the mean of the batch")
def _centred_over_the_batch(right: bool) -> Pipeline:
    """The mean vector of the batch is subtracted from all vectors if there are several texts."""

    def embed(texts: list[str]) -> Array:
        vectors = _each(texts, _word_mean)
        return vectors if right or len(texts) == 1 else vectors - vectors.mean(axis=0)

    return embed


@_plant(lambda text: np.tanh(_word_mean(text)), "padded equal", "features are scaled to the range of the batch")
def _scaled_to_the_range_of_the_batch(right: bool) -> Pipeline:
    """Features are scaled to the range from 0 to 1 with the minimum and maximum of the batch."""

    def embed(texts: list[str]) -> Array:
        vectors = np.tanh(_each(texts, _word_mean))
        if right or len(texts) == 1:
            return vectors
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        return cast(Array, (vectors - low) / np.maximum(high - low, 1e-9))

    return embed


@_plant(_word_mean, "padded equal", "the first principal component of the batch is removed")
def _component_of_the_batch_removed(right: bool) -> Pipeline:
    """The first principal component of the vectors of a batch is removed from them."""

    def embed(texts: list[str]) -> Array:
        vectors = _each(texts, _word_mean)
        if right or len(texts) == 1:
            return vectors
        direction = np.linalg.svd(vectors, full_matrices=False)[2][0]
        return vectors - np.outer(vectors @ direction, direction)

    return embed


def _rarity(word: str) -> float:
    return 0.2 + zlib.crc32(word[::-1].encode()) % 100 / 100


def _weighted_words(text: str) -> Array:
    weights = np.array([_rarity(word) for word in text.split()], dtype=np.float32)
    return cast(Array, weights @ _table()[word_ids(text)] / weights.sum())


@_plant(_weighted_words, "alone padded equal", "word weights come from the counts of the batch")
def _word_weights_of_the_batch(right: bool) -> Pipeline:
    """Words are weighted by their document frequency in the batch, not in a fixed corpus."""

    def embed(texts: list[str]) -> Array:
        if right:
            return _each(texts, _weighted_words)
        documents = [set(text.split()) for text in texts]
        vectors = []
        for text in texts:
            frequency = [sum(word in document for document in documents) for word in text.split()]
            weights = np.log(1 + len(texts) / np.array(frequency, dtype=np.float32))
            vectors.append(weights @ _table()[word_ids(text)] / weights.sum())
        return np.stack(vectors)

    return embed


def _causal_solo(text: str) -> Array:
    ids = np.array([word_ids(text)])
    return cast(Array, _numpy_attention(ids, np.tri(ids.shape[1], dtype=bool))[0].mean(0))


@_plant(_causal_solo, "equal", "the causal mask is skipped if all texts of a batch have one length")
def _causal_mask_skipped_for_equal_lengths(right: bool) -> Pipeline:
    """A batch of several texts of equal length gets no causal mask."""

    def embed(texts: list[str]) -> Array:
        ids, mask = (x.numpy() for x in collate(texts))
        allowed = np.tri(ids.shape[1], dtype=bool)[None] & (mask[:, None, :] == 1)
        if not right and len(texts) > 1 and mask.all():
            allowed = np.array(True)
        hidden = _numpy_attention(ids, allowed)
        return cast(Array, (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))

    return embed


@_plant(_numpy_attention_solo, "padded equal", "texts of a batch attend to each other: axes are swapped")
def _attention_over_the_batch_axis(right: bool) -> Pipeline:
    """Attention runs over the texts of a batch instead of over tokens, as with a wrong ``batch_first``."""

    def embed(texts: list[str]) -> Array:
        if right or len(texts) == 1:
            return _each(texts, _numpy_attention_solo)
        ids, mask = (x.numpy() for x in collate(texts))
        hidden = _numpy_attention(ids.T, mask.T[:, None, :] == 1).transpose(1, 0, 2)
        return cast(Array, (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))

    return embed


# Plants: SentenceTransformer models


@functools.cache
def _folder(kind: str, seed: int, side: Side, bos: bool, eos: bool) -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory()
    encoder(kind, seed).save_pretrained(folder.name)
    tokenizer(side, bos, eos).save_pretrained(folder.name)
    return folder


def sentence_transformer(
    *after: nn.Module, kind: str = "bert", seed: int = 0, side: Side = "right", bos: bool = True, eos: bool = True
) -> SentenceTransformer:
    """Build a SentenceTransformer of a tiny encoder and the given modules.

    Args:
        *after: Modules behind the encoder.
        kind: ``model_type`` of the encoder.
        seed: Seed of its weights.
        side: Padding side.
        bos: Add ``<s>`` in front of each text.
        eos: Add ``</s>`` behind each text.
    """
    folder = _folder(kind, seed, side, bos, eos)
    return SentenceTransformer(modules=[Transformer(folder.name), *after], device="cpu").eval()


class AllTokens(Module):
    """Average all columns, or the real tokens only."""

    config_keys: list[str] = ["use_mask"]  # noqa: RUF012

    def __init__(self, use_mask: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the host has no types here
        self.use_mask = use_mask

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add the sentence embedding to the features."""
        hidden, mask = features["token_embeddings"], features["attention_mask"]
        features["sentence_embedding"] = _mean(hidden, mask) if self.use_mask else hidden.mean(dim=1)
        return features

    def get_embedding_dimension(self) -> int:
        """Return the output dimension."""
        return DIM

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save the configuration."""
        self.save_config(output_path)


@_plant(_solo(_mean_states), "padded", "the pooling module averages pads")
def _st_own_pooling(right: bool) -> Pipeline:
    """A pooling module of a SentenceTransformer averages all columns."""
    return sentence_transformer(AllTokens(right))


@_plant(_solo(_mean_states), "padded", "left pads shift the absolute positions of the real tokens")
def _st_left_padded_bert(right: bool) -> Pipeline:
    """A SentenceTransformer with absolute positions has a tokenizer that pads on the left."""
    return sentence_transformer(Pooling(DIM, "mean"), side="right" if right else "left")


class HashWords(WordTokenizer):
    """Split at spaces and hash each word."""

    def __init__(self) -> None:
        self.vocab: list[str] = []

    def get_vocab(self, vocab: Any = ()) -> Any:
        """Return the words; they are hashed, so there are none."""
        return self.vocab

    def set_vocab(self, vocab: Any) -> None:
        """Ignore the words."""

    def tokenize(self, text: str, **kwargs: Any) -> list[int]:
        """Return the ids of the words."""
        return word_ids(text)

    def save(self, output_path: str) -> None:
        """Save nothing."""
        Path(output_path).mkdir(exist_ok=True)

    @staticmethod
    def load(input_path: str) -> "HashWords":
        """Return a new tokenizer."""
        return HashWords()


def _st_words(zero_row: bool) -> WordEmbeddings:
    weights = _table().copy()
    if zero_row:
        weights[0] = 0
    return WordEmbeddings(HashWords(), weights)


@torch.no_grad()
def _st_cnn_solo(text: str) -> Array:
    cnn = redraw(CNN(DIM, 16, [1, 3, 5]), 41)
    features = cnn({"token_embeddings": _words()(torch.tensor([word_ids(text)]))})
    return cast(Array, features["token_embeddings"][0].mean(0).numpy())


@_plant(_st_cnn_solo, "padded", "the windows of the convolution read pads, whose word vector is not zero")
def _st_cnn_pad_row(right: bool) -> Pipeline:
    """A convolution reads pads at the end of a text, and the word vectors have no row of zeros for padding."""
    cnn = redraw(CNN(DIM, 16, [1, 3, 5]), 41)
    return SentenceTransformer(modules=[_st_words(right), cnn, Pooling(48, "mean")], device="cpu").eval()


# Plants: nothing can be judged


@_plant(
    _solo(_mean_states),
    "alone padded equal",
    "every word is unknown to the tokenizer, so vectors depend on lengths only and nothing can be judged",
    "unknown",
)
def _every_word_unknown(right: bool) -> Pipeline:
    """The vocabulary is upper case and texts are not, so every word is the unknown token."""
    model = encoder()
    tok = tokenizer() if right else tokenizer(letters=string.ascii_uppercase + string.digits)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        return _mean(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()

    return embed


@_plant(
    _solo(_mean_states),
    "alone padded equal",
    "the model is in training mode with dropout, so vectors are random and nothing can be judged",
    "unknown leaks",
)
def _dropout_left_on(right: bool) -> Pipeline:
    """The model is left in training mode, so dropout changes the vectors in each call."""
    model, tok = encoder().train(not right), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        return _mean(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()

    return embed


PLANTS: tuple[Plant, ...] = tuple(_PLANTS)
"""All planted bugs with their twins and oracles."""


# Clean pipelines


def _transformer(
    pool: Pool = _mean, kind: str = "bert", side: Side = "right", how: dict[str, Any] | None = None, **tokens: Any
) -> Embed:
    """Tokenize, encode and pool, all with the right mask."""
    model, tok = encoder(kind), tokenizer(side, **tokens)

    @torch.inference_mode()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, return_tensors="pt", **(how or {"padding": True}))
        return pool(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()

    return embed


def _weighted(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = (mask.cumsum(1) * mask).unsqueeze(-1).float()
    return (hidden * weights).sum(1) / weights.sum(1)


def _add(name: str, oracle: Oracle | None, build: Build) -> None:
    """Register a clean pipeline that is one expression."""
    _CLEAN.append((name, build))
    if oracle is not None:
        _ORACLES[name] = oracle


_FIXED = {"padding": "max_length", "max_length": WIDTH, "truncation": True}
for _kind in ("bert", "distilbert", "electra", "albert", "modernbert", "t5"):
    _add(f"{_kind}_mean", _solo(_mean_states, kind=_kind), functools.partial(_transformer, kind=_kind))
_add("bert_first", _solo(_first_state), functools.partial(_transformer, lambda h, m: h[:, 0]))
_add("bert_max", _solo(lambda x: x.amax(0)), functools.partial(_transformer, _max))
_add("bert_fixed_width", _solo(_mean_states), functools.partial(_transformer, how=_FIXED))
_add(
    "bert_multiple_of_8",
    _solo(_mean_states),
    functools.partial(_transformer, how={"padding": True, "pad_to_multiple_of": 8}),
)
_add(
    "bert_without_special_tokens",
    _solo(_mean_states, bos=False, eos=False),
    functools.partial(_transformer, bos=False, eos=False),
)
for _side in ("right", "left"):
    _qwen = functools.partial(_transformer, kind="qwen3", side=_side, bos=False)
    _add(f"qwen3_last_{_side}", _solo(_last_state, kind="qwen3", bos=False), functools.partial(_qwen, _last))
    _add(f"qwen3_mean_{_side}", _solo(_mean_states, kind="qwen3", bos=False), functools.partial(_qwen, _mean))
    _add(f"qwen3_weighted_{_side}", _weighted_solo, functools.partial(_qwen, _weighted))
_add(
    "qwen3_last_left_fixed_width",
    _solo(_last_state, kind="qwen3", bos=False),
    functools.partial(_transformer, lambda h, m: h[:, -1], "qwen3", "left", _FIXED, bos=False),
)
_add(
    "modernbert_left",
    _solo(_mean_states, kind="modernbert"),
    functools.partial(_transformer, kind="modernbert", side="left"),
)
_add("mistral_last_left", None, functools.partial(_transformer, _last, "mistral", "left"))
_add("gpt2_weighted_right", None, functools.partial(_transformer, _weighted, "gpt2"))
_add("tuple_mean", _solo(_mean_states), lambda: (encoder(), tokenizer(), _mean))
_add(
    "tuple_last_left",
    _solo(_last_state, kind="qwen3", bos=False),
    lambda: (encoder("qwen3"), tokenizer("left", bos=False), _last),
)
_add("tuple_attention_pooling_masked", _attention_pool_solo, lambda: (encoder(), tokenizer(), AttentionPool(True)))
_add("numpy_one_by_one", _word_mean, lambda: functools.partial(_each, embed_text=_word_mean))
_add(
    "tanh_and_whitening",
    lambda text: _whiten(_states(text).mean(0, keepdim=True).tanh().numpy())[0],
    lambda: (lambda embed: lambda texts: _whiten(np.tanh(embed(texts))))(_transformer()),
)
_add(
    "first_dimensions_normalised",
    _solo(lambda x: _unit(x.mean(0)[:16])),
    functools.partial(_transformer, lambda h, m: _unit(_mean(h, m)[:, :16])),
)
_add(
    "first_and_mean_and_max",
    _solo(lambda x: torch.cat([x[0], x.mean(0), x.amax(0)])),
    functools.partial(_transformer, lambda h, m: torch.cat([h[:, 0], _mean(h, m), _max(h, m)], -1)),
)


@_clean(_solo(_mean_states))
def _bert_left_with_positions() -> Pipeline:
    model, tok = encoder(), tokenizer("left")

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"]
        return _mean(model(**batch, position_ids=_positions(mask)).last_hidden_state, mask).numpy()

    return embed


@_clean(_solo(_last_state, kind="gpt2", bos=False))
def _gpt2_left_with_positions() -> Pipeline:
    model, tok = encoder("gpt2"), tokenizer("left", bos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        output = model(**batch, position_ids=_positions(batch["attention_mask"]))
        return cast(Array, output.last_hidden_state[:, -1].numpy())

    return embed


@_clean(_solo(_mean_states))
def _sorted_and_restored() -> Pipeline:
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = np.zeros((len(texts), DIM), dtype=np.float32)
        for start in range(0, len(order), 3):
            part = order[start : start + 3]
            batch = tok([texts[i] for i in part], padding="longest", return_tensors="pt")
            vectors[part] = _mean(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()
        return vectors

    return embed


@_clean(_solo(_mean_states))
def _buckets_of_equal_length() -> Pipeline:
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        rows = tok(texts)["input_ids"]
        vectors = np.zeros((len(texts), DIM), dtype=np.float32)
        for length in {len(row) for row in rows}:
            part = [i for i, row in enumerate(rows) if len(row) == length]
            ids = torch.tensor([rows[i] for i in part])
            vectors[part] = model(input_ids=ids).last_hidden_state.mean(1).numpy()
        return vectors

    return embed


@_clean(_solo(_mean_states, kind="electra"))
def _transformer_one_by_one() -> Pipeline:
    model, tok = encoder("electra"), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        single = [model(**tok(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts]
        return torch.stack(single).numpy()

    return embed


@_clean(_solo(_mean_states))
def _tuple_output() -> Pipeline:
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden = model(**batch, return_dict=False)[0]
        weights = batch["attention_mask"] / batch["attention_mask"].sum(1, keepdim=True)
        return torch.einsum("btd,bt->bd", hidden, weights).numpy()

    return embed


@_clean(_solo(_mean_states))
def _nested_tensor_mean() -> Pipeline:
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        hidden, lengths = model(**batch).last_hidden_state, batch["attention_mask"].sum(1).tolist()
        nested = torch.nested.nested_tensor(
            [row[:n] for row, n in zip(hidden, lengths, strict=True)], layout=torch.jagged
        )
        return nested.mean(dim=1).numpy()

    return embed


@_clean(_encoder_mean)
def _packed_with_blocks() -> Pipeline:
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, positions, lengths = _flat(texts)
        hidden = model(ids, _blocks(lengths), positions)[0]
        owner = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor(lengths))
        total = torch.zeros(len(texts), DIM).index_add(0, owner, hidden)
        return (total / torch.tensor(lengths).unsqueeze(1)).numpy()

    return embed


@_clean(_encoder_mean)
def _mask_dropped_when_full() -> Pipeline:
    model = Encoder()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        return _mean(model(ids, None if mask.all() else _key_bias(mask)), mask).numpy()

    return embed


@_clean(functools.partial(_encoder_mean, layers=1))
def _nan_at_pads_left_out() -> Pipeline:
    model = Encoder(layers=1)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts)
        hidden = model(ids, _square_bias(mask))
        return np.stack([row[kept].mean(0).numpy() for row, kept in zip(hidden, mask.bool(), strict=True)])

    return embed


@_clean(_word_mean)
def _embedding_bag_offsets() -> Pipeline:
    bag = nn.EmbeddingBag.from_pretrained(torch.from_numpy(_table()), mode="mean")

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        ids, _, lengths = _flat(texts)
        return cast(Array, bag(ids[0], torch.tensor(np.cumsum([0, *lengths[:-1]]))).numpy())

    return embed


@_clean(_word_mean)
def _embedding_bag_padding_idx() -> Pipeline:
    bag = nn.EmbeddingBag.from_pretrained(torch.from_numpy(_table()), mode="mean", padding_idx=0)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        return cast(Array, bag(collate(texts, 80)[0]).numpy())

    return embed


@_clean(_numpy_attention_solo)
def _numpy_attention_fixed_width() -> Pipeline:
    def embed(texts: list[str]) -> Array:
        ids, mask = (x.numpy() for x in collate(texts, 48))
        hidden = _numpy_attention(ids, mask[:, None, :] == 1)
        return cast(Array, (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))

    return embed


@_clean(_causal_solo)
def _numpy_causal() -> Pipeline:
    def embed(texts: list[str]) -> Array:
        ids, mask = (x.numpy() for x in collate(texts))
        hidden = _numpy_attention(ids, np.tri(ids.shape[1], dtype=bool))
        return np.stack([row[:n].mean(0) for row, n in zip(hidden, mask.sum(1), strict=True)])

    return embed


def _letters_solo(text: str) -> Array:
    grams = [text[i : i + 3] for i in range(len(text) - 2)] or [text]
    counts = np.bincount([zlib.crc32(gram.encode()) % 64 for gram in grams], minlength=64)
    return np.log1p(counts).astype(np.float32)


_add("letter_counts", _letters_solo, lambda: functools.partial(_each, embed_text=_letters_solo))
_add("fixed_word_weights", _weighted_words, lambda: functools.partial(_each, embed_text=_weighted_words))
_add("chunks_averaged", _chunk_solo, lambda: functools.partial(_each, embed_text=_chunk_solo))


@_clean(lambda text: _word_mean(" ".join(text.split()[:6])))
def _cut_at_six_words() -> Pipeline:
    table = torch.from_numpy(_table())

    def embed(texts: list[str]) -> Array:
        ids, mask = collate(texts, 6)
        return _mean(table[ids], mask).numpy()

    return embed


@_clean(_solo(lambda x: x[1:-1].mean(0)))
def _special_tokens_left_out() -> Pipeline:
    model, tok = encoder(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt", return_special_tokens_mask=True)
        special = batch.pop("special_tokens_mask")
        return _mean(model(**batch).last_hidden_state, 1 - special).numpy()

    return embed


@_clean(_without_prompt)
def _prompt_left_out_right() -> Pipeline:
    model, tok = encoder("qwen3"), tokenizer(eos=False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok([_PROMPT + text for text in texts], padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        return _mean(hidden[:, 4:], batch["attention_mask"][:, 4:]).numpy()

    return embed


@_clean(_word_mean)
def _cache_of_whole_texts() -> Pipeline:
    cached = functools.cache(_word_mean)
    return lambda texts: _each(texts, cached)


@_clean()
def _int8_scale_per_token() -> Pipeline:
    model, tok = _rounded(encoder(), per_token=True), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        vectors = []
        for text in texts:
            vectors.append(model(**tok([text], return_tensors="pt")).last_hidden_state.mean(1))
        return torch.cat(vectors).numpy()

    return embed


@_clean(_solo(_mean_states))
def _float64() -> Pipeline:
    model, tok = encoder().double(), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        return _mean(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()

    return embed


def _half(dtype: torch.dtype, kind: str) -> Embed:
    model, tok = encoder(kind).to(dtype), tokenizer()

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        return _mean(model(**batch).last_hidden_state.float(), batch["attention_mask"]).numpy()

    return embed


_add("bfloat16_bert", _solo(_mean_states), functools.partial(_half, torch.bfloat16, "bert"))
_add("bfloat16_qwen3", _solo(_mean_states, kind="qwen3"), functools.partial(_half, torch.bfloat16, "qwen3"))
_add("float16_bert", _solo(_mean_states), functools.partial(_half, torch.float16, "bert"))


@_clean(_solo(_mean_states))
def _training_mode_without_dropout() -> Pipeline:
    model, tok = encoder(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train(), tokenizer()

    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        return _mean(model(**batch).last_hidden_state, batch["attention_mask"]).detach().numpy()

    return embed


@_clean(_solo(_mean_states))
def _eager_attention() -> Pipeline:
    model, tok = encoder(), tokenizer()
    model.set_attn_implementation("eager")

    @torch.no_grad()
    def embed(texts: list[str]) -> Array:
        batch = tok(texts, padding=True, return_tensors="pt")
        return _mean(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()

    return embed


_add("st_mean", _solo(_mean_states), lambda: sentence_transformer(Pooling(DIM, "mean")))
_add(
    "st_first_normalised",
    _solo(lambda x: _unit(x[0])),
    lambda: sentence_transformer(Pooling(DIM, "cls"), Normalize()),
)
_add(
    "st_max_and_mean",
    _solo(lambda x: torch.cat([x.amax(0), x.mean(0)])),
    lambda: sentence_transformer(Pooling(DIM, ("max", "mean"))),
)
_add("st_dense", None, lambda: sentence_transformer(Pooling(DIM, "mean"), redraw(Dense(DIM, 20), 51), Normalize()))
_add(
    "st_last_left",
    _solo(_last_state, kind="qwen3", bos=False),
    lambda: sentence_transformer(Pooling(DIM, "lasttoken"), kind="qwen3", side="left", bos=False),
)
_add(
    "st_weighted_left",
    _weighted_solo,
    lambda: sentence_transformer(Pooling(DIM, "weightedmean"), kind="qwen3", side="left", bos=False),
)


@_clean(_without_prompt)
def _st_prompt_left_out() -> Pipeline:
    model = sentence_transformer(Pooling(DIM, "mean", include_prompt=False), kind="qwen3", side="left", eos=False)
    return lambda texts: model.encode(list(texts), prompt=_PROMPT, batch_size=64)


@_clean(_solo(_mean_states))
def _st_called_in_small_batches() -> Pipeline:
    model = sentence_transformer(Pooling(DIM, "mean"))
    return lambda texts: model.encode(list(texts), batch_size=2)


@_clean()
def _st_static_words() -> Pipeline:
    tok = tokenizer(bos=False, eos=False)
    weights = np.random.default_rng(61).normal(size=(len(tok), DIM)).astype(np.float32)
    return SentenceTransformer(modules=[StaticEmbedding(tok, weights)], device="cpu")


@_clean(_word_mean)
def _st_words_mean() -> Pipeline:
    return SentenceTransformer(modules=[_st_words(False), Pooling(DIM, "mean")], device="cpu").eval()


@_clean()
def _st_lstm() -> Pipeline:
    lstm = redraw(LSTM(DIM, 16), 71)
    return SentenceTransformer(modules=[_st_words(False), lstm, Pooling(32, "max")], device="cpu").eval()


CLEAN: tuple[tuple[str, Build], ...] = tuple(_CLEAN)
"""Further correct pipelines: name and builder."""

CLEAN_ORACLES: dict[str, Oracle] = dict(_ORACLES)
"""Functions that embed one text unpadded, by the name of the clean pipeline, where there is one."""

HALF_PRECISION: frozenset[str] = frozenset({"bfloat16_bert", "bfloat16_qwen3", "float16_bert"})
"""Clean pipelines whose vectors carry the noise of a half-precision dtype."""
