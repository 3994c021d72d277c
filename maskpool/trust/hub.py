"""Find the folder of a model: a local folder, or the snapshot of a repository in the hub's cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from maskpool.errors import NotFoundError, RequirementError

# Files that maskpool never opens: weights for other libraries, code, images, data.
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
    """Return the local folder of a model; download a hub repository that is not in the cache.

    Args:
        name: A folder, or a name on the hub.
        token: An access token for private repositories.
        cache_folder: The folder of the hub's cache, if it is not the default one.
        revision: The revision of the repository.
        local_files_only: Whether only the cache is searched.
        backend: The backend that runs the model; torch needs fewer files.
        only: The only folder of the repository to download; empty for all folders.

    Raises:
        NotFoundError: ``name`` is not a folder, and a repository of this name cannot be reached.
        RequirementError: A package is missing.
    """
    if os.path.isdir(name):
        return Path(name)
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise RequirementError(f'{error.name} is not installed; get it with: pip install "maskpool[bench]"') from None
    if os.path.exists(name):
        raise NotFoundError("it is a file, not a folder")
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
        snapshot = Path(snapshot_download(name, ignore_patterns=[*ignored, "*.bin"], **where))
        if not any(snapshot.glob("*.safetensors")):
            snapshot = Path(snapshot_download(name, ignore_patterns=ignored, **where))
        elif not local_files_only:
            # Small modules of old models, such as dense layers, have their weights in pickles.
            snapshot = Path(snapshot_download(name, allow_patterns=["[0-9]*/*.bin"], **where))
        return snapshot
    except Exception as error:  # an invalid name, no network, an unknown repository: the hub raises many types
        # Only the IncompleteSnapshotError of newer versions has a path.
        incomplete = getattr(error, "snapshot_path", None)
        if incomplete is not None and os.path.isdir(incomplete):
            return Path(incomplete)  # opening it names the missing files
        raise NotFoundError(_not_found(error)) from error


def _not_found(error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    if isinstance(error, HFValidationError):
        return "there is no such folder, and the Hugging Face hub accepts no such name"
    if constants.HF_HUB_OFFLINE:
        return (
            "there is no such folder, and no such model in the cache of the Hugging Face hub, which is offline "
            "because HF_HUB_OFFLINE is set"
        )
    reason = next(iter(str(error).strip().split("\n")), "") or type(error).__name__
    return f"there is no such folder, and the Hugging Face hub gave no such model: {reason}"
