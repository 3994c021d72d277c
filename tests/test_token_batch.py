"""What a batch of tokens can do besides being pooled."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from torch import Tensor

from maskpool import TokenBatch, build_pooling, mean_pool
from maskpool.masks import exclude_prompt, span_mask
from tests.batches import all_layouts, as_gapped, as_jagged, dense_route, lengths_to_offsets, masks, tokens
from tests.poolings import DIM, HOST_MODES, every_pooling, make


@pytest.mark.parametrize("mode", HOST_MODES)
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_selection_excludes_a_prompt_as_the_host_does(mode: str, dense: bool, side: str) -> None:
    """Without a prompt the vectors are the host's, whose position weights still count from the prompt on."""
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    mask = mask if side == "right" else mask.flip(1)
    x = tokens(*mask.shape, DIM)
    features = {"token_embeddings": x, "attention_mask": mask, "prompt_length": 2}
    expected = HostPooling(DIM, mode, include_prompt=False)(features)["sentence_embedding"]
    with dense_route() if dense else torch.enable_grad():
        pooled = build_pooling(mode)(TokenBatch.from_padded(x, mask).select(exclude_prompt(mask, 2)))
    torch.testing.assert_close(pooled, expected)


@every_pooling
@given(mask=masks(), seed=st.integers(0, 99))
def test_selection_of_packed_tokens(name: str, mask: Tensor, seed: int) -> None:
    """Tokens left out of a packed batch are left out as they are of the padded one; selecting twice selects both."""
    layer, x = make(name), tokens(*mask.shape, DIM)
    keep, also = (tokens(*mask.shape, seed=seed + i) > -0.5 for i in range(2))
    padded = TokenBatch.from_padded(x, mask)
    packed = padded.to_packed().select(keep[mask.bool()])
    torch.testing.assert_close(layer(packed), layer(padded.select(keep)), rtol=0, atol=0)
    with dense_route():
        dense = TokenBatch.from_padded(x, mask).select(keep).select(also)
    torch.testing.assert_close(layer(dense), layer(padded.select(keep).select(also)))
    torch.testing.assert_close(layer(padded.select(keep & also)), layer(padded.select(keep).select(also)))


@every_pooling
@given(data=st.data(), tokens_of_document=st.integers(1, 40))
def test_spans(name: str, data: st.DataObject, tokens_of_document: int) -> None:
    """Spans of a document, overlapping and empty ones among them, are pooled as their slices are: padded and packed."""
    layer, document = make(name), tokens(tokens_of_document, DIM)
    bound = st.integers(0, tokens_of_document)
    spans = [sorted(data.draw(st.tuples(bound, bound))) for _ in range(data.draw(st.integers(1, 4)))]
    starts, ends = torch.tensor(spans).unbind(1)
    expected = torch.cat([layer(document[a:b], cu_seqlens=torch.tensor([0, b - a])) for a, b in spans])
    mask = span_mask(starts, ends, tokens_of_document)
    torch.testing.assert_close(layer(TokenBatch.from_spans(document, starts, ends)), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer(document.expand(len(spans), -1, -1), mask), expected, rtol=1e-6, atol=1e-6)
    with dense_route():
        torch.testing.assert_close(layer(TokenBatch.from_spans(document, starts, ends)), expected)


def test_overlapping_spans_share_gradients() -> None:
    """A token of two spans gets the gradients of both."""
    document = tokens(3, 1).requires_grad_()
    batch = TokenBatch.from_spans(document, torch.tensor([0, 1]), torch.tensor([2, 3]))
    (gradient,) = torch.autograd.grad(mean_pool(batch).sum(), document)
    torch.testing.assert_close(gradient, torch.tensor([[0.5], [1.0], [0.5]]))


