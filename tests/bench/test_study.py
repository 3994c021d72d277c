"""Studies: reading them from files, and refusing invalid ones."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import re
from dataclasses import FrozenInstanceError, fields, replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpool.bench.design.study import CorpusSource, Study, parse_study, read_study
from maskpool.errors import InvalidValueError, MaskpoolError
from maskpool.leaks import REMADE
from maskpool.nn import SoftmaxPooling
from maskpool.plans import Order, Plan
from tests.bench import tiny
from tests.matrix import cut
from tests.poolings import NEEDS_OPTION

ORDERS = ", ".join(map(repr, get_args(Order)))
MINIMUM = {"seeds": 2, "replicates": 2, "batch_size": 1, "seed": 0, "pad_to": 1}
LISTS = {
    "models": "a string",
    "poolings": "a string",
    "treatments": "a string",
    "clusterers": "a string",
    "leaks": "a string",
    "layers": "an integer",
}
FULL: dict[str, Any] = {
    "models": ["one", "two"],
    "corpora": [
        {"data": "mine.csv", "text_column": "body", "label_column": "topic", "limit": 100, "name": "mine"},
        {"hub": "owner/name", "split": "train", "sha256": "0" * 64},
        {"task": "TwentyNewsgroupsClustering.v2"},
        {"newsgroups": True},
    ],
    "poolings": ["mean", "cls", "attention"],
    "plans": [
        {"order": ["random", "sorted"], "batch_size": [8, 16]},
        {"pad_to": 64, "multiple_of": 8, "side": "left"},
    ],
    "treatments": ["included", "noise"],
    "leaks": ["mean over pads"],
    "layers": [-1, 0, 2],
    "clusterers": ["kmeans", "hdbscan"],
    "seeds": 3,
    "replicates": 4,
    "seed": 7,
    "dtype": "bfloat16",
    "quote": False,
}
AS_TOML = """
models = ["one", "two"]
poolings = ["mean", "cls", "attention"]
treatments = ["included", "noise"]
leaks = ["mean over pads"]
layers = [-1, 0, 2]
clusterers = ["kmeans", "hdbscan"]
seeds = 3
replicates = 4
seed = 7
dtype = "bfloat16"
quote = false

[[corpora]]
data = "mine.csv"
text_column = "body"
label_column = "topic"
limit = 100
name = "mine"

[[corpora]]
hub = "owner/name"
split = "train"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"

[[corpora]]
task = "TwentyNewsgroupsClustering.v2"

[[corpora]]
newsgroups = true

[[plans]]
order = ["random", "sorted"]
batch_size = [8, 16]

[[plans]]
pad_to = 64
multiple_of = 8
side = "left"
"""


def refusal(content: dict[str, Any]) -> str:
    """Return the message that refuses a content, which is one sentence in our own words."""
    with pytest.raises(MaskpoolError) as refused:
        parse_study(content)
    check_message(refused.value)
    return str(refused.value)


def check_message(error: MaskpoolError) -> None:
    """Check that a message is one line, starts as ours do, and quotes nothing of pydantic's."""
    assert error.argument is not None
    assert re.match("(must|applies) ", error.problem)
    assert "\n" not in str(error)
    assert "pydantic" not in str(error)
    assert error.__cause__ is None


def test_an_empty_file_is_the_default_study() -> None:
    """A study without keys is the default study."""
    assert parse_study({}) == Study()


def test_a_file_becomes_a_study(tmp_path: Path) -> None:
    """Every key of a file sets its attribute, and omitted keys keep their defaults."""
    (tmp_path / "study.toml").write_text(AS_TOML, encoding="utf-8")
    study = read_study(tmp_path / "study.toml")
    assert study == parse_study(FULL)
    assert study == Study(
        models=("one", "two"),
        corpora=(
            CorpusSource(data="mine.csv", text_column="body", label_column="topic", limit=100, name="mine"),
            CorpusSource(hub="owner/name", split="train", sha256="0" * 64),
            CorpusSource(task="TwentyNewsgroupsClustering.v2"),
            CorpusSource(newsgroups=True),
        ),
        poolings=("mean", "cls", "attention"),
        plans=(
            Plan("random", 8),
            Plan("random", 16),
            Plan("sorted", 8),
            Plan("sorted", 16),
            Plan(pad_to=64, multiple_of=8, side="left"),
        ),
        treatments=("included", "noise"),
        leaks=("mean over pads",),
        layers=(-1, 0, 2),
        clusterers=("kmeans", "hdbscan"),
        seeds=3,
        replicates=4,
        seed=7,
        dtype="bfloat16",
        quote=False,
    )


