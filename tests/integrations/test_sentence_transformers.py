"""Our poolings as modules of sentence-transformers: what they read, and what they make of it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from sentence_transformers.sentence_transformer.modules import WordEmbeddings, WordWeights
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch import Tensor

from maskpool import TokenBatch
from maskpool.integrations.sentence_transformers import Pooling
from maskpool.masks import exclude_prompt
from maskpool.nn import POOLINGS
from maskpool.types import OnEmpty
from tests.batches import dense_route, lengths_to_offsets, masks, poison, tokens
from tests.hosts import compares_with_the_host
from tests.poolings import (
    DIM,
    DTYPES,
    HOST_MODES,
    LEARNED,
    NEEDS_OPTION,
    ONE_PER_FAMILY,
    PLAIN,
    REQUIRED_OPTION,
    SPECS,
    TOGETHER,
    WEIGHTED,
    WIDTHS,
    every_pooling,
    make,
    required,
)

Mode = str | tuple[str, ...]
every_host_mode = pytest.mark.parametrize("mode", [*HOST_MODES, ("mean", "max", "cls"), ("lasttoken", "weightedmean")])
any_dtype = st.sampled_from(DTYPES)


def _module(name: str, **settings: Any) -> Pooling:
    """A module of the pooling that `make` makes, weights included."""
    mode, options = SPECS[name]
    module = Pooling(DIM, mode, **settings, **options)
    module.pooling.load_state_dict(make(name).state_dict())
    return module


def _vector(module: Any, **features: Any) -> Tensor:
    pooled: Tensor = module(features)["sentence_embedding"]
    return pooled


def _layouts(x: Tensor, mask: Tensor) -> list[dict[str, Any]]:
    """A padded batch without holes, and the same flat."""
    flat = {"token_embeddings": x[mask.bool()][None], "cu_seq_lens_q": lengths_to_offsets(mask.sum(1).tolist())}
    return [{"token_embeddings": x, "attention_mask": mask}, flat]


X = tokens(3, 5, DIM)
MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 0]])  # right, left, both sides


# --------------------------------------------------------------------------------------- every pooling, every layout


@every_pooling
@pytest.mark.parametrize("flat", [False, True])
def test_vectors_are_the_layers(name: str, flat: bool) -> None:
    """A module's vectors are its layer's, bit for bit if it does not learn; NaN at pads changes nothing."""
    expected = make(name)(X, MASK)
    pooled = _vector(_module(name), **_layouts(poison(X, MASK, torch.nan), MASK)[flat])
    close = 1e-6 if flat and name in LEARNED else 0.0  # learned poolings compute padded batches in another order
    torch.testing.assert_close(pooled, expected, rtol=close, atol=close)


@every_pooling
def test_widths(name: str) -> None:
    """A module says how wide its vectors are."""
    module = _module(name)
    assert module.get_embedding_dimension() == WIDTHS.get(name, 1) * DIM == _vector(module, token_embeddings=X).shape[1]


@compares_with_the_host
@every_host_mode
@given(mask=masks(max_tokens=30), dtype=any_dtype, seed=st.integers(0, 99))
def test_the_host_is_matched(mode: Mode, mask: Tensor, dtype: torch.dtype, seed: int) -> None:
    """In the host's modes and tuples vectors are the host's, wherever each text has a token."""
    mask = mask.long()
    mask[:, 0] |= 1 - mask.any(dim=1).long()
    features = {"token_embeddings": tokens(*mask.shape, DIM, dtype=dtype, seed=seed), "attention_mask": mask}
    theirs: Any = HostPooling(DIM, mode)
    torch.testing.assert_close(_vector(Pooling(DIM, mode), **features), _vector(theirs, **features))


@compares_with_the_host
@every_host_mode
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("prompt", [0, 1, torch.tensor([1]), torch.tensor([1, 1, 1]), torch.tensor([0])], ids=str)
def test_prompts_are_left_out(mode: Mode, flat: bool, prompt: int | Tensor) -> None:
    """include_prompt=False leaves the prompt's tokens out as the host does, in each form of its length."""
    theirs: Any = HostPooling(DIM, mode, include_prompt=False)
    features = _layouts(X, MASK)[flat] | {"prompt_length": prompt}
    ours = Pooling(DIM, mode, include_prompt=False)
    torch.testing.assert_close(_vector(ours, **features), _vector(theirs, **features))
    torch.testing.assert_close(
        _vector(Pooling(DIM, mode), **features), _vector(Pooling(DIM, mode), **_layouts(X, MASK)[flat])
    )


