"""The oracle of each pooling: a float64 loop over one sentence, by mode string.

This is the only test file to extend for a new pooling; all test matrices derive from it and from the registry.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from maskpool import nn

Options: TypeAlias = Mapping[str, Any]  # Any: the options of a layer
# The vector of one sentence, and the scale to which its error is relative (0: exact). Both are computed from the layer,
# the sentence's tokens (tokens, dim), their places in the batch and their weights (ones if there are none), in float64.
Loop: TypeAlias = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # Any: the layer of the mode


@dataclass(frozen=True)
class Oracle:
    """The expected results of a mode, and facts that cannot be derived from its class.

    Attributes:
        loop: Computes one sentence.
        options: The options to test with.
        variants: More options to test with; a variant is tested as ``mode-variant``.
        ulps: Units in the last place that a half result may be off, on top of the relative error.
        of_one: The vector of a sentence of one token; None if it is the token, as often as the result is wide.
        rounds_one: Whether the formula rounds a sentence of one token, which is then returned up to rounding.
        projects: Whether a learned projection changes the tokens; one token is then returned only before training.
        softmax: For a learned layer, whether its weights are a softmax over the sentence.
        gain: The factor by which its projections may enlarge a token.
        scores: The scores of a float64 layer for rows (tokens, dim), and the parameter that they are linear in; None
            if the layer has no scores.
        parameters: The names of the parameters with the options to test with. Saved models depend on them.
    """

    loop: Loop
    options: Options = field(default_factory=dict)
    variants: Mapping[str, Options] = field(default_factory=dict)
    ulps: int = 2
    of_one: Callable[[Tensor], Tensor] | None = None
    rounds_one: bool = False
    projects: bool = False
    softmax: bool = True
    gain: float = 1.0
    scores: tuple[Callable[[Any, Tensor], Tensor], str] | None = None  # Any: the layer of the mode
    parameters: frozenset[str] = frozenset()


# --------------------------------------------------------------------------------------------------- plain poolings


def _at(place: Callable[[int], int], ordered: bool) -> Loop:
    def loop(layer: object, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        chosen = rows.sort(dim=0).values if ordered else rows
        return chosen[place(len(rows))], torch.zeros_like(rows[0])

    return loop


def _weighted(weigh: Callable[[Tensor, Tensor], Tensor]) -> Loop:
    def loop(layer: object, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        products = weigh(at.double(), w).unsqueeze(1) * rows
        return products.sum(dim=0), products.abs().sum(dim=0)

    return loop


def _by_place(at: Tensor, w: Tensor) -> Tensor:
    counted = (at - at[0] + 1) * w
    return counted / counted.sum()


def _topk_mean(layer: nn.TopKMeanPooling, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    largest = rows.topk(min(layer.k, len(rows)), dim=0).values
    return largest.mean(dim=0), largest.abs().mean(dim=0)


def _std(layer: object, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    share = (w / w.sum()).unsqueeze(1)
    mean = (share * rows).sum(dim=0)
    return (share * (rows - mean).square()).sum(dim=0).sqrt(), (share * rows.square()).sum(dim=0).sqrt()


def _mean_std(layer: object, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    share = (w / w.sum()).unsqueeze(1)
    std, scale = _std(layer, rows, at, w)
    return torch.cat([(share * rows).sum(dim=0), std]), torch.cat([(share * rows.abs()).sum(dim=0), scale])


def _logsumexp(layer: object, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    expected = rows.logsumexp(dim=0)
    return expected, 1 + expected.abs()


def _softmax(layer: nn.SoftmaxPooling, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    scores = rows / layer.temperature
    below = scores.amax(dim=0) - scores
    raised = w.unsqueeze(1) * (-below).exp()
    products = raised / raised.sum(dim=0) * rows
    # An exponent of float32 has lost digits in proportion to its size.
    return products.sum(dim=0), (products * (1 + below)).abs().sum(dim=0)


def _generalized_mean(layer: nn.GeneralizedMeanPooling, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    p = float(layer.p.detach())
    share = (w / w.sum()).unsqueeze(1)

    def root(power: Tensor) -> Tensor:
        return power.sign() * power.abs() ** (1 / p)

    powers = share * rows.sign() * rows.abs() ** p
    # The law holds for the mean of the powers; its root may be steep, near 0 without bound.
    slack = 1e-6 * (1 + p) * powers.abs().sum(dim=0)
    power = powers.sum(dim=0)
    expected = root(power)
    width = torch.maximum(root(power + slack) - expected, expected - root(power - slack))
    return expected, width / 1e-6 + expected.abs()


# -------------------------------------------------------------------------------------------------------- attention


def _attention_of(scores: Tensor, w: Tensor) -> Tensor:
    counted = (scores - scores.amax(dim=0)).exp() * w.unsqueeze(1)
    return counted / counted.sum(dim=0)


def _sliced(rows: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    products = rows * attention.repeat_interleave(rows.shape[1] // attention.shape[1], dim=1)
    return products.sum(dim=0), products.abs().sum(dim=0)


def _scores(exact: nn.AttentionPooling | nn.StructuredAttentionPooling, rows: Tensor) -> Tensor:
    hidden = rows if exact.hidden is None else exact.hidden(rows).tanh()
    return hidden @ exact.query.t()


def _gated_scores(exact: nn.GatedAttentionPooling, rows: Tensor) -> Tensor:
    hidden: Tensor = exact.hidden(rows).tanh() * exact.gate(rows).sigmoid()
    return hidden @ exact.query.t()


def _attention(layer: nn.AttentionPooling, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return _sliced(rows, _attention_of(_scores(copy.deepcopy(layer).double(), rows), w))


def _gated_attention(layer: nn.GatedAttentionPooling, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return _sliced(rows, _attention_of(_gated_scores(copy.deepcopy(layer).double(), rows), w))


def _structured_attention(
    layer: nn.StructuredAttentionPooling, rows: Tensor, at: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    weights = _attention_of(_scores(copy.deepcopy(layer).double(), rows), w)
    return (weights.t() @ rows).flatten(), (weights.t() @ rows.abs()).flatten()


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.view(len(x), heads, x.shape[1] // heads)


def _multihead_scores(exact: nn.MultiheadAttentionPooling, rows: Tensor) -> Tensor:
    queries, keys = (_by_head(x, exact.num_heads) for x in (exact.queries, rows @ exact.key_weight.t()))
    scores: Tensor = torch.einsum("qhw,thw->tqh", queries, keys) / queries.shape[2] ** 0.5
    return scores.flatten(1)


def _latent_scores(exact: nn.LatentAttentionPooling, rows: Tensor) -> Tensor:
    queries, keys = (_by_head(x, exact.num_heads) for x in (rows, exact.latents))
    scores: Tensor = torch.einsum("thw,lhw->thl", queries, keys) / keys.shape[2] ** 0.5
    return scores.flatten(1)


def _multihead_attention(
    layer: nn.MultiheadAttentionPooling, rows: Tensor, at: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    exact = copy.deepcopy(layer).double()
    dim = rows.shape[1]
    host = torch.nn.MultiheadAttention(dim, layer.num_heads, bias=False, dtype=torch.float64)
    projections = [torch.eye(dim, dtype=torch.float64), exact.key_weight, exact.value_weight]
    host.load_state_dict({"in_proj_weight": torch.cat(projections), "out_proj.weight": exact.output_weight})
    _, weights = host(exact.queries, rows, rows, average_attn_weights=False)
    counted = weights * w
    weights = counted / counted.sum(dim=2, keepdim=True)

    def project(rows: Tensor, value: Tensor, output: Tensor) -> Tensor:
        values = (rows @ value.t()).view(len(rows), layer.num_heads, -1)
        return (torch.einsum("hqt,thw->qhw", weights, values).flatten(1) @ output.t()).flatten()

    scale = project(rows.abs(), exact.value_weight.abs(), exact.output_weight.abs())
    return project(rows, exact.value_weight, exact.output_weight), scale


def _latent_attention(layer: nn.LatentAttentionPooling, rows: Tensor, at: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    exact = copy.deepcopy(layer).double()
    queries, latents = (x.view(len(x), layer.num_heads, -1).transpose(0, 1) for x in (rows, exact.latents))
    read = torch.nn.functional.scaled_dot_product_attention(queries, latents, latents).transpose(0, 1).flatten(1)
    moved = rows + exact.output(torch.nn.functional.gelu(exact.hidden(read)))
    # The layers after the attention compute in float32, and each product adds an error.
    hidden = read.abs() @ exact.hidden.weight.abs().t() + exact.hidden.bias.abs()
    scale = rows.abs() + hidden @ exact.output.weight.abs().t() + exact.output.bias.abs()
    share = w / w.sum()
    return share @ moved, share @ scale


def _zeros(token: Tensor) -> Tensor:
    return torch.zeros_like(token)


ORACLES: dict[str, Oracle] = {
    "cls": Oracle(_at(lambda length: 0, ordered=False), ulps=0),
    "max": Oracle(_at(lambda length: -1, ordered=True), ulps=0),
    "mean": Oracle(_weighted(lambda at, w: w / w.sum()), ulps=1),
    "mean_sqrt_len_tokens": Oracle(_weighted(lambda at, w: w / w.sum().sqrt())),
    "weightedmean": Oracle(_weighted(_by_place)),
    "lasttoken": Oracle(_at(lambda length: -1, ordered=False), ulps=0),
    "min": Oracle(_at(lambda length: 0, ordered=True), ulps=0),
    "sum": Oracle(_weighted(lambda at, w: w)),
    "std": Oracle(_std, of_one=_zeros),
    "mean_std": Oracle(_mean_std, of_one=lambda token: torch.cat([token, _zeros(token)], dim=-1)),
    "median": Oracle(_at(lambda length: (length - 1) // 2, ordered=True), ulps=0),
    "topk_mean": Oracle(_topk_mean, {"k": 3}),
    "logsumexp": Oracle(_logsumexp),
    "softmax": Oracle(_softmax, {"temperature": 0.5}),
    "generalized_mean": Oracle(_generalized_mean, rounds_one=True, softmax=False, parameters=frozenset({"log_p"})),
    "attention": Oracle(
        _attention,
        variants={"additive": {"hidden_dimension": 5}, "heads": {"num_heads": 2}, "from-max": {"start": "max"}},
        scores=(_scores, "query"),
        parameters=frozenset({"query"}),
    ),
    "gated_attention": Oracle(
        _gated_attention,
        {"hidden_dimension": 5},
        scores=(_gated_scores, "query"),
        parameters=frozenset({"query", "hidden.weight", "hidden.bias", "gate.weight", "gate.bias"}),
    ),
    "structured_attention": Oracle(
        _structured_attention,
        {"num_hops": 2, "hidden_dimension": 5},
        scores=(_scores, "query"),
        parameters=frozenset({"query", "hidden.weight", "hidden.bias"}),
    ),
    "multihead_attention": Oracle(
        _multihead_attention,
        {"num_heads": 2, "num_queries": 2},
        projects=True,
        gain=64.0,
        scores=(_multihead_scores, "queries"),
        parameters=frozenset({"queries", "key_weight", "value_weight", "output_weight"}),
    ),
    "latent_attention": Oracle(
        _latent_attention,
        {"num_latents": 3, "num_heads": 2, "hidden_dimension": 5},
        projects=True,
        softmax=False,
        scores=(_latent_scores, "latents"),
        parameters=frozenset({"latents", "hidden.weight", "hidden.bias", "output.weight", "output.bias"}),
    ),
}

# The errors of the law, relative to the scale that each loop gives; float64 is held to its own digits.
_RELATIVE = {torch.float64: 1e-12}


def sentence(layer: nn.PoolingLayer, rows: Tensor, at: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute the float64 vector of one sentence, and the scale to which its error is relative; 0 means exact.

    Args:
        layer: The layer.
        rows: The real tokens, (tokens, dim), float64.
        at: Their places in the batch.
        w: Their weights; None for ones.
    """
    w = torch.ones(len(rows), dtype=torch.float64) if w is None else w
    if not w.any():
        zeros = rows.new_zeros(layer.output_dimension(rows.shape[1]))
        return zeros, zeros
    if isinstance(layer, nn.ConcatPooling):
        pairs = [sentence(part, rows, at, w) for part in layer.layers()]
        return torch.cat([vector for vector, _ in pairs]), torch.cat([scale for _, scale in pairs])
    expected, scale = ORACLES[layer.mode].loop(layer, rows, at, w)
    if isinstance(layer, nn.LearnedPooling) and layer.start != "mean":
        start, start_scale = sentence(layer.starting, rows, at, w)
        mean, mean_scale = ORACLES["mean"].loop(layer, rows, at, w)
        parts = len(expected) // rows.shape[1]
        expected = expected + (start - mean).repeat(parts)
        scale = scale + (start.abs() + start_scale + mean_scale).repeat(parts)
    return expected, scale


