"""Write the files of a saved model as every server reads them."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskpool.config.gguf_file import POOLING_TYPES
from maskpool.config.notice import without_notice
from maskpool.config.old_layout import POOLING_FOLDER, TYPES, new_settings, obstacles, old_pooling, old_transformer
from maskpool.config.reading import read_config
from maskpool.config.saved import SavedModule, read_modules
from maskpool.config.servers.checking import ServerJudgement, check_servers, inexpressible
from maskpool.config.servers.rows import Verdict
from maskpool.config.servers.table import SERVERS
from maskpool.config.statement import EmbeddingConfig
from maskpool.errors import ExistsError, InvalidValueError, rename_arguments
from maskpool.files import atomic_write
from maskpool.trust.files import Folder

_NEW_DENSE = {
    "module_input_name": ("sentence_embedding",),
    "module_output_name": ("sentence_embedding", None),
    "use_residual": (False, None),
}


@dataclass(frozen=True)
class Conversion:
    """Hold the result of a conversion.

    Attributes:
        out: The new folder.
        changed: The files that differ from those of the old folder.
        left: What the caller of the server must still do, or know.
    """

    out: Path
    changed: tuple[str, ...]
    left: tuple[str, ...]


def convert(folder: str | os.PathLike[str], out: str | os.PathLike[str], server: str) -> Conversion:
    """Write a copy of a saved model whose files a server reads right.

    The copy has the layout of sentence-transformers 5.3, which all versions and all servers read: the class paths and
    keys of 5.3, the pooling in ``1_Pooling``, and the same length for all readers. Its vectors are the same, bit for
    bit, or up to rounding if the pooling was one of maskpool: the class of sentence-transformers adds in another order.

    Args:
        folder: The folder of the model.
        out: A new folder, which appears when it is complete.
        server: The name of the server.

    Raises:
        ExistsError: ``out`` exists.
        ValueError: An unknown server, or a model that the server or the layout cannot express; the message says what.
        FolderError: A file of the model is malformed.
    """
    if server not in SERVERS:
        raise InvalidValueError("server", f"must be one of {', '.join(SERVERS)}, got {server!r}")
    target = Path(out)
    if os.path.lexists(target):
        raise ExistsError("out", f"must be a new folder, and {out} exists")
    source = Folder(folder)
    with rename_arguments({"path": "folder"}):
        config = read_config(folder)
    if config.pooling.value is None or not source.path.is_dir():
        raise InvalidValueError("folder", f"must be a model of sentence-transformers or maskpool, got {config.layout}")
    if Path(os.path.realpath(target)).is_relative_to(source.root):
        raise InvalidValueError("out", f"must be outside of {folder}, got {out}")
    source.check_tree()
    modules = read_modules(source)
    files = _old_files(source, modules, config)
    part = target.with_name(f".{uuid.uuid4().hex}.{target.name}")
    try:
        shutil.copytree(source.path, part)
        _rename_pooling(part, modules)
        for name, content in files.items():
            _write(part / name, content)
        _remove_notice(part / "README.md")
        left = _what_is_left(read_config(part), server)
        os.replace(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    changed = [name for name, content in files.items() if source.json(name) != content]
    return Conversion(target, tuple(changed), (*left, *_command(config, server, target)))


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _remove_notice(card: Path) -> None:
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if without_notice(text) != text:
        with atomic_write(card) as temporary:
            temporary.write_text(without_notice(text), encoding="utf-8")


def _rename_pooling(part: Path, modules: list[SavedModule]) -> None:
    path = next(module.path for module in modules if module.kind == "Pooling")
    if path not in ("", ".", POOLING_FOLDER):
        (part / path).rename(part / POOLING_FOLDER)


def _old_files(folder: Folder, modules: list[SavedModule], config: EmbeddingConfig) -> dict[str, Any]:
    """Return the configuration files of a model in the layout of 5.3."""
    pooling = next(module for module in modules if module.kind == "Pooling")
    denses = {
        f"{module.path}/config.json": folder.table(module.path, "config.json") or {}
        for module in modules
        if module.kind == "Dense"
    }
    problems = obstacles(config)
    if pooling.path != POOLING_FOLDER and folder.find(POOLING_FOLDER, "config.json") is not None:
        problems.append(f"a pooling in {pooling.path}, next to a folder {POOLING_FOLDER}")
    for file, stored in denses.items():
        problems += new_settings(stored, _NEW_DENSE, file)
    if problems:
        raise InvalidValueError("folder", f"must be a model that servers can read, and it has {'; '.join(problems)}")
    first = next(module for module in modules if module.kind == "Transformer")
    entries = folder.json("modules.json")
    for entry, module in zip(entries, modules, strict=True):
        entry["type"] = TYPES[module.kind]
        entry["path"] = POOLING_FOLDER if module is pooling else entry["path"]
    files: dict[str, Any] = {"modules.json": entries, f"{POOLING_FOLDER}/config.json": old_pooling(config)}
    place = f"{first.path}/" if first.path not in ("", ".") else ""
    files[f"{place}{config.files.transformer_file or 'sentence_bert_config.json'}"] = old_transformer(config)
    tokenizer = folder.table(first.path, "tokenizer_config.json")
    if tokenizer is not None and config.max_length.value is not None:
        files[f"{place}tokenizer_config.json"] = tokenizer | {"model_max_length": config.max_length.value}
    settings = folder.table("config_sentence_transformers.json") or {}
    if pooling.is_ours and isinstance(settings.get("requirements"), dict):
        others_needed = {name: version for name, version in settings["requirements"].items() if name != "maskpool"}
        files["config_sentence_transformers.json"] = settings | {"requirements": others_needed}
    for file, stored in denses.items():
        files[file] = {name: value for name, value in stored.items() if name not in _NEW_DENSE}
    return files


def _what_is_left(config: EmbeddingConfig, server: str) -> list[str]:
    """Return what the caller of a server must do, by the table of servers.

    Raises:
        InvalidValueError: The server computes something else from all files.
    """
    wrong = inexpressible(SERVERS[server], config)
    if wrong:
        raise InvalidValueError(
            "folder", f"must be a model that {SERVERS[server].title} can express: {'; '.join(map(_words, wrong))}"
        )
    (report,) = check_servers(config, [server])
    return [
        _words(item) for item in report.versions[-1].judgements if item.verdict is not Verdict.SAME or item.computes
    ]


def _words(judgement: ServerJudgement) -> str:
    repair = f" ({judgement.repair})" if judgement.repair else ""
    return f"{judgement.aspect.value}: {judgement.computes or judgement.verdict.value}{repair}"


def _command(config: EmbeddingConfig, server: str, out: Path) -> list[str]:
    if server != "llama.cpp":
        return []
    number = next(number for number, modes in POOLING_TYPES.items() if modes == config.pooling.value)
    return [f"python convert_hf_to_gguf.py {out} --outfile {out}.gguf writes pooling_type {number}"]
