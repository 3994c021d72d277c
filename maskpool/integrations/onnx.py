"""ONNX: a text model and its pooling in one graph, from token ids to sentence vectors."""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor, nn

from maskpool.encoder import Encoder, evaluating
from maskpool.errors import InvalidTypeError, InvalidValueError, RequirementError
from maskpool.files import atomic_write
from maskpool.nn import PoolingLayer
from maskpool.poolings.build import build_pooling

_PACKAGES = 'pip install "maskpool[onnx]"'


def export(
    encoder: Encoder | nn.Module, pooling: PoolingLayer | str | tuple[str, ...], path: str | os.PathLike[str]
) -> None:
    """Write a model and a pooling as one ONNX file.

    The graph takes ``input_ids`` and ``attention_mask``, int64 (batch, seq), both axes of any size, and gives
    ``sentence_embeddings``, (batch, out_dim). Pads are excluded inside the graph, so no caller can pool them by
    mistake. Token type ids, where a model has them, are its default, zeros. The graph's own model is in
    evaluation mode; yours is left as it was. A file at ``path`` is replaced in one step.

    The graph is eager's equal for finite token states. A NaN at a real token, which every pooling here
    passes on, may be dropped by onnxruntime's maximum and minimum.

    Example::

        from maskpool.encoder import Encoder
        from maskpool.integrations.onnx import export

        export(Encoder.load(), "mean", "minilm-mean.onnx")

    Args:
        encoder: An `Encoder`, or a module that is called with ``input_ids`` and ``attention_mask`` and returns
            something with a ``last_hidden_state``, such as a transformers model.
        pooling: A layer, or a mode string as `build_pooling` takes it.
        path: The file to write.

    Raises:
        ImportError: The exporter's packages are missing; the message names the pip command.
        TypeError: ``encoder`` or ``pooling`` is something else.
        ValueError: The pooling has ``on_empty="raise"``, which a graph cannot do.
    """
    model = encoder.model if isinstance(encoder, Encoder) else encoder
    if not isinstance(model, nn.Module):
        raise InvalidTypeError("encoder", f"must be a maskpool Encoder or a torch module, got {type(encoder).__name__}")
    if isinstance(pooling, (str, tuple, list)):
        pooling = build_pooling(pooling, getattr(getattr(model, "config", None), "hidden_size", None))
    if not isinstance(pooling, PoolingLayer):
        raise InvalidTypeError("pooling", f"must be a maskpool layer or a mode string, got {type(pooling).__name__}")
    _check(pooling)
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it and says so less clearly
    except ImportError as error:
        raise RequirementError(f"{error.name} is not installed, which the ONNX export needs: {_PACKAGES}") from None
    graph = _TokensToVector(model, pooling)
    ids = torch.ones(2, 3, dtype=torch.int64, device=next(model.parameters(), torch.empty(0)).device)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}
    with atomic_write(path) as written, evaluating(graph), torch.no_grad(), warnings.catch_warnings():
        # The exporter's own, about its internals; warnings of the model itself are shown.
        warnings.filterwarnings("ignore", r".*treespec, LeafSpec", FutureWarning)
        warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used", UserWarning)
        torch.onnx.export(
            graph,
            (ids, torch.ones_like(ids)),
            written,
            dynamo=True,
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embeddings"],
            external_data=False,
            verbose=False,
        )


class _TokensToVector(nn.Module):
    def __init__(self, model: nn.Module, pooling: PoolingLayer) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled: Tensor = self.pooling(states, attention_mask)
        return pooled


def _check(pooling: PoolingLayer) -> None:
    """Refuse what cannot become a graph before any work is done."""
    for layer in pooling.modules():
        if isinstance(layer, PoolingLayer) and layer.on_empty == "raise":
            raise InvalidValueError(
                "pooling",
                f"must not have on_empty='raise' to become an ONNX graph, got it from {type(layer).__name__}: "
                "use on_empty='zero' or 'nan'",
            )
