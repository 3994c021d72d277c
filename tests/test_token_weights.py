"""Token weights: every pooling that sums takes them, with the right denominator."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from maskpool import TokenBatch
from maskpool.functional import attention_pool, attention_scores, mean_pool
from maskpool.nn import AttentionPooling, GeneralizedMeanPooling, PositionWeightedMeanPooling, SoftmaxPooling
from maskpool.types import OnEmpty
from maskpool.weights import IDFWeights
from tests.batches import PACKINGS, all_layouts, as_padded, dense_route, few_examples, masks, poison, tokens
from tests.matrix import FULL, pairwise, spread
from tests.oracles import assert_equals_loop, sentence
from tests.poolings import (
    COUNT_POSITIONS,
    DIM,
    DTYPES,
    LEARNED,
    ONE_PER_FAMILY,
    PLAIN,
    RELATIVE,
    WEIGHTED,
    any_dtype,
    every_weighted_pooling,
    gain,
    make,
)

either_route = pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
COUNT_COPIES = [name for name in WEIGHTED if name not in COUNT_POSITIONS]


def _weights(*shape: int, seed: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.1).to(dtype)


@spread(3, name=WEIGHTED, dtype=DTYPES)
def test_ones_change_nothing(name: str, dtype: torch.dtype) -> None:
    """Weights of 1 give the same vectors as no weights."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    weighted = layer(x, mask, token_weights=torch.ones(mask.shape))
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(weighted, layer(x, mask), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", COUNT_COPIES)
def test_a_weight_of_three_equals_three_copies(name: str) -> None:
    """A token of weight three counts as three tokens."""
    layer, rows, counts = make(name), tokens(4, DIM), torch.tensor([1, 3, 0, 2])
    weighted = layer(rows[None], torch.ones(1, 4, dtype=torch.bool), token_weights=counts[None])
    repeated = rows.repeat_interleave(counts, dim=0)
    torch.testing.assert_close(
        weighted, layer(repeated[None], torch.ones(1, 6, dtype=torch.bool)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", RELATIVE)
def test_scale_of_weights(name: str) -> None:
    """Only the ratios of the weights matter if they are divided by their sum."""
    layer, (x, mask) = make(name), all_layouts()
    weights = _weights(*mask.shape)
    torch.testing.assert_close(
        layer(x, mask, token_weights=1e6 * weights), layer(x, mask, token_weights=weights), rtol=1e-5, atol=1e-6
    )


@pairwise(name=WEIGHTED, dense=[False, True], value=[torch.nan, -1.0, torch.inf])
def test_weights_of_pads_are_not_read(name: str, dense: bool, value: float) -> None:
    """The weight of a pad and the token there change no bit and get no gradient."""
    layer, (x, mask) = make(name), all_layouts()
    weights = _weights(*mask.shape)
    results = []
    for at_pads in (value, 1.0):
        leaf = poison(weights.unsqueeze(2), mask, at_pads).squeeze(2).requires_grad_()
        token = poison(x, mask, at_pads).requires_grad_()
        with dense_route() if dense else torch.enable_grad():
            pooled = layer(token, mask, token_weights=leaf)
        results.append((pooled, *torch.autograd.grad(pooled.square().sum(), [leaf, token])))
        for gradient in results[-1][1:]:
            assert not gradient[~mask.bool()].any()
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pairwise(name=WEIGHTED, dense=[False, True], check=[gradcheck, gradgradcheck])
def test_derivatives(name: str, dense: bool, check: Callable[..., bool]) -> None:
    """Derivatives by weights and tokens agree with finite differences."""
    layer = make(name, 2).double().requires_grad_(False)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    x = ((torch.randperm(18).double() + 0.3) / 18 - 0.5).reshape(3, 3, 2).requires_grad_()
    weights = _weights(3, 3, dtype=torch.float64).requires_grad_()
    with dense_route() if dense else torch.enable_grad():
        assert check(lambda x, w: layer(x, mask, token_weights=w), (x, weights), fast_mode=not FULL)


@spread(3, name=WEIGHTED, packing=[name for name in PACKINGS if "gaps" not in name])
def test_layouts_agree(name: str, packing: str) -> None:
    """Weights in the layout of the tokens, (tokens,), (1, tokens) or nested, give the same vectors."""
    layer, rows, lengths, flat = make(name), tokens(7, DIM), [3, 0, 4], _weights(7)
    padded = as_padded(rows, lengths)
    mask = padded["attention_mask"]
    expected = layer(**padded, token_weights=torch.full(mask.shape, torch.nan).masked_scatter(mask, flat))
    given = PACKINGS[packing](rows, lengths)
    weights = flat.unsqueeze(0) if "one" in packing else flat
    if packing == "nested":
        weights = torch.nested.nested_tensor_from_jagged(flat, torch.tensor([0, 3, 3, 7]))
    pooled = layer(**given, token_weights=weights)
    if name in LEARNED:
        torch.testing.assert_close(pooled, expected)
    else:
        assert torch.equal(pooled, expected)


@every_weighted_pooling
@few_examples
@given(dtype=any_dtype, mask=masks())
def test_dense_equals_sparse(name: str, dtype: torch.dtype, mask: Tensor) -> None:
    """Both routes give the same weighted vectors."""
    layer, x, weights = make(name), tokens(*mask.shape, DIM, dtype=dtype), _weights(*mask.shape)
    with dense_route():
        dense = layer(x, mask, token_weights=weights)
    torch.testing.assert_close(dense, layer(x, mask, token_weights=weights))


@pairwise(name=WEIGHTED, dense=[False, True], on_empty=["zero", "nan"])
def test_a_sentence_without_weight_is_empty(name: str, dense: bool, on_empty: OnEmpty) -> None:
    """A sentence whose weights are all 0 is treated as empty, also by its gradient."""
    layer, x, mask = make(name, on_empty=on_empty), tokens(2, 3, DIM), torch.ones(2, 3, dtype=torch.bool)
    x.requires_grad_()
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask, token_weights=torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 2.0]]))
    torch.testing.assert_close(
        pooled[0], torch.full_like(pooled[0], 0.0 if on_empty == "zero" else torch.nan), equal_nan=True
    )
    assert pooled[1].isfinite().all()
    (gradient,) = torch.autograd.grad(pooled[1].sum() + pooled[0].nan_to_num().sum(), x)
    assert gradient.isfinite().all()
    assert not gradient[0].any()


