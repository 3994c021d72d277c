"""What is refused, and in which words: law 9 in one place, for tokens and masks.

Types and shapes are looked at everywhere; values on CPU in eager mode alone, because on other devices the host would
have to wait, and in a trace there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

_TOKEN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_MASK_DTYPES = (torch.bool, *_INTEGERS)


def on_eager_cpu(tensor: Tensor) -> bool:
    """Whether values may be looked at, and the sparse kernels run: CPU tensors, outside of any tracing.

    Tracers cannot follow shapes that depend on the mask's values, and on other devices counting the real tokens would
    make the host wait for the device.
    """
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch.jit is untyped


def is_nested(token_embeddings: object) -> bool:
    """Whether something is a nested tensor of any layout."""
    return isinstance(token_embeddings, Tensor) and token_embeddings.is_nested


def refuse_tracing(argument: str) -> None:
    """Raise ValueError in a trace, where the lengths of packed sentences cannot be known."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # untyped
        raise ValueError(
            f"{argument} cannot be traced: how long the sentences are would become part of the graph; "
            "under torch.compile, torch.export and ONNX pass padded token_embeddings with an attention_mask"
        )


def shortened(numbers: Tensor) -> str:
    """A tensor's numbers, those in the middle left out."""
    shown = [*map(str, numbers[:3].tolist()), "…", *map(str, numbers[-3:].tolist())]
    return f"[{', '.join(shown)}]" if numbers.numel() > 6 else str(numbers.tolist())


def check_tokens(token_embeddings: object, dims: int, shape: str) -> Tensor:
    """Refuse what holds no token embeddings; (1, tokens, dim) passes for (tokens, dim)."""
    if isinstance(token_embeddings, Mapping):  # transformers' BatchEncoding is no dict
        raise TypeError(
            f"token_embeddings must be a tensor of shape {shape}, got a dictionary of features: that is "
            "what a module of a SentenceTransformer reads. There, put Pooling(...) or AttentionPoolingModule(...) of "
            "maskpool.integrations.sentence_transformers; by itself, a layer is called as "
            "layer(features['token_embeddings'], features['attention_mask'])"
        )
    if not isinstance(token_embeddings, Tensor):
        raise TypeError(
            f"token_embeddings must be a torch.Tensor of shape {shape} or a TokenBatch, "
            f"got {type(token_embeddings).__name__}"
        )
    if token_embeddings.dtype not in _TOKEN_DTYPES:
        raise TypeError(
            f"token_embeddings must have a floating dtype, got {token_embeddings.dtype}: "
            "float16, bfloat16, float32 and float64 are pooled"
        )
    if token_embeddings.layout != torch.strided or token_embeddings.is_nested:
        kind = "nested" if token_embeddings.is_nested else str(token_embeddings.layout)
        raise TypeError(f"token_embeddings must be a strided tensor, got layout {kind}")
    if token_embeddings.dim() != dims:
        raise ValueError(
            f"token_embeddings must have {dims} dimensions {shape}, "
            f"got {token_embeddings.dim()}: shape {tuple(token_embeddings.shape)}"
        )
    return token_embeddings


def check_padded(token_embeddings: object, attention_mask: object) -> None:
    """Refuse what is no padded batch (law 9); values are looked at by the eager route alone."""
    tokens = check_tokens(token_embeddings, 3, "(batch, seq, dim)")
    if attention_mask is None:
        raise ValueError(
            "attention_mask is required with padded token_embeddings: shape (batch, seq), 1 at real tokens; "
            "pass torch.ones(batch, seq, dtype=torch.bool) if every token is real"
        )
    check_mask("attention_mask", attention_mask, tuple(tokens.shape[:2]), tokens.device)


