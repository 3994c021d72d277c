"""Law 9: bad input raises, naming the argument, what was expected and what was passed."""

import inspect
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import maskpool
from maskpool import TokenBatch
from maskpool.errors import InvalidTypeError, InvalidValueError, MaskpoolError
from maskpool.nn import AttentionPooling, ConcatPooling, FirstLastAveragePooling, LayerMix, MeanPooling
from tests.batches import dense_route
from tests.matrix import spread
from tests.poolings import (
    BATCH_FUNCTIONS,
    DIM,
    LAYERS_FUNCTIONS,
    LEARNED,
    ONE_PER_FAMILY,
    SPECS,
    arguments_of,
    make,
)

X = torch.ones(2, 3, DIM)
MASK = torch.ones(2, 3, dtype=torch.int64)


def _entrances(layout: str) -> dict[str, Callable[..., Any]]:
    """Return every function and layer that takes a batch, with all other arguments set."""
    entrances: dict[str, Callable[..., Any]] = {name: make(name) for name in SPECS}
    for name in (*BATCH_FUNCTIONS, *LAYERS_FUNCTIONS):
        entrances[name] = partial(getattr(maskpool.functional, name), **arguments_of(name, layout))
    of_layers = [*LAYERS_FUNCTIONS, "LayerMix", "FirstLastAveragePooling"]
    entrances["LayerMix"], entrances["FirstLastAveragePooling"] = LayerMix(1), FirstLastAveragePooling()
    for name in of_layers:
        entrances[name] = _of_one_layer(entrances[name])
    return {**entrances, "TokenBatch.of": TokenBatch.of}


