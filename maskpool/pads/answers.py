"""The questions about pads, and a function that answers each from a model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass

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
from maskpool.types import SIDES

_DECAY = 0.01  # torch's default for AdamW
_OLD_MASK = -10000.0  # the original BERT adds it to scores at pads


@dataclass(frozen=True)
class Result:
    """The answer to one question; see `maskpool.pads.Answer`."""

    sentence: str
    number: float | None
    numbers: dict[str, float]
    source: str


def show(value: float) -> str:
    """Format a number to three digits."""
    return f"{value:.3g}"


def _pad_row_zero(subject: Subject) -> Result:
    norms = subject.embedding.weight.detach().float().norm(dim=1)
    norm, mean = norms[subject.pad].item(), norms.mean().item()
    return Result(
        "Yes: all its numbers are 0."
        if norm == 0
        else f"No: its norm is {show(norm)}; the mean norm of a row is {show(mean)}.",
        norm,
        {"mean row norm": mean},
        f"norm of {subject.row_name}",
    )


def _tied(subject: Subject) -> Result:
    loaded, trained = len(tied_heads(subject.model)), subject.trained
    shared, configured = (
        len(tied_heads(trained.model)),
        bool(getattr(trained.model.config, "tie_word_embeddings", False)),
    )
    name = type(trained.model).__name__
    return Result(
        f"{'Yes' if shared else 'No'}: the output head of {name} {'is' if shared else 'is not'} the embedding matrix; "
        f"as loaded for embeddings ({type(subject.model).__name__}), "
        f"{'a head shares it too' if loaded else 'no head shares it'}.",
        float(shared),
        {"as loaded": float(loaded), "config.tie_word_embeddings": float(configured)},
        f"output heads of {name} that are the same parameter as {subject.table_name}",
    )


def _padding_idx(subject: Subject) -> Result:
    index, pad = subject.embedding.padding_idx, subject.pad
    if index is None:
        sentence = f"It is not set; the tokenizer's pad id is {pad}, a row with a gradient like any other."
    elif index == pad:
        sentence = f"It is {index}, the tokenizer's pad id: no gradient reaches the row through the inputs."
    else:
        sentence = f"It is {index}, but the tokenizer pads with {pad}: the wrong row gets no gradient."
    source = f"padding_idx of the embedding whose matrix is {subject.table_name}"
    return Result(sentence, None if index is None else float(index), {"tokenizer's pad id": float(pad)}, source)


def _attention(subject: Subject) -> Result:
    masked, ignored = 0.0, 0.0
    for batch in map(subject.batch, SIDES):
        masked = max(masked, attention_on_pads(subject.eager, batch, batch.mask))
        ignored = max(ignored, attention_on_pads(subject.eager, batch, torch.ones_like(batch.mask)))
    return Result(
        f"{'None' if masked == 0 else f'Up to {show(masked)} of 1'}; without the mask a real token would give pads up "
        f"to {show(ignored)} of its attention.",
        masked,
        {"without a mask": ignored},
        f"attention on all pads together, maximum over layers, heads and real tokens; {subject.padded} on either side",
    )


def _zeroing(subject: Subject) -> Result:
    zeroed = copy.deepcopy(subject.model)
    input_embedding(zeroed).weight[subject.pad] = 0
    real, pads, scale = 0.0, 0.0, 0.0
    for batch in map(subject.batch, SIDES):
        before, after = (states(model, batch, batch.mask) for model in (subject.model, zeroed))
        real = max(real, distance(before, after, batch.real))
        pads = max(pads, distance(before, after, ~batch.real))
        scale = max(scale, before[batch.real].abs().max().item())
    return Result(
        f"It moves {'no real token' if real == 0 else f'real tokens by up to {show(real)}'} and "
        f"{'no pad' if pads == 0 else f'the outputs at pads by up to {show(pads)}'}.",
        real,
        {"at pads": pads, "largest output": scale},
        f"largest difference of a number in the last hidden state with {subject.row_name} set to 0; "
        f"{subject.padded} on either side",
    )


def _cosines(subject: Subject) -> Result:
    batch = subject.batch("right")
    kinds: dict[str, list[float]] = {"pad to pad": [], "word to pad": [], "word to word": []}
    for outputs, real in zip(states(subject.model, batch, batch.mask), batch.real, strict=True):
        words, pads = (F.normalize(outputs[kind], dim=1) for kind in (real, ~real))
        means_of_text = (mean_of_pairs(pads), (words @ pads.T).mean(), mean_of_pairs(words))
        for name, value in zip(kinds, means_of_text, strict=True):
            if value is not None:
                kinds[name].append(finite(value))
    means = {name: sum(values) / len(values) for name, values in kinds.items() if values}
    spread = {
        f"{name}, {word}": bound(kinds[name]) for name in means for word, bound in (("least", min), ("most", max))
    }
    pad_to_pad = means.pop("pad to pad", None)
    if pad_to_pad is None:
        raise DoesNotApplyError(f"the model takes {subject.width} tokens, which leaves no room for two pads")
    between_words = f"; the cosine of two words is {show(means['word to word'])}" if "word to word" in means else ""
    return Result(
        f"Pads resemble each other (cosine {show(pad_to_pad)}) and the words of their text "
        f"({show(means['word to pad'])}){between_words}.",
        pad_to_pad,
        means | spread,
        f"cosines of last hidden states, the mean over all pairs within a text, special tokens count as words, then "
        f"over the texts; {subject.padded} on the right",
    )


def _token_types(subject: Subject) -> Result:
    types = getattr(subject.model.config, "type_vocab_size", 0)
    if types < 2 or "token_type_ids" not in inspect.signature(subject.model.forward).parameters:
        raise DoesNotApplyError(f"a {type(subject.model).__name__} has no token types")
    padded = subject.tokenized()
    given = padded.get("token_type_ids", torch.zeros_like(padded["input_ids"]))[padded["attention_mask"] == 0]
    real, pads = 0.0, 0.0
    for batch in map(subject.batch, SIDES):
        type_0, type_1 = (
            states(subject.model, batch, batch.mask, token_type_ids=kinds)
            for kinds in (torch.zeros_like(batch.mask), 1 - batch.mask)
        )
        real, pads = max(real, distance(type_0, type_1, batch.real)), max(pads, distance(type_0, type_1, ~batch.real))
    kinds = sorted({*given.tolist()})
    return Result(
        f"The tokenizer gives pads type {' and '.join(map(str, kinds)) or '0 (no text was padded)'}; type 1 instead "
        f"moves {'no real token' if real == 0 else f'real tokens by up to {show(real)}'}.",
        real,
        {"tokenizer's type": float(max(kinds, default=0)), "at pads": pads},
        f"largest difference of a number in the last hidden state; {subject.padded} on either side",
    )


def _finite_mask(subject: Subject) -> Result:
    model, numbers, moved = subject.eager, {"attention at -10000": 0.0, "attention at the minimum": 0.0}, 0.0
    minimum = torch.finfo(model.dtype).min
    for batch in map(subject.batch, SIDES):
        causal = is_causal(model, batch)
        masks = [additive(batch.mask, causal, value, model.dtype) for value in (_OLD_MASK, minimum)]
        for name, mask in zip(numbers, masks, strict=True):
            numbers[name] = max(numbers[name], attention_on_pads(model, batch, mask))
        old_states, new_states = (states(model, batch, mask) for mask in masks)
        moved = max(moved, distance(old_states, new_states, batch.real))
    old, new = numbers.values()
    return Result(
        f"{'Yes' if moved == 0 else 'No'}: real tokens differ by {show(moved)}; attention on "
        f"pads is {show(old)} with -10000 and {show(new)} with the minimum.",
        moved,
        numbers,
        f"largest difference of a number in the last hidden state between additive masks of -10000 and {minimum:.3g} "
        f"({str(model.dtype).removeprefix('torch.')}); {subject.padded} on either side",
    )


def _mask_from_ids(subject: Subject) -> Result:
    pad, padded = subject.pad, subject.tokenized()
    hidden = int(((padded["input_ids"] == pad) & (padded["attention_mask"] == 1)).sum())
    kept = int(((padded["input_ids"] != pad) & (padded["attention_mask"] == 0)).sum())
    tokens = int(padded["attention_mask"].sum())
    return Result(
        f"{'Yes' if hidden == kept == 0 else 'No'} on these texts: input_ids != {pad} hides {hidden} of {tokens} real "
        f"tokens and keeps {count(kept, 'pad')}.",
        float(hidden),
        {"pads kept": float(kept), "real tokens": float(tokens)},
        f"attention_mask of the tokenizer for {count(len(subject.texts), 'text')} padded together",
    )


def _end_of_text(subject: Subject) -> Result:
    pad, end, token = subject.pad, subject.tokenizer.eos_token_id, subject.tokenizer.eos_token
    name = f"{subject.tokenizer.pad_token} (id {pad})"
    source = f"ids of {count(len(subject.texts), 'text')}, each with its end-of-text token, padded together"
    if pad != end:
        other = "the tokenizer has no end-of-text token" if end is None else f"end-of-text is {token} (id {end})"
        return Result(f"No: pads are {name}, and {other}: labels lose nothing.", 0.0, {"same": 0.0}, source)
    plain = subject.tokenized()
    closes = bool((plain["input_ids"][plain["attention_mask"] == 1] == end).any())
    ended = plain if closes else subject.tokenized([f"{text}{token}" for text in subject.texts])
    lost = int(((ended["input_ids"] == pad) & (ended["attention_mask"] == 1)).sum())
    tokens = int(ended["attention_mask"].sum())
    return Result(
        f"Yes, both are {name}: setting labels to -100 at the pad id drops {lost} real end-of-text tokens, and the "
        f"model does not learn to stop; input_ids != {pad} hides the same {lost}.",
        float(lost),
        {"same": 1.0, "real tokens": float(tokens)},
        source,
    )


def _separate_texts(subject: Subject) -> str:
    return f"{subject.training}; {count(len(subject.ids), 'text')}, each in its own batch"


def _input_gradient(subject: Subject) -> Result:
    through_input, _ = subject.gradients
    return Result(
        f"{'No' if through_input == 0 else 'Yes'}: without pads in the batch its gradient through the inputs is "
        f"{show(through_input)}.",
        through_input,
        {},
        f"norm of the loss' gradient to {subject.row_name}, output head separate; {_separate_texts(subject)}",
    )


def _head_gradient(subject: Subject) -> Result:
    trained = subject.trained
    _, through_head = subject.gradients
    if through_head is None:
        raise DoesNotApplyError(f"{type(trained.model).__name__} has no output head with a row for each token")
    tied = bool(tied_heads(trained.model))
    return Result(
        f"Yes: the head is tied, and the pad's logit is a negative in every softmax (gradient {show(through_head)})."
        if tied
        else f"No: the head is not tied; its gradient ({show(through_head)}) stays in the head's own row.",
        through_head if tied else 0.0,
        {"in the head's row": through_head},
        f"norm of the loss' gradient to row {subject.pad} of the output head, input embedding separate; "
        f"{_separate_texts(subject)}",
    )


def _weight_decay(subject: Subject) -> Result:
    row = nn.Parameter(subject.embedding.weight[subject.pad].detach().float().clone())
    before, row.grad = row.detach().clone(), torch.zeros_like(row)
    torch.optim.AdamW([row], lr=LEARNING_RATE, weight_decay=_DECAY).step()
    moved = (row.detach() - before).norm().item()
    return Result(
        f"{'Yes' if moved else 'No, a row of zeros stays zero'}: with a gradient of zero one step of AdamW moves it by "
        f"{show(moved)}, learning rate × decay × norm.",
        moved,
        {"learning rate": LEARNING_RATE, "decay": _DECAY},
        f"one step of torch's AdamW on a copy of {subject.row_name}",
    )


def _ignore_index(subject: Subject) -> Result:
    trained = subject.trained
    without, ignored = (trained.movement(subject.batch("right"), subject.pad, index) for index in (-100, subject.pad))
    return Result(
        f"{'No' if ignored else 'Yes'}: with ignore_index={subject.pad} the row moves by {show(ignored)}, without "
        f"it by {show(without)}.",
        ignored,
        {"without": without},
        f"distance of {subject.row_name} after {STEPS} steps of AdamW without decay, learning rate {LEARNING_RATE}, "
        f"targets at pads included; {subject.training}; {subject.padded} on the right",
    )


QUESTIONS: tuple[tuple[str, str, Callable[[Subject], Result]], ...] = (
    ("zero_row", "Is the pad row of the embedding matrix zero?", _pad_row_zero),
    ("tied", "Is the embedding matrix tied to the output head when the model is trained?", _tied),
    ("padding_idx", "Is padding_idx set, and to the tokenizer's pad id?", _padding_idx),
    ("attention", "How much attention lands on pads?", _attention),
    ("zeroing", "What does zeroing the pad row change?", _zeroing),
    ("cosines", "How similar are the outputs at pads?", _cosines),
    ("token_types", "What token type do pads have, and does it matter?", _token_types),
    ("finite_mask", "Is a mask of -10000 the same as one of the smallest number?", _finite_mask),
    ("mask_from_ids", "Is the mask input_ids != pad the same as the tokenizer's?", _mask_from_ids),
    ("end_of_text", "Is the pad token the end-of-text token, and what do training labels lose?", _end_of_text),
    ("input_gradient", "Does training move the pad row through the input embedding?", _input_gradient),
    ("head_gradient", "Does training move the pad row through the output head?", _head_gradient),
    ("weight_decay", "Does weight decay move the pad row without a gradient?", _weight_decay),
    ("ignore_index", "Does ignore_index keep the pad row unchanged?", _ignore_index),
)
