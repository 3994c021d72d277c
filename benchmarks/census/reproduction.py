"""What the reproductions share: a tiny random model, a text alone and padded, and how far its states move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from maskpool.audit.states import relative

VOCABULARY = 96
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@torch.no_grad()
def build(model_class: type[Any], config: Any, part: str = "") -> Any:
    """Build a model with random weights in evaluation mode: no norm is the identity, no pad row is zero.

    Args:
        model_class: The class of the model.
        config: Its configuration.
        part: The part to return, such as ``"encoder"``; empty returns the model.
    """
    torch.manual_seed(0)
    model = model_class(config)
    model = (getattr(model, part) if part else model).eval()
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    return model


def draw_text(length: int, vocabulary: int = VOCABULARY) -> Tensor:
    """Return random token ids, (1, length)."""
    return torch.randint(10, vocabulary, (1, length))


@torch.no_grad()
def states_of(model: Any, ids: Tensor, mask: Tensor | None = None, **arguments: Any) -> Tensor:
    """Return the token states of a model; without a mask, no token is a pad."""
    mask = torch.ones_like(ids) if mask is None else mask
    states: Tensor = model(input_ids=ids, attention_mask=mask, **arguments)[0]
    return states


def counted_positions(length: int, left: int) -> Tensor:
    """Return position ids that count real tokens from 0 behind pads on the left."""
    return (torch.arange(left + length)[None] - left).clamp(min=0)


def padding_shift(
    model: Any,
    ids: Tensor,
    *,
    left: int = 0,
    right: int = 0,
    pad_id: int = 0,
    ablate: Callable[[], None] | None = None,
    alone: Mapping[str, Any] | None = None,
    padded: Mapping[str, Any] | None = None,
) -> float:
    """Return the largest change of a real token's state under padding, over the root mean square of the states.

    Args:
        model: The model.
        ids: The text, (1, length).
        left: The number of pads on the left.
        right: The number of pads on the right.
        pad_id: Their id.
        ablate: Removes the mechanism from the model after the text ran alone.
        alone: Further arguments of the model for the text alone.
        padded: Further arguments of the model for the padded text.
    """
    before = states_of(model, ids, **(alone or {}))
    if ablate is not None:
        ablate()
    mask = pad(torch.ones_like(ids), (left, right))
    after = states_of(model, pad(ids, (left, right), value=pad_id), mask, **(padded or {}))
    return relative(before, after[:, left : left + ids.shape[1]])
