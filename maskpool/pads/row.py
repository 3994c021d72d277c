"""Find the pad row of an embedding matrix, and freeze it in training."""

from __future__ import annotations

import operator
import weakref
from collections import defaultdict
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from maskpool.errors import InvalidTypeError, InvalidValueError


def input_embedding(model: nn.Module) -> nn.Embedding:
    """Return the embedding that reads token ids.

    This is ``model.get_input_embeddings()``; in a model without that method, the embedding of the only part that has
    it, or the only ``torch.nn.Embedding``.

    Args:
        model: A transformers model, a wrapper around one, or any module.

    Raises:
        InvalidTypeError: ``model`` is not a module.
        InvalidValueError: The model has no such embedding, or more than one.

    Example:
        >>> input_embedding(torch.nn.Sequential(torch.nn.Embedding(9, 2), torch.nn.Linear(2, 9)))
        Embedding(9, 2)
    """
    _check_module(model)
    embeddings = list({id(module): module for module in _candidates(model)}.values())
    if len(embeddings) == 1 and isinstance(embeddings[0], nn.Embedding):
        return embeddings[0]
    names = {id(module): name for name, module in model.named_modules()}
    got = ", ".join(f"{type(module).__name__} {names.get(id(module), '')!r}" for module in embeddings) or "none"
    raise InvalidValueError(
        "model",
        "must have get_input_embeddings(), which returns a torch.nn.Embedding, or exactly one torch.nn.Embedding, got "
        f"{got}: name the one that reads token ids, embedding=model.…",
    )


def tied_heads(model: nn.Module, *, embedding: nn.Embedding | None = None) -> list[str]:
    """Return the names of the other modules that share the matrix of the input embedding, mostly a tied output head.

    Further embeddings of an encoder-decoder are included. A model that multiplies with the matrix in its ``forward``,
    without a module, is not recognised.

    Args:
        model: A transformers model, or any module.
        embedding: The embedding that reads token ids; required if `input_embedding` cannot find it.

    Raises:
        InvalidTypeError: ``model`` is not a module, or ``embedding`` is not an embedding.
        InvalidValueError: ``embedding`` is required, or is not a part of ``model``.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 2), torch.nn.Linear(2, 9))
        >>> model[1].weight = model[0].weight
        >>> tied_heads(model)
        ['1']
    """
    chosen = _choose_embedding(model, embedding)
    return [
        name
        for name, module in model.named_modules()
        if module is not chosen and any(weight is chosen.weight for weight in module.parameters(recurse=False))
    ]


def freeze_pad_row(
    model: nn.Module, pad_token_id: int | None = None, *, embedding: nn.Embedding | None = None
) -> FrozenRow:
    """Keep the pad row of the input embedding unchanged while everything else trains.

    A tied output head moves the row even if no pad is read, because the pad's logit is in every softmax; weight decay
    moves it as well. With the row frozen, each backward pass clears its gradient, which then counts in no norm. Each
    step of an optimizer that holds the matrix, created before or after, restores the row bit for bit. This works with
    any ``torch.optim.Optimizer``, gradient accumulation, clipping, ``torch.amp``, gradient checkpointing, accelerate
    and transformers' ``Trainer``. The model gets no new module, parameter or key in its ``state_dict``.

    Limits:
        * Values that you write into the row, with ``load_state_dict``, ``model.half()`` or directly, are kept from then
          on. If you replace the embedding module, freeze the new one.
        * The bias of a tied head at the pad (in BERT ``cls.predictions.bias``) and the row of an untied output head
          train: they are not part of the matrix.
        * Other rows take the same step as without freezing, except if an optimizer mixes rows (clipping, Adafactor,
          Muon, LAMB). Later steps differ if the model reads the row.
        * A copy (``copy.deepcopy``, ``pickle``, ``torch.save``) has the same row, and is not frozen.
        * Training on separate weights that are copied into the model (DeepSpeed, FSDP, apex) is not covered, and
          neither are gradients that ``torch.autograd.grad`` returns.
        * If the pad token is also the end-of-text token, the row of that token is frozen.

    Args:
        model: A transformers model, a wrapper around one, or any module.
        pad_token_id: The row, preferably ``tokenizer.pad_token_id``; None takes ``model.config.pad_token_id``, else
            the ``padding_idx`` of the embedding.
        embedding: The embedding that reads token ids; required if `maskpool.pads.input_embedding` cannot find it.

    Returns:
        A handle: ``handle.remove()``, or the end of a ``with`` block, unfreezes the row. Dropping the handle does not.

    Raises:
        InvalidTypeError: An argument has the wrong type.
        InvalidValueError: ``embedding`` or ``pad_token_id`` is required, or not part of ``model``; the matrix is not a
            parameter; or the ``max_norm`` of the embedding would rescale the row.

    See Also:
        `maskpool.pads.explain`: measure how training moves the pad row of a model.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 2, padding_idx=0), torch.nn.Linear(2, 9))
        >>> model[1].weight = model[0].weight
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> def pad_row_after_a_step():
        ...     model(torch.tensor([4, 7])).logsumexp(1).sum().backward()
        ...     optimizer.step()
        ...     return model[0].weight[0].tolist()
        >>> with freeze_pad_row(model):
        ...     pad_row_after_a_step()
        [0.0, 0.0]
        >>> pad_row_after_a_step() == [0.0, 0.0]
        False
    """
    chosen = _choose_embedding(model, embedding)
    row = _choose_row(model, chosen, pad_token_id)
    _check_norm(chosen, row)
    return FrozenRow(chosen, row)


