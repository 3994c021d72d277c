"""Attention pooling: properties beyond the laws of every pooling."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from maskpool import TokenBatch
from maskpool.functional import attention_pool, attention_scores, mean_pool
from maskpool.nn import AttentionPooling
from maskpool.training import train
from tests.batches import all_layouts, dense_route, poison
from tests.poolings import DIM, every_attention_pooling, make

KINDS: list[dict[str, Any]] = [{}, {"hidden_dimension": 5}, {"num_heads": 2}, {"hidden_dimension": 3, "num_heads": 3}]


def _made(name: str, dim: int = DIM) -> AttentionPooling:
    layer = make(name, dim)
    assert isinstance(layer, AttentionPooling)
    return layer


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_starts_as_the_mean(options: dict[str, Any]) -> None:
    """A fresh layer is the mean of the real tokens, with any kind of scores and any number of heads."""
    x, mask = all_layouts()
    torch.testing.assert_close(AttentionPooling(DIM, **options)(x, mask), mean_pool(x, mask))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_learns_away_from_the_mean(options: dict[str, Any]) -> None:
    """The query has a gradient at the start, so the layer can learn."""
    layer, (x, mask) = AttentionPooling(DIM, **options), all_layouts()
    (gradient,) = torch.autograd.grad(layer(x, mask).square().sum(), layer.query)
    assert gradient.abs().sum() > 0


def test_each_head_pools_its_slice() -> None:
    """Head by head, the layer is a layer of one head whose values are that head's slice."""
    layer, (x, mask) = _made("attention-heads"), all_layouts()
    pooled, weights = layer(x, mask, return_weights=True)
    for head in range(2):
        columns = slice(head * DIM // 2, (head + 1) * DIM // 2)
        scores = attention_scores(x, mask, query=layer.query[head : head + 1])
        expected, expected_weights = attention_pool(x[:, :, columns].contiguous(), mask, scores=scores)
        torch.testing.assert_close(pooled[:, columns], expected)
        torch.testing.assert_close(weights[:, head : head + 1], expected_weights)


@every_attention_pooling
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_returned_weights(name: str, dense: bool, dtype: torch.dtype) -> None:
    """Weights are (batch, heads, seq) in float32, sum to 1 in each sentence, and are exactly 0 at pads."""
    layer, (x, mask) = _made(name), all_layouts(dtype)
    with dense_route() if dense else torch.enable_grad():
        pooled, weights = layer(poison(x, mask, torch.nan), mask, return_weights=True)
    assert weights.shape == (len(mask), layer.num_heads, mask.shape[1])
    assert weights.dtype == torch.float32
    assert not weights[~mask.bool().unsqueeze(1).expand_as(weights)].any()
    torch.testing.assert_close(weights.sum(dim=2), mask.any(dim=1, keepdim=True).float().expand(-1, layer.num_heads))
    assert torch.equal(pooled, layer(x, mask) if not dense else pooled)
    by_hand = torch.einsum("bht,bthd->bhd", weights, x.float().reshape(*mask.shape, layer.num_heads, -1)).flatten(1)
    torch.testing.assert_close(pooled, by_hand.to(dtype))


def test_weights_of_packed_tokens() -> None:
    """Weights of a packed batch are (tokens, heads)."""
    x, mask = all_layouts()
    offsets = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    batch = TokenBatch.from_packed(x[mask.bool()], offsets)
    layer = _made("attention-heads")
    weights = layer(batch, return_weights=True)[1]
    assert weights.shape == (int(mask.sum()), 2)
    torch.testing.assert_close(weights, layer(x, mask, return_weights=True)[1].transpose(1, 2)[mask.bool()])


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_large_scores(dense: bool) -> None:
    """Scores in the thousands neither overflow nor become NaN, and the largest gets all the weight."""
    x, mask = all_layouts()
    scores = torch.tensor([-5e3, 5e3, 9e3, 1e3, -9e3]).expand(len(mask), 1, 5)
    with dense_route() if dense else torch.enable_grad():
        pooled, weights = attention_pool(x, mask, scores=scores)
    assert weights.isfinite().all()
    best = torch.where(mask.bool(), scores[:, 0], -torch.inf).argmax(dim=1)
    rows = mask.any(dim=1)
    torch.testing.assert_close(pooled[rows], x[torch.arange(len(x)), best][rows])


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_scores_at_pads_are_not_read(dense: bool) -> None:
    """Scores at pads change neither vectors nor gradients."""
    x, mask = all_layouts()
    given = torch.randn(len(mask), 2, 5)
    results = []
    for value in (0.0, torch.nan):
        scores = torch.where(mask.bool().unsqueeze(1), given, value).requires_grad_()
        with dense_route() if dense else torch.enable_grad():
            pooled = attention_pool(x, mask, scores=scores)[0]
        results.append((pooled, torch.autograd.grad(pooled.square().sum(), scores)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not results[1][1][~mask.bool().unsqueeze(1).expand(-1, 2, -1)].any()


@every_attention_pooling
def test_shifted_scores(name: str) -> None:
    """Adding one number to all scores of a sentence does not change the weights."""
    (x, mask), heads = all_layouts(), _made(name).num_heads
    scores = torch.randn(len(mask), heads, 5)
    moved = scores + torch.arange(len(mask)).view(-1, 1, 1)
    torch.testing.assert_close(attention_pool(x, mask, scores=moved), attention_pool(x, mask, scores=scores))


@every_attention_pooling
def test_state_dict_round_trip(name: str) -> None:
    """A layer that is saved and loaded with strict keys gives the same vectors."""
    layer, fresh, (x, mask) = _made(name), make(name), all_layouts()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(fresh(x, mask), layer(x, mask))


def test_state_dict_keys() -> None:
    """The names of the parameters do not change, because saved models depend on them."""
    assert list(AttentionPooling(4).state_dict()) == ["query"]
    assert set(AttentionPooling(4, hidden_dimension=3).state_dict()) == {"query", "hidden.weight", "hidden.bias"}


def test_training_finds_the_token_that_matters() -> None:
    """A layer that is trained to return the token that a feature marks attends to it."""
    layer = AttentionPooling(4)

    def loss(_: Tensor) -> Tensor:
        x, mask = torch.randn(16, 6, 4), torch.ones(16, 6, dtype=torch.int64)
        x[:, :, 0] = 0
        marked = torch.randint(6, (16,))
        x[torch.arange(16), marked, 0] = 3
        result: Tensor = (layer(x, mask)[:, 1:] - x[torch.arange(16), marked, 1:]).square().mean()
        return result

    history = train(layer, loss, [torch.arange(16)], torch.optim.Adam(layer.parameters(), lr=0.3), epochs=40)
    assert history.losses[-1] < 0.02
