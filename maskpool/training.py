"""The training loop for learned poolings: epochs of batches, early stopping, and checkpoints that resume."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
from torch import Tensor, nn

from maskpool.errors import DivergedError, FolderError, InvalidValueError
from maskpool.files import atomic_write
from maskpool.trust import check_regular

Rows: TypeAlias = Annotated[Tensor, "rows"]

_FORMAT = "maskpool.training 1"
_ZIP = b"PK\x03\x04"  # how a file of torch.save begins
_PARTS = {"run", "module", "best", "optimizer", "schedule", "random", "losses", "scores"}


class ShuffledBatches:
    """Batches of row numbers, in a new order each time they are iterated.

    Args:
        rows: (rows,), the numbers to shuffle.
        batch_size: Rows in a batch, at least 1; the last batch may have fewer.

    Raises:
        InvalidValueError: ``rows`` is empty, or ``batch_size`` is below 1.

    Example:
        >>> batches = ShuffledBatches(torch.arange(5), batch_size=2)
        >>> len(batches), [len(rows) for rows in batches]
        (3, [2, 2, 1])
        >>> sorted(torch.cat(list(batches)).tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, rows: Rows, batch_size: int) -> None:
        if not len(rows):
            raise InvalidValueError("rows", "must hold the number of at least one row, got none")
        if batch_size < 1:
            raise InvalidValueError("batch_size", f"must be at least 1, got {batch_size}")
        self.rows = rows
        self.batch_size = int(batch_size)

    def __iter__(self) -> Iterator[Rows]:
        return iter(torch.split(self.rows[torch.randperm(len(self.rows))], self.batch_size))

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)


