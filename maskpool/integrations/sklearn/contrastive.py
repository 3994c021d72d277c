"""A pooling that learns from labels which texts belong together, on cached token states."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils import check_scalar
from torch import Tensor, nn

from maskpool.encoder import BUNDLED, Encoder, TokenStates
from maskpool.errors import InvalidValueError
from maskpool.integrations.sklearn.heads import PoolingHead
from maskpool.integrations.sklearn.labels import Labels, check_labels, encode_labels


class PoolingTransformer(PoolingHead):
    """A pooling that learns on the token states of a frozen encoder to bring texts of one class together.

    Minimises the supervised contrastive loss of unit vectors z, over the texts i of a batch that have others, P(i), of
    their class in it: the mean over i of −1/|P(i)| Σₚ log(exp(zᵢ·zₚ/τ) / Σ_{a≠i} exp(zᵢ·zₐ/τ)). Only the pooling
    learns: the loss compares the vectors of `transform`, divided by their lengths. Adam, with a rate that falls from
    ``learning_rate_init`` to zero along half a cosine over ``max_iter`` epochs.

    Source: Khosla et al. 2020, Supervised Contrastive Learning, equation 2.

    Texts go through ``model`` at each call; see `PoolingClassifier` for how to compute their token states once.

    Args:
        pooling: The pooling, as `build_pooling` takes it; one without parameters is used as it is.
        pooling_options: Options of the pooling, such as ``{"num_heads": 4}``.
        model: What reads texts: the name or folder of a transformers model, or an `Encoder`; token states need none.
        temperature: τ, above 0.
        max_iter: Most epochs; many more of them overfit few texts. None as for `PoolingClassifier`.
        batch_size: Texts at a step, at least 2. A text learns only from others of its class in the batch, so large
            batches learn more; a batch without two texts of a class is skipped.
        learning_rate_init: Adam's rate at the start.
        early_stopping: As for `PoolingClassifier`.
        validation_fraction: The share of texts held out, stratified by class. Where it would be fewer than two texts a
            class, two texts each of as many random classes are held out, at least of two, because a loss needs pairs.
        n_iter_no_change: Epochs without a better score before training stops.
        checkpoint: As for `PoolingClassifier`.
        device: Where to learn and pool, as torch names it; None is the CPU.
        random_state: As for `PoolingClassifier`.
        verbose: Show a progress bar.

    Attributes:
        pooling_: The trained layer.
        loss_curve_: The mean loss of each epoch.
        validation_scores_: After each epoch, minus the loss of the texts held out; None without ``early_stopping``.
        n_iter_: Number of epochs.
        n_features_in_: Width of a token state.
        n_features_out_: Width of a pooled vector.
        encoder_identity_: Identity of the encoder of the token states.

    Example::

        vectors = PoolingTransformer("attention", random_state=0).fit(states, labels).transform(other_states)
    """

    def __init__(
        self,
        pooling: str | tuple[str, ...] = "attention",
        pooling_options: Mapping[str, Any] | None = None,
        model: str | os.PathLike[str] | Encoder = BUNDLED,
        temperature: float = 0.05,
        max_iter: int | None = 20,
        batch_size: int = 256,
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
        self.temperature = temperature
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
        """Learn the pooling.

        Args:
            X: Token states of texts, or texts: a list, tuple, array or Series of strings.
            y: One label a text, of any kind.

        Raises:
            TypeError: ``X`` is neither, or a parameter is of another type.
            ValueError: As `PoolingClassifier.fit` says; or no class has two texts; or ``y`` has several labels a text;
                or an epoch has no batch with two texts of a class.
        """
        self._check_parameters()
        check_scalar(self.batch_size, "batch_size", Integral, min_val=2)
        check_scalar(self.temperature, "temperature", Real, min_val=0, include_boundaries="neither")
        states = self._states(X, fitted=False)
        labels = check_labels(y, len(states))
        if labels.ndim == 2:
            raise InvalidValueError("y", f"must have one label a text, the shape (texts,), got {labels.shape}")
        _, classes = encode_labels(labels)
        if np.bincount(classes).max() < 2:
            raise InvalidValueError(
                "y", f"must have two texts of some class, to bring together, got {len(labels)} classes"
            )
        objective = _SupervisedContrastive(float(self.temperature))
        self._train(states, torch.from_numpy(classes), labels, lambda *_: objective)
        return self

    def _split(self, texts: int, classes: Labels | None, rng: np.random.RandomState) -> tuple[Tensor, Tensor | None]:
        """Return the numbers of the texts to learn from, and of those held out, with two of some classes among each."""
        assert classes is not None  # fit refuses several labels a text
        learn, held_out = super()._split(texts, classes, rng)
        names, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
        size = math.ceil(self.validation_fraction * texts)
        if held_out is None or size >= 2 * len(names):
            return learn, held_out
        frequent = np.flatnonzero(counts >= 4)
        if len(frequent) < 2:
            raise InvalidValueError(
                "y",
                f"must have at least four texts of each of two classes, two to learn from and two for the validation "
                f"split, got {len(frequent)} such classes: add texts, or set early_stopping=False",
            )
        chosen = rng.permutation(frequent)[: max(2, size // 2)]
        held = np.concatenate([rng.choice(np.flatnonzero(codes == code), 2, replace=False) for code in chosen])
        return torch.from_numpy(np.setdiff1d(np.arange(texts), held)), torch.from_numpy(held)


class _SupervisedContrastive(nn.Module):
    """Supervised contrastive loss, by the formula of `PoolingTransformer`; None without two texts of a class."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, vectors: Tensor, targets: Tensor) -> Tensor | None:
        itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
        positive = (targets.unsqueeze(1) == targets) & ~itself
        positives = positive.sum(dim=1)
        if not positives.any():
            return None
        unit = nn.functional.normalize(vectors, dim=1)
        similarity = (unit @ unit.T / self.temperature).masked_fill(itself, -math.inf)
        logs = (similarity - similarity.logsumexp(dim=1, keepdim=True)).masked_fill(~positive, 0.0)
        anchors = positives > 0
        computed: Tensor = -(logs.sum(dim=1)[anchors] / positives[anchors]).mean()
        return computed
