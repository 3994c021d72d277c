"""A study: what to measure, from Python or from a TOML file."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from maskpool.bench.design import corpora
from maskpool.bench.design.clusterers import CLUSTERERS, UnitKMeans
from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study_file import read_toml
from maskpool.bench.design.tables import Quotes
from maskpool.bench.design.treatments import EXCLUDED, INCLUDED, MIXED, NOISE, TREATMENTS
from maskpool.encoder import BUNDLED, DTYPES
from maskpool.errors import (
    FolderError,
    InvalidTypeError,
    InvalidValueError,
    MaskpoolError,
    rename_arguments,
)
from maskpool.leaks import REMADE
from maskpool.nn import POOLINGS
from maskpool.plans import Plan, default_plans
from maskpool.poolings.registry import suggestion
from maskpool.poolings.spelling import example, parse_mode, spell_mode

DEFAULT_PAD_TO = 128
DEFAULT_TREATMENTS = (INCLUDED, "pads only", "common pad", "another's pads", NOISE, *MIXED)
# The modes that a study trains; they have a separate table.
LEARNED = tuple(mode for mode, layer in POOLINGS.items() if layer.learns)
_KINDS = ("data", "task", "hub", "newsgroups", "docstrings")
# The sources that each setting of a corpus has an effect on; all others have one on every source.
_READ_BY = {
    "split": ("hub",),
    "text_column": ("data", "hub"),
    "label_column": ("data", "hub"),
    "encoding": ("data",),
    "separator": ("data",),
    "header": ("data",),
    "quotes": ("data",),
    "keep_na": ("data", "hub"),
    "drop_missing": ("data", "hub"),
}
# The problem behind each type of pydantic's errors; users never see pydantic's own text.
_PROBLEMS = {
    "string_type": "must be a string, got {value!r}",
    "string_too_short": "must not be empty",
    "bool_type": "must be true or false, got {value!r}",
    "int_type": "must be an integer, got {value!r}",
    "float_type": "must be a number, got {value!r}",
    "greater_than_equal": "must be at least {ge}, got {value!r}",
    "less_than_equal": "must be at most {le}, got {value!r}",
    "too_short": "must hold at least one, got none",
    "tuple_type": "must be {array}, got {value!r}",
    "dataclass_type": "must be a table, got {value!r}",
    "literal_error": "must be {expected}, got {value!r}",
    "is_instance_of": "must be a {class}, got {value!r}",
    "between": "must be a number greater than {low:g} and less than {high:g}, got {value!r}",
    "sources": "must have exactly one of {kinds}, got {given}",
}
_TABLES = "an array of tables, [[{}]]"
_ARRAYS = {"corpora": _TABLES.format("corpora"), "plans": _TABLES.format("plans"), "layers": "a list of integers"}

_Class = TypeVar("_Class")
_Item = TypeVar("_Item", bound=Hashable)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise the first of pydantic's errors as one of ours, with its place in the study."""
    try:
        yield
    except ValidationError as refused:
        error = refused.errors(include_url=False)[0]
        kind, path, context = error["type"], error["loc"], error.get("ctx", {})
        cause = context.get("error")
        if isinstance(cause, MaskpoolError):
            if path and isinstance(path[-1], int):  # from one of the tables, which does not know its place
                cause.argument = f"{_place(path)}.{cause.argument}"
            raise cause from None
        if kind in ("unexpected_keyword_argument", "invalid_key"):
            table = _place(path[:-1]) or refused.title
            known = CorpusSource if len(path) > 1 or refused.title == "the corpus" else Study
            check_known(path[-1], [field.name for field in fields(known)], f"a key of {table}")
        array = _ARRAYS.get(str(path[0]), "a list of strings") if path else ""
        problem = _PROBLEMS.get(kind, "is not accepted, got {value!r}")
        problem = problem.format(**context, value=error["input"], array=array)
        raise InvalidValueError(_place(path) or refused.title, problem) from None