@pytest.mark.parametrize(
    "content",
    [{}, FULL, {"pad_to": 64, "batch_size": 5}, {"leaks": "all"}, {"treatments": []}, {"plans": []}],
    ids=["default", "full", "pad_to", "all leaks", "no treatments", "no plans"],
)
def test_json_gives_the_study_back(content: dict[str, Any]) -> None:
    """Parsing a study's JSON gives an equal study, and the JSON has no null."""
    study = parse_study(content)
    written = json.dumps(study.as_json())
    assert "null" not in written
    assert parse_study(json.loads(written)) == study


def test_all_leaks() -> None:
    """The word all means every leak, in a file and in Python."""
    assert parse_study({"leaks": "all"}).leaks == tuple(REMADE)
    assert Study(leaks="all").leaks == tuple(REMADE)  # type: ignore[arg-type]  # the type of a study's own attribute


@pytest.mark.parametrize(
    ("name", "values"), [("models", ["b", "a", "b"]), ("poolings", ["cls", "mean", "cls"]), ("layers", [0, -1, 0])]
)
def test_repeated_items_count_once(name: str, values: list[Any]) -> None:
    """A repeated item of a list is measured once, at its first position."""
    assert getattr(parse_study({name: values}), name) == tuple(values[:2])
    attributes: dict[str, Any] = {name: values}
    assert getattr(Study(**attributes), name) == tuple(values[:2])


@given(
    tables=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "order": st.lists(st.sampled_from(get_args(Order)), min_size=1, max_size=3),
                "batch_size": st.one_of(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=3)),
                "pad_to": st.lists(st.sampled_from(["longest", 64, 96]), min_size=1, max_size=3),
                "multiple_of": st.integers(1, 8),
                "side": st.lists(st.sampled_from(["right", "left"]), min_size=1, max_size=2),
            },
        ),
        max_size=3,
    )
)
def test_lists_in_plans_are_multiplied(tables: list[dict[str, Any]]) -> None:
    """Lists in a plan mean their product, without plans of the same name, in the order of the names."""
    expected: list[str] = []
    for table in tables:
        lists = [value if isinstance(value, list) else [value] for value in table.values()]
        expected += [Plan(**dict(zip(table, choice, strict=True))).name for choice in itertools.product(*lists)]
    assert [plan.name for plan in parse_study({"plans": tables}).plans] == list(dict.fromkeys(expected))


