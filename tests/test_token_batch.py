"""Batches of sentences: selecting, packing, padding, spans, and the attributes of both forms."""

import inspect
from functools import cached_property
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from torch import Tensor

from maskpool import TokenBatch, build_pooling
from maskpool.batch.token_batch import PaddedBatch, SparseBatch
from maskpool.functional import attention_pool, attention_scores, mean_pool, mix_layers
from maskpool.masks import exclude_prompt, span_mask
from maskpool.nn import LastTokenPooling, LearnedPooling, MedianPooling
from tests.batches import (
    PACKINGS,
    all_layouts,
    as_gapped,
    as_jagged,
    dense_route,
    lengths_to_offsets,
    masks,
    poison,
    tokens,
)
from tests.hosts import compares_with_the_host
from tests.matrix import cut, pairwise, spread
from tests.poolings import COUNT_POSITIONS, DIM, HOST_MODES, LEARNED, ONE_PER_FAMILY, SPECS, WEIGHTED, every_dtype, make

# One pooling per kernel by default, and those that count positions.
FEW = {*ONE_PER_FAMILY, *COUNT_POSITIONS, LastTokenPooling.mode, MedianPooling.mode}
some_poolings = pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.full) for name in SPECS]
)


# Older hosts take the first token of the prompt for cls, and count weightedmean from pads on the left.
_NEED_NEWER_HOSTS = {("right", "cls"), ("left", "cls"), ("left", "weightedmean")}


@pytest.mark.parametrize(
    ("side", "mode"),
    [
        pytest.param(side, mode, marks=compares_with_the_host if (side, mode) in _NEED_NEWER_HOSTS else ())
        for side in ("right", "left")
        for mode in HOST_MODES
    ],
)
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_selection_excludes_a_prompt_as_the_host_does(mode: str, dense: bool, side: str) -> None:
    """Excluding a prompt gives the host's vectors, whose position weights still count from the prompt on."""
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    mask = mask if side == "right" else mask.flip(1)
    x = tokens(*mask.shape, DIM)
    features = {"token_embeddings": x, "attention_mask": mask.clone(), "prompt_length": 2}  # older hosts write into it
    expected = HostPooling(DIM, mode, include_prompt=False)(features)["sentence_embedding"]
    with dense_route() if dense else torch.enable_grad():
        pooled = build_pooling(mode)(TokenBatch.from_padded(x, mask).select(exclude_prompt(mask, 2)))
    torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=compares_with_the_host if ("right", mode) in _NEED_NEWER_HOSTS else ())
        for mode in HOST_MODES
    ],
)
def test_selection_of_packed_tokens_excludes_a_prompt_as_the_host_does(mode: str) -> None:
    """A prompt is excluded from packed and nested tokens in the same way, before and after packing and padding."""
    lengths, layer = [4, 3, 5], build_pooling(mode)
    rows, offsets = tokens(12, DIM), lengths_to_offsets(lengths)
    padded, mask = TokenBatch.from_packed(rows, offsets).to_padded()
    features = {"token_embeddings": padded, "attention_mask": mask, "prompt_length": 2}
    expected = HostPooling(DIM, mode, include_prompt=False)(features)["sentence_embedding"]
    keep = exclude_prompt(torch.ones(12, dtype=torch.bool), 2, cu_seqlens=offsets)
    sources = (as_jagged(rows, lengths), as_gapped(rows, lengths), {"token_embeddings": rows, "cu_seqlens": offsets})
    for source in sources:
        batch = TokenBatch.of(**source)
        assert batch.select(keep).positions.tolist() == [2, 3, 2, 2, 3, 4]
        torch.testing.assert_close(layer(batch.select(keep)), expected)
        torch.testing.assert_close(layer(batch.select(keep).to_packed()), expected)
        x, mask = batch.select(keep).to_padded()
        assert mask.tolist() == [[False] * 2 + [place < length for place in range(2, 5)] for length in lengths]
        if mode != "weightedmean":  # in a new padded batch, positions count from the first remaining token
            torch.testing.assert_close(layer(x, mask), expected)


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_selection_counts_from_where_sentences_began(dense: bool) -> None:
    """After several selections, positions still count from the original first token of the sentence."""
    x, mask = tokens(2, 5, DIM), torch.tensor([[0, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
    with dense_route() if dense else torch.enable_grad():
        batch = TokenBatch.from_padded(x, mask)
    for keep, expected in (
        (torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 1, 1]]), [1, 2, 3, 2, 3]),
        (torch.tensor([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]]), [2, 3, 3]),
    ):
        batch = batch.select(keep)
        assert isinstance(batch, SparseBatch | PaddedBatch)
        assert batch.mask is not None
        positions = batch.positions[batch.mask] if dense else batch.positions
        assert positions.tolist() == expected
        assert batch.lengths.tolist() == batch.mask.sum(dim=1).tolist()
    weights = torch.tensor([3.0, 4.0])
    expected_mean = torch.stack([weights @ x[0, 3:] / 7, x[1, 3]])
    torch.testing.assert_close(build_pooling("weightedmean")(batch), expected_mean)


