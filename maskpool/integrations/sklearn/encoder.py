"""Texts to sentence vectors, as a transformer."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Any, Self, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from maskpool.encoder import check_texts, evaluating
from maskpool.errors import FolderError, InvalidTypeError, InvalidValueError, rename_arguments
from maskpool.integrations.sentence_transformers import load, load_plain, warn_if_pooled_otherwise, with_pooling
from maskpool.integrations.st_host import SentenceTransformer
from maskpool.integrations.st_host import modules as host
from maskpool.trust import no_panics
from maskpool.trust.devices import find_device

Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class SentenceEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    """Texts to sentence vectors, read by a model whose pooling is ours.

    The vectors are those of ``SentenceTransformer.encode`` with our pooling in the place of the model's own. It learns
    nothing: `fit` opens the model and looks at the texts, and `transform` works without it.

    Where a name was given, a pickle and the cache of a pipeline (``memory=``) hold the name, not the weights: empty the
    cache if others are saved under that name. A model given as an object is copied whole by ``clone`` and by pickling,
    and a cache never finds it again, because no two copies hash the same: give a name where that matters.

    Args:
        model: The name or folder of a ``SentenceTransformer`` or of a plain transformers model, or a
            ``SentenceTransformer``, which is left as it is.
        pooling_mode: As `build_pooling` takes it; None keeps the model's.
        batch_size: Texts in a batch.
        normalize: Give vectors of length 1.
        device: Where the model runs, as torch names it; None leaves a given model where it is, and otherwise the
            choice to sentence-transformers. A given model that is elsewhere is copied there.

    Attributes:
        n_features_out_: Width of a vector, known once the model has been opened.

    Example::

        clusters = make_pipeline(SentenceEncoder("all-MiniLM-L6-v2"), KMeans(8)).fit_predict(texts)
    """

    n_features_out_: int

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
            X: Texts: a list, tuple, array or Series of strings, of one dimension.
            y: Not read.

        Raises:
            TypeError: ``X`` is one bare string, a generator or a table, or holds something else than strings; or
                ``model`` or ``normalize`` is of another type.
            ValueError: ``batch_size`` is not a positive integer, torch cannot use ``device`` here, or as `load` and
                `replace_pooling` say.
            OSError: The model does not exist.

        Warns:
            UserWarning: ``pooling_mode`` is not the mode that a model given by name is saved with.
        """
        check_readable_texts(X)
        self._open()
        return self

    def transform(self, X: Iterable[str]) -> Vectors:  # noqa: N803  # scikit-learn's name
        """Embed texts.

        Args:
            X: Texts, as `fit` takes them.

        Returns:
            float32, (texts, dim); of no texts (0, dim).

        Raises:
            TypeError, ValueError, OSError: As `fit` does.
        """
        texts = check_readable_texts(X)
        model = self._open()
        if not texts:
            return np.zeros((0, self.n_features_out_), np.float32)
        # Encode ends the training mode, also of the modules shared with a given model.
        with evaluating(model), no_panics("model must have a tokenizer that can read all texts"):
            vectors: Vectors = model.encode(
                texts, batch_size=int(self.batch_size), normalize_embeddings=self.normalize, show_progress_bar=False
            ).astype(np.float32)
        return vectors

    @property
    def _n_features_out(self) -> int:
        """What the base class reads; it opens no model, because `dir` and a notebook's display read every attribute."""
        return self.n_features_out_

    def _open(self) -> SentenceTransformer:
        """The model with our pooling; by name it is opened once for the same parameters."""
        # A search over an array gives numpy's integers.
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, Integral) or self.batch_size < 1:
            raise InvalidValueError("batch_size", f"must be a positive integer, got {self.batch_size!r}")
        if not isinstance(self.normalize, bool | np.bool_):
            raise InvalidTypeError("normalize", f"must be True or False, got {self.normalize!r}")
        key = (self.model, self.pooling_mode, self.device)
        opened: tuple[object, SentenceTransformer] | None = getattr(self, "_opened", None)
        # A given model may have been trained since, and our pooling is a copy of what its own had learned.
        if opened is None or opened[0] != key or isinstance(self.model, SentenceTransformer):
            model, is_saved = self._find()
            opened = (key, with_pooling(model, self.pooling_mode))
            if is_saved:
                warn_if_pooled_otherwise(self.model, model, self.pooling_mode, stacklevel=3)
            self._opened = opened
            self.n_features_out_ = opened[1].get_embedding_dimension()
        return opened[1]

    def _find(self) -> tuple[SentenceTransformer, bool]:
        """The model, and whether it was opened from a folder that saves its pooling."""
        device = None if self.device is None else find_device(self.device)
        if isinstance(self.model, SentenceTransformer):
            elsewhere = device is not None and device != self.model.device
            return (copy.deepcopy(self.model).to(device) if elsewhere else self.model), False
        if not isinstance(self.model, str | os.PathLike):
            raise InvalidTypeError(
                "model", f"must be a name, a folder or a SentenceTransformer, got {type(self.model).__name__}"
            )
        name = os.fspath(self.model)
        with rename_arguments({"name_or_path": "model"}):
            try:
                model, is_saved = load(name, device=self.device), True
            except FileNotFoundError:  # no modules.json: a plain transformers model, or none
                model, is_saved = load_plain(name, device=self.device), False
        kinds = [type(module).__name__ for module in model.modules() if isinstance(module, host.Pooling)]
        if len(kinds) != 1:
            raise FolderError(
                f"must have one pooling module, got {', '.join(kinds) or 'none'} in {name}: it gives vectors without a "
                "pooling that maskpool could replace",
                argument="model",
            )
        model.eval()  # once, because threads that share an encoder would switch its mode under each other
        return model, is_saved

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


def check_readable_texts(X: Iterable[str]) -> list[str]:  # noqa: N803  # scikit-learn's name
    """Texts as a list, from what can be read more than once."""
    if isinstance(X, Iterator):
        raise InvalidTypeError(
            "X",
            f"must be texts that can be read twice, by fit and by transform, got a {type(X).__name__}: pass list(X)",
        )
    return check_texts(X, "X")
