"""A study, from its file."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import fields, replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpool.bench.design.study import CorpusSource, Study, parse_study, read_study
from maskpool.errors import MaskpoolError
from maskpool.leaks import REMADE
from maskpool.plans import Plan
from tests.bench import tiny
from tests.matrix import cut
from tests.poolings import NEEDS_OPTION

FEWEST = {"seeds": 2, "replicates": 2, "batch_size": 1, "seed": 0, "pad_to": 1}
LISTS = {
    "models": "strings",
    "poolings": "strings",
    "treatments": "strings",
    "clusterers": "strings",
    "leaks": "strings",
    "layers": "integers",
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
    """The one sentence in which a content is refused."""
    with pytest.raises(MaskpoolError) as refused:
        parse_study(content)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_nothing_said_is_the_default_study() -> None:
    """A study that says nothing is the default one."""
    assert parse_study({}) == Study()


def test_a_file_becomes_a_study(tmp_path: Path) -> None:
    """Every key of a file stands in the study, and what the file leaves out is the default."""
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
    """What a study is as JSON is a study's content again, the same one, and holds no null."""
    study = parse_study(content)
    written = json.dumps(study.as_json())
    assert "null" not in written
    assert parse_study(json.loads(written)) == study


def test_all_leaks() -> None:
    """The word all stands for every leak."""
    assert parse_study({"leaks": "all"}).leaks == tuple(REMADE)


@pytest.mark.parametrize(
    ("name", "values"), [("models", ["b", "a", "b"]), ("poolings", ["cls", "mean", "cls"]), ("layers", [0, -1, 0])]
)
def test_what_is_said_twice_counts_once(name: str, values: list[Any]) -> None:
    """A name that a list holds twice is measured once, in its first place."""
    assert getattr(parse_study({name: values}), name) == tuple(values[:2])


@given(
    tables=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "order": st.lists(st.sampled_from(["sorted", "natural", "random"]), min_size=1, max_size=3),
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
    """Plans are every choice of one value a list, those of one name once, in the order in which names come."""
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
        ({"poolings": [NEEDS_OPTION]}, "poolings must be one of mean, ", None),
        ({"treatments": ["include"]}, "treatments must be one of included, pads only, ", "included"),
        ({"treatments": ["excluded"]}, "treatments must be one of included, pads only, ", "included"),
        ({"clusterers": ["k-means"]}, "clusterers must be one of kmeans, ", "kmeans"),
        ({"leaks": ["mean over the pads"]}, "leaks must be one of mean over pads, ", "mean over pads"),
        ({"dtype": "float23"}, "dtype must be one of float32, ", "float32"),
        ({"plans": [{"bach_size": 8}]}, "a key of [[plans]] must be one of order, ", "batch_size"),
        ({"corpora": [{"data": "a.csv", "text_colum": "x"}]}, "a key of [[corpora]] must be one of ", "text_column"),
        ({"qqqqqq": 1}, "a key of the study must be one of models, corpora, ", None),
        ({"": 1}, "a key of the study must be one of models, corpora, ", None),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(content: dict[str, Any], named: str, nearest: str | None) -> None:
    """A name that is not known is refused with its key, the known ones, itself, and the nearest if one is near."""
    sentence = refusal(content)
    assert sentence.startswith(named)
    value = next(iter(content.values()))
    inner = value[-1] if isinstance(value, list) else value
    wrong = next(iter(content)) if "key of the study" in named else list(inner)[-1] if "[[" in named else inner
    assert f"got {wrong!r}" in sentence
    assert re.findall(r" \(did you mean '(.*)'\?\)\Z", sentence) == ([] if nearest is None else [nearest])
    assert sentence.count("did you mean") == (nearest is not None)


def test_a_pooling_with_a_required_option_is_refused() -> None:
    """A study names poolings only, so a pooling with a required option is refused and not listed."""
    assert f", {NEEDS_OPTION}" not in refusal({"poolings": [NEEDS_OPTION]})


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "value",
    [
        "mean",
        1,
        -1,
        True,
        1.5,
        {},
        {"a": 1},
        None,
        date(2020, 1, 1),
        [["mean"]],
        [{}],
        [1.5],
        [None],
        [True],
        [1, True],
    ],
    ids=repr,
)
def test_what_is_no_list_is_refused(name: str, value: object) -> None:
    """A list of names or layers is refused where it is no list, or holds something else; true is no layer."""
    sentence = refusal({name: value})
    assert f"must be a list of {LISTS[name]}" in sentence
    assert sentence.startswith(name)
    assert sentence.endswith(f"got {value!r}")


