"""What a saved model says of maskpool to clients that open it by its path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as host

from maskpool import __version__
from maskpool.errors import RequirementError
from maskpool.integrations import st_host
from maskpool.integrations.sentence_transformers import Pooling, as_host_pooling, load, replace_pooling
from maskpool.nn import MedianPooling
from tests.bench import tiny
from tests.hosts import needs

TEXTS = ["w1 w2 w3 red1", "w4", "blue2 blue3 w1 w7 w8"]
OPENS = "from maskpool.integrations.sentence_transformers import load"


@pytest.fixture(autouse=True)
def _without_model_cards() -> None:
    """Replace the fixture that leaves out model cards: these tests read them."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("plain"))


def save(folder: Path, plain: Path, pooling: Any) -> Path:
    SentenceTransformer(modules=[host.Transformer(str(plain)), pooling], device="cpu").save(str(folder))
    return folder


def card(folder: Path) -> str:
    return (folder / "README.md").read_text("utf-8")


def requirements(folder: Path) -> Any:
    return json.loads((folder / "config_sentence_transformers.json").read_text("utf-8")).get("requirements")


@needs("sentence-transformers", "6.0", "older hosts do not pass the model to its modules")
def test_cards_name_maskpool_where_it_is_needed(tmp_path: Path, plain: Path) -> None:
    """The card of a model with a pooling of maskpool has the line that opens it once, also when it is saved again."""
    ours = save(tmp_path / "ours", plain, Pooling(32, MedianPooling.mode))
    assert card(ours).count(OPENS) == 1
    SentenceTransformer(str(ours), device="cpu", trust_remote_code=True).save(str(tmp_path / "again"))
    load(ours, device="cpu").save(str(tmp_path / "loaded"))
    assert [card(tmp_path / name).count(OPENS) for name in ("again", "loaded")] == [1, 1]
    assert "maskpool" not in card(save(tmp_path / "host", plain, host.Pooling(32, "mean")))


def test_cards_follow_the_pooling(tmp_path: Path, plain: Path) -> None:
    """The card of an opened model gets the line with a pooling of maskpool, and loses it with one of the host."""
    model = SentenceTransformer(str(save(tmp_path / "host", plain, host.Pooling(32, "mean"))), device="cpu")
    bare = card(tmp_path / "host")
    replace_pooling(model, "max").save(str(tmp_path / "ours"))
    assert card(tmp_path / "ours").count(OPENS) == 1
    assert card(tmp_path / "ours").startswith(bare.rstrip())
    as_host_pooling(model).save(str(tmp_path / "back"))
    assert card(tmp_path / "back") == bare


def test_requirements_name_maskpool(tmp_path: Path, plain: Path) -> None:
    """The settings of a model with a pooling of maskpool require this version or a newer one; others do not."""
    ours = save(tmp_path / "ours", plain, Pooling(32, "max"))
    assert requirements(ours) == {"maskpool": f">={__version__}"}
    as_host_pooling(load(ours, device="cpu")).save(str(tmp_path / "back"))
    assert requirements(tmp_path / "back") is None


@pytest.mark.full  # a process that imports the host takes long; the requirement is tested by default below
@needs("sentence-transformers", "6.0", "older hosts do not check requirements")
def test_a_client_without_maskpool_names_it(tmp_path: Path, plain: Path) -> None:
    """A client without maskpool that opens the folder by its path gets an error that says what to install."""
    ours = save(tmp_path / "ours", plain, Pooling(32, "max"))
    script = f"""
import importlib.metadata as metadata
version = metadata.version
def without(name):
    if name == "maskpool": raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without
from sentence_transformers import SentenceTransformer
SentenceTransformer({str(ours)!r}, device="cpu", trust_remote_code=True)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f'pip install -U "maskpool>={__version__}"' in ran.stderr


def test_older_hosts_open_models_that_require_maskpool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot compare versions accepts a model that requires maskpool only, and refuses a newer maskpool."""
    monkeypatch.delattr("sentence_transformers.util.check_version_requirements", raising=False)
    st_host.check_version_requirements({"maskpool": f">={__version__}"}, "m")
    with pytest.raises(ImportError, match=rf"m requires maskpool>=99, and {__version__} is installed"):
        st_host.check_version_requirements({"maskpool": ">=99"}, "m")
    with pytest.raises(RequirementError, match=r"sentence-transformers>=6\.0 is needed"):
        st_host.check_version_requirements({"maskpool": ">=0", "peft": ">=1"}, "m")


@pytest.mark.parametrize("mode", host.Pooling.POOLING_MODES)
def test_saved_as_the_hosts_class_models_open_by_their_path(tmp_path: Path, plain: Path, mode: str) -> None:
    """In every mode of the host, a model of maskpool that is saved by as_host_pooling opens without any flag."""
    model = SentenceTransformer(modules=[host.Transformer(str(plain)), Pooling(32, mode)], device="cpu")
    expected = model.encode(TEXTS)
    as_host_pooling(model).save(str(tmp_path / "host"))
    opened = SentenceTransformer(str(tmp_path / "host"), device="cpu")
    np.testing.assert_allclose(opened.encode(TEXTS), expected, rtol=1e-5, atol=1e-5)
