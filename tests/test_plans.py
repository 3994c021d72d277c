"""Padding plans: the padded length of each text."""

import re
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskpool.plans import Ints, Order, Plan, default_plans

some_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(lambda numbers: np.array(numbers, np.int64))
SEED = 5
ORDERS = ", ".join(map(repr, get_args(Order)))


def characters_of(lengths: Ints) -> Ints:
    """Give each text a number of characters that does not depend on its tokens; several texts have the same."""
    return np.random.default_rng(len(lengths)).integers(1, 40, len(lengths))


def batches(plan: Plan, lengths: Ints) -> list[list[int]]:
    """Return the texts of each batch, filled text by text."""
    if plan.order == "sorted":
        order = np.argsort([-number for number in characters_of(lengths).tolist()]).tolist()
    elif plan.order == "sorted_by_tokens":
        order = sorted(range(len(lengths)), key=lambda text: (-lengths[text], text))
    elif plan.order == "natural":
        order = list(range(len(lengths)))
    else:
        assert plan.order == "random", f"{plan.order!r} needs its order here"
        order = np.random.default_rng(SEED).permutation(len(lengths)).tolist()
    filled: list[list[int]] = []
    for text in order:
        if not filled or len(filled[-1]) == plan.batch_size:
            filled.append([])
        filled[-1].append(text)
    return filled


@pytest.mark.parametrize("order", get_args(Order))
@given(lengths=some_lengths, batch_size=st.integers(1, 12), multiple=st.integers(1, 9))
def test_each_text_is_as_wide_as_the_longest_of_its_batch(
    order: Order, lengths: Ints, batch_size: int, multiple: int
) -> None:
    """A text's padded length is the longest of its batch, rounded up to a multiple; texts keep their places."""
    plan = Plan(order, batch_size, multiple_of=multiple)
    widths = plan.widths(lengths, np.random.default_rng(SEED), characters_of(lengths))
    expected = np.zeros_like(lengths)
    for batch in batches(plan, lengths):
        longest = max(lengths[other] for other in batch)
        expected[batch] = min(width for width in range(longest, longest + multiple) if width % multiple == 0)
    np.testing.assert_array_equal(widths, expected)
    planned = plan.batches(lengths, np.random.default_rng(SEED), characters_of(lengths))
    assert [batch.tolist() for batch, _ in planned] == batches(plan, lengths)


def test_batches_sorted_by_characters_are_not_sorted_by_tokens() -> None:
    """The longest texts come first: in characters under "sorted", in tokens under "sorted_by_tokens"."""
    lengths, characters = np.array([9, 2, 5, 4]), np.array([10, 40, 20, 30])
    planned = {
        order: [batch.tolist() for batch, _ in Plan(order, 2).batches(lengths, np.random.default_rng(0), characters)]
        for order in get_args(Order)
    }
    assert planned["sorted"] == [[1, 3], [2, 0]]
    assert planned["sorted_by_tokens"] == [[0, 2], [3, 1]]


@pytest.mark.parametrize(("characters", "got"), [(None, "none"), (np.array([7]), "1")])
def test_batches_sorted_by_characters_need_the_characters_of_each_text(characters: Any, got: str) -> None:
    """Without the characters of each text, a plan that sorts by them is refused; nothing else is sorted by."""
    message = (
        "characters must be the number of characters of each of 2 texts, by which a plan of the order 'sorted' batches "
        f"them, got {got}: pass them, or use the order 'sorted_by_tokens'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        Plan().widths(np.array([3, 9]), np.random.default_rng(0), characters)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "length"}, f"order must be one of {ORDERS}, got 'length'"),
        ({"side": "both"}, "side must be one of 'right', 'left', got 'both'"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"multiple_of": True}, "multiple_of must be a positive integer, got True"),
        ({"pad_to": "max"}, "pad_to must be 'longest' or a positive integer, got 'max'"),
    ],
)
def test_bad_plans(arguments: dict[str, Any], message: str) -> None:
    """An unknown word or an invalid number is refused by the argument's name."""
    with pytest.raises(ValueError, match=re.escape(message)):
        Plan(**arguments)


def test_a_text_longer_than_the_fixed_length() -> None:
    """A fixed length that would cut a text is refused, because a cut text is another text."""
    with pytest.raises(ValueError, match="pad_to must be at least the longest text, 9 tokens, got 8"):
        Plan(pad_to=8).widths(np.array([3, 9]), np.random.default_rng(0))


def test_plan_names_are_unique() -> None:
    """Plans that pad differently have different names."""
    plans = [*map(Plan, get_args(Order)), Plan(batch_size=8), Plan(pad_to=64), Plan(multiple_of=8), Plan(side="left")]
    assert len({plan.name for plan in plans}) == len(plans)


@pytest.mark.parametrize("order", get_args(Order))
def test_every_order_says_how_it_happens(order: Order) -> None:
    """Results can say which usage leads to each plan."""
    assert Plan(order).happens
    assert Plan(order, pad_to=64).happens != Plan(order).happens


@given(lengths=some_lengths, batch_size=st.integers(1, 12))
def test_no_text_is_cut(lengths: Ints, batch_size: int) -> None:
    """Every plan pads each text to at least its own length."""
    for plan in default_plans(batch_size, 60):
        assert (plan.widths(lengths, np.random.default_rng(SEED), characters_of(lengths)) >= lengths).all()


def test_a_fixed_length_is_the_same_for_all() -> None:
    """A plan with a fixed length pads every text to it, in any batch."""
    widths = Plan("random", 2, 12).widths(np.array([3, 12, 1]), np.random.default_rng(SEED))
    assert widths.tolist() == [12, 12, 12]


def test_lengths_are_read_only() -> None:
    """Widths are a new array; the lengths do not change."""
    lengths = np.array([3, 1, 2])
    for plan in default_plans(2, 5):
        plan.widths(lengths, np.random.default_rng(SEED), lengths)[:] = 0
    assert lengths.tolist() == [3, 1, 2]


def test_the_generator_determines_the_shuffle() -> None:
    """Equal generators give a random plan equal widths, and different ones different widths."""
    lengths = np.arange(1, 101)
    plan = Plan("random", 4, "longest")
    first, again, other = (plan.widths(lengths, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_default_plans_pad_more_and_more() -> None:
    """Random batches, which come first, pad more than sorted ones and less than the fixed length."""
    lengths = np.random.default_rng(0).integers(3, 40, 200)
    characters = 5 * lengths + np.random.default_rng(1).integers(0, 20, 200)
    sums = {
        plan.name: plan.widths(lengths, np.random.default_rng(0), characters).sum() for plan in default_plans(16, 64)
    }
    assert list(sums) == ["random batches of 16", "sorted batches of 16", "padded to 64"]
    assert sums["sorted batches of 16"] < sums["random batches of 16"] < sums["padded to 64"]
