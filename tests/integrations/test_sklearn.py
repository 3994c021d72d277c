"""Sentence vectors in scikit-learn's pipelines and searches."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import validate_data

from maskpool.encoder import BUNDLED, bundled_folder_of
from maskpool.integrations.sentence_transformers import Pooling
from maskpool.integrations.sklearn import SentenceEncoder
from tests.bench import tiny

ROWS = tiny.make_texts(40)
TEXTS, LABELS = [text for text, _ in ROWS], [label for _, label in ROWS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A plain transformers model: no modules.json."""
    return str(tiny.save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def host(folder: str) -> SentenceTransformer:
    modules: Any = [Transformer(folder), HostPooling(32, "mean")]
    return SentenceTransformer(modules=modules, device="cpu")


# ------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize("mode", ["mean", "max", ("cls", "mean_sqrt_len_tokens")])
def test_vectors_are_the_hosts(folder: str, host: SentenceTransformer, as_object: bool, mode: Any) -> None:
    """Vectors are those of sentence-transformers with its own pooling, from a name and from an object."""
    modules: Any = [host[0], HostPooling(32, mode)]
    expected = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS)
    encoder = SentenceEncoder(host if as_object else folder, mode, batch_size=7)
    vectors = encoder.fit_transform(TEXTS, LABELS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)  # in other batches, where sums round elsewhere
    assert type(host[1]) is HostPooling, "the model that was given keeps its own pooling"


def test_the_bundled_model() -> None:
    """The default model needs no hub, and its vectors are sentence-transformers' to 1e-6."""
    texts = ["a text", "another, which is rather longer than the first"]
    expected = SentenceTransformer(bundled_folder_of(BUNDLED), device="cpu").encode(texts)
    np.testing.assert_allclose(SentenceEncoder(device="cpu").transform(texts), expected, atol=1e-6)


def test_a_saved_model_with_our_pooling(host: SentenceTransformer, tmp_path: Path) -> None:
    """A folder that holds our modules opens, with the mode that it was saved with, and with another if asked."""
    modules: Any = [host[0], Pooling(32, "topk_mean", k=2)]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(tmp_path))
    np.testing.assert_array_equal(SentenceEncoder(tmp_path).transform(TEXTS), model.encode(TEXTS))
    np.testing.assert_allclose(SentenceEncoder(tmp_path, "mean").transform(TEXTS), host.encode(TEXTS), atol=1e-6)


def test_unit_vectors(folder: str) -> None:
    """Normalize gives the same directions at length 1."""
    plain, unit = (SentenceEncoder(folder, normalize=normal).transform(TEXTS) for normal in (False, True))
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda texts: np.array(texts, object), pd.Series])
def test_texts_in_any_sequence(folder: str, kind: Callable[[list[str]], Any]) -> None:
    """Lists, tuples, arrays and Series hold the same texts."""
    encoder = SentenceEncoder(folder)
    np.testing.assert_array_equal(encoder.fit_transform(kind(TEXTS)), encoder.transform(TEXTS))


def test_no_texts(folder: str) -> None:
    """No texts give no vectors of the right width."""
    assert SentenceEncoder(folder, ("mean", "mean_std")).fit([]).transform([]).shape == (0, 96)


# -------------------------------------------------------------------------------------- scikit-learn's ways


def test_parameters(folder: str) -> None:
    """Parameters are the constructor's; a clone has them and no model; another model is opened when they change."""
    encoder = SentenceEncoder(folder, "max", 8, True, "cpu").fit(TEXTS)
    parameters = {"model": folder, "pooling_mode": "max", "batch_size": 8, "normalize": True, "device": "cpu"}
    assert encoder.get_params() == parameters
    assert clone(encoder).get_params() == parameters
    assert set(vars(clone(encoder))) == set(parameters)
    encoder.set_params(pooling_mode="mean", normalize=False)
    np.testing.assert_allclose(encoder.transform(TEXTS), SentenceEncoder(folder).transform(TEXTS), atol=1e-6)


