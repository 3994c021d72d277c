"""Count how often the simultaneous intervals of studies of real texts hold the true differences.

``python -m benchmarks.coverage_on_texts FILE`` reads BANKING77's training texts (banking_data/train.csv of
github.com/PolyAI-LDN/task-specific-datasets) and keeps the 12 labels with the most texts. Each of 300 studies takes 400
random texts of them and measures the bundled model as ``maskpool bench`` does: mean and max pooling with pads included
against excluded, in random batches of 32 and padded to 64 tokens, with 5 seeds, and 50 half-samples of 3 seeds. The
encoder runs once for all studies. The results are in ``benchmarks/results/coverage_on_texts.json``, and an interrupted
run resumes there.

The truth is the difference on all texts of these labels, a mean over shuffles and seeds. The share of studies whose
intervals all hold it has only a lower bar: the texts of a study are among those of the truth, so its differences are
nearer to the truth than those of fresh texts would be. For the same reason it says nothing about intervals that are too
wide. Since AMI depends somewhat on the number of texts, the share is also given for the mean difference of all studies.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

from maskpool import build_pooling
from maskpool.bench.design.corpora import Corpus, read_file
from maskpool.bench.design.study import Study
from maskpool.bench.design.subsamples import FULL, Subsample, make_subsamples
from maskpool.bench.design.treatments import INCLUDED
from maskpool.bench.encode.forward import Pooled, Request, pair_keys, pool_corpus, prove_prefix
from maskpool.bench.encode.positions import RIGHT
from maskpool.bench.part import Grid
from maskpool.bench.score.fits import Fit, compute_fits
from maskpool.bench.score.intervals import half_sample_intervals
from maskpool.encoder import BUNDLED, Encoder
from maskpool.errors import MaskpoolError
from maskpool.files import atomic_write
from maskpool.plans import Plan

if TYPE_CHECKING:
    from maskpool.bench.score.intervals import Table
    from maskpool.plans import Ints

RESULTS = Path(__file__).parent / "results" / "coverage_on_texts.json"
LABELS, TEXTS, STUDIES, SHUFFLES = 12, 400, 300, 40
LONGEST = 64  # tokens: the fixed length of a plan; longer texts are left out
LEAST = 0.93
STUDY = Study(poolings=("mean", "max"), plans=(Plan("random", 32), Plan("sorted", 32, LONGEST)), treatments=(INCLUDED,))
COMPARISONS = Grid(STUDY, STUDY.plans, True, ()).comparisons()
_AT_ONCE = 10
_FIRST_SHUFFLE = 1_000_000  # its seeds are those of no study
_DIGITS = 6


@dataclass(frozen=True)
class Population:
    """All texts that studies sample from, with their vectors at every padded length."""

    study: Study
    pooled: Pooled
    codes: Ints
    characters: Ints

    def subsamples(self, rows: Ints, seed: int, replicates: int) -> dict[int, Subsample]:
        """Make the subsamples of a study of some of the texts."""
        study = replace(self.study, seed=seed, replicates=replicates)
        made = make_subsamples(study.plans, self.pooled.lengths[rows], self.characters[rows], study)
        return {number: replace(subsample, texts=rows[subsample.texts]) for number, subsample in made.items()}

    def differences(self, subsample: Subsample) -> Table:
        """Return AMI with pads included minus AMI of the texts alone, for each comparison and seed."""
        scores: dict[Fit, Any] = {}
        for comparison in COMPARISONS:
            reference, fit = comparison.reference(subsample.number), comparison.fit(subsample.number)
            for of, plan in ((reference, None), (fit, comparison.plan)):
                if of not in scores:
                    (value,) = compute_fits(self.pooled, self.codes, subsample, [of], plan)
                    scores[of] = np.array(value["scores"]["ami"])
            scores[fit] = scores[fit] - scores[reference]
        return np.array([scores[comparison.fit(subsample.number)] for comparison in COMPARISONS])


def read_texts(file: Path, encoder: Encoder) -> tuple[Corpus, list[list[int]]]:
    """Read the texts of the most frequent labels, without those that are too long, and their tokens."""
    corpus = read_file(file, "text", "category")
    counts = Counter(corpus.labels)
    kept = sorted(counts, key=lambda label: (-counts[label], label))[:LABELS]
    ids, _ = encoder.tokenize(corpus.texts)
    rows = [
        row
        for row, label in enumerate(corpus.labels)
        if label in kept and len(ids[row]) <= min(LONGEST, encoder.max_length)
    ]
    return corpus.take(rows), [ids[row] for row in rows]


def encode(corpus: Corpus, ids: Sequence[Sequence[int]], encoder: Encoder, folder: Path) -> Population:
    """Pool the vectors of each text alone and at every padded length, from one pass."""
    if not prove_prefix(encoder, ids, LONGEST, STUDY.layers, np.random.default_rng(0)).holds:
        raise SystemExit(f"coverage_on_texts: the outputs of {encoder.name} depend on how far a text is padded")
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
    every_pair = pair_keys(
        np.repeat(np.arange(len(ids)), LONGEST - lengths + 1),
        np.concatenate([np.arange(length, LONGEST + 1) for length in lengths]),
    )
    request = Request(
        layers=STUDY.layers,
        poolings={mode: build_pooling(mode) for mode in STUDY.poolings},
        pairs={RIGHT: every_pair},
        position_sets={RIGHT: ("real", "whole")},
        prefix=True,
        top=LONGEST,
        kept=np.zeros(0, np.int64),
    )
    pooled, _, _ = pool_corpus(encoder, ids, request, folder, lambda texts: None)
    characters = np.array([len(text) for text in corpus.texts], dtype=np.int64)
    return Population(STUDY, pooled, corpus.codes, characters)


def measure(population: Population, number: int) -> dict[str, list[float]]:
    """Return the differences of a study, and the half-widths of their intervals."""
    order = np.random.default_rng(number).permutation(len(population.codes))
    subsamples = population.subsamples(np.sort(order[:TEXTS]), number, population.study.replicates)
    halves = [population.differences(subsamples[half]) for half in range(1, population.study.replicates + 1)]
    measured = half_sample_intervals(population.differences(subsamples[FULL]), np.stack(halves), number)
    half_width = measured.quantile * measured.standard_error
    return {"delta": np.round(measured.delta, _DIGITS).tolist(), "half_width": np.round(half_width, _DIGITS).tolist()}


def shuffled(population: Population, shuffle: int) -> list[float]:
    """Return the differences on all texts in one random order, means over seeds that no study has."""
    everything = np.arange(len(population.codes))
    subsample = population.subsamples(everything, _FIRST_SHUFFLE + shuffle, 2)[FULL]
    seeds = tuple(seed + _FIRST_SHUFFLE + shuffle * len(subsample.seeds) for seed in subsample.seeds)
    means: list[float] = population.differences(replace(subsample, seeds=seeds)).mean(axis=1).tolist()
    return means


def summary(truth: Sequence[float], studies: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """Return the shares of studies whose intervals all hold the truth, and the mean difference of the studies."""
    deltas, half_widths = (np.array([study[name] for study in studies]) for name in ("delta", "half_width"))

    def held(values: Any) -> Any:
        return np.abs(deltas - values) <= half_widths

    mean = deltas.mean(axis=0)
    return {
        "coverage": float(held(np.array(truth)).all(axis=1).mean()),
        "coverage_of_each": held(np.array(truth)).mean(axis=0).tolist(),
        "coverage_of_mean": float(held(mean).all(axis=1).mean()),
        "mean": np.round(mean, _DIGITS).tolist(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the studies that are missing, write and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.coverage_on_texts", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="train.csv of BANKING77")
    parser.add_argument("--model", default=BUNDLED, help=f"a folder or a hub name (default {BUNDLED}, bundled)")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    args = parser.parse_args(argv)
    if not args.file.exists():
        print(f"Nothing was measured: there is no file {args.file}.")
        return
    try:
        encoder = Encoder.load(args.model)
        corpus, ids = read_texts(args.file, encoder)
    except MaskpoolError as error:
        raise SystemExit(f"coverage_on_texts: {error}") from None
    about = {"model": encoder.identity(), "texts_sha256": corpus.sha256}
    results: dict[str, Any] = about | {
        "texts": len(ids),
        "labels": len(set(corpus.labels)),
        "texts_of_a_study": TEXTS,
        "comparisons": [f"{comparison.pooling}, {comparison.plan.name}" for comparison in COMPARISONS],
        "studies": [],
    }
    if args.out.exists():
        results = json.loads(args.out.read_text(encoding="utf-8"))
        if not about.items() <= results.items():
            raise SystemExit(f"coverage_on_texts: {args.out} has studies of other texts or another model: remove it")

    def write() -> None:
        with atomic_write(args.out) as path:
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    parallel = joblib.Parallel(n_jobs=args.jobs)
    with tempfile.TemporaryDirectory() as folder, joblib.parallel_config("loky", inner_max_num_threads=1):
        population = encode(corpus, ids, encoder, Path(folder))
        if "truth" not in results:
            truths = np.array(parallel(joblib.delayed(shuffled)(population, number) for number in range(SHUFFLES)))
            results["truth"] = truths.mean(axis=0).tolist()
            results["truth_standard_error"] = (truths.std(axis=0, ddof=1) / SHUFFLES**0.5).tolist()
            write()
        for first in range(len(results["studies"]), STUDIES, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, STUDIES))
            results["studies"] += parallel(joblib.delayed(measure)(population, number) for number in numbers)
            results |= summary(results["truth"], results["studies"])
            write()
    covered = results["coverage"]
    print("holds" if covered >= LEAST else "FAILS", {"studies": len(results["studies"]), "coverage": covered})


if __name__ == "__main__":
    main()