@pytest.mark.parametrize(
    ("content", "named", "nearest"),
    [
        ({"modles": ["one"]}, "a key of the study must be one of models, corpora, ", "models"),
        ({"Poolings": ["mean"]}, "a key of the study must be one of models, corpora, ", "poolings"),
        ({"poolings": ["mean", "meen"]}, "poolings must be one of mean, ", "mean"),
        ({"poolings": ["CLS"]}, "poolings must be one of mean, ", "cls"),
        ({"poolings": ["avg"]}, "poolings must be one of mean, ", "mean"),
        ({"poolings": ["eos"]}, "poolings must be one of mean, ", "lasttoken"),
        ({"poolings": ["topk"]}, "poolings must be one of mean, ", "topk_mean(k=3)"),
        ({"poolings": ["attn"]}, "poolings must be one of mean, ", "attention"),
        ({"poolings": ["gem"]}, "poolings must be one of mean, ", "generalized_mean"),
        ({"poolings": ["token"]}, "poolings must be one of mean, ", "lasttoken"),
        ({"treatments": ["include"]}, "treatments must be one of included, pads only, ", "included"),
        ({"treatments": ["excluded"]}, "treatments must be one of included, pads only, ", "included"),
        ({"clusterers": ["k-means"]}, "clusterers must be one of kmeans, ", "kmeans"),
        ({"leaks": ["mean over the pads"]}, "leaks must be one of mean over pads, ", "mean over pads"),
        ({"dtype": "float23"}, "dtype must be one of float32, ", "float32"),
        ({"plans": [{"bach_size": 8}]}, "a key of plans[0] must be one of order, ", "batch_size"),
        ({"plans": [{}, {"side": "left", "bach_size": 8}]}, "a key of plans[1] must be one of order, ", "batch_size"),
        ({"corpora": [{"data": "a.csv", "text_colum": "x"}]}, "a key of corpora[0] must be one of ", "text_column"),
        ({"corpora": [{"data": "a"}, {"limt": 5}]}, "a key of corpora[1] must be one of data, ", "limit"),
        ({"qqqqqq": 1}, "a key of the study must be one of models, corpora, ", None),
        ({"": 1}, "a key of the study must be one of models, corpora, ", None),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(content: dict[str, Any], named: str, nearest: str | None) -> None:
    """The message names the key, the known names, the given name, and the nearest known name if one is near."""
    sentence = refusal(content)
    assert sentence.startswith(named)
    value = next(iter(content.values()))
    inner = value[-1] if isinstance(value, list) else value
    wrong = next(iter(content)) if "key of the study" in named else list(inner)[-1] if "a key" in named else inner
    assert f"got {wrong!r}" in sentence
    assert re.findall(r" \(did you mean '(.*)'\?\)\Z", sentence) == ([] if nearest is None else [nearest])
    assert sentence.count("did you mean") == (nearest is not None)


def test_a_pooling_has_its_options_in_its_spelling() -> None:
    """Poolings become their canonical spelling; equal ones count once, and a missing option is named."""
    smooth = SoftmaxPooling.mode
    spelled = ["topk_mean( k=3 )", "topk_mean(k=3)", f"{smooth}(temperature=1.0)", smooth]
    assert Study(poolings=tuple(spelled)).poolings == ("topk_mean(k=3)", smooth)
    assert refusal({"poolings": [NEEDS_OPTION]}) == "poolings must give k, as in 'topk_mean(k=3)', got 'topk_mean'"


def test_a_pooling_that_is_trained_has_no_options() -> None:
    """A learned mode with options is refused with the way out, because the study trains heads with defaults."""
    assert re.fullmatch(
        r"poolings must not have options for attention, .*, got 'attention\(num_heads=2\)': train the head .*",
        refusal({"poolings": ["attention(num_heads=2)"]}),
    )


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("value", ["mean", 1, -1, True, 1.5, {}, {"a": 1}, None, date(2020, 1, 1)], ids=repr)
def test_a_value_that_is_not_a_list_is_refused(name: str, value: object) -> None:
    """The message names the key, what the list holds, and the value."""
    items = "integers" if name == "layers" else "strings"
    assert refusal({name: value}) == f"{name} must be a list of {items}, got {value!r}"


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("item", [["mean"], {}, 1.5, None, True, date(2020, 1, 1)], ids=repr)
def test_an_item_of_the_wrong_type_is_refused(name: str, item: object) -> None:
    """The message names the position in the list, the type, and the item; a truth value is not a layer."""
    valid = list(getattr(Study(leaks=tuple(REMADE)[:1]), name))[:1]
    assert refusal({name: [item]}) == f"{name}[0] must be {LISTS[name]}, got {item!r}"
    assert refusal({name: [*valid, item]}) == f"{name}[1] must be {LISTS[name]}, got {item!r}"


@pytest.mark.parametrize(("name", "item"), [("layers", "-1"), ("models", 1), ("poolings", 1)])
def test_strings_and_integers_are_not_converted(name: str, item: object) -> None:
    """A string is not a layer, and an integer is not a name."""
    assert refusal({name: [item]}) == f"{name}[0] must be {LISTS[name]}, got {item!r}"


@pytest.mark.parametrize("name", ["models", "corpora", "poolings", "layers", "clusterers"])
def test_an_empty_list_is_refused(name: str) -> None:
    """A study without a model, corpus, pooling, layer or clusterer is refused."""
    assert refusal({name: []}) == f"{name} must hold at least one, got none"


@pytest.mark.parametrize("name", MINIMUM)
@pytest.mark.parametrize("value", ["3", "", 3.0, math.nan, math.inf, True, False, [3], {"a": 3}, date(2020, 1, 1)])
def test_a_value_that_is_not_an_integer_is_refused(name: str, value: object) -> None:
    """A string, float, truth value, list, table or date is refused and not converted."""
    assert refusal({name: value}) == f"{name} must be an integer, got {value!r}"


@pytest.mark.parametrize(("name", "minimum"), MINIMUM.items())
def test_the_minimum_is_accepted_and_less_is_refused(name: str, minimum: int) -> None:
    """The minimum is valid, and the message about a smaller number names it."""
    assert getattr(parse_study({name: minimum}), name) == minimum
    for value in (minimum - 1, -1, -(10**30)):
        assert refusal({name: value}) == f"{name} must be at least {minimum}, got {value}"


@pytest.mark.parametrize("seed", [2**32, 2**64, 10**30])
def test_a_seed_beyond_32_bits_is_refused(seed: int) -> None:
    """The largest seed is the largest that every generator accepts."""
    assert parse_study({"seed": 2**32 - 1}).seed == 2**32 - 1
    assert refusal({"seed": seed}) == f"seed must be at most {2**32 - 1}, got {seed}"


@pytest.mark.parametrize("value", [1, 0, "true", "", [], {}, None])
def test_quote_is_true_or_false(value: object) -> None:
    """Only true and false are accepted."""
    assert refusal({"quote": value}) == f"quote must be true or false, got {value!r}"


@pytest.mark.parametrize("value", [32, True, ["float32"], {}, None])
def test_dtype_is_a_string(value: object) -> None:
    """A dtype that is not a string is refused."""
    assert refusal({"dtype": value}) == f"dtype must be a string, got {value!r}"


@pytest.mark.parametrize("name", [field.name for field in fields(Study) if field.name != "pad_to"])
def test_null_is_refused(name: str) -> None:
    """A null, which only JSON has, is refused with its key."""
    sentence = refusal({name: None})
    assert sentence.startswith(name)
    assert sentence.endswith("got None")


@pytest.mark.parametrize("name", ["corpora", "plans"])
@pytest.mark.parametrize("value", [{"data": "x"}, "x", 1, True, 1.5], ids=repr)
def test_a_value_that_is_not_an_array_of_tables_is_refused(name: str, value: object) -> None:
    """The message shows the brackets that make an array of tables."""
    assert refusal({name: value}) == f"{name} must be an array of tables, [[{name}]], got {value!r}"


@pytest.mark.parametrize("name", ["corpora", "plans"])
@pytest.mark.parametrize("item", ["x", 1, True, ["x"], [], None], ids=repr)
def test_an_item_that_is_not_a_table_is_refused(name: str, item: object) -> None:
    """The message names the position in the array."""
    valid = {"corpora": {"data": "x"}, "plans": {"order": ["random", "sorted"]}}[name]
    assert refusal({name: [item]}) == f"{name}[0] must be a table, got {item!r}"
    assert refusal({name: [valid, item]}) == f"{name}[1] must be a table, got {item!r}"


CORPORA: dict[str, tuple[dict[str, Any], str]] = {
    "no source": ({}, " must have exactly one of data, task, hub, newsgroups, docstrings, got none"),
    "a false source": (
        {"docstrings": False},
        " must have exactly one of data, task, hub, newsgroups, docstrings, got none",
    ),
    "two sources": (
        {"data": "x.csv", "hub": "x"},
        " must have exactly one of data, task, hub, newsgroups, docstrings, got data, hub",
    ),
    "an empty source and another": ({"data": "", "docstrings": True}, ".data must not be empty"),
    "an empty source": ({"data": ""}, ".data must not be empty"),
    "a file that is a number": ({"data": 5}, ".data must be a string, got 5"),
    "a file that is 0": ({"data": 0}, ".data must be a string, got 0"),
    "a task that is a list": ({"task": ["x"]}, ".task must be a string, got ['x']"),
    "a hub that is a table": ({"hub": {"name": "x"}}, ".hub must be a string, got {'name': 'x'}"),
    "newsgroups by word": ({"newsgroups": "yes"}, ".newsgroups must be true or false, got 'yes'"),
    "newsgroups by number": ({"newsgroups": 1}, ".newsgroups must be true or false, got 1"),
    "docstrings by word": ({"docstrings": "true"}, ".docstrings must be true or false, got 'true'"),
    "a limit of 0": ({"docstrings": True, "limit": 0}, ".limit must be at least 1, got 0"),
    "a limit that is true": ({"docstrings": True, "limit": True}, ".limit must be an integer, got True"),
    "a limit that is a string": ({"docstrings": True, "limit": "9"}, ".limit must be an integer, got '9'"),
    "a split that is a number": ({"hub": "x", "split": 1}, ".split must be a string, got 1"),
    "a text column that is a number": ({"data": "x", "text_column": 0}, ".text_column must be a string, got 0"),
    "a label column that is a number": ({"data": "x", "label_column": 1.5}, ".label_column must be a string, got 1.5"),
    "a name that is true": ({"docstrings": True, "name": True}, ".name must be a string, got True"),
    "a hash that is a number": ({"docstrings": True, "sha256": 12}, ".sha256 must be a string, got 12"),
}


@pytest.mark.parametrize(("table", "problem"), CORPORA.values(), ids=CORPORA)
def test_an_invalid_corpus_is_refused(table: dict[str, Any], problem: str) -> None:
    """A corpus has exactly one source, and each key its type; the message names table and key."""
    assert refusal({"corpora": [table]}) == f"corpora[0]{problem}"
    assert refusal({"corpora": [{"newsgroups": True}, {"hub": "x"}, table]}) == f"corpora[2]{problem}"


@pytest.mark.parametrize(("table", "problem"), CORPORA.values(), ids=CORPORA)
def test_an_invalid_corpus_is_refused_in_python(table: dict[str, Any], problem: str) -> None:
    """Constructing a corpus source applies the same checks, and the error's argument is the attribute."""
    with pytest.raises(InvalidValueError) as refused:
        CorpusSource(**table)
    check_message(refused.value)
    assert str(refused.value) == (problem.removeprefix(".") if problem.startswith(".") else f"the corpus{problem}")


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "order": ({"order": "length"}, f"order must be one of {ORDERS}, got 'length'"),
    "an order that is a table": ({"order": {}}, f"order must be one of {ORDERS}, got {{}}"),
    "an order within lists": ({"order": [["sorted"]]}, "order must be one of 'sorted', .*, got \\['sorted'\\]"),
    "side": ({"side": "both"}, "side must be one of 'right', 'left', got 'both'"),
    "a side that is a number": ({"side": 1}, "side must be one of 'right', 'left', got 1"),
    "batch size 0": ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
    "batch size by word": ({"batch_size": "8"}, "batch_size must be a positive integer, got '8'"),
    "batch size true": ({"batch_size": True}, "batch_size must be a positive integer, got True"),
    "batch size by halves": ({"batch_size": 1.5}, "batch_size must be a positive integer, got 1.5"),
    "one bad among good": ({"batch_size": [8, 16, -1]}, "batch_size must be a positive integer, got -1"),
    "pad to": ({"pad_to": "max"}, "pad_to must be 'longest' or a positive integer, got 'max'"),
    "pad to 0": ({"pad_to": 0}, "pad_to must be 'longest' or a positive integer, got 0"),
    "pad to true": ({"pad_to": True}, "pad_to must be 'longest' or a positive integer, got True"),
    "pad to a table": ({"pad_to": {"a": 1}}, "pad_to must be 'longest' or a positive integer, got {'a': 1}"),
    "multiple of": ({"multiple_of": [1, 0]}, "multiple_of must be a positive integer, got 0"),
    "null": ({"batch_size": None}, "batch_size must be a positive integer, got None"),
}


@pytest.mark.parametrize(("table", "sentence"), PLANS.values(), ids=PLANS)
def test_an_invalid_plan_is_refused(table: dict[str, Any], sentence: str) -> None:
    """The message names the table, the key, what is expected and what was given."""
    assert re.fullmatch(rf"plans\[0\]\.{sentence}", refusal({"plans": [table]}))
    assert re.fullmatch(rf"plans\[1\]\.{sentence}", refusal({"plans": [{"order": ["random", "sorted"]}, table]}))


@pytest.mark.parametrize("name", ["order", "batch_size", "pad_to", "multiple_of", "side"])
def test_an_empty_list_in_a_plan_is_refused(name: str) -> None:
    """The product with an empty list has no plans, so it is refused instead of replaced by the default plans."""
    expected = "must be a value or a list of values, got an empty list"
    assert refusal({"plans": [{}, {name: []}]}) == f"plans[1].{name} {expected}"


def test_pad_to_belongs_to_the_default_plans() -> None:
    """A pad_to next to plans is refused, and the message says where it belongs."""
    expected = "pad_to applies to the default plans only, got 64 and plans: move it into a plan"
    assert refusal({"pad_to": 64, "plans": [{}]}) == expected


READ_BY = {
    "split": {"hub"},
    "text_column": {"data", "hub"},
    "label_column": {"data", "hub"},
    "encoding": {"data"},
    "separator": {"data"},
    "header": {"data"},
    "quotes": {"data"},
    "keep_na": {"data", "hub"},
    "drop_missing": {"data", "hub"},
}
SOURCES = {"data": '"a.csv"', "task": '"Mine"', "hub": '"me/it"', "newsgroups": "true", "docstrings": "true"}
SETTINGS = [field.name for field in fields(CorpusSource) if field.name not in SOURCES]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_a_corpus_without_effect_is_refused(setting: str, source: str, tmp_path: Path) -> None:
    """In a study file each setting is refused next to a source that does not read it, even with its default value."""
    values = {"header": "true", "drop_missing": "false", "limit": "5", "quotes": '"ordinary"', "keep_na": "false"}
    value = values.get(setting, '"text"')
    file = tmp_path / "study.toml"
    file.write_text(f"[[corpora]]\n{source} = {SOURCES[source]}\n{setting} = {value}\n", "utf-8")
    if source in READ_BY.get(setting, SOURCES):
        read_study(file)
        return
    sentence = rf"study.toml: corpora\[0\].{setting} has no effect with {source}, only with .*: leave it out"
    with pytest.raises(MaskpoolError, match=sentence):
        read_study(file)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("batch_size = 32\n[[plans]]\npad_to = 9", "batch_size applies to the default plans only, got plans: .*"),
        ("[[plans]]\npad_to = 9\norder = 'sorted'", r"plans\[0\].order has no effect on texts padded to 9, .*"),
        ("[[plans]]\n[[plans]]\npad_to = [8, 9]\norder = 'random'", r"plans\[1\].order has no effect on .*"),
        ("[[plans]]\npad_to = ['longest', 9]\norder = 'random'", ""),
        ("batch_size = 32\npad_to = 9", ""),
    ],
)
def test_a_key_of_plans_without_effect_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    """An order next to only fixed lengths, and a batch size next to plans, are refused in a study file."""
    file = tmp_path / "study.toml"
    file.write_text(content, "utf-8")
    if not sentence:
        read_study(file)
        return
    with pytest.raises(MaskpoolError, match=f"^study.toml: {sentence}"):
        read_study(file)