def test_selection_compiles() -> None:
    """A selection compiles to one full graph that counts positions as eager mode does."""
    x, mask = tokens(2, 4, DIM), torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    keep, layer = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 1]]), build_pooling("weightedmean")

    def pool(x: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        pooled: Tensor = layer(TokenBatch.from_padded(x, mask).select(keep))
        return pooled

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(pool, fullgraph=True, backend="eager")(x, mask, keep), pool(x, mask, keep))
    torch.compiler.reset()


@some_poolings
@settings(max_examples=cut(3, 50))
@given(mask=masks(), seed=st.integers(0, 99))
def test_selection_of_packed_tokens(name: str, mask: Tensor, seed: int) -> None:
    """A selection gives the same vectors packed and padded, and two selections exclude the tokens of both."""
    layer, x = make(name), tokens(*mask.shape, DIM)
    keep, also = (tokens(*mask.shape, seed=seed + i) > -0.5 for i in range(2))
    padded = TokenBatch.from_padded(x, mask)
    packed = padded.to_packed().select(keep[mask.bool()])
    torch.testing.assert_close(layer(packed), layer(padded.select(keep)), rtol=0, atol=0)
    with dense_route():
        dense = TokenBatch.from_padded(x, mask).select(keep).select(also)
    torch.testing.assert_close(layer(dense), layer(padded.select(keep).select(also)))
    torch.testing.assert_close(layer(padded.select(keep & also)), layer(padded.select(keep).select(also)))


# A batch as plain lists: the positions and rows of the tokens of each sentence.
Sentences = list[list[tuple[int, Tensor]]]


def _assert_holds(batch: TokenBatch, sentences: Sentences) -> None:
    """Assert that all attributes of the batch agree with the lists."""
    assert isinstance(batch, SparseBatch)
    flat = [token for sentence in sentences for token in sentence]
    owners = [number for number, sentence in enumerate(sentences) for _ in sentence]
    lengths = [len(sentence) for sentence in sentences]
    assert batch.lengths.tolist() == lengths
    assert batch.cu_seqlens.tolist() == lengths_to_offsets(lengths).tolist()
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.offsets.dtype == torch.int64
    assert batch.positions.tolist() == [position for position, _ in flat]
    assert batch.pattern.owner.tolist() == owners
    assert batch.index.numel() == len(flat)
    if flat:
        assert torch.equal(batch.values[batch.index], torch.stack([row for _, row in flat]))
    if batch.mask is None:
        assert batch.shape == (len(flat),)
    else:
        assert batch.shape == tuple(batch.mask.shape)
        assert batch.mask.sum(dim=1).tolist() == lengths
        x, mask = batch.to_padded()
        assert torch.equal(x[mask], batch.values[batch.index])


