"""Tiny pipelines, clean or with a bug, each as a user might write it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from maskpool import build_pooling
from maskpool.audit.probes import TEXTS
from maskpool.functional import cls_pool, last_token_pool, max_pool, mean_pool, position_weighted_mean_pool
from maskpool.masks import exclude_prompt
from maskpool.nn import MedianPooling
from tests.matrix import FULL

Embed: TypeAlias = Callable[[list[str]], Tensor]
WORDS = sorted({word for text in TEXTS for word in text.split()})
DIM = 32
# For clean pipelines: two subjects, one padded in its first call, and two companions; all texts in the full suite.
FEW = list(TEXTS) if FULL else [TEXTS[place] for place in (0, 1, 4, 5)]


def tokenizer(side: str = "right", pad: str = "[PAD]", ends: bool = True) -> PreTrainedTokenizerFast:
    """Build a tokenizer of words, with [CLS] and [SEP] or only [SEP]."""
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]" if ends else "$A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=words, pad_token=pad, eos_token="[SEP]", unk_token="[UNK]", padding_side=side
    )


def drawn(model: nn.Module, seed: int) -> Any:
    """Draw random weights: default ones hide leaks (norms of one, pad rows of zero)."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if "embed" in name or "wte" in name else 0.3))
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    return model.eval()


def bert(seed: int = 0, **options: Any) -> BertModel:
    """Build a BERT with random weights."""
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=128,
        **options,
    )
    return drawn(BertModel(config, add_pooling_layer=False), seed)  # type: ignore[no-any-return]  # Any by design


def gpt2(seed: int = 0) -> GPT2Model:
    """Build a GPT-2 with random weights: causal, with absolute positions."""
    config = GPT2Config(vocab_size=len(WORDS) + 4, n_embd=DIM, n_layer=2, n_head=4, n_positions=128)
    return drawn(GPT2Model(config), seed)  # type: ignore[no-any-return]  # the same


