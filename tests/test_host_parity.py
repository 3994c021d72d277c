"""Our poolings and sentence-transformers' own, side by side."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from torch import Tensor

from maskpool import build_pooling
from tests.batches import masks, poison, tokens
from tests.poolings import DIM, DTYPES, HOST_MODES

HostMode = str | tuple[str, ...]
every_host_mode = pytest.mark.parametrize("mode", [*HOST_MODES, ("mean", "max", "cls"), ("lasttoken", "weightedmean")])


def _host(mode: HostMode, x: Tensor, mask: Tensor) -> Tensor:
    host = HostPooling(DIM, mode)
    pooled: Tensor = host({"token_embeddings": x, "attention_mask": mask})["sentence_embedding"]
    return pooled


@every_host_mode
@given(mask=masks(max_tokens=40), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_equals_the_host(mode: HostMode, mask: Tensor, dtype: torch.dtype, seed: int) -> None:
    """On every mask that leaves each sentence a token, the host's vectors are ours."""
    mask = mask.long()
    mask[:, 0] |= 1 - mask.any(dim=1).long()
    x = tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    torch.testing.assert_close(build_pooling(mode)(x, mask), _host(mode, x, mask))


@every_host_mode
def test_gradients_equal_the_host(mode: HostMode) -> None:
    """First and second derivatives are the host's where it gives any."""
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1]])
    x = tokens(2, 4, DIM, dtype=torch.float64)
    results = []
    for pool in (build_pooling(mode), lambda x, mask: _host(mode, x, mask)):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(pool(leaf, mask).pow(3).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), leaf)
        results.append((first.detach(), second))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mode", HOST_MODES)
def test_sentence_without_a_token(mode: str) -> None:
    """An all-masked row is zeros, where the host gives cls a pad's vector and max −inf."""
    x, mask = tokens(2, 3, DIM), torch.tensor([[1, 1, 0], [0, 0, 0]])
    pooled = build_pooling(mode)(x, mask)
    assert torch.equal(pooled[1], torch.zeros(DIM))
    if mode in ("cls", "max"):
        assert not torch.equal(_host(mode, x, mask)[1], torch.zeros(DIM))


@pytest.mark.parametrize("mode", HOST_MODES)
def test_sequences_of_length_zero(mode: str) -> None:
    """A batch whose sequences have no position is zeros, where the host raises IndexError."""
    x, mask = torch.empty(2, 0, DIM), torch.empty(2, 0, dtype=torch.int64)
    assert torch.equal(build_pooling(mode)(x, mask), torch.zeros(2, DIM))
    if mode in ("cls", "max", "lasttoken"):
        with pytest.raises(IndexError):
            _host(mode, x, mask)


@pytest.mark.parametrize("mode", HOST_MODES)
@pytest.mark.parametrize("width", [2, 4])
def test_mask_of_another_width(mode: str, width: int) -> None:
    """A mask that does not fit is refused, where the host silently takes all tokens for real."""
    x, mask = tokens(2, 3, DIM), torch.eye(2, width, dtype=torch.int64)
    torch.testing.assert_close(_host(mode, x, mask), _host(mode, x, torch.ones(2, 3, dtype=torch.int64)))
    with pytest.raises(ValueError, match=rf"attention_mask must have the shape \(2, 3\).*got \(2, {width}\)"):
        build_pooling(mode)(x, mask)


@pytest.mark.parametrize("mode", HOST_MODES)
def test_nan_in_a_pad(mode: str) -> None:
    """NaN in a pad does not reach the vector, where it survives the host's three means."""
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    x = tokens(2, 3, DIM)
    torch.testing.assert_close(build_pooling(mode)(poison(x, mask, torch.nan), mask), _host(mode, x, mask))
    if "mean" in mode:
        assert _host(mode, poison(x, mask, torch.nan), mask).isnan().all()
