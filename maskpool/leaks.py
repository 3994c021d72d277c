"""The catalogue of padding bugs, and of the faults of servers that an audit of an endpoint finds.

Each bug is declared once: what it is called, how it happens, how to fix it, where people met it, the wrong formula that
the audit recognises it by, and the treatment that the benchmark re-creates it with. The audit makes its findings from
these declarations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from maskpool.nn import POOLINGS
from maskpool.poolings.build import build_pooling
from maskpool.types import Side

# Where the documentation has one page per bug.
PAGES = "docs/bugs/"
# Where the documentation has one section per fault of a server.
SERVING_PAGE = "docs/audit/endpoint.md"
# Maps the token states of one padded text, (width, dim), and where its real tokens are, (width,), to what the wrong
# formula gives, by its description; to nothing where the formula is right for such a text.
WrongFormula: TypeAlias = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Remake:
    """How the benchmark re-creates a bug.

    Attributes:
        pooling: The mode that the bug spoils.
        treatment: What is pooled instead of the real tokens: a key of `maskpool.bench.design.treatments.TREATMENTS`.
        side: The side of the pads.
    """

    pooling: str
    treatment: str
    side: Side = "right"


@dataclass(frozen=True)
class Fault:
    """What can be wrong with the vectors of a pipeline.

    Attributes:
        title: The name in findings, studies and reports.
        fix: What to do about it.
        happens: The code that makes it, in a sentence; empty where the title says it.
        threads: Public threads of people who met it.
        leak: Whether vectors depend on padding or on other texts.
    """

    title: str
    fix: str
    happens: str = ""
    threads: tuple[str, ...] = ()
    leak: bool = True

    @property
    def id(self) -> str:
        """The name of its page or section."""
        return self.title.lower().replace(" ", "-")

    @property
    def url(self) -> str:
        """The place of the documentation about it, relative to the root of the repository."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The word in front of it in a report: ``LEAK`` or ``FAULT``, or ``NOTE`` for what may be intended."""
        return "LEAK" if self.leak else "NOTE"


@dataclass(frozen=True)
class PaddingBug(Fault):
    """One way in which padding changes vectors; the only one that is not a leak is non-determinism.

    Attributes:
        formula: The wrong formula, for bugs of the pooling that one formula describes.
        remake: How the benchmark re-creates it, for bugs that it can.
    """

    formula: WrongFormula | None = None
    remake: Remake | None = None

    @property
    def url(self) -> str:
        """The page of the documentation about it, relative to the root of the repository."""
        return f"{PAGES}{self.id}.md"

    @property
    def account(self) -> str:
        """How it happens and where people met it, in a line."""
        threads = [re.sub(r"https://github.com/(.+)/(?:issues|pull)/", r"\1 #", thread) for thread in self.threads]
        return f"{self.happens or self.title} ({', '.join(threads) or 'no public thread is known'})"


@dataclass(frozen=True)
class ServingFault(Fault):
    """One way in which a server gives other vectors than it should, or than a reference model.

    Attributes:
        intended: Whether it may be intended, so a server that has only this is not at fault.
    """

    leak: bool = False
    intended: bool = False

    @property
    def url(self) -> str:
        """The section of the documentation about it, relative to the root of the repository."""
        return f"{SERVING_PAGE}#{self.id}"

    @property
    def label(self) -> str:
        """The word in front of it in a report."""
        return "NOTE" if self.intended else "LEAK" if self.leak else "FAULT"