@every_weighted_pooling
def test_a_sentence_without_weight_raises(name: str) -> None:
    """on_empty="raise" names the weights and the rows."""
    text = r"^token_weights must leave each sentence a token with weight .*1 of 2 have none \(rows 0\)"
    layer, weights = make(name, on_empty="raise"), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=text):
        layer(tokens(2, 2, DIM), torch.ones(2, 2, dtype=torch.bool), token_weights=weights)


@pytest.mark.parametrize("weights", [torch.ones(1, 8192), _weights(1, 8192)], ids=["constant", "random"])
def test_long_sentences(weights: Tensor) -> None:
    """Up to 8,192 weighted tokens no digits are lost."""
    x, mask = tokens(1, 8192, 4) + 3, torch.ones(1, 8192, dtype=torch.bool)
    exact = (weights.double() @ x[0].double()) / weights.double().sum()
    torch.testing.assert_close(mean_pool(x, mask, token_weights=weights).double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        ([[1.0]], TypeError, "token_weights must be a torch.Tensor, got list"),
        (
            torch.ones(2, 3, dtype=torch.bool),
            TypeError,
            "token_weights must be numbers, floating or integer, got torch.bool",
        ),
        (torch.ones(2, 3) + 0j, TypeError, "token_weights must be numbers, floating or integer, got torch.complex64"),
        (
            torch.ones(2, 2),
            ValueError,
            "token_weights must have the shape (batch, seq) = (2, 3), one number per token, got (2, 2)",
        ),
        (
            torch.ones(3),
            ValueError,
            "token_weights must have the shape (batch, seq) = (2, 3), one number per token, got (3,)",
        ),
        (
            torch.ones(2, 3, device="meta"),
            ValueError,
            "token_weights must be on token_embeddings' device cpu, got meta",
        ),
        (
            torch.full((2, 3), -0.5),
            ValueError,
            "token_weights must be finite and not negative at real tokens; got [-0.5, ",
        ),
        (
            torch.full((2, 3), torch.nan),
            ValueError,
            "finite and not negative at real tokens; got [nan,",
        ),
        (
            torch.full((2, 3), torch.inf),
            ValueError,
            "finite and not negative at real tokens; got [inf,",
        ),
    ],
)
def test_bad_weights(weights: Any, error: type[Exception], text: str) -> None:
    """Weights of another kind or shape, negative or not finite ones, are refused."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    for name in WEIGHTED:
        with pytest.raises(error, match=re.escape(text)):
            make(name)(torch.ones(2, 3, DIM), mask, token_weights=weights)


def test_bad_weights_of_packed_tokens() -> None:
    """Packed tokens have one weight each."""
    batch = TokenBatch.from_packed(torch.ones(5, DIM), torch.tensor([0, 2, 5]))
    text = "token_weights must have the shape (tokens,) = (5,), one number per token, got (4,)"
    with pytest.raises(ValueError, match=re.escape(text)):
        mean_pool(batch, token_weights=torch.ones(4))


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in WEIGHTED])
def test_poolings_without_weights(name: str) -> None:
    """A pooling that does not sum over the tokens refuses weights."""
    x, mask = all_layouts()
    with pytest.raises(ValueError, match=r"^token_weights cannot be used by"):
        make(name)(x, mask, token_weights=torch.ones(mask.shape))


def test_attention_weights_are_weighted() -> None:
    """The weights that attention returns are those it pooled with, token weights included."""
    layer, (x, mask) = make("attention"), all_layouts()
    assert isinstance(layer, AttentionPooling)
    weights = _weights(*mask.shape)
    pooled, attention = layer(x, mask, return_weights=True, token_weights=weights)
    torch.testing.assert_close(torch.einsum("bs,bsd->bd", attention[:, 0], x), pooled)
    scores = attention_scores(x, mask, query=layer.query)[:, 0]
    raised = (scores.float().exp() * weights * mask)[:6]
    torch.testing.assert_close(attention[:6, 0], raised / raised.sum(dim=1, keepdim=True))


def test_inverse_document_frequencies() -> None:
    """The idf-weighted mean is Σ idf x / Σ idf over the real tokens."""
    texts = [[5, 7, 2], [5, 9, 2, 8], [5, 2]]
    idf = IDFWeights.fit(texts)
    ids, mask = torch.tensor([[5, 7, 2, 0], [5, 9, 2, 8]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    x = tokens(2, 4, DIM)
    pooled = mean_pool(x, mask, token_weights=idf(ids))
    for row, length in enumerate([3, 4]):
        table = torch.tensor([idf.table[int(i)] for i in ids[row, :length]])
        torch.testing.assert_close(pooled[row], (table @ x[row, :length]) / table.sum())


# ------------------------------------------------------------------ to the tolerances of law 4, on both routes


@every_weighted_pooling
@either_route
@few_examples
@given(dtype=any_dtype, mask=masks(max_tokens=40), seed=st.integers(0, 99), spread=st.sampled_from([0.0, 1.0, 4.0]))
def test_law_4(name: str, dense: bool, dtype: torch.dtype, mask: Tensor, seed: int, spread: float) -> None:
    """Weights of one size or of many, zeros among them, keep law 4 on both routes."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    weights = (spread * tokens(*mask.shape, dtype=exact, seed=seed + 100)).exp()
    weights = torch.where(tokens(*mask.shape, seed=seed + 200) > 1, 0.0, weights)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask, token_weights=weights)
    assert pooled.dtype == dtype
    assert_equals_loop(layer, pooled, x, mask, weights)


