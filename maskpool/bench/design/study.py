"""A study: what is measured, from Python or from a TOML file."""

from __future__ import annotations

import difflib
import itertools
import json
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from maskpool.bench.design import corpora
from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.treatments import EXCLUDED, TREATMENTS
from maskpool.bench.score.clusterers import CLUSTERERS
from maskpool.bench.score.heads import LEARNED, is_saved
from maskpool.bench.score.mixed import MIXED
from maskpool.encoder import BUNDLED, DTYPES
from maskpool.errors import (
    FolderError,
    InvalidTypeError,
    InvalidValueError,
    MaskpoolError,
    NotFoundError,
    rename_arguments,
)
from maskpool.leaks import REMADE
from maskpool.nn import POOLINGS
from maskpool.plans import Plan, default_plans
from maskpool.poolings.registry import suggestion
from maskpool.trust import check_regular

DEFAULT_PAD_TO = 128
DEFAULT_TREATMENTS = ("included", "pads only", "common pad", "another's pads", "noise", *MIXED)
# A mode string alone cannot say how many topk_mean shall take.
KNOWN_POOLINGS = tuple(mode for mode, layer in POOLINGS.items() if not layer.required_options())
_LARGEST_SEED = 2**32 - 1
_KINDS = ("data", "task", "hub", "newsgroups", "docstrings")


@dataclass(frozen=True)
class CorpusSource:
    """Where a corpus comes from: exactly one of the first five.

    Attributes:
        data: A csv, tsv, jsonl or parquet file; in a study file, relative to it.
        task: One of MTEB's clustering tasks.
        hub: A labelled dataset of the Hugging Face hub.
        newsgroups: scikit-learn's 20 newsgroups.
        docstrings: Public docstrings, a demonstration.
        split: Of ``hub``.
        text_column: Of ``data`` and ``hub``.
        label_column: The same.
        limit: A sample of so many texts, stratified by label.
        name: What results call it.
        sha256: What the content must hash to, so that a study is of these texts and no others.
    """

    data: str | None = None
    task: str | None = None
    hub: str | None = None
    newsgroups: bool = False
    docstrings: bool = False
    split: str = "test"
    text_column: str = "text"
    label_column: str = "label"
    limit: int | None = None
    name: str | None = None
    sha256: str | None = None

    def load(self, folder: Path, seed: int) -> Corpus:
        """Read the texts and labels.

        Args:
            folder: What ``data`` is relative to.
            seed: Of the sample.

        Raises:
            MaskpoolError: They cannot be loaded, or are not those that ``sha256`` names.
        """
        if self.data is not None:
            corpus = corpora.read_file(folder / self.data, self.text_column, self.label_column)
        elif self.task is not None:
            corpus = corpora.mteb_task(self.task)
        elif self.hub is not None:
            corpus = corpora.hub_dataset(self.hub, self.split, self.text_column, self.label_column)
        else:
            corpus = corpora.newsgroups() if self.newsgroups else corpora.docstrings()
        if self.name is not None:
            corpus = replace(corpus, name=self.name)
        if self.limit is not None:
            corpus = corpus.sample(self.limit, seed)
        if self.sha256 is not None and corpus.sha256 != self.sha256:
            raise InvalidValueError(
                "sha256",
                f"must be the hash of corpus {corpus.name}, {corpus.sha256}, got {self.sha256}: bring the texts that "
                "the study was made for, in the same order, or leave sha256 out",
            )
        return corpus


