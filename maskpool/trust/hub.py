"""Find the folder of a model: a folder of the user, or the snapshot of a repository in the hub's cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from maskpool.errors import NotFoundError, RequirementError

# Nothing here opens these: weights for other libraries, code, pictures, data.
_NOT_NEEDED = [
    *("*.msgpack", "*.h5", "*.ot", "*.tflite", "*.gguf", "*.mlmodel", "*.mlpackage*", "coreml/*", "flax_*", "tf_*"),
    *("*.onnx", "*.onnx_data", "onnx/*", "openvino/*", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib"),
    *("*.py", "*.ipynb", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.pdf", "*.parquet", "*.arrow", "*.csv"),
    *("*.tsv", "*.jsonl", "*.gz", "*.zip", "*.tar", "*.mp4", "*.wav", "runs/*", "checkpoint-*/*"),
]
_OTHER_BACKENDS = {"onnx": ("*.onnx", "*.onnx_data", "onnx/*"), "openvino": ("openvino/*",)}


def find_folder(
    name: str,
    token: bool | str | None = None,
    cache_folder: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    backend: str = "torch",
    only: str = "",
) -> Path:
    """The folder of a model on this machine; a repository of the hub is downloaded first, or found in the cache.

    Args:
        name: A folder, or a name on the hub.
        token: For private repositories.
        cache_folder: Where the hub's cache is, if not in its usual place.
        revision: Which revision of the repository.
        local_files_only: Whether only the cache is searched.
        backend: What runs the model; torch needs fewer files.
        only: A folder of the repository; the others are not downloaded.

    Raises:
        NotFoundError: There is no such folder, and no such repository that can be reached.
        RequirementError: A package is missing.
    """
    if os.path.isdir(name):
        return Path(name)
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise RequirementError(f'{error.name} is not installed; get it with: pip install "maskpool[bench]"') from None
    if os.path.exists(name):
        raise NotFoundError(f"there must be a folder at {name}, got something else")
    ignored = [pattern for pattern in _NOT_NEEDED if pattern not in _OTHER_BACKENDS.get(backend, ())]
    where: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_folder,
        "local_files_only": local_files_only,
    }
    try:
        if only:
            return Path(snapshot_download(name, allow_patterns=[f"{only}/*"], **where))
        found = Path(snapshot_download(name, ignore_patterns=[*ignored, "*.bin"], **where))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(name, ignore_patterns=ignored, **where))
        elif not local_files_only:
            # Small modules of old models, such as dense layers, have their weights in pickles.
            found = Path(snapshot_download(name, allow_patterns=["[0-9]*/*.bin"], **where))
        return found
    except Exception as error:  # a name the hub does not allow, no network, no such repository: many kinds
        # Only the IncompleteSnapshotError of newer versions has a path.
        incomplete = getattr(error, "snapshot_path", None)
        if incomplete is not None and os.path.isdir(incomplete):
            return Path(incomplete)  # opening it names the missing files
        raise NotFoundError(_nothing(name, error)) from error


def _nothing(name: str, error: Exception) -> str:
    reason = next(iter(str(error).strip().split("\n")), "") or type(error).__name__
    return f"there is no folder {name!r}, and no model of that name could be taken from the Hugging Face hub: {reason}"
