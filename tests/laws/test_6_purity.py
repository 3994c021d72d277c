"""Law 6: pooling writes to no input, keeps no state, and preserves dtype and device."""

import torch
from torch import Tensor

from maskpool import TokenBatch
from maskpool.batch.token_batch import SparseBatch
from tests.batches import MASK_DTYPES, all_layouts, dense_route
from tests.matrix import spread
from tests.poolings import DTYPES, SPECS, every_pooling, make


@spread(5, name=SPECS, mask_dtype=MASK_DTYPES, dense=[False, True])
def test_inputs_are_not_written(name: str, mask_dtype: torch.dtype, dense: bool) -> None:
    """Embeddings, mask and parameters are the same after forward and backward, and were never written to."""
    layer, (x, mask) = make(name), all_layouts()
    x, mask = x.requires_grad_(), mask.to(mask_dtype)
    held: list[Tensor] = [x, mask, *layer.parameters()]
    before = [(tensor.detach().clone(), tensor._version) for tensor in held]
    with dense_route() if dense else torch.enable_grad():
        torch.autograd.grad(layer(x, mask).sum(), x)
    for tensor, (copy, version) in zip(held, before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor._version == version


@spread(3, name=SPECS, dtype=DTYPES)
def test_result_is_not_a_view(name: str, dtype: torch.dtype) -> None:
    """The result shares no memory with the tokens: writing to it does not change them."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    before = x.clone()
    with torch.no_grad():
        layer(x, mask).fill_(9.0)
        layer(x[:1, :1], mask[:1, :1]).fill_(9.0)
    assert torch.equal(x, before)


@spread(3, name=SPECS, dtype=DTYPES)
def test_repeated_calls_agree(name: str, dtype: torch.dtype) -> None:
    """The same call gives the same bits, also after other calls, in training and evaluation mode."""
    layer, (x, mask) = make(name), all_layouts(dtype)
    first = layer(x, mask)
    layer(x[:, :2] * 3, mask[:, :2])
    assert torch.equal(layer(x, mask), first)
    assert torch.equal(layer.eval()(x, mask), first)


@every_pooling
def test_no_state_is_kept(name: str) -> None:
    """A call leaves no buffer, attribute or gradient behind in the layer."""
    layer, (x, mask) = make(name), all_layouts()
    before, state = set(vars(layer)), list(layer.state_dict())
    layer(x, mask)
    assert set(vars(layer)) == before
    assert list(layer.state_dict()) == state
    assert all(parameter.grad is None for parameter in layer.parameters())


@spread(11, name=SPECS, dtype=DTYPES, dense=[False, True], on_empty=["zero", "nan"])
def test_dtype_is_kept(name: str, dtype: torch.dtype, dense: bool, on_empty: str) -> None:
    """Result and gradient have the tokens' dtype, not that of the layer's weights."""
    layer, (x, mask) = make(name, on_empty=on_empty), all_layouts(dtype)
    x.requires_grad_()
    with dense_route() if dense else torch.enable_grad():
        pooled = layer(x, mask)
    assert pooled.dtype == dtype
    assert torch.autograd.grad(pooled[:6].sum(), x)[0].dtype == dtype


@spread(3, name=SPECS, dtype=DTYPES)
def test_device_is_kept(name: str, dtype: torch.dtype) -> None:
    """Tokens on another device give a result on that device (here the meta device, which has only shapes)."""
    layer = make(name).to("meta")
    x, mask = (tensor.to("meta") for tensor in all_layouts(dtype))
    pooled = layer(x, mask)
    assert pooled.device.type == "meta"
    assert pooled.dtype == dtype
    assert pooled.shape == make(name)(*all_layouts(dtype)).shape


@every_pooling
def test_prepared_batch_is_not_written(name: str) -> None:
    """A prepared batch holds the same rows, index and offsets after it was pooled."""
    batch = TokenBatch.from_padded(*all_layouts())
    assert isinstance(batch, SparseBatch)
    held = [batch.values, batch.index, batch.offsets]
    before = [(tensor.clone(), tensor._version) for tensor in held]
    make(name)(batch)
    for tensor, (copy, version) in zip(held, before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor._version == version


def test_values_are_a_view() -> None:
    """Preparing a batch copies no token embedding where strides allow a view."""
    x, mask = all_layouts()
    for tensor in (x, x[:, 1:], x.transpose(0, 1), x[:, :, :4], x[:1].expand(x.shape)):
        batch = TokenBatch.from_padded(tensor, torch.ones(tensor.shape[:2], dtype=mask.dtype))
        assert isinstance(batch, SparseBatch)
        assert batch.values.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