def _place(path: Sequence[str | int]) -> str:
    """Write a path of keys and indexes as in Python: ``corpora[1].limit``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _validated(title: str) -> Callable[[type[_Class]], type[_Class]]:
    """Make a class a frozen dataclass of keywords that pydantic validates and that raises our errors."""

    def decorate(cls: Any) -> Any:
        cls = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", title=title))(cls)
        validate = cls.__init__

        def __init__(self: object, /, **attributes: Any) -> None:  # noqa: N807  # the class' own
            with _own_errors():
                validate(self, **attributes)

        cls.__init__ = __init__
        return cls

    return decorate


def _distinct(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))


def _check_poolings(poolings: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    return _distinct(tuple(find_pooling(pooling, "poolings", info.context) for pooling in poolings))


def _check_share(number: float) -> float:
    if not 0 < number < 1:  # not a number compares as false
        raise PydanticCustomError("between", "not between", {"low": 0, "high": 1})
    return number


_Text = Annotated[StrictStr, Field(min_length=1)]
_Positive = Annotated[StrictInt, Field(ge=1)]
# Every comparison is fitted as often as this, so a larger number would fill the memory before it ends.
_Repeats = Annotated[StrictInt, Field(ge=2, le=10_000)]
_NotEmpty = Field(min_length=1)
_Names = Annotated[tuple[_Text, ...], AfterValidator(_distinct)]


def source_of(corpus: Mapping[str, Any]) -> tuple[str, Any]:
    """Return where the texts of a corpus in a study's JSON are from: the kind of its source and its name."""
    return next((kind, corpus[kind]) for kind in _KINDS if corpus.get(kind))


def refuse_unused(names: Iterable[str], source: str) -> None:
    """Refuse settings of a corpus that have no effect on its source.

    Args:
        names: The given settings of `CorpusSource`; other names are ignored.
        source: The attribute that names the source, such as ``data``.

    Raises:
        InvalidValueError: A setting has no effect.
    """
    for name in names:
        sources = _READ_BY.get(name, _KINDS)
        if source not in sources:
            raise InvalidValueError(
                name, f"has no effect with {source}, only with {' or '.join(sources)}: leave it out"
            )


@_validated("the corpus")
class CorpusSource:
    """Where a corpus comes from: exactly one of the first five attributes.

    Attributes:
        data: A csv, tsv, json, jsonl or parquet file, or one in a gz or zip file; in a study file, relative to it.
        task: One of MTEB's clustering tasks.
        hub: A labelled dataset of the Hugging Face hub.
        newsgroups: scikit-learn's 20 newsgroups.
        docstrings: Public docstrings, a demonstration.
        split: The split of ``hub``.
        text_column: The column of texts in ``data`` or ``hub``.
        label_column: The column of labels in ``data`` or ``hub``.
        encoding: The encoding of ``data``; None recognises it.
        separator: What separates the fields of a csv or tsv file; None recognises it.
        header: Whether the first row of a csv or tsv file has the names of the columns; otherwise these are numbers
            from 1.
        quotes: Whether the quotes of a csv or tsv file ``"enclose"`` fields or are ``"ordinary"`` characters; None
            recognises it.
        keep_na: Whether words such as NA in a csv or tsv file, and the label -1 next to 0, 1, …, are values of ``data``
            or ``hub``; otherwise they are missing values, as pandas and scikit-learn read them.
        drop_missing: Whether rows of ``data`` or ``hub`` without a text or label are left out; otherwise they are
            refused.
        limit: The number of texts to sample, stratified by label; None takes all.
        name: The name of the corpus in results.
        sha256: The expected hash of the content, which pins the texts that the study measures.

    Raises:
        InvalidValueError: None or several of the first five are given, or a value is invalid.
    """

    data: _Text | None = None
    task: _Text | None = None
    hub: _Text | None = None
    newsgroups: StrictBool = False
    docstrings: StrictBool = False
    split: _Text = "test"
    text_column: _Text = "text"
    label_column: _Text = "label"
    encoding: _Text | None = None
    separator: _Text | None = None
    header: StrictBool = True
    quotes: Quotes | None = None
    keep_na: StrictBool = False
    drop_missing: StrictBool = False
    limit: _Positive | None = None
    name: _Text | None = None
    sha256: _Text | None = None

    def __post_init__(self) -> None:
        """Check that the corpus has one source."""
        given = [kind for kind in _KINDS if getattr(self, kind)]
        if len(given) != 1:
            kinds, names = ", ".join(_KINDS), ", ".join(given) or "none"
            raise PydanticCustomError("sources", "not one source", {"kinds": kinds, "given": names})
        defaults = {field.name: field.default for field in fields(CorpusSource)}
        refuse_unused([name for name in _READ_BY if getattr(self, name) != defaults[name]], given[0])

    def load(self, folder: Path, seed: int) -> Corpus:
        """Read the texts and labels.

        Args:
            folder: The folder that ``data`` is relative to.
            seed: Seeds the sample.

        Raises:
            MaskpoolError: The corpus cannot be loaded, or its content does not have the hash ``sha256``.
        """
        if self.data is not None:
            corpus = corpora.read_file(
                folder / self.data,
                self.text_column,
                self.label_column,
                encoding=self.encoding,
                separator=self.separator,
                header=self.header,
                quotes=self.quotes,
                keep_na=self.keep_na,
                drop_missing=self.drop_missing,
            )
        elif self.task is not None:
            corpus = corpora.mteb_task(self.task)
        elif self.hub is not None:
            corpus = corpora.hub_dataset(
                self.hub,
                self.split,
                self.text_column,
                self.label_column,
                keep_na=self.keep_na,
                drop_missing=self.drop_missing,
            )
        else:
            without_settings = {"newsgroups": corpora.newsgroups, "docstrings": corpora.docstrings}
            corpus = next(load for kind, load in without_settings.items() if getattr(self, kind))()
        if self.name is not None:
            corpus = replace(corpus, name=self.name)
        if self.limit is not None:
            corpus = corpus.sample(self.limit, seed)
        if self.sha256 is not None and corpus.sha256 != self.sha256:
            raise InvalidValueError(
                "sha256",
                f"must be the hash of corpus {corpus.name}, {corpus.sha256}, got {self.sha256}: use the texts that "
                "the study was made for, in the same order, or leave sha256 out",
            )
        return corpus


