"""The base of pooling heads that learn on cached token states: fitting, saving, export to sentence-transformers."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from transformers import PreTrainedModel

from maskpool.batch.token_batch import TokenBatch
from maskpool.encoder import Encoder, TokenStates, compute_states, text_encoder, weights_hash
from maskpool.encoder.identity import described, differing, of_the_encoder, short
from maskpool.errors import DivergedError, ExistsError, InvalidTypeError, InvalidValueError
from maskpool.integrations.sentence_transformers import Pooling, open_model, with_pooling
from maskpool.integrations.sklearn.encoder import check_readable_texts
from maskpool.integrations.sklearn.labels import shown
from maskpool.integrations.st_host import SentenceTransformer
from maskpool.integrations.st_host import modules as host
from maskpool.poolings.build import build_pooling
from maskpool.training import History, ShuffledBatches, train
from maskpool.trust.devices import find_device

Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Labels: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_POOLED_TOGETHER = 512
_SAMPLE = 2_000  # texts whose vectors an objective is shown before it learns
_SEEDS = 2**31 - 1
# At the default rates a classifier needs hundreds of steps. On 200 texts of SNIPS, 4 steps an epoch, each class as a
# label, 20 epochs from zero had 39 % of the texts right, 100 had 89; logistic regression label by label, 79.
_FEWEST_EPOCHS, _FEWEST_STEPS = 20, 400
# Numbers in a batch from which threads are worth it. Those of small batches wait for each other most of the time: on
# two cores with other work on them, a fit on BANKING77 took 136 s with two threads, and 11 with one.
_WORTH_THREADS = 2**22
# At the rate of the classifier, the pooling follows a classifier that is still wrong, and overfits: with 2 texts a
# class of BANKING77, the accuracy fell from 63.5 % to 60.
_POOLING_RATE = 0.1


class PoolingHead(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    """Base of the estimators: reads token states, trains a pooling under an objective, and exports the trained head."""

    # Parameters, each set by the constructor of an estimator.
    pooling: str | tuple[str, ...]
    pooling_options: Mapping[str, Any] | None
    model: str | os.PathLike[str] | Encoder
    max_iter: int | None
    batch_size: int
    learning_rate_init: float
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    checkpoint: str | os.PathLike[str] | None
    device: str | None
    random_state: Any
    verbose: bool

    pooling_: nn.Module
    encoder_identity_: dict[str, Any]
    _mode: str | tuple[str, ...]  # as fitted; the parameters may have changed since
    _options: dict[str, Any]
    n_features_in_: int
    n_features_out_: int
    n_iter_: int
    loss_curve_: list[float]
    validation_scores_: list[float] | None

    def transform(self, X: TokenStates | Iterable[str]) -> Vectors:  # noqa: N803  # scikit-learn's name
        """Pool texts with the trained head.

        Args:
            X: Token states, or texts, as `fit` takes them.

        Returns:
            float32, (texts, out_dim); of no texts (0, out_dim).

        Raises:
            NotFittedError: `fit` has not been called.
            TypeError, ValueError: ``X`` is neither, or its states are those of another encoder.
        """
        return self._vectors(X)

    def to_sentence_transformer(self, model: SentenceTransformer | str | os.PathLike[str]) -> SentenceTransformer:
        """Put the trained head into a model, which then saves, loads and encodes as any other.

        The model's pooling gives the vectors of `transform`; a classifier on top of them is dropped. Modules behind the
        pooling are kept: with a ``Normalize``, as in all-MiniLM-L6-v2, vectors have length 1. Open the saved model by
        `maskpool.integrations.sentence_transformers.load`.

        Args:
            model: The ``SentenceTransformer`` whose last layer's token states the head was fitted on, which is left as
                it is; or its name or folder.

        Returns:
            A model that shares all other modules with the one that was given.

        Raises:
            NotFittedError: `fit` has not been called.
            TypeError: ``model`` is something else.
            ValueError: Its token states have another width, its weights are not those that the head was fitted on (as
                they were then, in the same dtype), the head was fitted on another layer, or as `with_pooling`
                says.
        """
        check_is_fitted(self)
        model = open_model(model)
        layer = self.encoder_identity_.get("layer", -1)
        if layer != -1:
            raise InvalidValueError(
                "model",
                f"must pool the layer that this head was fitted on, {layer}, and a SentenceTransformer pools the last "
                "one: fit the head on layer -1",
            )
        poolings = [module for module in model.modules() if isinstance(module, host.Pooling)]
        for old in poolings:
            if old.embedding_dimension != self.n_features_in_:
                raise InvalidValueError(
                    "model",
                    f"must give token states of dimension {self.n_features_in_}, which this head was fitted on, "
                    f"got {old.embedding_dimension}",
                )
        self._refuse_other_weights(model)
        # with_pooling keeps the options of a pooling of the same mode, so go through a mean, which has none.
        same = any(isinstance(old, Pooling) and old.pooling_mode == self._mode for old in poolings)
        other = with_pooling(model, "mean") if same else model
        other = with_pooling(other, self._mode, **{"on_empty": "zero", **self._options})
        (module,) = (module for module in other.modules() if isinstance(module, Pooling))
        module.pooling.load_state_dict(self.pooling_.state_dict())
        return other

    def save_head(self, path: str | os.PathLike[str]) -> None:
        """Write the trained pooling to a folder, which ``sentence_transformers.Pooling.load(path)`` opens again.

        To keep the whole estimator, pickle it.

        Args:
            path: A new folder, with ``config.json`` and, of what has learned, ``model.safetensors``.

        Raises:
            NotFittedError: `fit` has not been called.
            FileExistsError: There is something at ``path``.
        """
        check_is_fitted(self)
        target = Path(path)
        if target.exists():
            raise ExistsError("path", f"must be a new folder, got {str(target)!r}, which exists: move it away first")
        module = Pooling(self.n_features_in_, self._mode, **self._options)
        module.pooling.load_state_dict(self.pooling_.state_dict())
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as parent:
            whole = Path(parent) / "head"
            whole.mkdir()
            module.save(str(whole))
            whole.rename(target)

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def _train(
        self,
        states: TokenStates,
        targets: Tensor,
        classes: Labels | None,
        objective_of: Callable[[Annotated[Tensor, "texts dim"], Tensor], nn.Module],
    ) -> nn.Module:
        """Train the pooling and an objective on its vectors.

        Args:
            states: What to learn from.
            targets: One row a text, as the objective reads them.
            classes: The class of each text, by which the validation split is stratified, or None.
            objective_of: Makes, from some vectors that the pooling gives before it has learned, and from the targets of
                all texts that it learns from, a module that turns vectors and targets into a loss, or into None where
                nothing can be learned from them.

        Returns:
            The trained objective, on the CPU.
        """
        where, options = _device(self.device), dict(self.pooling_options or {})
        rng = check_random_state(self.random_state)
        learn, held_out = self._split(len(states), classes, rng)
        history = History()
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
            torch.manual_seed(rng.randint(_SEEDS))
            pooling = build_pooling(self.pooling, states.dimension, **options).to(where)
            sample = learn[torch.randperm(len(learn))[:_SAMPLE]]
            vectors = _pool(pooling, states, sample, where)
            objective = objective_of(vectors, targets[learn]).to(where)
            parts = nn.ModuleList([pooling, objective])

            def loss(texts: Tensor) -> Tensor | None:
                computed: Tensor | None = objective(pooling(_read(states, texts, where)), targets[texts].to(where))
                return computed

            if any(True for _ in parts.parameters()):
                batches = ShuffledBatches(learn, self.batch_size)
                epochs = self.max_iter
                if epochs is None:
                    epochs = max(_FEWEST_EPOCHS, math.ceil(_FEWEST_STEPS / len(batches)))
                optimizer = torch.optim.Adam(self._rates(pooling, objective))
                schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
                with _progress(self.verbose, epochs) as report, _threads_for(states, self.batch_size):
                    try:
                        history = train(
                            parts,
                            loss,
                            batches,
                            optimizer,
                            epochs=epochs,
                            schedule=schedule,
                            validate=None if held_out is None else lambda: -_mean_loss(loss, held_out),
                            patience=self.n_iter_no_change if self.early_stopping else None,
                            on_epoch=report,
                            checkpoint=self.checkpoint,
                            run="" if self.checkpoint is None else self._run_identity(states, targets),
                        )
                    except DivergedError as error:
                        raise InvalidValueError(
                            "X",
                            f"must hold finite token states, and learning_rate_init be small enough for them; {error} "
                            f"with learning_rate_init={self.learning_rate_init}",
                        ) from error
                    except InvalidValueError as error:
                        if error.argument != "loss":
                            raise
                        raise InvalidValueError(
                            "batch_size",
                            "must let texts of one class share a batch; in an epoch, no batch held two texts of a "
                            f"class, got {self.batch_size}: choose a larger one, or bring more texts of each class",
                        ) from error
            elif self.checkpoint is not None:
                raise InvalidValueError(
                    "checkpoint", f"must be None for a pooling that has no parameters to learn, got {self.checkpoint!r}"
                )
        self.loss_curve_, self.n_iter_ = history.losses, len(history.losses)
        self.validation_scores_ = None if held_out is None else history.scores
        self.pooling_ = pooling.cpu().eval()
        modes = (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling)
        self._mode, self._options = modes[0] if len(modes) == 1 else modes, options
        self.encoder_identity_ = of_the_encoder(states.identity)
        self.n_features_in_ = states.dimension
        self.n_features_out_ = vectors.shape[1]
        return objective.cpu().eval()

    def _run_identity(self, states: TokenStates, targets: Tensor) -> str:
        """Hash the data and the parameters: a checkpoint belongs to one fit."""
        parameters = self.get_params(deep=False)
        for name in ("checkpoint", "model", "verbose", "device", "random_state"):  # the loop compares the last two
            del parameters[name]
        digest = hashlib.sha256(repr((type(self).__name__, sorted(parameters.items()))).encode())
        for texts in torch.split(torch.arange(len(states)), _POOLED_TOGETHER):
            batch = states.batch(texts)
            for part in (batch.cu_seqlens, batch.values, targets[texts]):
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def _rates(self, pooling: nn.Module, objective: nn.Module) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates."""
        below, above = list(pooling.parameters()), list(objective.parameters())
        rate = self.learning_rate_init * (_POOLING_RATE if above else 1)
        return [{"params": below, "lr": rate}, {"params": above, "lr": self.learning_rate_init}]

    def _split(self, texts: int, classes: Labels | None, rng: np.random.RandomState) -> tuple[Tensor, Tensor | None]:
        """Return the numbers of the texts to learn from, and of those held out, if any."""
        everything = np.arange(texts)
        if not self.early_stopping:
            return torch.from_numpy(everything), None
        size = math.ceil(self.validation_fraction * texts)
        if classes is not None:
            names, counts = np.unique(classes, return_counts=True)
            if counts.min() < 2:
                raise InvalidValueError(
                    "y",
                    f"must have at least two texts of each class for the validation split, got one of "
                    f"{shown(names[counts.argmin()])}: add another, or set early_stopping=False",
                )
            size = min(max(size, len(names)), texts - len(names))
        if not 0 < size < texts:
            raise InvalidValueError(
                "X",
                f"must have enough texts for a validation split of {self.validation_fraction}, got {texts}: add "
                f"others, or set early_stopping=False",
            )
        learn, held = train_test_split(everything, test_size=size, stratify=classes, random_state=rng)
        return torch.from_numpy(learn), torch.from_numpy(held)

    def _states(self, X: TokenStates | Iterable[str], fitted: bool = True) -> TokenStates:  # noqa: N803  # scikit-learn's name
        """Return token states unchanged; compute those of texts, after `fit` at the layer of `fit`."""
        if isinstance(X, TokenStates):
            return X
        texts = check_readable_texts(X)
        layer = self.encoder_identity_.get("layer", -1) if fitted else -1
        encoder, weights = self._open()
        return compute_states(encoder, texts, layer, weights_sha256=weights)

    def _vectors(self, X: TokenStates | Iterable[str]) -> Vectors:  # noqa: N803  # scikit-learn's name
        check_is_fitted(self)
        states = self._states(X)
        if states.dimension != self.n_features_in_:
            raise InvalidValueError(
                "X",
                f"has {states.dimension} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input, the width of the token states of fit: compute them with the same encoder",
            )
        ours, theirs = self.encoder_identity_, of_the_encoder(states.identity)
        differ = differing(ours, theirs)
        if differ:
            first, got = (
                described(of, differ) if of else "states that do not say whose they are" for of in (ours, theirs)
            )
            raise InvalidValueError(
                "X", f"must hold token states of the encoder that this head was fitted on: fitted on {first}, got {got}"
            )
        where = _device(self.device)
        pooling = self.pooling_ if where.type == "cpu" else copy.deepcopy(self.pooling_).to(where)
        return _pool(pooling, states, torch.arange(len(states)), where).cpu().numpy()

    def _refuse_other_weights(self, model: SentenceTransformer) -> None:
        ours = self.encoder_identity_
        if "weights_sha256" not in ours:
            return
        for transformer in (module for module in model.modules() if isinstance(module, host.Transformer)):
            theirs = transformer.auto_model
            if not isinstance(theirs, PreTrainedModel):  # another backend's weights are not tensors
                continue
            own_hash = weights_hash(text_encoder(theirs))
            # Of an encoder-decoder, the host wraps the encoder, which changes the names of its weights. Older
            # transformers give other models no get_encoder.
            inner = theirs.get_encoder() if hasattr(theirs, "get_encoder") else theirs
            if ours["weights_sha256"] not in (own_hash, weights_hash(inner)):
                raise InvalidValueError(
                    "model",
                    f"must have the weights that this head was fitted on, in the same dtype, those of "
                    f"{ours.get('name')!r} ({short(ours['weights_sha256'])}), got those of {theirs.name_or_path!r} "
                    f"({short(own_hash)})",
                )

    def _open(self) -> tuple[Encoder, str | None]:
        """Return the encoder of texts, and the hash of its weights if it was opened by name.

        An encoder that was opened by name is kept, and its weights are hashed once. A given encoder may be trained
        between calls.
        """
        if isinstance(self.model, Encoder):
            return self.model, None
        if not isinstance(self.model, str | os.PathLike):
            raise InvalidTypeError("model", f"must be a name, a folder or an Encoder, got {type(self.model).__name__}")
        key = (os.fspath(self.model), str(_device(self.device)))
        opened: tuple[object, Encoder, str] | None = getattr(self, "_opened", None)
        if opened is None or opened[0] != key:
            encoder = Encoder.load(*key)
            opened = (key, encoder, weights_hash(encoder.model))
            self._opened = opened
        return opened[1:]

    def _check_parameters(self) -> None:
        if self.max_iter is not None:
            check_scalar(self.max_iter, "max_iter", Integral, min_val=1)
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        check_scalar(self.learning_rate_init, "learning_rate_init", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.n_iter_no_change, "n_iter_no_change", Integral, min_val=1)
        check_scalar(
            self.validation_fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="neither"
        )
        if self.checkpoint is not None:
            if not isinstance(self.checkpoint, str | os.PathLike):
                raise InvalidTypeError("checkpoint", f"must be a path or None, got {type(self.checkpoint).__name__}")
            if self.random_state is None:
                raise InvalidValueError(
                    "random_state", "must be an integer or a RandomState, to resume from a checkpoint, got None"
                )
        options = self.pooling_options
        if options is not None and not isinstance(options, Mapping):
            raise InvalidTypeError("pooling_options", f"must be a dictionary or None, got {type(options).__name__}")

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_opened"}

    def __sklearn_tags__(self) -> Any:  # Any: scikit-learn's dataclass
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []  # token states of any dtype give float32
        return tags


