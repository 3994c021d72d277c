"""What a batch of tokens can do besides being pooled."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from torch import Tensor

from maskpool import TokenBatch, build_pooling
from maskpool.functional import mean_pool, mix_layers
from maskpool.masks import exclude_prompt, span_mask
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
from tests.poolings import DIM, HOST_MODES, every_dtype, every_pooling, make


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


@pytest.mark.parametrize("mode", HOST_MODES)
def test_selection_of_packed_tokens_excludes_a_prompt_as_the_host_does(mode: str) -> None:
    """Nor does packing first change that: packed tokens, and nested ones, still count from the prompt on."""
    lengths, layer = [4, 3, 5], build_pooling(mode)
    rows, offsets = tokens(12, DIM), lengths_to_offsets(lengths)
    padded = TokenBatch.from_packed(rows, offsets).to_padded()
    features = {"token_embeddings": padded.padded, "attention_mask": padded.mask, "prompt_length": 2}
    expected = HostPooling(DIM, mode, include_prompt=False)(features)["sentence_embedding"]
    keep = exclude_prompt(torch.ones(12, dtype=torch.bool), 2, cu_seqlens=offsets)
    sources = (as_jagged(rows, lengths), as_gapped(rows, lengths), {"token_embeddings": rows, "cu_seqlens": offsets})
    for source in sources:
        batch = TokenBatch.of(**source)
        assert batch.select(keep).positions.tolist() == [2, 3, 2, 2, 3, 4]
        torch.testing.assert_close(layer(batch.select(keep)), expected)
        torch.testing.assert_close(layer(batch.select(keep).to_packed()), expected)
        torch.testing.assert_close(layer(batch.select(keep).to_padded()), expected)


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_selection_counts_from_where_sentences_began(dense: bool) -> None:
    """However often tokens are left out, positions count from the first token that the sentence ever had."""
    x, mask = tokens(2, 5, DIM), torch.tensor([[0, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
    with dense_route() if dense else torch.enable_grad():
        batch = TokenBatch.from_padded(x, mask)
    for keep, expected in (
        (torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 1, 1]]), [1, 2, 3, 2, 3]),
        (torch.tensor([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]]), [2, 3, 3]),
    ):
        batch = batch.select(keep)
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
    torch.testing.assert_close(
        torch.compile(pool, fullgraph=True, backend="aot_eager")(x, mask, keep), pool(x, mask, keep)
    )
    torch.compiler.reset()


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


# A batch as plain lists: of each sentence the positions and rows of its tokens.
Sentences = list[list[tuple[int, Tensor]]]


def _assert_holds(batch: TokenBatch, sentences: Sentences) -> None:
    """The batch is what the lists say, by all that it tells of itself."""
    flat = [token for sentence in sentences for token in sentence]
    owners = [number for number, sentence in enumerate(sentences) for _ in sentence]
    lengths = [len(sentence) for sentence in sentences]
    assert batch.lengths.tolist() == lengths
    assert batch.cu_seqlens.tolist() == lengths_to_offsets(lengths).tolist()
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.offsets.dtype == torch.int64
    assert batch.positions.tolist() == [position for position, _ in flat]
    assert batch.sentence_of_token.tolist() == owners
    assert batch.index.numel() == len(flat)
    if flat:
        assert torch.equal(batch.values[batch.index], torch.stack([row for _, row in flat]))
    if batch.mask is None:
        assert batch.shape == (len(flat),)
    else:
        assert batch.shape == tuple(batch.mask.shape)
        assert batch.mask.sum(dim=1).tolist() == lengths
        assert torch.equal(batch.padded[batch.mask], batch.values[batch.index])


@given(data=st.data())
def test_batches_are_lists_of_lists(data: st.DataObject) -> None:
    """Whatever is selected, packed and padded in whatever order, a batch holds what lists of lists would."""
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
                if batch.mask is not None:  # what is said of pads is not read
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
            case _:
                batch = batch.to_padded()
                assert batch.mask is not None
        _assert_holds(batch, sentences)


def test_packing_and_padding_keep_gradients() -> None:
    """Through packing and padding, each real token gets its gradient and each pad none."""
    x, mask = all_layouts()
    found = []
    for way in ("", "pack", "pack and pad"):
        leaf = poison(x, mask, torch.nan).requires_grad_()
        batch = TokenBatch.from_padded(leaf, mask)
        batch = batch if not way else batch.to_packed()
        batch = batch.to_padded() if way == "pack and pad" else batch
        (gradient,) = torch.autograd.grad(build_pooling("weightedmean")(batch).square().sum(), leaf)
        assert not gradient[~mask.bool()].any()
        found.append(gradient)
    assert found[0].any()
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0])


@pytest.mark.parametrize(
    "spans", [([0, 0], [2, 2]), ([2, 0], [4, 2]), ([0, 1, 3], [2, 3, 3]), ([1, 3], [3, 4]), ([], [])], ids=str
)
def test_packing_spans(spans: tuple[list[int], list[int]]) -> None:
    """Packed spans hold each span's tokens in one tensor, also where they are as many as the document's own."""
    document = tokens(4, DIM)
    starts, ends = (torch.tensor(bounds, dtype=torch.int64) for bounds in spans)
    packed = TokenBatch.from_spans(document, starts, ends).to_packed()
    parts = [document[a:b] for a, b in zip(*spans, strict=True)]
    assert torch.equal(packed.values, torch.cat([document[:0], *parts]))
    assert packed.cu_seqlens.tolist() == lengths_to_offsets([len(part) for part in parts]).tolist()
    assert packed.positions.tolist() == [position for part in parts for position in range(len(part))]


def test_padding_spans() -> None:
    """Padded spans stand one in a row, from the left, and overlapping ones repeat their tokens."""
    document = tokens(4, DIM)
    padded = TokenBatch.from_spans(document, torch.tensor([0, 3, 1]), torch.tensor([2, 3, 4])).to_padded()
    assert padded.mask is not None
    assert padded.mask.int().tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert torch.equal(padded.padded[padded.mask], document[[0, 1, 1, 2, 3]])


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
        TokenBatch.from_packed(rows, offsets).select(torch.arange(9) > 1),
        TokenBatch.from_nested(nested),
    ):
        assert batch.values.data_ptr() == rows.data_ptr()
    padded = tokens(2, 4, DIM)
    gapped = torch.nested.narrow(padded, 1, torch.tensor([1, 0]), torch.tensor([2, 3]), layout=torch.jagged)
    batch = TokenBatch.from_nested(gapped)
    assert batch.values.data_ptr() == padded.data_ptr()
    assert batch.index.tolist() == [1, 2, 4, 5, 6]


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


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_other_numbers_after_a_selection(dense: bool) -> None:
    """with_rows keeps which tokens were left out, and where positions count from."""
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
def test_selection_after_other_numbers(dense: bool) -> None:
    """From a padded batch with other numbers in it, tokens can be left out as from any other."""
    x, mask = all_layouts()
    keep = exclude_prompt(mask, 1)
    with dense_route() if dense else torch.enable_grad():
        batch = TokenBatch.from_padded(x, mask)
    selected = batch.with_rows(2 * x if dense else 2 * x[mask.bool()]).select(keep)
    expected = build_pooling("weightedmean")(TokenBatch.from_padded(2 * x, mask).select(keep))
    torch.testing.assert_close(build_pooling("weightedmean")(selected), expected)


def test_padding_other_numbers() -> None:
    """A padded batch with other numbers in it, such as mixed layers, packs and pads with these numbers."""
    x, mask = all_layouts()
    other = TokenBatch.from_padded(x, mask).with_rows(2 * x[mask.bool()])
    packed = other.to_packed()
    assert torch.equal(packed.values, 2 * x[mask.bool()])
    assert torch.equal(packed.positions, other.positions)
    padded = other.to_padded()
    assert padded.mask is not None
    assert torch.equal(padded.padded[padded.mask], 2 * x[mask.bool()])
    mixed = mix_layers([x, x], mask, layer_weights=torch.tensor([0.5, 0.5])).to_padded()
    assert mixed.mask is not None
    torch.testing.assert_close(mixed.padded[mixed.mask], x[mask.bool()])


@every_dtype
def test_what_a_packed_batch_says_of_itself(dtype: torch.dtype) -> None:
    """Packed and nested batches and spans tell width, dtype, device and int32 offsets too."""
    rows, lengths = tokens(5, DIM, dtype=dtype), [2, 0, 3]
    starts, ends = torch.tensor([0, 2, 2]), torch.tensor([2, 2, 5])
    batches = [TokenBatch.of(**write(rows, lengths)) for write in PACKINGS.values()]
    for batch in (*batches, TokenBatch.from_spans(rows, starts, ends)):
        assert (batch.shape, batch.dim, batch.dtype, batch.device) == ((5,), DIM, dtype, rows.device)
        assert batch.accumulation_dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert (batch.cu_seqlens.tolist(), batch.cu_seqlens.dtype) == ([0, 2, 2, 5], torch.int32)
        assert (batch.lengths.tolist(), batch.positions.tolist()) == (lengths, [0, 1, 0, 1, 2])
        assert batch.mask is None
        assert not batch.dense
    with dense_route():
        batches = [TokenBatch.of(**write(rows, lengths)) for write in PACKINGS.values()]
    for batch in batches:
        assert (batch.shape, batch.dim, batch.dtype, batch.dense) == ((3, 3), DIM, dtype, True)
        assert batch.lengths.tolist() == lengths
        assert batch.mask is not None
        assert torch.equal(batch.padded[batch.mask], rows)