def _of_one_layer(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda token_embeddings, *args, **given: function([token_embeddings], *args, **given)


ENTRANCES = _entrances("padded")

REFUSALS: dict[str, tuple[object, object, type[Exception], str]] = {
    "features": (
        {"token_embeddings": X, "attention_mask": MASK},
        None,
        TypeError,
        "token_embeddings must be a tensor of shape (batch, seq, dim), got a mapping with token_embeddings, "
        "attention_mask. In a SentenceTransformer use maskpool.integrations.sentence_transformers.Pooling; elsewhere "
        "call layer(features['token_embeddings'], features['attention_mask'])",
    ),
    "list": (
        X.tolist(),
        MASK,
        TypeError,
        "token_embeddings must be a torch.Tensor of shape (batch, seq, dim) or a TokenBatch, got list",
    ),
    "integers": (
        X.long(),
        MASK,
        TypeError,
        "token_embeddings must have a floating dtype (float16, bfloat16, float32 or float64), got torch.int64",
    ),
    "complex": (
        X + 0j,
        MASK,
        TypeError,
        "token_embeddings must have a floating dtype (float16, bfloat16, float32 or float64), got torch.complex64",
    ),
    "sparse": (X.to_sparse(), MASK, TypeError, "token_embeddings must be a strided tensor, got layout torch.sparse"),
    "two dimensions": (
        X[0],
        MASK[0],
        ValueError,
        "token_embeddings must have 3 dimensions (batch, seq, dim), got 2: shape (3, 6)",
    ),
    "four dimensions": (
        X[None],
        MASK,
        ValueError,
        "token_embeddings must have 3 dimensions (batch, seq, dim), got 4: shape (1, 2, 3, 6)",
    ),
    "no mask": (
        X,
        None,
        ValueError,
        "attention_mask is required with padded token_embeddings: shape (batch, seq), 1 at real tokens; "
        "pass torch.ones(batch, seq, dtype=torch.bool)",
    ),
    "mask list": (X, MASK.tolist(), TypeError, "attention_mask must be a torch.Tensor, got list"),
    "additive mask": (
        X,
        -1e9 * MASK.float(),
        TypeError,
        "attention_mask must be bool or integer with 1 at real tokens, got torch.float32 with negative values, an "
        "additive mask: convert it with `mask == 0`",
    ),
    "fractional mask": (
        X,
        MASK.half() / 2,
        TypeError,
        "attention_mask must be bool or integer with 1 at real tokens, got torch.float16 with values other than 0 and "
        "1: fractions are weights of tokens, pass them as token_weights",
    ),
    "mapping without a mask": (
        X,
        {"input_ids": MASK},
        ValueError,
        "attention_mask must be a mask or a tokenizer's output that holds one, got a mapping with input_ids: call the "
        "tokenizer with return_attention_mask=True",
    ),
    "4-D mask": (
        X,
        MASK[:, None, None],
        ValueError,
        "attention_mask must have 2 dimensions (batch, seq), got the 4-D shape (2, 1, 1, 3)",
    ),
    "1-D mask": (
        X,
        MASK[0],
        ValueError,
        "attention_mask must have the shape (2, 3) of token_embeddings' first two dimensions, got (3,)",
    ),
    "3-D mask": (X, MASK[:, :, None], ValueError, "attention_mask must have the shape (2, 3) of token_embeddings'"),
    "wider mask": (
        X,
        torch.ones(2, 4, dtype=torch.bool),
        ValueError,
        "attention_mask must have the shape (2, 3) of token_embeddings' first two dimensions, got (2, 4)",
    ),
    "broadcastable mask": (
        X,
        MASK[:1],
        ValueError,
        "attention_mask must have the shape (2, 3) of token_embeddings' first two dimensions, got (1, 3)",
    ),
    "transposed mask": (X, MASK.t(), ValueError, "first two dimensions, got (3, 2)"),
    "mask elsewhere": (
        X,
        MASK.to("meta"),
        ValueError,
        "attention_mask must be on token_embeddings' device cpu, got meta",
    ),
    "mask of twos": (
        X,
        2 * MASK,
        ValueError,
        "attention_mask must hold only 0 (pad) and 1 (real token); it holds 2 to 2",
    ),
    "negative mask": (X, MASK.tril() - 1, ValueError, "must hold only 0 (pad) and 1 (real token); it holds -1 to 0"),
    "mask of bytes": (X, (255 * MASK).to(torch.uint8), ValueError, "1 (real token); it holds 255 to 255"),
    "batch and mask": (
        TokenBatch.from_padded(X, MASK),
        MASK,
        TypeError,
        "attention_mask must be omitted if token_embeddings is a TokenBatch",
    ),
}


def _assert_refused(call: Callable[[], object], error: type[MaskpoolError], argument: str, text: str, who: str) -> None:
    with pytest.raises(error, match=re.escape(text)) as caught:
        call()
    assert caught.value.argument == argument, who


def _kind(error: type[Exception]) -> type[MaskpoolError]:
    return {ValueError: InvalidValueError, TypeError: InvalidTypeError}[error]


def _argument(text: str) -> str:
    return next((name for name in ("token_embeddings", "cu_seqlens") if text.startswith(name)), "attention_mask")


@pytest.mark.parametrize("refusal", REFUSALS)
def test_bad_batch(refusal: str) -> None:
    """Every function and layer refuses an invalid padded batch with the same message."""
    x, mask, error, text = REFUSALS[refusal]
    for name, entrance in ENTRANCES.items():
        _assert_refused(partial(entrance, x, mask), _kind(error), _argument(text), text, name)


@pytest.mark.parametrize("refusal", ["wider mask", "4-D mask", "broadcastable mask", "two dimensions"])
def test_bad_batch_on_other_devices(refusal: str) -> None:
    """Shapes and dtypes are refused on every device."""
    x, mask, error, text = REFUSALS[refusal]
    assert isinstance(x, torch.Tensor)
    assert isinstance(mask, torch.Tensor)
    for name, entrance in ENTRANCES.items():
        call = partial(entrance, x.to("meta"), mask.to("meta"))
        _assert_refused(call, _kind(error), _argument(text), text, name)


@spread(3, name=SPECS, word=["Zero", "", None, "skip"])
def test_unknown_on_empty(name: str, word: object) -> None:
    """An unknown on_empty is refused by the constructor, and the known ones are listed."""
    text = f"on_empty must be one of 'zero', 'nan', 'raise', got {word!r}"
    with pytest.raises(ValueError, match=re.escape(text)):
        make(name, on_empty=word)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in (*BATCH_FUNCTIONS, *LAYERS_FUNCTIONS)
        if "on_empty" in inspect.signature(getattr(maskpool.functional, name)).parameters
    ],
)
def test_unknown_on_empty_of_functions(name: str) -> None:
    """The functions refuse an unknown on_empty too, even where no sentence is empty."""
    with pytest.raises(ValueError, match=re.escape("on_empty must be one of 'zero', 'nan', 'raise', got 'drop'")):
        ENTRANCES[name](X, MASK, on_empty="drop")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"embedding_dimension": 0}, "embedding_dimension must be a positive integer, got 0"),
        ({"embedding_dimension": 6.0}, "embedding_dimension must be a positive integer, got 6.0"),
        ({"embedding_dimension": "6"}, "embedding_dimension must be a positive integer, got '6'"),
        ({"embedding_dimension": 6, "num_heads": 0}, "num_heads must be a positive integer, got 0"),
        ({"embedding_dimension": 6, "num_heads": True}, "num_heads must be a positive integer, got True"),
        ({"embedding_dimension": 6, "hidden_dimension": -1}, "hidden_dimension must be a positive integer, got -1"),
        ({"embedding_dimension": 6, "num_heads": 4}, "num_heads must divide the dimension 6 of a token, got 4"),
    ],
)
def test_bad_sizes(options: dict[str, Any], text: str) -> None:
    """A size of the attention layer that is not a positive integer, or does not divide, is refused by its name."""
    with pytest.raises(ValueError, match=re.escape(text)):
        AttentionPooling(**options)


