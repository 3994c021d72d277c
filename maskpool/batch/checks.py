"""Validation and conversion of token embeddings, masks, offsets and parameters.

Types, dtypes, shapes and devices are always checked. Values are checked on CPU in eager mode only: on other devices the
host would have to wait for them, and in a trace there are none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.kernels.base import Kernels
from maskpool.types import OnEmpty

_TOKEN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_MASK_DTYPES = (torch.bool, *_INTEGERS)


# ------------------------------------------------------------------------------------------------------------- routes


def is_traced() -> bool:
    """Return whether the call is being compiled, exported or traced."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # untyped


def on_eager_cpu(tensor: Tensor) -> bool:
    """Return whether values may be read: a CPU tensor in eager mode, outside of `torch.func` and forward-mode autograd.

    The sparse kernels run in the same case. Tracers cannot follow shapes that depend on the mask's values, `torch.vmap`
    cannot either, the kernels have no forward-mode derivatives, and on other devices counting the real tokens would
    make the host wait for the device.
    """
    return not (
        not tensor.is_cpu
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch.jit is untyped
        or torch._C._are_functorch_transforms_active()  # the same as is_transformed, one call fewer per batch
        or forward_ad._current_level >= 0
    )


def is_transformed() -> bool:
    """Return whether the call is inside of a `torch.func` transform or of forward-mode autograd."""
    # torch has no public name for either.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def refuse_tracing(argument: str) -> None:
    """Raise if the call is traced, because a graph cannot know the lengths of packed sentences."""
    if is_traced():
        raise InvalidValueError(
            argument,
            "cannot be traced: the lengths of the sentences would become constants of the graph. Under torch.compile, "
            "torch.export and ONNX pass padded token_embeddings with an attention_mask",
        )


# ------------------------------------------------------------------------------------ conversion of inputs


def to_token_embeddings(value: object) -> object:
    """Take the tensor out of a model's output or a NumPy array; return everything else as it is."""
    states = getattr(value, "last_hidden_state", None)
    if states is not None:
        return states
    return from_array("token_embeddings", value)


def to_mask(value: object) -> object:
    """Take the mask out of a tokenizer's output or a NumPy array; return everything else as it is."""
    if isinstance(value, Mapping):  # transformers' BatchEncoding is a Mapping, not a dict
        if "attention_mask" not in value:
            raise InvalidValueError(
                "attention_mask",
                f"must be a mask or a tokenizer's output that holds one, got a mapping with {_names(value)}: "
                + (
                    "this is a model's output, pass it as token_embeddings, the first argument"
                    if "last_hidden_state" in value
                    else "call the tokenizer with return_attention_mask=True"
                ),
            )
        value = value["attention_mask"]
    return from_array("attention_mask", value)


def from_array(argument: str, value: object) -> object:
    """Convert a NumPy array to a tensor; return everything else as it is."""
    if isinstance(value, Tensor) or not hasattr(value, "__array__"):
        return value
    array = value.__array__()
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch warns about the first and refuses the second
    try:
        return torch.as_tensor(array)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(argument, f"must be an array that torch can convert, got {array.dtype}") from error


