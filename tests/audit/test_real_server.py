"""The audit of a real server: infinity, in an environment by itself because it needs older libraries.

To make one: ``python -m venv DIR && DIR/bin/pip install "infinity-emb[torch,server]" "transformers<4.50"``, and set
``MASKPOOL_INFINITY=DIR/bin/infinity_emb``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from maskpool.audit.endpoint import audit_endpoint
from maskpool.encoder import bundled_folder_of
from maskpool.leaks import OTHER_LENGTH, OTHER_POOLING

INFINITY = os.environ.get("MASKPOOL_INFINITY", "")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not INFINITY, reason="MASKPOOL_INFINITY does not name the command of infinity"),
]
_STARTS = 600  # seconds until it must answer


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run infinity with a model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--engine", "torch", "--dtype", "float32"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [INFINITY, "v2", "--model-id", str(folder), "--served-model-name", "tiny", "--no-bettertransformer", *options],
        env=environment | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + _STARTS
        while True:
            assert process.poll() is None, "infinity ended"
            assert time.monotonic() < end, "infinity did not start"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/embeddings"
    finally:
        process.terminate()
        process.wait(30)


def edited(folder: Path, name: str, **changes: Any) -> Path:
    """Copy the bundled model with changes of a file of settings."""
    shutil.copytree(bundled_folder_of("all-MiniLM-L6-v2"), folder)
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_a_right_server_is_clean() -> None:
    """Infinity serves the bundled model as it is."""
    with serving(Path(bundled_folder_of("all-MiniLM-L6-v2"))) as url:
        report = audit_endpoint(url, "tiny", "all-MiniLM-L6-v2")
    assert (report.verdict, report.findings) == ("clean", ()), report
    assert report.facts["pooling"] == "mean, as the reference"


@pytest.mark.parametrize(
    ("name", "changes", "title", "fact"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            OTHER_POOLING.title,
            ("pooling", "cls"),
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": 64},
            OTHER_LENGTH.title,
            ("long texts", "cut: words behind the first 62 change nothing"),
        ),
    ],
    ids=["pooling", "length"],
)
def test_a_wrong_setting_of_a_server_is_named(
    name: str, changes: dict[str, Any], title: str, fact: tuple[str, str], tmp_path: Path
) -> None:
    """A setting that infinity reads wrong is named from its vectors."""
    with serving(edited(tmp_path / "model", name, **changes)) as url:
        report = audit_endpoint(url, "tiny", "all-MiniLM-L6-v2")
    assert [finding.cause for finding in report.findings] == [title], report
    assert report.facts[fact[0]] == fact[1]
