"""Recognise from vectors which pooling, layer, text and length a server really uses, with a reference model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from maskpool.audit.opening import open_pipeline
from maskpool.audit.pipelines import Pipeline
from maskpool.config.reading import read_config
from maskpool.encoder import Encoder, bundled_folder_of
from maskpool.poolings.build import build_pooling
from maskpool.tolerances import HALF_ROUNDING, VECTOR_CHANGE

# Prompts that popular models are used with.
PROMPTS = (
    "query: ",
    "passage: ",
    "search_query: ",
    "search_document: ",
    "clustering: ",
    "Represent this sentence for searching relevant passages: ",
    "title: none | text: ",
    "task: search result | query: ",
)
_POOLINGS = {mode: build_pooling(mode) for mode in ("mean", "cls", "lasttoken", "max", "weightedmean")}
_WIDEST = 512  # tokens of a text that is padded to the maximum length
# The lengths of vectors: all 1, as pooled, or that times the square root or the number of tokens.
UNIT, RAW, TIMES_ROOT, TIMES_NUMBER = "unit", "raw", "times root", "times number"
_CLEARLY = 3  # the next candidate is so many times further away


@dataclass(frozen=True)
class Recipe:
    """One way to make a vector from a text by the reference model.

    Attributes:
        pooling: The mode; empty for what the model is saved with, dense layers included.
        layer: The hidden state that is pooled, 0 for the embeddings.
        last: Whether it is the last.
        prompt: What is put in front of a text.
        lower: Whether texts are lower-cased.
        special: Whether special tokens are ``"pooled"``, ``"not pooled"`` or ``"not added"``.
        pads: Whether pads up to the maximum length are pooled as well.
    """

    pooling: str
    layer: int
    last: bool = True
    prompt: str = ""
    lower: bool = False
    special: str = "pooled"
    pads: bool = False

    def __str__(self) -> str:
        """Return the recipe in words."""
        words = [self.pooling]
        words += [] if self.last else [f"of hidden state {self.layer}"]
        words += [f"with the prompt {self.prompt!r}"] if self.prompt else []
        words += ["of lower-cased texts"] if self.lower else []
        words += [] if self.special == "pooled" else [f"with special tokens {self.special}"]
        words += ["over pads up to the maximum length"] if self.pads else []
        return " ".join(words)


class ReferenceModel:
    """The model that a server is compared with.

    Args:
        name: Its folder, or its name on the hub.

    Raises:
        MaskpoolError: The model cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._saved = Pipeline(open_pipeline(name))
        self.encoder = Encoder.load(name)
        self.config = read_config(bundled_folder_of(name))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the vectors that the model is saved to give, (texts, dim), each text by itself."""
        return torch.cat([self._saved([text]) for text in texts])

    @cached_property
    def recipe(self) -> Recipe | None:
        """What the model is saved with, if it is a recipe of `candidates`."""
        saved = self.config.pooling.value or ("mean",)
        plain = not self.config.dense.value and not self.config.pooling_options.value
        if len(saved) != 1 or not plain or self.config.truncate_dim.value is not None:
            return None
        pooling = "mean" if saved[0] == "mean_sqrt_len_tokens" else saved[0]
        special = "pooled" if self.config.include_special_tokens.value else "not pooled"
        prompts, default = self.config.prompts.value, self.config.default_prompt.value
        return Recipe(
            pooling, int(self.encoder.model.config.num_hidden_layers), True, prompts.get(default, ""), special=special
        )

    @property
    def room(self) -> int:
        """The number of a text's own tokens that the model reads."""
        limit = self.config.max_length.value or self.encoder.max_length
        return min(limit, self.encoder.max_length) - self.encoder.special_tokens

    def words_read(self, words: Sequence[str], most: int, prompt: str = "") -> int | None:
        """Return how many of a text's words fill the maximum length; None if it has fewer."""
        low, high = 0, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            number = len(self._ids(prompt + " ".join(words[:middle])))
            low, high = (middle, high) if number < self.room else (low, middle)
        return None if high > most else high

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @torch.no_grad()
    def of_chunks(self, text: str) -> Iterator[tuple[str, Tensor]]:
        """Yield means of the normalised vectors of a text's chunks, each as long as the model reads."""
        ids, whole = self._ids(text), self.encoder.tokenizer(text, verbose=False)["input_ids"]
        before = next((n for n in range(len(whole)) if whole[n : n + len(ids)] == ids), None)
        if self.recipe is None or before is None:
            return
        chunks = [ids[start : start + self.room] for start in range(0, len(ids), self.room)]
        vectors, parts = [], [whole[:before], whole[before + len(ids) :]]
        for chunk in chunks:
            (states,) = self.encoder.layers([[*parts[0], *chunk, *parts[1]]])
            mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
            vectors.append(directions(build_pooling(self.recipe.pooling)(states, mask)[0]))
        rows = torch.stack(vectors).to("cpu", torch.float64)
        weights = torch.tensor([len(chunk) for chunk in chunks], dtype=torch.float64).unsqueeze(1)
        yield f"the mean of the normalised vectors of chunks of {self.room} tokens", rows.mean(dim=0)
        yield (
            f"the mean of the normalised vectors of chunks of {self.room} tokens, weighted by their length",
            (rows * weights).sum(dim=0),
        )

    def candidates(self, texts: Sequence[str]) -> Iterator[tuple[Recipe, Tensor]]:
        """Yield the raw vectors of every recipe, (texts, dim)."""
        prompts = dict.fromkeys(("", *self.config.prompts.value.values(), *PROMPTS))
        for prompt in prompts:
            yield from self._of_tokens([prompt + text for text in texts], Recipe("", 0, prompt=prompt))
        yield from self._of_tokens(texts, Recipe("", 0, special="not added"))
        lower = [text.lower() for text in texts]
        if any(self._ids(text) != self._ids(changed) for text, changed in zip(texts, lower, strict=True)):
            yield from self._of_tokens(lower, Recipe("", 0, lower=True))

    @torch.no_grad()
    def _of_tokens(self, texts: Sequence[str], recipe: Recipe) -> Iterator[tuple[Recipe, Tensor]]:
        encoder = self.encoder
        added = recipe.special == "pooled"
        pooled: dict[Recipe, list[Tensor]] = {}
        layers = int(encoder.model.config.num_hidden_layers)
        for text in texts:
            encoded = encoder.tokenizer(
                text, add_special_tokens=added, truncation=True, max_length=encoder.max_length, verbose=False
            )["input_ids"]
            if not encoded:
                return
            ids = [encoded]
            special = torch.tensor(
                [encoder.tokenizer.get_special_tokens_mask(encoded, already_has_special_tokens=True)]
            )
            masks = {recipe.special: torch.ones_like(special)}
            if added and not recipe.prompt and not recipe.lower and bool((special == 0).any()):
                masks["not pooled"] = 1 - special
            states = encoder.layers(ids, tuple(range(1, layers + 1)))
            for layer, state in enumerate(states, 1):
                for what, mask in masks.items():
                    for mode, pooling in _POOLINGS.items():
                        key = replace(recipe, pooling=mode, layer=layer, last=layer == layers, special=what)
                        pooled.setdefault(key, []).append(pooling(state, mask.to(state.device))[0])
            if added and not recipe.prompt and not recipe.lower and len(encoded) < encoder.max_length <= _WIDEST:
                (padded,) = encoder.layers(ids, (-1,), width=encoder.max_length)
                key = replace(recipe, pooling="mean", layer=layers, pads=True)
                pooled.setdefault(key, []).append(padded[0].mean(dim=0))
        for key, vectors in pooled.items():
            if len(vectors) == len(texts):
                yield key, torch.stack(vectors).to("cpu", torch.float64)