@pytest.mark.parametrize("width", [5, 7, 12])
@pytest.mark.parametrize("name", [name for name in LEARNED if "embedding_dimension=" in repr(make(name))])
def test_wrong_width(name: str, width: int) -> None:
    """A learned layer names the width that it was built for and the one that was passed."""
    with pytest.raises(ValueError, match=f"token_embeddings must have embedding_dimension={DIM} features, got {width}"):
        make(name)(torch.ones(2, 3, width), MASK)


@pytest.mark.parametrize(
    ("function", "changed", "text"),
    [
        (
            "attention_scores",
            {"query": torch.ones(2, 4)},
            "hidden_weight must have the shape (hidden, dim), hidden = 4 as of query, dim = 6 as of token_embeddings; "
            "got (5, 6)",
        ),
        (
            "attention_scores",
            {"hidden_weight": None, "hidden_bias": None},
            "query must have the shape (heads, dim), dim = 6 as of token_embeddings; got (1, 5)",
        ),
        (
            "attention_scores",
            {"hidden_weight": None},
            "hidden_bias must come with its hidden_weight, got hidden_weight=None",
        ),
        ("attention_scores", {"query": torch.ones(5)}, "query must have the shape (heads, hidden); got (5,)"),
        (
            "attention_scores",
            {"query": torch.ones(0, 5)},
            "query must have at least 1 of the heads in its shape (heads, hidden), got (0, 5)",
        ),
        (
            "attention_scores",
            {"hidden_bias": torch.ones(1)},
            "hidden_bias must have the shape (hidden,), hidden = 5 as of query; got (1,)",
        ),
        (
            "gated_attention_scores",
            {"gate_weight": torch.ones(DIM, 5)},
            "gate_weight must have the shape (hidden, dim), hidden = 5 as of query, dim = 6 as of token_embeddings; "
            "got (6, 5)",
        ),
        (
            "gated_attention_scores",
            {"gate_bias": torch.ones(1)},
            "gate_bias must have the shape (hidden,), hidden = 5 as of query; got (1,)",
        ),
        (
            "multihead_attention_pool",
            {"num_heads": 4},
            "num_heads must divide the dimension 6 of token_embeddings, got 4",
        ),
        ("multihead_attention_pool", {"num_heads": 0}, "num_heads must be a positive integer, got 0"),
        ("multihead_attention_pool", {"num_heads": 2.0}, "num_heads must be a positive integer, got 2.0"),
        (
            "multihead_attention_pool",
            {"queries": torch.ones(1, 2 * DIM)},
            "queries must have the shape (queries, dim), dim = 6 as of token_embeddings; got (1, 12)",
        ),
        (
            "multihead_attention_pool",
            {"key_weight": torch.ones(DIM, 5)},
            "key_weight must have the shape (dim, dim), dim = 6 as of token_embeddings; got (6, 5)",
        ),
        (
            "multihead_attention_pool",
            {"value_weight": torch.ones(5, DIM)},
            "value_weight must have the shape (dim, dim), dim = 6 as of token_embeddings; got (5, 6)",
        ),
        (
            "multihead_attention_pool",
            {"output_weight": torch.ones(5, DIM)},
            "output_weight must have the shape (dim, dim), dim = 6 as of token_embeddings; got (5, 6)",
        ),
        ("latent_attention_pool", {"num_heads": 4}, "num_heads must divide the dimension 6 of token_embeddings, got 4"),
        ("latent_attention_pool", {"num_heads": True}, "num_heads must be a positive integer, got True"),
        (
            "latent_attention_pool",
            {"latents": torch.ones(4, 2 * DIM)},
            "latents must have the shape (latents, dim), dim = 6 as of token_embeddings; got (4, 12)",
        ),
        (
            "latent_attention_pool",
            {"latents": torch.ones(0, DIM)},
            "latents must have at least 1 of the latents in its shape (latents, dim), got (0, 6)",
        ),
        (
            "latent_attention_pool",
            {"output_weight": torch.ones(1, 5)},
            "output_weight must have the shape (dim, hidden), dim = 6 as of token_embeddings, hidden = 5 as of "
            "hidden_weight; got (1, 5)",
        ),
        (
            "latent_attention_pool",
            {"output_bias": torch.ones(1)},
            "output_bias must have the shape (dim,), dim = 6 as of token_embeddings; got (1,)",
        ),
    ],
)
def test_bad_parameters(function: str, changed: dict[str, Any], text: str) -> None:
    """A parameter of another shape is refused, never broadcast, and the error names the tensor that sets its shape."""
    with pytest.raises(ValueError, match=re.escape(text)):
        ENTRANCES[function](X, MASK, **changed)


