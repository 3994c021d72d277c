"""Measure what a model does with pads: states, attention, similarity of outputs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import torch
from torch import Tensor

from maskpool.encoder.annotations import PreTrainedModel
from maskpool.integrations import is_older
from maskpool.tolerances import SAME_OUTPUTS

_REFUSALS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)  # raised for a mask with four dimensions


class DoesNotApplyError(Exception):
    """A question does not apply to a model; the message says what the model lacks."""


@dataclass(frozen=True)
class Batch:
    """A batch of padded texts.

    Attributes:
        ids: Token ids, (batch, seq).
        mask: 1 at real tokens, 0 at pads, (batch, seq).
    """

    ids: Annotated[Tensor, "batch seq"]
    mask: Annotated[Tensor, "batch seq"]

    @property
    def real(self) -> Annotated[Tensor, "batch seq"]:
        """The mask as bool."""
        return self.mask.bool()


def states(
    model: PreTrainedModel, batch: Batch, mask: Tensor, **arguments: Tensor
) -> Annotated[Tensor, "batch seq dim"]:
    """Return the last hidden state under a mask, in float32."""
    hidden: Tensor = model(input_ids=batch.ids, attention_mask=mask, **arguments).last_hidden_state
    return hidden.float()


def distance(
    before: Annotated[Tensor, "batch seq dim"],
    after: Annotated[Tensor, "batch seq dim"],
    where: Annotated[Tensor, "batch seq"],
) -> float:
    """Return the largest absolute difference at the positions in ``where``; 0 without positions."""
    difference = (before - after).abs()[where]
    return finite(difference.max()) if difference.numel() else 0.0


def finite(value: Tensor) -> float:
    """Return a finite number, which JSON can hold.

    Raises:
        DoesNotApplyError: The value is NaN or infinite.
    """
    if not value.isfinite():
        raise DoesNotApplyError("the model's outputs are NaN or infinite")
    return value.item()


def attention_on_pads(model: PreTrainedModel, batch: Batch, mask: Tensor) -> float:
    """Return the largest attention of a real token to all pads together, over layers and heads.

    Args:
        model: A model with eager attention.
        batch: The texts.
        mask: The mask that the model gets, (batch, seq) or additive, (batch, 1, seq, seq).

    Raises:
        DoesNotApplyError: The model returns no attention of every token to every token.
    """
    name = type(model).__name__
    output: Any = model(input_ids=batch.ids, attention_mask=mask, output_attentions=True)
    layers = [layer for layer in getattr(output, "attentions", None) or () if layer is not None]
    if not layers:
        raise DoesNotApplyError(f"a {name} returns no attention weights")
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
    """Return a mask to add to scores: 0 where a token may attend, ``value`` elsewhere."""
    seen = mask.bool()[:, None, None].expand(-1, 1, mask.shape[1], -1)
    if causal:
        seen = seen.tril()
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, value)


def is_causal(model: PreTrainedModel, batch: Batch) -> bool:
    """Find out whether a model's own mask is causal: by which additive mask reproduces its outputs.

    Raises:
        DoesNotApplyError: Neither does: the model takes no additive mask, or uses the plain one for more.
    """
    own = states(model, batch, batch.mask)
    for causal in (False, True):
        try:
            again = states(model, batch, additive(batch.mask, causal, torch.finfo(model.dtype).min, model.dtype))
        except _REFUSALS:
            break
        if distance(own, again, batch.real) <= SAME_OUTPUTS * finite(own[batch.real].abs().max()):
            return causal
    advice = "; encoders like BERT take one in transformers>=5.0" if is_older("transformers", "5.0") else ""
    raise DoesNotApplyError(
        f"a {type(model).__name__} takes no additive mask (batch, 1, seq, seq) in place of its own in transformers "
        f"{version('transformers')}{advice}"
    )


def mean_of_pairs(rows: Annotated[Tensor, "rows dim"]) -> Tensor | None:
    """Return the mean product of two different rows; None for fewer than two rows."""
    count = len(rows)
    if count < 2:
        return None
    products = rows @ rows.T
    return (products.sum() - products.diagonal().sum()) / (count * (count - 1))
