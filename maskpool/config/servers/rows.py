"""The form of a fact about a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from maskpool.config.statement import GGUF as GGUF_LAYOUT
from maskpool.config.statement import NEW, OLD, OURS, EmbeddingConfig


class Verdict(StrEnum):
    """What a server makes of a model, from best to worst."""

    SAME = "same"
    CALLER = "set by the caller"
    DEPENDS = "depends on version"
    UNKNOWN = "unknown"
    DIFFERENT = "different"
    FAILS = "fails to load"

    @property
    def rank(self) -> int:
        """The place in the order from best to worst."""
        return list(Verdict).index(self)


class Known(StrEnum):
    """How a fact about a server is known."""

    RUN = "run"  # the server's own code computed vectors, and they were compared
    READ = "read"  # in the server's source or documentation
    INFERRED = "inferred"  # from other facts; such a row never says that vectors are the same


class Aspect(StrEnum):
    """A part of what a model computes that a server may compute otherwise."""

    FILES = "files"
    LAYER = "token states"
    POOLING = "pooling"
    PROMPT_TOKENS = "prompt tokens"
    SPECIAL_TOKENS = "special tokens"
    DENSE = "layers behind the pooling"
    UNIT_LENGTH = "unit length"
    DIMENSIONS = "dimensions kept"
    PROMPT = "default prompt"
    CASE = "lower case"
    LENGTH = "maximum tokens"


@dataclass(frozen=True)
class Caller:
    """Hold what the caller of a server passes to it.

    Attributes:
        pooling: The pooling mode, as sentence-transformers names it; None if the caller passes none.
        normalize: Whether the caller asks for unit length; None if the caller does not say.
    """

    pooling: str | None = None
    normalize: bool | None = None


@dataclass(frozen=True)
class Condition:
    """Describe models and calls that a row is about, in words and as a test."""

    words: str
    holds: Callable[[EmbeddingConfig, Caller], bool]


@dataclass(frozen=True)
class Row:
    """Hold a fact: what versions of a server make of an aspect of some models.

    Attributes:
        aspect: The part of what the model computes.
        when: The conditions, which all hold.
        verdict: What the server makes of it.
        computes: What the server computes; ``{modes}`` is replaced by the model's poolings, ``{name}`` by the
            server's name for its pooling, ``{length}`` by its length.
        repair: The argument or file that repairs it, with what can be typed in backquotes, which only the docs show.
        convert: The conversion that repairs it, for models that the layout and the server can express.
        versions: The versions, as pip writes them; empty for all.
        source: Where the fact is from.
        date: When it was read or run.
        known: How it is known.
    """

    aspect: Aspect
    when: tuple[Condition, ...]
    verdict: Verdict
    computes: str = ""
    repair: str = ""
    convert: str = ""
    versions: str = ""
    source: str = ""
    date: str = ""
    known: Known = Known.READ

    def repairs(self, convert: bool = True) -> str:
        """Return the repairs, in words; the conversion only if it is possible."""
        return ", or ".join(filter(None, [self.repair, self.convert if convert else ""]))


@dataclass(frozen=True)
class Server:
    """Hold the facts about a server.

    Attributes:
        name: Its name, in lower case.
        title: Its name in text.
        oldest: The oldest version that the rows hold for.
        newest: The newest version that was read or run.
        rows: The facts; the first that fits decides an aspect.
        poolings: Its name for each mode that it computes.
        takes_pooling: Whether the caller can name the pooling.
        address: Where its source is.
    """

    name: str
    title: str
    oldest: str
    newest: str
    rows: tuple[Row, ...]
    poolings: Mapping[str, str] = field(default_factory=dict)
    takes_pooling: bool = True
    address: str = ""


def pooled_as(config: EmbeddingConfig) -> tuple[str, ...]:
    """Return the poolings by the simplest names that give the same vectors.

    The mean times the root of the length has the direction of the mean, so unit vectors are equal.
    """
    modes = config.pooling.value or ()
    if modes == ("mean_sqrt_len_tokens",) and config.normalize.value and not config.dense.value:
        return ("mean",)
    return modes


def _mode(*modes: str) -> Condition:
    return Condition(
        " or ".join(modes), lambda config, _: len(pooled_as(config)) == 1 and pooled_as(config)[0] in modes
    )


def _saved_as(*modes: str) -> Condition:
    return Condition(
        f"saved as {' or '.join(modes)}",
        lambda config, _: len(config.pooling.value or ()) == 1 and (config.pooling.value or ())[0] in modes,
    )


def _types(config: EmbeddingConfig, *starts: str) -> bool:
    return any(stored.startswith(starts) for stored in config.files.types)


_BERT = (
    *("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "albert", "electra", "mpnet", "modernbert"),
    "nomic_bert",
)

ALWAYS: tuple[Condition, ...] = ()
MEAN, CLS, LAST, MAX = (_mode(mode) for mode in ("mean", "cls", "lasttoken", "max"))
CLS_MEAN = _mode("cls", "mean")
CLS_MEAN_LAST = _mode("cls", "mean", "lasttoken")
CLS_MEAN_LAST_MAX = _mode("cls", "mean", "lasttoken", "max")
SAVED_MEAN_SQRT = _saved_as("mean_sqrt_len_tokens")
SAVED_CLS_MEAN_LAST = _saved_as("cls", "mean", "lasttoken")
SEVERAL = Condition("several modes", lambda config, _: len(config.pooling.value or ()) > 1)
HOST_MODE = Condition(
    "a mode of sentence-transformers",
    lambda config, _: (
        set(config.pooling.value or ()) <= {"cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"}
    ),
)
OLD_FILES = Condition("files of 5.3 or older", lambda config, _: config.layout == OLD)
NEW_FILES = Condition("files of 5.4 or newer", lambda config, _: config.layout == NEW)
OUR_FILES = Condition("a pooling of maskpool", lambda config, _: config.layout == OURS)
HOST_FILES = Condition("files of sentence-transformers", lambda config, _: config.layout in (OLD, NEW))
GGUF = Condition("a GGUF file", lambda config, _: config.layout == GGUF_LAYOUT)
NOT_GGUF = Condition("not a GGUF file", lambda config, _: config.layout != GGUF_LAYOUT)
OLD_PATHS = Condition(
    "class paths of 5.3",
    lambda config, _: all(stored.startswith("sentence_transformers.models.") for stored in config.files.types),
)
NEW_PATHS = Condition(
    "class paths of 5.4 or newer",
    lambda config, _: _types(config, "sentence_transformers.base.", "sentence_transformers.sentence_transformer."),
)
NEW_NORMALIZE = Condition(
    "a Normalize saved by 6.0 or newer",
    lambda config, _: _types(config, "sentence_transformers.base.modules.normalize."),
)
OTHER_FOLDER = Condition("the pooling is not in 1_Pooling", lambda config, _: config.files.pooling_path != "1_Pooling")
NO_OLD_KEYS = Condition(
    "no pooling_mode_cls_token and pooling_mode_mean_tokens in 1_Pooling/config.json",
    lambda config, _: not {"pooling_mode_cls_token", "pooling_mode_mean_tokens"} <= set(config.files.pooling),
)
NO_MAX_LENGTH = Condition(
    "no max_seq_length in sentence_bert_config.json",
    lambda config, _: bool(config.files.transformer_file) and not config.files.transformer.get("max_seq_length"),
)
HAS_MAX_LENGTH = Condition(
    "max_seq_length in sentence_bert_config.json",
    lambda config, _: bool(config.files.transformer.get("max_seq_length")),
)
HAS_LONG_TEXTS = Condition(
    "a length of 512 tokens or more",
    lambda config, _: config.max_length.value is not None and config.max_length.value >= 512,
)
BOTH_TRANSFORMER_KEYS = Condition(
    "max_seq_length and do_lower_case in sentence_bert_config.json",
    lambda config, _: {"max_seq_length", "do_lower_case"} <= set(config.files.transformer),
)
FITS_TOKENIZER = Condition(
    "the length of tokenizer_config.json, or of config.json if it is shorter, is the model's",
    lambda config, _: _tokenizer_length(config) == config.max_length.value,
)
NO_TOKENIZER = Condition("no tokenizer.json", lambda config, _: not config.files.tokenizer_json)
NO_ONNX = Condition("no ONNX file", lambda config, _: not config.files.onnx)
CLS_BY_DEFAULT = Condition(
    "an architecture that vLLM pools by cls by default",
    lambda config, _: config.files.model_type in ("bert", "roberta", "xlm-roberta"),
)
BERT = Condition("a BERT-like encoder", lambda config, _: config.files.model_type in _BERT)
NORMALIZED = Condition("a Normalize at the end", lambda config, _: config.normalize.value is True)
NOT_NORMALIZED = Condition("no Normalize at the end", lambda config, _: config.normalize.value is False)
PADS_RIGHT = Condition("pads on the right", lambda config, _: config.padding_side.value == "right")
GIVEN = Condition("a pooling passed", lambda _, caller: caller.pooling is not None)
NOT_GIVEN = Condition("no pooling passed", lambda _, caller: caller.pooling is None)
GIVEN_FITS = Condition(
    "the model's pooling passed",
    lambda config, caller: caller.pooling is not None and pooled_as(config) == (caller.pooling,),
)
NORMALIZE_MATCHES = Condition(
    "unit length asked for as the model has it",
    lambda config, caller: caller.normalize is not None and caller.normalize == config.normalize.value,
)
NORMALIZE_DIFFERS = Condition(
    "unit length asked for otherwise than the model has it",
    lambda config, caller: (
        None not in (caller.normalize, config.normalize.value) and caller.normalize != config.normalize.value
    ),
)


def _tokenizer_length(config: EmbeddingConfig) -> int | None:
    lengths = [length for length in (config.files.tokenizer_length, config.files.positions) if length is not None]
    return min(lengths, default=None)


# Whether a model has something that a server may compute otherwise; the other aspects are always of interest.
AT_STAKE: Mapping[Aspect, Callable[[EmbeddingConfig], bool]] = {
    Aspect.LAYER: lambda config: config.layer.value != "last_hidden_state",
    Aspect.PROMPT_TOKENS: lambda config: not config.include_prompt.value,
    Aspect.SPECIAL_TOKENS: lambda config: not config.include_special_tokens.value,
    Aspect.DENSE: lambda config: bool(config.dense.value),
    Aspect.DIMENSIONS: lambda config: config.truncate_dim.value is not None,
    Aspect.PROMPT: lambda config: bool(config.default_prompt.value),
    Aspect.CASE: lambda config: config.lower_case.value,
    Aspect.LENGTH: lambda config: config.max_length.value is not None,
}
