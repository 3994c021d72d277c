"""The questions about pads, and how each is answered from one model's numbers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from maskpool.pads.measures import (
    DoesNotApplyError,
    additive,
    attention_on_pads,
    distance,
    finite,
    is_causal,
    mean_of_pairs,
    states,
)
from maskpool.pads.row import input_embedding, tied_heads
from maskpool.pads.subject import Subject, count
from maskpool.pads.training import LEARNING_RATE, STEPS

_SIDES: tuple[Literal["right", "left"], ...] = ("right", "left")
_DECAY = 0.01  # torch's default for AdamW
_OLD_MASK = -10000.0  # what BERT's authors added to the scores at pads


@dataclass(frozen=True)
class Found:
    """An answer without its question."""

    sentence: str
    number: float | None
    numbers: dict[str, float]
    source: str


def show(value: float) -> str:
    """A number for people."""
    return f"{value:.3g}"


def _pad_row_zero(subject: Subject) -> Found:
    norms = subject.embedding.weight.detach().float().norm(dim=1)
    norm, mean = norms[subject.pad].item(), norms.mean().item()
    return Found(
        "Yes: all its numbers are 0."
        if norm == 0
        else f"No: its norm is {show(norm)}, where that of a row is {show(mean)} on average.",
        norm,
        {"mean row norm": mean},
        f"norm of {subject.row_name}",
    )


def _tied(subject: Subject) -> Found:
    loaded, trained = len(tied_heads(subject.model)), subject.trained
    shared, said = len(tied_heads(trained.model)), bool(getattr(trained.model.config, "tie_word_embeddings", False))
    name = type(trained.model).__name__
    return Found(
        f"{'Yes' if shared else 'No'}: as {name} its output head {'is' if shared else 'is not'} the embedding matrix, "
        f"and as loaded for embeddings ({type(subject.model).__name__}) "
        f"{'a head shares it too' if loaded else 'no head shares it'}.",
        float(shared),
        {"as loaded": float(loaded), "config.tie_word_embeddings": float(said)},
        f"output heads of {name} that are the same parameter as {subject.table_name}",
    )


def _padding_idx(subject: Subject) -> Found:
    index, pad = subject.embedding.padding_idx, subject.pad
    if index is None:
        sentence = f"It is not set; the tokenizer's pad id is {pad}, a row with a gradient like any other."
    elif index == pad:
        sentence = f"It is {index}, the tokenizer's pad id: no gradient reaches the row through the inputs."
    else:
        sentence = f"It is {index}, but the tokenizer pads with {pad}: the wrong row is kept from the gradient."
    source = f"padding_idx of the embedding whose matrix is {subject.table_name}"
    return Found(sentence, None if index is None else float(index), {"tokenizer's pad id": float(pad)}, source)


def _attention(subject: Subject) -> Found:
    given, ignored = 0.0, 0.0
    for batch in map(subject.batch, _SIDES):
        given = max(given, attention_on_pads(subject.eager, batch, batch.mask))
        ignored = max(ignored, attention_on_pads(subject.eager, batch, torch.ones_like(batch.mask)))
    return Found(
        f"{'None' if given == 0 else f'Up to {show(given)} of 1'}; without the mask a real token would give pads up "
        f"to {show(ignored)} of its attention.",
        given,
        {"without a mask": ignored},
        f"attention on all pads together, the most over layers, heads and real tokens; {subject.padded} on either side",
    )


def _zeroing(subject: Subject) -> Found:
    zeroed = copy.deepcopy(subject.model)
    input_embedding(zeroed).weight[subject.pad] = 0
    real, pads, scale = 0.0, 0.0, 0.0
    for batch in map(subject.batch, _SIDES):
        before, after = (states(model, batch, batch.mask) for model in (subject.model, zeroed))
        real = max(real, distance(before, after, batch.real))
        pads = max(pads, distance(before, after, ~batch.real))
        scale = max(scale, before[batch.real].abs().max().item())
    return Found(
        f"It moves {'no real token' if real == 0 else f'real tokens by up to {show(real)}'} and "
        f"{'no pad' if pads == 0 else f'the outputs at pads by up to {show(pads)}'}.",
        real,
        {"at pads": pads, "largest output": scale},
        f"largest difference of a number in the last hidden state with {subject.row_name} set to 0; "
        f"{subject.padded} on either side",
    )


def _cosines(subject: Subject) -> Found:
    batch = subject.batch("right")
    kinds: dict[str, list[float]] = {"pad to pad": [], "word to pad": [], "word to word": []}
    for outputs, real in zip(states(subject.model, batch, batch.mask), batch.real, strict=True):
        words, pads = (F.normalize(outputs[kind], dim=1) for kind in (real, ~real))
        found = (mean_of_pairs(pads), (words @ pads.T).mean(), mean_of_pairs(words))
        for name, value in zip(kinds, found, strict=True):
            if value is not None:
                kinds[name].append(finite(value))
    means = {name: sum(values) / len(values) for name, values in kinds.items() if values}
    spread = {f"{name}, {word}": of(kinds[name]) for name in means for word, of in (("least", min), ("most", max))}
    alike = means.pop("pad to pad", None)
    if alike is None:
        raise DoesNotApplyError(f"the model takes {subject.width} tokens, which leaves no two pads beside a text")
    between_words = f"; two words are alike by {show(means['word to word'])}" if "word to word" in means else ""
    return Found(
        f"Pads are like each other (cosine {show(alike)}), and like the words of their text by "
        f"{show(means['word to pad'])}{between_words}.",
        alike,
        means | spread,
        f"cosines of last hidden states, the mean over all pairs within a text, special tokens among the words, then "
        f"over the texts; {subject.padded} on the right",
    )


def _token_types(subject: Subject) -> Found:
    types = getattr(subject.model.config, "type_vocab_size", 0)
    if types < 2 or "token_type_ids" not in inspect.signature(subject.model.forward).parameters:
        raise DoesNotApplyError(f"a {type(subject.model).__name__} has no token types")
    padded = subject.tokenized()
    given = padded.get("token_type_ids", torch.zeros_like(padded["input_ids"]))[padded["attention_mask"] == 0]
    real, pads = 0.0, 0.0
    for batch in map(subject.batch, _SIDES):
        zero, one = (
            states(subject.model, batch, batch.mask, token_type_ids=kinds)
            for kinds in (torch.zeros_like(batch.mask), 1 - batch.mask)
        )
        real, pads = max(real, distance(zero, one, batch.real)), max(pads, distance(zero, one, ~batch.real))
    kinds = sorted({*given.tolist()})
    return Found(
        f"The tokenizer gives pads type {' and '.join(map(str, kinds)) or '0 (no text was padded)'}; type 1 instead "
        f"moves {'no real token' if real == 0 else f'real tokens by up to {show(real)}'}.",
        real,
        {"tokenizer's type": float(max(kinds, default=0)), "at pads": pads},
        f"largest difference of a number in the last hidden state; {subject.padded} on either side",
    )


def _finite_mask(subject: Subject) -> Found:
    model, numbers, moved = subject.eager, {"attention at -10000": 0.0, "attention at the minimum": 0.0}, 0.0
    minimum = torch.finfo(model.dtype).min
    for batch in map(subject.batch, _SIDES):
        causal = is_causal(model, batch)
        masks = [additive(batch.mask, causal, value, model.dtype) for value in (_OLD_MASK, minimum)]
        for name, mask in zip(numbers, masks, strict=True):
            numbers[name] = max(numbers[name], attention_on_pads(model, batch, mask))
        old_states, new_states = (states(model, batch, mask) for mask in masks)
        moved = max(moved, distance(old_states, new_states, batch.real))
    old, new = numbers.values()
    return Found(
        f"{'It is' if moved == 0 else 'It is not'} the same to real tokens (difference {show(moved)}); attention on "
        f"pads is {show(old)} with -10000 and {show(new)} with the minimum.",
        moved,
        numbers,
        f"largest difference of a number in the last hidden state between additive masks of -10000 and {minimum:.3g} "
        f"({str(model.dtype).removeprefix('torch.')}); {subject.padded} on either side",
    )


def _mask_from_ids(subject: Subject) -> Found:
    pad, padded = subject.pad, subject.tokenized()
    hidden = int(((padded["input_ids"] == pad) & (padded["attention_mask"] == 1)).sum())
    kept = int(((padded["input_ids"] != pad) & (padded["attention_mask"] == 0)).sum())
    tokens = int(padded["attention_mask"].sum())
    return Found(
        f"{'Yes' if hidden == kept == 0 else 'No'} on these texts: input_ids != {pad} hides {hidden} of {tokens} real "
        f"tokens and lets {count(kept, 'pad')} through.",
        float(hidden),
        {"pads let through": float(kept), "real tokens": float(tokens)},
        f"attention_mask of the tokenizer for {count(len(subject.texts), 'text')} padded together",
    )


def _end_of_text(subject: Subject) -> Found:
    pad, end, token = subject.pad, subject.tokenizer.eos_token_id, subject.tokenizer.eos_token
    name = f"{subject.tokenizer.pad_token} (id {pad})"
    source = f"ids of {count(len(subject.texts), 'text')}, each with its end-of-text token, padded together"
    if pad != end:
        other = "the tokenizer has no end-of-text token" if end is None else f"end-of-text is {token} (id {end})"
        return Found(f"No: pads are {name}, and {other}: labels lose nothing.", 0.0, {"same": 0.0}, source)
    plain = subject.tokenized()
    closes = bool((plain["input_ids"][plain["attention_mask"] == 1] == end).any())
    ended = plain if closes else subject.tokenized([f"{text}{token}" for text in subject.texts])
    lost = int(((ended["input_ids"] == pad) & (ended["attention_mask"] == 1)).sum())
    tokens = int(ended["attention_mask"].sum())
    return Found(
        f"Yes, both are {name}: -100 wherever labels are the pad id drops {lost} real end-of-text tokens, so a model "
        f"never learns to stop; input_ids != {pad} hides the same {lost}.",
        float(lost),
        {"same": 1.0, "real tokens": float(tokens)},
        source,
    )


def _alone(subject: Subject) -> str:
    return f"{subject.lesson}; {count(len(subject.ids), 'text')}, each alone"


def _input_gradient(subject: Subject) -> Found:
    through_input, _ = subject.gradients
    return Found(
        f"{'No' if through_input == 0 else 'Yes'}: without a pad in the batch the gradient that reaches the row from "
        f"there is {show(through_input)}.",
        through_input,
        {},
        f"norm of the loss' gradient to {subject.row_name}, output head held apart; {_alone(subject)}",
    )


def _head_gradient(subject: Subject) -> Found:
    trained = subject.trained
    _, through_head = subject.gradients
    if through_head is None:
        raise DoesNotApplyError(f"{type(trained.model).__name__} has no output head with a row for each token")
    tied = bool(tied_heads(trained.model))
    return Found(
        f"Yes: the head is tied, and the pad's logit is a negative in every softmax (gradient {show(through_head)})."
        if tied
        else f"No: the head is not tied, and that gradient ({show(through_head)}) stays in the head's own row.",
        through_head if tied else 0.0,
        {"in the head's row": through_head},
        f"norm of the loss' gradient to row {subject.pad} of the output head, input embedding held apart; "
        f"{_alone(subject)}",
    )


def _weight_decay(subject: Subject) -> Found:
    row = nn.Parameter(subject.embedding.weight[subject.pad].detach().float().clone())
    before, row.grad = row.detach().clone(), torch.zeros_like(row)
    torch.optim.AdamW([row], lr=LEARNING_RATE, weight_decay=_DECAY).step()
    moved = (row.detach() - before).norm().item()
    return Found(
        f"{'Yes' if moved else 'No, a row of zeros stays'}: with a gradient of zero one step of AdamW moves it by "
        f"{show(moved)}, learning rate times decay times its norm.",
        moved,
        {"learning rate": LEARNING_RATE, "decay": _DECAY},
        f"one step of torch's AdamW on a copy of {subject.row_name}",
    )


def _ignore_index(subject: Subject) -> Found:
    trained = subject.trained
    without, given = (trained.movement(subject.batch("right"), subject.pad, index) for index in (-100, subject.pad))
    return Found(
        f"{'No' if given else 'Yes'}: with ignore_index={subject.pad} the row moves by {show(given)}, without it by "
        f"{show(without)}.",
        given,
        {"without": without},
        f"distance of {subject.row_name} after {STEPS} steps of AdamW without decay, learning rate {LEARNING_RATE}, "
        f"targets at pads too; {subject.lesson}; {subject.padded} on the right",
    )


QUESTIONS: tuple[tuple[str, str, Callable[[Subject], Found]], ...] = (
    ("zero_row", "Is the pad row of the embedding matrix zero?", _pad_row_zero),
    ("tied", "Is the embedding matrix tied to the output head when the model is trained?", _tied),
    ("padding_idx", "Is padding_idx set, and to the tokenizer's pad id?", _padding_idx),
    ("attention", "How much attention lands on pads?", _attention),
    ("zeroing", "What does zeroing the pad row change?", _zeroing),
    ("cosines", "What do the outputs at pads look like?", _cosines),
    ("token_types", "What token type do pads have, and does it matter?", _token_types),
    ("finite_mask", "Is a mask of -10000 the same as one of the smallest number?", _finite_mask),
    ("mask_from_ids", "Is a mask made as input_ids != pad the tokenizer's own?", _mask_from_ids),
    ("end_of_text", "Is the pad token the end-of-text token, and what do training labels lose?", _end_of_text),
    ("input_gradient", "Does training move the pad row through the input embedding?", _input_gradient),
    ("head_gradient", "Does training move the pad row through the output head?", _head_gradient),
    ("weight_decay", "Does weight decay alone move the pad row?", _weight_decay),
    ("ignore_index", "Does ignore_index keep the pad row where it is?", _ignore_index),
)