# The learned parameters of each function; scores are checked separately.
PARAMETERS = [
    (function, name)
    for function in BATCH_FUNCTIONS
    for name, value in arguments_of(function).items()
    if isinstance(value, torch.Tensor) and name != "scores"
]


@pytest.mark.parametrize(("function", "name"), PARAMETERS)
def test_parameters_of_another_kind(function: str, name: str) -> None:
    """A parameter that is not a floating tensor on the tokens' device is refused by its name."""
    given = arguments_of(function)[name]
    for value, got in ((given.tolist(), type(given.tolist()).__name__), (given.long(), "torch.int64")):
        with pytest.raises(TypeError, match=rf"{name} must be a floating torch.Tensor of shape \(.*\), got {got}"):
            ENTRANCES[function](X, MASK, **{name: value})
    with pytest.raises(ValueError, match=f"{name} must be on token_embeddings' device cpu, got meta"):
        ENTRANCES[function](X, MASK, **{name: given.to("meta")})


@pytest.mark.parametrize(
    ("weights", "cu_seqlens", "error", "text"),
    [
        ([[1.0]], None, TypeError, "attention_weights must be a floating torch.Tensor, got list"),
        (
            torch.ones(1, 2, 3).long(),
            None,
            TypeError,
            "attention_weights must be a floating torch.Tensor, got torch.int64",
        ),
        (torch.ones(5, 2), [0, 2, 5], TypeError, "cu_seqlens must be a torch.Tensor, got list"),
        (torch.ones(5, 2), torch.tensor([0.0, 5.0]), TypeError, "cu_seqlens must be int32 or int64, got torch.float32"),
        (
            torch.ones(5, 2),
            torch.tensor([0, 2, 4]),
            ValueError,
            "cu_seqlens must start at 0, never decrease and end at the number of tokens, 5; got [0, 2, 4]",
        ),
        (
            torch.ones(5, 2),
            torch.tensor([0, 4, 2, 5]),
            ValueError,
            "cu_seqlens must start at 0, never decrease and end at the number of tokens, 5; got [0, 4, 2, 5]",
        ),
        (torch.ones(5, 2), torch.tensor([[0, 5]]), ValueError, "cu_seqlens must have the shape (batch + 1,)"),
        (
            torch.ones(5, 2),
            torch.tensor([0, 5], device="meta"),
            ValueError,
            "cu_seqlens must be on the device of attention_weights, cpu, got meta",
        ),
    ],
)
def test_bad_penalty(weights: Any, cu_seqlens: Any, error: type[Exception], text: str) -> None:
    """The penalty refuses arguments that are not weights, and offsets that do not cut them into sentences."""
    with pytest.raises(error, match=re.escape(text)):
        maskpool.functional.attention_penalty(weights, cu_seqlens)


@pytest.mark.parametrize(
    ("scores", "error", "text"),
    [
        ([[0.0]], TypeError, "scores must be a floating torch.Tensor, got list"),
        (torch.zeros(2, 1, 3).long(), TypeError, "scores must be a floating torch.Tensor, got torch.int64"),
        (torch.zeros(2, 3), ValueError, "shape (batch, heads, seq) = (2, heads, 3), got (2, 3)"),
        (torch.zeros(2, 3, 1), ValueError, "shape (batch, heads, seq) = (2, heads, 3), got (2, 3, 1)"),
        (torch.zeros(1, 1, 3), ValueError, "shape (batch, heads, seq) = (2, heads, 3), got (1, 1, 3)"),
        (torch.zeros(2, 4, 3), ValueError, "heads that divides the dimension 6, got 4"),
        (torch.zeros(2, 0, 3), ValueError, "heads that divides the dimension 6, got 0"),
        (torch.zeros(2, 1, 3, device="meta"), ValueError, "on token_embeddings' device cpu, got meta"),
    ],
)
def test_bad_scores(scores: Any, error: type[Exception], text: str) -> None:
    """Scores of another shape or kind are refused, never broadcast."""
    with pytest.raises(error, match=re.escape(text)):
        maskpool.functional.attention_pool(X, MASK, scores=scores)


@pytest.mark.parametrize(
    ("scores", "error", "text"),
    [
        ([[0.0]], TypeError, "scores must be a floating torch.Tensor, got list"),
        (torch.zeros(2, 3), ValueError, "shape (batch, heads, seq) = (2, heads, 3), got (2, 3)"),
        (torch.zeros(2, 0, 3), ValueError, "scores must have at least one hop, got 0"),
    ],
)
def test_bad_scores_of_hops(scores: Any, error: type[Exception], text: str) -> None:
    """Structured attention refuses the same, but takes any number of hops."""
    with pytest.raises(error, match=re.escape(text)):
        maskpool.functional.structured_attention_pool(X, MASK, scores=scores)