def test_packed_tokens_are_not_copied() -> None:
    """Preparing packed tokens, spans and nested tokens copies nothing."""
    rows, offsets = tokens(9, DIM), lengths_to_offsets([4, 5])
    nested = as_jagged(rows, [4, 5])["token_embeddings"]
    for batch in (
        TokenBatch.from_packed(rows, offsets),
        TokenBatch.from_packed(rows.unsqueeze(0), offsets),
        TokenBatch.from_packed(rows, offsets).to_packed(),
        TokenBatch.from_spans(rows, torch.tensor([0, 2]), torch.tensor([4, 9])),
        TokenBatch.from_nested(nested),
    ):
        assert batch.values.data_ptr() == rows.data_ptr()


def test_padding_and_packing() -> None:
    """Packed tokens stand in the padded form from the left, zeros behind them, and come back as they were."""
    rows, offsets = tokens(3, DIM), torch.tensor([0, 2, 2, 3])
    padded = TokenBatch.from_packed(rows, offsets).to_padded()
    assert padded.mask is not None
    assert padded.mask.tolist() == [[True, True], [False, False], [True, False]]
    assert torch.equal(padded.padded[padded.mask], rows)
    assert not padded.padded[~padded.mask].any()
    packed = padded.to_packed()
    assert torch.equal(packed.values, rows)
    assert packed.cu_seqlens.tolist() == offsets.tolist()
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.mask is None


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_padding_and_packing_nothing(lengths: list[int]) -> None:
    """A batch of no sentence, or of empty ones, pads to width 0 and packs to no rows."""
    batch = TokenBatch.from_packed(tokens(0, DIM), lengths_to_offsets(lengths)).to_padded()
    assert batch.padded.shape == (len(lengths), 0, DIM)
    assert batch.to_packed().cu_seqlens.tolist() == [0] * (len(lengths) + 1)


def test_holes_stay_holes() -> None:
    """Packing keeps positions, so padding again opens the holes that were there."""
    x, mask = tokens(1, 5, DIM), torch.tensor([[0, 1, 0, 1, 1]])
    packed = TokenBatch.from_padded(x, mask).to_packed()
    assert packed.positions.tolist() == [0, 2, 3]
    padded = packed.to_padded()
    assert padded.mask is not None
    assert padded.mask.int().tolist() == [[1, 0, 1, 1]]


def test_padded_batches_stay_what_they_are() -> None:
    """Padding a padded batch, or packing a packed one, returns it."""
    padded, packed = TokenBatch.from_padded(*all_layouts()), TokenBatch.from_packed(tokens(2, 3), torch.tensor([0, 2]))
    assert padded.to_padded() is padded
    assert packed.to_packed() is packed


def test_packing_is_refused_on_other_devices() -> None:
    """Packing must count tokens, which would make another device wait: it is refused there."""
    with dense_route():
        batch = TokenBatch.from_padded(*all_layouts())
    with pytest.raises(ValueError, match="to_packed must count the mask's real tokens, which only eager mode on CPU"):
        batch.to_packed()


def test_what_a_batch_says_of_itself() -> None:
    """Shape, width, dtype, device and lengths are told on both routes and in every layout."""
    x, mask = all_layouts(torch.bfloat16)
    with dense_route():
        dense = TokenBatch.from_padded(x, mask)
    for batch in (dense, TokenBatch.from_padded(x, mask)):
        assert (batch.shape, batch.dim, batch.dtype) == (tuple(mask.shape), DIM, torch.bfloat16)
        assert batch.lengths.tolist() == mask.sum(dim=1).tolist()
        assert batch.device == x.device
        assert batch.accumulation_dtype == torch.float32
    gapped = TokenBatch.from_nested(as_gapped(tokens(5, DIM), [2, 3])["token_embeddings"])
    assert (gapped.shape, gapped.lengths.tolist()) == ((5,), [2, 3])


def test_other_numbers_in_the_same_sentences() -> None:
    """with_rows keeps sentences, mask and positions, and takes any width."""
    x, mask = all_layouts()
    for dense in (False, True):
        with dense_route() if dense else torch.enable_grad():
            batch = TokenBatch.from_padded(x, mask)
        rows = x[:, :, :2] if dense else x[mask.bool()][:, :2]
        other = batch.with_rows(rows)
        layer = build_pooling("weightedmean")
        torch.testing.assert_close(layer(other), layer(x[:, :, :2], mask))
