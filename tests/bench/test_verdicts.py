"""The rule of verdicts, at its boundaries, and the sentences of a part."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskpool.bench.report.verdicts import (
    advice,
    difference,
    headline,
    judge,
    kept_of,
    shift_headline,
    shift_of,
    signed,
)

MARGIN, TEXTS, SEEDS = 0.03, 1_000, 5


def row(
    delta: float, half: float, sampling: float = 1.0, quantile: float = 2.0, freedom: float = 1e9, **more: Any
) -> dict[str, Any]:
    """Make a difference whose squared error is to a given part sampling error, the rest seed error."""
    variance = (half / quantile) ** 2
    parts = {"sampling_variance": sampling * variance, "seed_variance": (1 - sampling) * variance}
    parts |= {"quantile": quantile, "freedom": freedom}
    interval = {"delta": delta, "low": delta - half, "high": delta + half}
    return {"metric": "AMI", "texts": TEXTS, **interval, **parts, **more}


def interval(low: float, high: float) -> dict[str, Any]:
    return {"metric": "AMI", "texts": TEXTS, "delta": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "high", "kind", "within"),
    [
        (-0.064, -0.020, "lowered", False),
        (0.020, 0.064, "raised", False),
        (-0.016, -0.004, "lowered", True),
        (0.004, 0.016, "raised", True),
        (-0.016, 0.012, "no change", True),
        (-0.09, 0.02, "unknown", False),
        (-1.0, 0.3, "unknown", False),
        # At the boundaries: an interval that ends at 0 covers it, and one that ends at the margin is inside.
        (-0.03, 0.0, "no change", True),
        (0.0, 0.03, "no change", True),
        (0.0, 0.0, "no change", True),
        (-0.03, 0.03, "no change", True),
        (-0.0301, 0.03, "unknown", False),
        (-0.03, 0.0301, "unknown", False),
        (-0.0301, 0.0, "unknown", False),
        (-0.03, -0.0001, "lowered", True),
        (-0.0301, -0.0001, "lowered", False),
        (0.0001, 0.03, "raised", True),
        (0.0001, 0.0301, "raised", False),
    ],
)
def test_the_rule(low: float, high: float, kind: str, within: bool) -> None:
    """The interval and the margin decide the verdict, and nothing else does."""
    verdict = judge(interval(low, high) | {"floor": 10.0}, MARGIN, SEEDS)
    assert (verdict["kind"], verdict["within_margin"]) == (kind, within)


@pytest.mark.parametrize(("low", "high"), [(-0.5, -0.4), (-1.0, 1.0), (0.0, 0.0)])
def test_equal_vectors_are_identical(low: float, high: float) -> None:
    """Vectors that equal those of the texts alone are identical, also if seeds move their scores."""
    verdict = judge(interval(low, high) | {"identical": True}, MARGIN, SEEDS)
    assert (verdict["kind"], verdict["within_margin"]) == ("identical", True)
    assert judge(interval(-1.0, 1.0) | {"identical": False}, MARGIN, SEEDS)["kind"] == "unknown"


@given(
    low=st.floats(-1, 1),
    width=st.floats(0, 2),
    margin=st.floats(0.001, 0.999),
    identical=st.booleans(),
    share=st.floats(0, 1),
)
def test_the_kinds_exclude_each_other_and_cover_everything(
    low: float, width: float, margin: float, identical: bool, share: float
) -> None:
    """Exactly one condition of the rule holds for any interval, and the verdict is that one."""
    delta, half = low + width / 2, width / 2
    judged = row(delta, half, share, identical=identical)
    low, high = judged["low"], judged["high"]
    covers, inside = low <= 0 <= high, max(abs(low), abs(high)) <= margin
    conditions = {
        "identical": identical,
        "lowered": not identical and not covers and high < 0,
        "raised": not identical and not covers and low > 0,
        "no change": not identical and covers and inside,
        "unknown": not identical and covers and not inside,
    }
    assert sum(conditions.values()) == 1
    verdict = judge(judged, margin, SEEDS)
    assert conditions[verdict["kind"]]
    assert verdict["within_margin"] == (inside or identical)
    assert "−0.000" not in verdict["sentence"]
    assert "-" not in verdict["sentence"]
    if verdict["kind"] != "unknown":
        assert verdict["texts_needed"] is verdict["seeds_needed"] is verdict["both_needed"] is None


@pytest.mark.parametrize(
    ("judged", "texts", "seeds", "sentence"),
    [
        # d = 0: the half-width must halve, 0.06 to 0.03; all of the error is sampling, so four times the texts.
        (row(0.0, 0.06), 4_000, None, "about 4,000 texts would settle it; more seeds would not"),
        (row(0.0, 0.06, sampling=0.0), None, 20, "about 20 seeds would settle it"),
        # |d| = 0.02 is larger than margin − |d| = 0.01: to 0.02, a third of 0.06, nine times the texts.
        (row(-0.02, 0.06), 9_000, None, "about 9,000 texts would settle it; more seeds would not"),
        # |d| = 0.01 is smaller than margin − |d| = 0.02.
        (row(0.01, 0.06), 9_000, None, "about 9,000 texts would settle it; more seeds would not"),
        # |d| = 0.05 is beyond the margin: 0.06 to 0.05, (6/5)² = 1.44.
        (row(-0.05, 0.06), 1_500, None, "about 1,500 texts would settle it; more seeds would not"),
        # SE² = 9, in units of (0.02 / 2)²; it must fall to 9 / 4. Sampling 8 of 9: 8 / (2.25 − 1) = 6.4.
        (row(0.0, 0.06, sampling=8 / 9), 6_400, None, "about 6,400 texts would settle it; more seeds would not"),
        # Half each: 4.5 stays above 2.25 on either side. Both together must fall to a quarter.
        (
            row(0.0, 0.06, sampling=0.5),
            None,
            None,
            "neither more texts nor more seeds alone would settle it; about 4,000 texts with 20 seeds would",
        ),
        # From four degrees of freedom, 1.88 times the seeds bring the quantile from 6 to 4.11.
        (row(0.0, 0.06, sampling=0.0, quantile=6.0, freedom=4), None, 10, "about 10 seeds would settle it"),
        # 0.036 to 0.03: SE² falls to 25 / 36 = 0.694. Half each: 0.5 / 0.194 = 2.571.
        (row(0.0, 0.036, sampling=0.5), 2_600, 13, "about 2,600 texts or about 13 seeds would settle it"),
    ],
)
def test_what_would_settle_it(judged: dict[str, Any], texts: int | None, seeds: int | None, sentence: str) -> None:
    """More texts shrink the sampling part of the squared error, more seeds the seed part, and neither the other."""
    verdict = judge(judged, MARGIN, SEEDS)
    assert verdict["kind"] == "unknown"
    assert (verdict["texts_needed"], verdict["seeds_needed"]) == (texts, seeds)
    assert verdict["sentence"].split("; ", 1)[1] == sentence


@given(
    delta=st.floats(-0.2, 0.2),
    half=st.floats(0.001, 0.5),
    share=st.floats(0, 1),
    margin=st.floats(0.005, 0.2),
    quantile=st.floats(1.5, 5),
)
def test_what_is_said_to_settle_it_does(
    delta: float, half: float, share: float, margin: float, quantile: float
) -> None:
    """With the texts or the seeds that are asked for and the same difference, the verdict is not unknown."""
    judged = row(delta, half, share, quantile)
    verdict = judge(judged, margin, SEEDS)
    if verdict["kind"] != "unknown":
        return
    again = []
    if verdict["texts_needed"]:
        again.append((verdict["texts_needed"] / TEXTS, 1.0))
    if verdict["seeds_needed"]:
        again.append((1.0, verdict["seeds_needed"] / SEEDS))
    again.append((verdict["both_needed"][0] / TEXTS, verdict["both_needed"][1] / SEEDS))
    for texts, seeds in again:
        variance = judged["sampling_variance"] / texts + judged["seed_variance"] / seeds
        smaller = quantile * variance**0.5 * (1 - 1e-6)
        settled = judge(judged | {"low": delta - smaller, "high": delta + smaller}, margin, SEEDS)
        assert settled["kind"] != "unknown"


@pytest.mark.parametrize(
    ("judged", "sentence"),
    [
        (interval(-0.064, -0.020), "lowered AMI by 0.042 [0.020, 0.064]"),
        (interval(0.020, 0.064), "raised AMI by 0.042 [0.020, 0.064]"),
        (interval(-0.016, -0.004), "lowered AMI by 0.010 [0.004, 0.016], less than the margin of 0.03"),
        (interval(-0.064, -0.0001), "lowered AMI by 0.032 [<0.001, 0.064]"),
        (
            {"metric": "1-NN accuracy", "texts": 9, "delta": -0.05, "low": -0.06, "high": -0.04},
            "lowered 1-NN accuracy by 0.050 [0.040, 0.060]",
        ),
        (interval(-0.016, 0.012), "no change larger than 0.03 (−0.002 [−0.016, +0.012])"),
        (interval(-0.0001, 0.0001), "no change larger than 0.03 (+0.000 [+0.000, +0.000])"),
        (interval(-0.09, 0.02), "could not tell: between −0.090 and +0.020"),
        (
            row(-0.035, 0.055),
            "could not tell: between −0.090 and +0.020; about 2,500 texts would settle it; more seeds would not",
        ),
        (interval(0.1, 0.2) | {"identical": True}, "identical: the vectors are those of the texts alone"),
    ],
)
def test_sentences(judged: dict[str, Any], sentence: str) -> None:
    """The sentence of a verdict has its numbers, without a minus in front of zero."""
    assert judge(judged, MARGIN, SEEDS)["sentence"] == sentence


def test_zero_has_no_minus() -> None:
    """A number that rounds to zero is not negative, in a number or an interval."""
    assert [signed(value) for value in (-0.0, -0.0004, 0.0004, -0.0006)] == ["+0.000", "+0.000", "+0.000", "−0.001"]
    assert difference(interval(-0.0002, 0.0001)) == "+0.000 [+0.000, +0.000]"


def judged_row(pooling: str, plan: str, low: float, high: float, **more: Any) -> dict[str, Any]:
    measured = (
        interval(low, high) | {"pooling": pooling, "plan": plan, "cosine_shift": -low, "neighbours_kept": 0.5} | more
    )
    return measured | {"verdict": judge(measured, MARGIN, SEEDS)}


HARMED, HARMED_MORE = judged_row("mean", "random", -0.06, -0.04), judged_row("mean", "padded to 128", -0.44, -0.40)
SMALL = judged_row("mean", "sorted", -0.02, -0.01)
KEPT, UNKNOWN = judged_row("max", "random", -0.01, 0.02), judged_row("max", "padded to 128", -0.2, 0.1)
UNKNOWN_RANDOM = judged_row("max", "random", -0.2, 0.1)
SAME, RAISED = judged_row("max", "sorted", 0, 0, identical=True), judged_row("cls", "random", 0.05, 0.07)


def test_the_headline_leads_with_the_worst() -> None:
    """The headline has a sentence for each pooling and every plan, the most harmed pooling and plan first."""
    assert headline([RAISED, KEPT, SAME, UNKNOWN, SMALL, HARMED, HARMED_MORE], MARGIN, ["random"]) == [
        "Mean pooling: harmed under “padded to 128” (lowered AMI by 0.420 [0.400, 0.440]) and “random” (confounded "
        "with the labels; lowered AMI by 0.050 [0.040, 0.060]); harmed by less than the margin under “sorted” "
        "(lowered AMI by 0.015 [0.010, 0.020], less than the margin of 0.03).",
        "Max pooling: could not tell under “padded to 128” (between −0.200 and +0.100); no change larger than 0.03 "
        "under “random” (confounded with the labels; +0.005 [−0.010, +0.020]); identical vectors under “sorted”.",
        "Cls pooling: raised under “random” (confounded with the labels; raised AMI by 0.060 [0.050, 0.070]).",
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(0.0, 0.06)], "“a” (between −0.060 and +0.060; about 4,000 texts would settle it)"),
        ([row(0.0, 0.06, sampling=0.0)], "“a” (between −0.060 and +0.060; about 20 seeds would settle it)"),
        (
            [row(0.0, 0.036, sampling=0.5)],
            "“a” (between −0.036 and +0.036; about 2,600 texts or about 13 seeds would settle it)",
        ),
        (
            [row(0.0, 0.06, sampling=0.5)],
            "“a” (between −0.060 and +0.060; about 4,000 texts with 20 seeds would settle it)",
        ),
        ([interval(-0.2, 0.1)], "“a” (between −0.200 and +0.100)"),
        (
            [row(0.0, 0.12), row(0.01, 0.06)],
            "“a” and “b” (between −0.120 and +0.120; about 16,000 texts would settle all)",
        ),
        (
            [row(-0.02, 0.06), row(0.0, 0.036, sampling=0.5), row(0.02, 0.06)],
            "“a”, “b” and “c” (between −0.080 and +0.080; about 9,000 texts would settle all)",
        ),
        (
            [row(-0.01, 0.06), row(0.0, 0.06, sampling=0.0)],
            "“a” and “b” (between −0.070 and +0.060; about 9,000 texts with 20 seeds would settle all)",
        ),
        (
            [row(-0.01, 0.06), row(0.0, 0.06, sampling=0.5), row(0.0, 0.036, sampling=0.5)],
            "“a”, “b” and “c” (between −0.070 and +0.060; about 9,000 texts with 20 seeds would settle all)",
        ),
        (
            [row(0.0, 0.036, sampling=0.5), row(0.0, 0.0425, sampling=0.5)],
            "“a” and “b” (between −0.043 and +0.043; about 2,600 texts with 11 seeds would settle all)",
        ),
        ([row(-0.01, 0.06), interval(-0.06, 0.1)], "“a” and “b” (between −0.070 and +0.100)"),
    ],
)
def test_unknown_plans_of_a_pooling_share_a_clause(rows: list[dict[str, Any]], said: str) -> None:
    """Unknown plans of a pooling have one range, and one statement of what would settle all of them."""
    rows = [
        unknown | {"pooling": "mean", "plan": plan, "verdict": judge(unknown, MARGIN, SEEDS)}
        for plan, unknown in zip("abc", rows, strict=False)
    ]
    assert headline(rows, MARGIN, []) == [f"Mean pooling: could not tell under {said}."]
    assert headline([HARMED, *rows], MARGIN, []) == [
        f"Mean pooling: harmed under “random” (lowered AMI by 0.050 [0.040, 0.060]); could not tell under {said}."
    ]


def test_vectors_have_own_sentences() -> None:
    """How far vectors move is said apart from the clusters, the largest shift first."""
    assert shift_headline([HARMED, HARMED_MORE]) == [
        "Mean pooling: vectors move by a cosine shift of 0.440 under “padded to 128” (neighbours kept: 0.50) and 0.060 "
        "under “random” (neighbours kept: 0.50)."
    ]


@pytest.mark.parametrize(
    ("rows", "starts"),
    [
        (
            [KEPT, UNKNOWN, HARMED],
            "Pass the attention mask to the pooling: with the pads pooled as well, the clusters of mean "
            "pooling got worse.",
        ),
        (
            [KEPT, UNKNOWN, SMALL, RAISED],
            "Pass the attention mask to the pooling: the pads move the vectors, and this study could not tell",
        ),
        ([KEPT, SMALL, RAISED], "Little depends on it"),
        ([KEPT, RAISED], "No harm to these clusters was shown"),
        ([KEPT, SAME], "Nothing has to change"),
        ([], "Nothing was compared"),
    ],
)
def test_advice_follows_from_the_verdicts(rows: list[dict[str, Any]], starts: str) -> None:
    """Harm is said only of poolings for which it was shown, and nothing is decided while a verdict is unknown."""
    rows = [{"verdict": judge(measured, MARGIN, SEEDS), **measured} for measured in rows]
    said = advice(rows, MARGIN, [])
    assert said.startswith(starts)
    assert ("got worse" in said) == (HARMED in rows)


_OTHERS = " under the plans whose padded length does not follow the labels"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([HARMED_MORE], ["mean pooling fell by 0.420 under “padded to 128”", "Measure in random batches"]),
        ([HARMED_MORE, KEPT], ["pads or length did it.", "Under the other plans", "by no more than 0.03"]),
        ([HARMED_MORE, UNKNOWN_RANDOM], ["fell by 0.420", "Measure the other plans again with more texts"]),
        ([HARMED_MORE, HARMED], ["the clusters of mean pooling got worse."]),
        (
            [HARMED, UNKNOWN_RANDOM | {"pooling": "max"}, KEPT | {"pooling": "cls"}, UNKNOWN | {"pooling": "sum"}],
            ["of mean pooling got worse. For max pooling this study could not tell."],
        ),
        ([UNKNOWN, UNKNOWN_RANDOM], ["could not tell whether"]),
        ([UNKNOWN, KEPT], [f"Nothing has to change for these clusters{_OTHERS}:"]),
        ([UNKNOWN, KEPT, SMALL], [f"Little depends on it for these clusters{_OTHERS}:"]),
        ([UNKNOWN, RAISED], [f"No harm to these clusters was shown{_OTHERS}."]),
        ([KEPT | {"plan": "padded to 128", "verdict": SAME["verdict"]}, KEPT], ["for these clusters: pooling"]),
        ([UNKNOWN], ["Nothing was compared"]),
    ],
)
def test_advice_does_not_contradict_a_confounded_plan(rows: list[dict[str, Any]], says: list[str]) -> None:
    """A harm under a plan that follows the labels is said with that, and no other such plan is covered by advice."""
    said = advice(rows, MARGIN, ["padded to 128"])
    assert [words for words in says if words not in said] == []


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"cosine_shift": 0.0, "neighbours_kept": 1.0, "identical": True}, ("identical", "1.00")),
        ({"cosine_shift": -3e-9, "neighbours_kept": 1.0, "identical": True}, ("identical", "1.00")),
        ({"cosine_shift": 2e-4, "neighbours_kept": 0.998, "identical": False}, ("<0.001", ">0.99")),
        ({"cosine_shift": -2e-7, "neighbours_kept": 0.9, "identical": False}, ("<0.001", "0.90")),
        ({"cosine_shift": 0.0006, "neighbours_kept": 0.994, "identical": False}, ("0.001", "0.99")),
    ],
)
def test_a_shift_is_0_only_if_no_vector_moves(row: dict[str, Any], shown: tuple[str, str]) -> None:
    """Identical vectors are called identical, and a shift too small for three decimals is below 0.001, in words too."""
    assert (shift_of(row), kept_of(row)) == shown
    (sentence,) = shift_headline([HARMED | row])
    if shown[0] == "identical":
        assert sentence == f"Mean pooling: identical vectors under “{HARMED['plan']}”."
    else:
        assert f"a cosine shift of {shown[0]} under “{HARMED['plan']}” (neighbours kept: {shown[1]})" in sentence


def test_a_pooling_that_some_plans_do_not_move() -> None:
    """A sentence on vectors names the plans that move them before those that do not."""
    still = HARMED | {"plan": "random batches of 8", "cosine_shift": 0.0, "neighbours_kept": 1.0, "identical": True}
    (sentence,) = shift_headline([still, HARMED])
    assert sentence.endswith("; identical vectors under “random batches of 8”.")
    assert sentence.index("vectors move by") < sentence.index("identical")


def test_a_difference_of_identical_fits_is_0() -> None:
    """A difference without any error is 0, and one that only rounds to 0 keeps its interval."""
    assert difference({"delta": 0.0, "low": 0.0, "high": 0.0}) == "0"
    assert difference({"delta": 0.0, "low": -1e-4, "high": 1e-4}) == "+0.000 [+0.000, +0.000]"
