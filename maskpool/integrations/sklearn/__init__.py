"""scikit-learn: sentence vectors as a transformer, and pooling heads as estimators, for its pipelines and searches."""

from maskpool.integrations import require

require("scikit-learn", "st")

from maskpool.integrations.sklearn.classifier import PoolingClassifier  # noqa: E402  # after the check that it can be
from maskpool.integrations.sklearn.contrastive import PoolingTransformer  # noqa: E402  # the same
from maskpool.integrations.sklearn.encoder import SentenceEncoder  # noqa: E402  # the same

__all__ = ["PoolingClassifier", "PoolingTransformer", "SentenceEncoder"]