@every_pooling
@pytest.mark.parametrize("flat", [False, True])
def test_prompts_of_each_text(name: str, flat: bool) -> None:
    """Each text loses its own prompt, and one that is all prompt is zeros, in every pooling and layout."""
    prompts = torch.tensor([1, 4, 0])
    expected = make(name)(TokenBatch.from_padded(X, MASK).select(exclude_prompt(MASK, prompts)))
    pooled = _vector(_module(name, include_prompt=False), **_layouts(X, MASK)[flat], prompt_length=prompts)
    assert torch.equal(pooled, expected)
    assert not pooled[1].any()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("mode", HOST_MODES)
def test_prompts_on_other_devices(mode: str, flat: bool) -> None:
    """Where packed batches are padded first, prompts and special tokens are left out all the same."""
    module = Pooling(DIM, mode, include_prompt=False, include_special_tokens=False)
    features = _layouts(X, MASK)[flat] | {"prompt_length": torch.tensor([1, 2, 0])}
    special = torch.zeros_like(MASK)
    special[:, 3] = 1
    features["special_tokens_mask"] = special[MASK.bool()][None] if flat else special
    expected = _vector(module, **features)
    with dense_route():
        torch.testing.assert_close(_vector(module, **features), expected)


@every_pooling
def test_features_are_not_written_to(name: str) -> None:
    """The features stay as they are, a new dictionary holds them and the vector, and a second call agrees."""
    module = _module(name, include_prompt=False, include_special_tokens=False)
    features: dict[str, Any] = {
        "token_embeddings": X.clone(),
        "attention_mask": MASK.clone(),
        "prompt_length": 1,
        "special_tokens_mask": torch.zeros_like(MASK),
        "else": "kept",
    }
    before = {key: value.clone() if isinstance(value, Tensor) else value for key, value in features.items()}
    first, second = module(features), module(features)
    assert first is not features
    assert set(first) == {*features, "sentence_embedding"}
    assert torch.equal(first["sentence_embedding"], second["sentence_embedding"])
    for key, value in before.items():
        assert torch.equal(features[key], value) if isinstance(value, Tensor) else features[key] == value


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("on_empty", ["zero", "nan", "raise"])
@pytest.mark.parametrize("mode", [*PLAIN[:4], ("mean", "max")])
def test_texts_without_a_token(mode: Mode, on_empty: OnEmpty, flat: bool) -> None:
    """A text without a token gets what on_empty says, and its neighbours keep their vectors."""
    mask = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    features = _layouts(X[:, :3], mask)[flat]
    module = Pooling(DIM, mode, on_empty=on_empty)
    if on_empty == "raise":
        with pytest.raises(ValueError, match=r"1 of 3 have none \(rows 1\)"):
            module(features)
        return
    pooled = _vector(module, **features)
    assert (pooled[1] == 0).all() if on_empty == "zero" else pooled[1].isnan().all()
    whole = _vector(module, token_embeddings=X[[0, 2], :3], attention_mask=mask[[0, 2]])
    assert torch.equal(pooled[[0, 2]], whole)


# ----------------------------------------------------------------------------------------- what else features may hold


@pytest.mark.parametrize("mode", HOST_MODES)
def test_no_mask_means_all_real(mode: str) -> None:
    """Without a mask every token is real, as for the host."""
    assert torch.equal(
        _vector(Pooling(DIM, mode), token_embeddings=X),
        _vector(Pooling(DIM, mode), token_embeddings=X, attention_mask=torch.ones(3, 5, dtype=torch.bool)),
    )


