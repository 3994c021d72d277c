"""Our poolings compared with those of sentence-transformers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from torch import Tensor

from maskpool import TokenBatch, build_pooling
from maskpool.masks import exclude_prompt
from maskpool.nn import PoolingLayer
from tests.batches import PACKINGS, as_padded, lengths_to_offsets, masks, poison, tokens
from tests.hosts import compares_with_the_host
from tests.poolings import DIM, DTYPES, HOST_MODES

pytestmark = compares_with_the_host

HostMode = str | tuple[str, ...]
every_host_mode = pytest.mark.parametrize("mode", [*HOST_MODES, ("mean", "max", "cls"), ("lasttoken", "weightedmean")])


def _host(mode: HostMode, x: Tensor, mask: Tensor) -> Tensor:
    host = HostPooling(DIM, mode)
    pooled: Tensor = host({"token_embeddings": x, "attention_mask": mask})["sentence_embedding"]
    return pooled


@every_host_mode
@given(mask=masks(max_tokens=40), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_equals_the_host(mode: HostMode, mask: Tensor, dtype: torch.dtype, seed: int) -> None:
    """If each sentence has a token, the host's vectors equal ours on every mask."""
    mask = mask.long()
    mask[:, 0] |= 1 - mask.any(dim=1).long()
    x = tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    torch.testing.assert_close(build_pooling(mode)(x, mask), _host(mode, x, mask))


@every_host_mode
def test_gradients_equal_the_host(mode: HostMode) -> None:
    """First and second derivatives equal the host's, if it has them."""
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1]])
    x = tokens(2, 4, DIM, dtype=torch.float64)
    results = []
    for pool in (build_pooling(mode), lambda x, mask: _host(mode, x, mask)):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(pool(leaf, mask).pow(3).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), leaf)
        results.append((first.detach(), second))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mode", HOST_MODES)
def test_sentence_without_a_token(mode: str) -> None:
    """An all-masked row gives zeros, where the host gives cls a pad's vector and max −inf."""
    x, mask = tokens(2, 3, DIM), torch.tensor([[1, 1, 0], [0, 0, 0]])
    pooled = build_pooling(mode)(x, mask)
    assert torch.equal(pooled[1], torch.zeros(DIM))
    if mode in ("cls", "max"):
        assert not torch.equal(_host(mode, x, mask)[1], torch.zeros(DIM))


@pytest.mark.parametrize("mode", HOST_MODES)
def test_sequences_of_length_zero(mode: str) -> None:
    """A batch of sequences of length zero gives zeros, where the host raises IndexError."""
    x, mask = torch.empty(2, 0, DIM), torch.empty(2, 0, dtype=torch.int64)
    assert torch.equal(build_pooling(mode)(x, mask), torch.zeros(2, DIM))
    if mode in ("cls", "max", "lasttoken"):
        with pytest.raises(IndexError):
            _host(mode, x, mask)


@pytest.mark.parametrize("mode", HOST_MODES)
@pytest.mark.parametrize("width", [2, 4])
def test_mask_of_another_width(mode: str, width: int) -> None:
    """A mask of another width is refused, where the host silently treats all tokens as real."""
    x, mask = tokens(2, 3, DIM), torch.eye(2, width, dtype=torch.int64)
    torch.testing.assert_close(_host(mode, x, mask), _host(mode, x, torch.ones(2, 3, dtype=torch.int64)))
    with pytest.raises(ValueError, match=rf"attention_mask must have the shape \(2, 3\).*got \(2, {width}\)"):
        build_pooling(mode)(x, mask)


@pytest.mark.parametrize("mode", HOST_MODES)
def test_nan_in_a_pad(mode: str) -> None:
    """NaN in a pad does not reach the vector, where it survives the host's three means."""
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    x = tokens(2, 3, DIM)
    torch.testing.assert_close(build_pooling(mode)(poison(x, mask, torch.nan), mask), _host(mode, x, mask))
    if "mean" in mode:
        assert _host(mode, poison(x, mask, torch.nan), mask).isnan().all()


def _host_flat(mode: HostMode, rows: Tensor, offsets: Tensor, **features: object) -> Tensor:
    host = HostPooling(DIM, mode, include_prompt="prompt_length" not in features)
    flat = {"token_embeddings": rows.unsqueeze(0), "cu_seq_lens_q": offsets, **features}
    pooled: Tensor = host(flat)["sentence_embedding"]
    return pooled


@every_host_mode
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_flat_equals_the_host(mode: HostMode, lengths: list[int], dtype: torch.dtype, seed: int) -> None:
    """Packed sentences with at least one token have the vectors of the host's flat route."""
    rows, offsets = tokens(sum(lengths), DIM, dtype=dtype, seed=seed), lengths_to_offsets(lengths)
    torch.testing.assert_close(build_pooling(mode)(rows, cu_seqlens=offsets), _host_flat(mode, rows, offsets))


