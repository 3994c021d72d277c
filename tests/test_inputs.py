"""Accepted token embeddings and masks: outputs of models and tokenizers, NumPy arrays, floating masks."""

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BatchEncoding
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, MaskedLMOutput

from maskpool import TokenBatch, pool
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.functional import first_last_average_pool, mean_pool
from maskpool.nn import AttentionPooling, MeanPooling
from tests.batches import MASK_DTYPES, all_layouts, dense_route, tokens
from tests.poolings import DIM

either_route = pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])

# Each entry point of the public interface.
ENTRANCES: dict[str, Callable[[Any, Any], Any]] = {
    "function": mean_pool,
    "layer": MeanPooling(),
    "learned layer": AttentionPooling(DIM).requires_grad_(False),
    "pool": pool,
    "batch": lambda x, mask: MeanPooling()(TokenBatch.of(x, mask)),
    "layers": lambda x, mask: first_last_average_pool([x, x], mask),
}
every_entrance = pytest.mark.parametrize("entrance", ENTRANCES)


@every_entrance
@pytest.mark.parametrize("output", [BaseModelOutput, BaseModelOutputWithPooling, SimpleNamespace])
def test_outputs_of_models(entrance: str, output: type[Any]) -> None:
    """A model's output is read as its last_hidden_state."""
    x, mask = all_layouts()
    call = ENTRANCES[entrance]
    assert torch.equal(call(output(last_hidden_state=x), mask), call(x, mask))


def test_outputs_without_states_are_refused() -> None:
    """A model's output without last_hidden_state is refused as token_embeddings."""
    _, mask = all_layouts()
    for output in (BaseModelOutput(), SimpleNamespace(logits=torch.ones(2, 3))):
        with pytest.raises(InvalidTypeError) as refused:
            mean_pool(output, mask)
        assert refused.value.argument == "token_embeddings"


@every_entrance
@pytest.mark.parametrize("mapping", [dict, UserDict, BatchEncoding])
def test_outputs_of_tokenizers(entrance: str, mapping: type[Any]) -> None:
    """A tokenizer's output, or any mapping, is read as its attention_mask, which may be a list of NumPy rows."""
    x, mask = all_layouts()
    call = ENTRANCES[entrance]
    assert torch.equal(call(x, mapping({"input_ids": mask, "attention_mask": mask})), call(x, mask))
    assert torch.equal(call(x, mapping({"attention_mask": mask.numpy()})), call(x, mask))
    for wrong in ({"input_ids": mask}, {}):
        with pytest.raises(InvalidValueError, match="call the tokenizer with return_attention_mask=True") as refused:
            call(x, mapping(wrong))
        assert refused.value.argument == "attention_mask"


@every_entrance
def test_lists_are_refused(entrance: str) -> None:
    """Lists, as a tokenizer without return_tensors gives, are refused, and the error says how to convert them."""
    x, mask = all_layouts()
    call, of_mask = ENTRANCES[entrance], r"^attention_mask must be a torch\.Tensor, got list: .*return_tensors=\"pt\""
    for wrong in (BatchEncoding({"attention_mask": mask.tolist()}), mask.tolist()):
        with pytest.raises(InvalidTypeError, match=of_mask):
            call(x, wrong)
    with pytest.raises(InvalidTypeError, match=r"^token_embeddings must be .*, got list: .*torch\.tensor"):
        call(x.tolist(), mask)


@every_entrance
def test_tuples_of_a_model_are_refused(entrance: str) -> None:
    """A model's output as a tuple is refused, and the error names the element to pass."""
    x, mask = all_layouts()
    with pytest.raises(InvalidTypeError, match=r"^token_embeddings must be .*, got tuple: .*output\[0\]"):
        ENTRANCES[entrance]((x,), mask)