@pytest.mark.parametrize("mode", HOST_MODES)
def test_sequence_numbers_are_not_needed(mode: str) -> None:
    """A flat batch with its tokens' sequence numbers is the same batch."""
    flat = _layouts(X, MASK)[1]
    numbered = flat | {"seq_idx": torch.repeat_interleave(torch.arange(3), MASK.sum(1))[None]}
    assert torch.equal(_vector(Pooling(DIM, mode), **numbered), _vector(Pooling(DIM, mode), **flat))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_a_vector_for_cls(given: bool, flat: bool) -> None:
    """Cls returns the given cls vector, or the first token if it is None; an empty text gets zeros."""
    mask = MASK * torch.tensor([[1], [1], [0]])
    features = _layouts(X, mask)[flat] | {"cls_token_embeddings": torch.ones(3, DIM) if given else None}
    pooled = _vector(Pooling(DIM, ("cls", "mean")), **features)
    expected = torch.ones(3, DIM) if given else torch.stack([X[0, 0], X[1, 1], X[2, 2]])
    expected[2] = 0
    assert torch.equal(pooled[:, :DIM], expected)
    assert torch.equal(pooled[:, DIM:], _vector(Pooling(DIM, "mean"), **_layouts(X, mask)[flat]))


# Modes that divide the sum of weighted embeddings by a power of the sum of weights, and the power.
SUMS = {"mean": 1.0, "mean_sqrt_len_tokens": 0.5, "sum": 0.0}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("mode", "root"), SUMS.items())
def test_weighted_embeddings(mode: str, root: float, flat: bool) -> None:
    """Embeddings that are weighted already are divided by their weights' sum, or its root, or by nothing."""
    weights = torch.rand(3, 5) + 0.5
    weights[2] = 0.0
    sums = (weights * MASK).sum(dim=1)
    features = _layouts(X * weights[:, :, None], MASK)[flat]
    expected = (X * (weights * MASK)[:, :, None]).sum(dim=1) / torch.where(sums > 0, sums, 1)[:, None] ** root
    pooled = _vector(Pooling(DIM, mode), **features, token_weights_sum=sums)
    torch.testing.assert_close(pooled, expected)
    theirs: Any = HostPooling(DIM, "mean")
    if mode == "mean" and not flat:
        torch.testing.assert_close(pooled, _vector(theirs, **features, token_weights_sum=sums))
    nan = _vector(Pooling(DIM, mode, on_empty="nan"), **features, token_weights_sum=sums)
    assert nan.isnan().all(dim=1).tolist() == [False, False, True]


@pytest.mark.parametrize("flat", [False, True])
def test_weighted_embeddings_of_an_empty_text(flat: bool) -> None:
    """A text without a token is empty for any given sum of weights."""
    mask = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    features = _layouts(X[:, :3], mask)[flat] | {"token_weights_sum": torch.ones(3)}
    pooled = _vector(Pooling(DIM, on_empty="nan"), **features)
    assert pooled.isnan().all(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize("mode", [mode for mode in POOLINGS if mode not in WEIGHTED])
def test_weighted_embeddings_where_no_weights_are_summed(mode: str) -> None:
    """Poolings without a denominator take weighted embeddings as they come, as the host does."""
    features, module = _layouts(X, MASK)[0], Pooling(DIM, mode, **required(mode))
    assert torch.equal(_vector(module, **features, token_weights_sum=torch.ones(3)), _vector(module, **features))


@pytest.mark.parametrize("mode", [mode for mode in WEIGHTED if mode in POOLINGS and mode not in SUMS])
def test_weighted_embeddings_without_a_right_denominator(mode: str) -> None:
    """Where the sum of weights is not the denominator, it is refused, and weights= named."""
    with pytest.raises(ValueError, match=rf"does not give the denominator of pooling_mode '{mode}'.*token weights"):
        _vector(Pooling(DIM, mode), **_layouts(X, MASK)[0], token_weights_sum=torch.ones(3))


def test_weighted_embeddings_without_their_prompt() -> None:
    """Once tokens are excluded the sum of weights says nothing: refused, but for the sum, which needs none."""
    features = _layouts(X, MASK)[0] | {"token_weights_sum": torch.ones(3), "prompt_length": 1}
    for mode in ("mean", "mean_sqrt_len_tokens"):
        with pytest.raises(ValueError, match="does not give the denominator once tokens are excluded"):
            _vector(Pooling(DIM, mode, include_prompt=False), **features)
    expected = _vector(Pooling(DIM, "sum"), token_embeddings=X, attention_mask=exclude_prompt(MASK, 1))
    torch.testing.assert_close(_vector(Pooling(DIM, "sum", include_prompt=False), **features), expected)


@compares_with_the_host
def test_word_embeddings_and_weights_of_the_host() -> None:
    """Behind the host's own word embeddings and word weights vectors are its own; cls works, where its own fails."""
    words = ["a", "b", "c", "d"]
    embeddings: Any = WordEmbeddings(WhitespaceTokenizer(words, stop_words=set()), tokens(4, DIM).numpy())
    weighing = WordWeights(words, {"a": 0.1, "b": 2.0, "c": 0.5}, unknown_word_weight=1.0)
    features = embeddings.tokenize(["a b c", "d", "c c a b"])
    features = weighing(embeddings(features))
    for mode in ("mean", "mean_sqrt_len_tokens"):
        theirs: Any = HostPooling(DIM, mode)
        expected = theirs(dict(features))["sentence_embedding"]
        torch.testing.assert_close(Pooling(DIM, mode)(features)["sentence_embedding"], expected)
    assert torch.equal(Pooling(DIM, "cls")(features)["sentence_embedding"], features["token_embeddings"][:, 0])
    with pytest.raises(TypeError):
        HostPooling(DIM, "cls")(dict(features))


SPECIAL = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 0, 1], [1, 1, 1, 1, 1]])