@_validated("the study")
class Study:
    """What to measure: every model × corpus × layer × clusterer × pooling × plan × treatment.

    Lists become tuples without repeated items.

    Attributes:
        models: Names on the hub, or folders.
        corpora: Where the texts come from.
        poolings: Mode strings, with options as in ``topk_mean(k=3)``, or folders of trained heads (in a study file,
            relative to it). Learned modes are trained and have their own table.
        plans: How texts are batched and padded. By default: random batches, batches sorted by characters, and a
            fixed length.
        batch_size: Texts per batch of the default plans.
        pad_to: The fixed length of the default plans; None means 128, or the longest text if that is longer.
        treatments: What is pooled in addition to the real tokens only.
        leaks: Names of public bugs to re-create; ``"all"`` means all of them.
        layers: Indices of transformers' hidden states: -1 for the last, 0 for the embedding matrix.
        clusterers: How vectors are clustered.
        seeds: Number of seeds of the clusterer on all texts, and of the heads of each learned pooling, 2 to 10,000.
        replicates: Number of half-samples, from which intervals are computed, 2 to 10,000.
        seed: Seeds the shuffles, half-samples and heads.
        dtype: The dtype that the model computes in.
        quote: Whether the report may quote your texts; otherwise it names them by row. The public texts of the
            demonstration are always quoted.
        margin: The largest difference of a score that counts as small. It can be changed after the study is finished.

    Raises:
        InvalidValueError: A name is unknown (the message suggests the nearest), or a value has the wrong type or is
            out of range.
    """

    models: Annotated[_Names, _NotEmpty] = (BUNDLED,)
    corpora: Annotated[tuple[CorpusSource, ...], _NotEmpty] = (CorpusSource(docstrings=True),)
    poolings: Annotated[tuple[StrictStr, ...], _NotEmpty, AfterValidator(_check_poolings)] = (
        "mean",
        "max",
        "attention",
    )
    plans: tuple[InstanceOf[Plan], ...] = ()
    batch_size: _Positive = 32
    pad_to: _Positive | None = None
    treatments: _Names = DEFAULT_TREATMENTS
    leaks: Annotated[_Names, BeforeValidator(lambda leaks: tuple(REMADE) if leaks == "all" else leaks)] = ()
    layers: Annotated[tuple[StrictInt, ...], _NotEmpty, AfterValidator(_distinct)] = (-1,)
    clusterers: Annotated[_Names, _NotEmpty] = (UnitKMeans.name,)
    seeds: _Repeats = 5
    replicates: _Repeats = 50
    seed: Annotated[StrictInt, Field(ge=0, le=2**32 - 1)] = 0
    dtype: StrictStr = "float32"
    quote: StrictBool = False
    margin: Annotated[StrictFloat, AfterValidator(_check_share)] = 0.03

    def __post_init__(self) -> None:
        """Check names, and plans against each other and ``pad_to``."""
        for argument, names, known in (
            ("treatments", self.treatments, [name for name in (*TREATMENTS, *MIXED) if name != EXCLUDED]),
            ("leaks", self.leaks, REMADE),
            ("clusterers", self.clusterers, CLUSTERERS),
            ("dtype", [self.dtype], DTYPES),
        ):
            for name in names:
                check_known(name, known, argument, ", or the string 'all' instead of a list" * (argument == "leaks"))
        plan_names = [plan.name for plan in self.plans]
        repeated = next((name for name in plan_names if plan_names.count(name) > 1), None)
        if repeated is not None:
            raise InvalidValueError("plans", f"must differ, but two of them are {repeated!r}: remove one of them")
        if self.plans and self.pad_to is not None:
            raise InvalidValueError(
                "pad_to", f"applies to the default plans only, got {self.pad_to} and plans: move it into a plan"
            )

    @property
    def learned(self) -> tuple[str, ...]:
        """The poolings that the study trains."""
        return tuple(mode for mode in self.poolings if mode in LEARNED)

    def plans_for(self, longest: int, limit: int, model: str) -> tuple[Plan, ...]:
        """Return the plans for a corpus.

        Args:
            longest: Tokens of the longest text, after truncation.
            limit: The most tokens that the model reads.
            model: The model's name, for the error.

        Raises:
            InvalidValueError: A plan pads to less than the longest text, or to more than the model reads.
        """
        fixed = self.pad_to or max(min(DEFAULT_PAD_TO, limit), longest)
        plans = self.plans or tuple(default_plans(self.batch_size, fixed))
        for plan in plans:
            width = longest if plan.pad_to == "longest" else plan.pad_to
            given = repr(plan.name) if plan.pad_to == "longest" or plan.multiple_of > 1 else plan.pad_to
            if width < longest or -(-width // plan.multiple_of) * plan.multiple_of > limit:
                raise InvalidValueError(
                    "pad_to",
                    f"must be at least {longest} (the tokens of the longest text) and at most {limit} (the tokens that "
                    f"{model} reads), got {given}",
                )
        return plans

    def plans_for_leaks(self, plans: Sequence[Plan]) -> tuple[Plan, ...]:
        """Return the first plan on each side that a leak needs and no plan has; only leaks use it."""
        sides = dict.fromkeys(REMADE[name].side for name in self.leaks)
        return tuple(replace(plans[0], side=side) for side in sides if side not in {plan.side for plan in plans})

    def as_json(self) -> dict[str, Any]:
        """Return the study as JSON values, which `parse_study` reads."""
        content: dict[str, Any] = _STUDY.dump_python(self, mode="json", exclude_none=True)
        for source in content["corpora"]:
            if not source["keep_na"]:
                del source["keep_na"]  # as in folders that are older than this setting
        return content


_STUDY = TypeAdapter(Study)


def read_study(file: Path) -> Study:
    """Read a study from a TOML file.

    Its keys are the attributes of `Study`; ``corpora`` and ``plans`` are arrays of tables with the attributes of
    `CorpusSource` and `maskpool.plans.Plan`. An attribute of a plan may be a list: the table then means the product of
    its lists.

    Raises:
        NotFoundError: The file does not exist.
        FolderError: The file cannot be read or does not hold a study; the message names the place in the file and the
            nearest known name.
    """
    content = read_toml(file)
    try:
        study = parse_study(content, file.parent)
        _refuse_unused_keys(content, study)
        return study
    except MaskpoolError as error:
        raise FolderError(f"{file.name}: {error}") from error


def parse_study(content: Mapping[str, Any], folder: Path | None = None) -> Study:
    """Make a study from the content of its file, or from `Study.as_json`.

    Args:
        content: The content.
        folder: The folder that folders of heads are relative to; None means the working directory.

    Raises:
        InvalidTypeError: ``content`` is not a table.
        InvalidValueError: A key is unknown or has an invalid value; the error's argument is its place, such as
            ``corpora[1].limit``.
    """
    if not isinstance(content, Mapping):
        raise InvalidTypeError("content", f"must be the table of a study, got {content!r}")
    tables = content.get("plans")
    if isinstance(tables, list):
        plans = [plan for index, table in enumerate(tables) for plan in _parse_plans(table, f"plans[{index}]")]
        # The name says all that matters: order and batch size change nothing at a fixed length.
        content = {**content, "plans": tuple({plan.name: plan for plan in plans}.values())}
    with _own_errors():
        return _STUDY.validate_python(dict(content), context=folder)


def _refuse_unused_keys(content: Mapping[str, Any], study: Study) -> None:
    """Refuse keys of a study file without effect, even if they have the default value."""
    for index, (table, source) in enumerate(zip(content.get("corpora", ()), study.corpora, strict=False)):
        kind = next(kind for kind in _KINDS if getattr(source, kind))
        with rename_arguments({name: f"corpora[{index}].{name}" for name in _READ_BY}):
            refuse_unused(table, kind)
    if study.plans and "batch_size" in content:
        raise InvalidValueError("batch_size", "applies to the default plans only, got plans: move it into a plan")
    for index, table in enumerate(content.get("plans", ())):
        widths = table.get("pad_to", "longest")
        if "order" in table and "longest" not in (widths if isinstance(widths, list) else [widths]):
            raise InvalidValueError(
                f"plans[{index}].order", f"has no effect on texts padded to {widths}, a fixed length: leave it out"
            )


def find_pooling(value: str, name: str, folder: Path | None = None) -> str:
    """Return the spelling of a mode, or the path of a trained head's folder from the working directory.

    Args:
        value: The mode, with options as in ``topk_mean(k=3)``, or the folder.
        name: The argument, for the error.
        folder: The folder that ``value`` is relative to; None means the working directory.

    Raises:
        InvalidValueError: ``value`` is neither, or gives options to a mode that is trained here.
    """
    path = value if folder is None or value in ("", *POOLINGS) else str(folder / value)
    if is_saved(path):
        return path
    if value.partition("(")[0].strip() not in POOLINGS:
        base = "" if folder is None else f" relative to {folder}"
        near = suggestion(value.partition("(")[0])
        check_known(
            value,
            [example(mode) for mode in POOLINGS],
            name,
            f", or the folder of a saved head{base}",
            lambda _: None if near is None else example(near),
        )
    mode, options = parse_mode(value, name)
    if options and mode in LEARNED:
        raise InvalidValueError(
            name,
            f"must not have options for {mode}, which is trained with its defaults, got {value!r}: train the head "
            "with PoolingClassifier, save it with save_head, and name its folder",
        )
    return spell_mode(mode, options)


def is_saved(pooling: str) -> bool:
    """Return whether a pooling of a study is the folder of a trained head instead of a mode."""
    return pooling not in ("", *POOLINGS) and os.path.lexists(Path(pooling) / "config.json")


def check_known(
    value: object,
    known: Collection[str],
    name: str,
    others: str = "",
    suggest: Callable[[str], str | None] | None = None,
) -> None:
    """Refuse an unknown name and suggest the nearest known one.

    Args:
        value: The name.
        known: The known names.
        name: The argument, for the error.
        others: What else is accepted, for the error.
        suggest: Returns the known name that an unknown one probably means; None suggests the most similar spelling.

    Raises:
        InvalidValueError: The name is unknown.
    """
    if value in known:
        return
    if suggest is None:
        near = next(iter(difflib.get_close_matches(str(value), known, n=1, cutoff=0.6)), None)
    else:
        near = suggest(str(value))
    guess = f" (did you mean {near!r}?)" if near in known and near != value else ""
    raise InvalidValueError(name, f"must be one of {', '.join(known)}{others}, got {value!r}{guess}")


def _parse_plans(table: object, place: str) -> list[Plan]:
    """Return the product of a table's lists."""
    if not isinstance(table, dict):
        raise InvalidValueError(place, f"must be a table, got {table!r}")
    names = [field.name for field in fields(Plan)]
    for key, value in table.items():
        check_known(key, names, f"a key of {place}")
        if value == []:
            raise InvalidValueError(f"{place}.{key}", "must be a value or a list of values, got an empty list")
    choices = [value if isinstance(value, list) else [value] for value in table.values()]
    with rename_arguments({name: f"{place}.{name}" for name in names}):
        return [Plan(**dict(zip(table, values, strict=True))) for values in itertools.product(*choices)]