LONG = 8192
LONG_WEIGHTS = {
    "constant": torch.full((LONG,), 0.3),
    "random": _weights(LONG, seed=8),
    "wide": (3 * tokens(LONG, seed=9)).exp(),
}


@spread(7, name=WEIGHTED, dtype=DTYPES, dense=[False, True], kind=LONG_WEIGHTS)
def test_long_sentences_of_every_pooling(name: str, dtype: torch.dtype, dense: bool, kind: str) -> None:
    """Up to 8,192 weighted tokens every pooling, dtype and route keeps law 4, where tokens cancel too."""
    lengths = [33, 4097, LONG]
    mask = torch.arange(LONG) < torch.tensor(lengths).unsqueeze(1)
    x = torch.cat(
        [tokens(LONG, 2, seed=5), (1 - 2 * (torch.arange(LONG) % 2)).unsqueeze(1) * torch.tensor([0.1, 3.3])], 1
    )
    x = x.to(dtype).expand(len(lengths), LONG, 4)
    layer, weights = make(name, 4), LONG_WEIGHTS[kind].to(torch.float64 if dtype == torch.float64 else torch.float32)
    if name not in RELATIVE:
        weights = weights / 64  # keeps the result in float16's range
    weights = weights.expand(len(lengths), LONG)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask, token_weights=weights)
    assert_equals_loop(layer, pooled, x, mask, weights)


