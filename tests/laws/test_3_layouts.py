"""Law 3: the same tokens in another layout give the same vector, and the other laws hold in every layout."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import maskpool
from maskpool import TokenBatch
from maskpool.batch.token_batch import SparseBatch
from maskpool.nn import PoolingLayer
from maskpool.types import OnEmpty
from tests.batches import (
    PACKINGS,
    STRIDES,
    all_layouts,
    as_jagged,
    as_padded,
    dense_route,
    few_examples,
    lengths_to_offsets,
    masks,
    tokens,
)
from tests.matrix import FULL, spread
from tests.poolings import (
    COUNT_POSITIONS,
    DIM,
    DTYPES,
    FUNCTIONS,
    SPECS,
    WIDTHS,
    any_dtype,
    assert_same,
    every_pooling,
    make,
)

some_lengths = st.lists(st.integers(0, 40), min_size=1, max_size=5)
every_packing = pytest.mark.parametrize("packing", PACKINGS)
strides_of_rows = [name for name in STRIDES if "sentence" not in name and "one" not in name]


@every_pooling
@few_examples
@given(dtype=any_dtype, lengths=some_lengths, seed=st.integers(0, 99))
def test_layouts_agree(name: str, dtype: torch.dtype, lengths: list[int], seed: int) -> None:
    """Packed and nested sentences have the vectors of the padded ones, bit for bit where nothing is learned."""
    layer, rows = make(name), tokens(sum(lengths), DIM, dtype=dtype, seed=seed)
    padded = layer(**as_padded(rows, lengths))
    for packing in PACKINGS:
        assert_same(name, layer(**PACKINGS[packing](rows, lengths)), padded)


@every_pooling
@few_examples
@given(lengths=some_lengths)
def test_gradients_agree(name: str, lengths: list[int]) -> None:
    """The same tokens get the same gradients through every layout."""
    layer, rows = make(name).double(), tokens(sum(lengths), DIM, dtype=torch.float64)
    gradients = []
    for write in (as_padded, *PACKINGS.values()):
        leaf = rows.clone().requires_grad_()
        inputs = [leaf, *layer.parameters()]
        gradients.append(torch.autograd.grad(layer(**write(leaf, lengths)).square().sum(), inputs))
    for others in gradients[1:]:
        for actual, expected in zip(others, gradients[0], strict=True):
            torch.testing.assert_close(actual, expected)


@every_pooling
@pytest.mark.parametrize(
    ("packing", "check"), [("packed", gradcheck), ("packed", gradgradcheck), ("nested", gradcheck)]
)
def test_derivatives(name: str, packing: str, check: Callable[..., bool]) -> None:
    """Derivatives through packed and nested tokens agree with finite differences, empty sentences included.

    Second derivatives of nested tokens are left out because torch's nested tensors have none.
    """
    layer, lengths = make(name, 2).double().requires_grad_(False), [2, 0, 3]
    rows = ((torch.randperm(10).double() + 0.3) / 10 - 0.5).reshape(5, 2).requires_grad_()
    assert check(lambda leaf: layer(**PACKINGS[packing](leaf, lengths)), (rows,), fast_mode=not FULL)


# Batches of the five rows of `test_derivatives` are read through an index of their rows.
INDEXED: dict[str, Callable[[Tensor], TokenBatch]] = {
    "selected": lambda rows: TokenBatch.from_packed(rows, torch.tensor([0, 3, 3, 5])).select(
        torch.tensor([0, 1, 1, 1, 0])
    ),
    "spans": lambda rows: TokenBatch.from_spans(rows, torch.tensor([2, 0, 4]), torch.tensor([5, 3, 4])),
    "gaps": lambda rows: SparseBatch(rows, torch.tensor([1, 2, 4]), torch.tensor([0, 2, 2, 3])),
}


@spread(5, name=SPECS, rows_of=INDEXED, check=[gradcheck, gradgradcheck])
def test_derivatives_through_an_index(name: str, rows_of: str, check: Callable[..., bool]) -> None:
    """First and second derivatives are right where rows are left out or belong to two sentences."""
    layer = make(name, 2).double().requires_grad_(False)
    rows = ((torch.randperm(10).double() + 0.3) / 10 - 0.5).reshape(5, 2).requires_grad_()
    assert check(lambda leaf: layer(INDEXED[rows_of](leaf)), (rows,), fast_mode=not FULL)


@spread(7, name=SPECS, packing=PACKINGS, dtype=DTYPES)
def test_companions_of_packed_sentences(name: str, packing: str, dtype: torch.dtype) -> None:
    """A sentence has the same vector alone and next to empty, short and very long ones, in any order."""
    layer, lengths = make(name), [0, 33, 1100, 5, 0]
    rows = tokens(sum(lengths), DIM, dtype=dtype)
    pooled = layer(**PACKINGS[packing](rows, lengths))
    parts = list(torch.split(rows, lengths))
    for place, part in enumerate(parts):
        assert_same(name, layer(**PACKINGS[packing](part, [len(part)]))[0], pooled[place])
    turned = layer(**PACKINGS[packing](torch.cat(parts[::-1]), lengths[::-1]))
    assert_same(name, turned, pooled.flip(0))


@spread(7, name=SPECS, packing=PACKINGS, on_empty=["zero", "nan", "raise"])
def test_empty_packed_sentences(name: str, packing: str, on_empty: OnEmpty) -> None:
    """Empty sentences of any layout follow on_empty and backpropagate, between others and by themselves."""
    layer = make(name, on_empty=on_empty)
    for lengths in ([0, 2, 0], [0, 0]):
        rows = tokens(sum(lengths), DIM).requires_grad_()
        if on_empty == "raise":
            empty = lengths.count(0)
            with pytest.raises(ValueError, match=rf"^cu_seqlens must leave .* {empty} of {len(lengths)} have none"):
                layer(**PACKINGS[packing](rows, lengths))
            continue
        pooled = layer(**PACKINGS[packing](rows, lengths))
        assert pooled.shape == (len(lengths), WIDTHS[name] * DIM)
        expected = torch.full_like(pooled[0], 0.0 if on_empty == "zero" else torch.nan)
        torch.testing.assert_close(pooled[0], expected, equal_nan=True)
        (gradient,) = torch.autograd.grad(pooled.nan_to_num().sum(), rows)
        assert gradient.isfinite().all()


@spread(13, name=SPECS, dtype=DTYPES, stride=strides_of_rows)
def test_memory_layout_of_packed_rows(name: str, dtype: torch.dtype, stride: str) -> None:
    """The memory layout of packed rows changes no bit."""
    layer, rows, offsets = make(name), tokens(1, 9, DIM, dtype=dtype), lengths_to_offsets([4, 0, 5])
    strided = STRIDES[stride](rows)[0]
    assert_same(name, layer(strided, cu_seqlens=offsets), layer(rows[0].clone(), cu_seqlens=offsets))


@spread(7, name=SPECS, stride=strides_of_rows, offsets_dtype=[torch.int32, torch.int64])
def test_memory_layout_of_nested_rows(name: str, stride: str, offsets_dtype: torch.dtype) -> None:
    """The memory layout of a nested tensor's rows and the dtype of its offsets change no bit."""
    layer, rows, offsets = make(name), tokens(1, 9, DIM), lengths_to_offsets([4, 0, 5], offsets_dtype)
    nested = torch.nested.nested_tensor_from_jagged(STRIDES[stride](rows)[0], offsets)
    assert_same(name, layer(nested), layer(rows[0].clone(), cu_seqlens=offsets))