def check_mask(name: str, mask: object, shape: tuple[int, ...], device: torch.device) -> None:
    """Refuse what is no mask of this shape on this device."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype not in _MASK_DTYPES:
        raise TypeError(
            f"{name} must be bool or integer with 1 at real tokens, got {mask.dtype}: an additive "
            "mask (0 at real tokens) would be read upside down; convert it with `mask == 0`; fractions are weights"
        )
    if mask.dim() == 4:
        raise ValueError(
            f"{name} must have 2 dimensions (batch, seq), got the 4-D shape {tuple(mask.shape)}: "
            "masks extended for attention cannot be pooled with; pass the tokenizer's own"
        )
    if tuple(mask.shape) != shape:
        of = "token_embeddings' first two dimensions" if len(shape) == 2 else "the batch's tokens"
        raise ValueError(f"{name} must have the shape {shape} of {of}, got {tuple(mask.shape)}")
    if mask.device != device:
        raise ValueError(f"{name} must be on token_embeddings' device {device}, got {mask.device}")


def check_zeros_and_ones(name: str, mask: Tensor) -> None:
    """Refuse numbers other than 0 and 1."""
    if mask.dtype != torch.bool and mask.numel():
        lowest, highest = map(int, mask.aminmax())
        if lowest < 0 or highest > 1:
            raise ValueError(f"{name} must hold only 0 (pad) and 1 (real token); it holds {lowest} to {highest}")


def check_packed(token_embeddings: object, cu_seqlens: object) -> Float[Tensor, "tokens dim"]:
    """Refuse what are no packed tokens and offsets; return the tokens with two dimensions."""
    if isinstance(token_embeddings, Tensor) and token_embeddings.dim() == 3 and not token_embeddings.is_nested:
        if len(token_embeddings) != 1:
            raise ValueError(
                "token_embeddings must be packed, (tokens, dim) or (1, tokens, dim), when cu_seqlens is given, got "
                f"shape {tuple(token_embeddings.shape)}: a padded batch goes with an attention_mask"
            )
        token_embeddings = token_embeddings.squeeze(0)
    values = check_tokens(token_embeddings, 2, "(tokens, dim)")
    _check_offsets(cu_seqlens)
    assert isinstance(cu_seqlens, Tensor)  # _check_offsets has refused others
    if cu_seqlens.device != values.device:
        raise ValueError(f"cu_seqlens must be on token_embeddings' device {values.device}, got {cu_seqlens.device}")
    return values


def check_nested(token_embeddings: object) -> None:
    """Refuse what is no jagged nested tensor of token embeddings."""
    if not isinstance(token_embeddings, Tensor) or not token_embeddings.is_nested:
        got = token_embeddings.layout if isinstance(token_embeddings, Tensor) else type(token_embeddings).__name__
        raise TypeError(f"token_embeddings must be a jagged nested tensor, got {got}")
    if token_embeddings.layout != torch.jagged:
        raise TypeError(
            f"token_embeddings must be a nested tensor of layout torch.jagged, got {token_embeddings.layout}: "
            "make it with torch.nested.nested_tensor(…, layout=torch.jagged), or convert it with "
            "torch.nested.as_nested_tensor(list(nested.unbind()), layout=torch.jagged)"
        )
    if token_embeddings.dtype not in _TOKEN_DTYPES:
        raise TypeError(
            f"token_embeddings must have a floating dtype, got {token_embeddings.dtype}: "
            "float16, bfloat16, float32 and float64 are pooled"
        )
    if token_embeddings.dim() != 3 or token_embeddings._ragged_idx != 1:  # type: ignore[attr-defined]  # torch's only name for it
        raise ValueError(
            "token_embeddings must have the nested shape (batch, tokens, dim) with ragged tokens, "
            f"got {tuple(token_embeddings.shape)}"
        )


def _check_offsets(cu_seqlens: object) -> None:
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens must be a torch.Tensor, got {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or not cu_seqlens.numel():
        raise ValueError(
            f"cu_seqlens must have the shape (batch + 1,) and start at 0, got the shape {tuple(cu_seqlens.shape)}"
        )


def check_cu_seqlens(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Refuse offsets that do not cut ``tokens`` tokens into sentences; return the sentences' lengths."""
    _check_offsets(cu_seqlens)
    steps = cu_seqlens.diff()
    if on_eager_cpu(cu_seqlens) and (
        int(cu_seqlens[0])
        or int(cu_seqlens[-1]) != tokens
        or int(cu_seqlens.min()) < 0
        or int(cu_seqlens.max()) > tokens  # before differences are looked at, which numbers far apart wrap around
        or (steps.numel() and int(steps.min()) < 0)
    ):
        raise ValueError(
            f"cu_seqlens must start at 0, never decrease and end at the number of tokens, {tokens}; got "
            f"{shortened(cu_seqlens)}"
        )
    return steps


def check_integers(name: str, tensor: object, dims: int) -> None:
    """Refuse what is no integer tensor of so many dimensions."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be an integer torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in _INTEGERS:
        raise TypeError(f"{name} must have an integer dtype, got {tensor.dtype}")
    if tensor.dim() != dims:
        shape = "the shape (batch, seq)" if dims == 2 else "one dimension"
        raise ValueError(f"{name} must have {shape}, got {tuple(tensor.shape)}")