@every_entrance
@pytest.mark.parametrize("with_states", [False, True])
def test_outputs_of_models_with_a_head_are_refused(entrance: str, with_states: bool) -> None:
    """The output of a model with a head is refused, and the message says how to get token embeddings."""
    x, mask = all_layouts()
    output = MaskedLMOutput(logits=x, hidden_states=(x, x) if with_states else None)
    with pytest.raises(InvalidTypeError, match=r"got a mapping with logits.*hidden_states\[-1\]") as refused:
        ENTRANCES[entrance](output, mask)
    assert "SentenceTransformer" not in str(refused.value)


@every_entrance
def test_sparse_masks_are_refused(entrance: str) -> None:
    """A mask of a sparse layout is refused by name."""
    x, mask = all_layouts()
    with pytest.raises(InvalidTypeError, match=r"^attention_mask must be a strided tensor, got layout torch\.sparse"):
        ENTRANCES[entrance](x, mask.to_sparse())


def test_mappings_of_a_sentence_transformer_are_refused() -> None:
    """A features dict as token_embeddings is refused, and the error names the two ways to pool it."""
    x, mask = all_layouts()
    with pytest.raises(InvalidTypeError, match=r"got a mapping with token_embeddings, attention_mask.*Pooling") as no:
        mean_pool({"token_embeddings": x, "attention_mask": mask})  # type: ignore[arg-type]  # the point of the test
    assert no.value.argument == "token_embeddings"


@every_entrance
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_arrays(entrance: str, dtype: type[Any]) -> None:
    """NumPy tokens and masks give the same vectors as tensors, in the dtype of the tokens."""
    x, mask = all_layouts()
    array = x.numpy().astype(dtype)
    call = ENTRANCES[entrance]
    expected = call(torch.from_numpy(array), mask)
    for given in (mask.numpy(), mask.bool().numpy(), mask.float().numpy(), mask):
        pooled = call(array, given)
        assert pooled.dtype == expected.dtype
        assert torch.equal(pooled, expected)


def test_numpy_views() -> None:
    """Arrays that cannot be written to or have negative strides are read too."""
    x, mask = all_layouts()
    expected = mean_pool(x.flip(1), mask.flip(1))
    frozen = x.flip(1).numpy().copy()
    frozen.flags.writeable = False
    assert torch.equal(mean_pool(frozen, mask.flip(1)), expected)
    assert torch.equal(mean_pool(x.numpy()[:, ::-1], mask.numpy()[:, ::-1]), expected)


@pytest.mark.parametrize("dtype", [object, str, ">f4", np.longdouble])
def test_arrays_that_torch_cannot_convert(dtype: Any) -> None:
    """Arrays of other dtypes are refused by the argument's name."""
    x, mask = all_layouts()
    with pytest.raises(InvalidTypeError, match="must be an array that torch can convert") as refused:
        mean_pool(x.numpy().astype(dtype), mask)
    assert refused.value.argument == "token_embeddings"
    with pytest.raises(InvalidTypeError, match="must be an array that torch can convert") as refused:
        mean_pool(x, mask.numpy().astype(dtype))
    assert refused.value.argument == "attention_mask"


def test_numpy_rows_with_offsets() -> None:
    """NumPy tokens can be packed."""
    rows, offsets = tokens(5, DIM), torch.tensor([0, 2, 5])
    assert torch.equal(mean_pool(rows.numpy(), cu_seqlens=offsets), mean_pool(rows, cu_seqlens=offsets))


@every_entrance
@either_route
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_floating_masks_of_zeros_and_ones(entrance: str, dense: bool, dtype: torch.dtype) -> None:
    """A floating mask of exactly 0 and 1 gives the vectors of the integer mask, bit for bit."""
    x, mask = all_layouts()
    call = ENTRANCES[entrance]
    with dense_route() if dense else torch.enable_grad():
        expected = call(x, mask)
        for same in (mask.to(dtype), *map(mask.to, MASK_DTYPES)):
            assert torch.equal(call(x, same), expected)


