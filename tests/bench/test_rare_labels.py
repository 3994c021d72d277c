"""Corpora with labels of few texts, such as the published Tweet89."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from maskpool.bench.design.clusterers import UnitKMeans
from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study
from maskpool.bench.design.treatments import MIXED
from maskpool.bench.encode.forward import Pooled
from maskpool.bench.part import Part
from maskpool.bench.report.results import about_corpus, results_of
from maskpool.bench.run import run_study
from maskpool.bench.score.fits import unpack
from maskpool.bench.score.scorers import predicted_ami
from maskpool.bench.store.folder import StudyFolder
from maskpool.bench.vectors import Vectors
from maskpool.encoder import Encoder
from maskpool.errors import DataError
from maskpool.plans import Ints, Plan
from tests.bench import tiny
from tests.command import Silent, make_small
from tests.matrix import cut

TEXTS, LABELS, RARE = cut(160, 2472), cut(16, 89), cut(5, 11)


def twin(texts: int = TEXTS, labels: int = LABELS, rare: int = RARE) -> list[tuple[str, str]]:
    """Make a corpus with as many texts, labels and rare labels, whose label sizes fall off like Tweet89's."""
    small = [1 + number % 3 for number in range(rare)]
    shares = 1 / np.arange(1, labels - rare + 1)
    large = 4 + np.floor(shares / shares.sum() * (texts - sum(small) - 4 * (labels - rare))).astype(int)
    large[0] += texts - sum(small) - large.sum()
    counts = [*large.tolist(), *small]
    names = [f"label {number}" for number, count in enumerate(counts) for _ in range(count)]
    written = tiny.make_texts(texts)
    return [
        (text, names[place])
        for (text, _), place in zip(written, np.random.default_rng(0).permutation(texts), strict=True)
    ]