@every_host_mode
def test_flat_gradients_equal_the_host(mode: HostMode) -> None:
    """First and second derivatives of packed sentences equal the host's."""
    rows, offsets, layer = tokens(6, DIM, dtype=torch.float64), lengths_to_offsets([3, 1, 2]), build_pooling(mode)
    results = []
    for flat in (lambda leaf: layer(leaf, cu_seqlens=offsets), lambda leaf: _host_flat(mode, leaf, offsets)):
        leaf = rows.clone().requires_grad_()
        (first,) = torch.autograd.grad(flat(leaf).pow(3).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), leaf)
        results.append((first.detach(), second))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@every_host_mode
@given(
    lengths=st.lists(st.integers(4, 12), min_size=1, max_size=5),
    prompt=st.integers(0, 3),
    kind=st.sampled_from(["int", "one", "batch"]),
    dtype=st.sampled_from(DTYPES),
)
def test_flat_prompts_equal_the_host(
    mode: HostMode, lengths: list[int], prompt: int, kind: str, dtype: torch.dtype
) -> None:
    """Without prompts that are shorter than their texts, packed vectors equal the host's; positions count prompts."""
    rows, offsets = tokens(sum(lengths), DIM, dtype=dtype), lengths_to_offsets(lengths)
    prompts = prompt if kind == "int" else torch.full((1 if kind == "one" else len(lengths),), prompt)
    keep = exclude_prompt(torch.ones(len(rows), dtype=torch.bool), prompts, cu_seqlens=offsets)
    batch = TokenBatch.from_packed(rows, offsets).select(keep)
    torch.testing.assert_close(build_pooling(mode)(batch), _host_flat(mode, rows, offsets, prompt_length=prompts))


@every_host_mode
def test_flat_equals_padded(mode: HostMode) -> None:
    """Our flat and padded vectors are equal bit for bit, where the host's differ by rounding."""
    lengths = [7, 33, 1]
    rows = tokens(sum(lengths), DIM)
    padded, flat = as_padded(rows, lengths), PACKINGS["packed"](rows, lengths)
    assert torch.equal(build_pooling(mode)(**padded), build_pooling(mode)(**flat))
    clean = poison(padded["token_embeddings"], padded["attention_mask"], 0.0)
    torch.testing.assert_close(
        _host(mode, clean, padded["attention_mask"].long()), _host_flat(mode, rows, flat["cu_seqlens"])
    )


@pytest.mark.parametrize("mode", HOST_MODES)
def test_flat_neighbour_of_nan(mode: str) -> None:
    """NaN in one packed sentence stays in that sentence, in the host's pooling and in ours."""
    rows, offsets = tokens(5, DIM), lengths_to_offsets([2, 3])
    rows[:2] = torch.nan
    ours = build_pooling(mode)(rows, cu_seqlens=offsets)
    torch.testing.assert_close(ours, _host_flat(mode, rows, offsets), equal_nan=True)
    assert ours[0].isnan().all()
    assert ours[1].isfinite().all()


@pytest.mark.parametrize("mode", HOST_MODES)
def test_nan_in_an_excluded_prompt(mode: str) -> None:
    """NaN in an excluded prompt does not reach the vector, where it survives the host's padded means."""
    rows, offsets = tokens(4, DIM), lengths_to_offsets([4])
    rows[:2] = torch.nan
    mask = torch.ones(1, 4, dtype=torch.int64)
    layer = build_pooling(mode)
    flat = _host_flat(mode, rows, offsets, prompt_length=2)
    packed = TokenBatch.from_packed(rows, offsets).select(exclude_prompt(mask[0], 2, cu_seqlens=offsets))
    torch.testing.assert_close(layer(packed), flat)
    torch.testing.assert_close(layer(rows[None], exclude_prompt(mask, 2)), layer(rows[None, 2:], mask[:, 2:]))
    features = {"token_embeddings": rows[None], "attention_mask": mask, "prompt_length": 2}
    padded = HostPooling(DIM, mode, include_prompt=False)(features)["sentence_embedding"]
    assert padded.isnan().all() == ("mean" in mode)


@pytest.mark.parametrize(("mode", "lengths"), [("cls", [2, 0]), ("cls", [0, 0]), ("lasttoken", [0, 0])])
def test_flat_length_zero_out_of_range(mode: str, lengths: list[int]) -> None:
    """For an empty sentence without a neighbour to read from, the host raises IndexError, where ours gives zeros."""
    rows, offsets = tokens(sum(lengths), DIM), lengths_to_offsets(lengths)
    with pytest.raises(IndexError):
        _host_flat(mode, rows, offsets)
    assert torch.equal(build_pooling(mode)(rows, cu_seqlens=offsets)[1], torch.zeros(DIM))


