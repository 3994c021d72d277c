"""The shapes that annotations promise, checked at run time with jaxtyping and beartype.

`maskpool.types` writes them as ``Annotated[Tensor, "dtypes, shape or shape"]``. A name has one size within a call.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints
from unittest import mock

import jaxtyping
from beartype import beartype
from torch import Tensor

import maskpool.functional
from maskpool.kernels.csr import CSRKernels
from maskpool.kernels.dense import DenseKernels
from maskpool.nn import LearnedPooling, PoolingLayer

_Function = TypeVar("_Function", bound=Callable[..., Any])
_DTYPES = {
    "int32": "Int32",
    "int64": "Int64",
    "float32": "Float32",
    "float": "Float",
    "bool": "Bool",
    "integer": "Integer",
}


def of_annotation(text: str) -> Any:
    """Translate ``"dtypes, shapes"`` to a union of jaxtyping's types.

    Example:
        >>> of_annotation("bool, batch seq").__name__
        "Bool[Tensor, 'batch seq']"
    """
    dtypes, _, shapes = text.rpartition(", ")
    kinds = [getattr(jaxtyping, _DTYPES[dtype]) for dtype in dtypes.split(" or ")] if dtypes else [jaxtyping.Shaped]
    # A sum of sizes cannot be checked before its terms are known: it gets a separate name.
    plain = [shape.replace("…", "...").replace("+", "_plus_") for shape in shapes.split(" or ")]
    return Union[tuple(kind[Tensor, shape] for kind in kinds for shape in plain)]  # noqa: UP007  # of a computed tuple


def _translated(hint: Any) -> Any:
    """Keep the shapes of a hint and replace everything else by Any."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return of_annotation(arguments[1]) if arguments[0] is Tensor else Any
    if origin is tuple:
        return types.GenericAlias(tuple, tuple(map(_translated, arguments)))
    if origin in (Union, types.UnionType):
        parts = [type(None) if part is type(None) else _translated(part) for part in arguments]
        return Any if Any in parts else Union[tuple(parts)]  # noqa: UP007  # of a computed tuple
    return Any


def checked(function: _Function, **hints: Any) -> _Function:
    """Return a copy of a function that checks the shapes of its arguments and its result.

    Args:
        function: The function.
        **hints: Annotations that replace those of the function.
    """
    assert isinstance(function, types.FunctionType)
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    annotations = {**get_type_hints(function, include_extras=True), **hints}
    copy.__annotations__ = {name: _translated(hint) for name, hint in annotations.items()}
    return cast("_Function", jaxtyping.jaxtyped(typechecker=beartype)(copy))


# Translating takes a second, and beartype compiles each check at its first call: once per process.
@cache
def _checked_methods(owner: type) -> dict[str, Callable[..., Any]]:
    functions = {name: value for name, value in vars(owner).items() if isinstance(value, types.FunctionType)}
    return {name: checked(function) for name, function in functions.items() if name != "__init__"}


@cache
def checked_functions() -> dict[str, Callable[..., Any]]:
    """Return the functions of `maskpool.functional`, checked."""
    return {name: checked(getattr(maskpool.functional, name)) for name in maskpool.functional.__all__}


@contextmanager
def check_shapes() -> Iterator[None]:
    """Check all kernels and layers in the block."""
    with ExitStack() as patches:
        for owner in (CSRKernels, DenseKernels):
            for name, method in _checked_methods(owner).items():
                patches.enter_context(mock.patch.object(owner, name, method))
        for layer in (PoolingLayer, LearnedPooling):
            patches.enter_context(mock.patch.object(layer, "forward", _checked_methods(layer)["forward"]))
        yield
