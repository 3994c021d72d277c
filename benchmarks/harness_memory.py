"""Measure the peak anonymous memory of a study of many long texts.

``python -m benchmarks.harness_memory`` runs 20,000 synthetic texts through a BERT of random weights, padded to 256
tokens, and writes ``benchmarks/results/harness_memory.json``. The encoder has one thin layer to be fast, and states of
384 numbers, as wide as those of all-MiniLM-L6-v2, so its vectors are as large as in a study of that model. There are 66
treatments: six poolings, each with pads excluded (the same under every right-padded plan) and with pads included under
ten plans. There are as many half-samples as in a study.

Memory is the kernel's RssAnon, the memory of a process that no file backs, which a thread reads every few milliseconds.
The measurement covers the process that tokenises, subsamples, proves, pools and hands out the work, from start to end,
and worker processes, each of which measures itself over one cell of every kind: fits of texts alone, of a treatment and
of a treatment's half-sample, a floor, a shift and a batch effect. It does not cover the other cells, which have the
same kinds and sizes, the trained heads, or the report.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.harness_speed import POOLINGS, ten_plans
from benchmarks.timing import environment, last_level_cache
from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study
from maskpool.bench.design.treatments import INCLUDED
from maskpool.bench.encode.forward import pool_corpus, prove_prefix
from maskpool.bench.part import Grid, Part
from maskpool.bench.run import Job, jobs_of
from maskpool.encoder import Encoder

RESULTS = Path(__file__).parent / "results" / "harness_memory.json"
DIMENSION = 384
LABELS, WORDS = 20, 5_000
MOST_BYTES = 2 * 10**9
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_INTERVAL_S = 0.002


def rss_anon() -> int:
    """Return the bytes of this process's memory that no file backs."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the kernel does not report RssAnon; Linux does")


class Peaks:
    """The largest RssAnon of this process in each phase."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.samples = 0

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Record the peak while the block runs."""
        done = threading.Event()
        self.bytes[what] = rss_anon()

        def look() -> None:
            while not done.wait(_INTERVAL_S):
                self.bytes[what] = max(self.bytes[what], rss_anon())
                self.samples += 1

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.bytes[what] = max(self.bytes[what], rss_anon())


def save_model(folder: Path, width: int, dimension: int = DIMENSION) -> None:
    """Save a BERT of random weights with one thin layer, and its tokenizer with one token per word."""
    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *map(_word, range(WORDS))))}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=dimension,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=32,
        max_position_embeddings=width,
    )
    BertModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **names)  # type: ignore[no-untyped-call]  # untyped
    tokenizer.save_pretrained(folder)


def _word(number: int) -> str:
    return f"w{number}"


def make_corpus(texts: int, longest: int) -> Corpus:
    """Make texts of 3 to ``longest`` tokens; half of a text's words are from its label's part of the vocabulary."""
    rng = np.random.default_rng(0)
    lines, share = [], WORDS // LABELS
    for number in range(texts):
        words = rng.integers(0, WORDS, rng.integers(1, longest - 1) if number else longest - 2)
        own = rng.random(len(words)) < 0.5
        words[own] = words[own] % share + share * (number % LABELS)
        lines.append(" ".join(map(_word, words.tolist())))
    return Corpus("synthetic", lines, [f"label {number % LABELS}" for number in range(texts)])


def one_of_each_kind(jobs: Sequence[Job]) -> dict[str, Job]:
    """Return the first job of each kind; fits are distinguished by treatment and by whether they use all texts."""
    first: dict[str, Job] = {}
    for job in jobs:
        key = job.keys[0]
        kind: str = key["kind"]
        if kind == "fit":
            kind += f" of {key['treatment'] if key['plan'] else 'texts alone'}"
            kind += ", a half-sample" if key["subsample"] else ", all texts"
        first.setdefault(kind, job)
    return first


def peak_of(compute: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """Return the peak memory of the process that computes a cell."""
    peaks = Peaks()
    with peaks.of("cell"):
        compute(*arguments)
    return peaks.bytes["cell"]


def measure(texts: int, width: int, replicates: int, folder: Path) -> dict[str, Any]:
    """Run a study without most of its cells; the longest text fills three quarters of the width."""
    longest = width * 3 // 4
    save_model(folder / "model", width)
    corpus = make_corpus(texts, longest)
    study = Study(
        poolings=POOLINGS, plans=ten_plans(longest, width), treatments=(INCLUDED,), replicates=replicates, quote=False
    )
    encoder = Encoder.load(str(folder / "model"))
    before, began, peaks = rss_anon(), time.perf_counter(), Peaks()
    with peaks.of("tokenise"):
        part = Part.of(study, corpus, encoder)
    with peaks.of("subsample"):
        facts = part.facts()
    with peaks.of("prove"):
        proof = prove_prefix(part.encoder, part.ids, part.top, study.layers, np.random.default_rng(study.seed))
    vectors = folder / "vectors"
    vectors.mkdir()
    with peaks.of("pool"):
        grid = Grid(study, part.plans, proof.holds, facts["with_pads"])
        request = part.request(grid)
        pooled, _, _ = pool_corpus(part.encoder, part.ids, request, vectors, lambda texts: None)
    written = sum(file.stat().st_size for file in vectors.iterdir())
    with peaks.of("hand out cells"), joblib.parallel_config("loky", inner_max_num_threads=1):
        kinds = one_of_each_kind(jobs_of(part, grid, pooled))
        work = (joblib.delayed(peak_of)(job.compute, job.arguments) for job in kinds.values())
        cells = dict(zip(kinds, joblib.Parallel(n_jobs=-1)(work), strict=True))
    # Cells are computed after the vectors are written, while the process that hands them out waits.
    processes = joblib.cpu_count()
    together = max(*peaks.bytes.values(), peaks.bytes["hand out cells"] + processes * max(cells.values()))
    return {
        "texts": texts,
        "width": part.top,
        "tokens": int(part.lengths.sum()),
        "treatments": len({(moved.pooling, moved.plan.name, moved.treatment) for moved in grid.moved()})
        + len({reference.pooling for reference in grid.references()}),
        "half_samples": replicates,
        "bytes_of_all_states": texts * part.top * encoder.dimension * 4,
        "bytes_of_vectors_on_disk": written,
        "before_bytes": before,
        "peak_bytes": peaks.bytes,
        "growth_bytes": max(peaks.bytes.values()) - before,
        "cell_peak_bytes": cells,
        "processes": processes,
        "all_processes_bytes": together,
        "reached": together < MOST_BYTES,
        "samples": peaks.samples,
        "seconds": time.perf_counter() - began,
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.harness_memory", description="Memory of a study's harness.")
    parser.add_argument("--texts", type=int, default=20_000, help="default 20000")
    parser.add_argument("--width", type=int, default=256, help="tokens that texts are padded to (default 256)")
    parser.add_argument("--replicates", type=int, default=50, help="half-samples (default 50)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file (default: benchmarks/results/)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(args.texts, args.width, args.replicates, Path(folder))
    about = environment(last_level_cache() or 0) | {"transformers": version("transformers")}
    report = {"environment": about, "bar_bytes": MOST_BYTES, **measured}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console = Console()
    console.print(report, highlight=False)
    console.print(f"written to {args.out}", highlight=False)
    return report


if __name__ == "__main__":
    main()