@given(data=st.data())
def test_batches_equal_plain_lists(data: st.DataObject) -> None:
    """After any selections, packings and paddings in any order, a batch holds the same tokens as plain lists."""
    source = data.draw(st.sampled_from(["padded", "packed", "nested", "gaps"]))
    if source == "padded":
        mask = data.draw(masks())
        x = tokens(*mask.shape, 2)
        batch, sentences = TokenBatch.from_padded(x, mask), []
        for rows, real in zip(x, mask.bool().tolist(), strict=True):
            first = real.index(True) if any(real) else 0
            sentences.append([(column - first, row) for column, row in enumerate(rows) if real[column]])
    else:
        lengths = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
        rows = tokens(sum(lengths), 2)
        write = {"nested": as_jagged, "gaps": as_gapped}.get(source)
        offsets = lengths_to_offsets(lengths, data.draw(st.sampled_from([torch.int32, torch.int64])))
        batch = TokenBatch.of(**write(rows, lengths)) if write else TokenBatch.from_packed(rows, offsets)
        sentences = [list(enumerate(part)) for part in torch.split(rows, lengths)]
    _assert_holds(batch, sentences)
    for _ in range(data.draw(st.integers(0, 5))):
        match data.draw(st.sampled_from(["select", "pack", "pad"])):
            case "select":
                kept = [[data.draw(st.booleans()) for _ in sentence] for sentence in sentences]
                keep = torch.tensor([entry for sentence in kept for entry in sentence], dtype=torch.bool)
                assert isinstance(batch, SparseBatch)
                if batch.mask is not None:  # entries at pads are not read
                    keep = torch.ones_like(batch.mask).index_put((batch.mask,), keep)
                batch = batch.select(keep.to(data.draw(st.sampled_from([torch.bool, torch.int64]))))
                sentences = [
                    [token for token, wanted in zip(sentence, entries, strict=True) if wanted]
                    for sentence, entries in zip(sentences, kept, strict=True)
                ]
            case "pack":
                batch = batch.to_packed()
                assert batch.mask is None
                assert batch.index.tolist() == list(range(len(batch.values)))
            case _:  # a padded batch does not count positions before its first real token
                batch = TokenBatch.from_padded(*batch.to_padded())
                sentences = [[(place - part[0][0], row) for place, row in part] for part in sentences]
        _assert_holds(batch, sentences)


def test_packing_and_padding_keep_gradients() -> None:
    """Through packing and padding, each real token gets its gradient and pads get none."""
    x, mask = all_layouts()
    gradients = []
    for way in ("", "pack", "pack and pad"):
        leaf = poison(x, mask, torch.nan).requires_grad_()
        batch = TokenBatch.from_padded(leaf, mask)
        batch = batch if not way else batch.to_packed()
        batch = TokenBatch.from_padded(*batch.to_padded()) if way == "pack and pad" else batch
        (gradient,) = torch.autograd.grad(build_pooling("weightedmean")(batch).square().sum(), leaf)
        assert not gradient[~mask.bool()].any()
        gradients.append(gradient)
    assert gradients[0].any()
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


@pytest.mark.parametrize(
    "spans", [([0, 0], [2, 2]), ([2, 0], [4, 2]), ([0, 1, 3], [2, 3, 3]), ([1, 3], [3, 4]), ([], [])], ids=str
)
def test_packing_spans(spans: tuple[list[int], list[int]]) -> None:
    """Packed spans hold each span's tokens in one tensor, also where there are as many as in the document."""
    document = tokens(4, DIM)
    starts, ends = (torch.tensor(bounds, dtype=torch.int64) for bounds in spans)
    packed = TokenBatch.from_spans(document, starts, ends).to_packed()
    parts = [document[a:b] for a, b in zip(*spans, strict=True)]
    assert torch.equal(packed.values, torch.cat([document[:0], *parts]))
    assert packed.cu_seqlens.tolist() == lengths_to_offsets([len(part) for part in parts]).tolist()
    assert packed.positions.tolist() == [position for part in parts for position in range(len(part))]


def test_padding_spans() -> None:
    """Each row of padded spans is one span, padded on the right; overlapping spans repeat their tokens."""
    document = tokens(4, DIM)
    x, mask = TokenBatch.from_spans(document, torch.tensor([0, 3, 1]), torch.tensor([2, 3, 4])).to_padded()
    assert mask.int().tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert torch.equal(x[mask], document[[0, 1, 1, 2, 3]])


@some_poolings
@settings(max_examples=cut(3, 50))
@given(data=st.data(), tokens_of_document=st.integers(1, 40))
def test_spans(name: str, data: st.DataObject, tokens_of_document: int) -> None:
    """Spans of a document, also overlapping and empty ones, are pooled like their slices, padded and packed."""
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
        TokenBatch.from_packed(rows, offsets).select(torch.arange(9) > 1),
        TokenBatch.from_nested(nested),
    ):
        assert isinstance(batch, SparseBatch)
        assert batch.values.data_ptr() == rows.data_ptr()
    padded = tokens(2, 4, DIM)
    gapped = torch.nested.narrow(padded, 1, torch.tensor([1, 0]), torch.tensor([2, 3]), layout=torch.jagged)
    batch = TokenBatch.from_nested(gapped)
    assert isinstance(batch, SparseBatch)
    assert batch.values.data_ptr() == padded.data_ptr()
    assert batch.index.tolist() == [1, 2, 4, 5, 6]


