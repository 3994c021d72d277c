"""scikit-learn: texts to sentence vectors, as a transformer for its pipelines and searches."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from maskpool.encoder import check_texts
from maskpool.integrations import require
from maskpool.integrations.sentence_transformers import load, with_pooling

require("scikit-learn", "1.9", "st")

from sentence_transformers import SentenceTransformer  # noqa: E402  # the leaf above has checked that it can be
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402  # after the check

if TYPE_CHECKING:
    from collections.abc import Iterable

    Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class SentenceEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    """Texts to sentence vectors, read by a model whose pooling is ours.

    It learns nothing: `fit` opens the model and looks at the texts, and `transform` works without it. Where a name was
    given, a pickle and the cache of a pipeline (``memory=``) hold the name, not the weights. A model given as an object
    is copied whole by ``clone`` and by pickling, and a copy misses the cache: give a name where that matters.

    Args:
        model: The name or folder of a ``SentenceTransformer`` or of a plain transformers model, or a
            ``SentenceTransformer``, which is left as it is.
        pooling_mode: As `build_pooling` takes it; None keeps the model's.
        batch_size: Texts in a batch.
        normalize: Give vectors of length 1.
        device: Where the model runs, as torch names it; None leaves that to sentence-transformers.

    Example::

        clusters = make_pipeline(SentenceEncoder("all-MiniLM-L6-v2"), KMeans(8)).fit_predict(texts)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceTransformer = "all-MiniLM-L6-v2",
        pooling_mode: str | tuple[str, ...] | None = None,
        batch_size: int = 32,
        normalize: bool = False,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.pooling_mode = pooling_mode
        self.batch_size = batch_size
        self.normalize = normalize
        self.device = device

    def fit(self, X: Iterable[str], y: object = None) -> Self:  # noqa: N803  # scikit-learn's name
        """Open the model and look at the texts.

        Args:
            X: Texts: a list, tuple, array or Series of strings.
            y: Not read.

        Raises:
            TypeError: ``X`` is one bare string, or holds something else than strings, or ``model`` is no model.
            ValueError: ``batch_size`` is no positive integer, or as `replace_pooling` says.
        """
        check_texts(X)
        self._open()
        return self

    def transform(self, X: Iterable[str]) -> Vectors:  # noqa: N803  # scikit-learn's name
        """Embed texts.

        Args:
            X: Texts: a list, tuple, array or Series of strings.

        Returns:
            float32, (texts, dim); of no texts (0, dim).

        Raises:
            TypeError, ValueError: As `fit` does.
        """
        texts = check_texts(X)
        model = self._open()
        if not texts:
            return np.zeros((0, self._n_features_out), np.float32)
        vectors: Vectors = model.encode(
            texts, batch_size=self.batch_size, normalize_embeddings=self.normalize, show_progress_bar=False
        ).astype(np.float32)
        return vectors

    @property
    def _n_features_out(self) -> int:
        return self._open().get_embedding_dimension() or 0

    def _open(self) -> SentenceTransformer:
        """The model with our pooling; opened once for the same parameters."""
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {self.batch_size!r}")
        asked = (self.model, self.pooling_mode, self.device)
        opened: tuple[object, SentenceTransformer] | None = getattr(self, "_opened", None)
        if opened is None or opened[0] != asked:
            opened = (asked, with_pooling(self._find(), self.pooling_mode))
            self._opened = opened
        return opened[1]

    def _find(self) -> SentenceTransformer:
        if isinstance(self.model, SentenceTransformer):
            return self.model if self.device is None else self.model.to(self.device)
        if not isinstance(self.model, str | os.PathLike):
            raise TypeError(f"model must be a name, a folder or a SentenceTransformer, got {type(self.model).__name__}")
        name = os.fspath(self.model)
        try:
            return load(name, device=self.device)
        except FileNotFoundError:  # no modules.json: a plain transformers model, or none, which the host will say
            return SentenceTransformer(name, device=self.device)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_opened"}

    def __sklearn_tags__(self) -> Any:  # Any: scikit-learn's dataclass
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []  # texts have none to keep
        tags.requires_fit = False
        return tags
