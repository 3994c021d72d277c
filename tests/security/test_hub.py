"""Test which files of a repository are downloaded, and how an incomplete cache is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils._paths import filter_repo_objects

from maskpool.errors import NotFoundError
from maskpool.trust import find_folder

_SAFE = ["config.json", "model.safetensors", "pytorch_model.bin", "2_Dense/config.json", "2_Dense/pytorch_model.bin"]
_PICKLES = ["config.json", "pytorch_model.bin", "2_Dense/pytorch_model.bin", "evil.py", "onnx/model.onnx"]


class _Hub:
    """Imitate a repository and its local snapshot, which grows with each download."""

    def __init__(self, files: list[str], snapshot: Path) -> None:
        self.files, self.snapshot = files, snapshot

    def download(self, name: str, allow_patterns: Any = None, ignore_patterns: Any = None, **_: Any) -> str:
        for file in filter_repo_objects(self.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (self.snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            (self.snapshot / file).touch()
        return str(self.snapshot)

    def downloaded(self) -> list[str]:
        return sorted(str(path.relative_to(self.snapshot)) for path in self.snapshot.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("files", "expected"),
    [(_SAFE, sorted(set(_SAFE) - {"pytorch_model.bin"})), (_PICKLES, sorted(_PICKLES[:3]))],
    ids=["safetensors", "pickles"],
)
def test_the_second_call_downloads_nothing(
    files: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the first call nor a later one downloads pickled weights next to safetensors."""
    hub = _Hub(files, tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.download)
    for _ in range(3):
        assert find_folder("me/model") == hub.snapshot
        assert hub.downloaded() == expected


@pytest.mark.parametrize("older", [False, True])
def test_an_incomplete_snapshot(older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete snapshot is opened as it is; versions of huggingface_hub without that error work as well."""

    class IncompleteError(FileNotFoundError):
        snapshot_path = str(tmp_path)

    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError("offline") if older else IncompleteError("incomplete")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    if not older:
        assert find_folder("me/model") == tmp_path
        return
    monkeypatch.delattr("huggingface_hub.errors.IncompleteSnapshotError", raising=False)
    with pytest.raises(NotFoundError, match="offline"):
        find_folder("me/model")