@spread(5, name=WEIGHTED, dense=[False, True], scale=[1e-6, 1.0, 1e6], value=[6e4, -65504.0])
def test_large_halves_keep_law_4(name: str, dense: bool, scale: float, value: float) -> None:
    """float16 numbers near the end of their range keep law 4 under weights of any size, on both routes."""
    layer, mask = make(name, 2), torch.ones(1, 600, dtype=torch.bool)
    x = torch.full((1, 600, 2), value, dtype=torch.float16)
    x = x / (600 * max(scale, 1) if name not in RELATIVE else gain(name, 600))
    weights = scale * _weights(1, 600)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask, token_weights=weights)
    assert pooled.isfinite().all()
    assert_equals_loop(layer, pooled, x, mask, weights)


@spread(5, name=RELATIVE, dense=[False, True], scale=[1e-30, 1e-6, 1e30])
def test_scale_of_weights_on_both_routes(name: str, dense: bool, scale: float) -> None:
    """Weights of any scale give the same vectors."""
    layer, (x, mask) = make(name), all_layouts()
    weights = _weights(*mask.shape)
    with dense_route() if dense else torch.enable_grad():
        scaled, plain = layer(x, mask, token_weights=scale * weights), layer(x, mask, token_weights=weights)
    torch.testing.assert_close(scaled, plain, rtol=2e-6, atol=1e-6)


@every_weighted_pooling
@either_route
def test_ones_change_nothing_to_six_digits(name: str, dense: bool) -> None:
    """Integer weights of 1 change nothing, to 1e-6, on both routes."""
    layer, (x, mask) = make(name), all_layouts()
    with dense_route() if dense else torch.enable_grad():
        weighted, plain = layer(x, mask, token_weights=torch.ones_like(mask)), layer(x, mask)
    torch.testing.assert_close(weighted, plain, rtol=1e-6, atol=1e-6)


WEIGHT_DTYPES = [torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.float64]


@spread(5, name=WEIGHTED, dtype=WEIGHT_DTYPES)
def test_dtypes_of_weights(name: str, dtype: torch.dtype) -> None:
    """Weights of any real dtype count as the same numbers in float32."""
    layer, (x, mask) = make(name), all_layouts()
    weights = torch.arange(mask.numel()).reshape(mask.shape) % 5
    assert torch.equal(layer(x, mask, token_weights=weights.to(dtype)), layer(x, mask, token_weights=weights.float()))


