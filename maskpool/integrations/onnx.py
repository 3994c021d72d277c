"""ONNX: a text model and its pooling in one graph, from token ids to sentence vectors."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, overload

import torch
from torch import Tensor, nn

from maskpool.encoder import Encoder, evaluating
from maskpool.errors import InvalidTypeError, InvalidValueError, NotFoundError, RequirementError
from maskpool.files import atomic_write
from maskpool.nn import PoolingLayer
from maskpool.poolings.build import build_pooling

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PACKAGES = 'pip install "maskpool[onnx]"'
_PathLike: TypeAlias = str | os.PathLike[str]
_Poolings: TypeAlias = PoolingLayer | str | tuple[str, ...]


@overload
def export(encoder: SentenceTransformer, path: _PathLike, /) -> None: ...
@overload
def export(encoder: Encoder | nn.Module, pooling: _Poolings, path: _PathLike) -> None: ...
def export(
    encoder: Encoder | nn.Module, pooling: _Poolings | _PathLike | None = None, path: _PathLike | None = None
) -> None:
    """Write a model and a pooling as one ONNX file.

    Call it as ``export(encoder, pooling, path)``, or as ``export(model, path)`` with a ``SentenceTransformer``, whose
    modules all become part of the graph.

    The graph takes ``input_ids`` and ``attention_mask``, int64 (batch, seq), both axes of any size, and gives
    ``sentence_embeddings``, (batch, out_dim). Pads are excluded inside the graph, so no caller can pool them by
    mistake. Token type ids, where a model has them, are its default, zeros. The graph's own model is in
    evaluation mode; yours is left as it was. A file at ``path`` is replaced in one step.

    The graph of a ``SentenceTransformer`` gives the vectors of its ``encode`` from the token ids that its own
    tokenizer gives, on either side of padding: Dense, Normalize, ``truncate_dim`` and the exclusion of special tokens
    are inside. Prompts are part of the texts. If the pooling excludes them (``include_prompt=False``), the graph has
    a third input, ``prompt_length``, int64 (batch,): the tokens to exclude of each text, 0 without a prompt. A pooling
    of sentence-transformers becomes the one of maskpool that `replace_pooling` makes of it.

    The graph is eager's equal for finite token states. A NaN at a real token, which every pooling here
    passes on, may be dropped by onnxruntime's maximum and minimum.

    Example::

        from maskpool.encoder import Encoder
        from maskpool.integrations.onnx import export

        export(Encoder.load(), "mean", "minilm-mean.onnx")

    Args:
        encoder: An `Encoder`, or a module that is called with ``input_ids`` and ``attention_mask`` and returns
            something with a ``last_hidden_state``, such as a transformers model; or a ``SentenceTransformer``.
        pooling: A layer, or a mode string as `build_pooling` takes it. A ``SentenceTransformer`` has its own.
        path: The file to write.

    Raises:
        ImportError: The exporter's packages are missing; the message names the pip command.
        TypeError: An argument is something else, or missing.
        ValueError: The pooling has ``on_empty="raise"``, which a graph cannot do; or a ``SentenceTransformer`` has a
            module that cannot become a graph.
        FileNotFoundError: The folder of ``path`` does not exist.

    See Also:
        `maskpool.audit_padding`: whether a graph depends on its batch, which dynamic quantisation makes it do.
    """
    graph: _TokensToVector | _TextToVector
    if _is_sentence_transformer(encoder):
        if path is not None and pooling is not None:
            raise InvalidTypeError(
                "pooling",
                f"must not be passed with a SentenceTransformer, which has its own, got {pooling!r}: "
                "export(model, path), after replace_pooling(model, pooling) for another",
            )
        path = pooling if path is None else path  # type: ignore[assignment]  # checked below
        target = _checked_path(path, "export(model, path)")
        graph = _TextToVector(encoder)
    else:
        model = encoder.model if isinstance(encoder, Encoder) else encoder
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(
                "encoder",
                f"must be a maskpool Encoder, a SentenceTransformer or a torch module, got {type(encoder).__name__}",
            )
        if isinstance(pooling, (str, tuple, list)):
            pooling = build_pooling(pooling, getattr(getattr(model, "config", None), "hidden_size", None))
        if not isinstance(pooling, PoolingLayer):
            raise InvalidTypeError(
                "pooling", f"must be a maskpool layer or a mode string, got {type(pooling).__name__}"
            )
        _check(pooling)
        target = _checked_path(path, "export(encoder, pooling, path)")
        graph = _TokensToVector(model, pooling)
    _write(graph, target)


class _TokensToVector(nn.Module):
    """A model of token states, and a pooling."""

    inputs = ("input_ids", "attention_mask")

    def __init__(self, model: nn.Module, pooling: PoolingLayer) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled: Tensor = self.pooling(states, attention_mask)
        return pooled


class _TextToVector(nn.Module):
    """The modules of a SentenceTransformer, called one after the other as the host calls them."""

    def __init__(self, model: Any) -> None:  # Any: the host is imported only if it is used
        super().__init__()
        from maskpool.integrations.sentence_transformers import Pooling
        from maskpool.integrations.st_host import modules as host

        before = (host.Transformer, host.WordWeights, host.CNN, host.WeightedLayerPooling)
        graphs = (*before, Pooling, host.Pooling, host.Dropout, host.Dense, host.LayerNorm, host.Normalize)
        for name, module in model.named_children():
            if type(module) not in graphs:
                raise InvalidValueError(
                    "encoder",
                    f"must have only modules that can become an ONNX graph, got {name} ({type(module).__name__}); they "
                    f"are {', '.join(dict.fromkeys(kind.__name__ for kind in graphs))}. export(encoder, pooling, path) "
                    "writes a transformers model with a pooling",
                )
        _check_tokens(model, host)
        parts = []
        for module in model.children():
            if type(module) is host.Pooling:  # whose branches read the mask's values, which a graph cannot
                part: nn.Module = Pooling(module.embedding_dimension, module.pooling_mode, module.include_prompt)
            else:
                part = module
            parts.append(part)
        self.parts = nn.ModuleList(parts)
        self.truncate_dim: int | None = model.truncate_dim
        excludes_prompt = any(isinstance(part, Pooling) and not part.include_prompt for part in parts)
        self.inputs = ("input_ids", "attention_mask", *(["prompt_length"] if excludes_prompt else []))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: Tensor | None = None) -> Tensor:
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if prompt_length is not None:
            features["prompt_length"] = prompt_length
        for part in self.parts:
            features = part(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors[:, : self.truncate_dim]


def _is_sentence_transformer(encoder: object) -> bool:
    """Whether it is the host's class, which is not imported for other encoders."""
    return any(kind.__name__ == "SentenceTransformer" for kind in type(encoder).__mro__)


