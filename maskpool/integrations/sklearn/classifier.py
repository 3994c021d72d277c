"""A pooling and a linear classifier, learned together on cached token states."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from maskpool.encoder import BUNDLED, Encoder, TokenStates
from maskpool.errors import InvalidValueError
from maskpool.integrations.sklearn.heads import PoolingHead, Vectors
from maskpool.integrations.sklearn.labels import Labels, check_labels, encode_labels, shown


class PoolingClassifier(ClassifierMixin, PoolingHead):  # type: ignore[misc]  # untyped
    """A pooling and a linear classifier on its vectors, learned together on the token states of a frozen encoder.

    Minimises the cross-entropy of softmax(W v + b), where v is the pooled vector of a text, or, of several labels a
    text, the mean binary cross-entropy of sigmoid(W v + b). Adam, with a rate that falls from ``learning_rate_init`` (a
    tenth of it for the pooling) to zero along half a cosine over ``max_iter`` epochs. The classifier starts at zero, of
    several labels a text at the share of each, and learns on vectors that are centred and divided by their root mean
    square, both folded into W and b in the end; dropout of these vectors is its regulariser.

    Texts go through ``model`` at each call. Where they are used more than once, as in a search, compute their token
    states once, by `maskpool.encoder.cache_states` or `maskpool.encoder.compute_states`, and pass these.

    Args:
        pooling: The pooling, as `build_pooling` takes it; if it has no parameters, only the classifier is fitted.
        pooling_options: Options of the pooling, such as ``{"num_heads": 4}``.
        model: What reads texts: the name or folder of a transformers model, or an `Encoder`; token states need none.
        dropout: The share of a vector's features that is zeroed at each step of training.
        max_iter: Most epochs. None takes 20, and more for few texts, at least 400 steps, which a classifier that
            starts at zero needs.
        batch_size: Texts at a step.
        learning_rate_init: Adam's rate at the start.
        early_stopping: Hold texts out, stop when their loss has not fallen for ``n_iter_no_change`` epochs, and keep
            the weights with the lowest loss. Otherwise ``max_iter`` epochs learn from all texts, which is often better,
            because the rate has fallen to zero by then.
        validation_fraction: The share of texts held out, stratified by class (of several labels a text, at random).
        n_iter_no_change: Epochs without a better score before training stops.
        checkpoint: A file that is written after each epoch. An interrupted fit that is started again with the same
            data, parameters and ``random_state`` resumes from it, and ends with the weights of an uninterrupted fit. A
            checkpoint of another fit is refused. None writes no file.
        device: Where to learn and pool, as torch names it; None is the CPU.
        random_state: Seed of split, weights, order and dropout: the same seed gives the same weights, and torch's own
            random state is left as it is.
        verbose: Show a progress bar.

    Attributes:
        classes_: Labels of the classes; of several labels a text, the numbers of the columns.
        pooling_: The trained layer.
        coef_: float32, (classes, out_dim), W.
        intercept_: float32, (classes,), b.
        loss_curve_: The mean loss of each epoch.
        validation_scores_: After each epoch, minus the loss of the texts held out; None without ``early_stopping``.
        n_iter_: Number of epochs.
        n_features_in_: Width of a token state.
        n_features_out_: Width of a pooled vector.
        encoder_identity_: Identity of the encoder of the token states.

    Example::

        states = compute_states(Encoder.load(), texts)
        classifier = PoolingClassifier("attention", random_state=0).fit(states, labels)
        classifier.predict(["a text that it has not seen"])
    """

    classes_: Labels
    coef_: Vectors
    intercept_: Labels
    _multilabel: bool

    def __init__(
        self,
        pooling: str | tuple[str, ...] = "attention",
        pooling_options: Mapping[str, Any] | None = None,
        model: str | os.PathLike[str] | Encoder = BUNDLED,
        dropout: float = 0.5,
        max_iter: int | None = None,
        batch_size: int = 64,
        learning_rate_init: float = 3e-3,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str | None = None,
        random_state: Any = None,  # Any: an int, a RandomState or None, as scikit-learn has it
        verbose: bool = False,
    ) -> None:
        self.pooling = pooling
        self.pooling_options = pooling_options
        self.model = model
        self.dropout = dropout
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.checkpoint = checkpoint
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: TokenStates | Iterable[str], y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Learn the pooling and the classifier.

        Args:
            X: Token states of texts, or texts: a list, tuple, array or Series of strings.
            y: One label a text, of any kind; or (texts, labels), 0 or 1, dense or sparse, of several labels a text.

        Raises:
            TypeError: ``X`` is neither, or a parameter is of another type.
            ValueError: ``y`` has another length, no label for some text, only one class, or too few texts of a class
                for the validation split; ``X`` is empty; or a parameter is out of range.
        """
        self._check_parameters()
        check_scalar(self.dropout, "dropout", Real, min_val=0, max_val=1, include_boundaries="left")
        states = self._states(X, fitted=False)
        labels = check_labels(y, len(states))
        self._multilabel = labels.ndim == 2
        if self._multilabel:
            self.classes_, classes = np.arange(labels.shape[1]), None
            targets = torch.from_numpy(labels.astype(np.float32))
        else:
            self.classes_, classes = encode_labels(labels)
            targets = torch.from_numpy(classes)
        trained = self._train(
            states,
            targets,
            None if classes is None else labels,
            lambda vectors, known: _LinearObjective(
                vectors, len(self.classes_), self.dropout, known if self._multilabel else None
            ),
        )
        assert isinstance(trained, _LinearObjective)
        self.coef_, self.intercept_ = trained.folded()
        return self

    def predict(self, X: TokenStates | Iterable[str]) -> Labels:  # noqa: N803  # scikit-learn's name
        """Predict the likeliest class of each text; for several labels a text, (texts, labels), 1 above one half.

        Args:
            X: Token states, or texts, as `fit` takes them.

        Raises:
            NotFittedError, TypeError, ValueError: As `transform` does.
        """
        logits = self._logits(X)
        if self._multilabel:
            return (logits > 0).astype(np.int64)
        predicted: Labels = self.classes_[logits.argmax(axis=1)]
        return predicted

    def predict_proba(self, X: TokenStates | Iterable[str]) -> Vectors:  # noqa: N803  # scikit-learn's name
        """Predict the probability of each class, (texts, classes); for several labels a text, of each label by itself.

        Args:
            X: Token states, or texts, as `fit` takes them.

        Raises:
            NotFittedError, TypeError, ValueError: As `transform` does.
        """
        logits = torch.from_numpy(self._logits(X))
        return (logits.sigmoid() if self._multilabel else logits.softmax(dim=1)).numpy()

    def score(self, X: TokenStates | Iterable[str], y: Any, sample_weight: Any = None) -> float:  # noqa: N803  # scikit-learn's name
        """Compute the accuracy; for several labels a text, the share of texts with all labels right.

        A label that `fit` has not seen counts as an error, as in scikit-learn, with a warning.

        Args:
            X: Token states, or texts, as `fit` takes them.
            y: Labels, as `fit` takes them.
            sample_weight: The weight of each text.

        Raises:
            NotFittedError, TypeError, ValueError: As `transform` does, or ``y`` has another length or width.
        """
        check_is_fitted(self)
        states = self._states(X)
        labels = check_labels(y, len(states))
        if (labels.ndim == 2) is not self._multilabel or (self._multilabel and labels.shape[1] != len(self.classes_)):
            expected = f"(texts, {len(self.classes_)})" if self._multilabel else "(texts,)"
            raise InvalidValueError("y", f"must have the shape {expected}, as for fit, got {labels.shape}")
        if not self._multilabel:
            unseen = sorted(set(labels.tolist()) - set(self.classes_.tolist()), key=str)
            if unseen:
                warnings.warn(
                    f"y holds labels that fit has not seen, which count as errors: {', '.join(map(shown, unseen))}",
                    stacklevel=2,
                )
        accuracy: float = super().score(states, labels, sample_weight)
        return accuracy

    def _logits(self, X: TokenStates | Iterable[str]) -> Vectors:  # noqa: N803  # scikit-learn's name
        logits: Vectors = self._vectors(X) @ self.coef_.T + self.intercept_
        return logits

    def __sklearn_tags__(self) -> Any:  # Any: scikit-learn's dataclass
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class _LinearObjective(nn.Module):
    """Cross-entropy of a linear classifier on vectors, centred and scaled by statistics of a sample.

    Args:
        vectors: (texts, dim).
        classes: How many.
        dropout: As for `PoolingClassifier`.
        labels: (texts, classes), 0 or 1, of several labels a text; None for one class each.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, vectors: Tensor, classes: int, dropout: float, labels: Tensor | None) -> None:
        super().__init__()
        centre = vectors.mean(dim=0)
        # One scale for all features: a scale for each would amplify features with little information.
        scale = (vectors - centre).square().mean().sqrt()
        self.register_buffer("centre", centre)
        self.register_buffer("scale", torch.where(scale > 0, scale, 1.0))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(vectors.shape[1], classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.loss = nn.CrossEntropyLoss() if labels is None else nn.BCEWithLogitsLoss()
        if labels is not None:
            # Most labels are rare: from zero, a small corpus spends its steps on learning that. A label of no text, or
            # of every text, still gets a finite bias.
            least = 0.5 / len(labels)
            with torch.no_grad():
                self.linear.bias.copy_(labels.mean(dim=0).clamp(least, 1 - least).logit())

    def forward(self, vectors: Tensor, targets: Tensor) -> Tensor:
        logits = self.linear(self.dropout((vectors - self.centre) / self.scale))
        loss: Tensor = self.loss(logits, targets)
        return loss

    def folded(self) -> tuple[Vectors, Labels]:
        """Return W and b for vectors that are neither centred nor scaled."""
        with torch.no_grad():
            weight = self.linear.weight / self.scale
            return weight.numpy(), (self.linear.bias - weight @ self.centre).numpy()
