"""Record inputs and outputs of torch modules while a pipeline runs, without changing them."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

OnModule: TypeAlias = Callable[[nn.Module, list[Tensor], list[Tensor]], None]

_STATES = ("last_hidden_state", "token_embeddings")


@dataclass(frozen=True)
class TokenCall:
    """A call of a module with token ids, and the resulting token states.

    Attributes:
        module: The outermost module that received the ids.
        arguments: Its arguments, by parameter name.
        ids: The token ids, (batch, seq).
        states: The last token states computed from them, by this module or by outermost modules that ran after it;
            None without any.
        maker: The module that computed these states, called in a way that runs hooks.
    """

    module: nn.Module
    arguments: Mapping[str, Any]
    ids: Annotated[Tensor, "batch seq"]
    states: Annotated[Tensor, "batch seq dim"] | None = None
    maker: nn.Module | None = None

    @property
    def mask_name(self) -> str | None:
        """The name of the parameter that takes a mask; None without one."""
        names = [*parameters_of(self.module), *self.arguments]
        return next((name for name in names if "mask" in name), None)

    @property
    def mask(self) -> Tensor | None:
        """The mask that the module received; None without one."""
        mask = self.arguments.get(self.mask_name or "")
        if not isinstance(mask, Tensor):
            return None
        # layers of torch expect True at pads
        return ~mask if mask.dtype is torch.bool and "padding_mask" in (self.mask_name or "") else mask

    def row(self, number: int) -> TokenCall:
        """Return the call reduced to one text of the batch."""
        batch = len(self.ids)

        def cut(value: Any) -> Any:
            is_batch = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch
            return value[number : number + 1] if is_batch else value

        arguments = {name: cut(value) for name, value in self.arguments.items()}
        return replace(self, arguments=arguments, ids=cut(self.ids), states=cut(self.states))

    def again(self, **changed: Any) -> Annotated[Tensor, "batch seq dim"] | None:
        """Run the module again with some arguments changed, and return its token states."""
        with torch.no_grad():
            return states_in(self.module(**{**self.arguments, **changed}), self.ids.shape)


@dataclass
class Call:
    """The record of one call of a pipeline.

    Attributes:
        tokens: The calls with batches of token ids.
        pooled: Inputs and outputs of modules with one vector per text.
        roots: The outermost modules.
        training: Names of modules in training mode whose outputs depend on it.
        precision: The spacing of numbers near 1 in the coarsest type of an output.
    """

    tokens: list[TokenCall] = field(default_factory=list)
    pooled: list[Annotated[Tensor, "batch dim"]] = field(default_factory=list)
    roots: list[nn.Module] = field(default_factory=list)
    training: set[str] = field(default_factory=set)
    precision: float = 0.0

    def find(self, ids: list[int], module: nn.Module) -> tuple[TokenCall, int, int] | None:
        """Find the call of a module that holds a text with these ids.

        Returns:
            The call for the whole batch, the row of the text, and the column where its ids begin.
        """
        for call in self.tokens:
            for row, row_ids in enumerate(call.ids.tolist() if call.module is module else ()):
                start = _column(row_ids, ids)
                if start is not None:
                    return call, row, start
        return None


def _column(row: list[int], ids: list[int]) -> int | None:
    """Return the column where a row holds the ids, with only one repeated id around them."""
    for start in range(len(row) - len(ids) + 1):
        rest = {*row[:start], *row[start + len(ids) :]}
        if row[start : start + len(ids)] == ids and len(rest) <= 1:
            return start
    return None


@contextmanager
def watch(on_module: OnModule | None = None) -> Iterator[Call]:
    """Record the inputs and outputs of all modules that this thread calls.

    Args:
        on_module: Called after each module, inner ones first, with the tensors of its inputs and outputs.
    """
    call = Call()
    # For each running module: itself, and the numbers of batches and vectors at its start.
    begun: list[tuple[nn.Module, int, int]] = []
    depths: list[int] = []  # of the module that returned the states of each batch
    shown: set[nn.Module] = set()
    here = threading.get_ident()

    def enter(module: nn.Module, _: Any) -> None:
        if threading.get_ident() != here:  # interleaved calls cannot be separated
            return
        if not begun and module not in shown:
            shown.add(module)
            _show_direct_calls(module, stack, call, begun, leave)
        begun.append((module, len(call.tokens), len(call.pooled)))

    def leave(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, hooked: bool = True
    ) -> None:
        if threading.get_ident() != here:
            return
        _, first, vectors = begun.pop()
        depth = len(begun)
        if not depth and module not in call.roots:
            call.roots.append(module)
        if getattr(module, "training", False) and _depends_on_training(module):
            call.training.add(type(module).__name__)
        spacings = [torch.finfo(t.dtype).eps for t in _tensors(output) if t.is_floating_point()]
        call.precision = max([call.precision, *spacings])
        # Signatures are slow to read, and most modules take no ids.
        arguments = _named(module, args, kwargs) if any(map(_may_be_ids, (*args, *kwargs.values()))) else {}
        ids = None if first < len(call.tokens) and arguments and _only_passes_on(module) else _ids_in(arguments)
        if ids is not None and not (first == len(call.tokens) > 0 and _are_positions(ids, call.tokens[-1].ids)):
            inner = [token_call for token_call in call.tokens[first:] if token_call.ids.shape == ids.shape]
            del call.tokens[first:], depths[first:], call.pooled[vectors:]
            states, maker = (inner[-1].states, inner[-1].maker) if inner else (None, None)
            call.tokens.append(TokenCall(module, arguments, ids, states, maker))
            depths.append(len(begun) + 1)
        elif call.tokens:
            last = call.tokens[-1]
            call.pooled += [
                tensor.detach()
                for tensor in _tensors((args, kwargs, output))
                if tensor.is_floating_point() and tensor.ndim == 2 and len(tensor) == len(last.ids)
            ]
        if call.tokens:
            last = call.tokens[-1]
            states = states_in(output, last.ids.shape)
            if states is not None and depth <= depths[-1]:
                passed_on = last.states is not None and last.states.data_ptr() == states.data_ptr()
                maker = last.maker if not hooked or (passed_on and module is not last.module) else module
                call.tokens[-1] = replace(last, states=states.detach(), maker=maker)
                depths[-1] = depth
        if on_module is not None:
            on_module(module, _tensors((args, kwargs)), _tensors(output))

    with ExitStack() as stack:
        for handle in (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, with_kwargs=True)):
            # torch 2.13 forgets this entry, and torch.compile would warn of global hooks from then on.
            stack.callback(module_hooks._global_forward_hooks_with_kwargs.pop, handle.id, None)
            stack.callback(handle.remove)
        yield call


def _show_direct_calls(
    root: nn.Module,
    stack: ExitStack,
    call: Call,
    begun: list[tuple[nn.Module, int, int]],
    leave: Callable[..., None],
) -> None:
    """Record calls of ``model.forward(…)`` as well, which run no hooks; sentence-transformers calls models this way."""

    def show(model: nn.Module) -> None:
        forward = model.forward

        @functools.wraps(forward)
        def seen(*args: Any, **kwargs: Any) -> Any:
            if not begun or begun[-1][0] is model:  # its hooks run, or an unrecorded module calls it
                return forward(*args, **kwargs)
            begun.append((model, len(call.tokens), len(call.pooled)))
            output = forward(*args, **kwargs)
            leave(model, args, kwargs, output, hooked=False)
            return output

        before = vars(model).get("forward")
        model.forward = seen  # restored when the watch ends
        stack.callback(setattr if before is not None else delattr, model, "forward", *([before] if before else []))

    for model in root.modules():
        if model is not root and hasattr(model, "config") and "input_ids" in parameters_of(model):
            show(model)


def parameters_of(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of ``forward``; empty without a signature, as in scripted modules."""
    try:
        return inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return {}