def _ulps(layer: nn.PoolingLayer, dim: int) -> Tensor:
    if isinstance(layer, nn.ConcatPooling):
        return torch.cat([_ulps(part, dim) for part in layer.layers()])
    starts = isinstance(layer, nn.LearnedPooling) and layer.start != "mean"
    return torch.full((layer.output_dimension(dim),), max(ORACLES[layer.mode].ulps, 2 * starts))


def _ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    info = torch.finfo(dtype)
    exponent = torch.frexp(value).exponent - 1
    return (info.eps * torch.exp2(exponent.double())).clamp(min=info.smallest_normal * info.eps)


@torch.no_grad()
def assert_equals_loop(
    layer: nn.PoolingLayer, pooled: Tensor, x: Tensor, mask: Tensor, weights: Tensor | None = None
) -> None:
    """Assert law 4: each sentence is its loop's vector, within 1e-6 of its scale (1e-12 for float64)."""
    at = [row.nonzero().view(-1) for row in mask]
    pairs = [
        sentence(layer, x[b, rows].double(), rows, None if weights is None else weights[b, rows].double())
        for b, rows in enumerate(at)
    ]
    expected, scale = (torch.stack(part) for part in zip(*pairs, strict=True))
    allowed = _RELATIVE.get(x.dtype, 1e-6) * scale
    if x.dtype in (torch.float16, torch.bfloat16):
        allowed = allowed + _ulps(layer, x.shape[2]) * _ulp(expected, x.dtype)
    error = (pooled.double() - expected).abs()
    error = torch.where(expected.abs() + allowed < torch.finfo(x.dtype).max, error, 0.0)  # the dtype can represent it
    worst = (error - allowed).argmax()
    assert (error <= allowed).all(), (
        f"{type(layer).__name__} {x.dtype}: off by {error.view(-1)[worst]:.3g}, allowed {allowed.view(-1)[worst]:.3g}, "
        f"relative to its scale {(error / scale).view(-1)[worst]:.3g}"
    )


def sharpen(layer: nn.LearnedPooling, x: Tensor, mask: Tensor, largest: float) -> None:
    """Scale the learned query until the largest score of a real token has this size."""
    scores, query = ORACLES[layer.mode].scores or _no_scores(layer)
    with torch.no_grad():
        size = scores(copy.deepcopy(layer).double(), x[mask.bool()].double()).abs().amax()
        layer.get_parameter(query).mul_(largest / size)


def _no_scores(layer: nn.LearnedPooling) -> NoReturn:
    raise AssertionError(f"{layer.mode} has no scores")