class FrozenRow:
    """The handle of a row that optimizers leave unchanged, until `remove` or the end of a ``with`` block.

    Args:
        embedding: The embedding with the matrix.
        row: The index of the row.
    """

    def __init__(self, embedding: nn.Embedding, row: int) -> None:
        # Weak: torch keeps the hooks of all optimizers, and a dropped model should be freed.
        self._embedding = weakref.ref(embedding)
        self._row = row
        # Several per optimizer if its step calls that of its base class.
        self._saved: defaultdict[int, list[Tensor]] = defaultdict(list)
        self._watch(embedding.weight)
        self._steps = (
            register_optimizer_step_pre_hook(self._save),
            register_optimizer_step_post_hook(self._restore),
        )

    def remove(self) -> None:
        """Unfreeze the row; a second call has no effect."""
        for handle in (self._gradient, *self._steps):
            handle.remove()
        self._saved.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _watch(self, weight: Tensor) -> None:
        needed = weight.requires_grad
        weight.requires_grad_(True)  # torch refuses hooks on a matrix without gradient
        self._gradient = weight.register_post_accumulate_grad_hook(self._clear)  # type: ignore[no-untyped-call]  # untyped
        weight.requires_grad_(needed)

    def _clear(self, weight: Tensor) -> None:
        gradient = weight.grad
        if gradient is None:  # another hook took its step and released the gradient
            return
        with torch.no_grad():
            if gradient.is_sparse:
                gradient._values()[gradient._indices()[0] == self._row] = 0
            else:
                gradient[self._row] = 0

    def _save(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        embedding = self._embedding()
        if embedding is None:
            return
        weight = embedding.weight
        # The matrix was replaced: tied in the other direction, or load_state_dict(assign=True). Recognised by the hook,
        # because torch.utils.swap_tensors refuses matrices with weak references.
        if self._gradient.id not in (weight._post_accumulate_grad_hooks or {}):
            self._gradient.remove()
            self._watch(weight)
        if any(held is weight for group in optimizer.param_groups for held in group["params"]):
            self._saved[id(optimizer)].append(weight.detach()[self._row].clone())

    def _restore(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        embedding, saved = self._embedding(), self._saved.get(id(optimizer))
        if embedding is not None and saved:
            with torch.no_grad():
                embedding.weight[self._row] = saved.pop()


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidTypeError("model", f"must be a torch.nn.Module, got {type(model).__name__}")


def _candidates(module: nn.Module) -> list[Any]:
    """Return the input embedding that a module declares, else those that its parts declare."""
    if isinstance(module, nn.Embedding):
        return [module]
    if callable(declare := getattr(module, "get_input_embeddings", None)):
        try:
            return [declare()]
        except NotImplementedError:  # transformers declares none
            pass
    return [embedding for child in module.children() for embedding in _candidates(child)]


def _choose_embedding(model: nn.Module, embedding: nn.Embedding | None) -> nn.Embedding:
    if embedding is None:
        return input_embedding(model)
    _check_module(model)
    if not isinstance(embedding, nn.Embedding):
        raise InvalidTypeError("embedding", f"must be a torch.nn.Embedding, got {type(embedding).__name__}")
    if all(module is not embedding for module in model.modules()):
        raise InvalidValueError(
            "embedding", f"must be a part of model, got {embedding}, which is not: pass embedding=model.…"
        )
    return embedding


def _choose_row(model: nn.Module, embedding: nn.Embedding, pad_token_id: int | None) -> int:
    weight: object = embedding.weight
    if not isinstance(weight, nn.Parameter):
        raise InvalidValueError(
            "embedding.weight",
            f"must be a parameter, got a {type(weight).__name__} computed from others: remove the "
            "parametrization first (torch.nn.utils.parametrize.remove_parametrizations)",
        )
    token_id = pad_token_id if pad_token_id is not None else _known_pad(model, embedding)
    if token_id is None:
        raise InvalidValueError(
            "pad_token_id",
            "must be the row of the pad token, got None, and neither model.config.pad_token_id nor "
            "embedding.padding_idx names one: pass pad_token_id=tokenizer.pad_token_id",
        )
    try:
        row = None if isinstance(token_id, bool) else operator.index(token_id)
    except TypeError:
        row = None
    if row is None:
        raise InvalidTypeError(
            "pad_token_id", f"must be an integer, got {type(token_id).__name__}: pass tokenizer.pad_token_id"
        )
    if not 0 <= row < len(weight):
        where = "" if pad_token_id is not None else " from model.config.pad_token_id"
        raise InvalidValueError(
            "pad_token_id",
            f"must be a row of the embedding matrix, 0 to {len(weight) - 1}, got {row}{where}: pass "
            "tokenizer.pad_token_id, after model.resize_token_embeddings(len(tokenizer)) if the token was added",
        )
    return row


def _known_pad(model: nn.Module, embedding: nn.Embedding) -> int | None:
    for module in model.modules():
        declared: int | None = getattr(getattr(module, "config", None), "pad_token_id", None)
        # In a model with two towers, the config of the tower with the embedding.
        if declared is not None and any(part is embedding for part in module.modules()):
            return declared
    return embedding.padding_idx


def _check_norm(embedding: nn.Embedding, row: int) -> None:
    """Refuse a row that the forward pass rescales."""
    if embedding.max_norm is None:
        return
    norm = float(torch.linalg.vector_norm(embedding.weight.detach()[row], embedding.norm_type))
    if norm > embedding.max_norm:
        raise InvalidValueError(
            "embedding.max_norm",
            f"must be at least the norm of the pad row, {norm:.4g}, got {embedding.max_norm}: each forward pass that "
            "reads the row would rescale it; rescale it first, or set embedding.max_norm = None",
        )