def test_padding_and_packing() -> None:
    """Packed tokens are padded on the right with zeros, and packing them again gives the same tensors."""
    rows, offsets = tokens(3, DIM), torch.tensor([0, 2, 2, 3])
    x, mask = TokenBatch.from_packed(rows, offsets).to_padded()
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    assert torch.equal(x[mask], rows)
    assert not x[~mask].any()
    packed = TokenBatch.from_padded(x, mask).to_packed()
    assert torch.equal(packed.values, rows)
    assert packed.cu_seqlens.tolist() == offsets.tolist()
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.mask is None


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_padding_and_packing_nothing(lengths: list[int]) -> None:
    """A batch without sentences, or with empty ones only, pads to width 0 and packs to no rows."""
    x, mask = TokenBatch.from_packed(tokens(0, DIM), lengths_to_offsets(lengths)).to_padded()
    assert (x.shape, mask.shape) == ((len(lengths), 0, DIM), (len(lengths), 0))
    assert TokenBatch.from_padded(x, mask).to_packed().cu_seqlens.tolist() == [0] * (len(lengths) + 1)


def test_holes_stay_holes() -> None:
    """Packing keeps positions, so padding again restores the holes."""
    x, mask = tokens(1, 5, DIM), torch.tensor([[0, 1, 0, 1, 1]])
    packed = TokenBatch.from_padded(x, mask).to_packed()
    assert packed.positions.tolist() == [0, 2, 3]
    assert packed.to_padded()[1].int().tolist() == [[1, 0, 1, 1]]


def test_packing_a_packed_batch_returns_it() -> None:
    """Packing copies nothing if the batch is packed already."""
    packed = TokenBatch.from_packed(tokens(2, 3), torch.tensor([0, 2]))
    assert packed.to_packed() is packed


def test_padding_a_padded_batch_on_other_devices() -> None:
    """A padded batch on another device returns its embeddings with zeros at pads, and its mask."""
    x, mask = all_layouts()
    with dense_route():
        padded, real = TokenBatch.from_padded(poison(x, mask, torch.nan), mask).to_padded()
    assert torch.equal(padded, poison(x, mask, 0.0))
    assert torch.equal(real, mask.bool())


def test_packing_is_refused_on_other_devices() -> None:
    """Packing is refused on other devices, because counting the tokens would make the host wait."""
    with dense_route():
        batch = TokenBatch.from_padded(*all_layouts())
    with pytest.raises(ValueError, match="must be on the CPU in eager mode to be packed") as refused:
        batch.to_packed()
    assert refused.value.argument == "token_embeddings"  # type: ignore[attr-defined]  # ValueError for callers


def test_attributes_of_both_forms() -> None:
    """Both forms have shape, width, dtype, device and lengths, in every layout."""
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


def test_with_rows() -> None:
    """with_rows keeps sentences, mask and positions, and accepts any width."""
    x, mask = all_layouts()
    for dense in (False, True):
        with dense_route() if dense else torch.enable_grad():
            batch = TokenBatch.from_padded(x, mask)
        rows = x[:, :, :2] if dense else x[mask.bool()][:, :2]
        other = batch.with_rows(rows)
        layer = build_pooling("weightedmean")
        torch.testing.assert_close(layer(other), layer(x[:, :, :2], mask))


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_with_rows_after_a_selection(dense: bool) -> None:
    """with_rows keeps a selection, and positions that count from the tokens before it."""
    x, mask = all_layouts()
    keep = exclude_prompt(mask, 1)
    with dense_route() if dense else torch.enable_grad():
        batch = TokenBatch.from_padded(x, mask).select(keep)
    rows = x[:, :, :2] if dense else x[keep.bool()][:, :2]
    other = batch.with_rows(rows.double())
    assert (other.dim, other.dtype, other.shape) == (2, torch.float64, batch.shape)
    assert torch.equal(other.positions, batch.positions)
    assert torch.equal(other.lengths, batch.lengths)
    expected = TokenBatch.from_padded(x[:, :, :2].double(), mask).select(keep)
    torch.testing.assert_close(build_pooling("weightedmean")(other), build_pooling("weightedmean")(expected))


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_selection_after_with_rows(dense: bool) -> None:
    """Tokens of a batch with other rows can be excluded as well."""
    x, mask = all_layouts()
    keep = exclude_prompt(mask, 1)
    with dense_route() if dense else torch.enable_grad():
        batch = TokenBatch.from_padded(x, mask)
    selected = batch.with_rows(2 * x if dense else 2 * x[mask.bool()]).select(keep)
    expected = build_pooling("weightedmean")(TokenBatch.from_padded(2 * x, mask).select(keep))
    torch.testing.assert_close(build_pooling("weightedmean")(selected), expected)


