"""The header of a GGUF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, PoolingType

from maskpool.config.reading import read_config
from maskpool.errors import FolderError
from tests.command import assert_refused, run

SCORES = 303


def write_gguf(path: Path, pooling: PoolingType | None = PoolingType.CLS) -> Path:
    writer = GGUFWriter(path, "bert")
    writer.add_context_length(77)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_token_scores([1.0] * SCORES)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("number", "mode"), [(PoolingType.MEAN, "mean"), (PoolingType.CLS, "cls"), (PoolingType.LAST, "lasttoken")]
)
def test_pooling_type_is_read(tmp_path: Path, number: PoolingType, mode: str) -> None:
    """The pooling type that the gguf package writes is read under the name of sentence-transformers."""
    config = read_config(write_gguf(tmp_path / "model.gguf", number))
    assert (config.pooling.value, config.pooling.source) == ((mode,), "bert.pooling_type")
    assert config.max_length.value == 77


@pytest.mark.parametrize("number", [None, PoolingType.NONE, PoolingType.RANK])
def test_files_without_a_pooling_state_none(tmp_path: Path, number: PoolingType | None) -> None:
    """A file without a pooling type, or with one that gives no sentence vector, states no pooling."""
    assert read_config(write_gguf(tmp_path / "model.gguf", number)).pooling.value is None


def test_cut_files_are_refused(tmp_path: Path) -> None:
    """A file that is cut off at any place is refused in one sentence."""
    whole = write_gguf(tmp_path / "model.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(0, len(whole), 29):
        cut.write_bytes(whole[:length])
        with pytest.raises(FolderError, match="must be a complete GGUF file"):
            read_config(cut)
    cut.write_bytes(whole[:100])
    problem = "it cannot be read: it ends at byte 100, inside of a value"
    assert_refused(run("config", "show", cut), f".*cut.gguf must be a complete GGUF file; {problem}")


def test_arrays_longer_than_the_file_are_refused(tmp_path: Path) -> None:
    """An array that claims more values than the file holds is refused at once, not read without end."""
    whole = write_gguf(tmp_path / "model.gguf").read_bytes()
    count = SCORES.to_bytes(8, "little")
    assert whole.count(count) == 1
    endless = whole.replace(count, (1 << 60).to_bytes(8, "little"))
    problems = []
    for padding in range(4):  # one of them ends between two values
        (tmp_path / "long.gguf").write_bytes(endless + bytes(padding))
        with pytest.raises(FolderError, match="must be a complete GGUF file") as caught:
            read_config(tmp_path / "long.gguf")
        problems.append(str(caught.value))
    assert any("it ends at byte" in problem for problem in problems)