def test_bad_scores_of_packed_tokens() -> None:
    """Scores of a packed batch have one row per token."""
    batch = TokenBatch.from_packed(torch.ones(5, DIM), torch.tensor([0, 2, 5]))
    with pytest.raises(ValueError, match=re.escape("scores must have the shape (tokens, heads) = (5, heads), got (4,")):
        maskpool.functional.attention_pool(batch, scores=torch.zeros(4, 1))


def test_bad_poolings() -> None:
    """A concatenation without layers, or of objects that are not layers, is refused."""
    with pytest.raises(ValueError, match="poolings must hold at least one layer, got none"):
        ConcatPooling([])
    with pytest.raises(TypeError, match="poolings must hold maskpool layers, got Identity"):
        ConcatPooling([MeanPooling(), torch.nn.Identity()])  # type: ignore[list-item]  # the point of the test
    for wrong, text in ((MeanPooling(), r"list of maskpool layers, got MeanPooling"), (384, "list of .* got int")):
        with pytest.raises(InvalidTypeError, match=f"poolings must be a {text}"):
            ConcatPooling(wrong)  # type: ignore[arg-type]  # the point of the test
    for modes in ("mean", ["mean", "max"]):
        with pytest.raises(InvalidTypeError, match=r"got str: build_pooling\(\('mean', 'max'\)\) takes modes"):
            ConcatPooling(modes)  # type: ignore[arg-type]  # the point of the test


ROWS = torch.ones(5, DIM)
OFFSETS = torch.tensor([0, 2, 5])
JAGGED = torch.nested.nested_tensor([ROWS[:2], ROWS[2:]], layout=torch.jagged)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch calls its strided nested tensors a prototype
    STRIDED = torch.nested.nested_tensor([ROWS[:2], ROWS[2:]])