def _checked_path(path: object, call: str) -> Path:
    """Return the file to write, before a graph is made for it in vain."""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidTypeError("path", f"must be the path of the file to write, got {type(path).__name__}: {call}")
    target = Path(path)
    if target.is_dir():
        raise InvalidValueError("path", f"must be a file, got the folder {str(path)!r}: add a name, such as model.onnx")
    if not target.parent.is_dir():
        raise NotFoundError(f"must be in a folder that exists, got {str(path)!r}", argument="path")
    return target


def _check_tokens(model: Any, host: Any) -> None:  # Any: as above
    """Refuse models whose vectors are not a function of token ids and mask."""
    first: Any = next(iter(model.children()), None)
    if type(first) is not host.Transformer:
        raise InvalidValueError("encoder", f"must begin with a Transformer, got {type(first).__name__}")
    if first.backend != "torch":
        raise InvalidValueError("encoder", f"must run in torch, got the backend {first.backend!r}")
    if "text" not in first.modality_config:
        raise InvalidValueError("encoder", f"must embed texts, got a model of {', '.join(first.modality_config)}")
    types = model.tokenizer("a").get("token_type_ids", [])
    if any(types):
        raise InvalidValueError(
            "encoder", f"must have a tokenizer whose token_type_ids are 0, which they are in the graph, got {types}"
        )
    poolings = [module for module in model.children() if isinstance(module, host.Pooling)]
    if not poolings and first.module_output_name != "sentence_embedding":
        raise InvalidValueError("encoder", "must give a vector of each text, got modules without a Pooling")
    for pooling in poolings:
        if getattr(pooling, "on_empty", None) == "raise":
            _refuse_raise("encoder", "Pooling")


def _check(pooling: PoolingLayer) -> None:
    """Refuse what cannot become a graph before any work is done."""
    for layer in pooling.modules():
        if isinstance(layer, PoolingLayer) and layer.on_empty == "raise":
            _refuse_raise("pooling", type(layer).__name__)


def _refuse_raise(argument: str, layer: str) -> NoReturn:
    raise InvalidValueError(
        argument,
        f"must not have on_empty='raise' to become an ONNX graph, got it from {layer}: use on_empty='zero' or 'nan'",
    )


def _write(graph: _TokensToVector | _TextToVector, target: Path) -> None:
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it and says so less clearly
    except ImportError as error:
        raise RequirementError(f"{error.name} is not installed, which the ONNX export needs: {_PACKAGES}") from None
    ids = torch.ones(2, 3, dtype=torch.int64, device=next(graph.parameters(), torch.empty(0)).device)
    batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq")
    examples = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "prompt_length": torch.ones_like(ids[:, 0])}
    axes = {name: {0: batch} if name == "prompt_length" else {0: batch, 1: seq} for name in graph.inputs}
    with atomic_write(target) as written, evaluating(graph), torch.no_grad(), warnings.catch_warnings():
        # The exporter's own, about its internals; warnings of the model itself are shown.
        warnings.filterwarnings("ignore", r".*treespec, LeafSpec", FutureWarning)
        warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used", UserWarning)
        torch.onnx.export(
            graph,
            tuple(examples[name] for name in graph.inputs),
            written,
            dynamo=True,
            dynamic_shapes=axes,
            input_names=graph.inputs,
            output_names=["sentence_embeddings"],
            external_data=False,
            verbose=False,
        )
