"""The folder of a study."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import CorpusSource, Study
from maskpool.bench.report.results import results_of
from maskpool.bench.store.folder import CELLS, STUDY, StudyFolder
from maskpool.errors import MaskpoolError

MINE = Corpus("mine", ["a b", "c d"], ["x", "y"])
THEIRS = Corpus("theirs", ["e f", "g h"], ["x", "y"])
ASKED = Study(models=("one",), corpora=(CorpusSource(data="mine.csv"),), seeds=5)
VERSIONS = {"torch": "2.13.0", "numpy": "2.4.0"}


def content(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder; None is a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def claim(folder: StudyFolder, study: Study, corpora: list[Corpus], versions: dict[str, str]) -> None:
    """What a run does before its first cell."""
    folder.check()
    folder.refuse_others(study, corpora, versions)
    with folder.claim(study, corpora, versions):
        pass


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A folder that a study has claimed, with a cell in it."""
    found = StudyFolder(tmp_path / "out")
    claim(found, ASKED, [MINE], VERSIONS)
    found.cells.add({"kind": "proof", "part": "a"}, 1, 0)
    return found


def refusal(act: Callable[[], object]) -> str:
    """The one sentence of a refusal."""
    with pytest.raises(MaskpoolError) as refused:
        act()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", ["out", "new/folder/out"])
def test_a_study_claims_a_new_folder(tmp_path: Path, name: str) -> None:
    """A claim makes the folder, with what is measured, the texts' hashes and the versions in it and nothing else."""
    folder = StudyFolder(tmp_path / name)
    claim(folder, ASKED, [MINE, THEIRS], VERSIONS)
    assert list(content(folder.path)) == [STUDY]
    expected = {
        "study": ASKED.as_json(),
        "corpora": {"mine": MINE.sha256, "theirs": THEIRS.sha256},
        "versions": VERSIONS,
    }
    assert folder.read() == expected
    assert json.loads((folder.path / STUDY).read_text(encoding="utf-8")) == expected


def test_a_study_may_claim_a_folder_of_other_files(tmp_path: Path) -> None:
    """A folder that holds other files becomes a study's, and they stay."""
    (tmp_path / "notes.txt").write_text("mine")
    claim(StudyFolder(tmp_path), ASKED, [MINE], VERSIONS)
    assert content(tmp_path)["notes.txt"] == b"mine"


def test_the_same_study_claims_again(folder: StudyFolder) -> None:
    """The same study may claim its folder again, with cells in it, and nothing changes."""
    before = content(folder.path)
    claim(StudyFolder(folder.path), ASKED, [MINE], VERSIONS)
    assert content(folder.path) == before


OTHERS: dict[str, tuple[Study, list[str]]] = {
    "seeds": (replace(ASKED, seeds=6), ["seeds 5 (now 6)"]),
    "models": (replace(ASKED, models=("two",)), ['models ["one"] (now ["two"])']),
    "one more model": (replace(ASKED, models=("one", "two")), ['models ["one"] (now ["one", "two"])']),
    "pad_to": (replace(ASKED, pad_to=64), ["pad_to null (now 64)"]),
    "dtype": (replace(ASKED, dtype="float16"), ['dtype "float32" (now "float16")']),
    "quote": (replace(ASKED, quote=False), ["quote true (now false)"]),
    "two settings": (replace(ASKED, seeds=6, seed=1), ["seeds 5 (now 6)", "seed 0 (now 1)"]),
    "corpora": (replace(ASKED, corpora=(CorpusSource(data="b.csv"),)), ["corpora", '"mine.csv"', '"b.csv"']),
}


@pytest.mark.parametrize(("other", "named"), OTHERS.values(), ids=OTHERS)
def test_another_study_is_refused(folder: StudyFolder, other: Study, named: list[str]) -> None:
    """Another study is refused with what differs, as it is there and as it is now, and the folder stays as it was."""
    before = content(folder.path)
    sentence = refusal(lambda: claim(StudyFolder(folder.path), other, [MINE], VERSIONS))
    start = f"out must be a folder without another study's cells; those in {folder.path} were measured with "
    assert sentence.startswith(start)
    assert sentence.endswith(": choose another folder, or delete this one")
    for name in named:
        assert name in sentence
    same = {"models", "seeds", "replicates", "dtype", "layers"} - {name.split()[0] for name in named}
    assert not [name for name in same if f"{name} " in sentence.removeprefix(start)]
    assert content(folder.path) == before


