"""Names of treatments, spans of positions, unit vectors, and noise of the same cosine."""

import ast
import inspect
from collections.abc import Collection
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskpool import build_pooling
from maskpool.bench.design import clusterers, treatments
from maskpool.bench.design.clusterers import CLUSTERERS
from maskpool.bench.design.treatments import MIXED, TREATMENTS, matched_noise
from maskpool.bench.encode.positions import spans
from maskpool.bench.vectors import unit
from tests.poolings import HOST_MODES

TEXTS, WIDTH, DIM = 4, 9, 5


@pytest.mark.parametrize(("module", "names"), [(treatments, TREATMENTS), (clusterers, CLUSTERERS)])
def test_names_are_distinct(module: ModuleType, names: Collection[str]) -> None:
    """No two treatments or clusterers share a name, which would replace the first; none is named as a mixed plan."""
    (declared,) = (
        len(node.generators[0].iter.elts)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.DictComp) and isinstance(node.generators[0].iter, ast.Tuple)
    )
    assert len(names) == declared
    assert not set(names) & set(MIXED)


@pytest.mark.parametrize("mode", HOST_MODES)
@given(
    sentences=st.lists(
        st.tuples(st.integers(0, TEXTS - 1), st.integers(0, WIDTH), st.integers(0, WIDTH)), min_size=1, max_size=12
    )
)
def test_spans_are_slices(mode: str, sentences: list[tuple[int, int, int]]) -> None:
    """Pooling all spans at once equals pooling each slice alone, in any order and with repeats."""
    states = torch.randn(TEXTS, WIDTH, DIM)
    rows, first, second = (np.array(column) for column in zip(*sentences, strict=True))
    starts, ends = np.minimum(first, second), np.maximum(first, second)
    layer = build_pooling(mode)
    pooled = layer.pool(spans(states, rows, starts, ends))
    for place, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
        piece = states[row, start:end].unsqueeze(0)
        alone = layer(piece, torch.ones(1, end - start, dtype=torch.int64))[0]
        torch.testing.assert_close(pooled[place], alone)


def test_spans_do_not_copy_states() -> None:
    """The batch of spans shares the memory of the states."""
    states = torch.randn(TEXTS, WIDTH, DIM)
    batch = spans(states, np.array([1]), np.array([0]), np.array([4]))
    assert batch.values.data_ptr() == states.data_ptr()


def test_unit() -> None:
    """Every vector of any length is scaled to length 1 and keeps its direction, and zero stays zero."""
    vectors = np.array([[3, 4], [3e-20, 4e-20], [3e18, 4e18], [0, 0]], np.float32)
    expected = np.array([[0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(unit(vectors), expected, rtol=1e-6)


def test_noise_has_the_cosine_of_the_other_treatment_text_by_text() -> None:
    """For each text, noise is a unit vector with the other treatment's cosine to the reference."""
    rng = np.random.default_rng(0)
    reference = unit(rng.standard_normal((300, 24), dtype=np.float32))
    weight = np.linspace(-1.5, 1.5, 300, dtype=np.float32)[:, None]
    noise = rng.standard_normal((300, 24), dtype=np.float32)
    other = unit((weight * reference + noise / 5).astype(np.float32))
    turned = matched_noise(reference, other, rng)
    assert turned.dtype == np.float32
    np.testing.assert_allclose((turned * reference).sum(axis=1), (other * reference).sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-6)


def test_noise_keeps_vectors_that_did_not_move() -> None:
    """If the other treatment equals the reference or its opposite, so does the noise."""
    reference = unit(np.random.default_rng(0).standard_normal((50, 8), dtype=np.float32))
    for sign in (1, -1):
        turned = matched_noise(reference, sign * reference, np.random.default_rng(1))
        np.testing.assert_allclose(turned, sign * reference, atol=2e-3)


def test_noise_is_otherwise_random() -> None:
    """Noise spreads over all directions, even if the other treatment moves all texts in one direction."""
    rng = np.random.default_rng(0)
    texts, dim = 4000, 6
    reference = np.zeros((texts, dim), np.float32)
    reference[:, 0] = 1
    other = unit(reference + np.eye(dim, dtype=np.float32)[1])  # all texts moved the same way
    turned = matched_noise(reference, other, rng)[:, 1:]
    np.testing.assert_allclose(turned.mean(axis=0), 0, atol=0.03)
    covariance = turned.T @ turned / texts
    np.testing.assert_allclose(covariance, np.eye(dim - 1) * 0.5 / (dim - 1), atol=0.015)
    again = matched_noise(reference, other, np.random.default_rng(1))[:, 1:]
    assert not np.allclose(turned, again)