@dataclass(frozen=True)
class Recognised:
    """What vectors say about the recipe that made them.

    Attributes:
        recipes: The recipes that give these directions, the simplest first; empty if none is clearly the nearest.
        error: The largest difference of a unit vector from that of the nearest recipe.
        next_error: The same for the nearest recipe that differs.
    """

    recipes: tuple[Recipe, ...]
    error: float
    next_error: float


def directions(rows: Tensor) -> Tensor:
    """Return unit vectors."""
    lengths: Tensor = rows.norm(dim=-1, keepdim=True)
    return rows / lengths.clamp(min=torch.finfo(rows.dtype).tiny)


def farthest(rows: Tensor, others: Tensor) -> float:
    """Return the largest difference of the directions of two vectors of a text; inf if a number is not finite."""
    a, b = directions(rows), directions(others)
    lengths = torch.maximum(a.norm(dim=1), b.norm(dim=1)).clamp(min=torch.finfo(a.dtype).tiny)
    largest = float(((a - b).norm(dim=1) / lengths).max())
    return largest if math.isfinite(largest) else math.inf


def recognise(rows: Tensor, candidates: Sequence[tuple[Recipe, Tensor]], noise: float) -> Recognised:
    """Find the recipe whose vectors have the directions of a server's.

    A recipe is recognised if its vectors are as near as the noise allows and the next that differs is clearly further
    away. Recipes that give equal directions are one class.

    Args:
        rows: The vectors of the server, (texts, dim).
        candidates: The vectors of each recipe, simpler recipes first.
        noise: The largest difference that does not count. Half precision inside the server may add up to
            ``HALF_ROUNDING``, where the next recipe is further away than that.
    """
    fitting = [(recipe, vectors) for recipe, vectors in candidates if vectors.shape == rows.shape]
    errors = [farthest(rows, vectors) for _, vectors in fitting]
    if not errors or not math.isfinite(error := min(errors)):
        return Recognised((), math.inf, math.inf)
    best = fitting[errors.index(error)][1]
    noise = max(noise, error)
    same = [farthest(vectors, best) <= VECTOR_CHANGE for _, vectors in fitting]
    following = min((e for e, equal in zip(errors, same, strict=True) if not equal), default=math.inf)
    recipes = tuple(recipe for (recipe, _), equal in zip(fitting, same, strict=True) if equal)
    clear = error <= HALF_ROUNDING and following > _CLEARLY * noise
    if not clear:
        return Recognised((), error, following)
    return Recognised(recipes, error, following)


def scale_of(rows: Tensor, raw: Tensor, tokens: Tensor, tolerance: float) -> str:
    """Say how the lengths of vectors follow from those of the same directions that were not normalised.

    Args:
        rows: The vectors, (texts, dim).
        raw: Vectors of these directions, as pooled.
        tokens: The number of tokens of each text.
        tolerance: The largest relative difference of two lengths that are equal.
    """
    lengths, pooled = rows.norm(dim=1), raw.norm(dim=1)
    for name, expected in (
        (UNIT, torch.ones_like(lengths)),
        (RAW, pooled),
        (TIMES_ROOT, pooled * tokens.sqrt()),
        (TIMES_NUMBER, pooled * tokens),
    ):
        if bool(((lengths / expected - 1).abs() <= tolerance).all()):
            return name
    return "other"