def test_plans_of_the_same_name_are_refused() -> None:
    """Two plans that results could not distinguish are refused in Python; a file's are merged."""
    with pytest.raises(MaskpoolError, match=re.escape("plans must differ, but two of them are 'padded to 64'")):
        Study(plans=(Plan("sorted", pad_to=64), Plan("random", pad_to=64)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"models = [", "file must be a TOML file; study.toml is not: .+"),
        (b"seeds: 3", "file must be a TOML file; study.toml is not: .+"),
        (b"seeds = 3\nseeds = 4", "file must be a TOML file; study.toml is not: .+"),
        (b"quote = null", "file must be a TOML file; study.toml is not: .+"),
        (b'name = "\xff"', "file must be a TOML file; study.toml is not: .*utf-8.*"),
        (b"PK\x03\x04\x00", "file must be a TOML file; study.toml is not: .+"),
        (b"seeds = " + b"9" * 5000, "file must be a TOML file; study.toml is not: .+"),
        (b"models = " + b"[" * 20_000 + b"]" * 20_000, "file must be a TOML file; study.toml is not: .+"),
        (b"seed = 2\nreplicates = 1", "study.toml: replicates must be at least 2, got 1"),
        (b"[corpora]\ndata = 'x.csv'", r"study.toml: corpora must be an array of tables, \[\[corpora\]\], got .*"),
        (b"[[corpora]]\ndata = 'x.csv'\nseeds = 3", r"study.toml: a key of corpora\[0\] must be one of .*'seeds'.*"),
    ],
    ids=["open", "yaml", "twice", "null", "latin", "zip", "digits", "nested", "number", "table", "key"],
)
def test_a_file_that_is_not_a_study_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that is not TOML, text or a study is refused with its name and the reason."""
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(MaskpoolError) as refused:
        read_study(path)
    assert re.fullmatch(reason, str(refused.value))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file and a folder are refused with the path and the reason."""
    for path, reason in (
        (tmp_path / "none.toml", "No such file or directory"),
        (tmp_path, "it is a folder"),
    ):
        sentence = f"file must name a TOML file that can be read, got {path}: {reason}"
        with pytest.raises(MaskpoolError, match=re.escape(sentence)):
            read_study(path)


