"""BERTopic on a model with our pooling."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_mutual_info_score

from maskpool.bench.design.corpora import docstrings
from maskpool.encoder import BUNDLED
from maskpool.integrations.sentence_transformers import load, load_plain, replace_pooling
from tests.bench import tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its dependencies', about one another
    # Any: BERTopic ships no types.
    bertopic: Any = pytest.importorskip("bertopic", reason='needs pip install "maskpool[peers]"')


@pytest.mark.filterwarnings("ignore")  # its dependencies' own
def test_topics_are_those_of_the_vectors(tmp_path: Path) -> None:
    """BERTopic embeds documents with our model; its topics are the clusters of our vectors."""
    texts = [text for text, _ in tiny.make_texts(60)]
    model = replace_pooling(load_plain(tiny.save_model(tmp_path), device="cpu"), "mean")
    reduce, cluster = PCA(5, random_state=0), KMeans(3, n_init=5, random_state=0)
    topics = bertopic.BERTopic(embedding_model=model, umap_model=clone(reduce), hdbscan_model=clone(cluster))
    topic_numbers, _ = topics.fit_transform(texts)
    modules: Any = [model[0], HostPooling(32)]
    expected = SentenceTransformer(modules=modules, device="cpu").encode(texts)
    clusters = cluster.fit_predict(reduce.fit_transform(expected))
    assert adjusted_mutual_info_score(clusters, topic_numbers) > 0.99
    np.testing.assert_allclose(topics.embedding_model.embed(texts), expected, atol=1e-6)
    assert topics.transform(texts)[0] == topic_numbers


@pytest.mark.full  # the test above is its short form
@pytest.mark.filterwarnings("ignore")  # UMAP's and numba's own
def test_topics_of_docstrings() -> None:
    """BERTopic embeds documents with our model, finds topics in them, and assigns a new text to its topic."""
    texts = docstrings().texts[:300]
    model = replace_pooling(load(BUNDLED, device="cpu"), "mean")
    topics = bertopic.BERTopic(embedding_model=model, min_topic_size=10)
    topic_numbers, _ = topics.fit_transform(texts)
    assert len(topic_numbers) == len(texts)
    assert len(set(topic_numbers) - {-1}) > 2
    np.testing.assert_allclose(topics.embedding_model.embed(texts[:5]), model.encode(texts[:5]), atol=1e-6)
    placed, _ = topics.transform(texts[:20])
    assert np.mean(np.array(placed) == np.array(topic_numbers[:20])) > 0.5