def test_the_model_is_opened_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as its parameters stay, an encoder opens its model a single time."""
    encoder = SentenceEncoder(folder).fit(TEXTS)
    monkeypatch.setattr("maskpool.integrations.sklearn.load", None)
    encoder.fit(TEXTS).transform(TEXTS)
    encoder.set_params(batch_size=3).get_feature_names_out()


def test_clusters_in_a_pipeline(folder: str, host: SentenceTransformer) -> None:
    """A pipeline with k-means gives the clusters of the host's vectors."""
    pipeline = make_pipeline(SentenceEncoder(folder), KMeans(5, n_init=3, random_state=0))
    expected = KMeans(5, n_init=3, random_state=0).fit_predict(host.encode(TEXTS))
    np.testing.assert_array_equal(pipeline.fit_predict(TEXTS), expected)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_search_over_poolings(folder: str, n_jobs: int | None) -> None:
    """A grid search scores each pooling, tuples too, and its best estimator serves."""
    modes = ["mean", "max", ("mean", "max")]
    pipeline = Pipeline([("encode", SentenceEncoder(folder)), ("classify", LogisticRegression(max_iter=2000))])
    search = GridSearchCV(pipeline, {"encode__pooling_mode": modes}, cv=2, n_jobs=n_jobs, error_score="raise")
    search.fit(TEXTS, LABELS)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert search.best_params_["encode__pooling_mode"] in modes
    assert search.predict(TEXTS[:3]).shape == (3,)


def test_pandas_output(folder: str) -> None:
    """As pandas, vectors have named columns and the index of the Series that they came from."""
    encoder = SentenceEncoder(folder).set_output(transform="pandas")
    frame = encoder.fit_transform(pd.Series(TEXTS, index=range(100, 140)))
    assert frame.columns.tolist() == encoder.get_feature_names_out().tolist()
    assert frame.columns[[0, -1]].tolist() == ["sentenceencoder0", "sentenceencoder31"]
    assert frame.index.tolist() == list(range(100, 140))
    assert encoder.transform(TEXTS[:2]).index.tolist() == [0, 1]


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("as_object", [False, True])
def test_pickles(folder: str, host: SentenceTransformer, as_object: bool, fitted: bool) -> None:
    """An encoder that comes out of a pickle gives the same vectors; by name it holds no weights."""
    encoder = SentenceEncoder(host if as_object else folder, "max")
    if fitted:
        encoder.fit(TEXTS)
    pickled = pickle.dumps(encoder)
    np.testing.assert_array_equal(pickle.loads(pickled).transform(TEXTS), encoder.transform(TEXTS))
    assert (len(pickled) < 1000) is not as_object


