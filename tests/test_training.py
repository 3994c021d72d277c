"""The training loop of learned poolings: the same weights by seed, early stopping, and checkpoints that resume."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskpool.errors import DivergedError, FolderError, InvalidValueError
from maskpool.nn import AttentionPooling
from maskpool.training import History, ShuffledBatches, train
from tests.batches import tokens

TEXTS, WIDTH, DIM = 22, 6, 5
X = tokens(TEXTS, WIDTH, DIM)
MASK = torch.arange(WIDTH) < (1 + torch.arange(TEXTS) % WIDTH).unsqueeze(1)
TARGETS = torch.arange(TEXTS) % 3
Weights: TypeAlias = dict[str, Tensor]


def fit(
    seed: int = 0,
    *,
    epochs: int = 6,
    rate: float = 0.05,
    scores: list[float] | None = None,
    on_epoch: Callable[[History], object] | None = None,
    snapshots: list[Weights] | None = None,
    **options: Any,
) -> tuple[Weights, History]:
    """Train an attention under a classifier with dropout and a falling rate; return its weights."""
    torch.manual_seed(seed)
    pooling, classifier = AttentionPooling(DIM), nn.Sequential(nn.Dropout(0.3), nn.Linear(DIM, 3))
    module = nn.ModuleList([pooling, classifier])
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    batches = ShuffledBatches(torch.arange(TEXTS), 4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    seen: list[int] = []

    def loss(rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(classifier(pooling(X[rows], MASK[rows])), TARGETS[rows])

    def report(history: History) -> None:
        seen.append(len(history.losses))
        if snapshots is not None:
            snapshots.append(weights_of(module))
        if on_epoch is not None:
            on_epoch(history)

    def validate() -> float:
        assert not module.training
        assert scores is not None
        return scores[len(seen_before) + len(seen)]

    seen_before: list[int] = options.pop("seen_before", [])
    history = train(
        module,
        loss,
        batches,
        optimizer,
        epochs=epochs,
        schedule=schedule,
        validate=None if scores is None else validate,
        on_epoch=report,
        **options,
    )
    return weights_of(module), history


def weights_of(module: nn.Module) -> Weights:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def same(weights: Weights, others: Weights) -> bool:
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def stop_after(epochs: int) -> Callable[[History], None]:
    def stop(history: History) -> None:
        if len(history.losses) == epochs:
            raise KeyboardInterrupt

    return stop


def test_the_same_seed_gives_the_same_weights() -> None:
    """A seed gives the same weights bit for bit, and another seed gives others."""
    first, history = fit(0)
    assert same(first, fit(0)[0])
    assert not same(first, fit(1)[0])
    assert len(history.losses) == 6
    assert history.losses[-1] < history.losses[0]


def test_a_step_is_one_of_the_optimizer_and_the_schedule() -> None:
    """The loop does in each step what four lines of torch do, in the order of the batches."""
    x, start = torch.randn(6, 3), torch.randn(3)
    batches = torch.split(torch.arange(6), 4)
    layer = nn.ParameterList([start.clone()])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    history = train(
        layer, lambda rows: (x[rows] @ layer[0]).square().mean(), batches, optimizer, epochs=2, schedule=schedule
    )
    weight, losses = start, []
    for step, rows in enumerate((*batches, *batches)):
        residual = x[rows] @ weight
        losses.append(float(residual.square().mean()))
        weight = weight - 0.1 * 0.9**step * 2 * (x[rows].T @ residual) / len(rows)
    torch.testing.assert_close(layer[0].detach(), weight)
    assert history.losses == pytest.approx([(4 * first + 2 * second) / 6 for first, second in (losses[:2], losses[2:])])


def test_batches_are_shuffled_each_epoch() -> None:
    """Each iteration holds all rows once, in an order of torch's generator that is new each time."""
    batches = ShuffledBatches(torch.arange(10, 31), 4)
    torch.manual_seed(0)
    orders = [torch.cat(list(batches)) for _ in range(2)]
    assert [sorted(order.tolist()) for order in orders] == [list(range(10, 31))] * 2
    assert not torch.equal(*orders)
    torch.manual_seed(0)
    assert torch.equal(torch.cat(list(batches)), orders[0])
    assert len(batches) == len(list(batches)) == 6


def test_modes_of_the_module() -> None:
    """The module is in training mode while it learns, in evaluation mode while it is validated and afterwards."""
    layer, modes = nn.Sequential(nn.Linear(2, 1)), []

    def loss(rows: Tensor) -> Tensor:
        modes.append(layer.training)
        result: Tensor = layer(torch.ones(len(rows), 2)).sum()
        return result

    def validate() -> float:
        modes.append(layer.training)
        return 0.0

    train(layer, loss, [torch.arange(2)], torch.optim.Adam(layer.parameters()), epochs=2, validate=validate)
    assert modes == [True, False, True, False]
    assert not layer.training