@pytest.mark.parametrize(
    ("corpora", "named"),
    [
        ([replace(MINE, texts=["a b", "c e"])], ["mine"]),
        ([replace(MINE, labels=["x", "z"])], ["mine"]),
        ([MINE, THEIRS], ["theirs"]),
        ([THEIRS], ["mine", "theirs"]),
    ],
)
def test_other_texts_are_refused(folder: StudyFolder, corpora: list[Corpus], named: list[str]) -> None:
    """Other texts or labels under the same study are refused with the corpus that they are of and its hashes."""
    sentence = refusal(lambda: claim(StudyFolder(folder.path), ASKED, corpora, VERSIONS))
    assert sentence.startswith("out must be a folder without another study's cells")
    hashes = {corpus.name: corpus.sha256 for corpus in corpora}
    for name in named:
        there = MINE.sha256 if name == "mine" else None
        assert f"{name} {json.dumps(there)} (now {json.dumps(hashes.get(name))})" in sentence


@pytest.mark.parametrize(
    ("versions", "named"),
    [
        (VERSIONS | {"torch": "2.14.0"}, 'torch "2.13.0" (now "2.14.0")'),
        (VERSIONS | {"scipy": "1.17.0"}, 'scipy null (now "1.17.0")'),
        ({"torch": "2.13.0"}, 'numpy "2.4.0" (now null)'),
    ],
)
def test_other_versions_are_refused(folder: StudyFolder, versions: dict[str, str], named: str) -> None:
    """Another version of a package that numbers depend on is refused with both versions."""
    assert named in refusal(lambda: claim(StudyFolder(folder.path), ASKED, [MINE], versions))


def test_cells_of_no_study_are_refused(tmp_path: Path) -> None:
    """Cells without the study that they are of are refused, and stay as they were."""
    (tmp_path / CELLS).write_text("mine\n")
    sentence = refusal(lambda: claim(StudyFolder(tmp_path), ASKED, [MINE], VERSIONS))
    assert sentence.startswith(f"{tmp_path} must be the folder of a study, with a {STUDY}: ")
    assert content(tmp_path) == {CELLS: b"mine\n"}


@pytest.mark.parametrize("name", [STUDY, CELLS])
def test_a_folder_in_a_files_place_is_refused(tmp_path: Path, name: str) -> None:
    """A folder where the study or its cells shall stand is refused before anything is written."""
    (tmp_path / name).mkdir()
    sentence = refusal(lambda: claim(StudyFolder(tmp_path), ASKED, [MINE], VERSIONS))
    assert sentence == f"out must be a writable folder, got {tmp_path}: {name} in it is a folder"
    assert content(tmp_path) == {name: None}


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_file_in_the_folders_place_is_refused(tmp_path: Path, below: str) -> None:
    """A folder that is a file, or lies below one, is refused with its path, and the file stays."""
    (tmp_path / "file").write_text("mine")
    sentence = refusal(lambda: claim(StudyFolder(tmp_path / below), ASKED, [MINE], VERSIONS))
    assert re.fullmatch(re.escape(f"out must be a writable folder, got {tmp_path / below}: ") + ".+", sentence)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which nothing can be made is refused with the reason."""

    def refuse(**options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("maskpool.bench.store.folder.tempfile.TemporaryFile", refuse)
    sentence = refusal(lambda: StudyFolder(tmp_path).check())
    assert sentence == f"out must be a writable folder, got {tmp_path}: Permission denied"


def writes(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def raises(error: BaseException) -> Callable[[Path], object]:
    """Writes half of a file, then fails."""

    def make(path: Path) -> None:
        path.write_text("half")
        raise error

    return make


@pytest.mark.parametrize("name", ["out", "new/folder/out"])
def test_a_check_makes_nothing(tmp_path: Path, name: str) -> None:
    """A folder that can be made is not made before a study claims it."""
    StudyFolder(tmp_path / name).check()
    assert content(tmp_path) == {}


def test_one_study_at_a_time_runs_in_a_folder(folder: StudyFolder) -> None:
    """While a study runs, its folder is refused to whoever starts it again, and nothing in it changes."""
    before = content(folder.path)
    with folder.claim(ASKED, [MINE], VERSIONS):
        sentence = refusal(lambda: claim(StudyFolder(folder.path), ASKED, [MINE], VERSIONS))
    assert sentence.startswith(f"out must be a folder in which no other study runs, got {folder.path}: wait")
    assert content(folder.path) == before
    claim(StudyFolder(folder.path), ASKED, [MINE], VERSIONS)


def test_cells_of_another_process_are_seen(folder: StudyFolder) -> None:
    """What another process finished before a study claims its folder is not computed again."""
    late = StudyFolder(folder.path)
    late.refuse_others(ASKED, [MINE], VERSIONS)
    folder.cells.add({"kind": "proof", "part": "b"}, 1, 0)
    with late.claim(ASKED, [MINE], VERSIONS):
        assert {"kind": "proof", "part": "b"} in late.cells


def test_a_file_system_without_locks_is_taken(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where folders cannot be locked, a study claims its folder all the same."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    claim(folder, ASKED, [MINE], VERSIONS)


def test_files_are_written_and_exchanged(folder: StudyFolder) -> None:
    """Files are made under their names, older ones of the same name are exchanged, and nothing stands beside."""
    before = content(folder.path)
    folder.write({"one.md": writes("1"), "two.csv": writes("2")})
    folder.write({"two.csv": writes("3")})
    assert content(folder.path) == before | {"one.md": b"1", "two.csv": b"3"}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), MaskpoolError),
        (PermissionError(errno.EACCES, "Permission denied"), MaskpoolError),
        (OSError("broken"), MaskpoolError),
        (MaskpoolError("no"), MaskpoolError),
        (ZeroDivisionError(), ZeroDivisionError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(1), SystemExit),
    ],
    ids=repr,
)
def test_files_are_written_all_or_none(
    folder: StudyFolder, place: int, error: BaseException, raised: type[BaseException]
) -> None:
    """Whichever file cannot be made, or is stopped, every older file stays and nothing stands beside them."""
    names = ["one.md", "two.csv", "three.png"]
    folder.write({name: writes(f"older {name}") for name in names})
    before = content(folder.path)
    makers = {name: writes("newer") for name in names} | {names[place]: raises(error)}
    with pytest.raises(raised) as stopped:
        folder.write({name: makers[name] for name in names})
    assert content(folder.path) == before
    if isinstance(error, OSError):
        start = f"out must be a writable folder, got {folder.path}: "
        assert str(stopped.value) == start + (error.strerror or str(error))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_folder_in_one_files_place_leaves_all(folder: StudyFolder, place: int) -> None:
    """Where a folder stands in one file's place none is made or exchanged."""
    names = ["one.md", "two.csv", "three.png"]
    folder.write({name: writes("older") for name in names if name != names[place]})
    (folder.path / names[place]).mkdir()
    before = content(folder.path)
    sentence = refusal(lambda: folder.write({name: writes("newer") for name in names}))
    assert sentence.endswith(f"got {folder.path}: {names[place]} in it is a folder")
    assert content(folder.path) == before