@every_pooling
@pytest.mark.parametrize("flat", [False, True])
def test_prompts_and_special_tokens_are_left_out(name: str, flat: bool) -> None:
    """A module that includes neither leaves out the tokens of both."""
    prompts = torch.tensor([2, 1, 0])
    kept = exclude_prompt(MASK, prompts) * (1 - SPECIAL)
    assert not torch.equal(kept, MASK * (1 - SPECIAL))
    module = _module(name, include_prompt=False, include_special_tokens=False)
    features = _layouts(X, MASK)[flat] | {
        "prompt_length": prompts,
        "special_tokens_mask": SPECIAL[MASK.bool()][None] if flat else SPECIAL,
    }
    assert torch.equal(_vector(module, **features), make(name)(TokenBatch.from_padded(X, MASK).select(kept)))


@every_pooling
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("by_ids", [False, True])
def test_special_tokens_are_left_out(name: str, flat: bool, by_ids: bool) -> None:
    """include_special_tokens=False leaves out the tokens that the mask, or the tokenizer's ids, call special."""
    module = _module(name, include_special_tokens=False)
    expected = make(name)(TokenBatch.from_padded(X, MASK).select(1 - SPECIAL))
    given = SPECIAL
    if by_ids:
        given = SPECIAL * torch.tensor([101, 102, 101, 102, 101]) + (1 - SPECIAL) * 7

        class Owner:
            device = torch.device("cpu")

            @staticmethod
            def tokenizer(text: str) -> dict[str, list[int]]:
                assert text == ""
                return {"input_ids": [101, 102]}

        module.on_model_ready(Owner())
    key = "input_ids" if by_ids else "special_tokens_mask"
    features = _layouts(X, MASK)[flat] | {key: given[MASK.bool()][None] if flat else given}
    pooled = _vector(module, **features)
    assert torch.equal(pooled, expected)
    assert not pooled[2].any(), "nothing but special tokens"
    assert not torch.equal(_vector(_module(name), **features), expected)


def test_special_tokens_that_cannot_be_known() -> None:
    """Without a mask or ids that identify special tokens, leaving them out is refused, with the ways out."""
    module = Pooling(DIM, include_special_tokens=False)
    for features, missing in (({}, "input_ids"), ({"input_ids": MASK}, "a model's tokenizer")):
        with pytest.raises(
            ValueError, match=rf"special_tokens_mask and {missing} are missing: tokenize with return_sp"
        ):
            _vector(module, **_layouts(X, MASK)[0], **features)


# -------------------------------------------------------------------------------- the host's defects, and ours without


def _both(mode: str, features: dict[str, Any], **settings: Any) -> tuple[Tensor, Tensor]:
    """Ours and the host's."""
    theirs: Any = HostPooling(DIM, mode, **settings)
    return _vector(Pooling(DIM, mode, **settings), **features), _vector(theirs, **features)


@pytest.mark.parametrize("mode", ["cls", "max"])
def test_defect_1_a_row_of_pads(mode: str) -> None:
    """A text of only pads is zeros, where the host gives a pad's vector or −inf."""
    ours, theirs = _both(mode, {"token_embeddings": X, "attention_mask": MASK * torch.tensor([[1], [0], [1]])})
    assert not ours[1].any()
    assert theirs[1].any()