# ------------------------------------------------------------------------------------ excluded tokens


@every_weighted_pooling
@either_route
def test_weights_of_pads_do_not_fill_a_sentence(name: str, dense: bool) -> None:
    """A sentence whose real tokens weigh 0 is empty; its pads' weights do not count."""
    layer, x = make(name, on_empty="nan"), tokens(2, 3, DIM)
    weights = torch.tensor([[0.0, 0.0, 7.0], [1.0, 2.0, 7.0]])
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, torch.tensor([[1, 1, 0], [1, 1, 0]]), token_weights=weights)
    assert pooled[0].isnan().all()
    assert pooled[1].isfinite().all()


@pytest.mark.parametrize("name", COUNT_COPIES)
@either_route
def test_a_weight_of_zero_equals_a_pad(name: str, dense: bool) -> None:
    """A token of weight 0 equals a masked token in poolings that do not count positions."""
    layer, x, keep = make(name), tokens(2, 5, DIM), torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]])
    with dense_route() if dense else torch.enable_grad():
        weighted = layer(x, torch.ones_like(keep), token_weights=keep)
        masked = layer(x, keep, token_weights=torch.ones(2, 5))
    torch.testing.assert_close(weighted, masked, rtol=2e-6, atol=1e-6)


@every_weighted_pooling
@either_route
def test_gradients_equal_those_of_a_loop(name: str, dense: bool) -> None:
    """Gradients by tokens and weights, one weight being 0, are those of the float64 formula."""
    layer, mask = make(name).double().requires_grad_(False), torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1]])
    gradients = []
    for by_loop in (True, False):
        x = tokens(2, 4, DIM, dtype=torch.float64).requires_grad_()
        weights = torch.tensor([[0.7, 9.0, 0.0, 2.0], [9.0, 1.0, 0.3, 0.0]], dtype=torch.float64, requires_grad=True)
        if by_loop:
            at = [row.nonzero().view(-1) for row in mask]
            pooled = torch.stack([sentence(layer, x[row, p], p, weights[row, p])[0] for row, p in enumerate(at)])
        else:
            with dense_route() if dense else torch.enable_grad():
                pooled = layer(x, mask, token_weights=weights)
        towards = tokens(*pooled.shape, dtype=torch.float64, seed=4)
        gradients.append(torch.autograd.grad((pooled * towards).sum(), [x, weights]))
    for actual, expected in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@every_weighted_pooling
@either_route
def test_a_sentence_without_weight_sends_finite_gradients(name: str, dense: bool) -> None:
    """If all weights are 0, gradients by tokens are 0 and gradients by weights are finite."""
    layer, x, weights = make(name), tokens(1, 3, DIM).requires_grad_(), torch.zeros(1, 3, requires_grad=True)
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, torch.ones(1, 3, dtype=torch.bool), token_weights=weights)
    by_token, by_weight = torch.autograd.grad(pooled.sum(), [x, weights])
    assert not by_token.any()
    assert by_weight.isfinite().all()


# ------------------------------------------------------------------------------------------- traced