RUBBISH: dict[str, Any] = {
    "a list": [],
    "null": None,
    "a number": 7,
    "a string": "study",
    "nothing": {},
    "no study": {"corpora": {}, "versions": {}},
    "a study that is null": {"study": None, "corpora": {}, "versions": {}},
    "a study that is a list": {"study": [], "corpora": {}, "versions": {}},
    "a study that is an empty string": {"study": "", "corpora": {}, "versions": {}},
    "a study that is a number": {"study": 7, "corpora": {}, "versions": {}},
    "a study that is none": {"study": {"seeds": "x"}, "corpora": {}, "versions": {}},
    "no corpora": {"study": {}, "versions": {}},
    "corpora that are a number": {"study": {}, "corpora": 7, "versions": {}},
    "no versions": {"study": {}, "corpora": {}},
}


@pytest.mark.parametrize("reader", ["read", "claim", "results"])
@pytest.mark.parametrize(
    "rubbish",
    [b"", b"{", b"\xff\xfe", b"\0" * 9, *(json.dumps(one).encode() for one in RUBBISH.values())],
    ids=["empty", "torn", "no text", "zeros", *RUBBISH],
)
def test_what_is_no_study_is_refused(tmp_path: Path, rubbish: bytes, reader: str) -> None:
    """A file that does not say whose a folder is is refused in one sentence, whoever reads it, and stays."""
    (tmp_path / STUDY).write_bytes(rubbish)
    folder = StudyFolder(tmp_path)
    readers: dict[str, Callable[[], object]] = {
        "read": folder.read,
        "claim": lambda: claim(folder, ASKED, [MINE], VERSIONS),
        "results": lambda: results_of(folder),
    }
    refusal(readers[reader])
    assert content(tmp_path) == {STUDY: rubbish}


@pytest.mark.parametrize("name", ["none", "file", "."])
def test_a_folder_of_no_study_is_refused(tmp_path: Path, name: str) -> None:
    """A folder that is not there, is a file, or has no study in it is refused with its path."""
    (tmp_path / "file").write_text("mine")
    sentence = refusal(StudyFolder(tmp_path / name).read)
    start = f"{tmp_path / name} must be the folder of a study, with a {STUDY}: "
    assert re.fullmatch(re.escape(start) + ".+", sentence)


def test_results_of_a_study_that_is_not_begun_are_refused(folder: StudyFolder) -> None:
    """A study of which nothing is measured has no results, and the refusal says how to resume."""
    sentence = refusal(lambda: results_of(folder))
    assert sentence == (
        f"the study in {folder.path} is not finished: 0 of 1 parts (a model on a corpus) have begun; run the "
        "study again, which resumes from there"
    )