@compares_with_the_host
@pytest.mark.parametrize("mode", ["cls", "max", "lasttoken"])
def test_defect_1_no_positions(mode: str) -> None:
    """Texts without a position are zeros, where the host raises IndexError."""
    features = {"token_embeddings": torch.empty(2, 0, DIM), "attention_mask": torch.empty(2, 0, dtype=torch.int64)}
    assert torch.equal(_vector(Pooling(DIM, mode), **features), torch.zeros(2, DIM))
    with pytest.raises(IndexError):
        HostPooling(DIM, mode)(features)


@pytest.mark.parametrize(("mode", "place"), [("cls", 2), ("lasttoken", 1)])
def test_defect_2_an_empty_text_in_a_flat_batch(mode: str, place: int) -> None:
    """An empty text between others is zeros, where the host gives a neighbour's token."""
    rows = tokens(4, DIM)
    ours, theirs = _both(mode, {"token_embeddings": rows[None], "cu_seq_lens_q": lengths_to_offsets([2, 0, 2])})
    assert not ours[1].any()
    assert torch.equal(theirs[1], rows[place])


def test_defect_3_a_prompt_as_long_as_its_text() -> None:
    """A text that is all prompt is zeros in either layout, where the host's last token depends on the layout."""
    padded, flat = _layouts(X, MASK)
    ours, theirs = _both("lasttoken", flat | {"prompt_length": 3}, include_prompt=False)
    assert torch.equal(theirs[0], X[0, 2])
    assert not ours[0].any()
    ours, theirs = _both("lasttoken", padded | {"prompt_length": 3}, include_prompt=False)
    assert not ours[0].any()
    assert not theirs[0].any()


@compares_with_the_host
@pytest.mark.parametrize("mode", HOST_MODES)
def test_defect_4_a_mask_of_another_width(mode: str) -> None:
    """A mask that does not fit is refused, where the host takes every token for real."""
    features = {"token_embeddings": X, "attention_mask": MASK[:, :4]}
    theirs: Any = HostPooling(DIM, mode)
    torch.testing.assert_close(_vector(theirs, **features), _vector(theirs, token_embeddings=X))
    with pytest.raises(ValueError, match=r"attention_mask must have the shape \(3, 5\).*got \(3, 4\)"):
        _vector(Pooling(DIM, mode), **features)


@compares_with_the_host
@pytest.mark.parametrize(
    ("mode", "prompt", "wrong"), [("mean", 2, 0.5), ("weightedmean", 2, 1.75), ("weightedmean", 0, 2.5)]
)
def test_defect_5_the_sum_of_weights(mode: str, prompt: int, wrong: float) -> None:
    """A sum of weights that is not a denominator is refused, where the host pools ones to another number."""
    features = {
        "token_embeddings": torch.ones(1, 4, DIM),
        "attention_mask": torch.ones(1, 4, dtype=torch.int64),
        "prompt_length": prompt,
        "token_weights_sum": torch.tensor([4.0]),
    }
    theirs: Any = HostPooling(DIM, mode, include_prompt=False)
    torch.testing.assert_close(_vector(theirs, **features), torch.full((1, DIM), wrong))
    with pytest.raises(ValueError, match="token_weights_sum"):
        _vector(Pooling(DIM, mode, include_prompt=False), **features)


