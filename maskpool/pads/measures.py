"""What a model does with pads, as numbers: its states, its attention, how alike its outputs are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from maskpool.encoder.annotations import PreTrainedModel
from maskpool.tolerances import SAME_OUTPUTS

_REFUSALS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)  # of a mask with a fourth dimension


class DoesNotApplyError(Exception):
    """The model has no such thing; the message says what it lacks."""


@dataclass(frozen=True)
class Batch:
    """Padded texts.

    Attributes:
        ids: (batch, seq).
        mask: (batch, seq), 1 at real tokens.
    """

    ids: Annotated[Tensor, "batch seq"]
    mask: Annotated[Tensor, "batch seq"]

    @property
    def real(self) -> Annotated[Tensor, "batch seq"]:
        """Where real tokens stand."""
        return self.mask.bool()


def states(
    model: PreTrainedModel, batch: Batch, mask: Tensor, **arguments: Tensor
) -> Annotated[Tensor, "batch seq dim"]:
    """The last hidden state under a mask, in float32."""
    found: Tensor = model(input_ids=batch.ids, attention_mask=mask, **arguments).last_hidden_state
    return found.float()


def distance(
    one: Annotated[Tensor, "batch seq dim"],
    other: Annotated[Tensor, "batch seq dim"],
    where: Annotated[Tensor, "batch seq"],
) -> float:
    """The largest difference of a number at some positions; 0 where there is none."""
    difference = (one - other).abs()[where]
    return finite(difference.max()) if difference.numel() else 0.0


def finite(value: Tensor) -> float:
    """A number that JSON can hold.

    Raises:
        DoesNotApplyError: It is NaN or infinite.
    """
    if not value.isfinite():
        raise DoesNotApplyError("the model's outputs there are no finite numbers")
    return value.item()


def attention_on_pads(model: PreTrainedModel, batch: Batch, mask: Tensor) -> float:
    """The most that a real token gives to all pads together, in any layer and head.

    Args:
        model: A model whose attention is eager.
        batch: The texts.
        mask: What the model is given as a mask, (batch, seq) or additive, (batch, 1, seq, seq).

    Raises:
        DoesNotApplyError: The model shows no attention of every token to every token.
    """
    name = type(model).__name__
    output: Any = model(input_ids=batch.ids, attention_mask=mask, output_attentions=True)
    layers = [layer for layer in getattr(output, "attentions", None) or () if layer is not None]
    if not layers:
        raise DoesNotApplyError(f"a {name} gives no attention weights")
    seq = batch.ids.shape[1]
    most = torch.zeros(())
    for layer in layers:
        if layer.ndim != 4 or layer.shape[2:] != (seq, seq):
            raise DoesNotApplyError(f"attention in a {name} is not of every token to every token: {tuple(layer.shape)}")
        on_pads = (layer.float() * ~batch.real[:, None, None]).sum(dim=3)
        most = torch.maximum(most, on_pads.transpose(1, 2)[batch.real].max().cpu())
    return finite(most)


def additive(
    mask: Annotated[Tensor, "batch seq"], causal: bool, value: float, dtype: torch.dtype
) -> Annotated[Tensor, "batch 1 seq seq"]:
    """A mask that is added to the scores: 0 where a token may look, ``value`` elsewhere."""
    seen = mask.bool()[:, None, None].expand(-1, 1, mask.shape[1], -1)
    if causal:
        seen = seen.tril()
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, value)


def is_causal(model: PreTrainedModel, batch: Batch) -> bool:
    """Whether a model's own mask is causal, found by which additive mask gives its outputs again.

    Raises:
        DoesNotApplyError: None does: it takes no additive mask, or reads the plain one for something else too.
    """
    own = states(model, batch, batch.mask)
    for causal in (False, True):
        try:
            again = states(model, batch, additive(batch.mask, causal, torch.finfo(model.dtype).min, model.dtype))
        except _REFUSALS:
            break
        if distance(own, again, batch.real) <= SAME_OUTPUTS * finite(own[batch.real].abs().max()):
            return causal
    raise DoesNotApplyError(f"a {type(model).__name__} takes no additive mask (batch, 1, seq, seq) in place of its own")


def mean_of_pairs(rows: Annotated[Tensor, "rows dim"]) -> Tensor | None:
    """Mean product of two different rows; None where there are no two."""
    count = len(rows)
    if count < 2:
        return None
    products = rows @ rows.T
    return (products.sum() - products.diagonal().sum()) / (count * (count - 1))