def test_flat_last_token_of_length_zero_at_the_start() -> None:
    """For an empty first sentence the host returns the last token of the whole batch, where ours gives zeros."""
    rows, offsets = tokens(5, DIM), lengths_to_offsets([0, 2, 3])
    assert torch.equal(_host_flat("lasttoken", rows, offsets)[0], rows[4])
    assert torch.equal(build_pooling("lasttoken")(rows, cu_seqlens=offsets)[0], torch.zeros(DIM))


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_flat_means_of_length_zero(mode: str) -> None:
    """The means of empty packed sentences are zeros, in the host too."""
    rows, offsets = tokens(5, DIM), lengths_to_offsets([0, 2, 0, 3, 0])
    torch.testing.assert_close(build_pooling(mode)(rows, cu_seqlens=offsets), _host_flat(mode, rows, offsets))


@pytest.mark.parametrize(("mode", "taken"), [("cls", 0), ("lasttoken", 2)])
@pytest.mark.parametrize("prompt", [3, 4])
def test_flat_prompt_that_covers_its_text(mode: str, taken: int, prompt: int) -> None:
    """A text that consists of its prompt gives zeros, where the host's flat route gives a token of the prompt."""
    rows, offsets = tokens(9, DIM), lengths_to_offsets([3, 6])
    host = _host_flat(mode, rows, offsets, prompt_length=prompt)
    assert torch.equal(host[0], rows[taken])
    keep = exclude_prompt(torch.ones(9, dtype=torch.bool), prompt, cu_seqlens=offsets)
    pooled = build_pooling(mode)(TokenBatch.from_packed(rows, offsets).select(keep))
    assert torch.equal(pooled, torch.stack([torch.zeros(DIM), host[1]]))


def test_flat_max_of_a_covered_text() -> None:
    """The maximum of a text that consists of its prompt is zeros, where the host gives −inf."""
    rows, offsets = tokens(5, DIM), lengths_to_offsets([2, 3])
    assert _host_flat("max", rows, offsets, prompt_length=2)[0].isneginf().all()
    keep = exclude_prompt(torch.ones(5, dtype=torch.bool), 2, cu_seqlens=offsets)
    pooled = build_pooling("max")(TokenBatch.from_packed(rows, offsets).select(keep))
    assert torch.equal(pooled, torch.stack([torch.zeros(DIM), rows[4]]))


def test_flat_prompts_of_several_lengths() -> None:
    """Each text's own prompt is excluded, where the host uses the length of the first prompt for all."""
    rows, offsets, prompts = tokens(6, DIM), lengths_to_offsets([3, 3]), torch.tensor([2, 1])
    host = _host_flat("mean", rows, offsets, prompt_length=prompts)
    torch.testing.assert_close(host, rows[[2, 5]])
    keep = exclude_prompt(torch.ones(6, dtype=torch.bool), prompts, cu_seqlens=offsets)
    pooled = build_pooling("mean")(TokenBatch.from_packed(rows, offsets).select(keep))
    torch.testing.assert_close(pooled, torch.stack([rows[2], rows[4:].mean(dim=0)]))


def test_flat_token_weights() -> None:
    """Weighted packed tokens of 1 pool to 1, where the host divides by the token count, not the sum of weights."""
    rows, offsets, weights = torch.ones(4, DIM), lengths_to_offsets([4]), torch.full((4,), 0.5)
    host = _host_flat("mean", rows * weights[:, None], offsets, token_weights_sum=weights.sum()[None])
    torch.testing.assert_close(host, torch.full((1, DIM), 0.5))
    layer = build_pooling("mean")
    assert isinstance(layer, PoolingLayer)
    torch.testing.assert_close(layer(rows, cu_seqlens=offsets, token_weights=weights), torch.ones(1, DIM))


@pytest.mark.parametrize("flat", [False, True])
def test_no_token_embedding_of_cls(flat: bool) -> None:
    """Our pooling takes the first token, where the host fails if its word embeddings set the CLS vector to None."""
    rows, offsets = tokens(2, DIM), lengths_to_offsets([2])
    features = {"token_embeddings": rows[None], "cls_token_embeddings": None}
    features |= {"cu_seq_lens_q": offsets} if flat else {"attention_mask": torch.ones(1, 2, dtype=torch.int64)}
    with pytest.raises(TypeError, match="NoneType"):
        HostPooling(DIM, "cls")(features)
    assert torch.equal(build_pooling("cls")(rows, cu_seqlens=offsets), rows[:1])


@pytest.mark.parametrize(("mode", "taken"), [("cls", 2), ("lasttoken", 1)])
def test_flat_sequence_of_length_zero(mode: str, taken: int) -> None:
    """An empty packed sentence gives zeros, where the host takes the next first token or the previous last one."""
    rows, offsets = tokens(4, DIM), lengths_to_offsets([2, 0, 2])
    assert torch.equal(_host_flat(mode, rows, offsets)[1], rows[taken])
    assert torch.equal(build_pooling(mode)(rows, cu_seqlens=offsets)[1], torch.zeros(DIM))