PACKED = _entrances("packed")
PACKED_REFUSALS: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "later start": (
        {"token_embeddings": ROWS, "cu_seqlens": torch.tensor([1, 2, 5])},
        ValueError,
        "cu_seqlens must start at 0, never decrease and end at the number of tokens, 5; got [1, 2, 5]",
    ),
    "decreasing": (
        {"token_embeddings": ROWS, "cu_seqlens": torch.tensor([0, 4, 2, 5])},
        ValueError,
        "never decrease and end at the number of tokens, 5; got [0, 4, 2, 5]",
    ),
    "short": (
        {"token_embeddings": ROWS, "cu_seqlens": torch.tensor([0, 2, 4], dtype=torch.int32)},
        ValueError,
        "never decrease and end at the number of tokens, 5; got [0, 2, 4]",
    ),
    "long": (
        {"token_embeddings": ROWS, "cu_seqlens": torch.arange(9)},
        ValueError,
        "end at the number of tokens, 5; got [0, 1, 2, …, 6, 7, 8]",
    ),
    "lengths for offsets": (
        {"token_embeddings": ROWS, "cu_seqlens": torch.tensor([2, 3])},
        ValueError,
        "cu_seqlens must start at 0",
    ),
    "float offsets": (
        {"token_embeddings": ROWS, "cu_seqlens": OFFSETS.float()},
        TypeError,
        "cu_seqlens must be int32 or int64, got torch.float32",
    ),
    "bool offsets": (
        {"token_embeddings": ROWS[:1], "cu_seqlens": torch.tensor([False, True])},
        TypeError,
        "cu_seqlens must be int32 or int64, got torch.bool",
    ),
    "short offsets": (
        {"token_embeddings": ROWS, "cu_seqlens": OFFSETS.short()},
        TypeError,
        "cu_seqlens must be int32 or int64, got torch.int16",
    ),
    "list": (
        {"token_embeddings": ROWS, "cu_seqlens": [0, 2, 5]},
        TypeError,
        "cu_seqlens must be a torch.Tensor, got list",
    ),
    "two dimensions": (
        {"token_embeddings": ROWS, "cu_seqlens": OFFSETS[None]},
        ValueError,
        "cu_seqlens must have the shape (batch + 1,) and start at 0, got the shape (1, 3)",
    ),
    "no dimension": (
        {"token_embeddings": ROWS, "cu_seqlens": OFFSETS[-1]},
        ValueError,
        "cu_seqlens must have the shape (batch + 1,) and start at 0, got the shape ()",
    ),
    "no token, but a length": (
        {"token_embeddings": ROWS[:0], "cu_seqlens": torch.tensor([0, 1])},
        ValueError,
        "end at the number of tokens, 0; got [0, 1]",
    ),
    "negative offset": (
        {"token_embeddings": ROWS, "cu_seqlens": torch.tensor([0, -1, 5])},
        ValueError,
        "never decrease and end at the number of tokens, 5; got [0, -1, 5]",
    ),
    "no offsets": (
        {"token_embeddings": ROWS, "cu_seqlens": OFFSETS[:0]},
        ValueError,
        "cu_seqlens must have the shape (batch + 1,) and start at 0, got the shape (0,)",
    ),
    "offsets elsewhere": (
        {"token_embeddings": ROWS, "cu_seqlens": OFFSETS.to("meta")},
        ValueError,
        "cu_seqlens must be on token_embeddings' device cpu, got meta",
    ),
    "mask and offsets": (
        {"token_embeddings": X, "attention_mask": MASK, "cu_seqlens": OFFSETS},
        ValueError,
        "attention_mask and cu_seqlens must not be passed together",
    ),
    "padded tokens with offsets": (
        {"token_embeddings": X, "cu_seqlens": OFFSETS},
        ValueError,
        "token_embeddings must be packed, (tokens, dim) or (1, tokens, dim), when cu_seqlens is given, got shape (2, 3",
    ),
    "no batch with offsets": (
        {"token_embeddings": X[:0], "cu_seqlens": torch.tensor([0])},
        ValueError,
        "token_embeddings must be packed, (tokens, dim) or (1, tokens, dim), when cu_seqlens is given, got shape (0, 3",
    ),
    "one dimension": (
        {"token_embeddings": ROWS[0], "cu_seqlens": OFFSETS},
        ValueError,
        "token_embeddings must have 2 dimensions (tokens, dim), got 1: shape (6,)",
    ),
    "integer tokens": (
        {"token_embeddings": ROWS.long(), "cu_seqlens": OFFSETS},
        TypeError,
        "token_embeddings must have a floating dtype (float16, bfloat16, float32 or float64), got torch.int64",
    ),
    "strided nested": (
        {"token_embeddings": STRIDED},
        TypeError,
        "token_embeddings must be a nested tensor of layout torch.jagged, got torch.strided: create it with",
    ),
    "nested integers": (
        {"token_embeddings": torch.nested.nested_tensor([ROWS.long()], layout=torch.jagged)},
        TypeError,
        "token_embeddings must have a floating dtype (float16, bfloat16, float32 or float64), got torch.int64",
    ),
    "nested of two dimensions": (
        {"token_embeddings": torch.nested.nested_tensor([ROWS[0], ROWS[0, :2]], layout=torch.jagged)},
        ValueError,
        "token_embeddings must have the nested shape (batch, tokens, dim) with ragged tokens, got (2, ",
    ),
    "nested of four dimensions": (
        {"token_embeddings": torch.nested.nested_tensor([X, X[:1]], layout=torch.jagged)},
        ValueError,
        "token_embeddings must have the nested shape (batch, tokens, dim) with ragged tokens, got (2, ",
    ),
    "nested booleans": (
        {"token_embeddings": torch.nested.nested_tensor([ROWS > 0], layout=torch.jagged)},
        TypeError,
        "token_embeddings must have a floating dtype (float16, bfloat16, float32 or float64), got torch.bool",
    ),
    "strided nested and mask": (
        {"token_embeddings": STRIDED, "attention_mask": MASK},
        TypeError,
        "attention_mask must be omitted if token_embeddings is a nested tensor",
    ),
    "batch, mask and offsets": (
        {"token_embeddings": TokenBatch.from_packed(ROWS, OFFSETS), "attention_mask": MASK, "cu_seqlens": OFFSETS},
        TypeError,
        "attention_mask must be omitted if token_embeddings is a TokenBatch",
    ),
    "transposed nested": (
        {"token_embeddings": JAGGED.transpose(1, 2)},
        ValueError,
        "token_embeddings must have the nested shape (batch, tokens, dim) with ragged tokens, got (2, 6, ",
    ),
    "nested and mask": (
        {"token_embeddings": JAGGED, "attention_mask": MASK},
        TypeError,
        "attention_mask must be omitted if token_embeddings is a nested tensor",
    ),
    "nested and offsets": (
        {"token_embeddings": JAGGED, "cu_seqlens": OFFSETS},
        TypeError,
        "cu_seqlens must be omitted if token_embeddings is a nested tensor",
    ),
    "batch and offsets": (
        {"token_embeddings": TokenBatch.from_padded(X, MASK), "cu_seqlens": OFFSETS},
        TypeError,
        "cu_seqlens must be omitted if token_embeddings is a TokenBatch",
    ),
}


