"""The catalogue of padding bugs."""

from __future__ import annotations

import re

import pytest
import torch

from maskpool.audit.report import Finding
from maskpool.bench.design.treatments import TREATMENTS
from maskpool.leaks import PADDING_BUGS, REMADE, PaddingBug, WrongFormula, all_formulas
from maskpool.nn import POOLINGS

every_bug = pytest.mark.parametrize("bug", PADDING_BUGS.values(), ids=lambda bug: bug.id)


def test_ids_are_distinct() -> None:
    """No two bugs share an id, and each id can be a file name."""
    ids = [bug.id for bug in PADDING_BUGS.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", bug_id) for bug_id in ids)


@every_bug
def test_a_finding_shows_the_entry(bug: PaddingBug) -> None:
    """A finding has the fix, the threads, the page and the kind of its entry."""
    finding = Finding(bug.title, "evidence", 1.0)
    assert (finding.fix, finding.threads, finding.url, finding.leak) == (bug.fix, bug.threads, bug.url, bug.leak)
    assert bug.fix
    assert all(thread.startswith("https://") for thread in bug.threads)


@pytest.mark.parametrize("formula", [bug.formula for bug in PADDING_BUGS.values() if bug.formula is not None])
def test_a_wrong_formula_is_not_a_right_one(formula: WrongFormula) -> None:
    """A wrong formula gives vectors of padded texts, and none is the vector of a pooling of the real tokens."""
    states = -torch.rand(7, 5, generator=torch.Generator().manual_seed(0)).double()
    vectors = 0
    for real in (torch.arange(7) < 4, torch.arange(7) >= 3):
        right = [pooling() for pooling in all_formulas(states[real]).values()]
        for name, vector in formula(states, real).items():
            vectors += 1
            assert not any(vector.shape == other.shape and torch.allclose(vector, other) for other in right), name
    assert vectors


@pytest.mark.parametrize("title", REMADE)
def test_what_is_recreated_exists(title: str) -> None:
    """A bug that the benchmark re-creates names a pooling and a treatment that exist."""
    remake = REMADE[title]
    assert remake.pooling in POOLINGS
    assert remake.treatment in TREATMENTS
    poolings = TREATMENTS[remake.treatment].poolings
    assert not poolings or remake.pooling in poolings


def test_remakes_are_distinct() -> None:
    """No two bugs are re-created in the same way: a comparison of the benchmark belongs to one bug."""
    assert len(set(REMADE.values())) == len(REMADE)


@every_bug
def test_an_account_begins_with_what_happens(bug: PaddingBug) -> None:
    """The account says how the bug happens, or repeats its title."""
    assert bug.account.startswith(bug.happens or bug.title)
    assert not bug.account.startswith(" ")
