"""Pooling heads that learn on cached token states, as scikit-learn's estimators."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.special import expit, softmax
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from sklearn.utils.estimator_checks import parametrize_with_checks
from transformers import T5Config, T5Model

from benchmarks.learned_heads import Task, fit_peer
from maskpool.bench.design.corpora import read_file
from maskpool.encoder import Encoder, TokenStates, cache_states, compute_states, weights_hash
from maskpool.integrations.sentence_transformers import Pooling, load
from maskpool.integrations.sklearn import PoolingClassifier, PoolingTransformer
from maskpool.integrations.sklearn.contrastive import _SupervisedContrastive
from maskpool.nn import POOLINGS
from tests.bench import tiny
from tests.matrix import FULL, sampled, spread
from tests.oracles import ORACLES
from tests.poolings import WIDER, WIDER_LEARNED

DATA = Path(__file__).parents[2] / "benchmarks" / "studies" / "data" / "banking77"
DIM = 12
NAMES = np.array(["black", "blue", "green"])
ROWS = tiny.make_texts(60, labels=3)
TEXTS, LABELS = [text for text, _ in ROWS], np.array([label for _, label in ROWS])
Estimator = PoolingClassifier | PoolingTransformer
BOTH = pytest.mark.parametrize("kind", [PoolingClassifier, PoolingTransformer])


def make_states(lengths: Any, values: Any, name: str = "made up") -> TokenStates:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return TokenStates(torch.as_tensor(values, dtype=torch.float32), offsets, {"name": name, "weights_sha256": name})


def marked(texts: int, seed: int) -> tuple[TokenStates, Any]:
    """Every token names a class, and the token whose first feature is 2 names that of the text."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, texts)
    labels = rng.integers(0, 3, texts)
    values, start = rng.normal(size=(lengths.sum(), DIM)) * 0.1, 0
    for length, label in zip(lengths, labels, strict=True):
        own = rng.integers(0, 3, length)
        mark = rng.integers(length)
        own[mark] = label
        values[start + np.arange(length), 1 + own] += 1
        values[start + mark, 0] += 2
        start += length
    return make_states(lengths, values), NAMES[labels]


@pytest.fixture(scope="module")
def learn() -> tuple[TokenStates, Any]:
    return marked(600, seed=0)


