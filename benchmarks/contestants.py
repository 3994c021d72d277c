"""The contestants of the pooling benchmark: maskpool and its peers, as functions of a buffer, by mode and layout.

Recipes are careful hand-written code: over the whole padded tensor with the mask, or sentence by sentence. Half
precision is summed in float32 if the sums of the recipe would overflow or lose counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from torch import Tensor
from torch.nn import Parameter, init
from torch.nn.functional import gelu, scaled_dot_product_attention

from benchmarks.batches import Buffer
from maskpool import build_pooling, nn
from maskpool.functional import attention_pool
from maskpool.integrations.sentence_transformers import Pooling as OurPooling
from maskpool.nn import PoolingLayer

Pool: TypeAlias = Callable[[Buffer], Tensor]
OfMask: TypeAlias = Callable[[Tensor, Tensor], Tensor]
OfRows: TypeAlias = Callable[[Tensor], Tensor]

HOST_MODES = ("mean", "max", "cls", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
IDF = "mean, token weights"
SCORED = "attention, given scores"
OPTIONS: dict[str, dict[str, Any]] = {
    "topk_mean": {"k": 8},
    "generalized_mean": {"p": 2.0},
    "multihead_attention": {"num_heads": 4},
}
# These modes read one row per sentence, so the time of reading all real rows is not a reference for them.
ONE_ROW_MODES = ("cls", "lasttoken")
# Some peers send the gradient of tied numbers, frequent in half precision, to one of them; ours and `amax` share it.
SELECTING_MODES = ("max", "min", "median", "topk_mean")
# The modes that torch's reductions over ragged tensors support.
NESTED = {"mean": "mean", "sum": "sum", "max": "amax", "min": "amin"}
SEGMENTS = {"mean": "mean", "sum": "sum", "max": "max", "min": "min"}


# ------------------------------------------------------------------------------- the padded recipes


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _mean_sqrt_len(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True).sqrt().to(x.dtype)


def _weighted_mean(x: Tensor, mask: Tensor) -> Tensor:
    # In float32 as in common code, because bfloat16 cannot count beyond 256.
    weights = (mask * torch.arange(1, mask.shape[1] + 1)).float()
    return ((x * weights.unsqueeze(2)).sum(dim=1) / weights.sum(dim=1, keepdim=True)).to(x.dtype)


def _max(x: Tensor, mask: Tensor) -> Tensor:
    # amax, because `.max(1).values`, which the host uses, also computes indices and takes twice as long.
    return x.masked_fill(mask.unsqueeze(2) == 0, -torch.inf).amax(dim=1)


def _min(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(mask.unsqueeze(2) == 0, torch.inf).amin(dim=1)


def _sum(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask.unsqueeze(2)).sum(dim=1)


def _cls(x: Tensor, mask: Tensor) -> Tensor:
    return x[:, 0]


def _last_token(x: Tensor, mask: Tensor) -> Tensor:
    return x[torch.arange(x.shape[0]), mask.sum(dim=1) - 1]


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    real, number = mask.unsqueeze(2), mask.sum(dim=1, keepdim=True)
    exact = x.float()
    mean = (exact * real).sum(dim=1) / number
    variance = ((exact - mean.unsqueeze(1)).square() * real).sum(dim=1) / number
    return mean.to(x.dtype), variance.sqrt().to(x.dtype)


def _std(x: Tensor, mask: Tensor) -> Tensor:
    return _moments(x, mask)[1]


def _mean_std(x: Tensor, mask: Tensor) -> Tensor:
    return torch.cat(_moments(x, mask), dim=1)


def _median(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(mask.unsqueeze(2) == 0, torch.nan).nanmedian(dim=1).values


def _topk_mean(x: Tensor, mask: Tensor) -> Tensor:
    largest = x.masked_fill(mask.unsqueeze(2) == 0, -torch.inf).topk(OPTIONS["topk_mean"]["k"], dim=1).values
    return largest.float().mean(dim=1).to(x.dtype)


def _logsumexp(x: Tensor, mask: Tensor) -> Tensor:
    return x.float().masked_fill(mask.unsqueeze(2) == 0, -torch.inf).logsumexp(dim=1).to(x.dtype)


def _softmax(x: Tensor, mask: Tensor) -> Tensor:
    exact = x.float()
    weights = exact.masked_fill(mask.unsqueeze(2) == 0, -torch.inf).softmax(dim=1)
    return (weights * exact).sum(dim=1).to(x.dtype)


def _generalized_mean(x: Tensor, mask: Tensor) -> Tensor:
    exact, p = x.float(), OPTIONS["generalized_mean"]["p"]
    power = (exact.sign() * exact.abs().pow(p) * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return (power.sign() * power.abs().pow(1 / p)).to(x.dtype)


RECIPES: dict[str, OfMask] = {
    "mean": _mean,
    "max": _max,
    "cls": _cls,
    "lasttoken": _last_token,
    "weightedmean": _weighted_mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "min": _min,
    "sum": _sum,
    "std": _std,
    "mean_std": _mean_std,
    "median": _median,
    "topk_mean": _topk_mean,
    "logsumexp": _logsumexp,
    "softmax": _softmax,
    "generalized_mean": _generalized_mean,
}


def _idf(buffer: Buffer) -> Tensor:
    weights = (buffer.token_weights * buffer.mask).to(buffer.x.dtype)
    return (buffer.x * weights.unsqueeze(2)).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def _attend(x: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    weights = scores.masked_fill(mask == 0, -torch.inf).softmax(dim=1)
    return torch.einsum("bs,bsd->bd", weights.to(x.dtype), x)


# ------------------------------------------------------------------- the padded recipes that learn

# Each takes the parameters of our layer, and hides pads by their scores: a NaN in a pad reaches the vector through
# 0 * NaN. `NAN_SAFE` first replaces the pads.
NAN_SAFE = "recipe that replaces pads"


def _weights(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask.unsqueeze(2) == 0, -torch.inf).softmax(dim=1)


def _attention(layer: nn.AttentionPooling, x: Tensor, mask: Tensor) -> Tensor:
    return _attend(x, x @ layer.query.view(-1), mask)


def _gated_attention(layer: nn.GatedAttentionPooling, x: Tensor, mask: Tensor) -> Tensor:
    hidden = layer.hidden(x).tanh() * layer.gate(x).sigmoid()
    return _attend(x, hidden @ layer.query.view(-1), mask)


def _structured_attention(layer: nn.StructuredAttentionPooling, x: Tensor, mask: Tensor) -> Tensor:
    weights = _weights(layer.hidden(x).tanh() @ layer.query.t(), mask)
    return (weights.transpose(1, 2) @ x).flatten(1)


def _multihead_attention(layer: nn.MultiheadAttentionPooling, x: Tensor, mask: Tensor) -> Tensor:
    heads = layer.num_heads
    queries, keys, values = (
        rows.view(*rows.shape[:-1], heads, -1).transpose(-2, -3)
        for rows in (layer.queries, x @ layer.key_weight.t(), x @ layer.value_weight.t())
    )
    queries = queries.expand(len(x), -1, -1, -1)
    pooled = scaled_dot_product_attention(queries, keys, values, mask[:, None, None] != 0)
    return (pooled.transpose(1, 2).flatten(2) @ layer.output_weight.t()).flatten(1)


def _latent_attention(layer: nn.LatentAttentionPooling, x: Tensor, mask: Tensor) -> Tensor:
    latents = layer.latents.expand(len(x), -1, -1)
    read = scaled_dot_product_attention(x, latents, latents)
    return _mean(x + layer.output(gelu(layer.hidden(read))), mask)


# Any: the layer of the mode.
LEARNED_RECIPES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "attention": _attention,
    "gated_attention": _gated_attention,
    "structured_attention": _structured_attention,
    "multihead_attention": _multihead_attention,
    "latent_attention": _latent_attention,
}
MODES = (*RECIPES, *LEARNED_RECIPES, SCORED, IDF)


# ----------------------------------------------------------------- a loop over packed sentences

LOOPED: dict[str, OfRows] = {
    "mean": lambda rows: rows.mean(dim=0),
    "max": lambda rows: rows.amax(dim=0),
    "cls": lambda rows: rows[0],
    "lasttoken": lambda rows: rows[-1],
    "weightedmean": lambda rows: _weighted_mean(rows[None], torch.ones(1, len(rows)))[0],
    "mean_sqrt_len_tokens": lambda rows: (rows.sum(dim=0, dtype=torch.float32) / len(rows) ** 0.5).to(rows.dtype),
    "min": lambda rows: rows.amin(dim=0),
    "sum": lambda rows: rows.sum(dim=0),
    "std": lambda rows: rows.float().std(dim=0, correction=0).to(rows.dtype),
    "mean_std": lambda rows: torch.cat([rows.mean(dim=0), rows.float().std(dim=0, correction=0).to(rows.dtype)], dim=0),
    "median": lambda rows: rows.median(dim=0).values,
    "topk_mean": lambda rows: (
        rows.topk(min(OPTIONS["topk_mean"]["k"], len(rows)), dim=0).values.float().mean(dim=0).to(rows.dtype)
    ),
    "logsumexp": lambda rows: rows.float().logsumexp(dim=0).to(rows.dtype),
    "softmax": lambda rows: _softmax(rows[None], torch.ones(1, len(rows)))[0],
    "generalized_mean": lambda rows: _generalized_mean(rows[None], torch.ones(1, len(rows)))[0],
}


def _loop(of_rows: OfRows) -> Pool:
    return lambda buffer: torch.stack([of_rows(rows) for rows in torch.split(buffer.x, buffer.lengths.tolist())])


def _loop_idf(buffer: Buffer) -> Tensor:
    lengths = buffer.lengths.tolist()
    pairs = zip(
        torch.split(buffer.x, lengths), torch.split(buffer.token_weights.to(buffer.x.dtype), lengths), strict=True
    )
    return torch.stack([(weights @ rows) / weights.sum() for rows, weights in pairs])


def _loop_learned(recipe: OfMask, buffer: Buffer) -> Tensor:
    pairs = torch.split(buffer.x.unsqueeze(0), buffer.lengths.tolist(), dim=1)
    return torch.cat([recipe(rows, rows.new_ones(rows.shape[:2])) for rows in pairs])


def _loop_attention(buffer: Buffer, scores: Tensor) -> Tensor:
    lengths = buffer.lengths.tolist()
    pairs = zip(torch.split(buffer.x, lengths), torch.split(scores, lengths), strict=True)
    return torch.stack([own.softmax(dim=0).to(rows.dtype) @ rows for rows, own in pairs])


# ------------------------------------------------------------------------------------ all together


def _ours(layer: PoolingLayer, mode: str, layout: str) -> Pool:
    # Any: the functions take keyword arguments of several types.
    def arguments(buffer: Buffer) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        if layout == "padded":
            return (buffer.x, buffer.mask), {}
        if layout == "packed":
            return (buffer.x,), {"cu_seqlens": buffer.cu_seqlens}
        return (torch.nested.nested_tensor_from_jagged(buffer.x, buffer.cu_seqlens),), {}

    def pool(buffer: Buffer) -> Tensor:
        given, named = arguments(buffer)
        if mode == SCORED:
            return attention_pool(*given, **named, scores=buffer.scores)[0]
        if mode == IDF:
            named["token_weights"] = buffer.token_weights
        pooled: Tensor = layer(*given, **named)
        return pooled

    return pool


def _host(mode: str, dim: int, layout: str) -> Pool:
    host = HostPooling(dim, pooling_mode=mode)

    def pool(buffer: Buffer) -> Tensor:
        features = (
            {"token_embeddings": buffer.x, "attention_mask": buffer.mask}
            if layout == "padded"
            else {"token_embeddings": buffer.x.unsqueeze(0), "cu_seq_lens_q": buffer.cu_seqlens}
        )
        pooled: Tensor = host(features)["sentence_embedding"]
        return pooled

    return pool


def _nested(name: str) -> Pool:
    def pool(buffer: Buffer) -> Tensor:
        nested = torch.nested.nested_tensor_from_jagged(buffer.x, buffer.cu_seqlens)
        pooled: Tensor = getattr(nested, name)(dim=1)
        return pooled

    return pool


def _segments(name: str) -> Pool:
    # torch's backward needs the lengths; offsets are not enough
    return lambda buffer: torch.segment_reduce(buffer.x, name, lengths=buffer.lengths, axis=0)


def contestants(
    mode: str, layout: str, dim: int, dtype: torch.dtype, compiled: bool
) -> tuple[dict[str, Pool], list[Parameter]]:
    """Return the pools, ours first, then the peers with the same result, and the parameters that they share."""
    name = {IDF: "mean", SCORED: "mean"}.get(mode, mode)
    layer = build_pooling(name, embedding_dimension=dim, **OPTIONS.get(mode, {}))
    layer = layer.requires_grad_(mode in LEARNED_RECIPES).to(dtype)
    learned = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(2)
    for parameter in learned:  # scores of order one; they start equal, which no trained layer has
        init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
    pools: dict[str, Pool] = {"ours": _ours(layer, mode, layout)}
    if mode in HOST_MODES and layout in ("padded", "packed"):
        pools["host"] = _host(mode, dim, layout)
    if layout == "padded":
        if mode in LEARNED_RECIPES:
            learning = partial(LEARNED_RECIPES[mode], layer)
            pools["recipe"] = lambda buffer: learning(buffer.x, buffer.mask)
            if mode == "attention":
                pools[NAN_SAFE] = lambda buffer: learning(
                    buffer.x.masked_fill(buffer.mask.unsqueeze(2) == 0, 0.0), buffer.mask
                )
        elif mode == SCORED:
            pools["recipe"] = lambda buffer: _attend(buffer.x, buffer.scores[:, 0], buffer.mask)
        elif mode == IDF:
            pools["recipe"] = _idf
        else:
            recipe = RECIPES[mode]
            pools["recipe"] = lambda buffer: recipe(buffer.x, buffer.mask)
            if compiled and shutil.which("g++"):
                fast = torch.compile(recipe, dynamic=False)
                pools["compiled recipe"] = lambda buffer: fast(buffer.x, buffer.mask)
        return pools, learned
    if mode in LEARNED_RECIPES:
        pools["loop"] = partial(_loop_learned, partial(LEARNED_RECIPES[mode], layer))
    elif mode == SCORED:
        pools["loop"] = lambda buffer: _loop_attention(buffer, buffer.scores[:, 0])
    elif mode == IDF:
        pools["loop"] = _loop_idf
    else:
        pools["loop"] = _loop(LOOPED[mode])
    if layout == "nested" and mode in NESTED:
        pools["torch.nested"] = _nested(NESTED[mode])
    # segment_reduce sums half precision in half precision, which gives other results.
    if layout == "packed" and mode in SEGMENTS and dtype == torch.float32:
        pools["segment_reduce"] = _segments(SEGMENTS[mode])
    return pools, learned


def in_encode(mode: str, dim: int) -> dict[str, Pool]:
    """Return the modules of sentence-transformers and of maskpool, called as ``SentenceTransformer.encode`` does."""

    def pool_with(module: HostPooling) -> Pool:
        def pool(buffer: Buffer) -> Tensor:
            features = {"input_ids": buffer.mask, "attention_mask": buffer.mask, "token_embeddings": buffer.x}
            pooled: Tensor = module(features)["sentence_embedding"]
            return pooled

        return pool

    modules: dict[str, HostPooling] = {"ours in encode": OurPooling(dim, mode)}
    if mode in HOST_MODES:
        modules["host in encode"] = HostPooling(dim, mode)
    return {name: pool_with(module) for name, module in modules.items()}