@pytest.mark.parametrize("refusal", PACKED_REFUSALS)
def test_bad_packed_batch(refusal: str) -> None:
    """Functions and layers refuse an invalid packed or nested batch with the same message."""
    given, error, text = PACKED_REFUSALS[refusal]
    for entrance in PACKED.values():
        with pytest.raises(_kind(error), match=re.escape(text)):
            entrance(**given)


def test_from_nested_refuses_other_tensors() -> None:
    """from_nested refuses other tensors and names the type that was passed."""
    with pytest.raises(TypeError, match=re.escape("must be a jagged nested tensor, got torch.strided")):
        TokenBatch.from_nested(X)
    with pytest.raises(TypeError, match=re.escape("must be a jagged nested tensor, got list")):
        TokenBatch.from_nested([X])  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize(
    ("keep", "error", "text"),
    [
        ([1, 1], TypeError, "keep must be a torch.Tensor, got list"),
        (MASK / 2, TypeError, "keep must be bool or integer with 1 at real tokens, got torch.float32"),
        (MASK[:1], ValueError, "keep must have the shape (2, 3) of token_embeddings' first two dimensions, got (1, 3)"),
        (2 * MASK, ValueError, "keep must hold only 0 (pad) and 1 (real token); it holds 2 to 2"),
        (MASK.to("meta"), ValueError, "keep must be on token_embeddings' device cpu, got meta"),
    ],
)
def test_bad_selection(keep: Any, error: type[Exception], text: str) -> None:
    """A selection that is not a mask of the batch's shape is refused."""
    with pytest.raises(error, match=re.escape(text)):
        TokenBatch.from_padded(X, MASK).select(keep)


@pytest.mark.parametrize(
    ("keep", "error", "text"),
    [
        (MASK, ValueError, "keep must have the shape (5,) of the batch's tokens, got (2, 3)"),
        (torch.ones(1, 5, dtype=torch.bool), ValueError, "the shape (5,) of the batch's tokens, got (1, 5)"),
        (torch.ones(4, dtype=torch.bool), ValueError, "the shape (5,) of the batch's tokens, got (4,)"),
        (-torch.ones(5), TypeError, "keep must be bool or integer with 1 at real tokens, got torch.float32"),
        (torch.arange(5), ValueError, "keep must hold only 0 (pad) and 1 (real token); it holds 0 to 4"),
        (-torch.ones(5).long(), ValueError, "keep must hold only 0 (pad) and 1 (real token); it holds -1 to -1"),
        (torch.ones(5).bool().to("meta"), ValueError, "keep must be on token_embeddings' device cpu, got meta"),
        (None, TypeError, "keep must be a torch.Tensor, got NoneType"),
    ],
    ids=str,
)
def test_bad_selection_of_packed_tokens(keep: Any, error: type[Exception], text: str) -> None:
    """A selection of packed tokens has one entry per token, 0 or 1."""
    for batch in (TokenBatch.from_packed(ROWS, OFFSETS), TokenBatch.from_nested(JAGGED)):
        with pytest.raises(error, match=re.escape(text)):
            batch.select(keep)


