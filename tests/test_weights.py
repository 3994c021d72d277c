"""Token weights counted from a corpus."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from maskpool.weights import IDFWeights, SIFWeights

TEXTS = [[5, 7, 2], [5, 9, 2, 8, 8], [5, 2]]
every_kind = pytest.mark.parametrize("kind", [IDFWeights, SIFWeights])


def test_idf_equals_scikit_learn() -> None:
    """Inverse document frequencies equal scikit-learn's smoothed ones."""
    vectorizer = TfidfVectorizer(analyzer=lambda ids: ids)
    vectorizer.fit(TEXTS)
    idf = IDFWeights.fit(TEXTS)
    for token, place in vectorizer.vocabulary_.items():
        assert idf.table[token] == pytest.approx(vectorizer.idf_[place], rel=1e-12)
    assert idf.unseen > max(idf.table.values())


def test_sif_is_its_formula() -> None:
    """Smooth inverse frequencies are a / (a + p), and 1 for unseen tokens."""
    sif = SIFWeights.fit(TEXTS, a=0.1)
    assert sif.table[8] == pytest.approx(0.1 / (0.1 + 2 / 10))
    assert sif.table[7] == pytest.approx(0.1 / (0.1 + 1 / 10))
    assert sif.unseen == 1.0


@every_kind
def test_lookup(kind: type[IDFWeights] | type[SIFWeights]) -> None:
    """Ids of any shape and integer dtype are looked up; unknown ids get the unseen weight."""
    weights = kind.fit(iter(TEXTS))
    ids = torch.tensor([[5, 7, -3, -1], [8, 9, 3, 10**9]])  # as an index from the end, -3 would be token 8
    looked_up = weights(ids)
    assert looked_up.dtype == torch.float32
    expected = [[weights.table.get(token, weights.unseen) for token in row] for row in ids.tolist()]
    torch.testing.assert_close(looked_up, torch.tensor(expected))
    assert torch.equal(weights(ids[0].to(torch.int32)), looked_up[0])
    assert weights(ids[:0]).shape == (0, 4)
    assert weights(ids[0, 0]).shape == ()


@every_kind
def test_saved_and_loaded(kind: type[IDFWeights] | type[SIFWeights], tmp_path: Path) -> None:
    """Weights are saved and loaded bit for bit, and saving replaces an existing file."""
    weights, path = kind.fit(TEXTS), tmp_path / "weights.json"
    path.write_text("old")
    weights.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.json"]
    ids = torch.arange(-2, 12)
    loaded = kind.load(path)
    assert type(loaded) is kind
    assert torch.equal(loaded(ids), weights(ids))
    assert (loaded.table, loaded.unseen) == (weights.table, weights.unseen)


def test_a_saved_file_can_be_read_by_others(tmp_path: Path) -> None:
    """A saved file has the permissions that the user's new files have."""
    (tmp_path / "plain").touch()
    IDFWeights.fit(TEXTS).save(tmp_path / "weights.json")
    assert (tmp_path / "weights.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@every_kind
def test_weights_are_float32_under_any_default(kind: type[IDFWeights] | type[SIFWeights]) -> None:
    """Torch's default dtype and device change nothing about the weights."""
    expected = kind.fit(TEXTS)(torch.tensor(TEXTS[1]))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            weights = kind.fit(TEXTS)
        looked_up = weights(torch.tensor(TEXTS[1]))
    finally:
        torch.set_default_dtype(torch.float32)
    assert looked_up.dtype == torch.float32
    assert torch.equal(looked_up, expected)


def test_smoothing_from_numpy() -> None:
    """The smoothing may be numpy's float64, which is a subclass of Python's float."""
    assert SIFWeights.fit(TEXTS, a=np.float64(0.1)).table == SIFWeights.fit(TEXTS, a=0.1).table


def test_a_failed_save_leaves_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing fails, the file keeps its content and nothing is left next to it."""
    path = tmp_path / "weights.json"
    path.write_text("old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        IDFWeights.fit(TEXTS).save(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.json"]


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        ("not json", "it cannot be read"),
        ("[]", "it cannot be read"),
        ('{"kind": "idf"}', "it cannot be read: KeyError('unseen')"),
        ('{"kind": "sif", "unseen": 1.0, "weights": {}}', "of the kind 'idf'; its kind is 'sif'"),
        ('{"kind": "idf", "unseen": 1.0, "weights": {"-3": 1.0}}', "negative ids or weights that are not finite"),
        ('{"kind": "idf", "version": 2, "unseen": 1.0, "weights": {}}', "of version 1; its version is 2"),
        ('{"kind": "idf", "unseen": 1.0, "weights": {"16777216": 1.0}}', "it has ids of 2**24 and above"),
        ('{"kind": "idf", "unseen": 1.0, "weights": {"3": 1' + "0" * 400 + "}}", "it cannot be read: OverflowError"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"kind": "idf", "unseen": NaN, "weights": {"3": 1.0}}', "negative ids or weights that are not finite"),
    ],
)
def test_foreign_files(contents: str, text: str, tmp_path: Path) -> None:
    """A file with other contents is refused, and the error names its path."""
    path = tmp_path / "weights.json"
    path.write_text(contents)
    with pytest.raises(ValueError, match=re.escape(f"{path} must hold the JSON that IDFWeights.save writes")) as error:
        IDFWeights.load(path)
    assert text in str(error.value)


@every_kind
@pytest.mark.parametrize(
    ("texts", "error", "text"),
    [
        (torch.tensor(TEXTS[:1]), TypeError, "got a tensor, whose pads would be counted: pass tokenizer(texts)"),
        ("a text", TypeError, "token_ids must be one sequence of ids per text, got str"),
        ([5, 7], TypeError, "token_ids must be one sequence of ids per text; text 0 is of type int: tokenise it first"),
        (None, TypeError, "token_ids must be one sequence of ids per text, got NoneType"),
        ([b"a text"], TypeError, "text 0 is of type bytes: tokenise it first"),
        ([[5], [True]], TypeError, "token_ids must hold ints; text 1 holds one of type bool"),
        ([torch.tensor(TEXTS[:1])], TypeError, "token_ids must hold ints; text 0 holds one of type list"),
        (["a text"], TypeError, "text 0 is of type str: tokenise it first"),
        ([[5], [5.0]], TypeError, "token_ids must hold ints; text 1 holds one of type float"),
        ([[5], [-5]], ValueError, "token_ids must hold ids of at least 0; text 1 holds -5"),
        ([], ValueError, "token_ids must hold at least one token, got none"),
        ([[], []], ValueError, "token_ids must hold at least one token, got none"),
    ],
)
def test_bad_texts(kind: Any, texts: Any, error: type[Exception], text: str) -> None:
    """Arguments that are not lists of token ids per text are refused."""
    with pytest.raises(error, match=re.escape(text)):
        kind.fit(texts)


def test_bad_smoothing_and_ids() -> None:
    """A smoothing that is not positive and ids that are not integers are refused."""
    with pytest.raises(ValueError, match="a must be a finite number above 0, got 0"):
        SIFWeights.fit(TEXTS, a=0)
    with pytest.raises(TypeError, match=re.escape("input_ids must be an integer torch.Tensor, got torch.float32")):
        IDFWeights.fit(TEXTS)(torch.ones(2))
    with pytest.raises(TypeError, match=re.escape("input_ids must be an integer torch.Tensor, got torch.bool")):
        IDFWeights.fit(TEXTS)(torch.ones(2, dtype=torch.bool))  # a mask, handed over by mistake
