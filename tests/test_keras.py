"""Keras's masking of pads, on its torch backend, compared with mean pooling."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
import torch
from torch import Tensor

from maskpool.functional import mean_pool
from tests.batches import padded_ids

with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
    # Only for the import, and independent of the machine's settings: the torch backend on the CPU, as in the tests.
    patch.setenv("KERAS_BACKEND", "torch")
    patch.setenv("KERAS_TORCH_DEVICE", "cpu")
    patch.setenv("KERAS_HOME", home)  # Keras reads and writes its defaults in this folder
    # Any: Keras ships no types.
    keras: Any = pytest.importorskip("keras", reason='needs pip install "maskpool[peers]"')
if keras.backend.backend() != "torch":
    pytest.skip("Keras was imported before, with another backend", allow_module_level=True)

WORDS, DIM, WIDTH = 20, 6, 9


def _model(table: Tensor) -> Any:
    # Any: Keras ships no types.
    words = keras.layers.Embedding(WORDS, DIM, mask_zero=True)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), words, keras.layers.GlobalAveragePooling1D()])
    words.set_weights([table.numpy()])
    return model


@pytest.mark.parametrize("seed", range(3))
def test_mask_zero_equals_ours(seed: int) -> None:
    """Embedding(mask_zero=True) with GlobalAveragePooling1D: our vectors, our table gradients, none for the pad row."""
    ids, generator = padded_ids(WORDS, WIDTH, seed), torch.Generator().manual_seed(seed)
    table = torch.randn(WORDS, DIM, generator=generator)  # its pad row is not zero
    upstream = torch.randn(5, DIM, generator=generator)
    model = _model(table)
    parameter = model.trainable_weights[0].value
    theirs = model(ids)
    (their_gradient,) = torch.autograd.grad(theirs, parameter, upstream)
    weight = table.clone().requires_grad_()
    ours = mean_pool(torch.nn.functional.embedding(ids, weight), ids != 0)
    (our_gradient,) = torch.autograd.grad(ours, weight, upstream)
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-6, atol=1e-6)
    assert not their_gradient[0].any()
    assert not our_gradient[0].any()


def test_a_text_of_pads() -> None:
    """A text of pads only is NaN in Keras, where ours gives zeros."""
    ids, table = torch.zeros(1, 3, dtype=torch.int64), torch.ones(WORDS, DIM)
    assert _model(table)(ids).isnan().all()
    assert not mean_pool(table[ids], ids != 0).any()
