"""What a model computes from a text, as its files state it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# The layouts of a model's files, as `EmbeddingConfig.layout` names them.
OLD, NEW, OURS = "sentence-transformers <= 5.3", "sentence-transformers >= 5.4", "maskpool"
PLAIN, GGUF = "transformers", "GGUF"


@dataclass(frozen=True)
class Fact(Generic[T]):
    """Hold a fact about a model.

    Attributes:
        value: The fact.
        source: The file and field it was read from, or why it holds without one.
    """

    value: T
    source: str


@dataclass(frozen=True)
class Files:
    """Hold what files contain that other readers decide by.

    Attributes:
        types: The stored path of each module's class, in order.
        pooling_path: The folder of the pooling module.
        pooling: The content of the pooling's config.json.
        transformer: The content of the settings of the Transformer module.
        transformer_file: The name of their file; empty if there is none.
        model_type: The type of the model in config.json.
        positions: The number of positions in config.json.
        tokenizer_length: ``model_max_length`` of tokenizer_config.json.
        tokenizer_json: Whether there is a tokenizer.json.
        onnx: The ONNX files.
    """

    types: tuple[str, ...] = ()
    pooling_path: str = ""
    pooling: Mapping[str, Any] = field(default_factory=dict)
    transformer: Mapping[str, Any] = field(default_factory=dict)
    transformer_file: str = ""
    model_type: str = ""
    positions: int | None = None
    tokenizer_length: int | None = None
    tokenizer_json: bool = False
    onnx: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmbeddingConfig:
    """State what a model computes from a text.

    Attributes:
        layout: The layout of the files.
        layer: The token states that are pooled.
        pooling: The pooling modes, concatenated; None if the files do not name one.
        pooling_options: Options of the modes that differ from the default.
        include_prompt: Whether tokens of a prompt are pooled.
        include_special_tokens: Whether tokens that the tokenizer adds are pooled.
        prompts: The prompts by name.
        default_prompt: The prompt that each text starts with unless the caller chooses one; empty if there is none.
        lower_case: Whether texts are lower-cased before they are tokenized.
        normalize: Whether vectors get length 1, before dimensions are cut; None if the files do not say.
        dense: The layers that change the pooled vector, in order.
        truncate_dim: The number of dimensions that are kept; None for all.
        max_length: The number of tokens that texts are cut to; None if the files do not name it.
        padding_side: The side that batches are padded on.
        files: What other readers decide by.
    """

    layout: str
    layer: Fact[str]
    pooling: Fact[tuple[str, ...] | None]
    pooling_options: Fact[Mapping[str, Any]]
    include_prompt: Fact[bool]
    include_special_tokens: Fact[bool]
    prompts: Fact[Mapping[str, str]]
    default_prompt: Fact[str]
    lower_case: Fact[bool]
    normalize: Fact[bool | None]
    dense: Fact[tuple[str, ...]]
    truncate_dim: Fact[int | None]
    max_length: Fact[int | None]
    padding_side: Fact[str]
    files: Files

    def to_dict(self) -> dict[str, Any]:
        """Return the statement as JSON types: each fact with its value and its source."""
        facts = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            "layout": self.layout,
            **{
                name: {"value": list(fact.value) if isinstance(fact.value, tuple) else fact.value, "from": fact.source}
                for name, fact in facts.items()
                if isinstance(fact, Fact)
            },
        }

    def __str__(self) -> str:
        """Return the statement as aligned lines, each with the place that it was read from."""
        prompt = self.default_prompt
        quoted = replace(prompt, value=repr(prompt.value)) if prompt.value else prompt  # it may end with a blank
        facts = [(label, quoted if name == "default_prompt" else getattr(self, name)) for label, name in _LABELS]
        rows = [(label, _words(fact), fact.source) for label, fact in facts]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{label:{widths[0]}}  {words:{min(widths[1], 40)}}  {source}" for label, words, source in rows]
        return "\n".join([f"{'files':{widths[0]}}  {self.layout}", *lines])


_LABELS = (
    ("token states", "layer"),
    ("pooling", "pooling"),
    ("options", "pooling_options"),
    ("prompt tokens pooled", "include_prompt"),
    ("special tokens pooled", "include_special_tokens"),
    ("prompts", "prompts"),
    ("default prompt", "default_prompt"),
    ("lower-cased", "lower_case"),
    ("layers behind", "dense"),
    ("normalized", "normalize"),
    ("dimensions kept", "truncate_dim"),
    ("maximum tokens", "max_length"),
    ("padding side", "padding_side"),
)


def _words(fact: Fact[Any]) -> str:
    value = fact.value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " + ".join(value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={content!r}" for name, content in value.items()) or "none"
    if value is None:
        return "all" if fact.source == ALL else "not stated"
    return str(value) if value != "" else "none"


ALL = "no truncate_dim"  # the source of a truncation that is not there
