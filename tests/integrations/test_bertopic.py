"""BERTopic on a model with our pooling."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_mutual_info_score

from maskpool.bench.corpora import docstrings
from maskpool.encoder import BUNDLED
from maskpool.integrations.sentence_transformers import load, load_plain, replace_pooling
from tests.bench import tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its dependencies', about one another
    # Any: BERTopic ships no types.
    bertopic: Any = pytest.importorskip("bertopic", reason='needs pip install "maskpool[peers]"')


@pytest.mark.filterwarnings("ignore")  # its dependencies' own
def test_topics_are_those_of_the_vectors(tmp_path: Path) -> None:
    """BERTopic embeds documents with our model, finds their topics, and places each document in its own."""
    rows = tiny.make_texts(60, labels=3)
    texts = [text for text, _ in rows]
    model = replace_pooling(load_plain(tiny.save_model(tmp_path), device="cpu"), "mean")
    clusters = {"umap_model": PCA(5, random_state=0), "hdbscan_model": KMeans(3, n_init=5, random_state=0)}
    topics = bertopic.BERTopic(embedding_model=model, **clusters)
    found, _ = topics.fit_transform(texts)
    assert adjusted_mutual_info_score([label for _, label in rows], found) > 0.3
    np.testing.assert_allclose(topics.embedding_model.embed(texts), model.encode(texts), atol=1e-6)
    assert topics.transform(texts)[0] == found


@pytest.mark.full  # the test above is its short form
@pytest.mark.filterwarnings("ignore")  # UMAP's and numba's own
def test_topics_of_docstrings() -> None:
    """BERTopic embeds documents with our model, finds topics in them, and places a new text beside its like."""
    texts = docstrings().texts[:300]
    model = replace_pooling(load(BUNDLED, device="cpu"), "mean")
    topics = bertopic.BERTopic(embedding_model=model, min_topic_size=10)
    found, _ = topics.fit_transform(texts)
    assert len(found) == len(texts)
    assert len(set(found) - {-1}) > 2
    np.testing.assert_allclose(topics.embedding_model.embed(texts[:5]), model.encode(texts[:5]), atol=1e-6)
    placed, _ = topics.transform(texts[:20])
    assert np.mean(np.array(placed) == np.array(found[:20])) > 0.5