@pytest.mark.parametrize(("name", "value"), [("layers", ["-1"]), ("models", [1]), ("poolings", ["mean", 1])])
def test_a_list_of_something_else_is_refused(name: str, value: object) -> None:
    """Strings are no layers, and numbers no names."""
    assert refusal({name: value}) == f"{name} must be a list of {LISTS[name]}, got {value!r}"


@pytest.mark.parametrize("name", ["models", "corpora", "poolings", "layers", "clusterers"])
def test_an_empty_list_is_refused(name: str) -> None:
    """A study of no model, corpus, pooling, layer or clusterer is refused."""
    assert refusal({name: []}) == f"{name} must hold at least one, got none"


@pytest.mark.parametrize(("name", "fewest"), FEWEST.items())
@pytest.mark.parametrize("value", ["3", "", 3.0, math.nan, math.inf, True, False, [3], {"a": 3}, date(2020, 1, 1), -1])
def test_what_is_no_number_is_refused(name: str, fewest: int, value: object) -> None:
    """A number that is a string, a float, a truth value, a list, a table, a date or too small is refused."""
    assert refusal({name: value}) == f"{name} must be an integer of at least {fewest}, got {value!r}"


@pytest.mark.parametrize(("name", "fewest"), FEWEST.items())
def test_the_smallest_number_is_taken(name: str, fewest: int) -> None:
    """The smallest number that is said to do does, and one less does not."""
    assert getattr(parse_study({name: fewest}), name) == fewest
    assert refusal({name: fewest - 1}).startswith(f"{name} must be an integer of at least {fewest}, got ")


@pytest.mark.parametrize("seed", [2**64, 10**30])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    """A seed beyond 64 bits, which torch's generator does not take, is refused."""
    assert "seed must be" in refusal({"seed": seed})


@pytest.mark.parametrize("value", [1, 0, "true", "", [], {}, None])
def test_quote_is_true_or_false(value: object) -> None:
    """Whether texts may be quoted is true or false, and nothing like it."""
    assert refusal({"quote": value}) == f"quote must be true or false, got {value!r}"


@pytest.mark.parametrize("value", [32, True, ["float32"], {}, None])
def test_dtype_is_a_string(value: object) -> None:
    """A dtype that is no string is refused."""
    assert refusal({"dtype": value}) == f"dtype must be a string, got {value!r}"


@pytest.mark.parametrize("name", [field.name for field in fields(Study) if field.name != "pad_to"])
def test_null_is_refused(name: str) -> None:
    """A null, which JSON has and TOML has not, is refused with its key."""
    sentence = refusal({name: None})
    assert sentence.startswith(name)
    assert sentence.endswith("got None")


@pytest.mark.parametrize("name", ["corpora", "plans"])
@pytest.mark.parametrize("value", [{"data": "x"}, "x", 1, True, ["x"], [["x"]], [{}, 1]], ids=repr)
def test_what_is_no_array_of_tables_is_refused(name: str, value: object) -> None:
    """Corpora and plans that are no array of tables are refused with the brackets that make one."""
    assert refusal({name: value}) == f"{name} must be an array of tables, [[{name}]], got {value!r}"


CORPORA: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "[[corpora]] must have exactly one of data, task, hub, newsgroups, docstrings, got none"),
    "a false one": ({"docstrings": False}, "must have exactly one of data, task, hub, .*, got none"),
    "two": ({"data": "x.csv", "hub": "x"}, "must have exactly one of data, .*, got data, hub"),
    "one and a half": ({"data": "", "docstrings": True}, "data.*"),
    "an empty one": ({"data": ""}, "data.*"),
    "a file that is a number": ({"data": 5}, "data of .* must be a string, got 5"),
    "a file that is 0": ({"data": 0}, "data of .* must be a .*string.*, got 0"),
    "a task that is a list": ({"task": ["x"]}, "task of .* must be a string, got .'x'."),
    "a hub that is a table": ({"hub": {"name": "x"}}, "hub of .* must be a string, got .*"),
    "newsgroups by word": ({"newsgroups": "yes"}, "newsgroups of .* must be true or false, got 'yes'"),
    "newsgroups by number": ({"newsgroups": 1}, "newsgroups of .* must be true or false, got 1"),
    "docstrings by word": ({"docstrings": "true"}, "docstrings of .* must be true or false, got 'true'"),
    "a limit of 0": ({"docstrings": True, "limit": 0}, "limit of .* must be an integer of at least 1, got 0"),
    "a limit that is true": ({"docstrings": True, "limit": True}, "limit of .* an integer of at least 1, got True"),
    "a limit that is a string": ({"docstrings": True, "limit": "9"}, "limit of .* an integer of at least 1, got '9'"),
    "a split that is a number": ({"hub": "x", "split": 1}, "split of .* must be a string, got 1"),
    "a column that is a number": ({"data": "x", "text_column": 0}, "text_column of .* must be a string, got 0"),
    "another such": ({"data": "x", "label_column": 1.5}, "label_column of .* must be a string, got 1.5"),
    "a name that is true": ({"docstrings": True, "name": True}, "name of .* must be a string, got True"),
    "a hash that is a number": ({"docstrings": True, "sha256": 12}, "sha256 of .* must be a string, got 12"),
}


