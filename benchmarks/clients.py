"""What libraries make of a saved model that they open by its path: one table, and the code that runs each line.

Each client runs in an environment with its package, in a folder of environments that are named after the clients:
``python -m benchmarks.clients ENVIRONMENTS`` saves models, runs every line and prints where the table is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_readers import MODES, WIDTH, Reader, run
from maskpool.nn import StdPooling

DENSE = "mean, then Dense"
OWN = StdPooling.mode  # a mode that sentence-transformers does not have
TEXTS = (
    "w1 w2 w3 red1 w4",
    "w4",
    "blue2 blue3 w1 w7 w8 green1 w5",
    " ".join(f"w{number % 30}" for number in range(30)),
)
KINDS = {
    "host": [*MODES, DENSE],
    "ours": [*MODES, OWN],
}
KEYS = [(kind, mode) for kind, modes in KINDS.items() for mode in modes]
TOLERANCE = 1e-5  # to which vectors equal those of encode
WITH = "sentence-transformers 6.2.0 and transformers 5.23.0"  # in every environment


class Outcome(StrEnum):
    """What a client computes from a saved model, next to ``SentenceTransformer.encode``."""

    SAME = "the same vectors"
    UNIT = "the same vectors, made unit length"
    OTHER = "other vectors, without a word"
    REFUSED = "is not opened"


@dataclass(frozen=True)
class Opening:
    """Describe one way to open a model in a client.

    Attributes:
        call: The call, as people write it; FOLDER is the model's path.
        host: What it makes of files saved after `as_host_pooling`.
        ours: What it makes of files saved with a pooling of maskpool.
        others: The kinds of files and modes with another outcome.
    """

    call: str
    host: Outcome
    ours: Outcome
    others: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)

    def expected(self, kind: str, mode: str) -> Outcome:
        """Return the outcome that the table states for a kind of files and a mode."""
        return self.others.get((kind, mode), self.host if kind == "host" else self.ours)


@dataclass(frozen=True)
class Client:
    """Describe a client.

    Attributes:
        title: Its name.
        packages: What its environment needs, with the versions that were run.
        address: Its code.
        imports: The import of what the calls name.
        vectors: Gives the vectors of the list ``texts`` from what a call returns, which is ``client``.
        openings: The ways to open a model.
        date: When they were run last.
    """

    title: str
    packages: str
    address: str
    imports: str
    vectors: str
    openings: tuple[Opening, ...]
    date: str

    def reader(self, opening: Opening) -> Reader:
        """Return the code that opens folders in this way."""
        code = f"{self.imports}\ndef read(folder):\n    client = {opening.call.replace('FOLDER', 'folder')}\n"
        return Reader("", self.packages, f"{code}    return {self.vectors}")


_DATE = "2026-11-28"
_LOAD = "from maskpool.integrations.sentence_transformers import load"
CLIENTS = {
    "langchain": Client(
        "LangChain",
        "langchain-huggingface==1.2.3 huggingface-hub==1.33.0",
        "https://github.com/langchain-ai/langchain/blob/master/libs/partners/huggingface/langchain_huggingface/embeddings/huggingface.py",
        "from langchain_huggingface import HuggingFaceEmbeddings",
        "client.embed_documents(texts)",
        (
            Opening("HuggingFaceEmbeddings(model_name=FOLDER)", Outcome.SAME, Outcome.REFUSED),
            Opening(
                "HuggingFaceEmbeddings(model_name=FOLDER, model_kwargs={'trust_remote_code': True})",
                Outcome.SAME,
                Outcome.SAME,
            ),
        ),
        _DATE,
    ),
    "haystack": Client(
        "Haystack",
        "sentence-transformers-haystack==2.0.0",
        "https://github.com/deepset-ai/haystack-core-integrations/tree/main/integrations/sentence_transformers",
        "from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder",
        "[client.run(text)['embedding'] for text in texts]",
        (
            Opening("SentenceTransformersTextEmbedder(model=FOLDER)", Outcome.SAME, Outcome.REFUSED),
            Opening(
                "SentenceTransformersTextEmbedder(model=FOLDER, trust_remote_code=True)", Outcome.SAME, Outcome.SAME
            ),
        ),
        _DATE,
    ),
    "chromadb": Client(
        "chromadb",
        "chromadb==1.5.9",
        "https://github.com/chroma-core/chroma/blob/main/chromadb/utils/embedding_functions/sentence_transformer_embedding_function.py",
        "from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction",
        "client(texts)",
        (
            Opening("SentenceTransformerEmbeddingFunction(model_name=FOLDER)", Outcome.SAME, Outcome.REFUSED),
            Opening(
                "SentenceTransformerEmbeddingFunction(model_name=FOLDER, trust_remote_code=True)",
                Outcome.SAME,
                Outcome.SAME,
            ),
        ),
        _DATE,
    ),
    "llamaindex": Client(
        "LlamaIndex",
        "llama-index-embeddings-huggingface==0.8.0",
        "https://github.com/run-llama/llama_index/blob/main/llama-index-integrations/embeddings/llama-index-embeddings-huggingface/llama_index/embeddings/huggingface/base.py",
        "from llama_index.embeddings.huggingface import HuggingFaceEmbedding",
        "client.get_text_embedding_batch(texts)",
        (
            Opening("HuggingFaceEmbedding(model_name=FOLDER)", Outcome.UNIT, Outcome.REFUSED),
            Opening("HuggingFaceEmbedding(model_name=FOLDER, normalize=False)", Outcome.SAME, Outcome.REFUSED),
            Opening(
                "HuggingFaceEmbedding(model_name=FOLDER, normalize=False, trust_remote_code=True)",
                Outcome.SAME,
                Outcome.SAME,
            ),
        ),
        _DATE,
    ),
    "keybert": Client(
        "KeyBERT",
        "keybert==0.9.0",
        "https://github.com/MaartenGr/KeyBERT/blob/master/keybert/backend/_sentencetransformers.py",
        f"from keybert import KeyBERT\n{_LOAD}",
        "client.model.embed(texts)",
        (
            Opening("KeyBERT(FOLDER)", Outcome.SAME, Outcome.REFUSED),
            Opening("KeyBERT(load(FOLDER))", Outcome.SAME, Outcome.SAME),
        ),
        _DATE,
    ),
    "setfit": Client(
        "SetFit",
        "setfit==1.2.0",
        "https://github.com/huggingface/setfit/blob/main/src/setfit/modeling.py",
        "from setfit import SetFitModel",
        "client.encode(texts)",
        (
            Opening("SetFitModel.from_pretrained(FOLDER)", Outcome.SAME, Outcome.REFUSED),
            Opening("SetFitModel.from_pretrained(FOLDER, trust_remote_code=True)", Outcome.SAME, Outcome.SAME),
        ),
        _DATE,
    ),
    "txtai": Client(
        "txtai",
        "txtai==9.14.0",
        "https://github.com/neuml/txtai/blob/master/src/python/txtai/vectors/dense/factory.py",
        "from txtai import Embeddings",
        "client.batchtransform(texts)",
        (
            Opening(
                "Embeddings(path=FOLDER)",
                Outcome.UNIT,
                Outcome.UNIT,
                dict.fromkeys(
                    [("host", "weightedmean"), ("host", DENSE), ("ours", "weightedmean"), ("ours", OWN)], Outcome.OTHER
                ),
            ),
            Opening("Embeddings(path=FOLDER, method='sentence-transformers')", Outcome.UNIT, Outcome.REFUSED),
            Opening(
                "Embeddings(path=FOLDER, method='sentence-transformers', vectors={'trust_remote_code': True})",
                Outcome.UNIT,
                Outcome.UNIT,
            ),
        ),
        _DATE,
    ),
    "bertopic": Client(
        "BERTopic",
        "bertopic==0.17.4",
        "https://github.com/MaartenGr/BERTopic/blob/master/bertopic/backend/_sentencetransformers.py",
        f"from bertopic import BERTopic\nfrom bertopic.backend._utils import select_backend\n{_LOAD}",
        "select_backend(client.embedding_model).embed_documents(texts)",  # as fit calls it
        (
            Opening("BERTopic(embedding_model=FOLDER)", Outcome.SAME, Outcome.REFUSED),
            Opening("BERTopic(embedding_model=load(FOLDER))", Outcome.SAME, Outcome.SAME),
        ),
        _DATE,
    ),
}


def save(folder: Path, plain: Path) -> dict[tuple[str, str], Path]:
    """Save models with the pooling of sentence-transformers ("host") and of maskpool ("ours").

    Args:
        folder: Where to.
        plain: The folder of a transformers model.

    Returns:
        The folders, by kind of files and mode.
    """
    from sentence_transformers import SentenceTransformer

    from maskpool.integrations.sentence_transformers import Pooling, as_host_pooling
    from maskpool.integrations.st_host import modules as host

    folders = {key: place(folder, *key) for key in KEYS}
    for (kind, mode), target in folders.items():
        name, dense = ("mean", [host.Dense(WIDTH, 8)]) if mode == DENSE else (mode, [])
        parts = [host.Transformer(str(plain)), Pooling(WIDTH, name), *dense]
        model = SentenceTransformer(modules=parts, device="cpu")
        if kind == "host":
            as_host_pooling(model)
        model.save(str(target))
    return folders


def place(folder: Path, kind: str, mode: str) -> Path:
    """Return the folder of a model below the one that `save` filled."""
    return folder / kind / mode.replace(", ", "-")


def outcome(vectors: Any, expected: np.ndarray) -> Outcome:  # Any: vectors, or a message
    """Return what vectors are next to the expected ones, whose lengths are not 1."""
    if isinstance(vectors, str):
        return Outcome.REFUSED
    values = np.array(vectors)
    if values.shape != expected.shape:
        return Outcome.OTHER
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    for name, wanted in ((Outcome.SAME, expected), (Outcome.UNIT, unit)):
        if float(np.abs(values - wanted).max()) <= TOLERANCE:
            return name
    return Outcome.OTHER


def outcomes(
    client: Client, program: str, folders: Mapping[tuple[str, str], Path]
) -> Iterator[tuple[Opening, str, str, Outcome, Any]]:
    """Run a client on saved models.

    Args:
        client: The client.
        program: The interpreter of its environment.
        folders: What `save` returns.

    Yields:
        The opening, the kind of files, the mode, the outcome, and the vectors or the message of an error.
    """
    from maskpool.integrations.sentence_transformers import load

    expected = {key: load(folder, device="cpu").encode(list(TEXTS)) for key, folder in folders.items()}
    for opening in client.openings:
        results = run(client.reader(opening), [program, "-c"], list(folders.values()), TEXTS)
        for (kind, mode), folder in folders.items():
            vectors = results[str(folder)]
            yield opening, kind, mode, outcome(vectors, expected[kind, mode]), vectors


def interpreter(environments: str | os.PathLike[str], name: str) -> Path | None:
    """Return the interpreter of a client's environment, or None if there is none."""
    program = Path(environments) / name / "bin" / "python"
    return program if program.exists() else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Save models, run clients on them and print where the table is wrong."""
    from tests.bench import tiny

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environments", help="a folder with an environment for each client, named after it")
    parser.add_argument("--client", choices=CLIENTS, action="append", help="only this client")
    given = parser.parse_args(arguments)
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        folders = save(Path(place), tiny.save_model(Path(place) / "plain"))
        for name in given.client or CLIENTS:
            program = interpreter(given.environments, name)
            if program is None:
                print(f"{name}: no environment; it needs pip install {CLIENTS[name].packages}")
                continue
            for opening, kind, mode, result, vectors in outcomes(CLIENTS[name], str(program), folders):
                if result is not opening.expected(kind, mode):
                    wrong += 1
                    print(f"{name}: {opening.call}, {kind} {mode}: {result.value}; {str(vectors)[:300]}", flush=True)
            print(f"{name}: run", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