@given(longest=st.integers(1, 200), more=st.integers(0, 200))
def test_the_default_plans_fit(longest: int, more: int) -> None:
    """The default fixed length is 128, the longest text if that is longer, or the limit if that is less."""
    plans = Study(batch_size=4).plans_for(longest, longest + more, "model")
    assert plans == (Plan("random", 4), Plan("sorted", 4), Plan("sorted", 4, max(longest, min(128, longest + more))))


@pytest.mark.parametrize("in_a_plan", [False, True])
@pytest.mark.parametrize(("pad_to", "fits"), [(19, False), (20, True), (30, True), (31, False), (10**6, False)])
def test_pad_to_is_between_the_longest_text_and_the_limit(pad_to: int, fits: bool, in_a_plan: bool) -> None:
    """The message about another length names both bounds, the model and what was given."""
    study = Study(plans=(Plan("random"), Plan(pad_to=pad_to))) if in_a_plan else Study(pad_to=pad_to)
    if fits:
        assert study.plans_for(20, 30, "some/model")[-1].pad_to == pad_to
        return
    with pytest.raises(MaskpoolError) as refused:
        study.plans_for(20, 30, "some/model")
    assert str(refused.value) == (
        "pad_to must be at least 20 (the tokens of the longest text) and at most 30 (the tokens that some/model "
        f"reads), got {pad_to}"
    )