@dataclass(frozen=True)
class Study:
    """What is measured: every model × corpus × layer × clusterer × pooling × plan × treatment.

    Attributes:
        models: Names on the hub, or folders.
        corpora: Where the texts come from.
        poolings: Mode strings, of which learned ones are trained and have a table of their own, or folders of heads
            that were trained elsewhere; in a study file, relative to it.
        plans: How texts are batched and padded; none means random batches, batches sorted by length, and a fixed
            length.
        batch_size: Texts in a batch of the default plans.
        pad_to: The fixed length of the default plans; None means 128, or the longest text if that is longer.
        treatments: What is pooled besides the real tokens alone.
        leaks: Public bugs to re-create, by name.
        layers: -1 for the last, 0 for the embedding matrix, else one of transformers' hidden states.
        clusterers: How vectors are clustered.
        seeds: Seeds of the clusterer on all texts.
        replicates: Half-samples that intervals rest on.
        seed: Of the shuffles, half-samples and heads.
        dtype: What the model computes in.
        quote: Whether the report may quote texts; else it names them by their row.
    """

    models: tuple[str, ...] = (BUNDLED,)
    corpora: tuple[CorpusSource, ...] = (CorpusSource(docstrings=True),)
    poolings: tuple[str, ...] = ("mean", "max", "attention")
    plans: tuple[Plan, ...] = ()
    batch_size: int = 32
    pad_to: int | None = None
    treatments: tuple[str, ...] = DEFAULT_TREATMENTS
    leaks: tuple[str, ...] = ()
    layers: tuple[int, ...] = (-1,)
    clusterers: tuple[str, ...] = ("kmeans",)
    seeds: int = 5
    replicates: int = 50
    seed: int = 0
    dtype: str = "float32"
    quote: bool = True

    def __post_init__(self) -> None:
        """Refuse an invalid study.

        Raises:
            InvalidValueError: An unknown name (the nearest known one is named), or a number out of range.
        """
        for pooling in self.poolings:
            find_pooling(pooling, "poolings")
        for name, known in (
            ("treatments", [treatment for treatment in (*TREATMENTS, *MIXED) if treatment != EXCLUDED]),
            ("leaks", tuple(REMADE)),
            ("clusterers", tuple(CLUSTERERS)),
        ):
            for value in getattr(self, name):
                check_known(value, known, name)
        check_known(self.dtype, DTYPES, "dtype")
        for name, fewest in (("seeds", 2), ("replicates", 2), ("batch_size", 1), ("seed", 0)):
            _check_number(getattr(self, name), name, fewest)
        if self.seed > _LARGEST_SEED:
            raise InvalidValueError("seed", f"must be at most {_LARGEST_SEED}, got {self.seed}")
        if not isinstance(self.quote, bool):
            raise InvalidValueError("quote", f"must be true or false, got {self.quote!r}")
        if self.pad_to is not None:
            _check_number(self.pad_to, "pad_to", 1)
        for name in ("models", "corpora", "poolings", "layers", "clusterers"):
            if not getattr(self, name):
                raise InvalidValueError(name, "must hold at least one, got none")
        names = [plan.name for plan in self.plans]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidValueError("plans", f"must differ, but two of them are {twice!r}: take one of them out")
        if self.plans and self.pad_to is not None:
            raise InvalidValueError(
                "pad_to", "belongs to the default plans; where plans are given, give it in one of them"
            )

    @property
    def learned(self) -> tuple[str, ...]:
        """The poolings that are trained here."""
        return tuple(mode for mode in self.poolings if mode in LEARNED)

    def plans_for(self, longest: int, limit: int, model: str) -> tuple[Plan, ...]:
        """The plans for texts of which the longest has so many tokens.

        Args:
            longest: Tokens of the longest text, after truncation.
            limit: The most that the model reads.
            model: Its name, for the error.

        Raises:
            InvalidValueError: A plan pads to less than the longest text, or to more than the model reads.
        """
        fixed = self.pad_to or max(min(DEFAULT_PAD_TO, limit), longest)
        plans = self.plans or tuple(default_plans(self.batch_size, fixed))
        for plan in plans:
            width = longest if plan.pad_to == "longest" else plan.pad_to
            if width < longest or -(-width // plan.multiple_of) * plan.multiple_of > limit:
                raise InvalidValueError(
                    "pad_to",
                    f"must be between {longest}, the longest text in tokens, and {limit}, the most that {model} "
                    f"reads; got {plan.name!r}",
                )
        return plans

    def plans_for_leaks(self, plans: Sequence[Plan]) -> tuple[Plan, ...]:
        """Return the first plan padded on each side that a leak needs and no plan has; it serves leaks only."""
        sides = dict.fromkeys(REMADE[name].side for name in self.leaks)
        return tuple(replace(plans[0], side=side) for side in sides if side not in {plan.side for plan in plans})

    def as_json(self) -> dict[str, Any]:
        """The study as JSON values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        found["corpora"] = [_without_none(source) for source in found["corpora"]]
        return _without_none(found)


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}


def read_study(file: Path) -> Study:
    """Read a study from a TOML file.

    Its keys are the attributes of `Study`; ``corpora`` and ``plans`` are arrays of tables with the attributes of
    `CorpusSource` and `maskpool.plans.Plan`. An attribute of a plan may be a list: the plans are their product.

    Raises:
        NotFoundError: There is no such file.
        FolderError: The file cannot be read, or holds something else than a study; the message names the key and the
            nearest known one.
    """
    expected = f"must name a TOML file that can be read, got {file}"
    try:
        check_regular(file, "a TOML file")
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except NotFoundError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise NotFoundError(f"{expected}: {reason}", argument="file") from error
    except FolderError as error:
        raise FolderError(f"{expected}: {error}", argument="file") from error
    except OSError as error:
        raise FolderError(f"{expected}: {error.strerror}", argument="file") from error
    except (ValueError, RecursionError) as error:  # of TOML, of its numbers, of bytes that are not UTF-8
        raise FolderError(f"must be a TOML file; {file.name} is not: {error}", argument="file") from error
    try:
        return parse_study(content, file.parent)
    except MaskpoolError as error:
        raise FolderError(f"{file.name}: {error}") from error


def parse_study(content: Mapping[str, Any], folder: Path | None = None) -> Study:
    """A study from the content of its file; `Study.as_json` gives such a content.

    Args:
        content: The content.
        folder: What folders of heads are relative to; None is the working directory.

    Raises:
        InvalidTypeError: ``content`` is not a table.
        InvalidValueError: A key is unknown or has an invalid value; the error's argument is the key.
    """
    if not isinstance(content, Mapping):
        raise InvalidTypeError("content", f"must be the table of a study, got {content!r}")
    _check_keys(content, Study, "the study")
    given: dict[str, Any] = {}
    for name, value in content.items():
        if name == "corpora":
            given[name] = tuple(_corpus(table) for table in _tables(value, name))
        elif name == "plans":
            given[name] = _distinct([plan for table in _tables(value, name) for plan in _plans(table)])
        elif name in ("seeds", "replicates", "seed", "batch_size", "pad_to", "quote"):
            given[name] = value
        elif name == "dtype":
            given[name] = _string(value, name)
        elif name == "leaks" and value == "all":
            given[name] = tuple(REMADE)
        else:
            kind, what = (int, "integers") if name == "layers" else (str, "strings")
            if not isinstance(value, list) or not all(type(one) is kind for one in value):
                raise InvalidValueError(name, f"must be a list of {what}, got {value!r}")
            given[name] = tuple(dict.fromkeys(value))
            if name == "poolings":
                given[name] = tuple(find_pooling(pooling, name, folder) for pooling in given[name])
    return Study(**given)


def find_pooling(value: str, name: str, folder: Path | None = None) -> str:
    """A mode, or the folder of a trained head as it is found from the working directory.

    Args:
        value: What was given.
        name: The argument, for the error.
        folder: What folders of heads are relative to; None is the working directory.

    Raises:
        InvalidValueError: It is neither.
    """
    place = value if folder is None or value in ("", *POOLINGS) else str(folder / value)
    if not is_saved(place):
        seen = "" if folder is None else f", as seen from {folder}"
        check_known(value, KNOWN_POOLINGS, name, f", or the folder of a saved head{seen}", suggestion)
    return place


def check_known(
    value: object,
    known: Collection[str],
    name: str,
    others: str = "",
    suggest: Callable[[str], str | None] | None = None,
) -> None:
    """Refuse a name that is none of the known ones, and name the nearest of them.

    Args:
        value: What was given.
        known: The known names.
        name: The argument, for the error.
        others: What else it may be, for the message.
        suggest: Returns the name that an unknown one probably means; None suggests the one that is spelled most alike.

    Raises:
        InvalidValueError: It is not among them.
    """
    if value in known:
        return
    if suggest is None:
        near = next(iter(difflib.get_close_matches(str(value), known, n=1, cutoff=0.4)), None)
    else:
        near = suggest(str(value))
    guess = f" (did you mean {near!r}?)" if near in known and near != value else ""
    raise InvalidValueError(name, f"must be one of {', '.join(known)}{others}, got {value!r}{guess}")


def _check_keys(table: Mapping[str, object], what: type[Study | CorpusSource | Plan], name: str) -> None:
    for key in table:
        check_known(key, [field.name for field in fields(what)], f"a key of {name}")


def _check_number(value: object, name: str, fewest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < fewest:
        raise InvalidValueError(name, f"must be an integer of at least {fewest}, got {value!r}")


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(name, f"must be a string, got {value!r}")
    return value


def _tables(value: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise InvalidValueError(name, f"must be an array of tables, [[{name}]], got {value!r}")
    return value


def _corpus(table: dict[str, Any]) -> CorpusSource:
    _check_keys(table, CorpusSource, "[[corpora]]")
    given = [kind for kind in _KINDS if table.get(kind) is not None and table[kind] is not False]
    if len(given) != 1:
        raise InvalidValueError(
            "[[corpora]]", f"must have exactly one of {', '.join(_KINDS)}, got {', '.join(given) or 'none'}"
        )
    for field in fields(CorpusSource):
        if field.name not in table:
            continue
        if field.name in ("newsgroups", "docstrings"):
            if not isinstance(table[field.name], bool):
                raise InvalidValueError(
                    f"{field.name} of [[corpora]]", f"must be true or false, got {table[field.name]!r}"
                )
        elif field.name == "limit":
            _check_number(table["limit"], "limit of [[corpora]]", 1)
        elif not _string(table[field.name], f"{field.name} of [[corpora]]"):
            raise InvalidValueError(f"{field.name} of [[corpora]]", "must not be empty")
    return CorpusSource(**table)


def _plans(table: dict[str, Any]) -> list[Plan]:
    _check_keys(table, Plan, "[[plans]]")
    choices = [value if isinstance(value, list) else [value] for value in table.values()]
    empty = next((name for name, values in zip(table, choices, strict=True) if not values), None)
    if empty is not None:
        raise InvalidValueError(f"[[plans]]: {empty}", "must be one value or a list of some, got an empty list")
    with rename_arguments({field.name: f"[[plans]]: {field.name}" for field in fields(Plan)}):
        return [Plan(**dict(zip(table, values, strict=True))) for values in itertools.product(*choices)]


def _distinct(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """Plans without those of a name that stands already: of a fixed length, order and batch size mean nothing."""
    return tuple({plan.name: plan for plan in plans}.values())
