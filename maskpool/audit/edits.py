"""Run a pipeline again with a change inside: without pad columns, or with other token states."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from maskpool.audit.pipelines import Pipeline
from maskpool.audit.trace import Call, watch

Edit: TypeAlias = Callable[[Tensor], Tensor]


@contextmanager
def cutting(roots: Sequence[nn.Module], columns: Mapping[int, slice]) -> Iterator[None]:
    """Remove pad columns from the inputs of modules and from the outputs of transformers' tokenizers.

    Args:
        roots: The outermost modules that the pipeline calls.
        columns: For each padded length, the columns of real tokens.
    """

    def cut(tensor: Tensor) -> Tensor:
        for width, real in columns.items():
            tensor = cut_columns(tensor, width, real)
        return tensor

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return mapped(args, cut), mapped(kwargs, cut)

    with ExitStack() as stack:
        stack.enter_context(_cut_by_tokenizers(cut, columns))
        for root in roots:
            if not isinstance(root, torch.jit.ScriptModule):  # supports no hooks
                stack.callback(root.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield


def run_unpadded(
    pipeline: Pipeline, text: str, roots: Sequence[nn.Module], columns: Mapping[int, slice]
) -> tuple[Call, Tensor | None]:
    """Embed one text without its pad columns.

    Args:
        pipeline: The audited pipeline.
        text: The text.
        roots: As for `cutting`.
        columns: The same.

    Returns:
        What the modules saw, and the vector; None if the pipeline fails without these columns.
    """
    with cutting(roots, columns), watch() as call:
        try:
            return call, pipeline([text])[0]
        except ValueError:  # the pipeline expects these columns
            return call, None


def cut_columns(tensor: Tensor, width: int, real: slice) -> Tensor:
    """Keep some columns of ids, masks, states or a mask of attention scores; return other tensors unchanged."""
    if tensor.ndim not in (2, 3, 4) or tensor.is_nested or tensor.is_sparse:
        return tensor
    if (
        tensor.ndim == 2
        and tensor.is_floating_point()
        and not bool(((tensor == 0) | (tensor == 1) | (tensor < -1e3)).all())
    ):
        return tensor  # vectors
    scores = tensor.ndim == 4 or (tensor.ndim == 3 and tensor.shape[1] == 1 and tensor.shape[2] == width)
    axes = range(1, tensor.ndim) if scores else (1,)
    for axis in axes:
        if tensor.shape[axis] == width:
            tensor = tensor.narrow(axis, *_span(real, width))
    return tensor


def _span(real: slice, width: int) -> tuple[int, int]:
    start, stop, _ = real.indices(width)
    return start, stop - start


@contextmanager
def _cut_by_tokenizers(cut: Edit, columns: Mapping[int, slice]) -> Iterator[None]:
    """Cut the outputs of transformers' tokenizers: ids and masks then agree in all code.

    Tokenizers have no hooks, so their class is patched; other threads are not affected.
    """
    transformers: Any = sys.modules.get("transformers")
    base = getattr(transformers, "PreTrainedTokenizerBase", None)
    if base is None:
        yield
        return
    tokenize, here = base.__call__, threading.get_ident()

    def shorter(tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
        features = tokenize(tokenizer, *args, **kwargs)
        if threading.get_ident() != here:
            return features
        for name, rows in features.items():
            shape = getattr(rows, "shape", None)
            if isinstance(rows, Tensor):
                features[name] = cut(rows)
            elif shape is not None and len(shape) == 2:
                features[name] = rows[:, columns.get(shape[1], slice(None))]
            elif isinstance(rows, list) and rows and isinstance(rows[0], list):
                features[name] = [row[columns.get(len(row), slice(None))] for row in rows]
        return features

    base.__call__ = shorter
    try:
        yield
    finally:
        base.__call__ = tokenize


@contextmanager
def edited(module: nn.Module, shape: Sequence[int], edit: Edit) -> Iterator[None]:
    """Change the token states that a module returns.

    Args:
        module: The module.
        shape: (batch, seq) of the states to change; other outputs are unchanged.
        edit: Maps states (batch, seq, dim) to states of the same shape.
    """

    def change(tensor: Tensor) -> Tensor:
        is_states = tensor.ndim == 3 and tuple(tensor.shape[:2]) == tuple(shape) and tensor.is_floating_point()
        return edit(tensor) if is_states else tensor

    with _returning(module, change):
        yield


@contextmanager
def _returning(module: nn.Module, change: Edit) -> Iterator[None]:
    """Change every tensor that a module returns."""
    if isinstance(module, torch.jit.ScriptModule):  # supports no hooks
        yield
        return
    handle = module.register_forward_hook(lambda _module, _inputs, output: mapped(output, change))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Replace every output of a module by numbers that depend only on its shape, equal in each row."""

    def change(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.ndim < 2:
            return tensor
        drawn = torch.randn(tensor.shape[1:], generator=torch.Generator().manual_seed(0))
        return drawn.to(tensor).expand_as(tensor).clone()

    with _returning(module, change):
        yield


def mapped(value: Any, change: Edit) -> Any:
    """Apply a function to every tensor in nested containers and return new containers."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        inner = [mapped(part, change) for part in value]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    if isinstance(value, Mapping):
        # A dictionary, or an output of transformers, which also has its entries as attributes.
        copied: Any = copy.copy(value)
        for name, part in value.items():
            copied[name] = mapped(part, change)
        return copied
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{name: mapped(part, change) for name, part in vars(value).items()})
    return value