def test_cached_in_a_pipeline(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline with memory embeds the same texts once, and others, or under another pooling, anew."""
    calls = []
    encode = SentenceTransformer.encode
    monkeypatch.setattr(SentenceTransformer, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))  # type: ignore[func-returns-value]  # a list's append gives None

    def fit(mode: str, texts: list[str]) -> int:
        memory = joblib.Memory(tmp_path, verbose=0)
        pipeline = Pipeline(
            [("encode", SentenceEncoder(folder, mode)), ("cluster", KMeans(2, n_init=1))], memory=memory
        )
        pipeline.fit(texts)
        return len(calls)

    assert [fit("mean", TEXTS), fit("mean", TEXTS), fit("max", TEXTS), fit("mean", TEXTS[1:])] == [1, 1, 2, 3]


# ------------------------------------------------------------------------------- scikit-learn's own checks


class OfNumbers(SentenceEncoder):
    """Our estimator behind the one thing that its checks need and texts are not: arrays of numbers, made into texts."""

    def fit(self, X: Any, y: object = None) -> OfNumbers:  # noqa: N803
        super().fit(self._words(X, reset=True), y)
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return super().transform(self._words(X, reset=False))

    def _words(self, rows: Any, reset: bool) -> list[str]:
        rows = validate_data(self, rows, reset=reset)
        return [" ".join(tiny.COMMON[int(abs(number) * 7) % 30] for number in row) for row in rows]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, False, True
        return tags


# Of numbers themselves, on what becomes words only: they would check the stand-in above and not the estimator.
OF_THE_STAND_IN = {
    "check_array_api_input": "needs arrays of another library, and texts are in none",
    "check_complex_data": "no text is complex",
    "check_dtype_object": "looks at numbers in object arrays",
    "check_estimator_sparse_array": "texts are not sparse",
    "check_estimator_sparse_matrix": "texts are not sparse",
    "check_estimator_sparse_tag": "texts are not sparse",
    "check_estimators_dtypes": "looks at numbers of several dtypes",
    "check_estimators_empty_data_messages": "wants an error where no texts give no vectors",
    "check_estimators_nan_inf": "a text is neither; what is no text is refused in a test of its own",
    "check_f_contiguous_array_estimator": "texts have one dimension",
    "check_fit1d": "wants an error for one dimension, which texts have",
    "check_fit2d_1feature": "texts have one dimension",
    "check_fit2d_predict1d": "texts have one dimension",
    "check_n_features_in": "counts columns, of which texts have none",
    "check_n_features_in_after_fitting": "counts columns, of which texts have none",
    "check_positive_only_tag_during_fit": "looks at negative numbers",
}


def _checks() -> list[tuple[str, Callable[[Any], None]]]:
    """Every check of scikit-learn for transformers, by name."""
    found = []
    for _, check in estimator_checks_generator(OfNumbers("unused"), legacy=True):
        keywords = getattr(check, "keywords", {})
        name = getattr(check, "func", check).__name__
        found.append((f"{name} {keywords}" if "readonly_memmap" in keywords else name, check))
    return found


def test_what_is_left_out_exists() -> None:
    """Each check that is left out, with its reason, is one of scikit-learn's, and more than those apply."""
    names = {name for name, _ in _checks()}
    assert names >= set(OF_THE_STAND_IN)
    assert len(names - set(OF_THE_STAND_IN)) > 25


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("name", "check"), [pair for pair in _checks() if pair[0] not in OF_THE_STAND_IN], ids=lambda value: str(value)[:60]
)
def test_scikit_learns_own_checks(folder: str, name: str, check: Callable[[Any], None]) -> None:
    """Each check of scikit-learn that applies to texts passes."""
    check(OfNumbers(folder))


# ------------------------------------------------------------------------------------------------- refusals

BAD_TEXTS = [
    ("w1", "texts must be a list of strings, got one str: put it into a list, [text]"),
    (["w1", None], "texts must hold strings alone, got NoneType at place 1"),
    (np.array(["w1", "w2", None], object), "got NoneType at place 2"),
    (pd.Series(["w1", float("nan")]), "got float at place 1"),
    (pd.DataFrame({"text": ["w1"]}), "texts must have one dimension, got DataFrame of 2: pass one column of it"),
    (np.ones(3), "got float64 at place 0"),
]


@pytest.mark.parametrize(("texts", "message"), BAD_TEXTS, ids=[message for _, message in BAD_TEXTS])
@pytest.mark.parametrize("method", ["fit", "transform", "fit_transform"])
def test_what_are_no_texts(folder: str, method: str, texts: Any, message: str) -> None:
    """Anything but a sequence of strings is refused, with the place and the way out."""
    with pytest.raises(TypeError) as error:
        getattr(SentenceEncoder(folder), method)(texts)
    assert message in str(error.value)


def test_what_is_no_encoder(folder: str, host: SentenceTransformer, tmp_path: Path) -> None:
    """A wrong parameter is refused by name when the encoder is fitted."""
    modules: Any = [host[0], HostPooling(32), Dense(32, 8)]
    behind = SentenceTransformer(modules=modules, device="cpu")
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"model": None}, TypeError, "model must be a name, a folder or a SentenceTransformer, got NoneType"),
        ({"pooling_mode": "middle"}, ValueError, "pooling_mode must be one of 'mean'"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
        ({"model": behind, "pooling_mode": "mean_std"}, ValueError, "dimension 64, and Dense behind the pooling"),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            SentenceEncoder(**{"model": folder, **options}).fit(TEXTS)
    with pytest.raises(OSError, match="no-such-model"):
        SentenceEncoder(str(tmp_path / "no-such-model")).fit(TEXTS)


def test_a_copy_of_a_model_is_another(host: SentenceTransformer) -> None:
    """Cloning an encoder of a model object copies the model, as scikit-learn clones its parameters."""
    encoder = SentenceEncoder(host)
    assert clone(encoder).model is not host
    np.testing.assert_array_equal(clone(encoder).transform(TEXTS), encoder.transform(TEXTS))
