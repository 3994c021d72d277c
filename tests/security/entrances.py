"""List every function of maskpool that opens a folder or file, by name."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import Study, find_pooling, read_study
from maskpool.bench.encode.forward import _mapped
from maskpool.bench.run import load_parts
from maskpool.bench.score.heads import layers_of, saved_hash
from maskpool.bench.store.cells import Cells
from maskpool.bench.store.folder import StudyFolder
from maskpool.config.converting import convert
from maskpool.config.reading import read_config
from maskpool.config.servers.checking import check_servers
from maskpool.encoder import Encoder, TokenStates, cache_states
from maskpool.integrations.sentence_transformers import Pooling, load, replace_pooling
from maskpool.integrations.sklearn import SentenceEncoder
from maskpool.integrations.transformers import SentenceEmbedder
from maskpool.weights import IDFWeights, SIFWeights
from tests.security.bases import DIM, TEXTS, small_model


def _audit(path: str) -> Any:
    from maskpool.audit.opening import open_pipeline

    return open_pipeline(path)


def _bench(path: str) -> Any:
    texts = [f"w{number} w{number + 1}" for number in range(16)]
    corpus = Corpus("c", texts, ["a", "b"] * 8)
    return next(iter(load_parts(Study(models=(path,), poolings=("mean",)), [corpus], "cpu")))


def _study(path: str) -> Any:
    folder = StudyFolder(Path(path))
    return folder.read(), Cells(Path(path) / "cells.jsonl"), folder.vectors


def _head(path: str) -> Any:
    Pooling.load(path, local_files_only=True)
    return Pooling.load(path, local_files_only=True)


def _bench_head(path: str) -> Any:
    return layers_of([find_pooling(path, "poolings")], DIM), saved_hash(path)


def _embedder(path: str) -> Any:
    """Open the pooling that a folder saves, with a model from elsewhere."""
    model, tokenizer = small_model()
    model.name_or_path = path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they list further steps of the saved model
        return SentenceEmbedder(model, tokenizer)


def _poolable(path: str) -> Any:
    from maskpool.integrations.mteb import PoolingEncoder

    return PoolingEncoder(path)


def _cache_states(path: str) -> Any:
    return cache_states(Encoder.of(*small_model()), TEXTS, Path(path) / "states.safetensors")


def _config(path: str) -> Any:
    """Read a model's configuration, what servers make of it, and convert it."""
    reports = check_servers(read_config(path))
    with tempfile.TemporaryDirectory() as folder:
        return reports, convert(path, Path(folder) / "out", "sentence-transformers")


ENTRANCES: dict[str, Callable[[str], Any]] = {
    "load": lambda path: load(path, device="cpu"),
    "SentenceEncoder": lambda path: SentenceEncoder(path, device="cpu").fit(TEXTS),
    "Encoder.load": Encoder.load,
    "replace_pooling": lambda path: replace_pooling(load(path, device="cpu")),
    "PoolingEncoder": _poolable,
    "SentenceEmbedder": _embedder,
    "audit": _audit,
    "bench": _bench,
    "config": _config,
    "head": _head,
    "bench head": _bench_head,
    "cache": lambda path: TokenStates.open(Path(path) / "states.safetensors"),
    "cache_states": _cache_states,
    "cache npy": lambda path: TokenStates.open(Path(path) / "states.npy"),
    "idf": lambda path: IDFWeights.load(Path(path) / "idf.json"),
    "sif": lambda path: SIFWeights.load(Path(path) / "sif.json"),
    "study": _study,
    "study file": lambda path: read_study(Path(path) / "study.toml"),
    "vectors": lambda path: _mapped(Path(path) / "v.npy", (1, 1), fresh=False),
}


def main() -> None:
    """Open every folder below the given one through every entrance of its case; errors are expected."""
    from tests.security.hostile import CASES

    for number, case in enumerate(CASES.values()):
        for entrance in case.tried:
            try:
                ENTRANCES[entrance](str(Path(sys.argv[1]) / str(number) / case.base))
            except Exception as error:
                print(type(error).__name__, file=sys.stderr)


if __name__ == "__main__":
    main()