def batch(texts: list[str], tokens: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Return ids and mask of a padded batch."""
    features = tokens(texts, padding=True, return_tensors="pt")
    return features["input_ids"], features["attention_mask"]


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Pool by the usual recipe, which is correct."""
    weights = mask.unsqueeze(2).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


class Inside(nn.Module):
    """Token embeddings and a layer between positions; it takes the mask and does not use it."""

    def __init__(self, between: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 4, DIM)
        self.between = between
        drawn(self, seed)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        output: Tensor = self.between(self.words(input_ids))
        return output


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.window = nn.Conv1d(DIM, DIM, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.window(x.transpose(1, 2)).transpose(1, 2)
        return output


class ConvolutionByHand(nn.Module):
    """No torch module between positions, and a neutral name."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * nn.functional.pad(x, (0, 0, 0, 1))[:, 1:] + 0.5 * nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]


class OtherPath(nn.Module):
    """Attention that is causal in a batch without pads, unless fixed."""

    def __init__(self, drops_its_mask: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 4, DIM)
        self.heads = nn.MultiheadAttention(DIM, 4, batch_first=True)
        self.drops_its_mask = drops_its_mask
        drawn(self, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, width = self.words(input_ids), input_ids.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool).triu(1)
        how = {"key_padding_mask": attention_mask == 0}
        if self.drops_its_mask and bool(attention_mask.all()):
            how = {"attn_mask": causal}
        output: Tensor = x + self.heads(x, x, x, need_weights=False, **how)[0]
        return output


class Windowed(nn.Module):
    """Attention to neighbours; a pad far from all tokens sees none, and divides 0 by 0 unless guarded."""

    def __init__(self, layers: int, caught: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 4, DIM)
        self.layers = nn.ModuleList(nn.Linear(DIM, 3 * DIM) for _ in range(layers))
        self.caught = caught
        drawn(self, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x: Tensor = self.words(input_ids)
        place = torch.arange(x.shape[1])
        seen = ((place[:, None] - place[None]).abs() <= 2) & attention_mask.bool()[:, None]
        for layer in self.layers:
            q, k, v = layer(x).chunk(3, dim=-1)
            scores = (q @ k.transpose(1, 2) / DIM).masked_fill(~seen, -torch.inf).softmax(dim=-1)
            x = x + (torch.where(seen.any(dim=-1, keepdim=True), scores, 0.0) if self.caught else scores) @ v
        return x


class OneWidth(nn.Module):
    """A graph of one shape: it has 64 position embeddings, and every input must have that width."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 4, DIM)
        self.positions = nn.Parameter(torch.zeros(64, DIM))
        self.heads = nn.MultiheadAttention(DIM, 4, batch_first=True)
        drawn(self, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.words(input_ids) + self.positions
        hidden = None if attention_mask is None else attention_mask == 0
        output: Tensor = x + self.heads(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
        return output


class Recurrence(nn.Module):
    def __init__(self, both: bool) -> None:
        super().__init__()
        self.state = nn.GRU(DIM, DIM // (2 if both else 1), batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.state(x)[0]
        return output


class StateSpaceMixer(nn.Module):
    """A linear state space, like the slow path of Mamba."""

    def forward(self, x: Tensor) -> Tensor:
        state, states = torch.zeros_like(x[:, 0]), []
        for column in x.unbind(dim=1):
            state = 0.9 * state + column
            states.append(state)
        return torch.stack(states, dim=1)


class Normalisation(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.norm = kind(DIM) if kind is nn.InstanceNorm1d else kind(DIM, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return output


class Attention(nn.Module):
    """Attention without a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(DIM, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.heads(x, x, x, need_weights=False)[0]
        return output


class ReadsItsBatch(nn.Module):
    """States that depend on the first text of the batch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        first = states[:, :1]
        return SimpleNamespace(last_hidden_state=states + 0.3 * (first - first.mean(dim=0, keepdim=True)))


def pooled_by(pool: Callable[[Tensor, Tensor], Tensor], side: str = "right", seed: int = 0) -> Embed:
    """Combine a clean encoder with a pooling."""
    model, tokens = bert(seed), tokenizer(side)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        return pool(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    return embed


def encoded_by(
    model: nn.Module, side: str = "right", make_mask: Callable[[Tensor, Tensor], Tensor | None] | None = None
) -> Embed:
    """Combine an encoder that gets some mask, or none, with the right mean of its states."""
    tokens = tokenizer(side)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        given = mask if make_mask is None else make_mask(ids, mask)
        output = model(input_ids=ids) if given is None else model(input_ids=ids, attention_mask=given)
        return mean(output if isinstance(output, Tensor) else output.last_hidden_state, mask)

    return embed


def padded_to(
    width: int,
    model: nn.Module | None = None,
    encoder_mask: str = "right",
    pool: Callable[[Tensor, Tensor], Tensor] = mean,
    **options: Any,
) -> Embed:
    """Pad every text to one width, even alone.

    Args:
        width: That width.
        model: A BERT if none is given.
        encoder_mask: ``"right"``, ``"ones"`` or ``"none"``.
        pool: What pools, given the tokenizer's mask.
        **options: Of the tokenizer; the width by default.
    """
    tokens, model = tokenizer(), model if model is not None else bert()
    options = options or {"padding": "max_length", "max_length": width, "truncation": True}

    def embed(texts: list[str]) -> Tensor:
        features = tokens(texts, return_tensors="pt", **options)
        ids, mask = features["input_ids"], features["attention_mask"]
        given = {"right": mask, "ones": torch.ones_like(mask), "none": None}[encoder_mask]
        output = model(input_ids=ids) if given is None else model(input_ids=ids, attention_mask=given)
        return pool(output if isinstance(output, Tensor) else output.last_hidden_state, mask)

    return embed


def fixed_in_its_file() -> Embed:
    """Combine a tokenizer file with a stored padding of 64 with a mean over all columns."""
    model, tokens = bert(), tokenizer().backend_tokenizer
    tokens.enable_padding(length=64)

    def embed(texts: list[str]) -> Tensor:
        encodings = tokens.encode_batch(texts)
        ids, mask = (
            torch.tensor([getattr(encoding, name) for encoding in encodings]) for name in ("ids", "attention_mask")
        )
        states: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states.mean(dim=1)

    return embed


def in_parts(both: bool, packed: bool = False, pads_left: bool = False) -> Embed:
    """Combine an embedding, a function and a GRU without a common module."""
    torch.manual_seed(7)
    words, state = drawn(nn.Embedding(len(WORDS) + 4, DIM), 7), nn.GRU(DIM, DIM, batch_first=True, bidirectional=both)
    tokens = tokenizer("left" if pads_left else "right")

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        x = words(ids).tanh()
        if packed:
            pack = nn.utils.rnn.pack_padded_sequence(x, mask.sum(dim=1), batch_first=True, enforce_sorted=False)
            return mean(nn.utils.rnn.pad_packed_sequence(state(pack)[0], batch_first=True)[0], mask)
        return mean(state(x)[0], mask)

    return embed


def text_cnn(zeroed: bool) -> Embed:
    """Combine an embedding and two convolutions in torch.nn.Sequential with a maximum over real tokens."""
    torch.manual_seed(8)
    words = drawn(nn.Embedding(len(WORDS) + 4, DIM), 8)
    windows = [nn.Conv1d(DIM, DIM, 3, padding=1) for _ in range(2)]
    tokens, right = tokenizer(), build_pooling("max")

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        x = words(ids).transpose(1, 2)
        for window in windows:
            x = window(x * mask.unsqueeze(1) if zeroed else x).tanh()
        output: Tensor = right(x.transpose(1, 2), mask)
        return output

    return embed


def two_encoders(second: Callable[[Tensor, Tensor], Tensor], joined: bool = True) -> Embed:
    """Concatenate a correctly pooled BERT with another one."""
    first, other = pooled_by(mean), pooled_by(second, seed=1)

    def embed(texts: list[str]) -> Tensor:
        vectors = [first(texts), other(texts)]
        return torch.cat(vectors, dim=1) if joined else (vectors[0] + vectors[1]) / 2

    return embed


def of_layer(pool: Callable[[Tensor, Tensor], Tensor]) -> Embed:
    """Pool the second-to-last layer."""
    model, tokens = bert(), tokenizer()

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        return pool(model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2], mask)

    return embed


def prompted(by_column: bool) -> Embed:
    """Exclude a prompt of three tokens from the mean, under left padding."""
    model, tokens = drawn(rope(), 0), tokenizer("left", ends=False)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch([f"the old town {text}" for text in texts], tokens)
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.clone()
        if by_column:
            kept[:, :3] = 0
        return mean(states, kept if by_column else exclude_prompt(mask, 3))

    return embed


def rope() -> LlamaModel:
    """Build a Llama with random weights: causal, without absolute positions."""
    return LlamaModel(
        LlamaConfig(
            vocab_size=len(WORDS) + 4,
            hidden_size=DIM,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
        )
    )


def on_the_left(pool: Callable[[Tensor, Tensor], Tensor]) -> Embed:
    """Combine a Llama padded on the left with a pooling."""
    model, tokens = drawn(rope(), 0), tokenizer("left", ends=False)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        return pool(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    return embed


def last_by_count(states: Tensor, mask: Tensor) -> Tensor:
    """Return the state at column sum(mask) − 1."""
    return states[torch.arange(len(states)), mask.sum(dim=1) - 1]


def weighted_by_column(states: Tensor, mask: Tensor) -> Tensor:
    """Compute SGPT's mean with column numbers as weights."""
    weights = (torch.arange(1, states.shape[1] + 1) * mask).unsqueeze(2)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def times_mask(states: Tensor, mask: Tensor) -> Tensor:
    """Pool by the usual recipe, in which NaN at a pad times 0 is NaN."""
    return (states * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def quantised(dynamically: bool) -> Any:
    """Build a BERT with quantised linear layers, or in floating point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = bert()
        if dynamically:
            quantise: Any = torch.ao.quantization.quantize_dynamic  # torch leaves it untyped
            model = quantise(model, {nn.Linear}, dtype=torch.qint8)
    return model, tokenizer(), "mean"


def length_in_its_norm(by_mask: bool) -> Embed:
    """Build a mean that shrinks with the length of the text, by the mask or by the columns."""

    def pool(states: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(dim=1, keepdim=True) if by_mask else torch.full((len(mask), 1), mask.shape[1])
        return (mean(states, mask) + lengths.log()).tanh()

    return pooled_by(pool)


def masked_by(make: Callable[[Tensor], Tensor]) -> Embed:
    """Change the tokenizer's mask for both encoder and pooling."""
    model, tokens = bert(), tokenizer()

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        mask = make(mask)
        return mean(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    return embed


def one_too_long(mask: Tensor) -> Tensor:
    """Count the first pad as a token."""
    return (torch.arange(mask.shape[1]) <= mask.sum(dim=1, keepdim=True)).long()


class Biased(nn.Module):
    """Attention with a bias on the scores of pads; a small one leaves them some weight."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 4, DIM)
        self.layer = nn.Linear(DIM, 3 * DIM)
        self.bias = bias
        drawn(self, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x: Tensor = self.words(input_ids)
        q, k, v = self.layer(x).chunk(3, dim=-1)
        scores = q @ k.transpose(1, 2) / DIM**0.5 + (1 - attention_mask)[:, None] * self.bias
        attended: Tensor = scores.softmax(dim=-1) @ v
        return x + attended


def positioned(by_column: bool) -> Embed:
    """Count positions from the end of the row, or from its beginning, under right padding."""
    model, tokens = bert(), tokenizer()

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        places = (torch.arange(ids.shape[1]).flip(0) if by_column else torch.arange(ids.shape[1])).expand_as(ids)
        return mean(model(input_ids=ids, attention_mask=mask, position_ids=places).last_hidden_state, mask)

    return embed


def sorted_by_length(restored: bool) -> Embed:
    """Run texts longest first, and restore the order of their vectors, or not."""
    inner = pooled_by(mean)

    def embed(texts: list[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        vectors = inner([texts[place] for place in order])
        output: Tensor = vectors[torch.tensor(order).argsort()] if restored else vectors
        return output

    return embed


def cut_to(longest: bool) -> Embed:
    """Build batches as wide as the longest text, or the shortest."""
    model, tokens = bert(), tokenizer()

    def embed(texts: list[str]) -> Tensor:
        lengths = [len(ids) for ids in tokens(texts)["input_ids"]]
        ids, mask = batch(texts, tokens)
        width = max(lengths) if longest else min(lengths)
        return mean(model(input_ids=ids[:, :width], attention_mask=mask[:, :width]).last_hidden_state, mask[:, :width])

    return embed


def with_state(cleared: bool) -> Embed:
    """Subtract a running mean of all vectors so far, or one that is reset in each call."""
    inner, kept = pooled_by(mean), [torch.zeros(DIM)]

    def embed(texts: list[str]) -> Tensor:
        vectors, before = inner(texts), kept[0]
        if not cleared:
            kept[0] = vectors[0]
        return vectors - before

    return embed


def all_ones() -> tuple[nn.Module, Callable[[list[str]], dict[str, Tensor]], str]:
    """Build a tokenizer whose mask is 1 everywhere."""
    tokens = tokenizer()

    def tokenize(texts: list[str]) -> dict[str, Tensor]:
        ids, _ = batch(texts, tokens)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return bert(), tokenize, "mean"


def encoded_and_pooled(model: nn.Module, pool: Callable[[Tensor, Tensor], Tensor]) -> Embed:
    """Combine an encoder that gets the right mask with a pooling."""
    tokens = tokenizer()

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        return pool(model(input_ids=ids, attention_mask=mask), mask)

    return embed


def ends_kept() -> Embed:
    """Build the pipeline of `pad_is_end` with the tokenizer's mask."""
    model, tokens = gpt2(), tokenizer(pad="[SEP]", ends=False)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        return last_token_pool(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    return embed


class IgnoresMask(nn.Module):
    """The attention of `Attention` and the embedding of `Inside`, with the mask applied."""

    def __init__(self) -> None:
        super().__init__()
        self.between = Attention()
        self.inner = Inside(self.between)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, heads = self.inner.words(input_ids), self.between.heads
        output: Tensor = x + heads(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        return output


def pad_is_end() -> Embed:
    """Pool the last token by a mask made from ids, where the pad token also ends each text."""
    model, tokens = gpt2(), tokenizer(pad="[SEP]", ends=False)

    def embed(texts: list[str]) -> Tensor:
        ids, _ = batch(texts, tokens)
        mask = (ids != tokens.pad_token_id).long()
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        output: Tensor = states[torch.arange(len(ids)), mask.sum(dim=1) - 1]
        return output

    return embed


def cached(pool: Callable[[Tensor, Tensor], Tensor] = lambda states, _: states.mean(dim=1)) -> Embed:
    """Put a cache in front of a pooling, by default a mean over pads."""
    inner, cache = pooled_by(pool), dict[str, Tensor]()

    def embed(texts: list[str]) -> Tensor:
        new = [text for text in texts if text not in cache]
        if new:
            cache.update(zip(new, inner(new), strict=True))
        return torch.stack([cache[text] for text in texts])

    return embed


def additive(states: Tensor, mask: Tensor) -> Tensor:
    """Multiply by an additive mask."""
    extended = (1 - mask) * -10_000.0
    return mean(states, extended) if bool((extended != 0).any()) else states[:, 0] * 0


# By the cause that the audit must name, and a word of what is planted.
PLANTS: dict[tuple[str, str], Callable[[], Any]] = {
    ("mean over pads", "last_hidden_state.mean(1)"): lambda: pooled_by(lambda s, _: s.mean(dim=1)),
    ("mean over pads", "unit vectors"): lambda: pooled_by(lambda s, _: nn.functional.normalize(s.mean(dim=1), dim=1)),
    ("mean over pads", "a triple"): lambda: (bert(), tokenizer(), lambda s, _: s.mean(dim=1)),
    ("divided by the batch width", ""): lambda: pooled_by(lambda s, m: (s * m.unsqueeze(2)).sum(dim=1) / s.shape[1]),
    ("max over pads", ""): lambda: pooled_by(lambda s, _: s.amax(dim=1)),
    ("zeroed pads in a max", ""): lambda: pooled_by(lambda s, m: (s * m.unsqueeze(2)).amax(dim=1)),
    ("last column taken as last token", ""): lambda: pooled_by(lambda s, _: s[:, -1]),
    ("first column taken as cls", ""): lambda: pooled_by(lambda s, _: s[:, 0], side="left"),
    ("pads read by the pooling", "attention"): lambda: pooled_by(lambda s, _: (s.softmax(dim=1) * s).sum(dim=1)),
    ("pads read by the pooling", "torch's median"): lambda: pooled_by(lambda s, _: s.median(dim=1).values),
    ("mask not passed to the encoder", ""): lambda: encoded_by(bert(), make_mask=lambda ids, mask: None),
    ("mask ignored inside the encoder", "torch's attention"): lambda: encoded_by(Inside(Attention())),
    ("all-ones mask", "tokenizer"): all_ones,
    ("all-ones mask", "by hand"): lambda: encoded_by(bert(), make_mask=lambda ids, mask: torch.ones_like(ids)),
    ("additive mask taken for a multiplicative one", "pooling"): lambda: pooled_by(additive),
    ("additive mask taken for a multiplicative one", "encoder"): lambda: encoded_by(
        bert(), make_mask=lambda ids, mask: (1 - mask) * -10_000
    ),
    ("pad token is end-of-text", ""): pad_is_end,
    ("position ids under left padding", ""): lambda: encoded_by(gpt2(), side="left"),
    ("convolution across pads", "Conv1d"): lambda: encoded_by(Inside(Convolution())),
    ("convolution across pads", "by hand"): lambda: encoded_by(Inside(ConvolutionByHand())),
    ("recurrent state through pads", "both ways"): lambda: encoded_by(Inside(Recurrence(both=True))),
    ("recurrent state through pads", "left padding"): lambda: encoded_by(Inside(Recurrence(both=False)), side="left"),
    ("recurrent state through pads", "state space"): lambda: encoded_by(Inside(StateSpaceMixer()), side="left"),
    ("normalisation over positions", "instance"): lambda: encoded_by(Inside(Normalisation(nn.InstanceNorm1d))),
    ("normalisation over positions", "batch"): lambda: encoded_by(Inside(Normalisation(nn.BatchNorm1d))),
    ("coupling through the batch", ""): lambda: encoded_by(ReadsItsBatch(bert())),
    ("vectors cached from a padded run", ""): cached,
    ("mask not passed to the encoder", "one width"): lambda: padded_to(64, encoder_mask="none"),
    ("mask not passed to the encoder", "multiples of 64"): lambda: padded_to(
        64, encoder_mask="none", padding=True, pad_to_multiple_of=64
    ),
    ("mask not passed to the encoder", "one graph shape"): lambda: padded_to(64, OneWidth(), encoder_mask="none"),
    ("all-ones mask", "one width"): lambda: padded_to(64, encoder_mask="ones"),
    ("mean over pads", "one width"): lambda: padded_to(64, pool=lambda s, _: s.mean(dim=1)),
    ("mean over pads", "one width, tanh"): lambda: padded_to(64, pool=lambda s, _: s.mean(dim=1).tanh()),
    ("mean over pads", "a tokenizer's file"): fixed_in_its_file,
    ("mean over pads", "tanh"): lambda: pooled_by(lambda s, _: s.mean(dim=1).tanh()),
    ("mean over pads", "another layer"): lambda: of_layer(lambda s, _: s.mean(dim=1)),
    ("mean over pads", "next to a right maximum"): lambda: pooled_by(
        lambda s, m: torch.cat([build_pooling("max")(s, m), s.mean(dim=1)], dim=1)
    ),
    ("mean over pads", "in the second encoder"): lambda: two_encoders(lambda s, _: s.mean(dim=1)),
    ("mean over pads", "averaged with another"): lambda: two_encoders(lambda s, _: s.mean(dim=1), joined=False),
    ("max over pads", "tanh"): lambda: pooled_by(lambda s, _: s.amax(dim=1).tanh()),
    ("divided by the batch width", "tanh"): lambda: pooled_by(
        lambda s, m: ((s * m.unsqueeze(2)).sum(dim=1) / s.shape[1]).tanh()
    ),
    ("zeroed pads in a max", "tanh"): lambda: pooled_by(lambda s, m: (s * m.unsqueeze(2)).amax(dim=1).tanh()),
    ("last column taken as last token", "tanh"): lambda: pooled_by(lambda s, _: s[:, -1].tanh()),
    ("last token counted by column", ""): lambda: on_the_left(last_by_count),
    ("position weights counted by column", ""): lambda: on_the_left(weighted_by_column),
    ("prompt counted by column", ""): lambda: prompted(by_column=True),
    ("padded length read by the pooling", ""): lambda: length_in_its_norm(by_mask=False),
    ("NaN at pads read by the pooling", ""): lambda: encoded_and_pooled(Windowed(1), times_mask),
    ("NaN in the encoder of padded texts", ""): lambda: encoded_and_pooled(Windowed(2), times_mask),
    ("NaN in the encoder of padded texts", "hidden"): lambda: encoded_and_pooled(
        Windowed(2), lambda s, m: times_mask(s, m).nan_to_num()
    ),
    ("other path where nothing is padded", ""): lambda: encoded_by(OtherPath(drops_its_mask=True)),
    ("dynamic quantisation shared by the batch", ""): lambda: quantised(dynamically=True),
    ("mask of other tokens", "one too long"): lambda: masked_by(one_too_long),
    ("position ids counted by column", ""): lambda: positioned(by_column=True),
    ("pads reach real tokens inside the encoder", ""): lambda: encoded_by(Biased(-1.0)),
    ("rows in another order", ""): lambda: sorted_by_length(restored=False),
    ("cut to a shorter text of the batch", ""): lambda: cut_to(longest=False),
    ("state kept between calls", ""): lambda: with_state(cleared=False),
    ("recurrent state through pads", "in parts"): lambda: in_parts(both=True),
    ("convolution across pads", "in parts"): lambda: text_cnn(zeroed=False),
}

# The fix of each plant, applied to that very pipeline.
CURES: dict[tuple[str, str], Callable[[], Any]] = {
    ("mean over pads", "last_hidden_state.mean(1)"): lambda: pooled_by(mean_pool),
    ("mean over pads", "unit vectors"): lambda: pooled_by(lambda s, m: nn.functional.normalize(mean_pool(s, m), dim=1)),
    ("mean over pads", "a triple"): lambda: (bert(), tokenizer(), mean_pool),
    ("mean over pads", "one width"): lambda: padded_to(64, pool=mean_pool),
    ("mean over pads", "one width, tanh"): lambda: padded_to(64, pool=lambda s, m: mean_pool(s, m).tanh()),
    ("mean over pads", "tanh"): lambda: pooled_by(lambda s, m: mean_pool(s, m).tanh()),
    ("mean over pads", "another layer"): lambda: of_layer(mean_pool),
    ("mean over pads", "next to a right maximum"): lambda: pooled_by(
        lambda s, m: torch.cat([max_pool(s, m), mean_pool(s, m)], dim=1)
    ),
    ("mean over pads", "in the second encoder"): lambda: two_encoders(mean_pool),
    ("mean over pads", "averaged with another"): lambda: two_encoders(mean_pool, joined=False),
    ("divided by the batch width", ""): lambda: pooled_by(mean_pool),
    ("divided by the batch width", "tanh"): lambda: pooled_by(lambda s, m: mean_pool(s, m).tanh()),
    ("max over pads", ""): lambda: pooled_by(max_pool),
    ("max over pads", "tanh"): lambda: pooled_by(lambda s, m: max_pool(s, m).tanh()),
    ("zeroed pads in a max", ""): lambda: pooled_by(max_pool),
    ("zeroed pads in a max", "tanh"): lambda: pooled_by(lambda s, m: max_pool(s, m).tanh()),
    ("last column taken as last token", ""): lambda: pooled_by(last_token_pool),
    ("last column taken as last token", "tanh"): lambda: pooled_by(lambda s, m: last_token_pool(s, m).tanh()),
    ("first column taken as cls", ""): lambda: pooled_by(cls_pool),  # the side that the fix offers as well
    ("last token counted by column", ""): lambda: on_the_left(last_token_pool),
    ("position weights counted by column", ""): lambda: on_the_left(position_weighted_mean_pool),
    ("prompt counted by column", ""): lambda: prompted(by_column=False),
    ("padded length read by the pooling", ""): lambda: length_in_its_norm(by_mask=True),
    ("pads read by the pooling", "torch's median"): lambda: pooled_by(MedianPooling()),
    ("NaN at pads read by the pooling", ""): lambda: encoded_and_pooled(Windowed(1), mean_pool),
    ("NaN in the encoder of padded texts", ""): lambda: encoded_and_pooled(Windowed(2, caught=True), times_mask),
    ("NaN in the encoder of padded texts", "hidden"): lambda: encoded_and_pooled(
        Windowed(2, caught=True), lambda s, m: times_mask(s, m).nan_to_num()
    ),
    ("mask not passed to the encoder", ""): lambda: encoded_by(bert()),
    ("mask not passed to the encoder", "one width"): lambda: padded_to(64),
    ("mask not passed to the encoder", "multiples of 64"): lambda: padded_to(64, padding=True, pad_to_multiple_of=64),
    ("all-ones mask", "tokenizer"): lambda: (bert(), tokenizer(), "mean"),
    ("all-ones mask", "by hand"): lambda: encoded_by(bert()),
    ("all-ones mask", "one width"): lambda: padded_to(64),
    ("additive mask taken for a multiplicative one", "encoder"): lambda: encoded_by(bert()),
    ("pad token is end-of-text", ""): ends_kept,
    ("position ids under left padding", ""): lambda: encoded_by(gpt2()),
    ("other path where nothing is padded", ""): lambda: encoded_by(OtherPath(drops_its_mask=False)),
    ("dynamic quantisation shared by the batch", ""): lambda: quantised(dynamically=False),
    ("recurrent state through pads", "in parts"): lambda: in_parts(both=True, packed=True),
    ("recurrent state through pads", "left padding"): lambda: encoded_by(Inside(Recurrence(both=False))),
    ("convolution across pads", "in parts"): lambda: text_cnn(zeroed=True),
    ("mask ignored inside the encoder", "torch's attention"): lambda: encoded_by(IgnoresMask()),
    ("normalisation over positions", "instance"): lambda: encoded_by(Inside(nn.LayerNorm(DIM))),
    ("coupling through the batch", ""): lambda: encoded_by(bert()),
    ("vectors cached from a padded run", ""): lambda: cached(mean_pool),
    ("mask of other tokens", "one too long"): lambda: masked_by(lambda mask: mask),
    ("position ids counted by column", ""): lambda: positioned(by_column=False),
    ("pads reach real tokens inside the encoder", ""): lambda: encoded_by(Biased(-1e9)),
    ("rows in another order", ""): lambda: sorted_by_length(restored=True),
    ("cut to a shorter text of the batch", ""): lambda: cut_to(longest=True),
    ("state kept between calls", ""): lambda: with_state(cleared=True),
}
# In these the unpadded text is wrong as well, or the cure is another model: no vector of the plant is right.
WRONG_ALONE = {
    "additive mask taken for a multiplicative one, encoder",
    "all-ones mask, one width",
    "dynamic quantisation shared by the batch, ",
    "first column taken as cls, ",
    "mask not passed to the encoder, multiples of 64",
    "mask not passed to the encoder, one width",
    "mean over pads, one width",
    "mean over pads, one width, tanh",
    "normalisation over positions, instance",
    "other path where nothing is padded, ",
    "pad token is end-of-text, ",
    "position ids counted by column, ",
    "state kept between calls, ",
    "padded length read by the pooling, ",
    "coupling through the batch, ",
}