@pytest.mark.parametrize("name", WEIGHTED if FULL else [name for name in ONE_PER_FAMILY if name in WEIGHTED][-1:])
def test_traced_once_for_all_shapes(name: str) -> None:
    """A layer that is compiled or exported for one shape gives the eager vectors of other shapes."""
    layer, (x, mask) = make(name).requires_grad_(False), all_layouts()
    other = tokens(3, 11, DIM, seed=2), torch.arange(11) < torch.tensor([[4], [0], [11]])
    other = other[0], other[1].to(mask.dtype)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    example = {"token_embeddings": x, "attention_mask": mask, "token_weights": _weights(*mask.shape)}
    program = torch.export.export(layer, (), example, dynamic_shapes=dict.fromkeys(example, sizes))
    for tokens_, mask_ in ((x, mask), other):
        weights = poison(_weights(*mask_.shape).unsqueeze(2), mask_, torch.nan).squeeze(2)
        expected = layer(tokens_, mask_, token_weights=weights)
        torch.testing.assert_close(compiled(tokens_, mask_, token_weights=weights), expected, rtol=1e-5, atol=1e-6)
        exported = program.module()(token_embeddings=tokens_, attention_mask=mask_, token_weights=weights)
        torch.testing.assert_close(exported, expected, rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


# ------------------------------------------------------------------ tokens without weight; other devices


@either_route
@pytest.mark.parametrize(
    ("other", "largest", "temperature"), [(1.0, 300.0, 1.0), (1.0, 12.0, 0.1), (-300.0, -1.0, 1.0)]
)
def test_softmax_of_a_largest_token_without_weight(
    dense: bool, other: float, largest: float, temperature: float
) -> None:
    """The largest token does not change the shares of the others if its weight is 0, for any size and sign."""
    x, mask = torch.tensor([[[other], [largest]]]), torch.ones(1, 2, dtype=torch.bool)
    with dense_route() if dense else torch.enable_grad():
        pooled = SoftmaxPooling(temperature=temperature)(x, mask, token_weights=torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(pooled, torch.tensor([[other]]))


@either_route
@pytest.mark.parametrize("score", [100.0, 2000.0])  # beyond what float32 and float64 raise e to
@pytest.mark.parametrize("lowest", [0.0, -3000.0])
def test_attention_to_a_token_without_weight(dense: bool, score: float, lowest: float) -> None:
    """The token with the highest score does not change the shares of the others if its weight is 0, for any sign."""
    x, scores = torch.tensor([[[5.0], [7.0], [6.0]]]), lowest + torch.tensor([[[0.0, score, 0.5]]])
    with dense_route() if dense else torch.enable_grad():
        pooled, _ = attention_pool(
            x, torch.ones(1, 3).long(), scores=scores, token_weights=torch.tensor([[1.0, 0.0, 1.0]])
        )
    share = torch.tensor([0.0, 0.5]).softmax(dim=0)
    torch.testing.assert_close(pooled, (share * torch.tensor([5.0, 6.0])).sum().view(1, 1))


@either_route
@pytest.mark.parametrize(("largest", "p"), [(100.0, 20.0), (1e13, 3.0)])
def test_generalized_mean_of_a_largest_token_without_weight(dense: bool, largest: float, p: float) -> None:
    """The size of a token of weight 0 does not swallow the others."""
    x, mask = torch.tensor([[[1.0], [largest]]]), torch.ones(1, 2, dtype=torch.bool)
    with dense_route() if dense else torch.enable_grad():
        pooled = GeneralizedMeanPooling(p=p)(x, mask, token_weights=torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(pooled, torch.tensor([[1.0]]))


@spread(3, name=WEIGHTED, packing=[name for name in PACKINGS if "gaps" not in name])
def test_packed_weights_on_the_dense_route(name: str, packing: str) -> None:
    """Packed and nested tokens take packed weights on other devices too."""
    layer, rows, lengths, flat = make(name), tokens(7, DIM), [3, 0, 4], _weights(7)
    given = PACKINGS[packing](rows, lengths)
    expected = layer(**given, token_weights=flat)
    with dense_route():
        pooled = layer(**given, token_weights=flat)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)


def test_packed_selections_on_the_dense_route() -> None:
    """Selections of packed tokens, one after another, give the same vectors on other devices."""
    rows, cu_seqlens, vectors = tokens(7, DIM), torch.tensor([0, 3, 3, 7]), []
    for route in (nullcontext(), dense_route()):
        with route:
            batch = TokenBatch.from_packed(rows, cu_seqlens).select(torch.tensor([1, 0, 1, 0, 1, 1, 1]))
            batch = batch.select(torch.tensor([1, 1, 0, 1, 1]))
            vectors.append(PositionWeightedMeanPooling()(batch, token_weights=_weights(4)))
    assert vectors[0].any()
    torch.testing.assert_close(vectors[1], vectors[0])
