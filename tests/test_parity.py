"""Our poolings equal torch's reductions and PyTorch Geometric's formulas."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import maskpool
from maskpool import TokenBatch, nn
from maskpool.kernels import autograd
from maskpool.nn import GeneralizedMeanPooling, PoolingLayer
from maskpool.training import train
from tests.batches import as_jagged, dense_route, lengths_to_offsets, tokens
from tests.poolings import DIM, every_dtype

lengths_above_0 = st.lists(st.integers(1, 50), min_size=1, max_size=5)
either_route = pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])


# Poolings that choose numbers instead of adding them.
CHOICES = [nn.MedianPooling(), nn.TopKMeanPooling(k=3), nn.MaxPooling(), nn.MinPooling()]


def _split(rows: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split(rows, lengths)
    return parts


Peer = tuple[PoolingLayer, Callable[[Tensor], Tensor]]
TORCH: dict[str, Peer] = {
    "torch.median": (nn.MedianPooling(), lambda rows: rows.median(dim=0).values),
    "torch.logsumexp": (nn.LogSumExpPooling(), lambda rows: rows.logsumexp(dim=0)),
    "torch.topk": (nn.TopKMeanPooling(k=3), lambda rows: rows.topk(min(3, len(rows)), dim=0).values.mean(dim=0)),
    "torch.std": (nn.StdPooling(), lambda rows: rows.std(dim=0, correction=0)),
    "torch.amin": (nn.MinPooling(), lambda rows: rows.amin(dim=0)),
    "torch.sum": (nn.SumPooling(), lambda rows: rows.sum(dim=0)),
}
# Layers by the name of torch's reduction in torch.segment_reduce, and by that in torch.nested.
SEGMENTS: dict[str, PoolingLayer] = {
    layer.mode: layer for layer in (nn.MeanPooling(), nn.SumPooling(), nn.MaxPooling(), nn.MinPooling())
}
NESTED = {nn.MeanPooling: "mean", nn.SumPooling: "sum", nn.MaxPooling: "amax", nn.MinPooling: "amin"}


@pytest.mark.parametrize("peer", TORCH)
@given(lengths=lengths_above_0, seed=st.integers(0, 99))
def test_equals_torch_sentence_by_sentence(peer: str, lengths: list[int], seed: int) -> None:
    """Each pooling is torch's own reduction of each sentence."""
    (layer, reduction), rows = TORCH[peer], tokens(sum(lengths), DIM, seed=seed)
    expected = torch.stack([reduction(part) for part in _split(rows, lengths)])
    torch.testing.assert_close(layer(rows, cu_seqlens=lengths_to_offsets(lengths)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer", "reduction"), NESTED.items())
@given(lengths=lengths_above_0, seed=st.integers(0, 99))
def test_equals_nested_reductions(layer: type[PoolingLayer], reduction: str, lengths: list[int], seed: int) -> None:
    """torch.nested reduces its own tensors to our vectors."""
    nested = as_jagged(tokens(sum(lengths), DIM, seed=seed), lengths)["token_embeddings"]
    torch.testing.assert_close(layer()(nested), getattr(nested, reduction)(dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SEGMENTS)
@given(lengths=lengths_above_0, seed=st.integers(0, 99))
def test_equals_segment_reduce(name: str, lengths: list[int], seed: int) -> None:
    """torch.segment_reduce gives our vectors."""
    rows = tokens(sum(lengths), DIM, seed=seed)
    expected = torch.segment_reduce(rows, name, lengths=torch.tensor(lengths), axis=0)
    torch.testing.assert_close(
        SEGMENTS[name](rows, cu_seqlens=lengths_to_offsets(lengths)), expected, rtol=1e-5, atol=1e-6
    )


# ---------------------------------------- torch_geometric.nn.aggr, its formulas over (rows, index, number)


def _scatter(rows: Tensor, index: Tensor, number: int) -> Tensor:
    return torch.zeros(number, rows.shape[1]).index_add(0, index, rows)


def _geometric_mean_of(rows: Tensor, index: Tensor, number: int) -> Tensor:
    return _scatter(rows, index, number) / index.bincount(minlength=number).clamp(min=1).unsqueeze(1)


def _geometric_std(rows: Tensor, index: Tensor, number: int) -> Tensor:
    mean = _geometric_mean_of(rows, index, number)
    variance = _geometric_mean_of(rows * rows, index, number) - mean * mean
    return variance.clamp(min=1e-5).sqrt()


def _geometric_softmax(rows: Tensor, index: Tensor, number: int, t: float = 2.0) -> Tensor:
    raised = (t * rows).exp()
    return _scatter(raised / _scatter(raised, index, number)[index] * rows, index, number)


def _geometric_power_mean(rows: Tensor, index: Tensor, number: int, p: float = 3.0) -> Tensor:
    return _geometric_mean_of(rows.clamp(min=0, max=100).pow(p), index, number).clamp(min=0, max=100).pow(1 / p)


GEOMETRIC: dict[str, tuple[PoolingLayer, Callable[[Tensor, Tensor, int], Tensor]]] = {
    "MeanAggregation": (nn.MeanPooling(), _geometric_mean_of),
    "SumAggregation": (nn.SumPooling(), _scatter),
    "StdAggregation": (nn.StdPooling(), _geometric_std),
    "SoftmaxAggregation": (nn.SoftmaxPooling(temperature=0.5), _geometric_softmax),
    "PowerMeanAggregation": (GeneralizedMeanPooling(p=3.0), _geometric_power_mean),
}


@pytest.mark.parametrize("case", GEOMETRIC)
@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_equals_geometric(case: str, lengths: list[int], seed: int) -> None:
    """PyTorch Geometric's formulas give our vectors wherever they do not clamp: on positive features of some spread."""
    layer, formula = GEOMETRIC[case]
    rows = tokens(sum(lengths), DIM, seed=seed).abs() + 0.1
    rows[:: len(rows)] += 1
    index = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    expected = formula(rows, index, len(lengths))
    pooled = layer(rows, cu_seqlens=lengths_to_offsets(lengths))
    spread = torch.tensor([1e-2 if case == "StdAggregation" else 0.0])
    clear = expected > spread
    torch.testing.assert_close(
        pooled[clear], expected[clear], rtol=1e-3 if case == "StdAggregation" else 1e-5, atol=1e-5
    )


# ----------------------------------------------------------------------------------- limits, laws of each


@either_route
def test_limits_of_softmax(dense: bool) -> None:
    """The softmax-weighted mean becomes the mean as the temperature grows, and the maximum as it falls to 0."""
    x, mask = tokens(4, 9, DIM), torch.arange(9) < torch.tensor([[1], [3], [6], [9]])
    with dense_route() if dense else torch.enable_grad():
        hot, cold = (maskpool.functional.softmax_pool(x, mask, temperature=t) for t in (1e6, 1e-6))
    torch.testing.assert_close(hot, maskpool.functional.mean_pool(x, mask), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cold, maskpool.functional.max_pool(x, mask))


@either_route
@every_dtype
def test_limits_of_the_generalized_mean(dense: bool, dtype: torch.dtype) -> None:
    """P = 1 is the mean; as p grows the result becomes the largest number by size, with its sign; it is never NaN."""
    x, mask = tokens(4, 9, DIM, dtype=dtype), torch.arange(9) < torch.tensor([[1], [3], [6], [9]])
    x[1, 1] = 0
    with dense_route() if dense else torch.enable_grad():
        linear, steep = (maskpool.functional.generalized_mean_pool(x, mask, p=p) for p in (1.0, 400.0))
        assert maskpool.functional.generalized_mean_pool(-x.abs(), mask, p=0.5).isfinite().all()
    eps = max(1e-5, 4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(linear, maskpool.functional.mean_pool(x, mask), rtol=eps, atol=eps)
    kept = torch.where(mask.unsqueeze(2), x, 0)
    largest = kept.gather(1, kept.abs().argmax(dim=1, keepdim=True)).squeeze(1)
    torch.testing.assert_close(steep, largest, rtol=2e-2, atol=0)


def test_the_exponent_learns() -> None:
    """Gradient steps move p towards the exponent behind the data; it stays positive."""
    x, mask = tokens(8, 9, DIM).abs() + 0.1, torch.ones(8, 9, dtype=torch.bool)
    target, layer = maskpool.functional.generalized_mean_pool(x, mask, p=3.0), GeneralizedMeanPooling()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    train(layer, lambda _: (layer(x, mask) - target).square().mean(), [torch.arange(8)], optimizer, epochs=60)
    torch.testing.assert_close(layer.p.detach(), torch.tensor(3.0), rtol=0.05, atol=0)
    with torch.no_grad():
        layer.log_p.fill_(-20)
    assert layer.p > 0


def test_an_exponent_for_each_feature() -> None:
    """P may hold one exponent per feature."""
    x, mask, p = tokens(2, 4, 3), torch.ones(2, 4, dtype=torch.bool), torch.tensor([1.0, 2.0, 5.0])
    pooled = maskpool.functional.generalized_mean_pool(x, mask, p=p)
    for feature, exponent in enumerate(p.tolist()):
        expected = maskpool.functional.generalized_mean_pool(x[:, :, feature : feature + 1], mask, p=exponent)
        torch.testing.assert_close(pooled[:, feature : feature + 1], expected)


@either_route
@every_dtype
def test_limits_of_the_topk_mean(dense: bool, dtype: torch.dtype) -> None:
    """K = 1 is the maximum, and a k that no sentence reaches is the mean."""
    x, mask = tokens(3, 7, DIM, dtype=dtype), torch.arange(7) < torch.tensor([[0], [2], [7]])
    with dense_route() if dense else torch.enable_grad():
        largest, mean_of_all = (maskpool.functional.topk_mean_pool(x, mask, k=k) for k in (1, 100))
    assert torch.equal(largest, maskpool.functional.max_pool(x, mask))
    torch.testing.assert_close(mean_of_all, maskpool.functional.mean_pool(x, mask))


@pytest.mark.parametrize("layer", [nn.MedianPooling(), nn.TopKMeanPooling(k=3)])
def test_without_numpy(layer: PoolingLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy, torch's sort gives the same numbers."""
    rows, offsets = tokens(60, DIM), lengths_to_offsets([0, 1, 19, 40])
    expected = layer(rows, cu_seqlens=offsets)
    monkeypatch.setattr(autograd, "numpy", None)
    torch.testing.assert_close(layer(rows, cu_seqlens=offsets), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", CHOICES)
@either_route
def test_nan_stays_in_its_feature(layer: PoolingLayer, dense: bool) -> None:
    """A NaN among the real tokens makes its own feature NaN, and no other."""
    x, mask = tokens(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    x[0, 2, 1] = torch.nan
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert pooled.isnan().tolist() == [[False, True, False], [False, False, False]]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.MinPooling(), [0.0, 0.0, 0.0, 1.0, 0.0]),
        (nn.MaxPooling(), [0.0, 0.5, 0.5, 0.0, 0.0]),
        (nn.MedianPooling(), [1.0, 0.0, 0.0, 0.0, 0.0]),
        (nn.TopKMeanPooling(k=3), [1 / 3, 1 / 3, 1 / 3, 0.0, 0.0]),
    ],
)
@either_route
def test_gradients_of_ties(layer: PoolingLayer, expected: list[float], dense: bool) -> None:
    """Tied tokens share the gradient of the chosen number, and pads that tie with them get none."""
    x = torch.tensor([[[1.0], [2.0], [2.0], [0.0], [2.0]]], requires_grad=True)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, torch.tensor([[1, 1, 1, 1, 0]]))
    (gradient,) = torch.autograd.grad(pooled.sum(), x)
    torch.testing.assert_close(gradient.view(-1), torch.tensor(expected))


@either_route
def test_gradients_of_ties_for_the_last_place(dense: bool) -> None:
    """Three tokens that tie for the last of two places each get a third of that place's gradient."""
    x = torch.tensor([[[5.0], [2.0], [2.0], [2.0], [1.0]]], requires_grad=True)
    with dense_route() if dense else torch.enable_grad():
        pooled = maskpool.functional.topk_mean_pool(x, torch.ones(1, 5, dtype=torch.bool), k=2)
    (gradient,) = torch.autograd.grad(pooled.sum(), x)
    torch.testing.assert_close(gradient.view(-1), torch.tensor([0.5, 1 / 6, 1 / 6, 1 / 6, 0.0]))


def test_deviation_of_equal_tokens_has_no_gradient() -> None:
    """A constant feature has the deviation 0 and the gradient 0, not NaN."""
    x = torch.zeros(1, 3, 2, requires_grad=True)
    pooled = maskpool.functional.std_pool(TokenBatch.from_padded(x, torch.ones(1, 3, dtype=torch.bool)))
    (gradient,) = torch.autograd.grad(pooled.sum(), x)
    assert not pooled.any()
    assert not gradient.any()


@either_route
def test_ties_count_as_often_as_they_occur(dense: bool) -> None:
    """If tokens tie for the last places of a top-k mean, only as many count as places are left."""
    x = torch.tensor([[[5.0], [2.0], [2.0], [2.0], [1.0]]])
    with dense_route() if dense else torch.enable_grad():
        pooled = maskpool.functional.topk_mean_pool(x, torch.ones(1, 5, dtype=torch.bool), k=3)
    torch.testing.assert_close(pooled, torch.tensor([[3.0]]))


# ---------------------------------------------------------------- other references, every dtype


def _geometric_extreme(rows: Tensor, index: Tensor, number: int, reduce: str) -> Tensor:
    where = index.unsqueeze(1).expand_as(rows)
    return torch.zeros(number, rows.shape[1]).scatter_reduce(0, where, rows, reduce, include_self=False)


def _geometric_median(rows: Tensor, index: Tensor, number: int) -> Tensor:
    """QuantileAggregation(0.5, interpolation="lower"): sort by value, then by sentence, take the lower middle."""
    counts = index.bincount(minlength=number)
    starts = counts.cumsum(0) - counts
    by_value = rows.argsort(dim=0)
    by_sentence = index[by_value].argsort(dim=0, stable=True)
    ordered = rows.gather(0, by_value.gather(0, by_sentence))
    return ordered[starts + (counts - 1) // 2]


EXACT: dict[type[PoolingLayer], Callable[[Tensor, Tensor, int], Tensor]] = {
    nn.MaxPooling: lambda rows, index, number: _geometric_extreme(rows, index, number, "amax"),
    nn.MinPooling: lambda rows, index, number: _geometric_extreme(rows, index, number, "amin"),
    nn.MedianPooling: _geometric_median,
}


@pytest.mark.parametrize("layer", EXACT)
@either_route
@given(lengths=lengths_above_0, seed=st.integers(0, 99), ties=st.booleans())
def test_equals_geometric_choices(
    layer: type[PoolingLayer], dense: bool, lengths: list[int], seed: int, ties: bool
) -> None:
    """PyTorch Geometric's Max, Min and Median choose the same numbers as ours, also with ties."""
    rows = tokens(sum(lengths), DIM, seed=seed)
    rows = rows.round() if ties else rows
    index = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    with dense_route() if dense else torch.enable_grad():
        pooled = layer()(rows, cu_seqlens=lengths_to_offsets(lengths))
    assert torch.equal(pooled, EXACT[layer](rows, index, len(lengths)))


@pytest.mark.parametrize("case", [name for name in GEOMETRIC if name != "PowerMeanAggregation"])  # it clamps at 0
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_equals_geometric_on_any_features(case: str, lengths: list[int], seed: int) -> None:
    """Mean, Sum, Std above its clamp and Softmax agree on features of either sign too."""
    layer, formula = GEOMETRIC[case]
    rows = tokens(sum(lengths), DIM, seed=seed)
    index = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    expected = formula(rows, index, len(lengths))
    pooled = layer(rows, cu_seqlens=lengths_to_offsets(lengths))
    clear = expected.square() > 1.01e-5 if case == "StdAggregation" else torch.ones_like(expected, dtype=torch.bool)
    torch.testing.assert_close(
        pooled[clear], expected[clear], rtol=1e-3 if case == "StdAggregation" else 1e-5, atol=1e-5
    )


@pytest.mark.parametrize("peer", TORCH)
@either_route
@every_dtype
def test_equals_torch_in_every_dtype(peer: str, dense: bool, dtype: torch.dtype) -> None:
    """In any dtype our vectors are torch's float64 reductions of each sentence, rounded once."""
    (layer, reduction), lengths = TORCH[peer], [1, 2, 7, 40]
    rows = tokens(sum(lengths), DIM, dtype=dtype)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(rows, cu_seqlens=lengths_to_offsets(lengths))
    expected = torch.stack([reduction(part.double()) for part in _split(rows, lengths)]).to(dtype)
    assert pooled.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(pooled, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SEGMENTS)
@either_route
def test_equals_segment_reduce_with_empty_sentences(name: str, dense: bool) -> None:
    """torch.segment_reduce in float64 gives our vectors once its empty segments are set to 0."""
    lengths = [0, 3, 0, 1, 9, 0]
    rows = tokens(sum(lengths), DIM, dtype=torch.float64)
    expected = torch.segment_reduce(rows, name, lengths=torch.tensor(lengths), axis=0)
    expected[torch.tensor(lengths) == 0] = 0
    with dense_route() if dense else torch.enable_grad():
        pooled = SEGMENTS[name](rows, cu_seqlens=lengths_to_offsets(lengths))
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("peer", TORCH)
@either_route
def test_gradients_equal_torchs(peer: str, dense: bool) -> None:
    """Gradients equal those of torch's reductions if no tokens tie."""
    (layer, reduction), lengths, gradients = TORCH[peer], [1, 2, 7, 40], []
    for ours in (True, False):
        rows = tokens(sum(lengths), DIM, dtype=torch.float64).requires_grad_()
        if ours:
            with dense_route() if dense else torch.enable_grad():
                pooled = layer(rows, cu_seqlens=lengths_to_offsets(lengths))
        else:
            pooled = torch.stack([reduction(part) for part in _split(rows, lengths)])
        keep = torch.tensor([0.0 if peer == "torch.std" else 1.0, 1.0, 1.0, 1.0]).unsqueeze(
            1
        )  # the root has no derivative at 0
        gradients.append(
            torch.autograd.grad((keep * tokens(*pooled.shape, seed=3) * pooled).sum(), rows)[0].nan_to_num()
        )
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-11)


# ------------------------------------------------------------------------------- more limits and laws of each


@either_route
@every_dtype
@pytest.mark.parametrize("p", [0.5, 1.0, 2.5, 3.0, 40.0])
def test_generalized_mean_of_negative_features(dense: bool, dtype: torch.dtype, p: float) -> None:
    """Negative features and zeros give numbers and gradients that are never NaN, odd under a change of sign."""
    x, mask = tokens(3, 6, DIM, dtype=dtype), torch.arange(6) < torch.tensor([[1], [4], [6]])
    x[:, 0] = -x[:, 0].abs()
    x[1, 1] = 0
    x.requires_grad_()
    exponent = torch.tensor(p, requires_grad=True)
    with dense_route() if dense else torch.enable_grad():
        pooled, mirrored = (maskpool.functional.generalized_mean_pool(sign * x, mask, p=exponent) for sign in (1, -1))
    torch.testing.assert_close(mirrored, -pooled)
    for gradient in torch.autograd.grad(pooled.sum(), [x, exponent]):
        assert gradient.isfinite().all()


def test_a_gradient_step_lowers_the_loss() -> None:
    """One step against the gradient of p lowers the loss, from either side of the target."""
    x, mask = tokens(8, 9, DIM), torch.ones(8, 9, dtype=torch.bool)
    target = maskpool.functional.generalized_mean_pool(x, mask, p=3.0)
    for start in (1.5, 6.0):
        layer = GeneralizedMeanPooling(p=start)
        before = (layer(x, mask) - target).square().mean()
        before.backward()
        with torch.no_grad():
            assert layer.log_p.grad is not None
            layer.log_p.sub_(0.05 * layer.log_p.grad.sign())
        assert (layer(x, mask) - target).square().mean() < before
        assert layer.p > 0


@every_dtype
def test_without_numpy_every_median_is_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy medians and gradients are the same bit for bit, including NaN and ties."""
    results = []
    for _ in range(2):
        rows = tokens(60, DIM, dtype=dtype).mul(4).round()
        rows[30, 2] = torch.nan
        rows.requires_grad_()
        pooled = nn.MedianPooling()(rows, cu_seqlens=lengths_to_offsets([0, 1, 19, 40]))
        results.append((pooled, *torch.autograd.grad(pooled.nan_to_num().sum(), rows)))
        monkeypatch.setattr(autograd, "numpy", None)
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual.nan_to_num(nan=1e4), expected.nan_to_num(nan=1e4))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.MinPooling(), [0.0, 1 / 3, 1 / 3, 1 / 3, 0.0, 0.0]),
        (nn.MaxPooling(), [0.5, 0.0, 0.0, 0.0, 0.5, 0.0]),
        (nn.MedianPooling(), [0.0, 1 / 3, 1 / 3, 1 / 3, 0.0, 0.0]),
        (nn.TopKMeanPooling(k=3), [1 / 3, 1 / 9, 1 / 9, 1 / 9, 1 / 3, 0.0]),
    ],
)
@either_route
@every_dtype
def test_gradients_of_many_ties(layer: PoolingLayer, expected: list[float], dense: bool, dtype: torch.dtype) -> None:
    """Three tokens that tie for one place get a third of its gradient each, in every dtype; a tied pad gets none."""
    x = torch.tensor([[[5.0], [2.0], [2.0], [2.0], [5.0], [2.0]]], dtype=dtype, requires_grad=True)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, torch.tensor([[1, 1, 1, 1, 1, 0]]))
    (gradient,) = torch.autograd.grad(pooled.sum(), x)
    torch.testing.assert_close(gradient.view(-1), torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("layer", CHOICES)
@either_route
def test_nan_without_numpy_and_in_pads(layer: PoolingLayer, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy too, a NaN in a real token makes its feature NaN, and a NaN in a pad does not."""
    monkeypatch.setattr(autograd, "numpy", None)
    x, mask = tokens(2, 5, 3), torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    x[~mask.bool()] = torch.nan
    x[0, 2, 1] = torch.nan
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert pooled.isnan().tolist() == [[False, True, False], [False, False, False]]
