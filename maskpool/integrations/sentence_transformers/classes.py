"""The classes that a saved model may consist of, by every path that they are stored under."""

from __future__ import annotations

from maskpool.integrations.sentence_transformers.pooling import Pooling
from maskpool.integrations.st_host import modules as host

_HOST_CLASSES: tuple[type[host.Module], ...] = (
    host.BoW,
    host.CLIPModel,
    host.CNN,
    host.Dense,
    host.Dropout,
    host.LSTM,
    host.LayerNorm,
    host.Normalize,
    host.Pooling,
    host.Router,
    host.StaticEmbedding,
    host.Transformer,
    host.WeightedLayerPooling,
    host.WordEmbeddings,
    host.WordWeights,
)
CLASSES: dict[str, type[host.Module]] = {
    f"{path}.{cls.__name__}": cls
    for cls in _HOST_CLASSES
    for path in (
        cls.__module__,
        "sentence_transformers.models",
        f"sentence_transformers.models.{cls.__name__}",
        "sentence_transformers.sentence_transformer.modules",
        "sentence_transformers.base.modules",
    )
}
# The router of older versions.
CLASSES |= dict.fromkeys(("sentence_transformers.models.Asym", "sentence_transformers.models.Asym.Asym"), host.Router)
# Early versions of maskpool saved learned poolings under a second name.
CLASSES |= dict.fromkeys((f"{Pooling.__module__}.{name}" for name in ("Pooling", "AttentionPoolingModule")), Pooling)