@pytest.mark.parametrize(
    ("plan", "fits"),
    [
        (Plan(multiple_of=8), True),
        (Plan(multiple_of=16), False),
        (Plan(pad_to=24, multiple_of=8), True),
        (Plan(pad_to=25, multiple_of=8), False),
    ],
)
def test_the_rounded_length_is_within_the_limit(plan: Plan, fits: bool) -> None:
    """A padded length is rounded up before it is compared with the limit."""
    if fits:
        assert Study(plans=(plan,)).plans_for(20, 30, "model") == (plan,)
        return
    with pytest.raises(MaskpoolError, match=r"pad_to must be at least 20 .* and at most 30 .*, got '.*multiple"):
        Study(plans=(plan,)).plans_for(20, 30, "model")


LEFT, RIGHT = "first column taken as cls", "mean over pads"


@pytest.mark.parametrize(
    ("leaks", "sides", "added"),
    [
        ((), ("right",), ()),
        ((RIGHT,), ("right",), ()),
        ((LEFT,), ("right",), ("left",)),
        ((RIGHT, LEFT), ("right",), ("left",)),
        ((RIGHT, LEFT), ("right", "left"), ()),
        ((LEFT,), ("left",), ()),
        ((RIGHT,), ("left",), ("right",)),
        (tuple(REMADE), ("right",), ("left",)),
    ],
)
def test_leaks_add_the_plans_they_need(leaks: tuple[str, ...], sides: tuple[Any, ...], added: tuple[Any, ...]) -> None:
    """A leak whose side no plan has adds the first plan on that side, once; other leaks add none."""
    plans = tuple(Plan("random", 8 + index, side=side) for index, side in enumerate(sides))
    study = Study(plans=plans, leaks=leaks)
    assert study.plans_for_leaks(plans) == tuple(replace(plans[0], side=side) for side in added)


