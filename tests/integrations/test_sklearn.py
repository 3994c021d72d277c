"""Sentence vectors in scikit-learn's pipelines and searches."""

from __future__ import annotations

import copy
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

import maskpool.integrations.sklearn as leaf
from maskpool.encoder import BUNDLED, bundled_folder_of
from maskpool.integrations.sentence_transformers import Pooling
from maskpool.integrations.sklearn import SentenceEncoder
from tests.bench import tiny
from tests.matrix import sampled
from tests.poolings import NEEDS_OPTION, WIDER, required

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
    expected = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS, batch_size=7)
    encoder = SentenceEncoder(host if as_object else folder, mode, batch_size=7)
    vectors = encoder.fit_transform(TEXTS, LABELS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, rtol=1e-6, atol=1e-6)
    assert type(host[1]) is HostPooling, "the model that was given keeps its own pooling"


def test_the_bundled_model() -> None:
    """The default model needs no hub, and its vectors are sentence-transformers' to 1e-6."""
    texts = ["a text", "another, which is rather longer than the first"]
    expected = SentenceTransformer(bundled_folder_of(BUNDLED), device="cpu").encode(texts)
    np.testing.assert_allclose(SentenceEncoder(device="cpu").transform(texts), expected, atol=1e-6)


def test_a_saved_model_with_our_pooling(host: SentenceTransformer, tmp_path: Path) -> None:
    """A folder that holds our modules opens, with the mode that it was saved with, and with another if asked."""
    modules: Any = [host[0], Pooling(32, NEEDS_OPTION, **required(NEEDS_OPTION))]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(tmp_path))
    np.testing.assert_array_equal(SentenceEncoder(tmp_path).transform(TEXTS), model.encode(TEXTS))
    with pytest.warns(UserWarning, match=f"is saved with {NEEDS_OPTION} pooling, and pooling_mode='mean' is used"):
        vectors = SentenceEncoder(tmp_path, "mean").fit_transform(TEXTS)
    np.testing.assert_allclose(vectors, host.encode(TEXTS), atol=1e-6)