def test_padding_after_with_rows() -> None:
    """A batch with other rows, such as mixed layers, packs and pads these rows."""
    x, mask = all_layouts()
    other = TokenBatch.from_padded(x, mask).with_rows(2 * x[mask.bool()])
    packed = other.to_packed()
    assert torch.equal(packed.values, 2 * x[mask.bool()])
    assert torch.equal(packed.positions, other.positions)
    padded, real = other.to_padded()
    assert torch.equal(padded[real], 2 * x[mask.bool()])
    padded, real = mix_layers([x, x], mask, layer_weights=torch.tensor([0.5, 0.5])).to_padded()
    torch.testing.assert_close(padded[real], x[mask.bool()])


@every_dtype
def test_attributes_of_packed_batches(dtype: torch.dtype) -> None:
    """Packed and nested batches and spans have width, dtype, device, lengths and int32 offsets."""
    rows, lengths = tokens(5, DIM, dtype=dtype), [2, 0, 3]
    starts, ends = torch.tensor([0, 2, 2]), torch.tensor([2, 2, 5])
    batches = [TokenBatch.of(**write(rows, lengths)) for write in PACKINGS.values()]
    for batch in (*batches, TokenBatch.from_spans(rows, starts, ends)):
        assert isinstance(batch, SparseBatch)
        assert (batch.shape, batch.dim, batch.dtype, batch.device) == ((5,), DIM, dtype, rows.device)
        assert batch.accumulation_dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert (batch.cu_seqlens.tolist(), batch.cu_seqlens.dtype) == ([0, 2, 2, 5], torch.int32)
        assert (batch.lengths.tolist(), batch.positions.tolist()) == (lengths, [0, 1, 0, 1, 2])
        assert batch.mask is None
    with dense_route():
        batches = [TokenBatch.of(**write(rows, lengths)) for write in PACKINGS.values()]
        batches.append(TokenBatch.from_spans(rows, starts, ends))
    for batch in batches:
        assert isinstance(batch, PaddedBatch)
        assert (batch.shape, batch.dim, batch.dtype, batch.device) == ((5,), DIM, dtype, rows.device)
        assert batch.lengths.tolist() == lengths
        padded, mask = batch.to_padded()
        assert mask.int().tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
        assert torch.equal(padded[mask], rows)


# ------------------------------------------------------------------------------------------ both forms, all attributes


def _every_batch() -> list[TokenBatch]:
    """Return batches of each constructor, selected, packed and with other rows."""
    x, mask = all_layouts()
    rows, lengths = tokens(5, DIM), [2, 0, 3]
    sources = [
        TokenBatch.from_padded(x, mask),
        TokenBatch.from_padded(x.transpose(0, 1).contiguous().transpose(0, 1), mask),
        TokenBatch.from_padded(x[:, :0], mask[:, :0]),
        *(TokenBatch.of(**write(rows, lengths)) for write in PACKINGS.values()),
        TokenBatch.from_spans(rows, torch.tensor([0, 1]), torch.tensor([2, 4])),
    ]
    batches = []
    for batch in sources:
        kept = batch.select(torch.ones(batch.shape, dtype=torch.bool))
        batches += [batch, kept, batch.with_rows(2 * batch.rows())]
        if isinstance(batch, SparseBatch):
            batches.append(batch.to_packed())
    return batches


