"""Law 8 under `torch.func`: transformed equals eager."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from maskpool import TokenBatch
from maskpool.errors import InvalidValueError
from maskpool.nn import PoolingLayer
from tests.batches import all_layouts, lengths_to_offsets, poison, tokens
from tests.poolings import DIM, LEARNED, WEIGHTED, every_pooling, make

every_learned_pooling = pytest.mark.parametrize("name", LEARNED)


def _batches() -> tuple[Tensor, Tensor]:
    """Return three batches of one shape with different masks."""
    x, mask = all_layouts()
    return torch.stack([x, 2 * x, x.flip(1)]), torch.stack([mask, mask.flip(0), mask.flip(1)])


def _loss(layer: PoolingLayer, x: Tensor, mask: Tensor) -> Tensor:
    pooled = layer(x, mask)
    loss: Tensor = (pooled * torch.linspace(1, 2, pooled.shape[-1])).square().sum()
    return loss


@every_pooling
def test_grad(name: str) -> None:
    """torch.func.grad gives autograd's gradient, exactly 0 at pads, also if they hold NaN."""
    layer, (x, mask) = make(name).requires_grad_(False), all_layouts()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(_loss(layer, leaf, mask), leaf)
    actual = grad(lambda rows: _loss(layer, rows, mask))(poison(x, mask, torch.nan))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert not actual[~mask.bool()].any()


@every_pooling
def test_vmap_over_batches(name: str) -> None:
    """torch.vmap over batches gives the vectors of each, and vmap of grad the gradients of each."""
    layer, (x, masks) = make(name).requires_grad_(False), _batches()
    expected = torch.stack([layer(*pair) for pair in zip(x, masks, strict=True)])
    torch.testing.assert_close(vmap(layer)(x, masks), expected, rtol=1e-5, atol=1e-6)
    gradients = vmap(grad(lambda rows, mask: _loss(layer, rows, mask)))(x, masks)
    for rows, mask, gradient in zip(x, masks, gradients, strict=True):
        torch.testing.assert_close(gradient, grad(lambda a, m=mask: _loss(layer, a, m))(rows), rtol=1e-5, atol=1e-6)


@every_learned_pooling
def test_vmap_over_parameters(name: str) -> None:
    """torch.vmap over queries and other parameters gives the vectors of each set, and grad their gradients."""
    layer, (x, mask) = make(name), all_layouts()
    own = {key: value.detach() for key, value in layer.named_parameters()}
    sets = {key: torch.stack([value, 0.5 * value, -value]) for key, value in own.items()}

    def pool(parameters: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(layer, parameters, (x, mask))
        return result

    each = [pool({key: values[index] for key, values in sets.items()}) for index in range(3)]
    torch.testing.assert_close(vmap(pool)(sets), torch.stack(each), rtol=1e-5, atol=1e-6)
    gradients = grad(lambda parameters: pool(parameters).square().sum())(own)
    expected = torch.autograd.grad(layer(x, mask).square().sum(), list(layer.parameters()))
    for actual, other in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(actual, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WEIGHTED)
def test_transforms_of_token_weights(name: str) -> None:
    """Token weights can be mapped over, and differentiated by."""
    layer, (x, mask) = make(name).requires_grad_(False), all_layouts()
    weights = tokens(2, *mask.shape, seed=5).abs() + 0.1
    expected = torch.stack([layer(x, mask, token_weights=sample) for sample in weights])
    mapped = vmap(lambda sample: layer(x, mask, token_weights=sample))(weights)
    torch.testing.assert_close(mapped, expected, rtol=1e-5, atol=1e-6)
    leaf = weights[0].clone().requires_grad_()
    (by_weight,) = torch.autograd.grad(layer(x, mask, token_weights=leaf).square().sum(), leaf)
    actual = grad(lambda sample: layer(x, mask, token_weights=sample).square().sum())(weights[0])
    torch.testing.assert_close(actual, by_weight, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for masked_scatter
@every_pooling
def test_transforms_of_packed_tokens(name: str) -> None:
    """Packed tokens can be mapped over and differentiated by if all batches have the same lengths."""
    layer, x, offsets = make(name).requires_grad_(False), tokens(2, 9, DIM), lengths_to_offsets([3, 0, 6])

    def pool(rows: Tensor) -> Tensor:
        result: Tensor = layer(rows, cu_seqlens=offsets)
        return result

    torch.testing.assert_close(vmap(pool)(x), torch.stack([pool(rows) for rows in x]), rtol=1e-5, atol=1e-6)
    leaf = x[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(pool(leaf).sum(), leaf)
    torch.testing.assert_close(grad(lambda rows: pool(rows).sum())(x[0]), expected, rtol=1e-5, atol=1e-6)


def test_other_lengths_in_each_batch_are_refused() -> None:
    """torch.vmap over cu_seqlens is refused, because lengths are read; the error names the alternative."""
    offsets = torch.stack([lengths_to_offsets([3, 6]), lengths_to_offsets([4, 5])])
    with pytest.raises(InvalidValueError, match=r"^cu_seqlens must be the same .* pass padded token_embeddings"):
        vmap(lambda rows, own: make("mean")(rows, cu_seqlens=own))(tokens(2, 9, DIM), offsets)


@every_pooling
def test_forward_mode(name: str) -> None:
    """Forward-mode derivatives, of torch.func.jvp and of dual tensors, are those of reverse mode."""
    layer, (x, mask) = make(name).requires_grad_(False), all_layouts()
    tangent = tokens(*x.shape, seed=3)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(layer, leaf, mask), leaf)
    expected = (gradient * tangent).sum()
    by_jvp = jvp(lambda rows: _loss(layer, rows, mask), (x,), (tangent,))[1]
    with forward_ad.dual_level():
        rows = forward_ad.make_dual(x, tangent)  # type: ignore[no-untyped-call]  # untyped
        dual = forward_ad.unpack_dual(_loss(layer, rows, mask)).tangent  # type: ignore[no-untyped-call]  # untyped
    for actual in (by_jvp, dual):
        assert actual is not None
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@every_pooling
def test_batches_prepared_outside_are_refused(name: str) -> None:
    """A batch that was prepared outside a transform is refused inside it; the error names the fix."""
    layer, batch = make(name), TokenBatch.of(*all_layouts())
    text = r"^token_embeddings must be .* under torch\.func .* inside of the transform"

    def pool(scale: Tensor) -> Tensor:
        result: Tensor = (layer(batch) * scale).sum()
        return result

    for transformed, argument in ((grad(pool), torch.tensor(1.0)), (vmap(pool), torch.ones(2))):
        with pytest.raises(InvalidValueError, match=text):
            transformed(argument)
    with forward_ad.dual_level(), pytest.raises(InvalidValueError, match=text):
        pool(torch.tensor(1.0))
