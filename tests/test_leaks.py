"""The catalogue of padding bugs."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

import maskpool
from maskpool import leaks
from maskpool.audit.report import Finding
from maskpool.bench.design.treatments import TREATMENTS
from maskpool.leaks import PADDING_BUGS, REMADE, PaddingBug, WrongFormula, all_formulas
from maskpool.nn import POOLINGS

ROOT = Path(maskpool.__file__).parent
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}

every_bug = pytest.mark.parametrize("bug", PADDING_BUGS.values(), ids=lambda bug: bug.id)


def test_bugs_are_declared_in_the_catalogue_only() -> None:
    """The package makes bugs in the catalogue only, all under different names, titles and ids."""
    made = Counter(
        path.name
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("PaddingBug")
    )
    assert made == {"leaks.py": len(PADDING_BUGS)}
    ids = {bug.id for bug in PADDING_BUGS.values()}
    assert len(ids) == len(PADDING_BUGS)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", bug_id) for bug_id in ids)


def test_no_other_file_spells_a_title() -> None:
    """The audit and the benchmark take titles from the catalogue: no string of theirs is one."""
    spelled = {
        f"{path.name}:{node.lineno}: {node.value}"
        for path, tree in SOURCES.items()
        if path.name != "leaks.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in PADDING_BUGS
    }
    assert not spelled


def test_the_audit_can_find_every_bug() -> None:
    """Each bug has a formula, or a file of the audit names it."""
    named = {
        alias.name
        for path, tree in SOURCES.items()
        if path.is_relative_to(ROOT / "audit")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "maskpool.leaks"
        for alias in node.names
    }
    never = {
        name
        for name, bug in vars(leaks).items()
        if isinstance(bug, PaddingBug) and bug.formula is None and name not in named
    }
    assert not never


@every_bug
def test_a_finding_shows_the_entry(bug: PaddingBug) -> None:
    """A finding has the fix, the threads, the page and the kind of its entry."""
    finding = Finding(bug, "evidence", 1.0)
    shown = (finding.cause, finding.fix, finding.threads, finding.url, finding.leak)
    assert shown == (bug.title, bug.fix, bug.threads, bug.url, bug.leak)
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