@pytest.mark.parametrize(("table", "sentence"), CORPORA.values(), ids=CORPORA)
def test_what_is_no_corpus_is_refused(table: dict[str, Any], sentence: str) -> None:
    """A corpus is exactly one of five kinds, and each of its keys of its type; the refusal names the key."""
    assert re.search(sentence if "[[" not in sentence else re.escape(sentence), refusal({"corpora": [table]}))


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "order": ({"order": "length"}, "order must be one of 'sorted', 'natural', 'random', got 'length'"),
    "an order that is a table": ({"order": {}}, "order must be one of 'sorted', 'natural', 'random', got {}"),
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
def test_what_is_no_plan_is_refused(table: dict[str, Any], sentence: str) -> None:
    """A plan's refusal names the table, the key, what it must be and what came."""
    assert re.fullmatch(rf"\[\[plans\]\]: {sentence}", refusal({"plans": [{"order": "random"}, table]}))


@pytest.mark.parametrize("name", ["order", "batch_size", "pad_to", "multiple_of", "side"])
def test_an_empty_list_in_a_plan_is_refused(name: str) -> None:
    """A list of no values multiplies a plan away, so it is refused and does not fall back to the default plans."""
    sentence = refusal({"plans": [{name: []}]})
    assert "plans" in sentence
    assert name in sentence


def test_pad_to_belongs_to_the_default_plans() -> None:
    """Where plans are given, a pad_to beside them is refused with the place where it belongs."""
    expected = "pad_to belongs to the default plans; where plans are given, give it in one of them"
    assert refusal({"pad_to": 64, "plans": [{}]}) == expected


def test_plans_of_one_name_are_refused() -> None:
    """Two plans that results could not tell apart are refused where no file says them."""
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
        (b"seed = 2\nreplicates = 1", "study.toml: replicates must be an integer of at least 2, got 1"),
        (b"[corpora]\ndata = 'x.csv'", r"study.toml: corpora must be an array of tables, \[\[corpora\]\], got .*"),
        (b"[[corpora]]\ndata = 'x.csv'\nseeds = 3", r"study.toml: a key of \[\[corpora\]\] must be one of .*'seeds'.*"),
    ],
    ids=["open", "yaml", "twice", "null", "latin", "zip", "digits", "nested", "number", "table", "key"],
)
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that is no TOML, no text or no study is refused in one sentence with its name and the reason."""
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(MaskpoolError) as refused:
        read_study(path)
    assert re.fullmatch(reason, str(refused.value))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A file that is not there, or is a folder, is refused with its path and why."""
    for path, why in (
        (tmp_path / "none.toml", "No such file or directory"),
        (tmp_path, f"{tmp_path} must be a TOML file, got a folder"),
    ):
        sentence = f"file must name a TOML file that can be read, got {path}: {why}"
        with pytest.raises(MaskpoolError, match=re.escape(sentence)):
            read_study(path)


@given(longest=st.integers(1, 200), more=st.integers(0, 200))
def test_the_default_plans_fit(longest: int, more: int) -> None:
    """By default texts are padded to 128, to the longest if it is longer, or to the limit if that is less."""
    plans = Study(batch_size=4).plans_for(longest, longest + more, "model")
    assert plans == (Plan("random", 4), Plan("sorted", 4), Plan("sorted", 4, max(longest, min(128, longest + more))))