@pytest.mark.parametrize(
    ("scores", "patience", "epochs", "best"),
    [
        ([1.0, 3.0, 3.0, 2.0, 9.0, 9.0], 2, 4, 2),
        ([1.0, 3.0, 2.0, 4.0, 2.0, 1.0], 2, 6, 4),
        ([1.0, 2.0, 3.0, 1.0, 1.0, 1.0], None, 6, 3),
    ],
)
def test_early_stopping_keeps_the_best(scores: list[float], patience: int | None, epochs: int, best: int) -> None:
    """Training stops after `patience` epochs without a greater score, and the weights of the best epoch are kept."""
    weights, history = fit(scores=scores, patience=patience)
    assert history.scores == pytest.approx(scores[:epochs])
    assert len(history.losses) == epochs
    snapshots: list[Weights] = []
    fit(snapshots=snapshots)
    assert [same(weights, snapshot) for snapshot in snapshots] == [epoch == best for epoch in range(1, 7)]


@pytest.mark.parametrize("stopped_after", [1, 3, 5])
@pytest.mark.parametrize("validated", [False, True])
def test_a_checkpoint_resumes_to_the_same_weights(tmp_path: Path, stopped_after: int, validated: bool) -> None:
    """A run that was stopped and is started again ends as an uninterrupted one, and computes no epoch twice."""
    options: dict[str, Any] = {"scores": [1.0, 4.0, 3.0, 2.0, 1.5, 1.0], "patience": 4} if validated else {}
    weights, history = fit(**options)
    path = tmp_path / "new" / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(**options, checkpoint=path, on_epoch=stop_after(stopped_after))
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]
    later: list[int] = []
    resumed, again = fit(
        **options,
        checkpoint=path,
        seen_before=[0] * stopped_after,
        on_epoch=lambda history: later.append(len(history.losses)),
    )
    assert same(resumed, weights)
    assert again == history
    assert later == list(range(stopped_after + 1, 7))