def _names(form: type[TokenBatch]) -> set[str]:
    """Return the annotated attributes and properties of a class and its bases."""
    names = set()
    for base in form.__mro__:
        names |= set(inspect.get_annotations(base))
        names |= {name for name, value in vars(base).items() if isinstance(value, property | cached_property)}
    return {name for name in names if not name.startswith("__")}


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_attributes_are_always_present(dense: bool) -> None:
    """Every batch of a form has all annotated attributes and properties of its class, and no others."""
    with dense_route() if dense else torch.enable_grad():
        batches = _every_batch()
        for batch in batches:
            form = PaddedBatch if dense else SparseBatch
            assert isinstance(batch, form)
            names = _names(form)
            assert names >= {"dim", "dtype", "device", "lengths", "shape", "positions", "mask"}
            for name in names:
                getattr(batch, name)
            cached = {name for name in names if isinstance(getattr(form, name, None), cached_property)}
            assert set(vars(batch)) - cached == set(vars(batches[0])) - cached


def test_both_forms_have_the_attributes_of_token_batch() -> None:
    """Both forms have the attributes that `TokenBatch` annotates and documents."""
    common = _names(TokenBatch)  # type: ignore[type-abstract]  # only its attributes are read
    assert common >= {"dim", "dtype", "device", "lengths", "shape", "positions"}
    for form in (SparseBatch, PaddedBatch):
        assert common <= _names(form)
        assert not form.__abstractmethods__


# --------------------------------------------------------------------------- packed batches on devices without kernels


@spread(3, name=WEIGHTED, packing=PACKINGS)
def test_packed_token_weights_on_other_devices(name: str, packing: str) -> None:
    """Packed batches on other devices take token weights in the packed layout and pool as on CPU."""
    rows, lengths = tokens(6, DIM), [2, 1, 3]
    source, weights, layer = PACKINGS[packing](rows, lengths), tokens(6).exp(), make(name)
    expected = layer(**source, token_weights=weights)
    with dense_route():
        torch.testing.assert_close(layer(**source, token_weights=weights), expected)
        torch.testing.assert_close(layer(**source, token_weights=weights.unsqueeze(0)), expected)
        with pytest.raises(ValueError, match=r"must have the shape \(tokens,\) = \(6,\)") as refused:
            layer(**source, token_weights=torch.ones(3, 3))
    assert refused.value.argument == "token_weights"  # type: ignore[attr-defined]  # ValueError for callers


@pairwise(name=LEARNED, packing=PACKINGS)
def test_returned_weights_of_packed_tokens_on_other_devices(name: str, packing: str) -> None:
    """On other devices attention weights of packed batches are (tokens, heads) too, with the numbers of the CPU."""
    rows, lengths = tokens(5, DIM), [2, 0, 3]
    source, layer = PACKINGS[packing](rows, lengths), make(name)
    assert isinstance(layer, LearnedPooling)
    expected = layer(**source, return_weights=True)
    with dense_route():
        pooled, weights = layer(**source, return_weights=True)
    assert weights.shape[0] == 5
    torch.testing.assert_close((pooled, weights), expected)


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_scores_on_other_devices(packing: str) -> None:
    """On other devices attention scores of packed batches are computed and taken as (tokens, heads)."""
    rows, query = tokens(5, DIM), tokens(2, DIM, seed=1)
    source: dict[str, Any] = {**PACKINGS[packing](rows, [2, 0, 3])}
    expected_scores = attention_scores(**source, query=query)
    expected = attention_pool(**source, scores=expected_scores)
    with dense_route():
        scores = attention_scores(**source, query=query)
        result = attention_pool(**source, scores=scores)
        with pytest.raises(ValueError, match=r"must have the shape \(tokens, heads\) = \(5, heads\)"):
            attention_pool(**source, scores=torch.zeros(3, 1, 3))
    torch.testing.assert_close(scores, expected_scores)
    torch.testing.assert_close(result, expected)
    assert result[1].shape == (5, 2)


def test_selection_of_packed_tokens_on_other_devices() -> None:
    """On other devices a packed batch is selected with a packed mask, and its tokens are counted again."""
    rows, lengths, weights = tokens(5, DIM), [2, 0, 3], tokens(3).exp()
    keep = torch.tensor([0, 1, 1, 0, 1])
    layer = build_pooling("weightedmean")
    expected = layer(TokenBatch.of(**PACKINGS["packed"](rows, lengths)).select(keep), token_weights=weights)
    with dense_route():
        batch = TokenBatch.of(**PACKINGS["packed"](rows, lengths)).select(keep)
        assert batch.shape == (3,)
        torch.testing.assert_close(layer(batch, token_weights=weights), expected)