@pytest.fixture(scope="module")
def unseen() -> tuple[TokenStates, Any]:
    return marked(300, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def encoder(folder: str) -> Encoder:
    return Encoder.load(folder)


@pytest.fixture(scope="module")
def states(encoder: Encoder) -> TokenStates:
    return compute_states(encoder, TEXTS)


@pytest.fixture(scope="module")
def host(folder: str) -> SentenceTransformer:
    modules: Any = [Transformer(folder), HostPooling(32, "mean")]
    return SentenceTransformer(modules=modules, device="cpu")


# ------------------------------------------------------------------------------------------------- learning


def test_attention_finds_the_marked_token(learn: Any, unseen: Any) -> None:
    """If one marked token names the class, attention learns to read it, and a mean cannot."""
    scores = {
        mode: PoolingClassifier(mode, max_iter=40, learning_rate_init=0.05, random_state=0).fit(*learn).score(*unseen)
        for mode in ("attention", "mean")
    }
    assert scores["attention"] > 0.95
    assert scores["mean"] < 0.75


def test_contrast_finds_the_marked_token(learn: Any, unseen: Any) -> None:
    """The contrastive loss makes texts of one class neighbours with attention, which they are not with the mean."""
    scores = {}
    for mode in ("attention", "mean"):
        head = PoolingTransformer(mode, max_iter=30, learning_rate_init=0.1, random_state=0).fit(*learn)
        vectors, others = (normalize(head.transform(X)) for X in (learn[0], unseen[0]))
        nearest = learn[1][(others @ vectors.T).argmax(axis=1)]
        scores[mode] = (nearest == unseen[1]).mean()
    assert scores["attention"] > 0.9
    assert scores["mean"] < 0.75


def test_as_good_as_logistic_regression(learn: Any, unseen: Any) -> None:
    """On vectors that do not learn, the classifier is as good as logistic regression, by log loss on unseen texts."""
    classifier = PoolingClassifier("mean", dropout=0.0, max_iter=60, random_state=0).fit(*learn)
    vectors, others = classifier.transform(learn[0]), classifier.transform(unseen[0])
    peer = LogisticRegression(C=10).fit(vectors, learn[1])
    ours = log_loss(unseen[1], classifier.predict_proba(unseen[0]))
    assert ours == pytest.approx(log_loss(unseen[1], peer.predict_proba(others)), abs=0.01)


def test_several_labels_a_text() -> None:
    """Each of several labels per text is learned separately, from dense and sparse columns, with its probabilities."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (400, 3))
    # A text holds a token for each of its labels, and one without information.
    tokens = [[0, *(1 + np.flatnonzero(row))] for row in labels]
    values = np.eye(DIM)[np.concatenate(tokens)] + rng.normal(size=(sum(map(len, tokens)), DIM)) * 0.05
    made = make_states([len(text) for text in tokens], values)
    classifier = PoolingClassifier("sum", learning_rate_init=0.02, random_state=0).fit(made[:300], labels[:300])
    predicted = classifier.predict(made[300:])
    assert predicted.shape == (100, 3)
    assert (predicted == labels[300:]).mean() > 0.98
    assert classifier.classes_.tolist() == [0, 1, 2]
    assert classifier.score(made[300:], labels[300:]) == (predicted == labels[300:]).all(axis=1).mean()
    logits = classifier.transform(made) @ classifier.coef_.T + classifier.intercept_
    np.testing.assert_allclose(classifier.predict_proba(made), expit(logits), atol=1e-6)
    again = clone(classifier).fit(made[:300], sparse.csr_array(labels[:300]))
    np.testing.assert_array_equal(again.coef_, classifier.coef_)


def _like_sentences(texts: int, seed: int) -> tuple[TokenStates, Any]:
    """Texts of one token, which says in all of its features, as those of encoders do, which of eight kinds it is."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 8, texts)
    values = np.random.default_rng(9).normal(size=(8, 256))[kinds] + 3 * rng.normal(size=(texts, 256)) + 0.5
    return make_states([1] * texts, values / np.linalg.norm(values, axis=1, keepdims=True)), np.eye(8, dtype=int)[kinds]


@pytest.mark.parametrize("texts", [40, *(pytest.param(more, marks=pytest.mark.full) for more in (100, 200))])
def test_the_defaults_learn_several_labels_of_few_texts(texts: int) -> None:
    """On few texts, the default classifier is as good as one logistic regression per label."""
    (some, labels), (others, truth) = _like_sentences(texts, 0), _like_sentences(500, 1)
    head = PoolingClassifier("mean", random_state=0).fit(some, labels)
    vectors, unseen = head.transform(some), head.transform(others)
    peer = OneVsRestClassifier(LogisticRegression(C=300)).fit(vectors, labels)
    assert head.score(others, truth) > peer.score(unseen, truth) - 0.01


def test_a_label_that_no_text_has() -> None:
    """As it comes, and after an epoch, a classifier gives no text a label that none had, and all one that all had."""
    made, labels = _like_sentences(24, 0)
    labels[:, 0], labels[:, 1] = 0, 1
    for max_iter in (None, 1):
        predicted = PoolingClassifier("mean", max_iter=max_iter, random_state=0).fit(made, labels).predict(made)
        assert not predicted[:, 0].any()
        assert predicted[:, 1].all()


@pytest.mark.parametrize(("texts", "epochs"), sampled([(24, 400), (65, 200), (1300, 20)], every=2))
def test_few_texts_have_more_epochs(texts: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a fit has at least 400 steps and 20 epochs; a given number is kept; held-out texts add no steps."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_, **__: None)  # only counted
    made, labels = make_states([1] * texts, torch.rand(texts, 2)), np.arange(texts) % 2
    assert PoolingClassifier("mean").fit(made, labels).n_iter_ == epochs
    assert PoolingClassifier("mean", max_iter=3).fit(made, labels).n_iter_ == 3
    if texts == 65:
        held = PoolingClassifier("mean", early_stopping=True, n_iter_no_change=400).fit(made, labels)
        assert held.n_iter_ == 400  # 58 are left, which one step reads
    assert PoolingTransformer().fit(made, labels).n_iter_ == 20


def test_shares_are_those_of_the_pooled_vectors(learn: Any) -> None:
    """Probabilities are the softmax of W v + b, and a class is the likeliest; v is what `transform` gives."""
    classifier = PoolingClassifier(("mean", "attention"), max_iter=2, random_state=0).fit(*learn)
    vectors = classifier.transform(learn[0])
    assert vectors.dtype == np.float32
    assert vectors.shape == (600, 2 * DIM)
    logits = vectors @ classifier.coef_.T + classifier.intercept_
    np.testing.assert_allclose(classifier.predict_proba(learn[0]), softmax(logits, axis=1), atol=1e-6)
    np.testing.assert_array_equal(classifier.predict(learn[0]), classifier.classes_[logits.argmax(axis=1)])
    np.testing.assert_allclose(vectors[:, :DIM], PoolingTransformer("mean").fit(*learn).transform(learn[0]), atol=1e-6)


def test_the_classifier_learns_on_what_is_centred(learn: Any) -> None:
    """Vectors far from the origin, or a thousand times as long, are learned as well as those that are neither."""
    lengths, values = learn[0].lengths.tolist(), learn[0].values
    moved = make_states(lengths, values * 1000 + 3000)
    plain, far = (PoolingClassifier("mean", random_state=0).fit(X, learn[1]) for X in (learn[0], moved))
    np.testing.assert_allclose(far.loss_curve_, plain.loss_curve_, rtol=1e-3)
    np.testing.assert_allclose(far.predict_proba(moved), plain.predict_proba(learn[0]), atol=5e-3)


def test_the_contrastive_loss_is_the_papers() -> None:
    """The loss is equation 2 of the paper, summed by a slow loop over anchors that have another of their class."""
    x, classes, temperature = torch.randn(9, 5, dtype=torch.float64), [0, 1, 0, 2, 1, 0, 3, 1, 0], 0.3
    z = x / x.norm(dim=1, keepdim=True)
    terms = []
    for i, own in enumerate(classes):
        positives = [p for p, other in enumerate(classes) if other == own and p != i]
        if positives:
            total = sum(torch.exp(z[i] @ z[a] / temperature) for a in range(9) if a != i)
            terms.append(
                -sum(torch.log(torch.exp(z[i] @ z[p] / temperature) / total) for p in positives) / len(positives)
            )
    loss = _SupervisedContrastive(temperature)(x, torch.tensor(classes))
    assert len(terms) == 7
    torch.testing.assert_close(loss, torch.stack([torch.as_tensor(term) for term in terms]).mean())


@pytest.mark.parametrize("texts", [1, 3])
def test_a_batch_without_pairs_teaches_nothing(texts: int) -> None:
    """A batch in which no two texts are of one class has no loss."""
    assert _SupervisedContrastive(0.1)(torch.randn(texts, 4), torch.arange(texts)) is None


def test_a_fit_whose_batches_have_no_pairs_is_refused() -> None:
    """A contrast needs batches of two texts, and one batch an epoch with two texts of a class."""
    made, labels = make_states([1] * 40, np.eye(40)), [0, 0, *range(1, 39)]
    with pytest.raises(ValueError, match="batch_size == 1, must be >= 2"):
        PoolingTransformer(batch_size=1).fit(made, labels)
    with pytest.raises(ValueError, match=r"batch_size must let texts of one class share a batch; .*, got 2: choose a"):
        PoolingTransformer(batch_size=2, random_state=0).fit(made, labels)


@pytest.mark.parametrize(("texts", "classes", "held"), [(100, 10, 10), (100, 4, 10), (40, 10, 4), (12, 3, 4)])
def test_a_contrast_is_validated_on_pairs(texts: int, classes: int, held: int) -> None:
    """Two texts of some class are held out, and two to learn from are left of those, so the score changes."""
    labels = np.arange(texts) % classes
    made = make_states([2] * texts, np.random.default_rng(0).normal(size=(2 * texts, 5)))
    head = PoolingTransformer(early_stopping=True, random_state=0)
    learn, held_out = head._split(texts, labels, np.random.RandomState(0))
    assert held_out is not None
    assert len(held_out) == held
    assert sorted([*learn.tolist(), *held_out.tolist()]) == list(range(texts))
    assert sum(np.bincount(labels[held_out]) > 1) >= 2 or classes == 4
    assert min(np.bincount(labels[learn])) >= 2
    scores = head.fit(made, labels).validation_scores_
    assert scores is not None
    assert len(set(scores)) == len(scores)
    assert max(scores) < 0


@BOTH
def test_early_stopping_keeps_the_best(kind: Any, learn: Any) -> None:
    """It stops after epochs without a better score on the texts held out, and keeps the best weights."""
    options = {"max_iter": 40, "learning_rate_init": 0.5 if kind is PoolingClassifier else 5.0, "random_state": 0}
    learn = learn[0][:200], learn[1][:200]
    head = kind("attention", early_stopping=True, n_iter_no_change=3, **options).fit(*learn)
    scores = head.validation_scores_
    best = int(np.argmax(scores))
    assert head.n_iter_ == len(scores) == len(head.loss_curve_) == best + 4 < 40
    longer = kind("attention", early_stopping=True, n_iter_no_change=40, **options)
    longer.fit(*learn)
    assert longer.n_iter_ == 40
    same = max(longer.validation_scores_) == max(scores)
    assert same is np.array_equal(longer.transform(learn[0]), head.transform(learn[0]))


def test_texts_held_out_are_not_learned_from() -> None:
    """The validation split keeps the share of each class, and nothing is learned from it."""
    labels = np.repeat(["a", "b"], [80, 20])
    made = make_states([1] * 100, np.eye(100))  # a feature for each text: a weight moves where it is learned from
    fitted = PoolingClassifier("mean", dropout=0.0, early_stopping=True, random_state=0).fit(made, labels)
    still = (fitted.coef_ == 0).all(axis=0)
    assert [still[labels == name].sum() for name in ("a", "b")] == [8, 2]


@pytest.mark.parametrize("early_stopping", [False, True])
@BOTH
def test_the_same_seed_gives_the_same_weights(kind: Any, early_stopping: bool, learn: Any) -> None:
    """The same seed gives the same weights bit for bit, another seed gives others, and torch's random state is kept."""
    torch.manual_seed(1)
    before = torch.get_rng_state()

    def fit(seed: Any) -> Any:
        options = {"num_heads": 2, "hidden_dimension": 5}
        head = kind("attention", options, max_iter=2, early_stopping=early_stopping, random_state=seed)
        return head.fit(*learn)

    first = fit(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other, drawn = fit(0), fit(1), fit(np.random.RandomState(0))
    for name, weight in first.pooling_.state_dict().items():
        assert torch.equal(weight, second.pooling_.state_dict()[name])
        assert torch.equal(weight, drawn.pooling_.state_dict()[name])
        assert not torch.equal(weight, other.pooling_.state_dict()[name])
    np.testing.assert_array_equal(first.transform(learn[0]), second.transform(learn[0]))


def _interrupted(head: Any, after: int, learn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit for a number of steps, as a process does that is then killed."""
    steps = []
    step = torch.optim.Adam.step

    def stop(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) > after:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            head.fit(*learn)


@spread(3, kind=[PoolingClassifier, PoolingTransformer], early_stopping=[False, True])
def test_an_interrupted_fit_resumes(
    kind: Any, early_stopping: bool, learn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that is killed within an epoch and started again gives what an uninterrupted fit gives, bit for bit."""
    options: dict[str, Any] = {"max_iter": 6, "batch_size": 64, "early_stopping": early_stopping, "random_state": 0}
    expected = kind(**options).fit(*learn)
    options["checkpoint"] = tmp_path / "fit.pt"
    _interrupted(kind(**options), 25, learn, monkeypatch)  # ten steps an epoch, nine of them with texts held out
    head = kind(**options).fit(*learn)
    assert (head.loss_curve_, head.validation_scores_, head.n_iter_) == (
        expected.loss_curve_,
        expected.validation_scores_,
        expected.n_iter_,
    )
    np.testing.assert_array_equal(head.transform(learn[0]), expected.transform(learn[0]))
    if kind is PoolingClassifier:
        np.testing.assert_array_equal(head.predict_proba(learn[0]), expected.predict_proba(learn[0]))


@BOTH
def test_a_checkpoint_is_of_one_fit(kind: Any, learn: Any, tmp_path: Path) -> None:
    """A checkpoint of other texts, labels, parameters or of another seed is refused, and one needs a seed."""
    (states, labels), path = learn, tmp_path / "fit.pt"
    options: dict[str, Any] = {"max_iter": 1, "random_state": 0, "checkpoint": path}
    kind(**options).fit(states, labels)
    other_states = make_states(states.lengths.tolist(), states.values + 1)
    own = "dropout" if kind is PoolingClassifier else "temperature"
    changes: list[tuple[dict[str, Any], TokenStates, Any]] = [
        ({"random_state": 1}, states, labels),
        ({own: 0.25}, states, labels),
        ({"batch_size": 32}, states, labels),
        ({}, other_states, labels),
        ({}, states, np.roll(labels, 1)),
    ]
    for change, X, y in changes:  # noqa: N806  # scikit-learn's name
        with pytest.raises(ValueError, match=r"checkpoint must be a new file or .*fit\.pt' of another run"):
            kind(**options | change).fit(X, y)
    kind(**options | {"verbose": True, "device": "cpu"}).fit(states, labels)  # nothing that a fit depends on
    with pytest.raises(ValueError, match=r"random_state must be an integer or a RandomState, to resume .*, got None"):
        kind(**options | {"random_state": None}).fit(states, labels)
    with pytest.raises(TypeError, match="checkpoint must be a path or None, got int"):
        kind(**options | {"checkpoint": 3}).fit(states, labels)


@pytest.mark.parametrize(("batch_size", "expected"), [(4, 1), (2**20, 2)])
def test_small_batches_take_one_thread(
    batch_size: int, expected: int, learn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small batches are learned from in one thread and large ones in all, and torch's number of threads stays."""
    seen = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *a, **k: seen.append(torch.get_num_threads()) or step(*a, **k))  # type: ignore[func-returns-value]  # a list's append gives None
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        PoolingClassifier(max_iter=1, batch_size=batch_size).fit(learn[0][:8], learn[1][:8])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {expected}


def test_each_learned_pooling_fits(learn: Any, unseen: Any) -> None:
    """Every pooling that learns is fitted and beats the mean; one without scores for tokens does so with attention."""
    some = learn[0][:300], learn[1][:300]
    rates: dict[str, Any] = {"max_iter": 15, "learning_rate_init": 0.3, "random_state": 0}
    mean = PoolingClassifier("mean", **rates).fit(*some).score(*unseen)
    for mode in (mode for mode, layer in POOLINGS.items() if layer.learns):
        modes = mode if ORACLES[mode].scores else (mode, "attention")
        assert PoolingClassifier(modes, **rates).fit(*some).score(*unseen) > mean + 0.05, mode


def test_nothing_to_learn(learn: Any) -> None:
    """A pooling without parameters is used as it is; only the classifier is fitted."""
    head = PoolingTransformer("max", early_stopping=True).fit(*learn)
    assert (head.n_iter_, head.loss_curve_) == (0, [])
    with pytest.raises(
        ValueError, match=r"checkpoint must be None for a pooling that has no parameters .* got 'a\.pt'"
    ):
        PoolingTransformer("max", checkpoint="a.pt", random_state=0).fit(*learn)
    expected = np.stack([learn[0][[i]].batch([0]).values.numpy().max(axis=0) for i in range(5)])
    np.testing.assert_array_equal(head.transform(learn[0][:5]), expected)


def test_a_progress_bar(learn: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``verbose``, a bar on standard error counts epochs and shows the loss; without, nothing is printed."""
    PoolingClassifier(max_iter=2, random_state=0).fit(*learn)
    assert capsys.readouterr() == ("", "")
    head = PoolingClassifier(max_iter=2, random_state=0, verbose=True).fit(*learn)
    out, err = capsys.readouterr()
    assert not out
    assert "2/2" in err
    assert f"{head.loss_curve_[-1]:.4f}" in err


# --------------------------------------------------------------------------------------- texts and states


def test_texts_are_read_by_the_model(folder: str, encoder: Encoder, states: TokenStates) -> None:
    """Texts, in any sequence, give what their token states give, from a name and from an encoder."""
    fitted = PoolingClassifier(max_iter=5, random_state=0).fit(states, LABELS)
    for model in (folder, encoder):
        for kind in (list, np.array, pd.Series):
            texts: Any = kind(TEXTS)
            head = PoolingClassifier(model=model, max_iter=5, random_state=0).fit(texts, pd.Series(LABELS))
            np.testing.assert_array_equal(head.coef_, fitted.coef_)
    fitted.set_params(model=folder)
    np.testing.assert_allclose(fitted.predict_proba(TEXTS[:7]), fitted.predict_proba(states[:7]), atol=1e-5)


@BOTH
def test_weights_are_read_once(kind: Any, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a model that was opened by name are read once, those of a given encoder once a call."""
    read: list[object] = []

    def counted(model: Any) -> str:
        read.append(model)
        return weights_hash(model)

    monkeypatch.setattr("maskpool.encoder.cache.weights_hash", counted)
    monkeypatch.setattr("maskpool.encoder.transformer.weights_hash", counted)
    monkeypatch.setattr("maskpool.integrations.sklearn.heads.weights_hash", counted)
    head = kind(model=folder, max_iter=1).fit(TEXTS, LABELS)
    for _ in range(2):
        head.transform(TEXTS[:3])
    assert len(read) == 1
    given = kind(model=Encoder.load(folder), max_iter=1).fit(TEXTS, LABELS)
    given.transform(TEXTS[:3])
    assert len(read) == 3


@BOTH
def test_an_encoder_that_was_trained_since(kind: Any, folder: str) -> None:
    """Weights of a given encoder that have changed since the head was fitted are seen, however they were written."""
    encoder = Encoder.load(folder)
    head = kind(model=encoder, max_iter=1).fit(TEXTS, LABELS)
    encoder.model.get_parameter("encoder.layer.0.output.dense.bias").data[0] += 1  # which no counter of torch counts
    with pytest.raises(ValueError, match=r"fitted on .*weights_sha256 \w{12}….*, got .*weights_sha256 \w{12}…\)$"):
        head.transform(TEXTS[:3])


def test_a_cache_in_half_precision(encoder: Encoder, states: TokenStates, tmp_path: Path) -> None:
    """A cache in float16, of other texts too, is of the same encoder as states in memory."""
    cached = cache_states(encoder, TEXTS[:20], tmp_path / "cache")
    fitted = PoolingClassifier(max_iter=3, random_state=0).fit(states, LABELS)
    np.testing.assert_allclose(fitted.predict_proba(cached), fitted.predict_proba(states[:20]), atol=1e-2)
    head = PoolingTransformer(random_state=0).fit(cached, LABELS[:20])
    assert pickle.loads(pickle.dumps(head)).transform(states).shape == (60, 32)


def test_texts_are_read_at_the_layer_of_fit(folder: str, encoder: Encoder) -> None:
    """A head of another layer's states reads texts there, too."""
    inner = compute_states(encoder, TEXTS, layer=1)
    head = PoolingClassifier(max_iter=2, model=folder, random_state=0).fit(inner, LABELS)
    np.testing.assert_allclose(head.transform(TEXTS[:5]), head.transform(inner[:5]), atol=1e-5)


@BOTH
def test_no_texts(kind: Any, states: TokenStates, encoder: Encoder) -> None:
    """Without texts, vectors and predictions are empty and have the right width, and `fit` is refused."""
    head = kind(("attention", "max"), model=encoder, max_iter=1).fit(states, LABELS)
    assert head.transform(states[:0]).shape == (0, 64)
    assert head.transform([]).shape == (0, 64)
    if kind is PoolingClassifier:
        assert head.predict(states[:0]).shape == (0,)
        assert head.predict_proba(states[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="X must hold at least one text, got none"):
        kind().fit(states[:0], [])


@pytest.mark.parametrize("labels", [[True, False], [3, -7], [0.0, 1.0], ["a", "b"], np.array(["x", "y"], object)])
def test_labels_of_any_kind(labels: Any, learn: Any) -> None:
    """Labels may be strings, integers, truth values or whole floats, and predictions are of their kind."""
    y = np.asarray(labels)[(learn[1] == "blue").astype(int)]
    head = PoolingClassifier(max_iter=2, random_state=0).fit(learn[0], y)
    assert head.classes_.tolist() == sorted(labels)
    assert head.predict(learn[0]).dtype == y.dtype
    assert set(head.predict(learn[0]).tolist()) <= set(labels)


# ------------------------------------------------------------------------------------- where a head goes

SERVED: list[tuple[Any, dict[str, Any]]] = [
    ("attention", {"num_heads": 2}),
    (("cls", "attention"), {}),
    (WIDER_LEARNED, dict(ORACLES[WIDER_LEARNED].options)),
    (WIDER, {}),
]


@pytest.mark.parametrize(("mode", "options"), SERVED)
@BOTH
def test_in_a_sentence_transformer(
    kind: Any, mode: Any, options: dict[str, Any], states: TokenStates, host: SentenceTransformer, tmp_path: Path
) -> None:
    """A model with the trained head encodes to the vectors of `transform`, also after it was saved and loaded."""
    head = kind(mode, options, max_iter=3, learning_rate_init=0.05, random_state=0).fit(states, LABELS)
    model = head.to_sentence_transformer(host)
    vectors = head.transform(states)
    np.testing.assert_allclose(model.encode(TEXTS), vectors, rtol=1e-5, atol=1e-5)
    assert model[0] is host[0]
    assert type(host[1]) is HostPooling
    model.save_pretrained(str(tmp_path))
    np.testing.assert_allclose(load(tmp_path, device="cpu").encode(TEXTS), vectors, rtol=1e-5, atol=1e-5)


def test_in_a_model_that_has_a_head(states: TokenStates, host: SentenceTransformer) -> None:
    """Options of a head that the model had are not those of the new one; modules behind the pooling stay."""
    head = PoolingTransformer(max_iter=2, random_state=0).fit(states, LABELS)
    modules: Any = [host[0], Pooling(32, "attention", num_heads=4, on_empty="nan"), Normalize()]
    model = head.to_sentence_transformer(SentenceTransformer(modules=modules, device="cpu"))
    np.testing.assert_allclose(model.encode(TEXTS), normalize(head.transform(states)), atol=1e-5)
    assert model[1].on_empty == "zero"


@pytest.mark.parametrize(("mode", "options"), SERVED)
def test_a_saved_head(mode: Any, options: dict[str, Any], states: TokenStates, tmp_path: Path) -> None:
    """A head is saved without its model and opened again, and an existing folder is not overwritten."""
    head = PoolingClassifier(mode, options, max_iter=2, random_state=0).fit(states, LABELS)
    path = tmp_path / "new" / "head"
    head.set_params(pooling="max", pooling_options=None)  # what was fitted is saved
    head.save_head(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["head"]
    opened = Pooling.load(str(path))
    batch = states.batch(range(60))
    features = {"token_embeddings": batch.values.unsqueeze(0), "cu_seq_lens_q": batch.cu_seqlens}
    with torch.no_grad():
        vectors = opened(features)["sentence_embedding"].numpy()
    np.testing.assert_allclose(vectors, head.transform(states), atol=1e-6)
    with pytest.raises(FileExistsError, match=r"path must be a new folder, got .*head', which exists"):
        head.save_head(path)


def test_a_save_that_fails_leaves_nothing(states: TokenStates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while a head is saved leaves no folder behind."""
    head = PoolingTransformer(max_iter=1).fit(states, LABELS)

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Pooling, "save_torch_weights", fail)
    with pytest.raises(OSError, match="No space left"):
        head.save_head(tmp_path / "head")
    assert not list(tmp_path.iterdir())


@BOTH
def test_pickles(kind: Any, folder: str, tmp_path: Path) -> None:
    """By pickle and by joblib, an estimator comes back as it was, without the encoder that it had opened by name."""
    head = kind(model=folder, max_iter=2, random_state=0).fit(TEXTS, LABELS)
    joblib.dump(head, tmp_path / "head")
    assert len(pickle.dumps(head)) < 10_000
    for again in (pickle.loads(pickle.dumps(head)), joblib.load(tmp_path / "head")):
        np.testing.assert_array_equal(again.transform(TEXTS), head.transform(TEXTS))


# ------------------------------------------------------------------------------------- scikit-learn's ways


@BOTH
def test_parameters(kind: Any) -> None:
    """A clone has the parameters of the constructor, which stores them unchanged, and nothing else."""
    head = kind(("mean", "attention"), {"num_heads": 2}, batch_size=5, random_state=3)
    parameters = head.get_params(deep=False)
    assert vars(head) == parameters
    assert clone(head).get_params(deep=False) == parameters
    assert head.set_params(batch_size=6).batch_size == 6


# Two processes by default: see test_sklearn.py's search; that a head goes through a pickle, test_pickles.
@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.full)])
def test_a_search(learn: Any, n_jobs: int | None) -> None:
    """A grid search over poolings and rates finds the one that reads the telling token, in two processes as well."""
    poolings = ["mean", "attention", ("mean", "max")] if FULL and not n_jobs else ["mean", "attention"]
    grid = {"pooling": poolings, "learning_rate_init": [1e-5, 0.05]}
    head = PoolingClassifier(max_iter=15, random_state=0)
    search = GridSearchCV(head, grid, cv=2, n_jobs=n_jobs, error_score="raise").fit(*learn)
    assert search.best_params_ == {"pooling": "attention", "learning_rate_init": 0.05}
    assert search.predict(learn[0][:3]).shape == (3,)


def test_a_search_over_texts(folder: str) -> None:
    """Searches and scores split texts as they split states, and a pipeline's step may be a head."""
    head = PoolingTransformer(model=folder, max_iter=1, random_state=0)
    scores = cross_val_score(make_pipeline(head, LogisticRegression(max_iter=2000)), np.array(TEXTS), LABELS, cv=2)
    expected = cross_val_score(
        make_pipeline(head, LogisticRegression(max_iter=2000)),
        compute_states(Encoder.load(folder), TEXTS),
        LABELS,
        cv=2,
    )
    np.testing.assert_array_equal(scores, expected)
    assert scores.min() > 0.5


@BOTH
def test_pandas_output(kind: Any, states: TokenStates) -> None:
    """As pandas, vectors have named columns, and predictions stay arrays."""
    head = kind(max_iter=1, random_state=0).fit(states, LABELS).set_output(transform="pandas")
    name = kind.__name__.lower()
    frame = head.transform(states)
    assert frame.columns.tolist() == head.get_feature_names_out().tolist() == [f"{name}{i}" for i in range(32)]
    if kind is PoolingClassifier:
        assert isinstance(head.predict_proba(states), np.ndarray)


def _of_numbers(rows: Any) -> TokenStates:
    """A text of one token for each row of numbers."""
    table = rows if isinstance(rows, np.ndarray) else np.asarray(rows)
    return make_states([1] * len(table), torch.tensor(table.astype(np.float32)))


class _Numbers:
    """What scikit-learn's checks need: rows of numbers, made into token states."""

    def _states(self, X: Any, fitted: bool = True) -> TokenStates:  # noqa: N803
        return X if isinstance(X, TokenStates) else _of_numbers(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]  # of the estimator, the next class
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, False, True
        return tags


class NumbersClassifier(_Numbers, PoolingClassifier):
    """Our classifier of rows of numbers."""


class NumbersTransformer(_Numbers, PoolingTransformer):
    """Our transformer of rows of numbers."""


# Checks of tables of numbers, which expect errors that do not apply to token states.
EXPECTED_TO_FAIL = {
    "check_complex_data": "no token state is complex",
    "check_estimator_sparse_array": "token states are not sparse, and the substitute refuses it in other words",
    "check_estimator_sparse_matrix": "token states are not sparse, and the substitute refuses it in other words",
    "check_estimator_sparse_tag": "token states are not sparse, and the substitute refuses it in other words",
    "check_estimators_empty_data_messages": "wants columns counted in its words; no texts are refused in a test above",
    "check_estimators_nan_inf": "wants a look at all numbers of all states; a loss that is not finite is refused",
    "check_fit2d_predict1d": "of one dimension are texts, which the substitute takes for a table",
}


CHECKS = parametrize_with_checks(
    sampled(
        [NumbersClassifier(max_iter=20, batch_size=128, random_state=0), NumbersTransformer(random_state=0)], every=2
    ),
    expected_failed_checks=lambda _: EXPECTED_TO_FAIL,
    xfail_strict=True,
)


@pytest.mark.parametrize(CHECKS.args[0], sampled(CHECKS.args[1], every=2), **CHECKS.kwargs)
def test_scikit_learns_own_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    """Each check of scikit-learn passes, except those of tables, which all fail."""
    check(estimator)


# ------------------------------------------------------------------------------------------------- refusals

SEVERAL = "y must have one label a text, or a column of 0 and 1 for each label, got lists of labels:"
BAD_LABELS: list[tuple[Any, str]] = [
    (LABELS[:-1], "y must have one label a text, got 59 for 60 texts"),
    ("red", "y must have one label a text, got 1 for 60 texts"),
    (["red"] * 60, "y must have at least two classes, got one class: 'red'"),
    ([*LABELS[:-1], None], "y must have a label for each text, got None at place 59"),
    ([float("nan"), *([1.0, 2.0] * 30)][:60], "y must have a label for each text, got nan at place 0"),
    (pd.Series([*LABELS[:-1], float("nan")]), "y must have a label for each text, got nan at place 59"),
    (pd.Series(["a", "b", pd.NA] * 20, dtype="string"), "y must have a label for each text, got <NA> at place 2"),
    (np.linspace(0, 1, 60), "Unknown label type: continuous"),
    (
        np.arange(120).reshape(60, 2),
        "y must have one label a text, or a column of 0 and 1 for each label, got the shape",
    ),
    (np.array([1, "a"] * 30, object), "y must hold labels of one kind, got int, str"),
    ([["a"], ["a", "b"]] * 30, f"{SEVERAL} make columns of them by sklearn.preprocessing.MultiLabelBinarizer()"),
    (pd.Series([["a"], ["b"]] * 30), f"{SEVERAL} make columns of them by sklearn.preprocessing.MultiLabelBinarizer()"),
    ([{"a"}, {"a", "b"}] * 30, f"{SEVERAL} make columns of them by sklearn.preprocessing.MultiLabelBinarizer()"),
]


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS, ids=[message for _, message in BAD_LABELS])
@BOTH
def test_bad_labels(kind: Any, labels: Any, message: str, states: TokenStates) -> None:
    """Values that are not labels are refused with their place and what was expected."""
    with pytest.raises((ValueError, TypeError)) as error:
        kind().fit(states, labels)
    assert message in str(error.value)


def test_too_few_of_a_class(states: TokenStates) -> None:
    """A class of one text cannot be held out and learned, and a contrast needs two of some class."""
    labels = np.array(["a"] * 30 + ["b"] * 29 + ["c"])
    for kind in (PoolingClassifier, PoolingTransformer):
        with pytest.raises(ValueError, match=r"y must have at least two texts of each class .* got one of 'c': add"):
            kind(early_stopping=True).fit(states, labels)
        kind(max_iter=1).fit(states, labels)
    with pytest.raises(ValueError, match="y must have two texts of some class, to bring together, got 60"):
        PoolingTransformer().fit(states, np.arange(60))
    with pytest.raises(ValueError, match=r"X must have enough texts for a validation split of 0\.1, got 1"):
        PoolingClassifier(early_stopping=True).fit(states[:1], [[0, 1]])
    with pytest.raises(ValueError, match=r"y must have at least four texts of each of two classes, .* got 0 such"):
        PoolingTransformer(early_stopping=True).fit(states, np.arange(60) // 3)
    with pytest.raises(ValueError, match=r"y must have one label a text, the shape \(texts,\), got \(60, 2\)"):
        PoolingTransformer().fit(states, np.eye(2, dtype=int)[[0, 1] * 30])


def test_a_small_split_has_each_class() -> None:
    """Where the share would hold out fewer texts than there are classes, one of each is held out."""
    made = make_states([1] * 8, np.eye(8))
    head = PoolingClassifier("mean", early_stopping=True, random_state=0).fit(made, np.repeat(list("abcd"), 2))
    assert len(head.validation_scores_ or []) > 0


def test_labels_that_fit_has_not_seen(states: TokenStates) -> None:
    """A label that was not learned counts as an error when scored, and is warned of; another shape is refused."""
    head = PoolingClassifier(max_iter=1, random_state=0).fit(states, LABELS)
    other = LABELS.astype("<U9")
    other[:15] = "purple"
    with pytest.warns(UserWarning, match="y holds labels that fit has not seen, which count as errors: 'purple'"):
        score = head.score(states, other)
    assert score == (head.predict(states) == other).mean() <= 0.75
    with pytest.raises(ValueError, match=r"y must have the shape \(texts,\), as for fit, got \(60, 2\)"):
        head.score(states, np.eye(2, dtype=int)[[0, 1] * 30])
    several = PoolingClassifier(max_iter=1).fit(states, np.eye(3, dtype=int)[[0, 1, 2] * 20])
    with pytest.raises(ValueError, match=r"y must have the shape \(texts, 3\), as for fit, got \(60, 2\)"):
        several.score(states, np.eye(2, dtype=int)[[0, 1] * 30])
    with pytest.raises(ValueError, match="y must have one label a text, got 59 for 60 texts"):
        head.score(states, LABELS[1:])


@BOTH
def test_states_of_another_encoder(kind: Any, learn: Any, states: TokenStates, host: SentenceTransformer) -> None:
    """States of another width or encoder are refused, both named; so is a model of another width, or another layer."""
    head = kind(max_iter=1, random_state=0).fit(*learn)
    with pytest.raises(
        ValueError,
        match=r"X has 32 features, but .* is expecting 12 features as input, the width of the token states of fit",
    ):
        head.transform(states)
    lengths, values = learn[0].lengths.tolist(), learn[0].values
    expected = r"was fitted on: fitted on made up \(weights_sha256 made up\), got other \(weights_sha256 other\)$"
    with pytest.raises(ValueError, match=expected):
        head.transform(make_states(lengths, values, "other"))
    silent = make_states(lengths, values)
    silent.identity.clear()
    encoder_name = r"made up \(weights_sha256 made up\)"
    with pytest.raises(ValueError, match=rf"fitted on {encoder_name}, got states that do not say whose they are$"):
        head.transform(silent)
    with pytest.raises(ValueError, match=rf"fitted on states that do not say whose they are, got {encoder_name}$"):
        kind(max_iter=1).fit(silent, learn[1]).transform(learn[0])
    renamed = make_states(lengths, values)
    renamed.identity["name"] = "the same in another folder"
    assert head.transform(renamed).shape == (600, 12)
    with pytest.raises(ValueError, match=r"model must give token states of dimension 12, .* got 32"):
        head.to_sentence_transformer(host)
    with pytest.raises(TypeError, match="model must be a SentenceTransformer, or the name or folder of one, got int"):
        head.to_sentence_transformer(3)
    renamed.identity["layer"] = 3
    inner = kind(max_iter=1).fit(renamed, learn[1])
    with pytest.raises(
        ValueError, match=r"model must pool the layer that this head was fitted on, 3, .* fit the head on layer -1"
    ):
        inner.to_sentence_transformer(host)


@BOTH
def test_a_model_with_other_weights(kind: Any, states: TokenStates, folder: str, tmp_path: Path) -> None:
    """A model with other weights than those of `fit` is refused, both are named; a copy of the model is accepted."""
    head = kind(max_iter=1, random_state=0).fit(states, LABELS)
    for seed, refused in ((0, False), (1, True)):
        other = str(tiny.save_model(tmp_path / str(seed), seed=seed))
        modules: Any = [Transformer(other), HostPooling(32, "mean")]
        model = SentenceTransformer(modules=modules, device="cpu")
        if refused:
            hashed = r"\(\w{12}…\)"
            expected = rf"model must have the weights .* those of '{folder}' {hashed}, got those of '{other}' {hashed}"
            with pytest.raises(ValueError, match=expected):
                head.to_sentence_transformer(model)
        else:
            head.to_sentence_transformer(model)
    made = make_states([1] * 60, torch.rand(60, 32))
    made.identity.clear()
    kind(max_iter=1).fit(made, LABELS).to_sentence_transformer(model)  # states of an unknown model


def test_a_model_of_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    """The encoder of an encoder-decoder is recognised, although the host wraps it in another class."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    tokenizer = tiny.tokenizer()
    T5Model(T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = compute_states(Encoder.load(str(tmp_path)), TEXTS)
    head = PoolingTransformer(max_iter=1, random_state=0).fit(made, LABELS)
    transformer: Any = Transformer(str(tmp_path))
    transformer.tokenizer.model_input_names = ["input_ids", "attention_mask"]  # older hosts pass on what T5 refuses
    modules: Any = [transformer, HostPooling(32, "mean")]
    model = head.to_sentence_transformer(SentenceTransformer(modules=modules, device="cpu"))
    np.testing.assert_allclose(model.encode(TEXTS), head.transform(made), rtol=1e-4, atol=1e-5)


@BOTH
def test_bad_parameters(kind: Any, states: TokenStates) -> None:
    """Fitting refuses a wrong parameter by its name, and a value that is not a text."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"pooling": "middle"}, "pooling_mode must be one of 'mean'"),
        ({"pooling_options": {"heads": 2}}, "heads must be an option of pooling_mode 'attention'"),
        ({"pooling_options": ["num_heads"]}, "pooling_options must be a dictionary or None, got list"),
        ({"max_iter": 0}, "max_iter == 0, must be >= 1"),
        ({"batch_size": 0}, "batch_size == 0, must be >= 1"),
        ({"batch_size": 2.5}, "batch_size must be an instance of"),
        ({"learning_rate_init": 0.0}, "learning_rate_init == 0.0, must be > 0"),
        ({"validation_fraction": 1.0}, "validation_fraction == 1.0, must be < 1"),
        ({"n_iter_no_change": 0}, "n_iter_no_change == 0, must be >= 1"),
        ({"device": "nonsense"}, "device must be one that torch can use here, .*got 'nonsense'"),
        ({"dropout" if kind is PoolingClassifier else "temperature": -1.0}, "== -1.0, must be >"),
    ]
    for options, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            kind(**options).fit(states, LABELS)
    with pytest.raises(TypeError, match="model must be a name, a folder or an Encoder, got NoneType"):
        kind(model=None).fit(TEXTS, LABELS)
    for texts, message in [
        ([*TEXTS[:-1], 7], "X must hold only strings, got int at place 59"),
        ("red", r"X must be a list of strings, got one str: put it into a list"),
        (np.ones((60, 2)), "X must have one dimension, got ndarray of 2"),
        ((text for text in TEXTS), "X must be texts that can be read twice"),
    ]:
        with pytest.raises(TypeError, match=message):
            kind().fit(texts, LABELS)


@BOTH
def test_states_that_are_not_finite(kind: Any, learn: Any) -> None:
    """Token states with a NaN are refused rather than learned."""
    values = learn[0].values.clone()
    values[7, 3] = float("nan")
    with pytest.raises(ValueError, match="X must hold finite token states, and learning_rate_init be small enough"):
        kind(max_iter=2).fit(make_states(learn[0].lengths.tolist(), values), learn[1])


@BOTH
def test_not_fitted(kind: Any, states: TokenStates, host: SentenceTransformer, tmp_path: Path) -> None:
    """Every method that needs a trained head says that it is not fitted."""
    head = kind()
    uses: list[Callable[[], object]] = [
        lambda: head.transform(states),
        lambda: head.to_sentence_transformer(host),
        lambda: head.save_head(tmp_path / "head"),
        lambda: head.get_feature_names_out(),
    ]
    if kind is PoolingClassifier:
        uses += [lambda: head.predict(states), lambda: head.predict_proba(states), lambda: head.score(states, LABELS)]
    for use in uses:
        with pytest.raises(NotFittedError):
            use()


# ---------------------------------------------------------------------------------------------- real texts


@pytest.mark.full
def test_as_good_as_logistic_regression_on_banking77(tmp_path: Path) -> None:
    """On BANKING77, an attention head fitted within a minute is as good as a tuned logistic regression on means."""
    if not DATA.is_dir():
        pytest.skip(f"no BANKING77 in {DATA}")
    learn, test = (read_file(DATA / f"{name}.csv", "text", "category") for name in ("train", "test"))
    task = Task("banking77", learn, test, Encoder.load(), tmp_path)
    start = time.perf_counter()
    head = PoolingClassifier(random_state=0).fit(task.learn, task.labels)
    assert time.perf_counter() - start < 60
    peer, _ = fit_peer(task)
    assert head.score(task.test, task.truth) > peer["accuracy"] - 0.005