def _read(states: TokenStates, texts: Tensor, where: torch.device) -> TokenBatch:
    """Read some texts onto the device where they are pooled."""
    batch = states.batch(texts)
    if where.type == "cpu":
        return batch
    return TokenBatch.from_packed(batch.values.to(where), batch.cu_seqlens.to(where))


@torch.no_grad()
def _pool(pooling: nn.Module, states: TokenStates, texts: Tensor, where: torch.device) -> Tensor:
    return torch.cat([pooling(_read(states, some, where)) for some in torch.split(texts, _POOLED_TOGETHER)])


@torch.no_grad()
def _mean_loss(loss: Callable[[Tensor], Tensor | None], texts: Tensor) -> float:
    """Return the mean loss of texts, in batches that are the same at each call; batches without a loss are left out."""
    batches = torch.split(texts, _POOLED_TOGETHER)
    losses = [(float(value), len(some)) for some in batches if (value := loss(some)) is not None]
    return sum(value * size for value, size in losses) / sum(size for _, size in losses)


def _device(device: str | None) -> torch.device:
    return torch.device("cpu") if device is None else find_device(device)


@contextmanager
def _threads_for(states: TokenStates, batch_size: int) -> Iterator[None]:
    """Use one thread for small batches, and restore the number of threads."""
    before = torch.get_num_threads()
    if batch_size * int(states.lengths.sum()) * states.dimension < _WORTH_THREADS * len(states):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(visible: bool, epochs: int) -> Iterator[Callable[[History], None] | None]:
    """Show a bar on standard error that counts epochs, or nothing."""
    if not visible:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("epochs", total=epochs)

        def report(history: History) -> None:
            held_out = f", held out {-history.scores[-1]:.4f}" if history.scores else ""
            progress.update(
                task, completed=len(history.losses), description=f"epochs: loss {history.losses[-1]:.4f}{held_out}"
            )

        yield report