def test_flat_max_of_length_zero() -> None:
    """The maximum of an empty packed sentence is zeros, where the host gives −inf."""
    rows, offsets = tokens(2, DIM), lengths_to_offsets([2, 0])
    assert _host_flat("max", rows, offsets)[1].isneginf().all()
    assert torch.equal(build_pooling("max")(rows, cu_seqlens=offsets)[1], torch.zeros(DIM))


def test_prompt_as_long_as_the_text() -> None:
    """A prompt that covers its text gives zeros in every layout, where the host's flat route gives the last token."""
    rows, offsets, mask = tokens(2, DIM), lengths_to_offsets([2]), torch.ones(1, 2, dtype=torch.int64)
    assert torch.equal(_host_flat("lasttoken", rows, offsets, prompt_length=3)[0], rows[1])
    layer = build_pooling("lasttoken")
    packed = TokenBatch.from_packed(rows, offsets).select(exclude_prompt(mask[0], 3, cu_seqlens=offsets))
    assert torch.equal(layer(packed), torch.zeros(1, DIM))
    assert torch.equal(layer(rows[None], exclude_prompt(mask, 3)), torch.zeros(1, DIM))


@pytest.mark.parametrize(("mode", "wrong"), [("mean", 0.5), ("weightedmean", 1.75)])
def test_token_weights_without_a_prompt(mode: str, wrong: float) -> None:
    """Weighted tokens of 1, of which a prompt is excluded, pool to 1, where the host gives another number."""
    x, mask = torch.ones(1, 4, DIM), torch.ones(1, 4, dtype=torch.int64)
    features = {
        "token_embeddings": x,
        "attention_mask": mask,
        "prompt_length": 2,
        "token_weights_sum": torch.tensor([4.0]),
    }
    host = HostPooling(DIM, mode, include_prompt=False)(features)["sentence_embedding"]
    torch.testing.assert_close(host, torch.full((1, DIM), wrong))
    batch = TokenBatch.from_padded(x, mask).select(exclude_prompt(mask, 2))
    layer = build_pooling(mode)
    assert isinstance(layer, PoolingLayer)
    torch.testing.assert_close(layer(batch, token_weights=torch.ones(1, 4)), torch.ones(1, DIM))


def test_token_weights_of_a_weighted_mean() -> None:
    """The position-weighted mean of weighted tokens of 1 is 1, where the host, given the sum of weights, gives 2.5."""
    x, mask = torch.ones(1, 4, DIM), torch.ones(1, 4, dtype=torch.int64)
    features = {"token_embeddings": x, "attention_mask": mask, "token_weights_sum": torch.tensor([4.0])}
    torch.testing.assert_close(
        HostPooling(DIM, "weightedmean")(features)["sentence_embedding"], torch.full((1, DIM), 2.5)
    )
    layer = build_pooling("weightedmean")
    assert isinstance(layer, PoolingLayer)
    torch.testing.assert_close(layer(x, mask, token_weights=torch.ones(1, 4)), torch.ones(1, DIM))


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens"])
def test_token_weights_equal_the_host(mode: str) -> None:
    """In the modes where the host handles the sum of weights correctly, its vectors equal ours."""
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    x, weights = tokens(2, 4, DIM), torch.rand(2, 4) + 0.5
    sums = (weights * mask).sum(dim=1)
    features = {"token_embeddings": x * weights[:, :, None], "attention_mask": mask, "token_weights_sum": sums}
    layer = build_pooling(mode)
    assert isinstance(layer, PoolingLayer)
    expected = HostPooling(DIM, mode)(features)["sentence_embedding"]
    torch.testing.assert_close(layer(x, mask, token_weights=weights), expected)


def test_prompts_are_excluded_in_traced_graphs() -> None:
    """Excluding a prompt compiles to one full graph, where the host's method breaks the graph."""
    x, mask = tokens(2, 4, DIM), torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    pool, prompts = build_pooling("mean"), torch.tensor([1, 2])
    compiled = torch.compile(
        lambda x, mask: pool(x, exclude_prompt(mask, prompts)), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(x, mask), pool(x, exclude_prompt(mask, prompts)))
    torch.compiler.reset()
    host = HostPooling(DIM, "mean", include_prompt=False)
    features = {"token_embeddings": x, "attention_mask": mask, "prompt_length": prompts}
    with pytest.raises(Exception, match=r"item\(\)|data-dependent|Unsupported|graph"):
        torch.compile(host, fullgraph=True, backend="aot_eager")(features)  # type: ignore[no-untyped-call]  # untyped
    torch.compiler.reset()