def test_a_corpus_with_the_expected_hash_is_loaded(tmp_path: Path) -> None:
    """The hash depends on the content and not on the corpus' name."""
    tiny.write_csv(tmp_path / "mine.csv", tiny.make_texts(40))
    corpus = CorpusSource(data="mine.csv").load(tmp_path, 0)
    assert corpus.name == "mine"
    same = CorpusSource(data="mine.csv", name="other", sha256=corpus.sha256).load(tmp_path, 0)
    assert (same.name, same.texts, same.labels) == ("other", corpus.texts, corpus.labels)


@pytest.mark.parametrize("change", ["text", "order", "label", "limit"])
def test_a_corpus_with_another_hash_is_refused(tmp_path: Path, change: str) -> None:
    """Other texts, labels, order or number are refused with both hashes and a way out."""
    rows = tiny.make_texts(40)
    tiny.write_csv(tmp_path / "mine.csv", rows)
    expected = CorpusSource(data="mine.csv").load(tmp_path, 0).sha256
    if change == "text":
        rows[0] = (rows[0][0] + " w1", rows[0][1])
    elif change == "order":
        rows[0], rows[5] = rows[5], rows[0]
    elif change == "label":
        rows[0], rows[1] = (rows[0][0], rows[1][1]), (rows[1][0], rows[0][1])
    tiny.write_csv(tmp_path / "mine.csv", rows)
    source = CorpusSource(data="mine.csv", limit=30 if change == "limit" else None)
    actual = source.load(tmp_path, 0).sha256
    with pytest.raises(MaskpoolError) as refused:
        replace(source, sha256=expected).load(tmp_path, 0)
    assert str(refused.value) == (
        f"sha256 must be the hash of corpus mine, {actual}, got {expected}: use the texts that the study was made for, "
        "in the same order, or leave sha256 out"
    )


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([date(2020, 2, 29), time(23, 59), datetime(1979, 5, 27, 7, 32)]),
    st.sampled_from(
        ["all", "mean", "longest", "random", "kmeans", "included", "left", "float32", "noise", -1, 0, 1, 64]
    ),
)
known = [field.name for kind in (Study, CorpusSource, Plan) for field in fields(kind)]
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(known), st.text(max_size=5)), inner, max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=cut(100, 300))
@given(content=st.dictionaries(st.one_of(st.sampled_from(known), st.text(max_size=5)), values, max_size=4))
def test_any_table_is_a_study_or_refused(content: dict[str, Any]) -> None:
    """Any table is a study that its JSON restores, or is refused in one sentence of ours."""
    check_restored_or_refused(content)