def test_a_finished_checkpoint_is_not_trained_further(tmp_path: Path) -> None:
    """A checkpoint of a finished run, stopped early or not, gives the trained weights at once."""
    options: dict[str, Any] = {"scores": [1.0, 3.0, 2.0, 1.0, 9.0, 9.0], "patience": 2}
    for case in ({}, options):
        path = tmp_path / f"{len(case)}.pt"
        weights, history = fit(**case, checkpoint=path)
        again, same_history = fit(**case, checkpoint=path, on_epoch=lambda _: pytest.fail("an epoch was run"))
        assert same(again, weights)
        assert same_history == history


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"epochs": 7}, {"rate": 0.06}, {"run": "other data"}, {"scores": [0.0] * 6}],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """Another seed, limit, rate or name of the data is noticed, and the file is left as it is."""
    path = tmp_path / "run.pt"
    fit(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(InvalidValueError, match=r"checkpoint must be a new file or .* got .*run\.pt' of another run"):
        fit(**{"checkpoint": path, **change})
    assert path.read_bytes() == before


def test_a_write_that_fails_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while a checkpoint is written leaves the one before, from which the run resumes."""
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=path, on_epoch=stop_after(2))
    before = path.read_bytes()

    def fail(self: Path, content: Any) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match="No space left"):
            fit(checkpoint=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert same(fit(checkpoint=path)[0], fit()[0])


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    """A pickle in place of a checkpoint is refused before anything in it runs."""
    for write in (lambda evil, path: path.write_bytes(pickle.dumps(evil)), torch.save):
        path = tmp_path / "run.pt"
        write(_Evil(tmp_path / "ran"), path)
        with pytest.raises(
            FolderError, match=r"run\.pt must be a checkpoint that maskpool wrote, (got|and cannot)"
        ) as error:
            fit(checkpoint=path)
        assert "weights_only" not in str(error.value)  # torch advises to unpickle the file
        assert not (tmp_path / "ran").exists()


def test_malformed_checkpoints(tmp_path: Path) -> None:
    """A file that is cut off, another file of torch and a folder are refused by their path."""
    path = tmp_path / "run.pt"
    fit(checkpoint=path)
    content = path.read_bytes()
    for wrong in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(FolderError, match=r"run\.pt must be a checkpoint that maskpool wrote, (got|and cannot)"):
            fit(checkpoint=path)
    others: list[object] = [torch.zeros(2), {"module": {}}, {"format": "maskpool.training 1", "run": ""}]
    for other in others:
        torch.save(other, path)
        with pytest.raises(FolderError, match=r"run\.pt must be a checkpoint that maskpool wrote, got another file"):
            fit(checkpoint=path)
    with pytest.raises(FolderError, match="must be a checkpoint that maskpool wrote, got a folder"):
        fit(checkpoint=tmp_path)


def test_a_loss_that_is_not_finite() -> None:
    """A loss that becomes NaN or infinite ends the training with the epoch in the message."""
    layer = nn.ParameterList([torch.ones(1)])
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e30)
    with pytest.raises(DivergedError, match=r"the loss became (inf|nan) in epoch \d"):
        train(layer, lambda _: layer[0].pow(4).sum(), [torch.arange(1)], optimizer, epochs=9)


def test_a_generator_is_refused_in_its_second_epoch() -> None:
    """A generator has no batches after its first epoch, which is an error and not an epoch."""
    layer = nn.ParameterList([torch.ones(1)])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    batches = (torch.arange(1) for _ in range(3))
    with pytest.raises(ValueError, match="batches must hold rows in each epoch, got none in epoch 2: a generator"):
        train(layer, lambda _: layer[0].sum(), batches, optimizer, epochs=2)


@pytest.mark.parametrize("validated", [False, True])
def test_after_a_loss_that_is_not_finite(validated: bool) -> None:
    """A NaN loss makes no step: the weights are those before it, or the best ones, in evaluation mode."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.25)
    losses = iter([1.0, 1.0, float("nan")])
    scores = iter([2.0, 1.0])
    with pytest.raises(DivergedError, match="the loss became nan in epoch 3"):
        train(
            layer,
            lambda _: layer.weight.sum() * next(losses),
            [torch.arange(1)],
            optimizer,
            epochs=9,
            validate=(lambda: next(scores)) if validated else None,
        )
    assert layer.weight.item() == (0.75 if validated else 0.5)
    assert not layer.training


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite(score: float) -> None:
    """A validation score that is not a finite number ends the training, because it chooses no epoch."""
    with pytest.raises(DivergedError, match=rf"the validation score became {score} in epoch 2"):
        fit(scores=[1.0, score, 3.0, 4.0, 5.0, 6.0])


def test_a_score_of_numpy_resumes(tmp_path: Path) -> None:
    """A score that is a number of numpy gives a checkpoint that can be read."""
    scores = list(np.linspace(0, 1, 6))
    assert isinstance(scores[0], np.float64)
    weights, history = fit(scores=scores, checkpoint=tmp_path / "run.pt")
    again, same_history = fit(scores=scores, checkpoint=tmp_path / "run.pt")
    assert same(again, weights)
    assert same_history == history


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": -1}, "epochs must be at least 1, got -1"),
        ({"patience": 0, "scores": [1.0] * 6}, "patience must be at least 1, got 0"),
        ({"patience": 3}, "patience must be None without validate, which gives the scores, got 3"),
    ],
)
def test_limits_that_train_nothing_or_have_no_effect(options: dict[str, Any], message: str) -> None:
    """Limits below 1, and patience without scores, are refused."""
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scores = options.pop("scores", None)
    with pytest.raises(InvalidValueError, match=message):
        train(
            layer,
            lambda _: layer.weight.sum(),
            [torch.arange(1)],
            optimizer,
            validate=None if scores is None else lambda: 1.0,
            **options,
        )


def test_batches_without_a_loss_are_left_out() -> None:
    """A batch whose loss is None makes no step and is not in the mean; an epoch of such batches is refused."""
    layer = nn.ParameterList([torch.ones(1)])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.25)
    batches = [torch.arange(3), torch.arange(1)]
    history = train(layer, lambda rows: layer[0].sum() if len(rows) == 1 else None, batches, optimizer)
    assert history.losses == [1.0]
    assert layer[0].item() == 0.75
    with pytest.raises(InvalidValueError, match="loss must be a tensor for some batch of each epoch, got None for all"):
        train(layer, lambda _: None, batches, optimizer)


def test_batches_of_nothing_are_refused() -> None:
    """No rows, or batches of none, are refused."""
    with pytest.raises(InvalidValueError, match="rows must hold the number of at least one row, got none"):
        ShuffledBatches(torch.arange(0), 4)
    with pytest.raises(InvalidValueError, match="batch_size must be at least 1, got 0"):
        ShuffledBatches(torch.arange(5), 0)