def test_unit_vectors(folder: str, host: SentenceTransformer) -> None:
    """Normalize gives the host's normalised vectors, of length 1."""
    vectors = SentenceEncoder(folder, normalize=True).transform(TEXTS)
    np.testing.assert_allclose(vectors, host.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_halves_become_float32(host: SentenceTransformer) -> None:
    """A model in half precision gives its own vectors, as float32."""
    half = copy.deepcopy(host).bfloat16()
    vectors = SentenceEncoder(half).transform(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, half.encode(TEXTS), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("training", [False, True])
def test_a_given_model_is_left_as_it_is(
    host: SentenceTransformer, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model given as an object keeps its modes, its device and its weights, even if another device is asked for."""
    host = copy.deepcopy(host).train(training)
    modes = [module.training for module in host.modules()]
    np.testing.assert_array_equal(SentenceEncoder(host).transform(TEXTS), SentenceEncoder(host).transform(TEXTS))
    assert [module.training for module in host.modules()] == modes
    # Every machine has this device, which is refused because nothing can be computed on it.
    monkeypatch.setattr("maskpool.integrations.sklearn.encoder.find_device", torch.device)
    moved = SentenceEncoder(host, device="meta").fit(TEXTS)
    assert {parameter.device.type for parameter in host.parameters()} == {"cpu"}
    assert {parameter.device.type for parameter in moved._open().parameters()} == {"meta"}


def test_a_model_by_name_serves_threads(host: SentenceTransformer, tmp_path: Path) -> None:
    """A model opened by name stays in evaluation mode, so one thread does not enable dropout in another."""
    modules: Any = [host[0], HostPooling(32), Dropout(0.5)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path))
    encoder = SentenceEncoder(tmp_path).fit(TEXTS)
    encoder.transform(TEXTS)
    assert not any(module.training for child in encoder._open().children() for module in child.modules())


def test_texts_in_a_batch(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model reads as many texts at a time as batch_size says."""
    sizes = []
    forward = Pooling.forward

    def spy(self: Pooling, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        sizes.append(len(features["input_ids"]))
        return forward(self, features, **kwargs)

    monkeypatch.setattr(Pooling, "forward", spy)
    SentenceEncoder(folder, batch_size=16).transform(TEXTS)
    assert sizes == [16, 16, 8]


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_given_model_shares_its_weights(host: SentenceTransformer, device: str | None) -> None:
    """Where it need not move, a model that was given is not copied."""
    assert SentenceEncoder(host, "max", device=device)._open()[0] is host[0]


def test_a_given_model_may_be_trained_on(host: SentenceTransformer) -> None:
    """What a given model learns after `fit` is served, that of its pooling too."""
    modules: Any = [copy.deepcopy(host[0]), Pooling(32, "attention")]
    model = SentenceTransformer(modules=modules, device="cpu")
    encoder = SentenceEncoder(model).fit(TEXTS)
    before = encoder.transform(TEXTS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    np.testing.assert_allclose(encoder.transform(TEXTS), model.encode(TEXTS), rtol=1e-6, atol=1e-6)
    assert not np.allclose(encoder.transform(TEXTS), before)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda texts: np.array(texts, object), pd.Series])
def test_texts_in_any_sequence(folder: str, kind: Callable[[list[str]], Any]) -> None:
    """Lists, tuples, arrays and Series hold the same texts."""
    encoder = SentenceEncoder(folder)
    np.testing.assert_array_equal(encoder.fit_transform(kind(TEXTS)), encoder.transform(TEXTS))


def test_no_texts(folder: str) -> None:
    """No texts give no vectors of the right width."""
    vectors = SentenceEncoder(folder, ("mean", WIDER)).fit([]).transform([])
    assert vectors.shape == (0, 96)
    assert vectors.dtype == np.float32


def test_truncated_vectors(host: SentenceTransformer) -> None:
    """If a model truncates its vectors, every reported width is the truncated one."""
    host = copy.deepcopy(host)
    host.truncate_dim = 5
    encoder = SentenceEncoder(host).fit(TEXTS)
    np.testing.assert_allclose(encoder.transform(TEXTS), host.encode(TEXTS), atol=1e-6)
    assert encoder.n_features_out_ == len(encoder.get_feature_names_out()) == 5
    assert encoder.transform([]).shape == (0, 5)


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
    monkeypatch.setattr("maskpool.integrations.sklearn.encoder.load", None)
    encoder.fit(TEXTS).transform(TEXTS)
    encoder.set_params(batch_size=3).get_feature_names_out()


def test_it_needs_no_fit(folder: str) -> None:
    """It counts as fitted from the start, transforms without `fit`, and knows its columns once the model is open."""
    encoder = SentenceEncoder(folder)
    check_is_fitted(encoder)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        encoder.get_feature_names_out()
    np.testing.assert_array_equal(encoder.transform(TEXTS), SentenceEncoder(folder).fit(TEXTS).transform(TEXTS))
    assert encoder.n_features_out_ == len(encoder.get_feature_names_out()) == 32


def test_looking_at_it_opens_no_model() -> None:
    """Tab completion and the display in a notebook work before the model is opened, and do not open it."""
    encoder = SentenceEncoder("no-such-model")
    assert "transform" in dir(encoder)
    assert "no-such-model" in encoder._repr_html_()
    assert "no-such-model" in make_pipeline(encoder, KMeans(2))._repr_html_()


def test_tags() -> None:
    """Its tags say that it takes one dimension of strings, keeps no dtype and learns nothing."""
    tags = get_tags(SentenceEncoder())
    inputs = tags.input_tags
    assert (inputs.string, inputs.one_d_array, inputs.two_d_array) == (True, True, False)
    assert tags.transformer_tags.preserves_dtype == []
    assert not tags.requires_fit
    assert not tags.target_tags.required


def test_a_column_of_a_table(folder: str) -> None:
    """A column transformer hands over one column, named without a list, and keeps the others."""
    table = pd.DataFrame({"text": TEXTS, "number": range(40)})
    columns = make_column_transformer((SentenceEncoder(folder), "text"), remainder="passthrough")
    both = columns.fit_transform(table)
    np.testing.assert_allclose(both[:, :-1], SentenceEncoder(folder).transform(TEXTS), atol=1e-6)
    np.testing.assert_array_equal(both[:, -1], range(40))


def test_clusters_in_a_pipeline(folder: str, host: SentenceTransformer) -> None:
    """A pipeline with k-means gives the clusters of the host's vectors."""
    pipeline = make_pipeline(SentenceEncoder(folder), KMeans(5, n_init=3, random_state=0))
    expected = KMeans(5, n_init=3, random_state=0).fit_predict(host.encode(TEXTS))
    np.testing.assert_array_equal(pipeline.fit_predict(TEXTS), expected)


@pytest.mark.parametrize(
    ("modes", "n_jobs"),
    [
        (["mean", ("mean", "max")], None),
        pytest.param(["mean", "max"], 2, marks=pytest.mark.full),
        pytest.param([("mean", "max"), ("cls", WIDER)], None, marks=pytest.mark.full),
    ],
)
def test_a_search_over_poolings(folder: str, modes: list[Any], n_jobs: int | None) -> None:
    """A grid search scores each pooling, tuples too, and its best estimator serves."""
    pipeline = Pipeline([("encode", SentenceEncoder(folder)), ("classify", LogisticRegression(max_iter=2000))])
    search = GridSearchCV(pipeline, {"encode__pooling_mode": modes}, cv=2, n_jobs=n_jobs, error_score="raise")
    search.fit(TEXTS, LABELS)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert search.best_params_["encode__pooling_mode"] in modes
    assert search.predict(TEXTS[:3]).shape == (3,)


def test_a_search_over_an_array(folder: str) -> None:
    """The numpy integers of a search over batch sizes are integers."""
    pipeline = make_pipeline(SentenceEncoder(folder), LogisticRegression(max_iter=2000))
    grid = {"sentenceencoder__batch_size": np.array([4, 8]), "sentenceencoder__normalize": np.array([True, False])}
    assert GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(TEXTS, LABELS).cv_results_["params"]


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
    again = pickle.loads(pickled)
    if fitted:
        np.testing.assert_array_equal(again.get_feature_names_out(), encoder.get_feature_names_out())
    np.testing.assert_array_equal(again.transform(TEXTS), encoder.transform(TEXTS))
    assert (len(pickled) < 1000) is not as_object


def test_cached_in_a_pipeline(
    folder: str, host: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline with memory embeds once with a named model; other texts, other poolings and given models run again."""
    calls = []
    encode = SentenceTransformer.encode
    monkeypatch.setattr(SentenceTransformer, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))  # type: ignore[func-returns-value]  # a list's append gives None

    def fit(encoder: SentenceEncoder, texts: list[str]) -> int:
        memory = joblib.Memory(tmp_path, verbose=0)
        Pipeline([("encode", encoder), ("cluster", KMeans(2, n_init=1))], memory=memory).fit(texts)
        return len(calls)

    def by_name(mode: str, texts: list[str]) -> int:
        return fit(SentenceEncoder(folder, mode), texts)

    named = [by_name("mean", TEXTS), by_name("mean", TEXTS), by_name("max", TEXTS), by_name("mean", TEXTS[1:])]
    assert named == [1, 1, 2, 3]
    assert [fit(SentenceEncoder(host), TEXTS) for _ in range(2)] == [4, 5]


# ------------------------------------------------------------------------------- scikit-learn's own checks


class OfNumbers(SentenceEncoder):
    """Our estimator behind the one thing that its checks need and texts are not: rows of numbers, made into texts."""

    def fit(self, X: Any, y: object = None) -> OfNumbers:  # noqa: N803
        super().fit(_words(X), y)
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return super().transform(_words(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, False, True
        return tags


def _words(rows: Any) -> list[str]:
    """A word for each number; nothing is checked that would hide what the estimator itself does not."""
    return [" ".join(tiny.COMMON[int(abs(number) * 7) % 30] for number in row) for row in np.asarray(rows)]


# Checks of tables of numbers, which expect errors or attributes that do not apply to texts.
EXPECTED_TO_FAIL = {
    "check_complex_data": "no text is complex",
    "check_dtype_object": "wants numbers in object arrays; texts in them are taken",
    "check_estimator_sparse_array": "texts are not sparse, and the substitute refuses it in other words",
    "check_estimator_sparse_matrix": "texts are not sparse, and the substitute refuses it in other words",
    "check_estimator_sparse_tag": "texts are not sparse, and the substitute refuses it in other words",
    "check_estimators_empty_data_messages": "wants an error where no texts give no vectors",
    "check_estimators_nan_inf": "a text is neither; another type is refused in another test",
    "check_fit1d": "wants a ValueError for one dimension, which texts have",
    "check_fit2d_predict1d": "wants a ValueError for one dimension, which texts have",
    "check_n_features_in": "counts columns, of which texts have none",
    "check_n_features_in_after_fitting": "counts columns, of which texts have none",
}


CHECKS = parametrize_with_checks([OfNumbers()], expected_failed_checks=lambda _: EXPECTED_TO_FAIL, xfail_strict=True)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(CHECKS.args[0], sampled(CHECKS.args[1], every=2), **CHECKS.kwargs)
def test_scikit_learns_own_checks(folder: str, estimator: Any, check: Callable[[Any], None]) -> None:
    """Each check of scikit-learn passes, except those of numbers, which all fail."""
    check(estimator.set_params(model=folder))


def test_what_is_expected_to_fail_exists() -> None:
    """Each check that is expected to fail is one of scikit-learn's."""
    checks: list[Any] = [check for _, check in estimator_checks_generator(OfNumbers())]
    assert {check.func.__name__ for check in checks} >= set(EXPECTED_TO_FAIL)


# ------------------------------------------------------------------------------------------------- refusals

BAD_TEXTS = [
    ("w1", "X must be a list of strings, got one str: put it into a list, [text]"),
    (["w1", None], "X must hold only strings, got NoneType at place 1"),
    (np.array(["w1", "w2", None], object), "got NoneType at place 2"),
    (pd.Series(["w1", float("nan")]), "got float at place 1"),
    (pd.DataFrame({"text": ["w1"]}), "X must have one dimension, got DataFrame of 2: pass one column of it"),
    (np.array([["w1"], ["w2"]]), "X must have one dimension, got ndarray of 2: pass one column of it"),
    (np.ones(3), "got float64 at place 0"),
    ((text for text in TEXTS), "X must be texts that can be read twice, by fit and by transform, got a generator"),
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
        ({"batch_size": True}, ValueError, "batch_size must be a positive integer, got True"),
        ({"batch_size": 2.0}, ValueError, "batch_size must be a positive integer, got 2.0"),
        ({"normalize": "l2"}, TypeError, "normalize must be True or False, got 'l2'"),
        ({"device": "nonsense"}, ValueError, "device must be one that torch can use here, .*got 'nonsense'"),
        ({"device": "cuda:99"}, ValueError, "device must be one that torch can use here, .*got 'cuda:99'"),
        ({"model": behind, "pooling_mode": WIDER}, ValueError, "dimension 64, and Dense behind the pooling"),
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


def test_an_old_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a scikit-learn that is too old, the import says so and names the command that installs another."""
    monkeypatch.setattr("maskpool.integrations.version", lambda package: "1.5.2")
    with pytest.raises(ImportError, match=r'scikit-learn 1\.5\.2 is too old, .* pip install -U "maskpool\[st\]"'):
        runpy.run_path(leaf.__file__)