@settings(max_examples=cut(100, 300))
@given(data=st.data())
def test_any_replaced_value_is_a_study_or_refused(data: st.DataObject) -> None:
    """A valid study with any one value replaced by any other is a study or is refused in one sentence of ours."""
    content = json.loads(json.dumps(FULL))
    place: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(values)
    check_restored_or_refused(content)


def check_restored_or_refused(content: dict[str, Any]) -> None:
    try:
        study = parse_study(content)
    except MaskpoolError as refused:
        check_message(refused)
    else:
        assert parse_study(json.loads(json.dumps(study.as_json()))) == study


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"models": "one"}, "models must be a list of strings, got 'one'"),
        ({"seeds": 1}, "seeds must be at least 2, got 1"),
        ({"seeds": 10**12}, "seeds must be at most 10000, got 1000000000000"),
        ({"replicates": 10_001}, "replicates must be at most 10000, got 10001"),
        (
            {"leaks": ["all"]},
            f"leaks must be one of {', '.join(REMADE)}, or the string 'all' instead of a list, got 'all'",
        ),
        ({"seeds": "5"}, "seeds must be an integer, got '5'"),
        ({"corpora": (1,)}, "corpora[0] must be a table, got 1"),
        ({"corpora": ({"data": "x", "limit": 0},)}, "corpora[0].limit must be at least 1, got 0"),
        ({"plans": ({"order": "random"},)}, "plans[0] must be a Plan, got {'order': 'random'}"),
    ],
)
def test_an_invalid_study_is_refused_in_python(attributes: dict[str, Any], sentence: str) -> None:
    """Constructing a study applies the checks of a file."""
    with pytest.raises(InvalidValueError) as refused:
        Study(**attributes)
    check_message(refused.value)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("content", "argument"),
    [
        ({"seeds": 1}, "seeds"),
        ({"models": ["a", 1]}, "models[1]"),
        ({"models": ["a", ""]}, "models[1]"),
        ({"plans": [{}, {"batch_size": 0}]}, "plans[1].batch_size"),
        ({"corpora": [{"data": "x"}, {"data": "y", "limit": 0}]}, "corpora[1].limit"),
        ({"corpora": [{}]}, "corpora[0]"),
        ({"poolings": ["meen"]}, "poolings"),
    ],
)
def test_the_argument_is_the_place_in_the_file(content: dict[str, Any], argument: str) -> None:
    """The error's argument is the path of keys and positions to the invalid value."""
    with pytest.raises(InvalidValueError) as refused:
        parse_study(content)
    assert refused.value.argument == argument


def test_studies_are_immutable_values() -> None:
    """Equal studies have equal hashes, survive pickling, and refuse assignment."""
    study, same = parse_study(FULL), parse_study(FULL)
    assert len({study, same, pickle.loads(pickle.dumps(study))}) == 1
    assert replace(study, seed=study.seed) == study
    for frozen in (study, study.corpora[0], study.plans[0]):
        with pytest.raises(FrozenInstanceError):
            setattr(frozen, fields(frozen)[0].name, None)


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("results/*/study.json")), ids=lambda file: file.parent.name)
def test_committed_studies_are_those_of_their_results(file: Path) -> None:
    """A committed study's file equals the study that its results describe, which its JSON restores."""
    described = json.loads(file.read_text("utf-8"))["study"]
    study = parse_study(described)
    assert study.as_json() == described
    assert read_study(BENCHMARKS / "studies" / f"{file.parent.name}.toml") == study
