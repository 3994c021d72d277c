"""Open a saved model without running code from it."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

from maskpool.encoder import BUNDLED, bundled_folder_of
from maskpool.errors import FolderError, InvalidTypeError, NotFoundError, rename_arguments
from maskpool.integrations.sentence_transformers.building import build_module, build_plain
from maskpool.integrations.sentence_transformers.classes import CLASSES
from maskpool.integrations.sentence_transformers.pooling import Pooling
from maskpool.integrations.sentence_transformers.settings import read_settings
from maskpool.integrations.st_host import SentenceTransformer
from maskpool.trust import Folder, as_folder_error, check_modules, check_transformer, find_folder, reason_of
from maskpool.trust.devices import find_device


def load(name_or_path: str | os.PathLike[str], **kwargs: Any) -> SentenceTransformer:
    """Open a saved model, which may hold modules of maskpool, without running code from it.

    Every file is vetted before it is opened. The classes in ``modules.json`` must be in an exact list: maskpool's and
    those of sentence-transformers. Arguments that the files pass on to transformers must be in another list. Weights
    are safetensors, or pickles opened with ``weights_only=True``. No file outside the folder is read, and nothing is
    asked on the terminal. (``SentenceTransformer(name_or_path, trust_remote_code=True)`` opens the model without these
    checks.)

    Args:
        name_or_path: A folder, a name on the Hugging Face hub, or ``"all-MiniLM-L6-v2"``, which is taken from
            the installed package if there is one.
        **kwargs: Keywords of ``SentenceTransformer``, except ``modules`` and ``trust_remote_code``.

    Returns:
        The model, with its modules, prompts, similarity function and truncation.

    Raises:
        NotFoundError: The model does not exist, or has no ``modules.json``.
        FolderError: A file is malformed, or asks for code or for something outside the model.
        DeviceError: Torch cannot use ``device``.
        RequirementError: The model needs other versions of packages.
        TypeError: A keyword that ``SentenceTransformer`` does not know, or one of the two that are excluded.

    Example::

        model = load("folder-with-a-saved-model", device="cpu")
    """
    folder, where = _find(name_or_path, kwargs)
    given: dict[str, Any] = {name: kwargs.pop(name, None) for name in _PASSED_ON}
    given["backend"] = kwargs.get("backend", "torch")
    folder.check_tree()
    entries = check_modules(folder, CLASSES, weights=given["backend"] == "torch")
    if entries is None:
        raise NotFoundError(
            f"must be a saved SentenceTransformer, a folder or a name on the hub, got {where!r}: it has no "
            "modules.json that could be read; a plain transformers model is opened by SentenceTransformer(...)",
            argument="name_or_path",
        )
    config = read_settings(folder)
    modules: Any = OrderedDict()  # Any: the host's type allows lists only
    for entry in entries:
        modules[entry.name] = build_module(folder, entry, CLASSES, given)
    kwargs["prompts"] = {**config.get("prompts", {}), **(kwargs.get("prompts") or {})}
    for setting in ("default_prompt_name", "similarity_fn_name", "truncate_dim"):
        if kwargs.get(setting) is None:
            kwargs[setting] = config.get(setting)
    model = _assemble(str(folder), modules, kwargs)
    model.module_kwargs = {entry.name: list(entry.keywords) for entry in entries}
    for module in model.modules():
        if isinstance(module, Pooling):
            module.on_model_ready(model)  # the host calls those at the top only
    return model


def load_plain(name_or_path: str | os.PathLike[str], **kwargs: Any) -> SentenceTransformer:
    """Open a transformers model that was not saved as a SentenceTransformer, and pool it by the mean, as the host does.

    The files are vetted as by `load`, which has the same arguments and errors.
    """
    folder, _ = _find(name_or_path, kwargs)
    given: dict[str, Any] = {name: kwargs.pop(name, None) for name in _PASSED_ON}
    given["backend"] = kwargs.get("backend", "torch")
    folder.check_tree()
    check_transformer(folder, weights=given["backend"] == "torch")
    transformer = build_plain(str(folder), given)
    with as_folder_error(f"{folder} must hold a model that gives token states"):
        pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    return _assemble(str(folder), OrderedDict([("0", transformer), ("1", pooling)]), kwargs)


def open_model(model: SentenceTransformer | str | os.PathLike[str], device: str | None = None) -> SentenceTransformer:
    """Return a model as it is, or open it by its name or folder, without running code from it.

    Args:
        model: A ``SentenceTransformer``, or the name or folder of one, or of a transformers model, which is pooled by
            the mean.
        device: Where an opened model runs.

    Raises:
        TypeError: ``model`` is neither a ``SentenceTransformer`` nor a name nor a folder.
        MaskpoolError: As `load` and `load_plain`.
    """
    if isinstance(model, SentenceTransformer):
        return model
    if not isinstance(model, str | os.PathLike):
        raise InvalidTypeError(
            "model", f"must be a SentenceTransformer, or the name or folder of one, got {type(model).__name__}"
        )
    with rename_arguments({"name_or_path": "model"}):
        try:
            return load(model, device=device)
        except NotFoundError:  # no modules.json: a transformers model, or none
            return load_plain(model, device=device)


_PASSED_ON = ("model_kwargs", "processor_kwargs", "config_kwargs")


def _find(name_or_path: object, kwargs: dict[str, Any]) -> tuple[Folder, str]:
    """Find the folder of a model; the keywords for the hub are removed from ``kwargs``."""
    for keyword in ("modules", "trust_remote_code"):
        if keyword in kwargs:
            raise InvalidTypeError(
                keyword, f"cannot be passed to load, which reads the modules from {name_or_path} and runs no code of it"
            )
    if not isinstance(name_or_path, str | os.PathLike):
        raise InvalidTypeError(
            "name_or_path", f"must be a folder or a name on the hub, got {type(name_or_path).__name__}"
        )
    if kwargs.get("device") is not None:
        find_device(kwargs["device"])
    source = bundled_folder_of(os.fspath(name_or_path))
    token, cache_folder, revision = (kwargs.pop(name, None) for name in ("token", "cache_folder", "revision"))
    cache_folder = cache_folder or os.getenv("SENTENCE_TRANSFORMERS_HOME")  # as the host does
    only_local, backend = kwargs.get("local_files_only", False), kwargs.get("backend", "torch")
    try:
        return Folder(find_folder(source, token, cache_folder, revision, only_local, backend)), source
    except NotFoundError as error:
        raise NotFoundError(
            f"must be a saved SentenceTransformer, a folder or a name on the hub, got {source!r}: {error}"
            + f'; pip install "maskpool[bench]" installs {BUNDLED}' * (source == bundled_folder_of(BUNDLED)),
            argument="name_or_path",
        ) from error


def _assemble(source: str, modules: Any, kwargs: dict[str, Any]) -> SentenceTransformer:
    try:
        return SentenceTransformer(modules=modules, **kwargs)
    except (TypeError, ImportError):  # from a keyword that the host does not know
        raise
    except Exception as error:  # modules that do not fit each other raise many kinds
        raise FolderError(f"{source} must hold modules that fit each other: {reason_of(error)}") from error
