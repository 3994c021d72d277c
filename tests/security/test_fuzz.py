"""Test that damaged folders and files open, or are refused with an error of maskpool, within seconds."""

from __future__ import annotations

import copy
import json
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskpool.errors import MaskpoolError
from tests.security.bases import at_most
from tests.security.entrances import ENTRANCES

_SECONDS = 20  # limit for a folder; an undamaged one opens in a tenth of a second
_SHORT, _LONG = 80, 1_600
_OPENED_BY = {
    "model": ("load", "Encoder.load", "config"),
    "learned": ("load", "config"),
    "router": ("load", "config"),
    "static": ("load",),
    "words": ("load",),
    "wrapped": ("load",),
    "plain": ("Encoder.load", "SentenceEncoder", "config"),
    "head": ("head", "bench head"),
    "cache": ("cache",),
    "idf": ("idf",),
    "study": ("study", "study file", "results"),
}
_VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        10**9,
        10**12,
        10**30,
        -(10**18),
        0.5,
        -0.5,
        1e300,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "a",
        "../a",
        "/tmp",
        "\0",
        "\ud83d\ude00" * 3,
        "x" * 5_000,
        [],
        {},
        [None],
        [[]],
        {"": None},
        {"a": {"b": []}},
        [1] * 2_000,
    ),
]


def _results(path: str) -> Any:
    from maskpool.bench.report.results import results_of
    from maskpool.bench.store.folder import StudyFolder

    return results_of(StudyFolder(Path(path)))


_ENTRANCES = {**ENTRANCES, "results": _results}


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a JSON content with each of its keys."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _places(value)


def _damage_json(content: Any, rng: random.Random) -> Any:
    places = list(_places(content))
    how = rng.choice(["value", "value", "value", "delete", "add", "double", "whole", "rename", "number"])
    if how == "whole" or not places:
        return rng.choice(_VALUES)
    where, key = rng.choice(places[:200])
    if how == "value":
        where[key] = copy.deepcopy(rng.choice(_VALUES))
    elif how == "delete":
        del where[key]
    elif how == "add":
        new = copy.deepcopy(rng.choice(_VALUES))
        if isinstance(where, dict):
            where[rng.choice(["", "a", "dtype", "type", "name", "kwargs", "auto_map", "model_type", "../a"])] = new
        else:
            where.insert(0, new)
    elif how == "double":
        if isinstance(where, list):
            where.append(copy.deepcopy(where[key]))
        else:
            where[str(key) + "2"] = copy.deepcopy(where[key])
    elif how == "rename" and isinstance(where, dict):
        where[rng.choice(["", "a", "config", "model_args", "path"])] = where.pop(key)
    elif isinstance(where[key], int):
        where[key] = where[key] * rng.choice([-1, 2, 3, 1_000, 10**6]) + rng.choice([-1, 0, 1])
    return content


def _damage_bytes(content: bytes, rng: random.Random) -> bytes:
    how = rng.choice(["cut", "flip", "flip", "empty", "front", "middle", "deep", "nul", "double", "digits"])
    place = rng.randrange(len(content)) if content else 0
    near = rng.randrange(min(len(content), 400)) if content else 0  # probably in the header
    if how == "cut":
        return content[:place]
    if how == "flip":
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 4, 40])):
            if damaged:
                damaged[rng.choice([near, rng.randrange(len(damaged))])] ^= 1 << rng.randrange(8)
        return bytes(damaged)
    if how == "deep":
        return rng.choice([b"[" * 100_000, b'{"a":' * 50_000, b'{"a":' * 900 + b"1" + b"}" * 900])
    if how == "digits":
        return content[:near] + b"9" * 6_000 + content[near:]
    ends = {"empty": b"", "front": b"\xff\xfe" + content, "nul": b"\0" * len(content), "double": content + content}
    return ends.get(how, content[:place] + rng.randbytes(8) + content[place:])


def _damage(folder: Path, rng: random.Random) -> str:
    """Damage one or two files of a folder, and describe the damage."""
    descriptions = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            break
        path = rng.choice(files)
        how = rng.choice(["json"] * 12 + ["bytes"] * 5 + ["remove", "folder", "swap"])
        if how == "json" and path.suffix in (".json", ".jsonl", ".toml"):
            try:
                content = json.loads(path.read_text())
                path.write_text(json.dumps(_damage_json(content, rng)))
            except (ValueError, RecursionError):  # the file is damaged already
                path.write_bytes(_damage_bytes(path.read_bytes(), rng))
        elif how in ("json", "bytes"):
            path.write_bytes(_damage_bytes(path.read_bytes(), rng))
        elif how == "swap":
            shutil.copy(rng.choice(files), folder / "copy")
            (folder / "copy").replace(path)
        else:
            path.unlink()
            if how == "folder":
                path.mkdir()
        descriptions.append(f"{how} {path.relative_to(folder)}")
    return ", ".join(descriptions)


def _open_damaged(bases: Path, at: Path, seed: int) -> str | None:
    """Damage a base at random and open it; describe the failure, or return None."""
    rng = random.Random(seed)
    base = rng.choice(list(_OPENED_BY))
    folder = at / base
    shutil.copytree(bases / base, folder)
    how = _damage(folder, rng)
    entrance = rng.choice(_OPENED_BY[base])
    try:
        with at_most(_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _ENTRANCES[entrance](str(folder))
    except MaskpoolError as error:
        return None if "\n" not in str(error) else f"seed {seed}: {entrance} of {base} ({how}): lines in {error}"
    except BaseException as error:  # panics of tokenizers do not derive from Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"seed {seed}: {entrance} of {base} ({how}): {type(error).__name__}: {str(error)[:200]}"
    finally:
        shutil.rmtree(folder)
    return None


def _fuzz(bases: Path, at: Path, seeds: range) -> None:
    failures = [failure for seed in seeds if (failure := _open_damaged(bases, at, seed)) is not None]
    assert not failures, f"{len(failures)} of {len(seeds)}:\n" + "\n".join(failures)


def test_some_damaged_folders(bases: Path, tmp_path: Path) -> None:
    """Eighty randomly damaged folders and files open or are refused."""
    _fuzz(bases, tmp_path, range(_SHORT))


@pytest.mark.full
def test_many_damaged_folders(bases: Path, tmp_path: Path) -> None:
    """Sixteen hundred randomly damaged folders and files open or are refused."""
    _fuzz(bases, tmp_path, range(_SHORT, _SHORT + _LONG))