@pytest.mark.parametrize("in_a_plan", [False, True])
@pytest.mark.parametrize(("pad_to", "fits"), [(19, False), (20, True), (30, True), (31, False), (10**6, False)])
def test_pad_to_lies_between_the_longest_text_and_the_limit(pad_to: int, fits: bool, in_a_plan: bool) -> None:
    """A length below the longest text or above the model's limit is refused with both, the model and the plan."""
    study = Study(plans=(Plan("random"), Plan(pad_to=pad_to))) if in_a_plan else Study(pad_to=pad_to)
    if fits:
        assert study.plans_for(20, 30, "some/model")[-1].pad_to == pad_to
        return
    with pytest.raises(MaskpoolError) as refused:
        study.plans_for(20, 30, "some/model")
    assert str(refused.value) == (
        "pad_to must be between 20, the longest text in tokens, and 30, the most that some/model reads; "
        f"got 'padded to {pad_to}'"
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
def test_multiples_are_held_against_the_limit(plan: Plan, fits: bool) -> None:
    """A padded length counts as what it is rounded up to."""
    if fits:
        assert Study(plans=(plan,)).plans_for(20, 30, "model") == (plan,)
        return
    with pytest.raises(MaskpoolError, match=r"pad_to must be between 20"):
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
def test_leaks_bring_the_plan_they_need(leaks: tuple[str, ...], sides: tuple[Any, ...], added: tuple[Any, ...]) -> None:
    """A leak whose side no plan has brings the first plan on that side, once, and other leaks bring none."""
    plans = tuple(Plan("random", 8 + place, side=side) for place, side in enumerate(sides))
    study = Study(plans=plans, leaks=leaks)
    assert study.plans_for_leaks(plans) == tuple(replace(plans[0], side=side) for side in added)


def test_a_corpus_is_the_one_that_its_hash_names(tmp_path: Path) -> None:
    """A corpus whose content has the hash that the study names is taken, whatever it is called."""
    tiny.write_csv(tmp_path / "mine.csv", tiny.make_texts(40))
    corpus = CorpusSource(data="mine.csv").load(tmp_path, 0)
    assert corpus.name == "mine"
    same = CorpusSource(data="mine.csv", name="other", sha256=corpus.sha256).load(tmp_path, 0)
    assert (same.name, same.texts, same.labels) == ("other", corpus.texts, corpus.labels)


@pytest.mark.parametrize("change", ["text", "order", "label", "limit"])
def test_another_corpus_than_the_hash_names_is_refused(tmp_path: Path, change: str) -> None:
    """A corpus of other texts, labels, order or number is refused with both hashes and a way out."""
    rows = tiny.make_texts(40)
    tiny.write_csv(tmp_path / "mine.csv", rows)
    named = CorpusSource(data="mine.csv").load(tmp_path, 0).sha256
    if change == "text":
        rows[0] = (rows[0][0] + " w1", rows[0][1])
    elif change == "order":
        rows[0], rows[5] = rows[5], rows[0]
    elif change == "label":
        rows[0], rows[1] = (rows[0][0], rows[1][1]), (rows[1][0], rows[0][1])
    tiny.write_csv(tmp_path / "mine.csv", rows)
    source = CorpusSource(data="mine.csv", limit=30 if change == "limit" else None)
    found = source.load(tmp_path, 0).sha256
    with pytest.raises(MaskpoolError) as refused:
        replace(source, sha256=named).load(tmp_path, 0)
    assert str(refused.value) == (
        f"sha256 must be the hash of corpus mine, {found}, got {named}: bring the texts that the study was made for, "
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
known = [field.name for one in (Study, CorpusSource, Plan) for field in fields(one)]
weird = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(known), st.text(max_size=5)), inner, max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=cut(100, 300))
@given(content=st.dictionaries(st.one_of(st.sampled_from(known), st.text(max_size=5)), weird, max_size=4))
def test_any_table_is_a_study_or_refused(content: dict[str, Any]) -> None:
    """Whatever a file may hold is a study that JSON gives back, or is refused in one sentence."""
    a_study_or_one_sentence(content)


@settings(max_examples=cut(100, 300))
@given(data=st.data())
def test_any_one_wrong_value_is_a_study_or_refused(data: st.DataObject) -> None:
    """A good study of which any one value is exchanged for anything is a study or refused in one sentence."""
    content = json.loads(json.dumps(FULL))
    place: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(weird)
    a_study_or_one_sentence(content)


def a_study_or_one_sentence(content: dict[str, Any]) -> None:
    found = study_or_sentence(content)
    if isinstance(found, str):
        assert "\n" not in found
    else:
        assert parse_study(json.loads(json.dumps(found.as_json()))) == found


def study_or_sentence(content: dict[str, Any]) -> Study | str:
    try:
        return parse_study(content)
    except MaskpoolError as refused:
        return str(refused)