def all_formulas(states: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the poolings without parameters and options, by mode, over all rows of ``states``, (tokens, dim)."""
    ones = torch.ones(1, len(states), dtype=torch.int64)
    modes = [mode for mode, layer in POOLINGS.items() if not layer.learns and set(layer.options()) == {"on_empty"}]
    return {mode: (lambda mode=mode: build_pooling(mode)(states.unsqueeze(0), ones)[0]) for mode in modes}  # type: ignore[misc]  # mypy does not infer defaults of lambdas


def _mean_of_all(states: Tensor, real: Tensor) -> dict[str, Tensor]:
    return {"the mean of all columns": all_formulas(states)["mean"]()}


def _divided_by_width(states: Tensor, real: Tensor) -> dict[str, Tensor]:
    return {"the sum of real tokens, divided by the width": states[real].sum(dim=0) / len(states)}


def _zeroed_max(states: Tensor, real: Tensor) -> dict[str, Tensor]:
    return {"the maximum of real tokens and zero": states[real].amax(dim=0).clamp(min=0)}


def _max_of_all(states: Tensor, real: Tensor) -> dict[str, Tensor]:
    return {"the maximum of all columns": all_formulas(states)["max"]()}


def _first_column(states: Tensor, real: Tensor) -> dict[str, Tensor]:
    return {} if real[0] else {"the first column": states[0]}


def _last_column(states: Tensor, real: Tensor) -> dict[str, Tensor]:
    return {"the last column": states[-1]} if real[0] else {}


def _pads_only(states: Tensor, real: Tensor) -> dict[str, Tensor]:
    pads = states[~real]
    return {
        "the mean of the pads": pads.mean(dim=0),
        "the sum of the pads": pads.sum(dim=0),
        "the maximum of the pads": pads.amax(dim=0),
    }


def _others_of_all(states: Tensor, real: Tensor) -> dict[str, Tensor]:
    formulas = all_formulas(states)
    others = sorted(set(formulas) - {"mean", "max", "cls", "lasttoken"})
    return {f"{mode} over all columns": formulas[mode]() for mode in others}


# The bugs. Formulas are tried in this order.
MEAN_OVER_PADS = PaddingBug(
    "mean over pads",
    "pool with the mask: maskpool.functional.mean_pool(token_embeddings, attention_mask)",
    happens="last_hidden_state.mean(1) over a padded batch",
    threads=("https://github.com/huggingface/transformers/issues/17463",),
    formula=_mean_of_all,
    remake=Remake("mean", "included"),
)
DIVIDED_BY_WIDTH = PaddingBug(
    "divided by the batch width",
    "divide by the number of real tokens instead of the padded length, as maskpool.functional.mean_pool does",
    happens="real tokens summed, then divided by the padded length",
    threads=("https://github.com/dpressel/mead-baseline/pull/325",),
    formula=_divided_by_width,
    remake=Remake("mean", "divided by width"),
)
ZEROED_PADS = PaddingBug(
    "zeroed pads in a max",
    "leave pads out with maskpool.functional.max_pool instead of setting them to zero, which is larger than a "
    "negative feature",
    happens="tokens multiplied by the mask before the max, so no feature falls below zero",
    formula=_zeroed_max,
    remake=Remake("max", "zeroed pads"),
)
MAX_OVER_PADS = PaddingBug(
    "max over pads",
    "pool with the mask: maskpool.functional.max_pool(token_embeddings, attention_mask)",
    happens="last_hidden_state.max(1) over a padded batch",
    formula=_max_of_all,
)
FIRST_COLUMN = PaddingBug(
    "first column taken as cls",
    "pad on the right, or take the first real token with maskpool.functional.cls_pool: under left padding the "
    "first column is a pad",
    happens="last_hidden_state[:, 0] of a batch padded on the left",
    threads=("https://github.com/huggingface/sentence-transformers/issues/3208",),
    formula=_first_column,
    remake=Remake("cls", "included", "left"),
)
LAST_COLUMN = PaddingBug(
    "last column taken as last token",
    "take the last real token of each text, with maskpool.pool(token_embeddings, attention_mask, 'lasttoken')",
    happens="last_hidden_state[:, -1] of a batch padded on the right",
    threads=("https://github.com/zihangdai/xlnet/issues/73",),
    formula=_last_column,
    remake=Remake("lasttoken", "included"),
)
ADDITIVE_MASK = PaddingBug(
    "additive mask taken for a multiplicative one",
    "pool with a mask that is 1 at real tokens and 0 at pads; additive masks (0 and a large negative number) and "
    "inverted masks are for attention scores only",
    formula=_pads_only,
)
PADS_READ = PaddingBug(
    "pads read by the pooling",
    "pool only real tokens: pass the mask to a layer from maskpool.build_pooling",
    formula=_others_of_all,
)
PADDED_LENGTH_READ = PaddingBug(
    "padded length read by the pooling",
    "count real tokens with the mask instead of columns, as the layers of maskpool.build_pooling do",
)
LAST_TOKEN_BY_COLUMN = PaddingBug(
    "last token counted by column",
    "use maskpool.functional.last_token_pool, which reads the mask: sum(mask) − 1 is the column of the last token "
    "only under right padding",
)
WEIGHTS_BY_COLUMN = PaddingBug(
    "position weights counted by column",
    "count positions from the first real token of each text, as "
    "maskpool.functional.position_weighted_mean_pool does, or pad on the right",
)
PROMPT_BY_COLUMN = PaddingBug(
    "prompt counted by column",
    "leave the prompt out with maskpool.masks.exclude_prompt(attention_mask, prompt_length), or pad on the right: "
    "under left padding the first columns are pads",
)
NAN_AT_PADS = PaddingBug(
    "NaN at pads read by the pooling",
    "leave pads out with torch.where, as maskpool.functional.mean_pool does, instead of multiplying by the mask: "
    "0 × NaN is NaN",
)
NAN_IN_ENCODER = PaddingBug(
    "NaN in the encoder of padded texts",
    "mask attention scores with torch.finfo(dtype).min instead of −inf, or set the outputs of rows that see no "
    "token to zero; torch.nan_to_num on the vectors only hides the NaN",
)
NAN_WHERE_PADDED = PaddingBug(
    "NaN where texts are padded",
    "look for 0 / 0 in attention rows that see no token, and for pads multiplied by 0; pass the model, tokenizer "
    "and pooling to the audit, which can then look inside",
)
MASK_NOT_PASSED = PaddingBug(
    "mask not passed to the encoder",
    "pass attention_mask=… to the model together with input_ids",
    happens="model(input_ids) of a padded batch, pooled with the mask or without",
    threads=("https://github.com/lean-dojo/ReProver/issues/34",),
    remake=Remake("mean", "mask not passed"),
)
ALL_ONES_MASK = PaddingBug(
    "all-ones mask",
    "take the tokenizer's attention_mask, or make a mask from the lengths of the texts",
)
MASK_OF_OTHER_TOKENS = PaddingBug(
    "mask of other tokens",
    "take the tokenizer's attention_mask: a mask must be 1 at every token of the text and 0 at every pad",
)
OTHER_PATH = PaddingBug(
    "other path where nothing is padded",
    "give a mask of ones the same path as any other mask: do not drop it, and do not let is_causal depend on it",
)
PAD_IS_END_OF_TEXT = PaddingBug(
    "pad token is end-of-text",
    "take the tokenizer's attention_mask; without one, if the pad's id also ends each text, use "
    "maskpool.masks.mask_from_input_ids(ids, pad, eos_token_id=pad), which keeps the first of them",
)
POSITION_IDS_ON_THE_LEFT = PaddingBug(
    "position ids under left padding",
    "pass position_ids that count real tokens, or pad on the right (tokenizer.padding_side = 'right') and pool "
    "with the mask: [:, -1] is the last token only under left padding, maskpool.functional.last_token_pool finds "
    "it on both sides",
)
POSITION_IDS_BY_COLUMN = PaddingBug(
    "position ids counted by column",
    "pass position_ids that count the real tokens of each text from its first one, as the model does for a text alone",
)
MASK_IGNORED = PaddingBug(
    "mask ignored inside the encoder",
    "make the encoder's attention use the mask that it is given, or batch only texts of equal length",
)
CONVOLUTION = PaddingBug(
    "convolution across pads",
    "set pads to zero before each convolution, or batch only texts of equal length",
)
RECURRENT_STATE = PaddingBug(
    "recurrent state through pads",
    "pack the batch (torch.nn.utils.rnn.pack_padded_sequence), pad on the right if the state runs forwards only, "
    "or batch only texts of equal length",
)
NORMALISATION = PaddingBug(
    "normalisation over positions",
    "take the statistics over real tokens only: normalise over features (LayerNorm), or weight by the mask",
)
PADS_REACH_TOKENS = PaddingBug(
    "pads reach real tokens inside the encoder",
    "look into the module that the audit's evidence names; until it is fixed, batch only texts of equal length",
)
COUPLING = PaddingBug(
    "coupling through the batch",
    "call model.eval(), and compute statistics, routing and scales for each text separately, or fix them once for "
    "all batches",
)
DYNAMIC_QUANTISATION = PaddingBug(
    "dynamic quantisation shared by the batch",
    "quantise weights only, use static scales or one scale per token, or run in floating point: dynamic "
    "quantisation rounds the whole input by one scale, other texts and pads included",
)
ROWS_IN_ANOTHER_ORDER = PaddingBug(
    "rows in another order",
    "return vectors in the order of the texts: undo the sorting by length with the inverse permutation",
)
CUT_TO_A_SHORTER_TEXT = PaddingBug(
    "cut to a shorter text of the batch",
    "pad to the longest text of the batch (padding=True), and truncate only at max_length",
)
STATE_KEPT = PaddingBug(
    "state kept between calls",
    "clear buffers and caches between calls, or key them by everything that their contents depend on",
)
CACHED_VECTORS = PaddingBug(
    "vectors cached from a padded run",
    "empty the cache, fix the pipeline that filled it, and key it by everything that a vector depends on",
)
UNKNOWN_CAUSE = PaddingBug(
    "padding of unknown cause",
    "pass the model, tokenizer and pooling to the audit instead of a function, so it can look inside",
)
NON_DETERMINISM = PaddingBug(
    "non-determinism",
    "call model.eval() to turn dropout off, or seed the random numbers",
    leak=False,
)

# The faults that the audit of an endpoint finds next to these.
CONCURRENT_REQUESTS = ServingFault(
    "concurrent requests change vectors",
    "the server batches requests that arrive together, and the batch changes their vectors: update it, or limit it to "
    "one request at a time, and audit again",
    leak=True,
    threads=("https://github.com/huggingface/text-embeddings-inference/issues/882",),
)
STRING_AND_LIST = ServingFault(
    "a string and a list of one text differ",
    "send every text in a list, also a single one, and report it to the server's authors",
)
DUPLICATES_MERGED = ServingFault(
    "repeated texts merged",
    "the answer has fewer vectors than the request has texts: send each text once per request",
)
BASE64_DIFFERS = ServingFault(
    "base64 differs from numbers",
    "base64 must hold little-endian float32 of the same vector: ask for encoding_format=float, as some clients do not "
    "by default",
)
EMPTY_TEXT_FAILS = ServingFault(
    "empty text fails",
    "drop empty texts before they are sent; a server may refuse them as a wrong request, but not break",
)
SHARED_BEGINNING = ServingFault(
    "texts with the same beginning share a vector",
    "a cache is keyed by the beginning of a text: turn it off, or key it by the whole text",
)
LONG_TEXTS_NOT_NORMALISED = ServingFault(
    "long texts are not normalised",
    "normalise after the vectors of chunks are averaged, in the server or in the client",
    threads=("https://github.com/vllm-project/vllm/issues/57498",),
)
OTHER_POOLING = ServingFault(
    "another pooling",
    "set the server's pooling to that of the model; maskpool.config lists the setting of each server",
    threads=("https://github.com/vllm-project/vllm/issues/45995",),
)
OTHER_LAYER = ServingFault(
    "another layer",
    "pool the states of the layer that the model was trained with, usually the last",
)
OTHER_NORMALISATION = ServingFault(
    "another normalisation",
    "set the server's normalisation to that of the model, or compare vectors by cosine only",
)
OTHER_LENGTH = ServingFault(
    "another maximum length",
    "set the server's maximum length to that of the model, or cut texts before they are sent",
)
CHUNKS_AVERAGED = ServingFault(
    "chunks are averaged",
    "long texts are cut into chunks whose vectors are averaged: turn it off to cut texts as the model does",
    threads=("https://github.com/vllm-project/vllm/issues/57927",),
)
OTHER_PROMPT = ServingFault(
    "another prompt",
    "the server puts another prompt in front of texts than the model's default: set it in the server, or in the client",
)
LOWER_CASED = ServingFault(
    "texts are lower-cased",
    "the model's tokenizer keeps capitals: turn lower-casing off in the server",
)
OTHER_SPECIAL_TOKENS = ServingFault(
    "other special tokens",
    "let the server's tokenizer add the special tokens that the model was trained with",
    threads=("https://github.com/ggml-org/llama.cpp/issues/14280",),
)
ROUNDED_NUMBERS = ServingFault(
    "rounded numbers",
    "a server in half precision or with quantised output rounds: run it in float32 where the difference matters",
    intended=True,
)
OTHER_VECTORS = ServingFault(
    "other vectors than the reference",
    "check that the server runs this model: its name and revision, tokenizer, adapters and dense layers",
)

# Every bug above, by title.
PADDING_BUGS: dict[str, PaddingBug] = {
    bug.title: bug for bug in tuple(globals().values()) if isinstance(bug, PaddingBug)
}
SERVING_FAULTS: dict[str, ServingFault] = {
    fault.title: fault for fault in tuple(globals().values()) if isinstance(fault, ServingFault)
}
# How the benchmark re-creates those that it can.
REMADE: dict[str, Remake] = {title: bug.remake for title, bug in PADDING_BUGS.items() if bug.remake is not None}