def test_defect_5_the_sum_of_weights_flat() -> None:
    """The sum of weights counts in flat batches too, where the host ignores it."""
    features = {
        "token_embeddings": torch.full((1, 4, DIM), 0.5),
        "cu_seq_lens_q": lengths_to_offsets([4]),
        "token_weights_sum": torch.tensor([2.0]),
    }
    ours, theirs = _both("mean", features)
    torch.testing.assert_close(ours, torch.ones(1, DIM))
    torch.testing.assert_close(theirs, torch.full((1, DIM), 0.5))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ONE_PER_FAMILY[::3], id="every third family"),
        pytest.param(TOGETHER, id="together", marks=pytest.mark.full),
        *(pytest.param([name], marks=pytest.mark.full, id=name) for name in (*PLAIN, *LEARNED)),
    ],
)
def test_defect_6_prompts_in_graphs(names: list[str]) -> None:
    """Modules that leave prompts out compile to one graph and export for batches of any size."""
    prompts = torch.tensor([1, 2, 0])

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.poolings = torch.nn.ModuleList(_module(name, include_prompt=False) for name in names)
            self.requires_grad_(False)

        def forward(self, x: Tensor, mask: Tensor, prompt: Tensor) -> list[Tensor]:
            features = {"token_embeddings": x, "attention_mask": mask, "prompt_length": prompt}
            return [_vector(module, **features) for module in self.poolings]

    expected = Graph()(X, MASK, prompts)
    compiled = torch.compile(Graph(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X, MASK, prompts), expected, rtol=1e-5, atol=1e-6)
    batch, seq = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    shapes = ({0: batch, 1: seq}, {0: batch, 1: seq}, {0: batch})
    program = torch.export.export(Graph(), (X, MASK, prompts), dynamic_shapes=shapes).module()
    other = tokens(2, 7, DIM, seed=3), torch.ones(2, 7, dtype=torch.int64), torch.tensor([3, 1])
    torch.testing.assert_close(program(*other), Graph()(*other), rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_defect_7_nan_at_a_pad(mode: str) -> None:
    """NaN at a pad stays there, where the host's means become NaN."""
    ours, theirs = _both(mode, {"token_embeddings": poison(X, MASK, torch.nan), "attention_mask": MASK})
    assert torch.equal(ours, _both(mode, {"token_embeddings": X, "attention_mask": MASK})[0])
    assert theirs.isnan().all()


@compares_with_the_host
def test_defect_8_no_vector_for_cls() -> None:
    """A cls vector of None counts as missing, where the host raises TypeError."""
    features = _layouts(X, MASK)[0] | {"cls_token_embeddings": None}
    assert torch.equal(_vector(Pooling(DIM, "cls"), **features)[0], X[0, 0])
    with pytest.raises(TypeError, match="NoneType"):
        HostPooling(DIM, "cls")(features)


# ------------------------------------------------------------------------------------------- a module among the host's


def test_the_hosts_constructor() -> None:
    """The constructor takes the host's arguments by place and name, old names included, with the host's warning."""
    assert Pooling(DIM, ("mean", "max"), False).get_config_dict() == {
        "embedding_dimension": DIM,
        "pooling_mode": ("mean", "max"),
        "include_prompt": False,
        "on_empty": "zero",
        "include_special_tokens": True,
    }
    assert Pooling(DIM, ["max"]).pooling_mode == "max"
    assert Pooling(word_embedding_dimension=DIM).embedding_dimension == DIM  # type: ignore[call-arg]  # the old name
    with pytest.warns(FutureWarning, match="pooling_mode_max_tokens"):
        module = Pooling(DIM, pooling_mode_max_tokens=True, pooling_mode_cls_token=True)
    assert module.pooling_mode == ("cls", "max")
    assert isinstance(module, HostPooling)


@every_pooling
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """A module that is saved and loaded is the same, settings, options and learned weights."""
    module = _module(name, include_prompt=False, on_empty="nan", include_special_tokens=False)
    module.save(str(tmp_path))
    loaded = type(module).load(str(tmp_path))
    assert loaded.get_config_dict() == module.get_config_dict()
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))
    assert (tmp_path / "model.safetensors").exists() == (name in LEARNED)