def test_a_corpus_with_rare_labels_runs_unmodified(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All texts and labels are measured, with as many clusters as labels, and the report says what was done."""
    rows = twin()
    tiny.write_csv(tmp_path / "twin.csv", rows)
    make_small(monkeypatch)
    study = Study(
        models=(str(model_folder),),
        corpora=({"data": "twin.csv"},),  # type: ignore[arg-type]  # pydantic makes the source
        poolings=("mean",),
        plans=(Plan(),),
        treatments=("included", *MIXED),
        replicates=2,
        seeds=2,
    )
    folder = StudyFolder(tmp_path / "out")
    run_study(study, tmp_path, folder, "cpu", Silent())
    (part,) = results_of(folder)["parts"]
    assert {name: part["corpus"][name] for name in ("texts", "rows", "labels", "dropped")} == {
        "texts": TEXTS,
        "rows": TEXTS,
        "labels": LABELS,
        "dropped": {},
    }
    rare = sum(count for count in Counter(label for _, label in rows).values() if count < 4)
    assert part["corpus"]["rare_labels"] == {"labels": RARE, "texts": rare}
    assert (
        f"{RARE} of {LABELS} labels have fewer than four texts ({rare} texts in all)"
        in about_corpus(part["corpus"])[-1]
    )
    labels = np.array([label for _, label in rows])
    for key, value in folder.cells.of_kind("fit"):
        if key["subsample"] == 0 and "assignments" in value and key["scored_under"] is None:
            assignment = unpack(value["assignments"][0])
            assert len(np.unique(assignment)) == LABELS
            assert value["scores"]["ami"][0] == pytest.approx(adjusted_mutual_info_score(labels, assignment))


@pytest.mark.parametrize(
    ("labels", "texts", "sentence"),
    [
        (0, 0, None),
        (1, 1, "1 of 9 labels has fewer than four texts (1 text). It is kept: .* scored without it."),
        (1, 3, "1 of 9 labels has fewer than four texts (3 texts). It is kept: .* scored without it."),
        (2, 2, "2 of 9 labels have fewer than four texts (2 texts in all). They are kept: .* scored without them."),
    ],
)
def test_rare_labels_are_counted_in_words(labels: int, texts: int, sentence: str | None) -> None:
    """The report says how many labels are rare, in the singular for one, and nothing if none is."""
    about = {"name": "mine", "rows": 90, "texts": 90, "labels": 9, "notes": [], "dropped": {}}
    _, *said = about_corpus(about | {"rare_labels": {"labels": labels, "texts": texts}})
    assert [re.sub(r"kept: .* scored", "kept: .* scored", words) for words in said] == ([sentence] if sentence else [])


def test_half_samples_have_as_many_clusters_as_labels(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-sample that lacks a rare label is clustered into fewer clusters."""
    from maskpool.bench.score import fits

    rows = twin(120, 12, 4)
    corpus = Corpus("twin", [text for text, _ in rows], [label for _, label in rows])
    part = Part.of(Study(replicates=3), corpus, Encoder.load(str(model_folder), "cpu", "float32"))
    numbers = {number: len(np.unique(part.codes[half.texts])) for number, half in part.subsamples.items()}
    assert min(numbers.values()) < 12
    asked: list[int] = []
    cluster = UnitKMeans.fit_predict_seeds

    def watched(self: UnitKMeans, vectors: Vectors, clusters: int, seeds: Sequence[int]) -> list[Ints]:
        asked.append(clusters)
        return cluster(self, vectors, clusters, seeds)

    monkeypatch.setattr(UnitKMeans, "fit_predict_seeds", watched)
    vectors = np.random.default_rng(0).standard_normal((120, 4)).astype(np.float32)
    monkeypatch.setattr(fits, "alone_vectors", lambda pooled, half, *_: vectors[half.texts])
    for number, half in part.subsamples.items():
        asked.clear()
        fit = fits.Fit(-1, "mean", "excluded", None, "kmeans", None, number)
        pooled = Pooled(part.lengths, False, tmp_path)
        fits.compute_fits(pooled, part.codes, half, [fit], None)[0]
        assert set(asked) == {numbers[number]}


def test_heads_leave_rare_labels_out(model_folder: Path) -> None:
    """Heads are trained on labels of four texts or more, and not at all with fewer than four such labels."""
    opened = Encoder.load(str(model_folder), "cpu", "float32")
    for labels, rare in ((12, 4), (7, 4)):
        rows = twin(120, labels, rare)
        corpus = Corpus("twin", [text for text, _ in rows], [label for _, label in rows])
        part = Part.of(Study(replicates=3, poolings=("attention",)), corpus, opened)
        counts = Counter(corpus.labels)
        frequent = [row for row, label in enumerate(corpus.labels) if counts[label] >= 4]
        assert part.kept.tolist() == (frequent if labels - rare >= 4 else [])


def test_more_labels_than_half_of_a_half() -> None:
    """Where half of the texts are fewer than the labels, each of them is a cluster."""
    vectors = np.eye(6, dtype=np.float32)
    assert np.isfinite(predicted_ami(vectors, vectors, np.arange(6) % 5, 0))


def test_a_half_with_one_label_is_refused(model_folder: Path) -> None:
    """A corpus is refused if a random half of it has a single label."""
    rows = [(text, "a") for text, _ in tiny.make_texts(40)]
    corpus = Corpus("mine", [text for text, _ in rows], ["b"] * 2 + ["a"] * 38)
    with pytest.raises(DataError, match="mine must have at least two labels in each half of its texts"):
        Part.of(Study(), corpus, Encoder.load(str(model_folder), "cpu", "float32"))


def test_texts_with_pads_have_two_labels(model_folder: Path) -> None:
    """A plan under which only texts of one label have pads is not scored by pads only."""
    texts = ["w1 w2 w3"] * 20 + ["w1"] * 20  # one length per label: the longer one is never padded in sorted batches
    corpus = Corpus("mine", texts, ["a"] * 20 + ["b"] * 20)
    part = Part.of(Study(replicates=2, batch_size=40), corpus, Encoder.load(str(model_folder), "cpu", "float32"))
    assert part.with_pads() == [part.plans[2].name]