@every_pooling
def test_expanded_rows(name: str) -> None:
    """A token that is expanded without a copy is pooled like its copies."""
    layer, offsets = make(name), lengths_to_offsets([4, 5])
    rows = tokens(1, DIM).expand(9, DIM)
    assert_same(name, layer(rows, cu_seqlens=offsets), layer(rows.clone(), cu_seqlens=offsets))


@every_pooling
def test_gaps_are_not_read(name: str) -> None:
    """NaN between the rows of a narrowed nested tensor changes nothing and gets no gradient."""
    layer, x = make(name), torch.full((2, 4, DIM), torch.nan)
    x[0, 1:3], x[1, :3] = tokens(2, DIM), tokens(3, DIM, seed=1)
    leaf = x.clone().requires_grad_()
    nested = torch.nested.narrow(leaf, 1, torch.tensor([1, 0]), torch.tensor([2, 3]), layout=torch.jagged)
    pooled = layer(nested)
    assert pooled.isfinite().all()
    (gradient,) = torch.autograd.grad(pooled.sum(), leaf)
    assert not gradient[x.isnan()].any()


@spread(3, name=SPECS, packing=PACKINGS)
def test_dense_route_of_packed_tokens(name: str, packing: str) -> None:
    """On other devices packed and nested sentences have the vectors and gradients that they have on the CPU."""
    layer, lengths = make(name), [3, 0, 5]
    results = []
    for dense in (False, True):
        rows = tokens(8, DIM).requires_grad_()
        given = PACKINGS[packing](rows, lengths)
        with dense_route() if dense else torch.enable_grad():
            pooled = layer(**given)
        results.append((pooled, *torch.autograd.grad(pooled.square().sum(), rows)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@spread(3, name=SPECS, packing=PACKINGS)
def test_empty_packed_sentences_on_other_devices(name: str, packing: str) -> None:
    """On other devices empty sentences of any layout are zeros or NaN, and "raise" is refused at once."""
    for on_empty, value in (("zero", 0.0), ("nan", torch.nan)):
        for lengths in ([0, 2, 0], [0, 0]):
            given = PACKINGS[packing](tokens(sum(lengths), DIM), lengths)
            with dense_route():
                pooled = make(name, on_empty=on_empty)(**given)
            torch.testing.assert_close(pooled[0], torch.full_like(pooled[0], value), equal_nan=True, rtol=0, atol=0)
    given = PACKINGS[packing](tokens(2, DIM), [2])
    with dense_route(), pytest.raises(ValueError, match=r"on_empty must be 'zero' or 'nan' .* got 'raise'"):
        make(name, on_empty="raise")(**given)


@spread(7, name=SPECS, packing=PACKINGS, value=[torch.nan, torch.inf, -torch.inf, 1e30])
def test_neighbours_do_not_leak(name: str, packing: str, value: float) -> None:
    """The tokens of the sentences before and after change neither a packed sentence's vector nor its gradients."""
    layer, results = make(name), []
    for others in (0.5, value):
        rows = tokens(6, DIM)
        rows[:2], rows[5:] = others, others
        rows.requires_grad_()
        pooled = layer(**PACKINGS[packing](rows, [2, 3, 0, 1]))
        (gradient,) = torch.autograd.grad(pooled[1].square().sum(), rows)
        results.append((pooled[1], pooled[2], gradient[2:5]))
    for actual, expected in zip(*results, strict=True):
        assert_same(name, actual, expected)


@spread(3, name=FUNCTIONS, packing=PACKINGS)
def test_functions_take_every_layout(name: str, packing: str) -> None:
    """A function takes the layouts that its layer takes."""
    given = PACKINGS[packing](tokens(5, DIM), [2, 3])
    assert torch.equal(FUNCTIONS[name](**given), make(name)(**given))


@every_packing
def test_functions_with_options_take_every_layout(packing: str) -> None:
    """The functions whose options a layer learns, and those of several layers' embeddings, take every layout."""
    given: dict[str, Any] = {**PACKINGS[packing](tokens(5, DIM), [2, 3])}
    layer = maskpool.nn.GeneralizedMeanPooling(p=2.5)
    torch.testing.assert_close(maskpool.functional.generalized_mean_pool(**given, p=layer.p), layer(**given))
    hidden, rest = [given["token_embeddings"]] * 3, {k: v for k, v in given.items() if k != "token_embeddings"}
    torch.testing.assert_close(
        maskpool.functional.first_last_average_pool(hidden, **rest), maskpool.functional.mean_pool(**given)
    )
    mixed = maskpool.functional.mix_layers(hidden, **rest, layer_weights=torch.tensor([0.25, 0.25, 0.5]))
    expected = maskpool.functional.position_weighted_mean_pool(**given)
    torch.testing.assert_close(maskpool.functional.position_weighted_mean_pool(mixed), expected)


def test_attention_takes_every_layout() -> None:
    """Scores and weights of a packed batch have one row per token and equal those of the padded batch."""
    layer, rows, lengths = make("attention-heads"), tokens(5, DIM), [2, 3]
    given = PACKINGS["packed"](rows, lengths)
    scores = maskpool.functional.attention_scores(**given, query=layer.query)  # type: ignore[arg-type]  # a parameter
    pooled, weights = maskpool.functional.attention_pool(**given, scores=scores)  # type: ignore[arg-type]  # tensors only
    torch.testing.assert_close(pooled, layer(**given))
    assert weights.shape == (5, 2)
    padded = as_padded(rows, lengths)
    by_position = layer(**padded, return_weights=True)[1].transpose(1, 2)
    torch.testing.assert_close(weights, by_position[padded["attention_mask"]])


@every_pooling
@few_examples
@given(dtype=any_dtype, mask=masks())
def test_packing_keeps_positions(name: str, dtype: torch.dtype, mask: Tensor) -> None:
    """A padded batch, packed and padded again, has the same vectors, holes included."""
    layer, x = make(name), tokens(*mask.shape, DIM, dtype=dtype)
    batch = TokenBatch.from_padded(x, mask)
    padded = TokenBatch.from_padded(*batch.to_packed().to_padded())
    for other in (batch.to_packed(), padded, padded.to_packed()):
        assert_same(name, layer(other), layer(batch))


@spread(3, name=[name for name in SPECS if name not in COUNT_POSITIONS], dtype=DTYPES)
def test_rows_in_any_order(name: str, dtype: torch.dtype) -> None:
    """The index selects the rows; their order in memory does not matter."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    packed = TokenBatch.from_padded(x, mask).to_packed()
    order = torch.randperm(len(packed.values))
    shuffled = SparseBatch(packed.values[order], order.argsort(), packed.offsets)
    torch.testing.assert_close(layer(shuffled), layer(x, mask))


@spread(3, name=SPECS, dtype=DTYPES)
def test_prepared_batch(name: str, dtype: torch.dtype) -> None:
    """A batch that is prepared once gives every pooling the same result as the raw arguments."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    batch = TokenBatch.from_padded(x, mask)
    for _ in range(2):
        assert torch.equal(layer(batch), layer(x, mask))


class _Packed(torch.nn.Module):
    def __init__(self, layer: PoolingLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, rows: Tensor, offsets: Tensor) -> Any:
        return self.layer(rows, cu_seqlens=offsets)


UNTRACED = "cannot be traced.*pass padded token_embeddings with an attention_mask"


@pytest.mark.parametrize("name", SPECS if FULL else ["mean"])
@pytest.mark.parametrize("packing", ["packed", "packed, batch of one", "nested", "nested, gaps"])
def test_packed_tokens_are_not_compiled(name: str, packing: str) -> None:
    """Compiling over cu_seqlens or nested tokens is refused, and the error suggests the padded form."""
    torch.compiler.reset()
    given = PACKINGS[packing](tokens(5, DIM), [2, 3])
    with pytest.raises(Exception, match=UNTRACED):
        torch.compile(make(name), fullgraph=True, backend="aot_eager")(**given)
    torch.compiler.reset()


def test_spans_are_not_compiled() -> None:
    """Compiling over spans is refused."""
    torch.compiler.reset()
    with pytest.raises(Exception, match=rf"starts and ends\W+{UNTRACED}"):
        torch.compile(TokenBatch.from_spans, fullgraph=True, backend="aot_eager")(
            tokens(5, DIM), torch.tensor([0]), torch.tensor([3])
        )
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_packed_tokens_are_not_exported() -> None:
    """torch.export and torch.jit.trace refuse cu_seqlens; torch itself cannot export nested tensors."""
    rows, offsets = tokens(5, DIM), lengths_to_offsets([2, 3])
    with pytest.raises(Exception, match=UNTRACED):
        torch.export.export(_Packed(make("mean")), (rows, offsets))
    with pytest.raises(AttributeError, match="NestedIntNode"):
        torch.export.export(torch.nn.Identity(), (as_jagged(rows, [2, 3])["token_embeddings"],))
    with pytest.raises(ValueError, match=UNTRACED):
        torch.jit.trace(_Packed(make("mean")), (rows, offsets))  # type: ignore[no-untyped-call]  # torch.jit is untyped