@dataclass
class History:
    """What a training run has recorded so far.

    Attributes:
        losses: The mean loss of each epoch.
        scores: The validation score after each epoch; empty without validation.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def epochs_without_gain(self) -> int:
        """Number of epochs since the best validation score.

        Example:
            >>> History(scores=[-3.0, -1.0, -1.0, -2.0]).epochs_without_gain
            2
        """
        best, epochs = -math.inf, 0
        for score in self.scores:
            best, epochs = (score, 0) if score > best else (best, epochs + 1)
        return epochs


def train(
    module: nn.Module,
    loss: Callable[[Rows], Tensor | None],
    batches: Iterable[Rows],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int = 1,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
    on_epoch: Callable[[History], object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    run: str = "",
) -> History:
    """Minimise a loss over batches of rows.

    The loop draws random numbers only through ``batches`` and ``loss``. The same weights, data and state of torch's
    random generators at the start give the same weights at the end. The module is in training mode while it learns, and
    in evaluation mode while it is validated and afterwards.

    With a checkpoint, an interrupted run that is started again in the same way resumes after the last epoch that it
    finished, and ends with the weights of an uninterrupted run, on the CPU and on CUDA devices. A checkpoint of a
    finished run gives the trained weights at once.

    Args:
        module: Everything that learns, and all state that a checkpoint must keep.
        loss: Computes the loss of a batch from its rows, or None if nothing can be learned from them: such a batch is
            skipped, and does not count in the mean loss.
        batches: The batches of an epoch; iterated once an epoch.
        optimizer: Updates the parameters of ``module``.
        epochs: The largest number of epochs, at least 1.
        schedule: Changes the learning rate after each batch.
        validate: Computes a score after each epoch, greater if better. The weights of the best epoch are kept, also if
            a later epoch raises an error.
        patience: Stop after this many epochs, at least 1, without a better score of ``validate``; None never stops
            early.
        on_epoch: Called with the history after each epoch.
        checkpoint: A file that is written after each epoch, in one step, and resumed from if it exists. It is never
            unpickled.
        run: Identifies the data and the options that ``module`` and ``optimizer`` do not show; a checkpoint of another
            run is refused.

    Returns:
        The losses and scores of all epochs, including those of the checkpoint.

    Raises:
        DivergedError: A loss or a validation score is NaN or infinite. Without ``validate``, the weights are those
            after the last step, and may not be finite.
        FolderError: The checkpoint is malformed.
        InvalidValueError: The checkpoint is of another run; an epoch has no batches, or none with a loss; ``epochs`` or
            ``patience`` is below 1; or ``patience`` has no ``validate``.

    Example:
        >>> from maskpool.nn import AttentionPooling
        >>> x, mask = torch.eye(3).unsqueeze(0), torch.ones(1, 3)
        >>> layer = AttentionPooling(3)
        >>> history = train(
        ...     layer,
        ...     lambda rows: (layer(x[rows], mask[rows]) - x[rows, 1]).square().sum(),
        ...     [torch.arange(1)],
        ...     torch.optim.Adam(layer.parameters(), lr=0.5),
        ...     epochs=20,
        ... )
        >>> history.losses[-1] < 0.01 < history.losses[0]
        True
    """
    for name, least in (("epochs", epochs), ("patience", patience)):
        if least is not None and least < 1:
            raise InvalidValueError(name, f"must be at least 1, got {least}")
    if patience is not None and validate is None:
        raise InvalidValueError("patience", f"must be None without validate, which gives the scores, got {patience}")
    history, best = History(), None
    file = None if checkpoint is None else _Checkpoint(Path(checkpoint), module, optimizer, schedule)
    if file is not None:
        file.identify(run, epochs, patience, validated=validate is not None)
        history, best = file.resume()
    try:
        while len(history.losses) < epochs and (patience is None or history.epochs_without_gain < patience):
            module.train()
            history.losses.append(_epoch(loss, batches, optimizer, schedule, len(history.losses) + 1))
            if validate is not None:
                module.eval()
                score = float(validate())
                if not math.isfinite(score):
                    raise DivergedError(f"the validation score became {score} in epoch {len(history.losses)}")
                history.scores.append(score)
                if history.epochs_without_gain == 0:
                    best = copy.deepcopy(module.state_dict())
            if file is not None:
                file.write(history, best)
            if on_epoch is not None:
                on_epoch(history)
    finally:
        if best is not None:
            module.load_state_dict(best)
        module.eval()
    return history


def _epoch(
    loss: Callable[[Rows], Tensor | None],
    batches: Iterable[Rows],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    epoch: int,
) -> float:
    """Make a step for each batch that has a loss, and return the mean loss of their rows."""
    total, rows_seen, rows_learned = 0.0, 0, 0
    for rows in batches:
        rows_seen += len(rows)
        batch_loss = loss(rows)
        if batch_loss is None:
            continue
        value = float(batch_loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"the loss became {value} in epoch {epoch}")
        optimizer.zero_grad()
        batch_loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        if schedule is not None:
            schedule.step()
        total += value * len(rows)
        rows_learned += len(rows)
    if not rows_seen:
        raise InvalidValueError(
            "batches",
            f"must hold rows in each epoch, got none in epoch {epoch}: a generator is empty after its first epoch; "
            "pass a list or ShuffledBatches",
        )
    if not rows_learned:
        raise InvalidValueError(
            "loss", f"must be a tensor for some batch of each epoch, got None for all of epoch {epoch}"
        )
    return total / rows_learned


class _Checkpoint:
    """The file from which a run resumes.

    Args:
        path: The file.
        module: As for `train`.
        optimizer: As for `train`.
        schedule: As for `train`.
    """

    def __init__(
        self,
        path: Path,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler | None,
    ) -> None:
        self.path = path
        self.module = module
        self.optimizer = optimizer
        self.schedule = schedule
        devices = {parameter.device for parameter in module.parameters()}
        self.cuda_devices = sorted((device for device in devices if device.type == "cuda"), key=str)
        self.run = ""

    def identify(self, run: str, epochs: int, patience: int | None, *, validated: bool) -> None:
        """Hash everything that a run starts from, before it has learned."""
        start = {
            "run": run,
            "limits": [epochs, patience, validated],
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
        }
        digest = hashlib.sha256(repr(start).encode())
        for name, tensor in {**self.module.state_dict(), **self._random_state()}.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.device}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        self.run = digest.hexdigest()

    def resume(self) -> tuple[History, dict[str, Tensor] | None]:
        """Restore the state after the last finished epoch, if there is one.

        Returns:
            The history, and the weights of the best epoch.
        """
        if not os.path.lexists(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return History(), None
        content = self._read()
        if content["run"] != self.run:
            raise InvalidValueError(
                "checkpoint",
                f"must be a new file or that of a run with the same data, parameters and seed, got {str(self.path)!r} "
                "of another run: choose another file, or delete this one to start from the beginning",
            )
        self.module.load_state_dict(content["module"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(content["schedule"])
        torch.set_rng_state(content["random"]["cpu"])
        for device in self.cuda_devices:
            torch.cuda.set_rng_state(content["random"][str(device)], device)
        return History(content["losses"], content["scores"]), content["best"]

    def write(self, history: History, best: dict[str, Tensor] | None) -> None:
        """Replace the file by the present state."""
        content = {
            "format": _FORMAT,
            "run": self.run,
            "module": self.module.state_dict(),
            "best": best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "random": self._random_state(),
            "losses": history.losses,
            "scores": history.scores,
        }
        # Through memory: torch reports a full disk as a RuntimeError of its zip writer.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with atomic_write(self.path) as unfinished:
            unfinished.write_bytes(buffer.getbuffer())

    def _read(self) -> dict[str, Any]:
        expected = f"{self.path} must be a checkpoint that maskpool wrote"
        check_regular(self.path, "a checkpoint that maskpool wrote")
        with self.path.open("rb") as file:
            zipped = file.read(len(_ZIP)) == _ZIP  # torch reads anything else as a pickle, and warns
        if not zipped:
            raise FolderError(f"{expected}, got another file")
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        # A file that is cut off or altered shows up as errors of many kinds.
        except Exception as error:
            raise FolderError(
                f"{expected}, and cannot be read: delete it to start from the beginning, or choose another file"
            ) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT or not content.keys() >= _PARTS:
            raise FolderError(f"{expected}, got another file")
        return content

    def _random_state(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        return states | {str(device): torch.cuda.get_rng_state(device) for device in self.cuda_devices}
