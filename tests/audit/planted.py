"""Tiny pipelines, clean ones and ones with a bug, each as somebody might write it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedTokenizerFast

from maskpool.audit.probes import TEXTS

Embed: TypeAlias = Callable[[list[str]], Tensor]
WORDS = sorted({word for text in TEXTS for word in text.split()})
DIM = 32


def tokenizer(side: str = "right", pad: str = "[PAD]", ends: bool = True) -> PreTrainedTokenizerFast:
    """Words as tokens, between [CLS] and [SEP], or with nothing but [SEP] at the end."""
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
    """The model with weights drawn anew: default ones hide leaks (norms of one, pad rows of zero)."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if "embed" in name or "wte" in name else 0.3))
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    return model.eval()


def bert(seed: int = 0, **options: Any) -> BertModel:
    """A BERT of random weights."""
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
    """A GPT-2 of random weights: causal, with absolute positions."""
    config = GPT2Config(vocab_size=len(WORDS) + 4, n_embd=DIM, n_layer=2, n_head=4, n_positions=128)
    return drawn(GPT2Model(config), seed)  # type: ignore[no-any-return]  # the same


def batch(texts: list[str], tokens: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Ids and mask of a padded batch."""
    found = tokens(texts, padding=True, return_tensors="pt")
    return found["input_ids"], found["attention_mask"]


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """The usual recipe, right."""
    weights = mask.unsqueeze(2).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


class Inside(nn.Module):
    """Token embeddings, and something between positions; the mask is taken, and not used."""

    def __init__(self, between: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 4, DIM)
        self.between = between
        drawn(self, seed)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.between(self.words(input_ids))
        return found


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.window = nn.Conv1d(DIM, DIM, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.window(x.transpose(1, 2)).transpose(1, 2)
        return found


class ConvolutionByHand(nn.Module):
    """No module of torch's between positions, and a name that says nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * nn.functional.pad(x, (0, 0, 0, 1))[:, 1:] + 0.5 * nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]


class Recurrence(nn.Module):
    def __init__(self, both: bool) -> None:
        super().__init__()
        self.state = nn.GRU(DIM, DIM // (2 if both else 1), batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.state(x)[0]
        return found


class StateSpaceMixer(nn.Module):
    """A linear state space, as Mamba's slow path runs it."""

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
        found: Tensor = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return found


class Attention(nn.Module):
    """Attention that is never told of pads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(DIM, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.heads(x, x, x, need_weights=False)[0]
        return found


class ReadsItsBatch(nn.Module):
    """States that know the first text of the batch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        first = states[:, :1]
        return SimpleNamespace(last_hidden_state=states + 0.3 * (first - first.mean(dim=0, keepdim=True)))


def pooled_by(pool: Callable[[Tensor, Tensor], Tensor], side: str = "right", seed: int = 0) -> Embed:
    """A clean encoder, and a pooling."""
    model, tokens = bert(seed), tokenizer(side)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        return pool(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    return embed


def encoded_by(
    model: nn.Module, side: str = "right", make_mask: Callable[[Tensor, Tensor], Tensor | None] | None = None
) -> Embed:
    """An encoder that is given some mask, or none, and the right mean of its states."""
    tokens = tokenizer(side)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = batch(texts, tokens)
        given = mask if make_mask is None else make_mask(ids, mask)
        output = model(input_ids=ids) if given is None else model(input_ids=ids, attention_mask=given)
        return mean(output if isinstance(output, Tensor) else output.last_hidden_state, mask)

    return embed


def all_ones() -> tuple[nn.Module, Callable[[list[str]], dict[str, Tensor]], str]:
    """A tokenizer whose mask is 1 everywhere."""
    tokens = tokenizer()

    def tokenize(texts: list[str]) -> dict[str, Tensor]:
        ids, _ = batch(texts, tokens)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return bert(), tokenize, "mean"


def pad_is_end() -> Embed:
    """A mask made of the ids, where the pad token ends each text as well; the last token is pooled."""
    model, tokens = gpt2(), tokenizer(pad="[SEP]", ends=False)

    def embed(texts: list[str]) -> Tensor:
        ids, _ = batch(texts, tokens)
        mask = (ids != tokens.pad_token_id).long()
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        found: Tensor = states[torch.arange(len(ids)), mask.sum(dim=1) - 1]
        return found

    return embed


def cached() -> Embed:
    """A cache that is asked first, in front of a mean over pads."""
    inner, found = pooled_by(lambda states, _: states.mean(dim=1)), dict[str, Tensor]()

    def embed(texts: list[str]) -> Tensor:
        new = [text for text in texts if text not in found]
        if new:
            found.update(zip(new, inner(new), strict=True))
        return torch.stack([found[text] for text in texts])

    return embed


def additive(states: Tensor, mask: Tensor) -> Tensor:
    """An additive mask, multiplied."""
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
    ("pads read by the pooling", "median"): lambda: pooled_by(lambda s, _: s.median(dim=1).values),
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
}
