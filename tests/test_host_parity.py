"""Our poolings and sentence-transformers' own, side by side."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from torch import Tensor

from maskpool import TokenBatch, build_pooling
from maskpool.masks import exclude_prompt
from maskpool.modules import WeightedPooling
from tests.batches import lengths_to_offsets, masks, poison, tokens
from tests.poolings import DIM, DTYPES, HOST_MODES

HostMode = str | tuple[str, ...]
every_host_mode = pytest.mark.parametrize("mode", [*HOST_MODES, ("mean", "max", "cls"), ("lasttoken", "weightedmean")])


def _host(mode: HostMode, x: Tensor, mask: Tensor) -> Tensor:
    host = HostPooling(DIM, mode)
    pooled: Tensor = host({"token_embeddings": x, "attention_mask": mask})["sentence_embedding"]
    return pooled


@every_host_mode
@given(mask=masks(max_tokens=40), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_equals_the_host(mode: HostMode, mask: Tensor, dtype: torch.dtype, seed: int) -> None:
    """On every mask that leaves each sentence a token, the host's vectors are ours."""
    mask = mask.long()
    mask[:, 0] |= 1 - mask.any(dim=1).long()
    x = tokens(*mask.shape, DIM, dtype=dtype, seed=seed)
    torch.testing.assert_close(build_pooling(mode)(x, mask), _host(mode, x, mask))


@every_host_mode
def test_gradients_equal_the_host(mode: HostMode) -> None:
    """First and second derivatives are the host's where it gives any."""
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
    """An all-masked row is zeros, where the host gives cls a pad's vector and max −inf."""
    x, mask = tokens(2, 3, DIM), torch.tensor([[1, 1, 0], [0, 0, 0]])
    pooled = build_pooling(mode)(x, mask)
    assert torch.equal(pooled[1], torch.zeros(DIM))
    if mode in ("cls", "max"):
        assert not torch.equal(_host(mode, x, mask)[1], torch.zeros(DIM))


@pytest.mark.parametrize("mode", HOST_MODES)
def test_sequences_of_length_zero(mode: str) -> None:
    """A batch whose sequences have no position is zeros, where the host raises IndexError."""
    x, mask = torch.empty(2, 0, DIM), torch.empty(2, 0, dtype=torch.int64)
    assert torch.equal(build_pooling(mode)(x, mask), torch.zeros(2, DIM))
    if mode in ("cls", "max", "lasttoken"):
        with pytest.raises(IndexError):
            _host(mode, x, mask)


@pytest.mark.parametrize("mode", HOST_MODES)
@pytest.mark.parametrize("width", [2, 4])
def test_mask_of_another_width(mode: str, width: int) -> None:
    """A mask that does not fit is refused, where the host silently takes all tokens for real."""
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
    """Packed sentences of at least a token have the vectors of the host's flat route."""
    rows, offsets = tokens(sum(lengths), DIM, dtype=dtype, seed=seed), lengths_to_offsets(lengths)
    torch.testing.assert_close(build_pooling(mode)(rows, cu_seqlens=offsets), _host_flat(mode, rows, offsets))


@pytest.mark.parametrize(("mode", "taken"), [("cls", 2), ("lasttoken", 1)])
def test_flat_sequence_of_length_zero(mode: str, taken: int) -> None:
    """An empty packed sentence is zeros, where the host takes the next one's first token or the last one's last."""
    rows, offsets = tokens(4, DIM), lengths_to_offsets([2, 0, 2])
    assert torch.equal(_host_flat(mode, rows, offsets)[1], rows[taken])
    assert torch.equal(build_pooling(mode)(rows, cu_seqlens=offsets)[1], torch.zeros(DIM))


def test_flat_max_of_length_zero() -> None:
    """The maximum of an empty packed sentence is zeros, where the host gives −inf."""
    rows, offsets = tokens(2, DIM), lengths_to_offsets([2, 0])
    assert _host_flat("max", rows, offsets)[1].isneginf().all()
    assert torch.equal(build_pooling("max")(rows, cu_seqlens=offsets)[1], torch.zeros(DIM))


def test_prompt_as_long_as_the_text() -> None:
    """A prompt that covers its text leaves zeros in every layout, where the host's flat route gives the last token."""
    rows, offsets, mask = tokens(2, DIM), lengths_to_offsets([2]), torch.ones(1, 2, dtype=torch.int64)
    assert torch.equal(_host_flat("lasttoken", rows, offsets, prompt_length=3)[0], rows[1])
    layer = build_pooling("lasttoken")
    packed = TokenBatch.from_packed(rows, offsets).select(exclude_prompt(mask[0], 3, cu_seqlens=offsets))
    assert torch.equal(layer(packed), torch.zeros(1, DIM))
    assert torch.equal(layer(rows[None], exclude_prompt(mask, 3)), torch.zeros(1, DIM))


@pytest.mark.parametrize(("mode", "wrong"), [("mean", 0.5), ("weightedmean", 1.75)])
def test_token_weights_without_a_prompt(mode: str, wrong: float) -> None:
    """Weighted ones, two of four a prompt and excluded, pool to 1, where the host gives another number."""
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
    assert isinstance(layer, WeightedPooling)
    torch.testing.assert_close(layer(batch, weights=torch.ones(1, 4)), torch.ones(1, DIM))


def test_token_weights_of_a_weighted_mean() -> None:
    """Weighted ones pool to 1 by position too, where the host, given the sum of their weights, gives 2.5."""
    x, mask = torch.ones(1, 4, DIM), torch.ones(1, 4, dtype=torch.int64)
    features = {"token_embeddings": x, "attention_mask": mask, "token_weights_sum": torch.tensor([4.0])}
    torch.testing.assert_close(
        HostPooling(DIM, "weightedmean")(features)["sentence_embedding"], torch.full((1, DIM), 2.5)
    )
    layer = build_pooling("weightedmean")
    assert isinstance(layer, WeightedPooling)
    torch.testing.assert_close(layer(x, mask, weights=torch.ones(1, 4)), torch.ones(1, DIM))


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens"])
def test_token_weights_equal_the_host(mode: str) -> None:
    """Where the host, given weighted tokens and the weights' sum, is right, its vectors are ours."""
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    x, weights = tokens(2, 4, DIM), torch.rand(2, 4) + 0.5
    sums = (weights * mask).sum(dim=1)
    features = {"token_embeddings": x * weights[:, :, None], "attention_mask": mask, "token_weights_sum": sums}
    layer = build_pooling(mode)
    assert isinstance(layer, WeightedPooling)
    expected = HostPooling(DIM, mode)(features)["sentence_embedding"]
    torch.testing.assert_close(layer(x, mask, weights=weights), expected)


def test_prompts_are_excluded_in_traced_graphs() -> None:
    """Excluding a prompt compiles to one full graph, where the host's way breaks it."""
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