def to_bool_or_integer(name: str, mask: Tensor) -> Tensor:
    """Return a floating mask of zeros and ones as bool, and refuse any other floating mask.

    The values of a floating mask are read on every device, because an additive mask would select the pads.
    """
    if not mask.is_floating_point():
        return mask
    advice = "pass the tokenizer's attention_mask; `mask == 0` converts an additive mask (0 at real tokens)"
    if is_traced():
        raise InvalidTypeError(name, f"must be bool or integer under tracing, got {mask.dtype}: {advice}")
    if bool((mask < 0).any()):
        raise InvalidTypeError(
            name,
            f"must be bool or integer with 1 at real tokens, got {mask.dtype} with negative values, an additive mask: "
            "convert it with `mask == 0`",
        )
    if mask.numel() and not bool(mask.any()):
        raise InvalidTypeError(
            name,
            f"must be bool or integer with 1 at real tokens, got {mask.dtype} with zeros only, which may be an "
            "additive mask without pads: convert it with `mask == 0`, or pass it as bool if no token is real",
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InvalidTypeError(
            name,
            f"must be bool or integer with 1 at real tokens, got {mask.dtype} with values other than 0 and 1: "
            "fractions are weights of tokens, pass them as token_weights",
        )
    return mask.bool()


def _names(mapping: Mapping[object, object]) -> str:
    return ", ".join(map(str, mapping)) or "nothing"


# ---------------------------------------------------------------------------------------------------- tokens and masks


def check_tokens(token_embeddings: object, dims: int, shape: str) -> Tensor:
    """Raise unless ``token_embeddings`` is a strided floating tensor with ``dims`` dimensions."""
    if (
        isinstance(token_embeddings, Tensor)
        and token_embeddings.dtype in _TOKEN_DTYPES
        and token_embeddings.layout == torch.strided
        and not token_embeddings.is_nested
        and token_embeddings.dim() == dims
    ):
        return token_embeddings
    name = "token_embeddings"
    if isinstance(token_embeddings, Mapping) and "logits" in token_embeddings:
        raise InvalidTypeError(
            name,
            f"must be a tensor of shape {shape}, got a mapping with {_names(token_embeddings)}, the output of a model "
            "with a head: load the model with AutoModel, or run it with output_hidden_states=True and pass "
            "output.hidden_states[-1]",
        )
    if isinstance(token_embeddings, Mapping):
        raise InvalidTypeError(
            name,
            f"must be a tensor of shape {shape}, got a mapping with {_names(token_embeddings)}. In a "
            "SentenceTransformer use maskpool.integrations.sentence_transformers.Pooling; elsewhere call "
            "layer(features['token_embeddings'], features['attention_mask'])",
        )
    if not isinstance(token_embeddings, Tensor):
        advice = ""
        if isinstance(token_embeddings, tuple):
            advice = ": of a model's output as a tuple, pass output[0]"
        elif isinstance(token_embeddings, list):
            advice = ": pad the sentences to one length and convert them with torch.tensor or torch.stack"
        raise InvalidTypeError(
            name,
            f"must be a torch.Tensor of shape {shape} or a TokenBatch, got {type(token_embeddings).__name__}{advice}",
        )
    if token_embeddings.dtype not in _TOKEN_DTYPES:
        raise InvalidTypeError(
            name,
            f"must have a floating dtype (float16, bfloat16, float32 or float64), got {token_embeddings.dtype}",
        )
    if token_embeddings.layout != torch.strided or token_embeddings.is_nested:
        kind = "nested" if token_embeddings.is_nested else str(token_embeddings.layout)
        raise InvalidTypeError(name, f"must be a strided tensor, got layout {kind}")
    advice = ""
    if dims == 3 and token_embeddings.dim() == 2:
        advice = "; pass cu_seqlens with packed tokens (tokens, dim), or unsqueeze(0) the tokens of one sentence"
    raise InvalidValueError(
        name,
        f"must have {dims} dimensions {shape}, got {token_embeddings.dim()}: shape {tuple(token_embeddings.shape)}"
        f"{advice}",
    )


def check_padded(token_embeddings: object, attention_mask: object) -> tuple[Tensor, Tensor]:
    """Raise unless the arguments are a padded batch; return the embeddings and a bool or integer mask."""
    if (
        isinstance(token_embeddings, Tensor)
        and isinstance(attention_mask, Tensor)
        and token_embeddings.dtype in _TOKEN_DTYPES
        and attention_mask.dtype in _MASK_DTYPES
        and token_embeddings.dim() == 3
        and token_embeddings.shape[:2] == attention_mask.shape
        and token_embeddings.device == attention_mask.device
        and token_embeddings.layout == torch.strided
        and attention_mask.layout == torch.strided
    ):
        return token_embeddings, attention_mask
    tokens = check_tokens(token_embeddings, 3, "(batch, seq, dim)")
    if attention_mask is None:
        raise InvalidValueError(
            "attention_mask",
            "is required with padded token_embeddings: shape (batch, seq), 1 at real tokens; "
            "pass torch.ones(batch, seq, dtype=torch.bool) if every token is real",
        )
    return tokens, check_mask("attention_mask", attention_mask, tuple(tokens.shape[:2]), tokens.device)


def check_mask(name: str, mask: object, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Raise unless ``mask`` is a mask of this shape on this device; return it as bool or integer."""
    if not isinstance(mask, Tensor):
        advice = ': convert it with torch.tensor, or call the tokenizer with return_tensors="pt"'
        raise InvalidTypeError(
            name, f"must be a torch.Tensor, got {type(mask).__name__}{advice if isinstance(mask, list) else ''}"
        )
    if mask.layout != torch.strided:
        raise InvalidTypeError(name, f"must be a strided tensor, got layout {mask.layout}")
    if mask.dim() == 4:
        raise InvalidValueError(
            name,
            f"must have 2 dimensions (batch, seq), got the 4-D shape {tuple(mask.shape)} of a mask that is extended "
            "for attention: pass the tokenizer's attention_mask",
        )
    mask = to_bool_or_integer(name, mask)
    if mask.dtype not in _MASK_DTYPES:
        raise InvalidTypeError(name, f"must be bool or integer with 1 at real tokens, got {mask.dtype}")
    if tuple(mask.shape) != shape:
        of = "token_embeddings' first two dimensions" if len(shape) == 2 else "the batch's tokens"
        raise InvalidValueError(name, f"must have the shape {shape} of {of}, got {tuple(mask.shape)}")
    if mask.device != device:
        raise InvalidValueError(name, f"must be on token_embeddings' device {device}, got {mask.device}")
    return mask


def check_zeros_and_ones(name: str, mask: Tensor) -> bool:
    """Raise if the mask holds numbers other than 0 and 1; return whether it holds only 1, False if it is empty."""
    if not mask.numel():
        return False
    if mask.dtype == torch.bool:
        return bool(mask.amin().item())
    lowest, highest = (limit.item() for limit in mask.aminmax())
    if lowest < 0 or highest > 1:
        raise InvalidValueError(name, f"must hold only 0 (pad) and 1 (real token); it holds {lowest} to {highest}")
    return bool(lowest)


def check_packed(token_embeddings: object, cu_seqlens: object) -> Tensor:
    """Raise unless the arguments are packed tokens and offsets; return the tokens as (tokens, dim)."""
    if isinstance(token_embeddings, Tensor) and token_embeddings.dim() == 3 and not token_embeddings.is_nested:
        if len(token_embeddings) != 1:
            raise InvalidValueError(
                "token_embeddings",
                "must be packed, (tokens, dim) or (1, tokens, dim), when cu_seqlens is given, got shape "
                f"{tuple(token_embeddings.shape)}: a padded batch needs an attention_mask instead",
            )
        token_embeddings = token_embeddings.squeeze(0)
    values = check_tokens(token_embeddings, 2, "(tokens, dim)")
    offsets = _check_offsets(cu_seqlens)
    if offsets.device != values.device:
        raise InvalidValueError(
            "cu_seqlens", f"must be on token_embeddings' device {values.device}, got {offsets.device}"
        )
    return values


def check_nested(token_embeddings: object) -> Tensor:
    """Raise unless ``token_embeddings`` is a jagged nested tensor of token embeddings."""
    name = "token_embeddings"
    if not isinstance(token_embeddings, Tensor) or not token_embeddings.is_nested:
        got = token_embeddings.layout if isinstance(token_embeddings, Tensor) else type(token_embeddings).__name__
        raise InvalidTypeError(name, f"must be a jagged nested tensor, got {got}")
    if token_embeddings.layout != torch.jagged:
        raise InvalidTypeError(
            name,
            f"must be a nested tensor of layout torch.jagged, got {token_embeddings.layout}: create it with "
            "torch.nested.nested_tensor(…, layout=torch.jagged), or convert it with "
            "torch.nested.as_nested_tensor(list(nested.unbind()), layout=torch.jagged)",
        )
    if token_embeddings.dtype not in _TOKEN_DTYPES:
        raise InvalidTypeError(
            name,
            f"must have a floating dtype (float16, bfloat16, float32 or float64), got {token_embeddings.dtype}",
        )
    if token_embeddings.dim() != 3 or token_embeddings._ragged_idx != 1:  # type: ignore[attr-defined]  # torch's only name for it
        raise InvalidValueError(
            name,
            f"must have the nested shape (batch, tokens, dim) with ragged tokens, got {tuple(token_embeddings.shape)}",
        )
    return token_embeddings


def _check_offsets(cu_seqlens: object) -> Tensor:
    name = "cu_seqlens"
    if not isinstance(cu_seqlens, Tensor):
        raise InvalidTypeError(name, f"must be a torch.Tensor, got {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise InvalidTypeError(name, f"must be int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or not cu_seqlens.numel():
        raise InvalidValueError(
            name, f"must have the shape (batch + 1,) and start at 0, got the shape {tuple(cu_seqlens.shape)}"
        )
    return cu_seqlens


def check_cu_seqlens(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Raise unless the offsets cut ``tokens`` tokens into sentences; return the sentences' lengths."""
    _check_offsets(cu_seqlens)
    steps = cu_seqlens.diff()
    if on_eager_cpu(cu_seqlens) and (
        int(cu_seqlens[0])
        or int(cu_seqlens[-1]) != tokens
        or int(cu_seqlens.min()) < 0
        or int(cu_seqlens.max()) > tokens  # before the differences, which wrap around for numbers far apart
        or (steps.numel() and int(steps.min()) < 0)
    ):
        raise InvalidValueError(
            "cu_seqlens",
            f"must start at 0, never decrease and end at the number of tokens, {tokens}; got {shortened(cu_seqlens)}",
        )
    return steps


def check_integers(name: str, tensor: object, dims: int) -> Tensor:
    """Raise unless ``tensor`` is an integer tensor with ``dims`` dimensions."""
    if not isinstance(tensor, Tensor):
        raise InvalidTypeError(name, f"must be an integer torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in _INTEGERS:
        raise InvalidTypeError(name, f"must have an integer dtype, got {tensor.dtype}")
    if tensor.dim() != dims:
        shape = "the shape (batch, seq)" if dims == 2 else "one dimension"
        raise InvalidValueError(name, f"must have {shape}, got {tuple(tensor.shape)}")
    return tensor


def check_same_device(name: str, tensor: Tensor, other: str, expected: Tensor) -> None:
    """Raise unless two tensors are on one device."""
    if tensor.device != expected.device:
        raise InvalidValueError(name, f"must be on the device of {other}, {expected.device}, got {tensor.device}")


# ----------------------------------------------------------------------------------------- hyperparameters, parameters


def check_on_empty(on_empty: str) -> None:
    """Raise unless ``on_empty`` is ``"zero"``, ``"nan"`` or ``"raise"``."""
    if on_empty not in get_args(OnEmpty):
        raise InvalidValueError(
            "on_empty", f"must be one of {', '.join(map(repr, get_args(OnEmpty)))}, got {on_empty!r}"
        )


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidValueError(name, f"must be a finite number above 0, got {value!r}")


def check_sizes(**sizes: int) -> None:
    """Raise unless each size is a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InvalidValueError(name, f"must be a positive integer, got {size!r}")


def check_heads(num_heads: int, dimension: int, of: str = "token_embeddings") -> None:
    """Raise unless the number of heads divides the width of a token."""
    check_sizes(num_heads=num_heads)
    if dimension % num_heads:
        raise InvalidValueError("num_heads", f"must divide the dimension {dimension} of {of}, got {num_heads}")


def check_parameters(batch: Kernels, **parameters: tuple[object, str]) -> None:
    """Raise unless each parameter is a floating tensor of the given shape.

    A word in a shape denotes one size in all parameters: ``dim`` is the width of a token, and the first parameter with
    another word sets that word's size.
    """
    known = {"dim": (batch.dim, "token_embeddings")}
    for name, (parameter, words) in parameters.items():
        sizes = words.split()
        shape = f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
        if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
            raise InvalidTypeError(name, f"must be a floating torch.Tensor of shape {shape}, got {kind(parameter)}")
        given = tuple(parameter.shape)
        if len(given) != len(sizes) or any(
            size in known and known[size][0] != number for size, number in zip(sizes, given, strict=True)
        ):
            of = "".join(
                f", {size} = {known[size][0]} as of {known[size][1]}" for size in dict.fromkeys(sizes) if size in known
            )
            raise InvalidValueError(name, f"must have the shape {shape}{of}; got {given}")
        if parameter.device != batch.device:
            raise InvalidValueError(name, f"must be on token_embeddings' device {batch.device}, got {parameter.device}")
        for size, number in zip(sizes, given, strict=True):
            if size not in known and not number:
                raise InvalidValueError(name, f"must have at least 1 of the {size} in its shape {shape}, got {given}")
            known.setdefault(size, (number, name))


def kind(value: object) -> str:
    """Return a tensor's dtype, or the name of another object's type, for a message."""
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def shortened(numbers: Tensor) -> str:
    """Return a tensor's numbers as text, without those in the middle of a long tensor."""
    shown = [*map(str, numbers[:3].tolist()), "…", *map(str, numbers[-3:].tolist())]
    return f"[{', '.join(shown)}]" if numbers.numel() > 6 else str(numbers.tolist())