@pytest.mark.parametrize(
    ("keep", "error", "text"),
    [
        (MASK / 2, TypeError, "keep must be bool or integer with 1 at real tokens, got torch.float32"),
        (MASK[:1], ValueError, "keep must have the shape (2, 3) of token_embeddings' first two dimensions, got (1, 3)"),
        (MASK[:, None, None], ValueError, "keep must have 2 dimensions (batch, seq), got the 4-D shape (2, 1, 1, 3)"),
    ],
    ids=str,
)
def test_bad_selection_on_other_devices(keep: Any, error: type[Exception], text: str) -> None:
    """Shape and dtype of a selection are refused on every device."""
    with dense_route():
        batch = TokenBatch.from_padded(X, MASK)
    with pytest.raises(error, match=re.escape(text)):
        batch.select(keep)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ((ROWS, torch.tensor([0]), torch.tensor([6])), ValueError, "0 <= start <= end <= 5, the length; span 0 is [0"),
        ((ROWS, torch.tensor([0, -1]), torch.tensor([1, 2])), ValueError, "span 1 is [-1, 2)"),
        ((ROWS, torch.tensor([3]), torch.tensor([2])), ValueError, "span 0 is [3, 2)"),
        ((ROWS, torch.tensor([0.0]), torch.tensor([2])), TypeError, "starts must have an integer dtype, got torch.flo"),
        ((ROWS, torch.tensor([0]), torch.tensor([True])), TypeError, "ends must have an integer dtype, got torch.bool"),
        ((ROWS, [0], torch.tensor([2])), TypeError, "starts"),
        ((ROWS, torch.tensor([[0]]), torch.tensor([[2]])), ValueError, "starts must have one dimension, got (1, 1)"),
        (
            (ROWS, torch.tensor([0, 1]), torch.tensor([2])),
            ValueError,
            "ends must have the shape of starts, (2,), got (1,)",
        ),
        (
            (X, torch.tensor([0]), torch.tensor([1])),
            ValueError,
            "token_embeddings must have 2 dimensions (tokens, dim)",
        ),
        ((ROWS.long(), torch.tensor([0]), torch.tensor([1])), TypeError, "token_embeddings must have a floating dtype"),
    ],
    ids=str,
)
def test_bad_spans(given: Any, error: type[Exception], text: str) -> None:
    """Spans that leave the tokens, end before they start or are not integers are refused."""
    with pytest.raises(error, match=re.escape(text)):
        TokenBatch.from_spans(*given)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_offsets_whose_differences_overflow(dtype: torch.dtype) -> None:
    """Decreasing offsets are refused even if their differences wrap around to positive numbers."""
    limit = torch.iinfo(dtype).max + 1
    with pytest.raises(ValueError, match="cu_seqlens must start at 0, never decrease"):
        TokenBatch.from_packed(ROWS, torch.tensor([0, limit // 2, 7 - limit, 5], dtype=dtype))


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_nested_tensor_that_does_not_cover_its_values(name: str) -> None:
    """A nested tensor whose offsets do not cover all values, which torch itself cannot unbind, is refused."""
    nested = torch.nested.nested_tensor_from_jagged(ROWS, torch.tensor([0, 2, 4]))
    with pytest.raises(RuntimeError, match="split_sizes"):
        nested.unbind()
    with pytest.raises(ValueError, match="token_embeddings"):
        make(name)(nested)


def test_nested_weights_of_other_sentences() -> None:
    """Nested weights whose sentences have other lengths than the tokens' are refused."""
    weights = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=torch.jagged)
    with pytest.raises(ValueError, match="token_weights must have sentences as long as"):
        maskpool.functional.mean_pool(JAGGED, token_weights=weights)


@pytest.mark.parametrize("kind", ["nested", "masks"])
def test_layers_of_other_sentences(kind: str) -> None:
    """Layers whose sentences have other lengths or places than the first one's are refused, not mixed."""
    pairs: dict[str, list[torch.Tensor | TokenBatch]] = {
        "nested": [JAGGED, torch.nested.nested_tensor([ROWS[:3], ROWS[3:]], layout=torch.jagged)],
        "masks": [TokenBatch.from_padded(X, torch.tensor([row, row])) for row in ([1, 1, 0], [0, 1, 1])],
    }
    with pytest.raises(ValueError, match="hidden_states must have the same sentences in all layers"):
        maskpool.functional.first_last_average_pool(pairs[kind])
    with pytest.raises(ValueError, match="hidden_states must have the same sentences in all layers"):
        maskpool.functional.mix_layers(pairs[kind], layer_weights=torch.ones(2))


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2", None])
def test_bad_k(k: Any) -> None:
    """K must be a positive integer, in the function and in the layer."""
    text = f"k must be a positive integer, got {k!r}"
    with pytest.raises(ValueError, match=re.escape(text)):
        maskpool.functional.topk_mean_pool(X, MASK, k=k)
    with pytest.raises(ValueError, match=re.escape(text)):
        maskpool.nn.TopKMeanPooling(k=k)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", None, True])
def test_bad_hyperparameters(value: Any) -> None:
    """Temperature and exponent must be finite numbers above 0, in functions and layers."""
    calls: list[tuple[str, Callable[[], object]]] = [
        ("temperature", lambda: maskpool.functional.softmax_pool(X, MASK, temperature=value)),
        ("temperature", lambda: maskpool.nn.SoftmaxPooling(temperature=value)),
        ("p", lambda: maskpool.functional.generalized_mean_pool(X, MASK, p=value)),
        ("p", lambda: maskpool.nn.GeneralizedMeanPooling(p=value)),
    ]
    for name, call in calls:
        with pytest.raises(ValueError, match=re.escape(f"{name} must be a finite number above 0, got {value!r}")):
            call()


@pytest.mark.parametrize("p", [0.0, -2.0, float("nan")])
def test_bad_learned_exponent(p: float) -> None:
    """A learned exponent that is not above 0 is refused."""
    with pytest.raises(ValueError, match="p must be finite and above 0"):
        maskpool.functional.generalized_mean_pool(X, MASK, p=torch.tensor(p))
    with pytest.raises(ValueError, match=re.escape("p must have one element or one per feature, (6,), got (2,)")):
        maskpool.functional.generalized_mean_pool(X, MASK, p=torch.ones(2))