@every_entrance
@either_route
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_additive_masks_are_refused(entrance: str, dense: bool, dtype: torch.dtype) -> None:
    """An additive mask would select the pads, so it is refused, and the error says how to convert it."""
    x, mask = all_layouts()
    call = ENTRANCES[entrance]
    with dense_route() if dense else torch.enable_grad():
        for lowest in (-torch.inf, torch.finfo(dtype).min, -1.0):
            additive = torch.zeros(mask.shape, dtype=dtype).masked_fill(mask == 0, lowest)
            with pytest.raises(InvalidTypeError, match="an additive mask: convert it with `mask == 0`") as refused:
                call(x, additive)
            assert refused.value.argument == "attention_mask"
            assert torch.equal(call(x, additive == 0), call(x, mask))


@every_entrance
@either_route
@pytest.mark.parametrize("value", [0.5, 1.5, 2.0, torch.nan, torch.inf])
def test_fractional_masks_are_refused(entrance: str, dense: bool, value: float) -> None:
    """A floating mask with other numbers than 0 and 1 is refused with a hint to token_weights."""
    x, mask = all_layouts()
    with (
        dense_route() if dense else torch.enable_grad(),
        pytest.raises(InvalidTypeError, match=r"values other than 0 and 1: .*pass them as token_weights") as refused,
    ):
        ENTRANCES[entrance](x, torch.where(mask.bool(), value, 0.0))
    assert refused.value.argument == "attention_mask"


def test_extended_masks_are_refused() -> None:
    """The 4-D additive mask that transformers make for attention is refused by its shape."""
    x, mask = all_layouts()
    extended: Tensor = (1.0 - mask.float())[:, None, None, :] * torch.finfo(torch.float32).min
    with pytest.raises(InvalidValueError, match="extended for attention: pass the tokenizer's attention_mask"):
        mean_pool(x, extended)


@pytest.mark.parametrize("lowest", [1.0, -torch.inf], ids=["zeros and ones", "additive"])
def test_floating_masks_are_refused_under_tracing(lowest: float) -> None:
    """In a trace the values of a floating mask cannot be read, so it is refused by its dtype."""
    x, mask = all_layouts()
    floating = torch.where(mask.bool(), 1.0 if lowest == 1.0 else 0.0, 0.0 if lowest == 1.0 else lowest)
    with pytest.raises(InvalidTypeError, match=r"must be bool or integer under tracing, got torch\.float32"):
        torch.jit.trace(MeanPooling(), (x, floating))  # type: ignore[no-untyped-call]  # torch leaves it untyped


def test_masks_of_selections() -> None:
    """`TokenBatch.select` accepts a floating mask of 0 and 1 and refuses other ones by its own argument."""
    x, mask = all_layouts()
    batch, keep = TokenBatch.of(x, mask), (tokens(*mask.shape) > 0).int()
    assert torch.equal(batch.select(keep.float()).lengths, batch.select(keep).lengths)
    for wrong in (-keep.float(), 0.5 * keep):
        with pytest.raises(InvalidTypeError) as refused:
            batch.select(wrong)
        assert refused.value.argument == "keep"


def test_numpy_offsets_and_weights() -> None:
    """Offsets and token weights may be NumPy arrays, too."""
    x, offsets, weights = tokens(5, DIM), torch.tensor([0, 2, 5]), torch.rand(5)
    expected = mean_pool(x, cu_seqlens=offsets, token_weights=weights)
    given: dict[str, Any] = {"cu_seqlens": offsets.numpy(), "token_weights": weights.numpy()}
    assert torch.equal(mean_pool(x.numpy(), **given), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_floating_mask_of_zeros_is_refused(dtype: torch.dtype) -> None:
    """Zeros only are the additive mask of a batch without pads, so they cannot mean that no token is real."""
    x, mask = all_layouts()
    with pytest.raises(InvalidTypeError, match="may be an additive mask without pads") as refused:
        mean_pool(x, torch.zeros(mask.shape, dtype=dtype))
    assert refused.value.argument == "attention_mask"
    assert mean_pool(x[:, :0], torch.zeros(len(x), 0, dtype=dtype)).shape == (len(x), DIM)
