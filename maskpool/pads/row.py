"""One room: the pad row of an embedding matrix: which it is, who else reads it, and how training leaves it alone."""

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
    """The embedding that reads token ids.

    It is what ``model.get_input_embeddings()`` gives; where the model has no such method, that of the one part which
    has it, or the only ``torch.nn.Embedding``.

    Args:
        model: A transformers model, a wrapper around one, or any module.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: There is no such embedding, or more than one.

    Example:
        >>> input_embedding(torch.nn.Sequential(torch.nn.Embedding(9, 2), torch.nn.Linear(2, 9)))
        Embedding(9, 2)
    """
    _check_module(model)
    found = list({id(module): module for module in _candidates(model)}.values())
    if len(found) == 1 and isinstance(found[0], nn.Embedding):
        return found[0]
    names = {id(module): name for name, module in model.named_modules()}
    got = ", ".join(f"{type(module).__name__} {names.get(id(module), '')!r}" for module in found) or "none"
    raise InvalidValueError(
        "model",
        "must have get_input_embeddings(), which gives a torch.nn.Embedding, or exactly one torch.nn.Embedding, got "
        f"{got}: name the one that reads token ids, embedding=model.…",
    )


def tied_heads(model: nn.Module, *, embedding: nn.Embedding | None = None) -> list[str]:
    """Names of the other modules that share the input embedding's matrix, most often a tied output head.

    An encoder-decoder's further embeddings are among them. A model that multiplies with the matrix in its own
    ``forward``, without a module for it, shows nothing here.

    Args:
        model: A transformers model, or any module.
        embedding: The embedding that reads token ids, where `input_embedding` cannot tell.

    Raises:
        TypeError: ``model`` or ``embedding`` is something else.
        ValueError: ``embedding`` is needed, or is no part of ``model``.

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
    """Keep the pad row of the input embedding exactly as it is while everything else trains.

    A tied output head moves the row though no pad is read, because the pad's logit stands in every softmax; weight
    decay moves it, too. With the row frozen, each backward pass clears its gradient, so that it counts in no norm, and
    each step of an optimizer that holds the matrix, made before or after, puts the row back, bit for bit, whatever
    decay and momentum did to it. So it holds under any ``torch.optim.Optimizer``, gradient accumulation, clipping,
    ``torch.amp``, gradient checkpointing, accelerate and transformers' ``Trainer``. The model gets no new module,
    parameter or key in its ``state_dict``.

    What it leaves alone:
        * What you write into the row yourself, with ``load_state_dict``, ``model.half()`` or by hand, stays and is kept
          from then on. An embedding module put in the place of the old one has to be frozen anew.
        * A tied head's bias at the pad (in BERT ``cls.predictions.bias``), and the output row of a head that is not
          tied, are no part of the row, and train.
        * Other rows take the step that they would take without it, but where an optimizer mixes rows (clipping,
          Adafactor, Muon, LAMB). Later steps differ as far as the model reads the row.
        * A copy (``copy.deepcopy``, ``pickle``, ``torch.save``) holds the row as it is, and is not frozen.
        * Training that steps on weights of its own and copies them into the model (DeepSpeed, FSDP, apex) goes unseen,
          and so do gradients that ``torch.autograd.grad`` returns.
        * Where the pad token is also the end-of-text token, it is that token's row which is frozen.

    Args:
        model: A transformers model, a wrapper around one, or any module.
        pad_token_id: The row, best ``tokenizer.pad_token_id``; None takes ``model.config.pad_token_id``, else the
            embedding's ``padding_idx``.
        embedding: The embedding that reads token ids, where `input_embedding` cannot tell.

    Returns:
        A handle: ``handle.remove()``, or the end of a ``with`` block, lets the row move again. Dropping it does not.

    Raises:
        TypeError: An argument is something else.
        ValueError: ``embedding`` or ``pad_token_id`` is needed, is no part of ``model``, or no row; the matrix is no
            parameter; or the embedding's ``max_norm`` would rescale the row.

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
    """A row of an embedding matrix that optimizers leave as it is, until `remove` or the end of a ``with`` block.

    Args:
        embedding: Whose matrix it is.
        row: Which row.
    """

    def __init__(self, embedding: nn.Embedding, row: int) -> None:
        # Weak, because torch holds the hooks of all optimizers for ever, and a dropped model should go.
        self._embedding = weakref.ref(embedding)
        self._row = row
        # Several for one optimizer where its step calls that of the class below it.
        self._kept: defaultdict[int, list[Tensor]] = defaultdict(list)
        self._watch(embedding.weight)
        self._steps = (
            register_optimizer_step_pre_hook(self._keep),
            register_optimizer_step_post_hook(self._put_back),
        )

    def remove(self) -> None:
        """Let the row move again; a second call does nothing."""
        for handle in (self._gradient, *self._steps):
            handle.remove()
        self._kept.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _watch(self, weight: Tensor) -> None:
        needed = weight.requires_grad
        weight.requires_grad_(True)  # torch hangs no hook on a matrix that is frozen for now
        self._gradient = weight.register_post_accumulate_grad_hook(self._clear)  # type: ignore[no-untyped-call]  # untyped
        weight.requires_grad_(needed)

    def _clear(self, weight: Tensor) -> None:
        gradient = weight.grad
        if gradient is None:  # another hook has taken its step and let the gradient go
            return
        with torch.no_grad():
            if gradient.is_sparse:
                gradient._values()[gradient._indices()[0] == self._row] = 0
            else:
                gradient[self._row] = 0

    def _keep(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        embedding = self._embedding()
        if embedding is None:
            return
        weight = embedding.weight
        # Another matrix: tied the other way round, or load_state_dict(assign=True). The hook tells, and not a weak
        # reference to the matrix, with which torch.utils.swap_tensors would refuse it.
        if self._gradient.id not in (weight._post_accumulate_grad_hooks or {}):
            self._gradient.remove()
            self._watch(weight)
        if any(held is weight for group in optimizer.param_groups for held in group["params"]):
            self._kept[id(optimizer)].append(weight.detach()[self._row].clone())

    def _put_back(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        embedding, kept = self._embedding(), self._kept.get(id(optimizer))
        if embedding is not None and kept:
            with torch.no_grad():
                embedding.weight[self._row] = kept.pop()


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidTypeError("model", f"must be a torch.nn.Module, got {type(model).__name__}")


def _candidates(module: nn.Module) -> list[Any]:
    """What a module says is its input embedding, else what its parts say: the outermost word counts."""
    if isinstance(module, nn.Embedding):
        return [module]
    if callable(ask := getattr(module, "get_input_embeddings", None)):
        try:
            return [ask()]
        except NotImplementedError:  # transformers' way of saying that it cannot tell
            pass
    return [found for child in module.children() for found in _candidates(child)]


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
            f"must be a parameter, got a {type(weight).__name__} that is computed from others: take the "
            "parametrization off first (torch.nn.utils.parametrize.remove_parametrizations)",
        )
    given = pad_token_id if pad_token_id is not None else _known_pad(model, embedding)
    if given is None:
        raise InvalidValueError(
            "pad_token_id",
            "must be the row of the pad token, got None, and neither model.config.pad_token_id nor "
            "embedding.padding_idx names one: pass pad_token_id=tokenizer.pad_token_id",
        )
    try:
        row = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        row = None
    if row is None:
        raise InvalidTypeError(
            "pad_token_id", f"must be an integer, got {type(given).__name__}: pass tokenizer.pad_token_id"
        )
    if not 0 <= row < len(weight):
        where = "" if pad_token_id is not None else " from model.config.pad_token_id"
        raise InvalidValueError(
            "pad_token_id",
            f"must be a row of the embedding matrix, 0 to {len(weight) - 1}, got {row}{where}: pass "
            "tokenizer.pad_token_id, after model.resize_token_embeddings(len(tokenizer)) where the token was added",
        )
    return row


def _known_pad(model: nn.Module, embedding: nn.Embedding) -> int | None:
    for module in model.modules():
        known: int | None = getattr(getattr(module, "config", None), "pad_token_id", None)
        # Of a model with two towers, the config of the one that the embedding belongs to.
        if known is not None and any(part is embedding for part in module.modules()):
            return known
    return embedding.padding_idx


def _check_norm(embedding: nn.Embedding, row: int) -> None:
    """Refuse a row that the forward pass itself rescales."""
    if embedding.max_norm is None:
        return
    norm = float(torch.linalg.vector_norm(embedding.weight.detach()[row], embedding.norm_type))
    if norm > embedding.max_norm:
        raise InvalidValueError(
            "embedding.max_norm",
            f"must be at least the norm of the pad row, {norm:.4g}, got {embedding.max_norm}: each forward pass that "
            "reads the row would rescale it; rescale it first, or set embedding.max_norm = None",
        )