def test_the_hosts_saved_settings(tmp_path: Path) -> None:
    """A folder that any version of the host has saved loads into ours."""
    HostPooling(DIM, ("cls", "mean"), include_prompt=False).save(str(tmp_path))
    assert Pooling.load(str(tmp_path)).get_config_dict()["pooling_mode"] == ("cls", "mean")
    old = {"word_embedding_dimension": DIM, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert Pooling.load(str(tmp_path)).pooling_mode == "max"


def test_weights_that_are_missing(tmp_path: Path) -> None:
    """A learned module whose weights are missing, or another module's, does not load."""
    module = _module("attention")
    module.save(str(tmp_path))
    _module("attention-additive").save_torch_weights(str(tmp_path))
    with pytest.raises(RuntimeError, match=r"got \(1, \d\) for pooling\.query in place of"):
        Pooling.load(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must hold weights in model\.safetensors"):
        Pooling.load(str(tmp_path))


@every_pooling
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies(name: str, duplicate: Callable[[Pooling], Pooling]) -> None:
    """A copy, by pickle too, pools as the module does."""
    module = _module(name)
    assert torch.equal(_vector(duplicate(module), **_layouts(X, MASK)[0]), _vector(module, **_layouts(X, MASK)[0]))


@pytest.mark.parametrize("name", ["pooling_mode", "on_empty", "include_special_tokens", "embedding_dimension"])
def test_settings_are_fixed(name: str) -> None:
    """A setting that a finished module would not follow cannot be set; include_prompt can."""
    module = Pooling(DIM)
    with pytest.raises(AttributeError, match=rf"{name} is fixed when Pooling is made.*replace_pooling"):
        setattr(module, name, "max")
    module.include_prompt = False
    features = _layouts(X, MASK)[0] | {"prompt_length": 1}
    assert torch.equal(_vector(module, **features), _vector(Pooling(DIM, include_prompt=False), **features))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LEARNED)
def test_halves(name: str, dtype: torch.dtype) -> None:
    """A learned module that the host casts to half precision scores in float32."""
    module = _module(name).to(dtype)
    pooled = _vector(module, **_layouts(X.to(dtype), MASK)[0])
    exact = copy.deepcopy(module).double()
    expected = _vector(exact, **_layouts(X.to(dtype).double(), MASK)[0])
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


BAD: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "no tokens",
        lambda: _vector(Pooling(DIM), input_ids=MASK),
        ValueError,
        "features must hold token_embeddings, got input_ids: a pooling follows",
    ),
    ("nothing", lambda: _vector(Pooling(DIM)), ValueError, "got nothing"),
    (
        "dimension",
        lambda: _vector(Pooling(7), token_embeddings=X),
        ValueError,
        "embedding_dimension 7 of this module, got 6: build it",
    ),
    (
        "cls",
        lambda: _vector(Pooling(DIM, "cls"), token_embeddings=X, cls_token_embeddings=X[0]),
        ValueError,
        r"cls_token_embeddings must have the shape \(batch, dim\) = \(3, 6\), got \(5, 6\)",
    ),
    (
        "weights",
        lambda: _vector(Pooling(DIM), token_embeddings=X, token_weights_sum=torch.ones(2)),
        ValueError,
        r"token_weights_sum must have the shape \(3,\), \(batch,\), got \(2,\)",
    ),
    (
        "prompts",
        lambda: _vector(Pooling(DIM, include_prompt=False), token_embeddings=X, prompt_length=torch.tensor([1, 2])),
        ValueError,
        "prompt_lengths must have the shape",
    ),
    (
        "mask",
        lambda: _vector(Pooling(DIM), token_embeddings=X, attention_mask=MASK.float() / 2),
        TypeError,
        "attention_mask",
    ),
    (
        "special",
        lambda: _vector(
            Pooling(DIM, include_special_tokens=False), token_embeddings=X, special_tokens_mask=MASK[:, :4]
        ),
        ValueError,
        r"must have one number for each token, got \(3, 4\) for a batch of \(3, 5\)",
    ),
    ("number", lambda: Pooling(DIM, 5), TypeError, "pooling_mode must be a string or a tuple of strings, got int"),  # type: ignore[arg-type]  # on purpose
    ("mode", lambda: Pooling(DIM, "middle"), ValueError, "pooling_mode must be one of 'mean'"),
    ("option", lambda: Pooling(DIM, "mean", k=3), TypeError, "k must be an option of pooling_mode 'mean'"),
    (
        "no option",
        lambda: Pooling(DIM, NEEDS_OPTION),
        ValueError,
        f"{REQUIRED_OPTION} is required for the pooling_mode '{NEEDS_OPTION}'",
    ),
    ("zero", lambda: Pooling(0), ValueError, "embedding_dimension must be a positive integer, got 0"),
    ("word", lambda: Pooling("mean"), ValueError, "embedding_dimension must be a positive integer, got 'mean'"),  # type: ignore[arg-type]  # on purpose
    ("on_empty", lambda: Pooling(DIM, on_empty="one"), ValueError, "on_empty must be one of"),  # type: ignore[arg-type]  # on purpose
]


@pytest.mark.parametrize(("make_bad", "kind", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_refused(make_bad: Callable[[], Any], kind: type[Exception], message: str) -> None:
    """An input that does not fit is refused by name, with what was expected and what was given."""
    with pytest.raises(kind, match=message):
        make_bad()
