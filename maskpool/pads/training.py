"""Measure how training moves the pad row: a copy with a language-model head takes a few steps.

`maskpool.training.train` trains a head for epochs until it is good. Here the steps are the measurement: `STEPS` of them
on one batch, without dropout, which that loop turns on and which would add random movement. The copy is thrown away.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskpool.encoder.annotations import PreTrainedModel
from maskpool.pads.measures import Batch, DoesNotApplyError
from maskpool.pads.row import input_embedding

LEARNING_RATE = 1e-3  # torch's default for AdamW
STEPS = 3  # the size of Adam's first step does not depend on the gradient
_MASKED = slice(1, None, 4)  # the tokens that a masked language model predicts


@dataclass(frozen=True)
class Trained:
    """A language model with the weights of an encoder.

    Attributes:
        model: The model, in float32 and without dropout; only copies of it are trained.
        causal: Whether it predicts the next token instead of masked ones.
        mask_token_id: The id that replaces a token to predict.
    """

    model: PreTrainedModel
    causal: bool
    mask_token_id: int | None

    @classmethod
    def of(cls, encoder: PreTrainedModel, mask_token_id: int | None) -> Trained:
        """Build the masked, else the causal language model around the weights of an encoder.

        Raises:
            DoesNotApplyError: transformers has neither.
        """
        from transformers import (
            MODEL_FOR_CAUSAL_LM_MAPPING,
            MODEL_FOR_MASKED_LM_MAPPING,
            AutoModelForCausalLM,
            AutoModelForMaskedLM,
        )

        config, name = copy.deepcopy(encoder.config), type(encoder).__name__
        causal = type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        if causal and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise DoesNotApplyError(f"transformers has no masked or causal language model around a {name}")
        auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
        model: PreTrainedModel = auto.from_config(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
            config, dtype=torch.float32
        )
        # The encoder may have more than the language model: a pooler.
        missing = model.base_model.load_state_dict(encoder.state_dict(), strict=False).missing_keys
        if missing:
            raise DoesNotApplyError(f"a {name} is only a part of a {type(model).__name__}: it lacks {missing[0]}")
        model.to(encoder.device).eval()  # type: ignore[arg-type]  # transformers wraps nn.Module.to without its types
        return cls(model, causal, mask_token_id)

    def gradients(self, ids: Sequence[Sequence[int]], pad: int) -> tuple[float, float | None]:
        """Return the norms of the gradient of the pad row through the input embedding and through the output head.

        A copy of the matrix in the head separates the two; a tied matrix gets their sum. Each text is a batch, which
        therefore has no pads.

        Args:
            ids: Token ids of each text; pad ids in them, such as an end-of-text token, are dropped.
            pad: The pad row.

        Returns:
            Both norms; the second is None if the output head has no such row.
        """
        model = copy.deepcopy(self.model)
        table = input_embedding(model).weight
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # the same
        if isinstance(head, nn.Linear) and head.weight is table:
            head.weight = nn.Parameter(table.detach().clone())
        texts = [[token for token in tokens if token != pad] for tokens in ids]
        texts = [tokens for tokens in texts if len(tokens) > 1]
        if not texts:
            raise DoesNotApplyError("no text has two tokens to train on")
        for tokens in texts:
            row = torch.tensor([tokens], device=table.device)
            with torch.enable_grad():
                loss = self._loss(model, Batch(row, torch.ones_like(row)), -100)
                (loss / len(texts)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        through_input = 0.0 if table.grad is None else table.grad[pad].norm().item()
        weight = getattr(head, "weight", None)
        if not isinstance(weight, Tensor) or weight.shape[0] <= pad or weight.grad is None:
            return through_input, None
        return through_input, weight.grad[pad].norm().item()

    def movement(self, batch: Batch, pad: int, ignore_index: int) -> float:
        """Return the distance that the pad row moves in `STEPS` steps of AdamW without decay.

        Args:
            batch: Padded texts; pads are targets as well.
            pad: The pad row.
            ignore_index: The target that the loss ignores.
        """
        model = copy.deepcopy(self.model)
        table = input_embedding(model).weight
        before = table[pad].detach().clone()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        for _ in range(STEPS):
            optimizer.zero_grad()
            with torch.enable_grad():
                self._loss(model, batch, ignore_index).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        return float((table[pad].detach() - before).norm())

    def _loss(self, model: PreTrainedModel, batch: Batch, ignore_index: int) -> Tensor:
        targets, ids = batch.ids, self._hide(batch)
        logits: Tensor = model(input_ids=ids, attention_mask=batch.mask).logits
        if self.causal:
            logits, targets = logits[:, :-1], targets[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignore_index)

    def _hide(self, batch: Batch) -> Annotated[Tensor, "batch seq"]:
        if self.causal or self.mask_token_id is None:
            return batch.ids
        predicted = torch.zeros_like(batch.mask)
        predicted[:, _MASKED] = 1
        return torch.where((predicted * batch.mask).bool(), self.mask_token_id, batch.ids)