def _only_passes_on(module: nn.Module) -> bool:
    """Return whether a module passes all arguments to the one it wraps (compiled, adapted, parallel)."""
    kinds = {parameter.kind for parameter in parameters_of(module).values()}
    return bool(kinds) and kinds <= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _depends_on_training(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _are_positions(ids: Tensor, tokens: Tensor) -> bool:
    """Return whether ids next to those of tokens are positions, or types, of the same tokens."""
    if ids.shape[1:] != tokens.shape[1:]:
        return False
    steps = ids.diff(dim=1)
    return bool((steps == 1).all() or (steps == 0).all() or ((ids == ids[:1]).all() and len(ids) > 1))


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):  # a scripted module may have no signature
        return {f"argument {number}": value for number, value in enumerate(args)} | dict(kwargs)
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            arguments[name] = value
    return arguments


def _may_be_ids(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.ndim == 2
        and value.dtype in (torch.int64, torch.int32)
        and value.numel() > 0
    )


def _ids_in(arguments: Mapping[str, Any]) -> Tensor | None:
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    if "input_ids" in tensors:
        tensors = {"input_ids": tensors["input_ids"]}
    others = ("mask", "type", "position", "length", "label")
    return next(
        (tensor for name, tensor in tensors.items() if _may_be_ids(tensor) if not any(word in name for word in others)),
        None,
    )


def states_in(output: Any, shape: tuple[int, ...]) -> Tensor | None:
    """Token states of a batch in what a module gave."""
    if isinstance(output, Tensor):
        fits = (
            not output.is_nested
            and output.ndim == 3
            and output.shape[:2] == tuple(shape)
            and output.is_floating_point()
        )
        return output if fits else None
    for name in _STATES:
        inner = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(inner, Tensor):
            return states_in(inner, shape)
    return states_in(output[0], shape) if isinstance(output, tuple) and output else None


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [] if value.is_nested else [value]  # the fast path of torch's encoders returns nested tensors
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (tuple, list)) else []
